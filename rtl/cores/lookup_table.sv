// SPDX-License-Identifier: Apache-2.0

/// y = T[clamp((x + Offset) >> Shift, 0, Entries - 1)] for every channel.
/// One beat per cycle, latency 3.
///
/// With Sets > 1 each frame has the table, the offset and the shift of the set that its beat of
/// s_axis_set names; Offset and Shift are those of the greatest magnitude. The beat goes with the last
/// one of the frame.
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
    parameter int unsigned Sets = 1,       // 1 to 64
    parameter TableFile = "",              // an entry per line; set s from line s * 2^clog2(Entries) on
    parameter SettingsFile = ""            // of every set: shift, 6 bits, offset, 32 bits
) (
    input  logic                    clk_i,
    input  logic                    rst_ni,
    input  logic [ Simd*InBits-1:0] s_axis_tdata,
    input  logic                    s_axis_tvalid,
    output logic                    s_axis_tready,
    input  logic                    s_axis_tlast,
    input  logic                    s_axis_tuser,
    input  logic [(Sets > 1 ? $clog2(Sets) : 1)-1:0] s_axis_set_tdata,
    input  logic                    s_axis_set_tvalid,
    output logic                    s_axis_set_tready,
    input  logic                    s_axis_set_tlast,
    input  logic                    s_axis_set_tuser,
    output logic [Simd*OutBits-1:0] m_axis_tdata,
    output logic                    m_axis_tvalid,
    input  logic                    m_axis_tready,
    output logic                    m_axis_tlast,
    output logic                    m_axis_tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned IndexBits = $clog2(Entries);
  localparam int unsigned SetBits = Sets > 1 ? $clog2(Sets) : 0;
  localparam int unsigned AddrBits = SetBits + IndexBits;
  localparam int unsigned Words = ((Sets - 1) << IndexBits) + Entries;
  // of x + Offset
  localparam int unsigned OffsetBits = $clog2((Offset < 0 ? -64'(Offset) : 64'(Offset)) + 1) + 1;
  localparam int unsigned SumBits = (OffsetBits > InBits + 1 ? OffsetBits : InBits + 1) + 1;
  localparam int unsigned ShiftBits = Shift > 0 ? $clog2(Shift + 1) : 1;

  logic [Simd*OutBits-1:0] out_q;
  logic en, valid, index_valid_q, index_last_q, index_user_q, out_valid_q, out_last_q, out_user_q;
  logic signed [OffsetBits-1:0] offset;
  logic [ShiftBits-1:0] shift;
  logic [(Sets > 1 ? SetBits : 1)-1:0] set_q;  // beside the index
  logic unused;

  assign unused = ^{MaxTokens, Channels, OutSigned, s_axis_set_tlast, s_axis_set_tuser};

  function automatic logic [IndexBits-1:0] index_of(
      logic [InBits-1:0] x, logic signed [OffsetBits-1:0] more, logic [ShiftBits-1:0] down);
    logic signed [SumBits-1:0] index;
    index = (SumBits'($signed({InSigned & x[InBits-1], x})) + SumBits'(more)) >>> down;
    if (index < 0) index_of = '0;
    else if (64'(index) > 64'(Entries - 1)) index_of = IndexBits'(Entries - 1);
    else index_of = IndexBits'(index);
  endfunction

  if (Sets > 1) begin : gen_sets
    logic [37:0] settings_rom[Sets];
    logic [37:0] word;
    logic unused_bits;

    // without a file it can be elaborated; no bench simulates that
    // verilator coverage_off
    initial if (SettingsFile != "") $readmemh(SettingsFile, settings_rom);
    // verilator coverage_on

    assign word = settings_rom[s_axis_set_tdata];
    assign offset = OffsetBits'(word[31:0]);
    assign shift = ShiftBits'(word[37:32]);
    assign unused_bits = ^word;
    assign valid = s_axis_tvalid && s_axis_set_tvalid;
    assign s_axis_tready = en && s_axis_set_tvalid;
    assign s_axis_set_tready = en && s_axis_tvalid && s_axis_tlast;

    always_ff @(posedge clk_i) if (en) set_q <= s_axis_set_tdata;
  end else begin : gen_one
    logic unused_set;

    assign unused_set = ^{s_axis_set_tdata, s_axis_set_tvalid};
    assign offset = OffsetBits'(Offset);
    assign shift = ShiftBits'(Shift);
    assign valid = s_axis_tvalid;
    assign s_axis_tready = en;
    assign s_axis_set_tready = 1'b1;
    assign set_q = '0;
  end

  // A ROM per lane: that is what becomes of one with many ports, and yosys runs out of memory over it.
  for (genvar l = 0; l < Simd; l++) begin : gen_lane
    logic [OutBits-1:0] rom[Words];
    logic [IndexBits-1:0] index_q;

    initial if (TableFile != "") $readmemh(TableFile, rom);

    always_ff @(posedge clk_i) begin
      if (en) begin
        index_q <= index_of(s_axis_tdata[l*InBits+:InBits], offset, shift);
        out_q[l*OutBits+:OutBits] <= rom[AddrBits'({set_q, index_q})];
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (en) begin
      {index_last_q, index_user_q} <= {s_axis_tlast, s_axis_tuser};
      {out_last_q, out_user_q} <= {index_last_q, index_user_q};
    end
    if (!rst_ni) {index_valid_q, out_valid_q} <= '0;
    else if (en) {index_valid_q, out_valid_q} <= {valid, index_valid_q};
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
