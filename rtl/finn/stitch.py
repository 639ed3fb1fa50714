# SPDX-License-Identifier: Apache-2.0
"""FINN graph -> one SystemVerilog module of instances and wires, without Vivado; its simulation.

Ports are those of FINN's stitched IP (``ap_clk``, ``ap_rst_n``, ``s_axis_0_*``, ``m_axis_0_*``). An
MVAU is two instances, the compute unit and the memory that streams its weights. Every node must
have been through FINN's PrepareIP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finn.transformation.fpgadataflow.prepare_ip import PrepareIP
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.registry import getCustomOp

from sievit.quant.itype import IntType
from sievit.quant.params import Port, Stream
from sievit.rtl import codegen
from sievit.rtl.finn.ops import int_type
from sievit.sim import finn_rtlsim, runner
from sievit.sim.runner import RtlResult, Run

#: inputs and outputs of an AXI-Lite port that nothing writes to; memories have the PROT, too
AXILITE_IN = (
    "AWVALID",
    "AWADDR",
    "WVALID",
    "WDATA",
    "WSTRB",
    "BREADY",
    "ARVALID",
    "ARADDR",
    "RREADY",
)
AXILITE_PROT = ("AWPROT", "ARPROT")
AXILITE_OUT = ("AWREADY", "WREADY", "BVALID", "BRESP", "ARREADY", "RVALID", "RRESP", "RDATA")


def generate_ip(model: ModelWrapper, part: str, clock_mhz: float) -> ModelWrapper:
    """FINN's PrepareIP: Verilog and memory images of every node."""
    return model.transform(PrepareIP(part, 1000 / clock_mhz))


def streams(op: Any) -> tuple[list[tuple[str, int, str]], list[tuple[str, int, str]]]:
    """(port, bits of its TDATA, tensor) of the inputs and of the outputs of a node."""
    node = op.onnx_node
    dynamic = 1 if node.op_type.startswith("MVAU") else len(node.input)
    ins = [
        (f"in{i}_V", op.get_instream_width_padded(i), t)
        for i, t in enumerate(node.input[:dynamic])
        if op.get_instream_width(i)
    ]
    outs = [(f"out{i}_V", op.get_outstream_width_padded(i), t) for i, t in enumerate(node.output)]
    return ins, outs


def stitch(model: ModelWrapper, name: str, folder: Path) -> tuple[Path, list[Path]]:
    """Write ``<name>.sv`` into the folder; returns it and the sources of the nodes."""
    folder.mkdir(parents=True, exist_ok=True)
    wires: dict[str, str] = {}
    declared: list[str] = []
    body: list[str] = []
    sources: dict[Path, None] = {}

    def wire(tensor: str, bits: int) -> str:
        if tensor not in wires:
            wires[tensor] = f"s{len(wires)}"
            stem = wires[tensor]
            declared.append(f"  wire [{bits - 1}:0] {stem}_tdata;  // {tensor}")
            declared.append(f"  wire {stem}_tvalid, {stem}_tready;")
        return wires[tensor]

    source, sink = model.graph.input[0].name, model.graph.output[0].name
    ends: dict[str, int] = {}
    for node in model.graph.node:
        op = getCustomOp(node)
        ins, outs = streams(op)
        links = [".ap_clk", ".ap_rst_n"]
        for port, bits, tensor in (*ins, *outs):
            stem = wire(tensor, bits)
            links += [
                f".{port}_T{s.upper()[1:]}({stem}_{s})" for s in ("tdata", "tvalid", "tready")
            ]
            ends |= {tensor: bits} if tensor in (source, sink) else {}
        if node.op_type.startswith("MVAU"):
            stem, bits = f"{node.name}_w", op.get_instream_width_padded(1)
            declared.append(f"  wire [{bits - 1}:0] {stem}_tdata;")
            declared.append(f"  wire {stem}_tvalid, {stem}_tready;")
            links.append(".ap_clk2x(ap_clk)")
            links += [f".in1_V_T{s.upper()[1:]}({stem}_{s})" for s in ("tdata", "tvalid", "tready")]
            memory = [".ap_clk", ".ap_clk2x(ap_clk)", ".ap_rst_n", ".s_axis_0_tvalid(1'b0)"]
            memory += [".s_axis_0_tdata('0)", ".s_axis_0_tready()", *_axilite(*AXILITE_PROT)]
            memory += [f".m_axis_0_{s}({stem}_{s})" for s in ("tdata", "tvalid", "tready")]
            body += _instance(f"{node.name}_memstream_wrapper", f"u_{node.name}_weights", memory)
        elif node.op_type.startswith("Thresholding"):
            links += [".in1_V_TVALID(1'b0)", ".in1_V_TDATA('0)", ".in1_V_TREADY()", *_axilite()]
        elif node.op_type.startswith("StreamingFIFO"):
            links += [".count()", ".maxcount()"]
        body += _instance(op.get_nodeattr("gen_top_module"), f"u_{node.name}", links)
        if getattr(op, "STEM", "") in codegen.SHARED:
            sources |= dict.fromkeys(share_code(op, folder, f"tb_{name}.dut.u_{node.name}.u_core"))
        else:
            sources |= dict.fromkeys(finn_rtlsim.node_sources(op, folder))
    head = ["// SPDX-License-Identifier: Apache-2.0", "", f"module {name} ("]
    ports = ["    input  wire ap_clk", "    input  wire ap_rst_n"]
    joins = []
    for prefix, tensor, to, back in (
        ("s_axis_0", source, "input  wire", "output wire"),
        ("m_axis_0", sink, "output wire", "input  wire"),
    ):
        ports += [f"    {to} [{ends[tensor] - 1}:0] {prefix}_tdata", f"    {to} {prefix}_tvalid"]
        ports.append(f"    {back} {prefix}_tready")
        for s in ("tdata", "tvalid", "tready"):
            inner, outer = f"{wires[tensor]}_{s}", f"{prefix}_{s}"
            inward = (prefix == "s_axis_0") != (s == "tready")
            joins.append(
                f"  assign {inner} = {outer};" if inward else f"  assign {outer} = {inner};"
            )
    text = [*head, ",\n".join(ports), ");", "", *declared, "", *joins, "", *body, "endmodule", ""]
    path = folder / f"{name}.sv"
    runner.write_text(path, "\n".join(text))
    return path, list(sources)


def share_code(op: Any, folder: Path, path: str) -> list[Path]:
    """Sources of a node of ours for a simulation in which the core has this path: the names of its
    memory images depend on the instance, so that cores of one shape are compiled once; see
    ``sievit.rtl.codegen.share_code``."""
    code, top = Path(op.get_nodeattr("code_gen_dir_ipgen")), op.get_nodeattr("gen_top_module")
    text = (code / f"{top}.v").read_text()
    (folder / "mem").mkdir(parents=True, exist_ok=True)
    for file in code.glob("*.hex*"):
        key, digit = file.stem, file.suffix.removeprefix(".hex")
        text = text.replace(f'"./{key}.hex"', f'"mem/%m.{key}.hex"')
        block = f".gen_{key}[{int(digit, 16)}]" if digit else ""
        link = folder / "mem" / f"{path}{block}.{file.name}"
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
    runner.write_text(folder / f"{top}.v", text)
    files = [Path(f) for f in op.get_rtl_file_list(abspath=True)]
    return [*(f for f in files if f.suffix == ".sv"), folder / f"{top}.v"]


def _axilite(*more: str) -> list[str]:
    ties = [f".s_axilite_{s}('0)" for s in (*AXILITE_IN, *more)]
    return [*ties, *(f".s_axilite_{s}()" for s in AXILITE_OUT)]


def _instance(module: str, name: str, links: list[str]) -> list[str]:
    return [f"  {module} {name} (", ",\n".join(f"      {link}" for link in links), "  );", ""]


# -- simulation ----------------------------------------------------------------------------------


def end_ports(model: ModelWrapper) -> tuple[Port, int, Port, int]:
    """(input port, its tokens, output port, its tokens) of a stitched graph."""
    first = getCustomOp(model.find_consumer(model.graph.input[0].name))
    last = getCustomOp(model.find_producer(model.graph.output[0].name))
    found: list[Any] = []
    for name, normal, folded, datatype in (
        ("s_axis", first.get_normal_input_shape(0), first.get_folded_input_shape(0),
         first.get_input_datatype(0)),
        ("m_axis", last.get_normal_output_shape(0), last.get_folded_output_shape(0),
         last.get_output_datatype(0)),
    ):  # fmt: skip
        t: IntType = int_type(datatype)
        found += [Port(name, int(normal[-1]), int(folded[-1]), t), int(normal[-2])]
    return found[0], found[1], found[2], found[3]


def bench(model: ModelWrapper, name: str) -> str:
    """Text of ``tb_<name>``: the module behind the ports of our bench, and a mark on every FIFO."""
    source, _, sink, tokens = end_ports(model)
    ports = ["    input  logic clk_i", "    input  logic rst_ni"]
    for port, to, back in ((source, "input  logic", "output logic"),
                           (sink, "output logic", "input  logic")):  # fmt: skip
        bits = port.lanes * port.itype.bits
        ports += [f"    {to} [{bits - 1}:0] {port.name}_tdata", f"    {to} {port.name}_tvalid"]
        ports += [f"    {back} {port.name}_tready", f"    {to} {port.name}_tlast"]
        ports.append(f"    {to} {port.name}_tuser")
    width = -(-sink.lanes * sink.itype.bits // 8) * 8
    wide = -(-source.lanes * source.itype.bits // 8) * 8
    lines = [
        "// SPDX-License-Identifier: Apache-2.0", "",
        f"module tb_{name} (", ",\n".join(ports), ");", "",
        f"  logic [{width - 1}:0] out;",
        f"  assign m_axis_tdata = out[{sink.lanes * sink.itype.bits - 1}:0];",
        "  assign m_axis_tuser = 1'b0;",
        f"  axis_frame_end #(.Beats({tokens * sink.beats})) u_end (",
        "      .clk_i, .rst_ni, .beat_i(m_axis_tvalid && m_axis_tready), .last_o(m_axis_tlast)",
        "  );",
        f"  {name} dut (",
        "      .ap_clk(clk_i), .ap_rst_n(rst_ni),",
        f"      .s_axis_0_tdata({wide}'(s_axis_tdata)), .s_axis_0_tvalid(s_axis_tvalid),",
        "      .s_axis_0_tready(s_axis_tready),",
        "      .m_axis_0_tdata(out), .m_axis_0_tvalid(m_axis_tvalid),",
        "      .m_axis_0_tready(m_axis_tready)",
        "  );",
        "",
    ]  # fmt: skip
    for node in model.graph.node:
        if node.op_type.startswith("StreamingFIFO"):
            unit = f"dut.u_{node.name}"
            lines += [
                f"  stream_mark u_{node.name} (",
                "      .clk_i, .rst_ni,",
                f"      .in_i({unit}.in0_V_TVALID && {unit}.in0_V_TREADY),",
                f"      .out_i({unit}.out0_V_TVALID && {unit}.out0_V_TREADY)",
                "  );",
            ]
    return "\n".join([*lines, "", "endmodule", ""])


def compile_top(model: ModelWrapper, name: str, folder: Path) -> None:
    """Stitch the graph and compile its simulation, unless that has been done."""
    top, sources = stitch(model, name, folder)
    tb = folder / f"tb_{name}.sv"
    runner.write_text(tb, bench(model, name))
    own = runner.RTL / "lib", runner.RTL / "cores"  # the simulator finds those itself
    files = [f for f in sources if f.parent not in own]
    runner.build(f"tb_{name}", [*files, top, tb], {}, folder, flags=FLAGS, optimise="-O0")


def simulate(
    model: ModelWrapper, name: str, folder: Path, x: Stream, stalls: Sequence[str], seed: int
) -> tuple[list[RtlResult], dict[str, int]]:
    """One run of the stitched graph for every stall profile, and the most beats that each FIFO held
    over all of them, by node. Raises SimulationError if a run gets stuck or breaks a rule."""
    compile_top(model, name, folder)
    source, _, sink, _ = end_ports(model)
    runs = [Run([x], stall, seed) for stall in stalls]
    log: list[str] = []
    results = runner.simulate_batch(
        folder, f"tb_{name}", [source], sink, runs, watchdog=WATCHDOG, log=log
    )
    lines = re.findall(r"^STREAM \w+\.u_(\w+) (\d+)$", "".join(log), re.M)
    return results, {node: int(most) for node, most in lines}


#: FINN's sources have warnings of their own
FLAGS = [
    "-Wno-lint", "-Wno-style", "-Wno-fatal", "--no-timing",
    *(f"-D{name}" for name in finn_rtlsim.DEFINES),
]  # fmt: skip

#: cycles without a beat after which a simulation is given up
WATCHDOG = 50_000

# -- FIFO depths ---------------------------------------------------------------------------------


def depths(model: ModelWrapper, held: dict[str, int]) -> dict[tuple[str, int], int]:
    """(node, input) -> beats of the FIFO in front of it, for the beats that its FIFO held."""
    found = {}
    for node in model.graph.node:
        if node.op_type.startswith("StreamingFIFO"):
            reader = model.find_consumer(node.output[0])
            if reader is not None:
                found[reader.name, list(reader.input).index(node.output[0])] = held[node.name]
    return found
