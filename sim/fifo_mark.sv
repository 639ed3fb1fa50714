// SPDX-License-Identifier: Apache-2.0

/// Watches an axis_fifo of a simulated design, and says at the end how many beats it held at most.
module fifo_mark #(
    parameter int unsigned CountBits = 2
) (
    input logic                 clk_i,
    input logic                 rst_ni,
    input logic [CountBits-1:0] count_q
);
  /*verilator no_inline_module*/

  logic [CountBits-1:0] most_q;

  initial most_q = '0;

  always_ff @(posedge clk_i) if (rst_ni && count_q > most_q) most_q <= count_q;

  final $display("FIFO %m %0d", most_q);

endmodule
