// SPDX-License-Identifier: Apache-2.0

/// s_o[k] = a_i[k] + b_i[k] + c_i[k]: adders of three operands.
///
/// AMD devices from Virtex-5 on add three operands with one LUT per bit (US patent 7,274,211): it gives
/// the sum bit and, to the next place, the carry of three bits, and its carry chain adds both up. A vendor
/// tool finds that; open synthesis takes rtl/xilinx/add3.sv instead, with the same ports (rtl/synth.py).
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

  always_comb begin
    for (int unsigned k = 0; k < Count; k++) begin
      s_o[k] = OutBits'(a_i[k]) + OutBits'(b_i[k]) + OutBits'(c_i[k]);
    end
  end

endmodule
