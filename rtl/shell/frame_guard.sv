// SPDX-License-Identifier: Apache-2.0

/// Cuts a batch of words into the frames of the accelerator: a word per beat, FrameBeats beats per frame, m_axis_tlast
/// on the last one. s_axis_batch says how many frames a batch has; without one nothing is taken. A batch whose
/// s_axis_tlast comes early is filled up with zeros, the words behind the last frame are swallowed up to s_axis_tlast:
/// the accelerator always gets the frames that were announced, and what was wrong is said.
/// No combinational path is cut: put skid buffers around it.
module frame_guard #(
    parameter int unsigned BeatBits = 8,  // bits of a beat, >= 1
    parameter int unsigned WordBytes = 1,  // bytes of a word, >= BeatBits / 8
    parameter int unsigned FrameBeats = 4,  // >= 1
    parameter int unsigned CountBits = 16  // bits of the number of frames of a batch
) (
    input  logic                   clk_i,
    input  logic                   rst_ni,
    input  logic [8*WordBytes-1:0] s_axis_tdata,
    input  logic [  WordBytes-1:0] s_axis_tkeep,
    input  logic                   s_axis_tvalid,
    output logic                   s_axis_tready,
    input  logic                   s_axis_tlast,
    input  logic [  CountBits-1:0] s_axis_batch_tdata,   // frames, >= 1
    input  logic                   s_axis_batch_tvalid,
    output logic                   s_axis_batch_tready,
    output logic [   BeatBits-1:0] m_axis_tdata,
    output logic                   m_axis_tvalid,
    input  logic                   m_axis_tready,
    output logic                   m_axis_tlast,
    output logic                   early_o,              // s_axis_tlast before the end of the batch
    output logic                   late_o,               // no s_axis_tlast at its end
    output logic                   ragged_o              // a word with bytes missing, or bits beyond the beat
);

  localparam int unsigned BeatsBits = FrameBeats > 1 ? $clog2(FrameBeats) : 1;

  typedef logic [BeatsBits-1:0] beat_t;
  typedef enum logic [1:0] {
    Idle,
    Pass,
    Pad,
    Drain
  } state_e;

  state_e state_q, state_d;
  beat_t beat_q;
  logic [CountBits-1:0] left_q;  // frames of the batch that have not passed
  logic sent, frame_end, batch_end, stray;

  // a word may have no bits beyond the beat
  if (8 * WordBytes > BeatBits) begin : gen_rest
    assign stray = |s_axis_tdata[8*WordBytes-1:BeatBits];
  end else begin : gen_no_rest
    assign stray = 1'b0;
  end

  assign sent = m_axis_tvalid && m_axis_tready;
  assign frame_end = beat_q == beat_t'(FrameBeats - 1);
  assign batch_end = frame_end && left_q == CountBits'(1);
  assign s_axis_batch_tready = state_q == Idle;
  assign s_axis_tready = state_q == Drain || (state_q == Pass && m_axis_tready);
  assign m_axis_tvalid = state_q == Pad || (state_q == Pass && s_axis_tvalid);
  assign m_axis_tdata = state_q == Pad ? '0 : s_axis_tdata[BeatBits-1:0];
  assign m_axis_tlast = frame_end;
  assign early_o = state_q == Pass && sent && s_axis_tlast && !batch_end;
  assign late_o = state_q == Pass && sent && !s_axis_tlast && batch_end;
  assign ragged_o = state_q == Pass && sent && (s_axis_tkeep != '1 || stray);

  always_comb begin
    state_d = state_q;
    unique case (state_q)
      Idle: if (s_axis_batch_tvalid) state_d = Pass;
      Pass:
      if (sent && batch_end) state_d = s_axis_tlast ? Idle : Drain;
      else if (sent && s_axis_tlast) state_d = Pad;
      Pad: if (sent && batch_end) state_d = Idle;
      Drain: if (s_axis_tvalid && s_axis_tlast) state_d = Idle;
      default: state_d = Idle;
    endcase
  end

  always_ff @(posedge clk_i) begin
    if (state_q == Idle) left_q <= s_axis_batch_tdata;
    else if (sent && frame_end) left_q <= left_q - 1'b1;
    if (!rst_ni) begin
      state_q <= Idle;
      beat_q  <= '0;
    end else begin
      state_q <= state_d;
      if (sent) beat_q <= frame_end ? '0 : beat_q + 1'b1;
    end
  end

endmodule
