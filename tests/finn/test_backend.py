# SPDX-License-Identifier: Apache-2.0
"""The FINN back end: the cores as FINN operators, conversion in exact steps, the stitched top."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finn.transformation.fpgadataflow.prepare_ip import PrepareIP
from finn.transformation.fpgadataflow.prepare_rtlsim import PrepareRTLSim
from finn.transformation.fpgadataflow.set_exec_mode import SetExecMode
from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.general import GiveUniqueNodeNames
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes

from sievit.boards import board as boards
from sievit.flow.build import interval
from sievit.flow.finn import deepen
from sievit.models import data, train
from sievit.models import export as exporter
from sievit.models import recipe as recipes
from sievit.quant import fold
from sievit.quant.cores.lookup_table import LookupTableParams
from sievit.quant.cores.nm_matmul import NmMatmulParams
from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.execute import execute
from sievit.quant.graph import UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.lower import lower
from sievit.quant.params import CoreParams, Stream, core_names, load_core
from sievit.quant.tools import ToolError
from sievit.rtl import finn
from sievit.rtl.finn import convert, ops, stitch
from sievit.sim import finn_rtlsim

PART, CLOCK_NS = "xczu9eg-ffvb1156-2-e", 5.0
BOARDS = ("zcu102", "kv260", "pynq_z2")


def build(
    nodes: list[Any], values: dict[str, Any], inputs: dict[str, Any], out: str
) -> ModelWrapper:
    """A FINN graph; ``inputs``: name -> (shape, type)."""

    def info(name: str, shape: list[int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes, "net", [info(k, list(s)) for k, (s, _) in inputs.items()], [info(out, [])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in values.items()],
    )  # fmt: skip
    graph.output[0].type.tensor_type.ClearField("shape")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ops.DOMAIN, 1)]
    model = ModelWrapper(helper.make_model(graph, opset_imports=opsets))
    for name, (_, t) in inputs.items():
        model.set_tensor_datatype(name, ops.data_type(t))
    return model.transform(InferShapes()).transform(InferDataTypes())


def node(op: str, p: CoreParams, inputs: list[str], out: str, constants: list[str]) -> Any:
    values = {ops.FINN_NAMES.get(k, k): v for k, v in p.to_dict().items()}
    return helper.make_node(
        op, inputs, [out], out, domain=ops.DOMAIN, backend="fpgadataflow",
        constants=constants or [""], **values,
    )  # fmt: skip


def of_core(stem: str, p: CoreParams, seed: int) -> tuple[ModelWrapper, dict[str, Any], Stream]:
    """One core with random constants and a frame of full length: (graph, its inputs, golden)."""
    rng = torch.Generator().manual_seed(seed)
    constants, inputs = load_core(stem).stimuli(rng, p, 4)
    frame = [Stream.full(x.pick(slice(1)).data) for x in inputs]  # the first is the longest
    names = [f"x{i}" for i in range(len(frame))]
    keys = sorted(constants)
    made = node(ops.op_name(stem), p, [*names, *(f"c_{k}" for k in keys)], "y", keys)
    ports = dict(
        zip(names, zip([x.data.shape for x in frame], p.inputs(), strict=True), strict=True)
    )
    model = build(
        [made], {f"c_{k}": constants[k] for k in keys},
        {k: (list(shape), port.itype) for k, (shape, port) in ports.items()}, "y",
    )  # fmt: skip
    feed = {k: x.data.numpy().astype(np.float32) for k, x in zip(names, frame, strict=True)}
    return model, feed, load_core(stem).golden(p, constants, *frame)


def params(stem: str) -> CoreParams:
    p = replace(load_core(stem).params(), max_tokens=6)
    return replace(p, topk=3) if stem == "token_select" else p  # type: ignore[call-arg]


@pytest.mark.parametrize("stem", core_names())
def test_every_core_is_an_operator(stem: str, seed: int) -> None:
    model, feed, golden = of_core(stem, params(stem), seed)
    y = execute_onnx(model, feed)["y"]
    tokens = int(golden.length[0])
    assert np.array_equal(y, golden.data[:, :tokens].numpy())
    for style, suffix in (("rtl", "rtl"), ("hls", "hls")):
        getCustomOp(model.graph.node[0]).set_nodeattr("preferred_impl_style", style)
        special = model.transform(SpecializeLayers(PART))
        assert special.graph.node[0].op_type == f"{ops.op_name(stem)}_{suffix}"
        op = getCustomOp(special.graph.node[0])
        assert op.get_exp_cycles() == params(stem).cycles(6)
        assert op.node_res_estimation(PART)["LUT"] == round(params(stem).resources().lut)


@pytest.mark.parametrize("stem", ["nm_matmul", "token_select"])
def test_rtlsim_of_a_core(stem: str, seed: int) -> None:
    finn_rtlsim.install(stall="both", seed=seed)
    model, feed, _ = of_core(stem, params(stem), seed)
    want = execute_onnx(model, feed)["y"]
    model = model.transform(SpecializeLayers(PART)).transform(GiveUniqueNodeNames())
    model = model.transform(PrepareIP(PART, CLOCK_NS)).transform(SetExecMode("rtlsim"))
    model = model.transform(PrepareRTLSim())
    assert np.array_equal(execute_onnx(model, feed)["y"], want)


@pytest.mark.parametrize("stem", ["nm_matmul"])
def test_hls_of_a_core(stem: str, seed: int) -> None:
    """FINN's cppsim is the C-simulation of our HLS core; the project for Vitis is written."""
    model, feed, _ = of_core(stem, params(stem), seed)
    want = execute_onnx(model, feed)["y"]
    getCustomOp(model.graph.node[0]).set_nodeattr("preferred_impl_style", "hls")
    model = model.transform(SpecializeLayers(PART)).transform(GiveUniqueNodeNames())
    model = model.transform(PrepareIP(PART, CLOCK_NS)).transform(SetExecMode("cppsim"))
    assert np.array_equal(execute_onnx(model, feed)["y"], want)
    (made,) = model.graph.node
    folder = Path(getCustomOp(made).get_nodeattr("code_gen_dir_ipgen"))
    assert (folder / f"hls_syn_{made.name}.tcl").is_file()
    assert f"node_{made.name}(in0, out)" in (folder / f"top_{made.name}.cpp").read_text()


def small(seed: int) -> ModelWrapper:
    """x -> table -> + x, requantisation with a bias per channel, two 2:4 products of one shape."""
    rng = torch.Generator().manual_seed(seed)
    x, tokens, channels = IntType(6, True), 5, 8
    table = LookupTableParams(
        max_tokens=tokens, channels=channels, simd=2, in_type=x, out_type=x, offset=32, entries=64
    )
    add = ResidualAddParams(
        max_tokens=tokens, channels=channels, simd=2, a_type=x, b_type=x, out_type=IntType(7, True)
    )
    last = ResidualAddParams(
        max_tokens=tokens, channels=channels, simd=4, a_type=IntType(7, True),
        b_type=IntType(9, True), out_type=IntType(5, True), shift=2,
    )  # fmt: skip
    nodes = [
        node("SievitLookupTable", table, ["x", "t"], "u", ["table"]),
        node("SievitResidualAdd", add, ["x", "u"], "v", []),
        node("SievitRequantise", last, ["v", "b"], "w0", []),
    ]
    product = NmMatmulParams(
        max_tokens=tokens, in_type=IntType(5, True), out_type=IntType(5, True), shift=5
    )
    keys = ["bias", "weight"]
    for i, out in enumerate(("w1", "y")):
        names = [f"{k}{i}" for k in keys]
        nodes.append(node("SievitNmMatmul", product, [f"w{i}", *names], out, keys))
    for made in nodes[1:3]:
        made.attribute.append(helper.make_attribute("inFIFODepths", [40, 40]))
    values = {
        "t": torch.randint(-32, 32, (64,), generator=rng),
        "b": torch.randint(-256, 256, (channels,), generator=rng),
    }
    for i in range(2):
        constants, _ = load_core("nm_matmul").stimuli(rng, product, 1)
        values |= {f"{k}{i}": constants[k] for k in keys}
    model = build(nodes, values, {"x": ([1, tokens, channels], x)}, "y")
    return convert.fork(model).transform(InferShapes()).transform(GiveUniqueNodeNames())


def test_stitched_top(tmp_path: Path, seed: int) -> None:
    """Equal under stalls, with FIFOs of the depth that was measured."""
    model = convert.specialise(small(seed), PART)
    x = torch.randint(-32, 32, (24, 5, 8), generator=torch.Generator().manual_seed(seed))
    want = convert.execute(model, x).reshape(24, 5, 8).long()
    stalls = ("none", "both", "bursts", "ready_25")
    roomy = stitch.generate_ip(convert.stitchable(deepen(model, 8), PART), PART, 200.0)
    assert any(n.op_type == "StreamingDataWidthConverter_rtl" for n in roomy.graph.node)
    (result,), held = stitch.simulate(
        roomy, "net", tmp_path / "a", Stream.full(x), stalls[:1], seed
    )
    assert torch.equal(result.output.data, want)
    depths = stitch.depths(roomy, held)
    assert len(depths) == 3 and all(0 < d <= 48 for d in depths.values())
    sized = stitch.generate_ip(convert.stitchable(deepen(model, 0, depths), PART), PART, 200.0)
    results, held = stitch.simulate(sized, "net", tmp_path / "b", Stream.full(x), stalls, seed)
    assert all(torch.equal(r.output.data, want) for r in results)
    for (
        made
    ) in sized.graph.node:  # FINN's FIFO is not its endless model: one beat more is a register
        if made.op_type.startswith("StreamingFIFO"):
            assert held[made.name] <= getCustomOp(made).get_nodeattr("depth") + 1


def test_width_converters_keep_up(tmp_path: Path, seed: int) -> None:
    """Between widths of which neither divides the other the narrower side sets the pace."""
    rng = torch.Generator().manual_seed(seed)
    t, tokens = IntType(6, True), 5
    nodes = [
        node(
            "SievitLookupTable",
            LookupTableParams(max_tokens=tokens, channels=24, simd=simd, in_type=t, out_type=t,
                              offset=32, entries=64),
            [source, table], out, ["table"],
        )
        for simd, source, table, out in (
            (6, "x", "t0", "u"), (8, "u", "t1", "v"), (6, "v", "t2", "y"),
        )
    ]  # fmt: skip
    values = {f"t{i}": torch.randint(-32, 32, (64,), generator=rng) for i in range(3)}
    model = build(nodes, values, {"x": ([1, tokens, 24], t)}, "y")
    model = model.transform(InferShapes()).transform(GiveUniqueNodeNames())
    model = convert.stitchable(convert.specialise(model, PART), PART)
    kinds = [n.op_type for n in model.graph.node]
    assert kinds.count("StreamingDataWidthConverter_rtl") == 4
    x = torch.randint(-32, 32, (16, tokens, 24), generator=rng)
    want = convert.execute(model, x).reshape(16, tokens, 24).long()
    model = stitch.generate_ip(model, PART, 200.0)
    results, _ = stitch.simulate(
        model, "net", tmp_path / "a", Stream.full(x), ("none", "both"), seed
    )
    assert all(torch.equal(r.output.data, want) for r in results)
    assert interval(results[0]) == tokens * 24 / 6


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelWrapper, Any, Any, Any]:
    """(QONNX of the shipped top-k model, its Graph, test patches, logits of QONNX)."""
    recipe = recipes.load("heatvit_nm_digits_topk")
    images = data.load("digits")
    geometry = train.geometry(recipe, images)
    models = train.load_checkpoint(recipes.ZOO / f"{recipe.name}.pt", recipe, geometry)
    onnx = exporter.export(models["qat_pruned"], tmp_path_factory.mktemp("onnx") / "m.onnx")
    x = data.patchify(images.test_images, recipe.data.patch_size)
    scaled = x * 2.0 ** lower(onnx, "net").input_exponent
    logits = exporter.execute(onnx, scaled.float())[exporter.OUTPUT]
    return onnx, lower(onnx, "net"), x, torch.from_numpy(logits).flatten(1)


def test_every_step_is_exact_and_rtl(network: Any, tmp_path: Path) -> None:
    """All 360 test images after every step; every node RTL on every board."""
    onnx, graph, x, logits = network
    board = boards.load("pynq_z2")  # the smallest: what fits there fits all
    folded = fold.fold(graph, board.budget(), None, 0, board.device())
    cycles, _ = fold.interval(folded)
    golden = execute(folded, Stream.full(x))[folded.output.name].data[:, 0]
    model = onnx
    for step in (
        lambda m: convert.integers(m, folded, cycles), convert.finn_onnx, convert.streamline,
        lambda m: convert.to_hw(m, cycles),
    ):  # fmt: skip
        model = step(model)
        assert torch.equal(convert.execute(model, x), logits)
    _, model = convert.partition(model, tmp_path)
    assert torch.equal(convert.execute(model, x), golden.float())
    for name in BOARDS:
        part = boards.load(name).part
        made = convert.stitchable(convert.specialise(model, part), part)
        assert {n.domain for n in made.graph.node} == {f"{ops.DOMAIN}.rtl"}
        assert {"MVAU_rtl", "Thresholding_rtl"} <= {n.op_type for n in made.graph.node}
        assert torch.equal(convert.execute(made, x), golden.float())


def test_stock_conversion_differs(network: Any) -> None:
    """What half_even is for: with FINN's own thresholds values differ."""
    onnx, graph, x, _ = network
    model = convert.integers(onnx, graph, 1e9)
    exact = convert.half_even
    try:
        convert.half_even = lambda *_: None
        stock = convert.finn_onnx(model)
    finally:
        convert.half_even = exact
    found = convert.finn_onnx(model)
    tensors = [  # their names are random
        [n.output[0] for n in m.graph.node if n.op_type == "MultiThreshold"] for m in (stock, found)
    ]
    feed = {convert.INPUT: x.numpy().astype(np.float32)}
    a, b = (
        execute_onnx(convert.batched(m, len(x)), feed, return_full_exec_context=True)
        for m in (stock, found)
    )
    assert any(not np.array_equal(a[s], b[t]) for s, t in zip(*tensors, strict=True))


def test_dynamic_selection_is_refused(tmp_path: Path) -> None:
    p = replace(params("token_select"), topk=0)  # type: ignore[call-arg]
    with pytest.raises(UnsupportedError, match="fixed top-k, such as heatvit_nm_digits_topk"):
        ops.frame_after(p, False)


def test_other_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.9.9")
    with pytest.raises(
        ToolError, match=f"9.9.9 is installed, this is made for {finn_rtlsim.TESTED}"
    ):
        finn.setup(tmp_path)
