// SPDX-License-Identifier: Apache-2.0

/// Sends the words of a memory image over and over, always valid.
module constant_stream #(
    parameter int unsigned DataBits = 8,       // bits of a word, >= 1
    parameter int unsigned Words    = 1,       // >= 1
    parameter int unsigned Frame    = 1,       // beats of a frame, a multiple of Words
    parameter              File     = ""       // memory image
) (
    input  logic                clk_i,
    input  logic                rst_ni,
    output logic [DataBits-1:0] tdata_o,
    input  logic                tready_i,
    output logic                tlast_o
);

  localparam int unsigned AddrBits = Words > 1 ? $clog2(Words) : 1;

  logic [DataBits-1:0] memory[Words];
  logic [AddrBits-1:0] at_q;

  initial if (File != "") $readmemh(File, memory);

  assign tdata_o = memory[at_q];

  always_ff @(posedge clk_i) begin
    if (!rst_ni || (tready_i && at_q == AddrBits'(Words - 1))) at_q <= '0;
    else if (tready_i) at_q <= at_q + 1'b1;
  end

  axis_frame_end #(
      .Beats(Frame)
  ) u_end (
      .clk_i,
      .rst_ni,
      .beat_i(tready_i),
      .last_o(tlast_o)
  );

endmodule
