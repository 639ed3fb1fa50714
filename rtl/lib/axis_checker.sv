// SPDX-License-Identifier: Apache-2.0

/// AXI-Stream rules of one port: tvalid stays until tready, the payload is stable while stalled, tvalid is low
/// after reset, tuser stands on a tlast beat only. An error stops the simulation.
module axis_checker #(
    parameter int unsigned DataBits = 8,  // bits of tdata, >= 1
    parameter Name = "axis"
) (
    input logic                clk_i,
    input logic                rst_ni,
    input logic [DataBits-1:0] tdata,
    input logic                tvalid,
    input logic                tready,
    input logic                tlast,
    input logic                tuser
);

  logic [DataBits+1:0] beat_q;
  logic stalled_q, reset_q;

  always_ff @(posedge clk_i) begin
    beat_q <= {tuser, tlast, tdata};
    stalled_q <= rst_ni && tvalid && !tready;
    reset_q <= !rst_ni;
    if (rst_ni) begin
      if (stalled_q && !tvalid) $error("%s: tvalid fell without tready", Name);
      if (stalled_q && tvalid && beat_q != {tuser, tlast, tdata}) begin
        $error("%s: the payload changed while stalled", Name);
      end
      if (reset_q && tvalid) $error("%s: tvalid is high right after reset", Name);
      if (tvalid && tuser && !tlast) $error("%s: tuser without tlast", Name);
    end
  end

endmodule
