// SPDX-License-Identifier: Apache-2.0
/// \file
/// The class token alone goes on to the classifier head.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct first_token_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 4;
  static constexpr int simd = 2;
  static constexpr int in_bits = 12;
  static constexpr int in_signed = 1;
};

/// `y[0] = x[0]`; every other token of the frame is swallowed, `user` is cleared.
///
/// II 1 per input beat, latency 1.
/// \tparam Cfg a `first_token_config`
template <class Cfg>
void first_token(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
                 hls::stream<beat<Cfg::simd * Cfg::in_bits>>& m_axis) {
  constexpr int beats = Cfg::channels / Cfg::simd;
  int at = 0;  // beats of the class token that were sent
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Cfg::simd * Cfg::in_bits> x = s_axis.read();
    if (at < beats) {
      m_axis.write({x.data, ap_uint<1>(at == beats - 1), ap_uint<1>(0)});
      at++;
    }
    last = x.last;
  }
}

}  // namespace sievit
