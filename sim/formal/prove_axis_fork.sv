// SPDX-License-Identifier: Apache-2.0

/// axis_fork: every output gets every input beat exactly once, in order and unchanged; an output offers its
/// copy at once, whatever the others do, and the beat is taken in the cycle in which the last copy goes.
module prove_axis_fork #(
    parameter int unsigned NumOut = 2,
    parameter int unsigned DataBits = 2
) (
    input logic                clk_i,
    input logic                rst_ni,
    input logic [DataBits-1:0] s_axis_tdata,
    input logic                s_axis_tvalid,
    input logic                s_axis_tlast,
    input logic                s_axis_tuser,
    input logic [  NumOut-1:0] m_axis_tready
);

  logic s_axis_tready, active, s_fire;
  logic [NumOut*DataBits-1:0] m_axis_tdata;
  logic [NumOut-1:0] m_axis_tvalid, m_axis_tlast, m_axis_tuser;
  // has its copy of the beat that the source offers; takes one now; a copy differs from that beat
  logic [NumOut-1:0] taken_q, m_fire, wrong;

  axis_fork #(.NumOut(NumOut), .DataBits(DataBits)) dut (.*);

  formal_reset u_reset (.clk_i, .rst_ni, .active_o(active));

  stream_rules #(.Assume(1), .DataBits(DataBits)) u_source (
      .clk_i, .active_i(active), .tdata(s_axis_tdata), .tvalid(s_axis_tvalid),
      .tready(s_axis_tready), .tlast(s_axis_tlast), .tuser(s_axis_tuser)
  );
  for (genvar i = 0; i < NumOut; i++) begin : gen_out
    stream_rules #(.DataBits(DataBits)) u_rules (
        .clk_i, .active_i(active), .tdata(m_axis_tdata[i*DataBits+:DataBits]),
        .tvalid(m_axis_tvalid[i]), .tready(m_axis_tready[i]),
        .tlast(m_axis_tlast[i]), .tuser(m_axis_tuser[i])
    );
    assign wrong[i] = {m_axis_tuser[i], m_axis_tlast[i], m_axis_tdata[i*DataBits+:DataBits]} !=
        {s_axis_tuser, s_axis_tlast, s_axis_tdata};
  end

  assign s_fire = s_axis_tvalid && s_axis_tready;
  assign m_fire = m_axis_tvalid & m_axis_tready;

  always_ff @(posedge clk_i) begin
    if (!active || s_fire) taken_q <= '0;
    else taken_q <= taken_q | m_fire;
  end

  always_comb begin
    if (active) begin
      a_source: assert (m_fire == '0 || s_axis_tvalid);
      a_once: assert ((m_fire & taken_q) == '0);
      a_all: assert (!s_fire || (taken_q | m_fire) == '1);
      a_content: assert ((m_axis_tvalid & wrong) == '0);
      a_offer: assert (!s_axis_tvalid || (m_axis_tvalid | taken_q) == '1);
      a_rate: assert (!s_axis_tvalid || s_axis_tready || (taken_q | m_fire) != '1);

      i_taken: assert (taken_q == dut.done_q);

      c_all: cover (s_fire && taken_q == '0);
      c_stall: cover (gen_out[NumOut-1].u_rules.stalled_q && m_fire == '1);
    end
  end

  if (NumOut > 1) begin : gen_apart
    always_comb begin
      if (active) c_apart: cover (s_fire && taken_q != '0);
    end
  end

endmodule
