// SPDX-License-Identifier: Apache-2.0

/// Receiver of 8N1 characters. valid_o is high for one cycle per character, with bad_o where its stop
/// bit is missing. It cannot be made to wait. A start bit shorter than half a bit is none.
module uart_rx #(
    parameter int unsigned ClocksPerBit = 16  // >= 4
) (
    input  logic       clk_i,
    input  logic       rst_ni,
    input  logic       rx_i,     // idle high; not synchronous to clk_i
    output logic [7:0] data_o,
    output logic       valid_o,
    output logic       bad_o
);

  localparam int unsigned TimeBits = $clog2(ClocksPerBit);

  if (ClocksPerBit < 4) begin : gen_check
    $error("uart_rx: ClocksPerBit must be at least 4");
  end

  logic [2:0] sync_q;           // two flip-flops against metastability, and the level before
  logic [TimeBits-1:0] time_q;  // cycles until the middle of the next bit
  logic [3:0] bit_q;            // 0: idle, 1: start bit, 2 to 9: data, 10: stop bit
  logic rx, start;

  assign rx = sync_q[1];
  assign start = sync_q[2] && !rx;

  always_ff @(posedge clk_i) begin
    valid_o <= 1'b0;
    bad_o <= 1'b0;
    if (!rst_ni) begin
      sync_q <= '1;
      time_q <= '0;
      bit_q <= '0;
    end else begin
      sync_q <= {sync_q[1:0], rx_i};
      time_q <= time_q == '0 ? TimeBits'(ClocksPerBit - 1) : time_q - 1'b1;
      if (bit_q == '0) begin
        time_q <= TimeBits'(ClocksPerBit / 2 - 1);
        if (start) bit_q <= 4'd1;
      end else if (time_q == '0) begin
        bit_q <= bit_q + 1'b1;
        if (bit_q == 4'd1 && rx) bit_q <= '0;
        if (bit_q > 4'd1 && bit_q < 4'd10) data_o <= {rx, data_o[7:1]};
        if (bit_q == 4'd10) begin
          bit_q <= '0;
          valid_o <= 1'b1;
          bad_o <= !rx;
        end
      end
    end
  end

endmodule
