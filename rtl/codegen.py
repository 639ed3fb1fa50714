# SPDX-License-Identifier: Apache-2.0
"""Graph -> one SystemVerilog module of instances and wires, and its memory images.

Every edge is a bundle of wires named after the node that drives it (``<node>_tdata`` ...). Several
consumers hang on an ``axis_fork``; in front of an input stand an ``axis_width`` where lanes differ
and an ``axis_fifo`` where the node asks for one. The memory files are named relative to the folder
of the module: simulators and synthesis run there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path

from sievit.quant.graph import Graph, Loop, Node
from sievit.quant.params import Port, camel

SIGNALS = ("tdata", "tvalid", "tready", "tlast", "tuser")
#: words of IEEE 1800 that could pass as the name of a network
KEYWORDS = frozenset(
    """accept_on alias always and assert assign assume automatic before begin bind bins bit break
    buf byte case cell chandle checker class clocking cmos config const constraint context continue
    cover cross deassign default design disable dist do edge else end enum event eventually expect
    export extends extern final first_match for force foreach forever fork forkjoin function
    generate genvar global highz0 highz1 if iff implements implies import inside initial inout
    input instance int integer interconnect interface intersect join large let liblist library
    local logic longint macromodule matches medium modport module nand negedge nettype new nexttime
    nmos nor not null or output package packed parameter pmos posedge primitive priority program
    property protected pull0 pull1 pulldown pullup pure rand randc randcase real realtime ref reg
    release repeat restrict return rnmos rpmos rtran scalared sequence shortint shortreal signed
    small soft solve specify static string strong strong0 strong1 struct super supply0 supply1
    table tagged task this throughout time timeprecision timeunit tran tri tri0 tri1 triand trior
    trireg type typedef union unique unsigned until untyped use uwire var vectored virtual void
    wait wand weak weak0 weak1 while wildcard wire with within wor xnor xor""".split()
)
#: cores that read their memory images by way of ``rtl/lib/memory.svh``
SHARED = ("attention", "layernorm", "nm_matmul")


@dataclass(frozen=True)
class _Bundle:
    """Wires of one stream: ``<name>_tdata`` ..., or slice ``index`` of the outputs of a fork."""

    name: str
    lanes: int
    bits: int
    index: int | None = None

    @property
    def width(self) -> int:
        return self.lanes * self.bits

    def wire(self, signal: str) -> str:
        if self.index is None:
            return f"{self.name}_{signal}"
        if signal == "tdata":
            return f"{self.name}_tdata[{self.index * self.width}+:{self.width}]"
        return f"{self.name}_{signal}[{self.index}]"


class _Literal(str):
    """The value of a parameter as SystemVerilog writes it."""


def _packed(values: Sequence[int]) -> _Literal:
    """A packed array of 32-bit words, the first value the least significant one."""
    return _Literal("{" + ", ".join(f"32'd{v}" for v in reversed(values)) + "}")


class _Module:
    """Text of the module under construction."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def wires(self, bundle: _Bundle, copies: int = 1) -> _Bundle:
        """Declare the wires of a bundle, ``copies`` side by side."""
        one = "" if copies == 1 else f"[{copies - 1}:0] "
        self.lines.append(f"  wire [{copies * bundle.width - 1}:0] {bundle.name}_tdata;")
        self.lines += [f"  wire {one}{bundle.name}_{s};" for s in SIGNALS[1:]]
        return bundle

    def instance(
        self,
        module: str,
        name: str,
        parameters: dict[str, int | str],
        ports: Sequence[tuple[str, _Bundle | Sequence[_Bundle]]],
    ) -> None:
        """Instantiate ``module`` with its stream ports (prefix, wires), or vectors of them."""
        values = [
            f'      .{k}("{v}")'
            if isinstance(v, str) and not isinstance(v, _Literal)
            else f"      .{k}({v})"
            for k, v in parameters.items()
        ]
        links = ["      .clk_i", "      .rst_ni"]
        for prefix, bundle in ports:
            for s in SIGNALS:
                if isinstance(bundle, _Bundle):
                    links.append(f"      .{prefix}_{s}({bundle.wire(s)})")
                else:
                    wires = ", ".join(b.wire(s) for b in reversed(bundle))
                    links.append(f"      .{prefix}_{s}({{{wires}}})")
        links += ties(parameters)
        head = f"  {module} #(\n" + ",\n".join(values) + f"\n  ) {name} (" if values else (
            f"  {module} {name} ("
        )  # fmt: skip
        self.lines += [head, ",\n".join(links), "  );", ""]


def ties(parameters: Mapping[str, int | str]) -> list[str]:
    """Connections of the ``clk2x_i`` of a core that has one, and of the ``s_axis_set`` of a core
    that no layers share."""
    links = []
    if "Pump" in parameters:
        links = ["      .clk2x_i" + ("(1'b0)" if parameters["Pump"] == 1 else "")]
    if parameters.get("Sets") != 1:
        return links
    values = {"tdata": "1'b0", "tvalid": "1'b1", "tready": "", "tlast": "1'b1", "tuser": "1'b0"}
    return links + [
        f"      {'/* verilator lint_off PINCONNECTEMPTY */ ' * (s == 'tready')}"
        f".s_axis_set_{s}({v}){' /* verilator lint_on PINCONNECTEMPTY */' * (s == 'tready')}"
        for s, v in values.items()
    ]


def pumped(graph: Graph) -> bool:
    """The module has a port ``clk2x_i`` for DSP blocks at twice the clock."""
    return any(getattr(node.params, "pump", 1) > 1 for node in graph.nodes)


def generate(graph: Graph, folder: Path) -> Path:
    """Write ``<graph.name>.sv`` and ``mem/*.hex`` into ``folder``; the same graph gives the same
    bytes."""
    graph.check()
    if graph.name in KEYWORDS:
        raise ValueError(f"codegen: {graph.name!r} is a word of SystemVerilog; rename the graph")
    for name in [graph.name, *graph.edges()]:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("s_axis", "m_axis"):
            raise ValueError(f"codegen: {name!r} cannot name a wire; use lower_snake_case")
    (folder / "mem").mkdir(parents=True, exist_ok=True)
    module = _Module()
    source = _port_bundle(graph.input, "s_axis")
    output = graph.output.name
    for edge in graph.edges()[1:]:
        module.wires(_edge_bundle(graph, edge))
    module.lines.append("")

    # what each (edge, n-th consumer) reads from
    taps: dict[tuple[str, int], _Bundle] = {}
    for edge in graph.edges():
        bundle = source if edge == Graph.INPUT else _edge_bundle(graph, edge)
        # loops and the graph's output port are consumers too
        count = len(graph.consumers(edge)) + (edge == output)
        count += sum(edge in (*loop.entries, loop.back) for loop in graph.loops)
        if count == 0:
            raise ValueError(f"codegen: nobody reads edge {edge!r}; remove the node")
        if count == 1:
            taps[edge, 0] = bundle
            continue
        fork = replace(bundle, name=f"{edge}_fork")
        module.wires(fork, copies=count)
        module.instance(
            "axis_fork",
            f"u_{edge}_fork",
            {"NumOut": count, "DataBits": bundle.width},
            [("s_axis", bundle), ("m_axis", fork)],
        )
        for i in range(count):
            taps[edge, i] = replace(fork, index=i)

    def reads(edge: str) -> _Bundle:
        """What the next consumer of an edge reads from."""
        return taps.pop((edge, min(i for e, i in taps if e == edge)))

    for loop in graph.loops:
        _write_loop(module, graph, loop, reads)
    for node in graph.nodes:
        ports = node.params.inputs()
        depths = node.depths or (0,) * len(ports)
        links = []
        for i, (edge, port, depth) in enumerate(zip(node.inputs, ports, depths, strict=True)):
            burst = graph.burst(edge, port, depth)
            source = _fifo(module, f"{node.name}_in{i}_burst", reads(edge), burst)
            bundle = _adapt(module, f"{node.name}_in{i}", source, port, depth)
            links.append((port.name, bundle))
        links.append((node.params.output().name, _edge_bundle(graph, node.name)))
        parameters: dict[str, int | str] = dict(node.params.sv_parameters())
        parameters |= _write_memories(graph.name, node, folder)
        module.instance(node.core, f"u_{node.name}", parameters, links)

    end = reads(output)
    for signal in ("tdata", "tvalid", "tlast", "tuser"):
        module.lines.append(f"  assign m_axis_{signal} = {end.wire(signal)};")
    module.lines += [f"  assign {end.wire('tready')} = m_axis_tready;", "", "endmodule", ""]

    path = folder / f"{graph.name}.sv"
    path.write_text(_header(graph) + "\n".join(module.lines))
    return path


def _write_loop(module: _Module, graph: Graph, loop: Loop, reads: Callable[[str], _Bundle]) -> None:
    port = graph.port_of(loop.name)
    module.instance(
        "layer_loop",
        f"u_{loop.name}",
        {
            "DataBits": port.lanes * port.itype.bits,
            "Passes": loop.passes,
            "Segments": len(loop.starts),
            "Starts": _packed(loop.starts),
            "InFlight": loop.in_flight,
            "Depth": loop.depth,
            "EntryDepths": _packed(loop.entry_depths),
        },
        [
            (
                "s_axis",
                [
                    _adapt(module, f"{loop.name}_in{i}", reads(edge), port, 0)
                    for i, edge in enumerate(loop.entries)
                ],
            ),
            ("s_axis_back", reads(loop.back)),
            ("m_axis_body", _edge_bundle(graph, loop.name)),
            ("m_axis_set", _edge_bundle(graph, loop.set)),
            ("m_axis", [_edge_bundle(graph, edge) for edge in loop.exits]),
        ],
    )


def taps(graph: Graph) -> list[tuple[str, str, Port]]:
    """(edge, prefix of its wires, port) of every edge.

    A beat counts where its producer hands it over, in front of any fork.
    """
    edges = [(Graph.INPUT, "s_axis", graph.input)]
    return edges + [(edge, edge, graph.port_of(edge)) for edge in graph.edges()[1:]]


def bind_taps(graph: Graph) -> str:
    """SystemVerilog that puts an ``axis_tap`` on every edge and a ``fifo_mark`` on every FIFO, none
    of them a part of the design."""
    lines = ["// SPDX-License-Identifier: Apache-2.0", ""]
    for edge, prefix, port in taps(graph):
        links = "".join(f",\n    .{s}({prefix}_{s})" for s in SIGNALS)
        lines += [
            f"bind {graph.name} axis_tap #(",
            f"    .DataBits({port.lanes * port.itype.bits})",
            f") u_tap_{edge} (\n    .clk_i,\n    .rst_ni{links}\n);",
            "",
        ]
    if any(depth for node in graph.nodes for depth in node.depths):
        lines += [
            "bind axis_fifo fifo_mark #(\n    .CountBits(AddrBits + 1)",
            ") u_mark (\n    .clk_i,\n    .rst_ni,\n    .count_q\n);\n",
        ]
    return "\n".join(lines)


def output_port(graph: Graph) -> Port:
    """The ``m_axis`` port of the generated module."""
    return replace(graph.output.params.output(), name="m_axis")


def _port_bundle(port: Port, name: str) -> _Bundle:
    return _Bundle(name, port.lanes, port.itype.bits)


def _edge_bundle(graph: Graph, edge: str) -> _Bundle:
    return _port_bundle(graph.port_of(edge), edge)


def _header(graph: Graph) -> str:
    lines = ["// SPDX-License-Identifier: Apache-2.0", "", f"module {graph.name} ("]
    ports = ["    input  wire clk_i", "    input  wire rst_ni"]
    ports += ["    input  wire clk2x_i"] if pumped(graph) else []
    for port, name, to, back in (
        (graph.input, "s_axis", "input  wire", "output wire"),
        (output_port(graph), "m_axis", "output wire", "input  wire"),
    ):
        ports.append(f"    {to} [{port.lanes * port.itype.bits - 1}:0] {name}_tdata")
        ports.append(f"    {to} {name}_tvalid")
        ports.append(f"    {back} {name}_tready")
        ports += [f"    {to} {name}_tlast", f"    {to} {name}_tuser"]
    return "\n".join([*lines, ",\n".join(ports), ");", "", ""])


def _adapt(module: _Module, name: str, bundle: _Bundle, port: Port, depth: int) -> _Bundle:
    """Width converters and FIFO between an edge and an input port."""
    widths = [port.lanes]
    common = lcm(bundle.lanes, port.lanes)  # divides the channels, as both do
    if common not in (bundle.lanes, port.lanes):
        widths = [common, port.lanes]  # by way of fewer lanes it would lose rate
    for i, lanes in enumerate(widths):
        if bundle.lanes == lanes:
            continue
        wide = module.wires(_Bundle(f"{name}_width{i}", lanes, bundle.bits))
        module.instance(
            "axis_width",
            f"u_{name}_width{i}",
            {"LaneBits": bundle.bits, "InLanes": bundle.lanes, "OutLanes": lanes},
            [("s_axis", bundle), ("m_axis", wide)],
        )
        bundle = wide
    return _fifo(module, f"{name}_fifo", bundle, depth)


def _fifo(module: _Module, name: str, bundle: _Bundle, depth: int) -> _Bundle:
    if depth == 0:
        return bundle
    fifo = module.wires(_Bundle(name, bundle.lanes, bundle.bits))
    module.instance(
        "axis_fifo",
        f"u_{name}",
        {"DataBits": bundle.width, "Depth": depth},
        [("s_axis", bundle), ("m_axis", fifo)],
    )
    return fifo


def _write_memories(top: str, node: Node, folder: Path) -> dict[str, str]:
    """Write the memory images of a node; returns the file-name parameters."""
    out = {}
    for key, memory in node.params.images(node.constants).items():
        name = f"mem/{top}.u_{node.name}.{key}.hex"
        for file, text in memory.files(name).items():
            (folder / file).write_text(text)
        out[f"{camel(key)}File"] = name
    return out


def share_code(graph: Graph, folder: Path, instance: str = "") -> str:
    """The module that ``generate`` wrote into ``folder``, with names of memory images that depend
    on the instance (``%m``), so that large instances of one shape share the code of a simulator;
    see ``rtl/lib/memory.svh``.

    A slice of an image is read in the block ``gen_<name>[<number>]``, whose path ``%m`` is there:
    its file gets a link of that name. ``instance``: where the module stands, if it is not the top.
    """
    source = (folder / f"{graph.name}.sv").read_text()
    for node in graph.nodes:
        if node.core not in SHARED:
            continue
        path = f"mem/{graph.name}.u_{node.name}."
        # settings are read inside a block, where %m is another name
        source = re.sub(f'"{re.escape(path)}(?!settings)', '"mem/%m.', source)
        for file in (folder / "mem").glob(f"{graph.name}.u_{node.name}.*.hex[0-9a-f]"):
            if not file.is_symlink():
                prefix, key, kind = file.name.rsplit(".", 2)
                link = file.with_name(f"{prefix}.gen_{key}[{int(kind[-1], 16)}].{key}.{kind}")
                link.unlink(missing_ok=True)
                link.symlink_to(file.name)
        for file in (folder / "mem").glob(f"{graph.name}.u_{node.name}.*") if instance else ():
            link = file.with_name(instance + file.name.removeprefix(graph.name))
            link.unlink(missing_ok=True)
            link.symlink_to(file.name)
    return source
