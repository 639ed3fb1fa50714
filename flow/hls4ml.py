# SPDX-License-Identifier: Apache-2.0
"""The road through hls4ml: the folded graph as a project of its Vitis backend, proven equal.

``run`` leaves in ``<build>/hls4ml``: ``model.onnx``, which hls4ml converts; its project; and
``report.json``. Nothing there needs Vitis but the synthesis.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sievit.flow.build import Build, BuildError, check_equal
from sievit.quant.files import write_atomic
from sievit.quant.graph import Graph
from sievit.quant.tools import ToolError, require_tool

#: files of a project that Vitis needs
PROJECT = ("build_prj.tcl", "project.tcl", "build_opt.tcl", "firmware")

SYNTHESIS = "vitis-run --mode hls --tcl build_prj.tcl"

PAIR = "graph_hls4ml"

#: type of the network's float input: exact for every float32 of at least 2^-8
INPUT_TYPE = "fixed<48,16>"


def run(made: Build, proof: bool = True) -> dict[str, Any]:
    """All steps; returns the report. ``proof`` = False stops after code generation.

    Raises BuildError on a mismatch, after the report was written; ToolError before anything starts
    if g++ is missing; VersionError for another hls4ml than the tested one.
    """
    from sievit.hls import hls4ml_plugin  # takes seconds

    if proof:
        require_tool("g++", "install it (apt install g++), hls4ml compiles with it")
    made.console.file = made.console.file  # stays what it is while hls4ml's prints go to a file
    made.front()
    folder = made.folder / "hls4ml"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    graph = folded(made)
    log = folder / "hls4ml.log"
    with made.step("hls4ml") as note:
        try:
            with quiet(log):
                network = convert(graph, folder, made.board.part, 1000 / made.board.clock_mhz)
                network.write()
        except BaseException:  # no half of a project
            shutil.rmtree(folder)
            raise
        layers = describe(network)
        own = sum(v["ours"] for v in layers)
        note["text"] = f"{len(layers)} layers, {own} of them cores and what connects them"
    if not proof:
        return {}
    with made.step("compile") as note, quiet(log):
        compile(network, log)
        note["text"] = "hls4ml's build_lib.sh, g++"
    with made.step("predict") as note, quiet(log):
        begin = time.monotonic()
        logits = predict(network, graph, made.x.data)
        seconds = (time.monotonic() - begin) / len(logits)
        golden = made.edges[graph.output.name].data.flatten(1)
        note["text"] = made.compare(PAIR, (logits != golden).any(1), None)
    with made.step("stock hls4ml") as note:
        stock = stock_hls4ml(made.folder / "model.onnx", made.board.part)
        note["text"] = stock["text"]
    with made.step("Vitis HLS") as note:
        cycles, vendor = synthesis(network, folder)
        note["text"] = vendor if isinstance(vendor, str) else "csynth report read"
    pairs = (*made.PAIRS, PAIR)
    report = {
        "model": made.name,
        "board": made.board.name,
        "clock_mhz": made.board.clock_mhz,
        "backend": "hls4ml",
        "hls4ml": hls4ml_plugin.hls4ml.__version__,
        "accuracy": {**made.accuracy, "images": len(made.x.length)},
        "pairs": list(pairs),
        "equal": {k: made.equal[k] for k in pairs if k in made.equal},
        "cycles": cycles,
        "seconds_per_image": round(seconds, 6),
        "layers": layers,
        "stock": stock,
        "vendor": vendor,
        "time": made.times,
        "artefacts": {
            "QONNX": str(folder / "model.onnx"),
            "project": str(folder),
            "log": str(log),
        },
    }
    write_atomic(folder / "report.json", json.dumps(report, indent=1) + "\n")
    made.console.print(f"\n{folder / 'report.json'}")
    check_equal(made.equal, pairs)
    return report


def folded(made: Build) -> Graph:
    """The graph with parallelism for the board, every layer on cores of its own."""
    with made.step("fold") as note:
        graph, predicted, slowest = made.unrolled()
        note["text"] = f"II {predicted:.0f} cycles predicted for the RTL cores, set by {slowest}"
    return graph


def convert(graph: Graph, folder: Path, part: str, period_ns: float) -> Any:
    """hls4ml's model of a graph, by its ordinary calls; nothing but ``model.onnx`` is written.

    Args:
        folder: of the project.
    """
    from sievit.hls.codegen import identifier
    from sievit.hls.hls4ml_model import to_qonnx
    from sievit.hls.hls4ml_plugin import hls4ml  # with the cores registered

    model = to_qonnx(graph)
    model.save(str(folder / "model.onnx"))
    config = hls4ml.utils.config_from_onnx_model(
        model, granularity="name", backend="Vitis", default_precision=INPUT_TYPE
    )
    return hls4ml.converters.convert_from_onnx_model(
        model,
        output_dir=str(folder.resolve()),
        project_name=identifier(graph.name),
        backend="Vitis",
        io_type="io_stream",
        hls_config=config,
        part=part,
        clock_period=round(period_ns, 3),
    )


def compile(network: Any, log: Path) -> None:
    """hls4ml's compile(), whose error is a bare Exception, with what g++ said in the ``log``."""
    try:
        network.compile()
    except Exception as error:
        raise ToolError("g++", str(error), f"its messages are in {log}") from error


def predict(network: Any, graph: Graph, x: torch.Tensor) -> torch.Tensor:
    """Logits of a compiled model, int64 ``[N, classes]``, for images as integers ``[N, T, C]``."""
    scaled = (x.double() * 2.0**graph.input_exponent).float()
    y = torch.from_numpy(network.predict(scaled.numpy())).double() * 2.0**-graph.output.exponent
    if bool((y != y.round()).any()):
        raise BuildError("hls4ml gives logits between two integers; its types are too narrow")
    return y.round().long().reshape(len(x), -1)


def describe(network: Any) -> list[dict[str, Any]]:
    """Name, class and type of every layer, and whether it is ours."""
    out = []
    for layer in network.get_layers():
        variable = layer.get_output_variable()
        out.append(
            {
                "name": layer.name,
                "class": layer.class_name,
                "ours": layer.class_name.startswith("Sievit"),
                "type": str(variable.type.precision),
                "shape": list(variable.shape),
            }
        )
    return out


def synthesis(network: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any] | str]:
    """(cycles, the report of Vitis HLS, or what to run where without it)."""
    if not shutil.which("vitis-run"):
        files = ", ".join(PROJECT)
        text = (
            "Vitis HLS is not installed (no vitis-run on PATH), so nothing was synthesised; "
            f"{files} are ready in {folder.resolve()}: run there `{SYNTHESIS}`"
        )
        unknown = "not measured: only Vitis HLS knows the cycles of hls4ml's layers"
        return {"ii": None, "latency": None, "source": unknown}, text
    try:
        found = network.build(csim=False, synth=True)
    except Exception as error:  # hls4ml raises nothing narrower
        raise ToolError("vitis-run", str(error), f"see its logs in {folder}") from error
    figures = found.get("CSynthesisReport", {})

    def number(key: str) -> int | None:
        text = str(figures.get(key, ""))
        return int(text) if text.isdigit() else None

    cycles = {
        "ii": number("IntervalMax"),
        "latency": number("WorstLatency"),
        "source": "Vitis HLS csynth; null where loops end with the data",
    }
    return cycles, figures


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """What hls4ml prints goes to a file. Our console keeps its own stream."""
    with log.open("a") as file, contextlib.redirect_stdout(file):
        yield


#: arguments: model, part, folder
STOCK = """
import sys
import hls4ml
from qonnx.core.modelwrapper import ModelWrapper

model, part, folder = sys.argv[1:]
call = dict(backend="Vitis", granularity="name", default_precision="fixed<48,16>")
model = ModelWrapper(model)
print("STAGE read the model", flush=True)
config = hls4ml.utils.config_from_onnx_model(model, **call)
print("STAGE convert", flush=True)
made = hls4ml.converters.convert_from_onnx_model(
    model, hls_config=config, backend="Vitis", io_type="io_stream", output_dir=folder, part=part
)
print("STAGE compile", flush=True)
made.compile()
print("STAGE done", flush=True)
"""


def stock_hls4ml(model: Path, part: str, timeout_s: float = 600) -> dict[str, Any]:
    """What hls4ml makes of a QONNX file without this project's plugin, in a process of its own.

    Returns ``stage`` (``read the model``, ``convert``, ``compile``, ``done``), the ``exception``
    that ended it (type and text; None at ``done``), ``layers_read`` of ``nodes``, and ``text``, all
    in one line. A model that does not exist as QONNX (imported integers) has stage None.
    """
    if not model.is_file():
        text = "there is no QONNX of this model that stock hls4ml could read"
        return {"stage": None, "exception": None, "layers_read": 0, "nodes": 0, "text": text}
    import tempfile

    from onnx import load

    nodes = len(load(str(model)).graph.node)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-W", "ignore", "-c", STOCK, str(model.resolve()), part, scratch]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, cwd=scratch
        )
    stages = re.findall(r"^STAGE (.*)$", done.stdout, re.M)
    stage = stages[-1] if stages else "start"
    reading = done.stdout.split("STAGE convert")[0]
    read = reading.count("Layer name:")
    exception = None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        exception = lines[-1] if lines else f"exit status {done.returncode}"
    text = f"stops at {stage!r} after {read} of {nodes} nodes: {exception}"
    if stage == "done":
        text = "converts and compiles"
    return {
        "stage": stage,
        "exception": exception,
        "layers_read": read,
        "nodes": nodes,
        "text": text,
    }
