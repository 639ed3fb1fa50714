// SPDX-License-Identifier: Apache-2.0

/// Packets of the host -> requests (docs/uart.md). A packet is kind, tag, payload, CRC-32. The payload
/// of an image is written while it comes, and accept_o says at its end whether it is one: whatever is
/// damaged, too long, too short or unknown is refused, with the reasons.
module request_decoder #(
    parameter int unsigned FrameBytes = 64,  // of an image
    localparam int unsigned AddrBits = $clog2(FrameBytes + 1)
) (
    input  logic                clk_i,
    input  logic                rst_ni,
    // bytes of packets
    input  logic [         7:0] data_i,
    input  logic                valid_i,
    input  logic                end_i,
    input  logic                bad_i,
    // there is room for an image
    input  logic                room_i,
    output logic                write_o,
    output logic [AddrBits-1:0] addr_o,
    // high for one cycle: an image is complete, status or reset is asked for, a packet is refused
    output logic                accept_o,
    output logic                status_o,
    output logic                reset_o,
    output logic                refuse_o,
    output logic [         7:0] tag_o,
    output logic [        31:0] crc_o,       // of the request
    output logic [         4:0] reasons_o    // busy, kind, length, crc, line
);

  localparam logic [7:0] KindImage = 8'h01;
  localparam logic [7:0] KindStatus = 8'h02;
  localparam logic [7:0] KindReset = 8'h03;
  localparam logic [31:0] Residue = 32'hDEBB20E3;

  localparam int unsigned Head = 2;  // kind, tag
  localparam int unsigned Tail = 4;  // CRC-32
  localparam int unsigned Most = Head + FrameBytes + Tail;
  localparam int unsigned CountBits = $clog2(Most + 2);

  typedef logic [CountBits-1:0] count_t;

  count_t count_q;  // bytes so far; stops behind the longest packet
  logic [31:0] crc_q, crc_next, last_q;
  logic [7:0] kind_q, tag_q;
  logic full_q;  // a byte of the payload found no room
  logic is_image, payload, crc_wrong, kind_wrong, length_wrong, busy;

  crc32 u_crc (
      .crc_i(crc_q),
      .data_i,
      .crc_o(crc_next)
  );

  assign is_image = kind_q == KindImage;
  assign payload = is_image && count_q >= count_t'(Head) && count_q < count_t'(Head + FrameBytes);
  assign write_o = valid_i && payload && room_i;
  assign addr_o = AddrBits'(count_q - count_t'(Head));

  assign crc_wrong = crc_q != Residue;
  assign kind_wrong = !is_image && kind_q != KindStatus && kind_q != KindReset;
  assign length_wrong = count_q != (is_image ? count_t'(Most) : count_t'(Head + Tail));
  assign busy = is_image && full_q;

  always_ff @(posedge clk_i) begin
    accept_o <= 1'b0;
    status_o <= 1'b0;
    reset_o <= 1'b0;
    refuse_o <= 1'b0;
    if (valid_i) begin
      crc_q <= crc_next;
      last_q <= {data_i, last_q[31:8]};
      if (count_q == count_t'(0)) kind_q <= data_i;
      if (count_q == count_t'(1)) tag_q <= data_i;
      if (count_q != count_t'(Most + 1)) count_q <= count_q + 1'b1;
      if (payload && !room_i) full_q <= 1'b1;
    end
    if (end_i) begin
      if (count_q != '0 || bad_i) begin
        tag_o <= count_q > count_t'(1) ? tag_q : '0;
        crc_o <= last_q;
        // what a damaged packet seems to be means nothing
        reasons_o <= bad_i ? 5'b00001 : crc_wrong ? 5'b00010 :
                     {busy && !length_wrong, kind_wrong, length_wrong && !kind_wrong, 2'b00};
        if (bad_i || crc_wrong || kind_wrong || length_wrong || busy) refuse_o <= 1'b1;
        else begin
          accept_o <= is_image;
          status_o <= kind_q == KindStatus;
          reset_o <= kind_q == KindReset;
        end
      end
    end
    if (!rst_ni || end_i) begin
      count_q <= '0;
      crc_q <= '1;
      full_q <= 1'b0;
    end
    if (!rst_ni) begin
      accept_o <= 1'b0;
      status_o <= 1'b0;
      reset_o <= 1'b0;
      refuse_o <= 1'b0;
    end
  end

endmodule
