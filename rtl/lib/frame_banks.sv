// SPDX-License-Identifier: Apache-2.0

/// Two frames of tokens in Heads x Lanes memories, to read Lanes tokens of Heads heads at a time.
///
/// Write: a stream of tokens; a token is HeadGroups x Heads x Chunks beats. Chunk c of head h of
/// head group g of token t goes to memory (h, t mod Lanes), to word (t / Lanes * HeadGroups + g) *
/// Chunks + c of its frame. A frame ends with tlast.
/// Read: the oldest complete frame is offered with frame_valid_o; take_i, which may come with the
/// frame's last read, frees its memory and passes on to the next frame. A frame may be written while
/// the one before is read, and no cycle is lost between frames. data_o follows the address by one cycle.
module frame_banks #(
    parameter int unsigned DataBits = 8,    // bits of a beat
    parameter int unsigned Heads = 1,
    parameter int unsigned Lanes = 4,
    parameter int unsigned HeadGroups = 1,
    parameter int unsigned Chunks = 1,
    parameter int unsigned MaxTokens = 4,   // of a frame
    parameter int unsigned Ram = 0,         // 0: LUT RAM, 1: block RAM, 2: UltraRAM
    localparam int unsigned MaxGroups = (MaxTokens + Lanes - 1) / Lanes,
    localparam int unsigned FrameWords = MaxGroups * HeadGroups * Chunks,
    localparam int unsigned AddrBits = $clog2(2 * FrameWords),
    localparam int unsigned GroupBits = (MaxGroups > 1) ? $clog2(MaxGroups) : 1,
    localparam int unsigned CountBits = $clog2(Lanes + 1)
) (
    input  logic                            clk_i,
    input  logic                            rst_ni,
    input  logic [DataBits-1:0]             s_axis_tdata,
    input  logic                            s_axis_tvalid,
    output logic                            s_axis_tready,
    input  logic                            s_axis_tlast,
    output logic                            frame_valid_o,
    output logic [GroupBits-1:0]            frame_last_o,  // number of the last group, from 0
    output logic [CountBits-1:0]            frame_tail_o,  // tokens of the last group, 1..Lanes
    output logic [AddrBits-1:0]             frame_base_o,  // address of the frame's first word
    input  logic                            take_i,
    input  logic [AddrBits-1:0]             addr_i,
    output logic [Heads*Lanes*DataBits-1:0] data_o         // head-major
);

  /* verilator lint_off UNUSEDPARAM */
  localparam RamStyle = (Ram == 0) ? "distributed" : (Ram == 1) ? "block" : "ultra";
  /* verilator lint_on UNUSEDPARAM */
  localparam int unsigned HeadBits = (Heads > 1) ? $clog2(Heads) : 1;
  localparam int unsigned LaneBits = (Lanes > 1) ? $clog2(Lanes) : 1;
  localparam int unsigned ChunkBits = (Chunks > 1) ? $clog2(Chunks) : 1;
  localparam int unsigned HeadGroupBits = (HeadGroups > 1) ? $clog2(HeadGroups) : 1;

  logic [1:0] full_q;
  logic [1:0][GroupBits-1:0] last_q;
  logic [1:0][CountBits-1:0] tail_q;
  logic wr_bank_q, rd_bank_q;
  logic [HeadBits-1:0] head_q;
  logic [LaneBits-1:0] lane_q;
  logic [ChunkBits-1:0] chunk_q;
  logic [HeadGroupBits-1:0] head_group_q;
  logic [GroupBits-1:0] group_q;
  // word; first word of the head group; of the group
  logic [AddrBits-1:0] word_q, base_q, group_base_q, next_bank;
  logic accept, chunk_end, head_end, token_end, lane_end;

  assign s_axis_tready = !full_q[wr_bank_q];
  assign accept = s_axis_tvalid && s_axis_tready;
  assign chunk_end = chunk_q == ChunkBits'(Chunks - 1);
  assign head_end = chunk_end && head_q == HeadBits'(Heads - 1);
  assign token_end = head_end && head_group_q == HeadGroupBits'(HeadGroups - 1);
  assign lane_end = lane_q == LaneBits'(Lanes - 1);
  assign next_bank = wr_bank_q ? '0 : AddrBits'(FrameWords);

  assign frame_valid_o = full_q[rd_bank_q];
  assign frame_last_o = last_q[rd_bank_q];
  assign frame_tail_o = tail_q[rd_bank_q];
  assign frame_base_o = rd_bank_q ? AddrBits'(FrameWords) : '0;

  always_ff @(posedge clk_i) begin
    if (accept && s_axis_tlast) begin
      last_q[wr_bank_q] <= group_q;
      tail_q[wr_bank_q] <= CountBits'(lane_q) + 1'b1;
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      full_q <= '0;
      wr_bank_q <= 1'b0;
      rd_bank_q <= 1'b0;
      head_q <= '0;
      lane_q <= '0;
      chunk_q <= '0;
      head_group_q <= '0;
      group_q <= '0;
      word_q <= '0;
      base_q <= '0;
      group_base_q <= '0;
    end else begin
      if (take_i) begin
        full_q[rd_bank_q] <= 1'b0;
        rd_bank_q <= !rd_bank_q;
      end
      if (accept) begin
        chunk_q <= chunk_end ? '0 : chunk_q + 1'b1;
        word_q <= chunk_end ? base_q : word_q + 1'b1;
        if (chunk_end) head_q <= head_end ? '0 : head_q + 1'b1;
        if (head_end) begin
          head_group_q <= token_end ? '0 : head_group_q + 1'b1;
          word_q <= word_q + 1'b1;
          base_q <= word_q + 1'b1;
        end
        if (token_end) begin
          lane_q <= lane_end ? '0 : lane_q + 1'b1;
          if (lane_end) begin  // word_q + 1 is the first word of the next group
            group_q <= group_q + 1'b1;
            group_base_q <= word_q + 1'b1;
          end else begin
            word_q <= group_base_q;
            base_q <= group_base_q;
          end
        end
        if (s_axis_tlast) begin
          full_q[wr_bank_q] <= 1'b1;
          wr_bank_q <= !wr_bank_q;
          lane_q <= '0;
          group_q <= '0;
          word_q <= next_bank;
          base_q <= next_bank;
          group_base_q <= next_bank;
        end
      end
    end
  end

`ifndef SYNTHESIS
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      assert (!take_i || frame_valid_o) else $error("a frame is taken before it is complete");
      assert (!accept || !s_axis_tlast || token_end) else $error("a frame ends within a token");
      assert (!accept || 32'(group_q) < MaxGroups) else $error("a frame is longer than MaxTokens");
    end
  end
`endif

  for (genvar h = 0; h < Heads; h++) begin : gen_head
    for (genvar l = 0; l < Lanes; l++) begin : gen_lane
      (* ram_style = RamStyle *) logic [DataBits-1:0] mem [2 * FrameWords];
      logic [DataBits-1:0] data_q;

      always_ff @(posedge clk_i) begin
        if (accept && head_q == HeadBits'(h) && lane_q == LaneBits'(l)) mem[word_q] <= s_axis_tdata;
        data_q <= mem[addr_i];
      end

      assign data_o[(h*Lanes+l)*DataBits +: DataBits] = data_q;
    end
  end

endmodule
