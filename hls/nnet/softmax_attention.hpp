// SPDX-License-Identifier: Apache-2.0
/// \file
/// Multi-head attention with quantised scores and probabilities; the softmax between them is the real function rounded
/// once.
#pragma once

#include "codes.hpp"

namespace sievit {

struct softmax_attention_config {
  static constexpr int tokens = 1;
  static constexpr int heads = 1;
  static constexpr int head_dim = 8;
  static constexpr int channels = 8;  // of the result
  static constexpr int q_bits = 8;
  static constexpr int q_signed = 1;
  static constexpr int k_bits = 8;
  static constexpr int k_signed = 1;
  static constexpr int v_bits = 8;
  static constexpr int v_signed = 1;
  static constexpr int score_bits = 8;
  static constexpr int score_signed = 1;
  static constexpr int prob_bits = 8;
  static constexpr int prob_signed = 0;
  static constexpr int out_bits = 8;
  static constexpr int out_signed = 1;
  static constexpr int exp_bits = 32;
  static constexpr int scale = 1;  // of the scores, with score_shift fraction bits
  static constexpr int scale_bits = 25;
  static constexpr int score_shift = 0;
  static constexpr int prob_frac = 8;
  static constexpr int out_shift = 8;
};

/// Channel of a token that head h sees at place d.
template <class Cfg>
using attention_map = rom<16, 0>[Cfg::heads][Cfg::head_dim];

/// Place `h * head_dim + d` that a channel of the result comes from.
template <class Cfg>
using attention_order = rom<16, 0>[Cfg::channels];

/// `exp[i]` about `2^(exp_bits - 2) exp(-i)`, i in score steps.
template <class Cfg>
using attention_exp = rom<Cfg::exp_bits, 0>[1 << Cfg::score_bits];

/// Scores s = round(q k scale), p = round(exp(s - max) / sum(exp(s - max))), y = round(sum(p v)), for every head; all
/// rounded half to even.
/// \tparam Cfg a `softmax_attention_config`
/// \tparam Q, K, V, Result fixed-point types of the streams, of which the bits are the integers meant here
template <class Cfg, class Q, class K, class V, class Result, class InQ, class InK, class InV, class Out>
void softmax_attention(hls::stream<InQ>& in_q, hls::stream<InK>& in_k, hls::stream<InV>& in_v, hls::stream<Out>& out,
                       const attention_map<Cfg> q_map, const attention_map<Cfg> k_map, const attention_map<Cfg> v_map,
                       const attention_order<Cfg> order, const attention_exp<Cfg> exp) {
  constexpr int T = Cfg::tokens, H = Cfg::heads, D = Cfg::head_dim;
  constexpr int dot_bits = Cfg::q_bits + Cfg::k_bits + 2 + bits_for(D);
  constexpr int sum_bits = Cfg::exp_bits + bits_for(T);
  constexpr int ratio_bits = Cfg::exp_bits + Cfg::prob_frac + 1;
  constexpr int total_bits = Cfg::prob_bits + Cfg::v_bits + 2 + bits_for(T);
  num<Cfg::q_bits, Cfg::q_signed> q[T][H][D];
  num<Cfg::k_bits, Cfg::k_signed> k[T][H][D];
  num<Cfg::v_bits, Cfg::v_signed> v[T][H][D];
#pragma HLS ARRAY_PARTITION variable=q complete dim=3  // a head's channels at once
#pragma HLS ARRAY_PARTITION variable=k complete dim=3
#pragma HLS ARRAY_PARTITION variable=v complete dim=3
receive:
  for (int t = 0; t < T; t++) {
#pragma HLS PIPELINE II=1  // a token per cycle
    const InQ x = in_q.read();
    const InK y = in_k.read();
    const InV z = in_v.read();
  split_heads:
    for (int h = 0; h < H; h++) {
#pragma HLS UNROLL  // wires
    split_channels:
      for (int d = 0; d < D; d++) {
#pragma HLS UNROLL  // wires
        q[t][h][d] = code_of<Q>(x[q_map[h][d]]);
        k[t][h][d] = code_of<K>(y[k_map[h][d]]);
        v[t][h][d] = code_of<V>(z[v_map[h][d]]);
      }
    }
  }
queries:
  for (int i = 0; i < T; i++) {
    Result places[H * D];
#pragma HLS ARRAY_PARTITION variable=places complete  // registers of the token that leaves
  heads:
    for (int h = 0; h < H; h++) {
      num<Cfg::score_bits, Cfg::score_signed> score[T], top = 0;
    scores:
      for (int j = 0; j < T; j++) {
#pragma HLS PIPELINE II=1  // a key per cycle
        ap_int<dot_bits> dot = 0;
      dot_product:
        for (int d = 0; d < D; d++) {
#pragma HLS UNROLL  // a head's channels at once
          dot += q[i][h][d] * k[j][h][d];
        }
        const ap_int<dot_bits + Cfg::scale_bits> scaled = dot * ap_int<Cfg::scale_bits>(Cfg::scale);
        const auto rounded = round_shift<Cfg::score_shift, 0>(scaled);
        score[j] = saturate<Cfg::score_bits, Cfg::score_signed>(rounded);
        if (j == 0 || score[j] > top) top = score[j];
      }
      ap_uint<sum_bits> sum = 0;
      ap_uint<Cfg::exp_bits> weight[T];
    exponentials:
      for (int j = 0; j < T; j++) {
#pragma HLS PIPELINE II=1  // a key per cycle
        const int index = static_cast<int>(top) - static_cast<int>(score[j]);
        weight[j] = exp[index];
        sum += weight[j];
      }
      ap_int<total_bits> total[D];
#pragma HLS ARRAY_PARTITION variable=total complete  // registers
    clear:
      for (int d = 0; d < D; d++) {
#pragma HLS UNROLL  // registers
        total[d] = 0;
      }
    values:
      for (int j = 0; j < T; j++) {
#pragma HLS PIPELINE II=1  // a key per cycle, through a pipelined divider
        const ap_uint<ratio_bits> above = ap_uint<ratio_bits>(weight[j]) << Cfg::prob_frac;
        const ap_uint<ratio_bits> whole = above / sum;
        const ap_uint<sum_bits + 1> twice = ap_uint<sum_bits + 1>(above - whole * sum) << 1;
        const bool up = twice > sum || (twice == sum && whole[0]);
        const ap_int<ratio_bits + 2> rounded = whole + ap_uint<1>(up);
        const num<Cfg::prob_bits, Cfg::prob_signed> p = saturate<Cfg::prob_bits, Cfg::prob_signed>(rounded);
      weigh:
        for (int d = 0; d < D; d++) {
#pragma HLS UNROLL  // a head's channels at once
          total[d] += p * v[j][h][d];
        }
      }
    divide:
      for (int d = 0; d < D; d++) {
#pragma HLS UNROLL  // a head's channels at once
        const auto rounded = round_shift<Cfg::out_shift, 0>(total[d]);
        places[h * D + d] = from_code<Result>(saturate<Cfg::out_bits, Cfg::out_signed>(rounded));
      }
    }
    Out y;
  send:
    for (int c = 0; c < Cfg::channels; c++) {
#pragma HLS UNROLL  // wires
      y[c] = places[order[c]];
    }
    out.write(y);
  }
}

}  // namespace sievit
