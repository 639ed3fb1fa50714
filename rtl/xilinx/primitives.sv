// SPDX-License-Identifier: Apache-2.0

/// Ports of the primitives of AMD devices that a tool does not know before it synthesises.
/* verilator lint_off UNUSEDSIGNAL */
/* verilator lint_off UNUSEDPARAM */
/* verilator lint_off UNDRIVEN */
(* blackbox *)
module LUT6_2 #(
    parameter logic [63:0] INIT = '0
) (
    input  logic I0,
    input  logic I1,
    input  logic I2,
    input  logic I3,
    input  logic I4,
    input  logic I5,
    output logic O5,
    output logic O6
);
endmodule

(* blackbox *)
module CARRY4 (
    input  logic       CI,
    input  logic       CYINIT,
    input  logic [3:0] DI,
    input  logic [3:0] S,
    output logic [3:0] O,
    output logic [3:0] CO
);
endmodule
