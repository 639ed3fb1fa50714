# SPDX-License-Identifier: Apache-2.0
"""rtl/lib: streams arrive unchanged under every stall profile, at full rate; num_pkg ==
quant/rounding.py."""

import pickle
from pathlib import Path

import pytest
import torch

from sievit.quant import rounding
from sievit.quant.itype import IntType
from sievit.quant.multiplier import BoothMult
from sievit.quant.params import Port, Stream, random_frames
from sievit.quant.tools import ToolError
from sievit.sim.harness import build_root, compare
from sievit.sim.runner import (
    SimulationError,
    build,
    check_tools,
    simulate,
    wrapper,
    write_text,
)

SEED = 11
STALLS = ("none", "both", "ready_25", "bursts")


def build_library(name: str, module: str, s: Port, m: Port, parameters: dict[str, int]) -> Path:
    """Compile one stream module between checkers; returns the folder."""
    folder = build_root() / f"lib-{name}"
    source = folder / f"tb_{module}.sv"
    write_text(source, wrapper(module, [(s, True), (m, False)], dict(parameters)))
    build(f"tb_{module}", [source], {}, folder)
    return folder


def check_identity(
    module: str, in_lanes: int, out_lanes: int, parameters: dict[str, int], period: int
) -> int:
    """Frames come through unchanged; ``period`` cycles per token without stalls. Returns the head
    latency."""
    t = IntType(5, True)
    s, m = Port("s_axis", 12, in_lanes, t), Port("m_axis", 12, out_lanes, t)
    name = f"{module}-{in_lanes}-{out_lanes}-{parameters.get('Depth', 0)}"
    folder = build_library(name, module, s, m, parameters)
    x = random_frames(torch.Generator().manual_seed(SEED), s, 40, 4, package=True)
    for stall in STALLS:
        result = simulate(folder, f"tb_{module}", [(s, x)], m, stall, SEED)
        compare(f"{name}, stall {stall}, seed {SEED}", x, result.output)
        if stall == "none":
            cycles = result.out_last[-1] - result.out_last[0]
            assert cycles == period * int(x.length[1:].sum())
            head = result.out_first[0] - result.in_first[0]
    return head


def test_skid_buffer() -> None:
    assert check_identity("skid_buffer", 3, 3, {"DataBits": 15}, 4) == 1


@pytest.mark.sampled(1)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_axis_fifo(depth: int) -> None:
    assert check_identity("axis_fifo", 4, 4, {"DataBits": 20, "Depth": depth}, 3) == 2


@pytest.mark.sampled(1)
@pytest.mark.parametrize("lanes", [(1, 12), (2, 6), (12, 4)])
def test_axis_width(lanes: tuple[int, int]) -> None:
    parameters = {"LaneBits": 5, "InLanes": lanes[0], "OutLanes": lanes[1]}
    check_identity("axis_width", *lanes, parameters, 12 // min(lanes))


FIFO_FILL = """
module tb_fill (
    input  logic clk_i,
    input  logic rst_ni,
    input  logic [7:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,
    output logic [7:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  // opens once the FIFO is full, and stays open
  logic open_q, valid, ready;
  always_ff @(posedge clk_i) open_q <= rst_ni && (open_q || (s_axis_tvalid && !s_axis_tready));
  assign m_axis_tvalid = valid && open_q;
  assign ready = m_axis_tready && open_q;
  axis_fifo #(.DataBits(8), .Depth(7)) u_fifo (
      .clk_i, .rst_ni, .s_axis_tdata, .s_axis_tvalid, .s_axis_tready, .s_axis_tlast, .s_axis_tuser,
      .m_axis_tdata, .m_axis_tvalid(valid), .m_axis_tready(ready), .m_axis_tlast, .m_axis_tuser
  );
endmodule
"""


def test_axis_fifo_holds_its_depth() -> None:
    folder = build_root() / "lib-fill"
    write_text(folder / "tb_fill.sv", FIFO_FILL)
    build("tb_fill", [folder / "tb_fill.sv"], {}, folder)
    port = Port("s_axis", 1, 1, IntType(8, False))
    x = Stream.full(torch.arange(20).reshape(1, 20, 1))
    result = simulate(folder, "tb_fill", [(port, x)], Port("m_axis", 1, 1, port.itype))
    assert result.output == x
    assert result.out_first[0] >= 7  # nothing left before 7 beats were in


FORK = """
module tb_fork (
    input  logic clk_i,
    input  logic rst_ni,
    input  logic [7:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,
    output logic [7:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  wire [7:0] a_tdata;
  wire       a_tvalid;
  wire       a_tready;
  wire       a_tlast;
  wire       a_tuser;
  wire [7:0] b_tdata;
  wire       b_tvalid;
  wire       b_tready;
  wire       b_tlast;
  wire       b_tuser;
  logic [15:0] lfsr_q;
  always_ff @(posedge clk_i) begin
    lfsr_q <= rst_ni ? {lfsr_q[14:0], lfsr_q[15] ^ lfsr_q[13] ^ lfsr_q[12] ^ lfsr_q[10]} : 16'hace1;
  end
  assign a_tready = lfsr_q[0];
  assign b_tready = lfsr_q[5] && lfsr_q[9];
  axis_fork #(.NumOut(3), .DataBits(8)) u_fork (
      .clk_i, .rst_ni, .s_axis_tdata, .s_axis_tvalid, .s_axis_tready, .s_axis_tlast, .s_axis_tuser,
      .m_axis_tdata({m_axis_tdata, b_tdata, a_tdata}),
      .m_axis_tvalid({m_axis_tvalid, b_tvalid, a_tvalid}),
      .m_axis_tready({m_axis_tready, b_tready, a_tready}),
      .m_axis_tlast({m_axis_tlast, b_tlast, a_tlast}),
      .m_axis_tuser({m_axis_tuser, b_tuser, a_tuser})
  );
  axis_tap #(.DataBits(8)) u_tap_a (
      .clk_i, .rst_ni, .tdata(a_tdata), .tvalid(a_tvalid), .tready(a_tready), .tlast(a_tlast),
      .tuser(a_tuser)
  );
  axis_tap #(.DataBits(8)) u_tap_b (
      .clk_i, .rst_ni, .tdata(b_tdata), .tvalid(b_tvalid), .tready(b_tready), .tlast(b_tlast),
      .tuser(b_tuser)
  );
endmodule
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stall", ["none", "both", "ready_25"])
def test_axis_fork(stall: str) -> None:
    folder = build_root() / "lib-fork"
    write_text(folder / "tb_fork.sv", FORK)
    build("tb_fork", [folder / "tb_fork.sv"], {}, folder)
    port = Port("s_axis", 2, 1, IntType(8, False))
    x = random_frames(torch.Generator().manual_seed(SEED), port, 60, 6, package=True)
    taps = {"a": port, "b": port}
    # silence at the end of the bench lets the slower branches finish
    result = simulate(
        folder, "tb_fork", [(port, x)], Port("m_axis", 2, 1, port.itype), stall, SEED, taps
    )
    for name, got in {"m_axis": result.output, **result.edges}.items():
        compare(f"fork output {name}, stall {stall}, seed {SEED}", x, got)


NUM = """
module tb_num (
    input  logic clk_i,
    input  logic rst_ni,
    input  logic [185:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,
    output logic [433:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  logic signed [61:0] x, s, bits;
  logic [63:0] positive;
  logic [433:0] y;
  int unsigned p;
  logic unused;
  assign unused = ^{s[61:32], bits[61:32]};
  assign {bits, s, x} = s_axis_tdata;
  assign positive = x < 1 ? 64'd1 : 64'(x);
  assign p = num_pkg::leading_one(positive);
  assign y = {
    62'(num_pkg::rsqrt_index(positive, p / 2, 32'(bits))),
    62'(num_pkg::reciprocal_index(positive, p, 32'(bits))),
    62'(p),
    62'(num_pkg::saturate(64'(x), int'(bits), 1'b0)),
    62'(num_pkg::saturate(64'(x), int'(bits), 1'b1)),
    62'(num_pkg::round_shift(64'(x), int'(s), 1'b1)),
    62'(num_pkg::round_shift(64'(x), int'(s), 1'b0))
  };
  skid_buffer #(.DataBits(434)) u_skid (
      .clk_i, .rst_ni, .s_axis_tdata(y), .s_axis_tvalid, .s_axis_tready, .s_axis_tlast,
      .s_axis_tuser, .m_axis_tdata, .m_axis_tvalid, .m_axis_tready, .m_axis_tlast, .m_axis_tuser
  );
endmodule
"""


def test_num_pkg() -> None:
    folder = build_root() / "lib-num"
    write_text(folder / "tb_num.sv", NUM)
    build("tb_num", [folder / "tb_num.sv"], {}, folder)
    # every 10-bit x with every shift that matters, and random wide ones
    x, s = (g.reshape(-1) for g in torch.meshgrid(
        torch.arange(-512, 512), torch.arange(-3, 12), indexing="ij"))  # fmt: skip
    rng = torch.Generator().manual_seed(SEED)
    wide = torch.randint(-(2**61), 2**61, (6000,), generator=rng)
    wide = wide >> torch.randint(0, 60, wide.shape, generator=rng)
    wide_s = torch.randint(0, 61, wide.shape, generator=rng)
    near = torch.randint(-50, 50, wide.shape, generator=rng) << wide_s.clamp(max=50)
    ties = near + (1 << wide_s.clamp(1, 50)) // 2  # exactly between two integers
    x, s = torch.cat([x, wide, ties]), torch.cat([s, wide_s, wide_s.clamp(1, 50)])
    bits = torch.randint(1, 12, x.shape, generator=rng)
    t = IntType(62, True)
    data = torch.stack([x, s, bits], 1)[None]
    s_port, m_port = Port("s_axis", 3, 3, t), Port("m_axis", 7, 7, t)
    got = simulate(folder, "tb_num", [(s_port, Stream.full(data))], m_port).output.data[0].T
    positive = x.clamp(min=1)
    assert torch.equal(got[0], rounding.round_shift(x, s))
    assert torch.equal(got[1], rounding.round_shift(x, s, half_up=True))
    for b in range(1, 12):
        at = bits == b
        assert torch.equal(got[2][at], rounding.saturate(x[at], IntType(b, True)))
        assert torch.equal(got[3][at], rounding.saturate(x[at], IntType(b, False)))
        index, position = rounding.reciprocal_index(positive[at], b)
        assert torch.equal(got[4][at], position)
        assert torch.equal(got[5][at], index)
        assert torch.equal(got[6][at], rounding.rsqrt_index(positive[at], b)[0])


MULT = """
module tb_mult #(
    parameter int unsigned ABits = 4,
    parameter int unsigned BBits = 4,
    parameter int unsigned CBits = 4,
    parameter int unsigned PBits = 8,
    parameter int unsigned Dsp = 0,
    parameter int unsigned Latency = 1
) (
    input  logic clk_i,
    input  logic rst_ni,
    input  logic [119:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,
    output logic [39:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  logic signed [39:0] a, b, c;
  logic signed [PBits-1:0] p;
  logic [Latency-1:0] valid_q, last_q;
  logic unused;

  assign {c, b, a} = s_axis_tdata;
  assign unused = ^{a, b, c, s_axis_tuser};
  assign s_axis_tready = m_axis_tready || !m_axis_tvalid;
  assign {m_axis_tvalid, m_axis_tlast} = {valid_q[Latency-1], last_q[Latency-1]};
  assign {m_axis_tdata, m_axis_tuser} = {40'(p), 1'b0};

  always_ff @(posedge clk_i) begin
    if (s_axis_tready) last_q <= Latency'({last_q, s_axis_tlast});
    if (!rst_ni) valid_q <= '0;
    else if (s_axis_tready) valid_q <= Latency'({valid_q, s_axis_tvalid});
  end

  booth_mult #(
      .ABits(ABits), .BBits(BBits), .CBits(CBits), .PBits(PBits), .Dsp(Dsp)
  ) u_mult (
      .clk_i, .en_i(s_axis_tready), .a_i(ABits'(a)), .b_i(BBits'(b)), .c_i(CBits'(c)), .p_o(p)
  );
endmodule
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("a", "b", "c", "p", "dsp"),
    [
        (4, 4, 5, 10, 0),
        (3, 6, 7, 10, 0),  # chains of two and of three rows, by either factor
        (7, 2, 4, 12, 0),
        (5, 8, 1, 9, 0),  # the low bits of the product
        (1, 1, 9, 10, 0),
        (15, 16, 18, 33, 0),
        (24, 17, 1, 37, 0),
        (15, 16, 18, 33, 1),
        (24, 17, 1, 37, 1),
        (28, 5, 3, 34, 1),  # too wide for a DSP block
    ],
)
def test_booth_mult(a: int, b: int, c: int, p: int, dsp: int) -> None:
    """Every operand up to 16 bits together, random and extreme wider ones; latency as in Python."""
    types = [IntType(bits, True) for bits in (a, b, c)]
    if a + b + c <= 16:
        values = torch.cartesian_prod(*(torch.arange(t.min, t.max + 1) for t in types))
    else:
        rng = torch.Generator().manual_seed(SEED)
        columns = [torch.randint(t.min, t.max + 1, (4000,), generator=rng) for t in types]
        ends = torch.cartesian_prod(*(torch.tensor([t.min, -1, 0, t.max]) for t in types))
        values = torch.cat([torch.stack(columns, 1), ends])
    latency = BoothMult(a, b, dsp, p, c).latency
    parameters = {"ABits": a, "BBits": b, "CBits": c, "PBits": p, "Dsp": dsp, "Latency": latency}
    folder = build_root() / f"lib-mult-{a}-{b}-{c}-{p}-{dsp}"
    write_text(folder / "tb_mult.sv", MULT)
    build("tb_mult", [folder / "tb_mult.sv"], parameters, folder)
    t = IntType(40, True)
    ports = Port("s_axis", 3, 3, t), Port("m_axis", 1, 1, t)
    for stall in ("none", "both"):
        x = Stream.full(values[None])
        got = simulate(folder, "tb_mult", [(ports[0], x)], ports[1], stall, SEED).output
        exact = values[:, 0] * values[:, 1] + values[:, 2]
        low = IntType(p, True)
        want = ((exact - low.min) & ((1 << p) - 1)) + low.min
        assert torch.equal(got.data[0, :, 0], want)


def test_tool_error_crosses_processes() -> None:
    """A process pool would wait for ever for an error that cannot be read back."""
    error = pickle.loads(pickle.dumps(ToolError("perl", "is missing", "run: apt-get install perl")))
    assert str(error) == "perl: is missing; run: apt-get install perl"
    assert (error.tool, error.why) == ("perl", "is missing")


def test_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError, match=r"perl: not found on PATH.*apt-get install perl"):
        check_tools()


FAULTY = """
module tb_faulty (
    input  logic clk_i,
    input  logic rst_ni,
    input  logic [7:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,
    output logic [7:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  // the first beat names the fault
  logic [7:0] fault_q, count_q, after_q, beat_q;  // after_q: cycles since the end
  logic valid, last, ready, first_q;
  always_ff @(posedge clk_i) begin
    count_q <= rst_ni ? count_q + 8'd1 : 8'd0;
    if (!rst_ni) first_q <= 1'b1;
    else if (s_axis_tvalid && s_axis_tready) begin
      first_q <= 1'b0;
      if (first_q) fault_q <= s_axis_tdata;
    end
    if (!rst_ni) {after_q, beat_q} <= 16'd0;
    else if (valid && ready) begin
      beat_q <= beat_q + 8'd1;
      if (last) after_q <= 8'd1;
    end else if (after_q != 8'd0) begin
      after_q <= after_q + 8'd1;
    end
    if (rst_ni && count_q == 8'd90 && fault_q == 8'd7) $error("a rule of the design is broken");
    if (rst_ni && count_q == 8'd90 && fault_q == 8'd8) $finish;
  end
  assign m_axis_tvalid = fault_q == 8'd1 ? 1'b0
                       : fault_q == 8'd2 ? valid && count_q[1]
                       : fault_q == 8'd3 ? valid || after_q == 8'd20
                       : valid;
  assign ready = m_axis_tready && !(fault_q == 8'd1) && !(fault_q == 8'd2 && !count_q[1]);
  assign m_axis_tdata = fault_q == 8'd4 ? count_q : fault_q == 8'd0 ? 8'd0 : m_data;
  assign m_axis_tlast = fault_q == 8'd5 ? 1'b0 : fault_q == 8'd6 ? last || beat_q == 8'd2 : last;
  logic [7:0] m_data;
  skid_buffer #(.DataBits(8)) u_skid (
      .clk_i, .rst_ni, .s_axis_tdata, .s_axis_tvalid, .s_axis_tready, .s_axis_tlast, .s_axis_tuser,
      .m_axis_tdata(m_data), .m_axis_tvalid(valid), .m_axis_tready(ready), .m_axis_tlast(last),
      .m_axis_tuser
  );
endmodule
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "fault, message",
    [
        (1, "no end in sight, .* 0 of 1 frames came out"),
        (2, "withdrew tvalid"),
        (3, "after the last of 1 frames"),
        (4, "changed from .* while stalled"),
        (5, "no end in sight"),
        (6, "into a token|after the last"),
        (7, "a rule of the design is broken"),
        (8, "the simulator ended"),
        (9, None),
    ],
)
def test_bench_notices(fault: int, message: str | None) -> None:
    folder = build_root() / "lib-faulty"
    write_text(folder / "tb_faulty.sv", FAULTY)
    build("tb_faulty", [folder / "tb_faulty.sv"], {}, folder)
    port = Port("s_axis", 4, 1, IntType(8, False))
    x = Stream.full(torch.arange(24).reshape(1, 6, 4))
    x.data[0, 0, 0] = fault

    def run() -> Stream:
        return simulate(
            folder, "tb_faulty", [(port, x)], Port("m_axis", 4, 1, port.itype), "ready_25", SEED,
            watchdog=300,
        ).output  # fmt: skip

    if message is None:
        assert run() == x
        return
    with pytest.raises(SimulationError, match=message):
        run()


LOOP_BODY = """// SPDX-License-Identifier: Apache-2.0
// A body that multiplies by 3 and adds the number of the pass, behind a FIFO of one token; a detour
// in front of the last pass that adds 7, and keeps four tokens at most, behind a FIFO of a frame.
module body_of_loop #(
    parameter int unsigned Segments = 1,
    parameter int unsigned InFlight = 2,
    parameter int unsigned Depth = 16,
    parameter int unsigned EntryDepth = 16
) (
    input  logic clk_i,
    input  logic rst_ni,
    input  logic [15:0] s_axis_tdata,
    input  logic s_axis_tvalid,
    output logic s_axis_tready,
    input  logic s_axis_tlast,
    input  logic s_axis_tuser,
    output logic [15:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input  logic m_axis_tready,
    output logic m_axis_tlast,
    output logic m_axis_tuser
);
  logic [15:0] in_data, out_data, back_data;
  logic in_valid, in_ready, in_last, in_user, back_valid, back_ready, back_last, back_user;
  logic [1:0] set_data;
  logic set_valid, set_ready, set_last, set_user, unused;
  // entries and exits; the exit of the first of two segments leads to the second entry
  logic [Segments-1:0][15:0] enter_data, exit_data;
  logic [Segments-1:0] enter_valid, enter_ready, enter_last, enter_user;
  logic [Segments-1:0] exit_valid, exit_ready, exit_last, exit_user;

  assign unused = set_last ^ set_user;
  assign out_data = 16'(3 * in_data + 16'(set_data));
  assign set_ready = in_valid && in_ready && in_last;

  layer_loop #(
      .DataBits(16), .Passes(3), .Segments(Segments), .Starts((32 * Segments)'({32'd2, 32'd0})),
      .InFlight(InFlight), .Depth(Depth), .EntryDepths({Segments{EntryDepth}})
  ) u_loop (
      .clk_i, .rst_ni,
      .s_axis_tdata(enter_data), .s_axis_tvalid(enter_valid), .s_axis_tready(enter_ready),
      .s_axis_tlast(enter_last), .s_axis_tuser(enter_user),
      .s_axis_back_tdata(back_data), .s_axis_back_tvalid(back_valid),
      .s_axis_back_tready(back_ready), .s_axis_back_tlast(back_last),
      .s_axis_back_tuser(back_user),
      .m_axis_body_tdata(in_data), .m_axis_body_tvalid(in_valid), .m_axis_body_tready(in_ready),
      .m_axis_body_tlast(in_last), .m_axis_body_tuser(in_user),
      .m_axis_set_tdata(set_data), .m_axis_set_tvalid(set_valid), .m_axis_set_tready(set_ready),
      .m_axis_set_tlast(set_last), .m_axis_set_tuser(set_user),
      .m_axis_tdata(exit_data), .m_axis_tvalid(exit_valid), .m_axis_tready(exit_ready),
      .m_axis_tlast(exit_last), .m_axis_tuser(exit_user)
  );

  assign enter_data[0] = s_axis_tdata;
  assign enter_valid[0] = s_axis_tvalid;
  assign enter_last[0] = s_axis_tlast;
  assign enter_user[0] = s_axis_tuser;
  assign s_axis_tready = enter_ready[0];
  assign m_axis_tdata = exit_data[Segments-1];
  assign m_axis_tvalid = exit_valid[Segments-1];
  assign m_axis_tlast = exit_last[Segments-1];
  assign m_axis_tuser = exit_user[Segments-1];
  assign exit_ready[Segments-1] = m_axis_tready;

  if (Segments == 2) begin : gen_detour
    logic [1:0] count_q;  // tokens that have passed, no more than three
    logic past_q;  // the fourth one has
    logic [15:0] data;
    logic valid, ready, last, user;

    axis_fifo #(
        .DataBits(16), .Depth(EntryDepth)
    ) u_frame (
        .clk_i, .rst_ni,
        .s_axis_tdata(exit_data[0]), .s_axis_tvalid(exit_valid[0]), .s_axis_tready(exit_ready[0]),
        .s_axis_tlast(exit_last[0]), .s_axis_tuser(exit_user[0]),
        .m_axis_tdata(data), .m_axis_tvalid(valid), .m_axis_tready(ready),
        .m_axis_tlast(last), .m_axis_tuser(user)
    );
    assign ready = past_q || enter_ready[1];
    assign enter_valid[1] = valid && !past_q;
    assign enter_data[1] = data + 16'd7;
    assign enter_last[1] = last || count_q == 2'd3;
    assign enter_user[1] = user && last;
    always_ff @(posedge clk_i) begin
      if (!rst_ni) begin
        count_q <= '0;
        past_q <= 1'b0;
      end else if (valid && ready) begin
        count_q <= last ? '0 : count_q == 2'd3 ? 2'd3 : count_q + 1'b1;
        past_q <= !last && (past_q || count_q == 2'd3);
      end
    end
  end

  logic fifo_ready;
  assign in_ready = fifo_ready && set_valid;

  axis_fifo #(
      .DataBits(16), .Depth(3)
  ) u_body (
      .clk_i, .rst_ni,
      .s_axis_tdata(out_data), .s_axis_tvalid(in_valid && set_valid), .s_axis_tready(fifo_ready),
      .s_axis_tlast(in_last), .s_axis_tuser(in_user),
      .m_axis_tdata(back_data), .m_axis_tvalid(back_valid), .m_axis_tready(back_ready),
      .m_axis_tlast(back_last), .m_axis_tuser(back_user)
  );
endmodule
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("segments", "flying"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)])
def test_layer_loop(segments: int, flying: int) -> None:
    """Frames of any length make all passes, in order, whatever stalls, with a detour or without;
    the rate is that of the body."""
    t = IntType(8, False)
    s, m = Port("s_axis", 2, 2, t), Port("m_axis", 2, 2, t)
    parameters = {
        "Segments": segments, "InFlight": flying, "Depth": 7 * flying, "EntryDepth": 7
    }  # fmt: skip
    folder = build_root() / f"lib-layer_loop-{segments}-{flying}"
    source = folder / "tb_body_of_loop.sv"
    write_text(source, wrapper("body_of_loop", [(s, True), (m, False)], dict(parameters)))
    write_text(folder / "body_of_loop.sv", LOOP_BODY)
    build("tb_body_of_loop", [source, folder / "body_of_loop.sv"], {}, folder)
    x = random_frames(torch.Generator().manual_seed(SEED), s, 60, 7, package=True)
    want = x.data[:, :, 0] + 256 * x.data[:, :, 1]
    for index in range(3):
        want = (3 * (want + 7 * (segments == 2 and index == 2)) + index) % (1 << 16)
    kept = x
    if segments == 2:  # who loses a token loses the last one
        kept = Stream(x.data, x.length.clamp(max=4), x.package & (x.length <= 4))
    y = kept.with_data(torch.stack([want % 256, want // 256], 2))
    for stall in STALLS:
        result = simulate(folder, "tb_body_of_loop", [(s, x)], m, stall, SEED)
        compare(
            f"{segments} segments, {flying} frames in flight, stall {stall}, seed {SEED}",
            y, result.output,
        )  # fmt: skip
        if stall == "none" and flying == 3:  # a pass of this body takes fewer cycles than 3 frames
            cycles = result.out_last[-1] - result.out_last[20]
            passes = 2 * x.length[21:] + kept.length[21:] + 3
            assert cycles <= 1.25 * int(passes.sum())
