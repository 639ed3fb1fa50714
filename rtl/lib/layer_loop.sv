// SPDX-License-Identifier: Apache-2.0

/// Sends every frame Passes times through a body of cores that work with another set of constants each
/// time: the first pass comes from outside, the others come back from the body by s_axis_back, and what
/// the last one returns leaves. For every frame that enters the body, m_axis_set carries one beat, the
/// number of its pass.
///
/// The passes are parted into Segments. Between two of them a frame makes a detour through other cores,
/// such as a token selector: it leaves by m_axis[i] behind the last pass of segment i, and comes back by
/// s_axis[i+1] in front of pass Starts[i+1]. It comes from outside by s_axis[0] and leaves for good by
/// the last m_axis.
///
/// The body returns frames in the order in which they entered, so the passes of those inside are a queue.
/// At most InFlight frames are on their way. One that has made a detour enters first, the farthest of
/// them before the others, then one that has returned, then a new one; so none overtakes another one. A
/// frame from outside or from a detour enters when all of it has come, so that a slow producer does not
/// keep the body waiting: EntryDepths must hold the longest frame. One cycle passes between two frames
/// that enter. Frames that returned wait in a FIFO of Depth beats.
///
/// Nothing blocks if that FIFO has room for InFlight frames less what the body holds while it cannot
/// return anything. A frame enters for the last pass in front of a detour only if less than two are on
/// their way to it or in it: the detour must take in one as a whole while its entry holds another one.
module layer_loop #(
    parameter int unsigned DataBits = 8,
    parameter int unsigned Passes = 2,    // >= 2
    parameter int unsigned Segments = 1,  // >= 1
    parameter logic [Segments-1:0][31:0] Starts = '0,  // pass; of the first segment 0
    parameter int unsigned InFlight = 2,  // frames, >= 1
    parameter int unsigned Depth = 16,    // beats, >= 1
    parameter logic [Segments-1:0][31:0] EntryDepths = {Segments{32'd16}}
) (
    input  logic                              clk_i,
    input  logic                              rst_ni,
    input  logic [Segments-1:0][DataBits-1:0] s_axis_tdata,
    input  logic [Segments-1:0]               s_axis_tvalid,
    output logic [Segments-1:0]               s_axis_tready,
    input  logic [Segments-1:0]               s_axis_tlast,
    input  logic [Segments-1:0]               s_axis_tuser,
    input  logic [              DataBits-1:0] s_axis_back_tdata,
    input  logic                              s_axis_back_tvalid,
    output logic                              s_axis_back_tready,
    input  logic                              s_axis_back_tlast,
    input  logic                              s_axis_back_tuser,
    output logic [              DataBits-1:0] m_axis_body_tdata,
    output logic                              m_axis_body_tvalid,
    input  logic                              m_axis_body_tready,
    output logic                              m_axis_body_tlast,
    output logic                              m_axis_body_tuser,
    output logic [        $clog2(Passes)-1:0] m_axis_set_tdata,
    output logic                              m_axis_set_tvalid,
    input  logic                              m_axis_set_tready,
    output logic                              m_axis_set_tlast,
    output logic                              m_axis_set_tuser,
    output logic [Segments-1:0][DataBits-1:0] m_axis_tdata,
    output logic [Segments-1:0]               m_axis_tvalid,
    input  logic [Segments-1:0]               m_axis_tready,
    output logic [Segments-1:0]               m_axis_tlast,
    output logic [Segments-1:0]               m_axis_tuser
);

  localparam int unsigned SetBits = $clog2(Passes);
  // one more: the end of a frame may still be inside when its beginning enters again
  localparam int unsigned Slots = InFlight + 1;
  localparam int unsigned SlotBits = $clog2(Slots);
  // where the frame that enters comes from: one of the entries, or the FIFO of those that returned
  localparam int unsigned Again = Segments;

  typedef logic [SetBits-1:0] set_t;
  typedef logic [SlotBits-1:0] slot_t;
  typedef logic [$clog2(InFlight+1)-1:0] count_t;

  logic [Segments:0][DataBits-1:0] in_data;
  logic [Segments:0] in_valid, in_ready, in_last, in_user;

  // -- what has returned and enters again ------------------------------------------------------------
  logic again_in_valid, again_in_ready;

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
      .m_axis_tdata (in_data[Again]),
      .m_axis_tvalid(in_valid[Again]),
      .m_axis_tready(in_ready[Again]),
      .m_axis_tlast (in_last[Again]),
      .m_axis_tuser (in_user[Again])
  );

  // -- what comes from outside and from detours: whole frames -----------------------------------------
  logic [Segments-1:0] whole;  // a frame has come to its end

  for (genvar i = 0; i < int'(Segments); i++) begin : gen_entry
    localparam int unsigned EntryDepth = EntryDepths[i];
    localparam int unsigned EntryBits = $clog2(EntryDepth + 3);  // the register of the FIFO counts too

    logic [EntryBits-1:0] frames_q;
    logic came, went;

    axis_fifo #(
        .DataBits(DataBits),
        .Depth(EntryDepth)
    ) u_new (
        .clk_i,
        .rst_ni,
        .s_axis_tdata (s_axis_tdata[i]),
        .s_axis_tvalid(s_axis_tvalid[i]),
        .s_axis_tready(s_axis_tready[i]),
        .s_axis_tlast (s_axis_tlast[i]),
        .s_axis_tuser (s_axis_tuser[i]),
        .m_axis_tdata (in_data[i]),
        .m_axis_tvalid(in_valid[i]),
        .m_axis_tready(in_ready[i]),
        .m_axis_tlast (in_last[i]),
        .m_axis_tuser (in_user[i])
    );

    assign came = s_axis_tvalid[i] && s_axis_tready[i] && s_axis_tlast[i];
    assign went = in_valid[i] && in_ready[i] && in_last[i];
    assign whole[i] = frames_q != '0;

    always_ff @(posedge clk_i) begin
      if (!rst_ni) frames_q <= '0;
      else frames_q <= frames_q + EntryBits'(came) - EntryBits'(went);
    end
  end

  // -- frames on their way to a detour or in it: no more than it has room for ------------------------
  logic [Segments-1:0] full;  // of the detour in front of a segment

  assign full[0] = 1'b0;  // there is none
  for (genvar i = 1; i < int'(Segments); i++) begin : gen_full
    logic [1:0] frames_q;
    logic comes;

    assign comes = start && set == set_t'(Starts[i] - 1);
    assign full[i] = frames_q == 2'd2;

    always_ff @(posedge clk_i) begin
      if (!rst_ni) frames_q <= '0;
      else frames_q <= frames_q + 2'(comes) - 2'(start && from[i]);
    end
  end

  // -- the frame that enters -------------------------------------------------------------------------
  logic busy_q, set_valid_q;
  logic [Segments:0] from_q, from;  // one-hot
  set_t set_q, set;
  set_t again_set;  // last pass of the frame that enters again next
  count_t count_q;  // frames on their way
  logic start, in_end, leaves;

  /// The detour behind that pass has no room.
  function automatic logic held(set_t pass);
    held = full[0];
    for (int i = 1; i < int'(Segments); i++) begin
      if (pass == set_t'(Starts[i] - 1) && full[i]) held = 1'b1;
    end
  endfunction

  always_comb begin
    from = '0;
    set  = again_set + 1'b1;
    if (in_valid[Again] && !held(again_set + 1'b1)) from[Again] = 1'b1;
    else if (whole[0] && count_q != count_t'(InFlight) && !held('0)) begin
      from[0] = 1'b1;
      set = '0;
    end
    for (int i = 1; i < int'(Segments); i++) begin
      if (whole[i] && !held(set_t'(Starts[i]))) begin
        from = '0;
        from[i] = 1'b1;
        set = set_t'(Starts[i]);
      end
    end
  end

  assign start = !busy_q && !set_valid_q && from != '0;
  assign in_ready = busy_q && m_axis_body_tready ? from_q : '0;
  assign m_axis_body_tvalid = busy_q && (in_valid & from_q) != '0;
  assign m_axis_body_tlast = (in_last & from_q) != '0;
  assign m_axis_body_tuser = (in_user & from_q) != '0;
  assign in_end = m_axis_body_tvalid && m_axis_body_tready && m_axis_body_tlast;

  always_comb begin
    m_axis_body_tdata = '0;
    for (int i = 0; i <= int'(Segments); i++) begin
      if (from_q[i]) m_axis_body_tdata |= in_data[i];
    end
  end

  assign m_axis_set_tdata = set_q;
  assign m_axis_set_tvalid = set_valid_q;
  assign m_axis_set_tlast = 1'b1;
  assign m_axis_set_tuser = 1'b0;

  always_ff @(posedge clk_i) begin
    if (start) begin
      from_q <= from;
      set_q  <= set;
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
      count_q <= count_q + count_t'(start && from[0]) - count_t'(leaves);
    end
  end

  // -- the passes of the frames in the body, and of those that wait to enter again ---------------------
  set_t body[Slots], waiting[Slots];
  slot_t body_wr_q, body_rd_q, waiting_wr_q, waiting_rd_q;
  logic [Segments-1:0] out;  // one-hot: where the frame that the body returns leaves; 0: it does not
  logic back_end;

  function automatic slot_t next(slot_t slot);
    next = slot == slot_t'(Slots - 1) ? '0 : slot + 1'b1;
  endfunction

  for (genvar i = 0; i < int'(Segments); i++) begin : gen_exit
    localparam int unsigned Last = (i == int'(Segments) - 1 ? Passes : Starts[(i+1)%Segments]) - 1;

    assign out[i] = body[body_rd_q] == set_t'(Last);
    assign m_axis_tdata[i] = s_axis_back_tdata;
    assign m_axis_tvalid[i] = s_axis_back_tvalid && out[i];
    assign m_axis_tlast[i] = s_axis_back_tlast;
    assign m_axis_tuser[i] = s_axis_back_tuser;
  end

  assign back_end = s_axis_back_tvalid && s_axis_back_tready && s_axis_back_tlast;
  assign leaves = back_end && out[Segments-1];
  assign again_set = waiting[waiting_rd_q];
  assign again_in_valid = s_axis_back_tvalid && out == '0;
  assign s_axis_back_tready = out == '0 ? again_in_ready : (out & m_axis_tready) != '0;

  always_ff @(posedge clk_i) begin
    if (start) body[body_wr_q] <= set;
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
      if (back_end && out == '0) waiting_wr_q <= next(waiting_wr_q);
      if (start && from[Again]) waiting_rd_q <= next(waiting_rd_q);
    end
  end

endmodule
