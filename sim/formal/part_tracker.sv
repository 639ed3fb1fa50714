// SPDX-License-Identifier: Apache-2.0

/// Order and content of a stream that passes a module: the n-th part to leave is the n-th that entered,
/// unchanged, for every n. So nothing is lost, invented, doubled, changed or reordered.
///
/// A part is a beat of the narrower side; a beat is a row of parts, the first one lowest, and its tlast and
/// tuser belong to the last part. The solver chooses with pick_i, in any cycle, the part to follow, which
/// proves all choices at once. A part may leave in the cycle in which it enters.
module part_tracker #(
    parameter int unsigned PartBits = 8,
    parameter int unsigned InParts = 1,
    parameter int unsigned OutParts = 1,
    parameter int unsigned MaxParts = 2,   // that the module may hold
    parameter int unsigned CountBits = 4   // holds MaxParts + InParts
) (
    input  logic                         clk_i,
    input  logic                         active_i,
    input  logic                         pick_i,       // follow a part of this input beat,
    input  logic [        CountBits-1:0] pick_part_i,  // this one
    input  logic                         in_fire_i,
    input  logic [ InParts*PartBits-1:0] in_data_i,
    input  logic                         in_last_i,
    input  logic                         in_user_i,
    input  logic                         out_fire_i,
    input  logic [OutParts*PartBits-1:0] out_data_i,
    input  logic                         out_last_i,
    input  logic                         out_user_i,
    output logic [        CountBits-1:0] flight_o,     // parts inside
    output logic                         tracked_o,    // the followed part is inside,
    output logic [        CountBits-1:0] ahead_o,      // so many parts leave before it
    output logic [         PartBits+1:0] part_o       // {tuser, tlast, data}
);

  typedef logic [CountBits-1:0] count_t;
  typedef logic [PartBits+1:0] part_t;

  count_t flight_q, ahead_q, available, ahead;
  logic tracked_q, start, tracked;
  part_t part_q, in_part, part;
  logic [OutParts-1:0] wrong;

  assign flight_o = flight_q;
  assign tracked_o = tracked_q;
  assign ahead_o = ahead_q;
  assign part_o = part_q;

  assign available = flight_q + (in_fire_i ? count_t'(InParts) : '0);
  assign start = pick_i && in_fire_i && !tracked_q && pick_part_i < count_t'(InParts);
  assign tracked = tracked_q || start;
  assign ahead = tracked_q ? ahead_q : flight_q + pick_part_i;
  assign part = tracked_q ? part_q : in_part;

  always_comb begin
    in_part = '0;
    for (int unsigned i = 0; i < InParts; i++) begin
      if (pick_part_i == count_t'(i)) begin
        in_part = {(i == InParts - 1) & in_user_i, (i == InParts - 1) & in_last_i,
                   in_data_i[i*PartBits+:PartBits]};
      end
    end
    for (int unsigned i = 0; i < OutParts; i++) begin
      wrong[i] = tracked && ahead == count_t'(i) &&
          part != {(i == OutParts - 1) & out_user_i, (i == OutParts - 1) & out_last_i,
                   out_data_i[i*PartBits+:PartBits]};
    end
  end

  always_ff @(posedge clk_i) begin
    flight_q <= available - (out_fire_i ? count_t'(OutParts) : '0);
    tracked_q <= tracked && !(out_fire_i && ahead < count_t'(OutParts));
    ahead_q <= ahead - (out_fire_i ? count_t'(OutParts) : '0);
    part_q <= part;
    if (!active_i) begin
      flight_q <= '0;
      tracked_q <= 1'b0;
    end
  end

  always_comb begin
    if (active_i) begin
      a_source: assert (!out_fire_i || available >= count_t'(OutParts));
      a_bound: assert (flight_q <= count_t'(MaxParts));
      a_order: assert (!out_fire_i || wrong == '0);
      i_ahead: assert (!tracked_q || ahead_q < flight_q);
    end
  end

endmodule
