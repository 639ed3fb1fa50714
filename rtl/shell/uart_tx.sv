// SPDX-License-Identifier: Apache-2.0

/// Transmitter of 8N1 characters: takes one when the stop bit of the last one is over.
module uart_tx #(
    parameter int unsigned ClocksPerBit = 16  // >= 2
) (
    input  logic       clk_i,
    input  logic       rst_ni,
    input  logic [7:0] s_axis_tdata,
    input  logic       s_axis_tvalid,
    output logic       s_axis_tready,
    output logic       tx_o
);

  localparam int unsigned TimeBits = $clog2(ClocksPerBit);

  logic [8:0] shift_q;          // the bit on the line is the lowest; filled up with stop bits
  logic [3:0] left_q;           // bits still to send
  logic [TimeBits-1:0] time_q;  // cycles until the end of the bit

  assign s_axis_tready = left_q == '0;
  assign tx_o = shift_q[0];

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      shift_q <= '1;
      left_q <= '0;
      time_q <= '0;
    end else if (left_q == '0) begin
      time_q <= TimeBits'(ClocksPerBit - 1);
      if (s_axis_tvalid) begin
        shift_q <= {s_axis_tdata, 1'b0};
        left_q <= 4'd10;
      end
    end else begin
      time_q <= time_q == '0 ? TimeBits'(ClocksPerBit - 1) : time_q - 1'b1;
      if (time_q == '0) begin
        shift_q <= {1'b1, shift_q[8:1]};
        left_q <= left_q - 1'b1;
      end
    end
  end

endmodule
