// SPDX-License-Identifier: Apache-2.0

/// Counts the beats inside a part of a simulated design, and says at the end how many they were at most.
module stream_mark (
    input logic clk_i,
    input logic rst_ni,
    input logic in_i,   // a beat goes in
    input logic out_i   // a beat comes out
);
  /*verilator no_inline_module*/

  logic [31:0] count_q, most_q;

  initial most_q = '0;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) count_q <= '0;
    else begin
      count_q <= count_q + 32'(in_i) - 32'(out_i);
      if (count_q > most_q) most_q <= count_q;
    end
  end

  final $display("STREAM %m %0d", most_q);

endmodule
