// SPDX-License-Identifier: Apache-2.0

/// AXI-Stream rules of one port, assumed of a source (Assume = 1) or asserted of an output: valid stays
/// until ready, the payload is stable while stalled, valid is low right after reset.
module stream_rules #(
    parameter bit Assume = 0,
    parameter int unsigned DataBits = 8
) (
    input logic                clk_i,
    input logic                active_i,  // out of reset
    input logic [DataBits-1:0] tdata,
    input logic                tvalid,
    input logic                tready,
    input logic                tlast,
    input logic                tuser
);

  logic [DataBits+1:0] beat_q;
  logic stalled_q, active_q, stays, stable, idle;

  always_ff @(posedge clk_i) begin
    beat_q <= {tuser, tlast, tdata};
    stalled_q <= active_i && tvalid && !tready;
    active_q <= active_i;
  end

  assign stays = !stalled_q || tvalid;
  assign stable = !stalled_q || beat_q == {tuser, tlast, tdata};
  assign idle = active_q || !tvalid;

  always_comb begin
    if (active_i) begin
      if (Assume) begin
        assume (stays && stable && idle);
      end else begin
        a_stays: assert (stays);
        a_stable: assert (stable);
        a_idle: assert (idle);
      end
    end
  end

endmodule
