// SPDX-License-Identifier: Apache-2.0
/// \file
/// Between FINN's streams, which know no frames, and streams of the library.
#pragma once

#include "axis.hpp"

namespace sievit {

/// One frame of `Beats` beats; `package`: its last token is a package token.
template <int Beats, int Bytes, int Bits>
void mark_frame(hls::stream<ap_uint<Bytes>>& in, hls::stream<beat<Bits>>& out, bool package) {
beats:
  for (int i = 0; i < Beats; i++) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const bool last = i == Beats - 1;
    const beat<Bits> x = {ap_uint<Bits>(in.read()), last, last && package};
    out.write(x);
  }
}

/// One frame of `Beats` beats, without its marks.
template <int Beats, int Bytes, int Bits>
void drop_marks(hls::stream<beat<Bits>>& in, hls::stream<ap_uint<Bytes>>& out) {
beats:
  for (int i = 0; i < Beats; i++) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    out.write(ap_uint<Bytes>(in.read().data));
  }
}

/// One frame of `Beats` beats: `Words` words of a constant, over and over.
template <int Beats, int Words, int Bits>
void repeat(const ap_uint<Bits> (&words)[Words], hls::stream<beat<Bits>>& out) {
  int at = 0;
beats:
  for (int i = 0; i < Beats; i++) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Bits> x = {words[at], i == Beats - 1, 0};
    out.write(x);
    at = at == Words - 1 ? 0 : at + 1;
  }
}

/// One frame of `Beats` beats to every output.
template <int Beats, int Bytes, class... Outs>
void copy(hls::stream<ap_uint<Bytes>>& in, Outs&... outs) {
beats:
  for (int i = 0; i < Beats; i++) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const ap_uint<Bytes> x = in.read();
    (outs.write(x), ...);
  }
}

}  // namespace sievit
