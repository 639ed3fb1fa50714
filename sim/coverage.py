# SPDX-License-Identifier: Apache-2.0
"""What the benches of a core have reached, merged over its parameter sets.

Lines and branches are counted by Verilator in a build of its own; the points that different
parameters make of one place in the source are one point. ``// verilator coverage_off`` and
``// verilator coverage_on`` around lines, below a comment with the reason, take them out of the
account; so does Verilator with what ends in ``$error`` or ``$stop``. Toggles are those of the
core's stream ports, as ``axis_checker`` sees them: every bit has to rise and to fall outside of
reset, in some parameter set. Functional bins are counted by the core's own ``bins``.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sievit.quant.bins import bins_of_sets
from sievit.quant.params import SET, Constants, CoreParams, Stream
from sievit.sim import bench

#: key, value of one field of a record
_FIELD = re.compile("\x01([^\x02]*)\x02([^\x01]*)")
_RECORD = re.compile("C '(.*)' ([0-9]+)")


@dataclass(frozen=True)
class Point:
    """A place that can be reached: a block, or an arm of a branch."""

    file: str  # stem
    line: int
    column: int
    what: str  # "block", "if", "else", "elsif", "case", "cond_then" ...
    lines: frozenset[int]


def read_points(path: Path) -> Counter[Point]:
    """Points of a ``coverage.dat`` and how often each was reached; instances are summed up.

    Raises ValueError if the file does not look like one of Verilator's.
    """
    text = path.read_text()
    if not text.startswith("# SystemC::Coverage-3"):
        raise ValueError(f"{path}: no coverage file of Verilator")
    out: Counter[Point] = Counter()
    for line in text.splitlines()[1:]:
        match = _RECORD.fullmatch(line)
        if not match:
            raise ValueError(f"{path}: cannot read {line!r}")
        record = dict(_FIELD.findall(match[1]))
        kind = record["page"].split("/")[0].removeprefix("v_")
        if kind not in ("line", "branch"):
            raise ValueError(f"{path}: a point of kind {kind!r}")
        where = int(record["l"])
        lines = frozenset(_ranges(record.get("S", ""))) | {where}
        column, what = int(record["n"]), record.get("o", "")
        point = Point(Path(record["f"]).stem, where, column, what, lines)
        out[point] += int(match[2])
    return out


def _ranges(text: str) -> list[int]:
    """Numbers of ``3-5,8``."""
    out: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out


@dataclass
class Coverage:
    """Coverage of one core, of as many parameter sets as were added."""

    stem: str
    points: Counter[Point] = field(default_factory=Counter)
    #: (port, signal or bit of tdata, direction) -> seen
    toggles: dict[tuple[str, str, str], bool] = field(default_factory=dict)
    bins: Counter[str] = field(default_factory=Counter)
    names: dict[str, Path] = field(default_factory=dict)

    def add(
        self,
        path: Path,
        cover: Mapping[str, Mapping[str, int]],
        params: CoreParams,
        constants: Constants,
        inputs: list[Stream],
    ) -> None:
        """One simulation: the file that it left, what the checkers saw, and what was sent."""
        self.points.update(read_points(path))
        for port in (*params.inputs(), params.output()):
            bits = [f"tdata[{i}]" for i in range(port.lanes * port.itype.bits)]
            for direction in ("rose", "fell"):
                seen = cover[port.name][direction]
                for i, signal in enumerate((*bench.SIGNALS, *bits)):
                    if port.name == SET and signal in ("tuser", "tlast"):
                        continue  # a frame has one number
                    key = (port.name, signal, direction)
                    self.toggles[key] = self.toggles.get(key, False) or bool(seen >> i & 1)
        module = importlib.import_module(type(params).__module__)
        if hasattr(module, "bins"):
            found = bins_of_sets(module.bins, params, constants, inputs)
            if self.bins and set(found) != set(self.bins):
                raise ValueError(f"{self.stem}: other bins with other parameters")
            for name, count in found.items():
                self.bins[name] += int(count)

    def result(self) -> dict[str, Any]:
        """Percentages ``line``, ``branch`` and ``toggle``, ``bins`` by name, what was not reached
        (``missed``: lines of text that name the source), and the same of every module of rtl/lib
        that the core uses (``library``)."""
        own = _file_result(self.points, self.stem)
        missed = [f"{self.stem}.sv:{text}" for text in own.pop("missed")]
        for (port, signal, direction), seen in self.toggles.items():
            if not seen:
                missed.append(f"{port}_{signal} never {direction}")
        others = sorted({p.file for p in self.points} - {self.stem, f"tb_{self.stem}"} - _BENCH)
        return {
            **own,
            "toggle": _share(sum(self.toggles.values()), len(self.toggles)),
            "bins": dict(self.bins),
            "missed": missed,
            "library": {name: _file_result(self.points, name) for name in others},
        }


#: modules of the benches
_BENCH = {"axis_checker", "axis_fault"}


def _share(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 100.0


def _file_result(points: Counter[Point], stem: str) -> dict[str, Any]:
    """``line`` and ``branch`` in percent, and ``missed``, of one source file."""
    own = {p: count for p, count in points.items() if p.file == stem}
    lines = {n for p in own for n in p.lines}
    reached = {n for p, count in own.items() if count for n in p.lines}
    arms: Counter[tuple[int, int, str]] = Counter()
    for p, count in own.items():
        if p.what != "block":
            arms[p.line, p.column, p.what] += count
    missed = [(n, f"{n}: never run") for n in lines - reached]
    missed += [(at[0], f"{at[0]}: branch {at[2]} never taken") for at, count in arms.items()
               if not count]  # fmt: skip
    return {
        "line": _share(len(lines & reached), len(lines)),
        "branch": _share(sum(count > 0 for count in arms.values()), len(arms)),
        "missed": [text for _, text in sorted(missed)],
    }
