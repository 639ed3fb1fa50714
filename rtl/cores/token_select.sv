// SPDX-License-Identifier: Apache-2.0

/// Keeps the class token and the tokens that the scores choose, in raster order; the others and the
/// incoming package token, the participants, become one package token that leaves last.
///
///   Topk = 0: a token stays if its score is not negative.
///   Topk > 0: the Topk candidates with the largest scores stay, of equal ones those that came first;
///             candidates are all tokens but the class token and the incoming package token.
///
///   w        = weight[clamp((score + Offset) >> Shift, 0, Entries - 1)]
///   num, den = sum(w * x), sum(w)       over the participants; if den = 0: sum(x), their count
///   i, l     = reciprocal index of den: the bits below its leading one, that one's position
///   package  = saturate(round_shift(num * recip[i], l + RecipShift))
///
/// Streams: x in Beats = Channels / Simd beats per token, one score per token; the frame's package
/// token, if tuser marks one, is its last token. Kept tokens leave in order, the package token last,
/// with tuser.
///
/// Topk = 0 buffers no frame, only the beats of one token until its score and tuser are known.
/// Topk > 0 buffers frames until their scores are searched: the value of the last one to stay is found
/// bit by bit, Search scores per cycle, while the next frame comes and the one before leaves.
/// While a package token is worked out and leaves, the kept tokens of the next frame wait in a queue,
/// so that a frame takes its tokens * Beats cycles and at most two more, with and without a package
/// token; at least Beats + 8 with one, and not less than the search.
/// Latency: Beats + 7 cycles; with Topk > 0 the frame, ScoreBits * (tokens / Search + 3) and 11 cycles.
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
    // Candidates that stay; 0: those whose score is not negative.
    parameter int unsigned Topk = 0,
    // Scores compared per cycle of the search.
    parameter int unsigned Search = 1,
    // Waiting beats: 1: in block RAM, 0: in LUT RAM.
    parameter int unsigned FrameRam = 0,
    // Products: 1: in DSP blocks, 0: in LUTs.
    parameter int unsigned MultDsp = 0,
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
  localparam int unsigned DataBits = Simd * XBits;
  localparam int unsigned TableBits = $clog2(Entries);
  localparam int unsigned SignedX = XBits + ((XSigned != 0) ? 0 : 1);
  localparam int unsigned CountBits = $clog2(MaxTokens + 1);
  localparam int unsigned ProductBits = SignedX + WeightBits;
  localparam int unsigned NumBits = ProductBits + CountBits;
  localparam int unsigned DenBits = WeightBits + CountBits;
  localparam int unsigned DenMax = DenBits - 1;
  localparam int unsigned PosBits = $clog2(DenBits + 1);
  localparam int unsigned NormalBits = (DenBits > IndexBits + 1) ? DenBits : IndexBits + 1;
  localparam int unsigned OffsetBits = $clog2(((Offset < 0) ? -Offset : Offset) + 1) + 1;
  localparam int unsigned IndexWide = (OffsetBits > TableBits + 1) ? OffsetBits : TableBits + 1;
  localparam int unsigned MovedBits = 1 + ((ScoreBits > IndexWide) ? ScoreBits : IndexWide);
  localparam int unsigned ScaledBits = NumBits + RecipBits;
  localparam int unsigned RoundBy = DenMax + RecipShift;
  localparam int unsigned FloorBits = ScaledBits - RoundBy;

  // Cycles between the last beat of a frame and the first of its package token, or more.
  localparam int unsigned PackageDelay = 16;

  // Threshold: a beat waits until its token is complete and judged. Top-k: a frame waits for its
  // search, while beats of the next one come.
  localparam int unsigned Rows = (MaxTokens + Search - 1) / Search;
  localparam int unsigned FrameBeats = MaxTokens * Beats;
  localparam int unsigned SearchCycles = ScoreBits * (Rows + 3) + MaxTokens + 8;
  localparam int unsigned SearchBeats = (SearchCycles < FrameBeats) ? SearchCycles : FrameBeats;
  localparam int unsigned FifoDepth = 16 + ((Topk == 0) ? Beats : FrameBeats + SearchBeats);
  localparam int unsigned FifoBits = $clog2(FifoDepth);
  // Decisions on tokens that wait.
  localparam int unsigned JudgeBits = $clog2((Topk == 0) ? FifoDepth / Beats + 3 : MaxTokens + 16);
  localparam int unsigned JudgeDepth = 1 << JudgeBits;
  localparam int unsigned QueueBits = $clog2(Beats + PackageDelay);
  localparam int unsigned QueueDepth = 1 << QueueBits;

  if (Channels % Simd != 0 || Entries < 2 || Search == 0) begin : gen_bad_shape
    $error("token_select: Simd must divide Channels; tables and searches are not empty");
  end
  if (MaxTokens == 0) begin : gen_bad_tokens
    $error("token_select: MaxTokens must be positive");
  end
  if (ScoreSigned == 0 || WeightSigned != 0 || RecipSigned != 0) begin : gen_bad_sign
    $error("token_select: the score must be signed, the tables unsigned");
  end
  if (ScaledBits > 63) begin : gen_bad_width
    $error("token_select: num * recip needs more than 63 bits");
  end
  if (RecipShift < 0 || ScaledBits < RoundBy + 2) begin : gen_bad_shift
    $error("token_select: RecipShift must be that of the reciprocal table");
  end

  logic [WeightBits-1:0] weight_rom [Entries];
  logic [RecipBits-1:0] recip_rom [1 << IndexBits];
  initial begin
    if (WeightFile != "") $readmemh(WeightFile, weight_rom);
    if (RecipFile != "") $readmemh(RecipFile, recip_rom);
  end

  // The score's frames are those of x.
  logic unused;
  assign unused = ^{s_axis_score_tlast, s_axis_score_tuser};

  // ---- Beats wait until their token is judged -----------------------------------------------
  logic accept, accept_end, fifo_rd, frame_room;
  logic [BeatBits-1:0] in_beat_q;
  logic [FifoBits-1:0] fifo_wr_q, fifo_rd_q;
  logic [FifoBits:0] fifo_count_q;
  logic x_valid_q, pass;
  logic [DataBits-1:0] x;

  assign s_axis_x_tready = fifo_count_q != (FifoBits + 1)'(FifoDepth) && frame_room;
  assign accept = s_axis_x_tvalid && s_axis_x_tready;
  assign accept_end = accept && in_beat_q == BeatBits'(Beats - 1);
  assign fifo_rd = fifo_count_q != '0 && (!x_valid_q || pass);

  simple_ram #(
      .DataBits(DataBits),
      .Words(FifoDepth),
      .Block(FrameRam)
  ) u_fifo (
      .clk_i,
      .write_i(accept),
      .waddr_i(fifo_wr_q),
      .wdata_i(s_axis_x_tdata),
      .read_i(fifo_rd),
      .raddr_i(fifo_rd_q),
      .rdata_o(x)
  );

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      in_beat_q <= '0;
      fifo_wr_q <= '0;
      fifo_rd_q <= '0;
      fifo_count_q <= '0;
      x_valid_q <= 1'b0;
    end else begin
      if (accept) begin
        in_beat_q <= accept_end ? '0 : in_beat_q + 1'b1;
        fifo_wr_q <= (fifo_wr_q == FifoBits'(FifoDepth - 1)) ? '0 : fifo_wr_q + 1'b1;
      end
      if (fifo_rd) fifo_rd_q <= (fifo_rd_q == FifoBits'(FifoDepth - 1)) ? '0 : fifo_rd_q + 1'b1;
      if (accept && !fifo_rd) fifo_count_q <= fifo_count_q + 1'b1;
      if (fifo_rd && !accept) fifo_count_q <= fifo_count_q - 1'b1;
      if (!x_valid_q || pass) x_valid_q <= fifo_rd;
    end
  end

  // ---- Decisions, in the order of the tokens ------------------------------------------------
  logic choice_valid, choice_last, choice_keep;
  logic [ScoreBits-1:0] choice_score;
  logic [JudgeBits:0] judge_wr_q, judge_rd_q;

  if (Topk == 0) begin : gen_threshold
    // Complete tokens meet their scores.
    logic [JudgeBits:0] info_wr_q, info_rd_q;
    (* ram_style = "distributed" *) logic [1:0] info_mem [JudgeDepth];
    logic info_package, token_zero_q;

    assign frame_room = 1'b1;
    assign {choice_last, info_package} = info_mem[info_rd_q[JudgeBits-1:0]];
    assign s_axis_score_tready = info_wr_q != info_rd_q;
    assign choice_valid = s_axis_score_tvalid && s_axis_score_tready;
    assign choice_score = s_axis_score_tdata;
    assign choice_keep = !info_package && (token_zero_q || !s_axis_score_tdata[ScoreBits-1]);

    always_ff @(posedge clk_i) begin
      if (accept_end) begin
        info_mem[info_wr_q[JudgeBits-1:0]] <= {s_axis_x_tlast, s_axis_x_tlast && s_axis_x_tuser};
      end
    end

    always_ff @(posedge clk_i) begin
      if (!rst_ni) begin
        info_wr_q <= '0;
        info_rd_q <= '0;
        token_zero_q <= 1'b1;
      end else begin
        if (accept_end) info_wr_q <= info_wr_q + 1'b1;
        if (choice_valid) begin
          info_rd_q <= info_rd_q + 1'b1;
          token_zero_q <= choice_last;
        end
      end
    end
  end else begin : gen_topk
    localparam int unsigned AddrBits = $clog2(2 * Rows);
    localparam int unsigned LaneBits = (Search > 1) ? $clog2(Search) : 1;
    localparam int unsigned HitBits = $clog2(Search + 1);

    // Scores of two frames in offset binary, token t in memory t mod Search.
    logic put, put_end, put_bank_q, bank_q;
    logic [1:0] full_q;
    logic [LaneBits-1:0] put_lane_q;
    logic [AddrBits-1:0] put_addr_q, addr_q;
    logic [ScoreBits-1:0] put_score;
    logic [Search-1:0][ScoreBits-1:0] scores;

    // Length and package flag of the frames of x that wait for their decisions.
    logic [2:0] frame_wr_q, frame_rd_q;
    (* ram_style = "distributed" *) logic [CountBits:0] frame_mem [4];
    logic [CountBits-1:0] in_tokens_q, frame_length, frame_old;
    logic frame_package;

    // Search: a pass over the candidates per bit of the score, the highest first.
    typedef enum logic [2:0] {SeIdle, SePass, SeCount, SeJudge, SeDrain} search_e;
    search_e search_q;
    logic start, done, few, decide, rewind, found, row_end, all_q;
    logic first_q;                        // the class token is in the row
    logic [CountBits-1:0] left_q;         // tokens from this row, or token, to the last
    logic [ScoreBits-1:0] prefix_q;       // bits that are found; the others are 0
    logic [ScoreBits-1:0] bit_q, mask_q;  // the bit to find; that bit and all above
    logic [CountBits-1:0] need_q;         // how many with this prefix stay
    logic [CountBits-1:0] count_q;
    logic [2:0] pass_end_q;
    logic [Search-1:0] in_range_q, hit, hit_q;
    logic [HitBits-1:0] hits;

    // Decisions: a token per cycle.
    logic issue, issue_last, room, above_q, equal_q, tie;
    logic [LaneBits-1:0] lane_q, lane_1_q;
    logic [2:0] valid_q, last_q, class_q, package_q;
    logic [ScoreBits-1:0] score_2_q, score_3_q;

    assign s_axis_score_tready = !full_q[put_bank_q];
    assign put = s_axis_score_tvalid && s_axis_score_tready;
    assign put_end = put_lane_q == LaneBits'(Search - 1);
    assign put_score = s_axis_score_tdata ^ (ScoreBits'(1) << (ScoreBits - 1));

    for (genvar l = 0; l < Search; l++) begin : gen_bank
      simple_ram #(
          .DataBits(ScoreBits),
          .Words(2 * Rows)
      ) u_score (
          .clk_i,
          .write_i(put && put_lane_q == LaneBits'(l)),
          .waddr_i(put_addr_q),
          .wdata_i(put_score),
          .read_i(1'b1),
          .raddr_i(addr_q),
          .rdata_o(scores[l])
      );
    end

    assign frame_room = (frame_wr_q ^ frame_rd_q) != 3'b100;
    assign {frame_package, frame_length} = frame_mem[frame_rd_q[1:0]];
    assign frame_old = frame_length - CountBits'(frame_package);
    assign done = search_q == SeDrain && choice_valid && choice_last;

    always_ff @(posedge clk_i) begin
      if (accept_end && s_axis_x_tlast) begin
        frame_mem[frame_wr_q[1:0]] <= {s_axis_x_tuser, CountBits'(in_tokens_q + 1'b1)};
      end
    end

    always_ff @(posedge clk_i) begin
      if (!rst_ni) begin
        put_bank_q <= 1'b0;
        put_lane_q <= '0;
        put_addr_q <= '0;
        full_q <= '0;
        bank_q <= 1'b0;
        in_tokens_q <= '0;
        frame_wr_q <= '0;
        frame_rd_q <= '0;
      end else begin
        if (put) begin
          put_lane_q <= put_end ? '0 : put_lane_q + 1'b1;
          if (put_end) put_addr_q <= put_addr_q + 1'b1;
          if (s_axis_score_tlast) begin
            full_q[put_bank_q] <= 1'b1;
            put_bank_q <= !put_bank_q;
            put_lane_q <= '0;
            put_addr_q <= put_bank_q ? '0 : AddrBits'(Rows);
          end
        end
        if (accept_end) begin
          in_tokens_q <= s_axis_x_tlast ? '0 : in_tokens_q + 1'b1;
          if (s_axis_x_tlast) frame_wr_q <= frame_wr_q + 1'b1;
        end
        if (done) begin
          full_q[bank_q] <= 1'b0;
          bank_q <= !bank_q;
          frame_rd_q <= frame_rd_q + 1'b1;
        end
      end
    end

    assign start = search_q == SeIdle && frame_wr_q != frame_rd_q && full_q[bank_q];
    assign few = 32'(frame_old) <= Topk + 1;  // no more candidates than stay
    assign decide = pass_end_q[2];
    assign rewind = start || decide;
    assign found = count_q >= need_q;
    assign row_end = 32'(left_q) <= Search;
    assign room = (JudgeBits + 1)'(judge_wr_q - judge_rd_q) < (JudgeBits + 1)'(JudgeDepth - 8);
    assign issue = search_q == SeJudge && room;
    assign issue_last = left_q == CountBits'(1);

    always_ff @(posedge clk_i) begin
      if (!rst_ni) begin
        search_q <= SeIdle;
        pass_end_q <= '0;
        valid_q <= '0;
      end else begin
        pass_end_q <= {pass_end_q[1:0], search_q == SePass && row_end};
        valid_q <= {valid_q[1:0], issue};
        unique case (search_q)
          SeIdle: if (start) search_q <= few ? SeJudge : SePass;
          SePass: if (row_end) search_q <= SeCount;
          SeCount: if (decide) search_q <= bit_q[0] ? SeJudge : SePass;
          SeJudge: if (issue && issue_last) search_q <= SeDrain;
          default: if (done) search_q <= SeIdle;
        endcase
      end
    end

    always_ff @(posedge clk_i) begin
      if (rewind) begin
        addr_q <= bank_q ? AddrBits'(Rows) : '0;
        lane_q <= '0;
        first_q <= 1'b1;
        left_q <= (start ? few : bit_q[0]) ? frame_length : frame_old;
      end else if (search_q == SePass) begin
        addr_q <= addr_q + 1'b1;
        first_q <= 1'b0;
        left_q <= left_q - CountBits'(Search);
      end else if (issue) begin
        lane_q <= (lane_q == LaneBits'(Search - 1)) ? '0 : lane_q + 1'b1;
        if (lane_q == LaneBits'(Search - 1)) addr_q <= addr_q + 1'b1;
        first_q <= 1'b0;
        left_q <= left_q - 1'b1;
      end
    end

    // A row comes one cycle after its address; compared, counted, then decided upon.
    always_comb begin
      hits = '0;
      for (int unsigned l = 0; l < Search; l++) begin
        hit[l] = in_range_q[l] && ((scores[l] ^ (prefix_q | bit_q)) & mask_q) == '0;
        hits = hits + HitBits'(hit_q[l]);
      end
    end

    always_ff @(posedge clk_i) begin
      for (int unsigned l = 0; l < Search; l++) begin
        in_range_q[l] <= search_q == SePass && 32'(left_q) > l && !(first_q && l == 0);
      end
      hit_q <= hit;
      count_q <= rewind ? '0 : count_q + CountBits'(hits);
      if (start) begin
        all_q <= few;
        prefix_q <= '0;
        bit_q <= ScoreBits'(1) << (ScoreBits - 1);
        mask_q <= ScoreBits'(1) << (ScoreBits - 1);
        need_q <= CountBits'(Topk);
      end else if (decide) begin
        bit_q <= bit_q >> 1;
        mask_q <= mask_q >> 1 | (ScoreBits'(1) << (ScoreBits - 1));
        if (found) prefix_q <= prefix_q | bit_q;
        else need_q <= need_q - count_q;
      end else if (choice_valid && tie && !class_q[2] && !package_q[2]) begin
        need_q <= need_q - 1'b1;
      end
    end

    // Now prefix_q is the smallest score that stays; of those equal to it the first need_q do.
    assign tie = equal_q && need_q != '0;
    assign choice_valid = valid_q[2];
    assign choice_last = last_q[2];
    assign choice_keep = !package_q[2] && (class_q[2] || all_q || above_q || tie);
    assign choice_score = score_3_q ^ (ScoreBits'(1) << (ScoreBits - 1));

    always_ff @(posedge clk_i) begin
      last_q <= {last_q[1:0], issue_last};
      class_q <= {class_q[1:0], first_q};
      package_q <= {package_q[1:0], issue_last && frame_package};
      lane_1_q <= lane_q;
      score_2_q <= scores[lane_1_q];
      score_3_q <= score_2_q;
      above_q <= score_2_q > prefix_q;
      equal_q <= score_2_q == prefix_q;
    end
  end

  // ---- Weights, then into the ring of decisions ----------------------------------------------
  logic signed [MovedBits-1:0] a_moved_q;
  logic [TableBits-1:0] b_index_q;
  logic [WeightBits-1:0] c_weight_q, weight;
  logic [2:0] judge_valid_q, judge_last_q, judge_keep_q;
  (* ram_style = "distributed" *) logic [WeightBits+1:0] judge_mem [JudgeDepth];
  logic [WeightBits+1:0] token_q;  // the oldest one
  logic judge_rd, judge_pop, token_valid_q, keep, last_token;

  assign judge_rd = judge_wr_q != judge_rd_q && (!token_valid_q || judge_pop);
  assign {last_token, keep, weight} = token_q;

  always_ff @(posedge clk_i) begin
    judge_last_q <= {judge_last_q[1:0], choice_last};
    judge_keep_q <= {judge_keep_q[1:0], choice_keep};
    a_moved_q <= (MovedBits'(signed'(choice_score)) + MovedBits'(Offset)) >>> Shift;
    if (a_moved_q < 0) b_index_q <= '0;
    else if (a_moved_q > MovedBits'(Entries - 1)) b_index_q <= TableBits'(Entries - 1);
    else b_index_q <= TableBits'(a_moved_q);
    c_weight_q <= weight_rom[b_index_q];
  end

  always_ff @(posedge clk_i) begin
    if (judge_valid_q[2]) begin
      judge_mem[judge_wr_q[JudgeBits-1:0]] <= {judge_last_q[2], judge_keep_q[2], c_weight_q};
    end
    if (judge_rd) token_q <= judge_mem[judge_rd_q[JudgeBits-1:0]];
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      judge_valid_q <= '0;
      judge_wr_q <= '0;
      judge_rd_q <= '0;
      token_valid_q <= 1'b0;
    end else begin
      judge_valid_q <= {judge_valid_q[1:0], choice_valid};
      if (judge_valid_q[2]) judge_wr_q <= judge_wr_q + 1'b1;
      if (judge_rd) judge_rd_q <= judge_rd_q + 1'b1;
      if (!token_valid_q || judge_pop) token_valid_q <= judge_rd;
    end
  end

  // ---- Tokens pass: kept ones into the queue, the others into the sums -----------------------
  // A frame's end goes into the queue also where its last token does not: a package token follows.
  typedef enum logic [2:0] {StIdle, StPos, StIndex, StRecip, StRead} state_e;
  state_e state_q;
  logic [BeatBits-1:0] beat_q, read_beat_q;
  logic beat_end, read_end, any_q, zero_q, zero, restart, frame_end, package_start, blocked;
  logic [WeightBits-1:0] counted;
  logic [DenBits-1:0] den_q;
  logic push, queue_room_q;
  logic [QueueBits:0] queue_wr_q, queue_rd_q;
  (* ram_style = "distributed" *) logic [DataBits+2:0] queue_mem [QueueDepth];

  // Until they are read, the sums of a frame keep those of the next one out.
  assign blocked = state_q == StPos || state_q == StIndex || state_q == StRecip;
  assign pass = x_valid_q && token_valid_q && queue_room_q && (keep || !blocked);
  assign beat_end = beat_q == BeatBits'(Beats - 1);
  assign judge_pop = pass && beat_end;
  assign frame_end = judge_pop && last_token;
  assign package_start = frame_end && (any_q || !keep);
  assign push = (pass && keep) || package_start;

  // While all weights are 0, every token counts 1; the first other weight starts the sums again.
  assign zero = (!any_q || zero_q) && weight == '0;
  assign restart = !any_q || (zero_q && !zero);
  assign counted = weight | WeightBits'(zero);

  always_ff @(posedge clk_i) begin
    if (push) begin
      queue_mem[queue_wr_q[QueueBits-1:0]] <= {keep, frame_end && !package_start, package_start, x};
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      beat_q <= '0;
      any_q <= 1'b0;
      queue_wr_q <= '0;
      queue_room_q <= 1'b1;
    end else begin
      // one cycle late: two words are left then
      queue_room_q <= (QueueBits + 1)'(queue_wr_q - queue_rd_q) < (QueueBits + 1)'(QueueDepth - 2);
      if (pass) beat_q <= beat_end ? '0 : beat_q + 1'b1;
      if (judge_pop) any_q <= !last_token && (any_q || !keep);
      if (push) queue_wr_q <= queue_wr_q + 1'b1;
    end
  end

  always_ff @(posedge clk_i) begin
    if (judge_pop && !keep) begin
      zero_q <= zero;
      den_q <= DenBits'(counted) + (restart ? '0 : den_q);
    end
  end

  // ---- Sums, one word per beat ---------------------------------------------------------------
  // d: product begins; e: sum is read; f: product and sum are there.
  logic d_valid_q, e_valid_q, f_valid_q;
  logic d_restart_q, e_restart_q, f_restart_q;
  logic [DataBits-1:0] d_x_q;
  logic [WeightBits-1:0] d_weight_q;
  logic [Simd*NumBits-1:0] num_new, num_old;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      d_valid_q <= 1'b0;
      e_valid_q <= 1'b0;
      f_valid_q <= 1'b0;
    end else begin
      d_valid_q <= pass && !keep;
      e_valid_q <= d_valid_q;
      f_valid_q <= e_valid_q;
    end
  end

  always_ff @(posedge clk_i) begin
    d_restart_q <= restart;
    d_x_q <= x;
    d_weight_q <= counted;
    e_restart_q <= d_restart_q;
    f_restart_q <= e_restart_q;
  end

  for (genvar l = 0; l < Simd; l++) begin : gen_sum
    logic signed [SignedX-1:0] x_lane;
    logic signed [ProductBits-1:0] product;

    assign x_lane = (XSigned != 0) ? SignedX'(signed'(d_x_q[l*XBits +: XBits]))
                                   : SignedX'(d_x_q[l*XBits +: XBits]);

    mult_pipe #(
        .ABits(SignedX),
        .BBits(WeightBits),
        .Dsp(MultDsp)
    ) u_weighted (
        .clk_i,
        .a_i(x_lane),
        .b_i(d_weight_q),
        .p_o(product)
    );

    assign num_new[l*NumBits +: NumBits] =
        NumBits'(product) + (f_restart_q ? '0 : num_old[l*NumBits +: NumBits]);
  end

  // The first token of a frame reads no sums: the read port is free for the frame before.
  if (Beats == 1) begin : gen_one_sum
    logic [Simd*NumBits-1:0] num_q;

    assign num_old = num_q;

    always_ff @(posedge clk_i) begin
      if (f_valid_q) num_q <= num_new;
    end
  end else begin : gen_sums
    logic [BeatBits-1:0] d_beat_q, e_beat_q, f_beat_q;

    always_ff @(posedge clk_i) begin
      d_beat_q <= beat_q;
      e_beat_q <= d_beat_q;
      f_beat_q <= e_beat_q;
    end

    simple_ram #(
        .DataBits(Simd * NumBits),
        .Words(Beats)
    ) u_sum (
        .clk_i,
        .write_i(f_valid_q),
        .waddr_i(f_beat_q),
        .wdata_i(num_new),
        .read_i(1'b1),
        .raddr_i((state_q == StRead) ? read_beat_q : e_beat_q),
        .rdata_o(num_old)
    );
  end

  // ---- Reciprocal of the denominator ---------------------------------------------------------
  logic [PosBits-1:0] pos, pos_q;
  logic [NormalBits-1:0] normal;
  logic [IndexBits-1:0] index_q;
  logic [RecipBits-1:0] recip_q;
  logic package_busy_q, package_sent;

  assign read_end = read_beat_q == BeatBits'(Beats - 1);
  assign normal = NormalBits'(den_q) << (PosBits'(DenMax) - pos_q);

  always_comb begin
    pos = '0;
    for (int unsigned b = 0; b < DenBits; b++) begin
      if (den_q[b]) pos = PosBits'(b);
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= StIdle;
      package_busy_q <= 1'b0;
    end else begin
      if (package_sent) package_busy_q <= 1'b0;
      unique case (state_q)
        StIdle: if (package_start) state_q <= StPos;
        StPos: state_q <= StIndex;
        StIndex: state_q <= StRecip;
        StRecip: begin
          if (!package_busy_q) begin
            state_q <= StRead;
            package_busy_q <= 1'b1;
          end
        end
        default: if (read_end) state_q <= package_start ? StPos : StIdle;
      endcase
    end
  end

  always_ff @(posedge clk_i) begin
    read_beat_q <= (state_q == StRead) ? read_beat_q + 1'b1 : '0;
    if (state_q == StPos) pos_q <= pos;
    if (state_q == StIndex) begin
      index_q <= IndexBits'((DenMax >= IndexBits) ? normal >> (DenMax - IndexBits)
                                                  : normal << (IndexBits - DenMax));
    end
    if (state_q == StRecip) recip_q <= recip_rom[index_q];
  end

  // ---- Package token: aligned, multiplied, rounded, a beat per cycle -------------------------
  // num < 2^(l + SignedX), so that it can be shifted left by DenMax - l first: then the rounding
  // shift is a constant.
  logic [5:0] package_valid_q;
  logic [BeatBits-1:0] package_wr_q, package_rd_q;
  logic package_ready_q;
  logic [DataBits-1:0] package_y_q;
  (* ram_style = "distributed" *) logic [DataBits-1:0] package_mem [Beats];

  for (genvar l = 0; l < Simd; l++) begin : gen_package
    logic signed [NumBits-1:0] num, aligned_q;
    logic signed [ScaledBits-1:0] scaled;
    logic signed [FloorBits-1:0] floor, floor_q;
    logic half, sticky, up_q;

    assign num = num_old[l*NumBits +: NumBits];

    mult_pipe #(
        .ABits(NumBits),
        .BBits(RecipBits),
        .Dsp(MultDsp)
    ) u_scaled (
        .clk_i,
        .a_i(aligned_q),
        .b_i(recip_q),
        .p_o(scaled)
    );

    assign floor = FloorBits'(scaled >>> RoundBy);
    assign half = scaled[RoundBy-1];
    assign sticky = (scaled & ((ScaledBits'(1) << (RoundBy - 1)) - 1'b1)) != '0;

    always_ff @(posedge clk_i) begin
      aligned_q <= num << (PosBits'(DenMax) - pos_q);
      floor_q <= floor;
      up_q <= half && (HalfUp != 0 || sticky || floor[0]);
      package_y_q[l*XBits +: XBits] <= XBits'(num_pkg::saturate(
          64'(floor_q) + 64'(signed'({1'b0, up_q})), XBits, XSigned != 0));
    end
  end

  always_ff @(posedge clk_i) begin
    if (package_valid_q[5]) package_mem[package_wr_q] <= package_y_q;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      package_valid_q <= '0;
      package_wr_q <= '0;
      package_ready_q <= 1'b0;
    end else begin
      package_valid_q <= {package_valid_q[4:0], state_q == StRead};
      if (package_valid_q[5]) begin
        package_wr_q <= (package_wr_q == BeatBits'(Beats - 1)) ? '0 : package_wr_q + 1'b1;
      end
      // Beats come without a gap: behind the first one, none is ever missing.
      if (package_valid_q[5]) package_ready_q <= 1'b1;
      else if (package_sent) package_ready_q <= 1'b0;
    end
  end

  // ---- Output: the queue, and package tokens where it says so --------------------------------
  logic head_valid, head_keep, head_last, head_package, head_pop, package_q;
  logic [DataBits-1:0] head_x;
  logic out_valid, out_ready, package_fire, package_last;

  assign head_valid = queue_wr_q != queue_rd_q;
  assign {head_keep, head_last, head_package, head_x} = queue_mem[queue_rd_q[QueueBits-1:0]];
  assign head_pop = !package_q && head_valid && (!head_keep || out_ready);
  assign package_last = package_rd_q == BeatBits'(Beats - 1);
  assign package_fire = package_q && package_ready_q && out_ready;
  assign package_sent = package_fire && package_last;
  assign out_valid = package_q ? package_ready_q : head_valid && head_keep;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      queue_rd_q <= '0;
      package_q <= 1'b0;
      package_rd_q <= '0;
    end else begin
      if (head_pop) queue_rd_q <= queue_rd_q + 1'b1;
      if (head_pop && head_package) package_q <= 1'b1;
      if (package_sent) package_q <= 1'b0;
      if (package_fire) package_rd_q <= package_last ? '0 : package_rd_q + 1'b1;
    end
  end

  skid_buffer #(
      .DataBits(DataBits)
  ) u_skid (
      .clk_i,
      .rst_ni,
      .s_axis_tdata(package_q ? package_mem[package_rd_q] : head_x),
      .s_axis_tvalid(out_valid),
      .s_axis_tready(out_ready),
      .s_axis_tlast(package_q ? package_last : head_last),
      .s_axis_tuser(package_q && package_last),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );

`ifndef SYNTHESIS
  // The rings hold what is under way, and nobody else reads the sums while a package token does.
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      assert (!push || (queue_wr_q ^ queue_rd_q) != (QueueBits + 1)'(QueueDepth));
      assert (!judge_valid_q[2] || (judge_wr_q ^ judge_rd_q) != (JudgeBits + 1)'(JudgeDepth));
      assert (!package_start || state_q == StIdle || (state_q == StRead && read_end));
      assert (state_q != StRead || Beats == 1 || !e_valid_q || e_restart_q);
      assert (!package_valid_q[5] || package_busy_q);
    end
  end
`endif
endmodule
