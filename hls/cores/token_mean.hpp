// SPDX-License-Identifier: Apache-2.0
/// \file
/// Local and global features of the token selector: every token beside the mean over its frame.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct token_mean_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 8;
  static constexpr int groups = 2;
  static constexpr int simd = 2;
  static constexpr int in_bits = 8;
  static constexpr int in_signed = 1;
  static constexpr int recip_bits = 17;
  static constexpr int recip_signed = 0;
  static constexpr int shift = 16;
  static constexpr int half_up = 0;
  static constexpr int mult_dsp = 0;
};

/// Length and package flag of a frame.
struct token_mean_frame {
  int tokens;
  bool user;
};

/// Store a frame and its mean.
template <class Cfg>
void token_mean_collect(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
                        ap_uint<Cfg::simd * Cfg::in_bits> frame[Cfg::max_tokens][Cfg::channels / Cfg::simd],
                        ap_uint<Cfg::simd * Cfg::in_bits> mean[Cfg::channels / Cfg::simd],
                        hls::stream<token_mean_frame>& info,
                        const rom<Cfg::recip_bits, Cfg::recip_signed> recip[Cfg::max_tokens + 1]) {
  typedef num<Cfg::in_bits, Cfg::in_signed> in_t;
  constexpr int beats = Cfg::channels / Cfg::simd;
  constexpr int sum_bits = Cfg::in_bits + 1 + bits_for(Cfg::max_tokens);
  ap_int<sum_bits> total[beats][Cfg::simd];
#pragma HLS ARRAY_RESHAPE variable=total complete dim=2  // a beat per access
  int token = 0, at = 0;
  bool last = false, user = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Cfg::simd * Cfg::in_bits> x = s_axis.read();
    frame[token][at] = x.data;
  lanes:
    for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      ap_int<sum_bits> sum = 0;
      if (token > 0) sum = total[at][i] + get_lane<in_t>(x.data, i);
      total[at][i] = sum;
    }
    last = x.last;
    user = x.user;
    const bool end = at == beats - 1;
    at = end ? 0 : at + 1;
    token += end;
  }
  const num<Cfg::recip_bits, Cfg::recip_signed> factor = recip[token - 1];
means:
  for (int b = 0; b < beats; b++) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    ap_uint<Cfg::simd * Cfg::in_bits> word = 0;
  mean_lanes:
    for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      const ap_int<sum_bits + Cfg::recip_bits + 1> scaled = multiply<Cfg::mult_dsp>(total[b][i], factor);
      set_lane(word, i, saturate<Cfg::in_bits, Cfg::in_signed>(round_shift<Cfg::shift, Cfg::half_up>(scaled)));
    }
    mean[b] = word;
  }
  info.write({token, user});
}

/// Send every token beside the mean, group by group.
template <class Cfg>
void token_mean_send(ap_uint<Cfg::simd * Cfg::in_bits> frame[Cfg::max_tokens][Cfg::channels / Cfg::simd],
                     ap_uint<Cfg::simd * Cfg::in_bits> mean[Cfg::channels / Cfg::simd],
                     hls::stream<token_mean_frame>& info,
                     hls::stream<beat<Cfg::simd * Cfg::in_bits>>& m_axis) {
  constexpr int span = Cfg::channels / Cfg::groups / Cfg::simd;  // beats of half a group
  const token_mean_frame f = info.read();
  int token = 0, group = 0, at = 0;
  bool done = false;
beats:
  while (!done) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const bool local = at < span;
    const bool group_end = at == 2 * span - 1;
    const bool token_end = group_end && group == Cfg::groups - 1;
    const ap_uint<Cfg::simd * Cfg::in_bits> data =
        local ? frame[token][group * span + at] : mean[group * span + at - span];
    done = token_end && token == f.tokens - 1;
    m_axis.write({data, ap_uint<1>(done), ap_uint<1>(done && f.user)});
    at = group_end ? 0 : at + 1;
    if (group_end) group = token_end ? 0 : group + 1;
    token += token_end;
  }
}

/// `mean = saturate(round_shift(sum_t x[t] * recip[count], shift))`; `y[t] = x[t] beside mean`.
///
/// The mean runs over the `count` tokens of the frame without token 0. Per group of `channels / groups` channels
/// the output holds first x, then the mean. The frame is kept in a ping-pong buffer: one is stored while the one
/// before leaves, II 1 per output beat.
/// \tparam Cfg a `token_mean_config`
template <class Cfg>
void token_mean(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
                hls::stream<beat<Cfg::simd * Cfg::in_bits>>& m_axis,
                const rom<Cfg::recip_bits, Cfg::recip_signed> recip[Cfg::max_tokens + 1]) {
#pragma HLS DATAFLOW  // frames overlap; the arrays become ping-pong buffers
  ap_uint<Cfg::simd * Cfg::in_bits> frame[Cfg::max_tokens][Cfg::channels / Cfg::simd];
  ap_uint<Cfg::simd * Cfg::in_bits> mean[Cfg::channels / Cfg::simd];
  hls::stream<token_mean_frame> info("info");
#pragma HLS STREAM variable=info depth=2  // frames in flight
  token_mean_collect<Cfg>(s_axis, frame, mean, info, recip);
  token_mean_send<Cfg>(frame, mean, info, m_axis);
}

}  // namespace sievit
