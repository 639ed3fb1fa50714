// SPDX-License-Identifier: Apache-2.0

/// Rounding, saturation and normalised-table indices, as in quant/rounding.py, on 64-bit integers.
///
/// Callers sign- or zero-extend their operand; with constant shifts and widths all unused bits fold away.
package num_pkg;

  /// x / 2^s rounded to the nearest integer, ties to even or (half_up) upwards;
  /// s = 0 is the identity, s < 0 an exact left shift. |s| <= 62.
  function automatic logic signed [63:0] round_shift(logic signed [63:0] x, int s, bit half_up);
    logic half;
    logic sticky;
    logic odd;
    logic up;
    if (s > 0) begin
      half = 1'(x >> (s - 1));
      sticky = (x & ~(64'hFFFF_FFFF_FFFF_FFFF << (s - 1))) != 64'd0;
      odd = 1'(x >> s);
      up = half && (half_up || sticky || odd);
      round_shift = (x >>> s) + $signed({63'd0, up});
    end else begin
      round_shift = x <<< (-s);
    end
  endfunction

  /// x clamped to the range of an integer type of `bits` bits, 1..62.
  function automatic logic signed [63:0] saturate(
      logic signed [63:0] x, int bits, bit is_signed
  );
    logic signed [63:0] low;
    logic signed [63:0] high;
    logic signed [63:0] beyond;
    low  = is_signed ? -(64'sd1 <<< (bits - 1)) : 64'sd0;
    high = (64'sd1 <<< (is_signed ? bits - 1 : bits)) - 64'sd1;
    // x is in the range if the bits beyond it repeat the sign: cheaper than two comparisons
    beyond = x >>> (is_signed ? bits - 1 : bits);
    if (beyond == ((is_signed && x[63]) ? -64'sd1 : 64'sd0)) saturate = x;
    else saturate = x[63] ? low : high;
  endfunction

  /// Position of the leading one of x >= 1.
  function automatic int unsigned leading_one(logic [63:0] x);
    leading_one = 0;
    for (int unsigned step = 32; step > 0; step = step >> 1) begin
      if ((x >> leading_one) >= (64'd1 << step)) leading_one = leading_one + step;
    end
  endfunction

  /// The `bits` bits below the leading one, which stands at position p.
  function automatic logic [63:0] reciprocal_index(
      logic [63:0] x, int unsigned p, int unsigned bits
  );
    reciprocal_index = (p >= bits ? x >> (p - bits) : x << (bits - p)) - (64'd1 << bits);
  endfunction

  /// floor(x / 4^e * 2^bits), where e = leading_one(x) / 2.
  function automatic logic [63:0] rsqrt_index(logic [63:0] x, int unsigned e, int unsigned bits);
    rsqrt_index = 2 * e >= bits ? x >> (2 * e - bits) : x << (bits - 2 * e);
  endfunction

endpackage
