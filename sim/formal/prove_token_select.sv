// SPDX-License-Identifier: Apache-2.0

/// token_select in threshold mode, order and count: token n belongs to score n; the output of a frame is
/// every beat of its kept tokens, in order and unchanged, then one package token if any token took part in
/// it; tlast stands on the last beat of the frame's output, tuser on it if that is a package token.
///
/// The specification numbers the output beats: a score gives its token, and the package token that it may
/// complete, their numbers (`due`). The solver chooses any beat, of a token or of a package token, and
/// follows it: the output beat of that number must be it. What the package token contains is left open,
/// its values are cut off and free; that every due beat leaves at last is not shown here. Frames may have
/// any length: MaxTokens bears on the sums alone.
module prove_token_select #(
    parameter int unsigned Beats = 1,
    parameter int unsigned XBits = 1,
    parameter int unsigned MaxTokens = 3
) (
    input logic             clk_i,
    input logic             rst_ni,
    input logic [XBits-1:0] s_axis_x_tdata,
    input logic             s_axis_x_tvalid,
    input logic             s_axis_x_tlast,
    input logic             s_axis_x_tuser,
    input logic [      1:0] s_axis_score_tdata,
    input logic             s_axis_score_tvalid,
    input logic             s_axis_score_tlast,
    input logic             s_axis_score_tuser,
    input logic             m_axis_tready,
    input logic             pick_i,          // follow this beat
    input logic             pick_package_i,  // of the package token
    input logic [      3:0] pick_beat_i
);

  localparam int unsigned TokenBits = $bits(dut.judge_rd_q);
  localparam int unsigned Ring = 2 ** (TokenBits - 1);
  localparam int unsigned PlaceBits = $bits(dut.queue_rd_q);
  localparam int unsigned Places = 2 ** (PlaceBits - 1);
  localparam int unsigned Depth = dut.FifoDepth;

  typedef logic [TokenBits-1:0] token_t;
  typedef logic [PlaceBits-1:0] place_t;
  typedef logic [8:0] number_t;

  logic s_axis_x_tready, s_axis_score_tready, m_axis_tvalid, m_axis_tlast, m_axis_tuser, active;
  logic [XBits-1:0] m_axis_tdata;

  token_select #(
      .MaxTokens(MaxTokens), .Channels(Beats), .Simd(1), .XBits(XBits), .ScoreBits(2),
      .WeightBits(2), .Offset(2), .Shift(1), .Entries(2), .IndexBits(1), .RecipBits(2),
      .RecipShift(1)
  ) dut (.*);

  formal_reset u_reset (.clk_i, .rst_ni, .active_o(active));

  stream_rules #(.Assume(1), .DataBits(XBits)) u_source (
      .clk_i, .active_i(active), .tdata(s_axis_x_tdata), .tvalid(s_axis_x_tvalid),
      .tready(s_axis_x_tready), .tlast(s_axis_x_tlast), .tuser(s_axis_x_tuser)
  );
  stream_rules #(.Assume(1), .DataBits(2)) u_source_score (
      .clk_i, .active_i(active), .tdata(s_axis_score_tdata), .tvalid(s_axis_score_tvalid),
      .tready(s_axis_score_tready), .tlast(s_axis_score_tlast), .tuser(s_axis_score_tuser)
  );
  stream_rules #(.DataBits(XBits)) u_rules (
      .clk_i, .active_i(active), .tdata(m_axis_tdata), .tvalid(m_axis_tvalid),
      .tready(m_axis_tready), .tlast(m_axis_tlast), .tuser(m_axis_tuser)
  );

  // ---- Specification -------------------------------------------------------------------------
  logic x_fire, x_end, score_fire, m_fire;
  logic [3:0] beat_q;                     // of the incoming token
  token_t in_q, done_q;                   // tokens complete, tokens with a score
  logic [1:0] flags_q[Ring];              // {package, last} of tokens without a score
  logic first_q, any_q;                   // the next score is that of a class token; participants
  logic is_last, keep, packaged;
  number_t due_q, out_q;                  // output beats that follow from the scores; that left

  // the beat to follow
  logic follow_q, judged_q, kind_q;       // there is one, it has its number, it is of a package token
  token_t token_q;
  logic [3:0] offset_q;                   // its beat in the token
  logic [XBits-1:0] data_q;
  logic last_q;
  number_t number_q;

  logic start_x, start_package, judge, leave;

  assign x_fire = s_axis_x_tvalid && s_axis_x_tready;
  assign x_end = x_fire && beat_q == 4'(Beats - 1);
  assign score_fire = s_axis_score_tvalid && s_axis_score_tready;
  assign m_fire = m_axis_tvalid && m_axis_tready;
  assign is_last = flags_q[done_q[TokenBits-2:0]][0];
  assign keep = !flags_q[done_q[TokenBits-2:0]][1] && (first_q || !s_axis_score_tdata[1]);
  assign packaged = is_last && (any_q || !keep);

  assign start_x = !follow_q && pick_i && !pick_package_i && x_fire;
  assign start_package = !follow_q && pick_i && pick_package_i && score_fire && packaged &&
      pick_beat_i < 4'(Beats);
  assign judge = follow_q && !judged_q && score_fire && done_q == token_q;
  assign leave = follow_q && judged_q && m_fire && out_q == number_q;

  always_ff @(posedge clk_i) begin
    if (x_end) flags_q[in_q[TokenBits-2:0]] <= {s_axis_x_tlast && s_axis_x_tuser, s_axis_x_tlast};
    if (!active) begin
      beat_q <= '0;
      in_q <= '0;
      done_q <= '0;
      first_q <= 1'b1;
      any_q <= 1'b0;
      due_q <= '0;
      out_q <= '0;
      follow_q <= 1'b0;
    end else begin
      if (x_fire) beat_q <= x_end ? '0 : beat_q + 1'b1;
      if (x_end) in_q <= in_q + 1'b1;
      if (score_fire) begin
        done_q <= done_q + 1'b1;
        first_q <= is_last;
        any_q <= !is_last && (any_q || !keep);
        due_q <= due_q + (keep ? number_t'(Beats) : '0) + (packaged ? number_t'(Beats) : '0);
      end
      if (m_fire) out_q <= out_q + 1'b1;

      if (start_x) begin
        follow_q <= 1'b1;
        judged_q <= 1'b0;
        kind_q <= 1'b0;
        token_q <= in_q;
        offset_q <= beat_q;
        data_q <= s_axis_x_tdata;
      end
      if (start_package) begin
        follow_q <= 1'b1;
        judged_q <= 1'b1;
        kind_q <= 1'b1;
        token_q <= done_q;
        offset_q <= pick_beat_i;
        number_q <= due_q + (keep ? number_t'(Beats) : '0) + number_t'(pick_beat_i);
        last_q <= pick_beat_i == 4'(Beats - 1);
      end
      if (judge) begin
        judged_q <= 1'b1;
        follow_q <= keep;
        number_q <= due_q + number_t'(offset_q);
        last_q <= is_last && !packaged && offset_q == 4'(Beats - 1);
      end
      if (leave) follow_q <= 1'b0;
    end
  end

  always_comb begin
    if (active) begin
      a_pair: assert (!score_fire || done_q != in_q);
      a_source: assert (!m_fire || out_q != due_q);
      a_order: assert (!leave || kind_q || m_axis_tdata == data_q);
      a_last: assert (!leave || m_axis_tlast == last_q);
      a_user: assert (!leave || m_axis_tuser == (kind_q && last_q));

      c_kept: cover (leave && !kind_q && last_q);
      c_package: cover (leave && kind_q && last_q && offset_q == 4'(Beats - 1));
      c_behind: cover (leave && !kind_q && out_q == number_t'(2 * Beats));
      c_full: cover (!s_axis_x_tready);
    end
  end

  // ---- Invariants: where everything is in the module -----------------------------------------
  typedef enum logic [1:0] {Front, Queue, Package, Skid} where_e;
  where_e where_q;
  logic [7:0] distance_q;  // beats before the followed one in front of the decision
  place_t place_q;         // in the queue
  // per decision: its token's first number, participants before it, kept, last of its frame
  number_t number[Ring];
  logic any[Ring], kept[Ring], last[Ring];
  number_t queue_number[Places];  // per place of the queue: the number of what it stands for
  number_t pass_q;                // number of what next goes into the queue
  token_t popped;                 // tokens that are through with the decision

  assign popped = dut.judge_rd_q - token_t'(dut.token_valid_q);

  always_ff @(posedge clk_i) begin
    if (score_fire) begin
      number[done_q[TokenBits-2:0]] <= due_q;
      any[done_q[TokenBits-2:0]] <= any_q;
      kept[done_q[TokenBits-2:0]] <= keep;
      last[done_q[TokenBits-2:0]] <= is_last;
    end
    if (dut.push) queue_number[dut.queue_wr_q[PlaceBits-2:0]] <= pass_q;
    if (!active) begin
      pass_q <= '0;
    end else begin
      pass_q <= pass_q + number_t'(dut.pass && dut.keep) +
          (dut.package_start ? number_t'(Beats) : '0);
      if (start_x) distance_q <= 8'(dut.fifo_count_q) + 8'(dut.x_valid_q) - 8'(dut.pass);
      else if (dut.pass) distance_q <= distance_q - 1'b1;
      if (start_x || start_package) begin
        where_q <= Front;
      end else if (where_q == Front) begin
        place_q <= dut.queue_wr_q;
        if (kind_q ? dut.judge_pop && popped == token_q : dut.pass && distance_q == '0)
          where_q <= Queue;
      end else if (where_q == Queue) begin
        if (dut.head_pop && dut.queue_rd_q == place_q) where_q <= kind_q ? Package : Skid;
      end else if (where_q == Package) begin
        if (dut.package_fire && 4'(dut.package_rd_q) == offset_q) where_q <= Skid;
      end
    end
  end

  // the FIFO and the register behind it
  logic [7:0] beats, write, at;
  token_t tokens, waiting, piped;
  logic [Depth-1:0] wrong_fifo;
  logic in_fifo;

  assign beats = 8'(dut.fifo_count_q) + 8'(dut.x_valid_q);
  assign write = 8'(dut.fifo_rd_q) + 8'(dut.fifo_count_q);
  assign at = 8'(dut.fifo_rd_q) + distance_q - 8'(dut.x_valid_q);
  assign in_fifo = !dut.x_valid_q || distance_q != '0;
  assign tokens = in_q - popped;
  assign waiting = done_q - popped;
  assign piped = token_t'(dut.judge_valid_q[0]) + token_t'(dut.judge_valid_q[1]) +
      token_t'(dut.judge_valid_q[2]);

  always_comb begin
    for (int unsigned i = 0; i < Depth; i++) begin
      wrong_fifo[i] = in_fifo && (at == 8'(i) || at == 8'(i + Depth)) &&
          data_q != dut.u_fifo.gen_lut.mem[i];
    end
  end

  // the rings: entry i is in use if it is fewer than so many behind the read pointer
  logic [Ring-1:0] wrong_flags, wrong_judge, wrong_chain, wrong_span, wrong_before;
  logic [Places-1:0] wrong_queue, wrong_number, wrong_reach, wrong_ahead;
  place_t queued;
  number_t head, skid;

  function automatic number_t token_length(logic is_kept, logic is_end, logic is_any);
    token_length = (is_kept ? number_t'(Beats) : '0) +
        (is_end && (is_any || !is_kept) ? number_t'(Beats) : '0);
  endfunction

  assign queued = dut.queue_wr_q - dut.queue_rd_q;
  assign head = queued == '0 ? pass_q : queue_number[dut.queue_rd_q[PlaceBits-2:0]];
  assign skid = number_t'(dut.u_skid.out_valid_q) + number_t'(dut.u_skid.skid_valid_q);

  logic [TokenBits-2:0] entry;
  logic [PlaceBits-2:0] place;
  token_t nth;
  place_t mth;
  number_t next, span;

  always_comb begin
    for (int unsigned i = 0; i < Ring; i++) begin
      entry = (TokenBits - 1)'(i);
      // tokens that wait for their scores
      nth = token_t'(entry - done_q[TokenBits-2:0]) & token_t'(Ring - 1);
      wrong_flags[i] = nth < token_t'(in_q - done_q) && flags_q[i] != {
          dut.gen_threshold.info_mem[i][0], dut.gen_threshold.info_mem[i][1]};
      // decisions
      nth = token_t'(entry - dut.judge_rd_q[TokenBits-2:0]) & token_t'(Ring - 1);
      wrong_judge[i] = nth < token_t'(dut.judge_wr_q - dut.judge_rd_q) &&
          dut.judge_mem[i][$bits(dut.judge_mem[i])-1-:2] != {last[i], kept[i]};
      nth = token_t'(entry - popped[TokenBits-2:0]) & token_t'(Ring - 1);
      next = number[i] + token_length(kept[i], last[i], any[i]);
      wrong_chain[i] = nth < waiting &&
          (nth + 1'b1 == waiting
           ? next != due_q || any_q != (!last[i] && (any[i] || !kept[i])) || first_q != last[i]
           : next != number[(i+1)%Ring] || any[(i+1)%Ring] != (!last[i] && (any[i] || !kept[i])));
      // how far from the end, and, of those before the followed one, from that
      span = number_t'(due_q - number[i]);
      wrong_span[i] = nth < waiting &&
          span > number_t'(token_t'(waiting - nth)) * number_t'(2 * Beats);
      span = number_t'(number[token_q[TokenBits-2:0]] - number[i]);
      wrong_before[i] = nth < token_t'(token_q - popped) &&
          span > number_t'(token_t'(token_q - popped) - nth) * number_t'(2 * Beats);
    end
    for (int unsigned i = 0; i < Places; i++) begin
      place = (PlaceBits - 1)'(i);
      mth = place_t'(place - dut.queue_rd_q[PlaceBits-2:0]) & place_t'(Places - 1);
      next = queue_number[i] + number_t'(dut.queue_mem[i][XBits+2]) +
          (dut.queue_mem[i][XBits] ? number_t'(Beats) : '0);
      wrong_queue[i] = mth < queued && !dut.queue_mem[i][XBits+2] && !dut.queue_mem[i][XBits];
      wrong_number[i] = mth < queued &&
          next != (mth + 1'b1 == queued ? pass_q : queue_number[(i+1)%Places]);
      span = number_t'(pass_q - queue_number[i]);
      wrong_reach[i] = mth < queued && (span < number_t'(place_t'(queued - mth)) ||
          span > number_t'(place_t'(queued - mth)) * number_t'(Beats + 1));
      span = number_t'(queue_number[place_q[PlaceBits-2:0]] - queue_number[i]);
      wrong_ahead[i] = mth < place_t'(place_q - dut.queue_rd_q) &&
          (span < number_t'(place_t'(place_q - dut.queue_rd_q) - mth) ||
           span > number_t'(place_t'(place_q - dut.queue_rd_q) - mth) * number_t'(Beats + 1));
    end
  end

  // where the followed beat is, and that it is the right one
  logic wrong_front, wrong_place, wrong_package, wrong_skid;
  number_t begin_q, slot;
  logic [XBits+2:0] queue_entry;
  logic [XBits+1:0] skid_entry;

  assign begin_q = number_q - number_t'(offset_q);
  assign slot = number_q - out_q;
  assign queue_entry = dut.queue_mem[place_q[PlaceBits-2:0]];
  assign skid_entry = slot == '0 ? dut.u_skid.out_q : dut.u_skid.skid_q;

  always_comb begin
    wrong_front = 1'b0;
    if (!kind_q) begin
      wrong_front = distance_q >= beats || (!in_fifo && dut.x != data_q) || wrong_fifo != '0 ||
          distance_q != 8'(token_t'(token_q - popped)) * 8'(Beats) + 8'(offset_q) -
                        8'(dut.beat_q) ||
          token_t'(token_q - popped) > tokens ||
          judged_q != (token_t'(token_q - popped) < waiting) ||
          (judged_q && (!kept[token_q[TokenBits-2:0]] ||
                        begin_q != number[token_q[TokenBits-2:0]] ||
                        last_q != (last[token_q[TokenBits-2:0]] && !any[token_q[TokenBits-2:0]] &&
                                   offset_q == 4'(Beats - 1))));
    end else begin
      wrong_front = !judged_q || token_t'(token_q - popped) >= waiting ||
          !last[token_q[TokenBits-2:0]] ||
          !(any[token_q[TokenBits-2:0]] || !kept[token_q[TokenBits-2:0]]) ||
          begin_q != number[token_q[TokenBits-2:0]] +
                     (kept[token_q[TokenBits-2:0]] ? number_t'(Beats) : '0);
    end
    wrong_place = !judged_q || place_t'(place_q - dut.queue_rd_q) >= queued ||
        (kind_q ? !queue_entry[XBits] ||
                  begin_q != queue_number[place_q[PlaceBits-2:0]] + number_t'(queue_entry[XBits+2])
                : !queue_entry[XBits+2] || number_q != queue_number[place_q[PlaceBits-2:0]] ||
                  queue_entry[XBits-1:0] != data_q || queue_entry[XBits+1] != last_q);
    wrong_package = !judged_q || !kind_q || !dut.package_q || 4'(dut.package_rd_q) > offset_q ||
        begin_q != head - number_t'(Beats);
    wrong_skid = !judged_q || slot >= skid || skid_entry[XBits+1] != (kind_q && last_q) ||
        skid_entry[XBits] != last_q || (!kind_q && skid_entry[XBits-1:0] != data_q);
  end

  always_comb begin
    if (active) begin
      // tokens and beats before the decision
      i_beat_in: assert (beat_q == 4'(dut.in_beat_q) && beat_q < 4'(Beats));
      i_beat_out: assert (4'(dut.beat_q) < 4'(Beats));
      i_info: assert (in_q == dut.gen_threshold.info_wr_q && done_q == dut.gen_threshold.info_rd_q);
      i_done: assert (done_q == dut.judge_wr_q + piped);
      i_tokens: assert (token_t'(in_q - done_q) <= tokens &&
                        token_t'(dut.judge_wr_q - popped) <= waiting &&
                        token_t'(dut.judge_wr_q - dut.judge_rd_q) <=
                        token_t'(dut.judge_wr_q - popped) &&
                        waiting <= tokens && tokens <= token_t'(Ring));
      i_beats: assert (beats <= 8'(Depth + 1) && 8'(dut.fifo_count_q) <= 8'(Depth));
      i_inside: assert (beats + 8'(dut.beat_q) == 8'(tokens) * 8'(Beats) + 8'(beat_q));
      i_fifo: assert (8'(dut.fifo_rd_q) < 8'(Depth) &&
                      8'(dut.fifo_wr_q) == (write < 8'(Depth) ? write : write - 8'(Depth)));
      i_begun: assert (dut.beat_q == '0 || dut.token_valid_q);
      i_flags: assert (wrong_flags == '0);
      i_first: assert (first_q == dut.gen_threshold.token_zero_q);
      // decisions
      i_judge: assert (wrong_judge == '0);
      i_token: assert (!dut.token_valid_q || {dut.last_token, dut.keep} ==
          {last[popped[TokenBits-2:0]], kept[popped[TokenBits-2:0]]});
      i_pipe_2: assert (!dut.judge_valid_q[2] ||
          {dut.judge_last_q[2], dut.judge_keep_q[2]} ==
          {last[dut.judge_wr_q[TokenBits-2:0]], kept[dut.judge_wr_q[TokenBits-2:0]]});
      i_pipe_1: assert (!dut.judge_valid_q[1] ||
          {dut.judge_last_q[1], dut.judge_keep_q[1]} ==
          {last[(TokenBits - 1)'(done_q - 1'b1 - token_t'(dut.judge_valid_q[0]))],
           kept[(TokenBits - 1)'(done_q - 1'b1 - token_t'(dut.judge_valid_q[0]))]});
      i_pipe_0: assert (!dut.judge_valid_q[0] ||
          {dut.judge_last_q[0], dut.judge_keep_q[0]} ==
          {last[(TokenBits - 1)'(done_q - 1'b1)], kept[(TokenBits - 1)'(done_q - 1'b1)]});
      i_chain: assert (wrong_chain == '0);
      i_span: assert (wrong_span == '0);
      i_any: assert (dut.any_q ==
                     (waiting == '0 ? any_q : any[popped[TokenBits-2:0]]));
      i_pass: assert (waiting == '0 ? pass_q == due_q : pass_q ==
          number[popped[TokenBits-2:0]] +
          (kept[popped[TokenBits-2:0]] ? number_t'(dut.beat_q) : '0));
      // the queue, the package token in front of it, the output
      i_queued: assert (queued <= place_t'(Places));
      i_room: assert (!dut.queue_room_q || queued <= place_t'(Places - 2));
      i_queue: assert (wrong_queue == '0);
      i_number: assert (wrong_number == '0);
      i_reach: assert (wrong_reach == '0);
      i_package: assert (dut.package_q ? 4'(dut.package_rd_q) < 4'(Beats)
                                       : dut.package_rd_q == '0);
      i_skid: assert (!dut.u_skid.skid_valid_q || dut.u_skid.out_valid_q);
      i_out: assert (out_q + skid == head - (dut.package_q
          ? number_t'(Beats) - number_t'(dut.package_rd_q) : '0));
      // the followed beat
      i_offset: assert (!follow_q || (offset_q < 4'(Beats) &&
                                      (!kind_q || last_q == (offset_q == 4'(Beats - 1)))));
      i_front: assert (!follow_q || where_q != Front || !wrong_front);
      i_before: assert (!follow_q || !judged_q || where_q != Front || wrong_before == '0);
      i_place: assert (!follow_q || where_q != Queue || !wrong_place);
      i_ahead: assert (!follow_q || where_q != Queue || wrong_ahead == '0);
      i_at_output: assert (!follow_q || where_q != Package || !wrong_package);
      i_in_skid: assert (!follow_q || where_q != Skid || !wrong_skid);
    end
  end

endmodule
