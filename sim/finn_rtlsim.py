# SPDX-License-Identifier: Apache-2.0
"""FINN's RTL simulation on Verilator: no Vivado.

    from sievit.sim import finn_rtlsim
    finn_rtlsim.install()

After that FINN's own ``PrepareRTLSim``, ``SetExecMode("rtlsim")`` and ``execute_onnx`` run its RTL
nodes, and custom ones, in Verilator instead of Vivado's xsim. ``install(stall="both", seed=7)``
adds random pauses of the inputs and back-pressure of the outputs. Beyond what xsim checks, a run
fails if an output breaks the rules of AXI-Stream, or gives more beats than FINN asks for; idle
inputs carry noise, and what the RTL leaves undefined is random.

What Verilator cannot compute is refused when the node is prepared: floating point in RTL (it takes
``shortreal`` as double), VHDL, HLS nodes that Vitis HLS has not synthesised. ``tests/finn`` holds
it against FINN's Python execution.

For a stitcher: ``node_sources`` gives the sources of a node, ready for Verilator with ``DEFINES``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sievit.quant.tools import ToolError
from sievit.sim import bench, runner
from sievit.sim.runner import SimulationError

#: the finn-plus whose sources ``PATCHES`` and the tests are made for
TESTED = "1.6.1"

#: FINN_SIMULATION chooses the behavioural model of every DSP block
DEFINES = ("FINN_SIMULATION",)

#: flags beyond ``runner.MAKE``; warnings about FINN's own sources help no user
VERILATE = [
    "-cc", "--exe", "--prefix", "Vtop", "--assert", "--no-timing", "-Wno-lint", "-Wno-style",
    "-Wno-fatal", "--x-assign", "unique", "--x-initial", "unique", "-O3",
    *(f"-D{name}" for name in DEFINES),
]  # fmt: skip

MAIN = Path(__file__).resolve().parent / "finn_main.cpp"

#: margin over FINN's own estimate before a design counts as stuck: the longest pause of a stall
PATIENCE = 4 * bench.STARVE
#: cycles after the last expected beat in which another one is an error
SILENCE = 64


#: sources of FINN whose modules begin to give the next frame before they see any of its input
EARLY = ("fmpadding.sv", "pad1d.sv", "memstream.sv")


class UnsupportedNode(SimulationError):  # noqa: N818
    """Verilator cannot run the RTL of this node."""


# -- sources -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patch:
    """A change to a file of FINN's RTL library that Verilator does not read as it is."""

    file: str
    reason: str
    apply: Callable[[str], str]


def _replace(old: str, new: str) -> Callable[[str], str]:
    def apply(text: str) -> str:
        if text.count(old) != 1:
            raise ValueError(f"expected once: {old!r}")
        return text.replace(old, new)

    return apply


def _hoist_leaf_loads(text: str) -> str:
    """Move the table of the adder tree, and what computes it, in front of the generate blocks."""
    table = re.search(
        r"^[ \t]*typedef int unsigned +leaf_load_t\[.*?^[ \t]*localparam leaf_load_t[^;]*;\n",
        text,
        re.S | re.M,
    )
    first = re.search(r"^[ \t]*uwire \[SUM_WIDTH-1:0\] +sum0;", text, re.M)
    if table is None or first is None or first.start() > table.start():
        raise ValueError("the table leaf_load_t does not stand behind the declaration of sum0")
    rest = text[first.start() : table.start()] + text[table.end() :]
    return text[: first.start()] + table[0] + rest


PATCHES = (
    Patch("add_multi.sv", "a constant function inside a generate block", _hoist_leaf_loads),
    Patch(
        "fifo.sv",
        "a constant function that returns an unpacked structure",
        _replace(
            "typedef struct {\n\t\tint unsigned  lo;",
            "typedef struct packed {\n\t\tint unsigned  lo;",
        ),
    ),
    Patch(
        "inner_shuffle.sv",
        "a cast between a packed and an unpacked array",
        _replace(
            "typedef logic [$clog2(SIMD)-1:0]  rotidx_vec_t[SIMD-1:0];",
            "typedef logic [SIMD-1:0][$clog2(SIMD)-1:0]  rotidx_vec_t;",
        ),
    ),
    Patch(
        "skid.sv",
        "$error with fewer arguments than its format asks for",
        _replace('SRL capacity.");', 'SRL capacity.", FEED_STAGES);'),
    ),
)


def patch(path: Path) -> str:
    """Text of a SystemVerilog or Verilog file as Verilator can read it.

    Files of FINN's RTL library are changed by ``PATCHES``; in all others a path in quotes that is
    relative (``"./weights.dat"`` of ``$readmemh``) becomes absolute, as it would silently load
    nothing from another folder, and a FIFO gets the depth that it has: for ``FINN_SIMULATION`` FINN
    puts a queue without end in its place. The file itself stays as it is.

    Raises SimulationError if a patch or a FIFO finds something else than in finn-plus ``TESTED``.
    """
    text = path.read_text(errors="replace")
    if path.resolve().is_relative_to(_library()):
        for change in PATCHES:
            if path.name == change.file:
                try:
                    text = change.apply(text)
                except ValueError as error:
                    raise SimulationError(
                        f"{path}: Verilator cannot read {change.reason}, and the change for that "
                        f"fits finn-plus {TESTED}, not the installed {_version()} ({error}); "
                        f"install finn-plus=={TESTED}"
                    ) from error
        return text
    text, count = re.subn(
        r"`ifdef\s+FINN_SIMULATION(?=\s+fifo_gauge\b)", "`ifdef FINN_FIFO_GAUGE", text
    )
    if count != len(re.findall(r"^\s*fifo_gauge\b", text, re.M)):  # comments name it, too
        raise SimulationError(
            f"{path}: FINN's FIFO is not that of finn-plus {TESTED}, but of {_version()}; "
            f"install finn-plus=={TESTED}"
        )
    return text.replace('"./', f'"{path.resolve().parent}/')


def prepare_sources(files: Iterable[str | Path], folder: Path) -> list[Path]:
    """What Verilator reads instead of ``files``: packages first, no file twice, and changed copies
    (``patch``) in ``folder``. Use one folder for all nodes of a design.

    Raises UnsupportedNode for VHDL and for floating point, SimulationError for a file that is
    missing or cannot be patched.
    """
    found: dict[Path, bool] = {}  # is it a package
    for file in dict.fromkeys(Path(os.path.abspath(f)) for f in files):
        if not file.is_file():
            raise SimulationError(f"{file} does not exist; run PrepareIP on the model first")
        if file.suffix not in (".v", ".sv", ".vh", ".svh"):
            raise UnsupportedNode(f"{file}: Verilator reads Verilog and SystemVerilog only")
        text = file.read_text(errors="replace")
        bare = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.S)
        if re.search(r"\bshortreal\b|\bshortrealto|toshortreal\b", bare):
            raise UnsupportedNode(
                f"{file.name} computes in shortreal, which Verilator takes as double: the values "
                'would differ; execute this node in Python (exec_mode "cppsim") or quantise it'
            )
        package, ready = file.stem.endswith("_pkg"), patch(file)
        if ready != text:
            digest = hashlib.sha256(ready.encode()).hexdigest()[:12]
            file = folder / f"{file.stem}-{digest}{file.suffix}"
            runner.write_text(file, ready)
        found[file] = package
    return sorted(found, key=lambda f: not found[f])


def node_sources(op: Any, folder: Path) -> list[Path]:
    """Sources of an RTL node after ``PrepareIP``, ready for Verilator with ``DEFINES``.

    Args:
        op: the node's custom op (``getCustomOp(node)``), a ``RTLBackend``.
        folder: takes changed copies; the same for all nodes of a design.

    Besides the node's module ``gen_top_module`` they hold, where FINN has generated one, the module
    ``NAME_memstream_wrapper`` that streams its weights.

    Raises UnsupportedNode, SimulationError.
    """
    name, code = op.onnx_node.name, Path(op.get_nodeattr("code_gen_dir_ipgen"))
    files = [Path(f) for f in op.get_rtl_file_list(abspath=True)]
    streamer = code / f"{name}_memstream_wrapper.v"
    if streamer.exists():
        memstream = _library() / "memstream" / "hdl"
        axilite = _library() / "axi" / "hdl" / "axilite.sv"
        files += [axilite, memstream / "memstream.sv", memstream / "memstream_axi.sv", streamer]
    try:
        return prepare_sources(files, folder)
    except UnsupportedNode as error:
        raise UnsupportedNode(f"{op.onnx_node.op_type} {name}: {error}") from error


def _library() -> Path:
    from finn.util.settings import get_settings

    return Path(get_settings().finn_rtllib).resolve()


def _version() -> str:
    return importlib.metadata.version("finn-plus")


# -- programs ------------------------------------------------------------------------------------


def build(top: str, files: Iterable[str | Path], folder: Path, trace: bool = False) -> Path:
    """Compile the module ``top`` of ``files``; returns the program.

    Every three ports ``X_TDATA``, ``X_TVALID``, ``X_TREADY`` (or in lower case) are a stream ``X``.
    The clock is ``ap_clk`` (and ``ap_clk2x``, twice as fast), the reset ``ap_rst_n``; all other
    inputs are 0.

    Args:
        folder: takes patched sources and the program. A failed build leaves no program.
        trace: the program can write waveforms.

    Raises UnsupportedNode, SimulationError, ToolError.
    """
    runner.check_tools()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "xsim.dir" / top
    program = home / "xsimk.so"  # where FINN looks for it
    program.unlink(missing_ok=True)
    given = [Path(f) for f in files]
    sources = prepare_sources(given, folder)
    headers = {f"-I{f.parent}" for f in sources if f.suffix in (".vh", ".svh")}
    part = Path(tempfile.mkdtemp(prefix="obj-", dir=folder))
    try:
        runner.verilate(
            [
                *VERILATE, *(["--trace-vcd"] if trace else []), "-Mdir", str(part),
                "--top-module", top, "-o", "Vtop", "-MAKEFLAGS", " ".join(runner.MAKE),
                *sorted(headers), str(MAIN),
                *(str(f) for f in sources if f.suffix in (".v", ".sv")),
            ]
        )  # fmt: skip
        ports = _ports(top, (part / "Vtop.h").read_text())
        streams = _streams(top, ports)
        (part / "ports.inc").write_text(_macros(ports, streams))
        runner.compile_verilated(part, "trace" if trace else "plain")
        home.mkdir(parents=True, exist_ok=True)
        facts = {
            "bits": {s.name: s.bits for s in streams},
            "early": any(f.name in EARLY and f.resolve().is_relative_to(_library()) for f in given),
        }
        (home / "facts.json").write_text(json.dumps(facts))
        os.replace(part / "Vtop", program)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return program


@dataclass(frozen=True)
class _Port:
    name: str
    is_input: bool
    bits: int


@dataclass(frozen=True)
class _StreamPorts:
    name: str
    is_input: bool
    bits: int
    #: TDATA, TVALID, TREADY
    ports: tuple[str, str, str]


def _ports(top: str, header: str) -> dict[str, _Port]:
    """The ports of Verilator's class by name."""
    found = re.findall(r"VL_(IN|OUT)\w*\(&(\w+),(\d+),(\d+)", header)
    ports = {n: _Port(n, way == "IN", int(high) - int(low) + 1) for way, n, high, low in found}
    for needed in ("ap_clk", "ap_rst_n"):
        if needed not in ports:
            raise SimulationError(f"module {top} has no port {needed}; every node of FINN has one")
    return ports


def _streams(top: str, ports: Mapping[str, _Port]) -> list[_StreamPorts]:
    streams = []
    for data in ports.values():
        name, _, signal = data.name.rpartition("_")
        if signal not in ("TDATA", "tdata"):
            continue
        upper = signal.isupper()
        valid, ready = (f"{name}_{s.upper() if upper else s}" for s in ("tvalid", "tready"))
        for other in (valid, ready):
            if other not in ports:
                raise SimulationError(f"module {top} has a port {data.name} but no {other}")
        streams.append(_StreamPorts(name, data.is_input, data.bits, (data.name, valid, ready)))
    return streams


def _macros(ports: Mapping[str, _Port], streams: Sequence[_StreamPorts]) -> str:
    """Text of ``ports.inc``, see ``MAIN``."""
    lines = [
        f"{'INPUT' if s.is_input else 'OUTPUT'}({s.name}, {s.bits}, {', '.join(s.ports)})"
        for s in streams
    ]
    driven = {"ap_clk", "ap_clk2x", "ap_rst_n", *(p for s in streams for p in s.ports)}
    lines += [f"ZERO({p.name})" for p in ports.values() if p.is_input and p.name not in driven]
    lines += ["CLK2X(ap_clk2x)"] if "ap_clk2x" in ports else []
    return "\n".join(lines) + "\n"


def simulate(
    program: Path,
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, int],
    stall: str = "none",
    seed: int = 0,
    watchdog: int = runner.WATCHDOG,
    trace: Path | None = None,
    silence: int = SILENCE,
) -> tuple[dict[str, list[int]], int]:
    """Reset the design that ``build`` compiled, and run it once.

    Args:
        inputs: stream -> its beats, unsigned.
        outputs: stream -> how many beats it has to give. Streams in neither are left alone.
        stall: a key of ``bench.STALLS``.
        seed: of the stalls, of the noise on idle inputs and of what the RTL leaves undefined.
        watchdog: cycles without a beat after which the design counts as stuck.
        trace: a .vcd file for the waveforms, if the program can.
        silence: cycles after the last beat of all in which no output may give another one; with 0
            an output may go on, and so it may in designs with a source of ``EARLY``.

    Returns (beats of every output, cycles from the first that can carry a beat to the last one that
    did). Raises SimulationError: a design that is stuck, gives a beat too many, breaks a rule of
    AXI-Stream or an assertion of its own; a beat or a stream that does not fit the design.
    """
    top = program.parent.name
    facts = json.loads((program.parent / "facts.json").read_text())
    bits = facts["bits"]
    if stall not in bench.STALLS:
        raise SimulationError(f"no stall profile {stall!r}; there are {', '.join(bench.STALLS)}")
    for name in (*inputs, *outputs):
        if name not in bits:
            raise SimulationError(f"{top} has no stream {name}; it has {', '.join(bits)}")
    source, sink = bench.STALLS[stall]
    with tempfile.TemporaryDirectory(prefix="run-") as temporary:
        folder = Path(temporary)
        case = [
            f"watchdog {watchdog}",
            f"silence {0 if facts['early'] else silence}",
            f"seed {seed % (1 << 32)}",
        ]
        for i, (name, beats) in enumerate(inputs.items()):
            size = -(-bits[name] // 8)
            for beat in beats:
                if not 0 <= beat < 1 << bits[name]:
                    raise SimulationError(f"{top}: {beat} does not fit {bits[name]} bits of {name}")
            (folder / f"{name}.in").write_bytes(b"".join(b.to_bytes(size, "little") for b in beats))
            go = bench.pattern(source, _random(seed, stall, name), i, len(inputs))
            (folder / f"{name}.go").write_bytes(go)
            case.append(f"{name} {len(beats)}")
        for name, count in outputs.items():
            go = b"" if sink == "late" else bench.pattern(sink, _random(seed, stall, name))
            (folder / f"{name}.go").write_bytes(go)
            case.append(f"{name} {count}")
        (folder / "case").write_text("\n".join(case) + "\n")
        arguments = [str(folder), *([str(trace)] if trace else [])]
        arguments += ["+verilator+rand+reset+2", f"+verilator+seed+{seed % 0x7FFFFFFE + 1}"]
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True)
        what = f"{top}, stall {stall}, seed {seed}"
        result = folder / "result"
        if done.returncode or not result.exists():
            log = (done.stdout + done.stderr).strip()[-4000:]
            raise SimulationError(f"{what}: the simulator ended with {done.returncode}:\n{log}")
        kind, _, text = result.read_text().strip().partition(" ")
        if kind == "error":
            log = "".join(f"\n{line}" for line in done.stdout.strip().splitlines()[-20:])
            raise SimulationError(f"{what}: {text}{log}")
        found = {}
        for name in outputs:
            raw, size = (folder / f"{name}.out").read_bytes(), -(-bits[name] // 8)
            found[name] = [
                int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)
            ]
        return found, int(text)


def _random(seed: int, stall: str, name: str) -> random.Random:
    return random.Random(f"{seed} {stall} {name}")


# -- in place of finn.xsi ------------------------------------------------------------------------


@dataclass(frozen=True)
class SimEngine:
    """What FINN holds of a node while it simulates it."""

    program: Path
    trace: Path | None = None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"finn_rtlsim: FINN asks its simulator for {name!r}; on Verilator there are the nodes' "
            "AXI-Streams alone, neither AXI-Lite, memories nor single signals"
        )


@dataclass
class _Settings:
    stall: str = "none"
    seed: int = 0
    silence: int = SILENCE


_settings = _Settings()


def install(stall: str = "none", seed: int = 0, silence: int = SILENCE) -> None:
    """Make FINN simulate in Verilator, in this process and what it forks.

    Call it before FINN's builder is imported; call it again to change the stalls. Sets
    ``FINN_BUILD_DIR`` to ``build/finn`` of the current folder if nothing sets it, and makes the
    folder. In force for all runs that follow:

    Args:
        stall: a key of ``bench.STALLS``: ``none`` always ready, ``idle`` pauses of the inputs,
            ``ready_75`` and ``ready_25`` back-pressure, ``both``, ``bursts``, ``starve``.
        seed: of the pauses and of undefined values.
        silence: see ``simulate``; 0 for an operator that begins a frame before its input comes.

    Raises SimulationError for an unknown profile, ToolError if finn-plus or a tool is missing.
    """
    if stall not in bench.STALLS:
        raise SimulationError(f"no stall profile {stall!r}; there are {', '.join(bench.STALLS)}")
    runner.check_tools()
    if importlib.util.find_spec("finn") is None:
        remedy = f"run: make finn-venv, or pip install --no-deps finn-plus=={TESTED}"
        raise ToolError("finn-plus", "is not installed", remedy)
    _default_folder()
    _settings.stall, _settings.seed, _settings.silence = stall, seed, silence
    from finn import xsi

    for function in (
        compile_sim_obj, load_sim_obj, reset_rtlsim, close_rtlsim, rtlsim_multi_io, locate_glbl,
        get_simkernel_so, is_available, ensure_available,
    ):  # fmt: skip
        setattr(xsi, function.__name__, function)
    xsi.SimEngine = SimEngine
    from finn.custom_op.fpgadataflow.hlsbackend import HLSBackend

    if not hasattr(HLSBackend.prepare_rtlsim, "stock"):
        stock = HLSBackend.prepare_rtlsim

        def prepare_rtlsim(op: Any, behav: bool = False) -> None:
            _refuse_unsynthesised(op)
            stock(op, behav)

        prepare_rtlsim.stock = stock  # type: ignore[attr-defined]
        HLSBackend.prepare_rtlsim = prepare_rtlsim


def _default_folder() -> None:
    given = os.environ.get("FINN_BUILD_DIR")
    if given is None and "FINN_SETTINGS" in os.environ:
        return  # that file names it
    folder = Path(given or Path("build") / "finn").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["FINN_BUILD_DIR"] = str(folder)


def _refuse_unsynthesised(op: Any) -> None:
    """Raise UnsupportedNode for an HLS node of which Vitis HLS has made no Verilog."""
    made = op.get_nodeattr("ipgen_path")
    if not made or not Path(made).is_dir():
        node = op.onnx_node
        raise UnsupportedNode(
            f"{node.op_type} {node.name} is an HLS node without Verilog; run HLSSynthIP with Vitis "
            'HLS, or choose its RTL variant (preferred_impl_style "rtl" before SpecializeLayers)'
        )


def compile_sim_obj(
    top_module_name: str,
    source_list: Sequence[str],
    sim_out_dir: Path,
    debug: bool = False,
    behav: bool = False,
    fifosim: bool = False,
) -> tuple[Path, Path]:
    """``build`` for FINN; returns ``sim_out_dir`` and the program relative to it. DSP blocks are
    always behavioural models."""
    folder = Path(sim_out_dir).resolve()
    try:
        program = build(top_module_name, source_list, folder, debug)
    except UnsupportedNode as error:
        raise UnsupportedNode(f"{top_module_name}: {error}") from error
    return folder, program.relative_to(folder)


def load_sim_obj(
    sim_out_dir: Path,
    out_so_relative_path: Path,
    tracefile: str | None = None,
    simkernel_so: str | None = None,
) -> SimEngine:
    """The engine of a program. A trace file is written as VCD, relative to ``sim_out_dir``."""
    base = Path(sim_out_dir)
    trace = (base / tracefile).with_suffix(".vcd") if tracefile else None
    return SimEngine(base / out_so_relative_path, trace)


def rtlsim_multi_io(
    sim: SimEngine,
    io_dict: dict[str, dict[str, list[int]]],
    num_out_values: int | Mapping[str, int],
    sname: str = "_V_V",
    liveness_threshold: int = 10000,
    liveness_estimate: float | None = None,
) -> int:
    """``simulate`` for FINN: fills ``io_dict["outputs"]``, returns the cycles."""
    outputs = io_dict["outputs"]
    if not isinstance(num_out_values, Mapping):
        if len(outputs) > 1:
            raise SimulationError(
                f"{sim.program.parent.name} has outputs {', '.join(outputs)}; its custom op must "
                "return a dict of their beats from get_number_output_values"
            )
        num_out_values = dict.fromkeys(outputs, num_out_values)
    found, cycles = simulate(
        sim.program,
        {name + sname: beats for name, beats in io_dict["inputs"].items()},
        {name + sname: int(num_out_values[name]) for name in outputs},
        _settings.stall,
        _settings.seed,
        int(liveness_threshold) + PATIENCE,
        sim.trace,
        _settings.silence,
    )
    for name in outputs:
        outputs[name] = found[name + sname]
    return cycles


def reset_rtlsim(sim: SimEngine, *_: Any, **__: Any) -> None:
    """Nothing: every run begins with a reset."""


def close_rtlsim(sim: SimEngine) -> None:
    """Nothing: a run ends its process."""


def locate_glbl() -> None:
    """There is no glbl.v."""


def get_simkernel_so() -> str:
    """There is no kernel of xsim."""
    return ""


def is_available() -> bool:
    """Verilator is there: ``install`` has looked."""
    return True


def ensure_available() -> bool:
    """Verilator is there: ``install`` has looked."""
    return True
