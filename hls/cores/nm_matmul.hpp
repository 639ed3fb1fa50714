// SPDX-License-Identifier: Apache-2.0
/// \file
/// Matrix product with N:M sparse constant weights, bias and requantisation; dense for N = M = 1.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct nm_matmul_config {
  static constexpr int max_tokens = 1;
  static constexpr int in_channels = 8;
  static constexpr int out_channels = 8;
  static constexpr int groups = 1;
  static constexpr int n = 2;
  static constexpr int m = 4;
  static constexpr int simd = 4;
  static constexpr int pe = 2;
  static constexpr int tp = 1;
  static constexpr int pack = 1;
  static constexpr int pack_out = 1;  // outputs per DSP block: left to the compiler
  static constexpr int in_bits = 8;
  static constexpr int in_signed = 1;
  static constexpr int weight_bits = 4;
  static constexpr int weight_signed = 1;
  static constexpr int bias_bits = 16;
  static constexpr int bias_signed = 1;
  static constexpr int acc_bits = 20;
  static constexpr int acc_signed = 1;
  static constexpr int mid_bits = 8;
  static constexpr int mid_signed = 1;
  static constexpr int out_bits = 8;
  static constexpr int out_signed = 1;
  static constexpr int shift = 4;
  static constexpr int half_up = 0;
  static constexpr int entries = 0;
  static constexpr int table_offset = 0;
  static constexpr int table_shift = 0;
  static constexpr int mult_dsp = 0;
  static constexpr int pump = 1;  // clock of DSP blocks: the compiler knows one
  static constexpr int weight_ram = 0;
  static constexpr int sets = 1;
};

/// Stored weights, `[output][group of m inputs][slot]`.
template <class Cfg>
using nm_weights =
    rom<Cfg::weight_bits, Cfg::weight_signed>[Cfg::out_channels][Cfg::in_channels / Cfg::groups / Cfg::m][Cfg::n];

/// Inputs that the weights belong to: slot k of a group of m stands for input `k + index`. One element for m = 1.
template <class Cfg>
using nm_index = rom<bits_for(Cfg::m - Cfg::n), 0>[Cfg::m > 1 ? Cfg::out_channels : 1]
                                                  [Cfg::m > 1 ? Cfg::in_channels / Cfg::groups / Cfg::m : 1]
                                                  [Cfg::m > 1 ? Cfg::n : 1];

template <class Cfg>
using nm_bias = rom<Cfg::bias_bits, Cfg::bias_signed>[Cfg::out_channels];

/// One element without a table.
template <class Cfg>
using nm_table = rom<Cfg::out_bits, Cfg::out_signed>[Cfg::entries > 0 ? Cfg::entries : 1];

/// Parameters of `table_index`.
template <class Cfg>
struct nm_table_config {
  static constexpr int offset = Cfg::table_offset;
  static constexpr int shift = Cfg::table_shift;
  static constexpr int entries = Cfg::entries;
};

/// `total[t] += w x[t * simd + lane]` for the `pack` tokens from `t`, which share one multiplier: the products are
/// fields of `(x0 + x1 2^S + ...) w`, and what stands below a field is a number of its own.
template <class Cfg, class X, class Acc>
void nm_products(const rom<Cfg::weight_bits, Cfg::weight_signed>& w, const X& x, int lane, Acc* total) {
#pragma HLS INLINE  // a multiplier and adders
  if constexpr (Cfg::pack == 1) {
    total[0] += multiply<Cfg::mult_dsp>(w, x[lane]);
  } else {
    constexpr int field = Cfg::in_bits + Cfg::weight_bits + (Cfg::in_signed || Cfg::weight_signed ? 0 : 1);
    typedef operand<Cfg::pack * field, 1> packed_t;
    packed_t packed = 0;
  fields:
    for (int i = Cfg::pack - 1; i >= 0; i--) {
#pragma HLS UNROLL  // wires and a borrow
      packed = packed * (packed_t(1) << field) + x[i * Cfg::simd + lane];
    }
    packed_t rest = multiply<Cfg::mult_dsp>(w, packed);
  products:
    for (int i = 0; i < Cfg::pack; i++) {
#pragma HLS UNROLL  // a carry per product
      const ap_int<field> low = rest;
      total[i * Cfg::pe] += low.to_int64();
      rest = (rest >> field) + (low < 0 ? 1 : 0);
    }
  }
}

/// The steps of `tp` tokens side by side. II 1 per step. The inputs of a group come in during the steps of its first
/// outputs, so that reading costs no cycle of its own; the first beat leaves after `in_channels / groups / simd` steps.
template <class Cfg>
void nm_steps(hls::stream<beat<Cfg::tp * Cfg::simd * Cfg::in_bits>>& s_axis,
              hls::stream<beat<Cfg::tp * Cfg::pe * Cfg::out_bits>>& m_axis, const nm_weights<Cfg> weights,
              const nm_bias<Cfg> bias, const nm_index<Cfg> index, const nm_table<Cfg> table) {
  constexpr int pe = Cfg::pe;
  constexpr int parts = Cfg::simd / Cfg::m;
#pragma HLS ARRAY_RESHAPE variable=weights cyclic factor=pe dim=1     // a step reads one word:
#pragma HLS ARRAY_RESHAPE variable=weights cyclic factor=parts dim=2  // pe outputs by
#pragma HLS ARRAY_RESHAPE variable=weights complete dim=3             // simd * n / m weights
#pragma HLS ARRAY_RESHAPE variable=index cyclic factor=pe dim=1       // beside their positions
#pragma HLS ARRAY_RESHAPE variable=index cyclic factor=parts dim=2
#pragma HLS ARRAY_RESHAPE variable=index complete dim=3
#pragma HLS ARRAY_RESHAPE variable=bias cyclic factor=pe dim=1        // one word per tile of outputs
  if constexpr (Cfg::weight_ram == 0) {
#pragma HLS BIND_STORAGE variable=weights type=rom_1p impl=lutram  // what the folding counts on;
  } else if constexpr (Cfg::weight_ram == 1) {
#pragma HLS BIND_STORAGE variable=weights type=rom_1p impl=bram  // UltraRAM is the tool's own choice
  }
  typedef num<Cfg::in_bits, Cfg::in_signed> in_t;
  typedef operand<Cfg::in_bits, Cfg::in_signed> value_t;
  typedef operand<Cfg::acc_bits, Cfg::acc_signed> acc_t;
  constexpr int lanes = Cfg::tp * Cfg::simd;
  constexpr int steps = Cfg::in_channels / Cfg::groups / Cfg::simd;
  constexpr int tiles = Cfg::out_channels / Cfg::pe;
  constexpr int group_tiles = tiles / Cfg::groups;

  value_t window[steps][lanes];  // inputs of the group
#pragma HLS ARRAY_RESHAPE variable=window complete dim=2  // a step reads simd inputs of every token
  acc_t acc[Cfg::tp * pe];
#pragma HLS ARRAY_PARTITION variable=acc complete  // registers: pe sums per token and step
  int tile = 0, group_tile = 0, step = 0;
  bool last = false, user = false, done = false;
steps:
  while (!done) {
#pragma HLS PIPELINE II=1  // a step per cycle
    value_t x[lanes];
#pragma HLS ARRAY_PARTITION variable=x complete  // wires
    if (group_tile == 0) {
      const beat<lanes * Cfg::in_bits> b = s_axis.read();
      last = b.last;
      user = b.user;
    receive:
      for (int i = 0; i < lanes; i++) {
#pragma HLS UNROLL  // a beat at once
        x[i] = get_lane<in_t>(b.data, i);
        window[step][i] = x[i];
      }
    } else {
    again:
      for (int i = 0; i < lanes; i++) {
#pragma HLS UNROLL  // a beat at once
        x[i] = window[step][i];
      }
    }
    const bool tile_end = step == steps - 1;
    const bool token_end = tile_end && tile == tiles - 1;
    beat<Cfg::tp * pe * Cfg::out_bits> y = {0, ap_uint<1>(token_end && last), ap_uint<1>(token_end && last && user)};
  outputs:
    for (int p = 0; p < pe; p++) {
#pragma HLS UNROLL  // outputs side by side
      const int o = tile * pe + p;
    start:
      for (int t = 0; t < Cfg::tp; t++) {
#pragma HLS UNROLL  // tokens side by side
        if (step == 0) acc[t * pe + p] = bias[o];
      }
    groups:
      for (int g = 0; g < parts; g++) {
#pragma HLS UNROLL  // groups of m inputs side by side
      values:
        for (int k = 0; k < Cfg::n; k++) {
#pragma HLS UNROLL  // n weights of a group side by side
          int lane = g * Cfg::m + k;
          if constexpr (Cfg::m > 1) lane += static_cast<int>(index[o][step * parts + g][k]);
        tokens:
          for (int t = 0; t < Cfg::tp; t += Cfg::pack) {
#pragma HLS UNROLL  // multipliers that share the weight
            nm_products<Cfg>(weights[o][step * parts + g][k], &x[t * Cfg::simd], lane, &acc[t * pe + p]);
          }
        }
      }
    results:
      for (int t = 0; t < Cfg::tp; t++) {
#pragma HLS UNROLL  // tokens side by side
        if (!tile_end) continue;
        const ap_int<Cfg::acc_bits + 1> sum = acc[t * pe + p];
        const auto rounded = round_shift<Cfg::shift, Cfg::half_up>(sum);
        if constexpr (Cfg::entries > 0) {
          const ap_int<Cfg::mid_bits + 1> z = saturate<Cfg::mid_bits, Cfg::mid_signed>(rounded);
          const num<Cfg::out_bits, Cfg::out_signed> entry = table[table_index<nm_table_config<Cfg>>(z)];
          set_lane(y.data, t * pe + p, entry);
        } else {
          set_lane(y.data, t * pe + p, saturate<Cfg::out_bits, Cfg::out_signed>(rounded));
        }
      }
    }
    if (tile_end) m_axis.write(y);
    done = token_end && last;
    step = tile_end ? 0 : step + 1;
    if (tile_end) {
      tile = token_end ? 0 : tile + 1;
      group_tile = group_tile == group_tiles - 1 ? 0 : group_tile + 1;
    }
  }
}

/// Put `tp` tokens side by side, fewer at the end of the frame; `tokens`: how many. A beat of the last of them brings
/// the same beat of all.
template <class Cfg>
void nm_collect(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
                hls::stream<beat<Cfg::tp * Cfg::simd * Cfg::in_bits>>& m_axis, hls::stream<ap_uint<8>>& tokens) {
  constexpr int beats = Cfg::in_channels / Cfg::simd;
  ap_uint<Cfg::tp * Cfg::simd * Cfg::in_bits> held[beats];
  int token = 0, part = 0;
  bool last = false, user = false;
receive:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Cfg::simd * Cfg::in_bits> b = s_axis.read();
    ap_uint<Cfg::tp * Cfg::simd * Cfg::in_bits> word = 0;
    if (token > 0) word = held[part];
    set_lane(word, token, b.data);
    held[part] = word;
    last = b.last;
    user = b.user;
    const bool token_end = part == beats - 1, group_end = token == Cfg::tp - 1;
    if (group_end) m_axis.write({word, b.last, b.user});
    if (token_end && (group_end || last)) tokens.write(token + 1);
    part = token_end ? 0 : part + 1;
    if (token_end) token = group_end ? 0 : token + 1;
  }
  if (token == 0) return;
rest:
  for (int i = 0; i < beats; i++) {
#pragma HLS PIPELINE II=1  // the last tokens of a frame
    const bool end = i == beats - 1;
    m_axis.write({held[i], ap_uint<1>(end), ap_uint<1>(end && user)});
  }
}

/// Send the outputs of `tokens` tokens one after the other, those of the first while they come.
template <class Cfg>
void nm_spread(hls::stream<beat<Cfg::tp * Cfg::pe * Cfg::out_bits>>& s_axis, hls::stream<ap_uint<8>>& tokens,
               hls::stream<beat<Cfg::pe * Cfg::out_bits>>& m_axis) {
  constexpr int tiles = Cfg::out_channels / Cfg::pe;
  ap_uint<Cfg::tp * Cfg::pe * Cfg::out_bits> held[tiles];
  int count = 0, token = 0, tile = 0;
  bool last = false, user = false, done = false;
beats:
  while (!done) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    ap_uint<Cfg::tp * Cfg::pe * Cfg::out_bits> word = 0;
    if (token == 0) {
      if (tile == 0) count = tokens.read();
      const beat<Cfg::tp * Cfg::pe * Cfg::out_bits> b = s_axis.read();
      word = b.data;
      last = b.last;
      user = b.user;
      held[tile] = word;
    } else {
      word = held[tile];
    }
    const bool token_end = tile == tiles - 1, group_end = token == count - 1;
    done = token_end && group_end && last;
    m_axis.write({get_lane<ap_uint<Cfg::pe * Cfg::out_bits>>(word, token), ap_uint<1>(done), ap_uint<1>(done && user)});
    tile = token_end ? 0 : tile + 1;
    if (token_end) token = group_end ? 0 : token + 1;
  }
}

/// `tp` tokens at a time: collect, compute and send overlap.
template <class Cfg>
void nm_tokens(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
               hls::stream<beat<Cfg::pe * Cfg::out_bits>>& m_axis, const nm_weights<Cfg> weights,
               const nm_bias<Cfg> bias, const nm_index<Cfg> index, const nm_table<Cfg> table) {
#pragma HLS DATAFLOW  // three processes
  [[maybe_unused]] constexpr int beats = Cfg::in_channels / Cfg::simd;
  [[maybe_unused]] constexpr int tiles = Cfg::out_channels / Cfg::pe;
  hls::stream<beat<Cfg::tp * Cfg::simd * Cfg::in_bits>> wide("wide");
#pragma HLS STREAM variable=wide depth=beats  // tokens that wait for their steps
  hls::stream<beat<Cfg::tp * Cfg::pe * Cfg::out_bits>> results("results");
#pragma HLS STREAM variable=results depth=tiles  // tokens that wait until those before them have left
  hls::stream<ap_uint<8>> tokens("tokens");
#pragma HLS STREAM variable=tokens depth=8  // as many groups as the two others hold, and more
  nm_collect<Cfg>(s_axis, wide, tokens);
  nm_steps<Cfg>(wide, results, weights, bias, index, table);
  nm_spread<Cfg>(results, tokens, m_axis);
}

/// `y[o] = T(saturate(round_shift(bias[o] + sum_i weight[o, i] x[i], shift)))` for every token.
///
/// Of every m consecutive inputs an output sees n, `weights[o][i / m][k]` at input `i - i % m + k + index[o][i / m][k]`.
/// A step multiplies `tp * pe * simd * n / m` times; `tp` tokens, fewer at the end of a frame, take
/// `(out_channels / pe) * (in_channels / groups / simd)` steps. With `entries` > 0 the rounded sum is looked up in a
/// table: `T(z) = table[clamp((z + table_offset) >> table_shift, 0, entries - 1)]`.
/// \tparam Cfg a `nm_matmul_config`
template <class Cfg>
void nm_matmul(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
               hls::stream<beat<Cfg::pe * Cfg::out_bits>>& m_axis, const nm_weights<Cfg> weights,
               const nm_bias<Cfg> bias, const nm_index<Cfg> index, const nm_table<Cfg> table) {
#pragma HLS INLINE  // one of the two
  if constexpr (Cfg::tp == 1) {
    nm_steps<Cfg>(s_axis, m_axis, weights, bias, index, table);
  } else {
    nm_tokens<Cfg>(s_axis, m_axis, weights, bias, index, table);
  }
}

/// The same with the constants of a set; the beat of `s_axis_set` is its number.
template <class Cfg>
void nm_matmul(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
               hls::stream<beat<bits_for(Cfg::sets - 1)>>& s_axis_set,
               hls::stream<beat<Cfg::pe * Cfg::out_bits>>& m_axis, const nm_weights<Cfg> weights[Cfg::sets],
               const nm_bias<Cfg> bias[Cfg::sets], const nm_index<Cfg> index[Cfg::sets],
               const nm_table<Cfg> table[Cfg::sets]) {
#pragma HLS INLINE  // the choice of addresses
  const int set = s_axis_set.read().data.to_int();
  nm_matmul<Cfg>(s_axis, m_axis, weights[set], bias[set], index[set], table[set]);
}

}  // namespace sievit
