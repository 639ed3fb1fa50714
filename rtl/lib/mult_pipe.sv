// SPDX-License-Identifier: Apache-2.0

/// p_o = a_i * b_i, two cycles later: a signed times an unsigned integer, one product per cycle; in
/// as many DSP blocks as it takes, or in LUTs.
module mult_pipe #(
    parameter int unsigned ABits = 8,
    parameter int unsigned BBits = 8,
    parameter int unsigned Dsp = 0  // 1: in DSP blocks, 0: in LUTs
) (
    input  logic                          clk_i,
    input  logic signed [ABits-1:0]       a_i,
    input  logic        [BBits-1:0]       b_i,
    output logic signed [ABits+BBits-1:0] p_o
);

  localparam int unsigned Bits = ABits + BBits;

  if (Dsp != 0) begin : gen_dsp
    (* use_dsp = "yes" *) logic signed [Bits-1:0] product_q;
    logic signed [Bits-1:0] out_q;

    always_ff @(posedge clk_i) begin
      product_q <= a_i * signed'({1'b0, b_i});
      out_q <= product_q;
    end

    assign p_o = out_q;
  end else begin : gen_lut
    // rows of a booth_mult, four per cycle
    localparam int unsigned Short = (ABits < BBits + 1) ? ABits : BBits + 1;
    localparam int unsigned Latency = ((Short + 1) / 2 + 3) / 4;

    logic signed [Bits-1:0] product;

    booth_mult #(
        .ABits(ABits),
        .BBits(BBits + 1),
        .PBits(Bits)
    ) u_mult (
        .clk_i,
        .en_i(1'b1),
        .a_i,
        .b_i({1'b0, b_i}),
        .c_i(1'b0),
        .p_o(product)
    );

    if (Latency > 2) begin : gen_bad_width
      $error("mult_pipe: the shorter factor has more than 16 bits, the sign included");
    end else if (Latency == 2) begin : gen_two
      assign p_o = product;
    end else begin : gen_one
      logic signed [Bits-1:0] out_q;

      always_ff @(posedge clk_i) out_q <= product;

      assign p_o = out_q;
    end
  end

endmodule
