// SPDX-License-Identifier: Apache-2.0

/// s_o[k] = a_i[k] + b_i[k] + c_i[k]: adders of three operands.
///
/// Where LUTs can add three operands at once, rtl/xilinx/add3.sv takes its place: a tool need not find that.
module add3 #(
    parameter int unsigned Count = 1,
    parameter int unsigned InBits = 8,
    parameter int unsigned OutBits = 10  // InBits to InBits + 2: enough for the sums
) (
    input  logic signed [ InBits-1:0] a_i[Count],
    input  logic signed [ InBits-1:0] b_i[Count],
    input  logic signed [ InBits-1:0] c_i[Count],
    output logic signed [OutBits-1:0] s_o[Count]
);

  localparam int unsigned PairBits = InBits < OutBits ? InBits + 1 : InBits;

  // spelt out, or open synthesis makes a carry-save adder and another one of it
  always_comb begin
    for (int unsigned k = 0; k < Count; k++) begin
      logic signed [PairBits-1:0] pair;
      pair = PairBits'(a_i[k]) + PairBits'(b_i[k]);
      s_o[k] = OutBits'($signed({pair[PairBits-1], pair})) + OutBits'(c_i[k]);
    end
  end

endmodule
