# SPDX-License-Identifier: Apache-2.0
"""Build of a trained model by way of FINN: ``sievit build --backend finn``, ``make finn``."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from qonnx.core.modelwrapper import ModelWrapper
from rich.table import Table

from sievit.flow.build import check_equal, first, frames_differ, interval, latency
from sievit.flow.trained import TrainedBuild
from sievit.quant.files import write_atomic
from sievit.quant.graph import UnsupportedError
from sievit.quant.params import Stream
from sievit.quant.tools import ToolError
from sievit.rtl import finn
from sievit.sim import runner

#: beats that a FIFO has more than predicted while its occupancy is measured
SLACK = 8
#: FINN builds no FIFO of 2 beats or fewer; where branches meet there is one
SHALLOW = 3


@dataclass(kw_only=True)
class FinnBuild(TrainedBuild):
    """The steps of ``rtl.finn.convert``, each compared with the QONNX file on the whole test split,
    then the stitched top in simulation; artefacts in ``folder / "finn"``."""

    #: hand the stitched design to Vivado
    vendor_steps: bool = False

    @property
    def home(self) -> Path:
        return self.folder / "finn"

    def run(self, proof: bool = True) -> dict[str, Any]:
        runner.check_tools()
        finn.setup(self.home / "ip")
        if self.recipe.selector.blocks and not self.recipe.selector.topk:
            raise UnsupportedError(
                self.name,
                "its selectors keep another number of tokens of every image, and FINN's shapes are "
                "static",
                "use a recipe of fixed top-k: heatvit_nm_digits_topk, or selector.topk in your own",
            )
        if self.vendor_steps and shutil.which("vivado") is None:
            raise ToolError(
                "vivado", "is not on the PATH", "source its settings, or leave --vendor out"
            )
        self.front()
        self.fold()
        with finn_log(self.home / "finn.log"):
            self.convert(proof)
            if proof:
                self.simulate()
            self.estimate()
            if self.vendor_steps:
                self.vivado()
        return self.finish_finn(proof)

    # -- steps -----------------------------------------------------------------------------------
    def fold(self) -> None:
        from sievit.rtl.finn import convert

        with self.step("fold") as note:
            convert.finn_graph(self.graph)
            self.graph, self.predicted, slowest = self.unrolled()
            note["text"] = f"II {self.predicted:.0f} cycles predicted, set by {slowest}"

    def convert(self, proof: bool) -> None:
        from sievit.rtl.finn import convert

        out, part = self.graph.output, self.board.part
        golden = self.edges[out.name].data[:, 0]
        shutil.rmtree(self.home / "steps", ignore_errors=True)
        (self.home / "steps").mkdir(parents=True)
        made = self.onnx
        inner = False
        for number, (name, step) in enumerate(
            {
                "integers": lambda m: convert.integers(m, self.graph, self.predicted),
                "finn_onnx": convert.finn_onnx,
                "streamline": convert.streamline,
                "to_hw": lambda m: convert.to_hw(m, self.predicted),
                "partition": lambda m: convert.partition(m, self.home / "steps")[1],
                "specialise": lambda m: convert.specialise(m, part),
                "stitchable": lambda m: convert.stitchable(deepen(m, SLACK), part),
            }.items(),
            1,
        ):
            with self.step(f"FINN {name}") as note:
                made = step(made)
                made.save(str(self.home / "steps" / f"{number}_{name}.onnx"))
                inner |= name == "partition"  # its output are integers
                if name == "specialise":
                    self.specialised = made
                note["text"] = f"{len(made.graph.node)} nodes"
                if proof:
                    y = convert.execute(made, self.patches)
                    want = golden.float() if inner else self.qonnx_logits
                    text = self.compare(f"qonnx_{name}", (y != want).any(1), None)
                    note["text"] += f"; {text}"
        self.model = made

    def estimate(self) -> None:
        """FINN's own estimate reports and folding file."""
        from finn.analysis.fpgadataflow.dataflow_performance import dataflow_performance
        from finn.analysis.fpgadataflow.exp_cycles_per_layer import exp_cycles_per_layer
        from finn.analysis.fpgadataflow.op_and_param_counts import (
            aggregate_dict_keys,
            op_and_param_counts,
        )
        from finn.analysis.fpgadataflow.res_estimation import res_estimation
        from finn.transformation.fpgadataflow.annotate_cycles import AnnotateCycles

        with self.step("FINN estimates") as note:
            model = self.model.transform(AnnotateCycles())
            resources = model.analysis(partial(res_estimation, fpgapart=self.board.part))
            self.total = aggregate_dict_keys(resources)
            self.performance = dict(model.analysis(dataflow_performance))
            reports = {
                "op_and_param_counts": model.analysis(op_and_param_counts),
                "estimate_layer_cycles": model.analysis(exp_cycles_per_layer),
                "estimate_layer_resources": {**resources, "total": self.total},
                "estimate_network_performance": self.performance,
                "folding": folding(self.specialised),
            }
            for name, report in reports.items():
                write_atomic(self.home / "report" / f"{name}.json", to_json(report))
            note["text"] = (
                f"{self.performance['max_cycles']} cycles, {self.total['LUT']:,.0f} LUT, "
                f"{self.total['DSP']:,.0f} DSP, {self.total['BRAM_18K']:,.0f} BRAM18"
            )

    def simulate(self) -> None:
        """The stitched top: once with roomy FIFOs, whose occupancy is measured, then with FIFOs of
        that depth and all stall profiles."""
        from sievit.rtl.finn import convert, stitch

        count = min(self.rtl_images, len(self.x.length))
        x = first(self.x, count)
        golden = first(self.edges[self.graph.output.name], count)
        wrong = torch.zeros(count, dtype=torch.bool)

        def run(model: ModelWrapper, name: str, stalls: tuple[str, ...]) -> Any:
            results, held = stitch.simulate(
                model, self.graph.name, self.home / name, x, stalls, self.seed
            )
            differ = torch.zeros(count, dtype=torch.bool)
            for result in results:
                differ |= frames_differ(golden, values(result.output))
            return results, held, differ

        with self.step("FINN IP") as note:
            shutil.rmtree(self.home / "ip", ignore_errors=True)
            finn.setup(self.home / "ip")
            roomy = stitch.generate_ip(self.model, self.board.part, self.board.clock_mhz)
            note["text"] = f"Verilog of {len(roomy.graph.node)} nodes"
        with self.step("FIFO depths") as note:
            (result,), held, differ = run(roomy, "sizing", self.stalls[:1])
            wrong |= differ
            sized = deepen(self.specialised, 0, stitch.depths(roomy, held))
            self.model = stitch.generate_ip(
                convert.stitchable(sized, self.board.part), self.board.part, self.board.clock_mhz
            )
            self.model.save(str(self.home / "steps" / "8_sized.onnx"))
            self.beats = {"predicted": sum_depths(roomy), "sized": sum_depths(self.model)}
            note["text"] = (
                f"{count} images, {int(differ.sum())} mismatches; {self.beats['predicted']:,} "
                f"beats, {self.beats['sized']:,} of them used; II {interval(result):.1f}"
            )
        with self.step("FINN compile") as note:
            stitch.compile_top(self.model, self.graph.name, self.home / "rtl")
            note["text"] = "Verilator"
        with self.step("FINN RTL") as note:
            results, _, differ = run(self.model, "rtl", self.stalls)
            wrong |= differ
            self.result_none = results[0]
            self.ii = interval(results[0])
            self.latency = latency(results[0])
            stalled = count * (len(self.stalls) - 1)
            text = self.compare("qonnx_finn_rtl", wrong, None, stalled)
            note["text"] = f"{text}; stalls {', '.join(self.stalls)}"

    def vivado(self) -> None:
        """FINN's own stitched IP, by Vivado."""
        from finn.transformation.fpgadataflow.create_stitched_ip import CreateStitchedIP
        from finn.transformation.fpgadataflow.replace_verilog_relpaths import ReplaceVerilogRelPaths

        with self.step("Vivado") as note:
            model = self.model.transform(ReplaceVerilogRelPaths())
            period = 1000 / self.board.clock_mhz
            self.model = model.transform(CreateStitchedIP(self.board.part, period))
            note["text"] = str(self.model.get_metadata_prop("vivado_stitch_proj"))

    def finish_finn(self, proof: bool) -> dict[str, Any]:
        pairs = ["qat_qonnx", "qonnx_graph"]
        count: dict[str, int] = {}
        for node in self.model.graph.node:
            count[node.op_type] = count.get(node.op_type, 0) + 1
        result: dict[str, Any] = {
            "model": self.name,
            "board": self.board.name,
            "clock_mhz": self.board.clock_mhz,
            "accuracy": {**self.accuracy, "images": len(self.x.length)},
            "equal": self.equal,
            "nodes": count,
            "estimates": {"total": self.total, **self.performance},
            "time": self.times,
        }
        if proof:
            pairs += [k for k in self.equal if k not in pairs] + ["qonnx_finn_rtl"]
            result["cycles"] = {
                "ii": round(self.ii, 1),
                "latency": self.latency,
                "ii_predicted": round(self.predicted, 1),
            }
            result["fps"] = round(self.board.clock_mhz * 1e6 / self.ii)
            result["fifo_beats"] = self.beats
        result["pairs"] = list(dict.fromkeys(pairs))
        write_atomic(self.home / "report.json", to_json(result))
        self.console.print(table(result))
        self.console.print(f"{self.home / 'report.json'}")
        check_equal(self.equal, result["pairs"])
        return result


@contextmanager
def finn_log(path: Path) -> Iterator[None]:
    """What FINN says goes to a file."""
    logger, handler = logging.getLogger("finn_logger"), logging.FileHandler(path, "w")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def values(x: Stream) -> Stream:
    """The frames without package flags, which FINN's streams do not carry."""
    return Stream(x.data, x.length, torch.zeros_like(x.package))


def deepen(
    model: ModelWrapper, slack: int, depths: dict[tuple[str, int], int] | None = None
) -> ModelWrapper:
    """A copy with other depths of the FIFOs in front of its nodes: ``depths`` by (node, input), or
    ``slack`` more where there is one."""
    from qonnx.custom_op.registry import getCustomOp

    model = ModelWrapper(model.model, make_deepcopy=True)
    for node in model.graph.node:
        op = getCustomOp(node)
        old = list(op.get_nodeattr("inFIFODepths"))
        new = [d + slack if d > 2 else d for d in old]
        if depths is not None:
            new = [
                max(SHALLOW, depths[node.name, i]) if (node.name, i) in depths else d
                for i, d in enumerate(old)
            ]
        op.set_nodeattr("inFIFODepths", new)
    return model


def sum_depths(model: ModelWrapper) -> int:
    from qonnx.custom_op.registry import getCustomOp

    return sum(
        getCustomOp(n).get_nodeattr("depth")
        for n in model.graph.node
        if n.op_type.startswith("StreamingFIFO")
    )


def folding(model: ModelWrapper) -> dict[str, dict[str, Any]]:
    """FINN's folding file: by node what ApplyConfig sets."""
    from qonnx.custom_op.registry import getCustomOp

    out: dict[str, dict[str, Any]] = {"Defaults": {}}
    for node in model.graph.node:
        op = getCustomOp(node)
        known = op.get_nodeattr_types()
        keys = [k for k in ("PE", "SIMD", "inFIFODepths", "outFIFODepths") if k in known]
        keys += [k for k in ("tp", "pack", "pack_out", "mult_dsp", "weight_ram") if k in known]
        out[node.name] = {k: value(op.get_nodeattr(k)) for k in keys}
    return out


def to_json(report: Any) -> str:
    """Text of a report; FINN's figures are numpy's."""
    return json.dumps(report, indent=1, default=float) + "\n"


def value(x: Any) -> Any:
    return [int(v) for v in x] if hasattr(x, "__iter__") and not isinstance(x, str) else x


def table(result: dict[str, Any]) -> Table:
    out = Table(title=f"{result['model']} through FINN on {result['board']}", box=None)
    out.add_column("")
    out.add_column("")
    for pair, found in result["equal"].items():
        stalled = f", {found['stalled']} under back-pressure" if found["stalled"] else ""
        text = f"{found['images']} images, {found['mismatches']} mismatches{stalled}"
        out.add_row(pair.replace("_", " = ", 1), text)
    out.add_row("nodes", ", ".join(f"{n} {k}" for k, n in sorted(result["nodes"].items())))
    if "cycles" in result:
        c = result["cycles"]
        out.add_row("initiation interval", f"{c['ii']} cycles (predicted {c['ii_predicted']})")
        out.add_row("latency", f"{c['latency']:,} cycles")
        out.add_row("throughput", f"{result['fps']:,} images/s at {result['clock_mhz']:g} MHz")
    return out
