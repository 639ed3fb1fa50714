// SPDX-License-Identifier: Apache-2.0

/// p_o = a * b, Digits + 1 cycles later (with a DSP block: 2), one product per cycle.
///
/// Without a DSP block, b is taken two bits at a time, lowest first: every stage selects a multiple of
/// a and adds it. Selection and adder share their LUTs, one per bit, and no path is longer than one LUT
/// and a carry chain.
module product #(
    parameter int unsigned ABits = 8,
    parameter bit ASigned = 1,
    parameter int unsigned BBits = 8,
    parameter bit BSigned = 1,
    parameter bit Dsp = 0,  // 1: in DSP blocks, 0: in LUTs
    localparam int unsigned Digits = (BBits + 1) / 2,
    localparam int unsigned Width = ABits + (ASigned ? 2 : 3),
    localparam int unsigned OutBits = ABits + BBits + (ASigned || BSigned ? 0 : 1)
) (
    input  logic                              clk_i,
    // of product_multiples, given its a_i together with b_i; not all of them are needed
    /* verilator lint_off UNUSEDSIGNAL */
    input  logic [Digits-1:0][2:0][Width-1:0] multiples_i,
    /* verilator lint_on UNUSEDSIGNAL */
    input  logic [BBits-1:0]                  b_i,
    output logic signed [OutBits-1:0]         p_o
);

  if (Dsp) begin : gen_dsp
    logic signed [BBits:0] b_q;
    (* use_dsp = "yes" *) logic signed [OutBits-1:0] product_q;

    always_ff @(posedge clk_i) begin
      b_q <= signed'({BSigned & b_i[BBits-1], b_i});
      product_q <= OutBits'(signed'(multiples_i[0][0])) * OutBits'(b_q);
    end

    assign p_o = product_q;
  end else begin : gen_lut
    // b, delayed for every stage, which takes the digit it needs
    /* verilator lint_off UNUSEDSIGNAL */
    logic [Digits-1:0][2*Digits-1:0] b_q;
    /* verilator lint_on UNUSEDSIGNAL */

    always_ff @(posedge clk_i) begin
      b_q[0] <= (2 * Digits)'(signed'({BSigned & b_i[BBits-1], b_i}));
      for (int unsigned d = 1; d < Digits; d++) b_q[d] <= b_q[d-1];
    end

    for (genvar d = 0; d < Digits; d++) begin : gen_digit
      localparam bit Top = BSigned && d == Digits - 1;  // its digit is -2 .. 1
      logic [Width-1:0] multiple;
      /* verilator lint_off UNUSEDSIGNAL */
      logic [Width+2*d-1:0] sum_q;  // the last one may be longer than the product
      /* verilator lint_on UNUSEDSIGNAL */

      always_comb begin
        unique case (b_q[d][2*d +: 2])
          2'd0: multiple = '0;
          2'd1: multiple = multiples_i[d][0];
          2'd2: multiple = multiples_i[d][Top ? 2 : 0] << 1;
          default: multiple = multiples_i[d][Top ? 2 : 1];
        endcase
      end

      if (d == 0) begin : gen_first
        always_ff @(posedge clk_i) sum_q <= multiple;
      end else begin : gen_next
        // the lowest bits of the sum so far are those of the product
        always_ff @(posedge clk_i) begin
          sum_q[2*d-1:0] <= gen_digit[d-1].sum_q[2*d-1:0];
          sum_q[2*d +: Width] <=
              Width'(signed'(gen_digit[d-1].sum_q[Width+2*d-3:2*d])) + multiple;
        end
      end
    end

    assign p_o = OutBits'(signed'(gen_digit[Digits-1].sum_q));
  end

endmodule
