// SPDX-License-Identifier: Apache-2.0

/// Sends every frame Passes times through a body of cores that work with another set of constants each
/// time: the first pass comes from s_axis, the others come back from the body by s_axis_back, and what
/// the last one returns leaves by m_axis. For every frame that enters the body, m_axis_set carries one
/// beat, the number of its pass.
///
/// The body returns frames in the order in which they entered, so the passes of those inside are a queue.
/// A frame that has returned enters before a new one, and at most InFlight frames are on their way. They
/// wait for each other in a FIFO of Depth beats: with room for InFlight frames the body can always
/// return what it holds, and nothing blocks. A new frame enters when all of it has come, so that a slow
/// producer does not keep the body waiting: EntryDepth must hold the longest frame. One cycle passes
/// between two frames that enter.
module layer_loop #(
    parameter int unsigned DataBits = 8,
    parameter int unsigned Passes = 2,    // >= 2
    parameter int unsigned InFlight = 2,  // frames, >= 1
    parameter int unsigned Depth = 16,    // beats, >= 1
    parameter int unsigned EntryDepth = 16
) (
    input  logic                      clk_i,
    input  logic                      rst_ni,
    input  logic [      DataBits-1:0] s_axis_tdata,
    input  logic                      s_axis_tvalid,
    output logic                      s_axis_tready,
    input  logic                      s_axis_tlast,
    input  logic                      s_axis_tuser,
    input  logic [      DataBits-1:0] s_axis_back_tdata,
    input  logic                      s_axis_back_tvalid,
    output logic                      s_axis_back_tready,
    input  logic                      s_axis_back_tlast,
    input  logic                      s_axis_back_tuser,
    output logic [      DataBits-1:0] m_axis_body_tdata,
    output logic                      m_axis_body_tvalid,
    input  logic                      m_axis_body_tready,
    output logic                      m_axis_body_tlast,
    output logic                      m_axis_body_tuser,
    output logic [$clog2(Passes)-1:0] m_axis_set_tdata,
    output logic                      m_axis_set_tvalid,
    input  logic                      m_axis_set_tready,
    output logic                      m_axis_set_tlast,
    output logic                      m_axis_set_tuser,
    output logic [      DataBits-1:0] m_axis_tdata,
    output logic                      m_axis_tvalid,
    input  logic                      m_axis_tready,
    output logic                      m_axis_tlast,
    output logic                      m_axis_tuser
);

  localparam int unsigned SetBits = $clog2(Passes);
  // one more: the end of a frame may still be inside when its beginning enters again
  localparam int unsigned Slots = InFlight + 1;
  localparam int unsigned SlotBits = $clog2(Slots);

  typedef logic [SetBits-1:0] set_t;
  typedef logic [SlotBits-1:0] slot_t;
  typedef logic [$clog2(InFlight+1)-1:0] count_t;

  // -- what has returned and enters again ------------------------------------------------------------
  logic again_in_valid, again_in_ready;
  logic [DataBits-1:0] again_data;
  logic again_valid, again_ready, again_last, again_user;

  axis_fifo #(
      .DataBits(DataBits),
      .Depth(Depth)
  ) u_again (
      .clk_i,
      .rst_ni,
      .s_axis_tdata (s_axis_back_tdata),
      .s_axis_tvalid(again_in_valid),
      .s_axis_tready(again_in_ready),
      .s_axis_tlast (s_axis_back_tlast),
      .s_axis_tuser (s_axis_back_tuser),
      .m_axis_tdata (again_data),
      .m_axis_tvalid(again_valid),
      .m_axis_tready(again_ready),
      .m_axis_tlast (again_last),
      .m_axis_tuser (again_user)
  );

  // -- what comes from outside: whole frames ----------------------------------------------------------
  localparam int unsigned EntryBits = $clog2(EntryDepth + 3);  // the register of the FIFO counts too

  logic [DataBits-1:0] new_data;
  logic new_valid, new_ready, new_last, new_user;
  logic [EntryBits-1:0] whole_q;  // frames that have come to their end
  logic came, went;

  axis_fifo #(
      .DataBits(DataBits),
      .Depth(EntryDepth)
  ) u_new (
      .clk_i,
      .rst_ni,
      .s_axis_tdata,
      .s_axis_tvalid,
      .s_axis_tready,
      .s_axis_tlast,
      .s_axis_tuser,
      .m_axis_tdata (new_data),
      .m_axis_tvalid(new_valid),
      .m_axis_tready(new_ready),
      .m_axis_tlast (new_last),
      .m_axis_tuser (new_user)
  );

  assign came = s_axis_tvalid && s_axis_tready && s_axis_tlast;
  assign went = new_valid && new_ready && new_last;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) whole_q <= '0;
    else whole_q <= whole_q + EntryBits'(came) - EntryBits'(went);
  end

  // -- the frame that enters -------------------------------------------------------------------------
  logic busy_q, from_again_q, set_valid_q;
  set_t set_q;
  set_t again_set;  // last pass of the frame that enters again next
  count_t count_q; // frames on their way
  logic start, start_again, start_new, in_end, leaves;

  assign start_again = again_valid;
  assign start_new = whole_q != '0 && count_q != count_t'(InFlight);
  assign start = !busy_q && !set_valid_q && (start_again || start_new);

  assign m_axis_body_tdata = from_again_q ? again_data : new_data;
  assign m_axis_body_tlast = from_again_q ? again_last : new_last;
  assign m_axis_body_tuser = from_again_q ? again_user : new_user;
  assign m_axis_body_tvalid = busy_q && (from_again_q ? again_valid : new_valid);
  assign again_ready = busy_q && from_again_q && m_axis_body_tready;
  assign new_ready = busy_q && !from_again_q && m_axis_body_tready;
  assign in_end = m_axis_body_tvalid && m_axis_body_tready && m_axis_body_tlast;

  assign m_axis_set_tdata = set_q;
  assign m_axis_set_tvalid = set_valid_q;
  assign m_axis_set_tlast = 1'b1;
  assign m_axis_set_tuser = 1'b0;

  always_ff @(posedge clk_i) begin
    if (start) begin
      from_again_q <= start_again;
      set_q <= start_again ? again_set + 1'b1 : '0;
    end
    if (!rst_ni) begin
      busy_q <= 1'b0;
      set_valid_q <= 1'b0;
      count_q <= '0;
    end else begin
      if (start) busy_q <= 1'b1;
      else if (in_end) busy_q <= 1'b0;
      if (start) set_valid_q <= 1'b1;
      else if (m_axis_set_tready) set_valid_q <= 1'b0;
      count_q <= count_q + count_t'(start && !start_again) - count_t'(leaves);
    end
  end

  // -- the passes of the frames in the body, and of those that wait to enter again ---------------------
  set_t body[Slots], waiting[Slots];
  slot_t body_wr_q, body_rd_q, waiting_wr_q, waiting_rd_q;
  logic back_final, back_end;

  function automatic slot_t next(slot_t slot);
    next = slot == slot_t'(Slots - 1) ? '0 : slot + 1'b1;
  endfunction

  assign back_final = body[body_rd_q] == set_t'(Passes - 1);
  assign back_end = s_axis_back_tvalid && s_axis_back_tready && s_axis_back_tlast;
  assign leaves = back_end && back_final;
  assign again_set = waiting[waiting_rd_q];

  assign again_in_valid = s_axis_back_tvalid && !back_final;
  assign s_axis_back_tready = back_final ? m_axis_tready : again_in_ready;
  assign m_axis_tdata = s_axis_back_tdata;
  assign m_axis_tvalid = s_axis_back_tvalid && back_final;
  assign m_axis_tlast = s_axis_back_tlast;
  assign m_axis_tuser = s_axis_back_tuser;

  always_ff @(posedge clk_i) begin
    if (start) body[body_wr_q] <= start_again ? again_set + 1'b1 : '0;
    // its pass is known before its first beat leaves the FIFO
    if (again_in_valid) waiting[waiting_wr_q] <= body[body_rd_q];
    if (!rst_ni) begin
      body_wr_q <= '0;
      body_rd_q <= '0;
      waiting_wr_q <= '0;
      waiting_rd_q <= '0;
    end else begin
      if (start) body_wr_q <= next(body_wr_q);
      if (back_end) body_rd_q <= next(body_rd_q);
      if (back_end && !back_final) waiting_wr_q <= next(waiting_wr_q);
      if (start && start_again) waiting_rd_q <= next(waiting_rd_q);
    end
  end

endmodule
