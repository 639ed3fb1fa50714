// SPDX-License-Identifier: Apache-2.0

/// Stands between a core and its bench: hands a stream on without delay, or breaks it, to show that the bench
/// notices. Plusargs: +sievit_fault=<kind>, +sievit_fault_beat=<beat since reset>, +sievit_fault_lane=<lane>.
module axis_fault #(
    parameter int unsigned DataBits = 8,  // bits of tdata, a multiple of LaneBits
    parameter int unsigned LaneBits = 8   // bits of a channel
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

  // the order of harness.FAULTS
  typedef enum int unsigned {
    None, StuckValid, DroppedBeat, DoubledBeat, OffByOne, SwappedLanes, FrozenOutput
  } kind_e;

  int unsigned kind, at, lane, beat_q;
  logic [DataBits-1:0] kept_q;
  logic here, later, again_q;

  initial begin
    if ($value$plusargs("sievit_fault=%d", kind) == 0) kind = None;
    if ($value$plusargs("sievit_fault_beat=%d", at) == 0) at = 0;
    if ($value$plusargs("sievit_fault_lane=%d", lane) == 0) lane = 0;
  end

  assign here  = kind != None && beat_q == at;
  assign later = kind != None && beat_q > at;

  always_comb begin
    m_axis_tdata  = s_axis_tdata;
    m_axis_tvalid = s_axis_tvalid;
    s_axis_tready = m_axis_tready;
    if (kind == StuckValid && later) m_axis_tvalid = 1'b1;
    if (kind == DroppedBeat && here) {m_axis_tvalid, s_axis_tready} = 2'b01;
    if (kind == DoubledBeat && here && !again_q) s_axis_tready = 1'b0;
    if (kind == OffByOne && here) m_axis_tdata[lane*LaneBits] = !s_axis_tdata[lane*LaneBits];
    if (kind == SwappedLanes && here) begin
      m_axis_tdata[lane*LaneBits+:LaneBits] = s_axis_tdata[(lane+1)*LaneBits+:LaneBits];
      m_axis_tdata[(lane+1)*LaneBits+:LaneBits] = s_axis_tdata[lane*LaneBits+:LaneBits];
    end
    if (kind == FrozenOutput && later) m_axis_tdata = kept_q;
  end

  assign m_axis_tlast = s_axis_tlast;
  assign m_axis_tuser = s_axis_tuser;

  always_ff @(posedge clk_i) begin
    if (here) kept_q <= s_axis_tdata;
    if (!rst_ni) begin
      beat_q  <= 0;
      again_q <= 1'b0;
    end else begin
      if (s_axis_tvalid && s_axis_tready) beat_q <= beat_q + 1;
      if (here && m_axis_tvalid && m_axis_tready) again_q <= 1'b1;
    end
  end

endmodule
