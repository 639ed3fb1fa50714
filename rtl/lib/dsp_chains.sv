// SPDX-License-Identifier: Apache-2.0

/// p_o[c] = sum over the blocks k of chain c of (a_i + d_i) * b_i, in chains of DSP blocks (dsp_blocks).
///
/// Where operands hold several numbers, the sum does too: fields of FieldBits, each a signed sum of its own.
///
/// Pump = 1: block k of a chain takes its operands k cycles after block 0; the sum is there Length + 2
/// cycles after those of block 0.
///
/// Pump = 2: the blocks run with clk2x_i, twice as fast as clk_i, and chains 2c and 2c + 1 share the blocks
/// of one. Block k takes the operands of both (k + 1) / 2 cycles of clk_i after those of block 0; both sums
/// are there (Length + 1) / 2 + 3 cycles after those. Both clocks come from one source and every rising edge
/// of clk_i is one of clk2x_i; all paths between them are those of a cycle of clk2x_i, with no exception.
/// Only slow_q needs the reset.
module dsp_chains #(
    parameter int unsigned Chains = 1,   // Pump = 2: even
    parameter int unsigned Length = 1,   // blocks of a chain
    parameter int unsigned SumBits = 48, // at most 48: bits that the sums really have
    parameter int unsigned FieldBits = SumBits,
    parameter int unsigned Pump = 1
) (
    input  logic                      clk_i,
    /* verilator lint_off UNUSEDSIGNAL */
    input  logic                      clk2x_i,  // only where Pump = 2
    input  logic                      rst_ni,
    /* verilator lint_on UNUSEDSIGNAL */
    input  logic                      en_i,
    input  logic signed [       26:0] a_i[Chains*Length],
    input  logic signed [       26:0] d_i[Chains*Length],
    input  logic signed [       17:0] b_i[Chains*Length],
    output logic signed [SumBits-1:0] p_o[Chains]
);

  if (Pump == 1) begin : gen_single
    dsp_blocks #(
        .Chains (Chains),
        .Length (Length),
        .SumBits(SumBits),
        .FieldBits(FieldBits)
    ) u_blocks (
        .clk_i,
        .en_i,
        .a_i,
        .d_i,
        .b_i,
        .p_o
    );
  end else begin : gen_double
    localparam int unsigned Pairs = Chains / 2;
    localparam int unsigned Evens = (Length + 1) / 2;  // blocks of a chain with an even number

    // Cycle n of clk_i has two halves. What stands at the ports in it goes into the even blocks at its
    // end (chain 2c) and half a cycle later (chain 2c + 1), into the odd ones a half later each. So an
    // enable that is taken in its middle stops or moves the blocks for these two halves together.
    logic slow_q, seen_q, late_q, en_q;  // late_q: in the second half

    always_ff @(posedge clk_i) slow_q <= rst_ni && !slow_q;

    always_ff @(posedge clk2x_i) begin
      seen_q <= slow_q;
      late_q <= seen_q != slow_q;
      if (!late_q) en_q <= en_i;
    end

    // what even blocks take must stay half a cycle longer
    logic signed [26:0] a_even[Chains*Evens], a_even_q[Chains*Evens];
    logic signed [26:0] d_even[Chains*Evens], d_even_q[Chains*Evens];
    logic signed [17:0] b_even[Chains*Evens], b_even_q[Chains*Evens];
    logic signed [26:0] a_now[Chains*Length], d_now[Chains*Length];
    logic signed [17:0] b_now[Chains*Length];
    logic signed [26:0] a[Pairs*Length], d[Pairs*Length];
    logic signed [17:0] b[Pairs*Length];
    logic signed [SumBits-1:0] p[Pairs], p_q[Pairs], sum_d[Chains], sum_q[Chains];

    always_comb begin
      for (int unsigned c = 0; c < Chains; c++) begin
        for (int unsigned k = 0; k < Evens; k++) begin
          a_even[c*Evens+k] = a_i[c*Length+2*k];
          d_even[c*Evens+k] = d_i[c*Length+2*k];
          b_even[c*Evens+k] = b_i[c*Length+2*k];
        end
      end
      for (int unsigned k = 0; k < Chains * Length; k++) begin
        a_now[k] = k % Length % 2 > 0 ? a_i[k] : a_even_q[k/Length*Evens+k%Length/2];
        d_now[k] = k % Length % 2 > 0 ? d_i[k] : d_even_q[k/Length*Evens+k%Length/2];
        b_now[k] = k % Length % 2 > 0 ? b_i[k] : b_even_q[k/Length*Evens+k%Length/2];
      end
      for (int unsigned k = 0; k < Pairs * Length; k++) begin
        // of chain 2c in the second half for even blocks, in the first one for odd ones
        logic high;
        high = late_q == (k % Length % 2 > 0);
        a[k] = high ? a_now[k+k/Length*Length+Length] : a_now[k+k/Length*Length];
        d[k] = high ? d_now[k+k/Length*Length+Length] : d_now[k+k/Length*Length];
        b[k] = high ? b_now[k+k/Length*Length+Length] : b_now[k+k/Length*Length];
      end
    end

    always_ff @(posedge clk2x_i) begin
      if (!late_q) begin
        a_even_q <= a_even;
        d_even_q <= d_even;
        b_even_q <= b_even;
        if (en_q) p_q <= p;
      end
    end

    dsp_blocks #(
        .Chains (Pairs),
        .Length (Length),
        .SumBits(SumBits),
        .FieldBits(FieldBits),
        .InputRegs(1)
    ) u_blocks (
        .clk_i(clk2x_i),
        .en_i(en_q),
        .a_i(a),
        .d_i(d),
        .b_i(b),
        .p_o(p)
    );

    // Sums leave the blocks one half after the other: in the second half stands one of the odd chains
    // behind an even number of blocks, else one of the even chains, which waits for the other.
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
  end

endmodule
