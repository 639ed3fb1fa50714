// SPDX-License-Identifier: Apache-2.0

/// AXI-Stream rules of one port: tvalid stays until tready, the payload is stable while stalled, tvalid is low
/// after reset, tuser stands on a tlast beat only. An error stops the simulation. At its end the checker says
/// what it has seen: beats, cycles in which a beat waited, beats in the cycle right after another, bits that
/// rose and fell.
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

`ifdef VERILATOR
  int unsigned beats, stalls, back_to_back;
  logic [DataBits+3:0] now, before_q, rose, fell;
  logic fired_q, live_q;

  // over the whole run, resets included
  initial {beats, stalls, back_to_back, rose, fell, live_q} = '0;

  assign now = {tdata, tlast, tuser, tvalid, tready};

  always_ff @(posedge clk_i) begin
    fired_q <= rst_ni && tvalid && tready;
    live_q <= rst_ni;
    before_q <= now;
    if (rst_ni && tvalid && !tready) stalls <= stalls + 1;
    if (rst_ni && tvalid && tready) begin
      beats <= beats + 1;
      if (fired_q) back_to_back <= back_to_back + 1;
    end
    if (rst_ni && live_q) begin
      rose <= rose | (now & ~before_q);
      fell <= fell | (~now & before_q);
    end
  end

  final begin
    $display("COVER %s beats=%0h stalls=%0h back_to_back=%0h rose=%0h fell=%0h", Name, beats, stalls,
             back_to_back, rose, fell);
  end
`endif

endmodule
