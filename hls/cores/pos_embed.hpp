// SPDX-License-Identifier: Apache-2.0
/// \file
/// Class token in front, position embedding on every token.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct pos_embed_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 4;
  static constexpr int simd = 2;
  static constexpr int in_bits = 12;
  static constexpr int in_signed = 1;
  static constexpr int pos_bits = 12;
  static constexpr int pos_signed = 1;
  static constexpr int out_bits = 12;
  static constexpr int out_signed = 1;
  static constexpr int shift = 0;
  static constexpr int half_up = 0;
};

/// `y[0] = saturate(round_shift(pos[0], shift)); y[t] = saturate(round_shift(x[t - 1] + pos[t], shift))`: one token more
/// leaves than came.
///
/// II 1 per output beat, latency 3.
/// \tparam Cfg a `pos_embed_config`
template <class Cfg>
void pos_embed(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
               hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
               const rom<Cfg::pos_bits, Cfg::pos_signed> pos[Cfg::max_tokens + 1][Cfg::channels]) {
  constexpr int simd = Cfg::simd;
#pragma HLS ARRAY_RESHAPE variable=pos cyclic factor=simd dim=2  // a beat per read
  typedef num<Cfg::in_bits, Cfg::in_signed> in_t;
  constexpr int width = larger(Cfg::in_bits, Cfg::pos_bits) + 2;
  constexpr int beats = Cfg::channels / Cfg::simd;
  int token = 0;
  int at = 0;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // an output beat per cycle
    beat<Cfg::simd * Cfg::in_bits> x = {0, 0, 0};
    if (token > 0) x = s_axis.read();
    beat<Cfg::simd * Cfg::out_bits> y = {0, x.last, x.user};
  lanes:
    for (int i = 0; i < simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      const ap_int<width> sum = get_lane<in_t>(x.data, i) + num<Cfg::pos_bits, Cfg::pos_signed>(pos[token][at * simd + i]);
      set_lane(y.data, i, saturate<Cfg::out_bits, Cfg::out_signed>(round_shift<Cfg::shift, Cfg::half_up>(sum)));
    }
    m_axis.write(y);
    last = x.last;
    const bool end = at == beats - 1;
    at = end ? 0 : at + 1;
    token += end;
  }
}

}  // namespace sievit
