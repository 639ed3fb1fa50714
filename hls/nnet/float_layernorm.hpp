// SPDX-License-Identifier: Apache-2.0
/// \file
/// Layer normalisation between two quantisers, as the real function rounded once: no float and no table.
#pragma once

#include "codes.hpp"

namespace sievit {

struct float_layernorm_config {
  static constexpr int tokens = 1;
  static constexpr int channels = 8;
  static constexpr int in_bits = 8;
  static constexpr int in_signed = 1;
  static constexpr int out_bits = 8;
  static constexpr int out_signed = 1;
  static constexpr long long eps = 1;  // of the variance of `channels * x`, with eps_frac fraction bits
  static constexpr int eps_frac = 32;
  static constexpr int root_bits = 40;  // K: bits of the square root and of its reciprocal
  static constexpr int gain_bits = 32;
  static constexpr int offset_bits = 40;  // with `frac` fraction bits, as the result before it is rounded
  static constexpr int frac = 24;
  static constexpr int shift = 64;  // of the product, less that which normalises the variance
};

template <class Cfg>
using float_layernorm_gain = rom<Cfg::gain_bits, 1>[Cfg::channels];

template <class Cfg>
using float_layernorm_offset = rom<Cfg::offset_bits, 1>[Cfg::channels];

/// `floor(sqrt(x))`, a bit per step.
template <int Bits>
ap_uint<Bits> square_root(const ap_uint<2 * Bits>& x) {
  ap_uint<Bits> root = 0;
  ap_uint<Bits + 2> rest = 0;
digits:
  for (int i = Bits - 1; i >= 0; i--) {
#pragma HLS PIPELINE II=1  // a digit per cycle
    const ap_uint<Bits + 4> next = (ap_uint<Bits + 4>(rest) << 2) | ap_uint<Bits + 4>(x.range(2 * i + 1, 2 * i));
    const ap_uint<Bits + 4> trial = (ap_uint<Bits + 4>(root) << 2) | 1;
    const bool fits = next >= trial;
    rest = fits ? ap_uint<Bits + 4>(next - trial) : next;
    root = (root << 1) | ap_uint<1>(fits);
  }
  return root;
}

/// `y = (x - mean(x)) / sqrt(var(x) + eps) * gain[c] + offset[c]` of every token, rounded half to even.
///
/// With N = C x - sum(x) and V = C sum(x^2) - sum(x)^2 it is N / sqrt(V + eps) gain + offset; the root is normalised to
/// K bits, so that its reciprocal, N's one factor, is right to about K bits too.
/// \tparam Cfg a `float_layernorm_config`
/// \tparam Code, Result fixed-point types of x and y, of which the bits are the integers meant here
template <class Cfg, class Code, class Result, class In, class Out>
void float_layernorm(hls::stream<In>& in, hls::stream<Out>& out, const float_layernorm_gain<Cfg> gain,
                     const float_layernorm_offset<Cfg> offset) {
  constexpr int C = Cfg::channels, K = Cfg::root_bits;
  constexpr int sum_bits = Cfg::in_bits + 1 + bits_for(C);
  constexpr int var_bits = 2 * sum_bits + 1;
  constexpr int product_bits = sum_bits + 1 + K + 1 + Cfg::gain_bits;
  constexpr int result_bits = Cfg::offset_bits + 2;
tokens:
  for (int t = 0; t < Cfg::tokens; t++) {
    const In x = in.read();
    ap_int<sum_bits> sum = 0;
    ap_uint<var_bits> squares = 0;
  sums:
    for (int c = 0; c < C; c++) {
#pragma HLS UNROLL  // a token at once, as hls4ml moves it
      const num<Cfg::in_bits, Cfg::in_signed> value = code_of<Code>(x[c]);
      sum += value;
      squares += value * value;
    }
    const ap_int<var_bits + 8> spread = squares * C - sum * sum;
    const ap_uint<2 * K> v = (ap_uint<2 * K>(spread) << Cfg::eps_frac) + ap_uint<2 * K>(Cfg::eps);
    const int half = (2 * K - 1 - leading_one(v)) >> 1;
    const ap_uint<2 * K> normal = v << (2 * half);
    const ap_uint<K> root = square_root<K>(normal);
    const ap_uint<2 * K> one = ap_uint<2 * K>(1) << (2 * K - 1);
    const ap_uint<K + 1> reciprocal = one / root;
    Out y;
  channels:
    for (int c = 0; c < C; c++) {
#pragma HLS PIPELINE II=1  // one wide multiplier
      const num<Cfg::in_bits, Cfg::in_signed> value = code_of<Code>(x[c]);
      const ap_int<sum_bits + 1> n = value * C - sum;
      const ap_int<product_bits> product = n * reciprocal * ap_int<Cfg::gain_bits>(gain[c]);
      const ap_int<result_bits> scaled = product >> (Cfg::shift - half);
      const ap_int<result_bits> total = scaled + ap_int<Cfg::offset_bits>(offset[c]);
      const auto rounded = round_shift<Cfg::frac, 0>(total);
      y[c] = from_code<Result>(saturate<Cfg::out_bits, Cfg::out_signed>(rounded));
    }
    out.write(y);
  }
}

}  // namespace sievit
