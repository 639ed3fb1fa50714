// SPDX-License-Identifier: Apache-2.0

/// Marks the last beat of frames of a fixed length: FINN's streams have no tlast.
module axis_frame_end #(
    parameter int unsigned Beats = 1  // of a frame, >= 1
) (
    input  logic clk_i,
    input  logic rst_ni,
    input  logic beat_i,  // a beat passes
    output logic last_o   // the next beat to pass is a frame's last
);

  localparam int unsigned CountBits = Beats > 1 ? $clog2(Beats) : 1;

  logic [CountBits-1:0] count_q;

  assign last_o = count_q == CountBits'(Beats - 1);

  always_ff @(posedge clk_i) begin
    if (!rst_ni || (beat_i && last_o)) count_q <= '0;
    else if (beat_i) count_q <= count_q + 1'b1;
  end

endmodule
