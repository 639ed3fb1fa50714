# SPDX-License-Identifier: Apache-2.0
"""C-simulation of HLS projects with plain g++, and synthesis where Vitis is installed.

g++ finds ``ap_int.h`` and ``hls_stream.h`` in the installed hls4ml package; Vitis brings its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sievit.hls.codegen import LICENCE, beat, format_of, identifier, write_nodes
from sievit.hls.frames import read_frames, write_frames
from sievit.quant.graph import Graph, Node
from sievit.quant.params import Constants, CoreParams, Stream
from sievit.quant.tools import ToolError, require_tool

#: Labels name loops in the reports of Vitis and ``#pragma HLS`` is for Vitis: g++ knows neither.
#: The default constructor of ap_int reads the value that it leaves uninitialised; g++ reports that
#: wherever it is inlined.
FLAGS = (
    "-std=c++17 -O2 -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-label "
    "-Wno-maybe-uninitialized -Wno-uninitialized -DSIEVIT_TAPS"
).split()

#: compilers side by side
JOBS = 2


def ap_types() -> Path:
    """Folder of the ap_types headers. Raises ToolError if hls4ml is not installed."""
    spec = importlib.util.find_spec("hls4ml")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(root) / "templates" / "vivado" / "ap_types"
        if (folder / "ap_int.h").exists():
            return folder
    raise ToolError(
        "ap_types", "the headers of hls4ml are missing", "run: pip install hls4ml==1.3.0"
    )


def compile(folder: Path) -> Path:
    """Compile a generated project; return the executable ``build_csim/sim``.

    What did not change since the last time is not compiled again. Raises ToolError without g++.
    """
    gxx = require_tool("g++", "install it (apt install g++), C-simulation is compiled with it")
    include = ap_types()
    build = folder / "build_csim"
    build.mkdir(exist_ok=True)
    common = hashlib.sha256(" ".join([gxx, str(include), *FLAGS]).encode())
    for path in sorted(folder.glob("*/*.hpp")):
        common.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    sources = [*sorted((folder / "src").glob("*.cpp")), folder / "tb" / "main.cpp"]

    def unit(source: Path) -> tuple[Path, str]:
        # only the cores compute; the rest would take as long to compile and gain nothing
        level = [] if source.stem.startswith("nodes_") else ["-O1"]
        command = [gxx, *FLAGS, *level, "-isystem", str(include), "-c", str(source)]
        key = common.copy()
        key.update(source.read_bytes())
        target = build / f"{source.stem}.o"
        _cached(target, key.hexdigest(), command)
        return target, key.hexdigest()

    # the largest units first: then the compilers end at about the same time
    sources.sort(key=lambda p: -p.stat().st_size)
    with ThreadPoolExecutor(JOBS) as pool:
        objects = sorted(pool.map(unit, sources))
    program = build / "sim"
    digest = hashlib.sha256(" ".join(key for _, key in objects).encode()).hexdigest()
    _cached(program, digest, [gxx, *(str(path) for path, _ in objects)])
    return program


def _cached(target: Path, key: str, command: list[str]) -> None:
    """Run a compiler command unless the target was made with the same key."""
    stamp = target.with_name(f"{target.name}.key")
    if target.exists() and stamp.exists() and stamp.read_text() == key:
        return
    stamp.unlink(missing_ok=True)
    done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True)
    if done.returncode:
        text = "\n".join(done.stderr.splitlines()[:40])
        raise ToolError("g++", f"{target.name} does not compile", f"its messages were:\n{text}")
    stamp.write_text(key)


def run(folder: Path, graph: Graph, x: Stream, taps: bool = False) -> dict[str, Stream]:
    """Simulate input frames with a compiled project.

    Returns the output edge by name; with ``taps`` every edge, as
    :func:`sievit.quant.execute.execute` does.
    """
    program = folder / "build_csim" / "sim"
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        write_frames(scratch / "input.bin", x, graph.input)
        command = [str(program.resolve()), "input.bin", "output.bin"]
        if taps:
            (scratch / "taps").mkdir()
            command.append("taps")
        _simulate(command, scratch)
        out = graph.output
        if not taps:
            return {out.name: read_frames(scratch / "output.bin", out.params.output())}
        edges = graph.edges()
        return {
            edge: read_frames(scratch / "taps" / f"{identifier(edge)}.bin", graph.port_of(edge))
            for edge in edges
        }


def _simulate(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise ToolError(
            "C-simulation",
            f"ended with status {done.returncode}",
            f"its messages were:\n{done.stderr}",
        )


# -- single cores --------------------------------------------------------------------------------

Case = tuple[str, CoreParams, Constants, Sequence[Stream]]


def run_core(
    stem: str, params: CoreParams, constants: Constants, inputs: Sequence[Stream], folder: Path
) -> Stream:
    """Output of one core for input frames, compiled and run in ``folder``."""
    return run_cores([(stem, params, constants, inputs)], folder)[0]


def run_cores(cases: Sequence[Case], folder: Path) -> list[Stream]:
    """Output of every case (stem, params, constants, inputs), all compiled into one program."""
    nodes = [
        Node(f"case_{i}", stem, params, dict(constants), tuple(p.name for p in params.inputs()))
        for i, (stem, params, constants, _) in enumerate(cases)
    ]
    write_nodes(nodes, folder)
    (folder / "tb").mkdir(exist_ok=True)
    (folder / "tb" / "main.cpp").write_text(_cores_bench(nodes))
    program = compile(folder)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        for node, (_, params, _, inputs) in zip(nodes, cases, strict=True):
            for port, stream in zip(params.inputs(), inputs, strict=True):
                write_frames(scratch / f"{node.name}.{port.name}.bin", stream, port)
        _simulate([str(program.resolve())], scratch)
        return [
            read_frames(scratch / f"{node.name}.out.bin", node.params.output()) for node in nodes
        ]


def _cores_bench(nodes: list[Node]) -> str:
    body = "\n".join(_core_bench(node) for node in nodes)
    calls = " && ".join(f"{node.name}()" for node in nodes)
    return (
        f'{LICENCE}/// Test bench of single cores.\n#include "../src/nodes.hpp"\n\n'
        f'#include "../lib/frames.hpp"\n\nusing namespace sievit;\n\n{body}\n'
        f"int main() {{ return {calls} ? 0 : 1; }}\n"
    )


def _core_bench(node: Node) -> str:
    ports, out = node.params.inputs(), node.params.output()
    lines = [f"static bool {node.name}() {{"]
    for port in ports:
        lines += [
            f'  std::ifstream file_{port.name} = open_input("{node.name}.{port.name}.bin");',
            f'  hls::stream<{beat(port)}> {port.name}("{port.name}");',
        ]
    names = [port.name for port in ports]
    reads = " && ".join(f"read_frame(file_{p.name}, {format_of(p)}, {p.name})" for p in ports)
    empty = " && ".join(f"{name}.empty()" for name in names)
    lines += [
        f'  std::ofstream file = open_output("{node.name}.out.bin");',
        f'  hls::stream<{beat(out)}> m_axis("m_axis");',
        f"  while ({reads}) {{",
        f"    node_{node.name}({', '.join(names)}, m_axis);",
        f"    if (!({empty})) {{",
        f'      std::cerr << "{node.name}: input is left over\\n";',
        "      return false;",
        "    }",
        f"    if (!write_frame(file, {format_of(out)}, {int(out.itype.signed)}, m_axis, false)) {{",
        f'      std::cerr << "in {node.name}\\n";',
        "      return false;",
        "    }",
        "  }",
        "  return true;",
        "}\n",
    ]
    return "\n".join(lines)


# -- synthesis -----------------------------------------------------------------------------------


def synthesis(folder: Path) -> dict[str, Any] | str:
    """Synthesise a generated project with Vitis HLS; return the figures of its report.

    Without Vitis on PATH, return a message that says what would have been run and where.
    """
    if shutil.which("vitis_hls"):
        command = ["vitis_hls", "-f", "run_hls.tcl", "-tclargs", "csynth"]
    elif shutil.which("vitis-run"):
        command = [
            "v++",
            "-c",
            "--mode",
            "hls",
            "--config",
            "hls_config.cfg",
            "--work_dir",
            "build_hls",
        ]
    else:
        return (
            "neither vitis_hls nor vitis-run is on PATH, so nothing was synthesised; the project "
            f"is ready in {folder.resolve()}: run there `vitis_hls -f run_hls.tcl -tclargs csynth` "
            "(Vitis up to 2024.2) or "
            "`v++ -c --mode hls --config hls_config.cfg --work_dir build_hls`"
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise ToolError(
            command[0],
            f"ended with status {done.returncode}",
            f"see its log:\n{done.stdout[-3000:]}",
        )
    reports = sorted((folder / "build_hls").rglob("csynth.xml"))
    if not reports:
        raise ToolError(command[0], "left no csynth.xml", f"look into {folder / 'build_hls'}")
    return read_report(reports[0])


def read_report(path: Path) -> dict[str, Any]:
    """Figures of a ``csynth.xml``: latency and interval in cycles, clock in ns, resources.

    A figure that Vitis could not tell (``undef``, as of loops that end with the data) is None.
    """
    root = ElementTree.parse(path).getroot()

    def number(where: str, kind: type = int) -> Any:
        text = (root.findtext(where) or "").strip()
        try:
            return kind(text)
        except ValueError:
            return None

    performance, area = "PerformanceEstimates/", "AreaEstimates/"
    latency = performance + "SummaryOfOverallLatency/"
    names = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram18": "BRAM_18K", "uram": "URAM"}
    return {
        "latency_min": number(latency + "Best-caseLatency"),
        "latency_max": number(latency + "Worst-caseLatency"),
        "interval_min": number(latency + "Interval-min"),
        "interval_max": number(latency + "Interval-max"),
        "clock_ns": number(performance + "SummaryOfTimingAnalysis/EstimatedClockPeriod", float),
        "resources": {key: number(f"{area}Resources/{tag}") for key, tag in names.items()},
        "available": {key: number(f"{area}AvailableResources/{tag}") for key, tag in names.items()},
    }
