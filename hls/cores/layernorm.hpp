// SPDX-License-Identifier: Apache-2.0
/// \file
/// Integer layer normalisation of every token.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct layernorm_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 8;
  static constexpr int simd = 2;
  static constexpr int in_bits = 12;
  static constexpr int in_signed = 1;
  static constexpr int out_bits = 8;
  static constexpr int out_signed = 1;
  static constexpr int mean_mult = 8192;
  static constexpr int mean_shift = 16;
  static constexpr int index_bits = 5;
  static constexpr int entries = 0;
  static constexpr int table_offset = 0;
  static constexpr int table_shift = 0;
  static constexpr int rsqrt_bits = 13;
  static constexpr int rsqrt_signed = 0;
  static constexpr int norm_shift = 2;
  static constexpr int scale_bits = 8;
  static constexpr int scale_signed = 1;
  static constexpr int bias_bits = 16;
  static constexpr int bias_signed = 1;
  static constexpr int shift = 10;
  static constexpr int half_up = 0;
  static constexpr int mult_dsp = 0;
  static constexpr int sets = 1;
};

/// Widths that follow from a `layernorm_config`.
template <class Cfg>
struct layernorm_shape {
  static constexpr int beats = Cfg::channels / Cfg::simd;
  static constexpr int sum_bits = Cfg::in_bits + 1 + bits_for(Cfg::channels);
  static constexpr int diff_bits = Cfg::in_bits + 1;
  static constexpr int square_bits = 2 * diff_bits - 1 + bits_for(Cfg::channels);
  static constexpr int norm_bits = Cfg::rsqrt_bits - Cfg::norm_shift + (Cfg::entries > 0 ? diff_bits : 2);
  static constexpr int rsqrt_words = Cfg::entries > 0 ? Cfg::entries : 4 << Cfg::index_bits;
  typedef num<Cfg::in_bits, Cfg::in_signed> in_t;
  typedef ap_int<diff_bits> diff_t;
};

/// Parameters of `table_index`.
template <class Cfg>
struct layernorm_table_config {
  static constexpr int offset = Cfg::table_offset;
  static constexpr int shift = Cfg::table_shift;
  static constexpr int entries = Cfg::entries;
};

/// 1/sqrt of a token's sum of squares: table entry and exponent.
template <class Cfg>
struct layernorm_gain {
  num<Cfg::rsqrt_bits, Cfg::rsqrt_signed> value;
  ap_uint<6> exponent;
};

/// Mean of every token; the beats go on unchanged.
template <class Cfg>
void layernorm_mean(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
                    hls::stream<beat<Cfg::simd * Cfg::in_bits>>& m_axis,
                    hls::stream<ap_int<Cfg::in_bits + 1>>& means) {
  typedef layernorm_shape<Cfg> shape;
  constexpr int width = shape::sum_bits + signed_bits_for(Cfg::mean_mult);
  ap_int<shape::sum_bits> total = 0;
  int at = 0;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Cfg::simd * Cfg::in_bits> x = s_axis.read();
    if (at == 0) total = 0;
  lanes:
    for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      total += get_lane<typename shape::in_t>(x.data, i);
    }
    m_axis.write(x);
    last = x.last;
    at++;
    if (at == shape::beats) {
      const ap_int<width> scaled =
          multiply<Cfg::mult_dsp>(total, ap_int<signed_bits_for(Cfg::mean_mult)>(Cfg::mean_mult));
      means.write(round_shift<Cfg::mean_shift, Cfg::half_up>(scaled));
      at = 0;
    }
  }
}

/// Differences from the mean, and 1/sqrt of the sum of their squares.
template <class Cfg>
void layernorm_gains(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
                     hls::stream<ap_int<Cfg::in_bits + 1>>& means,
                     hls::stream<beat<Cfg::simd * (Cfg::in_bits + 1)>>& m_axis,
                     hls::stream<layernorm_gain<Cfg>>& gains,
                     const rom<Cfg::rsqrt_bits, Cfg::rsqrt_signed> rsqrt[layernorm_shape<Cfg>::rsqrt_words],
                     int table_offset, int table_shift) {
  typedef layernorm_shape<Cfg> shape;
  ap_uint<shape::square_bits> squares = 0;
  ap_int<Cfg::in_bits + 1> mean = 0;
  int at = 0;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    if (at == 0) {
      mean = means.read();
      squares = 0;
    }
    const beat<Cfg::simd * Cfg::in_bits> x = s_axis.read();
    beat<Cfg::simd * shape::diff_bits> y = {0, x.last, x.user};
  lanes:
    for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      const typename shape::diff_t d = get_lane<typename shape::in_t>(x.data, i) - mean;
      squares += ap_uint<2 * shape::diff_bits - 1>(multiply<Cfg::mult_dsp>(d, d));
      set_lane(y.data, i, d);
    }
    m_axis.write(y);
    last = x.last;
    at++;
    if (at == shape::beats) {
      if constexpr (Cfg::entries > 0) {
        const ap_int<shape::square_bits + 1> v = squares;
        gains.write({rsqrt[table_index<layernorm_table_config<Cfg>>(v, table_offset, table_shift)], 0});
      } else {
        if (squares == 0) squares = 1;
        const normal v = rsqrt_index<Cfg::index_bits>(squares);
        gains.write({rsqrt[v.index], ap_uint<6>(v.position)});
      }
      at = 0;
    }
  }
}

/// Scaling to unit variance, then the affine part.
template <class Cfg>
void layernorm_scale(hls::stream<beat<Cfg::simd * (Cfg::in_bits + 1)>>& s_axis,
                     hls::stream<layernorm_gain<Cfg>>& gains,
                     hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
                     const rom<Cfg::scale_bits, Cfg::scale_signed> scale[Cfg::channels],
                     const rom<Cfg::bias_bits, Cfg::bias_signed> bias[Cfg::channels]) {
  constexpr int simd = Cfg::simd;
#pragma HLS ARRAY_RESHAPE variable=scale cyclic factor=simd dim=1  // a beat per read
#pragma HLS ARRAY_RESHAPE variable=bias cyclic factor=simd dim=1   // a beat per read
  typedef layernorm_shape<Cfg> shape;
  constexpr int product_bits = shape::diff_bits + Cfg::rsqrt_bits + 1;
  constexpr int affine_bits = larger(shape::norm_bits + Cfg::scale_bits + 1, Cfg::bias_bits + 1) + 1;
  constexpr int most = (Cfg::entries > 0 ? 0 : shape::square_bits / 2) + Cfg::norm_shift;
  layernorm_gain<Cfg> gain = {0, 0};
  int at = 0;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    if (at == 0) gain = gains.read();
    const beat<Cfg::simd * shape::diff_bits> x = s_axis.read();
    beat<Cfg::simd * Cfg::out_bits> y = {0, x.last, x.user};
  lanes:
    for (int i = 0; i < simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      const ap_int<product_bits> product =
          multiply<Cfg::mult_dsp>(get_lane<typename shape::diff_t>(x.data, i), gain.value);
      const int exponent = Cfg::entries > 0 ? 0 : static_cast<int>(gain.exponent);
      const ap_int<shape::norm_bits> z = round_shift<most, Cfg::half_up>(product, exponent + Cfg::norm_shift);
      const ap_int<affine_bits> affine =
          multiply<Cfg::mult_dsp>(z, num<Cfg::scale_bits, Cfg::scale_signed>(scale[at * simd + i])) +
          num<Cfg::bias_bits, Cfg::bias_signed>(bias[at * simd + i]);
      set_lane(y.data, i, saturate<Cfg::out_bits, Cfg::out_signed>(round_shift<Cfg::shift, Cfg::half_up>(affine)));
    }
    m_axis.write(y);
    last = x.last;
    at = at == shape::beats - 1 ? 0 : at + 1;
  }
}

/// Layer normalisation in integers:
///
///     mean = round_shift(sum(x) * mean_mult, mean_shift)
///     d    = x - mean
///     v    = max(sum(d * d), 1)
///     i, e = rsqrt_index(v, index_bits)
///     z    = round_shift(d * rsqrt[i], e + norm_shift)
///     y    = saturate(round_shift(z * scale[c] + bias[c], shift))
///
/// With `entries` the table is addressed linearly, and then
///
///     i    = clamp((sum(d * d) + table_offset) >> table_shift, 0, entries - 1), e = 0
///
/// Three processes, a token apart from each other; II 1 per beat, latency 2 tokens and about 14 cycles.
/// \tparam Cfg a `layernorm_config`
template <class Cfg>
void layernorm(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
               hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
               const rom<Cfg::rsqrt_bits, Cfg::rsqrt_signed> rsqrt[layernorm_shape<Cfg>::rsqrt_words],
               const rom<Cfg::scale_bits, Cfg::scale_signed> scale[Cfg::channels],
               const rom<Cfg::bias_bits, Cfg::bias_signed> bias[Cfg::channels],
               int table_offset = Cfg::table_offset, int table_shift = Cfg::table_shift) {
#pragma HLS DATAFLOW  // the processes work on three tokens at a time
  [[maybe_unused]] constexpr int depth = 2 * layernorm_shape<Cfg>::beats + 4;
  hls::stream<beat<Cfg::simd * Cfg::in_bits>> values("values");
#pragma HLS STREAM variable=values depth=depth  // a token waits for its mean
  hls::stream<ap_int<Cfg::in_bits + 1>> means("means");
#pragma HLS STREAM variable=means depth=4  // tokens in flight
  hls::stream<beat<Cfg::simd * (Cfg::in_bits + 1)>> differences("differences");
#pragma HLS STREAM variable=differences depth=depth  // a token waits for its gain
  hls::stream<layernorm_gain<Cfg>> gains("gains");
#pragma HLS STREAM variable=gains depth=4  // tokens in flight
  layernorm_mean<Cfg>(s_axis, values, means);
  layernorm_gains<Cfg>(values, means, differences, gains, rsqrt, table_offset, table_shift);
  layernorm_scale<Cfg>(differences, gains, m_axis, scale, bias);
}

/// The same with the constants of the set that `s_axis_set` names.
template <class Cfg>
void layernorm(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis, hls::stream<beat<bits_for(Cfg::sets - 1)>>& s_axis_set,
               hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
               const rom<Cfg::rsqrt_bits, Cfg::rsqrt_signed> rsqrt[Cfg::sets][layernorm_shape<Cfg>::rsqrt_words],
               const rom<Cfg::scale_bits, Cfg::scale_signed> scale[Cfg::sets][Cfg::channels],
               const rom<Cfg::bias_bits, Cfg::bias_signed> bias[Cfg::sets][Cfg::channels],
               const rom<32, 1> table_offset[Cfg::sets], const rom<6, 0> table_shift[Cfg::sets]) {
  const int set = static_cast<int>(s_axis_set.read().data);
  layernorm<Cfg>(s_axis, m_axis, rsqrt[set], scale[set], bias[set], static_cast<int>(table_offset[set]),
                 static_cast<int>(table_shift[set]));
}

}  // namespace sievit
