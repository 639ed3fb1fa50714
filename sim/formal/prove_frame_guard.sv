// SPDX-License-Identifier: Apache-2.0

/// frame_guard: whatever words and tlast come, exactly the frames that were announced go on, whole; every batch that
/// does not end where it should is said; the next batch begins behind the tlast of the one before.
module prove_frame_guard #(
    parameter int unsigned BeatBits = 3,
    parameter int unsigned WordBytes = 1,
    parameter int unsigned FrameBeats = 3,
    parameter int unsigned CountBits = 2
) (
    input logic                   clk_i,
    input logic                   rst_ni,
    input logic [8*WordBytes-1:0] s_axis_tdata,
    input logic [  WordBytes-1:0] s_axis_tkeep,
    input logic                   s_axis_tvalid,
    input logic                   s_axis_tlast,
    input logic [  CountBits-1:0] s_axis_batch_tdata,
    input logic                   s_axis_batch_tvalid,
    input logic                   m_axis_tready
);

  localparam int unsigned RefBits = 4;

  typedef logic [RefBits-1:0] ref_t;

  logic s_axis_tready, s_axis_batch_tready, m_axis_tvalid, m_axis_tlast, early_o, late_o, ragged_o;
  logic active, s_fire, m_fire, batch_fire, final_beat, ragged;
  logic [BeatBits-1:0] m_axis_tdata;
  ref_t beat_q;  // beats of the frame under way that have passed
  logic [CountBits-1:0] left_q;  // frames that were announced and have not passed
  logic between_q;  // the last word was a tlast, or there was none

  frame_guard #(
      .BeatBits(BeatBits), .WordBytes(WordBytes), .FrameBeats(FrameBeats), .CountBits(CountBits)
  ) dut (.*);

  formal_reset u_reset (.clk_i, .rst_ni, .active_o(active));

  stream_rules #(.Assume(1), .DataBits(9 * WordBytes)) u_source (
      .clk_i, .active_i(active), .tdata({s_axis_tkeep, s_axis_tdata}), .tvalid(s_axis_tvalid),
      .tready(s_axis_tready), .tlast(s_axis_tlast), .tuser(1'b0)
  );
  stream_rules #(.Assume(1), .DataBits(CountBits)) u_batches (
      .clk_i, .active_i(active), .tdata(s_axis_batch_tdata), .tvalid(s_axis_batch_tvalid),
      .tready(s_axis_batch_tready), .tlast(1'b1), .tuser(1'b0)
  );
  stream_rules #(.DataBits(BeatBits)) u_rules (
      .clk_i, .active_i(active), .tdata(m_axis_tdata), .tvalid(m_axis_tvalid),
      .tready(m_axis_tready), .tlast(m_axis_tlast), .tuser(1'b0)
  );

  assign s_fire = s_axis_tvalid && s_axis_tready;
  assign m_fire = m_axis_tvalid && m_axis_tready;
  assign batch_fire = s_axis_batch_tvalid && s_axis_batch_tready;
  assign final_beat = left_q == CountBits'(1) && beat_q == ref_t'(FrameBeats - 1);
  assign ragged = s_axis_tkeep != '1 || (s_axis_tdata >> BeatBits) != '0;

  always_ff @(posedge clk_i) begin
    if (!active) begin
      beat_q <= '0;
      left_q <= '0;
      between_q <= 1'b1;
    end else begin
      if (m_fire) beat_q <= beat_q == ref_t'(FrameBeats - 1) ? '0 : beat_q + 1'b1;
      if (batch_fire) left_q <= s_axis_batch_tdata;
      else if (m_fire && beat_q == ref_t'(FrameBeats - 1)) left_q <= left_q - 1'b1;
      if (s_fire) between_q <= s_axis_tlast;
    end
  end

  always_comb begin
    if (active) begin
      assume (!s_axis_batch_tvalid || s_axis_batch_tdata != '0);

      a_whole: assert (!m_axis_tvalid || m_axis_tlast == (beat_q == ref_t'(FrameBeats - 1)));
      a_announced: assert (!m_axis_tvalid || left_q != '0);
      a_all: assert (!s_axis_batch_tready || left_q == '0);
      a_boundary: assert (!s_axis_batch_tready || between_q);
      a_content: assert (!m_fire || m_axis_tdata == (s_fire ? s_axis_tdata[BeatBits-1:0] : '0));
      a_early: assert (early_o == (s_fire && s_axis_tlast && left_q != '0 && !final_beat));
      a_late: assert (late_o == (s_fire && !s_axis_tlast && final_beat));
      a_ragged: assert (ragged_o == (s_fire && m_fire && ragged));
      a_rate: assert (left_q == '0 || !m_axis_tready || !s_axis_tvalid || m_axis_tvalid);

      i_left: assert (left_q == '0 || left_q == dut.left_q);
      i_beat: assert (beat_q == ref_t'(dut.beat_q) && beat_q < ref_t'(FrameBeats));
      i_between: assert (left_q != '0 || beat_q == '0);
      i_idle: assert (dut.state_q != dut.Idle || (left_q == '0 && between_q));
      i_pass: assert (dut.state_q != dut.Pass || left_q != '0);
      i_pad: assert (dut.state_q != dut.Pad || (left_q != '0 && between_q));
      i_drain: assert (dut.state_q != dut.Drain || (left_q == '0 && !between_q));

      c_early: cover (early_o);
      c_late: cover (late_o);
      c_padded: cover (dut.state_q == dut.Pad && final_beat && m_fire);
      c_drained: cover (dut.state_q == dut.Drain && s_fire && s_axis_tlast);
      c_good: cover (dut.state_q == dut.Pass && final_beat && m_fire && s_axis_tlast);
    end
  end

endmodule
