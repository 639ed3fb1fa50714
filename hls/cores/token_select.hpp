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
};

/// What happens to a token, known with its last beat.
template <class Cfg>
struct token_select_decision {
  ap_uint<1> keep;
  ap_uint<1> last;
  num<Cfg::weight_bits, Cfg::weight_signed> weight;
};

/// Decide on every token; the beats go on unchanged.
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

  ap_int<num_bits> weighted[beats][Cfg::simd];
#pragma HLS ARRAY_RESHAPE variable=weighted complete dim=2  // a beat per access
  ap_int<num_bits> plain[beats][Cfg::simd];
#pragma HLS ARRAY_RESHAPE variable=plain complete dim=2  // a beat per access
  ap_uint<den_bits> den = 0;
  ap_uint<den_bits> count = 0;
  token_select_decision<Cfg> d = {0, 0, 0};
  int at = 0;
  bool done = false;
beats:
  while (!done) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    if (at == 0) {
      d = decisions.read();
      if (!d.keep) {
        den += d.weight;
        count += 1;
      }
    }
    const ap_uint<Cfg::simd * Cfg::x_bits> x = values.read();
    const bool end = at == beats - 1;
    done = end && d.last;
    if (d.keep) {
      m_axis.write({x, ap_uint<1>(done && count == 0), ap_uint<1>(0)});
    } else {
    lanes:
      for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
        const x_t value = get_lane<x_t>(x, i);
        ap_int<num_bits> a = 0, b = 0;
        if (count != 1) {
          a = weighted[at][i];
          b = plain[at][i];
        }
        weighted[at][i] = a + value * d.weight;
        plain[at][i] = b + value;
      }
    }
    at = end ? 0 : at + 1;
  }
  if (count != 0) {
    const bool zero = den == 0;
    const normal r = reciprocal_index<Cfg::index_bits>(zero ? count : den);
    const num<Cfg::recip_bits, Cfg::recip_signed> factor = recip[r.index];
  package:
    for (int b = 0; b < beats; b++) {
#pragma HLS PIPELINE II=1  // a beat per cycle
      beat<Cfg::simd * Cfg::x_bits> y = {0, ap_uint<1>(b == beats - 1), ap_uint<1>(b == beats - 1)};
    package_lanes:
      for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
        const ap_int<num_bits> sum = zero ? plain[b][i] : weighted[b][i];
        const ap_int<num_bits + Cfg::recip_bits + 1> scaled = sum * factor;
        set_lane(y.data, i, saturate<Cfg::x_bits, Cfg::x_signed>(round_shift<den_bits + Cfg::recip_shift, Cfg::half_up>(
                                scaled, r.position + Cfg::recip_shift)));
      }
      m_axis.write(y);
    }
  }
}

/// Keep the class token and every token whose score is not negative, in raster order; average the others, and the
/// incoming package token, into one package token that leaves last:
///
///     w = table[clamp((score + offset) >> shift, 0, entries - 1)]
///     num, den = sum(w * x), sum(w)          # den = 0: num = sum(x), den = count
///     i, l = reciprocal_index(den, index_bits)
///     package = saturate(round_shift(num * recip[i], l + recip_shift), x_type)
///
/// Two processes: that a token is the package token is known with its last beat only, so that the second works one
/// token behind the first. II 1 per beat, a package token costs another `channels / simd` beats.
/// \tparam Cfg a `token_select_config`
template <class Cfg>
void token_select(hls::stream<beat<Cfg::simd * Cfg::x_bits>>& s_axis_x,
                  hls::stream<beat<Cfg::score_bits>>& s_axis_score,
                  hls::stream<beat<Cfg::simd * Cfg::x_bits>>& m_axis,
                  const rom<Cfg::weight_bits, Cfg::weight_signed> weight[Cfg::entries],
                  const rom<Cfg::recip_bits, Cfg::recip_signed> recip[1 << Cfg::index_bits]) {
#pragma HLS DATAFLOW  // the processes work on two tokens at a time
  [[maybe_unused]] constexpr int depth = 2 * (Cfg::channels / Cfg::simd) + 4;
  hls::stream<ap_uint<Cfg::simd * Cfg::x_bits>> values("values");
#pragma HLS STREAM variable=values depth=depth  // a token waits for its decision
  hls::stream<token_select_decision<Cfg>> decisions("decisions");
#pragma HLS STREAM variable=decisions depth=4  // tokens in flight
  token_select_decide<Cfg>(s_axis_x, s_axis_score, values, decisions, weight);
  token_select_merge<Cfg>(values, decisions, m_axis, recip);
}

}  // namespace sievit
