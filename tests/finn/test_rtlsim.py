# SPDX-License-Identifier: Apache-2.0
"""FINN's rtlsim on Verilator: FINN's own nodes, whole networks, a user's op; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import finn.xsi
import numpy as np
import pytest
from finn.custom_op.fpgadataflow import register_custom_op as register_op
from finn.custom_op.fpgadataflow.hwcustomop import HWCustomOp
from finn.custom_op.fpgadataflow.rtl import register_custom_op as register_rtl
from finn.custom_op.fpgadataflow.rtlbackend import RTLBackend
from finn.transformation.fpgadataflow.prepare_ip import PrepareIP
from finn.transformation.fpgadataflow.prepare_rtlsim import PrepareRTLSim
from finn.transformation.fpgadataflow.set_exec_mode import SetExecMode
from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
from nets import CLOCK_NS, PART, Network, cnn, mlp, rtl_nodes, to_layers, to_rtl
from onnx import TensorProto, helper
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.general import GiveUniqueNodeNames

from sievit.quant.finn_rounding import ConvertQONNXtoFINNExact
from sievit.sim import finn_rtlsim
from sievit.sim.runner import SimulationError

VERSAL = "xcvc1902-vsva2197-2MP-e-S"
STALLS = ("none", "both", "bursts", "starve", "ready_25")


def one_node(
    op: str, inputs: dict[str, tuple[list[int], str]], outputs: dict[str, list[int]], **kw: Any
) -> ModelWrapper:
    """A graph of one layer. ``inputs``: name -> (shape, datatype)."""
    value = helper.make_tensor_value_info
    domain = "finn.custom_op.fpgadataflow"
    node = helper.make_node(
        op, list(inputs), list(outputs), domain=domain, backend="fpgadataflow", **kw
    )
    graph = helper.make_graph(
        [node],
        op,
        [value(n, TensorProto.FLOAT, shape) for n, (shape, _) in inputs.items()],
        [value(n, TensorProto.FLOAT, shape) for n, shape in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    model = ModelWrapper(helper.make_model(graph, opset_imports=opsets))
    for name, (_, datatype) in inputs.items():
        model.set_tensor_datatype(name, DataType[datatype])
    return model


def integers(rng: np.random.Generator, datatype: str, shape: list[int]) -> np.ndarray:
    kind = DataType[datatype]
    return rng.integers(int(kind.min()), int(kind.max()) + 1, shape).astype(np.float32)


def check_node(
    model: ModelWrapper, rng: np.random.Generator, seed: int, part: str = PART, **attributes: int
) -> tuple[int, int]:
    """RTL under all stalls equals FINN's Python execution of the layer. Returns the cycles without
    stalls and FINN's estimate."""
    free = [i.name for i in model.graph.input if model.get_initializer(i.name) is None]
    feeds = []
    for _ in range(3):
        kinds = {n: model.get_tensor_datatype(n).name for n in free}
        feeds.append({n: integers(rng, kinds[n], model.get_tensor_shape(n)) for n in free})
    want = [execute_onnx(model, feed) for feed in feeds]
    assert all(np.std(y) > 0 for y in want[0].values()), "an output that is constant shows nothing"
    model = to_rtl(model, part, **attributes)
    (op,) = rtl_nodes(model)
    model = model.transform(SetExecMode("rtlsim")).transform(PrepareRTLSim())
    cycles = {}
    for stall in STALLS:
        finn_rtlsim.install(stall, seed)
        for feed, expected in zip(feeds, want, strict=True):
            got = execute_onnx(model, feed)
            for name, y in expected.items():
                np.testing.assert_array_equal(got[name], y, f"{name}, stall {stall}")
        cycles[stall] = getCustomOp(model.graph.node[0]).get_nodeattr("cycles_rtlsim")
    assert min(cycles.values()) == cycles["none"] < cycles["both"], cycles
    estimate = op.get_exp_cycles()
    print(f"{model.graph.node[0].op_type}: {cycles}, FINN's estimate {estimate}")
    return cycles["none"], estimate


# -- FINN's nodes --------------------------------------------------------------------------------


def mvau(rng: np.random.Generator, mode: str, act: str, weight: str, **kw: Any) -> ModelWrapper:
    """8 vectors of 24 elements times a matrix 24 x 12."""
    model = one_node(
        "MVAU",
        {"x": ([8, 24], act), "w": ([24, 12], weight)},
        {"y": [8, 12]},
        MW=24, MH=12, inputDataType=act, weightDataType=weight, outputDataType="INT20",
        numInputVectors=[8], noActivation=1, mem_mode=mode, inFIFODepths=[2, 2], **kw,
    )  # fmt: skip
    if mode != "dynamic":
        model.graph.input.pop()
        model.set_initializer("w", integers(rng, weight, [24, 12]))
    return model


@pytest.mark.parametrize(
    ("mode", "act", "weight", "part", "pumped", "kw"),
    [
        ("internal_decoupled", "INT8", "INT4", PART, 0, {"SIMD": 6, "PE": 4}),
        ("internal_decoupled", "UINT4", "INT8", PART, 0, {"SIMD": 1, "PE": 1}),
        ("internal_decoupled", "INT4", "INT4", PART, 1, {"SIMD": 8, "PE": 3}),
        ("internal_decoupled", "INT8", "INT8", VERSAL, 0, {"SIMD": 12, "PE": 2}),
        ("dynamic", "INT8", "INT8", PART, 0, {"SIMD": 4, "PE": 6}),
    ],
    ids=["static", "unfolded", "double_pumped", "dsp58", "dynamic"],
)
def test_mvau(
    mode: str, act: str, weight: str, part: str, pumped: int, kw: dict[str, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    model = mvau(rng, mode, act, weight, **kw)
    cycles, estimate = check_node(model, rng, seed, part, pumpedCompute=pumped)
    assert estimate <= cycles <= 1.1 * estimate + 40


def test_thresholding(seed: int) -> None:
    """Thresholds of their own for every channel."""
    rng = np.random.default_rng(seed)
    model = one_node(
        "Thresholding",
        {"x": ([1, 6, 8], "INT12"), "t": ([8, 15], "INT12")},
        {"y": [1, 6, 8]},
        NumChannels=8, PE=2, numSteps=15, inputDataType="INT12", weightDataType="INT12",
        outputDataType="INT4", ActVal=-8, numInputVectors=[1, 6],
    )  # fmt: skip
    model.graph.input.pop()
    model.set_initializer("t", np.sort(integers(rng, "INT12", [8, 15]), axis=1))
    cycles, estimate = check_node(model, rng, seed)
    assert estimate <= cycles <= estimate + 40


@pytest.mark.parametrize(("before", "after"), [(8, 24), (24, 8), (16, 24)])
def test_width_converter(before: int, after: int, seed: int) -> None:
    model = one_node(
        "StreamingDataWidthConverter",
        {"x": ([1, 4, 12], "INT8")},
        {"y": [1, 4, 12]},
        inShape=[1, 4, 12], outShape=[1, 4, 12], inWidth=before, outWidth=after, dataType="INT8",
    )  # fmt: skip
    check_node(model, np.random.default_rng(seed), seed)


@pytest.mark.parametrize("simd", [1, 4])
def test_inner_shuffle(simd: int, seed: int) -> None:
    model = one_node(
        "InnerShuffle",
        {"x": ([1, 8, 12], "INT8")},
        {"y": [1, 12, 8]},
        in_shape=[1, 8, 12], transpose_in_shape=[1, 8, 12], data_type="INT8", SIMD=simd,
    )  # fmt: skip
    check_node(model, np.random.default_rng(seed), seed)


@pytest.mark.parametrize("depth", [2, 40, 600])
def test_fifo(depth: int, seed: int) -> None:
    """FINN never simulates a FIFO by itself, so its streams are driven directly. In a shift
    register, distributed memory and block memory."""
    count = 3 * depth
    model = one_node(
        "StreamingFIFO",
        {"x": ([1, count, 2], "INT8")},
        {"y": [1, count, 2]},
        depth=depth, folded_shape=[1, count, 2], normal_shape=[1, count, 2], dataType="INT8",
        impl_style="rtl",
    )  # fmt: skip
    (op,) = rtl_nodes(to_rtl(model).transform(PrepareRTLSim()))
    sent = np.random.default_rng(seed).integers(0, 1 << 16, count).tolist()
    cycles = {}
    for stall in STALLS:
        finn_rtlsim.install(stall, seed)
        streams = {"inputs": {"in0": sent}, "outputs": {"out0": []}}
        engine = op.get_rtlsim()
        cycles[stall] = finn.xsi.rtlsim_multi_io(engine, streams, count, sname="_V")
        assert streams["outputs"]["out0"] == sent, stall
    assert cycles["none"] <= count + 8 and cycles["both"] > 1.5 * count


def test_weight_streamer(seed: int, tmp_path: Path) -> None:
    """What a stitched MVAU gets its weights from: ``node_sources`` holds it."""
    rng = np.random.default_rng(seed)
    weights = mvau(rng, "internal_decoupled", "INT8", "INT4", SIMD=6, PE=4)
    (op,) = rtl_nodes(to_rtl(weights))
    name = f"{op.onnx_node.name}_memstream_wrapper"
    sources = finn_rtlsim.node_sources(op, tmp_path)
    assert len(set(sources)) == len(sources) == 11
    program = finn_rtlsim.build(name, sources, tmp_path)
    code = Path(op.get_nodeattr("code_gen_dir_ipgen"))
    memory = [int(line, 16) for line in (code / "memblock.dat").read_text().split()]
    assert len(memory) == 24 * 12 // 24 and len(set(memory)) > 5
    found, _ = finn_rtlsim.simulate(program, {}, {"m_axis_0": 36}, "both", seed, silence=0)
    assert found["m_axis_0"] == 3 * memory


# -- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [mlp, cnn])
def test_network(make: object, tmp_path: Path, seed: int) -> None:
    """Brevitas == RTL, every output of every input, with and without stalls."""
    net = Network(make, tmp_path, seed)
    inputs = net.inputs(4, seed)
    layers = to_layers(net.qonnx, ConvertQONNXtoFINNExact())
    assert net.wrong(layers, inputs) == 0
    assert len({net(x).tobytes() for x in inputs}) == len(inputs)
    model = to_rtl(layers)
    layer_count = sum(n.domain == "finn.custom_op.fpgadataflow" for n in layers.graph.node)
    assert len(rtl_nodes(model)) == layer_count >= 5  # none is HLS, none stayed abstract
    model = model.transform(SetExecMode("rtlsim")).transform(PrepareRTLSim(num_workers=2))
    for stall in ("none", "both", "bursts"):
        finn_rtlsim.install(stall, seed)
        assert net.wrong(model, inputs) == 0, stall
        for op in rtl_nodes(model):
            assert op.get_nodeattr("cycles_rtlsim") > 0


# -- a user's own operator -----------------------------------------------------------------------


@register_op
class Sorted2(HWCustomOp):  # type: ignore[misc]
    """The smaller and the larger of two streams of tensors ``[1, Count]``, one value per beat."""

    def get_nodeattr_types(self) -> dict[str, Any]:
        own = {"Count": ("i", True, 0), "dataType": ("s", True, "")}
        return super().get_nodeattr_types() | own

    def get_normal_input_shape(self, ind: int = 0) -> list[int]:
        return [1, self.get_nodeattr("Count")]

    def get_folded_input_shape(self, ind: int = 0) -> list[int]:
        return [1, self.get_nodeattr("Count"), 1]

    def get_normal_output_shape(self, ind: int = 0) -> list[int]:
        return self.get_normal_input_shape()

    def get_folded_output_shape(self, ind: int = 0) -> list[int]:
        return self.get_folded_input_shape()

    def get_input_datatype(self, ind: int = 0) -> Any:
        return DataType[self.get_nodeattr("dataType")]

    def get_output_datatype(self, ind: int = 0) -> Any:
        return self.get_input_datatype()

    def get_instream_width(self, ind: int = 0) -> int:
        return int(self.get_input_datatype().bitwidth())

    def get_outstream_width(self, ind: int = 0) -> int:
        return self.get_instream_width()

    def get_number_output_values(self) -> Any:
        return {"out0": self.get_nodeattr("Count"), "out1": self.get_nodeattr("Count")}

    def get_exp_cycles(self) -> int:
        return int(self.get_nodeattr("Count"))

    def infer_node_datatype(self, model: ModelWrapper) -> None:
        for name in self.onnx_node.output:
            model.set_tensor_datatype(name, self.get_output_datatype())

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        a, b = (context[name] for name in self.onnx_node.input)
        low, high = self.onnx_node.output
        context[low], context[high] = np.minimum(a, b), np.maximum(a, b)


SORTED2 = """
module {top} (
    input ap_clk, input ap_rst_n,
    input signed [{high}:0] in0_V_TDATA, input in0_V_TVALID, output in0_V_TREADY,
    input signed [{high}:0] in1_V_TDATA, input in1_V_TVALID, output in1_V_TREADY,
    output reg [{high}:0] out0_V_TDATA, output reg out0_V_TVALID, input out0_V_TREADY,
    output reg [{high}:0] out1_V_TDATA, output reg out1_V_TVALID, input out1_V_TREADY);
  reg signed [{high}:0] bias [0:0];
  initial $readmemh("./bias.dat", bias);
  wire go = in0_V_TVALID && in1_V_TVALID
      && (!out0_V_TVALID || out0_V_TREADY) && (!out1_V_TVALID || out1_V_TREADY);
  assign in0_V_TREADY = go;
  assign in1_V_TREADY = go;
  wire less = in0_V_TDATA < in1_V_TDATA + bias[0];
  always @(posedge ap_clk) begin
    if (out0_V_TREADY) out0_V_TVALID <= 0;
    if (out1_V_TREADY) out1_V_TVALID <= 0;
    if (go) begin
      {{out0_V_TVALID, out1_V_TVALID}} <= 2'b11;
      out0_V_TDATA <= less ? in0_V_TDATA : in1_V_TDATA;
      out1_V_TDATA <= less ? in1_V_TDATA : in0_V_TDATA;
    end
    if (!ap_rst_n) {{out0_V_TVALID, out1_V_TVALID}} <= 2'b00;
  end
endmodule
"""


@register_rtl
class Sorted2_rtl(Sorted2, RTLBackend):  # type: ignore[misc]  # noqa: N801
    def get_nodeattr_types(self) -> dict[str, Any]:
        return Sorted2.get_nodeattr_types(self) | RTLBackend.get_nodeattr_types(self)

    def generate_hdl(self, model: ModelWrapper, fpgapart: str, clk: float) -> None:
        top, folder = self.get_verilog_top_module_name(), self.get_nodeattr("code_gen_dir_ipgen")
        text = SORTED2.format(top=top, high=self.get_instream_width_padded() - 1)
        Path(folder, f"{top}.v").write_text(text)
        Path(folder, "bias.dat").write_text("0\n")
        for name, value in (("gen_top_module", top), ("ipgen_path", folder), ("ip_path", folder)):
            self.set_nodeattr(name, value)

    def get_rtl_file_list(self, abspath: bool = False) -> list[str]:
        folder = self.get_nodeattr("code_gen_dir_ipgen") + "/" if abspath else ""
        return [f"{folder}{self.get_nodeattr('gen_top_module')}.v"]

    def code_generation_ipi(self) -> list[str]:
        return []

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        simulated = self.get_nodeattr("exec_mode") == "rtlsim"
        (RTLBackend if simulated else Sorted2).execute_node(self, context, graph)


def test_custom_op(seed: int) -> None:
    """Two inputs, two outputs, and a memory file named relative to its source."""
    model = one_node(
        "Sorted2",
        {"a": ([1, 70], "INT16"), "b": ([1, 70], "INT16")},
        {"low": [1, 70], "high": [1, 70]},
        Count=70, dataType="INT16",
    )  # fmt: skip
    assert check_node(model, np.random.default_rng(seed), seed) == (71, 70)


# -- what is wrong or cannot be simulated --------------------------------------------------------

#: passes beats on; data from f0 on choose a fault
FAULTY = """
module faulty (
    input ap_clk, input ap_rst_n,
    input [7:0] in0_V_TDATA, input in0_V_TVALID, output in0_V_TREADY,
    output reg [7:0] out0_V_TDATA, output reg out0_V_TVALID, input out0_V_TREADY);
  reg [7:0] age = 0;
  assign in0_V_TREADY = !out0_V_TVALID && in0_V_TDATA != 8'hf0;
  always @(posedge ap_clk) begin
    age <= age + 1;
    if (out0_V_TVALID && out0_V_TREADY) begin
      out0_V_TVALID <= 0;
      if (out0_V_TDATA == 8'hf3 && age < 20) out0_V_TVALID <= 1;
    end else if (out0_V_TVALID) begin
      if (out0_V_TDATA == 8'hf1) out0_V_TVALID <= 0;
      if (out0_V_TDATA == 8'hf2) out0_V_TDATA <= 8'h02;
    end
    if (in0_V_TVALID && in0_V_TREADY) begin
      out0_V_TVALID <= 1;
      out0_V_TDATA <= in0_V_TDATA;
      age <= 0;
      assert (in0_V_TDATA != 8'hf4) else $error("f4 is not allowed");
      if (in0_V_TDATA == 8'hf5) $finish;
    end
    if (!ap_rst_n) out0_V_TVALID <= 0;
  end
endmodule
"""


def test_faults_are_seen(tmp_path: Path) -> None:
    """A design that hangs, breaks the protocol, gives too much, or stops itself."""
    source = tmp_path / "faulty.sv"
    source.write_text(FAULTY)
    program = finn_rtlsim.build("faulty", [source], tmp_path / "build", trace=True)

    def play(beats: list[int], stall: str = "starve", **more: Any) -> list[int]:
        found, _ = finn_rtlsim.simulate(
            program, {"in0_V": beats}, {"out0_V": len(beats)}, stall, 1, watchdog=500, **more
        )
        return found["out0_V"]

    good = list(range(100))
    wave = tmp_path / "wave.vcd"
    assert play(good, trace=wave) == good
    assert "in0_V_TVALID" in wave.read_text()
    for beat, message in (
        (0xF0, r"no beat on any stream for 500 cycles; in0_V took 3 of 4, out0_V gave 3 of 4"),
        (0xF1, "out0_V withdrew TVALID before TREADY"),
        (0xF2, "out0_V changed TDATA while it was stalled"),
        (0xF3, "out0_V gave a beat after the last of 4"),
        (0xF4, "f4 is not allowed"),
        (0xF5, r"the design called \$finish"),
    ):
        with pytest.raises(SimulationError, match=message):
            play([1, 2, 3, beat])
    assert play([1, 2, 3, 0xF3], silence=0) == [1, 2, 3, 0xF3]
    with pytest.raises(SimulationError, match="256 does not fit 8 bits of in0_V"):
        play([256])
    with pytest.raises(SimulationError, match="no stall profile 'often'"):
        play(good, "often")
    with pytest.raises(SimulationError, match="no stream in1_V; it has in0_V, out0_V"):
        finn_rtlsim.simulate(program, {"in1_V": []}, {})
    with pytest.raises(AttributeError, match="write_axilite"):
        finn_rtlsim.load_sim_obj(tmp_path, Path("x")).write_axilite("s_axilite", [])


def elementwise(part: str) -> ModelWrapper:
    """An addition of floats."""
    model = one_node(
        "ElementwiseAdd",
        {"a": ([1, 8], "FLOAT32"), "b": ([1, 8], "FLOAT32")},
        {"y": [1, 8]},
        lhs_shape=[1, 8], rhs_shape=[1, 8], out_shape=[1, 8], lhs_style="input", rhs_style="input",
        lhs_dtype="FLOAT32", rhs_dtype="FLOAT32", out_dtype="FLOAT32", PE=2,
    )  # fmt: skip
    model = model.transform(SpecializeLayers(part)).transform(GiveUniqueNodeNames())
    return model.transform(PrepareIP(part, CLOCK_NS))


@pytest.mark.parametrize("workers", [1, 2])
def test_float_is_refused(workers: int) -> None:
    """Also out of a process pool, which an error that cannot be pickled would block for ever."""
    model = elementwise(VERSAL)
    assert model.graph.node[0].op_type == "ElementwiseAdd_rtl"
    with pytest.raises(finn_rtlsim.UnsupportedNode, match=r"ElementwiseAdd_rtl_0: .* shortreal"):
        model.transform(PrepareRTLSim(num_workers=workers))


def test_hls_is_refused() -> None:
    model = elementwise(PART)
    assert model.graph.node[0].op_type == "ElementwiseAdd_hls"
    with pytest.raises(finn_rtlsim.UnsupportedNode, match="ElementwiseAdd_hls_0 is an HLS node"):
        model.transform(PrepareRTLSim())


def test_other_fifo_is_refused(tmp_path: Path) -> None:
    """One that would stay FINN's endless model."""
    file = tmp_path / "fifo.v"
    file.write_text(
        "module fifo;\n`ifdef FINN_BEHAVIOUR\n  fifo_gauge fifo ();\n`endif\nendmodule\n"
    )
    with pytest.raises(SimulationError, match=r"fifo\.v: FINN's FIFO is not that of"):
        finn_rtlsim.patch(file)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    vhdl = tmp_path / "x.vhd"
    vhdl.write_text("")
    with pytest.raises(finn_rtlsim.UnsupportedNode, match=r"x\.vhd: Verilator reads"):
        finn_rtlsim.build("x", [vhdl], tmp_path)
    with pytest.raises(SimulationError, match=r"missing\.v does not exist; run PrepareIP"):
        finn_rtlsim.build("x", [tmp_path / "missing.v"], tmp_path)
    plain = tmp_path / "plain.v"
    plain.write_text(
        "module plain (input clk, output reg q); always @(posedge clk) q <= 1; endmodule"
    )
    with pytest.raises(SimulationError, match="module plain has no port ap_clk"):
        finn_rtlsim.build("plain", [plain], tmp_path)
    assert not list(tmp_path.glob("**/xsimk.so")) and not list(tmp_path.glob("obj-*"))


@pytest.mark.parametrize("change", finn_rtlsim.PATCHES, ids=lambda change: change.file)
def test_other_version_is_refused(
    change: finn_rtlsim.Patch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed sources are patched; where the text is another one, the message says which
    version fits."""
    library = finn_rtlsim._library()
    for source in library.rglob(change.file):
        assert finn_rtlsim.patch(source) != source.read_text()
    monkeypatch.setattr(finn_rtlsim, "_library", lambda: tmp_path)
    other = tmp_path / change.file
    other.write_text("module other; endmodule\n")
    with pytest.raises(SimulationError, match=f"fits finn-plus {finn_rtlsim.TESTED}, not the inst"):
        finn_rtlsim.patch(other)


def test_one_version(request: pytest.FixtureRequest) -> None:
    """What make installs is what the patches are made for."""
    make = (request.config.rootpath / "Makefile").read_text()
    assert f"finn-plus=={finn_rtlsim.TESTED}\n" in make
    assert finn_rtlsim._version() == finn_rtlsim.TESTED


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, want in ((None, "build/finn"), ("mine", "mine")):
        monkeypatch.delenv("FINN_BUILD_DIR")
        if given:
            monkeypatch.setenv("FINN_BUILD_DIR", given)
        finn_rtlsim.install()
        assert finn_rtlsim.os.environ["FINN_BUILD_DIR"] == str(tmp_path / want)
        assert (tmp_path / want).is_dir()
