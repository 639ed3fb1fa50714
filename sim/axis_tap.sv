// SPDX-License-Identifier: Apache-2.0

/// Watches an edge inside a simulated design: its rules (axis_checker) and, with +sievit_taps=<folder>, every beat.
/// A beat is some 32-bit words in the file <folder>/<path of the instance>: the time, then {tuser, tlast, tdata}.
module axis_tap #(
    parameter int unsigned DataBits = 8  // bits of tdata, >= 1
) (
    input logic                clk_i,
    input logic                rst_ni,
    input logic [DataBits-1:0] tdata,
    input logic                tvalid,
    input logic                tready,
    input logic                tlast,
    input logic                tuser
);
  /*verilator no_inline_module*/

  localparam int unsigned Words = (DataBits + 2 + 31) / 32;

  int file;
  string folder;

  initial begin
    file = 0;
    if ($value$plusargs("sievit_taps=%s", folder) != 0) file = $fopen($sformatf("%s/%m", folder), "wb");
  end

  always_ff @(posedge clk_i) begin
    if (file != 0 && rst_ni && tvalid && tready) begin
      $fwrite(file, "%u%u", 32'($time), (32 * Words)'({tuser, tlast, tdata}));
    end
  end

  final if (file != 0) $fclose(file);

  axis_checker #(
      .DataBits(DataBits),
      .Name("edge")
  ) u_check (
      .clk_i,
      .rst_ni,
      .tdata,
      .tvalid,
      .tready,
      .tlast,
      .tuser
  );

endmodule
