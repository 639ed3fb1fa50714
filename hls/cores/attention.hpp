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
  static constexpr int tp = 1;
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
  static constexpr int pump = 1;  // clock of DSP blocks: the compiler knows one
  static constexpr int kv_ram = 0;
  static constexpr int index_bits = 6;
  static constexpr int recip_entries = 0;
  static constexpr int near_offset = 0;
  static constexpr int near_shift = 0;
  static constexpr int far_offset = 0;
  static constexpr int far_shift = 0;
  static constexpr int far_prob_shift = 0;
  static constexpr int exp_span = 0;
  static constexpr int near_span = 0;
  static constexpr int far_span = 0;
  static constexpr int sets = 1;
};

/// What layers that share the core may have of their own besides the tables.
struct attention_settings {
  int exp_offset;
  int exp_shift;
  int near_offset;
  int near_shift;
  int far_offset;
  int far_shift;
};

/// Sizes and types that follow from an `attention_config`. A wide beat carries `simd` channels of each of the
/// `heads_par` heads of a block; `tp` tokens times `heads_par` heads are the rows that are computed side by side.
template <class Cfg>
struct attention_shape {
  static constexpr int head_dim = Cfg::channels / Cfg::heads;
  static constexpr int chunks = head_dim / Cfg::simd;        // wide beats per token and block
  static constexpr int blocks = Cfg::heads / Cfg::heads_par;
  static constexpr int lanes = Cfg::heads_par * Cfg::simd;   // channels per wide beat
  static constexpr int groups = (Cfg::max_tokens + Cfg::m - 1) / Cfg::m;
  static constexpr int beats = blocks * chunks;              // wide beats per token
  static constexpr int rows = Cfg::tp * Cfg::heads_par;
  static constexpr int slots = rows * Cfg::n;                // survivors of a group
  static constexpr int score_bits = Cfg::q_bits + Cfg::k_bits + bits_for(head_dim) + 1;
  static constexpr int index_bits = bits_for(Cfg::m - 1);
  static constexpr int token_bits = bits_for(Cfg::tp);
  static constexpr int sum_bits = Cfg::exp_bits + bits_for(groups * Cfg::n);
  static constexpr int acc_bits = Cfg::prob_bits + Cfg::v_bits + bits_for(groups * Cfg::n) + 1;
  static constexpr int scaled_bits = Cfg::exp_bits + Cfg::recip_bits + 1;
  static constexpr int recip_words = Cfg::recip_entries > 0 ? 2 * Cfg::recip_entries : 1 << Cfg::index_bits;
  static constexpr int most_places = Cfg::recip_entries > 0 ? Cfg::far_prob_shift : sum_bits;  // added to prob_shift
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

/// The same wide beat of `tp` tokens, or results of theirs; of the last ones of a frame some may be absent.
template <class Cfg, int Bits>
struct attention_tokens {
  ap_uint<attention_shape<Cfg>::lanes * Bits> data[Cfg::tp];
  ap_uint<attention_shape<Cfg>::token_bits> tokens;  // that are there
  ap_uint<1> last;  // tokens of the frame
  ap_uint<1> user;
};

/// Survivors of a group of keys, `rows * n` slots; a slot that is not valid is empty.
template <class Cfg>
struct attention_scores {
  ap_uint<attention_shape<Cfg>::slots * attention_shape<Cfg>::score_bits> score;
  ap_uint<attention_shape<Cfg>::slots * attention_shape<Cfg>::index_bits> index;
  ap_uint<attention_shape<Cfg>::slots> valid;
  ap_uint<attention_shape<Cfg>::token_bits> tokens;
  ap_uint<1> end;   // last group of the row
  ap_uint<1> last;  // last group of the frame
  ap_uint<1> user;
};

/// The same survivors with their exponentials; 0 for an empty slot.
template <class Cfg>
struct attention_weights {
  ap_uint<attention_shape<Cfg>::slots * Cfg::exp_bits> exp;
  ap_uint<attention_shape<Cfg>::slots * attention_shape<Cfg>::index_bits> index;
  ap_uint<attention_shape<Cfg>::token_bits> tokens;
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

/// From token after token to `tp` tokens side by side. II 1 per wide beat; one set of tokens leaves while the next comes.
template <class Cfg>
void attention_collect(hls::stream<beat<attention_shape<Cfg>::lanes * Cfg::q_bits>>& in,
                       hls::stream<attention_tokens<Cfg, Cfg::q_bits>>& out) {
  typedef attention_shape<Cfg> shape;
  ap_uint<shape::lanes * Cfg::q_bits> words[2][shape::beats][Cfg::tp];
#pragma HLS ARRAY_PARTITION variable=words complete dim=3  // tokens side by side
  int bank = 0, token = 0, at = 0, left = 0, tokens = 0;
  bool last = false, user = false;
beats:
  while (!last || left > 0) {
#pragma HLS PIPELINE II=1  // a wide beat per cycle
    if (left > 0) {
      const bool end = last && left == 1;
      attention_tokens<Cfg, Cfg::q_bits> y = {
          {}, ap_uint<shape::token_bits>(tokens), ap_uint<1>(end), ap_uint<1>(end && user)};
    send:
      for (int t = 0; t < Cfg::tp; t++) {
#pragma HLS UNROLL  // tokens side by side
        y.data[t] = words[1 - bank][shape::beats - left][t];
      }
      out.write(y);
      left--;
    }
    if (!last) {
      const beat<shape::lanes * Cfg::q_bits> x = in.read();
      words[bank][at][token] = x.data;
      last = x.last;
      user = x.user;
      const bool token_end = at == shape::beats - 1;
      const bool set_end = token_end && (token == Cfg::tp - 1 || last);
      at = token_end ? 0 : at + 1;
      if (token_end) token++;
      if (set_end) {
        bank = 1 - bank;
        tokens = token;
        token = 0;
        left = shape::beats;
      }
    }
  }
}

/// Back to token after token. II 1 per wide beat.
template <class Cfg>
void attention_release(hls::stream<attention_tokens<Cfg, Cfg::out_bits>>& in,
                       hls::stream<beat<attention_shape<Cfg>::lanes * Cfg::out_bits>>& out) {
  typedef attention_shape<Cfg> shape;
  ap_uint<shape::lanes * Cfg::out_bits> words[shape::beats][Cfg::tp];
#pragma HLS ARRAY_PARTITION variable=words complete dim=2  // tokens side by side
  attention_tokens<Cfg, Cfg::out_bits> x = {{}, 0, 0, 0};
  int token = 0, at = 0;
  bool done = false;
beats:
  while (!done) {
#pragma HLS PIPELINE II=1  // a wide beat per cycle
    if (token == 0) {
      x = in.read();
    receive:
      for (int t = 0; t < Cfg::tp; t++) {
#pragma HLS UNROLL  // tokens side by side
        words[at][t] = x.data[t];
      }
    }
    const bool token_end = at == shape::beats - 1;
    const bool set_end = token_end && token + 1 == x.tokens;
    done = set_end && x.last;
    out.write({words[at][token], ap_uint<1>(done), ap_uint<1>(done && x.user)});
    at = token_end ? 0 : at + 1;
    if (token_end) token = set_end ? 0 : token + 1;
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
    hls::stream<attention_tokens<Cfg, Cfg::q_bits>>& queries,
    operand<Cfg::k_bits, Cfg::k_signed> keys[attention_shape<Cfg>::groups][Cfg::m]
                                        [attention_shape<Cfg>::blocks * attention_shape<Cfg>::chunks]
                                        [attention_shape<Cfg>::lanes],
    hls::stream<int>& length, hls::stream<attention_scores<Cfg>>& scores,
    hls::stream<ap_uint<attention_shape<Cfg>::rows * attention_shape<Cfg>::score_bits>>& tops) {
  typedef attention_shape<Cfg> shape;
  const int tokens = length.read();
  const int groups = (tokens + Cfg::m - 1) / Cfg::m;
  typename shape::query_t query[shape::chunks][shape::rows * Cfg::simd];
#pragma HLS ARRAY_RESHAPE variable=query complete dim=2  // a wide beat per read
  typename shape::sum_t sum[shape::rows][Cfg::m];
#pragma HLS ARRAY_PARTITION variable=sum complete dim=0  // registers
  typename shape::sum_t top[shape::rows];
#pragma HLS ARRAY_PARTITION variable=top complete  // registers
  ap_uint<shape::token_bits> present = 0;
  int block = 0, group = 0, chunk = 0;
  bool last = false, user = false, done = false;
steps:
  while (!done) {
#pragma HLS PIPELINE II=1  // m keys for all rows by simd channels per cycle
    if (group == 0) {
      const attention_tokens<Cfg, Cfg::q_bits> x = queries.read();
      present = x.tokens;
      last = x.last;
      user = x.user;
    receive:
      for (int i = 0; i < shape::rows * Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
        query[chunk][i] = get_lane<typename shape::q_t>(x.data[i / shape::lanes], i % shape::lanes);
      }
    }
    const bool group_end = chunk == shape::chunks - 1;
    const bool row_end = group_end && group == groups - 1;
    done = row_end && last;
    attention_scores<Cfg> y = {0, 0, 0, present, ap_uint<1>(row_end), ap_uint<1>(done), ap_uint<1>(done && user)};
    ap_uint<shape::rows * shape::score_bits> highest = 0;
  rows:
    for (int r = 0; r < shape::rows; r++) {
#pragma HLS UNROLL  // rows side by side
      const int head = r % Cfg::heads_par * Cfg::simd;
    keys:
      for (int j = 0; j < Cfg::m; j++) {
#pragma HLS UNROLL  // keys side by side
        typename shape::sum_t total = sum[r][j];
        if (chunk == 0) total = 0;
      channels:
        for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // channels side by side
          total += multiply<Cfg::mult_dsp>(query[chunk][r * Cfg::simd + i],
                                           keys[group][j][block * shape::chunks + chunk][head + i]);
        }
        sum[r][j] = total;
      }
      if (group_end) {
        int slot = 0;
        typename shape::sum_t best = top[r];
      select:
        for (int j = 0; j < Cfg::m; j++) {
#pragma HLS UNROLL  // all comparisons at once
          const bool exists = group * Cfg::m + j < tokens;
          int rank = 0;
        rivals:
          for (int o = 0; o < Cfg::m; o++) {
#pragma HLS UNROLL  // all comparisons at once
            const bool rival = o != j && group * Cfg::m + o < tokens;
            if (rival && (sum[r][o] > sum[r][j] || (o < j && sum[r][o] == sum[r][j]))) rank++;
          }
          if (exists && rank < Cfg::n) {
            const int at = r * Cfg::n + slot;
            set_lane(y.score, at, ap_uint<shape::score_bits>(sum[r][j]));
            set_lane(y.index, at, typename shape::index_t(j));
            y.valid[at] = 1;
            slot++;
          }
          if (exists && ((group == 0 && j == 0) || sum[r][j] > best)) best = sum[r][j];
        }
        top[r] = best;
        set_lane(highest, r, ap_uint<shape::score_bits>(best));
      }
    }
    if (group_end) scores.write(y);
    if (row_end) tops.write(highest);
    chunk = group_end ? 0 : chunk + 1;
    if (group_end) group = row_end ? 0 : group + 1;
    if (row_end) block = block == shape::blocks - 1 ? 0 : block + 1;
  }
}

/// `table_index` with an offset, not larger than `Cfg::offset`, and a shift of the frame's own if there are several sets.
template <class Cfg, int Sets, int Bits>
int attention_index(const ap_int<Bits>& x, int offset, int shift) {
#pragma HLS INLINE  // an adder, a shifter and two comparisons
  if constexpr (Sets == 1) {
    return table_index<Cfg>(x);
  } else {
    constexpr int width = larger(Bits, signed_bits_for(Cfg::offset) + 1) + 1;
    const ap_int<width> moved = (x + ap_int<width - 1>(offset)) >> shift;
    if (moved < 0) return 0;
    if (moved > ap_int<signed_bits_for(Cfg::entries)>(Cfg::entries - 1)) return Cfg::entries - 1;
    return static_cast<int>(moved);
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
                        hls::stream<ap_uint<attention_shape<Cfg>::rows * attention_shape<Cfg>::score_bits>>& tops,
                        hls::stream<attention_weights<Cfg>>& weights,
                        hls::stream<ap_uint<attention_shape<Cfg>::rows * attention_shape<Cfg>::sum_bits>>& sums,
                        const rom<Cfg::exp_bits, Cfg::exp_signed> exp[Cfg::exp_entries],
                        const attention_settings own) {
#pragma HLS BIND_STORAGE variable=exp type=rom_np impl=lutram  // rows * n reads per cycle
  typedef attention_shape<Cfg> shape;
  ap_uint<shape::rows * shape::score_bits> top = 0;
  ap_uint<shape::sum_bits> sum[shape::rows];
#pragma HLS ARRAY_PARTITION variable=sum complete  // registers
  bool start = true, last = false;
groups:
  while (!last) {
#pragma HLS PIPELINE II=1  // a group per cycle
    if (start) top = tops.read();
    const attention_scores<Cfg> x = scores.read();
    attention_weights<Cfg> y = {0, x.index, x.tokens, x.end, x.last, x.user};
    ap_uint<shape::rows * shape::sum_bits> total = 0;
  rows:
    for (int r = 0; r < shape::rows; r++) {
#pragma HLS UNROLL  // rows side by side
      ap_uint<shape::sum_bits> part = sum[r];
      if (start) part = 0;
    slots:
      for (int k = 0; k < Cfg::n; k++) {
#pragma HLS UNROLL  // survivors side by side
        const int at = r * Cfg::n + k;
        const ap_int<shape::score_bits + 1> distance =
            get_lane<typename shape::score_t>(top, r) - get_lane<typename shape::score_t>(x.score, at);
        typename shape::exp_t e = 0;
        if (x.valid[at]) {
          e = exp[attention_index<attention_exp_index<Cfg>, Cfg::sets>(distance, own.exp_offset, own.exp_shift)];
        }
        set_lane(y.exp, at, e);
        part += e;
      }
      sum[r] = part;
      set_lane(total, r, part);
    }
    weights.write(y);
    if (x.end) sums.write(total);
    start = x.end;
    last = x.last;
  }
}

/// How the near segment of the reciprocals is addressed; one beyond its end stands for the far one.
template <class Cfg>
struct attention_near_index {
  static constexpr int offset = Cfg::near_offset;
  static constexpr int shift = Cfg::near_shift;
  static constexpr int entries = Cfg::recip_entries + 1;
};

/// How the far segment is addressed.
template <class Cfg>
struct attention_far_index {
  static constexpr int offset = Cfg::far_offset;
  static constexpr int shift = Cfg::far_shift;
  static constexpr int entries = Cfg::recip_entries;
};

/// Index of the reciprocal of a row's sum, and the shift that it asks for.
template <class Cfg>
normal attention_reciprocal(const ap_uint<attention_shape<Cfg>::sum_bits>& sum, const attention_settings& own) {
#pragma HLS INLINE  // adders and comparisons, or a shifter
  if constexpr (Cfg::recip_entries == 0) {
    return reciprocal_index<Cfg::index_bits>(sum);
  } else {
    const ap_int<attention_shape<Cfg>::sum_bits + 1> x = sum;
    const int near = attention_index<attention_near_index<Cfg>, Cfg::sets>(x, own.near_offset, own.near_shift);
    if (near < Cfg::recip_entries) return {near, 0};
    const int far = attention_index<attention_far_index<Cfg>, Cfg::sets>(x, own.far_offset, own.far_shift);
    return {Cfg::recip_entries + far, Cfg::far_prob_shift};
  }
}

/// Probabilities of a row's survivors, and the sum of their values.
template <class Cfg>
void attention_value(
    hls::stream<attention_weights<Cfg>>& weights,
    hls::stream<ap_uint<attention_shape<Cfg>::rows * attention_shape<Cfg>::sum_bits>>& sums,
    operand<Cfg::v_bits, Cfg::v_signed> values[attention_shape<Cfg>::groups][Cfg::m]
                                          [attention_shape<Cfg>::blocks * attention_shape<Cfg>::chunks]
                                          [attention_shape<Cfg>::lanes],
    hls::stream<int>& length, hls::stream<attention_tokens<Cfg, Cfg::out_bits>>& m_axis,
    const rom<Cfg::recip_bits, Cfg::recip_signed> recip[attention_shape<Cfg>::recip_words],
    const attention_settings own) {
#pragma HLS BIND_STORAGE variable=recip type=rom_np impl=lutram  // rows reads per cycle
  typedef attention_shape<Cfg> shape;
  typedef num<Cfg::recip_bits, Cfg::recip_signed> recip_t;
  // a negative prob_shift is taken out of the run-time shift
  constexpr int up = larger(0, -Cfg::prob_shift);
  constexpr int most = larger(0, shape::most_places + Cfg::prob_shift + up);

  length.read();  // the values of the frame are stored
  typename shape::prob_t prob[shape::rows][Cfg::n];
#pragma HLS ARRAY_PARTITION variable=prob complete dim=0  // registers
  ap_uint<shape::index_bits> index[shape::rows][Cfg::n];
#pragma HLS ARRAY_PARTITION variable=index complete dim=0  // registers
  recip_t factor[shape::rows];
#pragma HLS ARRAY_PARTITION variable=factor complete  // registers
  int places[shape::rows];
#pragma HLS ARRAY_PARTITION variable=places complete  // registers
  typename shape::acc_t acc[shape::chunks][shape::rows * Cfg::simd];
#pragma HLS ARRAY_RESHAPE variable=acc complete dim=2  // a wide beat per access
  attention_weights<Cfg> w = {0, 0, 0, 0, 0, 0};
  int block = 0, group = 0, chunk = 0;
  bool done = false;
steps:
  while (!done) {
#pragma HLS PIPELINE II=1  // n survivors of all rows by simd channels per cycle
    if (chunk == 0) {
      if (group == 0) {
        const ap_uint<shape::rows * shape::sum_bits> sum = sums.read();
      reciprocals:
        for (int r = 0; r < shape::rows; r++) {
#pragma HLS UNROLL  // rows side by side
          const normal x = attention_reciprocal<Cfg>(get_lane<ap_uint<shape::sum_bits>>(sum, r), own);
          factor[r] = recip[x.index];
          places[r] = x.position + Cfg::prob_shift + up;
        }
      }
      w = weights.read();
    probabilities:
      for (int r = 0; r < shape::rows; r++) {
#pragma HLS UNROLL  // rows side by side
      slots:
        for (int k = 0; k < Cfg::n; k++) {
#pragma HLS UNROLL  // survivors side by side
          const int at = r * Cfg::n + k;
          const ap_int<shape::scaled_bits + up> product = get_lane<typename shape::exp_t>(w.exp, at) * factor[r];
          const ap_int<shape::scaled_bits + up> scaled = product << up;
          prob[r][k] = saturate<Cfg::prob_bits, 0>(round_shift<most, Cfg::half_up>(scaled, places[r]));
          index[r][k] = get_lane<typename shape::index_t>(w.index, at);
        }
      }
    }
    attention_tokens<Cfg, Cfg::out_bits> y = {{}, w.tokens, w.last, w.user};
  rows:
    for (int r = 0; r < shape::rows; r++) {
#pragma HLS UNROLL  // rows side by side
      const int head = r % Cfg::heads_par * Cfg::simd;
    channels:
      for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // channels side by side
        const int lane = r * Cfg::simd + i;
        typename shape::acc_t total = 0;
        if (group > 0) total = acc[chunk][lane];
      survivors:
        for (int k = 0; k < Cfg::n; k++) {
#pragma HLS UNROLL  // survivors side by side
          const int key = static_cast<int>(index[r][k]);
          total += multiply<Cfg::mult_dsp>(prob[r][k], values[group][key][block * shape::chunks + chunk][head + i]);
        }
        acc[chunk][lane] = total;
        if (w.end) {
          const ap_int<shape::acc_bits> result = total;
          set_lane(y.data[r / Cfg::heads_par], head + i,
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

/// A frame with these tables and settings.
template <class Cfg>
void attention_frame(hls::stream<beat<Cfg::simd * Cfg::q_bits>>& s_axis_q,
                     hls::stream<beat<Cfg::simd * Cfg::k_bits>>& s_axis_k,
                     hls::stream<beat<Cfg::simd * Cfg::v_bits>>& s_axis_v,
                     hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
                     const rom<Cfg::exp_bits, Cfg::exp_signed> exp[Cfg::exp_entries],
                     const rom<Cfg::recip_bits, Cfg::recip_signed> recip[attention_shape<Cfg>::recip_words],
                     const attention_settings own) {
#pragma HLS DATAFLOW  // frames and rows overlap; the arrays become ping-pong buffers
  typedef attention_shape<Cfg> shape;
  constexpr int heads = Cfg::heads_par;
  constexpr int beats = shape::beats;
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
  hls::stream<attention_tokens<Cfg, Cfg::q_bits>> queries("queries");
#pragma HLS STREAM variable=queries depth=2  // drained without waiting
  hls::stream<attention_tokens<Cfg, Cfg::out_bits>> results("results");
#pragma HLS STREAM variable=results depth=beats  // tokens are sent while the next ones start
  hls::stream<beat<heads * Cfg::simd * Cfg::out_bits>> wide_y("wide_y");
#pragma HLS STREAM variable=wide_y depth=beats  // a token is sent while the next one starts
  hls::stream<int> key_tokens("key_tokens");
#pragma HLS STREAM variable=key_tokens depth=2  // frames in flight
  hls::stream<int> value_tokens("value_tokens");
#pragma HLS STREAM variable=value_tokens depth=2  // frames in flight
  hls::stream<attention_scores<Cfg>> scores("scores");
#pragma HLS STREAM variable=scores depth=row  // a row waits for its maximum
  hls::stream<ap_uint<shape::rows * shape::score_bits>> tops("tops");
#pragma HLS STREAM variable=tops depth=4  // rows in flight
  hls::stream<attention_weights<Cfg>> weights("weights");
#pragma HLS STREAM variable=weights depth=row  // a row waits for its sum
  hls::stream<ap_uint<shape::rows * shape::sum_bits>> sums("sums");
#pragma HLS STREAM variable=sums depth=4  // rows in flight
  attention_spread<heads, shape::chunks, Cfg::simd * Cfg::q_bits>(s_axis_q, wide_q);
  attention_spread<heads, shape::chunks, Cfg::simd * Cfg::k_bits>(s_axis_k, wide_k);
  attention_spread<heads, shape::chunks, Cfg::simd * Cfg::v_bits>(s_axis_v, wide_v);
  attention_load<Cfg, Cfg::k_bits, Cfg::k_signed>(wide_k, keys, key_tokens);
  attention_load<Cfg, Cfg::v_bits, Cfg::v_signed>(wide_v, values, value_tokens);
  attention_collect<Cfg>(wide_q, queries);
  attention_score<Cfg>(queries, keys, key_tokens, scores, tops);
  attention_exponent<Cfg>(scores, tops, weights, sums, exp, own);
  attention_value<Cfg>(weights, sums, values, value_tokens, results, recip, own);
  attention_release<Cfg>(results, wide_y);
  attention_gather<heads, shape::chunks, Cfg::simd * Cfg::out_bits>(wide_y, m_axis);
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
/// with `index_bits` for recip_bits; or, with `recip_entries`, by two segments of a table addressed linearly:
///
///     c = (sum(e) + near_offset) >> near_shift
///     c < recip_entries:  i = max(c, 0), l = 0
///     otherwise:  i = recip_entries + clamp((sum(e) + far_offset) >> far_shift, 0, recip_entries - 1),
///                 l = far_prob_shift
///
/// Keys and values of a frame are kept in ping-pong buffers, queries wait in a FIFO
/// while they fill. Then scores, exponentials and values are three processes a row apart from each other;
/// II 1 per step, `ceil(tokens / m) * (head_dim / simd)` steps per `tp` queries and block of `heads_par` heads.
/// \tparam Cfg an `attention_config`
template <class Cfg>
void attention(hls::stream<beat<Cfg::simd * Cfg::q_bits>>& s_axis_q,
               hls::stream<beat<Cfg::simd * Cfg::k_bits>>& s_axis_k,
               hls::stream<beat<Cfg::simd * Cfg::v_bits>>& s_axis_v,
               hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
               const rom<Cfg::exp_bits, Cfg::exp_signed> exp[Cfg::exp_entries],
               const rom<Cfg::recip_bits, Cfg::recip_signed> recip[attention_shape<Cfg>::recip_words]) {
#pragma HLS INLINE  // the processes of a frame
  attention_frame<Cfg>(s_axis_q, s_axis_k, s_axis_v, m_axis, exp, recip,
                       {Cfg::exp_offset, Cfg::exp_shift, Cfg::near_offset, Cfg::near_shift, Cfg::far_offset,
                        Cfg::far_shift});
}

/// The same with `Cfg::sets` sets of tables and settings; `s_axis_set` has a beat per frame, the number of its set.
template <class Cfg>
void attention(hls::stream<beat<Cfg::simd * Cfg::q_bits>>& s_axis_q,
               hls::stream<beat<Cfg::simd * Cfg::k_bits>>& s_axis_k,
               hls::stream<beat<Cfg::simd * Cfg::v_bits>>& s_axis_v,
               hls::stream<beat<bits_for(Cfg::sets - 1)>>& s_axis_set,
               hls::stream<beat<Cfg::simd * Cfg::out_bits>>& m_axis,
               const rom<Cfg::exp_bits, Cfg::exp_signed> exp[Cfg::sets][Cfg::exp_entries],
               const rom<Cfg::recip_bits, Cfg::recip_signed> recip[Cfg::sets][attention_shape<Cfg>::recip_words],
               const rom<31, 0> exp_offset[Cfg::sets], const rom<5, 0> exp_shift[Cfg::sets],
               const rom<32, 1> near_offset[Cfg::sets], const rom<5, 0> near_shift[Cfg::sets],
               const rom<32, 1> far_offset[Cfg::sets], const rom<5, 0> far_shift[Cfg::sets]) {
  const int set = static_cast<int>(s_axis_set.read().data);
  attention_frame<Cfg>(s_axis_q, s_axis_k, s_axis_v, m_axis, exp[set], recip[set],
                       {static_cast<int>(exp_offset[set]), static_cast<int>(exp_shift[set]),
                        static_cast<int>(near_offset[set]), static_cast<int>(near_shift[set]),
                        static_cast<int>(far_offset[set]), static_cast<int>(far_shift[set])});
}

}  // namespace sievit
