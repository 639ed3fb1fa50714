// SPDX-License-Identifier: Apache-2.0

/// Reset of a design from the start of the device and from good_i: it ends 16 cycles after both.
module reset_sync (
    input  logic clk_i,
    input  logic good_i,  // clock and board are ready; not synchronous to clk_i
    output logic rst_no
);

  // there is no reset yet that could give them the values with which the device starts
  /* verilator lint_off PROCASSINIT */
  logic [3:0] count_q = '0;
  logic [1:0] good_q = '0;
  /* verilator lint_on PROCASSINIT */

  always_ff @(posedge clk_i) begin
    good_q <= {good_q[0], good_i};
    rst_no <= count_q == '1;
    if (!good_q[1]) count_q <= '0;
    else if (count_q != '1) count_q <= count_q + 1'b1;
  end

endmodule
