// SPDX-License-Identifier: Apache-2.0

/// y[o] = saturate(round_shift(bias[o] + sum_i weight[o, i] x[i], Shift)) for every token, with at most N
/// nonzero weights among M consecutive inputs (dense: N = M = 1). Output o of group g sees the inputs of
/// group g alone.
///
/// A token enters one of two banks while the other is computed. A step reads Simd inputs and the weights that
/// Pe outputs have for them; a token takes (OutChannels / Pe) * (InChannels / Groups / Simd) steps of one
/// cycle each, without a gap between tokens. A beat leaves per tile of Pe outputs.
module nm_matmul #(
    parameter int unsigned MaxTokens = 1,    // tokens of a frame, any number works
    parameter int unsigned InChannels = 8,
    parameter int unsigned OutChannels = 8,
    parameter int unsigned Groups = 1,       // divides InChannels and OutChannels
    parameter int unsigned N = 2,
    parameter int unsigned M = 4,
    parameter int unsigned Simd = 4,         // multiple of M, divides InChannels / Groups
    parameter int unsigned Pe = 2,           // divides OutChannels / Groups
    parameter int unsigned InBits = 8,
    parameter bit InSigned = 1,
    parameter int unsigned WeightBits = 4,
    parameter bit WeightSigned = 1,
    parameter int unsigned BiasBits = 16,
    parameter bit BiasSigned = 1,
    parameter int unsigned AccBits = 20,     // holds every partial sum
    parameter bit AccSigned = 1,
    parameter int unsigned OutBits = 8,
    parameter bit OutSigned = 1,
    parameter int Shift = 4,                 // negative: left shift
    parameter bit HalfUp = 0,                // ties upwards instead of to even
    parameter bit MultDsp = 0,               // multipliers in DSP blocks
    parameter WeightsFile = "",              // a line per step: values, above them indices
    parameter BiasFile = ""                  // a line per tile
) (
    input  logic                   clk_i,
    input  logic                   rst_ni,
    input  logic [Simd*InBits-1:0] s_axis_tdata,
    input  logic                   s_axis_tvalid,
    output logic                   s_axis_tready,
    input  logic                   s_axis_tlast,
    input  logic                   s_axis_tuser,
    output logic [ Pe*OutBits-1:0] m_axis_tdata,
    output logic                   m_axis_tvalid,
    input  logic                   m_axis_tready,
    output logic                   m_axis_tlast,
    output logic                   m_axis_tuser
);
  /*verilator no_inline_module*/

  function automatic int unsigned bits_for(int unsigned values);
    bits_for = values > 1 ? $clog2(values) : 1;
  endfunction

  localparam int unsigned InBeats = InChannels / Simd;
  localparam int unsigned GroupSteps = InBeats / Groups;
  localparam int unsigned Tiles = OutChannels / Pe;
  localparam int unsigned GroupTiles = Tiles / Groups;
  localparam int unsigned Steps = Tiles * GroupSteps;
  localparam int unsigned Terms = Simd / M * N;  // products per output and step
  localparam int unsigned Mults = Pe * Terms;
  localparam int unsigned IndexBits = M > 1 ? $clog2(M) : 0;
  localparam int unsigned WordBits = Mults * (WeightBits + IndexBits);
  // without indices all outputs share the inputs
  localparam int unsigned Selections = M > 1 ? Mults : Terms;
  localparam int unsigned ProductBits =
      InBits + WeightBits + (InSigned || WeightSigned ? 0 : 1);
  // four terms are added per level of the tree and register
  localparam int unsigned Levels = ($clog2(Terms) + 1) / 2;
  localparam int unsigned SumBits = ProductBits + 2 * Levels;
  localparam int unsigned Stages = Levels + 4;  // read, select, multiply, tree, accumulate

  localparam int unsigned BankAddrBits = bits_for(InBeats);
  localparam int unsigned AddrBits = bits_for(2 * InBeats);
  localparam int unsigned StepBits = bits_for(GroupSteps);
  localparam int unsigned TileBits = bits_for(GroupTiles);
  localparam int unsigned GroupBits = bits_for(Groups);
  localparam int unsigned RomBits = bits_for(Steps);
  localparam int unsigned BiasAddrBits = bits_for(Tiles);

  logic [Simd*InBits-1:0] bank_mem[2*InBeats];
  logic [WordBits-1:0] weight_rom[Steps];
  logic [Pe*BiasBits-1:0] bias_rom[Tiles];
  logic unused;

  assign unused = ^MaxTokens;

  initial begin
    if (WeightsFile != "") $readmemh(WeightsFile, weight_rom);
    if (BiasFile != "") $readmemh(BiasFile, bias_rom);
  end

  // -- two banks of one token each -----------------------------------------------------------------
  logic [1:0] full_q, last_q, user_q;  // per bank: complete, last token of its frame, its tuser
  logic wr_bank_q, rd_bank_q;
  logic [BankAddrBits-1:0] wr_q;
  logic wr, wr_end, rd, rd_end;

  assign s_axis_tready = !full_q[wr_bank_q];
  assign wr = s_axis_tvalid && s_axis_tready;
  assign wr_end = wr_q == BankAddrBits'(InBeats - 1);

  always_ff @(posedge clk_i) begin
    if (wr) begin
      bank_mem[wr_bank_q ? AddrBits'(InBeats) + AddrBits'(wr_q) : AddrBits'(wr_q)] <= s_axis_tdata;
      last_q[wr_bank_q] <= s_axis_tlast;
      user_q[wr_bank_q] <= s_axis_tuser;
    end
    if (!rst_ni) begin
      full_q <= '0;
      wr_bank_q <= 1'b0;
      wr_q <= '0;
    end else begin
      if (wr) wr_q <= wr_end ? '0 : wr_q + 1'b1;
      if (wr && wr_end) begin
        full_q[wr_bank_q] <= 1'b1;
        wr_bank_q <= !wr_bank_q;
      end
      if (rd && rd_end) full_q[rd_bank_q] <= 1'b0;
    end
  end

  // -- steps of a token ----------------------------------------------------------------------------
  logic en;  // the pipeline moves
  logic [AddrBits-1:0] rd_q, base_q;  // input word, first input word of the group
  logic [StepBits-1:0] step_q;
  logic [TileBits-1:0] tile_q;
  logic [GroupBits-1:0] group_q;
  logic [RomBits-1:0] rom_q;
  logic step_end, tile_end, group_end;

  assign rd = en && full_q[rd_bank_q];
  assign step_end = step_q == StepBits'(GroupSteps - 1);
  assign tile_end = tile_q == TileBits'(GroupTiles - 1);
  assign group_end = group_q == GroupBits'(Groups - 1);
  assign rd_end = step_end && tile_end && group_end;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      rd_bank_q <= 1'b0;
      rd_q <= '0;
      base_q <= '0;
      step_q <= '0;
      tile_q <= '0;
      group_q <= '0;
      rom_q <= '0;
    end else if (rd) begin
      rom_q  <= rd_end ? '0 : rom_q + 1'b1;
      step_q <= step_end ? '0 : step_q + 1'b1;
      rd_q   <= rd_q + 1'b1;
      if (step_end) begin
        rd_q   <= base_q;
        tile_q <= tile_end ? '0 : tile_q + 1'b1;
        if (tile_end) begin
          rd_q <= rd_q + 1'b1;
          base_q <= rd_q + 1'b1;
          group_q <= group_end ? '0 : group_q + 1'b1;
        end
      end
      if (rd_end) begin
        rd_bank_q <= !rd_bank_q;
        rd_q <= rd_bank_q ? '0 : AddrBits'(InBeats);
        base_q <= rd_bank_q ? '0 : AddrBits'(InBeats);
      end
    end
  end

  // -- control of the pipeline: one bit per stage ---------------------------------------------------
  logic [Stages-1:0] valid_q, first_q, final_q, frame_q, package_q;

  always_ff @(posedge clk_i) begin
    if (en) begin
      first_q <= {first_q[Stages-2:0], step_q == '0};
      final_q <= {final_q[Stages-2:0], step_end};
      frame_q <= {frame_q[Stages-2:0], rd_end && last_q[rd_bank_q]};
      package_q <= {package_q[Stages-2:0], rd_end && last_q[rd_bank_q] && user_q[rd_bank_q]};
    end
    if (!rst_ni) valid_q <= '0;
    else if (en) valid_q <= {valid_q[Stages-2:0], rd};
  end

  // -- read ----------------------------------------------------------------------------------------
  logic [Simd*InBits-1:0] x_q;
  logic [WordBits-1:0] word_q;

  always_ff @(posedge clk_i) begin
    if (rd) begin
      x_q <= bank_mem[rd_q];
      word_q <= weight_rom[rom_q];
    end
  end

  // -- select: the input that each stored weight belongs to -----------------------------------------
  logic [InBits-1:0] x_sel_q[Selections];
  logic [WeightBits-1:0] weight_q[Mults];

  if (M > 1) begin : gen_select
    always_ff @(posedge clk_i) begin
      if (en && valid_q[0]) begin
        logic [InBits-1:0] group[M];
        logic [InBits-1:0] selected[Selections];
        for (int unsigned g = 0; g < Simd / M; g++) begin
          for (int unsigned k = 0; k < M; k++) group[k] = x_q[(g*M+k)*InBits+:InBits];
          for (int unsigned p = 0; p < Pe; p++) begin
            for (int unsigned k = 0; k < N; k++) begin
              selected[p*Terms+g*N+k] =
                  group[word_q[Mults*WeightBits+(p*Terms+g*N+k)*IndexBits+:IndexBits]];
            end
          end
        end
        x_sel_q <= selected;
      end
    end
  end else begin : gen_no_select
    always_ff @(posedge clk_i) begin
      if (en && valid_q[0]) begin
        logic [InBits-1:0] lanes[Selections];
        for (int unsigned i = 0; i < Selections; i++) lanes[i] = x_q[i*InBits+:InBits];
        x_sel_q <= lanes;
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (en && valid_q[0]) begin
      logic [WeightBits-1:0] weights[Mults];
      for (int unsigned i = 0; i < Mults; i++) weights[i] = word_q[i*WeightBits+:WeightBits];
      weight_q <= weights;
    end
  end

  // -- multiply ------------------------------------------------------------------------------------
  function automatic logic signed [ProductBits-1:0] product(
      logic [InBits-1:0] x, logic [WeightBits-1:0] w
  );
    product = ProductBits'($signed({InSigned & x[InBits-1], x})) *
              ProductBits'($signed({WeightSigned & w[WeightBits-1], w}));
  endfunction

  if (MultDsp) begin : gen_mult
    (* use_dsp = "yes" *) logic signed [ProductBits-1:0] product_q[Mults];
    always_ff @(posedge clk_i) begin
      if (en && valid_q[1]) begin
        logic signed [ProductBits-1:0] products[Mults];
        for (int unsigned i = 0; i < Mults; i++) begin
          products[i] = product(x_sel_q[i%Selections], weight_q[i]);
        end
        product_q <= products;
      end
    end
  end else begin : gen_mult
    (* use_dsp = "no" *) logic signed [ProductBits-1:0] product_q[Mults];
    always_ff @(posedge clk_i) begin
      if (en && valid_q[1]) begin
        logic signed [ProductBits-1:0] products[Mults];
        for (int unsigned i = 0; i < Mults; i++) begin
          products[i] = product(x_sel_q[i%Selections], weight_q[i]);
        end
        product_q <= products;
      end
    end
  end

  // -- adder tree ----------------------------------------------------------------------------------
  logic signed [SumBits-1:0] sum[Pe];

  for (genvar l = 1; l <= Levels; l++) begin : gen_level
    localparam int unsigned From = (Terms + 4 ** (l - 1) - 1) / 4 ** (l - 1);  // per output
    localparam int unsigned To = (Terms + 4 ** l - 1) / 4 ** l;
    localparam int unsigned Bits = ProductBits + 2 * l;
    logic signed [Bits-3:0] term[Pe*From];
    logic signed [Bits-1:0] sum_q[Pe*To];

    if (l == 1) begin : gen_first
      assign term = gen_mult.product_q;
    end else begin : gen_next
      assign term = gen_level[l-1].sum_q;
    end

    always_ff @(posedge clk_i) begin
      if (en && valid_q[l+1]) begin
        logic signed [Bits-1:0] total[Pe*To];
        for (int unsigned p = 0; p < Pe; p++) begin
          for (int unsigned i = 0; i < To; i++) begin
            total[p*To+i] = Bits'(term[p*From+4*i]);
            for (int unsigned k = 1; k < 4; k++) begin
              if (4 * i + k < From) begin
                total[p*To+i] = total[p*To+i] + Bits'(term[p*From+4*i+k]);
              end
            end
          end
        end
        sum_q <= total;
      end
    end
  end

  if (Levels == 0) begin : gen_sum
    assign sum = gen_mult.product_q;
  end else begin : gen_sum
    assign sum = gen_level[Levels].sum_q;
  end

  // -- accumulate ----------------------------------------------------------------------------------
  logic [BiasAddrBits-1:0] bias_addr_q;
  logic [Pe*BiasBits-1:0] bias_q;
  logic [AccBits-1:0] acc_q[Pe];
  logic [Pe*OutBits-1:0] out_q;
  logic out_valid_q, out_last_q, out_user_q;

  always_ff @(posedge clk_i) begin
    if (en && valid_q[Stages-3]) bias_q <= bias_rom[bias_addr_q];
    if (!rst_ni) bias_addr_q <= '0;
    else if (en && valid_q[Stages-3] && final_q[Stages-3]) begin
      bias_addr_q <= bias_addr_q == BiasAddrBits'(Tiles - 1) ? '0 : bias_addr_q + 1'b1;
    end
  end

  always_ff @(posedge clk_i) begin
    if (en && valid_q[Stages-2]) begin
      logic [AccBits-1:0] next[Pe];
      for (int unsigned p = 0; p < Pe; p++) begin
        next[p] = AccBits'(sum[p]) + (first_q[Stages-2] ?
            AccBits'($signed({BiasSigned & bias_q[p*BiasBits+BiasBits-1],
                              bias_q[p*BiasBits+:BiasBits]})) : acc_q[p]);
      end
      acc_q <= next;
    end
    if (en && valid_q[Stages-1] && final_q[Stages-1]) begin
      for (int unsigned p = 0; p < Pe; p++) begin
        out_q[p*OutBits+:OutBits] <= OutBits'(num_pkg::saturate(
            num_pkg::round_shift(64'($signed({AccSigned & acc_q[p][AccBits-1], acc_q[p]})),
                                 Shift, HalfUp), int'(OutBits), OutSigned));
      end
    end
    if (en) {out_last_q, out_user_q} <= {frame_q[Stages-1], package_q[Stages-1]};
    if (!rst_ni) out_valid_q <= 1'b0;
    else if (en) out_valid_q <= valid_q[Stages-1] && final_q[Stages-1];
  end

  skid_buffer #(
      .DataBits(Pe * OutBits)
  ) u_out (
      .clk_i,
      .rst_ni,
      .s_axis_tdata (out_q),
      .s_axis_tvalid(out_valid_q),
      .s_axis_tready(en),
      .s_axis_tlast (out_last_q),
      .s_axis_tuser (out_user_q),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );

endmodule
