// SPDX-License-Identifier: Apache-2.0

/// Chains of DSP blocks (dsp_blocks) that run with clk2x_i and add up two sums of products in turn: p_o[2c] and
/// p_o[2c+1] are those of chain c.
///
/// Block 0 takes the operands of the first sum into its input registers at the end of a cycle of clk_i, those of the
/// second one half a cycle later, every further block another half a cycle later. Both sums are there
/// (Length + 1) / 2 + 2 cycles after that end. late_i and en2x_i are those of clock_halves for en_i.
module dsp_pairs #(
    parameter int unsigned Pairs = 1,
    parameter int unsigned Length = 1,   // blocks of a chain
    parameter int unsigned SumBits = 48, // at most 48: bits that the sums really have
    parameter int unsigned FieldBits = SumBits
) (
    input  logic                      clk_i,
    input  logic                      clk2x_i,
    input  logic                      en_i,
    input  logic                      late_i,
    input  logic                      en2x_i,
    input  logic signed [       26:0] a_i[Pairs*Length],
    input  logic signed [       26:0] d_i[Pairs*Length],
    input  logic signed [       17:0] b_i[Pairs*Length],
    output logic signed [SumBits-1:0] p_o[2*Pairs]
);

  logic signed [SumBits-1:0] p[Pairs], p_q[Pairs], sum_d[2*Pairs], sum_q[2*Pairs];

  dsp_blocks #(
      .Chains (Pairs),
      .Length (Length),
      .SumBits(SumBits),
      .FieldBits(FieldBits),
      .InputRegs(1)
  ) u_blocks (
      .clk_i(clk2x_i),
      .en_i(en2x_i),
      .a_i,
      .d_i,
      .b_i,
      .p_o(p)
  );

  always_ff @(posedge clk2x_i) if (!late_i && en2x_i) p_q <= p;

  // Sums leave the blocks one half after the other: in the second half stands one of the second ones behind an even
  // number of blocks, else one of the first ones, which waits for the other.
  if (Length % 2 == 0) begin : gen_even
    always_comb begin
      for (int unsigned c = 0; c < Pairs; c++) begin
        sum_d[2*c]   = p_q[c];
        sum_d[2*c+1] = p[c];
      end
    end
  end else begin : gen_odd
    logic signed [SumBits-1:0] early_q[Pairs];

    always_ff @(posedge clk_i) if (en_i) early_q <= p;

    always_comb begin
      for (int unsigned c = 0; c < Pairs; c++) begin
        sum_d[2*c]   = early_q[c];
        sum_d[2*c+1] = p_q[c];
      end
    end
  end

  always_ff @(posedge clk_i) if (en_i) sum_q <= sum_d;

  assign p_o = sum_q;

endmodule
