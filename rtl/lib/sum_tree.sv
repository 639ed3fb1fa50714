// SPDX-License-Identifier: Apache-2.0

/// Sum of Terms integers: two are added per level of the tree, with a register behind every level, so
/// that one sum per cycle leaves ceil(log2(Terms)) cycles after its terms.
module sum_tree #(
    parameter int unsigned Terms = 4,
    parameter int unsigned Bits = 8,   // of a term
    parameter bit Signed = 1,
    localparam int unsigned Levels = $clog2(Terms),
    localparam int unsigned SumBits = Bits + Levels
) (
    /* verilator lint_off UNUSEDSIGNAL */
    input  logic                  clk_i,  // one term is its own sum
    /* verilator lint_on UNUSEDSIGNAL */
    input  logic [Terms*Bits-1:0] terms_i,
    output logic [SumBits-1:0]    sum_o
);

  for (genvar l = 0; l <= Levels; l++) begin : gen_level
    localparam int unsigned Count = (Terms + (1 << l) - 1) >> l;
    localparam int unsigned Width = Bits + l;

    logic [Count-1:0][Width-1:0] sum;
  end

  assign gen_level[0].sum = terms_i;
  assign sum_o = gen_level[Levels].sum;

  for (genvar l = 1; l <= Levels; l++) begin : gen_add
    localparam int unsigned From = (Terms + (1 << (l - 1)) - 1) >> (l - 1);
    localparam int unsigned Count = (From + 1) / 2;
    localparam int unsigned Width = Bits + l;

    logic [Count-1:0][Width-1:0] sum_q;

    for (genvar i = 0; i < Count; i++) begin : gen_pair
      logic [Width-1:0] a, b;

      assign a = {Signed && gen_level[l-1].sum[2*i][Width-2], gen_level[l-1].sum[2*i]};
      if (2 * i + 1 < From) begin : gen_both
        assign b = {Signed && gen_level[l-1].sum[2*i+1][Width-2], gen_level[l-1].sum[2*i+1]};
      end else begin : gen_one
        assign b = '0;
      end
      always_ff @(posedge clk_i) sum_q[i] <= a + b;
    end

    assign gen_level[l].sum = sum_q;
  end

endmodule
