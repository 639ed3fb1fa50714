// SPDX-License-Identifier: Apache-2.0
/// \file
/// Run-time token pruning with a package token.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct token_select_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 4;
  static constexpr int simd = 2;
  static constexpr int x_bits = 12;
  static constexpr int x_signed = 1;
  static constexpr int score_bits = 18;
  static constexpr int score_signed = 1;
  static constexpr int weight_bits = 8;
  static constexpr int weight_signed = 0;
  static constexpr int offset = 65536;
  static constexpr int shift = 10;
  static constexpr int entries = 128;
  static constexpr int recip_bits = 11;
  static constexpr int recip_signed = 0;
  static constexpr int recip_shift = 10;
  static constexpr int half_up = 0;
  static constexpr int index_bits = 6;
  static constexpr int topk = 0;
  static constexpr int search = 1;
  static constexpr int frame_ram = 0;
  static constexpr int mult_dsp = 0;
};

/// What happens to a token, known with its last beat.
template <class Cfg>
struct token_select_decision {
  ap_uint<1> keep;
  ap_uint<1> last;
  num<Cfg::weight_bits, Cfg::weight_signed> weight;
};

/// Length of a frame, and whether its last token is a package token.
template <class Cfg>
struct token_select_frame {
  ap_uint<bits_for(Cfg::max_tokens)> tokens;
  ap_uint<1> package;
};

/// Top-k: keep the scores of a frame; the beats go on unchanged.
template <class Cfg>
void token_select_gather(hls::stream<beat<Cfg::simd * Cfg::x_bits>>& s_axis_x,
                         hls::stream<beat<Cfg::score_bits>>& s_axis_score,
                         hls::stream<ap_uint<Cfg::simd * Cfg::x_bits>>& values,
                         hls::stream<token_select_frame<Cfg>>& frames,
                         ap_uint<Cfg::score_bits> scores[Cfg::max_tokens]) {
  constexpr int beats = Cfg::channels / Cfg::simd;
  token_select_frame<Cfg> frame = {0, 0};
  bool last = false;
  int at = 0;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Cfg::simd * Cfg::x_bits> x = s_axis_x.read();
    values.write(x.data);
    last = x.last;
    at++;
    if (at == beats) {
      ap_uint<Cfg::score_bits> score = s_axis_score.read().data;
      score[Cfg::score_bits - 1] = !score[Cfg::score_bits - 1];  // offset binary: unsigned numbers of the same order
      scores[frame.tokens] = score;
      frame.tokens += 1;
      at = 0;
    }
    if (last) frame.package = x.user;
  }
  frames.write(frame);
}

/// Top-k: find the smallest score that stays bit by bit, then decide on every token.
template <class Cfg>
void token_select_search(hls::stream<token_select_frame<Cfg>>& frames,
                         const ap_uint<Cfg::score_bits> scores[Cfg::max_tokens],
                         hls::stream<token_select_decision<Cfg>>& decisions,
                         const rom<Cfg::weight_bits, Cfg::weight_signed> weight[Cfg::entries]) {
  [[maybe_unused]] constexpr int lanes = Cfg::search;
  const token_select_frame<Cfg> frame = frames.read();
  const int tokens = frame.tokens, end = tokens - frame.package;  // candidates: 1 .. end - 1
  const bool all = end - 1 <= Cfg::topk;
  ap_uint<Cfg::score_bits> prefix = 0;  // bits that are found; the others are 0
  int need = Cfg::topk;                 // how many with this prefix stay
  if (!all) {
  bits:
    for (int bit = Cfg::score_bits - 1; bit >= 0; bit--) {
      int count = 0;
    candidates:
      for (int t = 0; t < end; t++) {
#pragma HLS PIPELINE II=1  // scores side by side per cycle
#pragma HLS UNROLL factor=lanes  // scores that are compared side by side
        if (t > 0 && (scores[t] >> bit) == ((prefix >> bit) | 1)) count++;
      }
      if (count >= need) {
        prefix[bit] = 1;
      } else {
        need -= count;
      }
    }
  }
decisions:
  for (int t = 0; t < tokens; t++) {
#pragma HLS PIPELINE II=1  // a token per cycle
    ap_uint<Cfg::score_bits> score = scores[t];
    const bool tie = score == prefix && need > 0;
    const bool candidate = t > 0 && t < end;
    const bool stays = all || score > prefix || tie;
    if (candidate && tie) need--;
    score[Cfg::score_bits - 1] = !score[Cfg::score_bits - 1];
    const ap_int<Cfg::score_bits + 1> value = num<Cfg::score_bits, Cfg::score_signed>(score);
    const bool keep = t < end && (t == 0 || stays);
    decisions.write({ap_uint<1>(keep), ap_uint<1>(t == tokens - 1), weight[table_index<Cfg>(value)]});
  }
}

/// Threshold: decide on every token; the beats go on unchanged.
template <class Cfg>
void token_select_decide(hls::stream<beat<Cfg::simd * Cfg::x_bits>>& s_axis_x,
                         hls::stream<beat<Cfg::score_bits>>& s_axis_score,
                         hls::stream<ap_uint<Cfg::simd * Cfg::x_bits>>& values,
                         hls::stream<token_select_decision<Cfg>>& decisions,
                         const rom<Cfg::weight_bits, Cfg::weight_signed> weight[Cfg::entries]) {
  typedef num<Cfg::score_bits, Cfg::score_signed> score_t;
  constexpr int beats = Cfg::channels / Cfg::simd;
  bool first = true, last = false;
  int at = 0;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Cfg::simd * Cfg::x_bits> x = s_axis_x.read();
    values.write(x.data);
    last = x.last;
    at++;
    if (at == beats) {
      const ap_int<Cfg::score_bits + 1> score = score_t(s_axis_score.read().data);
      const bool keep = !x.user && (first || score >= 0);
      decisions.write({ap_uint<1>(keep), x.last, weight[table_index<Cfg>(score)]});
      first = false;
      at = 0;
    }
  }
}

/// Send the kept tokens and average the others.
template <class Cfg>
void token_select_merge(hls::stream<ap_uint<Cfg::simd * Cfg::x_bits>>& values,
                        hls::stream<token_select_decision<Cfg>>& decisions,
                        hls::stream<beat<Cfg::simd * Cfg::x_bits>>& m_axis,
                        const rom<Cfg::recip_bits, Cfg::recip_signed> recip[1 << Cfg::index_bits]) {
  typedef num<Cfg::x_bits, Cfg::x_signed> x_t;
  constexpr int beats = Cfg::channels / Cfg::simd;
  constexpr int den_bits = Cfg::weight_bits + bits_for(Cfg::max_tokens);
  constexpr int num_bits = den_bits + Cfg::x_bits + 1;
  static_assert(Cfg::recip_shift >= 0 && Cfg::weight_signed == 0, "fraction bits, unsigned weights");

  ap_int<num_bits> sums[beats][Cfg::simd];
#pragma HLS ARRAY_RESHAPE variable=sums complete dim=2  // a beat per access
  ap_uint<den_bits> den = 0;
  bool any = false, zero = true;  // a token was dropped; all weights are 0 so far
  bool restart = true;            // the sums begin with this token
  ap_uint<Cfg::weight_bits> counted = 0;
  token_select_decision<Cfg> d = {0, 0, 0};
  int at = 0;
  bool done = false;
beats:
  while (!done) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    if (at == 0) {
      d = decisions.read();
      if (!d.keep) {
        // While all weights are 0, every token counts 1; the first other weight starts the sums again.
        const bool now = zero && d.weight == 0;
        restart = !any || (zero && !now);
        counted = now ? ap_uint<Cfg::weight_bits>(1) : ap_uint<Cfg::weight_bits>(d.weight);
        den = counted + (restart ? ap_uint<den_bits>(0) : den);
        any = true;
        zero = now;
      }
    }
    const ap_uint<Cfg::simd * Cfg::x_bits> x = values.read();
    const bool end = at == beats - 1;
    done = end && d.last;
    if (d.keep) {
      m_axis.write({x, ap_uint<1>(done && !any), ap_uint<1>(0)});
    } else {
    lanes:
      for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
        ap_int<num_bits> sum = 0;
        if (!restart) sum = sums[at][i];
        sums[at][i] = sum + multiply<Cfg::mult_dsp>(get_lane<x_t>(x, i), counted);
      }
    }
    at = end ? 0 : at + 1;
  }
  if (any) {
    const normal r = reciprocal_index<Cfg::index_bits>(den);
    const num<Cfg::recip_bits, Cfg::recip_signed> factor = recip[r.index];
  package:
    for (int b = 0; b < beats; b++) {
#pragma HLS PIPELINE II=1  // a beat per cycle
      beat<Cfg::simd * Cfg::x_bits> y = {0, ap_uint<1>(b == beats - 1), ap_uint<1>(b == beats - 1)};
    package_lanes:
      for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
        // |sum| <= 2^x_bits * den < 2^(x_bits + position + 1): aligned first, the rounding shift is a constant
        const ap_int<num_bits> aligned = sums[b][i] << (den_bits - 1 - r.position);
        const ap_int<num_bits + Cfg::recip_bits + 1> scaled = multiply<Cfg::mult_dsp>(aligned, factor);
        set_lane(y.data, i, saturate<Cfg::x_bits, Cfg::x_signed>(
                                round_shift<den_bits - 1 + Cfg::recip_shift, Cfg::half_up>(scaled)));
      }
      m_axis.write(y);
    }
  }
}

/// Keep the class token and the tokens that the scores choose, in raster order; average the others, and the incoming
/// package token, into one package token that leaves last:
///
///     topk = 0: a token stays if its score is not negative
///     topk > 0: the topk candidates with the largest scores stay, of equal ones the first; candidates are all tokens
///               but the class token and the incoming package token
///
///     w = table[clamp((score + offset) >> shift, 0, entries - 1)]
///     num, den = sum(w * x), sum(w)          # den = 0: num = sum(x), den = count
///     i, l = reciprocal_index(den, index_bits)
///     package = saturate(round_shift(num * recip[i], l + recip_shift), x_type)
///
/// Processes: that a token is the package token is known with its last beat only, so that the one that sends works a
/// token, with top-k a frame and its search, behind the one that reads. II 1 per beat, a package token costs another
/// `channels / simd` beats. Where the beats wait (`frame_ram`) is left to Vitis.
/// \tparam Cfg a `token_select_config`
template <class Cfg>
void token_select(hls::stream<beat<Cfg::simd * Cfg::x_bits>>& s_axis_x,
                  hls::stream<beat<Cfg::score_bits>>& s_axis_score,
                  hls::stream<beat<Cfg::simd * Cfg::x_bits>>& m_axis,
                  const rom<Cfg::weight_bits, Cfg::weight_signed> weight[Cfg::entries],
                  const rom<Cfg::recip_bits, Cfg::recip_signed> recip[1 << Cfg::index_bits]) {
#pragma HLS DATAFLOW  // the processes work on two tokens, or frames, at a time
  constexpr int beats = Cfg::channels / Cfg::simd;
  [[maybe_unused]] constexpr int depth = Cfg::topk == 0 ? 2 * beats + 4 : 2 * Cfg::max_tokens * beats + 4;
  [[maybe_unused]] constexpr int tokens = Cfg::topk == 0 ? 4 : Cfg::max_tokens + 4;
  hls::stream<ap_uint<Cfg::simd * Cfg::x_bits>> values("values");
#pragma HLS STREAM variable=values depth=depth  // a token or a frame waits for its decision
  hls::stream<token_select_decision<Cfg>> decisions("decisions");
#pragma HLS STREAM variable=decisions depth=tokens  // tokens in flight
  if constexpr (Cfg::topk == 0) {
    token_select_decide<Cfg>(s_axis_x, s_axis_score, values, decisions, weight);
  } else {
    [[maybe_unused]] constexpr int lanes = Cfg::search;
    hls::stream<token_select_frame<Cfg>> frames("frames");
#pragma HLS STREAM variable=frames depth=2  // as many as there are copies of the scores
    ap_uint<Cfg::score_bits> scores[Cfg::max_tokens];
#pragma HLS ARRAY_PARTITION variable=scores cyclic factor=lanes  // compared side by side
    token_select_gather<Cfg>(s_axis_x, s_axis_score, values, frames, scores);
    token_select_search<Cfg>(frames, scores, decisions, weight);
  }
  token_select_merge<Cfg>(values, decisions, m_axis, recip);
}

}  // namespace sievit
