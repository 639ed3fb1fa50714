// SPDX-License-Identifier: Apache-2.0

/// CRC-32 of IEEE 802.3 over one more byte: polynomial 0x04C11DB7, bits reversed. It begins with all
/// ones; the checksum is the complement of the last one. Over data and its checksum (least significant
/// byte first) the result is 0xDEBB20E3.
module crc32 (
    input  logic [31:0] crc_i,
    input  logic [ 7:0] data_i,
    output logic [31:0] crc_o
);

  always_comb begin
    crc_o = crc_i ^ {24'd0, data_i};
    for (int unsigned i = 0; i < 8; i++) crc_o = (crc_o >> 1) ^ (crc_o[0] ? 32'hEDB88320 : 32'd0);
  end

endmodule
