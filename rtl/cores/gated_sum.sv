// SPDX-License-Identifier: Apache-2.0

/// y = sum_c a[c] * b[c], exact, one channel per token. Frames end together; tuser is that of a.
/// One beat per cycle; y leaves Latency + 3 cycles after the token's last beat.
module gated_sum #(
    parameter int unsigned MaxTokens = 1,  // tokens of a frame, any number works
    parameter int unsigned Channels = 4,
    parameter int unsigned Simd = 2,       // divides Channels
    parameter int unsigned ABits = 8,
    parameter bit ASigned = 1,
    parameter int unsigned BBits = 8,
    parameter bit BSigned = 0,
    parameter int unsigned OutBits = 20,   // holds the sum
    parameter bit OutSigned = 1,           // without effect: the sum is exact
    parameter bit MultDsp = 0              // multipliers in DSP blocks
) (
    input  logic                  clk_i,
    input  logic                  rst_ni,
    input  logic [Simd*ABits-1:0] s_axis_a_tdata,
    input  logic                  s_axis_a_tvalid,
    output logic                  s_axis_a_tready,
    input  logic                  s_axis_a_tlast,
    input  logic                  s_axis_a_tuser,
    input  logic [Simd*BBits-1:0] s_axis_b_tdata,
    input  logic                  s_axis_b_tvalid,
    output logic                  s_axis_b_tready,
    input  logic                  s_axis_b_tlast,
    input  logic                  s_axis_b_tuser,
    output logic [   OutBits-1:0] m_axis_tdata,
    output logic                  m_axis_tvalid,
    input  logic                  m_axis_tready,
    output logic                  m_axis_tlast,
    output logic                  m_axis_tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned Beats = Channels / Simd;
  localparam int unsigned CountBits = $clog2(Beats + 1);
  localparam int unsigned AWide = ABits + (ASigned ? 0 : 1);
  localparam int unsigned BWide = BBits + (BSigned ? 0 : 1);
  localparam int unsigned ProductBits = AWide + BWide;
  // Cycles of the booth_mult: four rows of two bits each per cycle.
  localparam int unsigned RowsA = (AWide + 1) / 2;
  localparam int unsigned RowsB = (BWide + 1) / 2;
  localparam int unsigned Rows = (RowsA * (BWide + 2) < RowsB * (AWide + 2)) ? RowsA : RowsB;
  localparam int unsigned Latency = (Rows + 3) / 4;

  typedef logic [CountBits-1:0] count_t;

  count_t count_q;
  logic [Simd*ABits-1:0] a;
  logic [Simd*BBits-1:0] b;
  logic en, valid, last, user, unused;
  logic signed [ProductBits-1:0] product[Simd];
  logic signed [OutBits-1:0] sum_q, acc_q, sum;
  // per stage (products, sum, accumulator): a beat is there, first and last of its token, tlast, tuser
  logic [Latency+1:0] valid_q, last_q, frame_q, user_q;
  logic [Latency:0] first_q;

  assign unused = ^{s_axis_b_tlast, s_axis_b_tuser, MaxTokens, OutSigned};

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

  always_comb begin
    sum = '0;
    for (int unsigned i = 0; i < Simd; i++) sum = sum + OutBits'(product[i]);
  end

  always_ff @(posedge clk_i) begin
    if (en) begin
      sum_q <= sum;
      if (valid_q[Latency]) acc_q <= sum_q + (first_q[Latency] ? '0 : acc_q);
      first_q <= {first_q[Latency-1:0], count_q == '0};
      last_q  <= {last_q[Latency:0], count_q == count_t'(Beats - 1)};
      frame_q <= {frame_q[Latency:0], last};
      user_q  <= {user_q[Latency:0], user && last};
    end
    if (!rst_ni) begin
      count_q <= '0;
      valid_q <= '0;
    end else if (en) begin
      valid_q <= {valid_q[Latency:0], valid};
      if (valid) count_q <= count_q == count_t'(Beats - 1) ? '0 : count_q + 1'b1;
    end
  end

  for (genvar l = 0; l < Simd; l++) begin : gen_lane
    booth_mult #(
        .ABits(AWide),
        .BBits(BWide),
        .Dsp  (32'(MultDsp))
    ) u_mult (
        .clk_i,
        .en_i(en),
        .a_i (AWide'($signed({ASigned & a[l*ABits+ABits-1], a[l*ABits+:ABits]}))),
        .b_i (BWide'($signed({BSigned & b[l*BBits+BBits-1], b[l*BBits+:BBits]}))),
        .c_i ('0),
        .p_o (product[l])
    );
  end

  skid_buffer #(
      .DataBits(OutBits)
  ) u_out (
      .clk_i,
      .rst_ni,
      .s_axis_tdata (acc_q),
      .s_axis_tvalid(valid_q[Latency+1] && last_q[Latency+1]),
      .s_axis_tready(en),
      .s_axis_tlast (frame_q[Latency+1]),
      .s_axis_tuser (user_q[Latency+1]),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );

endmodule
