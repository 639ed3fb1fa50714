// SPDX-License-Identifier: Apache-2.0

/// y = T[clamp((x + Offset) >> Shift, 0, Entries - 1)] for every channel.
/// One beat per cycle, latency 3.
module lookup_table #(
    parameter int unsigned MaxTokens = 1,  // tokens of a frame, any number works
    parameter int unsigned Channels = 4,
    parameter int unsigned Simd = 2,       // divides Channels
    parameter int unsigned InBits = 8,
    parameter bit InSigned = 1,
    parameter int unsigned OutBits = 8,
    parameter bit OutSigned = 0,           // the table holds the bit patterns
    parameter int Offset = 128,            // added before the shift
    parameter int unsigned Shift = 0,
    parameter int unsigned Entries = 256,  // >= 2
    parameter TableFile = ""               // an entry per line
) (
    input  logic                    clk_i,
    input  logic                    rst_ni,
    input  logic [ Simd*InBits-1:0] s_axis_tdata,
    input  logic                    s_axis_tvalid,
    output logic                    s_axis_tready,
    input  logic                    s_axis_tlast,
    input  logic                    s_axis_tuser,
    output logic [Simd*OutBits-1:0] m_axis_tdata,
    output logic                    m_axis_tvalid,
    input  logic                    m_axis_tready,
    output logic                    m_axis_tlast,
    output logic                    m_axis_tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned IndexBits = $clog2(Entries);

  logic [Simd*OutBits-1:0] out_q;
  logic en, index_valid_q, index_last_q, index_user_q, out_valid_q, out_last_q, out_user_q;
  logic unused;

  assign unused = ^{MaxTokens, Channels, OutSigned};

  function automatic logic [IndexBits-1:0] index_of(logic [InBits-1:0] x);
    logic signed [63:0] index;
    index = (64'($signed({InSigned & x[InBits-1], x})) + 64'(Offset)) >>> Shift;
    if (index < 64'sd0) index_of = '0;
    else if (index > 64'(Entries - 1)) index_of = IndexBits'(Entries - 1);
    else index_of = IndexBits'(index);
  endfunction

  assign s_axis_tready = en;

  // A ROM per lane: that is what becomes of one with many ports, and yosys runs out of memory over it.
  for (genvar l = 0; l < Simd; l++) begin : gen_lane
    logic [OutBits-1:0] rom[Entries];
    logic [IndexBits-1:0] index_q;

    initial if (TableFile != "") $readmemh(TableFile, rom);

    always_ff @(posedge clk_i) begin
      if (en) begin
        index_q <= index_of(s_axis_tdata[l*InBits+:InBits]);
        out_q[l*OutBits+:OutBits] <= rom[index_q];
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (en) begin
      {index_last_q, index_user_q} <= {s_axis_tlast, s_axis_tuser};
      {out_last_q, out_user_q} <= {index_last_q, index_user_q};
    end
    if (!rst_ni) {index_valid_q, out_valid_q} <= '0;
    else if (en) {index_valid_q, out_valid_q} <= {s_axis_tvalid, index_valid_q};
  end

  skid_buffer #(
      .DataBits(Simd * OutBits)
  ) u_out (
      .clk_i,
      .rst_ni,
      .s_axis_tdata (out_q),
      .s_axis_tvalid(out_valid_q),
      .s_axis_tready(en),
      .s_axis_tlast (out_last_q),
      .s_axis_tuser (out_user_q && out_last_q),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );

endmodule
