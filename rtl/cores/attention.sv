// SPDX-License-Identifier: Apache-2.0

`include "../lib/memory.svh"

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
/// With RecipEntries the reciprocal is addressed linearly instead, in two segments:
///
///   c = (sum(e) + NearOffset) >> NearShift
///   c < RecipEntries:  i = max(c, 0), l = 0
///   otherwise:  i = RecipEntries + clamp((sum(e) + FarOffset) >> FarShift, 0, RecipEntries - 1),
///               l = FarProbShift
///
/// N = M is dense attention. Streams: q, k and v of one frame have the same number of tokens,
/// Channels / Simd beats each, head-major; so has the output. K and V are double-buffered per
/// frame, q waits for K.
///
/// A block is Tp tokens (fewer at the end of a frame: absent ones are computed and dropped) times
/// HeadsPar heads, Rows rows that share every word of K and V. Four stages work on consecutive
/// blocks, each with G = ceil(tokens / M) groups of keys and D = Channels / Heads / Simd chunks:
///   score   G * D cycles, M * Simd products per row, N:M selection once per group
///   exp     G * N / Par cycles, Par survivors of a row per cycle
///   prob    G * N / Par cycles, Par products per row
///   value   D * G cycles, N * Simd products per row
/// Par is the least divisor of N with N / Par <= D, so that softmax never is the slowest. No pipeline
/// stalls half-way: a stage takes credits for the buffer behind it before it starts a step.
///
/// With MultDsp the products of narrow operands share DSP blocks, which also add them up (dsp_dots): two
/// keys and two tokens of a block a score product, two channels a value product, and two tokens where N = M.
///
/// A frame takes ceil(tokens / Tp) * max(Heads / HeadsPar * G * D, Tp * Channels / Simd) cycles (an
/// incomplete last Tp counts the tokens that it has) and, in steady state, not one more. A frame starts
/// when all its keys have come, so one behind a shorter frame waits for them.
///
/// With Sets > 1 layers share the core: s_axis_set has a beat per frame, the number of the set of tables,
/// offsets and shifts that it uses. The scores of a frame wait for it; its number goes with every block to
/// the stages that look something up.
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
    // Query tokens computed side by side.
    parameter int unsigned Tp = 1,
    parameter int unsigned QBits = 8,
    parameter bit QSigned = 1,
    parameter int unsigned KBits = 8,
    parameter bit KSigned = 1,
    parameter int unsigned VBits = 8,
    parameter bit VSigned = 1,
    parameter int unsigned ExpOffset = 32,
    parameter int unsigned ExpShift = 6,
    parameter int unsigned ExpEntries = 128,
    parameter int unsigned ExpBits = 10,
    parameter bit ExpSigned = 0,
    // Bits below the leading one that address the reciprocal table.
    parameter int unsigned IndexBits = 6,
    parameter int unsigned RecipBits = 13,
    parameter bit RecipSigned = 0,
    parameter int ProbShift = 4,
    parameter int unsigned ProbBits = 8,
    parameter bit ProbSigned = 0,
    parameter int unsigned OutBits = 8,
    parameter bit OutSigned = 1,
    parameter int Shift = 8,
    // 1: round ties up, 0: to even.
    parameter bit HalfUp = 0,
    // 1: products in DSP blocks, 0: in LUTs.
    parameter bit MultDsp = 0,
    // 2: DSP blocks at twice the clock, in which two chains of inner products share the blocks of one.
    parameter int unsigned Pump = 1,
    // Memories of K and V: 0: LUT RAM, 1: block RAM, 2: UltraRAM.
    parameter int unsigned KvRam = 0,
    // 0: the reciprocal is addressed by the leading one, else entries of each of its two segments.
    parameter int unsigned RecipEntries = 0,
    parameter int NearOffset = 0,
    parameter int unsigned NearShift = 0,
    parameter int FarOffset = 0,
    parameter int unsigned FarShift = 0,
    // Added to ProbShift in the far segment.
    parameter int unsigned FarProbShift = 0,
    // With several sets: greatest minus least ExpShift, NearShift, FarShift. Those three are then the
    // greatest, ExpOffset, NearOffset and FarOffset those of the greatest magnitude.
    parameter int unsigned ExpSpan = 0,
    parameter int unsigned NearSpan = 0,
    parameter int unsigned FarSpan = 0,
    parameter int unsigned Sets = 1,
    // ExpEntries words per set, each at a multiple of a power of 2.
    parameter ExpFile = "",
    // 2^IndexBits or 2 * RecipEntries words per set, likewise.
    parameter RecipFile = "",
    // A settings_t per set.
    parameter SettingsFile = ""
) (
    input  logic clk_i,
    /* verilator lint_off UNUSEDSIGNAL */
    input  logic clk2x_i,  // only where Pump = 2
    /* verilator lint_on UNUSEDSIGNAL */
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

  function automatic int unsigned bits_for(int unsigned values);
    bits_for = values > 1 ? $clog2(values) : 1;
  endfunction

  function automatic int unsigned larger(int unsigned a, int unsigned b);
    larger = a > b ? a : b;
  endfunction

  // Bits of a signed number up to the size of x.
  function automatic int unsigned signed_bits(int x);
    signed_bits = $clog2((x < 0 ? -x : x) + 1) + 1;
  endfunction

  // Least divisor of N that keeps the softmax as fast as the products.
  function automatic int unsigned softmax_lanes(int unsigned chunks);
    softmax_lanes = N;
    for (int unsigned d = N; d > 0; d--) begin
      if (N % d == 0 && N / d <= chunks) softmax_lanes = d;
    end
  endfunction

  localparam int unsigned HeadDim = Channels / Heads;
  localparam int unsigned Chunks = HeadDim / Simd;
  localparam int unsigned HeadGroups = Heads / HeadsPar;
  localparam int unsigned MaxGroups = (MaxTokens + M - 1) / M;
  localparam int unsigned GroupStep = HeadGroups * Chunks;  // words of a group of keys
  localparam int unsigned Rows = Tp * HeadsPar;
  localparam int unsigned Par = softmax_lanes(Chunks);
  localparam int unsigned Subs = N / Par;  // steps per group of the exp and prob stages

  localparam int unsigned AddrBits = $clog2(2 * MaxGroups * GroupStep);
  localparam int unsigned GroupBits = bits_for(MaxGroups);
  localparam int unsigned CountBits = $clog2(M + 1);
  localparam int unsigned ChunkBits = bits_for(Chunks);
  localparam int unsigned HeadBits = bits_for(HeadsPar);
  localparam int unsigned HeadGroupBits = bits_for(HeadGroups);
  localparam int unsigned TokenBits = bits_for(Tp);
  localparam int unsigned SubBits = bits_for(Subs);
  localparam int unsigned SlotBits = bits_for(M);

  localparam int unsigned KDigits = (KBits + 1) / 2;
  localparam int unsigned VDigits = (VBits + 1) / 2;
  localparam int unsigned ExpDigits = (ExpBits + 1) / 2;

  // All sums of products are signed.
  localparam int unsigned ProductBits = QBits + KBits + (QSigned || KSigned ? 0 : 1);
  localparam int unsigned QWidth = QBits + (QSigned ? 2 : 3);  // of a multiple of a query
  localparam int unsigned PartBits = ProductBits + $clog2(Simd);
  localparam int unsigned ScoreBits = ProductBits + $clog2(HeadDim);
  localparam int unsigned DiffBits = larger(ScoreBits, ExpShift) + 1;
  localparam int unsigned OffsetBits = bits_for(ExpOffset + 1);
  localparam int unsigned EntryBits = bits_for(ExpEntries);
  localparam int unsigned ExpWords = ((Sets - 1) << $clog2(ExpEntries)) + ExpEntries;
  localparam int unsigned ExpAddrBits = bits_for(ExpWords);
  localparam int unsigned ExpPartBits = ExpBits + $clog2(Par);
  localparam int unsigned SumBits = ExpBits + $clog2(MaxGroups * N);
  // The largest l, and what tells l: the position of the leading one, or whether the segment is the far one.
  localparam int unsigned PosMax = RecipEntries > 0 ? FarProbShift : SumBits - 1;
  localparam int unsigned PosBits = RecipEntries > 0 ? 1 : bits_for(SumBits);
  localparam int unsigned RecipSize = RecipEntries > 0 ? 2 * RecipEntries : 1 << IndexBits;
  localparam int unsigned RecipWords = ((Sets - 1) << $clog2(RecipSize)) + RecipSize;
  localparam int unsigned RecipAddrBits = bits_for(RecipWords);
  localparam int unsigned RecipIndexBits = RecipEntries > 0 ? $clog2(2 * RecipEntries) : IndexBits;
  // The sum moved by an offset, and numbers of entries: signed.
  localparam int unsigned EndBits = signed_bits(int'(RecipEntries));
  localparam int unsigned NearBits = larger(larger(SumBits + 1, signed_bits(NearOffset)) + 1, EndBits);
  localparam int unsigned FarBits = larger(larger(SumBits + 1, signed_bits(FarOffset)) + 1, EndBits);
  localparam int unsigned ScaledBits = ExpBits + RecipBits;
  localparam int unsigned AlignedBits = ScaledBits + PosMax;
  localparam int unsigned PvBits = ProbBits + VBits + (VSigned ? 0 : 1);
  localparam int unsigned PvPartBits = PvBits + $clog2(N);
  localparam int unsigned AccBits = PvBits + $clog2(MaxGroups * N);
  localparam int unsigned SetBits = bits_for(Sets);
  // The least shifts, and what a set may add to them.
  localparam int unsigned ExpLeast = ExpShift - ExpSpan;
  localparam int unsigned NearLeast = NearShift - NearSpan;
  localparam int unsigned FarLeast = FarShift - FarSpan;
  localparam int unsigned ExpMoreBits = bits_for(ExpSpan + 1);
  localparam int unsigned NearMoreBits = bits_for(NearSpan + 1);
  localparam int unsigned FarMoreBits = bits_for(FarSpan + 1);
  localparam bit OutExact = OutSigned && Shift <= 0 && int'(AccBits) - Shift <= int'(OutBits);

  // Pipelines: cycles from a step's issue to the register that holds ...
  localparam int unsigned ScoreAt =
      !MultDsp ? KDigits + 3 + $clog2(Simd) : Pump == 1 ? Simd + 4 : (Simd + 1) / 2 + 5;  // ... the score
  localparam int unsigned TopAt = ScoreAt + (N == M ? $clog2(M) : 3);  // ... the group's maximum
  localparam int unsigned ExpAt = 4;  // ... the exponentials
  localparam int unsigned SumAt = ExpAt + $clog2(Par) + 1;  // ... their sum
  localparam int unsigned RecipAt = SumAt + 3;  // ... its reciprocal
  localparam int unsigned ScaledAt = 1 + (MultDsp ? 2 : ExpDigits + 1);
  localparam int unsigned ProbAt = ScaledAt + 3;  // ... the probabilities
  localparam int unsigned AccAt =
      !MultDsp ? VDigits + 4 + $clog2(N) : Pump == 1 ? N + 5 : (N + 1) / 2 + 6;  // ... the sum of the values
  localparam int unsigned OutAt = AccAt + 2;  // ... the output
  localparam int unsigned SurvivorAt = (N == M) ? ScoreAt : TopAt;

  // Buffers: what a block needs, and what comes and goes while its last step passes the pipeline.
  localparam int unsigned SurvivorPtrBits = bits_for(MaxGroups + (TopAt + Subs) / Chunks + 2);
  localparam int unsigned ExpPtrBits = bits_for(MaxGroups * Subs + RecipAt + 2);
  localparam int unsigned ProbPtrBits =
      bits_for((Subs == 1 ? MaxGroups : 2 * MaxGroups) + ProbAt + 3);
  localparam int unsigned BlockPtrBits =
      bits_for(5 + (TopAt + RecipAt + ProbAt + 4 + Chunks - 1) / Chunks);
  localparam int unsigned OutPtrBits =
      bits_for(2 * Chunks * (Tp > 1 ? HeadGroups : 1) + OutAt + 4);

  if (Channels % Heads != 0 || HeadDim % Simd != 0 || Heads % HeadsPar != 0) begin : gen_bad_shape
    $error("attention: Heads must divide Channels, Simd a head, HeadsPar Heads");
  end
  if (N == 0 || N > M || MaxTokens == 0 || ExpOffset >> ExpShift != 0) begin : gen_bad_range
    $error("attention: needs 1 <= N <= M, MaxTokens >= 1, ExpOffset < 2^ExpShift");
  end
  if (Tp == 0 || KvRam > 2) begin : gen_bad_folding
    $error("attention: needs Tp >= 1, KvRam <= 2");
  end
  if (Sets == 0 || Sets > 64 || ExpSpan > ExpShift || NearSpan > NearShift || FarSpan > FarShift
      || (Sets > 1 && larger(ExpShift, larger(NearShift, FarShift)) > 31)) begin : gen_bad_sets
    $error("attention: needs 1 <= Sets <= 64, no span larger than its shift, settings that fit");
  end
  if (ExpSigned || RecipSigned || ProbSigned) begin : gen_bad_sign
    $error("attention: exp, recip and prob must be unsigned");
  end
  if (AlignedBits > 62 || int'(ScaledBits) - ProbShift > 62 || AccBits > 62) begin : gen_bad_width
    $error("attention: an intermediate value needs more than 62 bits");
  end

  // Tables of many sets fill a block RAM, which has two ports. Yosys knows no ROM in LUT RAM: "registers" is logic.
  /* verilator lint_off UNUSEDPARAM */
  localparam ExpRom = Sets == 1 ? "auto" : ExpWords > 256 ? "block" : "distributed";
  localparam ExpRam = Sets > 1 && ExpWords <= 256 ? "registers" : ExpRom;
  localparam RecipRom = Sets == 1 ? "auto" : RecipWords > 256 ? "block" : "distributed";
  localparam RecipRam = Sets > 1 && RecipWords <= 256 ? "registers" : RecipRom;
  /* verilator lint_on UNUSEDPARAM */

  (* rom_style = ExpRom, ram_style = ExpRam *) logic [ExpBits-1:0] exp_rom [ExpWords];
  (* rom_style = RecipRom, ram_style = RecipRam *) logic [RecipBits-1:0] recip_rom [RecipWords];
  initial begin
    if (ExpFile != "") $readmemh(`MEMORY_FILE(ExpFile), exp_rom);
    if (RecipFile != "") $readmemh(`MEMORY_FILE(RecipFile), recip_rom);
  end

  // The frames of k and v are those of q.
  logic unused;
  assign unused = ^{s_axis_k_tuser, s_axis_v_tuser, s_axis_set_tlast, s_axis_set_tuser};

  // Rounding and saturation in two steps: first the quotient rounded down, whether to round it up, and
  // whether it is at or beyond the end of the range, where rounding up changes nothing any more.
  function automatic logic round_up(logic signed [63:0] x, int s);
    logic half, odd, sticky;
    half = 1'(x >> (s - 1));
    odd = 1'(x >> s);
    sticky = (x & ~(64'hFFFF_FFFF_FFFF_FFFF << (s - 1))) != 64'd0;
    round_up = s > 0 && half && (HalfUp || sticky || odd);
  endfunction

  function automatic logic signed [63:0] quotient(logic signed [63:0] x, int s);
    quotient = s > 0 ? x >>> s : x <<< -s;
  endfunction

  // ---- Memories of K and V -------------------------------------------------------------------
  logic k_valid, k_take, v_valid, v_take;
  logic [GroupBits-1:0] k_last;
  logic [CountBits-1:0] k_tail;
  logic [AddrBits-1:0] k_base, k_addr_q, v_base, v_addr_q;  // _q: relative to the frame
  logic [HeadsPar*M*Simd*KBits-1:0] k_data;
  logic [HeadsPar*M*Simd*VBits-1:0] v_data;

  frame_banks #(
      .DataBits(Simd * KBits),
      .Heads(HeadsPar),
      .Lanes(M),
      .HeadGroups(HeadGroups),
      .Chunks(Chunks),
      .MaxTokens(MaxTokens),
      .Ram(KvRam)
  ) u_k (
      .clk_i,
      .rst_ni,
      .s_axis_tdata(s_axis_k_tdata),
      .s_axis_tvalid(s_axis_k_tvalid),
      .s_axis_tready(s_axis_k_tready),
      .s_axis_tlast(s_axis_k_tlast),
      .frame_valid_o(k_valid),
      .frame_last_o(k_last),
      .frame_tail_o(k_tail),
      .frame_base_o(k_base),
      .take_i(k_take),
      .addr_i(k_base + k_addr_q),
      .data_o(k_data)
  );

  /* verilator lint_off PINCONNECTEMPTY */
  frame_banks #(
      .DataBits(Simd * VBits),
      .Heads(HeadsPar),
      .Lanes(M),
      .HeadGroups(HeadGroups),
      .Chunks(Chunks),
      .MaxTokens(MaxTokens),
      .Ram(KvRam)
  ) u_v (
      .clk_i,
      .rst_ni,
      .s_axis_tdata(s_axis_v_tdata),
      .s_axis_tvalid(s_axis_v_tvalid),
      .s_axis_tready(s_axis_v_tready),
      .s_axis_tlast(s_axis_v_tlast),
      .frame_valid_o(v_valid),
      .frame_last_o(),  // the blocks bring their own count
      .frame_tail_o(),
      .frame_base_o(v_base),
      .take_i(v_take),
      .addr_i(v_base + v_addr_q),
      .data_o(v_data)
  );
  /* verilator lint_on PINCONNECTEMPTY */

  // ---- Queries: those in use, those coming ---------------------------------------------------
  // Several tokens wait for each other with all their heads, one token only with those of a block.
  localparam int unsigned QGroups = Tp > 1 ? HeadGroups : 1;
  localparam int unsigned QBits2 = bits_for(QGroups * Chunks);

  logic [1:0] q_full_q, q_last_q, q_user_q;
  logic [1:0][TokenBits-1:0] q_lanes_q;  // tokens - 1
  logic q_wr_q, q_rd_q, q_accept, q_chunk_end, q_head_end, q_token_end, q_bank_end, q_free;
  logic [HeadBits-1:0] q_head_q;
  logic [ChunkBits-1:0] q_chunk_q;
  logic [TokenBits-1:0] q_token_q;
  logic [QBits2-1:0] q_word_q, q_base_q, s_word_q;

  assign s_axis_q_tready = !q_full_q[q_wr_q];
  assign q_accept = s_axis_q_tvalid && s_axis_q_tready;
  assign q_chunk_end = q_chunk_q == ChunkBits'(Chunks - 1);
  assign q_head_end = q_chunk_end && q_head_q == HeadBits'(HeadsPar - 1);
  assign q_token_end = q_head_end && q_word_q == QBits2'(QGroups * Chunks - 1);
  assign q_bank_end = q_token_end && (q_token_q == TokenBits'(Tp - 1) || s_axis_q_tlast);

  always_ff @(posedge clk_i) begin
    if (q_accept) begin
      q_last_q[q_wr_q] <= s_axis_q_tlast;
      q_user_q[q_wr_q] <= s_axis_q_tuser;
      q_lanes_q[q_wr_q] <= q_token_q;
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      q_full_q <= '0;
      q_wr_q <= 1'b0;
      q_rd_q <= 1'b0;
      q_head_q <= '0;
      q_chunk_q <= '0;
      q_token_q <= '0;
      q_word_q <= '0;
      q_base_q <= '0;
    end else begin
      if (q_free) begin
        q_full_q[q_rd_q] <= 1'b0;
        q_rd_q <= !q_rd_q;
      end
      if (q_accept) begin
        q_chunk_q <= q_chunk_end ? '0 : q_chunk_q + 1'b1;
        q_word_q <= q_chunk_end ? q_base_q : q_word_q + 1'b1;
        if (q_chunk_end) q_head_q <= q_head_end ? '0 : q_head_q + 1'b1;
        if (q_head_end) begin
          q_word_q <= q_token_end ? '0 : q_word_q + 1'b1;
          q_base_q <= q_token_end ? '0 : q_word_q + 1'b1;
        end
        if (q_token_end) q_token_q <= q_bank_end ? '0 : q_token_q + 1'b1;
        if (q_bank_end) begin
          q_full_q[q_wr_q] <= 1'b1;
          q_wr_q <= !q_wr_q;
        end
      end
    end
  end

  // ---- Credits: free entries of the buffers --------------------------------------------------
  logic s_issue, s_group_first, s_block_first;
  logic x_issue, x_group_end;
  logic p_issue, p_group_first;
  logic y_issue, y_chunk_first, y_chunk_last, y_block_end;
  logic out_pop;
  logic [SurvivorPtrBits:0] survivor_credit_q;
  logic [ExpPtrBits:0] exp_credit_q;
  logic [ProbPtrBits:0] prob_credit_q;
  logic [BlockPtrBits:0] block_credit_q;
  logic [OutPtrBits:0] out_credit_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      survivor_credit_q <= (SurvivorPtrBits + 1)'(1 << SurvivorPtrBits);
      exp_credit_q <= (ExpPtrBits + 1)'(1 << ExpPtrBits);
      prob_credit_q <= (ProbPtrBits + 1)'(1 << ProbPtrBits);
      block_credit_q <= (BlockPtrBits + 1)'(1 << BlockPtrBits);
      out_credit_q <= (OutPtrBits + 1)'(1 << OutPtrBits);
    end else begin
      survivor_credit_q <= survivor_credit_q + (SurvivorPtrBits + 1)'(x_issue && x_group_end)
                           - (SurvivorPtrBits + 1)'(s_issue && s_group_first);
      exp_credit_q <= exp_credit_q + (ExpPtrBits + 1)'(p_issue) - (ExpPtrBits + 1)'(x_issue);
      prob_credit_q <= prob_credit_q + (ProbPtrBits + 1)'(y_issue && y_chunk_last)
                       - (ProbPtrBits + 1)'(p_issue && p_group_first);
      block_credit_q <= block_credit_q + (BlockPtrBits + 1)'(y_issue && y_block_end)
                        - (BlockPtrBits + 1)'(s_issue && s_block_first);
      out_credit_q <= out_credit_q + (OutPtrBits + 1)'(out_pop)
                      - (OutPtrBits + 1)'(y_issue && y_chunk_first);
    end
  end

`ifndef SYNTHESIS
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      assert (32'(survivor_credit_q) <= 1 << SurvivorPtrBits) else $error("survivors overflow");
      assert (32'(exp_credit_q) <= 1 << ExpPtrBits) else $error("exponentials overflow");
      assert (32'(prob_credit_q) <= 1 << ProbPtrBits) else $error("probabilities overflow");
      assert (32'(block_credit_q) <= 1 << BlockPtrBits) else $error("blocks overflow");
      assert (32'(out_credit_q) <= 1 << OutPtrBits) else $error("outputs overflow");
    end
  end
`endif

  // ---- Blocks in flight ----------------------------------------------------------------------
  typedef struct packed {
    logic [GroupBits-1:0] last;   // number of the last group, from 0
    logic [CountBits-1:0] tail;   // keys in it
    logic [TokenBits-1:0] lanes;  // tokens - 1
    logic frame_last;
    logic user;
  } block_t;

  block_t block_mem [1 << BlockPtrBits];
  /* verilator lint_off UNUSEDSIGNAL */
  block_t s_block, x_block, p_block, y_block;  // no stage needs all of it
  /* verilator lint_on UNUSEDSIGNAL */
  // Blocks that began, were scored, were summed, have probabilities; that exp, prob and value work on.
  logic [BlockPtrBits:0] begun_q, scored_q, summed_q, probed_q, x_at_q, p_at_q, y_at_q;

  always_ff @(posedge clk_i) begin
    if (s_issue && s_block_first) block_mem[begun_q[BlockPtrBits-1:0]] <= s_block;
  end

  assign x_block = block_mem[x_at_q[BlockPtrBits-1:0]];
  assign p_block = block_mem[p_at_q[BlockPtrBits-1:0]];
  assign y_block = block_mem[y_at_q[BlockPtrBits-1:0]];

  logic set_valid;  // the set of the frame that the score stage works on is known

  // ---- Score stage: control ------------------------------------------------------------------
  typedef struct packed {
    logic group_first;  // first, last chunk of the group
    logic group_last;
    logic block_first;  // in the block's first, last group
    logic block_last;
    logic [CountBits-1:0] count;  // keys in the group
  } score_flags_t;

  logic [ChunkBits-1:0] s_chunk_q;
  logic [GroupBits-1:0] s_group_q;
  logic [HeadGroupBits-1:0] s_head_group_q;
  logic [AddrBits-1:0] s_base_q;  // of the block in the frame
  logic [QBits2-1:0] s_word_base_q;
  logic s_group_end, s_block_end, s_heads_end;
  score_flags_t s_flags;
  logic [TopAt:1] s_valid_q;
  score_flags_t [TopAt:1] s_flags_q;

  assign s_group_first = s_chunk_q == '0;
  assign s_group_end = s_chunk_q == ChunkBits'(Chunks - 1);
  assign s_block_first = s_group_first && s_group_q == '0;
  assign s_block_end = s_group_end && s_group_q == k_last;
  assign s_heads_end = s_head_group_q == HeadGroupBits'(HeadGroups - 1);
  assign s_issue = q_full_q[q_rd_q] && k_valid && (!s_group_first || survivor_credit_q != '0)
                   && (!s_block_first || block_credit_q != '0) && set_valid;
  assign q_free = s_issue && s_block_end && (QGroups == 1 || s_heads_end);
  assign k_take = s_issue && s_block_end && s_heads_end && q_last_q[q_rd_q];

  always_comb begin
    s_block.last = k_last;
    s_block.tail = k_tail;
    s_block.lanes = q_lanes_q[q_rd_q];
    s_block.frame_last = q_last_q[q_rd_q] && s_heads_end;
    s_block.user = q_user_q[q_rd_q];
    s_flags.group_first = s_group_first;
    s_flags.group_last = s_group_end;
    s_flags.block_first = s_group_q == '0;
    s_flags.block_last = s_group_q == k_last;
    s_flags.count = (s_group_q == k_last) ? k_tail : CountBits'(M);
  end

  always_ff @(posedge clk_i) begin
    s_flags_q <= {s_flags_q[TopAt-1:1], s_flags};
    if (!rst_ni) begin
      s_chunk_q <= '0;
      s_group_q <= '0;
      s_head_group_q <= '0;
      s_base_q <= '0;
      k_addr_q <= '0;
      s_word_base_q <= '0;
      s_word_q <= '0;
      s_valid_q <= '0;
      begun_q <= '0;
      scored_q <= '0;
    end else begin
      s_valid_q <= {s_valid_q[TopAt-1:1], s_issue};
      s_valid_q[ScoreAt] <= s_valid_q[ScoreAt-1] && s_flags_q[ScoreAt-1].group_last;
      if (s_valid_q[TopAt] && s_flags_q[TopAt].block_last) scored_q <= scored_q + 1'b1;
      if (s_issue) begin
        if (s_block_first) begun_q <= begun_q + 1'b1;
        s_chunk_q <= s_group_end ? '0 : s_chunk_q + 1'b1;
        k_addr_q <= k_addr_q + 1'b1;
        s_word_q <= s_word_q + 1'b1;
        if (s_group_end) begin
          s_group_q <= s_group_q + 1'b1;
          k_addr_q <= k_addr_q + AddrBits'(GroupStep - Chunks + 1);
          s_word_q <= s_word_base_q;
        end
        if (s_block_end) begin
          s_group_q <= '0;
          s_head_group_q <= s_heads_end ? '0 : s_head_group_q + 1'b1;
          s_base_q <= s_heads_end ? '0 : s_base_q + AddrBits'(Chunks);
          k_addr_q <= s_heads_end ? '0 : s_base_q + AddrBits'(Chunks);
          s_word_base_q <= (QGroups == 1 || s_heads_end) ? '0 : s_word_q + 1'b1;
          s_word_q <= (QGroups == 1 || s_heads_end) ? '0 : s_word_q + 1'b1;
        end
      end
    end
  end

  // ---- Exp stage: control --------------------------------------------------------------------
  typedef struct packed {
    logic first;  // first, last step of the block
    logic last;
    logic [SubBits-1:0] sub;
    logic [CountBits-1:0] count;  // keys in the group
  } exp_flags_t;

  logic [SubBits-1:0] x_sub_q;
  logic [GroupBits-1:0] x_group_q;
  logic [SurvivorPtrBits-1:0] survivor_wr_q, survivor_rd_q;
  logic x_block_end;
  exp_flags_t x_flags;
  logic [RecipAt:1] x_valid_q;
  /* verilator lint_off UNUSEDSIGNAL */
  exp_flags_t [SumAt-1:1] x_flags_q;  // the last stages need a part of it
  /* verilator lint_on UNUSEDSIGNAL */

  assign x_group_end = x_sub_q == SubBits'(Subs - 1);
  assign x_block_end = x_group_end && x_group_q == x_block.last;
  assign x_issue = scored_q != x_at_q && exp_credit_q != '0;

  always_comb begin
    x_flags.first = x_group_q == '0 && x_sub_q == '0;
    x_flags.last = x_block_end;
    x_flags.sub = x_sub_q;
    x_flags.count = (x_group_q == x_block.last) ? x_block.tail : CountBits'(M);
  end

  always_ff @(posedge clk_i) begin
    x_flags_q <= {x_flags_q[SumAt-2:1], x_flags};
    if (!rst_ni) begin
      x_sub_q <= '0;
      x_group_q <= '0;
      x_at_q <= '0;
      summed_q <= '0;
      survivor_wr_q <= '0;
      survivor_rd_q <= '0;
      x_valid_q <= '0;
    end else begin
      x_valid_q <= {x_valid_q[RecipAt-1:1], x_issue};
      x_valid_q[SumAt] <= x_valid_q[SumAt-1] && x_flags_q[SumAt-1].last;
      if (s_valid_q[SurvivorAt]) survivor_wr_q <= survivor_wr_q + 1'b1;
      if (x_valid_q[RecipAt]) summed_q <= summed_q + 1'b1;
      if (x_issue) begin
        x_sub_q <= x_group_end ? '0 : x_sub_q + 1'b1;
        if (x_group_end) begin
          x_group_q <= x_block_end ? '0 : x_group_q + 1'b1;
          survivor_rd_q <= survivor_rd_q + 1'b1;
        end
        if (x_block_end) x_at_q <= x_at_q + 1'b1;
      end
    end
  end

  // ---- Sets ----------------------------------------------------------------------------------
  // What the exp stage needs, each in the cycle of its pipeline that uses it.
  logic [OffsetBits-1:0] exp_offset;
  logic [ExpMoreBits-1:0] exp_more;
  logic [SetBits-1:0] exp_set, recip_set;
  /* verilator lint_off UNUSEDSIGNAL */
  logic signed [31:0] near_offset, far_offset;  // of the segments, if there are some
  logic [NearMoreBits-1:0] near_more;
  logic [FarMoreBits-1:0] far_more;
  /* verilator lint_on UNUSEDSIGNAL */

  if (Sets > 1) begin : gen_sets
    typedef struct packed {
      logic [4:0] far_shift;
      logic signed [31:0] far_offset;
      logic [4:0] near_shift;
      logic signed [31:0] near_offset;
      logic [4:0] exp_shift;
      logic [30:0] exp_offset;
    } settings_t;

    logic [$bits(settings_t)-1:0] settings_rom [Sets];
    /* verilator lint_off UNUSEDSIGNAL */
    settings_t s_settings, x_settings, sum_settings;  // no stage needs all of it
    /* verilator lint_on UNUSEDSIGNAL */
    logic [SetBits-1:0] s_set;  // of the frame that the score stage works on
    logic unused_last, unused_user;
    logic [RecipAt-1:1][SetBits-1:0] x_set_q;
    // the offset is looked up beforehand: it has no cycle to wait for
    (* ram_style = "distributed" *)
    logic [OffsetBits+SetBits-1:0] set_mem [1 << BlockPtrBits];
    logic [SetBits-1:0] x_set;
    logic [ExpMoreBits-1:0] exp_more_q;
    logic [NearMoreBits-1:0] near_more_q;
    logic [FarMoreBits-1:0] far_more_q;
    logic signed [31:0] near_offset_q, far_offset_q;

    initial if (SettingsFile != "") $readmemh(`MEMORY_FILE(SettingsFile), settings_rom);

    assign s_settings = settings_t'(settings_rom[s_set]);
    assign x_settings = settings_t'(settings_rom[x_set_q[1]]);
    assign sum_settings = settings_t'(settings_rom[x_set_q[SumAt-1]]);
    assign {exp_offset, x_set} = set_mem[x_at_q[BlockPtrBits-1:0]];
    assign exp_more = exp_more_q;
    assign exp_set = x_set_q[ExpAt-1];
    assign near_offset = near_offset_q;
    assign near_more = near_more_q;
    assign far_offset = far_offset_q;
    assign far_more = far_more_q;
    assign recip_set = x_set_q[RecipAt-1];

    skid_buffer #(
        .DataBits(SetBits)
    ) u_set (
        .clk_i,
        .rst_ni,
        .s_axis_tdata(s_axis_set_tdata),
        .s_axis_tvalid(s_axis_set_tvalid),
        .s_axis_tready(s_axis_set_tready),
        .s_axis_tlast(1'b1),
        .s_axis_tuser(1'b0),
        .m_axis_tdata(s_set),
        .m_axis_tvalid(set_valid),
        .m_axis_tready(k_take),
        .m_axis_tlast(unused_last),
        .m_axis_tuser(unused_user)
    );

    always_ff @(posedge clk_i) begin
      if (s_issue && s_block_first) begin
        set_mem[begun_q[BlockPtrBits-1:0]] <= {OffsetBits'(s_settings.exp_offset), s_set};
      end
      x_set_q <= {x_set_q[RecipAt-2:1], x_set};
      exp_more_q <= ExpMoreBits'(x_settings.exp_shift - 5'(ExpLeast));
      near_offset_q <= sum_settings.near_offset;
      near_more_q <= NearMoreBits'(sum_settings.near_shift - 5'(NearLeast));
      far_offset_q <= sum_settings.far_offset;
      far_more_q <= FarMoreBits'(sum_settings.far_shift - 5'(FarLeast));
    end

`ifndef SYNTHESIS
    always_ff @(posedge clk_i) begin
      if (rst_ni && set_valid) assert (32'(s_set) < Sets) else $error("no such set");
    end
`endif
  end else begin : gen_one_set
    logic unused_set;

    assign set_valid = 1'b1;
    assign s_axis_set_tready = 1'b1;
    assign exp_offset = OffsetBits'(ExpOffset);
    assign exp_more = ExpMoreBits'(ExpSpan);
    assign exp_set = '0;
    assign near_offset = NearOffset;
    assign near_more = NearMoreBits'(NearSpan);
    assign far_offset = FarOffset;
    assign far_more = FarMoreBits'(FarSpan);
    assign recip_set = '0;
    assign unused_set = ^{s_axis_set_tdata, s_axis_set_tvalid};
  end

  // ---- Prob stage: control -------------------------------------------------------------------
  typedef struct packed {
    logic group_last;
    logic block_last;
    logic [SubBits-1:0] sub;
  } prob_flags_t;

  logic [SubBits-1:0] p_sub_q;
  logic [GroupBits-1:0] p_group_q;
  logic [ExpPtrBits-1:0] exp_wr_q, exp_rd_q;
  logic p_group_end, p_block_end;
  prob_flags_t p_flags;
  logic [ProbAt:1] p_valid_q;
  prob_flags_t [ProbAt:1] p_flags_q;

  assign p_group_first = p_sub_q == '0;
  assign p_group_end = p_sub_q == SubBits'(Subs - 1);
  assign p_block_end = p_group_end && p_group_q == p_block.last;
  assign p_issue = summed_q != p_at_q && (!p_group_first || prob_credit_q != '0);

  always_comb begin
    p_flags.group_last = p_group_end;
    p_flags.block_last = p_block_end;
    p_flags.sub = p_sub_q;
  end

  always_ff @(posedge clk_i) begin
    p_flags_q <= {p_flags_q[ProbAt-1:1], p_flags};
    if (!rst_ni) begin
      p_sub_q <= '0;
      p_group_q <= '0;
      p_at_q <= '0;
      probed_q <= '0;
      exp_wr_q <= '0;
      exp_rd_q <= '0;
      p_valid_q <= '0;
    end else begin
      p_valid_q <= {p_valid_q[ProbAt-1:1], p_issue};
      if (x_valid_q[ExpAt]) exp_wr_q <= exp_wr_q + 1'b1;
      if (p_valid_q[ProbAt] && p_flags_q[ProbAt].block_last) probed_q <= probed_q + 1'b1;
      if (p_issue) begin
        exp_rd_q <= exp_rd_q + 1'b1;
        p_sub_q <= p_group_end ? '0 : p_sub_q + 1'b1;
        if (p_group_end) p_group_q <= p_block_end ? '0 : p_group_q + 1'b1;
        if (p_block_end) p_at_q <= p_at_q + 1'b1;
      end
    end
  end

  // ---- Value stage: control ------------------------------------------------------------------
  typedef struct packed {
    logic first;  // first, last group
    logic last;
    logic frame_last;
    logic user;
    logic [TokenBits-1:0] lanes;
  } value_flags_t;

  logic [GroupBits-1:0] y_group_q;
  logic [ChunkBits-1:0] y_chunk_q;
  logic [HeadGroupBits-1:0] y_head_group_q;
  logic [AddrBits-1:0] y_base_q;  // of the chunk in the frame
  logic [ProbPtrBits-1:0] prob_wr_q, prob_rd_q, prob_base_q;
  logic y_chunk_end;
  value_flags_t y_flags;
  logic [OutAt:1] y_valid_q;
  /* verilator lint_off UNUSEDSIGNAL */
  value_flags_t [OutAt:1] y_flags_q;  // the last stages need a part of it
  /* verilator lint_on UNUSEDSIGNAL */

  assign y_chunk_first = y_group_q == '0;
  assign y_chunk_end = y_group_q == y_block.last;
  assign y_chunk_last = y_chunk_q == ChunkBits'(Chunks - 1);
  assign y_block_end = y_chunk_last && y_chunk_end;
  assign y_issue = probed_q != y_at_q && v_valid && (!y_chunk_first || out_credit_q != '0);
  assign v_take = y_issue && y_block_end && y_block.frame_last;

  always_comb begin
    y_flags.first = y_chunk_first;
    y_flags.last = y_chunk_end;
    y_flags.frame_last = y_block.frame_last && y_chunk_last;
    y_flags.user = y_block.user;
    y_flags.lanes = y_block.lanes;
  end

  always_ff @(posedge clk_i) begin
    y_flags_q <= {y_flags_q[OutAt-1:1], y_flags};
    if (!rst_ni) begin
      y_group_q <= '0;
      y_chunk_q <= '0;
      y_head_group_q <= '0;
      y_base_q <= '0;
      v_addr_q <= '0;
      y_at_q <= '0;
      prob_wr_q <= '0;
      prob_rd_q <= '0;
      prob_base_q <= '0;
      y_valid_q <= '0;
    end else begin
      y_valid_q <= {y_valid_q[OutAt-1:1], y_issue};
      y_valid_q[AccAt] <= y_valid_q[AccAt-1] && y_flags_q[AccAt-1].last;
      if (p_valid_q[ProbAt] && p_flags_q[ProbAt].group_last) prob_wr_q <= prob_wr_q + 1'b1;
      if (y_issue) begin
        y_group_q <= y_group_q + 1'b1;
        v_addr_q <= v_addr_q + AddrBits'(GroupStep);
        prob_rd_q <= prob_rd_q + 1'b1;
        if (y_chunk_end) begin
          y_group_q <= '0;
          y_chunk_q <= y_chunk_last ? '0 : y_chunk_q + 1'b1;
          y_base_q <= y_base_q + 1'b1;
          v_addr_q <= y_base_q + 1'b1;
          prob_rd_q <= prob_base_q;
        end
        if (y_block_end) begin
          y_at_q <= y_at_q + 1'b1;
          prob_rd_q <= prob_rd_q + 1'b1;
          prob_base_q <= prob_rd_q + 1'b1;
          y_head_group_q <= y_head_group_q + 1'b1;
          if (y_head_group_q == HeadGroupBits'(HeadGroups - 1)) begin
            y_head_group_q <= '0;
            y_base_q <= '0;
            v_addr_q <= '0;
          end
        end
      end
    end
  end

  // ---- Products in DSP blocks ----------------------------------------------------------------
  // The tokens of a block share the keys of a head, and its values where no row chooses its own.
  localparam int unsigned ValueSets = N == M ? HeadsPar : Rows;

  if (MultDsp) begin : gen_score
    for (genvar h = 0; h < HeadsPar; h++) begin : gen_head
      logic [Tp*Simd*QBits-1:0] queries;
      logic signed [ScoreBits-1:0] dot [Tp*M];

      for (genvar t = 0; t < Tp; t++) begin : gen_token
        assign queries[t*Simd*QBits +: Simd*QBits] = gen_row[t*HeadsPar+h].query_q;
      end

      dsp_dots #(
          .ACount(M),
          .BCount(Tp),
          .Length(Simd),
          .ABits(KBits),
          .ASigned(KSigned),
          .BBits(QBits),
          .BSigned(QSigned),
          .DotBits(ScoreBits),
          .Pump(Pump)
      ) u_dots (
          .clk_i,
          .clk2x_i,
          .rst_ni,
          .a_i(k_data[h*M*Simd*KBits +: M*Simd*KBits]),
          .b_i(queries),
          .dot_o(dot)
      );
    end
  end

  if (MultDsp) begin : gen_value
    for (genvar s = 0; s < ValueSets; s++) begin : gen_set
      localparam int unsigned Tokens = Rows / ValueSets;

      logic [Simd*VBits-1:0] value_q [N];
      logic [Simd*N*VBits-1:0] values;  // channel after channel
      logic [Tokens*N*ProbBits-1:0] probs;
      logic signed [AccBits-1:0] dot [Tokens*Simd];

      always_ff @(posedge clk_i) begin
        for (int unsigned k = 0; k < N; k++) begin
          value_q[k] <= v_data[(s%HeadsPar*M + 32'(gen_row[s].y1_slot[k*SlotBits +: SlotBits]))
                               *Simd*VBits +: Simd*VBits];
        end
      end

      always_comb begin
        for (int unsigned c = 0; c < Simd; c++) begin
          for (int unsigned k = 0; k < N; k++) begin
            values[(c*N+k)*VBits +: VBits] = value_q[k][c*VBits +: VBits];
          end
        end
      end

      for (genvar t = 0; t < Tokens; t++) begin : gen_token
        assign probs[t*N*ProbBits +: N*ProbBits] = gen_row[t*ValueSets+s].y2_prob_q;
      end

      dsp_dots #(
          .ACount(Simd),
          .BCount(Tokens),
          .Length(N),
          .ABits(VBits),
          .ASigned(VSigned),
          .BBits(ProbBits),
          .BSigned(0),
          .DotBits(AccBits),
          .Pump(Pump)
      ) u_dots (
          .clk_i,
          .clk2x_i,
          .rst_ni,
          .a_i(values),
          .b_i(probs),
          .dot_o(dot)
      );
    end
  end

  // ---- The rows of a block -------------------------------------------------------------------
  logic [OutPtrBits:0] out_wr_q, out_rd_q;
  logic [Simd*OutBits-1:0] out_data [Rows];

  for (genvar r = 0; r < Rows; r++) begin : gen_row
    localparam int unsigned T = r / HeadsPar;
    localparam int unsigned H = r % HeadsPar;

    // -- query: two banks
    (* ram_style = "distributed" *) logic [Simd*QBits-1:0] query_mem [2 << QBits2];
    logic [Simd*QBits-1:0] query_q;

    always_ff @(posedge clk_i) begin
      if (q_accept && q_token_q == TokenBits'(T) && q_head_q == HeadBits'(H)) begin
        query_mem[{q_wr_q, q_word_q}] <= s_axis_q_tdata;
      end
      query_q <= query_mem[{q_rd_q, s_word_q}];
    end

    // -- score: products, their sum, the sum of the chunks
    logic signed [ScoreBits-1:0] score_q [M];

    if (MultDsp) begin : gen_dsp_score
      always_ff @(posedge clk_i) begin
        for (int unsigned j = 0; j < M; j++) begin
          if (s_valid_q[ScoreAt-1]) begin
            score_q[j] <= gen_score.gen_head[H].dot[T*M+j]
                          + (s_flags_q[ScoreAt-1].group_first ? '0 : score_q[j]);
          end
        end
      end
    end else begin : gen_lut_score
      logic [KDigits-1:0][2:0][QWidth-1:0] query [Simd];

      for (genvar c = 0; c < Simd; c++) begin : gen_query
        product_multiples #(
            .Bits(QBits),
            .Signed(QSigned),
            .Digits(KDigits),
            .Dsp(0)
        ) u_multiples (
            .clk_i,
            .a_i(query_q[c*QBits +: QBits]),
            .multiples_o(query[c])
        );
      end

      for (genvar j = 0; j < M; j++) begin : gen_key
        logic [Simd-1:0][ProductBits-1:0] terms;
        logic [PartBits-1:0] part;

        for (genvar c = 0; c < Simd; c++) begin : gen_product
          product #(
              .ABits(QBits),
              .ASigned(QSigned),
              .BBits(KBits),
              .BSigned(KSigned),
              .Dsp(0)
          ) u_product (
              .clk_i,
              .multiples_i(query[c]),
              .b_i(k_data[((H*M+j)*Simd+c)*KBits +: KBits]),
              .p_o(terms[c])
          );
        end

        sum_tree #(
            .Terms(Simd),
            .Bits(ProductBits)
        ) u_sum (
            .clk_i,
            .terms_i(terms),
            .sum_o(part)
        );

        always_ff @(posedge clk_i) begin
          if (s_valid_q[ScoreAt-1]) begin
            score_q[j] <= ScoreBits'(signed'(part))
                          + (s_flags_q[ScoreAt-1].group_first ? '0 : score_q[j]);
          end
        end
      end
    end

    // -- selection: the survivors of a group, and its maximum
    localparam int unsigned SurvivorBits = N * (ScoreBits + (N < M ? SlotBits : 0));
    localparam int unsigned ExpWordBits = Par * (ExpBits + (N < M ? SlotBits : 0));

    logic [SurvivorBits-1:0] survivor_word, x1_word_q;
    logic [N*SlotBits-1:0] x1_slot;
    logic signed [ScoreBits-1:0] group_top;

    if (N == M) begin : gen_dense
      for (genvar l = 0; l <= $clog2(M); l++) begin : gen_level
        localparam int unsigned Count = (M + (1 << l) - 1) >> l;
        logic signed [ScoreBits-1:0] top [Count];
      end

      for (genvar j = 0; j < M; j++) begin : gen_key
        assign survivor_word[j*ScoreBits +: ScoreBits] = score_q[j];
        assign x1_slot[j*SlotBits +: SlotBits] = SlotBits'(j);
        assign gen_level[0].top[j] = (CountBits'(j) < s_flags_q[ScoreAt].count)
                                     ? score_q[j] : {1'b1, {(ScoreBits - 1){1'b0}}};
      end

      for (genvar l = 1; l <= $clog2(M); l++) begin : gen_reduce
        localparam int unsigned From = (M + (1 << (l - 1)) - 1) >> (l - 1);

        for (genvar i = 0; i < (From + 1) / 2; i++) begin : gen_pair
          localparam int unsigned Right = (2 * i + 1 < From) ? 2 * i + 1 : 2 * i;

          always_ff @(posedge clk_i) begin
            gen_level[l].top[i] <= (gen_level[l-1].top[Right] > gen_level[l-1].top[2*i])
                                   ? gen_level[l-1].top[Right] : gen_level[l-1].top[2*i];
          end
        end
      end

      assign group_top = gen_level[$clog2(M)].top[0];
    end else begin : gen_select
      localparam int unsigned Pairs = M * (M - 1) / 2;

      logic [Pairs-1:0] before_q;  // at j * (j - 1) / 2 + i: key i < j goes before key j
      logic [M-1:0] slot_of_q [N];
      logic signed [ScoreBits-1:0] score1_q [M];
      logic signed [ScoreBits-1:0] score2_q [M];
      logic [N*ScoreBits-1:0] slot_score, slot_score_q;
      logic [N*SlotBits-1:0] slot_index, slot_index_q;

      // absent keys are the last ones of the group and go behind all others
      for (genvar j = 1; j < M; j++) begin : gen_compare
        for (genvar i = 0; i < j; i++) begin : gen_pair
          always_ff @(posedge clk_i) begin
            before_q[j*(j-1)/2+i] <= CountBits'(j) >= s_flags_q[ScoreAt].count
                                     || score_q[i] >= score_q[j];
          end
        end
      end

      // the rank of a key is the number of keys that go before it
      for (genvar j = 0; j < M; j++) begin : gen_rank
        logic [SlotBits-1:0] rank;

        always_comb begin
          rank = '0;
          for (int i = 0; i < int'(M); i++) begin
            if (i < j) rank = rank + SlotBits'(before_q[j*(j-1)/2+i]);
            else if (i > j) rank = rank + SlotBits'(!before_q[i*(i-1)/2+j]);
          end
        end

        for (genvar k = 0; k < N; k++) begin : gen_slot
          always_ff @(posedge clk_i) slot_of_q[k][j] <= rank == SlotBits'(k);
        end
      end

      always_comb begin
        slot_score = '0;
        slot_index = '0;
        for (int unsigned k = 0; k < N; k++) begin
          for (int unsigned j = 0; j < M; j++) begin
            if (slot_of_q[k][j]) begin
              slot_score[k*ScoreBits +: ScoreBits] = slot_score[k*ScoreBits +: ScoreBits]
                                                     | score2_q[j];
              slot_index[k*SlotBits +: SlotBits] = slot_index[k*SlotBits +: SlotBits]
                                                   | SlotBits'(j);
            end
          end
        end
      end

      always_ff @(posedge clk_i) begin
        score1_q <= score_q;
        score2_q <= score1_q;
        slot_score_q <= slot_score;
        slot_index_q <= slot_index;
      end

      assign survivor_word = {slot_index_q, slot_score_q};
      assign x1_slot = x1_word_q[N*ScoreBits +: N*SlotBits];
      assign group_top = slot_score_q[ScoreBits-1:0];
    end

    (* ram_style = "distributed" *)
    logic [SurvivorBits-1:0] survivor_mem [1 << SurvivorPtrBits];
    (* ram_style = "distributed" *) logic [ScoreBits-1:0] top_mem [1 << BlockPtrBits];
    logic signed [ScoreBits-1:0] top, top_q;

    assign top = (s_flags_q[TopAt].block_first || group_top > top_q) ? group_top : top_q;

    always_ff @(posedge clk_i) begin
      if (s_valid_q[SurvivorAt]) survivor_mem[survivor_wr_q] <= survivor_word;
      if (s_valid_q[TopAt]) top_q <= top;
      if (s_valid_q[TopAt] && s_flags_q[TopAt].block_last) begin
        top_mem[scored_q[BlockPtrBits-1:0]] <= top;
      end
    end

    // -- exp: table index from the distance to the maximum, table, sum, reciprocal of the sum
    logic [DiffBits-1:0] x1_top_q;
    logic [DiffBits-1:0] x2_diff_q [Par];
    logic [EntryBits-1:0] x3_entry_q [Par];
    logic [Par-1:0][ExpBits-1:0] x4_exp_q;
    logic [Par*SlotBits-1:0] x2_slot_q, x3_slot_q, x4_slot_q;
    logic [ExpPartBits-1:0] exp_part;
    logic [SumBits-1:0] sum_q;
    logic [PosBits-1:0] pos2_q, pos3_q;
    logic [RecipIndexBits-1:0] index2_q;
    logic [RecipBits-1:0] recip3_q;

    always_ff @(posedge clk_i) begin
      x1_word_q <= survivor_mem[survivor_rd_q];
      x1_top_q <= DiffBits'(signed'(top_mem[x_at_q[BlockPtrBits-1:0]])) + DiffBits'(exp_offset);
      x3_slot_q <= x2_slot_q;
      x4_slot_q <= x3_slot_q;
    end

    // a slot without a survivor adds nothing
    for (genvar k = 0; k < Par; k++) begin : gen_exp
      logic [DiffBits-1:0] entry;

      assign entry = x2_diff_q[k] >> ExpLeast >> exp_more;

      always_ff @(posedge clk_i) begin
        x2_diff_q[k] <= x1_top_q - DiffBits'(signed'(
            x1_word_q[(32'(x_flags_q[1].sub)*Par+k)*ScoreBits +: ScoreBits]));
        x2_slot_q[k*SlotBits +: SlotBits] <=
            x1_slot[(32'(x_flags_q[1].sub)*Par+k)*SlotBits +: SlotBits];
        x3_entry_q[k] <= (64'(entry) > 64'(ExpEntries - 1)) ? EntryBits'(ExpEntries - 1)
                                                            : EntryBits'(entry);
        x4_exp_q[k] <= (32'(x_flags_q[3].sub) * Par + k < 32'(x_flags_q[3].count))
                       ? exp_rom[ExpAddrBits'(32'(exp_set) << $clog2(ExpEntries)
                                             | 32'(x3_entry_q[k]))] : '0;
      end
    end

    sum_tree #(
        .Terms(Par),
        .Bits(ExpBits),
        .Signed(0)
    ) u_sum (
        .clk_i,
        .terms_i(x4_exp_q),
        .sum_o(exp_part)
    );

    always_ff @(posedge clk_i) begin
      if (x_valid_q[SumAt-1]) begin
        sum_q <= SumBits'(exp_part) + (x_flags_q[SumAt-1].first ? '0 : sum_q);
      end
      pos3_q <= pos2_q;
      recip3_q <= recip_rom[RecipAddrBits'(32'(recip_set) << $clog2(RecipSize)
                                           | 32'(index2_q))];
    end

    if (RecipEntries == 0) begin : gen_leading_one
      logic [SumBits-1:0] sum1_q;
      logic [PosBits-1:0] sum_pos, pos1_q;

      always_comb begin
        sum_pos = '0;
        for (int unsigned b = 0; b < SumBits; b++) if (sum_q[b]) sum_pos = PosBits'(b);
      end

      always_ff @(posedge clk_i) begin
        sum1_q <= sum_q;
        pos1_q <= sum_pos;
        pos2_q <= pos1_q;
        index2_q <= IndexBits'(num_pkg::reciprocal_index(64'(sum1_q), 32'(pos1_q), IndexBits));
      end
    end else begin : gen_segments
      logic signed [NearBits-1:0] near1_q;
      logic signed [FarBits-1:0] far1_q;
      logic beyond;

      assign beyond = near1_q >= signed'(NearBits'(RecipEntries));

      always_ff @(posedge clk_i) begin
        near1_q <= signed'(NearBits'(sum_q) + NearBits'(near_offset)) >>> NearLeast >>> near_more;
        far1_q <= signed'(FarBits'(sum_q) + FarBits'(far_offset)) >>> FarLeast >>> far_more;
        pos2_q <= beyond;
        if (!beyond) index2_q <= near1_q < 0 ? '0 : RecipIndexBits'(near1_q);
        else if (far1_q < 0) index2_q <= RecipIndexBits'(RecipEntries);
        else if (far1_q >= signed'(FarBits'(RecipEntries))) index2_q <= RecipIndexBits'(RecipSize - 1);
        else index2_q <= RecipIndexBits'(RecipEntries) + RecipIndexBits'(far1_q);
      end
    end

    (* ram_style = "distributed" *) logic [ExpWordBits-1:0] exp_mem [1 << ExpPtrBits];
    (* ram_style = "distributed" *)
    logic [RecipBits+PosBits-1:0] recip_mem [1 << BlockPtrBits];
    logic [ExpWordBits-1:0] exp_word, p1_word_q;

    always_ff @(posedge clk_i) begin
      if (x_valid_q[ExpAt]) exp_mem[exp_wr_q] <= exp_word;
      if (x_valid_q[RecipAt]) recip_mem[summed_q[BlockPtrBits-1:0]] <= {pos3_q, recip3_q};
    end

    // -- prob: the exponentials times the reciprocal
    logic [RecipBits-1:0] p1_recip_q;
    logic [ScaledAt:1][PosBits-1:0] p_pos_q;
    logic [ExpDigits-1:0][2:0][RecipBits+2:0] recip;
    logic [AlignedBits-1:0] p_aligned_q [Par];
    logic [Par-1:0][ProbBits-1:0] p_floor_q, p_prob_q;
    logic [Par-1:0] p_up_q, p_high_q;

    always_ff @(posedge clk_i) begin
      p1_word_q <= exp_mem[exp_rd_q];
      {p_pos_q[1], p1_recip_q} <= recip_mem[p_at_q[BlockPtrBits-1:0]];
      p_pos_q[ScaledAt:2] <= p_pos_q[ScaledAt-1:1];
    end

    product_multiples #(
        .Bits(RecipBits),
        .Signed(0),
        .Digits(ExpDigits),
        .Dsp(MultDsp)
    ) u_recip (
        .clk_i,
        .a_i(p1_recip_q),
        .multiples_o(recip)
    );

    for (genvar k = 0; k < Par; k++) begin : gen_prob
      /* verilator lint_off UNUSEDSIGNAL */
      logic signed [ScaledBits:0] scaled;  // not negative
      /* verilator lint_on UNUSEDSIGNAL */
      logic signed [63:0] floor;

      product #(
          .ABits(RecipBits),
          .ASigned(0),
          .BBits(ExpBits),
          .BSigned(0),
          .Dsp(MultDsp)
      ) u_product (
          .clk_i,
          .multiples_i(recip),
          .b_i(p1_word_q[k*ExpBits +: ExpBits]),
          .p_o(scaled)
      );

      assign floor = quotient(64'(p_aligned_q[k]), int'(PosMax) + ProbShift);

      // a left shift by PosMax - l, so that the rounding shift is a constant
      if (RecipEntries == 0) begin : gen_leading_one
        always_ff @(posedge clk_i) begin
          p_aligned_q[k] <= AlignedBits'(scaled[ScaledBits-1:0])
                            << (PosBits'(PosMax) - p_pos_q[ScaledAt]);
        end
      end else begin : gen_segments
        always_ff @(posedge clk_i) begin
          p_aligned_q[k] <= p_pos_q[ScaledAt][0] ? AlignedBits'(scaled[ScaledBits-1:0])
                                                 : AlignedBits'(scaled[ScaledBits-1:0]) << PosMax;
        end
      end

      always_ff @(posedge clk_i) begin
        p_floor_q[k] <= ProbBits'(floor);
        p_up_q[k] <= round_up(64'(p_aligned_q[k]), int'(PosMax) + ProbShift);
        p_high_q[k] <= floor >= (64'sd1 << ProbBits) - 64'sd1;
        p_prob_q[k] <= p_high_q[k] ? '1 : p_floor_q[k] + ProbBits'(p_up_q[k]);
      end
    end

    // -- probabilities of whole groups
    logic [N*ProbBits-1:0] y1_prob_q, y2_prob_q;
    /* verilator lint_off UNUSEDSIGNAL */
    logic [N*SlotBits-1:0] y1_slot;  // tokens may share values
    /* verilator lint_on UNUSEDSIGNAL */
    logic [Par*SlotBits-1:0] p_slot;

    for (genvar g = 0; g < Subs; g++) begin : gen_sub
      (* ram_style = "distributed" *) logic [Par*ProbBits-1:0] mem [1 << ProbPtrBits];

      always_ff @(posedge clk_i) begin
        if (p_valid_q[ProbAt] && p_flags_q[ProbAt].sub == SubBits'(g)) mem[prob_wr_q] <= p_prob_q;
        y1_prob_q[g*Par*ProbBits +: Par*ProbBits] <= mem[prob_rd_q];
      end

      if (N < M) begin : gen_slot
        (* ram_style = "distributed" *) logic [Par*SlotBits-1:0] slot_mem [1 << ProbPtrBits];
        logic [Par*SlotBits-1:0] slot_q;

        always_ff @(posedge clk_i) begin
          if (p_valid_q[ProbAt] && p_flags_q[ProbAt].sub == SubBits'(g)) begin
            slot_mem[prob_wr_q] <= p_slot;
          end
          slot_q <= slot_mem[prob_rd_q];
        end

        assign y1_slot[g*Par*SlotBits +: Par*SlotBits] = slot_q;
      end
    end

    if (N < M) begin : gen_slot
      logic [ProbAt:2][Par*SlotBits-1:0] p_slot_q;

      assign exp_word = {x4_slot_q, x4_exp_q};
      assign p_slot = p_slot_q[ProbAt];
      always_ff @(posedge clk_i) begin
        p_slot_q <= {p_slot_q[ProbAt-1:2], p1_word_q[Par*ExpBits +: Par*SlotBits]};
      end
    end else begin : gen_fixed
      logic unused_slot;

      assign exp_word = x4_exp_q;
      assign p_slot = '0;
      assign unused_slot = ^{p_slot, x4_slot_q};
      for (genvar k = 0; k < N; k++) begin : gen_key
        assign y1_slot[k*SlotBits +: SlotBits] = SlotBits'(k);
      end
    end

    // -- value: the values of the survivors, products, their sum, the sum of the groups
    logic [Simd*OutBits-1:0] out_q;

    always_ff @(posedge clk_i) y2_prob_q <= y1_prob_q;

    if (!MultDsp) begin : gen_factors
      logic [Simd*VBits-1:0] y2_value_q [N];
      logic [VDigits-1:0][2:0][ProbBits+2:0] weight [N];

      always_ff @(posedge clk_i) begin
        for (int unsigned k = 0; k < N; k++) begin
          y2_value_q[k] <= v_data[(H*M + 32'(y1_slot[k*SlotBits +: SlotBits]))*Simd*VBits
                                  +: Simd*VBits];
        end
      end

      for (genvar k = 0; k < N; k++) begin : gen_weight
        product_multiples #(
            .Bits(ProbBits),
            .Signed(0),
            .Digits(VDigits),
            .Dsp(0)
        ) u_multiples (
            .clk_i,
            .a_i(y2_prob_q[k*ProbBits +: ProbBits]),
            .multiples_o(weight[k])
        );
      end
    end

    for (genvar c = 0; c < Simd; c++) begin : gen_channel
      logic signed [AccBits-1:0] acc_q;
      logic signed [63:0] floor;
      logic [OutBits-1:0] floor_q;
      logic up_q, high_q, low_q;

      if (MultDsp) begin : gen_dsp
        always_ff @(posedge clk_i) begin
          if (y_valid_q[AccAt-1]) begin
            acc_q <= gen_value.gen_set[r%ValueSets].dot[r/ValueSets*Simd+c]
                     + (y_flags_q[AccAt-1].first ? '0 : acc_q);
          end
        end
      end else begin : gen_lut
        logic [N-1:0][PvBits-1:0] terms;
        logic [PvPartBits-1:0] part;

        for (genvar k = 0; k < N; k++) begin : gen_product
          product #(
              .ABits(ProbBits),
              .ASigned(0),
              .BBits(VBits),
              .BSigned(VSigned),
              .Dsp(0)
          ) u_product (
              .clk_i,
              .multiples_i(gen_factors.weight[k]),
              .b_i(gen_factors.y2_value_q[k][c*VBits +: VBits]),
              .p_o(terms[k])
          );
        end

        sum_tree #(
            .Terms(N),
            .Bits(PvBits)
        ) u_sum (
            .clk_i,
            .terms_i(terms),
            .sum_o(part)
        );

        always_ff @(posedge clk_i) begin
          if (y_valid_q[AccAt-1]) begin
            acc_q <= AccBits'(signed'(part)) + (y_flags_q[AccAt-1].first ? '0 : acc_q);
          end
        end
      end

      assign floor = quotient(64'(acc_q), Shift);

      always_ff @(posedge clk_i) begin
        floor_q <= OutBits'(floor);
        up_q <= round_up(64'(acc_q), Shift);
        high_q <= !OutExact && floor >= (64'sd1 << (OutSigned ? OutBits - 1 : OutBits)) - 64'sd1;
        low_q <= !OutExact && floor < (OutSigned ? -(64'sd1 << (OutBits - 1)) : 64'sd0);
        out_q[c*OutBits +: OutBits] <=
            low_q ? {OutSigned, {(OutBits - 1){1'b0}}}
            : high_q ? {!OutSigned, {(OutBits - 1){1'b1}}} : floor_q + OutBits'(up_q);
      end
    end

    (* ram_style = "distributed" *) logic [Simd*OutBits-1:0] out_mem [1 << OutPtrBits];

    always_ff @(posedge clk_i) if (y_valid_q[OutAt]) out_mem[out_wr_q[OutPtrBits-1:0]] <= out_q;
    assign out_data[r] = out_mem[out_rd_q[OutPtrBits-1:0]];
  end

  // ---- Output: token after token, head after head --------------------------------------------
  // A unit is what is read once per token and head: the chunks of a block, or all blocks of Tp tokens.
  typedef struct packed {
    logic [TokenBits-1:0] lanes;
    logic frame_last;
    logic user;
  } mark_t;

  mark_t mark_mem [1 << OutPtrBits];
  mark_t mark;
  logic [OutPtrBits:0] out_base_q, out_block_q;  // first word of the tokens, of the block
  logic [ChunkBits-1:0] out_chunk_q;
  logic [HeadBits-1:0] out_head_q;
  logic [HeadGroupBits-1:0] out_head_group_q;
  logic [TokenBits-1:0] out_token_q;
  logic out_valid, out_ready, out_fire, out_chunk_end, out_last_head, out_last_lane;
  logic out_block_end, out_token_end, out_last;

  always_ff @(posedge clk_i) begin
    if (y_valid_q[OutAt]) begin
      mark_mem[out_wr_q[OutPtrBits-1:0]] <=
          {y_flags_q[OutAt].lanes, y_flags_q[OutAt].frame_last, y_flags_q[OutAt].user};
    end
  end

  assign mark = mark_mem[out_rd_q[OutPtrBits-1:0]];
  assign out_valid = out_rd_q != out_wr_q;
  assign out_fire = out_valid && out_ready;
  assign out_chunk_end = out_chunk_q == ChunkBits'(Chunks - 1);
  assign out_last_head = out_head_q == HeadBits'(HeadsPar - 1);
  assign out_last_lane = out_token_q == mark.lanes;
  assign out_block_end = out_chunk_end && out_last_head;
  assign out_token_end =
      out_block_end && (Tp == 1 || out_head_group_q == HeadGroupBits'(HeadGroups - 1));
  assign out_pop = out_fire && out_last_head && out_last_lane;
  assign out_last = mark.frame_last && out_last_head && out_last_lane;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      out_wr_q <= '0;
      out_rd_q <= '0;
      out_base_q <= '0;
      out_block_q <= '0;
      out_chunk_q <= '0;
      out_head_q <= '0;
      out_head_group_q <= '0;
      out_token_q <= '0;
    end else begin
      if (y_valid_q[OutAt]) out_wr_q <= out_wr_q + 1'b1;
      if (out_fire) begin
        out_rd_q <= out_rd_q + 1'b1;
        out_chunk_q <= out_chunk_end ? '0 : out_chunk_q + 1'b1;
        if (out_chunk_end) begin
          out_rd_q <= out_block_q;
          out_head_q <= out_last_head ? '0 : out_head_q + 1'b1;
        end
        if (out_block_end) begin
          out_rd_q <= out_rd_q + 1'b1;
          out_block_q <= out_rd_q + 1'b1;
          out_head_group_q <= out_token_end ? '0 : out_head_group_q + 1'b1;
        end
        if (out_token_end) begin
          if (out_last_lane) begin
            out_token_q <= '0;
            out_base_q <= out_rd_q + 1'b1;
          end else begin
            out_token_q <= out_token_q + 1'b1;
            out_rd_q <= out_base_q;
            out_block_q <= out_base_q;
          end
        end
      end
    end
  end

  skid_buffer #(
      .DataBits(Simd * OutBits)
  ) u_skid (
      .clk_i,
      .rst_ni,
      .s_axis_tdata(out_data[32'(out_token_q)*HeadsPar+32'(out_head_q)]),
      .s_axis_tvalid(out_valid),
      .s_axis_tready(out_ready),
      .s_axis_tlast(out_last),
      .s_axis_tuser(out_last && mark.user),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );
endmodule
