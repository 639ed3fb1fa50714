# SPDX-License-Identifier: Apache-2.0
"""hls4ml with the cores as its layers: graphs of ours, and a Vision Transformer that is not."""

from __future__ import annotations

import decimal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hls4ml
import numpy as np
import plain_vit
import pytest
import torch
from brevitas.export import export_qonnx
from conftest import Tiny
from onnx import TensorProto, helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from test_codegen import TOKENS, small_graph
from torch import Tensor, nn

from sievit.flow import hls4ml as backend
from sievit.hls import hls4ml_ops, hls4ml_plugin
from sievit.hls.hls4ml_model import INPUT, to_qonnx
from sievit.hls.hls4ml_plain import Grid, exponentials, layernorm_attributes
from sievit.quant import custom_op
from sievit.quant.execute import execute
from sievit.quant.graph import Graph, Loop, UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.params import Stream
from sievit.quant.tools import ToolError

MODEL = {"Precision": "fixed<48,16>", "ReuseFactor": 1}
PART, PERIOD = "xczu9eg-ffvb1156-2-e", 5.0


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without optimising: what is computed here takes less time than the compiler."""
    flags = [(n, old, new.replace("-O2", "-O0")) for n, old, new in hls4ml_plugin.FLAGS]
    monkeypatch.setattr(hls4ml_plugin, "FLAGS", flags)


def compiled(graph: Graph, folder: Path) -> Any:
    """hls4ml's model of a graph, ready to predict."""
    with backend.quiet(folder / "log"):
        made = backend.convert(graph, folder, PART, PERIOD)
        made.compile()
    return made


def scaled(graph: Graph, ints: Tensor) -> np.ndarray:
    return (ints.double() * 2.0**graph.input_exponent).float().numpy()


def run_qonnx(model: ModelWrapper, x: np.ndarray) -> np.ndarray:
    (source,), (sink,) = model.graph.input, model.graph.output
    return execute_onnx(model, {source.name: x})[sink.name]


# -- graphs --------------------------------------------------------------------------------------
def test_graph(tmp_path: Path, rng: torch.Generator) -> None:
    """Forks, an edge read twice by one core, lanes that do not divide each other, a dense matrix
    between cores, an output that leaves the frames."""
    graph = small_graph()
    t = graph.input.itype
    x = torch.randint(t.min, t.max + 1, (40, TOKENS, graph.input.channels), generator=rng)
    golden = execute(graph, Stream.full(x))[graph.output.name].data
    assert len(golden.unique()) > 10
    y = run_qonnx(to_qonnx(graph, len(x)), scaled(graph, x))
    assert torch.equal(torch.from_numpy(y).double(), golden * 2.0**graph.output.exponent)
    made = compiled(graph, tmp_path)
    assert torch.equal(backend.predict(made, graph, x), golden.flatten(1))
    classes = {v["name"]: v["class"] for v in backend.describe(made)}
    assert classes["right"] == "PointwiseConv1D" and classes["left"] == "SievitNmMatmul"
    assert "SievitResizeFrames" in classes.values() and "SievitForkFrames" in classes.values()


@pytest.mark.slow
def test_pruned_frames(tiny: Tiny, tiny_graph: Graph, tmp_path: Path) -> None:
    """Token selector and package token: a frame's length is known at run time alone. Where it
    leaves for hls4ml, zeros follow the last token."""
    names = [n.name for n in tiny_graph.nodes]
    end = next(i for i, n in enumerate(tiny_graph.nodes) if n.core == "token_select")
    nodes = tiny_graph.nodes[: end + 1]
    assert names[end].startswith("selectors")
    deep = [replace(n, depths=tuple(16 for _ in n.inputs)) for n in nodes]
    graph = replace(tiny_graph, nodes=deep)
    x = tiny.patches[:120]
    golden = execute(graph, Stream.full(x))[graph.output.name]
    assert len(golden.length.unique()) > 2 and bool(golden.package.any())
    y = run_qonnx(to_qonnx(graph, len(x)), scaled(graph, x))
    assert torch.equal(torch.from_numpy(y).double(), golden.data * 2.0**graph.output.exponent)
    made = compiled(graph, tmp_path)
    assert torch.equal(backend.predict(made, graph, x), golden.data.flatten(1))
    top = (tmp_path / "firmware" / f"{graph.name}.cpp").read_text()
    assert "depth=16" in top, "FIFO depths of the graph arrive"


@pytest.mark.slow
def test_exported_network(tiny_onnx: ModelWrapper, tiny_graph: Graph) -> None:
    """What ``sievit export`` writes is recognised; it gets a frame of room where branches meet."""
    made = hls4ml_plugin.prepare(tiny_onnx)
    assert {n.domain for n in made.graph.node} >= {hls4ml_ops.DOMAIN, custom_op.DOMAIN}
    assert not any(n.op_type in ("MatMul", "Add") for n in made.graph.node)
    node = next(n for n in tiny_graph.nodes if n.core == "residual_add")
    frame = tiny_graph.max_tokens(node.name) * node.params.output().beats
    depths = [n.metadata_props for n in made.graph.node if n.output[0].startswith(node.inputs[0])]
    assert str(frame + 2) in {p.value for found in depths for p in found}


def test_shared_cores_are_refused() -> None:
    graph = small_graph()
    graph.loops = [Loop("loop", Graph.INPUT, ("left",), (("left",), ("left",)))]
    with pytest.raises(UnsupportedError, match=r"loop: layers that share cores"):
        to_qonnx(graph)


# -- anybody's Vision Transformer ----------------------------------------------------------------
@pytest.mark.slow
def test_plain_transformer(tmp_path: Path) -> None:
    """Brevitas and torch alone, hls4ml's ordinary calls: every logit is that of the QONNX model."""
    vit = plain_vit.trained(seed=1)
    x = 2 * torch.randn(60, plain_vit.TOKENS, plain_vit.DIM)
    model = plain_vit.export(vit, tmp_path / "vit.onnx", x[:1])
    before = model.model.SerializeToString()
    want = np.concatenate([run_qonnx(model, v.numpy()) for v in x.split(1)])
    with torch.no_grad():
        assert np.array_equal(want, vit(x).numpy())
    assert want.std(0).min() > 0.05

    with backend.quiet(tmp_path / "log"):
        made = plain_vit.convert(model, tmp_path / "project", PART)
        made.compile()
    assert np.array_equal(made.predict(x.numpy()), want)
    classes = [v.class_name for v in made.get_layers()]
    assert classes.count("SievitFloatLayernorm") == 5
    assert classes.count("SievitSoftmaxAttention") == 2
    assert classes.count("SievitLookupTable") == classes.count("SievitFirstToken") == 1
    assert model.model.SerializeToString() == before, "the user's model is untouched"


def test_layernorm_rounds_the_real_function(rng: torch.Generator) -> None:
    """Against decimals of 60 digits: never another step than the real function rounds to."""
    channels = 12
    x, y = Grid(IntType(10, True), -5), Grid(IntType(8, True), -5)
    gain = torch.rand(channels, generator=rng).numpy() + 0.5
    offset = torch.randn(channels, generator=rng).numpy() * 0.3
    a = layernorm_attributes(x, y, channels, 1e-5, gain, offset)
    tokens = torch.randint(-512, 512, (200, channels), generator=rng)
    tokens[0], tokens[1] = 7, torch.arange(channels)
    tables = [
        np.round(v.astype(float) * 2.0**s).astype(np.int64)
        for v, s in ((gain, a["gain_frac"]), (offset, a["frac"] + 5))
    ]
    got = hls4ml_ops.float_layernorm(a, tokens[None].numpy(), *tables)[0]
    with decimal.localcontext() as context:
        context.prec = 60
        d = decimal.Decimal
        for row, out in zip(tokens.tolist(), got.tolist(), strict=True):
            values = [d(v) / 32 for v in row]
            mean = sum(values) / channels
            var = sum((v - mean) ** 2 for v in values) / channels
            for v, g, b, code in zip(values, gain, offset, out, strict=True):
                exact = ((v - mean) / (var + d(1e-5)).sqrt() * d(float(g)) + d(float(b))) * 32
                nearest = exact.to_integral_value(decimal.ROUND_HALF_EVEN)
                assert code == min(max(int(nearest), -128), 127)


def test_softmax_rounds_the_real_function(rng: torch.Generator) -> None:
    """The same for probabilities: values that are a unit matrix let them through."""
    tokens, steps = 6, 8
    types = dict.fromkeys(("q_type", "k_type", "v_type", "score_type"), "int8")
    a = {**types, "prob_type": "uint8", "out_type": "uint8", "scale": 1, "score_shift": 0}
    a |= {"v_exponent": 0, "prob_exponent": -steps, "out_exponent": -steps}
    q = torch.randint(-128, 128, (1, 50, tokens, tokens), generator=rng).numpy()
    q[0, 0], q[0, 1] = 5, q[0, 1] >> 4
    unit = np.broadcast_to(np.eye(tokens, dtype=np.int64), q.shape)
    exp = exponentials(Grid(IntType(8, True), -4))
    got = hls4ml_ops.softmax_attention(a, q, unit, unit, exp)
    with decimal.localcontext() as context:
        context.prec = 60
        for row, out in zip(q.reshape(-1, tokens), got.reshape(-1, tokens), strict=True):
            weights = [(decimal.Decimal(int(v)) / 16).exp() for v in row]
            for weight, code in zip(weights, out, strict=True):
                exact = weight / sum(weights) * 2**steps
                assert code == min(exact.to_integral_value(decimal.ROUND_HALF_EVEN), 255)


def attention_model(**changes: bool) -> nn.Module:
    """A block of one head; each change leaves out or breaks what the conversion needs."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.score, self.out = (plain_vit.act() for _ in range(3))
            self.prob, self.norm_act = plain_vit.act(), plain_vit.act()
            self.norm = nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.input(x)
            if "norm" in changes:
                return self.norm(x) * 2
            if "last" in changes:
                return self.norm_act(self.norm(x))[:, -1]
            if "curve" in changes:
                return self.out(nn.functional.gelu(x @ torch.ones(4, 4)))
            score = x @ x.transpose(1, 2)
            score = score if "score" in changes else self.score(score)
            y = score.softmax(-1)
            y = (y if "prob" in changes else self.prob(y)) @ x
            y = y if "out" in changes else self.out(y)
            return y[:, 0].softmax(-1) if "logits" in changes else y

    return Block().eval()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("norm", "its result is not quantised; put a QuantIdentity behind it"),
        ("last", "only token 0 can be taken out"),
        ("curve", "is not quantised; put a QuantIdentity in front"),
        ("score", "the scores are not quantised; put a QuantIdentity in front of softmax"),
        ("prob", "its result is not quantised; put a QuantIdentity behind it"),
        ("out", "put a QuantIdentity behind p @ v"),
    ],
)
def test_what_cannot_be_converted(change: str, message: str, tmp_path: Path) -> None:
    vit = attention_model(**{change: True})
    model = plain_vit.export(vit, tmp_path / "vit.onnx", torch.randn(1, 3, 4))
    with pytest.raises(UnsupportedError, match=message):
        hls4ml_plugin.prepare(model)


def test_softmax_of_the_logits_stays(tmp_path: Path) -> None:
    vit = attention_model(logits=True)
    model = plain_vit.export(vit, tmp_path / "vit.onnx", torch.randn(1, 3, 4))
    ops = [n.op_type for n in hls4ml_plugin.prepare(model).graph.node]
    assert ops.count("SoftmaxAttention") == ops.count("FirstToken") == ops.count("Softmax") == 1
    x = torch.randn(1, 3, 4).numpy()
    assert np.array_equal(run_qonnx(hls4ml_plugin.prepare(model), x), run_qonnx(model, x))


@pytest.mark.parametrize("other", [{"backend": "Vivado"}, {"io_type": "io_parallel"}])
def test_other_backends_are_refused(other: dict[str, str], tmp_path: Path) -> None:
    call = {"backend": "Vitis", "io_type": "io_stream", **other}
    with (
        backend.quiet(tmp_path / "log"),
        pytest.raises(UnsupportedError, match='convert with backend="Vitis", io_type="io_stream"'),
    ):
        hls4ml.converters.convert_from_onnx_model(
            to_qonnx(small_graph()), output_dir=str(tmp_path), hls_config={"Model": MODEL}, **call
        )


def test_other_models_pass_unchanged(tmp_path: Path) -> None:
    mlp = nn.Sequential(plain_vit.act(), plain_vit.linear(6, 3)).eval()
    export_qonnx(mlp, torch.randn(1, 6), str(tmp_path / "a.onnx"), dynamo=False, opset_version=17)
    model = ModelWrapper(str(tmp_path / "a.onnx"))
    assert hls4ml_plugin.prepare(model) is model


def test_operator_of_another_domain() -> None:
    """ONNX has an Attention of its own since opset 23; ours must not be taken for it."""
    node = helper.make_node("Attention", ["a"], ["b"], name="theirs")
    with pytest.raises(UnsupportedError, match=r"theirs: operator Attention of domain ''"):
        hls4ml_plugin.layer(node, [1, 1, 1], 1, 1, hls4ml_ops.DOMAIN)


# -- the backend ---------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("hls4ml.__version__ = '1.4.0'", "hls4ml 1.4.0: not tested"),
        ("import hls4ml.backends.template as t; del t.FunctionCallTemplate", "cannot import name"),
    ],
)
def test_another_version(change: str, message: str) -> None:
    code = f"import hls4ml; {change}; import sievit.hls.hls4ml_plugin"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode and message in last
    assert f"sievit is tested with hls4ml {hls4ml_plugin.TESTED}" in last
    assert f"pip install hls4ml=={hls4ml_plugin.TESTED}" in last


def test_without_vitis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small_graph()
    with backend.quiet(tmp_path / "log"):
        made = backend.convert(graph, tmp_path, PART, PERIOD)
        made.write()
    monkeypatch.setenv("PATH", "")
    with (
        backend.quiet(tmp_path / "log"),
        pytest.raises(ToolError, match=r"g\+\+: Failed to compile"),
    ):
        backend.compile(made, tmp_path / "log")
    cycles, text = backend.synthesis(made, tmp_path)
    assert cycles["ii"] is None and cycles["latency"] is None and "not measured" in cycles["source"]
    assert isinstance(text, str) and "no vitis-run on PATH" in text and backend.SYNTHESIS in text
    for name in backend.PROJECT:
        assert name in text and (tmp_path / name).exists()
    script = (tmp_path / "build_prj.tcl").read_text()
    assert "-std=c++17 -DSIEVIT_VITIS" in script and "c++0x" not in script
    assert PART in (tmp_path / "project.tcl").read_text()
    for source in ("lib/axis.hpp", "nnet/frames.hpp", "cores/nm_matmul.hpp"):
        assert (tmp_path / "firmware" / "sievit" / source).is_file()


def test_stock(tmp_path: Path) -> None:
    """hls4ml alone, really called."""
    vit = plain_vit.trained(1)
    plain_vit.export(vit, tmp_path / "a.onnx", torch.randn(1, 7, 12)).save(str(tmp_path / "b.onnx"))
    found = backend.stock_hls4ml(tmp_path / "b.onnx", PART)
    assert found["stage"] == "read the model"
    assert "Unsupported operation type: LayerNormalization" in found["exception"]
    assert 0 < found["layers_read"] < found["nodes"]
    assert backend.stock_hls4ml(tmp_path / "none.onnx", PART)["stage"] is None


def test_constant_beyond_float32() -> None:
    graph = small_graph()
    node = graph.node("left")
    bias = node.constants["bias"].clone()
    bias[0] = (1 << 24) + 1
    graph.nodes[graph.nodes.index(node)] = replace(node, constants={**node.constants, "bias": bias})
    with pytest.raises(UnsupportedError, match="left_bias: a constant does not fit float32"):
        to_qonnx(graph)


def test_input_is_named() -> None:
    model = to_qonnx(small_graph())
    assert [i.name for i in model.graph.input] == [INPUT]
    assert all(i.data_type == TensorProto.FLOAT for i in model.graph.initializer)
