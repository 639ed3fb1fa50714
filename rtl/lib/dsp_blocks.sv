// SPDX-License-Identifier: Apache-2.0

/// p_o[c] = sum over the blocks k of chain c of (a_i + d_i) * b_i: chains of DSP blocks, every one with
/// pre-adder, multiplier and adder, which adds the sum of the block before it, the first one Start.
///
/// Where operands hold several numbers, the sum does too: fields of FieldBits, each a signed sum of its
/// own. With 2^(FieldBits - 1) in all but the highest none of them is negative, or borrows from the next:
/// a field is its sum with the sign bit inverted, and p_o inverts it back.
///
/// Block k of a chain takes its operands k cycles after block 0; the sum is there Length + 2 cycles after
/// those of block 0, with InputRegs one more. Operands and sums have the widths of a DSP48E2, and fit them:
/// nothing is cut off.
///
/// A vendor tool finds the registers AD, B, M and P (with InputRegs A and D, too, and two of B) and the
/// cascade. Open synthesis does not: it takes this module for a black box of Chains * Length blocks
/// (rtl/synth.py).
(* use_dsp = "yes" *)
module dsp_blocks #(
    parameter int unsigned Chains = 1,
    parameter int unsigned Length = 1,   // blocks of a chain
    parameter int unsigned SumBits = 48, // at most 48: bits that the sums really have
    parameter int unsigned FieldBits = SumBits,
    parameter bit InputRegs = 0          // registers in front of the pre-adder
) (
    input  logic                      clk_i,
    input  logic                      en_i,
    input  logic signed [       26:0] a_i[Chains*Length],
    input  logic signed [       26:0] d_i[Chains*Length],
    input  logic signed [       17:0] b_i[Chains*Length],
    output logic signed [SumBits-1:0] p_o[Chains]
);

  // verilator coverage_off
  // called for constants alone
  function automatic logic [SumBits-1:0] signs();
    signs = '0;
    for (int unsigned k = FieldBits; k < SumBits; k += FieldBits) signs[k-1] = 1'b1;
  endfunction
  // verilator coverage_on

  localparam logic signed [SumBits-1:0] Start = signs();

  logic signed [26:0] a[Chains*Length], d[Chains*Length];
  logic signed [17:0] b[Chains*Length];
  logic signed [26:0] ad_d[Chains*Length], ad_q[Chains*Length];
  logic signed [17:0] b_q[Chains*Length];
  logic signed [SumBits-1:0] m_d[Chains*Length], m_q[Chains*Length];
  logic signed [SumBits-1:0] p_d[Chains*Length], p_q[Chains*Length];

  // arrays are assigned as a whole below, which a simulator copies at once
  if (InputRegs) begin : gen_input_regs
    always_ff @(posedge clk_i) begin
      if (en_i) begin
        a <= a_i;
        d <= d_i;
        b <= b_i;
      end
    end
  end else begin : gen_no_input_regs
    assign a = a_i;
    assign d = d_i;
    assign b = b_i;
  end

  always_comb begin
    for (int unsigned k = 0; k < Chains * Length; k++) begin
      ad_d[k] = a[k] + d[k];
      m_d[k]  = SumBits'(ad_q[k]) * SumBits'(b_q[k]);
      p_d[k]  = m_q[k] + (k % Length == 0 ? Start : p_q[k-1]);
    end
    for (int unsigned c = 0; c < Chains; c++) p_o[c] = p_q[c*Length+Length-1] ^ Start;
  end

  always_ff @(posedge clk_i) begin
    if (en_i) begin
      ad_q <= ad_d;
      b_q  <= b;
      m_q  <= m_d;
      p_q  <= p_d;
    end
  end

endmodule
