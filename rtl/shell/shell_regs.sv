// SPDX-License-Identifier: Apache-2.0

/// Registers of the shell behind AXI4-Lite, 32 bits each. boards/registers.py names them for the host.
///
///   0x00 VERSION  r    0x5356 "SV", then the version of this map
///   0x04 BUILD    r    first 32 bits of the identity of the build
///   0x08 CONTROL  rw   bit 0: take batches; bit 1: reset of everything but this register, as long as it is set
///   0x0C ERRORS   rw1c bit 0..4, see the port error_i and the parameter CountBits
///   0x10 BATCH    w    announce a batch of that many frames (1..2^CountBits - 1); r: batches that are not done
///   0x14 FRAMES   r    frames whose result has left
///   0x18 CYCLES   r    clock cycles from the first beat that went in to the last one that came out, low half;
///   0x1C          r    high half as of the last read of the low one
///
/// Writes take all four bytes, others are answered with SLVERR; unknown addresses read as zero.
module shell_regs #(
    parameter int unsigned Build = 0,
    parameter int unsigned Version = 1,  // < 2^16
    parameter int unsigned CountBits = 16,  // bits of the number of frames of a batch, 1..32
    parameter int unsigned Batches = 8  // that may be under way, <= 255
) (
    input  logic                 clk_i,
    input  logic                 rst_ni,
    input  logic [         11:0] s_axil_awaddr,
    input  logic                 s_axil_awvalid,
    output logic                 s_axil_awready,
    input  logic [         31:0] s_axil_wdata,
    input  logic [          3:0] s_axil_wstrb,
    input  logic                 s_axil_wvalid,
    output logic                 s_axil_wready,
    output logic [          1:0] s_axil_bresp,
    output logic                 s_axil_bvalid,
    input  logic                 s_axil_bready,
    input  logic [         11:0] s_axil_araddr,
    input  logic                 s_axil_arvalid,
    output logic                 s_axil_arready,
    output logic [         31:0] s_axil_rdata,
    output logic [          1:0] s_axil_rresp,
    output logic                 s_axil_rvalid,
    input  logic                 s_axil_rready,
    output logic                 core_rst_no,     // of everything that frames pass
    output logic [CountBits-1:0] batch_frames_o,
    output logic                 batch_valid_o,   // a pulse: the readers have room for Batches of them
    input  logic [          3:0] error_i,         // pulses: truncated, oversize, ragged, result
    input  logic                 begin_i,         // a beat went in
    input  logic                 frame_i,         // the last beat of a result came out
    input  logic                 batch_i          // and it was the last one of its batch
);

  localparam logic [1:0] OKAY = 2'b00, SLVERR = 2'b10;

  logic [31:0] frames_q, high_q;
  logic [63:0] now_q, cycles_q;
  logic [7:0] under_way_q;
  logic [4:0] errors_q;
  logic enable_q, reset_q, running_q;
  // the device starts in reset
  /* verilator lint_off PROCASSINIT */
  logic core_rst_nq = 1'b0;
  /* verilator lint_on PROCASSINIT */
  logic wr, rd, whole, announced, accepted, overrun;

  assign s_axil_awready = wr;
  assign s_axil_wready = wr;
  assign s_axil_arready = !s_axil_rvalid;
  assign s_axil_rresp = OKAY;
  assign wr = s_axil_awvalid && s_axil_wvalid && !s_axil_bvalid;
  assign rd = s_axil_arvalid && s_axil_arready;
  assign whole = s_axil_wstrb == '1;

  // a batch that cannot be taken is an error, as its words would be taken for those of another one
  assign announced = wr && whole && s_axil_awaddr == 12'h010;
  assign accepted = announced && enable_q && core_rst_nq && under_way_q != 8'(Batches) &&
      s_axil_wdata[CountBits-1:0] != '0 && (s_axil_wdata >> CountBits) == '0;
  assign overrun = announced && !accepted;
  assign batch_valid_o = accepted;
  assign batch_frames_o = s_axil_wdata[CountBits-1:0];
  assign core_rst_no = core_rst_nq;

  always_ff @(posedge clk_i) begin
    if (wr) s_axil_bresp <= whole ? OKAY : SLVERR;
    if (rd) begin
      unique case (s_axil_araddr)
        12'h000: s_axil_rdata <= {16'h5356, 16'(Version)};
        12'h004: s_axil_rdata <= Build;
        12'h008: s_axil_rdata <= {30'd0, reset_q, enable_q};
        12'h00C: s_axil_rdata <= {27'd0, errors_q};
        12'h010: s_axil_rdata <= {24'd0, under_way_q};
        12'h014: s_axil_rdata <= frames_q;
        12'h018: s_axil_rdata <= cycles_q[31:0];
        12'h01C: s_axil_rdata <= high_q;
        default: s_axil_rdata <= '0;
      endcase
      if (s_axil_araddr == 12'h018) high_q <= cycles_q[63:32];
    end
    if (!rst_ni) begin
      s_axil_bvalid <= 1'b0;
      s_axil_rvalid <= 1'b0;
      enable_q <= 1'b0;
      reset_q <= 1'b0;
      core_rst_nq <= 1'b0;
    end else begin
      s_axil_bvalid <= wr || (s_axil_bvalid && !s_axil_bready);
      s_axil_rvalid <= rd || (s_axil_rvalid && !s_axil_rready);
      if (wr && whole && s_axil_awaddr == 12'h008) {reset_q, enable_q} <= s_axil_wdata[1:0];
      core_rst_nq <= !reset_q;
    end
  end

  always_ff @(posedge clk_i) begin
    now_q <= running_q ? now_q + 1'b1 : 64'd1;
    if (!core_rst_nq) begin
      errors_q <= '0;
      under_way_q <= '0;
      frames_q <= '0;
      cycles_q <= '0;
      running_q <= 1'b0;
    end else begin
      errors_q <= {overrun, error_i} |
          (errors_q & ~(wr && whole && s_axil_awaddr == 12'h00C ? s_axil_wdata[4:0] : 5'd0));
      under_way_q <= under_way_q + 8'(accepted) - 8'(batch_i);
      if (frame_i) begin
        frames_q <= frames_q + 1'b1;
        cycles_q <= now_q;
      end
      if (begin_i) running_q <= 1'b1;
    end
  end

endmodule
