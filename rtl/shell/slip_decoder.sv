// SPDX-License-Identifier: Apache-2.0

/// Characters of a serial line -> bytes of packets, as in RFC 1055 (SLIP). valid_o is high for one cycle
/// per byte, end_o for one cycle behind a packet, with bad_o where a character of it was damaged or an
/// escape has no meaning. What comes before the first END after reset is dropped.
module slip_decoder (
    input  logic       clk_i,
    input  logic       rst_ni,
    input  logic [7:0] data_i,
    input  logic       valid_i,
    input  logic       bad_i,    // this character is damaged
    output logic [7:0] data_o,
    output logic       valid_o,
    output logic       end_o,
    output logic       bad_o
);

  localparam logic [7:0] End = 8'hC0;
  localparam logic [7:0] Esc = 8'hDB;
  localparam logic [7:0] EscEnd = 8'hDC;
  localparam logic [7:0] EscEsc = 8'hDD;

  logic skip_q;    // no END has been seen
  logic escape_q;  // the last character was ESC
  logic bad_q;

  always_ff @(posedge clk_i) begin
    valid_o <= 1'b0;
    end_o <= 1'b0;
    if (!rst_ni) begin
      skip_q <= 1'b1;
      escape_q <= 1'b0;
      bad_q <= 1'b0;
    end else if (valid_i) begin
      escape_q <= 1'b0;
      data_o <= data_i;
      if (bad_i) begin
        bad_q <= 1'b1;
      end else if (data_i == End) begin
        end_o <= !skip_q;
        bad_o <= bad_q || escape_q;
        skip_q <= 1'b0;
        bad_q <= 1'b0;
      end else if (escape_q) begin
        data_o <= data_i == EscEnd ? End : Esc;
        valid_o <= !skip_q;
        if (data_i != EscEnd && data_i != EscEsc) bad_q <= 1'b1;
      end else if (data_i == Esc) begin
        escape_q <= 1'b1;
      end else begin
        valid_o <= !skip_q;
      end
    end
  end

endmodule
