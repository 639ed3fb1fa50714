// SPDX-License-Identifier: Apache-2.0

/// Pairs the beats of two streams: one beat {b, a} from each beat of a and of b. Frames end together;
/// tlast and tuser are those of a. Combinational: s_axis_*_tready depends on m_axis_tready and on the
/// other stream's tvalid.
module axis_join #(
    parameter int unsigned ABits = 8,  // bits of s_axis_a_tdata, >= 1
    parameter int unsigned BBits = 8   // bits of s_axis_b_tdata, >= 1
) (
    input  logic [      ABits-1:0] s_axis_a_tdata,
    input  logic                   s_axis_a_tvalid,
    output logic                   s_axis_a_tready,
    input  logic                   s_axis_a_tlast,
    input  logic                   s_axis_a_tuser,
    input  logic [      BBits-1:0] s_axis_b_tdata,
    input  logic                   s_axis_b_tvalid,
    output logic                   s_axis_b_tready,
    output logic [ABits+BBits-1:0] m_axis_tdata,
    output logic                   m_axis_tvalid,
    input  logic                   m_axis_tready,
    output logic                   m_axis_tlast,
    output logic                   m_axis_tuser
);

  assign m_axis_tdata = {s_axis_b_tdata, s_axis_a_tdata};
  assign m_axis_tlast = s_axis_a_tlast;
  assign m_axis_tuser = s_axis_a_tuser;
  assign m_axis_tvalid = s_axis_a_tvalid && s_axis_b_tvalid;
  assign s_axis_a_tready = m_axis_tready && s_axis_b_tvalid;
  assign s_axis_b_tready = m_axis_tready && s_axis_a_tvalid;

endmodule
