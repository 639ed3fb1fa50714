// SPDX-License-Identifier: Apache-2.0

/// Token 0 of every frame goes on as a frame of its own, the others are swallowed.
/// One beat per cycle, latency 1.
module first_token #(
    parameter int unsigned MaxTokens = 1,  // tokens of a frame, any number works
    parameter int unsigned Channels = 4,
    parameter int unsigned Simd = 2,       // divides Channels
    parameter int unsigned InBits = 12,
    parameter bit InSigned = 1             // without effect: values pass unchanged
) (
    input  logic                   clk_i,
    input  logic                   rst_ni,
    input  logic [Simd*InBits-1:0] s_axis_tdata,
    input  logic                   s_axis_tvalid,
    output logic                   s_axis_tready,
    input  logic                   s_axis_tlast,
    input  logic                   s_axis_tuser,
    output logic [Simd*InBits-1:0] m_axis_tdata,
    output logic                   m_axis_tvalid,
    input  logic                   m_axis_tready,
    output logic                   m_axis_tlast,
    output logic                   m_axis_tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned Beats = Channels / Simd;
  localparam int unsigned CountBits = $clog2(Beats + 1);

  typedef logic [CountBits-1:0] count_t;

  count_t count_q;  // beats of the first token that have passed
  logic first, ready, unused;

  assign unused = ^{MaxTokens, InSigned, s_axis_tuser};
  assign first = count_q != count_t'(Beats);
  assign s_axis_tready = ready || !first;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) count_q <= '0;
    else if (s_axis_tvalid && s_axis_tready) begin
      if (s_axis_tlast) count_q <= '0;
      else if (first) count_q <= count_q + 1'b1;
    end
  end

  skid_buffer #(
      .DataBits(Simd * InBits)
  ) u_out (
      .clk_i,
      .rst_ni,
      .s_axis_tdata,
      .s_axis_tvalid(s_axis_tvalid && first),
      .s_axis_tready(ready),
      .s_axis_tlast (count_q == count_t'(Beats - 1)),
      .s_axis_tuser (1'b0),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );

endmodule
