// SPDX-License-Identifier: Apache-2.0

/// axis_join: a beat of a, a beat of b and their pair move together or not at all, so the n-th pair is
/// made of the n-th beats; it is offered as soon as both are there, and AXI-Stream rules hold.
module prove_axis_join #(
    parameter int unsigned ABits = 2,
    parameter int unsigned BBits = 1
) (
    input logic             clk_i,
    input logic             rst_ni,
    input logic [ABits-1:0] s_axis_a_tdata,
    input logic             s_axis_a_tvalid,
    input logic             s_axis_a_tlast,
    input logic             s_axis_a_tuser,
    input logic [BBits-1:0] s_axis_b_tdata,
    input logic             s_axis_b_tvalid,
    input logic             m_axis_tready
);

  logic s_axis_a_tready, s_axis_b_tready, m_axis_tvalid, m_axis_tlast, m_axis_tuser;
  logic [ABits+BBits-1:0] m_axis_tdata;
  logic active, a_fire, b_fire, m_fire;

  axis_join #(.ABits(ABits), .BBits(BBits)) dut (.*);

  formal_reset u_reset (.clk_i, .rst_ni, .active_o(active));

  stream_rules #(.Assume(1), .DataBits(ABits)) u_source_a (
      .clk_i, .active_i(active), .tdata(s_axis_a_tdata), .tvalid(s_axis_a_tvalid),
      .tready(s_axis_a_tready), .tlast(s_axis_a_tlast), .tuser(s_axis_a_tuser)
  );
  stream_rules #(.Assume(1), .DataBits(BBits)) u_source_b (
      .clk_i, .active_i(active), .tdata(s_axis_b_tdata), .tvalid(s_axis_b_tvalid),
      .tready(s_axis_b_tready), .tlast(1'b0), .tuser(1'b0)
  );
  stream_rules #(.DataBits(ABits + BBits)) u_rules (
      .clk_i, .active_i(active), .tdata(m_axis_tdata), .tvalid(m_axis_tvalid),
      .tready(m_axis_tready), .tlast(m_axis_tlast), .tuser(m_axis_tuser)
  );

  assign a_fire = s_axis_a_tvalid && s_axis_a_tready;
  assign b_fire = s_axis_b_tvalid && s_axis_b_tready;
  assign m_fire = m_axis_tvalid && m_axis_tready;

  always_comb begin
    if (active) begin
      a_together: assert (a_fire == m_fire && b_fire == m_fire);
      a_content: assert (!m_axis_tvalid || {m_axis_tuser, m_axis_tlast, m_axis_tdata} ==
                         {s_axis_a_tuser, s_axis_a_tlast, s_axis_b_tdata, s_axis_a_tdata});
      a_offer: assert (!s_axis_a_tvalid || !s_axis_b_tvalid || m_axis_tvalid);

      c_stall: cover (u_rules.stalled_q && m_fire && m_axis_tlast && m_axis_tuser);
      c_wait_a: cover (!s_axis_a_tvalid && s_axis_b_tvalid && m_axis_tready);
      c_wait_b: cover (s_axis_a_tvalid && !s_axis_b_tvalid && m_axis_tready);
    end
  end

endmodule
