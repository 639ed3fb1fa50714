// SPDX-License-Identifier: Apache-2.0

/// The left operand of products: a number together with its triple and its negative, once for all
/// `product`s of it, and again for each of their stages. One cycle passes before the first.
module product_multiples #(
    parameter int unsigned Bits = 8,
    parameter bit Signed = 1,
    parameter int unsigned Digits = 4,  // of the right operand: pairs of bits
    parameter bit Dsp = 0,              // for products in DSP blocks: the number alone
    localparam int unsigned Width = Bits + (Signed ? 2 : 3)
) (
    input  logic                           clk_i,
    input  logic [Bits-1:0]                a_i,
    output logic [Digits-1:0][2:0][Width-1:0] multiples_o  // a, 3 a, -a
);

  logic [Width-1:0] a;

  assign a = Width'(signed'({Signed & a_i[Bits-1], a_i}));

  for (genvar d = 0; d < Digits; d++) begin : gen_digit
    logic [2:0][Width-1:0] multiples_q;

    assign multiples_o[d] = multiples_q;
    if (d == 0) begin : gen_first
      always_ff @(posedge clk_i) multiples_q <= {-a, Dsp ? '0 : a + (a << 1), a};
    end else begin : gen_next
      always_ff @(posedge clk_i) multiples_q <= multiples_o[d-1];
    end
  end

endmodule
