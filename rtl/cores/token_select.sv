// SPDX-License-Identifier: Apache-2.0

/// Keeps the class token and every token whose score is not negative; the others and the incoming
/// package token, the participants, become one package token.
///
///   w        = weight[clamp((score + Offset) >> Shift, 0, Entries - 1)]
///   num, den = sum(w * x), sum(w)       over the participants; if den = 0: sum(x), their count
///   i, l     = reciprocal index of den: the bits below its leading one, that one's position
///   package  = saturate(round_shift(num * recip[i], l + RecipShift))
///
/// Streams: x in Channels / Simd beats per token, one score per token; the frame's package token,
/// if tuser marks one, is its last token. Kept tokens leave in order at one beat per cycle, the
/// package token last, with tuser. No frame is buffered, only the beats of one token until its
/// score and tuser are known.
/// Latency: Channels / Simd + 8 cycles. A package token takes Channels / Simd + 2 cycles.
module token_select #(
    // Longest frame.
    parameter int unsigned MaxTokens = 1,
    parameter int unsigned Channels = 4,
    // Channels per beat; divides Channels.
    parameter int unsigned Simd = 2,
    parameter int unsigned XBits = 12,
    parameter int unsigned XSigned = 1,
    parameter int unsigned ScoreBits = 18,
    parameter int unsigned ScoreSigned = 1,
    parameter int unsigned WeightBits = 8,
    parameter int unsigned WeightSigned = 0,
    parameter int Offset = 65536,
    parameter int unsigned Shift = 10,
    parameter int unsigned Entries = 128,
    // Bits below the leading one that address the reciprocal table.
    parameter int unsigned IndexBits = 6,
    parameter int unsigned RecipBits = 11,
    parameter int unsigned RecipSigned = 0,
    // Fraction bits of the reciprocal table.
    parameter int RecipShift = 10,
    // 1: round ties up, 0: to even.
    parameter int unsigned HalfUp = 0,
    // Entries words.
    parameter WeightFile = "",
    // 2^IndexBits words.
    parameter RecipFile = ""
) (
    input  logic clk_i,
    input  logic rst_ni,

    input  logic [Simd*XBits-1:0] s_axis_x_tdata,
    input  logic s_axis_x_tvalid,
    output logic s_axis_x_tready,
    input  logic s_axis_x_tlast,
    input  logic s_axis_x_tuser,

    input  logic [ScoreBits-1:0] s_axis_score_tdata,
    input  logic s_axis_score_tvalid,
    output logic s_axis_score_tready,
    input  logic s_axis_score_tlast,
    input  logic s_axis_score_tuser,

    output logic [Simd*XBits-1:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned Beats = Channels / Simd;
  localparam int unsigned BeatBits = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int unsigned TableBits = $clog2(Entries);
  localparam int unsigned SignedX = XBits + ((XSigned != 0) ? 0 : 1);
  localparam int unsigned CountBits = $clog2(MaxTokens + 1);
  localparam int unsigned ProductBits = SignedX + WeightBits;
  localparam int unsigned NumBits = ProductBits + CountBits;
  localparam int unsigned SumBits = SignedX + CountBits;
  localparam int unsigned DenBits = WeightBits + CountBits;
  localparam int unsigned DenMax = DenBits - 1;
  localparam int unsigned PosBits = $clog2(DenBits + 1);
  localparam int unsigned NormalBits = (DenBits > IndexBits + 1) ? DenBits : IndexBits + 1;
  localparam int unsigned ScaledBits = NumBits + RecipBits + 1;
  localparam int unsigned AlignedBits = ScaledBits + DenMax;

  // A beat waits until its token is complete and judged: Beats + 4 cycles.
  localparam int unsigned FifoBits = $clog2(Beats + 8);
  localparam int unsigned FifoDepth = 1 << FifoBits;
  // Complete tokens that the FIFO can hold.
  localparam int unsigned TokenBits = $clog2(FifoDepth / Beats + 2);
  localparam int unsigned TokenDepth = 1 << TokenBits;

  if (Channels % Simd != 0 || Entries < 2) begin : gen_bad_shape
    $error("token_select: Simd must divide Channels; a table has at least 2 entries");
  end
  if (MaxTokens == 0) begin : gen_bad_tokens
    $error("token_select: MaxTokens must be positive");
  end
  if (ScoreSigned == 0 || WeightSigned != 0 || RecipSigned != 0) begin : gen_bad_sign
    $error("token_select: the score must be signed, the tables unsigned");
  end
  if (AlignedBits > 63) begin : gen_bad_width
    $error("token_select: num * recip needs more than 63 bits");
  end

  logic [WeightBits-1:0] weight_rom [Entries];
  logic [RecipBits-1:0] recip_rom [1 << IndexBits];
  initial begin
    if (WeightFile != "") $readmemh(WeightFile, weight_rom);
    if (RecipFile != "") $readmemh(RecipFile, recip_rom);
  end

  function automatic logic signed [SignedX-1:0] x_lane(
    input logic [Simd*XBits-1:0] beat, input int unsigned lane
  );
    x_lane = (XSigned != 0) ? SignedX'(signed'(beat[lane*XBits +: XBits]))
                            : SignedX'(beat[lane*XBits +: XBits]);
  endfunction

  // The score's frames are those of x.
  logic unused;
  assign unused = ^{s_axis_score_tlast, s_axis_score_tuser};

  // ---- Beats wait for their token's score and tuser ------------------------------------------
  logic accept, accept_end, pop;
  logic [BeatBits-1:0] in_beat_q;
  logic [FifoBits:0] fifo_wr_q, fifo_rd_q;
  logic [Simd*XBits-1:0] fifo_mem [FifoDepth];
  logic [Simd*XBits-1:0] x;

  assign s_axis_x_tready = (fifo_wr_q ^ fifo_rd_q) != (FifoBits + 1)'(FifoDepth);
  assign accept = s_axis_x_tvalid && s_axis_x_tready;
  assign accept_end = accept && in_beat_q == BeatBits'(Beats - 1);
  assign x = fifo_mem[fifo_rd_q[FifoBits-1:0]];

  always_ff @(posedge clk_i) begin
    if (accept) fifo_mem[fifo_wr_q[FifoBits-1:0]] <= s_axis_x_tdata;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      in_beat_q <= '0;
      fifo_wr_q <= '0;
      fifo_rd_q <= '0;
    end else begin
      if (accept) begin
        in_beat_q <= accept_end ? '0 : in_beat_q + 1'b1;
        fifo_wr_q <= fifo_wr_q + 1'b1;
      end
      if (pop) fifo_rd_q <= fifo_rd_q + 1'b1;
    end
  end

  // ---- Complete tokens meet their scores -----------------------------------------------------
  // Three pointers into one ring: tokens complete, scores taken, tokens judged and consumed.
  logic [TokenBits:0] info_wr_q, info_rd_q, judge_wr_q, judge_rd_q;
  logic [1:0] info_mem [TokenDepth];
  logic [WeightBits+1:0] judge_mem [TokenDepth];
  logic judge, judge_pop, judge_valid;
  logic info_last, info_package, token_zero_q;
  logic signed [63:0] table_index;
  logic a_valid_q, a_last_q, a_keep_q, b_valid_q, b_last_q, b_keep_q;
  logic [TableBits-1:0] a_index_q;
  logic [WeightBits-1:0] b_weight_q, weight;
  logic keep, last_token;

  assign {info_last, info_package} = info_mem[info_rd_q[TokenBits-1:0]];
  assign s_axis_score_tready = info_wr_q != info_rd_q;
  assign judge = s_axis_score_tvalid && s_axis_score_tready;
  assign judge_valid = judge_wr_q != judge_rd_q;
  assign {last_token, keep, weight} = judge_mem[judge_rd_q[TokenBits-1:0]];
  assign table_index = (64'(signed'(s_axis_score_tdata)) + 64'(Offset)) >>> Shift;

  always_ff @(posedge clk_i) begin
    if (accept_end) begin
      info_mem[info_wr_q[TokenBits-1:0]] <= {s_axis_x_tlast, s_axis_x_tlast && s_axis_x_tuser};
    end
  end

  always_ff @(posedge clk_i) begin
    if (b_valid_q) judge_mem[judge_wr_q[TokenBits-1:0]] <= {b_last_q, b_keep_q, b_weight_q};
  end

  always_ff @(posedge clk_i) begin
    a_last_q <= info_last;
    a_keep_q <= !info_package && (token_zero_q || !s_axis_score_tdata[ScoreBits-1]);
    if (table_index < 64'sd0) a_index_q <= '0;
    else if (table_index > 64'(Entries - 1)) a_index_q <= TableBits'(Entries - 1);
    else a_index_q <= TableBits'(table_index);
    b_last_q <= a_last_q;
    b_keep_q <= a_keep_q;
    b_weight_q <= weight_rom[a_index_q];
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      info_wr_q <= '0;
      info_rd_q <= '0;
      judge_wr_q <= '0;
      judge_rd_q <= '0;
      token_zero_q <= 1'b1;
      a_valid_q <= 1'b0;
      b_valid_q <= 1'b0;
    end else begin
      if (accept_end) info_wr_q <= info_wr_q + 1'b1;
      if (judge) begin
        info_rd_q <= info_rd_q + 1'b1;
        token_zero_q <= info_last;
      end
      a_valid_q <= judge;
      b_valid_q <= a_valid_q;
      if (b_valid_q) judge_wr_q <= judge_wr_q + 1'b1;
      if (judge_pop) judge_rd_q <= judge_rd_q + 1'b1;
    end
  end

  // ---- Tokens pass or accumulate; then the package leaves ------------------------------------
  // From here on everything advances with `enable`.
  typedef enum logic [1:0] {StPass, StSum, StIndex, StEmit} state_e;
  state_e state_q;
  logic enable, pass, emit, beat_end;
  logic [BeatBits-1:0] beat_q;
  logic any_q;
  logic [CountBits-1:0] count_q;
  logic [DenBits-1:0] den_q, den;

  assign pass = enable && state_q == StPass && judge_valid;
  assign emit = enable && state_q == StEmit;
  assign beat_end = beat_q == BeatBits'(Beats - 1);
  assign pop = pass;
  assign judge_pop = pass && beat_end;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= StPass;
      beat_q <= '0;
      any_q <= 1'b0;
    end else if (enable) begin
      if (pass || emit) beat_q <= beat_end ? '0 : beat_q + 1'b1;
      unique case (state_q)
        StPass: begin
          if (judge_pop) begin
            if (!keep) any_q <= 1'b1;
            if (last_token && (any_q || !keep)) state_q <= StSum;
          end
        end
        StSum: state_q <= StIndex;
        StIndex: state_q <= StEmit;
        default: begin
          if (beat_end) begin
            state_q <= StPass;
            any_q <= 1'b0;
          end
        end
      endcase
    end
  end

  always_ff @(posedge clk_i) begin
    if (judge_pop && !keep) begin
      den_q <= DenBits'(weight) + (any_q ? den_q : '0);
      count_q <= (any_q ? count_q : '0) + 1'b1;
    end
  end

  // ---- Accumulators, one word per beat -------------------------------------------------------
  logic d_valid_q, d_any_q, e_valid_q, e_any_q;
  logic [BeatBits-1:0] d_beat_q, e_beat_q;
  logic [Simd*XBits-1:0] d_x_q, e_x_q;
  logic [WeightBits-1:0] d_weight_q;
  logic signed [ProductBits-1:0] e_product_q [Simd];
  logic [Simd*NumBits-1:0] num_mem [Beats];
  logic [Simd*SumBits-1:0] sum_mem [Beats];
  logic [Simd*NumBits-1:0] num_new, num_beat;
  logic [Simd*SumBits-1:0] sum_new, sum_beat;

  always_comb begin
    num_new = num_mem[e_beat_q];
    sum_new = sum_mem[e_beat_q];
    for (int unsigned l = 0; l < Simd; l++) begin
      num_new[l*NumBits +: NumBits] =
          NumBits'(e_product_q[l]) + (e_any_q ? num_new[l*NumBits +: NumBits] : '0);
      sum_new[l*SumBits +: SumBits] =
          SumBits'(x_lane(e_x_q, l)) + (e_any_q ? sum_new[l*SumBits +: SumBits] : '0);
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      d_valid_q <= 1'b0;
      e_valid_q <= 1'b0;
    end else if (enable) begin
      d_valid_q <= pass && !keep;
      e_valid_q <= d_valid_q;
    end
  end

  always_ff @(posedge clk_i) begin
    if (enable) begin
      d_any_q <= any_q;
      d_beat_q <= beat_q;
      d_x_q <= x;
      d_weight_q <= weight;
      e_any_q <= d_any_q;
      e_beat_q <= d_beat_q;
      e_x_q <= d_x_q;
      for (int unsigned l = 0; l < Simd; l++) begin
        e_product_q[l] <= ProductBits'(x_lane(d_x_q, l)) * ProductBits'(d_weight_q);
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (enable && e_valid_q) begin
      num_mem[e_beat_q] <= num_new;
      sum_mem[e_beat_q] <= sum_new;
    end
  end

  // ---- Reciprocal of the denominator ---------------------------------------------------------
  logic [PosBits-1:0] pos, pos_q;
  logic [NormalBits-1:0] normal;
  logic [DenBits-1:0] den_sum_q;
  logic [IndexBits-1:0] index_q;
  logic [RecipBits-1:0] recip_q;

  assign den = (den_q == '0) ? DenBits'(count_q) : den_q;
  assign normal = NormalBits'(den_sum_q) << (PosBits'(DenMax) - pos_q);

  always_comb begin
    pos = '0;
    for (int unsigned b = 0; b < DenBits; b++) begin
      if (den[b]) pos = PosBits'(b);
    end
  end

  always_ff @(posedge clk_i) begin
    if (enable && state_q == StSum) begin
      pos_q <= pos;
      den_sum_q <= den;
    end
    if (enable && state_q == StIndex) begin
      index_q <= IndexBits'((DenMax >= IndexBits) ? normal >> (DenMax - IndexBits)
                                                  : normal << (IndexBits - DenMax));
    end
    if (enable) recip_q <= recip_rom[index_q];
  end

  // ---- Output: kept beats and package beats share one pipeline -------------------------------
  logic [3:0] valid_q, last_q, user_q;
  logic [2:0] package_q;
  logic [Simd*XBits-1:0] p_x_q, q_x_q, r_x_q, s_y_q;
  logic signed [NumBits-1:0] p_num_q [Simd];
  logic signed [ScaledBits-1:0] q_scaled_q [Simd];
  logic signed [AlignedBits-1:0] r_aligned_q [Simd];

  assign num_beat = num_mem[beat_q];
  assign sum_beat = sum_mem[beat_q];

  always_ff @(posedge clk_i) begin
    if (!rst_ni) valid_q <= '0;
    else if (enable) valid_q <= {valid_q[2:0], emit || (pass && keep)};
  end

  always_ff @(posedge clk_i) begin
    if (enable) begin
      last_q <= {last_q[2:0], beat_end && (emit || (last_token && !any_q))};
      user_q <= {user_q[2:0], beat_end && emit};
      package_q <= {package_q[1:0], emit};
      p_x_q <= x;
      q_x_q <= p_x_q;
      r_x_q <= q_x_q;
      s_y_q <= r_x_q;
      for (int unsigned l = 0; l < Simd; l++) begin
        p_num_q[l] <= (den_q == '0) ? NumBits'(signed'(sum_beat[l*SumBits +: SumBits]))
                                    : signed'(num_beat[l*NumBits +: NumBits]);
        q_scaled_q[l] <= ScaledBits'(p_num_q[l]) * ScaledBits'(signed'({1'b0, recip_q}));
        // A left shift by DenMax - l, so that the rounding shift is a constant.
        r_aligned_q[l] <= AlignedBits'(q_scaled_q[l]) << (PosBits'(DenMax) - pos_q);
        if (package_q[2]) begin
          s_y_q[l*XBits +: XBits] <= XBits'(num_pkg::saturate(
              num_pkg::round_shift(64'(r_aligned_q[l]), int'(DenMax) + RecipShift, HalfUp != 0),
              XBits, XSigned != 0));
        end
      end
    end
  end

  skid_buffer #(
      .DataBits(Simd * XBits)
  ) u_skid (
      .clk_i,
      .rst_ni,
      .s_axis_tdata(s_y_q),
      .s_axis_tvalid(valid_q[3]),
      .s_axis_tready(enable),
      .s_axis_tlast(last_q[3]),
      .s_axis_tuser(user_q[3]),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );
endmodule
