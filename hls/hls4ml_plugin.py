# SPDX-License-Identifier: Apache-2.0
"""The cores as layers of hls4ml's Vitis backend; importing this module registers them.

::

    import hls4ml
    import sievit.hls.hls4ml_plugin

    config = hls4ml.utils.config_from_onnx_model(model, granularity="name", backend="Vitis",
                                                 default_precision="fixed<48,16>")
    made = hls4ml.converters.convert_from_onnx_model(model, hls_config=config, backend="Vitis",
                                                     io_type="io_stream", part=...)

What is registered, all with hls4ml's extension API: an ONNX handler, a layer and a config and call
template for every core and for every operator of ``hls4ml_ops``; and a pass of Vitis' write flow
that copies the cores' headers and sets the compiler flags that they need. One thing has no hook:
hls4ml's ONNX front end parses a model as it is. So its ``parse_onnx_model`` is wrapped: ``prepare``
rewrites what hls4ml has no layer for, and models without such nodes pass unchanged. And one of its
passes is wrong where a value has several readers; ``merge_if_alone`` corrects it.
"""

from __future__ import annotations

import functools
import importlib
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from onnx import numpy_helper
from qonnx.core.modelwrapper import ModelWrapper

from sievit.hls import hls4ml_ops
from sievit.hls.codegen import (
    config_struct,
    constant_arrays,
    core_call,
    identifier,
    rom,
    struct,
)
from sievit.hls.hls4ml_model import DEPTH, to_qonnx, with_frames
from sievit.hls.hls4ml_plain import rewrite
from sievit.quant import custom_op
from sievit.quant.errors import SievitError
from sievit.quant.graph import Node, UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.lower import lower
from sievit.quant.params import camel, core_names

#: version that everything here is tested with; other patch levels are let in
TESTED = "1.3.0"

#: file of a project, what hls4ml writes, what is put in its place
FLAGS = (
    ("build_lib.sh", 'CFLAGS="-O3', 'CFLAGS="-DAP_INT_MAX_W=4096 -O2'),
    ("build_prj.tcl", "-std=c++0x", "-std=c++17 -DSIEVIT_VITIS -DAP_INT_MAX_W=4096"),
)

HERE = Path(__file__).resolve().parent


class VersionError(SievitError):
    """The installed hls4ml has another inside than the one that the plugin was written for."""

    def __init__(self, found: str, why: str) -> None:
        super().__init__(
            f"hls4ml {found}: {why}; sievit is tested with hls4ml {TESTED}: "
            f"pip install hls4ml=={TESTED}"
        )


try:
    import hls4ml
except ImportError as error:
    raise VersionError("is missing", str(error)) from error

if hls4ml.__version__.split(".")[:2] != TESTED.split(".")[:2]:
    raise VersionError(hls4ml.__version__, "not tested")

try:
    from hls4ml.backends import get_backend
    from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
    from hls4ml.backends.vivado.vivado_types import VivadoStreamVariableDefinition
    from hls4ml.converters.onnx_to_hls import layer_handlers, register_onnx_layer_handler
    from hls4ml.model.attributes import Attribute
    from hls4ml.model.layers import Layer, register_layer
    from hls4ml.model.optimizer import ModelOptimizerPass
    from hls4ml.model.optimizer.passes.linear import MergeLinearActivation
    from hls4ml.model.quantizers import QuantNodeQuantizer
    from hls4ml.model.types import (
        FixedPrecisionType,
        IntegerPrecisionType,
        NamedType,
        RoundingMode,
        SaturationMode,
        TensorVariable,
    )
except ImportError as error:
    raise VersionError(hls4ml.__version__, str(error)) from error


# -- types ---------------------------------------------------------------------------------------
class HLSBeat(NamedType):
    """A beat of frames. hls4ml converts types by class and leaves names with HLS in front alone."""

    def __init__(self, t: IntType, lanes: int) -> None:
        name = f"sievit::beat<{lanes * t.bits}>"
        super().__init__(name, IntegerPrecisionType(t.bits, t.signed))

    def definition_cpp(self) -> str:
        """Nothing: the type is in the library."""
        return ""


class FrameVariable(TensorVariable, VivadoStreamVariableDefinition):
    """A stream of beats between two layers."""

    def __init__(self, shape: list[int], name: str, beat: HLSBeat, depth: int, index: int) -> None:
        super().__init__(shape, var_name=name, precision=beat.precision, index=index)
        self.type = beat
        self.pragma = ("stream", max(2, depth))


def fixed(t: IntType, exponent: int) -> FixedPrecisionType:
    """Type of hls4ml whose bits are the integers of ``t`` times ``2^exponent``."""
    return FixedPrecisionType(
        t.bits, t.bits + exponent, t.signed, RoundingMode.RND_CONV, SaturationMode.SAT
    )


def code_type(t: IntType, exponent: int) -> str:
    """The same in C++."""
    return f"ap_{'' if t.signed else 'u'}fixed<{t.bits}, {t.bits + exponent}>"


# -- layers --------------------------------------------------------------------------------------
class SievitLayer(Layer):
    """A layer whose C++ was written when the ONNX node was read.

    Attributes: ``header`` to include, ``config`` in front of the top, ``call`` with its variables'
    names still open, ``shape`` without batch, ``itype`` and ``lanes`` of the frames that leave,
    ``depth`` of their FIFO.
    """

    _expected_attributes: ClassVar = [
        Attribute(k, value_type=str) for k in ("header", "config", "call")
    ]

    def initialize(self) -> None:
        config = self.model.config
        if config.backend.name != "Vitis" or config.get_config_value("IOType") != "io_stream":
            raise UnsupportedError(
                self.name,
                f"backend {config.backend.name}, {config.get_config_value('IOType')}",
                'convert with backend="Vitis", io_type="io_stream"',
            )
        for i, name in enumerate(self.outputs):
            self.output(name, f"layer{self.index}_out" + (f"_{i}" if i else ""))

    def output(self, name: str, variable: str) -> None:
        beat = HLSBeat(IntType.parse(self.get_attr("itype")), self.get_attr("lanes"))
        depth = self.get_attr("depth")
        made = FrameVariable(self.get_attr("shape"), variable, beat, depth, self.index)
        self.set_attr(name, made)


class SievitLeaveFrames(SievitLayer):
    """The output is a stream of hls4ml."""

    def output(self, name: str, variable: str) -> None:
        precision = fixed(IntType.parse(self.get_attr("itype")), self.get_attr("exponent"))
        self.add_output_variable(self.get_attr("shape"), name, precision=precision)


class SievitFloatLayernorm(SievitLeaveFrames):
    pass


class SievitSoftmaxAttention(SievitLeaveFrames):
    pass


class ConfigTemplate(LayerConfigTemplate):
    def format(self, node: Any) -> str:
        return str(node.get_attr("config"))


class CallTemplate(FunctionCallTemplate):
    def transform(self, model: Any, node: Any) -> Any:
        self.include_header = [node.get_attr("header")]
        return super().transform(model, node)

    def format(self, node: Any) -> str:
        streams = [node.get_input_variable(i) for i in node.inputs]
        streams += [node.variables[o] for o in node.outputs]
        names = {f"s{i}": v.name for i, v in enumerate(streams)}
        types = {f"t{i}": v.type.name for i, v in enumerate(streams)}
        return str(node.get_attr("call")).format(**names, **types)


# -- ONNX nodes ----------------------------------------------------------------------------------
def layer(
    node: Any, shape: list[int], inputs: int, outputs: int, domain: str, **more: Any
) -> dict[str, Any]:
    """What hls4ml makes a layer of. ``shape``: of an output, with batch."""
    if node.domain != domain:
        raise UnsupportedError(
            node.name, f"operator {node.op_type} of domain {node.domain!r}", f"known: {domain}"
        )
    depth = next((int(m.value) for m in node.metadata_props if m.key == DEPTH), 0)
    return {
        "class_name": f"Sievit{node.op_type}",
        "name": identifier(node.name).strip("_"),
        "inputs": list(node.input[:inputs]),
        "outputs": list(node.output[:outputs]),
        "shape": shape[1:],
        "depth": depth,
        **more,
    }


def read_core(node: Any, names: list[str], shapes: list[list[int]], graph: Any) -> dict[str, Any]:
    """Handler of a core."""
    attributes = custom_op.read_attributes(node)
    streams = len(attributes["in_exponents"])
    values = {i.name: i for i in graph.initializer}
    constants = [
        numpy_helper.to_array(values[n]).copy()
        for n in node.input[streams + attributes["frames"] :]
    ]
    call = custom_op.core_call(node.op_type, attributes, constants)
    made = Node(node.name, call.stem, call.params, call.constants, tuple(node.input[:streams]))
    port = call.params.output()
    ends = [f"{{s{i}}}" for i in range(streams + 1)]
    return layer(
        node,
        shape_of(graph, node.output[0]),
        streams,
        1,
        custom_op.DOMAIN,
        header=f"sievit/cores/{call.stem}.hpp",
        config=cpp_config(config_struct(made), constant_arrays(made)),
        call=core_call(made, ends),
        itype=str(port.itype),
        lanes=port.lanes,
    )


def read_copy(node: Any, names: list[str], shapes: list[list[int]], graph: Any) -> dict[str, Any]:
    """Handler of what lies between cores and layers."""
    a = custom_op.read_attributes(node)
    t, lanes = IntType.parse(a["type"]), a["lanes"]
    ends = ", ".join(f"{{s{i}}}" for i in range(1 + len(node.output)))
    tokens = shapes[0][1] if len(shapes[0]) > 2 else 1
    shape = shape_of(graph, node.output[0])  # of the token alone, where one is taken out
    code = code_type(t, a.get("exponent", 0))
    call = {
        "EnterFrames": f"enter_frames<{code}, {tokens}, {lanes}>",
        "LeaveFrames": f"leave_frames<{code}, {tokens}, {lanes}>",
        "ForkFrames": "fork_frames",
        "ResizeFrames": "resize_frames",
    }[node.op_type]
    return layer(
        node,
        shape,
        1,
        len(node.output),
        hls4ml_ops.DOMAIN,
        header="sievit/nnet/frames.hpp",
        config="",
        call=f"sievit::{call}({ends});",
        itype=str(t),
        lanes=a.get("out_lanes", lanes),
        exponent=a.get("exponent", 0),
    )


def read_float(node: Any, names: list[str], shapes: list[list[int]], graph: Any) -> dict[str, Any]:
    """Handler of a layer norm or attention that is float in the model: streams of hls4ml on both
    ends."""
    a = custom_op.read_attributes(node)
    stem, name = snake(node.op_type), identifier(node.name)
    values = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    given = list(node.input)
    tables = [values[n] for n in given if n in values]
    constants, config = hls4ml_ops.cpp(node.op_type, a, tables, shape_of(graph, node.output[0]))
    streams = [n for n in given if n not in values]
    kinds = [k for k in ("in", "q", "k", "v", "out") if f"{k}_type" in a]
    codes = [code_type(IntType.parse(a[f"{k}_type"]), a[f"{k}_exponent"]) for k in kinds]
    ends = [f"{{s{i}}}" for i in range(len(streams) + 1)]
    ends += [f"weights::{name}_{k}" for k in constants]
    roms = "".join(rom(f"{name}_{k}", *table) for k, table in constants.items())
    return layer(
        node,
        shape_of(graph, node.output[0]),
        len(streams),
        1,
        hls4ml_ops.DOMAIN,
        header=f"sievit/nnet/{stem}.hpp",
        config=cpp_config(struct(name, f"{stem}_config", config), roms),
        call=f"sievit::{stem}<config::{name}, {', '.join(codes)}>({', '.join(ends)});",
        itype=a["out_type"],
        exponent=a["out_exponent"],
        lanes=0,
    )


def cpp_config(config: str, roms: str) -> str:
    """Parameters and constants of a layer, in the namespaces that the calls name."""
    return (
        f"namespace config {{\n{config}}}  // namespace config\n\n"
        f"namespace weights {{\n{roms}}}  // namespace weights\n"
    )


def snake(name: str) -> str:
    """``FloatLayernorm`` -> ``float_layernorm``."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def shape_of(graph: Any, tensor: str) -> list[int]:
    """Shape of an activation, batch included."""
    known = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}
    return [d.dim_value for d in known[tensor].type.tensor_type.shape.dim]


def read_linear(node: Any, names: list[str], shapes: list[list[int]], graph: Any) -> dict[str, Any]:
    """Handler of Linear: hls4ml's dense layer, or its pointwise convolution for tokens."""
    a = custom_op.read_attributes(node)
    values = {i.name: i for i in graph.initializer}
    weight, bias = (numpy_helper.to_array(values[n]).astype(np.float64) for n in node.input[1:])
    made = {
        "class_name": "Dense",
        "name": identifier(node.name),
        "inputs": [names[0]],
        "outputs": list(node.output),
        "weight_data": weight,
        "bias_data": bias,
        "n_in": len(weight),
        "n_out": len(bias),
    }
    for key in ("weight", "bias"):
        t = fixed(IntType.parse(a[f"{key}_type"]), a[f"{key}_exponent"])
        made[f"{key}_quantizer"] = QuantNodeQuantizer(t)
    if len(shapes[0]) == 3:
        made |= {
            "class_name": "Conv1D",
            "data_format": "channels_last",
            "weight_data": weight[None],
            "in_width": shapes[0][1],
            "out_width": shapes[0][1],
            "n_chan": len(weight),
            "n_filt": len(bias),
            "filt_width": 1,
            "stride_width": 1,
            "pad_left": 0,
            "pad_right": 0,
        }
    return made


# -- the model before hls4ml reads it ------------------------------------------------------------
def prepare(model: Any) -> Any:
    """A model that hls4ml can convert, of a ModelProto or ModelWrapper, which stays as it is.

    An exported network of sievit becomes frames and cores, unfolded (``to_qonnx`` takes a folded
    graph); in any other model the parts of a Vision Transformer that hls4ml lacks are replaced
    (``hls4ml_plain.rewrite``).

    Raises UnsupportedError for what neither has a layer for.
    """
    domains = {node.domain for node in model.graph.node}
    if custom_op.DOMAIN in domains and hls4ml_ops.DOMAIN not in domains:
        wrapper = ModelWrapper(getattr(model, "model", model), make_deepcopy=True)
        return to_qonnx(with_frames(lower(wrapper, model.graph.name or "network")))
    return rewrite(model, set(layer_handlers))


def parse(original: Any, model: Any) -> Any:
    """``parse_onnx_model`` of the prepared model, without constants that are part of a layer."""
    prepared = prepare(model)
    layers, inputs, outputs = original(getattr(prepared, "model", prepared))
    read = {i for made in layers for i in made.get("inputs", [])}
    kept = [v for v in layers if v["class_name"] != "Constant" or v["name"] in read]
    return kept, inputs, outputs


# -- files of a project --------------------------------------------------------------------------
def add_sources(model: Any) -> bool:
    """Copy the headers of the cores into a written project, and set the flags that they need.

    Beats are wider than ap_int allows by default; Vitis compiles C++11 unless told otherwise.
    """
    used = {v.get_attr("header") for v in model.get_layers() if isinstance(v, SievitLayer)}
    if not used:
        return False
    folder = Path(model.config.get_output_dir())
    target = folder / "firmware" / "sievit"
    shutil.rmtree(target, ignore_errors=True)
    for part in ("lib", "nnet"):
        (target / part).mkdir(parents=True)
        for path in sorted((HERE / part).glob("*.hpp")):
            shutil.copyfile(path, target / part / path.name)
    (target / "cores").mkdir()
    for header in sorted(h for h in used if h.startswith("sievit/cores/")):
        name = Path(header).name
        shutil.copyfile(HERE / "cores" / name, target / "cores" / name)
    for name, old, new in FLAGS:
        path = folder / name
        text = path.read_text()
        if old not in text:
            raise VersionError(hls4ml.__version__, f"{name} has no {old!r}")
        path.write_text(text.replace(old, new))
    model.config.backend.writer.write_tar(model)  # again: it was written without these
    return False


def merge_if_alone(match: Any, self: Any, node: Any) -> bool:
    """``MergeLinearActivation.match``, which merges a quantiser into the layer in front of it, only
    where nothing else reads that layer: other readers would get the quantised values."""
    if not match(self, node):
        return False
    parent = node.get_input_node()
    return len(parent.get_output_nodes()) == 1 and parent.outputs[0] not in node.model.outputs


def register() -> None:
    """Make everything known to hls4ml; once."""
    if "EnterFrames" in layer_handlers:
        return
    backend = get_backend("Vitis")
    readers = {camel(stem): read_core for stem in core_names()}
    readers |= dict.fromkeys(hls4ml_ops.COPIES, read_copy)
    readers |= dict.fromkeys(("FloatLayernorm", "SoftmaxAttention"), read_float)
    classes: list[Any] = []
    for op, reader in readers.items():
        name = f"Sievit{op}"
        made = globals().get(name) or type(name, (SievitLayer,), {"__module__": __name__})
        globals()[name] = made  # where hls4ml looks for it in a saved model
        classes.append(made)
        register_layer(name, made)
        register_onnx_layer_handler(op, reader)
    register_onnx_layer_handler("Linear", read_linear)
    backend.register_template(functools.partial(ConfigTemplate, classes))
    backend.register_template(functools.partial(CallTemplate, classes))
    backend.register_pass(
        "sievit_sources", ModelOptimizerPass("sievit_sources", add_sources), flow="vitis:write"
    )

    match = MergeLinearActivation.match

    def alone(self: Any, node: Any) -> bool:
        return merge_if_alone(match, self, node)

    MergeLinearActivation.match = alone
    # by its name: the attribute of the package is a function
    front: Any = importlib.import_module("hls4ml.converters.onnx_to_hls")
    front.parse_onnx_model = functools.partial(parse, front.parse_onnx_model)
    hls4ml.converters.parse_onnx_model = front.parse_onnx_model


register()
