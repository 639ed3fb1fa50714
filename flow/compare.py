# SPDX-License-Identifier: Apache-2.0
"""The same network through all back ends, side by side: ``make compare-backends``.

Every back end is built in one process, one after the other, so that their times compare. Beside
them stand FINN and hls4ml as they come, without this project's operators: what stops them, as they
say it themselves.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sievit.boards.board import Board
from sievit.flow import hls4ml as hls4ml_road
from sievit.flow.finn import FinnBuild
from sievit.flow.trained import TrainedBuild
from sievit.models.recipe import Recipe
from sievit.quant.files import replace_section
from sievit.sim.throughput import table

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "backends.md"

Report = dict[str, Any]


def run(recipe: Recipe, board: Board, folder: Path, images: int, console: Console) -> None:
    """Build with every back end, then write the table of docs/backends.md.

    Args:
        recipe: one of fixed top-k, which FINN can take.
        folder: of the builds of the model on the board.
        images: simulated in RTL.

    Raises BuildError if one of them differs from the golden model.
    """
    common: dict[str, Any] = {
        "name": recipe.name,
        "recipe": recipe,
        "board": board,
        "folder": folder,
    }
    common |= {"console": console, "rtl_images": images, "stalled_images": images}
    reports: dict[str, Report] = {}
    console.rule("native")
    reports["native"] = TrainedBuild(**common).run()
    console.rule("FINN")
    reports["finn"] = FinnBuild(**common).run()
    console.rule("hls4ml")
    reports["hls4ml"] = hls4ml_road.run(TrainedBuild(**common))
    console.rule("stock FINN")
    stock = stock_finn(folder / "model.onnx", board.part)
    console.print(stock["text"])
    columns = {
        "native RTL": native(reports["native"], "rtl"),
        "native HLS C++": native(reports["native"], "hls"),
        "FINN": finn(reports["finn"]),
        "hls4ml": hls4ml(reports["hls4ml"]),
        "stock FINN": only(stock["text"]),
        "stock hls4ml": only(reports["hls4ml"]["stock"]["text"]),
    }
    rows = [(what, *(c[what] for c in columns.values())) for what in WHAT]
    title = f"{recipe.name} on {board.title}, {board.clock_mhz:g} MHz."
    text = table(("", *columns), rows)
    replace_section(DOCUMENT, "backends", f"\n{title}\n\n{text}\n")
    shown = Table("", *columns, title=title)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    console.print(str(DOCUMENT))


#: rows of the table
WHAT = (
    "equal to",
    "images, mismatches",
    "under stalls",
    "build, s",
    "ms per image here",
    "II, cycles",
    "latency, cycles",
    "images/s",
    "LUT",
    "DSP",
    "BRAM36",
    "stops",
)


def only(text: str) -> dict[str, str]:
    """A column of nothing but where it stops."""
    return dict.fromkeys(WHAT, "-") | {"stops": text}


def equality(report: Report, pair: str) -> dict[str, str]:
    found = report["equal"][pair]
    return {
        "images, mismatches": f"{found['images']}, {found['mismatches']}",
        "under stalls": f"{found['stalled']}" if found["stalled"] else "-",
    }


def cycles(report: Report) -> dict[str, str]:
    c = report["cycles"]
    return {
        "II, cycles": f"{c['ii']:,}",
        "latency, cycles": f"{c['latency']:,}",
        "images/s": f"{report['fps']:,}",
    }


def seconds(report: Report, *steps: str) -> float:
    """Time of the steps whose names begin so; all without any."""
    return sum(v for k, v in report["time"].items() if not steps or k.startswith(steps))


def native(report: Report, view: str) -> dict[str, str]:
    """The column of the RTL, or of the HLS C++ of the same cores."""
    rtl = view == "rtl"
    images = report["equal"][f"graph_{view}"]["images"]
    runs = seconds(report, "RTL none") if rtl else seconds(report, "HLS csim")
    build = seconds(report) - seconds(report, "HLS" if rtl else "RTL")
    used = report["resources"]
    estimate = {"LUT": f"{used['lut']:,.0f}", "DSP": f"{used['dsp']:,.0f}"}
    estimate["BRAM36"] = f"{used['bram36']:,.0f}"
    return {
        **only("-"),
        "equal to": "golden Graph, all logits",
        **equality(report, f"graph_{view}"),
        "build, s": f"{build:.0f}",
        "ms per image here": f"{1000 * runs / images:.1f}",
        **((cycles(report) | estimate) if rtl else {}),
    }


def finn(report: Report) -> dict[str, str]:
    """FINN's own estimates; a BRAM36 is two of its BRAM18."""
    total = report["estimates"]["total"]
    images = report["equal"]["qonnx_finn_rtl"]["images"]
    runs = seconds(report, "FINN RTL") / (1 + report["equal"]["qonnx_finn_rtl"]["stalled"] / images)
    return {
        **only("-"),
        "equal to": "QONNX after every step, golden Graph in RTL",
        **equality(report, "qonnx_finn_rtl"),
        "build, s": f"{seconds(report):.0f}",
        "ms per image here": f"{1000 * runs / images:.1f}",
        **cycles(report),
        "LUT": f"{total['LUT']:,.0f}",
        "DSP": f"{total['DSP']:,.0f}",
        "BRAM36": f"{total['BRAM_18K'] / 2:,.1f}",
    }


def hls4ml(report: Report) -> dict[str, str]:
    return {
        **only("-"),
        "equal to": "golden Graph, all logits",
        **equality(report, hls4ml_road.PAIR),
        "build, s": f"{seconds(report):.0f}",
        "ms per image here": f"{1000 * report['seconds_per_image']:.1f}",
    }


#: arguments: model, part, folder
STOCK = """
import os, sys
from collections import Counter

model, part, folder = sys.argv[1:]
os.environ["FINN_BUILD_DIR"] = os.environ["FINN_DEPS"] = folder
print("STAGE import", flush=True)
import finn.xsi

finn.xsi.SimEngine = object  # the import asks Vivado for it; nothing here simulates
from finn.builder import build_dataflow_steps as steps
from finn.builder.build_dataflow_config import DataflowBuildConfig, DataflowOutputType
from qonnx.core.modelwrapper import ModelWrapper

config = DataflowBuildConfig(
    output_dir=folder, synth_clk_period_ns=3.33, fpga_part=part, standalone_thresholds=True,
    generate_outputs=[DataflowOutputType.ESTIMATE_REPORTS],
)
made = ModelWrapper(model)
for name in (
    "qonnx_to_finn", "tidy_up", "streamline", "convert_to_hw", "create_dataflow_partition",
    "specialize_layers",
):
    print("STAGE step_" + name, flush=True)
    made = getattr(steps, "step_" + name)(made, config)
    left = Counter(n.op_type for n in made.graph.node if "finn" not in n.domain)
    print("LEFT", ", ".join(f"{v} {k}" for k, v in sorted(left.items())), flush=True)
    print("HLS", sum(n.op_type.endswith("_hls") for n in made.graph.node), flush=True)
print("STAGE done", flush=True)
"""


def stock_finn(model: Path, part: str, timeout_s: float = 1800) -> dict[str, Any]:
    """How far FINN's own steps come with a QONNX file, in a process of its own.

    Returns the last ``stage``, the ``exception`` that ended it or None, ``left``, the operators
    that are no hardware of FINN's then, ``hls``, how many need Vitis HLS, and ``text``, all in one
    line.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-W", "ignore", "-c", STOCK, str(model.resolve()), part, scratch]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, cwd=scratch
            )
            output, error, code = done.stdout, done.stderr, done.returncode
        except subprocess.TimeoutExpired as late:
            output = (late.stdout or b"").decode()
            error, code = f"no end after {timeout_s:.0f} s", 1
    stage = (re.findall(r"^STAGE (.*)$", output, re.M) or ["start"])[-1]
    left = (re.findall(r"^LEFT (.*)$", output, re.M) or [""])[-1]
    hls = int((re.findall(r"^HLS (\d+)$", output, re.M) or ["0"])[-1])
    lines = [line for line in error.splitlines() if line.strip()]
    exception = lines[-1] if code and lines else f"exit status {code}" if code else None
    # FINN names every node that it cannot map; their kinds follow
    brief = (exception or "").split(" Complete list")[0].rsplit("finn.util.exception.", 1)[-1]
    text = f"{stage}: {brief}" if code else f"{hls} operators need Vitis HLS"
    if left:
        text += f"; no hardware of FINN's: {left}"
    return {"stage": stage, "exception": exception, "left": left, "hls": hls, "text": text}
