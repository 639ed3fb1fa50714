// SPDX-License-Identifier: Apache-2.0

`include "../lib/memory.svh"

/// Integer layer normalisation of every token; C = Channels.
///
///   mean = round_shift(sum(x) * MeanMult, MeanShift)
///   v    = max(sum((x - mean)^2), 1) = max(sum(x^2) + mean * (C * mean - 2 * sum(x)), 1)
///   z    = round_shift((x - mean) * rsqrt[i], e + NormShift)      with v / 4^e in [1, 4)
///   y    = saturate(round_shift(z * scale[c] + bias[c], Shift))
///
/// With Entries the table is addressed linearly, and then
///
///   i    = clamp((sum((x - mean)^2) + TableOffset) >> TableShift, 0, Entries - 1), e = 0
///
/// The two forms of v are the same integer, so one pass over a token yields both sums.
///
/// Streams: one token is Channels / Simd beats in and as many beats out; tuser and tlast follow
/// their token. A first pass adds up the sums while the beats wait in a FIFO; a second pass
/// normalises them. Both run at one beat per cycle, on consecutive tokens.
/// Latency: Channels / Simd + Statistics + Normalise (below) cycles.
///
/// With Sets > 1 each frame has the constants of the set that its beat of s_axis_set names; the beat
/// goes with the last one of the frame, and the number of the set along with the beats and statistics.
/// TableOffset and TableShift are those of the greatest magnitude.
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
    // Of a table addressed linearly, 0: it is addressed by the leading one.
    parameter int unsigned Entries = 0,
    // Added to v before the shift.
    parameter int TableOffset = 0,
    parameter int unsigned TableShift = 0,
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
    // Multipliers in 0: LUTs, 1: DSP blocks.
    parameter int unsigned MultDsp = 0,
    // Layers that share the core, 1 to 64.
    parameter int unsigned Sets = 1,
    // 4 * 2^IndexBits entries, or Entries. Sets begin at multiples of a power of two, here and below.
    parameter RsqrtFile = "",
    // Channels / Simd words of Simd values each.
    parameter ScaleFile = "",
    parameter BiasFile = "",
    // Of every set: its TableShift, 6 bits, and its TableOffset, 32 bits.
    parameter SettingsFile = ""
) (
    input  logic clk_i,
    input  logic rst_ni,

    input  logic [Simd*InBits-1:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,

    input  logic [(Sets > 1 ? $clog2(Sets) : 1)-1:0] s_axis_set_tdata,
    input  logic s_axis_set_tvalid,
    output logic s_axis_set_tready,
    input  logic s_axis_set_tlast,
    input  logic s_axis_set_tuser,

    output logic [Simd*OutBits-1:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  /*verilator no_inline_module*/

  // Cycles of a booth_mult with these factors. Called before the first cycle of a simulation.
  // verilator coverage_off
  function automatic int unsigned latency_of(int unsigned a, int unsigned b);
    int unsigned rows;
    rows = ((a + 1) / 2) * (b + 2) < ((b + 1) / 2) * (a + 2) ? (a + 1) / 2 : (b + 1) / 2;
    latency_of = (rows + 3) / 4;
  endfunction
  // verilator coverage_on

  localparam int unsigned Beats = Channels / Simd;
  localparam int unsigned BeatBits = (Beats > 1) ? $clog2(Beats) : 1;
  // Signed widths: a bit more for unsigned inputs.
  localparam int unsigned XBits = InBits + ((InSigned != 0) ? 0 : 1);
  localparam int unsigned SumBits = XBits + $clog2(Channels);
  localparam int unsigned SquareBits = 2 * XBits - 1;
  localparam int unsigned MultBits = $clog2(MeanMult + 1) + 1;
  localparam int unsigned MeanBits = XBits + 2;
  // C * mean differs from sum(x) by the rounding of the mean alone.
  localparam int unsigned CrossBits = SumBits + 2;
  localparam int unsigned DiffBits = InBits + 1;
  // v <= C * 4^InBits; its terms are taken modulo 2^VBits. For a linear table it is v + TableOffset,
  // signed: the sum of the squares starts at TableOffset.
  localparam bit Linear = Entries != 0;
  localparam longint Offset = Linear ? longint'(TableOffset) : 0;
  localparam longint OffsetSize = (Offset < 0) ? -Offset : Offset;
  localparam int unsigned VBits = Linear
      ? $clog2((longint'(Channels) << (2 * InBits)) + OffsetSize + 1) + 1
      : 2 * InBits + $clog2(Channels) + 1;
  localparam int unsigned ExpMax = Linear ? 0 : (VBits - 1) / 2;
  localparam int unsigned ExpBits = $clog2(ExpMax + 1);
  localparam int unsigned RsqrtWords = Linear ? Entries : 4 << IndexBits;
  localparam int unsigned WordBits = $clog2(RsqrtWords);
  localparam int unsigned RBits = RsqrtBits + ((RsqrtSigned != 0) ? 0 : 1);
  localparam int unsigned NormBits = RsqrtBits - NormShift + (Linear ? DiffBits : 2);
  localparam int unsigned NormProductBits = DiffBits + RBits;
  localparam int unsigned AlignedBits = NormProductBits + ExpMax;
  localparam int unsigned SBits = ScaleBits + ((ScaleSigned != 0) ? 0 : 1);
  localparam int unsigned BBits = BiasBits + ((BiasSigned != 0) ? 0 : 1);
  localparam int unsigned ScaledBits = NormBits + SBits;
  localparam int unsigned AffineBits = ((ScaledBits > BBits) ? ScaledBits : BBits) + 1;

  localparam int unsigned SquareLatency = latency_of(XBits, XBits);
  localparam int unsigned MeanLatency = latency_of(SumBits, MultBits);
  localparam int unsigned CrossLatency = latency_of(CrossBits, MeanBits);
  localparam int unsigned NormLatency = latency_of(DiffBits, RBits);
  localparam int unsigned AffineLatency = latency_of(NormBits, SBits);
  // From a token's last beat to its statistics; from a beat leaving the FIFO to the core's output.
  localparam int unsigned Sums = SquareLatency + $clog2(Simd);
  localparam int unsigned Statistics = Sums + MeanLatency + CrossLatency + (Linear ? 7 : 9);
  localparam int unsigned Normalise = NormLatency + AffineLatency + (Linear ? 4 : 5);

  // Of the number of a set in an address, and where it is stored.
  localparam int unsigned SetBits = Sets > 1 ? $clog2(Sets) : 0;
  localparam int unsigned SetWidth = Sets > 1 ? SetBits : 1;
  localparam int unsigned RsqrtAddrBits = SetBits + WordBits;
  localparam int unsigned BeatAddrBits = SetBits + $clog2(Beats) > 0 ? SetBits + $clog2(Beats) : 1;
  localparam int unsigned OffsetBits = $clog2(OffsetSize + 1) + 1;
  localparam int unsigned ShiftBits = TableShift > 0 ? $clog2(TableShift + 1) : 1;

  // A beat waits until the statistics of its token are known.
  localparam int unsigned FifoBits = $clog2(Beats + Statistics);
  localparam int unsigned FifoDepth = 1 << FifoBits;
  localparam int unsigned StatBits = $clog2(FifoDepth / Beats + 2);
  localparam int unsigned StatDepth = 1 << StatBits;

  logic unused;
  assign unused = ^{s_axis_set_tlast, s_axis_set_tuser};

  if (Channels % Simd != 0) begin : gen_bad_simd
    $error("layernorm: Simd must divide Channels");
  end
  if (VBits > 63 || AlignedBits > 63 || AffineBits > 63 || SumBits + MultBits > 63)
  begin : gen_bad_width
    $error("layernorm: an intermediate value needs more than 63 bits");
  end
  if (Entries == 1) begin : gen_bad_table
    $error("layernorm: a table has at least 2 entries");
  end
  if (MaxTokens == 0 || RsqrtSigned != 0) begin : gen_bad_range
    $error("layernorm: MaxTokens must be positive and the 1/sqrt table unsigned");
  end

  logic [RsqrtBits-1:0] rsqrt_rom [((Sets - 1) << WordBits) + RsqrtWords];
  logic [Simd*ScaleBits-1:0] scale_rom [((Sets - 1) << $clog2(Beats)) + Beats];
  logic [Simd*BiasBits-1:0] bias_rom [((Sets - 1) << $clog2(Beats)) + Beats];
  logic [37:0] settings_rom [Sets];
  // Without files it can be elaborated; no bench simulates that.
  // verilator coverage_off
  initial begin
    if (RsqrtFile != "") $readmemh(`MEMORY_FILE(RsqrtFile), rsqrt_rom);
    if (ScaleFile != "") $readmemh(`MEMORY_FILE(ScaleFile), scale_rom);
    if (BiasFile != "") $readmemh(`MEMORY_FILE(BiasFile), bias_rom);
    if (SettingsFile != "") $readmemh(`MEMORY_FILE(SettingsFile), settings_rom);
  end
  // verilator coverage_on

  // Sign or zero extension of lane `lane` of a packed beat.
  function automatic logic signed [XBits-1:0] x_lane(
    input logic [Simd*InBits-1:0] beat, input int unsigned lane
  );
    x_lane = (InSigned != 0) ? XBits'(signed'(beat[lane*InBits +: InBits]))
                             : XBits'(beat[lane*InBits +: InBits]);
  endfunction

  // ---- FIFO of the beats ---------------------------------------------------------------------
  logic accept, pop, room, set_valid;
  logic [FifoBits:0] fifo_wr_q, fifo_rd_q;
  logic [Simd*InBits+1:0] fifo_mem [FifoDepth];

  assign room = (fifo_wr_q ^ fifo_rd_q) != (FifoBits + 1)'(FifoDepth);
  assign set_valid = Sets == 1 || s_axis_set_tvalid;
  assign s_axis_tready = room && set_valid;
  assign s_axis_set_tready = room && s_axis_tvalid && s_axis_tlast;
  assign accept = s_axis_tvalid && s_axis_tready;

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
  // None of these stages ever stalls. Every signal of stage x carries the name x_...
  logic [BeatBits-1:0] in_beat_q;
  logic [Statistics-2:0] valid_sr_q;  // of a beat up to the sums, then of a token
  logic [Sums-1:0] first_sr_q, last_sr_q;
  logic [Statistics-1:0][SetWidth-1:0] set_sr;  // beside valid_sr_q, but the first of it comes in
  logic signed [OffsetBits-1:0] c_offset;
  logic [ShiftBits-1:0] i_shift;
  logic [SquareBits-1:0] square [Simd];
  logic [Simd*SquareBits-1:0] squares;
  logic [Simd*XBits-1:0] values;
  logic signed [SumBits-1:0] c_sum, d_sum_q;
  logic [VBits-1:0] c_square, d_square_q;
  logic signed [SumBits+MultBits-1:0] e_product;
  logic signed [MeanBits-1:0] f_mean_q;
  logic signed [CrossBits-1:0] g_cross, g_cross_q;
  logic [VBits-1:0] h_cross;
  logic [VBits-1:0] i_v_q;
  logic [WordBits-1:0] l_index_q;
  logic [RsqrtBits-1:0] m_rsqrt_q;
  logic [ExpBits+RsqrtBits-1:0] m_gain;  // ExpMax - e, 1 / sqrt

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      in_beat_q <= '0;
      valid_sr_q <= '0;
    end else begin
      if (accept) in_beat_q <= (in_beat_q == BeatBits'(Beats - 1)) ? '0 : in_beat_q + 1'b1;
      valid_sr_q <= {valid_sr_q[Statistics-3:0], accept};
      valid_sr_q[Sums] <= valid_sr_q[Sums-1] && last_sr_q[Sums-1];
    end
  end

  always_ff @(posedge clk_i) begin
    first_sr_q <= Sums'({first_sr_q, in_beat_q == '0});
    last_sr_q <= Sums'({last_sr_q, in_beat_q == BeatBits'(Beats - 1)});
  end

  for (genvar l = 0; l < Simd; l++) begin : gen_square
    logic [SquareLatency:0][XBits-1:0] x;

    booth_mult #(
      .ABits(XBits), .BBits(XBits), .PBits(SquareBits), .Dsp(MultDsp)
    ) u_square (
      .clk_i,
      .en_i(1'b1),
      .a_i(x_lane(s_axis_tdata, l)),
      .b_i(x_lane(s_axis_tdata, l)),
      .c_i('0),
      .p_o(square[l])
    );
    assign squares[l*SquareBits +: SquareBits] = square[l];

    // the value beside its square
    assign x[0] = x_lane(s_axis_tdata, l);
    always_ff @(posedge clk_i) x[SquareLatency:1] <= x[SquareLatency-1:0];
    assign values[l*XBits +: XBits] = x[SquareLatency];
  end

  if (Simd > 1) begin : gen_trees
    logic [XBits+$clog2(Simd)-1:0] sum;
    logic [SquareBits+$clog2(Simd)-1:0] square_sum;

    sum_tree #(.Terms(Simd), .Bits(XBits), .Signed(1)) u_sum (
      .clk_i, .terms_i(values), .sum_o(sum)
    );
    sum_tree #(.Terms(Simd), .Bits(SquareBits), .Signed(0)) u_squares (
      .clk_i, .terms_i(squares), .sum_o(square_sum)
    );
    assign c_sum = SumBits'(signed'(sum));
    assign c_square = VBits'(square_sum);
  end else begin : gen_one
    assign c_sum = SumBits'(signed'(values));
    assign c_square = VBits'(squares);
  end

  always_ff @(posedge clk_i) begin
    if (valid_sr_q[Sums-1]) begin
      d_sum_q <= c_sum + (first_sr_q[Sums-1] ? '0 : d_sum_q);
      d_square_q <= c_square + (first_sr_q[Sums-1] ? VBits'(c_offset) : d_square_q);
    end
  end

  // ---- Mean, v and 1 / sqrt(v), once per token -----------------------------------------------
  localparam int unsigned SumWait = MeanLatency + 1;
  localparam int unsigned SquareWait = MeanLatency + CrossLatency + 2;
  localparam int unsigned MeanWait = CrossLatency + (Linear ? 4 : 6);
  logic [SumWait:0][SumBits-1:0] sum_sr;
  logic [SquareWait:0][VBits-1:0] square_sr;
  logic [MeanWait:0][MeanBits-1:0] mean_sr;

  assign sum_sr[0] = d_sum_q;
  assign square_sr[0] = d_square_q;
  assign mean_sr[0] = f_mean_q;

  always_ff @(posedge clk_i) begin
    sum_sr[SumWait:1] <= sum_sr[SumWait-1:0];
    square_sr[SquareWait:1] <= square_sr[SquareWait-1:0];
    mean_sr[MeanWait:1] <= mean_sr[MeanWait-1:0];
  end

  assign set_sr[0] = Sets > 1 ? s_axis_set_tdata : '0;
  if (Sets > 1) begin : gen_set
    always_ff @(posedge clk_i) set_sr[Statistics-1:1] <= set_sr[Statistics-2:0];
  end else begin : gen_no_set
    assign set_sr[Statistics-1:1] = '0;
  end

  if (Sets > 1 && Linear) begin : gen_settings
    logic [37:0] b_word, h_word;
    logic signed [OffsetBits-1:0] c_offset_q;
    logic [ShiftBits-1:0] i_shift_q;
    logic unused_bits;

    assign b_word = settings_rom[set_sr[Sums-1]];
    assign h_word = settings_rom[set_sr[Sums+SquareWait+1]];
    assign unused_bits = ^{b_word, h_word};
    assign c_offset = c_offset_q;
    assign i_shift = i_shift_q;

    always_ff @(posedge clk_i) begin
      c_offset_q <= OffsetBits'(b_word[31:0]);
      i_shift_q <= ShiftBits'(h_word[37:32]);
    end
  end else begin : gen_constant
    logic unused_settings;

    assign unused_settings = ^settings_rom[0];
    assign c_offset = OffsetBits'(Offset);
    assign i_shift = ShiftBits'(TableShift);
  end

  booth_mult #(
    .ABits(SumBits), .BBits(MultBits), .Dsp(MultDsp)
  ) u_mean (
    .clk_i,
    .en_i(1'b1),
    .a_i(d_sum_q),
    .b_i(MultBits'(MeanMult)),
    .c_i('0),
    .p_o(e_product)
  );

  // shifts and additions, no multiplier
  always_comb begin
    g_cross = -(CrossBits'(signed'(sum_sr[SumWait])) <<< 1);
    for (int unsigned b = 0; b < CrossBits; b++) begin
      if (((Channels >> b) & 1) != 0) g_cross = g_cross + (CrossBits'(f_mean_q) <<< b);
    end
  end

  booth_mult #(
    .ABits(CrossBits), .BBits(MeanBits), .PBits(VBits), .Dsp(MultDsp)
  ) u_cross (
    .clk_i,
    .en_i(1'b1),
    .a_i(g_cross_q),
    .b_i(mean_sr[1]),
    .c_i('0),
    .p_o(h_cross)
  );

  always_ff @(posedge clk_i) begin
    f_mean_q <= MeanBits'(num_pkg::round_shift(64'(e_product), int'(MeanShift), HalfUp != 0));
    g_cross_q <= g_cross;
    i_v_q <= square_sr[SquareWait] + h_cross;
    m_rsqrt_q <= rsqrt_rom[RsqrtAddrBits'({set_sr[Statistics-2], l_index_q})];
  end

  if (Linear) begin : gen_linear
    logic signed [VBits-1:0] i_shifted;
    logic [WordBits:0] i_index;  // a bit more than it takes: Entries - 1 may be all ones

    assign i_shifted = $signed(i_v_q) >>> i_shift;
    assign i_index = (WordBits + 1)'(num_pkg::saturate(64'(i_shifted), int'(WordBits), 1'b0));
    assign m_gain = m_rsqrt_q;

    always_ff @(posedge clk_i) begin
      l_index_q <= WordBits'(
          (i_index > (WordBits + 1)'(Entries - 1)) ? (WordBits + 1)'(Entries - 1) : i_index);
    end
  end else begin : gen_leading_one
    // found in two steps, among groups of 8 bits (4 exponents) and inside one
    localparam int unsigned Groups = (VBits + 7) / 8;
    localparam int unsigned GroupBits = (Groups > 1) ? $clog2(Groups) : 1;
    localparam int unsigned WindowBits = 8 + IndexBits;
    logic [VBits-1:0] j_v_q;
    logic [8*Groups-1:0] i_v, j_v;
    logic [Groups-1:0] i_any;
    logic [GroupBits-1:0] i_group, j_group_q, k_group_q;
    logic [WindowBits-1:0] k_window_q;
    logic [1:0] k_place;
    logic [ExpBits-1:0] l_exp_q, m_exp_q;
    logic unused_shift;

    assign unused_shift = ^i_shift;

    assign i_v = (8 * Groups)'(i_v_q);
    assign j_v = (8 * Groups)'(j_v_q);
    assign m_gain = {m_exp_q, m_rsqrt_q};

    always_comb begin
      i_group = '0;
      for (int unsigned g = 0; g < Groups; g++) begin
        i_any[g] = i_v[8*g +: 8] != '0;
        if (i_any[g]) i_group = GroupBits'(g);
      end
      k_place = '0;
      for (int unsigned i = 0; i < 4; i++) begin
        if (k_window_q[IndexBits+2*i +: 2] != '0) k_place = 2'(i);
      end
    end

    always_ff @(posedge clk_i) begin
      j_group_q <= i_group;
      // v = 0 counts as 1
      j_v_q <= i_v_q | VBits'(i_any == '0);
      k_group_q <= j_group_q;
      k_window_q <= WindowBits'({j_v, IndexBits'(0)} >> {j_group_q, 3'd0});
      l_exp_q <= ExpBits'({k_group_q, k_place});
      l_index_q <= WordBits'(k_window_q >> {k_place, 1'b0});
      m_exp_q <= ExpBits'(ExpMax) - l_exp_q;
    end
  end

  // ---- Statistics of the tokens that wait ----------------------------------------------------
  logic [StatBits:0] stat_wr_q, stat_rd_q;
  localparam int unsigned StatisticBits = MeanBits + ExpBits + RsqrtBits;
  logic [SetBits+StatisticBits-1:0] stat_mem [StatDepth];
  logic stat_push, stat_valid, stat_pop;
  logic signed [MeanBits-1:0] stat_mean;
  logic [ExpBits+RsqrtBits-1:0] stat_gain;
  logic [SetWidth-1:0] stat_set;

  assign stat_push = valid_sr_q[Statistics-2];
  assign stat_valid = stat_wr_q != stat_rd_q;
  assign {stat_set, stat_mean, stat_gain} =
      (SetWidth + StatisticBits)'(stat_mem[stat_rd_q[StatBits-1:0]]);

  always_ff @(posedge clk_i) begin
    if (stat_push) begin
      stat_mem[stat_wr_q[StatBits-1:0]] <=
          (SetBits + StatisticBits)'({set_sr[Statistics-1], mean_sr[MeanWait], m_gain});
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      stat_wr_q <= '0;
      stat_rd_q <= '0;
    end else begin
      if (stat_push) stat_wr_q <= stat_wr_q + 1'b1;
      if (stat_pop) stat_rd_q <= stat_rd_q + 1'b1;
    end
  end

  // ---- Second pass: normalise, scale, requantise ---------------------------------------------
  // stages before the aligned product; without exponents it is the product itself
  localparam int unsigned Aligned = NormLatency + (Linear ? 1 : 2);
  localparam int unsigned Numbered = Aligned - (Sets > 1 ? 1 : 0);  // stages before a beat's number
  logic enable;
  // the copy of the counter keeps its increment out of the ROMs' logic
  logic [BeatBits-1:0] out_beat_q, affine_beat_q;
  logic [BeatAddrBits-1:0] affine_addr_q;
  logic [SetWidth-1:0] affine_set;
  logic [Normalise-1:0] valid_q;
  logic [Normalise-2:0] last_q, user_q;  // from the second stage on
  logic [Simd*InBits+1:0] o_beat_q;
  logic signed [MeanBits-1:0] o_mean_q;
  logic [RsqrtBits-1:0] o_rsqrt_q, p_rsqrt_q;
  logic signed [DiffBits-1:0] p_diff_q [Simd];
  logic signed [NormProductBits-1:0] q_product [Simd];
  logic signed [AlignedBits-1:0] r_aligned [Simd];
  logic signed [NormBits-1:0] s_norm_q [Simd];
  logic [Simd*ScaleBits-1:0] s_scale_q;
  logic [Simd*BiasBits-1:0] s_bias_q;
  logic signed [AffineBits-1:0] t_affine [Simd];
  logic [Simd*OutBits-1:0] u_out_q;

  assign pop = enable && stat_valid;
  assign stat_pop = pop && out_beat_q == BeatBits'(Beats - 1);

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      out_beat_q <= '0;
      affine_beat_q <= '0;
      valid_q <= '0;
    end else if (enable) begin
      if (pop) out_beat_q <= stat_pop ? '0 : out_beat_q + 1'b1;
      if (valid_q[Numbered-1]) begin
        affine_beat_q <= (affine_beat_q == BeatBits'(Beats - 1)) ? '0 : affine_beat_q + 1'b1;
      end
      valid_q <= {valid_q[Normalise-2:0], pop};
    end
  end

  always_ff @(posedge clk_i) begin
    if (enable) begin
      o_mean_q <= stat_mean;
      o_rsqrt_q <= stat_gain[RsqrtBits-1:0];
      p_rsqrt_q <= o_rsqrt_q;
      {user_q, last_q} <= {user_q[Normalise-3:0], o_beat_q[Simd*InBits+1],
                           last_q[Normalise-3:0], o_beat_q[Simd*InBits]};
      affine_addr_q <= (BeatAddrBits'(affine_set) << $clog2(Beats)) | BeatAddrBits'(affine_beat_q);
    end
  end

  if (Sets > 1) begin : gen_deep
    // the ROMs of many sets are blocks, and a block is slow: its word gets a cycle more
    logic [Numbered-1:0][SetBits-1:0] set_q;
    logic [Simd*ScaleBits-1:0] scale_q;
    logic [Simd*BiasBits-1:0] bias_q;

    always_ff @(posedge clk_i) begin
      if (enable) begin
        set_q <= (SetBits * Numbered)'({set_q, stat_set});
        scale_q <= scale_rom[affine_addr_q];
        bias_q <= bias_rom[affine_addr_q];
        s_scale_q <= scale_q;
        s_bias_q <= bias_q;
      end
    end
    assign affine_set = set_q[Numbered-1];
  end else begin : gen_flat
    always_ff @(posedge clk_i) begin
      if (enable) begin
        s_scale_q <= scale_rom[affine_addr_q];
        s_bias_q <= bias_rom[affine_addr_q];
      end
    end
    assign affine_set = stat_set;
  end

  // on its own: a memory with a registered output
  always_ff @(posedge clk_i) begin
    if (enable) o_beat_q <= fifo_mem[fifo_rd_q[FifoBits-1:0]];
  end

  if (Linear) begin : gen_product
    assign r_aligned = q_product;
  end else begin : gen_align
    logic [NormLatency+1:0][ExpBits-1:0] shift_sr;

    always_ff @(posedge clk_i) begin
      if (enable) shift_sr <= {shift_sr[NormLatency:0], stat_gain[RsqrtBits +: ExpBits]};
    end

    for (genvar l = 0; l < Simd; l++) begin : gen_lane
      // A left shift by ExpMax - e, so that the rounding shift is a constant.
      always_ff @(posedge clk_i) begin
        if (enable) r_aligned[l] <= AlignedBits'(q_product[l]) << shift_sr[NormLatency+1];
      end
    end
  end

  for (genvar l = 0; l < Simd; l++) begin : gen_lane
    always_ff @(posedge clk_i) begin
      if (enable) begin
        p_diff_q[l] <= DiffBits'(MeanBits'(x_lane(o_beat_q[Simd*InBits-1:0], l)) - o_mean_q);
        s_norm_q[l] <= NormBits'(
            num_pkg::round_shift(64'(r_aligned[l]), int'(ExpMax + NormShift), HalfUp != 0));
        u_out_q[l*OutBits +: OutBits] <= OutBits'(num_pkg::saturate(
            num_pkg::round_shift(64'(t_affine[l]), Shift, HalfUp != 0), OutBits, OutSigned != 0));
      end
    end

    booth_mult #(
      .ABits(DiffBits), .BBits(RBits), .Dsp(MultDsp)
    ) u_norm (
      .clk_i,
      .en_i(enable),
      .a_i(p_diff_q[l]),
      .b_i(RBits'(p_rsqrt_q)),
      .c_i('0),
      .p_o(q_product[l])
    );

    booth_mult #(
      .ABits(NormBits), .BBits(SBits), .CBits(BBits), .PBits(AffineBits), .Dsp(MultDsp)
    ) u_affine (
      .clk_i,
      .en_i(enable),
      .a_i(s_norm_q[l]),
      .b_i((ScaleSigned != 0) ? SBits'(signed'(s_scale_q[l*ScaleBits +: ScaleBits]))
                              : SBits'(s_scale_q[l*ScaleBits +: ScaleBits])),
      .c_i((BiasSigned != 0) ? BBits'(signed'(s_bias_q[l*BiasBits +: BiasBits]))
                             : BBits'(s_bias_q[l*BiasBits +: BiasBits])),
      .p_o(t_affine[l])
    );
  end

  skid_buffer #(
    .DataBits(Simd * OutBits)
  ) u_skid (
    .clk_i,
    .rst_ni,
    .s_axis_tdata(u_out_q),
    .s_axis_tvalid(valid_q[Normalise-1]),
    .s_axis_tready(enable),
    .s_axis_tlast(last_q[Normalise-2]),
    .s_axis_tuser(user_q[Normalise-2]),
    .m_axis_tdata,
    .m_axis_tvalid,
    .m_axis_tready,
    .m_axis_tlast,
    .m_axis_tuser
  );
endmodule
