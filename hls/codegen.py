# SPDX-License-Identifier: Apache-2.0
"""Write a Graph as a Vitis HLS project.

::

    src/<top>.cpp, .hpp   top: one DATAFLOW region, a call processes one frame
    src/nodes.hpp         one function per node ...
    src/nodes_<i>.cpp     ... in a few translation units
    src/config.hpp        one parameter struct per node
    src/weights.hpp       constant arrays
    cores/, lib/          the cores that the graph uses, and their library
    tb/main.cpp           test bench; tb/input.bin, tb/golden.bin: frames and what must come out
    hls_config.cfg        for v++ and vitis-run
    run_hls.tcl           for vitis_hls

All paths are relative to the folder, and the same graph gives the same bytes.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sievit.hls.frames import write_frames
from sievit.quant.execute import execute
from sievit.quant.graph import Graph, Loop, Node, UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.params import Port, Stream

HERE = Path(__file__).resolve().parent

#: nodes per translation unit: compilers work side by side, a change compiles little again
NODES_PER_UNIT = 16

#: steps of run_hls.tcl
STEPS = ("csim", "csynth", "cosim", "export")

LICENCE = "// SPDX-License-Identifier: Apache-2.0\n"


def identifier(name: str) -> str:
    """C++ identifier of a node or graph name."""
    return re.sub(r"\W", "_", name)


def generate(
    graph: Graph, folder: Path, board: Any, frames: Stream | None = None, seed: int = 1
) -> None:
    """Write the project of a graph for a board.

    Args:
        board: mapping or dataclass with ``name``, ``part`` and ``clock_mhz``.
        frames: input of the test bench; four random frames if omitted.
    """
    graph.check()
    _check_names(graph)
    if frames is None:
        rng = torch.Generator().manual_seed(seed)
        t = graph.input.itype
        shape = (4, graph.input_tokens, graph.input.channels)
        frames = Stream.full(torch.randint(t.min, t.max + 1, shape, generator=rng))
    top = identifier(graph.name)
    units = write_nodes(graph.nodes, folder)
    (folder / "src" / f"{top}.hpp").write_text(_top_header(graph, top))
    (folder / "src" / f"{top}.cpp").write_text(_top_source(graph, top))
    tb = folder / "tb"
    tb.mkdir(exist_ok=True)
    (tb / "main.cpp").write_text(_test_bench(graph, top))
    write_frames(tb / "input.bin", frames, graph.input)
    golden = execute(graph, frames)[graph.output.name]
    write_frames(tb / "golden.bin", golden, graph.output.params.output())
    sources = [f"src/{top}.cpp", *units]
    values = _board(board)
    (folder / "hls_config.cfg").write_text(_config_file(top, sources, values))
    (folder / "run_hls.tcl").write_text(_tcl(top, sources, values))


def write_nodes(nodes: list[Node], folder: Path) -> list[str]:
    """Write everything but top and test bench; return the sources, relative to the folder."""
    src = folder / "src"
    for part in (src, folder / "lib", folder / "cores"):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    for path in sorted([*(HERE / "lib").glob("*.hpp"), *(HERE / "top").glob("*.hpp")]):
        shutil.copyfile(path, folder / "lib" / path.name)
    stems = sorted({node.core for node in nodes})
    for stem in stems:
        shutil.copyfile(HERE / "cores" / f"{stem}.hpp", folder / "cores" / f"{stem}.hpp")

    includes = "".join(f'#include "../cores/{stem}.hpp"\n' for stem in stems)
    (src / "config.hpp").write_text(
        f"{LICENCE}/// Parameters of every node.\n#pragma once\n\n{includes}\n"
        + "namespace config {\n\n"
        + "\n".join(config_struct(node) for node in nodes)
        + "\n}  // namespace config\n"
    )
    (src / "weights.hpp").write_text(
        f"{LICENCE}/// Constants of every node.\n#pragma once\n\n"
        '#include "../lib/rounding.hpp"\n\nnamespace weights {\n\n'
        + "".join(constant_arrays(node) for node in nodes)
        + "}  // namespace weights\n"
    )
    (src / "nodes.hpp").write_text(
        f'{LICENCE}/// One function per node.\n#pragma once\n\n#include "../lib/axis.hpp"\n\n'
        + "".join(f"{_signature(node)};\n" for node in nodes)
    )
    # interleaved: nodes of all kinds, and so about the same time, in every unit
    count = max(1, -(-len(nodes) // NODES_PER_UNIT))
    units = []
    for i in range(count):
        units.append(f"src/nodes_{i}.cpp")
        body = "\n".join(_definition(node) for node in nodes[i::count])
        (folder / units[-1]).write_text(
            f'{LICENCE}#include "nodes.hpp"\n\n'
            f'#include "config.hpp"\n#include "weights.hpp"\n\n{body}'
        )
    return units


def beat(port: Port) -> str:
    """C++ type of a beat of the port."""
    return f"sievit::beat<{port.lanes * port.itype.bits}>"


def format_of(port: Port) -> str:
    """C++ ``format`` of the port."""
    return f"{{{port.channels}, {port.lanes}, {port.itype.bits}}}"


def _check_names(graph: Graph) -> None:
    seen: dict[str, str] = {identifier(Graph.INPUT): Graph.INPUT}
    for node in graph.nodes:
        name = identifier(node.name)
        if name in seen:
            raise UnsupportedError(
                node.name, f"and {seen[name]!r} are both {name} in C++", "rename"
            )
        seen[name] = node.name
        looped = any(node.name in (*loop.entries, loop.back) for loop in graph.loops)
        if node is not graph.output and not looped and not graph.consumers(node.name):
            raise UnsupportedError(node.name, "nothing reads its output", "remove the node")


def _board(board: Any) -> Mapping[str, Any]:
    values = board if isinstance(board, Mapping) else vars(board)
    return {key: values[key] for key in ("name", "part", "clock_mhz")}


def config_struct(node: Node) -> str:
    """C++ struct of a node's parameters."""
    return struct(identifier(node.name), f"{node.core}_config", node.params.flat())


def struct(name: str, base: str, values: Mapping[str, int]) -> str:
    """C++ struct of constants on top of the defaults in ``sievit::base``."""
    lines = [f"struct {name} : sievit::{base} {{"]
    for key, value in values.items():
        kind = "int" if -(1 << 31) <= value < 1 << 31 else "long long"
        lines.append(f"  static constexpr {kind} {key} = {value};")
    return "\n".join([*lines, "};\n"])


def constant_arrays(node: Node) -> str:
    """C++ definitions of a node's constants."""
    tables = node.params.tables(node.constants)
    return "".join(rom(f"{identifier(node.name)}_{k}", *table) for k, table in tables.items())


def rom(name: str, t: IntType, values: Tensor) -> str:
    """C++ definition of a constant array, int64 of any shape. Raises OverflowError if ``t`` is too
    small."""
    shape = "".join(f"[{d}]" for d in t.check(values, name).shape)
    kind = f"sievit::rom<{t.bits}, {int(t.signed)}>"
    return f"static const {kind} {name}{shape} = {_initialiser(values, t)};\n\n"


def _initialiser(values: Tensor, t: IntType) -> str:
    suffix = "LL" if t.bits > 31 else ""

    def rows(x: list[Any], depth: int) -> str:
        if x and isinstance(x[0], list):
            return "{" + (",\n " if depth == 0 else ", ").join(rows(r, depth + 1) for r in x) + "}"
        return "{" + ", ".join(f"{v}{suffix}" for v in x) + "}"

    return rows(values.tolist(), 0)


def _signature(node: Node) -> str:
    ports = [*node.params.inputs(), node.params.output()]
    streams = ", ".join(f"hls::stream<{beat(port)}>& {port.name}" for port in ports)
    return f"void node_{identifier(node.name)}({streams})"


def _definition(node: Node) -> str:
    streams = [port.name for port in (*node.params.inputs(), node.params.output())]
    return f"{_signature(node)} {{\n  {core_call(node, streams)}\n}}\n"


def core_call(node: Node, streams: Sequence[str]) -> str:
    """C++ call of a node's core: ``streams`` names those of its inputs, then that of its output."""
    name = identifier(node.name)
    arguments = [*streams, *(f"weights::{name}_{k}" for k in node.params.tables(node.constants))]
    return f"sievit::{node.core}<config::{name}>({', '.join(arguments)});"


def _port_stream(port: Port) -> str:
    bits = port.lanes * port.itype.bits
    return f"hls::stream<sievit::port_beat<sievit::port_bits({bits})>>"


def _top_signature(graph: Graph, top: str) -> str:
    out = graph.output.params.output()
    return f"void {top}({_port_stream(graph.input)}& s_axis, {_port_stream(out)}& m_axis)"


def _top_header(graph: Graph, top: str) -> str:
    return (
        f'{LICENCE}#pragma once\n\n#include "../lib/axis.hpp"\n\n'
        f"/// Accelerator of the graph {graph.name}: one frame per call.\n"
        f"{_top_signature(graph, top)};\n"
    )


@dataclass(frozen=True)
class _Sink:
    """What reads an edge: a port of that name at a node or loop, behind a FIFO of ``depth``."""

    key: tuple[str, int]
    name: str
    lanes: int
    depth: int


class _Region:
    """Streams and calls of one DATAFLOW region, in order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.streams: list[str] = []
        self.calls: list[str] = []
        #: (node or loop, input) -> stream that it reads
        self.sources: dict[tuple[str, int], str] = {}

    def stream(self, name: str, bits: int, depth: int, reason: str) -> str:
        self.streams += [
            f'  hls::stream<sievit::beat<{bits}>> {name}("{name}");',
            f"#pragma HLS STREAM variable={name} depth={max(2, depth)}  // {reason}",
        ]
        return name

    def call(self, text: str) -> None:
        self.calls.append(f"  {text};")

    def tap(self, edge: str, name: str, port: Port) -> None:
        t = port.itype
        self.calls.append(
            f'  SIEVIT_TAP({edge}, "{name}", '
            f"{port.channels}, {port.lanes}, {t.bits}, {int(t.signed)})"
        )

    def node(self, node: Node) -> None:
        """Call a node whose inputs have been entered."""
        reads = ", ".join(self.sources[node.name, k] for k in range(len(node.inputs)))
        self.enter(node.name, f"node_{identifier(node.name)}({reads}, {{}})")

    def enter(self, edge: str, call: str) -> None:
        """Put the call that fills an edge in front of what distributes it."""
        at, port = len(self.calls), self.graph.port_of(edge)
        sinks = self._sinks(edge)
        if sinks:
            target = self._distribute(edge, port, sinks)
        else:  # the region sends it on itself
            bits = port.lanes * port.itype.bits
            target = self.stream(f"e_{identifier(edge)}", bits, 2, "smallest")
            self.tap(target, identifier(edge), port)
        self.calls.insert(at, f"  {call.format(target)};")

    def _sinks(self, edge: str) -> list[_Sink]:
        out = []
        for node, k in self.graph.consumers(edge):
            port = node.params.inputs()[k]
            depth = node.depths[k] if k < len(node.depths) else 0
            name = f"{identifier(node.name)}_{port.name}"
            out.append(_Sink((node.name, k), name, port.lanes, depth))
        for loop in self.graph.loops:
            lanes = self.graph.port_of(loop.name).lanes
            for k, entry in enumerate(loop.entries):
                if entry == edge:
                    name = f"{identifier(loop.name)}_in{k}"
                    out.append(_Sink((loop.name, k), name, lanes, loop.entry_depths[k]))
        return out

    def _distribute(self, edge: str, port: Port, sinks: list[_Sink]) -> str:
        """Declare the streams from an edge to its consumers; return the stream to write."""
        name, bits = identifier(edge), port.lanes * port.itype.bits
        ends: list[str] = []

        def deep(i: int) -> tuple[int, str]:
            """Depth of the stream to sink ``i``, where no width conversion comes in between."""
            if sinks[i].lanes != port.lanes:
                return 2, "in front of a width conversion"
            depth = sinks[i].depth
            return depth, "FIFO of the consumer" if depth > 2 else "smallest"

        if len(sinks) == 1:
            ends.append(self.stream(f"e_{name}", bits, *deep(0)))
            first = ends[0]
            self.tap(first, name, port)
        else:
            first = rest = self.stream(f"e_{name}", bits, 2, "smallest")
            self.tap(first, name, port)
            for i in range(len(sinks) - 1):
                ends.append(self.stream(f"e{i}_{name}", bits, *deep(i)))
                if i == len(sinks) - 2:
                    onward = self.stream(f"e{i + 1}_{name}", bits, *deep(i + 1))
                else:
                    onward = self.stream(f"r{i + 1}_{name}", bits, 2, "smallest")
                self.call(f"sievit::fork({rest}, {ends[-1]}, {onward})")
                rest = onward
            ends.append(rest)
        for sink, end in zip(sinks, ends, strict=True):
            lanes = math.lcm(port.lanes, sink.lanes)
            reason = "FIFO of the consumer" if sink.depth > 2 else "smallest"
            if port.lanes != lanes:
                bits = lanes * port.itype.bits
                if lanes == sink.lanes:
                    wide = self.stream(f"w_{sink.name}", bits, sink.depth, reason)
                else:
                    wide = self.stream(f"x_{sink.name}", bits, 2, "in front of a width conversion")
                self.call(f"sievit::widen({end}, {wide})")
                end = wide
            if sink.lanes != lanes:
                bits = sink.lanes * port.itype.bits
                slim = self.stream(f"w_{sink.name}", bits, sink.depth, reason)
                self.call(f"sievit::narrow({end}, {slim})")
                end = slim
            self.sources[sink.key] = end
        return first


def _top_source(graph: Graph, top: str) -> str:
    inside = {
        name: loop
        for loop in graph.loops
        for nodes in (loop.nodes, *(d.nodes for d in loop.detours))
        for name in nodes
    }
    loops = [_loop_source(graph, loop) for loop in graph.loops]
    wires = _Region(graph)
    wires.enter(Graph.INPUT, "sievit::from_port(s_axis, {})")
    for node in graph.nodes:
        loop = inside.get(node.name)
        if loop is None:
            wires.node(node)
        elif node.name == loop.back:
            wires.enter(loop.out, f"{_loop_name(loop)}({wires.sources[loop.name, 0]}, {{}})")
    wires.call(f"sievit::to_port(e_{identifier(graph.output.name)}, m_axis)")

    return "\n".join(
        [
            f'{LICENCE}#include "{top}.hpp"\n',
            *(['#include "../lib/layer_loop.hpp"'] if loops else []),
            '#include "nodes.hpp"\n',
            "#ifdef SIEVIT_TAPS",
            '#include "../lib/frames.hpp"',
            "#define SIEVIT_TAP(edge, file, channels, lanes, bits, is_signed) \\",
            "  sievit::tap(edge, file, {channels, lanes, bits}, is_signed);",
            "#else",
            "#define SIEVIT_TAP(edge, file, channels, lanes, bits, is_signed)",
            "#endif\n",
            *loops,
            f"{_top_signature(graph, top)} {{",
            "#pragma HLS INTERFACE mode=axis port=s_axis  // patch tokens of a frame",
            "#pragma HLS INTERFACE mode=axis port=m_axis  // the frame that leaves",
            "#pragma HLS INTERFACE mode=s_axilite port=return  // start, done, auto-restart",
            "#pragma HLS DATAFLOW  // every node is a process of its own",
            *wires.streams,
            "",
            *wires.calls,
            "}\n",
        ]
    )


def _loop_name(loop: Loop) -> str:
    return f"loop_{identifier(loop.name)}"


def _loop_source(graph: Graph, loop: Loop) -> str:
    """A function that sends one frame through the nodes of a loop, pass after pass. C++ has one
    frame under way; the RTL has several."""
    port = graph.port_of(loop.name)
    frame = graph.max_tokens(loop.name) * port.beats
    kind = f"hls::stream<{beat(port)}>&"
    name = _loop_name(loop)

    def function(head: str, wires: _Region) -> list[str]:
        """A DATAFLOW region of its own."""
        return [
            f"static void {head} {{",
            "#pragma HLS DATAFLOW  // every node is a process of its own",
            *wires.streams,
            "",
            *wires.calls,
            "}\n",
        ]

    parts, passing = [], []
    for k, detour in enumerate(loop.detours, 1):
        wires = _Region(graph)
        wires.enter(detour.edge, "sievit::move_frame(from, {})")
        for node in detour.nodes:
            wires.node(graph.node(node))
        wires.call(f"sievit::move_frame({wires.sources[loop.name, k]}, to)")
        call = f"detour_{identifier(detour.edge)}"
        parts += function(f"{call}({kind} from, {kind} to)", wires)
        passing += [
            f"    if (pass == {detour.before}) {{",
            f"      {call}(from, to);",
            "      sievit::move_frame(to, from);",
            "    }",
        ]
    wires = _Region(graph)
    wires.enter(loop.name, "sievit::move_frame(from, {})")
    wires.enter(loop.set, "sievit::write_number(pass, {})")
    for node in loop.nodes:
        wires.node(graph.node(node))
    wires.call(f"sievit::move_frame(e_{identifier(loop.back)}, to)")
    parts += function(f"pass_{identifier(loop.name)}({kind} from, {kind} to, int pass)", wires)
    frames = [
        line
        for end in ("from", "to")
        for line in (
            f'  hls::stream<{beat(port)}> {end}("{end}");',
            f"#pragma HLS STREAM variable={end} depth={frame}  // a frame",
        )
    ]
    return "\n".join(
        [
            *parts,
            f"static void {name}({kind} in, {kind} out) {{",
            *frames,
            "  sievit::move_frame(in, from);",
            "passes:",
            f"  for (int pass = 0; pass < {loop.passes}; pass++) {{",
            *passing,
            f"    pass_{identifier(loop.name)}(from, to, pass);",
            f"    if (pass < {loop.passes - 1}) sievit::move_frame(to, from);",
            "  }",
            "  sievit::move_frame(to, out);",
            "}\n",
        ]
    )


def _test_bench(graph: Graph, top: str) -> str:
    source, sink = graph.input, graph.output.params.output()
    return f"""{LICENCE}/// Test bench of {top}: feed the frames of a file and write what leaves.
///
///     sim [INPUT OUTPUT [TAPS]]
///
/// TAPS is a folder for the frames of every edge; it takes a design compiled with -DSIEVIT_TAPS.
/// Without arguments input.bin is fed and the result compared with golden.bin: see the exit status.
#include "../src/{top}.hpp"

#include <iterator>

#include "../lib/frames.hpp"

int main(int argc, char** argv) {{
  const bool self_check = argc < 3;
  const std::string input = self_check ? "input.bin" : argv[1];
  const std::string output = self_check ? "output.bin" : argv[2];
  if (argc > 3) sievit::tap_folder() = argv[3];
  const sievit::format source = {format_of(source)}, sink = {format_of(sink)};
  std::ifstream in = sievit::open_input(input);
  std::ofstream out = sievit::open_output(output);
  {_port_stream(source)} s_axis("s_axis");
  {_port_stream(sink)} m_axis("m_axis");
  int frames = 0;
  while (sievit::read_frame(in, source, s_axis)) {{
    {top}(s_axis, m_axis);
    if (!s_axis.empty()) {{
      std::cerr << "frame " << frames << ": input is left over\\n";
      return 1;
    }}
    if (!sievit::write_frame(out, sink, {int(sink.itype.signed)}, m_axis, false)) return 1;
    frames++;
  }}
  out.close();
  if (!self_check) return 0;
  std::ifstream got = sievit::open_input(output), want = sievit::open_input("golden.bin");
  typedef std::istreambuf_iterator<char> bytes;
  const bool equal = std::string(bytes(got), bytes()) == std::string(bytes(want), bytes());
  std::cout << frames << " frames " << (equal ? "equal" : "differ from") << " golden.bin\\n";
  return equal ? 0 : 1;
}}
"""


def _period(clock_mhz: float) -> str:
    return f"{1000 / clock_mhz:.3f}"


def _config_file(top: str, sources: list[str], board: Mapping[str, Any]) -> str:
    lines = [
        f"# {top} for {board['name']}",
        "# v++ -c --mode hls --config hls_config.cfg --work_dir build_hls",
        "# vitis-run --mode hls --csim --config hls_config.cfg --work_dir build_hls",
        "# vitis-run --mode hls --cosim --config hls_config.cfg --work_dir build_hls",
        "# vitis-run --mode hls --package --config hls_config.cfg --work_dir build_hls",
        f"part={board['part']}",
        "",
        "[hls]",
        "flow_target=vivado",
        f"clock={_period(board['clock_mhz'])}ns",
        "clock_uncertainty=15%",
        f"syn.top={top}",
        *(f"syn.file={source}" for source in sources),
        "syn.cflags=-std=c++17 -DSIEVIT_VITIS",
        *(f"tb.file=tb/{name}" for name in ("main.cpp", "input.bin", "golden.bin")),
        "tb.cflags=-std=c++17 -DSIEVIT_VITIS",
        "package.output.format=ip_catalog",
    ]
    return "\n".join(lines) + "\n"


def _tcl(top: str, sources: list[str], board: Mapping[str, Any]) -> str:
    files = "\n".join(f"add_files -cflags $flags [file join $here {source}]" for source in sources)
    return f"""# SPDX-License-Identifier: Apache-2.0
# {top} for {board["name"]}: vitis_hls -f run_hls.tcl [-tclargs STEP ...]
# STEP: {" ".join(STEPS)}; all of them if none is named. Reports and IP are left in build_hls.
set here [file dirname [file normalize [info script]]]
set steps {{}}
foreach argument $argv {{
  if {{$argument in {{{" ".join(STEPS)}}}}} {{ lappend steps $argument }}
}}
if {{[llength $steps] == 0}} {{ set steps {{{" ".join(STEPS)}}} }}
set flags "-std=c++17 -DSIEVIT_VITIS"

cd $here
open_project -reset build_hls
set_top {top}
{files}
foreach name {{main.cpp input.bin golden.bin}} {{
  add_files -tb -cflags $flags [file join $here tb $name]
}}
open_solution -reset sol1 -flow_target vivado
set_part {board["part"]}
create_clock -period {_period(board["clock_mhz"])} -name default
set_clock_uncertainty 15%
foreach step $steps {{
  switch $step {{
    csim {{ csim_design }}
    csynth {{ csynth_design }}
    cosim {{ cosim_design }}
    export {{ export_design -format ip_catalog }}
  }}
}}
exit
"""
