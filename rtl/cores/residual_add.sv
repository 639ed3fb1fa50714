// SPDX-License-Identifier: Apache-2.0

/// a' = round_shift(a * AMult, AMultShift), y = saturate(round_shift((a' << AShift) + (b << BShift), Shift))
/// for every channel. Frames end together; tuser is that of a. One beat per cycle, latency 3; 4 if a is
/// scaled, 5 in a DSP block.
///
/// In LUTs the product is a chain of rows, one per five bits of a: a multiple of the constant is a
/// table, in one LUT6 per bit with the adder.
///
/// With Sets > 1 each frame has the factor of the set that its beat of s_axis_set names; AMult is the
/// greatest of them. The beat goes with the last ones of the frame. The factor is no constant then: in
/// LUTs the product is a booth_mult, and the latency 4 and that of it.
module residual_add #(
    parameter int unsigned MaxTokens = 1,   // tokens of a frame, any number works
    parameter int unsigned Channels = 4,
    parameter int unsigned Simd = 2,        // divides Channels
    parameter int unsigned ABits = 12,
    parameter bit ASigned = 1,
    parameter int unsigned BBits = 12,
    parameter bit BSigned = 1,
    parameter int unsigned OutBits = 12,
    parameter bit OutSigned = 1,
    parameter int unsigned AShift = 0,
    parameter int unsigned BShift = 0,
    parameter int Shift = 0,                // negative: left shift
    parameter bit HalfUp = 0,               // ties upwards instead of to even
    parameter int unsigned AMult = 1,       // positive, at most 31 bits
    parameter int unsigned AMultShift = 0,
    parameter bit MultDsp = 0,              // a' in DSP blocks if the factors fit one
    parameter int unsigned Sets = 1,        // 1 to 64
    parameter SettingsFile = ""             // the factor of every set, 31 bits
) (
    input  logic                    clk_i,
    input  logic                    rst_ni,
    input  logic [  Simd*ABits-1:0] s_axis_a_tdata,
    input  logic                    s_axis_a_tvalid,
    output logic                    s_axis_a_tready,
    input  logic                    s_axis_a_tlast,
    input  logic                    s_axis_a_tuser,
    input  logic [  Simd*BBits-1:0] s_axis_b_tdata,
    input  logic                    s_axis_b_tvalid,
    output logic                    s_axis_b_tready,
    input  logic                    s_axis_b_tlast,
    input  logic                    s_axis_b_tuser,
    input  logic [(Sets > 1 ? $clog2(Sets) : 1)-1:0] s_axis_set_tdata,
    input  logic                    s_axis_set_tvalid,
    output logic                    s_axis_set_tready,
    input  logic                    s_axis_set_tlast,
    input  logic                    s_axis_set_tuser,
    output logic [Simd*OutBits-1:0] m_axis_tdata,
    output logic                    m_axis_tvalid,
    input  logic                    m_axis_tready,
    output logic                    m_axis_tlast,
    output logic                    m_axis_tuser
);
  /*verilator no_inline_module*/

  // verilator coverage_off
  // called for constants alone, so none of its lines ever runs
  /// Bits of a signed integer that holds both.
  function automatic int unsigned bits_of(longint low, longint high);
    bits_of = 1;
    while (low < -(64'sd1 <<< (bits_of - 1)) || high >= (64'sd1 <<< (bits_of - 1))) begin
      bits_of = bits_of + 1;
    end
  endfunction
  // verilator coverage_on

  localparam bit Scaled = AMult != 1 || AMultShift != 0;
  localparam longint Low = ASigned ? -(64'sd1 <<< (ABits - 1)) * longint'(AMult) : 64'sd0;
  localparam longint High = ((64'sd1 <<< (ASigned ? ABits - 1 : ABits)) - 64'sd1) * longint'(AMult);
  // half up rounds in the product, where it costs nothing
  localparam longint Half = HalfUp ? (64'sd1 <<< AMultShift) >>> 1 : 64'sd0;
  localparam int unsigned ProductBits = bits_of(Low + Half, High + Half);
  localparam int unsigned SkipBits = bits_of(
      num_pkg::round_shift(Low, int'(AMultShift), HalfUp),
      num_pkg::round_shift(High, int'(AMultShift), HalfUp)
  );  // of a', signed

  localparam int unsigned XBits = ABits + (ASigned ? 0 : 1);
  localparam int unsigned MultBits = $clog2(AMult + 1) + 1;
  localparam int unsigned Most = XBits > MultBits ? XBits : MultBits;
  localparam int unsigned Least = XBits > MultBits ? MultBits : XBits;
  // as in booth_mult; open synthesis makes a shift of a constant power of two
  localparam bit InDsp = MultDsp && Scaled && Most <= 27 && Least <= 18 && XBits + MultBits >= 9 &&
      (Sets > 1 || (AMult & (AMult - 1)) != 0);
  // of a booth_mult
  localparam int unsigned RowsX = (XBits + 1) / 2;
  localparam int unsigned RowsMult = (MultBits + 1) / 2;
  localparam int unsigned Rows =
      RowsX * (MultBits + 2) < RowsMult * (XBits + 2) ? RowsX : RowsMult;
  // cycles of a'
  localparam int unsigned Delay = !Scaled ? 0 : InDsp ? 2 : Sets > 1 ? 1 + (Rows + 3) / 4 : 1;
  localparam int unsigned Stages = Delay + 2;

  localparam int unsigned AWide = SkipBits - (ASigned ? 0 : 1) + AShift;
  localparam int unsigned BWide = BBits + BShift;
  localparam int unsigned SumBits = (AWide > BWide ? AWide : BWide) + 2;

  logic [Simd*ABits-1:0] a;
  logic [Simd*BBits-1:0] b;
  logic en, joined, take, valid, last, user;
  logic signed [MultBits-1:0] mult;  // a cycle behind a, with the sets
  logic [Stages-1:0] valid_q, last_q, user_q;  // beside a', its sum, the output
  logic signed [SkipBits-1:0] skip[Simd];
  logic [Simd*BBits-1:0] b_q[Delay+1];
  logic signed [SumBits-1:0] sum_q[Simd];
  logic [Simd*OutBits-1:0] out_q;
  logic unused;

  // b repeats what a says about the frame
  assign unused = ^{s_axis_b_tlast, s_axis_b_tuser, MaxTokens, Channels,
                    s_axis_set_tlast, s_axis_set_tuser};

  axis_join #(
      .ABits(Simd * ABits),
      .BBits(Simd * BBits)
  ) u_join (
      .s_axis_a_tdata,
      .s_axis_a_tvalid,
      .s_axis_a_tready,
      .s_axis_a_tlast,
      .s_axis_a_tuser,
      .s_axis_b_tdata,
      .s_axis_b_tvalid,
      .s_axis_b_tready,
      .m_axis_tdata ({b, a}),
      .m_axis_tvalid(joined),
      .m_axis_tready(take),
      .m_axis_tlast (last),
      .m_axis_tuser (user)
  );

  if (Sets > 1) begin : gen_sets
    logic [30:0] settings_rom[Sets];
    logic [30:0] mult_q;
    logic unused_bits;

    // without a file it can be elaborated; no bench simulates that
    // verilator coverage_off
    initial if (SettingsFile != "") $readmemh(SettingsFile, settings_rom);
    // verilator coverage_on

    always_ff @(posedge clk_i) if (en) mult_q <= settings_rom[s_axis_set_tdata];

    assign mult = MultBits'({1'b0, mult_q});
    assign unused_bits = ^{mult_q, mult};
    assign take = en && s_axis_set_tvalid;
    assign valid = joined && s_axis_set_tvalid;
    assign s_axis_set_tready = en && joined && last;
  end else begin : gen_one
    logic unused_set;

    assign mult = MultBits'(AMult);
    assign unused_set = ^{s_axis_set_tdata, s_axis_set_tvalid, mult};
    assign take = en;
    assign valid = joined;
    assign s_axis_set_tready = 1'b1;
  end

  assign b_q[0] = b;
  for (genvar s = 1; s <= Delay; s++) begin : gen_wait
    always_ff @(posedge clk_i) if (en) b_q[s] <= b_q[s-1];
  end

  // verilator coverage_off
  // this too
  /// Bit j of d * AMult + more for every d of five bits, or six in the first row.
  function automatic logic [63:0] column(int unsigned j, int unsigned bits, bit is_signed, longint more);
    longint digit;
    for (int unsigned d = 0; d < 64; d++) begin
      digit = longint'(d);
      if (is_signed && d >> (bits - 1) != 0) digit = digit - (64'sd1 <<< bits);
      column[d] = 1'((digit * longint'(AMult) + more) >>> j);
    end
  endfunction
  // verilator coverage_on

  for (genvar l = 0; l < Simd; l++) begin : gen_lane
    logic signed [XBits-1:0] x;
    assign x = XBits'($signed({ASigned & a[l*ABits+ABits-1], a[l*ABits+:ABits]}));

    if (!Scaled) begin : gen_plain
      assign skip[l] = SkipBits'(x);
    end else begin : gen_scaled
      logic signed [ProductBits-1:0] product;  // with Half

      assign skip[l] = SkipBits'(HalfUp ? 64'(product) >>> AMultShift
                                 : num_pkg::round_shift(64'(product), int'(AMultShift), 1'b0));

      if (InDsp) begin : gen_dsp
        logic signed [XBits-1:0] x_q;
        (* use_dsp = "yes" *) logic signed [ProductBits-1:0] product_q;

        always_ff @(posedge clk_i) begin
          if (en) begin
            x_q <= x;
            product_q <= ProductBits'(x_q) * ProductBits'(mult) + ProductBits'(Half);
          end
        end
        assign product = product_q;
      end else if (Sets > 1) begin : gen_booth
        logic signed [XBits-1:0] x_q;

        always_ff @(posedge clk_i) if (en) x_q <= x;

        booth_mult #(
            .ABits(XBits),
            .BBits(MultBits),
            .CBits(HalfUp ? AMultShift + 1 : 1),
            .PBits(ProductBits)
        ) u_mult (
            .clk_i,
            .en_i(en),
            .a_i (x_q),
            .b_i (mult),
            .c_i ((HalfUp ? AMultShift + 1 : 1)'(Half)),
            .p_o (product)
        );
      end else begin : gen_rows
        localparam int unsigned Chain = XBits <= 6 ? 1 : (XBits + 3) / 5;
        logic [ProductBits-1:0] rows, product_q;

        for (genvar r = 0; r < Chain; r++) begin : gen_row
          localparam bit Top = r == Chain - 1;
          localparam int unsigned Start = r == 0 ? 0 : 5 * r + 1;
          localparam int unsigned End = Top ? XBits : 5 * r + 6;
          // the sum up to this row, in units of 2^Start: not negative below the last one
          localparam int unsigned Bits = Top ? ProductBits - Start
              : $clog2(((Half + ((64'sd1 <<< End) - 64'sd1) * longint'(AMult)) >>> Start) + 64'sd1);
          logic [Bits-1:0] multiple, sum;

          for (genvar j = 0; j < Bits; j++) begin : gen_bit
            localparam logic [63:0] Table = column(j, End - Start, Top, r == 0 ? Half : 64'sd0);
            assign multiple[j] = Table[6'(x[End-1:Start])];
          end

          if (r == 0) begin : gen_first
            assign sum = multiple;
          end else begin : gen_next
            assign sum = Bits'(gen_row[r-1].sum >> (r == 1 ? 6 : 5)) + multiple;
          end

          // what no later row adds to
          localparam int unsigned Final = Top ? Bits : End - Start;
          assign rows[Start+:Final] = sum[Final-1:0];
        end

        always_ff @(posedge clk_i) if (en) product_q <= rows;
        assign product = product_q;
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (en) begin
      for (int unsigned i = 0; i < Simd; i++) begin
        sum_q[i] <= (SumBits'(skip[i]) <<< AShift) +
            (SumBits'($signed({BSigned & b_q[Delay][i*BBits+BBits-1],
                               b_q[Delay][i*BBits+:BBits]})) <<< BShift);
        out_q[i*OutBits+:OutBits] <= OutBits'(num_pkg::saturate(
            num_pkg::round_shift(64'(sum_q[i]), Shift, HalfUp), int'(OutBits), OutSigned));
      end
      last_q <= {last_q[Stages-2:0], last};
      user_q <= {user_q[Stages-2:0], user};
    end
    if (!rst_ni) valid_q <= '0;
    else if (en) valid_q <= {valid_q[Stages-2:0], valid};
  end

  skid_buffer #(
      .DataBits(Simd * OutBits)
  ) u_out (
      .clk_i,
      .rst_ni,
      .s_axis_tdata (out_q),
      .s_axis_tvalid(valid_q[Stages-1]),
      .s_axis_tready(en),
      .s_axis_tlast (last_q[Stages-1]),
      .s_axis_tuser (user_q[Stages-1] && last_q[Stages-1]),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );

endmodule
