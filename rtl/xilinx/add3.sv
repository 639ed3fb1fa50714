// SPDX-License-Identifier: Apache-2.0

/// rtl/lib/add3.sv in primitives of AMD's UltraScale+ and 7 series: one LUT6_2 per bit (US patent 7,274,211).
/// O5 is the carry of three bits, which counts one place higher; O6 says whether the sum of three bits
/// and the carry from below differ, so that the chain adds them up.
module add3 #(
    parameter int unsigned Count = 1,
    parameter int unsigned InBits = 8,
    parameter int unsigned OutBits = 10
) (
    input  logic signed [ InBits-1:0] a_i[Count],
    input  logic signed [ InBits-1:0] b_i[Count],
    input  logic signed [ InBits-1:0] c_i[Count],
    output logic signed [OutBits-1:0] s_o[Count]
);

  localparam int unsigned Chains = (OutBits + 3) / 4;  // CARRY4 of an adder

  for (genvar k = 0; k < Count; k++) begin : gen_adder
    logic [OutBits-1:0] a, b, c;
    logic [4*Chains-1:0] differ, carry;  // carry: of the three bits one place below
    /* verilator lint_off UNUSEDSIGNAL */
    logic [4*Chains-1:0] sum, chain;  // of the chain the last bit of a block goes on
    /* verilator lint_on UNUSEDSIGNAL */

    assign a = OutBits'(a_i[k]);
    assign b = OutBits'(b_i[k]);
    assign c = OutBits'(c_i[k]);
    assign s_o[k] = sum[OutBits-1:0];
    assign carry[0] = 1'b0;

    for (genvar i = 0; i < 4 * Chains; i++) begin : gen_bit
      if (i < OutBits) begin : gen_lut
        /* verilator lint_off UNUSEDSIGNAL */
        logic carry_out;  // that of the highest bit goes nowhere
        /* verilator lint_on UNUSEDSIGNAL */

        // I3 ^ I2 ^ I1 ^ I0, majority of I2, I1, I0
        LUT6_2 #(
            .INIT(64'h6996_6996_e8e8_e8e8)
        ) u_lut (
            .I0(a[i]),
            .I1(b[i]),
            .I2(c[i]),
            .I3(carry[i]),
            .I4(1'b0),
            .I5(1'b1),
            .O5(carry_out),
            .O6(differ[i])
        );
        if (i + 1 < 4 * Chains) begin : gen_next
          assign carry[i+1] = carry_out;
        end
      end else begin : gen_unused
        assign differ[i] = 1'b0;
        if (i > OutBits) begin : gen_no_carry
          assign carry[i] = 1'b0;
        end
      end
    end

    for (genvar i = 0; i < Chains; i++) begin : gen_chain
      CARRY4 u_carry (
          .CI(i > 0 ? chain[(i > 0 ? 4 * i - 1 : 0)] : 1'b0),
          .CYINIT(1'b0),
          .DI(carry[4*i+:4]),
          .S(differ[4*i+:4]),
          .O(sum[4*i+:4]),
          .CO(chain[4*i+:4])
      );
    end
  end

endmodule
