# SPDX-License-Identifier: Apache-2.0
"""The benches themselves: what they promise to notice, they notice."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sievit.hls import csim
from sievit.quant.cores.pos_embed import PosEmbedParams
from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.itype import IntType
from sievit.quant.params import CoreParams, Port, Stream, core_names
from sievit.sim import bench, harness, runner
from sievit.sim.coverage import Coverage, read_points
from sievit.sim.harness import FAULTS, Trial, build_root, check_faults, simulate_trials
from sievit.sim.runner import Run, SimulationError, build, simulate, simulate_batch, write_text
from sievit.sim.soak import parameter_sets

ROOT = Path(__file__).resolve().parent.parent
CORE = "residual_add"
PARAMS = ResidualAddParams(channels=4, simd=2, max_tokens=5)


def broken_core(
    old: str, new: str, folder: Path, monkeypatch: pytest.MonkeyPatch, stem: str = CORE
) -> None:
    """Benches find the core with ``old`` replaced by ``new``."""
    text = (ROOT / "rtl" / "cores" / f"{stem}.sv").read_text()
    assert text.count(old) == 1
    (folder / "cores").mkdir()
    (folder / "cores" / f"{stem}.sv").write_text(text.replace(old, new))
    monkeypatch.setattr(runner, "LIBRARY", [ROOT / "rtl" / "lib", folder / "cores"])
    monkeypatch.setenv("SIEVIT_BUILD", str(folder / "build"))


# -- stalls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, share", [("half", 0.5), ("most", 0.75), ("few", 0.25), ("go", 1)])
def test_random_pattern(kind: str, share: float) -> None:
    pattern = bench.pattern(kind, random.Random(1))
    assert set(pattern) <= {0, 1}
    assert sum(pattern) / len(pattern) == pytest.approx(share, abs=0.02)


def test_bursts_are_64_cycles() -> None:
    endless = bench.pattern("bursts", random.Random(5)) + b"\1" * 64 + b"\0" * 64
    runs = [len(part) for part in endless.replace(b"\0\1", b"\0|\1").split(b"|")]
    assert all(part == 128 for part in runs[1:])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_input_starves_alone(count: int) -> None:
    patterns = [bench.pattern("starve", random.Random(1), i, count) for i in range(count)]
    assert all(len(p) == (count + 1) * bench.STARVE for p in patterns)
    stalled = [sum(not p[cycle] for p in patterns) for cycle in range(len(patterns[0]))]
    assert set(stalled) == {0, 1}
    assert all(p.count(0) == bench.STARVE for p in patterns)


# -- many runs in one process --------------------------------------------------------------------


def test_a_batch_gives_what_single_runs_give() -> None:
    trial = Trial.draw(CORE, PARAMS, 3, 20)
    runs = [(trial, trial.run(stall)) for stall in ("ready_25", "starve", "none")]
    together = simulate_trials(runs)
    for run, want in zip(runs, together, strict=True):
        (alone,) = simulate_trials([run])
        assert (alone.beats, alone.in_first, alone.in_last) == (
            want.beats, want.in_first, want.in_last,
        )  # fmt: skip
        assert (alone.out_first, alone.out_last) == (want.out_first, want.out_last)
    cover = together[0].cover
    assert set(cover) == {"s_axis_a", "s_axis_b", "m_axis"}
    assert cover["m_axis"]["beats"] == 3 * len(together[0].beats)
    assert all(cover[port]["stalls"] and cover[port]["back_to_back"] for port in cover)


HEAD = """
module {top} (
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
"""

STOPS = """
  always_ff @(posedge clk_i) begin
    if (rst_ni && s_axis_tvalid && s_axis_tdata == 8'd77) $error("77 came in");
  end
  skid_buffer #(.DataBits(8)) u_skid (.*);
endmodule
"""

EARLY = """
  logic reset_q;
  initial reset_q = 1'b0;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) reset_q <= 1'b1;
    if (rst_ni && !reset_q) $error("the clock rose before the reset fell");
  end
  skid_buffer #(.DataBits(8)) u_skid (.*);
endmodule
"""

EDGE = """
  wire [7:0] a_tdata;
  wire       a_tvalid;
  wire       a_tready;
  wire       a_tlast;
  wire       a_tuser;
  logic [7:0] count_q;
  always_ff @(posedge clk_i) count_q <= rst_ni ? count_q + 8'd1 : 8'd0;
  assign a_tdata = s_axis_tdata ^ ({CHANGE} ? count_q : 8'd0);
  assign a_tvalid = s_axis_tvalid && !({WITHDRAW} && count_q[1]);
  assign s_axis_tready = a_tready && !({WITHDRAW} && count_q[1]);
  assign {a_tlast, a_tuser} = {s_axis_tlast, s_axis_tuser};
  skid_buffer #(.DataBits(8)) u_skid (
      .clk_i, .rst_ni, .s_axis_tdata(a_tdata), .s_axis_tvalid(a_tvalid), .s_axis_tready(a_tready),
      .s_axis_tlast(a_tlast), .s_axis_tuser(a_tuser), .m_axis_tdata, .m_axis_tvalid, .m_axis_tready,
      .m_axis_tlast, .m_axis_tuser
  );
  axis_tap #(.DataBits(8)) u_tap_a (
      .clk_i, .rst_ni, .tdata(a_tdata), .tvalid(a_tvalid), .tready(a_tready), .tlast(a_tlast),
      .tuser(a_tuser)
  );
endmodule
"""


def small_design(top: str, body: str) -> tuple[Path, Port, Port]:
    """Compile one stream module of 4 channels of 8 bits; folder and ports."""
    folder = build_root() / f"bench-{top}"
    write_text(folder / f"{top}.sv", HEAD.replace("{top}", top) + body)
    build(top, [folder / f"{top}.sv"], {}, folder)
    t = IntType(8, False)
    return folder, Port("s_axis", 4, 1, t), Port("m_axis", 4, 1, t)


def test_a_crash_names_the_run_under_way() -> None:
    folder, s, m = small_design("tb_stops", STOPS)
    good = Stream.full(torch.arange(24).reshape(1, 6, 4))
    bad = Stream.full(torch.arange(72, 96).reshape(1, 6, 4))
    runs = [Run([good], "both", 1), Run([bad], "idle", 2), Run([good], "none", 3)]
    with pytest.raises(SimulationError, match=r"stall idle, seed 2: [\s\S]*77 came in"):
        simulate_batch(folder, "tb_stops", [s], m, runs)


def test_reset_comes_before_the_first_clock() -> None:
    folder, s, m = small_design("tb_early", EARLY)
    x = Stream.full(torch.arange(24).reshape(1, 6, 4))
    for seed in range(10):  # clk_i and rst_ni, too, begin as anything
        assert simulate(folder, "tb_early", [(s, x)], m, seed=seed).output == x


@pytest.mark.sampled(1)
@pytest.mark.parametrize("fault", ["CHANGE", "WITHDRAW", None])
def test_edges_inside_keep_the_rules(fault: str | None) -> None:
    body = EDGE
    for name in ("CHANGE", "WITHDRAW"):
        body = body.replace(f"{{{name}}}", f"1'b{int(name == fault)}")
    folder, s, m = small_design(f"tb_edge_{str(fault).lower()}", body)
    x = Stream.full(torch.arange(48).reshape(2, 6, 4))

    def run() -> runner.RtlResult:
        top = f"tb_edge_{str(fault).lower()}"
        return simulate(folder, top, [(s, x)], m, "ready_25", 1, {"a": s})

    if fault is None:
        assert run().edges["a"] == x
        return
    with pytest.raises(SimulationError, match=r"u_tap_a.*: (the payload changed|tvalid fell)"):
        run()


# -- resets and initial states -------------------------------------------------------------------


def test_resets_cut_frames() -> None:
    trial = Trial.draw(CORE, PARAMS, 1, 20)
    run = trial.run("both", resets=20)
    (result,) = simulate_trials([(trial, run)])
    assert len(result.segments) == 20
    assert any(beats for _, beats in result.segments)
    assert any(beats and not beats[-1][1] for _, beats in result.segments), "none within a frame"
    assert len({start for start, _ in result.segments}) > 1
    assert len(result.out_last) == 20
    # a wrong beat before a reset is a difference
    n = next(i for i, (_, beats) in enumerate(result.segments) if beats)
    start, beats = result.segments[n]
    data, last, user = beats[0]
    result.segments[n] = (start, [(data ^ 1, last, user), *beats[1:]])
    with pytest.raises(AssertionError, match=f"before reset {n}, beat 0"):
        trial.check(run, result)


def test_output_may_run_ahead_of_its_input() -> None:
    """The first beats of pos_embed leave while the first patch comes: the bench once waited for
    ever for a silence of a negative time."""
    params = PosEmbedParams(max_tokens=2, channels=48, simd=1)
    trial = Trial.draw("pos_embed", params, seed=1, frames=9)
    runs = [(trial, trial.run(stall, 4)) for stall in ("ready_25", "both", "idle")]
    results = simulate_trials(runs)
    assert any(r.out_first[0] < r.in_first[0] for r in results)


def test_a_beat_that_survives_a_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_core(
        "if (!rst_ni) valid_q <= '0;",
        "if (!rst_ni) valid_q[Stages-1] <= 1'b0;",
        tmp_path,
        monkeypatch,
    )
    trial = Trial.draw(CORE, PARAMS, 1, 20)
    zeros = harness.STATES["0"]
    simulate_trials([(trial, trial.run("both"))], zeros)
    with pytest.raises((AssertionError, SimulationError)):
        simulate_trials([(trial, trial.run("both", resets=20))], zeros)


def test_an_initial_state_that_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_core(
        ".s_axis_tdata (out_q),",
        ".s_axis_tdata (out_q ^ (Simd * OutBits)'(never_q)),",
        tmp_path,
        monkeypatch,
    )
    path = tmp_path / "cores" / f"{CORE}.sv"
    path.write_text(
        path.read_text().replace(
            "  logic unused;\n",
            "  logic unused, never_q;\n  always_ff @(posedge clk_i) never_q <= never_q;\n",
        )
    )
    trial = Trial.draw(CORE, PARAMS, 1, 8)
    runs = [(trial, trial.run())]
    zeros = simulate_trials(runs, harness.STATES["0"])
    with pytest.raises(AssertionError):
        harness.check_state(runs, zeros, "1")


def test_other_cycles_are_a_difference() -> None:
    trial = Trial.draw(CORE, PARAMS, 1, 8)
    runs = [(trial, trial.run("both"))]
    want = simulate_trials(runs)
    harness.check_state(runs, want, "0")
    late = [replace(want[0], out_last=[c + 1 for c in want[0].out_last])]
    with pytest.raises(AssertionError, match="initial state 0: other cycles"):
        harness.check_state(runs, late, "0")


# -- faults --------------------------------------------------------------------------------------


def test_every_fault_is_noticed() -> None:
    found = check_faults(CORE, PARAMS, seed=1)
    assert set(found["caught"]) == set(FAULTS)
    assert not found["missed"] and not found["inapplicable"]
    one = replace(PARAMS, simd=1)
    found = check_faults(CORE, one, seed=2)
    assert found["inapplicable"] == ["swapped_lanes"]
    assert set(found["caught"]) == set(FAULTS) - {"swapped_lanes"}


def test_a_fault_without_effect_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    # behind the last beat nothing can be broken
    monkeypatch.setattr(harness, "fault_place", lambda trial, fault: (100_000, 0))
    with pytest.raises(AssertionError, match="nobody noticed stuck_valid at beat 100000"):
        check_faults(CORE, PARAMS, seed=1)


def test_faults_are_placed_where_they_show() -> None:
    trial = Trial.draw(CORE, PARAMS, 1, 12)
    port = PARAMS.output()
    rows = trial.golden.data[trial.golden.valid()].reshape(-1, port.lanes)
    beat, lane = harness.fault_place(trial, "swapped_lanes") or (0, 0)
    assert rows[beat, lane] != rows[beat, lane + 1]
    same = replace(trial, golden=trial.golden.with_data(torch.zeros_like(trial.golden.data)))
    assert harness.fault_place(same, "swapped_lanes") is None
    assert harness.fault_place(same, "frozen_output") is None


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stem", core_names())
def test_the_bench_of_every_core_notices(stem: str) -> None:
    found = check_faults(stem, parameter_sets(stem)[0], seed=1)
    assert set(found["caught"]) | set(found["inapplicable"]) == set(FAULTS)
    assert set(found["inapplicable"]) <= {"swapped_lanes"}


# -- the other implementation --------------------------------------------------------------------


@pytest.mark.sampled(4)
@pytest.mark.parametrize("stem", core_names())
def test_golden_equals_hls_equals_rtl(
    stem: str, tried_sets: Callable[[str], list[CoreParams]]
) -> None:
    sets = tried_sets(stem)
    assert harness.three_way_sets(stem, sets, seed=1) == 24 * len(sets)


def test_an_implementation_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(cases: list[csim.Case], folder: Path) -> list[Stream]:
        outputs = [Trial.draw(stem, params, 1, 24).golden for stem, params, _, _ in cases]
        outputs[-1].data[3, 0, 1] += 1
        return outputs

    monkeypatch.setattr(csim, "run_cores", off)
    with pytest.raises(AssertionError, match=r"HLS, seed 1, .*: frame 3, token 0, channel 1: "):
        harness.three_way(CORE, PARAMS, seed=1)


# -- rate ----------------------------------------------------------------------------------------


def test_a_rate_that_is_not_held() -> None:
    trial = Trial.draw(CORE, PARAMS, 1, 8).equal_frames()
    (result,) = simulate_trials([(trial, trial.run())])
    harness.check_rate(CORE, PARAMS, result, exact=True)
    slow = replace(result, out_last=[2 * c for c in result.out_last])
    with pytest.raises(AssertionError, match="20 cycles per frame instead of 10"):
        harness.check_rate(CORE, PARAMS, slow, exact=True)
    with pytest.raises(AssertionError, match="predicted 10"):
        harness.check_rate(CORE, PARAMS, slow)


# -- coverage ------------------------------------------------------------------------------------


def record(file: str, line: int, what: str, lines: str, count: int, instance: str = "a") -> str:
    page = "line" if what == "block" else "branch"
    page = f"v_{page}/{file}_{instance}"
    fields = {"f": f"/rtl/{file}.sv", "l": line, "n": 3, "t": "x", "page": page,
              "o": what, "S": lines, "h": f"tb.{instance}"}  # fmt: skip
    return "C '" + "".join(f"\x01{k}\x02{v}" for k, v in fields.items()) + f"' {count}"


def coverage_file(path: Path, *records: str) -> Path:
    path.write_text("\n".join(["# SystemC::Coverage-3", *records]) + "\n")
    return path


def test_points_of_all_sets_are_merged(tmp_path: Path) -> None:
    one = coverage_file(
        tmp_path / "one.dat",
        record("demo", 10, "block", "10-12", 5),
        record("demo", 11, "if", "11,14-15", 0),
        record("demo", 11, "else", "", 5),
        record("skid_buffer", 3, "if", "3", 0, "a"),
        record("skid_buffer", 3, "if", "3", 2, "b"),
        record("axis_checker", 9, "if", "9", 0),
    )
    two = coverage_file(
        tmp_path / "two.dat",
        record("demo", 10, "block", "10-12", 1, "b"),
        record("demo", 20, "if", "20-21", 0, "b"),
    )
    port = PARAMS.output()
    cover = {p.name: {"rose": -1, "fell": -1} for p in (*PARAMS.inputs(), port)}
    cover["m_axis"]["fell"] = ~(1 << bench.SIGNALS.index("tuser") | 1 << len(bench.SIGNALS))
    total = Coverage("demo")
    inputs = Trial.draw(CORE, PARAMS, 1, 8).inputs
    total.add(one, cover, PARAMS, {}, inputs)
    total.add(two, cover, PARAMS, {}, inputs)
    got = total.result()
    assert got["line"] == 42.86  # 10, 11, 12 of 10, 11, 12, 14, 15, 20, 21
    assert got["branch"] == 33.33
    bits = sum(len(bench.SIGNALS) + p.lanes * p.itype.bits for p in (*PARAMS.inputs(), port))
    assert got["toggle"] == round(100 * (2 * bits - 2) / (2 * bits), 2)
    assert got["missed"] == [
        "demo.sv:11: branch if never taken", "demo.sv:14: never run", "demo.sv:15: never run",
        "demo.sv:20: branch if never taken", "demo.sv:20: never run", "demo.sv:21: never run",
        "m_axis_tuser never fell", "m_axis_tdata[0] never fell",
    ]  # fmt: skip
    assert got["library"] == {"skid_buffer": {"line": 100.0, "branch": 100.0, "missed": []}}


@pytest.mark.parametrize("text", ["", "# SystemC::Coverage-3\nnonsense\n"])
def test_other_files_are_no_coverage(tmp_path: Path, text: str) -> None:
    (tmp_path / "coverage.dat").write_text(text)
    with pytest.raises(ValueError, match=r"coverage\.dat"):
        read_points(tmp_path / "coverage.dat")


def test_bins_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"sievit.quant.cores.{CORE}")
    counts = [{"tie": 0, "extreme": 2}, {"tie": 0, "extreme": 1}, {"tie": 4}]
    monkeypatch.setattr(module, "bins", lambda p, constants, *inputs: counts.pop(0), raising=False)
    path = coverage_file(tmp_path / "one.dat", record(CORE, 1, "block", "1", 1))
    ports = (*PARAMS.inputs(), PARAMS.output())
    cover = {p.name: {"rose": 0, "fell": 0} for p in ports}
    total = Coverage(CORE)
    for _ in range(2):
        total.add(path, cover, PARAMS, {}, [])
    # and those of the frames' sets, which the core can have
    sets = dict.fromkeys(("a set follows itself", "another set follows", "last set"), 0)
    assert total.result()["bins"] == {"tie": 0, "extreme": 3, **sets}
    assert total.result()["toggle"] == 0
    with pytest.raises(ValueError, match="other bins"):
        total.add(path, cover, PARAMS, {}, [])


@pytest.mark.slow
def test_a_dead_branch_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = """  logic unused, dead_q;
  always_ff @(posedge clk_i) begin
    if (rst_ni && s_axis_a_tdata == '1 && s_axis_a_tdata == '0) begin
      dead_q <= 1'b1;
    end
    // the reason
    // verilator coverage_off
    if (rst_ni && s_axis_b_tdata == '1 && s_axis_b_tdata == '0) begin
      dead_q <= 1'b0;
    end
    // verilator coverage_on
  end
"""
    broken_core("  logic unused;\n", dead, tmp_path, monkeypatch)
    path = tmp_path / "cores" / f"{CORE}.sv"
    path.write_text(path.read_text().replace("assign unused = ^{", "assign unused = ^{dead_q, "))
    lines = path.read_text().splitlines()
    at = lines.index("      dead_q <= 1'b1;") + 1
    got = harness.coverage(CORE, [PARAMS], tokens=100)
    mine = [text for text in got["missed"] if text.startswith(f"{CORE}.sv")]
    assert mine == [
        f"{CORE}.sv:{at - 1}: branch if never taken",
        f"{CORE}.sv:{at}: never run",
    ]
    assert 90 < got["line"] < 100 and 80 < got["branch"] < 100 and got["toggle"] > 90
