// SPDX-License-Identifier: Apache-2.0
/// \file
/// Between hls4ml's streams and frames: hls4ml moves whole tokens (`nnet::array`), a fixed number per image; a frame
/// ends with `last` and has as many tokens as are left.
#pragma once

#include "../lib/axis.hpp"
#include "codes.hpp"

namespace sievit {

/// `Tokens` tokens of hls4ml as a frame. II 1 per beat.
/// \tparam Code fixed-point type of a lane, of which the bits are the integer that the cores compute with
template <class Code, int Tokens, int Lanes, class In>
void enter_frames(hls::stream<In>& in, hls::stream<beat<Lanes * Code::width>>& out) {
  constexpr int beats = In::size / Lanes;
  static_assert(In::size % Lanes == 0, "lanes must divide the channels");
  In token;
tokens:
  for (int t = 0; t < Tokens; t++) {
  beats:
    for (int b = 0; b < beats; b++) {
#pragma HLS PIPELINE II=1  // a beat per cycle
      if (b == 0) token = in.read();
      beat<Lanes * Code::width> y = {0, ap_uint<1>(t == Tokens - 1 && b == beats - 1), 0};
    lanes:
      for (int i = 0; i < Lanes; i++) {
#pragma HLS UNROLL  // a beat at once
        set_lane(y.data, i, code_of<Code>(token[b * Lanes + i]));
      }
      out.write(y);
    }
  }
}

/// A frame of up to `Tokens` tokens as exactly `Tokens` of hls4ml: zeros follow the last one. II 1 per beat.
/// \tparam Code fixed-point type of a lane, and of the elements that leave
template <class Code, int Tokens, int Lanes, class Out>
void leave_frames(hls::stream<beat<Lanes * Code::width>>& in, hls::stream<Out>& out) {
  constexpr int beats = Out::size / Lanes;
  static_assert(Out::size % Lanes == 0, "lanes must divide the channels");
  Out token;
  bool last = false;
tokens:
  for (int t = 0; t < Tokens; t++) {
  beats:
    for (int b = 0; b < beats; b++) {
#pragma HLS PIPELINE II=1  // a beat per cycle
      beat<Lanes * Code::width> x = {0, 0, 0};
      if (!last) x = in.read();
    lanes:
      for (int i = 0; i < Lanes; i++) {
#pragma HLS UNROLL  // a beat at once
        token[b * Lanes + i] = from_code<Code>(get_lane<ap_uint<Code::width>>(x.data, i));
      }
      // of the last token every beat but the last comes without `last`
      if (b == beats - 1) {
        last = last || x.last;
        out.write(token);
      }
    }
  }
}

/// One frame to any number of consumers. II 1 per beat.
template <int Bits, class... Out>
void fork_frames(hls::stream<beat<Bits>>& in, Out&... out) {
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Bits> x = in.read();
    (out.write(x), ...);
    last = x.last;
  }
}

constexpr int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }

/// One frame from beats of `From` bits to beats of `To` bits, by way of their least common multiple.
template <int From, int To>
void resize_frames(hls::stream<beat<From>>& in, hls::stream<beat<To>>& out) {
  if constexpr (To % From == 0) {
    widen(in, out);
  } else if constexpr (From % To == 0) {
    narrow(in, out);
  } else {
    constexpr int common = From / gcd(From, To) * To;
#pragma HLS DATAFLOW  // two processes
    hls::stream<beat<common>> wide("wide");
#pragma HLS STREAM variable=wide depth=2  // smallest
    widen(in, wide);
    narrow(wide, out);
  }
}

}  // namespace sievit
