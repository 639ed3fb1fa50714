// SPDX-License-Identifier: Apache-2.0
/// \file
/// Streams of frames: beats, lanes, width conversion, fork, and the AXI4-Stream ports of the top.
///
/// A frame is a sequence of tokens, a token a sequence of beats, a beat some channels with lane 0 in the low bits.
/// `last` marks the last beat of a frame; `user` beside it says that the last token is a package token.
#pragma once

#include "rounding.hpp"  // first: it sets the widest ap_int

#include "ap_int.h"
#include "hls_stream.h"

#ifdef SIEVIT_VITIS
#include "ap_axi_sdata.h"
#endif

namespace sievit {

/// One beat of a stream inside the design.
template <int Bits>
struct beat {
  ap_uint<Bits> data;
  ap_uint<1> last;
  ap_uint<1> user;
};

/// Bits of an AXI4-Stream port: whole bytes.
constexpr int port_bits(int bits) { return (bits + 7) / 8 * 8; }

/// One beat of an AXI4-Stream port of the top.
#ifdef SIEVIT_VITIS
template <int Bits>
using port_beat = ap_axiu<Bits, 1, 0, 0>;
#else
template <int Bits>
struct port_beat {
  ap_uint<Bits> data;
  ap_uint<Bits / 8> keep;
  ap_uint<Bits / 8> strb;
  ap_uint<1> user;
  ap_uint<1> last;
};
#endif

/// Lane `i` of a word, as a `T`.
template <class T, int Bits>
T get_lane(const ap_uint<Bits>& word, int i) {
#pragma HLS INLINE  // wires
  constexpr int width = T::width;
#ifndef SIEVIT_VITIS
  // C-simulation: a wide word is an array of 64-bit words, and shifting all of it would dominate the run time.
  if constexpr (Bits > 64 && width <= 64) {
    const int low = i * width, at = low / 64, shift = low % 64;
    std::uint64_t bits = word.V.get_pVal(at) >> shift;
    if (shift + width > 64) bits |= word.V.get_pVal(at + 1) << (64 - shift);
    return T(bits);
  }
#endif
  return T(word.range(i * width + width - 1, i * width));
}

/// Set lane `i` of a word.
template <class T, int Bits>
void set_lane(ap_uint<Bits>& word, int i, const T& value) {
#pragma HLS INLINE  // wires
  constexpr int width = T::width;
#ifndef SIEVIT_VITIS
  if constexpr (Bits > 64 && width < 64) {
    const int low = i * width, at = low / 64, shift = low % 64;
    const std::uint64_t mask = (std::uint64_t(1) << width) - 1;
    const std::uint64_t bits = ap_uint<width>(value).to_uint64();
    word.V.set_pVal(at, (word.V.get_pVal(at) & ~(mask << shift)) | (bits << shift));
    if (shift + width > 64) {
      const int done = 64 - shift;
      word.V.set_pVal(at + 1, (word.V.get_pVal(at + 1) & ~(mask >> done)) | (bits >> done));
    }
    return;
  }
#endif
  word.range(i * width + width - 1, i * width) = ap_uint<width>(value);
}

/// One frame from narrow to wide beats; `Bits` divides `Wide`. II 1 per narrow beat.
template <int Bits, int Wide>
void widen(hls::stream<beat<Bits>>& in, hls::stream<beat<Wide>>& out) {
  constexpr int ratio = Wide / Bits;
  ap_uint<Wide> word = 0;
  int part = 0;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a narrow beat per cycle
    const beat<Bits> b = in.read();
    set_lane(word, part, b.data);
    last = b.last;
    part++;
    if (part == ratio) {
      out.write({word, b.last, b.user});
      part = 0;
    }
  }
}

/// One frame from wide to narrow beats; `Bits` divides `Wide`. II 1 per narrow beat.
template <int Wide, int Bits>
void narrow(hls::stream<beat<Wide>>& in, hls::stream<beat<Bits>>& out) {
  constexpr int ratio = Wide / Bits;
  beat<Wide> word = {0, 0, 0};
  int part = 0;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a narrow beat per cycle
    if (part == 0) word = in.read();
    const bool end = part == ratio - 1;
    last = end && word.last;
    out.write({get_lane<ap_uint<Bits>>(word.data, part), ap_uint<1>(last), ap_uint<1>(last && word.user)});
    part = end ? 0 : part + 1;
  }
}

/// One frame to two consumers.
template <int Bits>
void fork(hls::stream<beat<Bits>>& in, hls::stream<beat<Bits>>& a, hls::stream<beat<Bits>>& b) {
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Bits> x = in.read();
    a.write(x);
    b.write(x);
    last = x.last;
  }
}

/// One frame from the input port of the top; padding bits are dropped.
template <int Bits>
void from_port(hls::stream<port_beat<port_bits(Bits)>>& in, hls::stream<beat<Bits>>& out) {
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const port_beat<port_bits(Bits)> x = in.read();
    out.write({ap_uint<Bits>(x.data), x.last, x.user});
    last = x.last;
  }
}

/// One frame to the output port of the top; padding bits are 0.
template <int Bits>
void to_port(hls::stream<beat<Bits>>& in, hls::stream<port_beat<port_bits(Bits)>>& out) {
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Bits> x = in.read();
    port_beat<port_bits(Bits)> y;
    y.data = x.data;
    y.keep = -1;
    y.strb = -1;
    y.user = x.user;
    y.last = x.last;
    out.write(y);
    last = x.last;
  }
}

}  // namespace sievit
