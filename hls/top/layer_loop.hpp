// SPDX-License-Identifier: Apache-2.0
/// \file
/// What the top needs around nodes that a frame passes several times.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

/// One frame from a stream to another one.
template <int Bits>
void move_frame(hls::stream<beat<Bits>>& in, hls::stream<beat<Bits>>& out) {
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Bits> x = in.read();
    out.write(x);
    last = x.last;
  }
}

/// The number of a pass: a frame of one beat.
template <int Bits>
void write_number(int number, hls::stream<beat<Bits>>& out) {
  const beat<Bits> x = {number, true, false};
  out.write(x);
}

}  // namespace sievit
