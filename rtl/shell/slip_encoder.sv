// SPDX-License-Identifier: Apache-2.0

/// Packets of bytes (tlast) -> characters of a serial line, as in RFC 1055 (SLIP), with an END before
/// each packet as well: it ends what noise has begun.
module slip_encoder (
    input  logic       clk_i,
    input  logic       rst_ni,
    input  logic [7:0] s_axis_tdata,
    input  logic       s_axis_tvalid,
    output logic       s_axis_tready,
    input  logic       s_axis_tlast,
    output logic [7:0] m_axis_tdata,
    output logic       m_axis_tvalid,
    input  logic       m_axis_tready
);

  localparam logic [7:0] End = 8'hC0;
  localparam logic [7:0] Esc = 8'hDB;
  localparam logic [7:0] EscEnd = 8'hDC;
  localparam logic [7:0] EscEsc = 8'hDD;

  typedef enum logic [1:0] {
    Begin,   // END before the packet
    Byte,    // the byte, or the ESC before it
    Second,  // what follows ESC
    Finish   // END behind the packet
  } state_e;

  state_e state_d, state_q;
  logic special;

  assign special = s_axis_tdata == End || s_axis_tdata == Esc;

  always_comb begin
    state_d = state_q;
    s_axis_tready = 1'b0;
    m_axis_tvalid = s_axis_tvalid;
    m_axis_tdata = End;
    unique case (state_q)
      Begin: if (m_axis_tvalid && m_axis_tready) state_d = Byte;
      Byte: begin
        m_axis_tdata = special ? Esc : s_axis_tdata;
        s_axis_tready = m_axis_tready && !special;
        if (m_axis_tvalid && m_axis_tready) begin
          if (special) state_d = Second;
          else if (s_axis_tlast) state_d = Finish;
        end
      end
      Second: begin
        m_axis_tdata = s_axis_tdata == End ? EscEnd : EscEsc;
        s_axis_tready = m_axis_tready;
        if (m_axis_tvalid && m_axis_tready) state_d = s_axis_tlast ? Finish : Byte;
      end
      default: begin
        m_axis_tvalid = 1'b1;
        if (m_axis_tready) state_d = Begin;
      end
    endcase
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) state_q <= Begin;
    else state_q <= state_d;
  end

endmodule
