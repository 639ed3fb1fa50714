// SPDX-License-Identifier: Apache-2.0

/// Operands for DSP blocks at twice the clock whose inputs are chosen: the multiplexers run with clk2x_i, too, so
/// that outputs 2o and 2o + 1 share not only the blocks but also what chooses their inputs.
///
/// Term j of output p multiplies weight_i[p][j] with slot index_i[p][j] of its token; it is that of block j % Length
/// of a chain. Indices and weights stand at the ports for a cycle, the slots in the cycle after it, in which the
/// first output's choice takes the first half and the second one's the second half:
///
///   end of the cycle, half a cycle later   weight and index of 2o, of 2o + 1
///   half a cycle after these               what they choose
///   and half a cycle more                  odd blocks alone: they take a step half a cycle after even ones
///
/// x_o and weight_o are for the input registers of the blocks. Those of blocks 2k and 2k + 1 of a chain come from
/// what stands at the ports k cycles after that of block 0.
module select_2x #(
    parameter int unsigned Shares = 1,    // tokens, or groups of them, side by side
    parameter int unsigned Pairs = 1,     // of outputs
    parameter int unsigned Terms = 1,     // of an output
    parameter int unsigned Length = 1,    // blocks of a chain, divides Terms
    parameter int unsigned Slots = 2,     // that a term chooses from
    parameter int unsigned SlotBits = 1,
    parameter int unsigned WeightBits = 1
) (
    input  logic                     clk_i,
    input  logic                     clk2x_i,
    input  logic                     en_i,
    input  logic                     late_i,   // of clock_halves
    input  logic                     en2x_i,
    input  logic [     SlotBits-1:0] slot_i  [Shares*Terms*Slots],
    input  logic [$clog2(Slots)-1:0] index_i [2*Pairs*Terms],
    input  logic [   WeightBits-1:0] weight_i[2*Pairs*Terms],
    output logic [     SlotBits-1:0] x_o     [Shares*Pairs*Terms],
    output logic [   WeightBits-1:0] weight_o[Pairs*Terms]
);

  localparam int unsigned IndexBits = $clog2(Slots);
  localparam int unsigned Odds = Terms / Length * (Length / 2);  // terms of an output in odd blocks

  // of second outputs, a cycle later; of both in turn; the weights beside what their indices choose
  logic [IndexBits-1:0] second_index_d[Pairs*Terms], second_index_q[Pairs*Terms];
  logic [IndexBits-1:0] index_d[Pairs*Terms], index_q[Pairs*Terms];
  logic [WeightBits-1:0] second_weight_d[Pairs*Terms], second_weight_q[Pairs*Terms];
  logic [WeightBits-1:0] weight_d[Pairs*Terms], weight_q[Pairs*Terms], chosen_weight_q[Pairs*Terms];
  logic [SlotBits-1:0] chosen_d[Shares*Pairs*Terms], chosen_q[Shares*Pairs*Terms];

  always_comb begin
    for (int unsigned o = 0; o < Pairs; o++) begin
      for (int unsigned j = 0; j < Terms; j++) begin
        second_index_d[o*Terms+j] = index_i[(2*o+1)*Terms+j];
        second_weight_d[o*Terms+j] = weight_i[(2*o+1)*Terms+j];
        index_d[o*Terms+j] = late_i ? index_i[2*o*Terms+j] : second_index_q[o*Terms+j];
        weight_d[o*Terms+j] = late_i ? weight_i[2*o*Terms+j] : second_weight_q[o*Terms+j];
      end
    end
  end

  always_comb begin
    for (int unsigned q = 0; q < Shares; q++) begin
      for (int unsigned j = 0; j < Terms; j++) begin
        logic [SlotBits-1:0] slot[Slots];
        for (int unsigned k = 0; k < Slots; k++) slot[k] = slot_i[(q*Terms+j)*Slots+k];
        for (int unsigned o = 0; o < Pairs; o++) begin
          chosen_d[(q*Pairs+o)*Terms+j] = slot[index_q[o*Terms+j]];
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (en_i) begin
      second_index_q  <= second_index_d;
      second_weight_q <= second_weight_d;
    end
  end

  always_ff @(posedge clk2x_i) begin
    if (en2x_i) begin
      index_q <= index_d;
      weight_q <= weight_d;
      chosen_q <= chosen_d;
      chosen_weight_q <= weight_q;
    end
  end

  if (Odds == 0) begin : gen_even
    assign x_o = chosen_q;
    assign weight_o = chosen_weight_q;
  end else begin : gen_odd
    logic [SlotBits-1:0] late_d[Shares*Pairs*Odds], late_q[Shares*Pairs*Odds];
    logic [WeightBits-1:0] late_weight_d[Pairs*Odds], late_weight_q[Pairs*Odds];

    localparam int unsigned Half = Length / 2;  // odd blocks of a chain

    always_comb begin
      for (int unsigned k = 0; k < Shares * Pairs * Odds; k++) begin
        late_d[k] = chosen_q[k/Half*Length+2*(k%Half)+1];
      end
      for (int unsigned k = 0; k < Pairs * Odds; k++) begin
        late_weight_d[k] = chosen_weight_q[k/Half*Length+2*(k%Half)+1];
      end
      for (int unsigned k = 0; k < Shares * Pairs * Terms; k++) begin
        x_o[k] = k % Length % 2 > 0 ? late_q[k/Length*Half+k%Length/2] : chosen_q[k];
      end
      for (int unsigned k = 0; k < Pairs * Terms; k++) begin
        weight_o[k] = k % Length % 2 > 0 ? late_weight_q[k/Length*Half+k%Length/2] : chosen_weight_q[k];
      end
    end

    always_ff @(posedge clk2x_i) begin
      if (en2x_i) begin
        late_q <= late_d;
        late_weight_q <= late_weight_d;
      end
    end
  end

endmodule
