// SPDX-License-Identifier: Apache-2.0

/// Which half of a cycle of clk_i it is, for registers with clk2x_i, and the enable that they move with.
///
/// Both clocks come from one source and every rising edge of clk_i is one of clk2x_i. An enable is taken in the
/// middle of a cycle and holds for two edges of clk2x_i, the end of that cycle and the middle of the next one: what
/// en_i moves or stops at the end of a cycle, en2x_o moves or stops there and half a cycle later.
/// Only slow_q needs the reset.
module clock_halves (
    input  logic clk_i,
    input  logic clk2x_i,
    input  logic rst_ni,
    input  logic en_i,
    output logic late_o,  // in the second half
    output logic en2x_o
);

  logic slow_q, seen_q, late_q, en_q;

  assign late_o = late_q;
  assign en2x_o = en_q;

  always_ff @(posedge clk_i) slow_q <= rst_ni && !slow_q;

  always_ff @(posedge clk2x_i) begin
    seen_q <= slow_q;
    late_q <= seen_q != slow_q;
    if (!late_q) en_q <= en_i;
  end

endmodule
