// SPDX-License-Identifier: Apache-2.0

/// Stream FIFO for at least Depth beats with a registered output. One beat per cycle, latency 2.
/// s_axis_tready does not depend on the other port: the FIFO cuts both directions.
module axis_fifo #(
    parameter int unsigned DataBits = 8,  // bits of tdata, >= 1
    parameter int unsigned Depth = 2      // beats, >= 1
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

  // a single word could not be written and read in the same cycle
  localparam int unsigned Words = Depth < 2 ? 2 : Depth;
  localparam int unsigned AddrBits = $clog2(Words);
  localparam int unsigned Width = DataBits + 2;

  typedef logic [AddrBits-1:0] addr_t;
  typedef logic [AddrBits:0] count_t;

  logic [Width-1:0] mem[Words];
  logic [Width-1:0] out_q;
  addr_t wr_q, rd_q;
  count_t count_q;
  logic out_valid_q;
  logic wr, rd;

  assign s_axis_tready = count_q != count_t'(Words);
  assign wr = s_axis_tvalid && s_axis_tready;
  assign rd = count_q != '0 && (!out_valid_q || m_axis_tready);
  assign {m_axis_tuser, m_axis_tlast, m_axis_tdata} = out_q;
  assign m_axis_tvalid = out_valid_q;

  always_ff @(posedge clk_i) begin
    if (wr) mem[wr_q] <= {s_axis_tuser, s_axis_tlast, s_axis_tdata};
    if (rd) out_q <= mem[rd_q];
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      wr_q <= '0;
      rd_q <= '0;
      count_q <= '0;
      out_valid_q <= 1'b0;
    end else begin
      if (wr) wr_q <= wr_q == addr_t'(Words - 1) ? '0 : wr_q + 1'b1;
      if (rd) rd_q <= rd_q == addr_t'(Words - 1) ? '0 : rd_q + 1'b1;
      if (wr && !rd) count_q <= count_q + 1'b1;
      if (rd && !wr) count_q <= count_q - 1'b1;
      if (!out_valid_q || m_axis_tready) out_valid_q <= rd;
    end
  end

endmodule
