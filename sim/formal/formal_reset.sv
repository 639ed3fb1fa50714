// SPDX-License-Identifier: Apache-2.0

/// Reset in the first cycle, whatever the registers hold, and in any later one. Nothing that a module
/// does in reset counts.
module formal_reset (
    input  logic clk_i,
    input  logic rst_ni,
    output logic active_o  // out of reset
);

  logic started_q = 1'b0;

  assign active_o = started_q && rst_ni;

  always_ff @(posedge clk_i) started_q <= 1'b1;
  always_comb assume (started_q || !rst_ni);

endmodule
