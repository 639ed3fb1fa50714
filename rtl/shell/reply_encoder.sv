// SPDX-License-Identifier: Apache-2.0

/// Replies to the host as packets of bytes (docs/uart.md): kind, tag, payload, CRC-32. Requests that wait
/// for their reply while another one is sent are remembered, one of each kind; reasons add up.
module reply_encoder #(
    parameter int unsigned StatusBytes = 17  // payload of a status
) (
    input  logic                     clk_i,
    input  logic                     rst_ni,
    // requests, each valid for a cycle
    input  logic                     status_i,
    input  logic                     reset_i,
    input  logic                     refuse_i,
    input  logic [              7:0] tag_i,
    input  logic [              4:0] reasons_i,
    input  logic [StatusBytes*8-1:0] info_i,    // status, first byte low
    // a result: what to say of it, taken together with the last byte of the logits
    input  logic                     result_valid_i,
    output logic                     result_ready_o,
    input  logic [              7:0] result_tag_i,
    input  logic [             63:0] result_info_i,
    input  logic [              7:0] s_axis_tdata,
    input  logic                     s_axis_tvalid,
    output logic                     s_axis_tready,
    input  logic                     s_axis_tlast,
    // empties the accelerator
    output logic                     clear_o,
    output logic [              7:0] m_axis_tdata,
    output logic                     m_axis_tvalid,
    input  logic                     m_axis_tready,
    output logic                     m_axis_tlast
);

  localparam logic [7:0] KindResult = 8'h81;
  localparam logic [7:0] KindStatus = 8'h82;
  localparam logic [7:0] KindReset = 8'h83;
  localparam logic [7:0] KindRefused = 8'hFF;

  localparam int unsigned ClearCycles = 16;
  localparam int unsigned HeadBytes = 2 + StatusBytes;
  localparam int unsigned LeftBits = $clog2(HeadBytes > ClearCycles ? HeadBytes : ClearCycles);

  typedef logic [LeftBits-1:0] left_t;

  typedef enum logic [2:0] {
    Idle,
    Clear,
    Head,  // bytes of head_q
    Body,  // logits
    Check  // CRC-32
  } state_e;

  state_e state_d, state_q;
  left_t left_d, left_q;  // further bytes of this state, or cycles
  logic [HeadBytes*8-1:0] head_d, head_q;
  logic [31:0] crc_q, crc_next;
  logic body_q;
  logic status_q, reset_q, refuse_q;
  logic [7:0] status_tag_q, reset_tag_q, refuse_tag_q;
  logic [4:0] reasons_q;
  logic take_status, take_reset, take_refuse, take_result, sent;

  crc32 u_crc (
      .crc_i(crc_q),
      .data_i(m_axis_tdata),
      .crc_o(crc_next)
  );

  assign sent = m_axis_tvalid && m_axis_tready;
  assign clear_o = state_q == Clear;
  assign s_axis_tready = state_q == Body && m_axis_tready;
  assign result_ready_o = take_result;

  always_comb begin
    state_d = state_q;
    left_d = left_q;
    head_d = head_q;
    take_status = 1'b0;
    take_reset = 1'b0;
    take_refuse = 1'b0;
    take_result = 1'b0;
    m_axis_tvalid = 1'b0;
    m_axis_tlast = 1'b0;
    m_axis_tdata = head_q[7:0];
    unique case (state_q)
      Idle: begin
        state_d = Head;
        if (refuse_q) begin
          take_refuse = 1'b1;
          head_d[23:0] = {3'd0, reasons_q, refuse_tag_q, KindRefused};
          left_d = left_t'(2);
        end else if (reset_q) begin
          take_reset = 1'b1;
          head_d[15:0] = {reset_tag_q, KindReset};
          left_d = left_t'(ClearCycles - 1);
          state_d = Clear;
        end else if (status_q) begin
          take_status = 1'b1;
          head_d = {info_i, status_tag_q, KindStatus};
          left_d = left_t'(HeadBytes - 1);
        end else if (result_valid_i) begin
          take_result = 1'b1;
          head_d[79:0] = {result_info_i, result_tag_i, KindResult};
          left_d = left_t'(9);
        end else begin
          state_d = Idle;
        end
      end
      Clear: begin
        left_d = left_q - 1'b1;
        if (left_q == '0) begin
          state_d = Head;
          left_d = left_t'(1);
        end
      end
      Head: begin
        m_axis_tvalid = 1'b1;
        if (m_axis_tready) begin
          head_d = head_q >> 8;
          left_d = left_q - 1'b1;
          if (left_q == '0) begin
            state_d = body_q ? Body : Check;
            left_d = left_t'(3);
          end
        end
      end
      Body: begin
        m_axis_tvalid = s_axis_tvalid;
        m_axis_tdata = s_axis_tdata;
        if (s_axis_tvalid && m_axis_tready && s_axis_tlast) state_d = Check;
      end
      default: begin
        m_axis_tvalid = 1'b1;
        m_axis_tdata = ~crc_q[7:0];
        m_axis_tlast = left_q == '0;
        if (m_axis_tready) begin
          left_d = left_q - 1'b1;
          if (left_q == '0) state_d = Idle;
        end
      end
    endcase
  end

  always_ff @(posedge clk_i) begin
    left_q <= left_d;
    head_q <= head_d;
    if (state_q == Idle) begin
      crc_q <= '1;
      body_q <= take_result;
    end else if (sent) begin
      crc_q <= state_q == Check ? crc_q >> 8 : crc_next;
    end
    if (status_i) status_tag_q <= tag_i;
    if (reset_i) reset_tag_q <= tag_i;
    if (refuse_i) begin
      refuse_tag_q <= tag_i;
      reasons_q <= reasons_i | (refuse_q && !take_refuse ? reasons_q : '0);
    end
    if (!rst_ni) begin
      state_q <= Idle;
      status_q <= 1'b0;
      reset_q <= 1'b0;
      refuse_q <= 1'b0;
    end else begin
      state_q <= state_d;
      status_q <= status_i || (status_q && !take_status);
      reset_q <= reset_i || (reset_q && !take_reset);
      refuse_q <= refuse_i || (refuse_q && !take_refuse);
    end
  end

endmodule
