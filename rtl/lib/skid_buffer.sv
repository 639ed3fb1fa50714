// SPDX-License-Identifier: Apache-2.0

/// Registers a stream in both directions: no combinational path from one side to the other.
/// One beat per cycle, latency 1, holds two beats.
module skid_buffer #(
    parameter int unsigned DataBits = 8  // bits of tdata, >= 1
) (
    input  logic                clk_i,
    input  logic                rst_ni,
    input  logic [DataBits-1:0] s_axis_tdata,
    input  logic                s_axis_tvalid,
    output logic                s_axis_tready,
    input  logic                s_axis_tlast,
    input  logic                s_axis_tuser,
    output logic [DataBits-1:0] m_axis_tdata,
    output logic                m_axis_tvalid,
    input  logic                m_axis_tready,
    output logic                m_axis_tlast,
    output logic                m_axis_tuser
);

  localparam int unsigned Width = DataBits + 2;

  logic [Width-1:0] beat, out_q, skid_q;
  logic out_valid_q, skid_valid_q;

  assign beat = {s_axis_tuser, s_axis_tlast, s_axis_tdata};
  assign s_axis_tready = !skid_valid_q;
  assign {m_axis_tuser, m_axis_tlast, m_axis_tdata} = out_q;
  assign m_axis_tvalid = out_valid_q;

  always_ff @(posedge clk_i) begin
    if (m_axis_tready || !out_valid_q) out_q <= skid_valid_q ? skid_q : beat;
    if (!skid_valid_q) skid_q <= beat;
    if (!rst_ni) begin
      out_valid_q  <= 1'b0;
      skid_valid_q <= 1'b0;
    end else if (m_axis_tready || !out_valid_q) begin
      out_valid_q  <= skid_valid_q || s_axis_tvalid;
      skid_valid_q <= 1'b0;
    end else if (s_axis_tvalid) begin
      skid_valid_q <= 1'b1;
    end
  end

endmodule
