// SPDX-License-Identifier: Apache-2.0

/// axis_width: AXI-Stream rules, lane order and content; the narrower side moves one beat per cycle.
/// Tokens are whole multiples of the wider beat, so a narrow source marks only the last beat of a wide one.
module prove_axis_width #(
    parameter int unsigned LaneBits = 2,
    parameter int unsigned InLanes = 1,
    parameter int unsigned OutLanes = 2
) (
    input logic                        clk_i,
    input logic                        rst_ni,
    input logic [InLanes*LaneBits-1:0] s_axis_tdata,
    input logic                        s_axis_tvalid,
    input logic                        s_axis_tlast,
    input logic                        s_axis_tuser,
    input logic                        m_axis_tready,
    input logic                        pick_i,
    input logic [                 3:0] pick_part_i
);

  localparam int unsigned PartLanes = InLanes < OutLanes ? InLanes : OutLanes;
  localparam int unsigned PartBits = PartLanes * LaneBits;
  localparam int unsigned InParts = InLanes / PartLanes;
  localparam int unsigned OutParts = OutLanes / PartLanes;
  localparam int unsigned MaxParts = InParts > 1 ? InParts : OutParts > 1 ? 2 * OutParts - 1 : 0;

  typedef logic [3:0] count_t;

  logic s_axis_tready, m_axis_tvalid, m_axis_tlast, m_axis_tuser, active, tracked, s_fire, m_fire;
  logic [OutLanes*LaneBits-1:0] m_axis_tdata;
  count_t flight, ahead, index_q;
  logic [PartBits+1:0] part;

  axis_width #(.LaneBits(LaneBits), .InLanes(InLanes), .OutLanes(OutLanes)) dut (.*);

  formal_reset u_reset (.clk_i, .rst_ni, .active_o(active));

  stream_rules #(.Assume(1), .DataBits(InLanes * LaneBits)) u_source (
      .clk_i, .active_i(active), .tdata(s_axis_tdata), .tvalid(s_axis_tvalid),
      .tready(s_axis_tready), .tlast(s_axis_tlast), .tuser(s_axis_tuser)
  );
  stream_rules #(.DataBits(OutLanes * LaneBits)) u_rules (
      .clk_i, .active_i(active), .tdata(m_axis_tdata), .tvalid(m_axis_tvalid),
      .tready(m_axis_tready), .tlast(m_axis_tlast), .tuser(m_axis_tuser)
  );
  part_tracker #(
      .PartBits(PartBits), .InParts(InParts), .OutParts(OutParts),
      .MaxParts(MaxParts), .CountBits(4)
  ) u_track (
      .clk_i, .active_i(active), .pick_i, .pick_part_i,
      .in_fire_i(s_fire),
      .in_data_i(s_axis_tdata), .in_last_i(s_axis_tlast), .in_user_i(s_axis_tuser),
      .out_fire_i(m_fire),
      .out_data_i(m_axis_tdata), .out_last_i(m_axis_tlast), .out_user_i(m_axis_tuser),
      .flight_o(flight), .tracked_o(tracked), .ahead_o(ahead), .part_o(part)
  );

  assign s_fire = s_axis_tvalid && s_axis_tready;
  assign m_fire = m_axis_tvalid && m_axis_tready;

  // the source's place in a wide beat
  always_ff @(posedge clk_i) begin
    if (!active) index_q <= '0;
    else if (s_fire) index_q <= index_q == count_t'(OutParts - 1) ? '0 : index_q + 1'b1;
  end

  always_comb begin
    if (active && s_axis_tvalid && index_q != count_t'(OutParts - 1)) begin
      assume (!s_axis_tlast && !s_axis_tuser);
    end
    if (active) begin
      c_user: cover (m_fire && m_axis_tlast && m_axis_tuser);
      c_stall: cover (u_rules.stalled_q && m_fire);
    end
  end

  if (OutParts > 1) begin : gen_up
    count_t out_parts, at;
    logic [OutParts-1:0] wrong_out;
    logic [OutParts-2:0] wrong_mem;

    assign out_parts = m_axis_tvalid ? count_t'(OutParts) : '0;  // in the output register
    // lane of part_q in which the followed part lies: the newest one is in the highest
    assign at = count_t'(OutParts - 1) - index_q + ahead - out_parts;

    always_comb begin
      for (int unsigned i = 0; i < OutParts; i++) begin
        wrong_out[i] = ahead == count_t'(i) && part !=
            {(i == OutParts - 1) & m_axis_tuser, (i == OutParts - 1) & m_axis_tlast,
             m_axis_tdata[i*PartBits+:PartBits]};
      end
      for (int unsigned i = 0; i < OutParts - 1; i++) begin
        wrong_mem[i] = at == count_t'(i) &&
            part != {2'b00, dut.gen_up.part_q[i*PartBits+:PartBits]};
      end
    end

    always_comb begin
      if (active) begin
        a_rate_in: assert (!m_axis_tready || s_axis_tready);
        a_rate_out: assert (flight < count_t'(OutParts) || m_axis_tvalid);
        a_full: assert (s_axis_tready || flight == count_t'(MaxParts));

        i_flight: assert (flight == out_parts + index_q);
        i_index: assert (index_q == count_t'(dut.gen_up.count_q) && index_q < count_t'(OutParts));
        i_part_out: assert (!tracked || !m_axis_tvalid || wrong_out == '0);
        i_part_mem: assert (!tracked || ahead < out_parts || wrong_mem == '0);

        c_full: cover (!s_axis_tready);
        c_track: cover (tracked && m_fire && ahead == count_t'(OutParts));
      end
    end
  end else if (InParts > 1) begin : gen_down
    logic fire_q, final_part;
    logic [InParts-1:0] wrong;

    assign final_part = ahead == flight - 1'b1;

    always_comb begin
      for (int unsigned i = 0; i < InParts; i++) begin
        wrong[i] = ahead == count_t'(i) && part !=
            {final_part & dut.gen_down.user_q, final_part & dut.gen_down.last_q,
             dut.gen_down.data_q[i*PartBits+:PartBits]};
      end
    end

    always_ff @(posedge clk_i) fire_q <= active && m_fire;

    always_comb begin
      if (active) begin
        // one beat per cycle out, and the next one in with the last part
        a_rate_in: assert (!m_axis_tready || s_axis_tready || flight > count_t'(1));
        a_rate_out: assert (flight == '0 || m_axis_tvalid);
        a_full: assert (s_axis_tready || flight != '0);

        i_valid: assert (m_axis_tvalid == (flight != '0));
        i_flight: assert (flight == '0 ||
                          flight == count_t'(InParts) - count_t'(dut.gen_down.count_q));
        i_count: assert (flight != '0 || dut.gen_down.count_q == '0);
        i_part: assert (!tracked || wrong == '0);

        c_track: cover (tracked && m_fire && ahead == count_t'(1));
        c_back: cover (s_fire && m_fire && flight == count_t'(1) && fire_q);
      end
    end
  end else begin : gen_same
    always_comb begin
      if (active) begin
        a_rate_in: assert (!m_axis_tready || s_axis_tready);
        a_rate_out: assert (!s_axis_tvalid || m_axis_tvalid);
      end
    end
  end

endmodule
