// SPDX-License-Identifier: Apache-2.0
/// \file
/// Multi-head attention with dynamic N:M sparse rows and table softmax.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct attention_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 8;
  static constexpr int heads = 2;
  static constexpr int n = 2;
  static constexpr int m = 4;
  static constexpr int simd = 2;
  static constexpr int heads_par = 1;
  static constexpr int q_bits = 8;
  static constexpr int q_signed = 1;
  static constexpr int k_bits = 8;
  static constexpr int k_signed = 1;
  static constexpr int v_bits = 8;
  static constexpr int v_signed = 1;
  static constexpr int exp_offset = 32;
  static constexpr int exp_shift = 6;
  static constexpr int exp_entries = 128;
  static constexpr int exp_bits = 10;
  static constexpr int exp_signed = 0;
  static constexpr int recip_bits = 13;
  static constexpr int recip_signed = 0;
  static constexpr int prob_shift = 4;
  static constexpr int prob_bits = 8;
  static constexpr int prob_signed = 0;
  static constexpr int out_bits = 8;
  static constexpr int out_signed = 1;
  static constexpr int shift = 8;
  static constexpr int half_up = 0;
  static constexpr int mult_dsp = 0;
  static constexpr int index_bits = 6;
};

/// Sizes and types that follow from an `attention_config`. A wide beat carries `simd` channels of each of the
/// `heads_par` heads of a block.
template <class Cfg>
struct attention_shape {
  static constexpr int head_dim = Cfg::channels / Cfg::heads;
  static constexpr int chunks = head_dim / Cfg::simd;        // wide beats per token and block
  static constexpr int blocks = Cfg::heads / Cfg::heads_par;
  static constexpr int lanes = Cfg::heads_par * Cfg::simd;   // channels per wide beat
  static constexpr int groups = (Cfg::max_tokens + Cfg::m - 1) / Cfg::m;
  static constexpr int slots = Cfg::heads_par * Cfg::n;      // survivors of a group
  static constexpr int score_bits = Cfg::q_bits + Cfg::k_bits + bits_for(head_dim) + 1;
  static constexpr int index_bits = bits_for(Cfg::m - 1);
  static constexpr int sum_bits = Cfg::exp_bits + bits_for(groups * Cfg::n);
  static constexpr int acc_bits = Cfg::prob_bits + Cfg::v_bits + bits_for(groups * Cfg::n) + 1;
  static constexpr int scaled_bits = Cfg::exp_bits + Cfg::recip_bits + 1;
  typedef num<Cfg::q_bits, Cfg::q_signed> q_t;
  typedef operand<Cfg::q_bits, Cfg::q_signed> query_t;
  typedef operand<Cfg::k_bits, Cfg::k_signed> key_t;
  typedef operand<Cfg::v_bits, Cfg::v_signed> value_t;
  typedef operand<score_bits, 1> sum_t;
  typedef operand<acc_bits, 1> acc_t;
  typedef operand<Cfg::prob_bits, 0> prob_t;
  typedef num<Cfg::out_bits, Cfg::out_signed> out_t;
  typedef ap_int<score_bits> score_t;
  typedef ap_uint<Cfg::exp_bits> exp_t;
  typedef ap_uint<index_bits> index_t;
};

/// Survivors of a group of keys, `heads_par * n` slots; a slot that is not valid is empty.
template <class Cfg>
struct attention_scores {
  ap_uint<attention_shape<Cfg>::slots * attention_shape<Cfg>::score_bits> score;
  ap_uint<attention_shape<Cfg>::slots * attention_shape<Cfg>::index_bits> index;
  ap_uint<attention_shape<Cfg>::slots> valid;
  ap_uint<1> end;   // last group of the row
  ap_uint<1> last;  // last group of the frame
  ap_uint<1> user;
};

/// The same survivors with their exponentials; 0 for an empty slot.
template <class Cfg>
struct attention_weights {
  ap_uint<attention_shape<Cfg>::slots * Cfg::exp_bits> exp;
  ap_uint<attention_shape<Cfg>::slots * attention_shape<Cfg>::index_bits> index;
  ap_uint<1> end;
  ap_uint<1> last;
  ap_uint<1> user;
};

/// From one head after the other to wide beats. II 1 per narrow beat.
template <int Heads, int Chunks, int Bits>
void attention_spread(hls::stream<beat<Bits>>& in, hls::stream<beat<Heads * Bits>>& out) {
  ap_uint<Heads * Bits> words[Chunks];
  int head = 0, chunk = 0;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Bits> x = in.read();
    ap_uint<Heads * Bits> word = 0;
    if (head > 0) word = words[chunk];
    set_lane(word, head, x.data);
    words[chunk] = word;
    if (head == Heads - 1) out.write({word, x.last, x.user});
    last = x.last;
    const bool end = chunk == Chunks - 1;
    chunk = end ? 0 : chunk + 1;
    if (end) head = head == Heads - 1 ? 0 : head + 1;
  }
}

/// From wide beats to one head after the other. II 1 per narrow beat.
template <int Heads, int Chunks, int Bits>
void attention_gather(hls::stream<beat<Heads * Bits>>& in, hls::stream<beat<Bits>>& out) {
  ap_uint<Heads * Bits> words[Chunks];
  int head = 0, chunk = 0;
  bool last = false, user = false, done = false;
beats:
  while (!done) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    ap_uint<Heads * Bits> word = 0;
    if (head == 0) {
      const beat<Heads * Bits> x = in.read();
      word = x.data;
      words[chunk] = word;
      last = x.last;
      user = x.user;
    } else {
      word = words[chunk];
    }
    const bool end = chunk == Chunks - 1;
    done = last && end && head == Heads - 1;
    out.write({get_lane<ap_uint<Bits>>(word, head), ap_uint<1>(done), ap_uint<1>(done && user)});
    chunk = end ? 0 : chunk + 1;
    if (end) head = head == Heads - 1 ? 0 : head + 1;
  }
}

/// Store a frame of wide beats, m tokens beside each other, and tell its length.
template <class Cfg, int Bits, int Signed>
void attention_load(
    hls::stream<beat<Cfg::heads_par * Cfg::simd * Bits>>& s_axis,
    operand<Bits, Signed> frame[attention_shape<Cfg>::groups][Cfg::m][attention_shape<Cfg>::blocks * attention_shape<Cfg>::chunks]
           [attention_shape<Cfg>::lanes],
    hls::stream<int>& length) {
  typedef attention_shape<Cfg> shape;
  int group = 0, key = 0, at = 0, tokens = 0;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<shape::lanes * Bits> x = s_axis.read();
  lanes:
    for (int i = 0; i < shape::lanes; i++) {
#pragma HLS UNROLL  // lanes side by side
      frame[group][key][at][i] = get_lane<num<Bits, Signed>>(x.data, i);
    }
    last = x.last;
    at++;
    if (at == shape::blocks * shape::chunks) {
      at = 0;
      tokens++;
      key = key == Cfg::m - 1 ? 0 : key + 1;
      group += key == 0;
    }
  }
  length.write(tokens);
}

/// Scores of every query with m keys per group, the n largest of each group, and the maximum of the row.
template <class Cfg>
void attention_score(
    hls::stream<beat<Cfg::heads_par * Cfg::simd * Cfg::q_bits>>& queries,
    operand<Cfg::k_bits, Cfg::k_signed> keys[attention_shape<Cfg>::groups][Cfg::m]
                                        [attention_shape<Cfg>::blocks * attention_shape<Cfg>::chunks]
                                        [attention_shape<Cfg>::lanes],
    hls::stream<int>& length, hls::stream<attention_scores<Cfg>>& scores,
    hls::stream<ap_uint<Cfg::heads_par * attention_shape<Cfg>::score_bits>>& tops) {
  typedef attention_shape<Cfg> shape;
  const int tokens = length.read();
  const int groups = (tokens + Cfg::m - 1) / Cfg::m;
  typename shape::query_t query[shape::chunks][shape::lanes];
#pragma HLS ARRAY_RESHAPE variable=query complete dim=2  // a wide beat per read
  typename shape::sum_t sum[Cfg::heads_par][Cfg::m];
#pragma HLS ARRAY_PARTITION variable=sum complete dim=0  // registers
  typename shape::sum_t top[Cfg::heads_par];
#pragma HLS ARRAY_PARTITION variable=top complete  // registers
  int block = 0, group = 0, chunk = 0;
  bool last = false, user = false, done = false;
steps:
  while (!done) {
#pragma HLS PIPELINE II=1  // m keys of heads_par heads by simd channels per cycle
    if (group == 0) {
      const beat<shape::lanes * Cfg::q_bits> x = queries.read();
      last = x.last;
      user = x.user;
    receive:
      for (int i = 0; i < shape::lanes; i++) {
#pragma HLS UNROLL  // lanes side by side
        query[chunk][i] = get_lane<typename shape::q_t>(x.data, i);
      }
    }
    const bool group_end = chunk == shape::chunks - 1;
    const bool row_end = group_end && group == groups - 1;
    done = row_end && last;
    attention_scores<Cfg> y = {0, 0, 0, ap_uint<1>(row_end), ap_uint<1>(done), ap_uint<1>(done && user)};
    ap_uint<Cfg::heads_par * shape::score_bits> highest = 0;
  heads:
    for (int h = 0; h < Cfg::heads_par; h++) {
#pragma HLS UNROLL  // heads side by side
    keys:
      for (int j = 0; j < Cfg::m; j++) {
#pragma HLS UNROLL  // keys side by side
        typename shape::sum_t total = sum[h][j];
        if (chunk == 0) total = 0;
      channels:
        for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // channels side by side
          const int lane = h * Cfg::simd + i;
          total += multiply<Cfg::mult_dsp>(query[chunk][lane], keys[group][j][block * shape::chunks + chunk][lane]);
        }
        sum[h][j] = total;
      }
      if (group_end) {
        int slot = 0;
        typename shape::sum_t best = top[h];
      select:
        for (int j = 0; j < Cfg::m; j++) {
#pragma HLS UNROLL  // all comparisons at once
          const bool exists = group * Cfg::m + j < tokens;
          int rank = 0;
        rivals:
          for (int o = 0; o < Cfg::m; o++) {
#pragma HLS UNROLL  // all comparisons at once
            const bool rival = o != j && group * Cfg::m + o < tokens;
            if (rival && (sum[h][o] > sum[h][j] || (o < j && sum[h][o] == sum[h][j]))) rank++;
          }
          if (exists && rank < Cfg::n) {
            const int at = h * Cfg::n + slot;
            set_lane(y.score, at, ap_uint<shape::score_bits>(sum[h][j]));
            set_lane(y.index, at, typename shape::index_t(j));
            y.valid[at] = 1;
            slot++;
          }
          if (exists && ((group == 0 && j == 0) || sum[h][j] > best)) best = sum[h][j];
        }
        top[h] = best;
        set_lane(highest, h, ap_uint<shape::score_bits>(best));
      }
    }
    if (group_end) scores.write(y);
    if (row_end) tops.write(highest);
    chunk = group_end ? 0 : chunk + 1;
    if (group_end) group = row_end ? 0 : group + 1;
    if (row_end) block = block == shape::blocks - 1 ? 0 : block + 1;
  }
}

/// How the table of exponentials is addressed.
template <class Cfg>
struct attention_exp_index {
  static constexpr int offset = Cfg::exp_offset;
  static constexpr int shift = Cfg::exp_shift;
  static constexpr int entries = Cfg::exp_entries;
};

/// Exponentials of a row's survivors relative to its maximum, and their sum.
template <class Cfg>
void attention_exponent(hls::stream<attention_scores<Cfg>>& scores,
                        hls::stream<ap_uint<Cfg::heads_par * attention_shape<Cfg>::score_bits>>& tops,
                        hls::stream<attention_weights<Cfg>>& weights,
                        hls::stream<ap_uint<Cfg::heads_par * attention_shape<Cfg>::sum_bits>>& sums,
                        const rom<Cfg::exp_bits, Cfg::exp_signed> exp[Cfg::exp_entries]) {
#pragma HLS BIND_STORAGE variable=exp type=rom_np impl=lutram  // heads_par * n reads per cycle
  typedef attention_shape<Cfg> shape;
  ap_uint<Cfg::heads_par * shape::score_bits> top = 0;
  ap_uint<shape::sum_bits> sum[Cfg::heads_par];
#pragma HLS ARRAY_PARTITION variable=sum complete  // registers
  bool start = true, last = false;
groups:
  while (!last) {
#pragma HLS PIPELINE II=1  // a group per cycle
    if (start) top = tops.read();
    const attention_scores<Cfg> x = scores.read();
    attention_weights<Cfg> y = {0, x.index, x.end, x.last, x.user};
    ap_uint<Cfg::heads_par * shape::sum_bits> total = 0;
  heads:
    for (int h = 0; h < Cfg::heads_par; h++) {
#pragma HLS UNROLL  // heads side by side
      ap_uint<shape::sum_bits> part = sum[h];
      if (start) part = 0;
    slots:
      for (int k = 0; k < Cfg::n; k++) {
#pragma HLS UNROLL  // survivors side by side
        const int at = h * Cfg::n + k;
        const ap_int<shape::score_bits + 1> distance =
            get_lane<typename shape::score_t>(top, h) - get_lane<typename shape::score_t>(x.score, at);
        typename shape::exp_t e = 0;
        if (x.valid[at]) e = exp[table_index<attention_exp_index<Cfg>>(distance)];
        set_lane(y.exp, at, e);
        part += e;
      }
      sum[h] = part;
      set_lane(total, h, part);
    }
    weights.write(y);
    if (x.end) sums.write(total);
    start = x.end;
    last = x.last;
  }
}

/// Probabilities of a row's survivors, and the sum of their values.
template <class Cfg>
void attention_value(
    hls::stream<attention_weights<Cfg>>& weights,
    hls::stream<ap_uint<Cfg::heads_par * attention_shape<Cfg>::sum_bits>>& sums,
    operand<Cfg::v_bits, Cfg::v_signed> values[attention_shape<Cfg>::groups][Cfg::m]
                                          [attention_shape<Cfg>::blocks * attention_shape<Cfg>::chunks]
                                          [attention_shape<Cfg>::lanes],
    hls::stream<int>& length, hls::stream<beat<Cfg::heads_par * Cfg::simd * Cfg::out_bits>>& m_axis,
    const rom<Cfg::recip_bits, Cfg::recip_signed> recip[1 << Cfg::index_bits]) {
#pragma HLS BIND_STORAGE variable=recip type=rom_np impl=lutram  // heads_par reads per cycle
  typedef attention_shape<Cfg> shape;
  typedef num<Cfg::recip_bits, Cfg::recip_signed> recip_t;
  // a negative prob_shift is taken out of the run-time shift
  constexpr int up = larger(0, -Cfg::prob_shift);
  constexpr int most = larger(0, shape::sum_bits + Cfg::prob_shift + up);

  length.read();  // the values of the frame are stored
  typename shape::prob_t prob[Cfg::heads_par][Cfg::n];
#pragma HLS ARRAY_PARTITION variable=prob complete dim=0  // registers
  ap_uint<shape::index_bits> index[Cfg::heads_par][Cfg::n];
#pragma HLS ARRAY_PARTITION variable=index complete dim=0  // registers
  recip_t factor[Cfg::heads_par];
#pragma HLS ARRAY_PARTITION variable=factor complete  // registers
  int places[Cfg::heads_par];
#pragma HLS ARRAY_PARTITION variable=places complete  // registers
  typename shape::acc_t acc[shape::chunks][shape::lanes];
#pragma HLS ARRAY_RESHAPE variable=acc complete dim=2  // a wide beat per access
  attention_weights<Cfg> w = {0, 0, 0, 0, 0};
  int block = 0, group = 0, chunk = 0;
  bool done = false;
steps:
  while (!done) {
#pragma HLS PIPELINE II=1  // n survivors of heads_par heads by simd channels per cycle
    if (chunk == 0) {
      if (group == 0) {
        const ap_uint<Cfg::heads_par * shape::sum_bits> sum = sums.read();
      reciprocals:
        for (int h = 0; h < Cfg::heads_par; h++) {
#pragma HLS UNROLL  // heads side by side
          const normal r = reciprocal_index<Cfg::index_bits>(get_lane<ap_uint<shape::sum_bits>>(sum, h));
          factor[h] = recip[r.index];
          places[h] = r.position + Cfg::prob_shift + up;
        }
      }
      w = weights.read();
    probabilities:
      for (int h = 0; h < Cfg::heads_par; h++) {
#pragma HLS UNROLL  // heads side by side
      slots:
        for (int k = 0; k < Cfg::n; k++) {
#pragma HLS UNROLL  // survivors side by side
          const int at = h * Cfg::n + k;
          const ap_int<shape::scaled_bits + up> product = get_lane<typename shape::exp_t>(w.exp, at) * factor[h];
          const ap_int<shape::scaled_bits + up> scaled = product << up;
          prob[h][k] = saturate<Cfg::prob_bits, 0>(round_shift<most, Cfg::half_up>(scaled, places[h]));
          index[h][k] = get_lane<typename shape::index_t>(w.index, at);
        }
      }
    }
    beat<shape::lanes * Cfg::out_bits> y = {0, w.last, w.user};
  heads:
    for (int h = 0; h < Cfg::heads_par; h++) {
#pragma HLS UNROLL  // heads side by side
    channels:
      for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // channels side by side
        const int lane = h * Cfg::simd + i;
        typename shape::acc_t total = 0;
        if (group > 0) total = acc[chunk][lane];
      survivors:
        for (int k = 0; k < Cfg::n; k++) {
#pragma HLS UNROLL  // survivors side by side
          const int key = static_cast<int>(index[h][k]);
          total += multiply<Cfg::mult_dsp>(prob[h][k], values[group][key][block * shape::chunks + chunk][lane]);
        }
        acc[chunk][lane] = total;
        if (w.end) {
          const ap_int<shape::acc_bits> result = total;
          set_lane(y.data, lane,
                   saturate<Cfg::out_bits, Cfg::out_signed>(round_shift<Cfg::shift, Cfg::half_up>(result)));
        }
      }
    }
    const bool group_end = chunk == shape::chunks - 1;
    const bool row_end = group_end && w.end;
    y.last = group_end && w.last;
    y.user = group_end && w.user;
    if (w.end) m_axis.write(y);
    done = group_end && w.last;
    chunk = group_end ? 0 : chunk + 1;
    if (group_end) group = row_end ? 0 : group + 1;
    if (row_end) block = block == shape::blocks - 1 ? 0 : block + 1;
  }
}

/// Per head and query, over the keys j of the frame; heads are consecutive channel slices:
///
///     s[j] = sum_d q[d] k[j, d]
///     of every m consecutive keys the n largest survive, ties to the lower index
///     e[j] = exp[clamp((max(s) - s[j] + exp_offset) >> exp_shift, 0, exp_entries - 1)]
///     i, l = reciprocal_index(sum(e), recip_bits)
///     p[j] = saturate(round_shift(e[j] * recip[i], l + prob_shift), prob_type)
///     y[d] = saturate(round_shift(sum_j p[j] v[j, d], shift), out_type)
///
/// with `index_bits` for recip_bits. Keys and values of a frame are kept in ping-pong buffers, queries wait in a FIFO
/// while they fill. Then scores, exponentials and values are three processes a row apart from each other;
/// II 1 per step, `ceil(tokens / m) * (head_dim / simd)` steps per query and block of `heads_par` heads.
/// \tparam Cfg an `attention_config`
template <class Cfg>
void attention(hls::stream<beat<Cfg::simd * Cfg::q_bits>>& s_axis_q,
               hls::stream<beat<Cfg::simd * Cfg::k_bits>>& s_axis_k,
               hls::stream<beat<Cfg::simd * Cfg::v_bits>>& s_axis_v,
               hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
               const rom<Cfg::exp_bits, Cfg::exp_signed> exp[Cfg::exp_entries],
               const rom<Cfg::recip_bits, Cfg::recip_signed> recip[1 << Cfg::index_bits]) {
#pragma HLS DATAFLOW  // frames and rows overlap; the arrays become ping-pong buffers
  typedef attention_shape<Cfg> shape;
  constexpr int heads = Cfg::heads_par;
  constexpr int beats = shape::blocks * shape::chunks;
  [[maybe_unused]] constexpr int row = 2 * shape::groups + 4;
  [[maybe_unused]] constexpr int frame = Cfg::max_tokens * beats;
  typename shape::key_t keys[shape::groups][Cfg::m][beats][shape::lanes];
#pragma HLS ARRAY_PARTITION variable=keys complete dim=2  // m keys per read
#pragma HLS ARRAY_RESHAPE variable=keys complete dim=4    // a wide beat per read
  typename shape::value_t values[shape::groups][Cfg::m][beats][shape::lanes];
#pragma HLS ARRAY_PARTITION variable=values complete dim=2  // n of m values per read
#pragma HLS ARRAY_RESHAPE variable=values complete dim=4    // a wide beat per read
  hls::stream<beat<heads * Cfg::simd * Cfg::q_bits>> wide_q("wide_q");
#pragma HLS STREAM variable=wide_q depth=frame  // queries wait for the last key of the frame
  hls::stream<beat<heads * Cfg::simd * Cfg::k_bits>> wide_k("wide_k");
#pragma HLS STREAM variable=wide_k depth=2  // drained without waiting
  hls::stream<beat<heads * Cfg::simd * Cfg::v_bits>> wide_v("wide_v");
#pragma HLS STREAM variable=wide_v depth=2  // drained without waiting
  hls::stream<beat<heads * Cfg::simd * Cfg::out_bits>> wide_y("wide_y");
#pragma HLS STREAM variable=wide_y depth=beats  // a token is sent while the next one starts
  hls::stream<int> key_tokens("key_tokens");
#pragma HLS STREAM variable=key_tokens depth=2  // frames in flight
  hls::stream<int> value_tokens("value_tokens");
#pragma HLS STREAM variable=value_tokens depth=2  // frames in flight
  hls::stream<attention_scores<Cfg>> scores("scores");
#pragma HLS STREAM variable=scores depth=row  // a row waits for its maximum
  hls::stream<ap_uint<heads * shape::score_bits>> tops("tops");
#pragma HLS STREAM variable=tops depth=4  // rows in flight
  hls::stream<attention_weights<Cfg>> weights("weights");
#pragma HLS STREAM variable=weights depth=row  // a row waits for its sum
  hls::stream<ap_uint<heads * shape::sum_bits>> sums("sums");
#pragma HLS STREAM variable=sums depth=4  // rows in flight
  attention_spread<heads, shape::chunks, Cfg::simd * Cfg::q_bits>(s_axis_q, wide_q);
  attention_spread<heads, shape::chunks, Cfg::simd * Cfg::k_bits>(s_axis_k, wide_k);
  attention_spread<heads, shape::chunks, Cfg::simd * Cfg::v_bits>(s_axis_v, wide_v);
  attention_load<Cfg, Cfg::k_bits, Cfg::k_signed>(wide_k, keys, key_tokens);
  attention_load<Cfg, Cfg::v_bits, Cfg::v_signed>(wide_v, values, value_tokens);
  attention_score<Cfg>(wide_q, keys, key_tokens, scores, tops);
  attention_exponent<Cfg>(scores, tops, weights, sums, exp);
  attention_value<Cfg>(weights, sums, values, value_tokens, wide_y, recip);
  attention_gather<heads, shape::chunks, Cfg::simd * Cfg::out_bits>(wide_y, m_axis);
}

}  // namespace sievit
