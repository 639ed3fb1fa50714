// SPDX-License-Identifier: Apache-2.0

/// Memory with one write port and one registered read port: rdata_o follows raddr_i by one cycle and
/// keeps its value while read_i is low. A word that is read in the cycle in which it is written comes
/// out as it was before.
module simple_ram #(
    parameter int unsigned DataBits = 8,  // bits of a word, >= 1
    parameter int unsigned Words = 2,
    parameter int unsigned Block = 0,     // 1: block RAM, 0: LUT RAM
    localparam int unsigned AddrBits = (Words > 1) ? $clog2(Words) : 1
) (
    input  logic                clk_i,
    input  logic                write_i,
    input  logic [AddrBits-1:0] waddr_i,
    input  logic [DataBits-1:0] wdata_i,
    input  logic                read_i,
    input  logic [AddrBits-1:0] raddr_i,
    output logic [DataBits-1:0] rdata_o
);

  logic [DataBits-1:0] data_q;

  assign rdata_o = data_q;

  if (Block != 0) begin : gen_block
    (* ram_style = "block" *) logic [DataBits-1:0] mem[Words];

    always_ff @(posedge clk_i) begin
      if (write_i) mem[waddr_i] <= wdata_i;
      if (read_i) data_q <= mem[raddr_i];
    end
  end else begin : gen_lut
    (* ram_style = "distributed" *) logic [DataBits-1:0] mem[Words];

    always_ff @(posedge clk_i) begin
      if (write_i) mem[waddr_i] <= wdata_i;
      if (read_i) data_q <= mem[raddr_i];
    end
  end

endmodule
