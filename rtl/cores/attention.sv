// SPDX-License-Identifier: Apache-2.0

/// Multi-head attention with dynamic N:M sparse rows and table softmax. Per head and query, over
/// the keys j:
///
///   s[j] = sum_d q[d] * k[j][d]                                       exact
///   of every M consecutive keys the N largest survive, ties to the lower index
///   e[j] = exp[clamp((max(s) - s[j] + ExpOffset) >> ExpShift, 0, ExpEntries - 1)]
///   i, l = reciprocal index of sum(e): the bits below its leading one, that one's position
///   p[j] = saturate(round_shift(e[j] * recip[i], l + ProbShift))
///   y[d] = saturate(round_shift(sum_j p[j] * v[j][d], Shift))
///
/// N = M is dense attention. Streams: q, k and v of one frame have the same number of tokens,
/// Channels / Simd beats each, head-major; so has the output. K and V are double-buffered per
/// frame, q waits for K.
///
/// A row is a query token of HeadsPar heads. Three stages work on consecutive rows; no pipeline
/// ever stalls half-way, because each stage takes credits for the buffer behind it before it
/// starts:
///   score   G = ceil(tokens / M) groups of D = Channels / Heads / Simd cycles, M * Simd products
///   exp     G cycles, N survivors each
///   value   D times G cycles, N * Simd products
/// so that a token takes max(Heads / HeadsPar * G * D, Channels / Simd) cycles.
/// Latency from a frame's last key: G * D + 2 * G + 24 cycles.
module attention #(
    // Longest frame.
    parameter int unsigned MaxTokens = 1,
    parameter int unsigned Channels = 8,
    // Divides Channels.
    parameter int unsigned Heads = 2,
    parameter int unsigned N = 2,
    parameter int unsigned M = 4,
    // Channels per beat; divides Channels / Heads.
    parameter int unsigned Simd = 2,
    // Heads computed side by side; divides Heads.
    parameter int unsigned HeadsPar = 1,
    parameter int unsigned QBits = 8,
    parameter int unsigned QSigned = 1,
    parameter int unsigned KBits = 8,
    parameter int unsigned KSigned = 1,
    parameter int unsigned VBits = 8,
    parameter int unsigned VSigned = 1,
    parameter int unsigned ExpOffset = 32,
    parameter int unsigned ExpShift = 6,
    parameter int unsigned ExpEntries = 128,
    parameter int unsigned ExpBits = 10,
    parameter int unsigned ExpSigned = 0,
    // Bits below the leading one that address the reciprocal table.
    parameter int unsigned IndexBits = 6,
    parameter int unsigned RecipBits = 13,
    parameter int unsigned RecipSigned = 0,
    parameter int ProbShift = 4,
    parameter int unsigned ProbBits = 8,
    parameter int unsigned ProbSigned = 0,
    parameter int unsigned OutBits = 8,
    parameter int unsigned OutSigned = 1,
    parameter int Shift = 8,
    // 1: round ties up, 0: to even.
    parameter int unsigned HalfUp = 0,
    // 1: products in DSP blocks, 0: in LUTs.
    parameter int unsigned MultDsp = 0,
    // ExpEntries words.
    parameter ExpFile = "",
    // 2^IndexBits words.
    parameter RecipFile = ""
) (
    input  logic clk_i,
    input  logic rst_ni,

    input  logic [Simd*QBits-1:0] s_axis_q_tdata,
    input  logic s_axis_q_tvalid,
    output logic s_axis_q_tready,
    input  logic s_axis_q_tlast,
    input  logic s_axis_q_tuser,

    input  logic [Simd*KBits-1:0] s_axis_k_tdata,
    input  logic s_axis_k_tvalid,
    output logic s_axis_k_tready,
    input  logic s_axis_k_tlast,
    input  logic s_axis_k_tuser,

    input  logic [Simd*VBits-1:0] s_axis_v_tdata,
    input  logic s_axis_v_tvalid,
    output logic s_axis_v_tready,
    input  logic s_axis_v_tlast,
    input  logic s_axis_v_tuser,

    output logic [Simd*OutBits-1:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned HeadDim = Channels / Heads;
  localparam int unsigned Chunks = HeadDim / Simd;
  localparam int unsigned HeadGroups = Heads / HeadsPar;
  localparam int unsigned MaxGroups = (MaxTokens + M - 1) / M;
  localparam int unsigned FrameWords = MaxGroups * HeadGroups * Chunks;
  localparam int unsigned GroupStep = HeadGroups * Chunks;

  localparam int unsigned AddrBits = $clog2(2 * FrameWords);
  localparam int unsigned GroupBits = $clog2(MaxGroups + 1);
  localparam int unsigned CountBits = $clog2(M + 1);
  localparam int unsigned ChunkBits = (Chunks > 1) ? $clog2(Chunks) : 1;
  localparam int unsigned HeadBits = (HeadsPar > 1) ? $clog2(HeadsPar) : 1;
  localparam int unsigned HeadGroupBits = (HeadGroups > 1) ? $clog2(HeadGroups) : 1;

  localparam int unsigned QExt = QBits + ((QSigned != 0) ? 0 : 1);
  localparam int unsigned KExt = KBits + ((KSigned != 0) ? 0 : 1);
  localparam int unsigned VExt = VBits + ((VSigned != 0) ? 0 : 1);
  localparam int unsigned QkBits = QExt + KExt;
  localparam int unsigned ScoreBits =
      QBits + KBits + $clog2(HeadDim) + ((QSigned == 0 && KSigned == 0) ? 1 : 0);
  localparam int unsigned DiffBits = ScoreBits + 2;
  localparam int unsigned EntryBits = (ExpEntries > 1) ? $clog2(ExpEntries) : 1;
  localparam int unsigned SumBits = ExpBits + $clog2(MaxGroups * N);
  localparam int unsigned PosMax = SumBits - 1;
  localparam int unsigned PosBits = $clog2(SumBits + 1);
  localparam int unsigned NormalBits = (SumBits > IndexBits + 1) ? SumBits : IndexBits + 1;
  localparam int unsigned ScaledBits = ExpBits + RecipBits;
  localparam int unsigned AlignedBits = ScaledBits + PosMax;
  localparam int unsigned PvBits = ProbBits + VExt;
  localparam int unsigned AccBits = PvBits + $clog2(MaxGroups * N);

  // The row behind, the row ahead, and the groups in the pipeline.
  localparam int unsigned PtrBits = $clog2(2 * MaxGroups + 12);
  localparam int unsigned GroupDepth = 1 << PtrBits;
  // Rows between the score and the value stage.
  localparam int unsigned RowBits = 5;
  localparam int unsigned RowDepth = 1 << RowBits;
  localparam int unsigned OutPtrBits = $clog2(2 * Chunks + 12);
  localparam int unsigned OutDepth = 1 << OutPtrBits;

  if (Channels % Heads != 0 || HeadDim % Simd != 0 || Heads % HeadsPar != 0) begin : gen_bad_shape
    $error("attention: Heads must divide Channels, Simd a head, HeadsPar Heads");
  end
  if (N == 0 || N > M || MaxTokens == 0 || ExpOffset >> ExpShift != 0) begin : gen_bad_range
    $error("attention: needs 1 <= N <= M, MaxTokens >= 1, ExpOffset < 2^ExpShift");
  end
  if (ExpSigned != 0 || RecipSigned != 0 || ProbSigned != 0) begin : gen_bad_sign
    $error("attention: exp, recip and prob must be unsigned");
  end
  if (AlignedBits > 62 || AccBits > 62) begin : gen_bad_width
    $error("attention: an intermediate value needs more than 62 bits");
  end

  // Travels with a group of keys, a group of survivors or a group of probabilities.
  typedef struct packed {
    logic valid;
    logic first;      // of the row (score: of the group's chunks)
    logic last;
    logic row_first;
    logic row_last;
    logic frame_last; // last row of the frame; meaningful with row_last
    logic user;
    logic [CountBits-1:0] count;  // keys in the group
  } flags_t;

  // One per pipeline stage; no stage uses all fields.
  /* verilator lint_off UNUSEDSIGNAL */
  flags_t s0, s1_q, s2_q, s3_q, s4_q, s5_q, s6_q;
  flags_t x0, x1_q, x2_q, x3_q, x4_q, x5_q, x6_q, x7_q;
  flags_t y0, y1_q, y2_q, y3_q, y4_q, y5_q, y6_q, y7_q, y8_q, y9_q;
  /* verilator lint_on UNUSEDSIGNAL */

  logic [ExpBits-1:0] exp_rom [ExpEntries];
  logic [RecipBits-1:0] recip_rom [1 << IndexBits];
  initial begin
    if (ExpFile != "") $readmemh(ExpFile, exp_rom);
    if (RecipFile != "") $readmemh(RecipFile, recip_rom);
  end

  // The frames of k and v are those of q.
  logic unused;
  assign unused = ^{s_axis_k_tuser, s_axis_v_tuser};

  // ---- Memories of K and V -------------------------------------------------------------------
  logic k_valid, k_take, v_valid, v_take, v_release;
  logic [GroupBits-1:0] k_groups;
  logic [CountBits-1:0] k_tail;
  logic [AddrBits-1:0] k_base, k_addr, v_base, v_addr;
  logic [HeadsPar*M*Simd*KBits-1:0] k_data;
  logic [HeadsPar*M*Simd*VBits-1:0] v_data;

  frame_banks #(
      .DataBits(Simd * KBits),
      .Heads(HeadsPar),
      .Lanes(M),
      .HeadGroups(HeadGroups),
      .Chunks(Chunks),
      .MaxTokens(MaxTokens)
  ) u_k (
      .clk_i,
      .rst_ni,
      .s_axis_tdata(s_axis_k_tdata),
      .s_axis_tvalid(s_axis_k_tvalid),
      .s_axis_tready(s_axis_k_tready),
      .s_axis_tlast(s_axis_k_tlast),
      .frame_valid_o(k_valid),
      .frame_groups_o(k_groups),
      .frame_tail_o(k_tail),
      .frame_base_o(k_base),
      .take_i(k_take),
      .release_i(k_take),
      .addr_i(k_addr),
      .data_o(k_data)
  );

  /* verilator lint_off PINCONNECTEMPTY */
  frame_banks #(
      .DataBits(Simd * VBits),
      .Heads(HeadsPar),
      .Lanes(M),
      .HeadGroups(HeadGroups),
      .Chunks(Chunks),
      .MaxTokens(MaxTokens)
  ) u_v (
      .clk_i,
      .rst_ni,
      .s_axis_tdata(s_axis_v_tdata),
      .s_axis_tvalid(s_axis_v_tvalid),
      .s_axis_tready(s_axis_v_tready),
      .s_axis_tlast(s_axis_v_tlast),
      .frame_valid_o(v_valid),
      .frame_groups_o(),  // the rows bring their own count
      .frame_tail_o(),
      .frame_base_o(v_base),
      .take_i(v_take),
      .release_i(v_release),
      .addr_i(v_addr),
      .data_o(v_data)
  );
  /* verilator lint_on PINCONNECTEMPTY */

  // ---- Rows of q: one in use, one coming -----------------------------------------------------
  logic [1:0] q_full_q, q_last_q, q_user_q;
  logic q_wr_q, q_rd_q, q_accept, q_chunk_end, q_row_end, q_free;
  logic [HeadBits-1:0] q_head_q;
  logic [ChunkBits-1:0] q_chunk_q, s_chunk_q;
  logic [HeadsPar*Simd*QBits-1:0] q_data;

  assign s_axis_q_tready = !q_full_q[q_wr_q];
  assign q_accept = s_axis_q_tvalid && s_axis_q_tready;
  assign q_chunk_end = q_chunk_q == ChunkBits'(Chunks - 1);
  assign q_row_end = q_chunk_end && q_head_q == HeadBits'(HeadsPar - 1);

  for (genvar h = 0; h < HeadsPar; h++) begin : gen_q
    logic [Simd*QBits-1:0] mem [2 << ChunkBits];
    logic [Simd*QBits-1:0] data_q;

    always_ff @(posedge clk_i) begin
      if (q_accept && q_head_q == HeadBits'(h)) mem[{q_wr_q, q_chunk_q}] <= s_axis_q_tdata;
      data_q <= mem[{q_rd_q, s_chunk_q}];
    end

    assign q_data[h*Simd*QBits +: Simd*QBits] = data_q;
  end

  always_ff @(posedge clk_i) begin
    if (q_accept) begin
      q_last_q[q_wr_q] <= s_axis_q_tlast;
      q_user_q[q_wr_q] <= s_axis_q_tuser;
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      q_full_q <= '0;
      q_wr_q <= 1'b0;
      q_rd_q <= 1'b0;
      q_head_q <= '0;
      q_chunk_q <= '0;
    end else begin
      if (q_free) begin
        q_full_q[q_rd_q] <= 1'b0;
        q_rd_q <= !q_rd_q;
      end
      if (q_accept) begin
        q_chunk_q <= q_chunk_end ? '0 : q_chunk_q + 1'b1;
        if (q_chunk_end) q_head_q <= q_row_end ? '0 : q_head_q + 1'b1;
        if (q_row_end) begin
          q_full_q[q_wr_q] <= 1'b1;
          q_wr_q <= !q_wr_q;
        end
      end
    end
  end

  // ---- Credits -------------------------------------------------------------------------------
  // Free entries of: survivor groups, probability groups, rows in flight, output chunks.
  logic s_issue, s_group_first, s_row_first, x_issue;
  logic y_issue, y_chunk_first, y_chunk_last, y_row_last;
  logic out_pop;
  logic [PtrBits:0] survivor_credit_q, exp_credit_q;
  logic [RowBits:0] row_credit_q;
  logic [OutPtrBits:0] out_credit_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      survivor_credit_q <= (PtrBits + 1)'(GroupDepth);
      exp_credit_q <= (PtrBits + 1)'(GroupDepth);
      row_credit_q <= (RowBits + 1)'(RowDepth);
      out_credit_q <= (OutPtrBits + 1)'(OutDepth);
    end else begin
      survivor_credit_q <= survivor_credit_q + (PtrBits + 1)'(x_issue)
                           - (PtrBits + 1)'(s_issue && s_group_first);
      exp_credit_q <= exp_credit_q + (PtrBits + 1)'(y_issue && y_chunk_last)
                      - (PtrBits + 1)'(x_issue);
      row_credit_q <= row_credit_q + (RowBits + 1)'(y_issue && y_row_last)
                      - (RowBits + 1)'(s_issue && s_row_first);
      out_credit_q <= out_credit_q + (OutPtrBits + 1)'(out_pop)
                      - (OutPtrBits + 1)'(y_issue && y_chunk_first);
    end
  end

  // ---- Score stage: issue --------------------------------------------------------------------
  logic [GroupBits-1:0] s_group_q;
  logic [HeadGroupBits-1:0] s_head_group_q;
  logic [AddrBits-1:0] s_row_base_q, s_base_q;  // relative to the frame
  logic s_group_last, s_row_last;

  assign s_group_first = s_chunk_q == '0;
  assign s_group_last = s_chunk_q == ChunkBits'(Chunks - 1);
  assign s_row_first = s_group_first && s_group_q == '0;
  assign s_row_last = s_group_last && s_group_q == k_groups - 1'b1;
  assign s_issue = q_full_q[q_rd_q] && k_valid && (!s_group_first || survivor_credit_q != '0)
                   && (!s_row_first || row_credit_q != '0);
  assign q_free = s_issue && s_row_last;
  assign k_take = q_free && q_last_q[q_rd_q];
  assign k_addr = k_base + s_base_q + AddrBits'(s_chunk_q);

  always_comb begin
    s0.valid = s_issue;
    s0.first = s_group_first;
    s0.last = s_group_last;
    s0.row_first = s_group_q == '0;
    s0.row_last = s_row_last;
    s0.frame_last = q_last_q[q_rd_q];
    s0.user = q_user_q[q_rd_q];
    s0.count = (s_group_q == k_groups - 1'b1) ? k_tail : CountBits'(M);
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      s_chunk_q <= '0;
      s_group_q <= '0;
      s_head_group_q <= '0;
      s_row_base_q <= '0;
      s_base_q <= '0;
    end else if (s_issue) begin
      s_chunk_q <= s_group_last ? '0 : s_chunk_q + 1'b1;
      if (s_group_last) begin
        s_group_q <= s_group_q + 1'b1;
        s_base_q <= s_base_q + AddrBits'(GroupStep);
      end
      if (s_row_last) begin
        s_group_q <= '0;
        if (s_head_group_q == HeadGroupBits'(HeadGroups - 1)) begin
          s_head_group_q <= '0;
          s_row_base_q <= '0;
          s_base_q <= '0;
        end else begin
          s_head_group_q <= s_head_group_q + 1'b1;
          s_row_base_q <= s_row_base_q + AddrBits'(Chunks);
          s_base_q <= s_row_base_q + AddrBits'(Chunks);
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      s1_q <= '0;
      s2_q <= '0;
      s3_q <= '0;
      s4_q <= '0;
      s5_q <= '0;
      s6_q <= '0;
    end else begin
      s1_q <= s0;
      s2_q <= s1_q;
      s3_q <= s2_q;
      s4_q <= s3_q;
      s4_q.valid <= s3_q.valid && s3_q.last;
      s5_q <= s4_q;
      s6_q <= s5_q;
    end
  end

  // ---- Score stage: products, sums -----------------------------------------------------------
  logic signed [QkBits-1:0] qk [HeadsPar][M][Simd];
  logic signed [ScoreBits-1:0] qk_tree [HeadsPar][M][Simd];
  logic signed [ScoreBits-1:0] partial_q [HeadsPar][M];
  logic signed [ScoreBits-1:0] score_q [HeadsPar][M];

  function automatic logic signed [QkBits-1:0] multiply_qk(
    input logic [QBits-1:0] a, input logic [KBits-1:0] b
  );
    multiply_qk = ((QSigned != 0) ? QkBits'(signed'(a)) : QkBits'(a))
                  * ((KSigned != 0) ? QkBits'(signed'(b)) : QkBits'(b));
  endfunction

  if (MultDsp != 0) begin : gen_qk_dsp
    (* use_dsp = "yes" *) logic signed [QkBits-1:0] product_q [HeadsPar][M][Simd];
    always_ff @(posedge clk_i) begin
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        for (int unsigned j = 0; j < M; j++) begin
          for (int unsigned c = 0; c < Simd; c++) begin
            product_q[h][j][c] <= multiply_qk(q_data[(h*Simd+c)*QBits +: QBits],
                                              k_data[((h*M+j)*Simd+c)*KBits +: KBits]);
          end
        end
      end
    end
    assign qk = product_q;
  end else begin : gen_qk_lut
    (* use_dsp = "no" *) logic signed [QkBits-1:0] product_q [HeadsPar][M][Simd];
    always_ff @(posedge clk_i) begin
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        for (int unsigned j = 0; j < M; j++) begin
          for (int unsigned c = 0; c < Simd; c++) begin
            product_q[h][j][c] <= multiply_qk(q_data[(h*Simd+c)*QBits +: QBits],
                                              k_data[((h*M+j)*Simd+c)*KBits +: KBits]);
          end
        end
      end
    end
    assign qk = product_q;
  end

  always_comb begin
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      for (int unsigned j = 0; j < M; j++) begin
        for (int unsigned c = 0; c < Simd; c++) qk_tree[h][j][c] = ScoreBits'(qk[h][j][c]);
        for (int unsigned s = 1; s < Simd; s = 2 * s) begin
          for (int unsigned c = 0; c + s < Simd; c = c + 2 * s) begin
            qk_tree[h][j][c] = qk_tree[h][j][c] + qk_tree[h][j][c+s];
          end
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      for (int unsigned j = 0; j < M; j++) begin
        partial_q[h][j] <= qk_tree[h][j][0];
        if (s3_q.valid) score_q[h][j] <= partial_q[h][j] + (s3_q.first ? '0 : score_q[h][j]);
      end
    end
  end

  // ---- Selection: survivors of a group and its maximum ---------------------------------------
  logic signed [ScoreBits-1:0] five_score_q [HeadsPar][M];
  logic signed [ScoreBits-1:0] six_score_q [HeadsPar][N];
  logic signed [ScoreBits-1:0] six_max_q [HeadsPar];
  logic [PtrBits-1:0] survivor_wr_q, survivor_rd_q, exp_wr_q, exp_rd_q, exp_addr;
  logic [Simd*VBits-1:0] y5_value_q [HeadsPar][N];
  logic [HeadsPar*N*ScoreBits-1:0] survivor_mem [GroupDepth];
  logic [HeadsPar*N*ScoreBits-1:0] survivor_word, x1_score_q;

  always_ff @(posedge clk_i) five_score_q <= score_q;

  if (N == M) begin : gen_dense
    logic signed [ScoreBits-1:0] tree [HeadsPar][M];

    always_comb begin
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        for (int unsigned j = 0; j < M; j++) begin
          tree[h][j] = (CountBits'(j) < s5_q.count) ? five_score_q[h][j]
                                                    : {1'b1, {(ScoreBits - 1){1'b0}}};
        end
        for (int unsigned s = 1; s < M; s = 2 * s) begin
          for (int unsigned j = 0; j + s < M; j = j + 2 * s) begin
            if (tree[h][j+s] > tree[h][j]) tree[h][j] = tree[h][j+s];
          end
        end
      end
    end

    always_ff @(posedge clk_i) begin
      six_score_q <= five_score_q;
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        six_max_q[h] <= tree[h][0];
        for (int unsigned r = 0; r < N; r++) begin
          y5_value_q[h][r] <= v_data[(h*M+r)*Simd*VBits +: Simd*VBits];
        end
      end
    end
  end else begin : gen_select
    localparam int unsigned SlotBits = $clog2(M);

    // rank: how many keys of the group go before this one; absent keys, the highest, go last
    logic [SlotBits-1:0] rank_d [HeadsPar][M];
    logic [SlotBits-1:0] rank_q [HeadsPar][M];
    logic signed [ScoreBits-1:0] slot_score [HeadsPar][N];
    logic [SlotBits-1:0] slot_index [HeadsPar][N];
    logic [HeadsPar*N*SlotBits-1:0] six_index_q, x1_index_q, x2_index_q, x3_index_q;
    logic [HeadsPar*N*SlotBits-1:0] y1_index_q, y2_index_q, y3_index_q, y4_index_q;
    logic [HeadsPar*N*SlotBits-1:0] index_mem [GroupDepth];
    logic [HeadsPar*N*SlotBits-1:0] exp_index_mem [GroupDepth];

    always_comb begin
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        for (int unsigned j = 0; j < M; j++) begin
          rank_d[h][j] = '0;
          for (int unsigned i = 0; i < M; i++) begin
            if (i < j) begin
              if (CountBits'(j) >= s4_q.count || score_q[h][i] >= score_q[h][j]) begin
                rank_d[h][j] = rank_d[h][j] + 1'b1;
              end
            end else if (i > j) begin
              if (CountBits'(i) < s4_q.count && score_q[h][i] > score_q[h][j]) begin
                rank_d[h][j] = rank_d[h][j] + 1'b1;
              end
            end
          end
        end
      end
    end

    always_comb begin
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        for (int unsigned r = 0; r < N; r++) begin
          slot_score[h][r] = '0;
          slot_index[h][r] = '0;
          for (int unsigned j = 0; j < M; j++) begin
            if (rank_q[h][j] == SlotBits'(r)) begin
              slot_score[h][r] = slot_score[h][r] | five_score_q[h][j];
              slot_index[h][r] = slot_index[h][r] | SlotBits'(j);
            end
          end
        end
      end
    end

    always_ff @(posedge clk_i) begin
      rank_q <= rank_d;
      six_score_q <= slot_score;
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        six_max_q[h] <= slot_score[h][0];
        for (int unsigned r = 0; r < N; r++) begin
          six_index_q[(h*N+r)*SlotBits +: SlotBits] <= slot_index[h][r];
        end
      end
    end

    // the indices go beside the scores and the exponentials
    always_ff @(posedge clk_i) begin
      if (s6_q.valid) index_mem[survivor_wr_q] <= six_index_q;
      x1_index_q <= index_mem[survivor_rd_q];
    end

    always_ff @(posedge clk_i) begin
      if (x3_q.valid) exp_index_mem[exp_wr_q] <= x3_index_q;
      y1_index_q <= exp_index_mem[exp_addr];
    end

    always_ff @(posedge clk_i) begin
      x2_index_q <= x1_index_q;
      x3_index_q <= x2_index_q;
      y2_index_q <= y1_index_q;
      y3_index_q <= y2_index_q;
      y4_index_q <= y3_index_q;
    end

    // the values of the survivors
    always_ff @(posedge clk_i) begin
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        for (int unsigned r = 0; r < N; r++) begin
          y5_value_q[h][r] <= v_data[
              (h*M + 32'(y4_index_q[(h*N+r)*SlotBits +: SlotBits]))*Simd*VBits +: Simd*VBits];
        end
      end
    end
  end

  always_comb begin
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      for (int unsigned r = 0; r < N; r++) begin
        survivor_word[(h*N+r)*ScoreBits +: ScoreBits] = six_score_q[h][r];
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (s6_q.valid) survivor_mem[survivor_wr_q] <= survivor_word;
    x1_score_q <= survivor_mem[survivor_rd_q];
  end

  // ---- Rows whose scores are complete --------------------------------------------------------
  localparam int unsigned ScoredBits = HeadsPar * ScoreBits + GroupBits + CountBits + 2;

  logic [RowBits:0] scored_wr_q, scored_rd_q;
  logic [ScoredBits-1:0] scored_mem [RowDepth];
  logic [HeadsPar*ScoreBits-1:0] row_max, row_max_q, x_max, x1_max_q;
  logic [GroupBits-1:0] row_groups, row_groups_q, x_groups, x_group_q;
  logic [CountBits-1:0] x_tail;
  logic x_valid, x_row_last, x_frame_last, x_user;

  always_comb begin
    row_groups = (s6_q.row_first ? '0 : row_groups_q) + 1'b1;
    row_max = row_max_q;
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      if (s6_q.row_first || six_max_q[h] > $signed(row_max_q[h*ScoreBits +: ScoreBits])) begin
        row_max[h*ScoreBits +: ScoreBits] = six_max_q[h];
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (s6_q.valid) begin
      row_max_q <= row_max;
      row_groups_q <= row_groups;
    end
  end

  always_ff @(posedge clk_i) begin
    if (s6_q.valid && s6_q.row_last) begin
      scored_mem[scored_wr_q[RowBits-1:0]] <=
          {row_max, row_groups, s6_q.count, s6_q.frame_last, s6_q.user};
    end
  end

  assign x_valid = scored_wr_q != scored_rd_q;
  assign {x_max, x_groups, x_tail, x_frame_last, x_user} = scored_mem[scored_rd_q[RowBits-1:0]];

  // ---- Exp stage -----------------------------------------------------------------------------
  logic [GroupBits-1:0] x1_groups_q, x2_groups_q, x3_groups_q, x4_groups_q;
  logic [EntryBits-1:0] x2_entry_q [HeadsPar][N];
  logic [ExpBits-1:0] x3_exp_q [HeadsPar][N];
  logic [SumBits-1:0] exp_tree [HeadsPar][N];
  logic [SumBits-1:0] x4_sum_q [HeadsPar];
  logic [HeadsPar*N*ExpBits-1:0] exp_mem [GroupDepth];
  logic [HeadsPar*N*ExpBits-1:0] exp_word, y1_exp_q;

  assign x_issue = x_valid && exp_credit_q != '0;
  assign x_row_last = x_group_q == x_groups - 1'b1;

  always_comb begin
    x0.valid = x_issue;
    x0.first = x_group_q == '0;
    x0.last = x_row_last;
    x0.row_first = x_group_q == '0;
    x0.row_last = x_row_last;
    x0.frame_last = x_frame_last;
    x0.user = x_user;
    x0.count = x_row_last ? x_tail : CountBits'(M);
  end

  // Table index of a score; absent survivors give any index.
  function automatic logic [EntryBits-1:0] exp_entry(
    input logic signed [ScoreBits-1:0] top, input logic signed [ScoreBits-1:0] score
  );
    logic [DiffBits-1:0] index;
    index = (DiffBits'(top) - DiffBits'(score) + DiffBits'(ExpOffset)) >> ExpShift;
    exp_entry = (index > DiffBits'(ExpEntries - 1)) ? EntryBits'(ExpEntries - 1)
                                                    : EntryBits'(index);
  endfunction

  always_comb begin
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      for (int unsigned r = 0; r < N; r++) begin
        exp_tree[h][r] = SumBits'(x3_exp_q[h][r]);
        exp_word[(h*N+r)*ExpBits +: ExpBits] = x3_exp_q[h][r];
      end
      for (int unsigned s = 1; s < N; s = 2 * s) begin
        for (int unsigned r = 0; r + s < N; r = r + 2 * s) begin
          exp_tree[h][r] = exp_tree[h][r] + exp_tree[h][r+s];
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    x1_max_q <= x_max;
    x1_groups_q <= x_groups;
    x2_groups_q <= x1_groups_q;
    x3_groups_q <= x2_groups_q;
    x4_groups_q <= x3_groups_q;
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      for (int unsigned r = 0; r < N; r++) begin
        x2_entry_q[h][r] <= exp_entry(x1_max_q[h*ScoreBits +: ScoreBits],
                                      x1_score_q[(h*N+r)*ScoreBits +: ScoreBits]);
        x3_exp_q[h][r] <= (CountBits'(r) < x2_q.count) ? exp_rom[x2_entry_q[h][r]] : '0;
      end
      if (x3_q.valid) x4_sum_q[h] <= exp_tree[h][0] + (x3_q.first ? '0 : x4_sum_q[h]);
    end
  end

  always_ff @(posedge clk_i) begin
    if (x3_q.valid) exp_mem[exp_wr_q] <= exp_word;
    y1_exp_q <= exp_mem[exp_addr];
  end

  // ---- Reciprocals of the rows' sums ---------------------------------------------------------
  localparam int unsigned ReadyBits = HeadsPar * (RecipBits + PosBits) + GroupBits + 2;

  logic [GroupBits-1:0] x5_groups_q, x6_groups_q, x7_groups_q, y_groups;
  logic [PosBits-1:0] x4_pos [HeadsPar];
  logic [PosBits-1:0] x5_pos_q [HeadsPar];
  logic [PosBits-1:0] x6_pos_q [HeadsPar];
  logic [SumBits-1:0] x5_sum_q [HeadsPar];
  logic [IndexBits-1:0] x6_index_q [HeadsPar];
  logic [HeadsPar*PosBits-1:0] x7_pos_q, y_pos;
  logic [HeadsPar*RecipBits-1:0] x7_recip_q, y_recip;
  logic [RowBits:0] ready_wr_q, ready_rd_q;
  logic [ReadyBits-1:0] ready_mem [RowDepth];
  logic y_valid, y_frame_last, y_user;

  // The bits below the leading one, which stands at `pos`.
  function automatic logic [IndexBits-1:0] recip_index(
    input logic [SumBits-1:0] sum, input logic [PosBits-1:0] pos
  );
    logic [NormalBits-1:0] normal;
    normal = NormalBits'(sum) << (PosBits'(PosMax) - pos);
    recip_index = IndexBits'((PosMax >= IndexBits) ? normal >> (PosMax - IndexBits)
                                                   : normal << (IndexBits - PosMax));
  endfunction

  always_comb begin
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      x4_pos[h] = '0;
      for (int unsigned b = 0; b < SumBits; b++) begin
        if (x4_sum_q[h][b]) x4_pos[h] = PosBits'(b);
      end
    end
  end

  always_ff @(posedge clk_i) begin
    x5_groups_q <= x4_groups_q;
    x6_groups_q <= x5_groups_q;
    x7_groups_q <= x6_groups_q;
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      x5_pos_q[h] <= x4_pos[h];
      x5_sum_q[h] <= x4_sum_q[h];
      x6_pos_q[h] <= x5_pos_q[h];
      x6_index_q[h] <= recip_index(x5_sum_q[h], x5_pos_q[h]);
      x7_pos_q[h*PosBits +: PosBits] <= x6_pos_q[h];
      x7_recip_q[h*RecipBits +: RecipBits] <= recip_rom[x6_index_q[h]];
    end
  end

  always_ff @(posedge clk_i) begin
    if (x7_q.valid && x7_q.row_last) begin
      ready_mem[ready_wr_q[RowBits-1:0]] <=
          {x7_recip_q, x7_pos_q, x7_groups_q, x7_q.frame_last, x7_q.user};
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      survivor_wr_q <= '0;
      survivor_rd_q <= '0;
      scored_wr_q <= '0;
      scored_rd_q <= '0;
      x_group_q <= '0;
      exp_wr_q <= '0;
      ready_wr_q <= '0;
      x1_q <= '0;
      x2_q <= '0;
      x3_q <= '0;
      x4_q <= '0;
      x5_q <= '0;
      x6_q <= '0;
      x7_q <= '0;
    end else begin
      if (s6_q.valid) survivor_wr_q <= survivor_wr_q + 1'b1;
      if (s6_q.valid && s6_q.row_last) scored_wr_q <= scored_wr_q + 1'b1;
      if (x_issue) begin
        survivor_rd_q <= survivor_rd_q + 1'b1;
        x_group_q <= x_row_last ? '0 : x_group_q + 1'b1;
        if (x_row_last) scored_rd_q <= scored_rd_q + 1'b1;
      end
      if (x3_q.valid) exp_wr_q <= exp_wr_q + 1'b1;
      if (x7_q.valid && x7_q.row_last) ready_wr_q <= ready_wr_q + 1'b1;
      x1_q <= x0;
      x2_q <= x1_q;
      x3_q <= x2_q;
      x4_q <= x3_q;
      x5_q <= x4_q;
      x6_q <= x5_q;
      x7_q <= x6_q;
    end
  end

  assign y_valid = ready_wr_q != ready_rd_q;
  assign {y_recip, y_pos, y_groups, y_frame_last, y_user} = ready_mem[ready_rd_q[RowBits-1:0]];

  // ---- Value stage: issue --------------------------------------------------------------------
  logic [GroupBits-1:0] y_group_q;
  logic [ChunkBits-1:0] y_chunk_q;
  logic [HeadGroupBits-1:0] y_head_group_q;
  logic [AddrBits-1:0] y_row_base_q, y_base_q;  // relative to the frame
  logic [AddrBits-1:0] y1_addr_q, y2_addr_q, y3_addr_q;
  logic [2:0] v_take_q;
  logic y_group_last;

  assign y_chunk_first = y_group_q == '0;
  assign y_group_last = y_group_q == y_groups - 1'b1;
  assign y_chunk_last = y_chunk_q == ChunkBits'(Chunks - 1);
  assign y_row_last = y_chunk_last && y_group_last;
  assign y_issue = y_valid && v_valid && (!y_chunk_first || out_credit_q != '0);
  assign v_take = y_issue && y_row_last && y_frame_last;
  assign exp_addr = exp_rd_q + PtrBits'(y_group_q);
  assign v_addr = y3_addr_q;
  assign v_release = v_take_q[2];

  always_comb begin
    y0.valid = y_issue;
    y0.first = y_chunk_first;
    y0.last = y_group_last;
    y0.row_first = y_chunk_q == '0;
    y0.row_last = y_chunk_last;
    y0.frame_last = y_frame_last && y_chunk_last;
    y0.user = y_user && y_frame_last && y_chunk_last;
    y0.count = '0;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      y_group_q <= '0;
      y_chunk_q <= '0;
      y_head_group_q <= '0;
      y_row_base_q <= '0;
      y_base_q <= '0;
      exp_rd_q <= '0;
      ready_rd_q <= '0;
    end else if (y_issue) begin
      y_group_q <= y_group_last ? '0 : y_group_q + 1'b1;
      y_base_q <= y_group_last ? y_row_base_q : y_base_q + AddrBits'(GroupStep);
      if (y_group_last) y_chunk_q <= y_chunk_last ? '0 : y_chunk_q + 1'b1;
      if (y_row_last) begin
        ready_rd_q <= ready_rd_q + 1'b1;
        exp_rd_q <= exp_rd_q + PtrBits'(y_groups);
        if (y_head_group_q == HeadGroupBits'(HeadGroups - 1)) begin
          y_head_group_q <= '0;
          y_row_base_q <= '0;
          y_base_q <= '0;
        end else begin
          y_head_group_q <= y_head_group_q + 1'b1;
          y_row_base_q <= y_row_base_q + AddrBits'(Chunks);
          y_base_q <= y_row_base_q + AddrBits'(Chunks);
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      v_take_q <= '0;
      y1_q <= '0;
      y2_q <= '0;
      y3_q <= '0;
      y4_q <= '0;
      y5_q <= '0;
      y6_q <= '0;
      y7_q <= '0;
      y8_q <= '0;
      y9_q <= '0;
    end else begin
      v_take_q <= {v_take_q[1:0], v_take};
      y1_q <= y0;
      y2_q <= y1_q;
      y3_q <= y2_q;
      y4_q <= y3_q;
      y5_q <= y4_q;
      y6_q <= y5_q;
      y7_q <= y6_q;
      y8_q <= y7_q;
      y8_q.valid <= y7_q.valid && y7_q.last;
      y9_q <= y8_q;
    end
  end

  // ---- Value stage: probabilities ------------------------------------------------------------
  logic [HeadsPar*RecipBits-1:0] y1_recip_q;
  logic [HeadsPar*PosBits-1:0] y1_pos_q, y2_pos_q;
  logic [ScaledBits-1:0] y2_scaled_q [HeadsPar][N];
  logic [AlignedBits-1:0] y3_aligned_q [HeadsPar][N];
  logic [ProbBits-1:0] y4_prob_q [HeadsPar][N];
  logic [ProbBits-1:0] y5_prob_q [HeadsPar][N];

  always_ff @(posedge clk_i) begin
    y1_addr_q <= v_base + y_base_q + AddrBits'(y_chunk_q);
    y2_addr_q <= y1_addr_q;
    y3_addr_q <= y2_addr_q;
    y1_recip_q <= y_recip;
    y1_pos_q <= y_pos;
    y2_pos_q <= y1_pos_q;
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      for (int unsigned r = 0; r < N; r++) begin
        y2_scaled_q[h][r] <= ScaledBits'(y1_exp_q[(h*N+r)*ExpBits +: ExpBits])
                             * ScaledBits'(y1_recip_q[h*RecipBits +: RecipBits]);
        // A left shift by PosMax - l, so that the rounding shift is a constant.
        y3_aligned_q[h][r] <= AlignedBits'(y2_scaled_q[h][r])
                              << (PosBits'(PosMax) - y2_pos_q[h*PosBits +: PosBits]);
        y4_prob_q[h][r] <= ProbBits'(num_pkg::saturate(
            num_pkg::round_shift(64'(y3_aligned_q[h][r]), int'(PosMax) + ProbShift, HalfUp != 0),
            ProbBits, 1'b0));
        y5_prob_q[h][r] <= y4_prob_q[h][r];
      end
    end
  end

  // ---- Value stage: products, sums, requantisation -------------------------------------------
  logic signed [PvBits-1:0] pv [HeadsPar][N][Simd];
  logic signed [AccBits-1:0] pv_tree [HeadsPar][N][Simd];
  logic signed [AccBits-1:0] y7_sum_q [HeadsPar][Simd];
  logic signed [AccBits-1:0] y8_acc_q [HeadsPar][Simd];
  logic [HeadsPar*Simd*OutBits-1:0] y9_out_q;

  function automatic logic signed [PvBits-1:0] multiply_pv(
    input logic [ProbBits-1:0] a, input logic [VBits-1:0] b
  );
    multiply_pv = PvBits'(a) * ((VSigned != 0) ? PvBits'(signed'(b)) : PvBits'(b));
  endfunction

  if (MultDsp != 0) begin : gen_pv_dsp
    (* use_dsp = "yes" *) logic signed [PvBits-1:0] product_q [HeadsPar][N][Simd];
    always_ff @(posedge clk_i) begin
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        for (int unsigned r = 0; r < N; r++) begin
          for (int unsigned c = 0; c < Simd; c++) begin
            product_q[h][r][c] <= multiply_pv(y5_prob_q[h][r], y5_value_q[h][r][c*VBits +: VBits]);
          end
        end
      end
    end
    assign pv = product_q;
  end else begin : gen_pv_lut
    (* use_dsp = "no" *) logic signed [PvBits-1:0] product_q [HeadsPar][N][Simd];
    always_ff @(posedge clk_i) begin
      for (int unsigned h = 0; h < HeadsPar; h++) begin
        for (int unsigned r = 0; r < N; r++) begin
          for (int unsigned c = 0; c < Simd; c++) begin
            product_q[h][r][c] <= multiply_pv(y5_prob_q[h][r], y5_value_q[h][r][c*VBits +: VBits]);
          end
        end
      end
    end
    assign pv = product_q;
  end

  always_comb begin
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      for (int unsigned c = 0; c < Simd; c++) begin
        for (int unsigned r = 0; r < N; r++) pv_tree[h][r][c] = AccBits'(pv[h][r][c]);
        for (int unsigned s = 1; s < N; s = 2 * s) begin
          for (int unsigned r = 0; r + s < N; r = r + 2 * s) begin
            pv_tree[h][r][c] = pv_tree[h][r][c] + pv_tree[h][r+s][c];
          end
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    for (int unsigned h = 0; h < HeadsPar; h++) begin
      for (int unsigned c = 0; c < Simd; c++) begin
        y7_sum_q[h][c] <= pv_tree[h][0][c];
        if (y7_q.valid) y8_acc_q[h][c] <= y7_sum_q[h][c] + (y7_q.first ? '0 : y8_acc_q[h][c]);
        y9_out_q[(h*Simd+c)*OutBits +: OutBits] <= OutBits'(num_pkg::saturate(
            num_pkg::round_shift(64'(y8_acc_q[h][c]), Shift, HalfUp != 0),
            OutBits, OutSigned != 0));
      end
    end
  end

  // ---- Output: the chunks of a row, head after head ------------------------------------------
  logic [OutPtrBits:0] out_wr_q;
  logic [HeadsPar-1:0][OutPtrBits:0] out_rd_q;
  logic [HeadsPar*Simd*OutBits-1:0] out_heads;
  logic [1:0] out_mark_mem [OutDepth];
  logic [HeadBits-1:0] out_head_q;
  logic [ChunkBits-1:0] out_chunk_q;
  logic out_valid, out_ready, out_chunk_end, out_head_end, out_last, out_user;

  for (genvar h = 0; h < HeadsPar; h++) begin : gen_out
    logic [Simd*OutBits-1:0] mem [OutDepth];

    always_ff @(posedge clk_i) begin
      if (y9_q.valid) mem[out_wr_q[OutPtrBits-1:0]] <= y9_out_q[h*Simd*OutBits +: Simd*OutBits];
    end

    assign out_heads[h*Simd*OutBits +: Simd*OutBits] = mem[out_rd_q[h][OutPtrBits-1:0]];
  end

  always_ff @(posedge clk_i) begin
    if (y9_q.valid) out_mark_mem[out_wr_q[OutPtrBits-1:0]] <= {y9_q.user, y9_q.frame_last};
  end

  assign out_valid = out_rd_q[out_head_q] != out_wr_q;
  assign out_chunk_end = out_chunk_q == ChunkBits'(Chunks - 1);
  assign out_head_end = out_head_q == HeadBits'(HeadsPar - 1);
  assign out_pop = out_valid && out_ready && out_head_end;
  assign {out_user, out_last} = out_mark_mem[out_rd_q[HeadsPar-1][OutPtrBits-1:0]]
                                & {2{out_head_end}};

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      out_wr_q <= '0;
      out_rd_q <= '0;
      out_head_q <= '0;
      out_chunk_q <= '0;
    end else begin
      if (y9_q.valid) out_wr_q <= out_wr_q + 1'b1;
      if (out_valid && out_ready) begin
        out_rd_q[out_head_q] <= out_rd_q[out_head_q] + 1'b1;
        out_chunk_q <= out_chunk_end ? '0 : out_chunk_q + 1'b1;
        if (out_chunk_end) out_head_q <= out_head_end ? '0 : out_head_q + 1'b1;
      end
    end
  end

  skid_buffer #(
      .DataBits(Simd * OutBits)
  ) u_skid (
      .clk_i,
      .rst_ni,
      .s_axis_tdata(out_heads[32'(out_head_q)*Simd*OutBits +: Simd*OutBits]),
      .s_axis_tvalid(out_valid),
      .s_axis_tready(out_ready),
      .s_axis_tlast(out_last),
      .s_axis_tuser(out_user),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );
endmodule
