// SPDX-License-Identifier: Apache-2.0

/// Changes the lanes per beat; one of InLanes, OutLanes divides the other. The side with fewer lanes
/// moves one beat per cycle. Tokens are whole multiples of the wider beat.
module axis_width #(
    parameter int unsigned LaneBits = 8,  // bits per lane, >= 1
    parameter int unsigned InLanes = 1,   // lanes per input beat
    parameter int unsigned OutLanes = 2   // lanes per output beat
) (
    input  logic                         clk_i,
    input  logic                         rst_ni,
    input  logic [ InLanes*LaneBits-1:0] s_axis_tdata,
    input  logic                         s_axis_tvalid,
    output logic                         s_axis_tready,
    input  logic                         s_axis_tlast,
    input  logic                         s_axis_tuser,
    output logic [OutLanes*LaneBits-1:0] m_axis_tdata,
    output logic                         m_axis_tvalid,
    input  logic                         m_axis_tready,
    output logic                         m_axis_tlast,
    output logic                         m_axis_tuser
);

  localparam int unsigned InBits = InLanes * LaneBits;
  localparam int unsigned OutBits = OutLanes * LaneBits;

  if (InLanes % OutLanes != 0 && OutLanes % InLanes != 0) begin : gen_check
    $error("axis_width: neither lane count divides the other");
  end

  if (OutLanes > InLanes) begin : gen_up
    localparam int unsigned Ratio = OutLanes / InLanes;
    localparam int unsigned CountBits = $clog2(Ratio);

    logic [OutBits-InBits-1:0] part_q;  // the beats before the last one
    logic [OutBits-1:0] full;
    logic [CountBits-1:0] count_q;
    logic final_part;

    assign full = {s_axis_tdata, part_q};
    assign final_part = count_q == CountBits'(Ratio - 1);
    assign s_axis_tready = !final_part || !m_axis_tvalid || m_axis_tready;

    always_ff @(posedge clk_i) begin
      if (s_axis_tvalid && s_axis_tready) begin
        if (final_part) {m_axis_tuser, m_axis_tlast, m_axis_tdata} <=
            {s_axis_tuser, s_axis_tlast, full};
        else part_q <= full[OutBits-1:InBits];
      end
      if (!rst_ni) begin
        count_q <= '0;
        m_axis_tvalid <= 1'b0;
      end else begin
        if (m_axis_tready) m_axis_tvalid <= 1'b0;
        if (s_axis_tvalid && s_axis_tready) begin
          count_q <= final_part ? '0 : count_q + 1'b1;
          if (final_part) m_axis_tvalid <= 1'b1;
        end
      end
    end
  end else if (OutLanes < InLanes) begin : gen_down
    localparam int unsigned Ratio = InLanes / OutLanes;
    localparam int unsigned CountBits = $clog2(Ratio);

    logic [InBits-1:0] data_q;  // the next output beat in the low bits
    logic [CountBits-1:0] count_q;
    logic last_q, user_q, final_part;

    assign final_part = count_q == CountBits'(Ratio - 1);
    assign s_axis_tready = !m_axis_tvalid || (final_part && m_axis_tready);
    assign m_axis_tdata = data_q[OutBits-1:0];
    assign m_axis_tlast = last_q && final_part;
    assign m_axis_tuser = user_q && final_part;

    always_ff @(posedge clk_i) begin
      if (s_axis_tvalid && s_axis_tready) {user_q, last_q, data_q} <=
          {s_axis_tuser, s_axis_tlast, s_axis_tdata};
      else if (m_axis_tready) data_q <= data_q >> OutBits;
      if (!rst_ni) begin
        count_q <= '0;
        m_axis_tvalid <= 1'b0;
      end else begin
        if (s_axis_tready) m_axis_tvalid <= s_axis_tvalid;
        if (m_axis_tvalid && m_axis_tready) count_q <= final_part ? '0 : count_q + 1'b1;
      end
    end
  end else begin : gen_same
    logic unused;
    assign unused = ^{clk_i, rst_ni};
    assign m_axis_tdata = s_axis_tdata;
    assign m_axis_tvalid = s_axis_tvalid;
    assign m_axis_tlast = s_axis_tlast;
    assign m_axis_tuser = s_axis_tuser;
    assign s_axis_tready = m_axis_tready;
  end

endmodule
