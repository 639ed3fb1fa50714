// SPDX-License-Identifier: Apache-2.0

`include "../lib/memory.svh"

/// y[o] = T(saturate(round_shift(bias[o] + sum_i weight[o, i] x[i], Shift))) for every token, with at most N
/// nonzero weights among M consecutive inputs (dense: N = M = 1). Output o of group g sees the inputs of
/// group g alone. T is the identity (Entries = 0) or a table, T(z) = table[clamp((z + TableOffset) >> TableShift)].
///
/// Tp tokens of a frame, fewer at its end, are collected in one of two banks while those of the other are
/// computed side by side. A step reads Simd inputs of every token and one word of weights: what Pe outputs
/// have for these inputs. All tokens of a bank take (OutChannels / Pe) * (InChannels / Groups / Simd) steps
/// of one cycle each, without a gap in between. A beat leaves per token and tile of Pe outputs, token by token.
///
/// Multipliers are LUTs or DSP blocks. A DSP block multiplies Pack tokens with PackOut outputs' weights,
/// (x0 + x1 2^F + ...) (w0 + w1 2^(Pack F)), so that the products lie in fields of F bits, and adds the sum
/// of the block before it: a chain of blocks adds up products of as many inputs. Block s of a chain sees a
/// step s cycles after the first one. With Pump = 2 the blocks run with clk2x_i: chains of neighbouring outputs
/// share them, and block s sees a step (s + 1) / 2 cycles after the first one (see dsp_chains). Where inputs are
/// chosen, such outputs share the multiplexers, too, and it is s / 2 cycles (see select_2x).
///
/// With Sets > 1 there are as many sets of weights, biases and tables. A beat of s_axis_set per frame, taken with
/// the last one of the frame, is the number of its set: it goes with the tokens to where they meet constants.
module nm_matmul #(
    parameter int unsigned MaxTokens = 1,    // tokens of a frame, any number works
    parameter int unsigned InChannels = 8,
    parameter int unsigned OutChannels = 8,
    parameter int unsigned Groups = 1,       // divides InChannels and OutChannels
    parameter int unsigned N = 2,
    parameter int unsigned M = 4,
    parameter int unsigned Simd = 4,         // multiple of M, divides InChannels / Groups
    parameter int unsigned Pe = 2,           // divides OutChannels / Groups
    parameter int unsigned Tp = 1,           // tokens side by side
    parameter int unsigned Pack = 1,         // tokens per DSP block, divides Tp
    parameter int unsigned PackOut = 1,      // outputs per DSP block, 1 or 2, divides Pe; 2: M = 1
    parameter int unsigned InBits = 8,
    parameter bit InSigned = 1,
    parameter int unsigned WeightBits = 4,
    parameter bit WeightSigned = 1,
    parameter int unsigned BiasBits = 16,
    parameter bit BiasSigned = 1,
    parameter int unsigned AccBits = 20,     // holds every partial sum
    parameter bit AccSigned = 1,
    parameter int unsigned MidBits = 8,      // argument of the table
    parameter bit MidSigned = 1,
    parameter int unsigned OutBits = 8,
    parameter bit OutSigned = 1,
    parameter int Shift = 4,                 // negative: left shift
    parameter bit HalfUp = 0,                // ties upwards instead of to even
    parameter int unsigned Entries = 0,      // of the table, >= 2; 0: no table
    parameter int TableOffset = 0,           // added before the shift
    parameter int unsigned TableShift = 0,
    parameter bit MultDsp = 0,               // multipliers in DSP blocks
    parameter int unsigned Pump = 1,         // 2: at twice the clock; MultDsp, 2 * PackOut divides Pe
    parameter int unsigned WeightRam = 0,    // weights in 0: LUTs, 1: block RAM, 2: UltraRAM
    parameter int unsigned Sets = 1,         // of constants
    parameter WeightsFile = "",              // its name, less a digit; a line per step: see Python
    parameter BiasFile = "",                 // a line per tile
    parameter TableFile = ""                 // an entry per line
) (
    input  logic                   clk_i,
    /* verilator lint_off UNUSEDSIGNAL */
    input  logic                   clk2x_i,  // only where Pump = 2
    /* verilator lint_on UNUSEDSIGNAL */
    input  logic                   rst_ni,
    input  logic [Simd*InBits-1:0] s_axis_tdata,
    input  logic                   s_axis_tvalid,
    output logic                   s_axis_tready,
    input  logic                   s_axis_tlast,
    input  logic                   s_axis_tuser,
    input  logic [(Sets > 1 ? $clog2(Sets) : 1)-1:0] s_axis_set_tdata,
    input  logic                   s_axis_set_tvalid,
    output logic                   s_axis_set_tready,
    input  logic                   s_axis_set_tlast,
    input  logic                   s_axis_set_tuser,
    output logic [ Pe*OutBits-1:0] m_axis_tdata,
    output logic                   m_axis_tvalid,
    input  logic                   m_axis_tready,
    output logic                   m_axis_tlast,
    output logic                   m_axis_tuser
);
  /*verilator no_inline_module*/

  // verilator coverage_off
  // called for constants alone, so none of its lines ever runs
  function automatic int unsigned bits_for(int unsigned values);
    bits_for = values > 1 ? $clog2(values) : 1;
  endfunction
  // verilator coverage_on

  localparam int unsigned InBeats = InChannels / Simd;
  localparam int unsigned GroupSteps = InBeats / Groups;
  localparam int unsigned Tiles = OutChannels / Pe;
  localparam int unsigned GroupTiles = Tiles / Groups;
  localparam int unsigned Steps = Tiles * GroupSteps;
  localparam int unsigned Terms = Simd / M * N;  // products per output, token and step
  localparam int unsigned Mults = Pe * Terms;    // weights of a step
  // indices ascend, so the k-th weight of a group belongs to one of its inputs k .. k + M - N
  localparam int unsigned Slots = M - N + 1;
  localparam int unsigned IndexBits = $clog2(Slots);
  // without indices all outputs share the inputs
  localparam int unsigned Selections = M > 1 ? Mults : Terms;

  // Term c * Chain + s of an output is that of block s of its chain c. What a chain sums up is Fields
  // numbers of FieldBits each, token by token and above them the same of the next output.
  localparam int unsigned Fields = Pack * PackOut;
  localparam longint unsigned LargestProduct =
      (InSigned ? 64'd1 << (InBits - 1) : (64'd1 << InBits) - 64'd1) *
      (WeightSigned ? 64'd1 << (WeightBits - 1) : (64'd1 << WeightBits) - 64'd1);

  // verilator coverage_off
  // these too: what a field, and the operands of a DSP block with such fields, need
  function automatic int unsigned field_bits(int unsigned terms);
    field_bits = $clog2(64'(terms) * LargestProduct + 64'd1) + 1;
  endfunction

  function automatic int unsigned packed_x_bits(int unsigned field);
    packed_x_bits = (Pack - 1) * field + InBits + (Pack > 1 || !InSigned ? 1 : 0);
  endfunction

  function automatic int unsigned packed_weight_bits(int unsigned field);
    packed_weight_bits =
        (PackOut - 1) * Pack * field + WeightBits + (PackOut > 1 || !WeightSigned ? 1 : 0);
  endfunction
  // verilator coverage_on

  // weights take the wider port of a block, the one with the adder in front, where two of them are packed
  localparam bit WeightsWide =
      PackOut > 1 || (Pack == 1 && packed_weight_bits(0) > packed_x_bits(0));

  // verilator coverage_off
  // the longest that divides Terms, that a shift register of one LUT can delay, and that fits 27 x 18 + 48 bits
  function automatic int unsigned longest_chain();
    int unsigned field, x_bits, weight_bits;
    longest_chain = 1;
    for (int unsigned k = 2; k <= 32; k++) begin
      field = field_bits(k);
      x_bits = packed_x_bits(field);
      weight_bits = packed_weight_bits(field);
      if (Terms % k == 0 && Fields * field <= 48 && (WeightsWide ? weight_bits : x_bits) <= 27 &&
          (WeightsWide ? x_bits : weight_bits) <= 18) longest_chain = k;
    end
  endfunction
  // verilator coverage_on

  localparam int unsigned Chain = MultDsp ? longest_chain() : 1;
  localparam int unsigned Chains = Terms / Chain;     // per output, or pair of outputs
  localparam int unsigned FieldBits = field_bits(Chain);
  localparam int unsigned Shares = Tp / Pack;         // multipliers per weight
  // a packed input loses one where the one below it is negative; the wide port adds the lowest itself
  localparam int unsigned XBits = InBits + (InSigned && Pack > (WeightsWide ? 1 : 2) ? 1 : 0);
  localparam int unsigned StageBits = Pe * Chains * (WeightBits + IndexBits);  // of the weights

  // three terms are added per level of the tree and register
  // verilator coverage_off
  function automatic int unsigned tree_terms(int unsigned level);
    tree_terms = Chains;
    for (int unsigned l = 0; l < level; l++) tree_terms = (tree_terms + 2) / 3;
  endfunction

  function automatic int unsigned tree_levels();
    tree_levels = 0;
    for (int unsigned terms = Chains; terms > 1; terms = (terms + 2) / 3) tree_levels++;
  endfunction

  function automatic int unsigned tree_bits(int unsigned level);
    tree_bits = FieldBits + $clog2(3 ** level < Chains ? 3 ** level : Chains);
  endfunction
  // verilator coverage_on

  localparam int unsigned Levels = tree_levels();
  localparam int unsigned SumBits = tree_bits(Levels);
  localparam int unsigned ReadStages = WeightRam == 0 ? 1 : 2;  // RAM blocks have a register of their own
  localparam bit Select2x = Pump > 1 && Slots > 1;  // inputs are chosen at twice the clock
  localparam int unsigned MultStages =
      !MultDsp ? 2 : Pump == 1 ? Chain + 2 : (Chain + 1) / 2 + 3 + (Select2x ? 1 : 0);
  localparam int unsigned Stages = ReadStages + MultStages + Levels + 1;

  localparam int unsigned LaneBits = bits_for(Tp);
  localparam int unsigned BeatBits = bits_for(InBeats);
  localparam int unsigned StepBits = bits_for(GroupSteps);
  localparam int unsigned GroupTileBits = bits_for(GroupTiles);
  localparam int unsigned GroupBits = bits_for(Groups);
  localparam int unsigned TileBits = bits_for(Tiles);
  // weights of a set follow those of the one before, biases and entries begin at multiples of a power of 2
  localparam int unsigned SetBits = bits_for(Sets);
  localparam int unsigned RomBits = bits_for(Sets * Steps);

  // verilator coverage_off
  // of the weights of every set
  function automatic logic [2**SetBits-1:0][RomBits-1:0] first_words();
    first_words = '0;
    for (int unsigned i = 0; i < Sets; i++) first_words[i] = RomBits'(i * Steps);
  endfunction
  // verilator coverage_on

  localparam int unsigned TileShift = $clog2(Tiles);
  localparam int unsigned BiasWords = ((Sets - 1) << TileShift) + Tiles;
  localparam int unsigned BiasAddrBits = bits_for(BiasWords);
  localparam int unsigned TableWords = Entries > 0 ? ((Sets - 1) << $clog2(Entries)) + Entries : 1;

  localparam RomStyle = WeightRam == 0 ? "distributed" : WeightRam == 1 ? "block" : "ultra";
  localparam logic [127:0] Digits = "fedcba9876543210";  // that the names of weight files end with
  // yosys knows no ROM in LUT RAM: it forms logic, as a vendor tool does for "distributed"
  localparam RamStyle = WeightRam == 0 ? "registers" : RomStyle;

  logic [Pe*BiasBits-1:0] bias_rom[BiasWords];
  logic [OutBits-1:0] table_rom[TableWords];
  logic unused;

  assign unused = ^{MaxTokens, MidBits, MidSigned, OutSigned, RomStyle, RamStyle, table_rom[0],
                    s_axis_set_tdata, s_axis_set_tvalid, s_axis_set_tlast, s_axis_set_tuser};

  initial begin
    if (BiasFile != "") $readmemh(`MEMORY_FILE(BiasFile), bias_rom);
    if (Entries > 0 && TableFile != "") $readmemh(`MEMORY_FILE(TableFile), table_rom);
  end

  // -- two banks of Tp tokens each -----------------------------------------------------------------
  logic [1:0] full_q, last_q, user_q;  // per bank: complete, last tokens of their frame, its tuser
  logic [LaneBits-1:0] top_q[2];       // per bank: number of its last token
  logic [LaneBits-1:0] wr_lane_q;
  logic [BeatBits-1:0] wr_beat_q;
  logic wr_bank_q, rd_bank_q;
  logic wr, wr_token_end, wr_end, rd, rd_end;

  assign s_axis_tready = !full_q[wr_bank_q] && (Sets == 1 || s_axis_set_tvalid);
  assign s_axis_set_tready = Sets == 1 || (wr && s_axis_tlast);
  assign wr = s_axis_tvalid && s_axis_tready;
  assign wr_token_end = wr_beat_q == BeatBits'(InBeats - 1);
  assign wr_end = wr_token_end && (s_axis_tlast || wr_lane_q == LaneBits'(Tp - 1));

  always_ff @(posedge clk_i) begin
    if (wr) begin
      last_q[wr_bank_q] <= s_axis_tlast;
      user_q[wr_bank_q] <= s_axis_tuser;
      top_q[wr_bank_q]  <= wr_lane_q;
    end
    if (!rst_ni) begin
      full_q <= '0;
      wr_bank_q <= 1'b0;
      wr_lane_q <= '0;
      wr_beat_q <= '0;
    end else begin
      if (wr) wr_beat_q <= wr_token_end ? '0 : wr_beat_q + 1'b1;
      if (wr && wr_token_end) wr_lane_q <= wr_end ? '0 : wr_lane_q + 1'b1;
      if (wr && wr_end) begin
        full_q[wr_bank_q] <= 1'b1;
        wr_bank_q <= !wr_bank_q;
      end
      if (rd && rd_end) full_q[rd_bank_q] <= 1'b0;
    end
  end

  // -- steps of a bank -----------------------------------------------------------------------------
  logic en;  // the pipeline moves
  logic [BeatBits-1:0] rd_beat;
  logic [StepBits-1:0] step_q;
  logic [GroupTileBits-1:0] tile_q;
  logic [RomBits-1:0] rom_q;
  logic step_end, tile_end, group_end;

  assign rd = en && full_q[rd_bank_q];
  assign step_end = step_q == StepBits'(GroupSteps - 1);
  assign tile_end = step_end && tile_q == GroupTileBits'(GroupTiles - 1);
  assign rd_end = tile_end && group_end;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      rd_bank_q <= 1'b0;
      step_q <= '0;
      tile_q <= '0;
    end else if (rd) begin
      step_q <= step_end ? '0 : step_q + 1'b1;
      if (step_end) tile_q <= tile_end ? '0 : tile_q + 1'b1;
      if (rd_end) rd_bank_q <= !rd_bank_q;
    end
  end

  // -- sets ----------------------------------------------------------------------------------------
  logic [Stages-1:0][SetBits-1:0] set_q;  // of the tokens in a stage of the pipeline

  if (Sets == 1) begin : gen_one_set
    assign set_q = '0;

    always_ff @(posedge clk_i) begin
      if (!rst_ni) rom_q <= '0;
      else if (rd) rom_q <= rd_end ? '0 : rom_q + 1'b1;
    end
  end else begin : gen_sets
    localparam logic [2**SetBits-1:0][RomBits-1:0] FirstWords = first_words();
    logic [1:0][SetBits-1:0] bank_q;  // of the two banks
    logic [SetBits-1:0] next;         // of the bank that is read next

    // while that is not full, it is the one being written: its set stands at the port
    assign next = full_q[!rd_bank_q] ? bank_q[!rd_bank_q] : s_axis_set_tdata;

    always_ff @(posedge clk_i) begin
      if ((rd && rd_end) || !full_q[rd_bank_q]) rom_q <= FirstWords[next];
      else if (rd) rom_q <= rom_q + 1'b1;
      if (wr) bank_q[wr_bank_q] <= s_axis_set_tdata;
      if (en) set_q <= {set_q[Stages-2:0], bank_q[rd_bank_q]};
    end
  end

  if (Groups == 1) begin : gen_one_group
    assign group_end = 1'b1;
    assign rd_beat = step_q;
  end else begin : gen_groups
    logic [GroupBits-1:0] group_q;
    logic [BeatBits-1:0] beat_q, base_q;  // input beat, first one of the group

    assign group_end = group_q == GroupBits'(Groups - 1);
    assign rd_beat = beat_q;

    always_ff @(posedge clk_i) begin
      if (!rst_ni) begin
        group_q <= '0;
        beat_q  <= '0;
        base_q  <= '0;
      end else if (rd) begin
        beat_q <= rd_end ? '0 : step_end && !tile_end ? base_q : beat_q + 1'b1;
        if (tile_end) begin
          base_q  <= group_end ? '0 : beat_q + 1'b1;
          group_q <= group_end ? '0 : group_q + 1'b1;
        end
      end
    end
  end

  // -- control of the pipeline: one bit per stage ---------------------------------------------------
  // first and final step of a tile; end of the bank, and what the bank is
  logic [Stages-1:0] valid_q, first_q, final_q, end_q, frame_q, package_q;
  logic [LaneBits-1:0] lanes_q[Stages];

  always_ff @(posedge clk_i) begin
    if (en) begin
      first_q <= {first_q[Stages-2:0], step_q == '0};
      final_q <= {final_q[Stages-2:0], step_end};
      end_q <= {end_q[Stages-2:0], rd_end};
      frame_q <= {frame_q[Stages-2:0], last_q[rd_bank_q]};
      package_q <= {package_q[Stages-2:0], user_q[rd_bank_q]};
      lanes_q[0] <= top_q[rd_bank_q];
      for (int unsigned i = 1; i < Stages; i++) lanes_q[i] <= lanes_q[i-1];
    end
    if (!rst_ni) valid_q <= '0;
    else if (en) valid_q <= {valid_q[Stages-2:0], rd};
  end

  // -- read ----------------------------------------------------------------------------------------
  // stages are not gated by valid_q: between the tokens they carry what nobody looks at
  logic [Simd*InBits-1:0] x[Tp];

  for (genvar t = 0; t < Tp; t++) begin : gen_bank
    (* ram_style = "distributed" *) logic [Simd*InBits-1:0] mem[2*2**BeatBits];
    logic [Simd*InBits-1:0] x_q[ReadStages];

    assign x[t] = x_q[ReadStages-1];

    always_ff @(posedge clk_i) begin
      if (wr && wr_lane_q == LaneBits'(t)) mem[{wr_bank_q, wr_beat_q}] <= s_axis_tdata;
      if (en) begin
        x_q[0] <= mem[{rd_bank_q, rd_beat}];
        for (int unsigned i = 1; i < ReadStages; i++) x_q[i] <= x_q[i-1];
      end
    end
  end

  // The weights of two blocks of every chain share a memory, which is read when the first of them asks
  // for it: delaying addresses is cheaper than delaying weights. The second one takes a register, if it is later.
  logic [StageBits-1:0] stage_word[Chain];

  for (genvar z = 0; z < (Chain + 1) / 2; z++) begin : gen_weights
    localparam int unsigned WordBits = 2 * z + 1 < Chain ? 2 * StageBits : StageBits;

    (* rom_style = RomStyle, ram_style = RamStyle *) logic [WordBits-1:0] rom[Sets*Steps];
    logic [RomBits-1:0] addr;
    logic [WordBits-1:0] word_q[ReadStages];

    initial if (WeightsFile != "") $readmemh({`MEMORY_FILE(WeightsFile), Digits[8*z+:8]}, rom);

    assign stage_word[2*z] = word_q[ReadStages-1][StageBits-1:0];

    if (z == 0) begin : gen_first
      assign addr = rom_q;
    end else begin : gen_next
      logic [RomBits-1:0] before_q;  // the address of the memory before this one

      if (Pump == 1) begin : gen_single
        logic [RomBits-1:0] addr_q;

        assign addr = addr_q;

        always_ff @(posedge clk_i) if (en) addr_q <= before_q;
      end else begin : gen_double
        assign addr = before_q;
      end

      always_ff @(posedge clk_i) if (en) before_q <= gen_weights[z-1].addr;
    end

    always_ff @(posedge clk_i) begin
      if (en) begin
        word_q[0] <= rom[addr];
        for (int unsigned i = 1; i < ReadStages; i++) word_q[i] <= word_q[i-1];
      end
    end

    if (2 * z + 1 < Chain && Select2x) begin : gen_both
      assign stage_word[2*z+1] = word_q[ReadStages-1][WordBits-1:StageBits];
    end else if (2 * z + 1 < Chain) begin : gen_second
      logic [StageBits-1:0] word_q2;

      assign stage_word[2*z+1] = word_q2;

      always_ff @(posedge clk_i) begin
        if (en) word_q2 <= word_q[ReadStages-1][WordBits-1:StageBits];
      end
    end
  end

  // -- select: the inputs that each stored weight belongs to ------------------------------------------
  // Tokens that share a multiplier stand side by side. What stands below a field is a number of its own:
  // where it is negative, the field is one less.
  function automatic logic [Pack*XBits-1:0] pack_tokens(logic [Pack*InBits-1:0] lanes);
    logic signed [XBits-1:0] field;
    logic borrow;
    borrow = 1'b0;
    for (int unsigned i = 0; i < Pack; i++) begin
      field = XBits'($signed({InSigned & lanes[i*InBits+InBits-1], lanes[i*InBits+:InBits]})) -
              $signed(XBits'(borrow));
      pack_tokens[i*XBits+:XBits] = field;
      borrow = InSigned & (WeightsWide || i > 0) & field[XBits-1];
    end
  endfunction

  logic [Simd*Pack*XBits-1:0] line[Shares][Chain], line_q[Shares][Chain];  // what block s sees
  /* verilator lint_off UNUSEDSIGNAL */
  logic [Pack*XBits-1:0] select[Shares*Selections];  // chosen at once, or later
  logic [bits_for(Slots)-1:0] index[Mults];          // of a term's input among the slots
  /* verilator lint_on UNUSEDSIGNAL */
  logic [WeightBits-1:0] weight[Mults];

  always_comb begin
    for (int unsigned q = 0; q < Shares; q++) begin
      for (int unsigned c = 0; c < Simd; c++) begin
        logic [Pack*InBits-1:0] lanes;
        for (int unsigned i = 0; i < Pack; i++) begin
          lanes[i*InBits+:InBits] = x[q*Pack+i][c*InBits+:InBits];
        end
        line[q][0][c*Pack*XBits+:Pack*XBits] = pack_tokens(lanes);
      end
      for (int unsigned s = 1; s < Chain; s++) begin
        // two blocks see it in the same cycle: those from an odd one on, or with Select2x from an even one
        line[q][s] = Pump > 1 && s % 2 == (Select2x ? 1 : 0) ? line[q][s-1] : line_q[q][s-1];
      end
    end
  end

  always_ff @(posedge clk_i) if (en) line_q <= line;

  if (Slots > 1) begin : gen_index
    always_comb begin
      for (int unsigned p = 0; p < Pe; p++) begin
        for (int unsigned j = 0; j < Terms; j++) begin
          index[p*Terms+j] = stage_word[j%Chain][
              Pe*Chains*WeightBits+(p*Chains+j/Chain)*IndexBits+:IndexBits];
        end
      end
    end
  end else begin : gen_no_index
    always_comb for (int unsigned i = 0; i < Mults; i++) index[i] = '0;
  end

  if (Select2x) begin : gen_select_later
    always_comb for (int unsigned i = 0; i < Shares * Selections; i++) select[i] = '0;
  end else if (Slots > 1) begin : gen_select
    always_comb begin
      for (int unsigned q = 0; q < Shares; q++) begin
        for (int unsigned j = 0; j < Terms; j++) begin
          logic [Pack*XBits-1:0] slot[Slots];
          for (int unsigned k = 0; k < Slots; k++) begin
            slot[k] = line[q][j%Chain][(j/N*M+j%N+k)*Pack*XBits+:Pack*XBits];
          end
          for (int unsigned p = 0; p < Pe; p++) begin
            select[q*Mults+p*Terms+j] = slot[index[p*Terms+j]];
          end
        end
      end
    end
  end else begin : gen_no_select
    always_comb begin
      for (int unsigned q = 0; q < Shares; q++) begin
        for (int unsigned j = 0; j < Terms; j++) begin
          select[q*Terms+j] = line[q][j%Chain][j*Pack*XBits+:Pack*XBits];
        end
      end
    end
  end

  always_comb begin
    for (int unsigned p = 0; p < Pe; p++) begin
      for (int unsigned j = 0; j < Terms; j++) begin
        weight[p*Terms+j] = stage_word[j%Chain][(p*Chains+j/Chain)*WeightBits+:WeightBits];
      end
    end
  end

  // -- multiply ------------------------------------------------------------------------------------
  logic signed [FieldBits-1:0] part[Tp*Mults/Chain];

  function automatic logic signed [WeightBits:0] signed_weight(logic [WeightBits-1:0] w);
    signed_weight = $signed({WeightSigned & w[WeightBits-1], w});
  endfunction

  // the product of operands that fit a LUT together, by {weight, input}: every bit of it is one LUT
  localparam bit Narrow = !MultDsp && InBits + WeightBits <= 6;
  localparam int unsigned ProductBits = InBits + WeightBits + (InSigned || WeightSigned ? 0 : 1);

  typedef logic [ProductBits-1:0] products_t[Narrow ? 2**(InBits+WeightBits) : 1];

  // verilator coverage_off
  // called for constants alone
  function automatic products_t products();
    logic [InBits-1:0] factor;
    for (int unsigned k = 0; k < $size(products_t); k++) begin
      factor = InBits'(k);
      products[k] = ProductBits'($signed({InSigned & factor[InBits-1], factor}) *
                                 signed_weight(WeightBits'(k >> InBits)));
    end
  endfunction
  // verilator coverage_on

  if (MultDsp) begin : gen_dsp
    localparam int unsigned Outs = Pe / PackOut;
    localparam int unsigned Turns = Select2x ? 2 : 1;  // outputs whose operands take turns
    localparam int unsigned Rows = Outs / Turns;       // and so many stand side by side
    localparam int unsigned Chosen = Selections / Turns;

    logic [Pack*XBits-1:0] tokens[Shares*Chosen];
    logic [WeightBits-1:0] factors[Mults/Turns];
    logic signed [26:0] a[Shares*Rows*Terms], d[Shares*Rows*Terms];
    logic signed [17:0] b[Shares*Rows*Terms];
    logic signed [Fields*FieldBits-1:0] sum[Shares*Outs*Chains];

    // Where product k = (share * Outs + output) * Terms + chain * Chain + block stands: chains that
    // share blocks are those of outputs 2o and 2o + 1, side by side unless they take turns.
    function automatic int unsigned place_of(int unsigned k, int unsigned beside);
      place_of = ((k / Terms / beside * Chains + k % Terms / Chain) * beside + k / Terms % beside)
                 * Chain + k % Chain;
    endfunction

    // tokens from the first on in their fields
    function automatic logic signed [26:0] place(logic [Pack*XBits-1:0] lanes, int unsigned first);
      logic signed [26:0] field;
      place = '0;
      for (int unsigned t = first; t < Pack; t++) begin
        field = 27'($signed({InSigned & lanes[t*XBits+XBits-1], lanes[t*XBits+:XBits]}));
        // the sign of the last one goes on to the top, that of the others ends with their field
        place |= (t == Pack - 1 ? field : 27'($unsigned(FieldBits'(field)))) << (t * FieldBits);
      end
    endfunction

    if (WeightsWide) begin : gen_weights_wide
      logic signed [26:0] high[Rows*Terms], low[Rows*Terms];
      logic signed [17:0] factor[Shares*Chosen];

      always_comb begin
        for (int unsigned o = 0; o < Rows; o++) begin
          for (int unsigned j = 0; j < Terms; j++) begin
            low[o*Terms+j] = 27'(signed_weight(factors[o*PackOut*Terms+j]));
            high[o*Terms+j] = PackOut == 1 ? '0 :
                27'(signed_weight(factors[(o*PackOut+PackOut-1)*Terms+j])) <<< Pack * FieldBits;
          end
        end
        for (int unsigned i = 0; i < Shares * Chosen; i++) factor[i] = 18'(place(tokens[i], 0));
        for (int unsigned k = 0; k < Shares * Rows * Terms; k++) begin
          a[place_of(k, Pump/Turns)] = high[k%(Rows*Terms)];
          d[place_of(k, Pump/Turns)] = low[k%(Rows*Terms)];
          b[place_of(k, Pump/Turns)] = factor[k/(Rows*Terms)*Chosen+k%Chosen];
        end
      end
    end else begin : gen_inputs_wide
      logic signed [26:0] high[Shares*Chosen], low[Shares*Chosen];
      logic signed [17:0] factor[Mults/Turns];

      always_comb begin
        for (int unsigned i = 0; i < Shares * Chosen; i++) begin
          low[i] = 27'($signed({InSigned & tokens[i][XBits-1], tokens[i][XBits-1:0]}));
          high[i] = place(tokens[i], 1);
        end
        for (int unsigned i = 0; i < Mults / Turns; i++) factor[i] = 18'(signed_weight(factors[i]));
        for (int unsigned k = 0; k < Shares * Rows * Terms; k++) begin
          a[place_of(k, Pump/Turns)] = high[k/(Rows*Terms)*Chosen+k%Chosen];
          d[place_of(k, Pump/Turns)] = low[k/(Rows*Terms)*Chosen+k%Chosen];
          b[place_of(k, Pump/Turns)] = factor[k%(Rows*Terms)];
        end
      end
    end

    if (Select2x) begin : gen_select_2x
      logic late, en2x;
      logic [Pack*XBits-1:0] slot[Shares*Terms*Slots];

      always_comb begin
        for (int unsigned q = 0; q < Shares; q++) begin
          for (int unsigned j = 0; j < Terms; j++) begin
            for (int unsigned k = 0; k < Slots; k++) begin
              slot[(q*Terms+j)*Slots+k] = line_q[q][j%Chain][(j/N*M+j%N+k)*Pack*XBits+:Pack*XBits];
            end
          end
        end
      end

      clock_halves u_halves (
          .clk_i,
          .clk2x_i,
          .rst_ni,
          .en_i(en),
          .late_o(late),
          .en2x_o(en2x)
      );

      select_2x #(
          .Shares(Shares),
          .Pairs(Rows),
          .Terms(Terms),
          .Length(Chain),
          .Slots(Slots),
          .SlotBits(Pack * XBits),
          .WeightBits(WeightBits)
      ) u_select (
          .clk_i,
          .clk2x_i,
          .en_i(en),
          .late_i(late),
          .en2x_i(en2x),
          .slot_i(slot),
          .index_i(index),
          .weight_i(weight),
          .x_o(tokens),
          .weight_o(factors)
      );

      dsp_pairs #(
          .Pairs(Shares * Rows * Chains),
          .Length(Chain),
          .SumBits(Fields * FieldBits),
          .FieldBits(FieldBits)
      ) u_dsp (
          .clk_i,
          .clk2x_i,
          .en_i(en),
          .late_i(late),
          .en2x_i(en2x),
          .a_i(a),
          .d_i(d),
          .b_i(b),
          .p_o(sum)
      );
    end else begin : gen_select_first
      assign tokens = select;
      assign factors = weight;

      dsp_chains #(
          .Chains (Shares * Outs * Chains),
          .Length (Chain),
          .SumBits(Fields * FieldBits),
          .FieldBits(FieldBits),
          .Pump(Pump)
      ) u_dsp (
          .clk_i,
          .clk2x_i,
          .rst_ni,
          .en_i(en),
          .a_i(a),
          .d_i(d),
          .b_i(b),
          .p_o(sum)
      );
    end

    always_comb begin
      for (int unsigned t = 0; t < Tp; t++) begin
        for (int unsigned p = 0; p < Pe; p++) begin
          for (int unsigned c = 0; c < Chains; c++) begin
            logic signed [Fields*FieldBits-1:0] all;
            int unsigned k;
            all = sum[place_of((t/Pack*Outs+p/PackOut)*Terms+c*Chain, Pump)/Chain];
            k = p % PackOut * Pack + t % Pack;
            part[(t*Pe+p)*Chains+c] = all[k*FieldBits+:FieldBits];
          end
        end
      end
    end
  end else begin : gen_lut
    logic [InBits-1:0] select_q[Tp*Selections];
    logic [WeightBits-1:0] weight_q[Mults];
    (* use_dsp = "no" *) logic signed [FieldBits-1:0] product_q[Tp*Mults];

    logic signed [FieldBits-1:0] product_d[Tp*Mults];

    assign part = product_q;

    // arrays are assigned to registers as a whole: element by element a simulator takes far longer
    if (Narrow) begin : gen_narrow
      localparam products_t Products = products();

      always_comb begin
        for (int unsigned t = 0; t < Tp; t++) begin
          for (int unsigned i = 0; i < Mults; i++) begin
            product_d[t*Mults+i] = FieldBits'($signed(
                Products[{weight_q[i], select_q[t*Selections+i%Selections]}]));
          end
        end
      end
    end else begin : gen_wide
      always_comb begin
        for (int unsigned t = 0; t < Tp; t++) begin
          for (int unsigned i = 0; i < Mults; i++) begin
            logic [InBits-1:0] factor;
            factor = select_q[t*Selections+i%Selections];
            product_d[t*Mults+i] = FieldBits'($signed({InSigned & factor[InBits-1], factor})) *
                FieldBits'(signed_weight(weight_q[i]));
          end
        end
      end
    end

    always_ff @(posedge clk_i) begin
      if (en) begin
        select_q  <= select;
        weight_q  <= weight;
        product_q <= product_d;
      end
    end
  end

  // -- adder tree ----------------------------------------------------------------------------------
  logic signed [SumBits-1:0] sum[Tp*Pe];

  for (genvar l = 1; l <= Levels; l++) begin : gen_level
    localparam int unsigned From = tree_terms(l - 1);  // per output
    localparam int unsigned To = tree_terms(l);
    localparam int unsigned Adds = (From + 1) / 3;  // a single term that is left over goes on
    localparam int unsigned FromBits = tree_bits(l - 1);
    localparam int unsigned Bits = tree_bits(l);
    logic signed [FromBits-1:0] term[Tp*Pe*From];
    logic signed [FromBits-1:0] a[Tp*Pe*Adds], b[Tp*Pe*Adds], c[Tp*Pe*Adds];
    logic signed [Bits-1:0] added[Tp*Pe*Adds], sum_d[Tp*Pe*To], sum_q[Tp*Pe*To];

    if (l == 1) begin : gen_first
      assign term = part;
    end else begin : gen_next
      assign term = gen_level[l-1].sum_q;
    end

    always_comb begin
      for (int unsigned o = 0; o < Tp * Pe; o++) begin
        for (int unsigned i = 0; i < Adds; i++) begin
          a[o*Adds+i] = term[o*From+3*i];
          b[o*Adds+i] = term[o*From+3*i+1];
          c[o*Adds+i] = 3 * i + 2 < From ? term[o*From+3*i+2] : '0;
        end
      end
    end

    add3 #(
        .Count  (Tp * Pe * Adds),
        .InBits (FromBits),
        .OutBits(Bits)
    ) u_add (
        .a_i(a),
        .b_i(b),
        .c_i(c),
        .s_o(added)
    );

    always_comb begin
      for (int unsigned o = 0; o < Tp * Pe; o++) begin
        for (int unsigned i = 0; i < To; i++) begin
          sum_d[o*To+i] = i < Adds ? added[o*Adds+i] : Bits'(term[o*From+3*i]);
        end
      end
    end

    always_ff @(posedge clk_i) if (en) sum_q <= sum_d;
  end

  if (Levels == 0) begin : gen_sum
    assign sum = part;
  end else begin : gen_sum
    assign sum = gen_level[Levels].sum_q;
  end

  // -- accumulate ----------------------------------------------------------------------------------
  logic [TileBits-1:0] bias_tile_q;
  logic [BiasAddrBits-1:0] bias_addr;
  logic [Pe*BiasBits-1:0] bias_q;
  logic [Pe*AccBits-1:0] acc_d[Tp], acc_q[Tp];

  if (Sets == 1) begin : gen_bias
    assign bias_addr = bias_tile_q;
  end else begin : gen_bias
    assign bias_addr = (BiasAddrBits'(set_q[Stages-3]) << TileShift) | BiasAddrBits'(bias_tile_q);
  end

  always_ff @(posedge clk_i) begin
    if (en) bias_q <= bias_rom[bias_addr];
    if (!rst_ni) bias_tile_q <= '0;
    else if (en && valid_q[Stages-3] && final_q[Stages-3]) begin
      bias_tile_q <= bias_tile_q == TileBits'(Tiles - 1) ? '0 : bias_tile_q + 1'b1;
    end
  end

  always_comb begin
    for (int unsigned t = 0; t < Tp; t++) begin
      for (int unsigned p = 0; p < Pe; p++) begin
        acc_d[t][p*AccBits+:AccBits] = AccBits'(sum[t*Pe+p]) + (first_q[Stages-2] ?
            AccBits'($signed({BiasSigned & bias_q[p*BiasBits+BiasBits-1],
                              bias_q[p*BiasBits+:BiasBits]})) :
            $signed(acc_q[t][p*AccBits+:AccBits]));
      end
    end
  end

  always_ff @(posedge clk_i) if (en) acc_q <= acc_d;

  // -- one token after the other --------------------------------------------------------------------
  logic out_en;  // the stages behind the sums move
  logic [Pe*AccBits-1:0] total;
  logic total_valid, total_last, total_user;
  logic [SetBits-1:0] total_set;
  logic unused_set;

  assign unused_set = ^{total_set, set_q};

  if (Tp == 1) begin : gen_direct
    assign en = out_en;
    assign total = acc_q[0];
    assign total_valid = valid_q[Stages-1] && final_q[Stages-1];
    assign total_last = end_q[Stages-1] && frame_q[Stages-1];
    assign total_user = total_last && package_q[Stages-1];
    assign total_set = set_q[Stages-1];
  end else begin : gen_lanes
    localparam int unsigned CountBits = $clog2(2 * Tiles + 1);

    logic [1:0] banks_d, banks_q;   // banks whose tokens are complete and have not left
    logic stall_q;                  // they fill both halves, and the next sums are waiting
    logic [CountBits-1:0] ready_q;  // beats of first tokens that have not left
    logic [1:0] out_last_q, out_user_q;  // of the two halves of the lane buffers, as above
    logic [LaneBits-1:0] out_top_q[2];
    logic wr_half_q, rd_half_q;
    logic [TileBits-1:0] wr_tile_q, rd_tile_q;
    logic [LaneBits-1:0] rd_lane_q;
    logic push, push_end, pop, pop_token_end, pop_end;
    logic [Pe*AccBits-1:0] lane[Tp];
    logic [Pe*AccBits-1:0] total_q;
    logic total_valid_q, total_last_q, total_user_q;

    assign en = !stall_q;
    assign banks_d = banks_q + 2'(push_end) - 2'(pop_end);
    assign push = en && valid_q[Stages-1] && final_q[Stages-1];
    assign push_end = push && end_q[Stages-1];
    // the first token leaves while it is computed, the others are complete by then
    assign pop = out_en && (rd_lane_q != '0 || ready_q != '0);
    assign pop_token_end = pop && rd_tile_q == TileBits'(Tiles - 1);
    assign pop_end = pop_token_end && rd_lane_q == out_top_q[rd_half_q];

    for (genvar t = 0; t < Tp; t++) begin : gen_lane
      (* ram_style = "distributed" *) logic [Pe*AccBits-1:0] mem[2*2**TileBits];

      assign lane[t] = mem[{rd_half_q, rd_tile_q}];

      always_ff @(posedge clk_i) if (push) mem[{wr_half_q, wr_tile_q}] <= acc_q[t];
    end

    always_ff @(posedge clk_i) begin
      if (push_end) begin
        out_last_q[wr_half_q] <= frame_q[Stages-1];
        out_user_q[wr_half_q] <= package_q[Stages-1];
        out_top_q[wr_half_q]  <= lanes_q[Stages-1];
      end
      if (out_en) begin
        total_q <= lane[rd_lane_q];
        total_last_q <= pop_end && out_last_q[rd_half_q];
        total_user_q <= pop_end && out_last_q[rd_half_q] && out_user_q[rd_half_q];
      end
      if (!rst_ni) begin
        banks_q <= '0;
        stall_q <= 1'b0;
        ready_q <= '0;
        wr_half_q <= 1'b0;
        rd_half_q <= 1'b0;
        wr_tile_q <= '0;
        rd_tile_q <= '0;
        rd_lane_q <= '0;
        total_valid_q <= 1'b0;
      end else begin
        if (push) wr_tile_q <= push_end ? '0 : wr_tile_q + 1'b1;
        if (push_end) wr_half_q <= !wr_half_q;
        if (pop) rd_tile_q <= pop_token_end ? '0 : rd_tile_q + 1'b1;
        if (pop_token_end) rd_lane_q <= pop_end ? '0 : rd_lane_q + 1'b1;
        if (pop_end) rd_half_q <= !rd_half_q;
        banks_q <= banks_d;
        stall_q <= banks_d[1] && (en ? valid_q[Stages-2] && final_q[Stages-2] :
                                       valid_q[Stages-1] && final_q[Stages-1]);
        if (push && !(pop && rd_lane_q == '0)) ready_q <= ready_q + 1'b1;
        if (!push && pop && rd_lane_q == '0) ready_q <= ready_q - 1'b1;
        if (out_en) total_valid_q <= pop;
      end
    end

    assign total = total_q;
    assign total_valid = total_valid_q;
    assign total_last = total_last_q;
    assign total_user = total_user_q;

    if (Sets == 1) begin : gen_one_set
      assign total_set = '0;
    end else begin : gen_sets
      logic [1:0][SetBits-1:0] half_q;  // of the two halves: the first token leaves before they are complete
      logic [SetBits-1:0] total_set_q;

      assign total_set = total_set_q;

      always_ff @(posedge clk_i) begin
        if (push) half_q[wr_half_q] <= set_q[Stages-1];
        if (out_en) total_set_q <= half_q[rd_half_q];
      end
    end
  end

  // -- round, saturate, look up ----------------------------------------------------------------------
  localparam int unsigned RoundBits =
      (Shift > 0 ? (int'(AccBits) + 1 > Shift ? AccBits + 2 - Shift : 2) : AccBits - Shift) +
      (AccSigned ? 0 : 1);
  localparam int unsigned ResultBits = Entries > 0 ? MidBits : OutBits;
  localparam bit ResultSigned = Entries > 0 ? MidSigned : OutSigned;
  localparam int unsigned OutStages = Entries > 0 ? 4 : 2;

  logic signed [RoundBits-1:0] round_q[Pe];
  logic [Pe*ResultBits-1:0] result_q;
  logic [Pe*OutBits-1:0] out_data;
  logic [OutStages-1:0] out_valid_q, out_last_q, out_user_q;

  always_ff @(posedge clk_i) begin
    if (out_en) begin
      for (int unsigned p = 0; p < Pe; p++) begin
        round_q[p] <= RoundBits'(num_pkg::round_shift(
            64'($signed({AccSigned & total[p*AccBits+AccBits-1], total[p*AccBits+:AccBits]})),
            Shift, HalfUp));
        result_q[p*ResultBits+:ResultBits] <= ResultBits'(num_pkg::saturate(
            64'(round_q[p]), int'(ResultBits), ResultSigned));
      end
      out_last_q <= {out_last_q[OutStages-2:0], total_last};
      out_user_q <= {out_user_q[OutStages-2:0], total_user};
    end
    if (!rst_ni) out_valid_q <= '0;
    else if (out_en) out_valid_q <= {out_valid_q[OutStages-2:0], total_valid};
  end

  if (Entries > 0) begin : gen_table
    localparam int unsigned EntryBits = $clog2(Entries);

    localparam int unsigned TableBits = $clog2(TableWords);

    logic [Pe*EntryBits-1:0] entry_q;
    logic [Pe*OutBits-1:0] out_q;
    logic [TableBits-1:0] first;  // entry of the set

    function automatic logic [EntryBits-1:0] entry_of(logic [ResultBits-1:0] z);
      logic signed [63:0] entry;
      entry = (64'($signed({ResultSigned & z[ResultBits-1], z})) + 64'(TableOffset)) >>> TableShift;
      if (entry < 64'sd0) entry_of = '0;
      else if (entry > 64'(Entries - 1)) entry_of = EntryBits'(Entries - 1);
      else entry_of = EntryBits'(entry);
    endfunction

    assign out_data = out_q;

    if (Sets == 1) begin : gen_one_set
      assign first = '0;
    end else begin : gen_sets
      logic [2:0][SetBits-1:0] out_set_q;  // beside round_q, result_q and entry_q

      assign first = TableBits'(out_set_q[2]) << EntryBits;

      always_ff @(posedge clk_i) if (out_en) out_set_q <= {out_set_q[1:0], total_set};
    end

    always_ff @(posedge clk_i) begin
      if (out_en) begin
        for (int unsigned p = 0; p < Pe; p++) begin
          entry_q[p*EntryBits+:EntryBits] <= entry_of(result_q[p*ResultBits+:ResultBits]);
          out_q[p*OutBits+:OutBits] <=
              table_rom[first | TableBits'(entry_q[p*EntryBits+:EntryBits])];
        end
      end
    end
  end else begin : gen_no_table
    assign out_data = result_q;
  end

  skid_buffer #(
      .DataBits(Pe * OutBits)
  ) u_out (
      .clk_i,
      .rst_ni,
      .s_axis_tdata (out_data),
      .s_axis_tvalid(out_valid_q[OutStages-1]),
      .s_axis_tready(out_en),
      .s_axis_tlast (out_last_q[OutStages-1]),
      .s_axis_tuser (out_user_q[OutStages-1]),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );

endmodule
