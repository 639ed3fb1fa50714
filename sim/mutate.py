# SPDX-License-Identifier: Apache-2.0
"""Mutation: does a core's bench notice when the core is wrong?

The method is that of YosysHQ's mcy. yosys elaborates the core to a netlist of words and lists
small changes of it (a bit of a cell's port stuck, inverted, or exclusive-ored with its neighbour),
spread evenly over source lines and nets. All of them go into one netlist, where an input chooses
one, so a single build serves all. A mutant is killed if the bench fails on it.

A mutant that is alive may compute the same thing. That is proven where it is so, by ABC on the
product of the netlist with and without the change: from any common state, under any legal traffic
and any resets, both show the same on their ports. What is neither killed nor proven survives, and a
person has to say why, in ``mutants.toml``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyosys
import torch

from sievit.quant.files import write_atomic
from sievit.quant.params import Constants, CoreParams, Port, core_names
from sievit.rtl import codegen, synth
from sievit.sim import evidence, harness, runner

#: written by people: which parameter set of a bench to mutate (``[set] core = index``), and why
#: mutants may live (``[[core]] mutant = ..., reason = ...``)
PEOPLE = Path(__file__).resolve().parent / "mutants.toml"
PLUSARG = "sievit_mutant"
COUNT, SEED = 30, 1
TOKENS, VOLUME = 1000, 10_000  # that a mutant has to withstand under every stall profile; under one
PROOF_SECONDS = 15

#: clocks are no logic of the core; the memories that yosys infers have no resets
SKIPPED_PORTS = ("CLK", "RD_CLK", "WR_CLK", "RD_ARST", "RD_SRST")

# Expressions of yosys are plain Verilog, but not of anybody's style. A bit of a vector that hangs
# on another bit of the same vector looks like a loop.
_LINT = '`verilator_config\nlint_off -file "*netlist.sv"\nlint_off -rule UNOPTFLAT\n'

# A process of its own, as in rtl/synth.py. Two commands are added to those of yosys:
# "cells FILE" writes the cell types; "evert FILE" turns every flip-flop k into an input s<k>, its
# state, and an output n<k>, its next state, and writes their widths and names; "cut FILE" turns the
# outputs of the cells that the file lists into inputs x<k> and, where it says so, their operands
# into outputs y<k>, and writes the widths of both (0: no y<k>).
_SCRIPT = r"""
import json, sys
from pyosys import libyosys as ys

design = ys.Design()

def cells(path):
    module = design.top_module()
    types = {c.name.str().lstrip("\\"): c.type.str() for c in module.cells_.values()}
    open(path, "w").write(json.dumps(types))

def evert(path):
    module, widths = design.top_module(), []
    for cell in list(module.cells_.values()):
        if cell.type.str() != "$dff":
            continue
        d, q = cell.getPort(ys.IdString("\\D")), cell.getPort(ys.IdString("\\Q"))
        state = module.addWire(ys.IdString(f"\\s{len(widths)}"), q.size())
        after = module.addWire(ys.IdString(f"\\n{len(widths)}"), q.size())
        state.port_input, after.port_output = True, True
        module.remove(cell)
        module.connect(q, ys.SigSpec(state))
        module.connect(ys.SigSpec(after), d)
        name = q.as_wire().name.str() if q.is_wire() else ""
        widths.append((q.size(), name))
    module.fixup_ports()
    open(path, "w").write(json.dumps(widths))

def cut(path):
    module, widths, names = design.top_module(), [], json.load(open(path))
    for cell in list(module.cells_.values()):
        if cell.name.str().lstrip("\\") not in names:
            continue
        y, operands = cell.getPort(ys.IdString("\\Y")), ys.SigSpec()
        free = module.addWire(ys.IdString(f"\\x{len(widths)}"), y.size())
        free.port_input = True
        if names[cell.name.str().lstrip("\\")]:
            operands.append(cell.getPort(ys.IdString("\\A")))
            operands.append(cell.getPort(ys.IdString("\\B")))
            shown = module.addWire(ys.IdString(f"\\y{len(widths)}"), operands.size())
            shown.port_output = True
            module.connect(ys.SigSpec(shown), operands)
        module.remove(cell)
        module.connect(y, ys.SigSpec(free))
        widths.append((y.size(), operands.size()))
    module.fixup_ports()
    open(path, "w").write(json.dumps(widths))

for line in sys.stdin.read().splitlines():
    word, _, rest = line.partition(" ")
    if word in ("cells", "evert", "cut"):
        {"cells": cells, "evert": evert, "cut": cut}[word](rest)
    else:
        ys.run_pass(line, design)
"""


@dataclass(frozen=True)
class Mutant:
    """One change. ``index`` chooses it in the netlist; the rest says what and where it is.

    Attributes:
        change: mode, cell type, port and bit, net and bit.
        source: file and line of the cell, relative to the repository.
        text: that line, without white space at its ends.
        command: the yosys command that makes the change.
    """

    index: int
    change: str
    source: str
    text: str
    command: str

    @property
    def key(self) -> str:
        """Names the mutant without line numbers."""
        name = Path(self.source.partition(":")[0]).name
        return f"{self.change} | {name}: {self.text}" if name else self.change


@dataclass(frozen=True)
class Survivor:
    """A mutant that the bench does not notice and that is not proven equivalent.

    ``reason``: why that is right, from ``mutants.toml``; empty: nobody knows.
    """

    mutant: str
    source: str
    reason: str


@dataclass(frozen=True)
class Mutation:
    """Outcome for one core; ``total = killed + equivalent + len(survivors)``."""

    core: str
    total: int
    killed: int
    equivalent: int
    survivors: list[Survivor] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Share of the killed among those that are not proven equivalent, in percent."""
        return 100 * self.killed / max(1, self.total - self.equivalent)

    def __str__(self) -> str:
        return (
            f"{self.core}: {self.killed} of {self.total - self.equivalent} killed "
            f"({self.rate:.1f} %), {self.equivalent} equivalent, {len(self.survivors)} survive"
        )


# -- the netlist ---------------------------------------------------------------------------------


def _yosys(commands: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input="\n".join(commands), cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        log = (done.stdout + done.stderr).strip()
        raise synth.SynthesisError(f"yosys failed ({done.returncode}):\n{log[-4000:]}")


def _select_bits(count: int) -> int:
    return count.bit_length()


def _elaborate(stem: str, params: CoreParams, constants: Constants, folder: Path) -> None:
    """Write ``core.il``: the core as one module of words, as small as yosys makes it."""
    memories = params.images(constants)
    for key, memory in memories.items():
        for name, text in memory.files(f"{key}.hex").items():
            (folder / name).write_text(text)
    names = runner.sv_memory_names(memories)
    parameters: dict[str, int | str] = {**params.sv_parameters(), **names}
    read = synth.read_command(stem, parameters)
    read = read.replace("read_slang", "read_slang --ignore-assertions")
    _yosys(
        [
            read, f"hierarchy -check -top {stem}", "proc", "flatten", "opt -full", "wreduce",
            "memory -nomap", "opt -full", "setundef -zero", "opt -full", "opt_clean -purge",
            "simplemap t:$bwmux",  # has no expression in Verilog
            f"rename {stem} {stem}_netlist", "write_rtlil core.il",
        ],
        folder,
    )  # fmt: skip


def _sample(folder: Path, seed: int, count: int) -> list[Mutant]:
    """``count`` mutants of ``core.il``, or as many as there are."""
    wanted = 2 * count + 20
    _yosys(
        [
            "read_rtlil core.il", "cells cells.json",
            f"mutate -list {wanted} -seed {seed} -o list.txt",
        ],
        folder,
    )  # fmt: skip
    types = json.loads((folder / "cells.json").read_text())
    out: list[Mutant] = []
    for line in (folder / "list.txt").read_text().splitlines():
        words = line.split()[1:]
        pairs = list(zip(words[::2], words[1::2], strict=True))
        option = {k: v for k, v in pairs if k != "-src"}
        port = option["-port"]
        if port in SKIPPED_PORTS or len(out) == count:
            continue
        kind = types[option["-cell"]]
        change = f"{option['-mode']} {kind}.{port}[{option['-portbit']}]"
        if "-ctrlbit" in option:
            change += f" by [{option['-ctrlbit']}]"
        if "-wire" in option:
            change += f" {option['-wire']}[{option.get('-wirebit', 0)}]"
        # the last source is that of the cell
        source, text = _source(folder, [v for k, v in pairs if k == "-src"][-1:])
        command = " ".join(["mutate", *(w for p in pairs if p[0] != "-src" for w in p)])
        out.append(Mutant(len(out) + 1, change, source, text, command))
    return out


def _source(folder: Path, places: list[str]) -> tuple[str, str]:
    """File and line, and the text of the line, of a yosys source attribute."""
    if not places:
        return "", ""
    name, _, position = places[0].partition("|")[0].rpartition(":")
    path, line = (folder / name).resolve(), int(position.partition(".")[0])
    text = path.read_text().splitlines()[line - 1].strip()
    return f"{os.path.relpath(path, evidence.ROOT)}:{line}", text


def _mutated(stem: str, folder: Path, mutants: list[Mutant]) -> None:
    """Write ``mutated.il`` and ``netlist.sv``: all mutants, one chosen by the input ``mutant``."""
    bits = _select_bits(len(mutants))
    apply = [
        m.command.replace("mutate ", f"mutate -ctrl mutant {bits} {m.index} ", 1) for m in mutants
    ]
    _yosys(
        ["read_rtlil core.il", *apply, "write_rtlil mutated.il",
         "write_verilog -noattr netlist.sv"],
        folder,
    )  # fmt: skip


# -- the bench -----------------------------------------------------------------------------------


def _signals(port: Port, is_input: bool) -> Iterator[tuple[str, str, str]]:
    """(direction, range, name) of the signals of a port."""
    to, back = ("input", "output") if is_input else ("output", "input")
    yield to, f"[{port.lanes * port.itype.bits - 1}:0] ", f"{port.name}_tdata"
    yield to, "", f"{port.name}_tvalid"
    yield back, "", f"{port.name}_tready"
    yield to, "", f"{port.name}_tlast"
    yield to, "", f"{port.name}_tuser"


def _ports(params: CoreParams) -> list[tuple[Port, bool]]:
    return [*((p, True) for p in params.inputs()), (params.output(), False)]


def _shell(stem: str, params: CoreParams, count: int) -> str:
    """The module that stands for the core: the netlist with the mutant of the command line."""
    signals = [s for port, is_input in _ports(params) for s in _signals(port, is_input)]
    ports = ["  input logic clk_i", "  input logic rst_ni"]
    ports += [f"  {direction} logic {width}{name}" for direction, width, name in signals]
    links = ["clk_i", "rst_ni", "mutant", *(name for _, _, name in signals)]
    pins = [*(f"      .{n}" for n in links), *codegen.ties(params.sv_parameters())]
    return "\n".join(
        [
            "// SPDX-License-Identifier: Apache-2.0",
            f"module {stem} (", ",\n".join(ports), ");",
            f"  logic [{_select_bits(count) - 1}:0] mutant;",
            f'  initial if ($value$plusargs("{PLUSARG}=%d", mutant) == 0) mutant = 0;',
            f"  {stem}_netlist u_netlist (", ",\n".join(pins), "  );",
            "endmodule", "",
        ]
    )  # fmt: skip


def _build(stem: str, params: CoreParams, folder: Path, count: int) -> str:
    """Compile the mutated netlist under the core's ordinary wrapper; returns the top module."""
    top = f"tb_{stem}"
    texts = {
        f"{top}.sv": runner.wrapper(stem, _ports(params), {}),
        f"{stem}.sv": _shell(stem, params, count),
        "lint.vlt": _LINT,
    }
    for name, text in texts.items():
        runner.write_text(folder / name, text)
    runner.build(top, [folder / name for name in ("netlist.sv", *texts)], {}, folder)
    return top


Runs = list[tuple[harness.Trial, runner.Run]]


class Bench:
    """The core's ordinary bench (as in ``harness.soak_set``), run on the netlist.

    Attributes:
        groups: runs of one process each, the short ones first: most mutants need no more.
    """

    def __init__(self, stem: str, params: CoreParams, seed: int) -> None:
        self.stem, self.params = stem, params
        volume = harness.enough(stem, params, seed, VOLUME)
        self.constants = volume.constants
        tokens = torch.cumsum(volume.inputs[0].length, 0)
        trial = volume.pick(torch.arange(int((tokens < TOKENS).sum()) + 1))
        few = trial.pick(torch.arange(min(harness.FEW, len(trial.golden.length))))
        equal = few.equal_frames()
        short = [(few, few.run(stall)) for stall in ("both", "starve", "none")]
        # under stalls too: a reset has to empty what waits
        resets = [(few, few.run(stall, harness.RESETS)) for stall in ("none", "ready_25")]
        resets += [(few, few.run("both"))]
        self.groups: dict[str, tuple[Runs, int]] = {
            "short": ([*short, (equal, equal.run())], 2),
            "resets": (resets, 2),
            "resets from 0": (resets, 0),
            "resets from 1": (resets, 1),
            "long": ([(trial, trial.run(stall)) for stall in harness.PROFILES], 2),
            "volume": ([(volume, volume.run("idle"))], 2),
        }
        self.cycles: dict[str, int] = {}  # of the longest run without a mutant

    def run(self, group: str, folder: Path, top: str, mutant: int = 0) -> None:
        """One group on a mutant, 0: none. Raises SimulationError or AssertionError if it fails."""
        runs, initial = self.groups[group]
        limit = 3 * self.cycles[group] + 1000 if mutant else None
        results = runner.simulate_batch(
            folder, top, list(self.params.inputs()), self.params.output(),
            [run for _, run in runs], max_cycles=limit, initial=initial,
            plusargs=(f"+{PLUSARG}={mutant}",),
        )  # fmt: skip
        for (trial, run), result in zip(runs, results, strict=True):
            trial.check(run, result)
        if group == "short":
            harness.check_rate(self.stem, self.params, results[-1])
        if not mutant:
            self.cycles[group] = max(r.cycles for r in results)

    def killer(self, folder: Path, top: str, mutant: int) -> str:
        """The first group that fails on the mutant and how, or nothing."""
        for group in self.groups:
            try:
                self.run(group, folder, top, mutant)
            except (runner.SimulationError, AssertionError) as error:
                return f"killed by {group}: {str(error).splitlines()[0]}"
        return ""


# -- equivalence ---------------------------------------------------------------------------------


def _evert(folder: Path) -> None:
    """Write ``comb.il`` and ``states.json``: the mutated netlist without its registers."""
    _yosys(
        [
            "read_rtlil mutated.il", "memory_map", "opt -full", "dffunmap",
            "opt -full -nodffe -nosdff", "dffunmap", "opt_clean", "evert states.json",
            "setundef -undriven -zero", "opt_clean", "write_rtlil comb.il",
        ],
        folder,
    )  # fmt: skip


def _single(folder: Path, mutant: int, count: int) -> None:
    """Write ``one.il`` and ``one.json``: a netlist with one mutant, active while ``on`` is high."""
    bits = range(_select_bits(count))
    _yosys(
        [
            "read_rtlil comb.il", "delete -input w:mutant", "add -input on 1",
            *(f"connect -set mutant[{i}] " + ("on" if mutant >> i & 1 else "1'0") for i in bits),
            "opt -full", "simplemap", "opt_clean", "write_rtlil one.il", "write_json one.json",
        ],
        folder,
    )  # fmt: skip


def _influence(folder: Path, stem: str) -> tuple[set[int], set[str], dict[str, str]]:
    """What the mutant of ``one.json`` can change, now or later.

    Returns the registers and the cells in its cone, and the type of every cell.
    """
    module = json.loads((folder / "one.json").read_text())["modules"][f"{stem}_netlist"]
    users: dict[int, list[str]] = {}
    drives: dict[str, list[int]] = {}
    for name, cell in module["cells"].items():
        drives[name] = []
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "output":
                drives[name] += bits
            else:
                for bit in bits:
                    users.setdefault(bit, []).append(name)
    ports = {name: port["bits"] for name, port in module["ports"].items()}
    next_of: dict[int, set[int]] = {}
    for name, bits in ports.items():
        if re.fullmatch(r"n\d+", name):
            for bit in bits:
                next_of.setdefault(bit, set()).add(int(name[1:]))
    todo, seen = list(ports["on"]), set(ports["on"])
    states: set[int] = set()
    cells: set[str] = set()
    while todo:
        bit = todo.pop()
        reached = []
        for name in users.get(bit, ()):
            cells.add(name)
            reached += drives[name]
        for state in next_of.get(bit, set()) - states:
            states.add(state)
            reached += ports[f"s{state}"]
        todo += [b for b in reached if b not in seen]
        seen.update(reached)
    kept = {
        bit
        for name, port in module["ports"].items()
        if port["direction"] == "output" and not re.fullmatch(r"n\d+", name)
        for bit in port["bits"]
    }
    kept |= {bit for state in states for bit in ports[f"n{state}"]}
    cells |= {name for name, bits in drives.items() if kept & set(bits)}
    return states, cells, {name: cell["type"] for name, cell in module["cells"].items()}


def _miter(
    stem: str,
    params: CoreParams,
    widths: list[int],
    shared: set[int],
    free: list[tuple[int, int]],
) -> str:
    """The product of core and mutant: ``bad`` is high if a legal history makes them differ.

    Both start in the same arbitrary state and in reset, which may come back at any time; in reset
    nothing counts. The sources keep to the AXI-Stream rules, to whole tokens and to frames of at
    most ``max_tokens`` tokens: after a violation nothing counts any more.

    ``widths``: of all registers; those in ``shared`` hold the same in both and anything in every
    cycle, and so do the results ``free``, of these widths. Where the second width is not 0, the
    operands must be alike: that they are is a part of the proof.
    """
    ports = _ports(params)
    signals = [s for port, is_input in ports for s in _signals(port, is_input)]
    driven = [(width, name) for direction, width, name in signals if direction == "input"]
    read = [(width, name) for direction, width, name in signals if direction == "output"]
    text = ["module miter (", "  input clk_i, input rst_ni,"]
    text += [f"  input {width}{name}," for width, name in driven]
    text += [f"  input [{w - 1}:0] i{k}," for k, w in enumerate(widths)]
    text += [f"  input [{w - 1}:0] x{k}," for k, (w, _) in enumerate(free)]
    text += ["  output bad", ");", "  reg started = 0, seen = 0, ok = 1;"]
    for copy, on in (("a", 0), ("b", 1)):
        links = [".clk_i(clk_i)", ".rst_ni(rst_ni)", f".on(1'd{on})"]
        links += [f".{name}({name})" for _, name in driven]
        links += codegen.ties(params.sv_parameters())
        links += [f".x{k}(x{k})" for k in range(len(free))]
        for k, (_, w) in enumerate(free):
            if w:
                text.append(f"  wire [{w - 1}:0] {copy}y{k};")
                links.append(f".y{k}({copy}y{k})")
        for width, name in read:
            text.append(f"  wire {width}{copy}_{name};")
            links.append(f".{name}({copy}_{name})")
        for k, w in enumerate(widths):
            if k in shared:
                links.append(f".s{k}(i{k})")
                continue
            text.append(f"  reg [{w - 1}:0] {copy}{k}; wire [{w - 1}:0] {copy}n{k};")
            text.append(f"  always @(posedge clk_i) {copy}{k} <= {copy}n{k};")
            links += [f".s{k}(started ? {copy}{k} : i{k})", f".n{k}({copy}n{k})"]
        text.append(f"  {stem}_netlist {copy} ({', '.join(links)});")
    legal, differ = ["1'b1"], [f"ay{k} != by{k}" for k, (_, w) in enumerate(free) if w]
    for port, is_input in ports:
        p = port.name
        if is_input:
            text += _source_rules(port, params.max_tokens)
            legal.append(f"{p}_legal")
            differ.append(f"{p}_tvalid && a_{p}_tready != b_{p}_tready")
        else:
            payload = [f"{{{c}_{p}_tdata, {c}_{p}_tlast, {c}_{p}_tuser}}" for c in "ab"]
            differ += [
                f"a_{p}_tvalid != b_{p}_tvalid",
                f"a_{p}_tvalid && {payload[0]} != {payload[1]}",
            ]
    text += [
        f"  wire legal = {' && '.join(legal)};",
        "  always @(posedge clk_i) begin",
        "    started <= 1;",
        "    if (!started) seen <= !rst_ni;",
        "    if (seen && rst_ni && !legal) ok <= 0;",
        "  end",
        f"  assign bad = seen && rst_ni && ok && legal && ({' || '.join(differ)});",
        "endmodule",
        "",
    ]
    return "\n".join(text)


def _source_rules(port: Port, max_tokens: int) -> list[str]:
    """``<port>_legal``: what the source shows in this cycle is allowed."""
    p, beats = port.name, port.beats
    bits = max(1, (beats - 1).bit_length())
    token_bits = max(1, (max_tokens - 1).bit_length())
    payload = f"{{{p}_tdata, {p}_tlast, {p}_tuser}}"
    width = port.lanes * port.itype.bits + 2
    return [
        f"  reg {p}_stalled; reg [{width - 1}:0] {p}_before;",
        f"  reg [{bits - 1}:0] {p}_beat; reg [{token_bits - 1}:0] {p}_token;",
        f"  wire {p}_end = {p}_beat == {beats - 1};",
        f"  wire {p}_legal = (!{p}_stalled || {p}_tvalid && {p}_before == {payload}) &&",
        f"    (!{p}_tvalid || (!{p}_tuser || {p}_tlast) && (!{p}_tlast || {p}_end) &&",
        f"      ({p}_tlast || !{p}_end || {p}_token != {max_tokens - 1}));",
        "  always @(posedge clk_i) begin",
        f"    {p}_before <= {payload};",
        f"    {p}_stalled <= rst_ni && {p}_tvalid && !a_{p}_tready;",
        f"    if (!rst_ni) begin {p}_beat <= 0; {p}_token <= 0; end",
        f"    else if ({p}_tvalid && a_{p}_tready) begin",
        f"      {p}_beat <= {p}_end ? 0 : {p}_beat + 1;",
        f"      if ({p}_end) {p}_token <= {p}_tlast ? 0 : {p}_token + 1;",
        "    end",
        "  end",
    ]


def _equivalent(
    stem: str, params: CoreParams, folder: Path, mutant: Mutant, count: int, seconds: int
) -> bool:
    """Whether ABC proves that the mutant never shows at the ports, with ``seconds`` for each try.

    Three abstractions, all of them safe. First, everything that the mutant cannot reach may do
    anything, alike in both copies: quick where the mutant is masked near its place. Second, only
    memories that it cannot reach and products may do anything; products that it can reach are
    alike because their operands must be. Third, products that it cannot reach.
    """
    if not (folder / "states.json").exists():
        _evert(folder)
    registers = json.loads((folder / "states.json").read_text())
    widths = [width for width, _ in registers]
    _single(folder, mutant.index, count)
    states, cone, types = _influence(folder, stem)
    unreached = set(range(len(widths))) - states
    words = {k for k in unreached if registers[k][1].endswith("]")}
    outside = dict.fromkeys(types.keys() - cone, False)
    products = {name: name in cone for name in types if types[name] == "$mul"}
    beyond = {name: False for name in products.keys() & outside.keys()}
    tries = [(outside, unreached), (products, words), (beyond, words)]
    for n, (cut, shared) in enumerate(tries[: 3 if products != beyond else 2]):
        (folder / "cut.json").write_text(json.dumps(cut))
        _yosys(["read_rtlil one.il", "cut cut.json", "write_rtlil cut.il"], folder)
        free = [tuple(pair) for pair in json.loads((folder / "cut.json").read_text())]
        (folder / "miter.v").write_text(_miter(stem, params, widths, shared, free))
        if _prove(folder, f"{mutant.index}-{n}", seconds):
            return True
    return False


def _prove(folder: Path, name: str, seconds: int) -> bool:
    """Whether ``bad`` of ``miter.v`` over ``cut.il`` is always low, as far as ABC sees."""
    _yosys(
        [
            "read_rtlil cut.il", "read_verilog -sv miter.v", "hierarchy -check -top miter", "proc",
            "flatten", "opt -full", "techmap", "opt", "dffunmap", "opt -nodffe -nosdff", "aigmap",
            "setundef -undriven -zero", "opt_clean", "write_aiger -zinit miter.aig",
        ],
        folder,
    )  # fmt: skip
    abc = Path(pyosys.__file__).parent / "yosys-abc"
    # merging equal registers (scorr) may leave none at all: then sat decides, and pdr does not
    done = subprocess.run(
        [str(abc), "-c", "read_aiger miter.aig; scorr; dc2; sat -C 100000; pdr"],
        cwd=folder, capture_output=True, text=True,
        # processor time, so that a busy machine proves as much as an idle one
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
    )  # fmt: skip
    (folder / f"proof-{name}.log").write_text(done.stdout + done.stderr)
    return bool(re.search(r"^(UNSATISFIABLE|Property proved)", done.stdout, re.M))


# -- one core ------------------------------------------------------------------------------------


def choice(stem: str) -> CoreParams:
    """The parameter set to mutate: the first of the bench, unless ``mutants.toml`` says another."""
    sets = importlib.import_module(f"sievit.sim.cores.test_{stem}").SETS
    return sets[_people().get("set", {}).get(stem, 0)]  # type: ignore[no-any-return]


def reasons(stem: str) -> dict[str, str]:
    """Why mutants of a core may live, by :attr:`Mutant.key`."""
    return {entry["mutant"]: entry["reason"] for entry in _people().get(stem, [])}


def _people() -> dict[str, Any]:
    """What people have written about mutation."""
    return tomllib.loads(PEOPLE.read_text()) if PEOPLE.is_file() else {}


def mutate(
    stem: str,
    params: CoreParams | None = None,
    seed: int = SEED,
    count: int = COUNT,
    root: Path = Path("build/mutants"),
    log: bool = False,
) -> Mutation:
    """Mutate one core and run its bench on every mutant.

    ``params``: default is :func:`choice`. ``root``: one folder per core,
    where finished mutants are kept with a digest of the sources, so that an interrupted run goes on
    where it stopped. ``log``: print what becomes of every mutant.

    Raises SimulationError or AssertionError if the bench fails on the netlist without a change.
    """
    if params is None:
        params = choice(stem)
    folder = (root / stem).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checker = Bench(stem, params, seed)
    fate = _Fates(folder, _digest(stem, params, seed, count))
    if not fate.fresh:
        for old in ("states.json", "comb.il"):
            (folder / old).unlink(missing_ok=True)
        _elaborate(stem, params, checker.constants, folder)
    mutants = _sample(folder, seed, count)
    if not fate.fresh:
        _mutated(stem, folder, mutants)
    fate.start()
    top = ""
    for mutant in mutants:
        if mutant.index in fate.known:
            continue
        if not top:
            top = _build(stem, params, folder, len(mutants))
            for group in checker.groups:
                checker.run(group, folder, top)
        what = checker.killer(folder, top, mutant.index)
        if not what:
            equal = _equivalent(stem, params, folder, mutant, len(mutants), PROOF_SECONDS)
            what = "equivalent" if equal else "survivor"
        fate.add(mutant.index, what)
        if log:
            print(f"{stem} {mutant.index:2d} {what}: {mutant.key}", flush=True)
    known = reasons(stem)
    survivors = [
        Survivor(m.key, m.source, known.get(m.key, ""))
        for m in mutants
        if fate.known[m.index] == "survivor"
    ]
    equivalent = sum(what == "equivalent" for what in fate.known.values())
    killed = len(mutants) - equivalent - len(survivors)
    return Mutation(stem, len(mutants), killed, equivalent, survivors)


def _digest(stem: str, params: CoreParams, seed: int, count: int) -> str:
    """Digest of everything that the fates depend on."""
    here = Path(__file__).parent
    tools = [here / f"{name}.py" for name in ("bench", "harness", "runner", "mutate")]
    text = [evidence.digest(stem), repr((params.to_dict(), seed, count))]
    text += [p.read_text() for p in tools]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


class _Fates:
    """What became of every mutant so far, kept in ``fates.json``."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.path, self.digest = folder / "fates.json", digest
        kept = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.fresh = kept.get("digest") == digest
        self.known: dict[int, str] = (
            {int(k): v for k, v in kept["known"].items()} if self.fresh else {}
        )

    def start(self) -> None:
        write_atomic(self.path, json.dumps({"digest": self.digest, "known": self.known}, indent=1))

    def add(self, index: int, what: str) -> None:
        self.known[index] = what
        self.start()


def main(arguments: list[str] | None = None) -> int:
    """Command line: mutate the given cores, or all."""
    parser = argparse.ArgumentParser(description="Mutate cores and see whether their benches fail.")
    parser.add_argument("core", nargs="*", choices=[[], *core_names()], help="default: all")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = [
        mutate(s, seed=args.seed, count=args.count, log=True) for s in args.core or core_names()
    ]
    for m in found:
        print(m)
        for s in m.survivors:
            print(f"  {s.source}\n    {s.mutant}\n    {s.reason or 'NOT EXPLAINED'}")
        write_atomic(Path("build/mutants") / f"{m.core}.json", json.dumps(asdict(m), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
