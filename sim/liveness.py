# SPDX-License-Identifier: Apache-2.0
"""Random small networks with the least FIFO depths, under random stalls: no frame may get stuck.

``python -m sievit.sim.liveness --frames 10000 --seed 1`` draws graphs over all cores, simulates
each under every stall profile and compares every edge with the golden functions. A graph that gets
stuck is ended by the watchdog. What is done is kept in a file; the same call goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

from sievit.quant import fold
from sievit.quant.cores.nm_matmul import NmMatmulParams, accumulator_type
from sievit.quant.execute import execute, first_difference
from sievit.quant.files import write_atomic
from sievit.quant.graph import Graph, Node
from sievit.quant.itype import IntType
from sievit.quant.params import (
    CoreParams,
    Port,
    Stream,
    core_names,
    divisors,
    load_core,
    random_frames,
)
from sievit.sim import bench, runner
from sievit.sim.harness import build_root

MAX_NODES = 9
#: widest token and widest element of an edge that more cores may follow
MAX_CHANNELS, MAX_BITS = 16, 12
GROUPS_OF = (1, 2, 4, 8, 16)

T = TypeVar("T")


class LivenessError(AssertionError):
    """A random graph got ``stuck`` or computed something else; the message says which."""

    stuck = False


# -- draw a graph --------------------------------------------------------------------------------


class _Draw:
    """A graph under construction."""

    def __init__(self, rng: torch.Generator) -> None:
        self.rng = rng
        self.nodes: list[Node] = []
        channels = self.pick((2, 3, 4, 6, 8, 12))
        lanes = self.pick(divisors(channels))
        self.input = Port("s_axis", channels, lanes, self.type(3, 8))
        self.tokens = self.pick((1, 3, 4, 5, 6, 7, 8, 9))

    def pick(self, values: Sequence[T]) -> T:
        return values[int(torch.randint(0, len(values), (1,), generator=self.rng))]

    def coin(self) -> bool:
        return self.pick((True, False))

    def type(self, low: int, high: int) -> IntType:
        return IntType(self.pick(range(low, high + 1)), self.pick((True, True, False)))

    def graph(self) -> Graph:
        return Graph("live", self.input, self.tokens, 0, self.nodes)

    def port(self, edge: str) -> Port:
        return self.graph().port_of(edge)

    def left(self) -> int:
        return MAX_NODES - len(self.nodes)

    def add(self, core: str, *inputs: str, **values: object) -> str:
        """Append a node with the constants of the core's stimuli; returns its edge."""
        library = load_core(core)
        tokens = self.graph().max_tokens(inputs[0])
        params: CoreParams = library.params(max_tokens=tokens, **values)
        constants, _ = library.stimuli(self.rng, params, 2)
        name = f"n{len(self.nodes)}_{core}"
        self.nodes.append(Node(name, core, params, constants, inputs))
        return name

    # -- one core ------------------------------------------------------------------------------
    def nm_matmul(self, edge: str, channels: int = 0, out_type: IntType | None = None) -> str:
        port = self.port(edge)
        channels = channels or self.pick((2, 3, 4, 6, 8, 12, MAX_CHANNELS))
        groups = self.pick((1, 1, 1, self.pick(divisors(math.gcd(port.channels, channels)))))
        inputs = port.channels // groups
        m = self.pick([m for m in GROUPS_OF if inputs % m == 0])
        out_type = out_type or self.type(3, 8)
        weight_type = IntType(self.pick(range(2, 7)), True)
        table = self.table(self.type(3, 8)) if self.pick((True, False, False)) else {}
        # a product of 9 bits is worth a DSP block; two or more of them need room between them
        dsp = int(port.itype.bits + weight_type.bits >= 9 and self.coin())
        tp = self.pick((1, 1, 2, 3, 4))
        name = self.add(
            "nm_matmul", edge, in_channels=port.channels, out_channels=channels, groups=groups,
            n=1 if m == 1 else self.pick(range(1, m)), m=m,
            simd=self.pick([s for s in divisors(inputs) if s % m == 0]),
            pe=self.pick(divisors(channels // groups)), in_type=port.itype,
            weight_type=weight_type, bias_type=IntType(8, True), acc_type=IntType(40, True),
            out_type=out_type, half_up=self.pick((0, 1)), tp=tp, mult_dsp=dsp,
            pack=2 if dsp and tp % 2 == 0 and port.itype.bits + weight_type.bits <= 11 else 1,
            weight_ram=self.pick((0, 1)), **table,
        )  # fmt: skip
        node = self.nodes[-1]
        acc = accumulator_type(node.constants["weight"], node.constants["bias"], port.itype)
        params = node.params
        assert isinstance(params, NmMatmulParams)
        shift = max(0, acc.bits - params.result_type.bits - 1)
        self.nodes[-1] = replace(node, params=replace(params, acc_type=acc, shift=shift))
        return name

    def table(self, mid_type: IntType) -> dict[str, Any]:
        """Fields of a table behind the sums of nm_matmul."""
        return {
            "mid_type": mid_type, "entries": 1 << mid_type.bits, "table_offset": -mid_type.min,
        }  # fmt: skip

    def layernorm(self, edge: str) -> str:
        port = self.port(edge)
        return self.add(
            "layernorm", edge, channels=port.channels, simd=self.pick(divisors(port.channels)),
            in_type=port.itype, out_type=IntType(self.pick(range(4, 9)), True),
            mean_mult=round(65536 / port.channels), index_bits=self.pick((3, 5)),
            half_up=self.pick((0, 1)),
        )  # fmt: skip

    def lookup_table(self, edge: str) -> str:
        port = self.port(edge)
        bits = min(port.itype.bits, self.pick((3, 6, 8)))
        return self.add(
            "lookup_table", edge, channels=port.channels, simd=self.pick(divisors(port.channels)),
            in_type=port.itype, out_type=self.type(3, 8), offset=-port.itype.min,
            shift=port.itype.bits - bits, entries=self.pick((1 << bits, (1 << bits) - 1)),
        )  # fmt: skip

    def pos_embed(self, edge: str) -> str:
        port = self.port(edge)
        return self.add(
            "pos_embed", edge, channels=port.channels, simd=self.pick(divisors(port.channels)),
            in_type=port.itype, pos_type=self.type(3, 8), out_type=self.type(3, 8),
        )  # fmt: skip

    def token_mean(self, edge: str) -> str:
        port = self.port(edge)
        groups = self.pick(divisors(port.channels))
        return self.add(
            "token_mean", edge, channels=port.channels, groups=groups,
            simd=self.pick(divisors(port.channels // groups)), in_type=port.itype,
        )  # fmt: skip

    def first_token(self, edge: str) -> str:
        port = self.port(edge)
        return self.add(
            "first_token", edge, channels=port.channels, simd=self.pick(divisors(port.channels)),
            in_type=port.itype,
        )  # fmt: skip

    # -- joins ---------------------------------------------------------------------------------
    def residual_add(self, a: str, b: str) -> str:
        left, right = self.port(a), self.port(b)
        a_shift, b_shift = self.pick((0, 0, 1)), self.pick((0, 0, 2))
        bits = max(left.itype.bits + a_shift, right.itype.bits + b_shift)
        out_type = self.type(4, 10)
        return self.add(
            "residual_add", a, b, channels=left.channels, simd=self.pick(divisors(left.channels)),
            a_type=left.itype, b_type=right.itype, out_type=out_type, a_shift=a_shift,
            b_shift=b_shift, shift=max(0, bits - out_type.bits), half_up=self.pick((0, 1)),
        )  # fmt: skip

    def gated_sum(self, a: str, b: str) -> str:
        left, right = self.port(a), self.port(b)
        bits = left.itype.bits + right.itype.bits + (left.channels - 1).bit_length() + 1
        return self.add(
            "gated_sum", a, b, channels=left.channels, simd=self.pick(divisors(left.channels)),
            a_type=left.itype, b_type=right.itype, out_type=IntType(bits, True),
        )  # fmt: skip

    def attention(self, edge: str) -> str:
        """q, k and v are the edge itself or matrix products of it."""
        channels = self.port(edge).channels
        own = self.left() >= 4 and self.coin()
        q, k, v = (
            self.nm_matmul(edge, channels) if own and self.pick((True, True, False)) else edge
            for _ in range(3)
        )
        types = [self.port(e).itype for e in (q, k, v)]
        heads = self.pick(divisors(channels))
        simd, heads_par = self.pick(divisors(channels // heads)), self.pick(divisors(heads))
        # more than 24 products in parallel only take long to compile
        m = self.pick([m for m in (2, 4, 8) if simd * heads_par * m <= 24] or [2])
        tp = self.pick((1, 1, 2, 3)) if simd * heads_par * m <= 8 else 1
        shift = max(0, types[0].bits + types[1].bits - 8)
        out_type = IntType(self.pick(range(4, 9)), types[2].signed)
        return self.add(
            "attention", q, k, v, channels=channels, heads=heads, n=self.pick(range(1, m + 1)),
            m=m, simd=simd, heads_par=heads_par, tp=tp,
            q_type=types[0], k_type=types[1], v_type=types[2], exp_shift=shift,
            exp_offset=(1 << shift) // 2, out_type=out_type,
            shift=8 + max(0, types[2].bits - out_type.bits), half_up=self.pick((0, 1)),
            kv_ram=self.pick((0, 1)), mult_dsp=self.pick((0, 1)),
        )  # fmt: skip

    def token_select(self, edge: str) -> str:
        """The score is a matrix product of the tokens, of their mean, or a gated sum."""
        port = self.port(edge)
        kind = self.pick(("matmul", "mean", "gate")) if self.left() >= 3 else "matmul"
        if kind == "gate":
            score = self.gated_sum(edge, self.nm_matmul(edge, port.channels, self.type(3, 6)))
        else:
            wide = kind == "mean" and 2 * port.channels <= MAX_CHANNELS
            source = self.token_mean(edge) if wide else edge
            score = self.nm_matmul(source, 1, IntType(self.pick(range(8, 14)), True))
        bits = self.port(score).itype.bits
        return self.add(
            "token_select", edge, score, channels=port.channels,
            simd=self.pick(divisors(port.channels)), x_type=port.itype,
            score_type=self.port(score).itype, offset=1 << (bits - 1), shift=max(0, bits - 7),
            half_up=self.pick((0, 1)), topk=self.pick((0, 0, 1, 2, 3)), search=self.pick((1, 2)),
            frame_ram=self.pick((0, 1)),
        )  # fmt: skip

    # -- more than one core --------------------------------------------------------------------
    def chain(self, edge: str) -> str:
        """One or two cores that keep the channels."""
        channels = self.port(edge).channels
        for _ in range(self.pick((1, 2))):
            core = self.pick(("nm_matmul", "layernorm", "lookup_table", "attention"))
            if self.left() < 2:
                break
            edge = self.nm_matmul(edge, channels) if core == "nm_matmul" else self.one(core, edge)
        return edge

    def one(self, core: str, edge: str) -> str:
        """A node of that core on top of ``edge``, with the branches that it needs."""
        out: str = getattr(self, core)(edge)
        return out

    def residual(self, edge: str) -> str:
        """A branch, or two, and their sum; a branch may hold a residual itself."""
        deep = self.left() >= 6 and self.pick((True, False, False))
        branch = self.residual(edge) if deep else self.chain(edge)
        if deep and self.left() >= 3:
            branch = self.chain(branch)
        skip = self.chain(edge) if self.left() >= 4 and self.coin() else edge
        if branch == skip:
            skip = edge
        return self.residual_add(*self.pick(((skip, branch), (branch, skip))))

    def gate(self, edge: str) -> str:
        return self.gated_sum(edge, self.chain(edge))


#: what may follow an edge -> nodes that it may need
STEPS = {
    "nm_matmul": 1, "layernorm": 1, "lookup_table": 1, "pos_embed": 1, "token_mean": 1,
    "attention": 4, "token_select": 3, "residual": 3, "gate": 3,
}  # fmt: skip


def random_graph(rng: torch.Generator, core: str | None = None) -> Graph:
    """A graph of 3 to 9 nodes with the least FIFO depths; ``core`` is one of them, if given.

    Types, widths, lanes and constants are legal and random; branches fork and meet again.
    """
    while True:
        draw = _Draw(rng)
        nodes = draw.pick(range(3, MAX_NODES + 1))
        edge = Graph.INPUT
        while len(draw.nodes) < nodes:
            port = draw.port(edge)
            room = nodes - len(draw.nodes)
            wide = port.channels > MAX_CHANNELS // 2 or port.itype.bits > MAX_BITS
            legal = [s for s, need in STEPS.items() if need <= room and not wide]
            if port.channels < 2 and "layernorm" in legal:
                legal.remove("layernorm")
            forks = [s for s in legal if STEPS[s] > 1]
            if forks and draw.coin():
                legal = forks
            step = draw.pick(legal) if legal else "nm_matmul"
            if room == 1 and draw.coin():
                step = "first_token"
            edge = draw.one(step, edge)
        graph = draw.graph()
        graph.check()
        named = core is None or any(n.core == core for n in graph.nodes)
        if named and len(graph.nodes) <= MAX_NODES:  # branches may have taken more than was left
            return fold.minimum_fifos(graph)


# -- simulate it ---------------------------------------------------------------------------------


def random_case(
    rng: torch.Generator, frames: int, core: str | None = None
) -> tuple[Graph, Stream, dict[str, Stream]]:
    """(graph, input frames, every edge for them); no edge is constant."""
    while True:
        graph = random_graph(rng, core)
        x = random_frames(rng, graph.input, frames, graph.input_tokens, True)
        edges = execute(graph, x)
        if all(len(edges[n.name].data.unique()) > 1 for n in graph.nodes):
            return graph, x, edges


def take(x: Stream, start: int, stop: int) -> Stream:
    """Frames ``start..stop - 1``."""
    length = x.length[start:stop]
    return Stream(x.data[start:stop, : int(length.max())], length, x.package[start:stop])


@dataclass(frozen=True)
class Checked:
    """What one graph came to."""

    cores: list[str]
    frames: int
    cycles: int
    stalls: list[str]
    forks: int
    fifos: list[int]


def check(seed: int, index: int, frames: int, folder: Path) -> Checked:
    """Draw graph ``index`` of a seed, simulate ``frames`` frames, compare every edge.

    The frames are divided among stall profiles, 5 or more for each. The ``index`` picks a core that
    the graph must have. Raises LivenessError; the build stays in ``folder`` then.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003 + index)
    names = core_names()
    graph, x, golden = random_case(rng, frames, names[index % len(names)])
    what = f"seed {seed}, graph {index} in {folder}"
    turn = list(bench.STALLS)[index % len(bench.STALLS) :] + list(bench.STALLS)
    stalls = list(dict.fromkeys(["both", *turn]))[: max(1, frames // 5)]
    bounds = [frames * i // len(stalls) for i in range(len(stalls) + 1)]
    parts = list(pairwise(bounds))
    runs = [
        runner.Run([take(x, *part)], stall, seed + index)
        for stall, part in zip(stalls, parts, strict=True)
    ]
    try:
        results = runner.run_graph_batch(graph, folder, runs)
    except runner.SimulationError as error:
        failure = LivenessError(f"{what}: {error}\n{outline(graph)}")
        failure.stuck = "no end in sight" in str(error)
        raise failure from error
    for stall, part, result in zip(stalls, parts, results, strict=True):
        want = {e: take(s, *part) for e, s in golden.items()}
        difference = first_difference(graph, want, result.edges)
        if difference is None and result.output != want[graph.output.name]:
            difference = "the output port"
        if difference is not None:
            raise LivenessError(f"{what}, stall {stall}: {difference}\n{outline(graph)}")
    edges = [Graph.INPUT, *(n.name for n in graph.nodes)]
    return Checked(
        [n.core for n in graph.nodes], frames, sum(r.cycles for r in results), stalls,
        sum(len(graph.consumers(e)) > 1 for e in edges), [d for n in graph.nodes for d in n.depths],
    )  # fmt: skip


def outline(graph: Graph) -> str:
    """The graph in lines, for people."""
    port = graph.input
    lines = [f"input: {graph.input_tokens} tokens of {port.channels} x {port.itype}, {port.lanes}"]
    lines += [
        f"{n.name}({', '.join(n.inputs)}), depths {list(n.depths)}: {n.params.to_dict()}"
        for n in graph.nodes
    ]
    return "\n".join(lines)


# -- many of them --------------------------------------------------------------------------------


def sources() -> str:
    """Digest of everything that a result depends on."""
    root = Path(__file__).resolve().parent.parent
    files = [f for d in ("quant", "rtl") for s in ("*.py", "*.sv") for f in (root / d).rglob(s)]
    files += [Path(__file__), Path(bench.__file__), Path(runner.__file__)]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def run(
    frames: int, seed: int, folder: Path, show: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Check at least ``frames`` frames, in graphs of 20 frames, or of 250 from 2,000 frames on.

    ``folder`` keeps ``liveness.json``: a call with the same seed and sources goes on from there.
    Returns the sums of ``summary``. All graphs are run; raises LivenessError with the messages of
    those that got stuck or computed otherwise. Their builds stay in ``folder``.
    """
    share = 250 if frames >= 2000 else 20
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "liveness.json"
    key = {"seed": seed, "share": share, "sources": sources()}
    done: dict[int, Checked] = {}
    if state.exists():
        text = json.loads(state.read_text())
        kept = text["graphs"] if text["key"] == key else {}
        done = {int(index): Checked(**values) for index, values in kept.items()}
    count = -(-frames // share)
    failures: list[LivenessError] = []
    for index in range(count):
        if index in done:
            continue
        build, start = folder / f"graph{index}", time.monotonic()
        shutil.rmtree(build, ignore_errors=True)
        try:
            one = check(seed, index, share, build)
        except LivenessError as error:
            failures.append(error)
            show(f"graph {index} of {count}: FAILED {error}")
            continue
        shutil.rmtree(build)
        done[index] = one
        graphs = {i: asdict(c) for i, c in done.items()}
        write_atomic(state, json.dumps({"key": key, "graphs": graphs}) + "\n")
        show(
            f"graph {index} of {count}: {', '.join(one.cores)}; {one.frames} frames, "
            f"{one.cycles} cycles, {time.monotonic() - start:.1f} s"
        )
    if failures:
        stuck = sum(f.stuck for f in failures)
        texts = "\n\n".join(map(str, failures))
        raise LivenessError(f"{len(failures)} of {count} graphs failed, {stuck} stuck:\n{texts}")
    return {**summary([done[i] for i in range(count)]), "seed": seed, "deadlocks": len(failures)}


def summary(done: Sequence[Checked]) -> dict[str, Any]:
    """Frames, graphs, cycles, nodes by core, stall profiles, graphs with forks and with FIFOs."""
    cores = [core for one in done for core in one.cores]
    return {
        "graphs": len(done),
        "frames": sum(one.frames for one in done),
        "cycles": sum(one.cycles for one in done),
        "nodes": {core: cores.count(core) for core in core_names()},
        "graphs_with_forks": sum(one.forks > 0 for one in done),
        "graphs_with_fifos": sum(any(one.fifos) for one in done),
        "stalls": sorted({stall for one in done for stall in one.stalls}),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 if a graph failed."""
    parser = argparse.ArgumentParser(prog="python -m sievit.sim.liveness", description=__doc__)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="default: below the build root")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = options.folder or build_root() / "liveness"
    try:
        result = run(options.frames, options.seed, folder, lambda line: print(line, flush=True))
    except LivenessError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
