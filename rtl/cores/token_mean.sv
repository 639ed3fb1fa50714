// SPDX-License-Identifier: Apache-2.0

/// Every token beside the mean of its frame.
///
///   mean = saturate(round_shift(sum_{t >= 1} x[t] * recip[tokens - 1], Shift))
///
/// Token 0 is the class token and takes no part in the mean; recip[0] = 0.
///
/// Streams: a token of Channels / Simd beats becomes one of twice as many: per group of Channels /
/// Groups channels first the beats of x, then those of the mean. Two frames are buffered: one
/// arrives while the other leaves at one beat per cycle, 2 * tokens * Channels / Simd cycles per
/// frame.
/// Latency: MeanLatency + 6 cycles from the last beat of a frame to its first beat out.
module token_mean #(
    // Longest frame.
    parameter int unsigned MaxTokens = 1,
    parameter int unsigned Channels = 8,
    // Divides Channels.
    parameter int unsigned Groups = 2,
    // Channels per beat; divides Channels / Groups.
    parameter int unsigned Simd = 2,
    parameter int unsigned InBits = 8,
    parameter int unsigned InSigned = 1,
    parameter int unsigned RecipBits = 17,
    parameter int unsigned RecipSigned = 0,
    parameter int Shift = 16,
    // 1: round ties up, 0: to even.
    parameter int unsigned HalfUp = 0,
    // Multipliers in 0: LUTs, 1: DSP blocks.
    parameter int unsigned MultDsp = 0,
    // MaxTokens + 1 entries.
    parameter RecipFile = ""
) (
    input  logic clk_i,
    input  logic rst_ni,

    input  logic [Simd*InBits-1:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,

    output logic [Simd*InBits-1:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned Beats = Channels / Simd;
  localparam int unsigned GroupBeats = Beats / Groups;
  localparam int unsigned BeatBits = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int unsigned SumAddrBits = $clog2(2 * Beats);
  localparam int unsigned FrameBeats = MaxTokens * Beats;
  localparam int unsigned FrameBits = $clog2(2 * FrameBeats);
  localparam int unsigned CountBits = $clog2(MaxTokens + 1);
  localparam int unsigned XBits = InBits + ((InSigned != 0) ? 0 : 1);
  localparam int unsigned SumBits = XBits + $clog2(MaxTokens + 1);
  localparam int unsigned RBits = RecipBits + ((RecipSigned != 0) ? 0 : 1);
  localparam int unsigned ProductBits = SumBits + RBits;
  // Cycles of the booth_mult: four rows of two bits each per cycle.
  localparam int unsigned RowsSum = (SumBits + 1) / 2;
  localparam int unsigned RowsRecip = (RBits + 1) / 2;
  localparam int unsigned Rows =
      (RowsSum * (RBits + 2) < RowsRecip * (SumBits + 2)) ? RowsSum : RowsRecip;
  localparam int unsigned MeanLatency = (Rows + 3) / 4;

  if (Channels % Groups != 0 || (Channels / Groups) % Simd != 0) begin : gen_bad_simd
    $error("token_mean: Groups must divide Channels and Simd must divide a group");
  end
  if (MaxTokens == 0 || ProductBits > 63) begin : gen_bad_range
    $error("token_mean: MaxTokens must be positive and products at most 63 bits");
  end

  logic [RecipBits-1:0] recip_rom [MaxTokens + 1];
  initial begin
    if (RecipFile != "") $readmemh(RecipFile, recip_rom);
  end

  function automatic logic signed [XBits-1:0] x_lane(
    input logic [Simd*InBits-1:0] beat, input int unsigned lane
  );
    x_lane = (InSigned != 0) ? XBits'(signed'(beat[lane*InBits +: InBits]))
                             : XBits'(beat[lane*InBits +: InBits]);
  endfunction

  // ---- Frames come in ------------------------------------------------------------------------
  logic [Simd*InBits-1:0] frame_mem [2 * FrameBeats];
  logic [Simd*SumBits-1:0] sum_mem [2 * Beats];
  logic [1:0] full_q, user_q;
  logic [1:0][CountBits-1:0] count_q;
  logic accept, release_bank;
  logic wr_bank_q, rd_bank_q;
  logic [FrameBits-1:0] wr_addr_q;
  logic [BeatBits-1:0] wr_beat_q;
  logic [CountBits-1:0] wr_token_q;
  logic wr_token_end;
  logic [SumAddrBits-1:0] wr_sum_addr;
  logic [Simd*SumBits-1:0] sum_old, sum_new;

  assign s_axis_tready = !full_q[wr_bank_q];
  assign accept = s_axis_tvalid && s_axis_tready;
  assign wr_token_end = wr_beat_q == BeatBits'(Beats - 1);
  assign wr_sum_addr = SumAddrBits'(wr_beat_q) + (wr_bank_q ? SumAddrBits'(Beats) : '0);
  assign sum_old = sum_mem[wr_sum_addr];

  always_comb begin
    for (int unsigned l = 0; l < Simd; l++) begin
      sum_new[l*SumBits +: SumBits] =
          SumBits'(x_lane(s_axis_tdata, l))
          + ((wr_token_q == CountBits'(1)) ? '0 : sum_old[l*SumBits +: SumBits]);
    end
  end

  always_ff @(posedge clk_i) begin
    if (accept) frame_mem[wr_addr_q] <= s_axis_tdata;
  end

  always_ff @(posedge clk_i) begin
    if (accept && wr_token_q != '0) sum_mem[wr_sum_addr] <= sum_new;
  end

  always_ff @(posedge clk_i) begin
    if (accept && s_axis_tlast) begin
      count_q[wr_bank_q] <= wr_token_q;
      user_q[wr_bank_q] <= s_axis_tuser;
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      wr_bank_q <= 1'b0;
      wr_addr_q <= '0;
      wr_beat_q <= '0;
      wr_token_q <= '0;
      full_q <= '0;
    end else begin
      if (release_bank) full_q[rd_bank_q] <= 1'b0;
      if (accept) begin
        wr_beat_q <= wr_token_end ? '0 : wr_beat_q + 1'b1;
        if (s_axis_tlast) begin
          full_q[wr_bank_q] <= 1'b1;
          wr_bank_q <= !wr_bank_q;
          wr_addr_q <= wr_bank_q ? '0 : FrameBits'(FrameBeats);
          wr_token_q <= '0;
        end else begin
          wr_addr_q <= wr_addr_q + 1'b1;
          if (wr_token_end) wr_token_q <= wr_token_q + 1'b1;
        end
      end
    end
  end

  // ---- Frames go out: walk over tokens, groups, (x, mean), beats -----------------------------
  logic enable, issue;
  logic [FrameBits-1:0] rd_addr_q;
  logic [BeatBits-1:0] rd_base_q, rd_step_q;
  logic [CountBits-1:0] rd_token_q;
  logic rd_mean_q;
  logic step_end, token_end, frame_end;
  logic [SumAddrBits-1:0] rd_sum_addr;

  assign issue = enable && full_q[rd_bank_q];
  assign step_end = rd_step_q == BeatBits'(GroupBeats - 1);
  assign token_end = step_end && rd_mean_q && rd_base_q == BeatBits'(Beats - GroupBeats);
  assign frame_end = token_end && rd_token_q == count_q[rd_bank_q];
  assign release_bank = issue && frame_end;
  assign rd_sum_addr = SumAddrBits'(rd_base_q) + SumAddrBits'(rd_step_q)
                       + (rd_bank_q ? SumAddrBits'(Beats) : '0);

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      rd_bank_q <= 1'b0;
      rd_addr_q <= '0;
      rd_base_q <= '0;
      rd_step_q <= '0;
      rd_token_q <= '0;
      rd_mean_q <= 1'b0;
    end else if (issue) begin
      rd_step_q <= step_end ? '0 : rd_step_q + 1'b1;
      if (step_end) rd_mean_q <= !rd_mean_q;
      if (step_end && rd_mean_q) begin
        rd_base_q <= token_end ? '0 : rd_base_q + BeatBits'(GroupBeats);
      end
      if (token_end) rd_token_q <= frame_end ? '0 : rd_token_q + 1'b1;
      if (!rd_mean_q) rd_addr_q <= rd_addr_q + 1'b1;
      if (frame_end) begin
        rd_bank_q <= !rd_bank_q;
        rd_addr_q <= rd_bank_q ? '0 : FrameBits'(FrameBeats);
      end
    end
  end

  // ---- Mean: multiply, round -----------------------------------------------------------------
  // Stage o: what the frame's memories hold; a: 1 / count; b: the product; r: rounded;
  // c: x or the mean.
  localparam int unsigned Stages = MeanLatency + 4;
  localparam int unsigned RoundBits = (Shift > 0) ? ProductBits - Shift + 1 : ProductBits - Shift;
  logic [Stages-1:0] valid_q, last_q, last_user_q;
  logic [Stages-2:0] mean_q;
  logic [Stages-2:0][Simd*InBits-1:0] x_sr;
  logic [Simd*InBits-1:0] o_x_q, c_y_q;
  logic [CountBits-1:0] o_count_q;
  logic [Simd*SumBits-1:0] o_sum_q, a_sum_q;
  logic [RecipBits-1:0] a_recip_q;
  logic signed [ProductBits-1:0] b_product [Simd];
  logic signed [RoundBits-1:0] r_mean_q [Simd];

  always_ff @(posedge clk_i) begin
    if (!rst_ni) valid_q <= '0;
    else if (enable) valid_q <= {valid_q[Stages-2:0], issue};
  end

  always_ff @(posedge clk_i) begin
    if (enable) o_x_q <= frame_mem[rd_addr_q];
  end

  assign x_sr[0] = o_x_q;

  always_ff @(posedge clk_i) begin
    if (enable) begin
      last_q <= {last_q[Stages-2:0], frame_end};
      last_user_q <= {last_user_q[Stages-2:0], frame_end && user_q[rd_bank_q]};
      mean_q <= {mean_q[Stages-3:0], rd_mean_q};
      o_count_q <= count_q[rd_bank_q];
      o_sum_q <= sum_mem[rd_sum_addr];
      a_sum_q <= o_sum_q;
      a_recip_q <= recip_rom[o_count_q];
      x_sr[Stages-2:1] <= x_sr[Stages-3:0];
      c_y_q <= x_sr[Stages-2];
      for (int unsigned l = 0; l < Simd; l++) begin
        r_mean_q[l] <=
            RoundBits'(num_pkg::round_shift(64'(b_product[l]), Shift, HalfUp != 0));
        if (mean_q[Stages-2]) begin
          c_y_q[l*InBits +: InBits] <= InBits'(num_pkg::saturate(
              64'(r_mean_q[l]), InBits, InSigned != 0));
        end
      end
    end
  end

  for (genvar l = 0; l < Simd; l++) begin : gen_lane
    booth_mult #(
      .ABits(SumBits), .BBits(RBits), .Dsp(MultDsp)
    ) u_mean (
      .clk_i,
      .en_i(enable),
      .a_i(a_sum_q[l*SumBits +: SumBits]),
      .b_i((RecipSigned != 0) ? RBits'(signed'(a_recip_q)) : RBits'(a_recip_q)),
      .c_i('0),
      .p_o(b_product[l])
    );
  end

  skid_buffer #(
      .DataBits(Simd * InBits)
  ) u_skid (
      .clk_i,
      .rst_ni,
      .s_axis_tdata(c_y_q),
      .s_axis_tvalid(valid_q[Stages-1]),
      .s_axis_tready(enable),
      .s_axis_tlast(last_q[Stages-1]),
      .s_axis_tuser(last_user_q[Stages-1]),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );
endmodule
