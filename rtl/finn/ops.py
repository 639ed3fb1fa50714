# SPDX-License-Identifier: Apache-2.0
"""The cores, and the fork of a stream, as FINN operators: abstract, ``_rtl`` and ``_hls`` each.

Importing this module registers them in FINN's own domains, where its transformations find them:
``SievitNmMatmul``, ``SievitAttention``, ... and ``SievitFork``. A node carries every field of the
core's parameters as an attribute of that name (types as text such as ``int8``; ``pe`` and ``simd``
are ``PE`` and ``SIMD``, as FINN's folding files call them), the number of frames it is executed
for (``batch``), whether frames end in a package token (``package``), the node of our Graph
that it comes from (``origin``), and the names of its ``constants``, which are its last inputs.
Data are integers in float32, ``[batch, tokens, channels]``.

FINN's streams have neither tlast nor tuser: all frames are of ``max_tokens`` tokens, so the wrapper
of a core counts beats. A token selector therefore needs a fixed number of tokens (``topk``).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finn.custom_op.fpgadataflow import register_custom_op
from finn.custom_op.fpgadataflow.hls import register_custom_op as register_hls
from finn.custom_op.fpgadataflow.hlsbackend import HLSBackend
from finn.custom_op.fpgadataflow.hwcustomop import HWCustomOp
from finn.custom_op.fpgadataflow.rtl import register_custom_op as register_rtl
from finn.custom_op.fpgadataflow.rtlbackend import RTLBackend
from onnx import NodeProto
from qonnx.core.datatype import BaseDataType, DataType

from sievit.hls import codegen as hls_codegen
from sievit.hls import csim
from sievit.quant.cores.nm_matmul import NmMatmulParams, accumulator_type
from sievit.quant.graph import Node, UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.params import (
    CoreParams,
    Memory,
    Port,
    Resources,
    Stream,
    camel,
    core_names,
    load_core,
    pack,
)
from sievit.quant.sources import rtl_sources
from sievit.rtl import codegen

HERE = Path(__file__).resolve().parent
LIB = HERE.parent / "lib"
DOMAIN = "finn.custom_op.fpgadataflow"

#: fields of the parameters that FINN knows by another name
FINN_NAMES = {"simd": "SIMD", "pe": "PE"}


def data_type(t: IntType) -> BaseDataType:
    """FINN's name of an integer type. float32 carries its values: 24 bits at most."""
    if t.bits > 24:
        raise UnsupportedError(str(t), "FINN carries integers in float32", "use 24 bits at most")
    return DataType["BINARY" if str(t) == "uint1" else str(t).upper()]


def int_type(d: BaseDataType) -> IntType:
    """The integer type of that name in FINN."""
    return IntType(d.bitwidth(), bool(d.signed()))


class _Streams(HWCustomOp):
    """What FINN asks of every node, from its ports and the number of their tokens."""

    def ports(self) -> list[tuple[Port, int]]:
        """Input ports with the tokens of their frames."""
        raise NotImplementedError

    def outputs(self) -> list[tuple[Port, int]]:
        raise NotImplementedError

    def _port(self, side: list[tuple[Port, int]], ind: int) -> tuple[Port, int]:
        return side[ind]

    def _normal(self, side: list[tuple[Port, int]], ind: int) -> list[int]:
        port, tokens = side[ind]
        return [self.get_nodeattr("batch"), tokens, port.channels]

    def _folded(self, side: list[tuple[Port, int]], ind: int) -> tuple[int, ...]:
        port, tokens = side[ind]
        return (self.get_nodeattr("batch"), tokens, port.beats, port.lanes)

    def get_nodeattr_types(self) -> dict[str, Any]:
        return super().get_nodeattr_types() | {"batch": ("i", False, 1), "origin": ("s", False, "")}

    def get_normal_input_shape(self, ind: int = 0) -> list[int]:
        return self._normal(self.ports(), ind)

    def get_normal_output_shape(self, ind: int = 0) -> list[int]:
        return self._normal(self.outputs(), ind)

    def get_folded_input_shape(self, ind: int = 0) -> tuple[int, ...]:
        return self._folded(self.ports(), ind)

    def get_folded_output_shape(self, ind: int = 0) -> tuple[int, ...]:
        return self._folded(self.outputs(), ind)

    def get_input_datatype(self, ind: int = 0) -> BaseDataType:
        return data_type(self.ports()[ind][0].itype)

    def get_output_datatype(self, ind: int = 0) -> BaseDataType:
        return data_type(self.outputs()[ind][0].itype)

    def get_instream_width(self, ind: int = 0) -> int:
        if ind >= len(self.ports()):  # constants are no streams
            return 0
        port = self.ports()[ind][0]
        return port.lanes * port.itype.bits

    def get_outstream_width(self, ind: int = 0) -> int:
        port = self.outputs()[ind][0]
        return port.lanes * port.itype.bits

    def infer_node_datatype(self, model: Any) -> None:
        for ind, (port, _) in enumerate(self.ports()):
            found = model.get_tensor_datatype(self.onnx_node.input[ind])
            known = (
                found.is_integer() and found.bitwidth() <= 24
            )  # FINN marks what it has yet to see
            if known and found != data_type(port.itype):
                self.retype(model, ind, int_type(found))
        for ind, name in enumerate(self.onnx_node.output):
            model.set_tensor_datatype(name, self.get_output_datatype(ind))

    def retype(self, model: Any, ind: int, t: IntType) -> None:
        """Take another type on an input."""
        port = self.ports()[ind][0]
        raise UnsupportedError(
            self.onnx_node.name, f"{port.name} takes {port.itype}, not {t}", "convert again"
        )

    def verify_node(self) -> list[str]:
        return []

    def resources(self) -> Resources:
        return Resources()

    def lut_estimation(self, fpgapart: str) -> int:
        return round(self.resources().lut)

    def dsp_estimation(self, fpgapart: str) -> int:
        return round(self.resources().dsp)

    def bram_estimation(self, fpgapart: str) -> int:
        return round(2 * self.resources().bram36)  # FINN counts blocks of 18 Kbit

    def uram_estimation(self, fpgapart: str) -> int:
        return round(self.resources().uram)


class SievitCore(_Streams):
    """A core of the library; subclasses name it in ``STEM``."""

    STEM = ""

    def get_nodeattr_types(self) -> dict[str, Any]:
        out = super().get_nodeattr_types()
        for f in fields(load_core(self.STEM).params):
            default: Any = f.default
            kind = "s" if isinstance(default, IntType) else "i"
            value = str(default) if kind == "s" else int(default)
            out[FINN_NAMES.get(f.name, f.name)] = (kind, True, value)
        return out | {"package": ("i", False, 0), "constants": ("strings", False, [""])}

    def params(self) -> CoreParams:
        """The core's parameters as the attributes say."""
        core = load_core(self.STEM).params
        return core.from_dict(
            {f.name: self.get_nodeattr(FINN_NAMES.get(f.name, f.name)) for f in fields(core)}
        )

    def set_params(self, p: CoreParams) -> None:
        for name, value in p.to_dict().items():
            self.set_nodeattr(FINN_NAMES.get(name, name), value)

    def ports(self) -> list[tuple[Port, int]]:
        p = self.params()
        return [(port, p.max_tokens) for port in p.inputs()]

    def outputs(self) -> list[tuple[Port, int]]:
        p = self.params()
        return [(p.output(), frame_after(p, bool(self.get_nodeattr("package")))[0])]

    def constants(self, values: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The core's constants, given the value of every input by name."""
        names = [n for n in self.get_nodeattr("constants") if n]
        tensors = self.onnx_node.input[len(self.params().inputs()) :]
        return {
            n: torch.from_numpy(np.array(values[t])).round().long()
            for n, t in zip(names, tensors, strict=True)
        }

    def node(self, model: Any) -> Node:
        """The node as one of our Graph."""
        values = {i.name: model.get_initializer(i.name) for i in model.graph.initializer}
        return Node(self.onnx_node.name, self.STEM, self.params(), self.constants(values), ())

    def retype(self, model: Any, ind: int, t: IntType) -> None:
        p = self.params()
        if not isinstance(p, NmMatmulParams):
            return super().retype(model, ind, t)
        constants = self.node(model).constants
        acc = accumulator_type(constants["weight"], constants["bias"], t)
        self.set_params(replace(p, in_type=t, acc_type=acc))
        return None

    def get_exp_cycles(self) -> int:
        p = self.params()
        return p.cycles(p.max_tokens)

    def get_op_and_param_counts(self) -> dict[str, int]:
        p = self.params()
        return {"op_mac": p.macs(p.max_tokens)}

    def resources(self) -> Resources:
        return self.params().resources()

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        node, p = self.onnx_node, self.params()
        package = bool(self.get_nodeattr("package"))
        streams = []
        for port, name in zip(p.inputs(), node.input, strict=False):
            data = torch.from_numpy(np.array(context[name], dtype=np.float64))
            ints = port.itype.check(data.round().long(), f"{node.name} {port.name}")
            if bool((ints != data).any()):
                raise ValueError(f"{node.name}: {name} holds values that are no integers")
            full = Stream.full(ints)
            streams.append(Stream(full.data, full.length, full.package | package))
        y = load_core(self.STEM).golden(p, self.constants(context), *streams)
        tokens, _ = frame_after(p, package)
        if bool((y.length != tokens).any()):
            raise ValueError(f"{node.name}: frames of other than {tokens} tokens leave")
        context[node.output[0]] = y.data[:, :tokens].numpy().astype(np.float32)


def frame_after(p: CoreParams, package: bool) -> tuple[int, bool]:
    """(tokens, ends in a package token) of what leaves for a frame of ``max_tokens`` tokens.

    Raises UnsupportedError if that depends on the data.
    """
    if p.stem() != "token_select":
        return p.out_tokens(p.max_tokens), package
    topk: int = p.topk  # type: ignore[attr-defined]
    if not topk:
        raise UnsupportedError(
            "token_select",
            "the number of tokens depends on the image, and FINN's shapes are static",
            "use a recipe of fixed top-k, such as heatvit_nm_digits_topk",
        )
    candidates = p.max_tokens - 1 - package
    left = package or candidates > topk
    return 1 + min(candidates, topk) + left, left


class SievitFork(_Streams):
    """Copies a stream. FINN's own DuplicateStreams is HLS alone."""

    def get_nodeattr_types(self) -> dict[str, Any]:
        return super().get_nodeattr_types() | {
            "copies": ("i", True, 2),
            "tokens": ("i", True, 1),
            "channels": ("i", True, 1),
            "PE": ("i", True, 1),
            "data_type": ("s", True, "int8"),
        }

    def _side(self) -> tuple[Port, int]:
        t = IntType.parse(self.get_nodeattr("data_type"))
        port = Port("s_axis", self.get_nodeattr("channels"), self.get_nodeattr("PE"), t)
        return port, self.get_nodeattr("tokens")

    def ports(self) -> list[tuple[Port, int]]:
        return [self._side()]

    def outputs(self) -> list[tuple[Port, int]]:
        return [self._side()] * self.get_nodeattr("copies")

    def make_shape_compatible_op(self, model: Any) -> NodeProto:
        made = super().make_shape_compatible_op(model)
        made.output[:] = self.onnx_node.output
        return made

    def retype(self, model: Any, ind: int, t: IntType) -> None:
        self.set_nodeattr("data_type", str(t))

    def get_exp_cycles(self) -> int:
        port, tokens = self._side()
        return tokens * port.beats

    def resources(self) -> Resources:
        copies = self.get_nodeattr("copies")
        return Resources(lut=2 * copies, ff=copies)

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        for name in self.onnx_node.output:
            context[name] = context[self.onnx_node.input[0]]


class SievitRequantise(SievitCore):
    """Bias and requantisation of the accumulators of FINN's MVAU, half to even: ``residual_add``
    whose second addend is a constant per channel.

    FINN's own ways are a Thresholding, whose thresholds double with every bit, and floating point.
    """

    STEM = "residual_add"

    def ports(self) -> list[tuple[Port, int]]:
        return super().ports()[:1]

    def bias(self, values: dict[str, Any]) -> torch.Tensor:
        """int64 ``[channels]``."""
        return torch.from_numpy(np.array(values[self.onnx_node.input[1]])).round().long()

    def retype(self, model: Any, ind: int, t: IntType) -> None:
        self.set_params(replace(self.params(), a_type=t))  # type: ignore[call-arg]

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        p, node = self.params(), self.onnx_node
        data = torch.from_numpy(np.array(context[node.input[0]])).round().long()
        a, b = p.inputs()
        x = Stream.full(a.itype.check(data, f"{node.name} {a.name}"))
        bias = b.itype.check(self.bias(context), f"{node.name} bias")
        y = load_core(self.STEM).golden(p, {}, x, x.with_data(bias.expand_as(data)))
        context[node.output[0]] = y.data.numpy().astype(np.float32)


# -- RTL -----------------------------------------------------------------------------------------


class _Rtl(RTLBackend):
    """Verilog around a module of the library: FINN's port names, and frames counted."""

    def get_nodeattr_types(self) -> dict[str, Any]:
        return super().get_nodeattr_types() | {"gen_top_module": ("s", False, "")}

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        if self.get_nodeattr("exec_mode") != "rtlsim":
            return super(RTLBackend, self).execute_node(context, graph)  # type: ignore[misc]
        # FINN's takes every input for a stream: show it the streams alone
        node = NodeProto()
        node.CopyFrom(self.onnx_node)
        del node.input[len(self.ports()) :]
        shown = type(self)(node)
        RTLBackend.execute_node(shown, context, graph)
        self.set_nodeattr("cycles_rtlsim", shown.get_nodeattr("cycles_rtlsim"))
        return None

    def instance(self, model: Any, folder: Path) -> list[str]:
        """Lines of the wrapper's body; memory images go to the folder."""
        raise NotImplementedError

    def sources(self) -> list[Path]:
        raise NotImplementedError

    def generate_hdl(self, model: Any, fpgapart: str, clk: float) -> None:
        folder, top = Path(self.get_nodeattr("code_gen_dir_ipgen")), self.onnx_node.name
        names = self.get_verilog_top_module_intf_names()
        bus = [(n, w, True) for n, w in names["s_axis"]] + [
            (n, w, False) for n, w in names["m_axis"]
        ]
        info = "(* X_INTERFACE_PARAMETER = "
        every = ":".join(n for n, _, _ in bus)
        declared = [
            f'  {info}"ASSOCIATED_BUSIF {every}, ASSOCIATED_RESET ap_rst_n" *)',
            '  (* X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 ap_clk CLK" *)',
            "  input ap_clk,",
            f'  {info}"POLARITY ACTIVE_LOW" *)',
            "  input ap_rst_n,",
        ]
        for name, width, is_input in bus:
            to, back = ("input", "output") if is_input else ("output", "input")
            declared += [
                f"  {to} [{width - 1}:0] {name}_TDATA,",
                f"  {to} {name}_TVALID,",
                f"  {back} {name}_TREADY,",
            ]
        declared[-1] = declared[-1].rstrip(",")
        body = self.instance(model, folder)
        lines = ["// SPDX-License-Identifier: Apache-2.0", "", f"module {top} ("]
        text = "\n".join([*lines, *declared, ");", "", *body, "", "endmodule", ""])
        (folder / f"{top}.v").write_text(text)
        self.set_nodeattr("gen_top_module", top)
        self.set_nodeattr("ipgen_path", str(folder))
        self.set_nodeattr("ip_path", str(folder))

    def get_rtl_file_list(self, abspath: bool = False) -> list[str]:
        own = f"{self.get_nodeattr('gen_top_module')}.v"
        files = [LIB / "num_pkg.sv", *self.sources(), LIB / "axis_frame_end.sv"]
        if abspath:
            own = str(Path(self.get_nodeattr("code_gen_dir_ipgen")) / own)
        unique = dict.fromkeys(str(f) if abspath else f.name for f in files)
        return [*unique, own]

    def code_generation_ipi(self) -> list[str]:
        top, name = self.get_nodeattr("gen_top_module"), self.onnx_node.name
        return [
            *(f"add_files -norecurse {f}" for f in self.get_rtl_file_list(abspath=True)),
            f"create_bd_cell -type module -reference {top} {name}",
        ]


def _parameters(values: dict[str, int | str]) -> list[str]:
    return [
        f'      .{k}("{v}")' if isinstance(v, str) else f"      .{k}({v})"
        for k, v in values.items()
    ]


class _CoreRtl(_Rtl):
    def instance(self, model: Any, folder: Path) -> list[str]:
        node, package = self.node(model), self.get_nodeattr("package")
        parameters: dict[str, int | str] = dict(node.params.sv_parameters())
        if parameters.get("Pump", 1) != 1:
            raise UnsupportedError(node.name, "FINN gives a core one clock", "fold with pump = 1")
        for key, memory in node.params.images(node.constants).items():
            name = f"./{key}.hex"  # FINN makes these paths absolute
            for file, text in memory.files(name).items():
                (folder / file).write_text(text)
            parameters[f"{camel(key)}File"] = name
        lines, links = [], ["      .clk_i(ap_clk)", "      .rst_ni(ap_rst_n)"]
        for i, (port, tokens) in enumerate(self.ports()):
            bits = port.lanes * port.itype.bits
            passes = f"in{i}_V_TVALID && in{i}_V_TREADY"
            lines += [
                f"  wire in{i}_last;",
                f"  axis_frame_end #(\n      .Beats({tokens * port.beats})\n  ) u_end{i} (",
                "      .clk_i(ap_clk),\n      .rst_ni(ap_rst_n),",
                f"      .beat_i({passes}),\n      .last_o(in{i}_last)\n  );",
                "",
            ]
            links += [
                f"      .{port.name}_tdata(in{i}_V_TDATA[{bits - 1}:0])",
                f"      .{port.name}_tvalid(in{i}_V_TVALID)",
                f"      .{port.name}_tready(in{i}_V_TREADY)",
                f"      .{port.name}_tlast(in{i}_last)",
                f"      .{port.name}_tuser(in{i}_last && 1'b{package})",
            ]
        more, more_links = self.extra(model, folder)
        lines, links = lines + more, links + more_links
        bits = self.get_outstream_width(0)
        links += [
            "      .m_axis_tdata(out_data)",
            "      .m_axis_tvalid(out0_V_TVALID)",
            "      .m_axis_tready(out0_V_TREADY)",
            "      .m_axis_tlast()",
            "      .m_axis_tuser()",
            *codegen.ties(parameters),
        ]
        return [
            *lines,
            f"  wire [{bits - 1}:0] out_data;",
            "  assign out0_V_TDATA = out_data;",
            "",
            f"  {self.STEM} #(",
            ",\n".join(_parameters(parameters)),
            "  ) u_core (",
            ",\n".join(links),
            "  );",
        ]

    def extra(self, model: Any, folder: Path) -> tuple[list[str], list[str]]:
        """Further lines of the body, and links of the core."""
        return [], []

    def sources(self) -> list[Path]:
        return rtl_sources(self.STEM)


class _RequantiseRtl(_CoreRtl):
    def node(self, model: Any) -> Node:
        return Node(self.onnx_node.name, self.STEM, self.params(), {}, ())

    def extra(self, model: Any, folder: Path) -> tuple[list[str], list[str]]:
        p = self.params()
        port = p.inputs()[1]
        bits = port.lanes * port.itype.bits
        bias = self.bias({self.onnx_node.input[1]: model.get_initializer(self.onnx_node.input[1])})
        image = Memory(bits, pack(bias.reshape(-1, port.lanes), port.itype))
        for file, text in image.files("./bias.hex").items():
            (folder / file).write_text(text)
        lines = [
            f"  wire [{bits - 1}:0] bias;",
            "  wire bias_ready, bias_last;",
            "  constant_stream #(",
            f"      .DataBits({bits}),\n      .Words({port.beats}),",
            f'      .Frame({p.max_tokens * port.beats}),\n      .File("./bias.hex")',
            "  ) u_bias (",
            "      .clk_i(ap_clk),\n      .rst_ni(ap_rst_n),",
            "      .tdata_o(bias),\n      .tready_i(bias_ready),\n      .tlast_o(bias_last)\n  );",
            "",
        ]
        links = [
            f"      .{port.name}_tdata(bias)",
            f"      .{port.name}_tvalid(1'b1)",
            f"      .{port.name}_tready(bias_ready)",
            f"      .{port.name}_tlast(bias_last)",
            f"      .{port.name}_tuser(1'b0)",
        ]
        return lines, links

    def sources(self) -> list[Path]:
        return [*super().sources(), LIB / "constant_stream.sv"]


class _ForkRtl(_Rtl):
    def instance(self, model: Any, folder: Path) -> list[str]:
        copies, bits = self.get_nodeattr("copies"), self.get_instream_width(0)
        lines = [f"  wire [{copies * bits - 1}:0] copy;"]
        for i in range(copies):
            lines.append(f"  assign out{i}_V_TDATA = copy[{i * bits}+:{bits}];")
        each = [[f"out{i}_V_{s}" for i in reversed(range(copies))] for s in ("TVALID", "TREADY")]
        valid, ready = (", ".join(names) for names in each)
        return [
            *lines,
            "",
            f"  axis_fork #(\n      .NumOut({copies}),\n      .DataBits({bits})\n  ) u_fork (",
            "      .clk_i(ap_clk),\n      .rst_ni(ap_rst_n),",
            f"      .s_axis_tdata(in0_V_TDATA[{bits - 1}:0]),",
            "      .s_axis_tvalid(in0_V_TVALID),\n      .s_axis_tready(in0_V_TREADY),",
            "      .s_axis_tlast(1'b0),\n      .s_axis_tuser(1'b0),",
            f"      .m_axis_tdata(copy),\n      .m_axis_tvalid({{{valid}}}),",
            f"      .m_axis_tready({{{ready}}}),",
            "      .m_axis_tlast(),\n      .m_axis_tuser()\n  );",
        ]

    def sources(self) -> list[Path]:
        return [LIB / "axis_fork.sv"]


# -- HLS -----------------------------------------------------------------------------------------


class _Hls(HLSBackend):
    """C++ around the HLS core. Nothing here runs a vendor tool: FINN's HLSSynthIP does, where Vitis
    is installed; ``cppsim`` compiles the core with g++ (``sievit.hls.csim``)."""

    def global_includes(self) -> None: ...

    def defines(self, var: str) -> None: ...

    def docompute(self) -> None: ...

    def blackboxfunction(self) -> None: ...

    def pragmas(self) -> None: ...

    def body(self, model: Any, folder: Path) -> tuple[list[str], list[str]]:
        """(includes, statements of the top); what is included goes to the folder."""
        raise NotImplementedError

    def code_generation_ipgen(self, model: Any, fpgapart: str, clk: float) -> None:
        folder, top = Path(self.get_nodeattr("code_gen_dir_ipgen")), self.onnx_node.name
        includes, body = self.body(model, folder)
        names = [(f"in{i}_V", self.get_instream_width(i)) for i in range(len(self.ports()))]
        names += [(f"out{i}_V", self.get_outstream_width(i)) for i in range(len(self.outputs()))]
        bus = [(n, (w + 7) // 8 * 8) for n, w in names]
        text = [
            "// SPDX-License-Identifier: Apache-2.0",
            *(f'#include "{name}"' for name in includes),
            "",
            f"void {top}({', '.join(f'hls::stream<ap_uint<{w}>>& {n}' for n, w in bus)}) {{",
            "#pragma HLS INTERFACE ap_ctrl_none port=return",
            *(f"#pragma HLS INTERFACE axis port={n}" for n, _ in bus),
            "#pragma HLS DATAFLOW disable_start_propagation",
            *body,
            "}",
            "",
        ]
        (folder / f"top_{top}.cpp").write_text("\n".join(text))
        (folder / f"hls_syn_{top}.tcl").write_text(_tcl(top, folder, fpgapart, clk))


def _tcl(top: str, folder: Path, fpgapart: str, clk: float) -> str:
    """As FINN's own script, in C++17 and without FINN's HLS libraries."""
    return f"""# SPDX-License-Identifier: Apache-2.0
open_project project_{top}
add_files {folder}/top_{top}.cpp -cflags "-std=c++17 -DSIEVIT_VITIS"
set_top {top}
open_solution sol1
set_part {fpgapart}
config_interface -m_axi_addr64
config_rtl -module_auto_prefix -deadlock_detection none
create_clock -period {clk} -name default
csynth_design
export_design -format ip_catalog
exit 0
"""


class _CoreHls(_Hls):
    def body(self, model: Any, folder: Path) -> tuple[list[str], list[str]]:
        node, package = self.node(model), self.get_nodeattr("package")
        units = hls_codegen.write_nodes([node], folder)
        shutil.copyfile(HERE / "finn_stream.hpp", folder / "lib" / "finn_stream.hpp")
        lines, calls = [], []
        for i, (port, tokens) in enumerate(self.ports()):
            bits, beats = port.lanes * port.itype.bits, tokens * port.beats
            lines.append(f"  hls::stream<sievit::beat<{bits}>> in{i};")
            calls.append(f"  sievit::mark_frame<{beats}>(in{i}_V, in{i}, {package});")
        bits, (port, tokens) = self.get_outstream_width(0), self.outputs()[0]
        lines.append(f"  hls::stream<sievit::beat<{bits}>> out;")
        reads = ", ".join(f"in{i}" for i in range(len(self.ports())))
        calls.append(f"  node_{hls_codegen.identifier(node.name)}({reads}, out);")
        calls.append(f"  sievit::drop_marks<{tokens * port.beats}>(out, out0_V);")
        return ["lib/finn_stream.hpp", *units], [*lines, *calls]

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        if self.get_nodeattr("exec_mode") != "cppsim":
            return super(HLSBackend, self).execute_node(context, graph)  # type: ignore[misc]
        node, p, package = self.onnx_node, self.params(), bool(self.get_nodeattr("package"))
        streams = []
        for name in node.input[: len(self.ports())]:
            full = Stream.full(torch.from_numpy(np.array(context[name])).round().long())
            streams.append(Stream(full.data, full.length, full.package | package))
        with tempfile.TemporaryDirectory() as folder:
            y = csim.run_core(self.STEM, p, self.constants(context), streams, Path(folder))
        context[node.output[0]] = y.data.numpy().astype(np.float32)
        return None


class _RequantiseHls(_CoreHls):
    def body(self, model: Any, folder: Path) -> tuple[list[str], list[str]]:
        p, name = self.params(), self.onnx_node.input[1]
        a, b = p.inputs()
        node = Node(self.onnx_node.name, self.STEM, p, {}, ())
        units = hls_codegen.write_nodes([node], folder)
        shutil.copyfile(HERE / "finn_stream.hpp", folder / "lib" / "finn_stream.hpp")
        bias = self.bias({name: model.get_initializer(name)}).reshape(-1, b.lanes)
        words = ", ".join(f'"{word:x}"' for word in pack(bias, b.itype))
        bits, wide, out = (q.lanes * q.itype.bits for q in (a, b, p.output()))
        frame = p.max_tokens * a.beats
        return ["lib/finn_stream.hpp", *units], [
            f"  static const ap_uint<{wide}> bias[{b.beats}] = {{{words}}};",
            f"  hls::stream<sievit::beat<{bits}>> in0;",
            f"  hls::stream<sievit::beat<{wide}>> in1;",
            f"  hls::stream<sievit::beat<{out}>> out;",
            f"  sievit::mark_frame<{frame}>(in0_V, in0, 0);",
            f"  sievit::repeat<{frame}, {b.beats}>(bias, in1);",
            f"  node_{hls_codegen.identifier(node.name)}(in0, in1, out);",
            f"  sievit::drop_marks<{frame}>(out, out0_V);",
        ]

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        SievitRequantise.execute_node(self, context, graph)


class _ForkHls(_Hls):
    def body(self, model: Any, folder: Path) -> tuple[list[str], list[str]]:
        (folder / "lib").mkdir(exist_ok=True)
        for name in ("axis.hpp", "rounding.hpp"):
            shutil.copyfile(hls_codegen.HERE / "lib" / name, folder / "lib" / name)
        shutil.copyfile(HERE / "finn_stream.hpp", folder / "lib" / "finn_stream.hpp")
        port, tokens = self.ports()[0]
        outs = ", ".join(f"out{i}_V" for i in range(self.get_nodeattr("copies")))
        return ["lib/finn_stream.hpp"], [f"  sievit::copy<{tokens * port.beats}>(in0_V, {outs});"]

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        SievitFork.execute_node(self, context, graph)


# -- registration --------------------------------------------------------------------------------


def _register(name: str, base: type[_Streams], rtl: type[_Rtl], hls: type[_Hls]) -> None:
    register_custom_op(base)
    register_rtl(type(f"{name}_rtl", (rtl, base), {}))
    register_hls(type(f"{name}_hls", (hls, base), {}))


def op_name(stem: str) -> str:
    """``nm_matmul`` -> ``SievitNmMatmul``."""
    return f"Sievit{camel(stem)}"


for _stem in core_names():
    _name = op_name(_stem)
    _register(_name, type(_name, (SievitCore,), {"STEM": _stem}), _CoreRtl, _CoreHls)
_register("SievitRequantise", SievitRequantise, _RequantiseRtl, _RequantiseHls)
_register("SievitFork", SievitFork, _ForkRtl, _ForkHls)
