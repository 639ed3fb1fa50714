// SPDX-License-Identifier: Apache-2.0

/// What stands between an AXI DMA and the accelerator: registers (shell_regs), a guard that keeps frames whole
/// (frame_guard), results framed by batch (batch_framer). A DMA word holds one beat, in the next power of two of
/// bytes, the rest zero. In reset by register the words of s_axis are swallowed, and m_axis_tvalid falls at once: the
/// host resets the DMA at the same time.
module axi_shell #(
    parameter int unsigned InBits = 8,  // bits of an input beat of the accelerator, 1..1024
    parameter int unsigned OutBits = 8,  // bits of an output beat, 1..1024
    parameter int unsigned FrameBeats = 4,  // beats of a frame, >= 1
    parameter int unsigned ResultBeats = 4,  // beats of its result, >= 1
    parameter int unsigned Build = 0,  // first 32 bits of the identity of the build
    localparam int unsigned InBytes = 1 << $clog2((InBits + 7) / 8),
    localparam int unsigned OutBytes = 1 << $clog2((OutBits + 7) / 8)
) (
    input  logic                  clk_i,
    input  logic                  rst_ni,
    // registers
    input  logic [          11:0] s_axil_awaddr,
    input  logic                  s_axil_awvalid,
    output logic                  s_axil_awready,
    input  logic [          31:0] s_axil_wdata,
    input  logic [           3:0] s_axil_wstrb,
    input  logic                  s_axil_wvalid,
    output logic                  s_axil_wready,
    output logic [           1:0] s_axil_bresp,
    output logic                  s_axil_bvalid,
    input  logic                  s_axil_bready,
    input  logic [          11:0] s_axil_araddr,
    input  logic                  s_axil_arvalid,
    output logic                  s_axil_arready,
    output logic [          31:0] s_axil_rdata,
    output logic [           1:0] s_axil_rresp,
    output logic                  s_axil_rvalid,
    input  logic                  s_axil_rready,
    // DMA
    input  logic [ 8*InBytes-1:0] s_axis_tdata,
    input  logic [   InBytes-1:0] s_axis_tkeep,
    input  logic                  s_axis_tvalid,
    output logic                  s_axis_tready,
    input  logic                  s_axis_tlast,
    output logic [8*OutBytes-1:0] m_axis_tdata,
    output logic [  OutBytes-1:0] m_axis_tkeep,
    output logic                  m_axis_tvalid,
    input  logic                  m_axis_tready,
    output logic                  m_axis_tlast,
    // accelerator
    output logic                  core_rst_no,
    output logic [    InBits-1:0] m_axis_core_tdata,
    output logic                  m_axis_core_tvalid,
    input  logic                  m_axis_core_tready,
    output logic                  m_axis_core_tlast,
    output logic                  m_axis_core_tuser,
    input  logic [   OutBits-1:0] s_axis_core_tdata,
    input  logic                  s_axis_core_tvalid,
    output logic                  s_axis_core_tready,
    input  logic                  s_axis_core_tlast,
    input  logic                  s_axis_core_tuser
);

  localparam int unsigned CountBits = 16, Batches = 8;

  logic [CountBits-1:0] batch_frames;
  logic batch_valid, early, late, ragged, wrong, in_fire, out_fire, frame_end;

  logic [9*InBytes-1:0] in_tdata;
  logic in_tvalid, in_tready, in_tlast;
  logic [InBits-1:0] beat_tdata;
  logic beat_tvalid, beat_tready, beat_tlast;
  logic [8*OutBytes-1:0] out_tdata;
  logic out_tvalid, out_tready, out_tlast, out_tuser;
  logic [CountBits-1:0] in_batch_tdata, out_batch_tdata;
  logic in_batch_tvalid, in_batch_tready, out_batch_tvalid, out_batch_tready;

  assign in_fire = beat_tvalid && beat_tready;
  assign out_fire = m_axis_tvalid && m_axis_tready;
  assign m_axis_tkeep = '1;

  shell_regs #(
      .Build(Build),
      .CountBits(CountBits),
      .Batches(Batches)
  ) u_regs (
      .clk_i,
      .rst_ni,
      .s_axil_awaddr,
      .s_axil_awvalid,
      .s_axil_awready,
      .s_axil_wdata,
      .s_axil_wstrb,
      .s_axil_wvalid,
      .s_axil_wready,
      .s_axil_bresp,
      .s_axil_bvalid,
      .s_axil_bready,
      .s_axil_araddr,
      .s_axil_arvalid,
      .s_axil_arready,
      .s_axil_rdata,
      .s_axil_rresp,
      .s_axil_rvalid,
      .s_axil_rready,
      .core_rst_no,
      .batch_frames_o(batch_frames),
      .batch_valid_o(batch_valid),
      .error_i({wrong, ragged, late, early}),
      .begin_i(in_fire),
      .frame_i(out_fire && frame_end),
      .batch_i(out_fire && m_axis_tlast)
  );

  // -- in ----------------------------------------------------------------------------------------
  skid_buffer #(
      .DataBits(9 * InBytes)
  ) u_in (
      .clk_i,
      .rst_ni(core_rst_no),
      .s_axis_tdata({s_axis_tkeep, s_axis_tdata}),
      .s_axis_tvalid,
      .s_axis_tready,
      .s_axis_tlast,
      .s_axis_tuser(1'b0),
      .m_axis_tdata(in_tdata),
      .m_axis_tvalid(in_tvalid),
      .m_axis_tready(in_tready),
      .m_axis_tlast(in_tlast),
      /* verilator lint_off PINCONNECTEMPTY */ .m_axis_tuser() /* verilator lint_on PINCONNECTEMPTY */
  );

  /* verilator lint_off PINCONNECTEMPTY */
  axis_fifo #(
      .DataBits(CountBits),
      .Depth(Batches)
  ) u_in_batches (
      .clk_i,
      .rst_ni(core_rst_no),
      .s_axis_tdata(batch_frames),
      .s_axis_tvalid(batch_valid),
      .s_axis_tready(),  // shell_regs counts
      .s_axis_tlast(1'b1),
      .s_axis_tuser(1'b0),
      .m_axis_tdata(in_batch_tdata),
      .m_axis_tvalid(in_batch_tvalid),
      .m_axis_tready(in_batch_tready),
      .m_axis_tlast(),
      .m_axis_tuser()
  );
  /* verilator lint_on PINCONNECTEMPTY */

  frame_guard #(
      .BeatBits(InBits),
      .WordBytes(InBytes),
      .FrameBeats(FrameBeats),
      .CountBits(CountBits)
  ) u_guard (
      .clk_i,
      .rst_ni(core_rst_no),
      .s_axis_tdata(in_tdata[8*InBytes-1:0]),
      .s_axis_tkeep(in_tdata[9*InBytes-1:8*InBytes]),
      .s_axis_tvalid(in_tvalid),
      .s_axis_tready(in_tready),
      .s_axis_tlast(in_tlast),
      .s_axis_batch_tdata(in_batch_tdata),
      .s_axis_batch_tvalid(in_batch_tvalid),
      .s_axis_batch_tready(in_batch_tready),
      .m_axis_tdata(beat_tdata),
      .m_axis_tvalid(beat_tvalid),
      .m_axis_tready(beat_tready),
      .m_axis_tlast(beat_tlast),
      .early_o(early),
      .late_o(late),
      .ragged_o(ragged)
  );

  skid_buffer #(
      .DataBits(InBits)
  ) u_to_core (
      .clk_i,
      .rst_ni(core_rst_no),
      .s_axis_tdata(beat_tdata),
      .s_axis_tvalid(beat_tvalid),
      .s_axis_tready(beat_tready),
      .s_axis_tlast(beat_tlast),
      .s_axis_tuser(1'b0),
      .m_axis_tdata(m_axis_core_tdata),
      .m_axis_tvalid(m_axis_core_tvalid),
      .m_axis_tready(m_axis_core_tready),
      .m_axis_tlast(m_axis_core_tlast),
      .m_axis_tuser(m_axis_core_tuser)
  );

  // -- out ---------------------------------------------------------------------------------------
  /* verilator lint_off PINCONNECTEMPTY */
  axis_fifo #(
      .DataBits(CountBits),
      .Depth(Batches)
  ) u_out_batches (
      .clk_i,
      .rst_ni(core_rst_no),
      .s_axis_tdata(batch_frames),
      .s_axis_tvalid(batch_valid),
      .s_axis_tready(),  // shell_regs counts
      .s_axis_tlast(1'b1),
      .s_axis_tuser(1'b0),
      .m_axis_tdata(out_batch_tdata),
      .m_axis_tvalid(out_batch_tvalid),
      .m_axis_tready(out_batch_tready),
      .m_axis_tlast(),
      .m_axis_tuser()
  );
  /* verilator lint_on PINCONNECTEMPTY */

  batch_framer #(
      .BeatBits(OutBits),
      .WordBytes(OutBytes),
      .ResultBeats(ResultBeats),
      .CountBits(CountBits)
  ) u_framer (
      .clk_i,
      .rst_ni(core_rst_no),
      .s_axis_tdata(s_axis_core_tdata),
      .s_axis_tvalid(s_axis_core_tvalid),
      .s_axis_tready(s_axis_core_tready),
      .s_axis_tlast(s_axis_core_tlast),
      .s_axis_tuser(s_axis_core_tuser),
      .s_axis_batch_tdata(out_batch_tdata),
      .s_axis_batch_tvalid(out_batch_tvalid),
      .s_axis_batch_tready(out_batch_tready),
      .m_axis_tdata(out_tdata),
      .m_axis_tvalid(out_tvalid),
      .m_axis_tready(out_tready),
      .m_axis_tlast(out_tlast),
      .m_axis_tuser(out_tuser),
      .wrong_o(wrong)
  );

  skid_buffer #(
      .DataBits(8 * OutBytes)
  ) u_out (
      .clk_i,
      .rst_ni(core_rst_no),
      .s_axis_tdata(out_tdata),
      .s_axis_tvalid(out_tvalid),
      .s_axis_tready(out_tready),
      .s_axis_tlast(out_tlast),
      .s_axis_tuser(out_tuser),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser(frame_end)
  );

endmodule
