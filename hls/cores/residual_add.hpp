// SPDX-License-Identifier: Apache-2.0
/// \file
/// Sum of two streams of the same frames, one of them rescaled.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct residual_add_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 4;
  static constexpr int simd = 2;
  static constexpr int a_bits = 12;
  static constexpr int a_signed = 1;
  static constexpr int b_bits = 12;
  static constexpr int b_signed = 1;
  static constexpr int out_bits = 12;
  static constexpr int out_signed = 1;
  static constexpr int a_shift = 0;
  static constexpr int b_shift = 0;
  static constexpr int shift = 0;
  static constexpr int half_up = 0;
  static constexpr int a_mult = 1;
  static constexpr int a_mult_shift = 0;
  static constexpr int mult_dsp = 0;
  static constexpr int sets = 1;
};

/// `a' = round_shift(a * a_mult, a_mult_shift); y = saturate(round_shift((a' << a_shift) + (b << b_shift), shift))` for
/// every channel; `user` of a goes on.
///
/// II 1 per beat, latency 3.
/// \tparam Cfg a `residual_add_config`
template <class Cfg>
void residual_add(hls::stream<beat<Cfg::simd * Cfg::a_bits>>& s_axis_a,
                  hls::stream<beat<Cfg::simd * Cfg::b_bits>>& s_axis_b,
                  hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis, int a_mult = Cfg::a_mult) {
  typedef num<Cfg::a_bits, Cfg::a_signed> a_t;
  typedef num<Cfg::b_bits, Cfg::b_signed> b_t;
  constexpr int scaled_bits = Cfg::a_mult == 1 ? Cfg::a_bits + 1 : Cfg::a_bits + signed_bits_for(Cfg::a_mult);
  constexpr int skip_bits = round_bits(scaled_bits, Cfg::a_mult_shift);
  constexpr int width = larger(skip_bits + Cfg::a_shift, Cfg::b_bits + Cfg::b_shift + 1) + 1;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat of each input per cycle
    const beat<Cfg::simd * Cfg::a_bits> a = s_axis_a.read();
    const beat<Cfg::simd * Cfg::b_bits> b = s_axis_b.read();
    beat<Cfg::simd * Cfg::out_bits> y = {0, a.last, a.user};
  lanes:
    for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      ap_int<scaled_bits> scaled = get_lane<a_t>(a.data, i);
      if constexpr (Cfg::a_mult != 1)
        scaled = multiply<Cfg::mult_dsp>(get_lane<a_t>(a.data, i), ap_int<signed_bits_for(Cfg::a_mult)>(a_mult));
      const ap_int<width> wide_a = round_shift<Cfg::a_mult_shift, Cfg::half_up>(scaled);
      const ap_int<width> wide_b = get_lane<b_t>(b.data, i);
      const ap_int<width> sum = (wide_a << Cfg::a_shift) + (wide_b << Cfg::b_shift);
      set_lane(y.data, i, saturate<Cfg::out_bits, Cfg::out_signed>(round_shift<Cfg::shift, Cfg::half_up>(sum)));
    }
    m_axis.write(y);
    last = a.last;
  }
}

/// The same with the factor of the set that `s_axis_set` names.
template <class Cfg>
void residual_add(hls::stream<beat<Cfg::simd * Cfg::a_bits>>& s_axis_a,
                  hls::stream<beat<Cfg::simd * Cfg::b_bits>>& s_axis_b,
                  hls::stream<beat<bits_for(Cfg::sets - 1)>>& s_axis_set,
                  hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis, const rom<31, 0> a_mult[Cfg::sets]) {
  const int set = static_cast<int>(s_axis_set.read().data);
  residual_add<Cfg>(s_axis_a, s_axis_b, m_axis, static_cast<int>(a_mult[set]));
}

}  // namespace sievit
