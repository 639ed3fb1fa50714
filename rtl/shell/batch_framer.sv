// SPDX-License-Identifier: Apache-2.0

/// Puts the results of the frames of a batch behind each other: a beat per word, m_axis_tlast on the last beat of the
/// last one, m_axis_tuser on the last beat of each. s_axis_batch says how many frames a batch has. A result of another
/// length than ResultBeats is passed as it is and said.
/// No combinational path is cut: put skid buffers around it.
module batch_framer #(
    parameter int unsigned BeatBits = 8,  // bits of a beat, >= 1
    parameter int unsigned WordBytes = 1,  // bytes of a word, >= BeatBits / 8
    parameter int unsigned ResultBeats = 4,  // >= 1
    parameter int unsigned CountBits = 16  // bits of the number of frames of a batch
) (
    input  logic                   clk_i,
    input  logic                   rst_ni,
    input  logic [   BeatBits-1:0] s_axis_tdata,
    input  logic                   s_axis_tvalid,
    output logic                   s_axis_tready,
    input  logic                   s_axis_tlast,
    input  logic                   s_axis_tuser,
    input  logic [  CountBits-1:0] s_axis_batch_tdata,   // frames, >= 1
    input  logic                   s_axis_batch_tvalid,
    output logic                   s_axis_batch_tready,
    output logic [8*WordBytes-1:0] m_axis_tdata,
    output logic                   m_axis_tvalid,
    input  logic                   m_axis_tready,
    output logic                   m_axis_tlast,
    output logic                   m_axis_tuser,
    output logic                   wrong_o               // s_axis_tlast elsewhere, or a package token
);

  localparam int unsigned BeatsBits = ResultBeats > 1 ? $clog2(ResultBeats) : 1;

  typedef logic [BeatsBits-1:0] beat_t;

  beat_t beat_q;
  logic [CountBits-1:0] left_q;  // results of the batch that have not passed
  logic active_q, sent, frame_end, batch_end;

  assign sent = m_axis_tvalid && m_axis_tready;
  assign frame_end = beat_q == beat_t'(ResultBeats - 1);
  assign batch_end = frame_end && left_q == CountBits'(1);
  assign s_axis_batch_tready = !active_q;
  assign s_axis_tready = active_q && m_axis_tready;
  assign m_axis_tvalid = active_q && s_axis_tvalid;
  assign m_axis_tlast = batch_end;
  assign m_axis_tuser = frame_end;
  assign wrong_o = sent && (s_axis_tlast != frame_end || s_axis_tuser);

  always_comb begin
    m_axis_tdata = '0;
    m_axis_tdata[BeatBits-1:0] = s_axis_tdata;
  end

  always_ff @(posedge clk_i) begin
    if (!active_q) left_q <= s_axis_batch_tdata;
    else if (sent && frame_end) left_q <= left_q - 1'b1;
    if (!rst_ni) begin
      active_q <= 1'b0;
      beat_q   <= '0;
    end else begin
      if (!active_q) active_q <= s_axis_batch_tvalid;
      else if (sent && batch_end) active_q <= 1'b0;
      if (sent) beat_q <= frame_end ? '0 : beat_q + 1'b1;
    end
  end

endmodule
