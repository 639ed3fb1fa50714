// SPDX-License-Identifier: Apache-2.0
/// \file
/// Any scalar function as a table: GELU, sigmoid, requantisation.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct lookup_table_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 4;
  static constexpr int simd = 2;
  static constexpr int in_bits = 8;
  static constexpr int in_signed = 1;
  static constexpr int out_bits = 8;
  static constexpr int out_signed = 0;
  static constexpr int offset = 128;
  static constexpr int shift = 0;
  static constexpr int entries = 256;
  static constexpr int sets = 1;
};

/// `y = T[clamp((x + offset) >> shift, 0, entries - 1)]` for every channel.
///
/// II 1 per beat, latency 3.
/// \tparam Cfg a `lookup_table_config`
template <class Cfg>
void lookup_table(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
                  hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
                  const rom<Cfg::out_bits, Cfg::out_signed> table[Cfg::entries], int offset = Cfg::offset,
                  int shift = Cfg::shift) {
#pragma HLS BIND_STORAGE variable=table type=rom_np impl=lutram  // simd reads per cycle
  typedef num<Cfg::in_bits, Cfg::in_signed> in_t;
  typedef num<Cfg::out_bits, Cfg::out_signed> out_t;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Cfg::simd * Cfg::in_bits> x = s_axis.read();
    beat<Cfg::simd * Cfg::out_bits> y = {0, x.last, x.user};
  lanes:
    for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      const ap_int<Cfg::in_bits + 1> value = get_lane<in_t>(x.data, i);
      set_lane(y.data, i, out_t(table[table_index<Cfg>(value, offset, shift)]));
    }
    m_axis.write(y);
    last = x.last;
  }
}

/// The same with the table, the offset and the shift of the set that `s_axis_set` names.
template <class Cfg>
void lookup_table(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
                  hls::stream<beat<bits_for(Cfg::sets - 1)>>& s_axis_set,
                  hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
                  const rom<Cfg::out_bits, Cfg::out_signed> table[Cfg::sets][Cfg::entries],
                  const rom<32, 1> offset[Cfg::sets], const rom<6, 0> shift[Cfg::sets]) {
  const int set = static_cast<int>(s_axis_set.read().data);
  lookup_table<Cfg>(s_axis, m_axis, table[set], static_cast<int>(offset[set]), static_cast<int>(shift[set]));
}

}  // namespace sievit
