// SPDX-License-Identifier: Apache-2.0

/// skid_buffer: AXI-Stream rules, order and content; it refuses only when it holds two beats, and is never
/// empty-handed or unready without need, which is full rate.
module prove_skid_buffer #(
    parameter int unsigned DataBits = 2
) (
    input logic                clk_i,
    input logic                rst_ni,
    input logic [DataBits-1:0] s_axis_tdata,
    input logic                s_axis_tvalid,
    input logic                s_axis_tlast,
    input logic                s_axis_tuser,
    input logic                m_axis_tready,
    input logic                pick_i
);

  logic s_axis_tready, m_axis_tvalid, m_axis_tlast, m_axis_tuser;
  logic [DataBits-1:0] m_axis_tdata;
  logic active, tracked, ready_q;
  logic [1:0] flight, ahead;
  logic [DataBits+1:0] part;

  skid_buffer #(.DataBits(DataBits)) dut (.*);

  formal_reset u_reset (.clk_i, .rst_ni, .active_o(active));

  stream_rules #(.Assume(1), .DataBits(DataBits)) u_source (
      .clk_i, .active_i(active), .tdata(s_axis_tdata), .tvalid(s_axis_tvalid),
      .tready(s_axis_tready), .tlast(s_axis_tlast), .tuser(s_axis_tuser)
  );
  stream_rules #(.DataBits(DataBits)) u_rules (
      .clk_i, .active_i(active), .tdata(m_axis_tdata), .tvalid(m_axis_tvalid),
      .tready(m_axis_tready), .tlast(m_axis_tlast), .tuser(m_axis_tuser)
  );
  part_tracker #(.PartBits(DataBits), .MaxParts(2), .CountBits(2)) u_track (
      .clk_i, .active_i(active), .pick_i, .pick_part_i('0),
      .in_fire_i(s_axis_tvalid && s_axis_tready),
      .in_data_i(s_axis_tdata), .in_last_i(s_axis_tlast), .in_user_i(s_axis_tuser),
      .out_fire_i(m_axis_tvalid && m_axis_tready),
      .out_data_i(m_axis_tdata), .out_last_i(m_axis_tlast), .out_user_i(m_axis_tuser),
      .flight_o(flight), .tracked_o(tracked), .ahead_o(ahead), .part_o(part)
  );

  always_ff @(posedge clk_i) ready_q <= active && m_axis_tready;

  always_comb begin
    if (active) begin
      a_full: assert (s_axis_tready || flight == 2'd2);
      a_rate_in: assert (!ready_q || s_axis_tready);
      a_rate_out: assert (flight == '0 || m_axis_tvalid);

      i_flight: assert (flight == 2'(dut.out_valid_q) + 2'(dut.skid_valid_q));
      i_skid: assert (!dut.skid_valid_q || dut.out_valid_q);
      i_part: assert (!tracked || part == (ahead == '0 ? dut.out_q : dut.skid_q));

      c_full: cover (!s_axis_tready);
      c_stall: cover (u_rules.stalled_q && m_axis_tready && m_axis_tlast && m_axis_tuser);
      c_track: cover (tracked && ahead == 2'd1 && m_axis_tready);
    end
  end

endmodule
