# SPDX-License-Identifier: Apache-2.0
"""What every core bench does: golden == HLS == RTL on random frames under stalls and resets, from
any initial state, at the promised rate, and broken outputs are noticed."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sievit.hls import csim
from sievit.quant.params import Constants, CoreParams, Stream, load_core
from sievit.sim.coverage import Coverage
from sievit.sim.runner import (
    RtlResult,
    Run,
    SimulationError,
    predicted,
    run_core_batch,
    to_beats,
)

#: stall profiles of a soak; see ``bench.STALLS``
PROFILES = ("none", "idle", "ready_75", "ready_25", "bursts", "both", "starve")
#: frames of a short run; odd: a core that held a frame back until another comes would not end
FEW = 25
#: mid-frame resets of one run in a soak
RESETS = 20
#: initial states: name -> argument of the simulator
STATES = {"0": 0, "1": 1, "random": 2}
#: the faults of axis_fault.sv, in its order
FAULTS = (
    "stuck_valid",
    "dropped_beat",
    "doubled_beat",
    "off_by_one",
    "swapped_lanes",
    "frozen_output",
)


def build_root() -> Path:
    """Where benches build: ``SIEVIT_BUILD`` or a folder under the system's temporary directory."""
    return Path(os.environ.get("SIEVIT_BUILD", Path(tempfile.gettempdir()) / "sievit-build"))


def build_folder(stem: str, params: CoreParams) -> Path:
    """One folder per core and parameter set, so that unchanged ones are not built again."""
    key = hashlib.sha256(repr(sorted(params.flat().items())).encode()).hexdigest()[:12]
    return build_root() / f"{stem}-{key}"


@dataclass
class Trial:
    """Random constants and frames of one core, and what has to come out."""

    stem: str
    params: CoreParams
    seed: int
    constants: Constants
    inputs: list[Stream]
    golden: Stream

    @classmethod
    def draw(cls, stem: str, params: CoreParams, seed: int, frames: int) -> Trial:
        """From the stimuli of the core. Raises AssertionError if the output would be constant."""
        core = load_core(stem)
        rng = torch.Generator().manual_seed(seed)
        constants, inputs = core.stimuli(rng, params, frames)
        golden = core.golden(params, constants, *inputs)
        if frames > 4 and golden.data.numel() > 1:
            assert golden.data.float().std() > 0, f"{stem}: these stimuli give a constant output"
        return cls(stem, params, seed, constants, inputs, golden)

    def pick(self, index: torch.Tensor) -> Trial:
        """The frames of the given indices alone, in that order."""
        inputs = [x.pick(index) for x in self.inputs]
        return Trial(
            self.stem, self.params, self.seed, self.constants, inputs, self.golden.pick(index)
        )

    def equal_frames(self, count: int = 6) -> Trial:
        """``count`` copies of the longest frame."""
        return self.pick(self.inputs[0].length.argmax().repeat(count))

    def run(self, stall: str = "none", resets: int = 0) -> Run:
        """With ``resets``: far enough apart that frames come out in between, and near enough that
        they are cut."""
        gap = 8 + 3 * sum(predicted(self.params))
        return Run(self.inputs, stall, self.seed, resets, gap)

    def folder(self) -> Path:
        return build_folder(self.stem, self.params)

    def check(self, run: Run, result: RtlResult) -> None:
        """Raise AssertionError unless the result of a run equals the golden output."""
        what = f"{self.stem}, stall {run.stall}, {run.resets} resets, seed {self.seed}"
        if run.resets:
            compare_segments(what, self, result)
        order = torch.arange(len(self.golden.length)).roll(-result.start)
        compare(what, self.golden.pick(order) if result.start else self.golden, result.output)


def simulate_trials(
    runs: Sequence[tuple[Trial, Run]],
    initial: int = 2,
    plusargs: tuple[str, ...] = (),
    coverage: Path | None = None,
) -> list[RtlResult]:
    """Simulate trials of one parameter set with the same constants, in one process, and check each;
    see ``runner.run_core_batch``. Raises SimulationError or AssertionError.
    """
    first = runs[0][0]
    folder = first.folder() / "coverage" if coverage else first.folder()
    results = run_core_batch(
        first.stem, first.params, first.constants, [run for _, run in runs], folder,
        initial=initial, plusargs=plusargs, coverage=coverage,
    )  # fmt: skip
    for (trial, run), result in zip(runs, results, strict=True):
        trial.check(run, result)
    return results


def check_core(
    stem: str,
    params: CoreParams,
    seed: int,
    stalls: Sequence[str] | None = None,
    frames: int = FEW,
    rate_slack: int = 8,
    exact_rate: bool = False,
    resets: int = 4,
) -> dict[str, RtlResult]:
    """A sample of what ``soak_set`` does: random frames under stalls and mid-frame resets, compared
    with the golden function bit for bit.

    ``stalls`` are by default none and two others that depend on seed and parameters. Without
    stalls, frames of equal length follow each other afterwards, and the cycles between their last
    beats are at most ``params.cycles`` plus ``rate_slack`` (equal to it with ``exact_rate``). From
    another initial state all beats come out again in the same cycles. Returns the result of every
    profile, and of the rate measurement as ``"rate"``.
    """
    print(f"{stem}: seed {seed}, {params.to_dict()}")
    chance = random.Random(f"{seed} {sorted(params.flat().items())}")
    if stalls is None:
        stalls = ("none", *chance.sample(PROFILES[1:], 2))
    trial = Trial.draw(stem, params, seed, frames)
    equal = trial.equal_frames()
    names = [*stalls, "resets", "rate"]
    runs = [(trial, trial.run(stall)) for stall in stalls]
    runs += [(trial, trial.run(chance.choice(PROFILES), resets)), (equal, equal.run())]
    done = simulate_trials(runs)
    check_state(runs, done, chance.choice(("0", "1")))
    results = dict(zip(names, done, strict=True))
    check_rate(stem, params, results["rate"], rate_slack, exact_rate)
    return results


def check_state(runs: Sequence[tuple[Trial, Run]], want: list[RtlResult], state: str) -> None:
    """Raise AssertionError unless the runs give ``want``, cycle by cycle, from another initial
    state."""
    got = simulate_trials(runs, STATES[state])
    for (trial, run), a, b in zip(runs, want, got, strict=True):
        what = f"{trial.stem}, stall {run.stall}, seed {trial.seed}, initial state {state}"
        assert (a.beats, a.segments) == (b.beats, b.segments), f"{what}: other beats"
        stamps = ((r.in_first, r.in_last, r.out_first, r.out_last, r.cycles) for r in (a, b))
        assert next(stamps) == next(stamps), f"{what}: other cycles"


def check_rate(
    stem: str, params: CoreParams, result: RtlResult, slack: int = 8, exact: bool = False
) -> None:
    """Raise AssertionError if equal frames back to back take longer than promised."""
    period, head = rate(result), result.out_first[0] - result.in_first[0]
    want, want_head = predicted(params)
    print(f"{stem}: {period} cycles per frame, predicted {want}; head latency {head}, "
          f"predicted {want_head}")  # fmt: skip
    if exact:
        assert period == want, f"{stem}: {period} cycles per frame instead of {want}"
    assert period <= want + slack, f"{stem}: {period} cycles per frame, predicted {want}"
    three = result.out_last[-1] - result.out_last[-4]
    assert three <= 1.2 * 3 * want + slack, f"{stem}: {three} cycles for 3 frames of {want}"


def soak_set(
    stem: str,
    params: CoreParams,
    seeds: Sequence[int],
    tokens: int = 1000,
    stalls: Sequence[str] = PROFILES,
) -> dict[str, Any]:
    """At least ``tokens`` tokens under every stall profile and seed, mid-frame resets, and every
    initial state. Raises SimulationError or AssertionError on any difference.

    Returns counts over all of it: frames and transactions (tokens that came in), the names of
    profiles and initial states, mid-frame resets.
    """
    frames, transactions, least, resets = 0, 0, 1 << 62, 0
    cover: dict[str, dict[str, int]] = {}
    for n, seed in enumerate(seeds):
        trial = enough(stem, params, seed, tokens)
        total, count = int(trial.inputs[0].length.sum()), len(trial.golden.length)
        runs = [(trial, trial.run(stall)) for stall in stalls]
        done = simulate_trials(runs, list(STATES.values())[n % len(STATES)])
        least = min(least, total)
        frames += count * len(runs)
        transactions += total * len(runs)
        _add_cover(cover, done[0].cover)

        # the same from every initial state, on fewer frames
        few = trial.pick(torch.arange(min(FEW, count)))
        equal = few.equal_frames()
        runs = [
            (few, few.run(stalls[n % len(stalls)], RESETS if n == 0 else 2)),
            (few, few.run(stalls[(n + 3) % len(stalls)])),
            (equal, equal.run()),
        ]
        done = simulate_trials(runs)
        resets += sum(len(r.segments) for r in done)
        if n == 0:
            for state in ("0", "1"):
                check_state(runs, done, state)
        check_rate(stem, params, done[-1])
        frames += len(few.golden.length) + len(equal.golden.length)
    return {
        "seeds": len(seeds),
        "profiles": list(stalls),
        "least_tokens": least,
        "transactions": transactions,
        "frames": frames,
        "resets": resets,
        "initial_states": list(STATES),
        "cover": cover,
    }


def enough(stem: str, params: CoreParams, seed: int, tokens: int) -> Trial:
    """A trial of at least that many tokens."""
    frames = 24
    while True:
        trial = Trial.draw(stem, params, seed, frames)
        total = int(trial.inputs[0].length.sum())
        if total >= tokens:
            return trial
        frames = frames * tokens // total + 8


def _add_cover(total: dict[str, dict[str, int]], more: dict[str, dict[str, int]]) -> None:
    for port, counts in more.items():
        own = total.setdefault(port, dict.fromkeys(("beats", "stalls", "back_to_back"), 0))
        for name in own:
            own[name] += counts[name]


# -- the bench notices ---------------------------------------------------------------------------


def check_faults(stem: str, params: CoreParams, seed: int, frames: int = 12) -> dict[str, Any]:
    """Break the output of the core in every way of ``FAULTS``, at a random beat, under stalls; the
    bench has to fail each time.

    Returns the faults that were caught, each with the bench's words, and the names of those that do
    not apply (lanes cannot be swapped where there is one). Raises AssertionError naming a fault
    that went unnoticed.
    """
    trial = Trial.draw(stem, params, seed, frames)
    runs = [(trial, trial.run("both"))]
    simulate_trials(runs)  # without a fault all is well
    caught: dict[str, str] = {}
    inapplicable = []
    for fault in FAULTS:
        place = fault_place(trial, fault)
        if place is None:
            inapplicable.append(fault)
            continue
        beat, lane = place
        arguments = (
            f"+sievit_fault={1 + FAULTS.index(fault)}",
            f"+sievit_fault_beat={beat}",
            f"+sievit_fault_lane={lane}",
        )
        try:
            simulate_trials(runs, plusargs=arguments)
        except (SimulationError, AssertionError) as error:
            caught[fault] = str(error).splitlines()[0]
        else:
            raise AssertionError(f"{stem}: nobody noticed {fault} at beat {beat}, lane {lane}")
    return {"caught": caught, "missed": [], "inapplicable": inapplicable}


def fault_place(trial: Trial, fault: str) -> tuple[int, int] | None:
    """A random beat and lane at which the fault changes what comes out; None if there is none."""
    port = trial.params.output()
    rows = trial.golden.data[trial.golden.valid()].reshape(-1, port.lanes)
    if fault == "swapped_lanes":
        places = (rows[:, 1:] != rows[:, :-1]).nonzero().tolist()
    elif fault == "frozen_output":
        last = (rows != rows[-1]).any(1).nonzero()  # something else follows these
        places = [[beat, 0] for beat in range(int(last[-1]) + 1)] if len(last) else []
    else:
        places = [[beat, lane] for beat in range(len(rows)) for lane in range(port.lanes)]
    if not places:
        return None
    beat, lane = random.Random(f"{trial.seed} {fault}").choice(places)
    return beat, lane


# -- the other implementation --------------------------------------------------------------------


def three_way(stem: str, params: CoreParams, seed: int, frames: int = 24) -> int:
    """``three_way_sets`` of one parameter set."""
    return three_way_sets(stem, [params], seed, frames)


def three_way_sets(stem: str, sets: Sequence[CoreParams], seed: int, frames: int = 24) -> int:
    """golden == HLS (g++) == RTL on the same frames of every parameter set; returns their number.

    The HLS cores of all sets are compiled into one program. Raises AssertionError or
    SimulationError where they differ, ToolError if the HLS core does not compile or run.
    """
    trials = [Trial.draw(stem, params, seed, frames) for params in sets]
    key = hashlib.sha256("".join(t.folder().name for t in trials).encode()).hexdigest()[:12]
    folder = build_root() / f"{stem}-hls-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    outputs = csim.run_cores([(stem, t.params, t.constants, t.inputs) for t in trials], folder)
    for trial, output in zip(trials, outputs, strict=True):
        compare(f"{stem}, HLS, seed {seed}, {trial.params.to_dict()}", trial.golden, output)
        simulate_trials([(trial, trial.run("both"))])
    return frames * len(trials)


# -- coverage ------------------------------------------------------------------------------------


def coverage(
    stem: str, sets: Sequence[CoreParams], seed: int = 1, tokens: int = 1000
) -> dict[str, Any]:
    """Line, branch, port toggle and functional coverage over all parameter sets of a core; see
    ``sievit.sim.coverage``. Raises SimulationError or AssertionError on any difference."""
    total = Coverage(stem)
    for params in sets:
        trial = enough(stem, params, seed, tokens)
        few = trial.pick(torch.arange(min(24, len(trial.golden.length))))
        runs = [
            (trial, trial.run("both")),
            (few, few.run("none")),
            (few, few.run("ready_25", RESETS)),
        ]
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "coverage.dat"
            (result, *_) = simulate_trials(runs, coverage=path)
            total.add(path, result.cover, params, trial.constants, trial.inputs)
    return total.result()


# -- comparison ----------------------------------------------------------------------------------


def compare_segments(what: str, trial: Trial, result: RtlResult) -> None:
    """Raise AssertionError unless what came out before every reset is what the frames sent since
    the reset before begin with."""
    beats = to_beats(trial.params.output(), trial.golden)
    starts = [0, *(i + 1 for i, beat in enumerate(beats) if beat[1])]
    for n, (frame, got) in enumerate(result.segments):
        at = starts[frame]
        want = beats[at:] + beats[:at]
        wrong = [i for i, (a, b) in enumerate(zip(want, got, strict=False)) if a != b]
        assert not wrong, (
            f"{what}: before reset {n}, beat {wrong[0]} since the last one: {got[wrong[0]]} "
            f"instead of {want[wrong[0]]}"
        )
        assert len(got) <= len(want), f"{what}: before reset {n}: {len(got)} beats came out"


def rate(result: RtlResult) -> int:
    """Cycles between the last beats of the last two frames."""
    return result.out_last[-1] - result.out_last[-2]


def compare(what: str, want: Stream, got: Stream) -> None:
    """Raise AssertionError naming the first frame, token and channel that differ."""
    assert len(got.length) == len(want.length), f"{what}: {len(got.length)} frames"
    for i in range(len(want.length)):
        a, b = want.frame(i), got.frame(i)
        assert len(a) == len(b), f"{what}: frame {i} has {len(b)} tokens instead of {len(a)}"
        wrong = (a != b).nonzero()
        assert not len(wrong), (
            f"{what}: frame {i}, token {int(wrong[0][0])}, channel {int(wrong[0][1])}: "
            f"{int(b[tuple(wrong[0])])} instead of {int(a[tuple(wrong[0])])}"
        )
        assert bool(want.package[i]) == bool(got.package[i]), f"{what}: frame {i}: tuser"
    assert want == got, what
