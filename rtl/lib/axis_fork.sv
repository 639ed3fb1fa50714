// SPDX-License-Identifier: Apache-2.0

/// Copies every beat to NumOut streams. An output takes its copy when it is ready, without waiting for the
/// others; the input beat is taken when all have it. Combinational: s_axis_tready depends on m_axis_tready.
module axis_fork #(
    parameter int unsigned NumOut = 2,   // output streams, >= 1
    parameter int unsigned DataBits = 8  // bits of tdata, >= 1
) (
    input  logic                       clk_i,
    input  logic                       rst_ni,
    input  logic [       DataBits-1:0] s_axis_tdata,
    input  logic                       s_axis_tvalid,
    output logic                       s_axis_tready,
    input  logic                       s_axis_tlast,
    input  logic                       s_axis_tuser,
    output logic [NumOut*DataBits-1:0] m_axis_tdata,
    output logic [         NumOut-1:0] m_axis_tvalid,
    input  logic [         NumOut-1:0] m_axis_tready,
    output logic [         NumOut-1:0] m_axis_tlast,
    output logic [         NumOut-1:0] m_axis_tuser
);

  logic [NumOut-1:0] done_q;  // this output has its copy of the current beat

  assign m_axis_tdata  = {NumOut{s_axis_tdata}};
  assign m_axis_tlast  = {NumOut{s_axis_tlast}};
  assign m_axis_tuser  = {NumOut{s_axis_tuser}};
  assign m_axis_tvalid = {NumOut{s_axis_tvalid}} & ~done_q;
  assign s_axis_tready = &(done_q | m_axis_tready);

  always_ff @(posedge clk_i) begin
    if (!rst_ni || (s_axis_tvalid && s_axis_tready)) done_q <= '0;
    else if (s_axis_tvalid) done_q <= done_q | m_axis_tready;
  end

endmodule
