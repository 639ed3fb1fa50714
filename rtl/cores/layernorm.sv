// SPDX-License-Identifier: Apache-2.0

/// Integer layer normalisation of every token; C = Channels.
///
///   mean = round_shift(sum(x) * MeanMult, MeanShift)
///   v    = max(sum((x - mean)^2), 1) = max(sum(x^2) - 2 * mean * sum(x) + C * mean^2, 1)
///   z    = round_shift((x - mean) * rsqrt[i], e + NormShift)      with v / 4^e in [1, 4)
///   y    = saturate(round_shift(z * scale[c] + bias[c], Shift))
///
/// The two forms of v are the same integer, so one pass over a token yields both sums.
///
/// Streams: one token is Channels / Simd beats in and as many beats out; tuser and tlast follow
/// their token. A first pass adds up the sums while the beats wait in a FIFO; a second pass
/// normalises them. Both run at one beat per cycle, on consecutive tokens.
/// Latency: Channels / Simd + 17 cycles.
module layernorm #(
    // Longest frame; the core itself has no bound.
    parameter int unsigned MaxTokens = 1,
    parameter int unsigned Channels = 8,
    // Channels per beat; divides Channels.
    parameter int unsigned Simd = 2,
    parameter int unsigned InBits = 12,
    parameter int unsigned InSigned = 1,
    parameter int unsigned OutBits = 8,
    parameter int unsigned OutSigned = 1,
    // About 2^MeanShift / Channels.
    parameter int unsigned MeanMult = 8192,
    parameter int unsigned MeanShift = 16,
    // Bits below the leading one that address the table.
    parameter int unsigned IndexBits = 5,
    parameter int unsigned RsqrtBits = 13,
    parameter int unsigned RsqrtSigned = 0,
    parameter int unsigned NormShift = 2,
    parameter int unsigned ScaleBits = 8,
    parameter int unsigned ScaleSigned = 1,
    parameter int unsigned BiasBits = 16,
    parameter int unsigned BiasSigned = 1,
    parameter int Shift = 10,
    // 1: round ties up, 0: to even.
    parameter int unsigned HalfUp = 0,
    // 4 * 2^IndexBits entries.
    parameter RsqrtFile = "",
    // Channels / Simd words of Simd values each.
    parameter ScaleFile = "",
    parameter BiasFile = ""
) (
    input  logic clk_i,
    input  logic rst_ni,

    input  logic [Simd*InBits-1:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,

    output logic [Simd*OutBits-1:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned Beats = Channels / Simd;
  localparam int unsigned BeatBits = (Beats > 1) ? $clog2(Beats) : 1;
  // Signed widths: a bit more for unsigned inputs.
  localparam int unsigned XBits = InBits + ((InSigned != 0) ? 0 : 1);
  localparam int unsigned SumBits = XBits + $clog2(Channels);
  localparam int unsigned SquareBits = 2 * XBits - 1;
  localparam int unsigned MultBits = $clog2(MeanMult + 1) + 1;
  localparam int unsigned MeanBits = XBits + 2;
  localparam int unsigned DiffBits = InBits + 1;
  // v <= C * 4^InBits; its terms are taken modulo 2^VBits.
  localparam int unsigned VBits = 2 * InBits + $clog2(Channels) + 1;
  localparam int unsigned ExpMax = (VBits - 1) / 2;
  localparam int unsigned ExpBits = $clog2(ExpMax + 1);
  localparam int unsigned FracBits = 2 * ExpMax;
  localparam int unsigned NormalBits = ((FracBits > IndexBits) ? FracBits : IndexBits) + 2;
  localparam int unsigned RBits = RsqrtBits + ((RsqrtSigned != 0) ? 0 : 1);
  localparam int unsigned NormBits = RsqrtBits - NormShift + 2;
  localparam int unsigned NormProductBits = DiffBits + RBits;
  localparam int unsigned AlignedBits = NormProductBits + ExpMax;
  localparam int unsigned SBits = ScaleBits + ((ScaleSigned != 0) ? 0 : 1);
  localparam int unsigned BBits = BiasBits + ((BiasSigned != 0) ? 0 : 1);
  localparam int unsigned ScaledBits = NormBits + SBits;
  localparam int unsigned AffineBits = ((ScaledBits > BBits) ? ScaledBits : BBits) + 1;

  // A beat waits until the sums of its token are known: Beats + 12 cycles.
  localparam int unsigned FifoBits = $clog2(Beats + 16);
  localparam int unsigned FifoDepth = 1 << FifoBits;
  localparam int unsigned StatBits = $clog2(FifoDepth / Beats + 2);
  localparam int unsigned StatDepth = 1 << StatBits;

  if (Channels % Simd != 0) begin : gen_bad_simd
    $error("layernorm: Simd must divide Channels");
  end
  if (AlignedBits > 63 || AffineBits > 63 || SumBits + MultBits > 63) begin : gen_bad_width
    $error("layernorm: an intermediate value needs more than 63 bits");
  end
  if (MaxTokens == 0 || RsqrtSigned != 0) begin : gen_bad_range
    $error("layernorm: MaxTokens must be positive and the 1/sqrt table unsigned");
  end

  logic [RsqrtBits-1:0] rsqrt_rom [4 << IndexBits];
  logic [Simd*ScaleBits-1:0] scale_rom [Beats];
  logic [Simd*BiasBits-1:0] bias_rom [Beats];
  initial begin
    if (RsqrtFile != "") $readmemh(RsqrtFile, rsqrt_rom);
    if (ScaleFile != "") $readmemh(ScaleFile, scale_rom);
    if (BiasFile != "") $readmemh(BiasFile, bias_rom);
  end

  // Sign or zero extension of lane `lane` of a packed beat.
  function automatic logic signed [XBits-1:0] x_lane(
    input logic [Simd*InBits-1:0] beat, input int unsigned lane
  );
    x_lane = (InSigned != 0) ? XBits'(signed'(beat[lane*InBits +: InBits]))
                             : XBits'(beat[lane*InBits +: InBits]);
  endfunction

  // ---- FIFO of the beats ---------------------------------------------------------------------
  logic accept, pop;
  logic [FifoBits:0] fifo_wr_q, fifo_rd_q;
  logic [Simd*InBits+1:0] fifo_mem [FifoDepth];
  logic [Simd*InBits+1:0] fifo_head;

  assign s_axis_tready = (fifo_wr_q ^ fifo_rd_q) != (FifoBits + 1)'(FifoDepth);
  assign accept = s_axis_tvalid && s_axis_tready;
  assign fifo_head = fifo_mem[fifo_rd_q[FifoBits-1:0]];

  always_ff @(posedge clk_i) begin
    if (accept) begin
      fifo_mem[fifo_wr_q[FifoBits-1:0]] <=
          {s_axis_tuser && s_axis_tlast, s_axis_tlast, s_axis_tdata};
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      fifo_wr_q <= '0;
      fifo_rd_q <= '0;
    end else begin
      if (accept) fifo_wr_q <= fifo_wr_q + 1'b1;
      if (pop) fifo_rd_q <= fifo_rd_q + 1'b1;
    end
  end

  // ---- First pass: sum and sum of squares ----------------------------------------------------
  // The stages carry names a, b, ...; none of them ever stalls.
  logic [BeatBits-1:0] in_beat_q;
  logic in_first, in_last;
  logic a_valid_q, b_valid_q, c_valid_q, d_valid_q, e_valid_q, f_valid_q;
  logic g_valid_q, h_valid_q, i_valid_q, j_valid_q, k_valid_q;
  logic a_first_q, a_last_q, b_first_q, b_last_q, c_first_q, c_last_q;
  logic [Simd*InBits-1:0] a_data_q;
  logic signed [SumBits-1:0] a_tree [Simd];
  logic [VBits-1:0] b_tree [Simd];
  logic [SquareBits-1:0] b_square_q [Simd];
  logic signed [SumBits-1:0] b_sum_q, c_sum_q, d_sum_q, e_sum_q, f_sum_q;
  logic [VBits-1:0] c_square_q, d_square_q, e_square_q, f_square_q, g_square_q;
  logic signed [SumBits+MultBits-1:0] e_mean_q;
  logic signed [MeanBits-1:0] f_mean_q, g_mean_q, h_mean_q, i_mean_q, j_mean_q, k_mean_q;
  logic [VBits-1:0] g_cross_q, g_mean_square_q, h_v, h_v_q, i_v_q;
  logic [ExpBits-1:0] i_exp, i_exp_q, j_exp_q, k_exp_q;
  logic [NormalBits-1:0] j_normal;
  logic [IndexBits+1:0] j_index_q;
  logic [RsqrtBits-1:0] k_rsqrt_q;

  assign in_first = in_beat_q == '0;
  assign in_last = in_beat_q == BeatBits'(Beats - 1);

  always_comb begin
    for (int unsigned l = 0; l < Simd; l++) begin
      a_tree[l] = SumBits'(x_lane(a_data_q, l));
      b_tree[l] = VBits'(b_square_q[l]);
    end
    for (int unsigned s = 1; s < Simd; s = 2 * s) begin
      for (int unsigned l = 0; l + s < Simd; l = l + 2 * s) begin
        a_tree[l] = a_tree[l] + a_tree[l+s];
        b_tree[l] = b_tree[l] + b_tree[l+s];
      end
    end
  end

  assign h_v = g_square_q - (g_cross_q << 1) + VBits'(g_mean_square_q * VBits'(Channels));

  always_comb begin
    i_exp = '0;
    for (int unsigned b = 0; b < VBits; b++) begin
      if (h_v_q[b]) i_exp = ExpBits'(b / 2);
    end
  end

  assign j_normal = NormalBits'(i_v_q) << {ExpBits'(ExpMax) - i_exp_q, 1'b0};

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      in_beat_q <= '0;
      {a_valid_q, b_valid_q, c_valid_q, d_valid_q, e_valid_q, f_valid_q} <= '0;
      {g_valid_q, h_valid_q, i_valid_q, j_valid_q, k_valid_q} <= '0;
    end else begin
      if (accept) in_beat_q <= in_last ? '0 : in_beat_q + 1'b1;
      a_valid_q <= accept;
      b_valid_q <= a_valid_q;
      c_valid_q <= b_valid_q;
      d_valid_q <= c_valid_q && c_last_q;
      e_valid_q <= d_valid_q;
      f_valid_q <= e_valid_q;
      g_valid_q <= f_valid_q;
      h_valid_q <= g_valid_q;
      i_valid_q <= h_valid_q;
      j_valid_q <= i_valid_q;
      k_valid_q <= j_valid_q;
    end
  end

  always_ff @(posedge clk_i) begin
    a_data_q <= s_axis_tdata;
    a_first_q <= in_first;
    a_last_q <= in_last;

    for (int unsigned l = 0; l < Simd; l++) begin
      b_square_q[l] <= SquareBits'(x_lane(a_data_q, l) * x_lane(a_data_q, l));
    end
    b_sum_q <= a_tree[0];
    b_first_q <= a_first_q;
    b_last_q <= a_last_q;

    c_sum_q <= b_sum_q;
    c_square_q <= b_tree[0];
    c_first_q <= b_first_q;
    c_last_q <= b_last_q;

    if (c_valid_q) begin
      d_sum_q <= c_sum_q + (c_first_q ? '0 : d_sum_q);
      d_square_q <= c_square_q + (c_first_q ? '0 : d_square_q);
    end

    e_mean_q <= (SumBits + MultBits)'(d_sum_q)
                * (SumBits + MultBits)'(signed'(MultBits'(MeanMult)));
    e_sum_q <= d_sum_q;
    e_square_q <= d_square_q;

    f_mean_q <= MeanBits'(num_pkg::round_shift(64'(e_mean_q), int'(MeanShift), HalfUp != 0));
    f_sum_q <= e_sum_q;
    f_square_q <= e_square_q;

    g_cross_q <= VBits'(f_mean_q) * VBits'(f_sum_q);
    g_mean_square_q <= VBits'(f_mean_q) * VBits'(f_mean_q);
    g_mean_q <= f_mean_q;
    g_square_q <= f_square_q;

    h_v_q <= (h_v == '0) ? VBits'(1) : h_v;
    h_mean_q <= g_mean_q;

    i_exp_q <= i_exp;
    i_v_q <= h_v_q;
    i_mean_q <= h_mean_q;

    j_index_q <= (IndexBits + 2)'(
        (FracBits >= IndexBits) ? j_normal >> (FracBits - IndexBits)
                                : j_normal << (IndexBits - FracBits));
    j_exp_q <= i_exp_q;
    j_mean_q <= i_mean_q;

    k_rsqrt_q <= rsqrt_rom[j_index_q];
    k_exp_q <= j_exp_q;
    k_mean_q <= j_mean_q;
  end

  // ---- Statistics of the tokens that wait ----------------------------------------------------
  logic [StatBits:0] stat_wr_q, stat_rd_q;
  logic [MeanBits+ExpBits+RsqrtBits-1:0] stat_mem [StatDepth];
  logic stat_valid, stat_pop;
  logic signed [MeanBits-1:0] stat_mean;
  logic [ExpBits-1:0] stat_exp;
  logic [RsqrtBits-1:0] stat_rsqrt;

  assign stat_valid = stat_wr_q != stat_rd_q;
  assign {stat_mean, stat_exp, stat_rsqrt} = stat_mem[stat_rd_q[StatBits-1:0]];

  always_ff @(posedge clk_i) begin
    if (k_valid_q) stat_mem[stat_wr_q[StatBits-1:0]] <= {k_mean_q, k_exp_q, k_rsqrt_q};
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      stat_wr_q <= '0;
      stat_rd_q <= '0;
    end else begin
      if (k_valid_q) stat_wr_q <= stat_wr_q + 1'b1;
      if (stat_pop) stat_rd_q <= stat_rd_q + 1'b1;
    end
  end

  // ---- Second pass: normalise, scale, requantise ---------------------------------------------
  logic enable;
  logic [BeatBits-1:0] out_beat_q, p_beat_q, q_beat_q, r_beat_q;
  logic [4:0] valid_q, last_q, user_q;
  logic signed [DiffBits-1:0] p_diff_q [Simd];
  logic [RsqrtBits-1:0] p_rsqrt_q;
  logic [ExpBits-1:0] p_exp_q, q_exp_q;
  logic signed [NormProductBits-1:0] q_product_q [Simd];
  logic signed [AlignedBits-1:0] r_aligned_q [Simd];
  logic signed [NormBits-1:0] s_norm_q [Simd];
  logic [Simd*ScaleBits-1:0] s_scale_q;
  logic [Simd*BiasBits-1:0] s_bias_q;
  logic signed [AffineBits-1:0] t_affine_q [Simd];
  logic [Simd*OutBits-1:0] t_out;

  assign pop = enable && stat_valid;
  assign stat_pop = pop && out_beat_q == BeatBits'(Beats - 1);

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      out_beat_q <= '0;
      valid_q <= '0;
    end else begin
      if (pop) out_beat_q <= stat_pop ? '0 : out_beat_q + 1'b1;
      if (enable) valid_q <= {valid_q[3:0], pop};
    end
  end

  always_ff @(posedge clk_i) begin
    if (enable) begin
      last_q <= {last_q[3:0], fifo_head[Simd*InBits]};
      user_q <= {user_q[3:0], fifo_head[Simd*InBits+1]};

      p_beat_q <= out_beat_q;
      p_rsqrt_q <= stat_rsqrt;
      p_exp_q <= stat_exp;
      q_beat_q <= p_beat_q;
      q_exp_q <= p_exp_q;
      r_beat_q <= q_beat_q;
      s_scale_q <= scale_rom[r_beat_q];
      s_bias_q <= bias_rom[r_beat_q];
      for (int unsigned l = 0; l < Simd; l++) begin
        p_diff_q[l] <= DiffBits'(MeanBits'(x_lane(fifo_head[Simd*InBits-1:0], l)) - stat_mean);
        q_product_q[l] <= NormProductBits'(p_diff_q[l])
                          * NormProductBits'(signed'({1'b0, p_rsqrt_q}));
        // A left shift by ExpMax - e, so that the rounding shift is a constant.
        r_aligned_q[l] <= AlignedBits'(q_product_q[l]) << (ExpBits'(ExpMax) - q_exp_q);
        s_norm_q[l] <= NormBits'(
            num_pkg::round_shift(64'(r_aligned_q[l]), int'(ExpMax + NormShift), HalfUp != 0));
        t_affine_q[l] <=
            AffineBits'(s_norm_q[l])
            * ((ScaleSigned != 0) ? AffineBits'(signed'(s_scale_q[l*ScaleBits +: ScaleBits]))
                                  : AffineBits'(s_scale_q[l*ScaleBits +: ScaleBits]))
            + ((BiasSigned != 0) ? AffineBits'(signed'(s_bias_q[l*BiasBits +: BiasBits]))
                                 : AffineBits'(s_bias_q[l*BiasBits +: BiasBits]));
      end
    end
  end

  always_comb begin
    for (int unsigned l = 0; l < Simd; l++) begin
      t_out[l*OutBits +: OutBits] = OutBits'(num_pkg::saturate(
          num_pkg::round_shift(64'(t_affine_q[l]), Shift, HalfUp != 0), OutBits, OutSigned != 0));
    end
  end

  skid_buffer #(
    .DataBits(Simd * OutBits)
  ) u_skid (
    .clk_i,
    .rst_ni,
    .s_axis_tdata(t_out),
    .s_axis_tvalid(valid_q[4]),
    .s_axis_tready(enable),
    .s_axis_tlast(last_q[4]),
    .s_axis_tuser(user_q[4]),
    .m_axis_tdata,
    .m_axis_tvalid,
    .m_axis_tready,
    .m_axis_tlast,
    .m_axis_tuser
  );
endmodule
