# SPDX-License-Identifier: Apache-2.0
"""rtl/lib/product.sv and sum_tree.sv: every pair of operands, every latency."""

import torch

from sievit.quant.itype import IntType
from sievit.quant.params import Port, Stream
from sievit.sim.harness import build_root
from sievit.sim.runner import build, simulate, write_text

BITS = 7
#: (bits and sign of a, bits and sign of b, DSP)
SHAPES = [
    *((7, a, 7, b, dsp) for a in (0, 1) for b in (0, 1) for dsp in (0, 1)),
    (7, 1, 6, 1, 0), (7, 0, 6, 1, 0), (5, 1, 3, 1, 0), (4, 1, 2, 1, 0), (6, 0, 2, 0, 0),
    (3, 1, 1, 0, 0), (2, 1, 5, 0, 0),
]  # fmt: skip
OUT = Port("m_axis", len(SHAPES) + 1, len(SHAPES) + 1, IntType(24, True))
LATENCY = (BITS + 1) // 2 + 1  # of the slowest product

ONE = """
module one_product #(parameter int unsigned A = 1, SA = 0, B = 1, SB = 0, D = 0, Latency = 1) (
    input  logic clk_i,
    input  logic [A-1:0] a,
    input  logic [B-1:0] b,
    output logic [23:0] p
);
  localparam int unsigned Digits = (B + 1) / 2;
  localparam int unsigned Late = Latency - (D != 0 ? 2 : Digits + 1);
  localparam int unsigned Bits = A + B + (SA != 0 || SB != 0 ? 0 : 1);
  logic [Digits-1:0][2:0][A+(SA != 0 ? 2 : 3)-1:0] multiples;
  logic signed [Bits-1:0] p_d;
  logic [Late:0][23:0] late;
  product_multiples #(.Bits(A), .Signed(SA != 0), .Digits(Digits), .Dsp(D != 0)) u_a (
      .clk_i, .a_i(a), .multiples_o(multiples)
  );
  product #(.ABits(A), .ASigned(SA != 0), .BBits(B), .BSigned(SB != 0), .Dsp(D != 0)) u_p (
      .clk_i, .multiples_i(multiples), .b_i(b), .p_o(p_d)
  );
  assign late[0] = 24'(p_d);
  for (genvar i = 1; i <= Late; i++) begin : gen_late
    always_ff @(posedge clk_i) late[i] <= late[i-1];
  end
  assign p = late[Late];
endmodule
"""

BENCH = """
module tb_product (
    input  logic clk_i,
    input  logic rst_ni,
    input  logic [PAIR-1:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,
    output logic [COUNT*24+23:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  localparam int unsigned Latency = LATENCY;
  localparam int unsigned Levels = $clog2(COUNT);
  logic [Latency+Levels-1:0][2:0] flags_q;
  logic [COUNT*24-1:0] products;
  logic [Levels:0][COUNT*24-1:0] late;
  logic [23+Levels:0] sum;
  logic unused;
  assign unused = m_axis_tready ^ ^sum[23+Levels:24];  // always ready, or beats are lost
  assign s_axis_tready = 1'b1;
  assign {m_axis_tuser, m_axis_tlast, m_axis_tvalid} = flags_q[Latency+Levels-1];
  always_ff @(posedge clk_i) begin
    flags_q <= {flags_q[Latency+Levels-2:0], {s_axis_tuser, s_axis_tlast, s_axis_tvalid}};
    if (!rst_ni) flags_q <= '0;
  end
INSTANCES
  sum_tree #(.Terms(COUNT), .Bits(24)) u_sum (.clk_i, .terms_i(products), .sum_o(sum));
  assign late[0] = products;
  for (genvar i = 1; i <= Levels; i++) begin : gen_late
    always_ff @(posedge clk_i) late[i] <= late[i-1];
  end
  assign m_axis_tdata = {sum[23:0], late[Levels]};
endmodule
"""


def test_every_product() -> None:
    folder = build_root() / "lib-product"
    instances = [
        f"  one_product #(.A({a}), .SA({sa}), .B({b}), .SB({sb}), .D({d}), .Latency(Latency))\n"
        f"      u_{i} (\n"
        f"      .clk_i, .a(s_axis_tdata[{a - 1}:0]), .b(s_axis_tdata[{BITS + b - 1}:{BITS}]),\n"
        f"      .p(products[{24 * i + 23}:{24 * i}])\n  );\n"
        for i, (a, sa, b, sb, d) in enumerate(SHAPES)
    ]
    text = BENCH.replace("INSTANCES", "".join(instances)).replace("PAIR", str(2 * BITS))
    text = text.replace("LATENCY", str(LATENCY)).replace("COUNT", str(len(SHAPES)))
    sources = [folder / "one_product.sv", folder / "tb_product.sv"]
    for path, content in zip(sources, (ONE, text), strict=True):
        write_text(path, content)
    build("tb_product", sources, {}, folder)
    x = torch.cartesian_prod(torch.arange(1 << BITS), torch.arange(1 << BITS))
    source = Port("s_axis", 2, 2, IntType(BITS, False))
    got = simulate(folder, "tb_product", [(source, Stream.full(x[None]))], OUT).output.data[0]

    def operand(bits: int, signed: int, column: int) -> torch.Tensor:
        value = x[:, column] % (1 << bits)
        return (
            torch.where(value >= 1 << (bits - 1), value - (1 << bits), value) if signed else value
        )

    want = [operand(a, sa, 0) * operand(b, sb, 1) for a, sa, b, sb, _ in SHAPES]
    for i, shape in enumerate(SHAPES):
        assert torch.equal(got[:, i], want[i]), f"product {shape}"
    assert torch.equal(got[:, -1], torch.stack(want).sum(0)), "sum_tree"
