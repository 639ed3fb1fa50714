# SPDX-License-Identifier: Apache-2.0
"""The cocotb side of every simulation: drives and samples AXI-Stream ports, knows nothing of cores.

The case is read from ``SIEVIT_CASE`` and the result written to ``SIEVIT_RESULT``. Every clock
cycle has two time steps: in the first the clock falls and the ports are driven, in the second the
settled design is sampled and the clock rises.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import Timer

CASE, RESULT = "SIEVIT_CASE", "SIEVIT_RESULT"

#: stall profile -> (of the inputs, of the output); see ``_pattern``
STALLS = {
    "none": ("go", "go"),
    "idle": ("half", "go"),
    "ready_75": ("go", "most"),
    "ready_25": ("go", "few"),
    "bursts": ("go", "bursts"),
    "both": ("half", "half"),
}

RESET_CYCLES = 4

#: a beat: (tdata, tlast, tuser)
Beat = tuple[int, int, int]


@dataclass
class PortCase:
    """One port: signal prefix, bits of tdata, and for inputs the beats to send."""

    prefix: str
    bits: int
    beats: list[Beat] = field(default_factory=list)


@dataclass
class Case:
    """One simulation. ``watchdog`` is in cycles without a beat on any port."""

    inputs: list[PortCase]
    output: PortCase
    frames: int
    stall: str
    seed: int
    taps: list[PortCase]
    watchdog: int
    max_cycles: int | None


@dataclass
class Result:
    """Beats of the output and of every tap, and the cycles at which frames began and ended."""

    output: list[Beat] = field(default_factory=list)
    in_first: list[int] = field(default_factory=list)
    in_last: list[int] = field(default_factory=list)
    out_first: list[int] = field(default_factory=list)
    out_last: list[int] = field(default_factory=list)
    taps: list[list[Beat]] = field(default_factory=list)
    #: per cycle one byte per tap: a beat was transferred
    fire: bytearray = field(default_factory=bytearray)
    error: str = ""


def _pattern(kind: str, rng: random.Random) -> Iterator[bool]:
    """Endless go / stall decisions, one per cycle."""
    if kind == "go":
        while True:
            yield True
    if kind == "bursts":
        while True:
            yield from [True] * 64
            yield from [False] * 64
    share = {"half": 0.5, "most": 0.75, "few": 0.25}[kind]
    while True:
        yield rng.random() < share


def _reader(handle: Any, bits: int) -> Callable[[], int]:
    """Fast read of a signal: no LogicArray."""
    raw = handle._handle
    if bits == 1:
        return raw.get_signal_val_long
    if bits < 32:
        mask = (1 << bits) - 1
        return lambda: raw.get_signal_val_long() & mask
    return lambda: int(raw.get_signal_val_binstr(), 2)


def _writer(handle: Any, bits: int) -> Callable[[int], None]:
    """Fast write of a signal, effective at the next evaluation."""
    raw = handle._handle
    if bits < 32:
        return lambda value: raw.set_signal_val_int(3, value)
    width = len(handle)
    return lambda value: raw.set_signal_val_binstr(3, f"{value:0{width}b}")


class _Signals:
    """Access functions of one port or tap."""

    def __init__(self, dut: Any, port: PortCase, drive: str) -> None:
        def get(name: str) -> Any:
            return getattr(dut, f"{port.prefix}_{name}")

        self.prefix = port.prefix
        for name, bits in (
            ("tvalid", 1), ("tready", 1), ("tdata", port.bits), ("tlast", 1), ("tuser", 1),
        ):  # fmt: skip
            is_ready = name == "tready"
            if (drive == "source" and not is_ready) or (drive == "sink" and is_ready):
                setattr(self, name, _writer(get(name), bits))
            else:
                setattr(self, name, _reader(get(name), bits))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class _Source:
    """Sends the beats of one input port."""

    def __init__(self, dut: Any, port: PortCase, go: Iterator[bool]) -> None:
        self.s = _Signals(dut, port, "source")
        self.beats, self.go, self.at, self.valid = port.beats, go, 0, False
        self.s.tvalid(0)

    def drive(self) -> None:
        if self.valid:
            return
        if self.at < len(self.beats) and next(self.go):
            data, last, user = self.beats[self.at]
            self.s.tdata(data)
            self.s.tlast(last)
            self.s.tuser(user)
            self.s.tvalid(1)
            self.valid = True
        else:
            self.s.tvalid(0)

    def sample(self) -> Beat | None:
        if not (self.valid and self.s.tready()):
            return None
        self.valid = False
        self.at += 1
        return self.beats[self.at - 1]


async def _simulate(dut: Any, case: Case, out: Result) -> None:
    step = Timer(1, "step")
    clock, reset = _writer(dut.clk_i, 1), _writer(dut.rst_ni, 1)
    kind_in, kind_out = STALLS[case.stall]

    def rng(name: str) -> random.Random:
        return random.Random(f"{case.seed} {case.stall} {name}")

    sources = [_Source(dut, p, _pattern(kind_in, rng(p.prefix))) for p in case.inputs]
    sink = _Signals(dut, case.output, "sink")
    sink_go = _pattern(kind_out, rng(case.output.prefix))
    taps: list[tuple[Any, ...]] = [
        (i, s.tvalid, s.tready, s.tdata, s.tlast, s.tuser, [])
        for i, s in enumerate(_Signals(dut, p, "tap") for p in case.taps)
    ]
    out.taps = [t[-1] for t in taps]

    reset(0)
    sink.tready(0)
    for cycle in range(RESET_CYCLES + 1):
        clock(0)
        reset(int(cycle == RESET_CYCLES))
        await step
        clock(1)
        await step

    cycle = idle = 0
    silent = -1  # cycles still to watch after the last expected beat
    in_start = out_start = True
    held: Beat | None = None
    n_taps = len(taps)
    while True:
        clock(0)
        for source in sources:
            source.drive()
        ready = next(sink_go)
        sink.tready(int(ready))
        await step

        idle += 1
        for i, source in enumerate(sources):
            beat = source.sample()
            if beat is not None:
                idle = 0
                if i == 0:
                    if in_start:
                        out.in_first.append(cycle)
                    in_start = bool(beat[1])
                    if in_start:
                        out.in_last.append(cycle)
        if sink.tvalid():
            beat = (sink.tdata(), sink.tlast(), sink.tuser())
            if held is not None and beat != held:
                out.error = f"cycle {cycle}: the output changed from {held} to {beat} while stalled"
                return
            held = beat
            if silent >= 0:
                out.error = f"cycle {cycle}: a beat {beat} after the last of {case.frames} frames"
                return
            if ready:
                idle, held = 0, None
                out.output.append(beat)
                if out_start:
                    out.out_first.append(cycle)
                out_start = bool(beat[1])
                if out_start:
                    out.out_last.append(cycle)
                    if len(out.out_last) == case.frames:
                        silent = 2 * (out.out_first[0] - out.in_first[0]) + 64
        elif held is not None:
            out.error = f"cycle {cycle}: the output withdrew tvalid without tready"
            return
        if n_taps:
            row = bytearray(n_taps)
            for i, tvalid, tready, tdata, tlast, tuser, beats in taps:
                if tvalid() and tready():
                    row[i] = 1
                    beats.append((tdata(), tlast(), tuser()))
            out.fire += row
        clock(1)
        cycle += 1
        if silent >= 0:
            silent -= 1
            if silent < 0:
                break
        elif idle > case.watchdog or (case.max_cycles and cycle > case.max_cycles):
            left = ", ".join(
                f"{s.s.prefix} has {len(s.beats) - s.at} of {len(s.beats)} beats left"
                for s in sources
            )
            out.error = (
                f"cycle {cycle}: no end in sight, {idle} cycles without a beat; {left}; "
                f"{len(out.out_last)} of {case.frames} frames came out"
            )
            return
        await step
    for source in sources:
        if source.at < len(source.beats):
            out.error = f"{source.s.prefix}: {len(source.beats) - source.at} beats were not taken"


@cocotb.test()
async def run_case(dut: Any) -> None:
    """Run the case of this process; the result file is written last and whole."""
    case: Case = pickle.loads(Path(os.environ[CASE]).read_bytes())
    out = Result()
    await _simulate(dut, case, out)
    path = Path(os.environ[RESULT])
    part = path.with_suffix(".part")
    part.write_bytes(pickle.dumps(out))
    part.rename(path)
    assert not out.error, out.error
