# SPDX-License-Identifier: Apache-2.0
"""Size and depth of a synthesised netlist: cells by kind, longest paths between registers.

The delays are assumptions (:data:`DELAY`), not those of any device file, and every net costs the
same: nothing is placed or routed. They rank the paths of a core and find the one to cut; the LUT
levels are exact for the netlist that yosys wrote.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sievit.quant.errors import SievitError
from sievit.quant.params import Resources

Bit = int | str  # a net, or one of the constants "0", "1", "x", "z"

#: LUTs that a cell takes
LUTS = {f"LUT{i}": 1 for i in range(1, 7)} | {
    "LUT6_2": 1, "SRL16E": 1, "SRLC16E": 1, "SRLC32E": 1,
    "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4, "RAM512X1S": 8,
    "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4,
    "RAM32M16": 8, "RAM64M8": 8, "RAM32X16DR8": 8, "RAM64X8SW": 8,
}  # fmt: skip
REGISTERS = ("FDRE", "FDSE", "FDCE", "FDPE")
#: not counted: a vendor tool folds inverters into pins, wide multiplexers come with their LUTs
FREE = ("INV", "MUXF7", "MUXF8", "MUXF9", "CARRY4")
DSPS = ("DSP48E1", "DSP48E2")
#: rtl/lib/dsp_blocks.sv, a black box of DSP blocks with their registers; bits of a_i per block
CHAINS, CHAINS_A = "dsp_blocks", 27
#: halves of a RAMB36
BRAMS = {"RAMB18E1": 1, "RAMB18E2": 1, "RAMB36E1": 2, "RAMB36E2": 2}

#: Assumed delays in ns, of the order of an UltraScale+ device of medium speed grade.
DELAY = {
    "net": 0.38,  # any wire between slices
    "lut": 0.12,
    "wide_mux": 0.10,  # MUXF7, MUXF8, inside a slice
    "carry_in": 0.15,  # from a LUT into a carry chain, inside a slice
    "carry": 0.03,  # along 4 bits of a chain
    "carry_out": 0.10,  # from the chain to a sum bit
    "register": 0.08,  # clock to output
    "setup": 0.05,
    "memory": 0.50,  # clock to output of a LUT RAM or shift register
    "bram": 0.90,  # clock to output without an output register
    "bram_register": 0.30,
    "uram": 1.10,
    "dsp_register": 0.20,  # clock to P, or set-up of an input register
    "dsp_add": 0.70,  # the adder of a DSP block, and its registers' part
    "dsp_multiply": 0.90,
}

CLOCKS = frozenset(
    "C CLK WCLK WRCLK RDCLK CLKARDCLK CLKBWRCLK CLKA CLKB clk_i".split()
)  # pins that end no path
LUT_LIKE = ("LUT", "MUXF", "CARRY4", "RAM", "INV")  # drive their neighbours inside a slice


class NetlistError(SievitError):
    """The netlist holds something that the analysis does not know."""


@dataclass(frozen=True)
class Path:
    """A path between registers, or between a register and a port.

    Attributes:
        levels: LUTs on it; a read of a LUT RAM counts as one.
        carry: carry blocks (CARRY4, 4 bits each) on it.
        ns: estimated delay with clock-to-out, nets and set-up.
        start, end: nets of the registers, or ports, or cells with their pin.
        via: the kinds of the cells between them, with the names of the nets that have one.
    """

    levels: int
    carry: int
    ns: float
    start: str
    end: str
    via: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.levels} LUT levels, {self.carry} carry blocks, {self.ns:.2f} ns: "
            f"{self.start} -> {self.end}"
        )


@dataclass(frozen=True)
class Timing:
    """The slowest path by estimated delay, and the one with the most LUT levels."""

    slowest: Path
    deepest: Path

    @property
    def levels(self) -> int:
        """Most LUT levels of any path."""
        return self.deepest.levels

    @property
    def ns(self) -> float:
        return self.slowest.ns


class _Arc(NamedTuple):
    """Through a combinational cell, from a bit of an input pin to one of an output pin."""

    pin: str
    source: Bit
    target: Bit
    ns: float
    levels: int
    carry: int


class _Arrival(NamedTuple):
    ns: float
    levels: int
    carry: int
    start: str
    last: Bit | None  # where the last arc came from


def resources(module: dict[str, Any]) -> Resources:
    """Resources of a flat module of a yosys JSON netlist. Raises NetlistError on unknown cells."""
    cells = Counter(cell["type"] for cell in module["cells"].values())
    known = {*LUTS, *REGISTERS, *FREE, *DSPS, CHAINS, *BRAMS, "URAM288"}
    if cells.keys() - known:
        raise NetlistError(f"cells of unknown size: {', '.join(sorted(cells.keys() - known))}")
    chained = sum(
        len(cell["connections"]["a_i"]) // CHAINS_A
        for cell in module["cells"].values()
        if cell["type"] == CHAINS
    )
    return Resources(
        lut=sum(size * cells[name] for name, size in LUTS.items()),
        ff=sum(cells[name] for name in REGISTERS),
        dsp=sum(cells[name] for name in DSPS) + chained,
        bram36=sum(size * cells[name] for name, size in BRAMS.items()) / 2,
        uram=cells["URAM288"],
    )


def _value(cell: dict[str, Any], parameter: str) -> int:
    """A parameter of a cell, 0 where it has none."""
    value = cell["parameters"].get(parameter, 0)
    return int(value, 2) if isinstance(value, str) else value


def _dsp(cell: dict[str, Any], pin: str) -> tuple[float, bool]:
    """Delay from an input pin of a DSP block to its next register, and whether there is one."""
    first = {"A": "AREG", "ACIN": "AREG", "B": "BREG", "BCIN": "BREG", "C": "CREG", "D": "DREG"}
    if _value(cell, first.get(pin, "")):
        return DELAY["dsp_register"], True
    if pin not in ("A", "B", "D", "ACIN", "BCIN"):
        return DELAY["dsp_add"], bool(_value(cell, "PREG"))
    if _value(cell, "MREG"):
        return DELAY["dsp_multiply"], True
    return DELAY["dsp_multiply"] + DELAY["dsp_add"], bool(_value(cell, "PREG"))


def _start_ns(cell: dict[str, Any]) -> float | None:
    """Clock-to-out of a cell; None: it holds no state."""
    kind = cell["type"]
    if kind in REGISTERS:
        return DELAY["register"]
    if kind.startswith(("SRL", "RAM")) and kind in LUTS:
        return DELAY["memory"]
    if kind in BRAMS:
        registered = _value(cell, "DOA_REG") or _value(cell, "DOB_REG")
        return DELAY["bram_register" if registered else "bram"]
    if kind == "URAM288":
        return DELAY["uram"]
    if kind == CHAINS:
        return DELAY["dsp_register"]
    if kind in DSPS:
        if _value(cell, "PREG"):
            return DELAY["dsp_register"]
        if _value(cell, "MREG"):
            return DELAY["dsp_add"]
        if any(_value(cell, r) for r in ("AREG", "BREG", "CREG", "DREG")):
            return DELAY["dsp_multiply"] + DELAY["dsp_add"]
    return None


def _through(cell: dict[str, Any]) -> Iterator[tuple[str, str, float, int, int]]:
    """(input pin, output pin, ns, levels, carry blocks) of a cell but CARRY4."""
    kind = cell["type"]
    inputs = [p for p, d in cell["port_directions"].items() if d == "input" and p not in CLOCKS]
    table = _value(cell, "INIT") if kind == "LUT6_2" else 0
    outputs = [p for p, d in cell["port_directions"].items() if d == "output"]
    for a in inputs:
        for b in outputs:
            if b == "O5" and not _matters(table, int(a[1:])):
                continue
            if kind.startswith("LUT"):
                yield a, b, DELAY["lut"], 1, 0
            elif kind.startswith("MUXF"):
                yield a, b, DELAY["wide_mux"], 0, 0
            elif kind == "INV":
                yield a, b, 0.0, 0, 0
            elif kind.startswith("RAM") and kind in LUTS:
                # ADDRA reads DOA; A reads SPO, DPRA reads DPO
                letter = a.removeprefix("ADDR")
                same = a.startswith("ADDR") and b in (f"DO{letter}", "DO")
                single = (a[0] == "A" and b in ("SPO", "O")) and not a.startswith("ADDR")
                if same or single or (a.startswith("DPRA") and b == "DPO"):
                    yield a, b, DELAY["lut"], 1, 0
            elif kind.startswith("SRL"):
                if a[0] == "A" and b == "Q":
                    yield a, b, DELAY["lut"], 1, 0
            elif kind in DSPS:
                ns, ends = _dsp(cell, a)
                if not ends and not _value(cell, "PREG"):
                    yield a, b, ns, 0, 0


def _matters(table: int, index: int) -> bool:
    """Whether O5 of a LUT6_2 with this ``INIT`` depends on its input I<index>."""
    rows = [i for i in range(32) if not i >> index & 1]
    return index < 5 and any((table >> i ^ table >> (i | 1 << index)) & 1 for i in rows)


def _arcs(cell: dict[str, Any]) -> Iterator[_Arc]:
    """Arcs between the bits of a cell's pins, without the nets that lead to it."""
    wires = cell["connections"]
    if cell["type"] != "CARRY4":
        for a, b, ns, levels, carry in _through(cell):
            for x in wires.get(a, ()):
                for y in wires.get(b, ()):
                    yield _Arc(a, x, y, ns, levels, carry)
        return
    chain, first, last = DELAY["carry"], DELAY["carry_in"], DELAY["carry_out"]
    entries = [(pin, x, 0, 0.0) for pin in ("CI", "CYINIT") for x in wires.get(pin, ())]
    entries += [(p, x, i, first) for p in ("S", "DI") for i, x in enumerate(wires.get(p, ()))]
    for pin, x, i, ns in entries:
        for j in range(i, 4):
            if j < len(wires.get("CO", ())):
                yield _Arc(pin, x, wires["CO"][j], ns + chain, 0, 1)
            if j < len(wires.get("O", ())):
                yield _Arc(pin, x, wires["O"][j], ns + chain + last, 0, 1)


def _net_ns(kind: str, pin: str, driver: str) -> float:
    """Delay of the wire to a pin; none for the dedicated wires inside a slice."""
    inside = (
        (kind == "CARRY4" and pin == "CI" and driver == "CARRY4")
        or (kind == "CARRY4" and pin in ("S", "DI") and driver.startswith("LUT"))
        or (kind.startswith("MUXF") and pin != "S" and driver.startswith(("LUT", "MUXF")))
        or (kind in REGISTERS and pin == "D" and driver.startswith(LUT_LIKE))
        or kind == "INV"
        or (kind in DSPS and pin in ("PCIN", "ACIN", "BCIN"))
    )
    return 0.0 if inside else DELAY["net"]


def _names(module: dict[str, Any]) -> dict[Bit, str]:
    """The shortest public name of every net, with its index in a vector; rather not a port's."""
    names: dict[Bit, str] = {}
    public = [name for name, net in module["netnames"].items() if not net["hide_name"]]
    for name in sorted(public, key=lambda n: (n in module["ports"], len(n))):
        bits = module["netnames"][name]["bits"]
        for i, bit in enumerate(bits):
            names.setdefault(bit, f"{name}[{i}]" if len(bits) > 1 else name)
    return names


class _Graph:
    """Starts, ends and arcs of the paths of a flat module."""

    def __init__(self, module: dict[str, Any]) -> None:
        self.names = _names(module)
        self.starts: dict[Bit, tuple[float, str]] = {}
        self.ends: list[tuple[Bit, float, str]] = []
        self.into: dict[Bit, list[_Arc]] = defaultdict(list)
        self.driver: dict[Bit, str] = {}
        for cell in module["cells"].values():
            for pin, direction in cell["port_directions"].items():
                if direction == "output":
                    for bit in cell["connections"].get(pin, ()):
                        self.driver[bit] = cell["type"]
        for port, entry in module["ports"].items():
            for bit in entry["bits"]:
                if entry["direction"] == "input":
                    self.starts[bit] = (DELAY["register"], port)
                else:
                    self.ends.append((bit, DELAY["net"] + DELAY["setup"], port))
        for name, cell in module["cells"].items():
            self._add(name, cell)

    def _add(self, name: str, cell: dict[str, Any]) -> None:
        kind, wires = cell["type"], cell["connections"]
        start = _start_ns(cell)
        # registers and shift registers go by the net that they drive
        label = self.names.get(wires.get("Q", [name])[0], name)
        for arc in _arcs(cell):
            if isinstance(arc.source, int) and isinstance(arc.target, int):
                net = _net_ns(kind, arc.pin, self.driver.get(arc.source, ""))
                self.into[arc.target].append(arc._replace(ns=arc.ns + net))
        for pin, direction in cell["port_directions"].items():
            if start is None or pin in CLOCKS:
                continue
            setup = DELAY["setup"]
            if kind in DSPS and direction == "input":
                setup, ends = _dsp(cell, pin)
                if not ends:
                    continue
            elif kind == CHAINS:  # an adder stands before the register of a and d
                setup = DELAY["dsp_add" if pin in ("a_i", "d_i") else "dsp_register"]
            for bit in wires.get(pin, ()):
                if not isinstance(bit, int):
                    continue
                if direction == "output":
                    self.starts[bit] = (start, label)
                else:
                    net = _net_ns(kind, pin, self.driver.get(bit, ""))
                    end = label if pin == "D" else f"{label} ({pin})"
                    self.ends.append((bit, net + setup, end))

    def order(self) -> list[Bit]:
        """Every bit after those that it depends on. Raises NetlistError on a loop."""
        waits = {bit: len(arcs) for bit, arcs in self.into.items()}
        users: dict[Bit, list[Bit]] = defaultdict(list)
        for bit, arcs in self.into.items():
            for arc in arcs:
                users[arc.source].append(bit)
        bits: set[Bit] = {*self.starts, *users, *self.into}
        ready = [bit for bit in bits if not waits.get(bit)]
        done: list[Bit] = []
        while ready:
            bit = ready.pop()
            done.append(bit)
            for user in users[bit]:
                waits[user] -= 1
                if not waits[user]:
                    ready.append(user)
        if len(done) < len(bits):
            loop = sorted(self.names[b] for b in bits - set(done) if b in self.names)
            raise NetlistError(f"a combinational loop through {', '.join(loop[:5])}")
        return done

    def longest(self, order: list[Bit], by_levels: bool) -> Path:
        """The path of the largest delay, or of the most LUT levels (then of the largest delay)."""

        def key(a: _Arrival) -> tuple[float, float]:
            return (a.levels, a.ns) if by_levels else (a.ns, a.levels)

        arrival: dict[Bit, _Arrival] = {}
        for bit in order:
            best = None
            if bit in self.starts:
                ns, label = self.starts[bit]
                best = _Arrival(ns, 0, 0, label, None)
            for arc in self.into.get(bit, ()):
                before = arrival.get(arc.source)
                if before is None:  # a constant or an unconnected pin
                    continue
                now = _Arrival(
                    before.ns + arc.ns,
                    before.levels + arc.levels,
                    before.carry + arc.carry,
                    before.start,
                    arc.source,
                )
                if best is None or key(now) > key(best):
                    best = now
            if best is not None:
                arrival[bit] = best
        paths = [
            (arrival[bit]._replace(ns=arrival[bit].ns + ns), bit, end)
            for bit, ns, end in self.ends
            if bit in arrival
        ]
        if not paths:
            raise NetlistError("the module has no path")
        last, bit, end = max(paths, key=lambda path: key(path[0]))
        via, at = [], last
        while at.last is not None:
            name = self.names.get(bit)
            via.append(f"{self.driver[bit]} {name}" if name else self.driver[bit])
            bit = at.last
            at = arrival[bit]
        return Path(last.levels, last.carry, last.ns, last.start, end, tuple(reversed(via)))


def timing(module: dict[str, Any]) -> Timing:
    """Longest paths of a flat module of a yosys JSON netlist. Raises NetlistError on a loop."""
    graph = _Graph(module)
    order = graph.order()
    return Timing(graph.longest(order, by_levels=False), graph.longest(order, by_levels=True))
