# SPDX-License-Identifier: Apache-2.0
"""The cocotb side of every simulation: drives and samples AXI-Stream ports, knows nothing of cores.

The cases are read from ``SIEVIT_CASE``; their results are appended to ``SIEVIT_RESULT`` one by one,
so that a simulator that stops leaves behind how far it came. Every clock cycle has two time steps:
in the first the clock falls and the ports are driven, in the second the settled design is sampled
and the clock rises. A design with ``clk2x_i``, which rises at both edges, has two more, in which
that falls. A generator walks through the steps, resumed by a bare callback of the simulator:
cocotb's own triggers would cost more than all the rest.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
from cocotb import simulator
from cocotb.simtime import get_sim_time
from cocotb.triggers import Timer

CASE, RESULT = "SIEVIT_CASE", "SIEVIT_RESULT"

#: stall profile -> (of the inputs, of the output); see ``pattern``
STALLS = {
    "none": ("go", "go"),
    "idle": ("half", "go"),
    "ready_75": ("go", "most"),
    "ready_25": ("go", "few"),
    "bursts": ("bursts", "bursts"),
    "both": ("half", "half"),
    "starve": ("starve", "late"),
}

RESET_CYCLES = 4
#: cycles for which ``starve`` withholds one input
STARVE = 200
#: cycles at most for which the bench goes on watching after the last beat
SILENCE = 5_000
#: steps between looks of the cocotb test at what the callback has done
POLL = 100_000

#: order of the signals in what ``axis_checker`` says of toggles; tdata follows
SIGNALS = ("tready", "tvalid", "tuser", "tlast")

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
    """One run. ``watchdog`` is in cycles without a beat on any port.

    With ``resets`` the reset falls that often, 1 to ``reset_gap`` cycles apart, whatever the ports
    do; the inputs go on with the next frame, and after the last frame with the first. After the
    last reset all ``frames`` are sent once.
    """

    inputs: list[PortCase]
    output: PortCase
    frames: int
    stall: str
    seed: int
    watchdog: int
    max_cycles: int | None
    resets: int = 0
    reset_gap: int = 200


@dataclass
class Result:
    """Beats of the output, and the cycles at which frames began and ended.

    With resets all but ``segments`` tells of the time after the last reset: ``start`` is the frame
    that was sent first.
    """

    output: list[Beat] = field(default_factory=list)
    in_first: list[int] = field(default_factory=list)
    in_last: list[int] = field(default_factory=list)
    out_first: list[int] = field(default_factory=list)
    out_last: list[int] = field(default_factory=list)
    start: int = 0
    #: before every reset: (frame sent first, beats that came out)
    segments: list[tuple[int, list[Beat]]] = field(default_factory=list)
    #: simulated cycles
    cycles: int = 0
    #: time of the rising clock edge that ends cycle 0, and time steps of a cycle
    time: int = 0
    steps: int = 2
    error: str = ""


def pattern(kind: str, rng: random.Random, index: int = 0, count: int = 1) -> bytes:
    """One byte per cycle, 1: go, 0: stall; repeated without end.

    ``starve`` withholds port ``index`` of ``count`` alone, then the next, and then none. ``late``
    is for the sink alone: ready when a beat waits, and never before.
    """
    if kind == "go":
        return b"\1"
    if kind == "late":
        return b"\0"
    if kind == "bursts":
        return (b"\1" * 64 + b"\0" * 64)[rng.randrange(64) :]
    if kind == "starve":
        return b"".join(bytes([i != index]) * STARVE for i in range(count + 1))
    share = {"half": 128, "most": 192, "few": 64}[kind]
    return rng.randbytes(1 << 16).translate(bytes(i < share for i in range(256)))


def _reader(handle: Any, bits: int) -> Callable[[], int]:
    """Fast read of a signal: no LogicArray."""
    raw = handle._handle
    if bits < 32:
        return raw.get_signal_val_long  # type: ignore[no-any-return]
    return lambda: int(raw.get_signal_val_binstr(), 2)


def _writer(handle: Any, bits: int) -> Callable[[int], None]:
    """Fast write of a signal, effective at the next evaluation."""
    raw = handle._handle
    if bits < 32:
        return partial(raw.set_signal_val_int, 3)
    width = len(handle)
    return lambda value: raw.set_signal_val_binstr(3, f"{value:0{width}b}")


class _Signals:
    """Access functions of one port."""

    def __init__(self, dut: Any, port: PortCase, drive: str) -> None:
        for name, bits in (
            ("tvalid", 1), ("tready", 1), ("tdata", port.bits), ("tlast", 1), ("tuser", 1),
        ):  # fmt: skip
            handle = getattr(dut, f"{port.prefix}_{name}")
            driven = drive == ("sink" if name == "tready" else "source")
            setattr(self, name, (_writer if driven else _reader)(handle, bits))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class _Source:
    """Sends the beats of one input port."""

    def __init__(self, dut: Any, port: PortCase, go: bytes) -> None:
        self.prefix, self.all, self.go, self.period = port.prefix, port.beats, go, len(go)
        s = _Signals(dut, port, "source")
        self.tready, self.tdata, self.tvalid = s.tready, s.tdata, s.tvalid
        self.tlast, self.tuser = s.tlast, s.tuser
        #: first beat of every frame, and one past the last
        self.starts = [0, *(i + 1 for i, beat in enumerate(port.beats) if beat[1])]
        self.flags = (-1, -1)
        self.restart(0)

    def restart(self, frame: int) -> None:
        """Send nothing now, and next all frames beginning with ``frame``."""
        at = self.starts[frame]
        self.beats = self.all[at:] + self.all[:at] if at else self.all
        self.at, self.end, self.valid, self.high = 0, len(self.beats), False, False
        self.tvalid(0)

    def begun(self) -> int:
        """Frames of which the design has seen something since the restart."""
        beats = self.beats[: self.at + self.valid]
        ends = sum(beat[1] for beat in beats)
        return ends + bool(beats and not beats[-1][1])


def clocks(dut: Any) -> tuple[Callable[[int], None], Callable[[int], None] | None]:
    """Write the clock, for a design with ``clk2x_i`` together with its rising edge; and write
    ``clk2x_i``, which has to fall a time step later, None if there is none."""
    clock = _writer(dut.clk_i, 1)
    if not hasattr(dut, "clk2x_i"):
        return clock, None
    fast = _writer(dut.clk2x_i, 1)

    def both(value: int) -> None:
        clock(value)
        fast(1)

    return both, fast


def _steps(dut: Any, case: Case, out: Result) -> Iterator[None]:
    """Simulate one case; every ``yield`` is a time step."""
    (clock, fast), reset = clocks(dut), _writer(dut.rst_ni, 1)
    kind_in, kind_out = STALLS[case.stall]

    def rng(name: str) -> random.Random:
        return random.Random(f"{case.seed} {case.stall} {name}")

    count = len(case.inputs)
    sources = [
        _Source(dut, p, pattern(kind_in, rng(p.prefix), i, count))
        for i, p in enumerate(case.inputs)
    ]
    first_source = sources[0]
    sink = _Signals(dut, case.output, "sink")
    sink_valid, sink_data, sink_ready = sink.tvalid, sink.tdata, sink.tready
    sink_last, sink_user = sink.tlast, sink.tuser
    sink_go = pattern(kind_out, rng(case.output.prefix))
    sink_period, sink_late = len(sink_go), kind_out == "late"
    chance = rng("reset")
    resets = case.resets
    reset_at = chance.randint(1, case.reset_gap) if resets else -1

    def hold_reset(cycles: int) -> Iterator[None]:
        """So many cycles of it, and one in which nobody may be valid yet."""
        for i in range(cycles + 1):
            clock(0)
            reset(int(i == cycles))
            yield
            if fast:
                fast(0)
                yield
            clock(1)
            yield
            if fast:
                fast(0)
                yield

    reset(0)
    sink_ready(0)
    was_ready = 0
    yield from hold_reset(RESET_CYCLES)
    cycle = idle = 0
    out.steps = 4 if fast else 2
    out.time = int(get_sim_time("step")) + out.steps // 2
    silent = -1  # cycles still to watch after the last expected beat, once all has been taken
    in_start = out_start = True
    held: Beat | None = None  # offered, not yet taken
    watchdog, max_cycles, frames = case.watchdog, case.max_cycles or 1 << 62, case.frames
    output = out.output
    while True:
        if cycle == reset_at:
            # whatever is under way ends here
            resets -= 1
            begun = max(source.begun() for source in sources)
            out.segments.append((out.start, output))
            out.start = (out.start + begun) % frames
            output = out.output = []
            out.in_first, out.in_last, out.out_first, out.out_last = [], [], [], []
            in_start = out_start = True
            held, idle = None, 0
            for source in sources:
                source.restart(out.start)
            low = chance.randint(1, 4)
            yield from hold_reset(low)
            cycle += low + 1
            reset_at = cycle + chance.randint(1, case.reset_gap) if resets else -1

        clock(0)
        for source in sources:
            if not source.valid:
                if source.at < source.end and source.go[cycle % source.period]:
                    data, last, user = source.beats[source.at]
                    source.tdata(data)
                    if source.flags != (last, user):
                        source.flags = (last, user)
                        source.tlast(last)
                        source.tuser(user)
                    source.valid = True
                    if not source.high:
                        source.high = True
                        source.tvalid(1)
                elif source.high:
                    source.high = False
                    source.tvalid(0)
        ready = int(held is not None) if sink_late else sink_go[cycle % sink_period]
        if ready != was_ready:
            sink_ready(ready)
            was_ready = ready
        yield
        if fast:
            fast(0)
            yield

        idle += 1
        for source in sources:
            if source.valid and source.tready():
                source.valid = False
                idle = 0
                if source is first_source:
                    if in_start:
                        out.in_first.append(cycle)
                    in_start = source.beats[source.at][1] == 1
                    if in_start:
                        out.in_last.append(cycle)
                source.at += 1
        if sink_valid():
            if ready or held is None or silent >= 0:
                beat = (sink_data(), sink_last(), sink_user())
                if held is not None and beat != held:
                    out.error = (
                        f"cycle {cycle}: the output changed from {held} to {beat} while stalled"
                    )
                    return
                held = beat
                if silent >= 0:
                    out.error = f"cycle {cycle}: a beat {beat} after the last of {frames} frames"
                    return
                if ready:
                    idle, held = 0, None
                    output.append(beat)
                    if out_start:
                        out.out_first.append(cycle)
                    out_start = beat[1] == 1
                    if out_start:
                        out.out_last.append(cycle)
                        if not out.in_first:
                            out.error = f"cycle {cycle}: a frame came out before one went in"
                            return
                        if not resets and len(out.out_last) == frames:
                            latency = abs(out.out_first[0] - out.in_first[0])
                            silent = min(2 * latency, SILENCE) + 64
        elif held is not None:
            out.error = f"cycle {cycle}: the output withdrew tvalid without tready"
            return
        clock(1)
        cycle += 1
        out.cycles = cycle
        if silent >= 0 and all(s.at == s.end for s in sources):
            silent -= 1
            if silent < 0:
                break
        elif (idle > watchdog and not resets) or cycle > max_cycles:
            left = ", ".join(
                f"{s.prefix} has {s.end - s.at} of {s.end} beats left" for s in sources
            )
            out.error = (
                f"cycle {cycle}: no end in sight, {idle} cycles without a beat; {left}; "
                f"{len(out.out_last)} of {frames} frames came out"
            )
            return
        yield
        if fast:
            fast(0)
            yield
    yield


@cocotb.test()
async def run_cases(dut: Any) -> None:
    """Run the cases of this process in order, up to the first that fails."""
    cases: list[Case] = pickle.loads(Path(os.environ[CASE]).read_bytes())
    with Path(os.environ[RESULT]).open("ab", buffering=0) as results:
        for case in cases:
            out = Result()
            await _run(_steps(dut, case, out))
            results.write(pickle.dumps(out))
            assert not out.error, out.error


async def _run(steps: Iterator[None]) -> None:
    """Resume ``steps`` at every time step until it ends; raises what it raises."""
    ended: list[BaseException | None] = []
    later, resume = simulator.register_timed_callback, steps.__next__

    def tick() -> None:
        try:
            resume()
        except StopIteration:
            ended.append(None)
        except BaseException as error:
            ended.append(error)
        else:
            later(1, tick)

    # at once: clock and reset must be low before the design is evaluated for the first time
    tick()
    while not ended:
        await Timer(POLL, "step")
    if ended[0] is not None:
        raise ended[0]
