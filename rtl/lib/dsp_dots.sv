// SPDX-License-Identifier: Apache-2.0

/// Inner products of every vector a with every vector b, in chains of DSP blocks (dsp_chains): block k of
/// a chain adds the products of the elements k. New vectors every cycle; the inner products follow
/// Length + 2 cycles later.
///
/// A block multiplies up to two words a, the upper one shifted by PackB fields, with up to two words b,
/// the upper one shifted by a field. The sum of a chain then consists of up to four fields, each of which
/// is wide enough for an inner product. The packing is the first of 2 x 2, 2 x 1 and 1 x 2 for which
/// operands and sum fit the block and the vectors come in pairs, else 1 x 1.
///
/// With Pump = 2 the blocks run with clk2x_i, and two chains with the same words a, or b, share their blocks
/// (dsp_chains); the inner products follow (Length + 1) / 2 + 3 cycles later.
module dsp_dots #(
    parameter int unsigned ACount = 2,   // vectors
    parameter int unsigned BCount = 2,
    parameter int unsigned Length = 4,   // elements of a vector
    parameter int unsigned ABits = 4,
    parameter bit ASigned = 1,
    parameter int unsigned BBits = 4,
    parameter bit BSigned = 1,
    parameter int unsigned DotBits = 16, // of an inner product as the outputs have it
    parameter int unsigned Pump = 1      // 2: the number of chains is even
) (
    input  logic                            clk_i,
    input  logic                            clk2x_i,
    input  logic                            rst_ni,
    input  logic [ACount*Length*ABits-1:0]  a_i,     // vector after vector, first element low
    input  logic [BCount*Length*BBits-1:0]  b_i,
    output logic signed [DotBits-1:0]       dot_o[BCount*ACount]  // of vectors a and b, at b * ACount + a
);

  // Of a block: its left port, its right port, its sum.
  localparam int unsigned LeftBits = 27;
  localparam int unsigned RightBits = 18;
  localparam int unsigned ChainBits = 48;

  // Largest magnitude of an integer type.
  function automatic longint unsigned largest(int unsigned bits, bit is_signed);
    largest = is_signed ? 64'd1 << (bits - 1) : (64'd1 << bits) - 64'd1;
  endfunction

  localparam int unsigned FieldBits =
      $clog2(64'(Length) * largest(ABits, ASigned) * largest(BBits, BSigned) + 64'd1) + 1;

  // Signed bits of an operand of `pack` words.
  function automatic int unsigned operand_bits(
      int unsigned pack, int unsigned step, int unsigned bits, bit is_signed
  );
    operand_bits = (pack - 1) * step + bits + (pack > 1 || !is_signed ? 1 : 0);
  endfunction

  function automatic bit fits(int unsigned pack_a, int unsigned pack_b);
    fits = ACount % pack_a == 0 && BCount % pack_b == 0
           && operand_bits(pack_a, pack_b * FieldBits, ABits, ASigned) <= LeftBits
           && operand_bits(pack_b, FieldBits, BBits, BSigned) <= RightBits
           && pack_a * pack_b * FieldBits <= ChainBits;
  endfunction

  localparam int unsigned PackA = fits(2, 2) || fits(2, 1) ? 2 : 1;
  localparam int unsigned PackB = fits(2, 2) || (!fits(2, 1) && fits(1, 2)) ? 2 : 1;
  localparam int unsigned ASets = ACount / PackA;
  localparam int unsigned BSets = BCount / PackB;
  localparam int unsigned SumBits = PackA * PackB * FieldBits;

  if (!fits(1, 1)) begin : gen_bad_width
    $error("dsp_dots: these vectors suit no DSP block");
  end

  // Chain of set a and set b; those that share blocks stand side by side.
  function automatic int unsigned chain_of(int unsigned set_a, int unsigned set_b);
    chain_of = ASets % Pump == 0 ? set_b * ASets + set_a : set_a * BSets + set_b;
  endfunction

  // -- elements k, later as block k of a chain takes them ------------------------------------------
  logic [ACount*ABits-1:0] a[Length];
  logic [BCount*BBits-1:0] b[Length];

  for (genvar k = 0; k < Length; k++) begin : gen_element
    localparam int unsigned Delay = (k + Pump - 1) / Pump;
    logic [ACount*ABits-1:0] a_now;
    logic [BCount*BBits-1:0] b_now;

    always_comb begin
      for (int unsigned i = 0; i < ACount; i++) begin
        a_now[i*ABits+:ABits] = a_i[(i*Length+k)*ABits+:ABits];
      end
      for (int unsigned i = 0; i < BCount; i++) begin
        b_now[i*BBits+:BBits] = b_i[(i*Length+k)*BBits+:BBits];
      end
    end

    if (k == 0) begin : gen_first
      assign a[k] = a_now;
      assign b[k] = b_now;
    end else begin : gen_delay
      logic [Delay*ACount*ABits-1:0] a_q;
      logic [Delay*BCount*BBits-1:0] b_q;

      always_ff @(posedge clk_i) begin
        a_q <= (Delay * ACount * ABits)'({a_q, a_now});
        b_q <= (Delay * BCount * BBits)'({b_q, b_now});
      end

      assign a[k] = a_q[(Delay-1)*ACount*ABits+:ACount*ABits];
      assign b[k] = b_q[(Delay-1)*BCount*BBits+:BCount*BBits];
    end
  end

  // -- operands ------------------------------------------------------------------------------------
  function automatic logic signed [LeftBits-1:0] left(logic [ABits-1:0] x);
    left = LeftBits'(signed'({ASigned & x[ABits-1], x}));
  endfunction

  logic signed [LeftBits-1:0] a_high[BSets*ASets*Length], a_low[BSets*ASets*Length];
  logic signed [RightBits-1:0] b_set[BSets*Length], b_both[BSets*ASets*Length];

  always_comb begin
    for (int unsigned s = 0; s < BSets; s++) begin
      for (int unsigned k = 0; k < Length; k++) begin
        logic [BBits-1:0] low, high;
        logic negative;
        logic signed [BBits:0] upper;
        low = b[k][s*PackB*BBits+:BBits];
        high = b[k][(s*PackB+PackB-1)*BBits+:BBits];
        negative = BSigned & low[BBits-1];
        // a negative lower word borrows from the upper one
        upper = signed'({BSigned & high[BBits-1], high} - (BBits + 1)'(negative));
        b_set[s*Length+k] = RightBits'(signed'({negative, low}));
        if (PackB > 1) begin
          b_set[s*Length+k] = (RightBits'(upper) << FieldBits)
                              | RightBits'(unsigned'(FieldBits'(signed'({negative, low}))));
        end
      end
    end
  end

  always_comb begin
    for (int unsigned s = 0; s < BSets * ASets; s++) begin
      for (int unsigned k = 0; k < Length; k++) begin
        // the adder before the multiplier puts both words together
        a_low[chain_of(s%ASets,s/ASets)*Length+k] =
            left(a[k][s%ASets*PackA*ABits+:ABits]);
        a_high[chain_of(s%ASets,s/ASets)*Length+k] = PackA == 1 ? '0 :
            left(a[k][(s%ASets*PackA+PackA-1)*ABits+:ABits]) << (PackB * FieldBits);
        b_both[chain_of(s%ASets,s/ASets)*Length+k] = b_set[s/ASets*Length+k];
      end
    end
  end

  // -- sums ----------------------------------------------------------------------------------------
  logic signed [SumBits-1:0] sum[BSets*ASets];

  dsp_chains #(
      .Chains(BSets * ASets),
      .Length(Length),
      .SumBits(SumBits),
      .FieldBits(FieldBits),
      .Pump(Pump)
  ) u_chains (
      .clk_i,
      .clk2x_i,
      .rst_ni,
      .en_i(1'b1),
      .a_i(a_high),
      .d_i(a_low),
      .b_i(b_both),
      .p_o(sum)
  );

  always_comb begin
    for (int unsigned j = 0; j < BCount; j++) begin
      for (int unsigned i = 0; i < ACount; i++) begin
        int unsigned field;
        field = i % PackA * PackB + j % PackB;
        dot_o[j*ACount+i] =
            DotBits'(signed'(sum[chain_of(i/PackA,j/PackB)][field*FieldBits+:FieldBits]));
      end
    end
  end

endmodule
