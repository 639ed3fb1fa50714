// SPDX-License-Identifier: Apache-2.0

/// Between a serial line and an accelerator: images in, logits and cycles out (docs/uart.md).
///
/// An image gathers in one of Banks buffers and enters the accelerator when its packet was whole and
/// undamaged. So do results: the line never holds the accelerator up while the host has at most Banks
/// images under way. m_axis feeds the accelerator, s_axis takes its logits; both in beats of whole bytes,
/// least significant first on the line. The reset of the accelerator is acc_rst_no.
module uart_shell #(
    parameter int unsigned ClocksPerBit = 16,  // of the serial line, >= 4
    parameter int unsigned InBytes = 1,        // of an input beat
    parameter int unsigned InBeats = 64,       // of an image
    parameter int unsigned OutBytes = 2,       // of an output beat
    parameter int unsigned OutBeats = 10,      // of the logits of an image
    parameter int unsigned Build = 0,          // the host asks for it
    parameter int unsigned Banks = 4           // a power of two
) (
    input  logic                  clk_i,
    input  logic                  rst_ni,
    input  logic                  rx_i,
    output logic                  tx_o,
    output logic                  acc_rst_no,
    output logic [ InBytes*8-1:0] m_axis_tdata,
    output logic                  m_axis_tvalid,
    input  logic                  m_axis_tready,
    output logic                  m_axis_tlast,
    output logic                  m_axis_tuser,
    input  logic [OutBytes*8-1:0] s_axis_tdata,
    input  logic                  s_axis_tvalid,
    output logic                  s_axis_tready,
    input  logic                  s_axis_tlast,
    input  logic                  s_axis_tuser
);

  localparam logic [7:0] Version = 8'd1;
  localparam int unsigned FrameBytes = InBytes * InBeats;
  localparam int unsigned FrameBits = $clog2(FrameBytes + 1);
  localparam int unsigned BankBits = $clog2(Banks);
  localparam int unsigned CountBits = $clog2(Banks + 1);
  localparam int unsigned OutBits = $clog2(OutBeats + 1);
  localparam int unsigned StatusBytes = 17;

  typedef logic [CountBits-1:0] count_t;

  if (Banks < 2 || Banks != 1 << BankBits) begin : gen_check
    $error("uart_shell: Banks must be a power of two");
  end

  // reset of everything but the line, which the device starts in
  logic clear;
  /* verilator lint_off PROCASSINIT */
  logic inner_q = 1'b0;
  /* verilator lint_on PROCASSINIT */

  always_ff @(posedge clk_i) inner_q <= rst_ni && !clear;
  assign acc_rst_no = inner_q;

  // -- requests ------------------------------------------------------------------------------------
  logic [7:0] rx_data, packet_data;
  logic rx_valid, rx_bad, packet_valid, packet_end, packet_bad;
  logic room, write, accept, status, reset, refuse;
  logic [FrameBits-1:0] write_addr;
  logic [7:0] tag;
  logic [31:0] request_crc;
  logic [4:0] reasons;

  uart_rx #(
      .ClocksPerBit(ClocksPerBit)
  ) u_rx (
      .clk_i,
      .rst_ni,
      .rx_i,
      .data_o (rx_data),
      .valid_o(rx_valid),
      .bad_o  (rx_bad)
  );

  slip_decoder u_slip_decoder (
      .clk_i,
      .rst_ni (inner_q),
      .data_i (rx_data),
      .valid_i(rx_valid),
      .bad_i  (rx_bad),
      .data_o (packet_data),
      .valid_o(packet_valid),
      .end_o  (packet_end),
      .bad_o  (packet_bad)
  );

  request_decoder #(
      .FrameBytes(FrameBytes)
  ) u_request (
      .clk_i,
      .rst_ni   (inner_q),
      .data_i   (packet_data),
      .valid_i  (packet_valid),
      .end_i    (packet_end),
      .bad_i    (packet_bad),
      .room_i   (room),
      .write_o  (write),
      .addr_o   (write_addr),
      .accept_o (accept),
      .status_o (status),
      .reset_o  (reset),
      .refuse_o (refuse),
      .tag_o    (tag),
      .crc_o    (request_crc),
      .reasons_o(reasons)
  );

  // -- images --------------------------------------------------------------------------------------
  count_t banks_q;   // images that wait or are being sent into the accelerator
  count_t inside_q;  // images in the accelerator whose results have not begun to leave
  logic [BankBits-1:0] write_bank_q, read_bank_q;
  logic [FrameBits-1:0] read_addr_q;
  logic [7:0] image_data;
  logic reading_q, read, image_valid_q, image_last_q, image_ready, last_read, begun, take_result;

  assign room = banks_q != count_t'(Banks);
  assign last_read = read_addr_q == FrameBits'(FrameBytes - 1);
  assign read = reading_q && (!image_valid_q || image_ready);

  simple_ram #(
      .DataBits(8),
      .Words(1 << (BankBits + FrameBits)),
      .Block(1)
  ) u_images (
      .clk_i,
      .write_i(write),
      .waddr_i({write_bank_q, write_addr}),
      .wdata_i(packet_data),
      .read_i (read),
      .raddr_i({read_bank_q, read_addr_q}),
      .rdata_o(image_data)
  );

  always_ff @(posedge clk_i) begin
    if (read) image_last_q <= last_read;
    if (!inner_q) begin
      banks_q <= '0;
      inside_q <= '0;
      write_bank_q <= '0;
      read_bank_q <= '0;
      read_addr_q <= '0;
      reading_q <= 1'b0;
      image_valid_q <= 1'b0;
    end else begin
      banks_q <= banks_q + count_t'(accept) - count_t'(read && last_read);
      inside_q <= inside_q + count_t'(read && last_read) - count_t'(take_result);
      if (accept) write_bank_q <= write_bank_q + 1'b1;
      if (!reading_q) reading_q <= banks_q != '0 && inside_q != count_t'(Banks);
      if (!image_valid_q || image_ready) image_valid_q <= read;
      if (read) begin
        read_addr_q <= last_read ? '0 : read_addr_q + 1'b1;
        if (last_read) begin
          reading_q <= 1'b0;
          read_bank_q <= read_bank_q + 1'b1;
        end
      end
    end
  end

  axis_width #(
      .LaneBits(8),
      .InLanes (1),
      .OutLanes(InBytes)
  ) u_in (
      .clk_i,
      .rst_ni       (inner_q),
      .s_axis_tdata (image_data),
      .s_axis_tvalid(image_valid_q),
      .s_axis_tready(image_ready),
      .s_axis_tlast (image_last_q),
      .s_axis_tuser (1'b0),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );

  // -- results -------------------------------------------------------------------------------------
  logic [OutBytes*8-1:0] fifo_data;
  logic [OutBits-1:0] out_beat_q;
  logic fifo_valid, fifo_ready, fifo_last, fifo_space, result_end, out_last;
  logic [7:0] logit_data;
  logic logit_valid, logit_ready, logit_last;
  /* verilator lint_off UNUSEDSIGNAL */
  logic fifo_user, logit_user, unused;
  assign unused = s_axis_tuser;
  /* verilator lint_on UNUSEDSIGNAL */

  // a result is never longer than it should be, whatever the accelerator does
  assign out_last = out_beat_q == OutBits'(OutBeats - 1);
  assign result_end = s_axis_tvalid && s_axis_tready && out_last;

  axis_fifo #(
      .DataBits(OutBytes * 8),
      .Depth(OutBeats * Banks)
  ) u_results (
      .clk_i,
      .rst_ni       (inner_q),
      .s_axis_tdata,
      .s_axis_tvalid,
      .s_axis_tready(fifo_space),
      .s_axis_tlast (out_last),
      .s_axis_tuser (1'b0),
      .m_axis_tdata (fifo_data),
      .m_axis_tvalid(fifo_valid),
      .m_axis_tready(fifo_ready),
      .m_axis_tlast (fifo_last),
      .m_axis_tuser (fifo_user)
  );

  axis_width #(
      .LaneBits(8),
      .InLanes (OutBytes),
      .OutLanes(1)
  ) u_out (
      .clk_i,
      .rst_ni       (inner_q),
      .s_axis_tdata (fifo_data),
      .s_axis_tvalid(fifo_valid),
      .s_axis_tready(fifo_ready),
      .s_axis_tlast (fifo_last),
      .s_axis_tuser (fifo_user),
      .m_axis_tdata (logit_data),
      .m_axis_tvalid(logit_valid),
      .m_axis_tready(logit_ready),
      .m_axis_tlast (logit_last),
      .m_axis_tuser (logit_user)
  );

  // -- time ----------------------------------------------------------------------------------------
  logic [31:0] now_q, start, cycles, frames_q;
  logic [47:0] run_q, total_q;  // since the first image began; up to the last result
  logic started_q, first_beat_q, start_valid, cycles_valid;
  logic [4:0] seen_q;           // reasons of refusals
  logic wrong_q;                // a result ended early or late
  logic [39:0] request;
  logic request_valid;
  /* verilator lint_off UNUSEDSIGNAL */
  logic [8:0] unused_fifos;
  /* verilator lint_on UNUSEDSIGNAL */

  assign begun = m_axis_tvalid && m_axis_tready && first_beat_q;
  assign s_axis_tready = fifo_space;

  // when the images in the accelerator began
  axis_fifo #(
      .DataBits(32),
      .Depth(Banks + 1)
  ) u_starts (
      .clk_i,
      .rst_ni       (inner_q),
      .s_axis_tdata (now_q),
      .s_axis_tvalid(begun),
      .s_axis_tready(unused_fifos[0]),
      .s_axis_tlast (1'b0),
      .s_axis_tuser (1'b0),
      .m_axis_tdata (start),
      .m_axis_tvalid(start_valid),
      .m_axis_tready(result_end),
      .m_axis_tlast (unused_fifos[1]),
      .m_axis_tuser (unused_fifos[2])
  );

  // tag and checksum of the requests that have no reply yet
  axis_fifo #(
      .DataBits(40),
      .Depth(2 * Banks + 1)
  ) u_requests (
      .clk_i,
      .rst_ni       (inner_q),
      .s_axis_tdata ({tag, request_crc}),
      .s_axis_tvalid(accept),
      .s_axis_tready(unused_fifos[3]),
      .s_axis_tlast (1'b0),
      .s_axis_tuser (1'b0),
      .m_axis_tdata (request),
      .m_axis_tvalid(request_valid),
      .m_axis_tready(take_result),
      .m_axis_tlast (unused_fifos[4]),
      .m_axis_tuser (unused_fifos[5])
  );

  axis_fifo #(
      .DataBits(32),
      .Depth(Banks + 1)
  ) u_cycles (
      .clk_i,
      .rst_ni       (inner_q),
      .s_axis_tdata (now_q - start + 32'd1),
      .s_axis_tvalid(result_end),
      .s_axis_tready(unused_fifos[6]),
      .s_axis_tlast (1'b0),
      .s_axis_tuser (1'b0),
      .m_axis_tdata (cycles),
      .m_axis_tvalid(cycles_valid),
      .m_axis_tready(take_result),
      .m_axis_tlast (unused_fifos[7]),
      .m_axis_tuser (unused_fifos[8])
  );

  always_ff @(posedge clk_i) begin
    now_q <= now_q + 1'b1;
    run_q <= started_q || begun ? run_q + 1'b1 : '0;
    if (refuse) seen_q <= seen_q | reasons;
    if (m_axis_tvalid && m_axis_tready) first_beat_q <= m_axis_tlast;
    if (s_axis_tvalid && s_axis_tready) begin
      out_beat_q <= out_last ? '0 : out_beat_q + 1'b1;
      if (s_axis_tlast != out_last || !start_valid) wrong_q <= 1'b1;
    end
    if (begun) started_q <= 1'b1;
    if (result_end) begin
      frames_q <= frames_q + 1'b1;
      total_q <= run_q + 1'b1;
    end
    if (!inner_q) begin
      now_q <= '0;
      run_q <= '0;
      started_q <= 1'b0;
      seen_q <= '0;
      wrong_q <= 1'b0;
      first_beat_q <= 1'b1;
      out_beat_q <= '0;
      frames_q <= '0;
      total_q <= '0;
    end
  end

  // -- replies -------------------------------------------------------------------------------------
  logic [7:0] reply_data, tx_data;
  logic reply_valid, reply_ready, reply_last, tx_valid, tx_ready;

  reply_encoder #(
      .StatusBytes(StatusBytes)
  ) u_reply (
      .clk_i,
      .rst_ni,
      .status_i      (status),
      .reset_i       (reset),
      .refuse_i      (refuse),
      .tag_i         (tag),
      .reasons_i     (reasons),
      .info_i        ({total_q, frames_q, Build, 2'd0, wrong_q, seen_q, 8'(Banks), Version}),
      .result_valid_i(cycles_valid && request_valid),
      .result_ready_o(take_result),
      .result_tag_i  (request[39:32]),
      .result_info_i ({cycles, request[31:0]}),
      .s_axis_tdata  (logit_data),
      .s_axis_tvalid (logit_valid),
      .s_axis_tready (logit_ready),
      .s_axis_tlast  (logit_last),
      .clear_o       (clear),
      .m_axis_tdata  (reply_data),
      .m_axis_tvalid (reply_valid),
      .m_axis_tready (reply_ready),
      .m_axis_tlast  (reply_last)
  );

  slip_encoder u_slip_encoder (
      .clk_i,
      .rst_ni,
      .s_axis_tdata (reply_data),
      .s_axis_tvalid(reply_valid),
      .s_axis_tready(reply_ready),
      .s_axis_tlast (reply_last),
      .m_axis_tdata (tx_data),
      .m_axis_tvalid(tx_valid),
      .m_axis_tready(tx_ready)
  );

  uart_tx #(
      .ClocksPerBit(ClocksPerBit)
  ) u_tx (
      .clk_i,
      .rst_ni,
      .s_axis_tdata (tx_data),
      .s_axis_tvalid(tx_valid),
      .s_axis_tready(tx_ready),
      .tx_o
  );

endmodule
