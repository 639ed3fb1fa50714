// SPDX-License-Identifier: Apache-2.0

/// p_o = a_i * b_i + c_i on signed integers, Latency enabled cycles later, one result per cycle.
///
/// In LUTs the product is a chain of radix-4 Booth rows, one per two bits of the factor that makes
/// the chain smaller: a row adds 0, 1, 2, -1 or -2 times the other factor on one carry chain, a LUT6
/// per bit. Four rows stand between registers. With Dsp = 1 it is one DSP block of the same latency,
/// if the factors fit one: 27 and 18 bits, and 9 bits together (open synthesis takes none below).
module booth_mult #(
    parameter int unsigned ABits = 8,
    parameter int unsigned BBits = 8,
    parameter int unsigned CBits = 1,               // of the addend; tied to zero: no cost
    parameter int unsigned PBits = ABits + BBits,   // low bits of the result
    parameter int unsigned Dsp = 0,
    localparam int unsigned RowsA = (ABits + 1) / 2,
    localparam int unsigned RowsB = (BBits + 1) / 2,
    localparam bit Swap = RowsA * (BBits + 2) < RowsB * (ABits + 2),  // rows by the bits of a
    localparam int unsigned Rows = Swap ? RowsA : RowsB,
    localparam int unsigned Latency = (Rows + 3) / 4
) (
    input  logic                    clk_i,
    input  logic                    en_i,
    input  logic signed [ABits-1:0] a_i,
    input  logic signed [BBits-1:0] b_i,
    input  logic signed [CBits-1:0] c_i,
    output logic signed [PBits-1:0] p_o
);

  localparam int unsigned Most = ABits > BBits ? ABits : BBits;
  localparam int unsigned Least = ABits > BBits ? BBits : ABits;

  if (Dsp != 0 && Most <= 27 && Least <= 18 && ABits + BBits >= 9 && PBits >= 9) begin : gen_dsp
    (* use_dsp = "yes" *) logic signed [PBits-1:0] p_q[Latency];

    always_ff @(posedge clk_i) begin
      if (en_i) begin
        p_q[0] <= PBits'(a_i) * PBits'(b_i) + PBits'(c_i);
        for (int unsigned i = 1; i < Latency; i++) p_q[i] <= p_q[i-1];
      end
    end

    assign p_o = p_q[Latency-1];
  end else begin : gen_rows
    localparam int unsigned WideBits = Swap ? BBits : ABits;
    localparam int unsigned Whole = 2 * Rows + (WideBits > CBits ? WideBits : CBits) + 2;

    // factors of every stage; the digits overlap by a bit, the first one hangs over a zero
    logic signed [WideBits-1:0] wide_q[Latency];
    logic signed [2*Rows:0] digits_q[Latency];
    /* verilator lint_off UNUSEDSIGNAL */
    logic signed [Whole-1:0] whole;  // PBits may be less
    /* verilator lint_on UNUSEDSIGNAL */

    assign wide_q[0] = WideBits'(Swap ? Most'(b_i) : Most'(a_i));
    assign digits_q[0] = (2 * Rows + 1)'($signed({Swap ? Most'(a_i) : Most'(b_i), 1'b0}));

    for (genvar s = 1; s < Latency; s++) begin : gen_stage
      always_ff @(posedge clk_i) begin
        if (en_i) begin
          wide_q[s] <= wide_q[s-1];
          digits_q[s] <= digits_q[s-1];
        end
      end
    end

    for (genvar r = 0; r < Rows; r++) begin : gen_row
      // The sum up to this row, in units of 4^r, is below 8/3 |wide| + |c| / 4^r.
      localparam int unsigned CLeft = CBits > 2 * r ? CBits - 2 * r : 0;
      localparam int unsigned Bits = (CLeft > WideBits ? CLeft : WideBits) + 2;
      localparam int unsigned Stage = r / 4;
      localparam bit Cut = r % 4 == 3 || r == Rows - 1;

      logic [2:0] digit;
      logic signed [Bits-1:0] above, multiple, after, sum;

      assign digit = digits_q[Stage][2*r+:3];
      assign multiple = ((digit[1] ^ digit[0]) ? Bits'(wide_q[Stage])
                         : (digit[2] ^ digit[1]) ? Bits'(wide_q[Stage]) <<< 1 : '0)
                        ^ {Bits{digit[2]}};
      assign after = above + multiple + Bits'(digit[2]);

      if (r == 0) begin : gen_addend
        assign above = Bits'(c_i);
      end else begin : gen_before
        assign above = Bits'(gen_row[r-1].sum >>> 2);
      end

      if (Cut) begin : gen_register
        always_ff @(posedge clk_i) if (en_i) sum <= after;
      end else begin : gen_wire
        assign sum = after;
      end

      // two bits of the result are final; the last row gives the rest
      localparam int unsigned Wait = r == Rows - 1 ? 0 : Latency - Stage - (Cut ? 1 : 0);
      logic [1:0] low[Wait+1];

      assign low[0] = sum[1:0];
      for (genvar w = 0; w < Wait; w++) begin : gen_wait
        always_ff @(posedge clk_i) if (en_i) low[w+1] <= low[w];
      end
      assign whole[2*r+:2] = low[Wait];
      if (r == Rows - 1) begin : gen_high
        assign whole[Whole-1:2*r+2] = (Whole - 2 * r - 2)'(sum >>> 2);
      end
    end

    assign p_o = PBits'(whole);
  end

endmodule
