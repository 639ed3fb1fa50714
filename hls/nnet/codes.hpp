// SPDX-License-Identifier: Apache-2.0
/// \file
/// Fixed-point values of hls4ml as the integers that their bits are.
#pragma once

#include "../lib/rounding.hpp"

#include "ap_fixed.h"
#include "hls_stream.h"

namespace sievit {

template <class Code>
struct is_signed_code;
template <int W, int I, ap_q_mode Q, ap_o_mode O, int N>
struct is_signed_code<ap_fixed<W, I, Q, O, N>> : std::true_type {};
template <int W, int I, ap_q_mode Q, ap_o_mode O, int N>
struct is_signed_code<ap_ufixed<W, I, Q, O, N>> : std::false_type {};

/// Bits of `value`, converted to the fixed-point type `Code` (which it fits, if that is its own type), as an integer.
template <class Code, class Value>
num<Code::width, is_signed_code<Code>::value> code_of(const Value& value) {
#pragma HLS INLINE  // wires
  Code code = value;
  const ap_uint<Code::width> bits = code.range(Code::width - 1, 0);
  return bits;
}

/// The value whose bits are `code`.
template <class Code, class Integer>
Code from_code(const Integer& code) {
#pragma HLS INLINE  // wires
  Code value;
  value.range(Code::width - 1, 0) = ap_uint<Code::width>(code);
  return value;
}

}  // namespace sievit
