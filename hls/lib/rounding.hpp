// SPDX-License-Identifier: Apache-2.0
/// \file
/// Integer types, rounding, saturation and normalised table indices.
///
/// The definitions are those of `quant/rounding.py`: half_even rounds x / 2^s to the nearest integer and ties to
/// the even one, half_up rounds ties upwards, `>>` is the floor shift.
#pragma once

// wide beats; Vitis allows no more
#define AP_INT_MAX_W 4096

#include <cstdint>
#include <type_traits>

#include "ap_int.h"

namespace sievit {

/// Integer of `Bits` bits, two's complement if `Signed`.
template <int Bits, int Signed>
using num = std::conditional_t<Signed != 0, ap_int<Bits>, ap_uint<Bits>>;

/// Element of a constant array: as wide as the ROM needs in hardware, a native integer of the same value in
/// C-simulation, because a compiler takes very long over initialisers of class type.
#ifdef SIEVIT_VITIS
template <int Bits, int Signed>
using rom = num<Bits, Signed>;
#else
template <int Bits>
using native = std::conditional_t<
    Bits <= 8, std::int8_t,
    std::conditional_t<Bits <= 16, std::int16_t,
                       std::conditional_t<Bits <= 32, std::int32_t, std::int64_t>>>;
template <int Bits, int Signed>
using rom = std::conditional_t<Signed != 0, native<Bits>, std::make_unsigned_t<native<Bits>>>;
#endif

/// Operand or sum of a hot loop that fits its type by construction: the arithmetic of ap_int, whose wrapping is then
/// never used, is an order of magnitude slower in C-simulation than that of native integers.
template <int Bits, int Signed>
using operand = rom<Bits, Signed>;

constexpr int larger(int a, int b) { return a > b ? a : b; }

/// Bits of the unsigned integer `x`, at least 1.
constexpr int bits_for(unsigned long long x) { return x < 2 ? 1 : 1 + bits_for(x >> 1); }

/// Bits of a signed integer that holds `x`.
constexpr int signed_bits_for(long long x) { return 1 + bits_for(x < 0 ? -(x + 1) : x); }

/// Bits of `round_shift<Shift>` of a signed integer of `Bits` bits.
constexpr int round_bits(int bits, int shift) {
  return shift <= 0 ? bits - shift : larger(bits + 1 - shift, 2);
}

/// `x / 2^Shift` rounded to an integer; an exact left shift for a negative `Shift`.
template <int Shift, int HalfUp, int Bits>
ap_int<round_bits(Bits, Shift)> round_shift(const ap_int<Bits>& x) {
#pragma HLS INLINE  // an adder: a call of its own would cost a cycle
  if constexpr (Shift <= 0) {
    ap_int<Bits - Shift> wide = x;
    return wide << -Shift;
  } else {
    constexpr int width = larger(Bits, Shift) + 1;
    const ap_int<width> wide = x;
    ap_int<width> half = 0;
    half[Shift - 1] = 1;
    if constexpr (HalfUp == 0) {
      if (!wide[Shift]) half -= 1;
    }
    const ap_int<width> sum = wide + half;
    return sum >> Shift;
  }
}

/// `x / 2^s` rounded to an integer, for `0 <= s <= MaxShift` known at run time.
template <int MaxShift, int HalfUp, int Bits>
ap_int<Bits + 1> round_shift(const ap_int<Bits>& x, int s) {
#pragma HLS INLINE  // an adder and a shifter
  constexpr int width = larger(Bits, MaxShift) + 1;
  const ap_int<width> wide = x;
  if (s == 0) return wide;
  ap_int<width> half = 1;
  half = half << (s - 1);
  const ap_int<width> floor = wide >> s;
  if (HalfUp == 0 && !floor[0]) half -= 1;
  const ap_int<width> sum = wide + half;
  return sum >> s;
}

/// `x` clamped to the range of `num<Bits, Signed>`.
template <int Bits, int Signed, int Wide>
num<Bits, Signed> saturate(const ap_int<Wide>& x) {
#pragma HLS INLINE  // two comparisons
  constexpr long long high = (1LL << (Signed ? Bits - 1 : Bits)) - 1;
  constexpr long long low = Signed ? -high - 1 : 0;
  if constexpr (Wide > Bits) {
    if (x > ap_int<Bits + 1>(high)) return high;
  }
  if constexpr (Wide > Bits || Signed == 0) {
    if (x < ap_int<Bits + 1>(low)) return low;
  }
  return x;
}

/// Position of the leading one of `x >= 1`; 0 for x = 1.
template <int Bits>
int leading_one(const ap_uint<Bits>& x) {
#pragma HLS INLINE  // a priority encoder
  int position = 0;
bits:
  for (int i = 1; i < Bits; i++) {
#pragma HLS UNROLL  // all bits at once
    if (x[i]) position = i;
  }
  return position;
}

/// Index into a normalised table and the exponent that belongs to it.
struct normal {
  int index;
  int position;
};

/// `IndexBits` bits below the leading one of `x >= 1`, and its position.
template <int IndexBits, int Bits>
normal reciprocal_index(const ap_uint<Bits>& x) {
#pragma HLS INLINE  // a shifter
  const int p = leading_one(x);
  const ap_uint<Bits + IndexBits> wide = x;
  const ap_uint<IndexBits> low = p >= IndexBits ? wide >> (p - IndexBits) : wide << (IndexBits - p);
  return {static_cast<int>(low), p};
}

/// `floor(x / 4^e * 2^IndexBits)` and e, with `x / 4^e` in [1, 4), for `x >= 1`.
template <int IndexBits, int Bits>
normal rsqrt_index(const ap_uint<Bits>& x) {
#pragma HLS INLINE  // a shifter
  const int e = leading_one(x) >> 1;
  const ap_uint<Bits + IndexBits> wide = x;
  const ap_uint<IndexBits + 2> index =
      2 * e >= IndexBits ? wide >> (2 * e - IndexBits) : wide << (IndexBits - 2 * e);
  return {static_cast<int>(index), e};
}

/// `clamp((x + offset) >> shift, 0, Cfg::entries - 1)`, with an offset no greater than that in `Cfg`.
template <class Cfg, int Bits>
int table_index(const ap_int<Bits>& x, int offset = Cfg::offset, int shift = Cfg::shift) {
#pragma HLS INLINE  // an adder and two comparisons
  constexpr long long most = Cfg::offset;
  constexpr int width = larger(Bits, 1 + bits_for(most < 0 ? -most : most)) + 1;
  const ap_int<width> moved = (x + ap_int<width - 1>(offset)) >> shift;
  if (moved < 0) return 0;
  if (moved > ap_int<signed_bits_for(Cfg::entries)>(Cfg::entries - 1)) return Cfg::entries - 1;
  return static_cast<int>(moved);
}

/// `a * b` of operands, in a DSP block (`Dsp` = 1) or in LUTs.
template <int Dsp, class A, class B>
auto multiply(const A& a, const B& b) {
#pragma HLS INLINE  // one operator
#ifdef SIEVIT_VITIS
  const decltype(a * b) product = a * b;
  if constexpr (Dsp != 0) {
#pragma HLS BIND_OP variable=product op=mul impl=dsp  // the folding counts on DSP blocks
  } else {
#pragma HLS BIND_OP variable=product op=mul impl=fabric  // narrow products are cheaper in LUTs
  }
  return product;
#else
  typedef std::conditional_t<sizeof(A) + sizeof(B) < 4, std::int32_t, std::int64_t> wide;
  return static_cast<wide>(a) * static_cast<wide>(b);
#endif
}

}  // namespace sievit
