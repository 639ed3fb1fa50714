// SPDX-License-Identifier: Apache-2.0
/// \file
/// Head-gated score of the token selector.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct gated_sum_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 4;
  static constexpr int simd = 2;
  static constexpr int a_bits = 8;
  static constexpr int a_signed = 1;
  static constexpr int b_bits = 8;
  static constexpr int b_signed = 0;
  static constexpr int out_bits = 20;
  static constexpr int out_signed = 1;
  static constexpr int mult_dsp = 0;
};

/// `y = sum_c a[c] * b[c]`: one exact channel per token.
///
/// II 1 per input beat; a beat leaves with the last beat of a token.
/// \tparam Cfg a `gated_sum_config`
template <class Cfg>
void gated_sum(hls::stream<beat<Cfg::simd * Cfg::a_bits>>& s_axis_a,
               hls::stream<beat<Cfg::simd * Cfg::b_bits>>& s_axis_b,
               hls::stream<beat<Cfg::out_bits>>& m_axis) {
  typedef num<Cfg::a_bits, Cfg::a_signed> a_t;
  typedef num<Cfg::b_bits, Cfg::b_signed> b_t;
  constexpr int beats = Cfg::channels / Cfg::simd;
  // one bit more than the output: a partial sum may leave the range of an unsigned type
  ap_int<Cfg::out_bits + 1> total = 0;
  int at = 0;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat of each input per cycle
    const beat<Cfg::simd * Cfg::a_bits> a = s_axis_a.read();
    const beat<Cfg::simd * Cfg::b_bits> b = s_axis_b.read();
    if (at == 0) total = 0;
  lanes:
    for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      total += multiply<Cfg::mult_dsp>(get_lane<a_t>(a.data, i), get_lane<b_t>(b.data, i));
    }
    last = a.last;
    at++;
    if (at == beats) {
      m_axis.write({ap_uint<Cfg::out_bits>(total), a.last, a.user});
      at = 0;
    }
  }
}

}  // namespace sievit
