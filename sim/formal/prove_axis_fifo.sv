// SPDX-License-Identifier: Apache-2.0

/// axis_fifo: AXI-Stream rules, order and content; its memory never over- or underflows; it takes at least
/// Depth beats before it refuses one; full rate with a latency of two cycles.
module prove_axis_fifo #(
    parameter int unsigned DataBits = 2,
    parameter int unsigned Depth = 2
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

  // the memory and the output register
  localparam int unsigned MaxBeats = (Depth < 2 ? 2 : Depth) + 1;
  localparam int unsigned Words = MaxBeats - 1;
  localparam int unsigned CountBits = $clog2(2 * Words + 2);

  typedef logic [CountBits-1:0] count_t;

  logic s_axis_tready, m_axis_tvalid, m_axis_tlast, m_axis_tuser;
  logic [DataBits-1:0] m_axis_tdata;
  logic active, tracked, ready_q, waited_q, in_memory;
  count_t flight, ahead, at, next;
  logic [DataBits+1:0] part;
  logic [Words-1:0] wrong;

  axis_fifo #(.DataBits(DataBits), .Depth(Depth)) dut (.*);

  formal_reset u_reset (.clk_i, .rst_ni, .active_o(active));

  stream_rules #(.Assume(1), .DataBits(DataBits)) u_source (
      .clk_i, .active_i(active), .tdata(s_axis_tdata), .tvalid(s_axis_tvalid),
      .tready(s_axis_tready), .tlast(s_axis_tlast), .tuser(s_axis_tuser)
  );
  stream_rules #(.DataBits(DataBits)) u_rules (
      .clk_i, .active_i(active), .tdata(m_axis_tdata), .tvalid(m_axis_tvalid),
      .tready(m_axis_tready), .tlast(m_axis_tlast), .tuser(m_axis_tuser)
  );
  part_tracker #(.PartBits(DataBits), .MaxParts(MaxBeats), .CountBits(CountBits)) u_track (
      .clk_i, .active_i(active), .pick_i, .pick_part_i('0),
      .in_fire_i(s_axis_tvalid && s_axis_tready),
      .in_data_i(s_axis_tdata), .in_last_i(s_axis_tlast), .in_user_i(s_axis_tuser),
      .out_fire_i(m_axis_tvalid && m_axis_tready),
      .out_data_i(m_axis_tdata), .out_last_i(m_axis_tlast), .out_user_i(m_axis_tuser),
      .flight_o(flight), .tracked_o(tracked), .ahead_o(ahead), .part_o(part)
  );

  always_ff @(posedge clk_i) begin
    ready_q <= active && m_axis_tready;
    waited_q <= active && flight != '0 && !m_axis_tvalid;
  end

  // where the followed beat lies: in the output register or in this word
  assign in_memory = !dut.out_valid_q || ahead != '0;
  assign at = count_t'(dut.rd_q) + ahead - count_t'(dut.out_valid_q);
  assign next = count_t'(dut.rd_q) + count_t'(dut.count_q);

  always_comb begin
    for (int unsigned i = 0; i < Words; i++) begin
      wrong[i] = tracked && in_memory && (at == count_t'(i) || at == count_t'(i + Words)) &&
          part != dut.mem[i];
    end
  end

  always_comb begin
    if (active) begin
      a_overflow: assert (!dut.wr || count_t'(dut.count_q) < count_t'(Words));
      a_underflow: assert (!dut.rd || dut.count_q != '0);
      a_full: assert (s_axis_tready || flight >= count_t'(Depth));
      a_rate_in: assert (!ready_q || s_axis_tready);
      // the output waits for a lone beat only, one cycle
      a_rate_out: assert (flight < count_t'(2) || m_axis_tvalid);
      a_latency: assert (!waited_q || m_axis_tvalid);

      i_flight: assert (flight == count_t'(dut.count_q) + count_t'(dut.out_valid_q));
      i_count: assert (count_t'(dut.count_q) <= count_t'(Words));
      i_read: assert (count_t'(dut.rd_q) < count_t'(Words));
      i_write: assert (count_t'(dut.wr_q) ==
                       (next < count_t'(Words) ? next : next - count_t'(Words)));
      i_part_out: assert (!tracked || in_memory || part == dut.out_q);
      i_part_mem: assert (wrong == '0);

      c_full: cover (!s_axis_tready && s_axis_tvalid);
      c_stall: cover (u_rules.stalled_q && m_axis_tready && m_axis_tlast && m_axis_tuser);
      // every word in use, the followed beat is the newest
      c_track: cover (tracked && ahead == count_t'(MaxBeats - 1));
      c_wrap: cover (dut.rd && dut.wr && dut.wr_q == '0);
    end
  end

endmodule
