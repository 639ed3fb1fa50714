// SPDX-License-Identifier: Apache-2.0

/// y = saturate(round_shift((a << AShift) + (b << BShift), Shift)) for every channel. Frames end together;
/// tuser is that of a. One beat per cycle, latency 3.
module residual_add #(
    parameter int unsigned MaxTokens = 1,   // tokens of a frame, any number works
    parameter int unsigned Channels = 4,
    parameter int unsigned Simd = 2,        // divides Channels
    parameter int unsigned ABits = 12,
    parameter bit ASigned = 1,
    parameter int unsigned BBits = 12,
    parameter bit BSigned = 1,
    parameter int unsigned OutBits = 12,
    parameter bit OutSigned = 1,
    parameter int unsigned AShift = 0,
    parameter int unsigned BShift = 0,
    parameter int Shift = 0,                // negative: left shift
    parameter bit HalfUp = 0                // ties upwards instead of to even
) (
    input  logic                    clk_i,
    input  logic                    rst_ni,
    input  logic [  Simd*ABits-1:0] s_axis_a_tdata,
    input  logic                    s_axis_a_tvalid,
    output logic                    s_axis_a_tready,
    input  logic                    s_axis_a_tlast,
    input  logic                    s_axis_a_tuser,
    input  logic [  Simd*BBits-1:0] s_axis_b_tdata,
    input  logic                    s_axis_b_tvalid,
    output logic                    s_axis_b_tready,
    input  logic                    s_axis_b_tlast,
    input  logic                    s_axis_b_tuser,
    output logic [Simd*OutBits-1:0] m_axis_tdata,
    output logic                    m_axis_tvalid,
    input  logic                    m_axis_tready,
    output logic                    m_axis_tlast,
    output logic                    m_axis_tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned AWide = ABits + AShift;
  localparam int unsigned BWide = BBits + BShift;
  localparam int unsigned SumBits = (AWide > BWide ? AWide : BWide) + 2;

  logic [Simd*ABits-1:0] a;
  logic [Simd*BBits-1:0] b;
  logic valid, last, user;
  logic en, sum_valid_q, sum_last_q, sum_user_q, out_valid_q, out_last_q, out_user_q;
  logic signed [SumBits-1:0] sum_q[Simd];
  logic [Simd*OutBits-1:0] out_q;
  logic unused;

  // b repeats what a says about the frame
  assign unused = ^{s_axis_b_tlast, s_axis_b_tuser, MaxTokens, Channels};

  axis_join #(
      .ABits(Simd * ABits),
      .BBits(Simd * BBits)
  ) u_join (
      .s_axis_a_tdata,
      .s_axis_a_tvalid,
      .s_axis_a_tready,
      .s_axis_a_tlast,
      .s_axis_a_tuser,
      .s_axis_b_tdata,
      .s_axis_b_tvalid,
      .s_axis_b_tready,
      .m_axis_tdata ({b, a}),
      .m_axis_tvalid(valid),
      .m_axis_tready(en),
      .m_axis_tlast (last),
      .m_axis_tuser (user)
  );

  always_ff @(posedge clk_i) begin
    if (en) begin
      for (int unsigned i = 0; i < Simd; i++) begin
        sum_q[i] <=
            (SumBits'($signed({ASigned & a[i*ABits+ABits-1], a[i*ABits+:ABits]})) <<< AShift) +
            (SumBits'($signed({BSigned & b[i*BBits+BBits-1], b[i*BBits+:BBits]})) <<< BShift);
        out_q[i*OutBits+:OutBits] <= OutBits'(num_pkg::saturate(
            num_pkg::round_shift(64'(sum_q[i]), Shift, HalfUp), int'(OutBits), OutSigned));
      end
      {sum_last_q, sum_user_q} <= {last, user};
      {out_last_q, out_user_q} <= {sum_last_q, sum_user_q};
    end
    if (!rst_ni) {sum_valid_q, out_valid_q} <= '0;
    else if (en) {sum_valid_q, out_valid_q} <= {valid, sum_valid_q};
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
