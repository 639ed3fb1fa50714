// SPDX-License-Identifier: Apache-2.0
/// \file
/// Matrix product with N:M sparse constant weights, bias and requantisation; dense for N = M = 1.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct nm_matmul_config {
  static constexpr int max_tokens = 1;
  static constexpr int in_channels = 8;
  static constexpr int out_channels = 8;
  static constexpr int groups = 1;
  static constexpr int n = 2;
  static constexpr int m = 4;
  static constexpr int simd = 4;
  static constexpr int pe = 2;
  static constexpr int in_bits = 8;
  static constexpr int in_signed = 1;
  static constexpr int weight_bits = 4;
  static constexpr int weight_signed = 1;
  static constexpr int bias_bits = 16;
  static constexpr int bias_signed = 1;
  static constexpr int acc_bits = 20;
  static constexpr int acc_signed = 1;
  static constexpr int out_bits = 8;
  static constexpr int out_signed = 1;
  static constexpr int shift = 4;
  static constexpr int half_up = 0;
  static constexpr int mult_dsp = 0;
};

/// Type of the weights' positions within a group of m inputs.
template <class Cfg>
using nm_index = rom<bits_for(Cfg::m - 1), 0>;

/// `y[o] = saturate(round_shift(bias[o] + sum_i weight[o, i] x[i], shift))` for every token.
///
/// Of every m consecutive inputs an output sees n, `weights[o][i / m][k]` at input `i - i % m + index[o][i / m][k]`.
/// A step multiplies `pe * simd * n / m` times; a token takes
/// `(out_channels / pe) * (in_channels / groups / simd)` steps. II 1 per step. The inputs of a group come in
/// during the steps of its first outputs, so that reading costs no cycle of its own; the first beat leaves
/// after `in_channels / groups / simd` steps.
/// \tparam Cfg a `nm_matmul_config`
/// \tparam Index element of `index`; for m = 1 the array is not read
template <class Cfg, class Index>
void nm_matmul(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
               hls::stream<beat<Cfg::pe * Cfg::out_bits>>& m_axis,
               const rom<Cfg::weight_bits, Cfg::weight_signed>
                   weights[Cfg::out_channels][Cfg::in_channels / Cfg::groups / Cfg::m][Cfg::n],
               const rom<Cfg::bias_bits, Cfg::bias_signed> bias[Cfg::out_channels],
               const Index index[Cfg::out_channels][Cfg::in_channels / Cfg::groups / Cfg::m][Cfg::n]) {
  constexpr int pe = Cfg::pe;
  constexpr int parts = Cfg::simd / Cfg::m;
#pragma HLS ARRAY_RESHAPE variable=weights cyclic factor=pe dim=1     // a step reads one word:
#pragma HLS ARRAY_RESHAPE variable=weights cyclic factor=parts dim=2  // pe outputs by
#pragma HLS ARRAY_RESHAPE variable=weights complete dim=3             // simd * n / m weights
#pragma HLS ARRAY_RESHAPE variable=index cyclic factor=pe dim=1       // beside their positions
#pragma HLS ARRAY_RESHAPE variable=index cyclic factor=parts dim=2
#pragma HLS ARRAY_RESHAPE variable=index complete dim=3
#pragma HLS ARRAY_RESHAPE variable=bias cyclic factor=pe dim=1        // one word per tile of outputs
  typedef num<Cfg::in_bits, Cfg::in_signed> in_t;
  typedef operand<Cfg::in_bits, Cfg::in_signed> value_t;
  typedef operand<Cfg::acc_bits, Cfg::acc_signed> acc_t;
  constexpr int steps = Cfg::in_channels / Cfg::groups / Cfg::simd;
  constexpr int tiles = Cfg::out_channels / Cfg::pe;
  constexpr int group_tiles = tiles / Cfg::groups;

  value_t window[steps][Cfg::simd];  // inputs of the group
#pragma HLS ARRAY_RESHAPE variable=window complete dim=2  // a step reads simd inputs
  acc_t acc[pe];
#pragma HLS ARRAY_PARTITION variable=acc complete  // registers: pe sums per step
  int tile = 0, group_tile = 0, step = 0;
  bool last = false, user = false, done = false;
steps:
  while (!done) {
#pragma HLS PIPELINE II=1  // a step per cycle
    value_t x[Cfg::simd];
#pragma HLS ARRAY_PARTITION variable=x complete  // wires
    if (group_tile == 0) {
      const beat<Cfg::simd * Cfg::in_bits> b = s_axis.read();
      last = b.last;
      user = b.user;
    receive:
      for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // a beat at once
        x[i] = get_lane<in_t>(b.data, i);
        window[step][i] = x[i];
      }
    } else {
    again:
      for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // a beat at once
        x[i] = window[step][i];
      }
    }
    const bool tile_end = step == steps - 1;
    const bool token_end = tile_end && tile == tiles - 1;
    beat<Cfg::pe * Cfg::out_bits> y = {0, ap_uint<1>(token_end && last), ap_uint<1>(token_end && last && user)};
  outputs:
    for (int p = 0; p < pe; p++) {
#pragma HLS UNROLL  // outputs side by side
      const int o = tile * pe + p;
      acc_t total = acc[p];
      if (step == 0) total = bias[o];
    groups:
      for (int g = 0; g < parts; g++) {
#pragma HLS UNROLL  // groups of m inputs side by side
      values:
        for (int k = 0; k < Cfg::n; k++) {
#pragma HLS UNROLL  // n weights of a group side by side
          int lane = g * Cfg::m;
          if constexpr (Cfg::m > 1) lane += static_cast<int>(index[o][step * parts + g][k]);
          total += multiply<Cfg::mult_dsp>(weights[o][step * parts + g][k], x[lane]);
        }
      }
      acc[p] = total;
      if (tile_end) {
        const ap_int<Cfg::acc_bits + 1> sum = total;
        set_lane(y.data, p, saturate<Cfg::out_bits, Cfg::out_signed>(round_shift<Cfg::shift, Cfg::half_up>(sum)));
      }
    }
    if (tile_end) m_axis.write(y);
    done = token_end && last;
    step = tile_end ? 0 : step + 1;
    if (tile_end) {
      tile = token_end ? 0 : tile + 1;
      group_tile = group_tile == group_tiles - 1 ? 0 : group_tile + 1;
    }
  }
}

/// The dense case, m = 1, without positions.
template <class Cfg>
void nm_matmul(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
               hls::stream<beat<Cfg::pe * Cfg::out_bits>>& m_axis,
               const rom<Cfg::weight_bits, Cfg::weight_signed>
                   weights[Cfg::out_channels][Cfg::in_channels / Cfg::groups][1],
               const rom<Cfg::bias_bits, Cfg::bias_signed> bias[Cfg::out_channels]) {
#pragma HLS INLINE  // the core above with positions that it does not read
  static_assert(Cfg::m == 1 && Cfg::n == 1, "sparse weights need their positions");
  const rom<1, 0> none[Cfg::out_channels][Cfg::in_channels / Cfg::groups][1] = {};
  nm_matmul<Cfg>(s_axis, m_axis, weights, bias, none);
}

}  // namespace sievit
