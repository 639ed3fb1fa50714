// SPDX-License-Identifier: Apache-2.0

/// y[0] = saturate(round_shift(pos[0], Shift)), y[t] = saturate(round_shift(x[t-1] + pos[t], Shift)):
/// one token more leaves than came. One beat per cycle, latency 4, with a shift 5; the first token
/// leaves when the frame arrives.
module pos_embed #(
    parameter int unsigned MaxTokens = 1,  // tokens of an input frame
    parameter int unsigned Channels = 4,
    parameter int unsigned Simd = 2,       // divides Channels
    parameter int unsigned InBits = 12,
    parameter bit InSigned = 1,
    parameter int unsigned PosBits = 12,
    parameter bit PosSigned = 1,
    parameter int unsigned OutBits = 12,
    parameter bit OutSigned = 1,
    parameter int unsigned Shift = 0,
    parameter bit HalfUp = 0,              // ties upwards instead of to even
    parameter PosFile = ""                 // a line per beat: MaxTokens + 1 tokens
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

  localparam int unsigned Beats = Channels / Simd;
  localparam int unsigned Words = (MaxTokens + 1) * Beats;
  localparam int unsigned AddrBits = $clog2(Words);
  localparam int unsigned SumBits = (InBits > PosBits ? InBits : PosBits) + 2;
  localparam int unsigned Stages = Shift == 0 ? 2 : 3;

  typedef logic [AddrBits-1:0] addr_t;

  logic [Simd*PosBits-1:0] rom[Words];
  addr_t addr_q, addr_copy_q;  // the copy keeps the increment out of the ROM's logic
  logic front_q;  // the token in front of the frame leaves
  logic en, beat, out_valid_q, out_last_q, out_user_q;
  // the beat beside the copy, beside its position, with a shift its sum
  logic [Stages-1:0] valid_q, last_q, user_q;
  logic [Simd*InBits-1:0] in_q, x_q;
  logic [Simd*PosBits-1:0] pos_q;
  logic signed [SumBits-1:0] sum[Simd], total[Simd];
  logic [Simd*OutBits-1:0] out_q;

  initial if (PosFile != "") $readmemh(PosFile, rom);

  assign s_axis_tready = en && !front_q;
  assign beat = en && s_axis_tvalid;

  always_comb begin
    for (int unsigned i = 0; i < Simd; i++) begin
      sum[i] = SumBits'($signed({InSigned & x_q[i*InBits+InBits-1], x_q[i*InBits+:InBits]})) +
          SumBits'($signed({PosSigned & pos_q[i*PosBits+PosBits-1], pos_q[i*PosBits+:PosBits]}));
    end
  end

  // rounding is a second carry chain
  if (Shift == 0) begin : gen_sum
    assign total = sum;
  end else begin : gen_rounded
    always_ff @(posedge clk_i) if (en) total <= sum;
  end

  always_ff @(posedge clk_i) begin
    if (en) begin
      addr_copy_q <= addr_q;
      in_q <= front_q ? '0 : s_axis_tdata;
      last_q <= {last_q[Stages-2:0], s_axis_tlast && !front_q};
      user_q <= {user_q[Stages-2:0], s_axis_tuser && !front_q};
      pos_q <= rom[addr_copy_q];
      x_q <= in_q;
      for (int unsigned i = 0; i < Simd; i++) begin
        out_q[i*OutBits+:OutBits] <= OutBits'(num_pkg::saturate(
            num_pkg::round_shift(64'(total[i]), int'(Shift), HalfUp), int'(OutBits), OutSigned));
      end
      {out_last_q, out_user_q} <= {last_q[Stages-1], user_q[Stages-1]};
    end
    if (!rst_ni) begin
      {out_valid_q, valid_q} <= '0;
      addr_q <= '0;
      front_q <= 1'b1;
    end else if (en) begin
      {out_valid_q, valid_q} <= {valid_q, s_axis_tvalid};
      if (beat) begin
        if (front_q) begin
          addr_q <= addr_q + 1'b1;
          if (addr_q == addr_t'(Beats - 1)) front_q <= 1'b0;
        end else if (s_axis_tlast) begin
          addr_q  <= '0;
          front_q <= 1'b1;
        end else begin
          addr_q <= addr_q + 1'b1;
        end
      end
    end
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
