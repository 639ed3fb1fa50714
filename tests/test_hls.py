# SPDX-License-Identifier: Apache-2.0
"""HLS cores, code generation and C-simulation against the golden functions."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sievit.hls import codegen, csim
from sievit.hls.frames import read_frames, write_frames
from sievit.quant.cores.nm_matmul import NmMatmulParams, accumulator_type
from sievit.quant.execute import execute, first_difference
from sievit.quant.graph import Graph, Node, UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.params import Port, Stream, core_names, load_core, random_frames
from sievit.quant.rounding import (
    leading_one,
    reciprocal_index,
    round_shift,
    rsqrt_index,
    saturate,
)
from sievit.quant.tools import ToolError

BOARD = {"name": "zcu104", "part": "xczu7ev-ffvc1156-2-e", "clock_mhz": 300}
HLS = Path(codegen.__file__).parent
FRAMES = 32


def s(bits: int) -> IntType:
    return IntType(bits, True)


def u(bits: int) -> IntType:
    return IntType(bits, False)


CASES: dict[str, list[dict[str, object]]] = {
    "attention": [
        {"max_tokens": 6},
        {"channels": 12, "heads": 3, "simd": 4, "heads_par": 3, "n": 1, "max_tokens": 9},
        {"channels": 12, "heads": 1, "simd": 1, "n": 4, "max_tokens": 5, "half_up": 1},
        {"channels": 48, "heads": 3, "simd": 16, "n": 1, "m": 1, "max_tokens": 1, "mult_dsp": 1},
        {
            **{"channels": 48, "heads": 6, "simd": 2, "heads_par": 2, "m": 8, "max_tokens": 17},
            **{"q_type": u(4), "k_type": s(4), "v_type": s(5), "out_type": s(6)},
            **{"prob_shift": -2, "exp_shift": 2, "exp_offset": 2},
        },
        {"tp": 2, "max_tokens": 9},
        {
            **{"channels": 12, "heads": 2, "simd": 3, "heads_par": 2, "tp": 3, "n": 2, "m": 16},
            **{"max_tokens": 20, "v_type": u(3), "out_type": u(7), "half_up": 1, "kv_ram": 1},
        },
        {
            **{"max_tokens": 9, "recip_entries": 8, "near_offset": -1100, "near_shift": 8},
            **{"far_offset": -3500, "far_shift": 7, "far_prob_shift": 1, "prob_shift": 15},
            **{"exp_span": 4, "near_span": 2, "far_span": 1, "sets": 7},
        },
    ],
    "first_token": [
        {"max_tokens": 6},
        {"channels": 12, "simd": 12},
        {"channels": 48, "simd": 3, "in_type": u(5), "max_tokens": 9},
    ],
    "gated_sum": [
        {"max_tokens": 6},
        {"channels": 12, "simd": 1, "max_tokens": 5, "out_type": s(21)},
        {"channels": 3, "simd": 3, "a_type": u(6), "b_type": u(7), "out_type": u(15)},
    ],
    "layernorm": [
        {"max_tokens": 4},
        {
            **{"channels": 12, "simd": 1, "in_type": s(10), "mean_mult": 5461},
            **{"rsqrt_type": s(16), "max_tokens": 6},
        },
        {"channels": 48, "simd": 48, "mean_mult": 1365, "half_up": 1},
        {
            **{"channels": 48, "simd": 6, "mean_mult": 1365, "in_type": u(9), "out_type": u(5)},
            **{"index_bits": 4, "max_tokens": 4},
        },
    ],
    "lookup_table": [
        {"max_tokens": 6},
        {
            **{"channels": 12, "simd": 1, "in_type": s(16), "out_type": s(9)},
            **{"offset": 3000, "shift": 5, "entries": 100, "max_tokens": 5},
        },
        {"channels": 12, "simd": 12, "in_type": u(8), "offset": 0},
        {
            **{"channels": 48, "simd": 16, "in_type": s(20), "out_type": s(12)},
            **{"offset": -700, "shift": 3, "entries": 37, "max_tokens": 4},
        },
    ],
    "nm_matmul": [
        {"max_tokens": 4},
        {"n": 1, "in_channels": 48, "out_channels": 12, "simd": 8, "pe": 3, "max_tokens": 5},
        {
            **{"n": 1, "m": 1, "in_channels": 12, "out_channels": 6, "simd": 1, "pe": 1},
            **{"in_type": u(4)},
        },
        {
            **{
                "n": 1,
                "m": 1,
                "in_channels": 12,
                "out_channels": 12,
                "groups": 3,
                "simd": 4,
                "pe": 4,
            },
            **{"max_tokens": 6, "half_up": 1, "mult_dsp": 1},
        },
        {
            **{"in_channels": 48, "out_channels": 48, "simd": 48, "pe": 2, "shift": -1},
            **{"out_type": s(20), "max_tokens": 3},
        },
        {
            **{"in_channels": 16, "out_channels": 4, "groups": 2, "pe": 1, "out_type": u(7)},
            **{"weight_type": s(17), "in_type": s(16), "bias_type": s(30), "acc_type": s(40)},
            **{"shift": 20, "max_tokens": 7},
        },
        {"tp": 3, "max_tokens": 8, "in_channels": 16, "groups": 2, "shift": 6},
        {
            **{"n": 4, "m": 16, "in_channels": 32, "simd": 32, "pe": 8, "tp": 2, "max_tokens": 5},
            **{"entries": 37, "table_offset": 100, "table_shift": 3, "mid_type": s(9)},
            **{"out_type": u(6), "weight_ram": 1},
        },
        {
            **{"n": 3, "m": 8, "in_channels": 24, "simd": 8, "tp": 6, "pack": 3, "mult_dsp": 1},
            **{"in_type": s(4), "weight_type": s(4), "bias_type": s(8), "max_tokens": 9},
            **{"shift": 2, "out_type": s(6)},
        },
        {
            **{"n": 1, "m": 1, "simd": 2, "tp": 4, "pack": 4, "mult_dsp": 1, "in_type": u(3)},
            **{"weight_type": s(3), "bias_type": s(6), "shift": 1, "max_tokens": 6},
        },
        {
            **{"n": 1, "m": 2, "tp": 2, "pack": 2, "mult_dsp": 1, "weight_type": s(8), "shift": 9},
            **{"max_tokens": 5, "entries": 16, "table_offset": 128, "table_shift": 4},
        },
    ],
    "pos_embed": [
        {"max_tokens": 6},
        {"channels": 12, "simd": 1, "pos_type": s(9)},
        {"channels": 48, "simd": 48, "in_type": u(8), "out_type": u(8), "max_tokens": 5},
    ],
    "residual_add": [
        {"max_tokens": 6},
        {
            **{"channels": 12, "simd": 12, "a_type": s(8), "b_type": u(10), "out_type": s(9)},
            **{"a_shift": 3, "shift": 2, "max_tokens": 5},
        },
        {"channels": 48, "simd": 1, "a_shift": 1, "b_shift": 4, "shift": 3, "half_up": 1},
        {
            **{"channels": 48, "simd": 24, "a_type": u(7), "b_type": u(9), "out_type": u(8)},
            **{"shift": -1, "max_tokens": 4},
        },
    ],
    "token_mean": [
        {"max_tokens": 6},
        {"channels": 12, "groups": 3, "simd": 1, "half_up": 1, "max_tokens": 9},
        {"channels": 48, "groups": 1, "simd": 48, "in_type": u(6)},
        {"channels": 48, "groups": 3, "simd": 16, "max_tokens": 33},
    ],
    "token_select": [
        {"max_tokens": 8},
        {"channels": 12, "simd": 1, "max_tokens": 17, "half_up": 1},
        {"channels": 48, "simd": 48, "x_type": u(8)},
        {"channels": 12, "simd": 4, "index_bits": 5, "max_tokens": 5},
        {"topk": 5, "max_tokens": 17, "search": 2, "mult_dsp": 1},
        {
            **{"channels": 2, "simd": 2, "x_type": u(7), "score_type": s(2), "offset": 2},
            **{"shift": 0, "entries": 4, "topk": 3, "max_tokens": 9},
        },
        {"channels": 6, "simd": 1, "score_type": s(9), "topk": 1, "max_tokens": 6},
    ],
}


# -- cores ---------------------------------------------------------------------------------------


def test_every_core_has_a_header_and_cases() -> None:
    assert sorted(p.stem for p in (HLS / "cores").glob("*.hpp")) == core_names()
    assert sorted(CASES) == core_names()
    assert all(len(cases) >= 3 for cases in CASES.values())


@pytest.fixture(scope="module")
def simulated(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[tuple[str, Stream, Stream]]]:
    """Per core (what, golden, simulated) of every case, all compiled into one program."""
    seed = random.randrange(1 << 30)
    rng = torch.Generator().manual_seed(seed)
    names: list[tuple[str, str]] = []
    cases: list[csim.Case] = []
    golden: list[Stream] = []
    for stem, choices in CASES.items():
        core = load_core(stem)
        for values in choices:
            p = core.params(**values)
            constants, inputs = core.stimuli(rng, p, FRAMES)
            if isinstance(p, NmMatmulParams):
                need = accumulator_type(constants["weight"], constants["bias"], p.in_type)
                p = replace(p, acc_type=need)
            names.append((stem, f"seed {seed}: {p}"))
            cases.append((stem, p, constants, inputs))
            golden.append(core.golden(p, constants, *inputs))
    got = csim.run_cores(cases, tmp_path_factory.mktemp("cores"))
    out: dict[str, list[tuple[str, Stream, Stream]]] = {stem: [] for stem in CASES}
    for (stem, what), want, have in zip(names, golden, got, strict=True):
        out[stem].append((what, want, have))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("stem", sorted(CASES))
def test_core_equals_golden(
    stem: str, simulated: dict[str, list[tuple[str, Stream, Stream]]]
) -> None:
    for what, want, got in simulated[stem]:
        print(what)
        assert len(want.length) == FRAMES
        assert got == want, what


@pytest.mark.parametrize("stem", core_names())
def test_config_equals_python_defaults(stem: str) -> None:
    text = (HLS / "cores" / f"{stem}.hpp").read_text()
    body = re.search(rf"struct {stem}_config {{(.*?)}};", text, re.S)
    assert body, "no config struct"
    members = re.findall(r"static constexpr int (\w+) = (-?\d+);", body[1])
    assert len(members) == len(body[1].strip().splitlines())
    assert {k: int(v) for k, v in members} == load_core(stem).params().flat()


@pytest.mark.parametrize("path", sorted(HLS.glob("*/*.hpp")), ids=lambda p: p.name)
def test_style(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("// SPDX-License-Identifier: Apache-2.0\n")
    assert "#pragma once" in text
    code = re.sub(r"//.*", "", text)
    assert not re.search(r"\b(float|double)\b", code)
    for parameters in re.findall(r"template <(.*?)>\n", code):
        # a call of hls4ml's names none: they are deduced from its streams
        assert parameters.count(",") <= 2 or path.parent.name == "nnet", parameters
    if path.parent.name == "cores":
        assert not re.search(r"\bstatic (?!constexpr|_assert)", code), "static state"
    for i, line in enumerate(lines := text.splitlines()):
        if re.match(r"\s*(for|while) \(", line) and path.name != "frames.hpp":
            assert re.match(r"\s*\w+:$", lines[i - 1]), f"{path.name}:{i + 1}: loop without a label"
        if line.lstrip().startswith("#pragma HLS"):
            assert "  // " in line or "#pragma HLS" in lines[i + 1] + lines[i - 1], line


# -- rounding.hpp --------------------------------------------------------------------------------

ROUNDING_BENCH = """
#include <iostream>
#include "lib/rounding.hpp"
using namespace sievit;

template <class... T> void show(const T&... values) {
  (std::cout << ... << (std::to_string((long long)(values)) + " ")) << '\\n';
}

template <int Shift> void constant_shift() {
  for (int i = -256; i < 256; i++) {
    const ap_int<9> x = i;
    show(round_shift<Shift, 0>(x), round_shift<Shift, 1>(x));
  }
}

struct index_config { static constexpr int offset = 37, shift = 3, entries = 21; };

int main() {
  constant_shift<-2>();
  constant_shift<0>();
  constant_shift<1>();
  constant_shift<3>();
  constant_shift<8>();
  constant_shift<9>();
  constant_shift<12>();
  for (int s = 0; s <= 12; s++)
    for (int i = -256; i < 256; i++) {
      const ap_int<9> x = i;
      show(round_shift<12, 0>(x, s), round_shift<12, 1>(x, s));
    }
  for (int i = -256; i < 256; i++) {
    const ap_int<9> x = i;
    show(saturate<6, 1>(x), saturate<6, 0>(x), saturate<9, 1>(x), saturate<12, 0>(x),
         table_index<index_config>(x));
  }
  for (int i = 1; i < 4096; i++) {
    const ap_uint<12> x = i;
    const normal r = reciprocal_index<5>(x), q = rsqrt_index<4>(x);
    show(leading_one(x), r.index, r.position, q.index, q.position);
  }
  long long value;
  while (std::cin >> value) {
    const ap_int<49> x = value;
    const ap_uint<48> size = value < 0 ? -value : value;
    const int s = value & 63 ? value & 63 : 1;
    const normal r = reciprocal_index<7>(size), q = rsqrt_index<6>(size);
    show(round_shift<17, 0>(x), round_shift<17, 1>(x), round_shift<63, 0>(x, s),
         saturate<33, 1>(x), saturate<33, 0>(x), r.index, r.position, q.index, q.position);
  }
}
"""


def test_rounding_equals_python(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = torch.Generator().manual_seed(seed)
    (tmp_path / "main.cpp").write_text(ROUNDING_BENCH)
    command = ["g++", *csim.FLAGS, "-isystem", str(csim.ap_types()), "-I", str(HLS)]
    subprocess.run([*command, "main.cpp", "-o", "bench"], cwd=tmp_path, check=True)
    count = (3000,)
    wide = torch.randint(1, 1 << 47, count, generator=rng)
    wide = (wide >> torch.randint(0, 46, count, generator=rng)).clamp(min=1)
    wide = wide * (torch.randint(0, 2, count, generator=rng) * 2 - 1)
    text = "\n".join(str(v) for v in wide.tolist())
    done = subprocess.run(
        [tmp_path / "bench"], input=text, capture_output=True, text=True, check=True
    )
    got = [[int(v) for v in line.split()] for line in done.stdout.splitlines()]

    x = torch.arange(-256, 256)
    want: list[list[int]] = []

    def expect(*columns: Tensor) -> None:
        want.extend(torch.stack(columns, 1).tolist())

    for shift in (-2, 0, 1, 3, 8, 9, 12, *range(13)):
        expect(round_shift(x, shift), round_shift(x, shift, True))
    index = ((x + 37) >> 3).clamp(0, 20)
    expect(*(saturate(x, t) for t in (s(6), u(6), s(9), u(12))), index)
    y = torch.arange(1, 4096)
    expect(leading_one(y), *reciprocal_index(y, 5), *rsqrt_index(y, 4))
    shift = torch.where((wide & 63) == 0, 1, wide & 63)
    # int64 holds x + half up to a shift of 62; half_even of |x| < 2^48 by 63 is 0
    wanted = torch.where(shift == 63, 0, round_shift(wide, shift.clamp(max=62)))
    expect(
        *(round_shift(wide, 17), round_shift(wide, 17, True), wanted),
        *(saturate(wide, s(33)), saturate(wide, u(33))),
        *(*reciprocal_index(wide.abs(), 7), *rsqrt_index(wide.abs(), 6)),
    )
    assert got == want


# -- whole graphs --------------------------------------------------------------------------------


def small_graph() -> Graph:
    """Nine nodes: forks, joins, width conversion in all three ways, variable length."""
    rng = torch.Generator().manual_seed(11)
    nodes: list[Node] = []

    def add(name: str, core: str, inputs: list[str], depths: list[int], **values: object) -> None:
        library = load_core(core)
        p = library.params(**values)
        constants, _ = library.stimuli(rng, p, 2)
        nodes.append(Node(name, core, p, constants, tuple(inputs), tuple(depths)))

    wide = {"acc_type": s(24), "max_tokens": 7}
    layer = {"n": 1, "m": 1, "groups": 1}
    add("pos", "pos_embed", ["input"], [0], channels=12, simd=6, max_tokens=6)
    norm = {"mean_mult": 5461, "rsqrt_type": u(14), "norm_shift": 2, "max_tokens": 7}
    add("block.norm", "layernorm", ["pos"], [0], channels=12, simd=4, **norm)
    channels = {"in_channels": 12, "out_channels": 12, **wide}
    add("block.fc1", "nm_matmul", ["block.norm"], [4], simd=12, pe=2, shift=6, **channels)
    add("block.gelu", "lookup_table", ["block.fc1"], [0], channels=12, simd=3, max_tokens=7)
    more = {"in_type": u(8), "out_type": s(12), **channels}
    add("block.fc2", "nm_matmul", ["block.gelu"], [0], simd=4, pe=6, shift=5, **more)
    sizes = {"channels": 12, "simd": 6, "max_tokens": 7}
    add("block.add", "residual_add", ["pos", "block.fc2"], [20, 2], **sizes)
    add("block.more", "residual_add", ["pos", "block.add"], [30, 0], **{**sizes, "simd": 12})
    score = {"in_type": s(12), "out_type": s(18), "in_channels": 12, "out_channels": 1, **wide}
    add("score", "nm_matmul", ["block.more"], [0], simd=2, pe=1, shift=0, **layer, **score)
    add("select", "token_select", ["block.more", "score"], [50, 0], **{**sizes, "simd": 1})
    graph = Graph("small.net", Port("s_axis", 12, 4, s(12)), 6, 0, nodes)
    graph.check()
    return graph


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Graph]:
    folder = tmp_path_factory.mktemp("small")
    graph = small_graph()
    codegen.generate(graph, folder, BOARD)
    csim.compile(folder)
    return folder, graph


def test_graph_equals_golden_on_every_edge(project: tuple[Path, Graph]) -> None:
    folder, graph = project
    x = random_frames(torch.Generator().manual_seed(3), graph.input, 40, graph.input_tokens)
    golden = execute(graph, x)
    assert len(set(golden["select"].length.tolist())) > 2
    got = csim.run(folder, graph, x, taps=True)
    assert list(got) == list(golden)
    assert first_difference(graph, golden, got) is None
    assert csim.run(folder, graph, x) == {"select": golden["select"]}


def test_mismatch_is_located(project: tuple[Path, Graph]) -> None:
    folder, graph = project
    x = random_frames(torch.Generator().manual_seed(3), graph.input, 4, graph.input_tokens)
    got = csim.run(folder, graph, x, taps=True)
    got["block.gelu"].data[2, 0, 5] ^= 1
    text = first_difference(graph, execute(graph, x), got)
    assert text and text.startswith("edge block.gelu, frame 2, token 0, channel 5")


def test_test_bench_checks_itself(project: tuple[Path, Graph], tmp_path: Path) -> None:
    folder, _ = project
    for name in ("input.bin", "golden.bin"):
        shutil.copy(folder / "tb" / name, tmp_path)
    program = folder / "build_csim" / "sim"
    assert subprocess.run([program], cwd=tmp_path, capture_output=True).returncode == 0
    raw = bytearray((tmp_path / "golden.bin").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "golden.bin").write_bytes(raw)
    assert subprocess.run([program], cwd=tmp_path, capture_output=True).returncode == 1


def test_nothing_is_compiled_twice(project: tuple[Path, Graph]) -> None:
    folder, graph = project
    before = {p: p.stat().st_mtime_ns for p in (folder / "build_csim").iterdir()}
    codegen.generate(graph, folder, BOARD)
    csim.compile(folder)
    assert {p: p.stat().st_mtime_ns for p in (folder / "build_csim").iterdir()} == before


def test_generation_is_deterministic(tmp_path: Path) -> None:
    trees = []
    for name in ("a", "b"):
        codegen.generate(small_graph(), tmp_path / name, BOARD)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        trees.append({p.relative_to(tmp_path / name): p.read_bytes() for p in files})
    assert trees[0] == trees[1]
    assert all(str(tmp_path).encode() not in content for content in trees[0].values())


def test_fifo_depths(project: tuple[Path, Graph]) -> None:
    text = (project[0] / "src" / "small_net.cpp").read_text()
    assert "variable=e1_pos depth=20" in text  # the skip connection has the consumer's lanes
    assert "variable=w_block_norm_s_axis depth=2" in text  # 6 lanes to 4, through 12
    assert "variable=w_block_fc1_s_axis depth=4" in text
    assert "variable=w_select_s_axis_x depth=50" in text


def test_graphs_that_cannot_be_written(tmp_path: Path) -> None:
    graph = small_graph()
    graph.nodes[-1] = replace(graph.nodes[-1], name="block_add")
    with pytest.raises(UnsupportedError, match=r"both block_add in C\+\+"):
        codegen.generate(graph, tmp_path, BOARD)
    graph = small_graph()
    graph.nodes.append(replace(graph.nodes[0], name="other"))
    with pytest.raises(UnsupportedError, match="select: nothing reads"):
        codegen.generate(graph, tmp_path, BOARD)


def test_frame_files(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    for t in (s(1), u(8), s(9), u(16), u(31), s(40), u(62)):
        port = Port("p", 6, 2, t)
        x = random_frames(rng, port, 5, 4, True)
        write_frames(tmp_path / "x.bin", x, port)
        assert read_frames(tmp_path / "x.bin", port) == x
    with pytest.raises(ValueError, match="ends within frame 4"):
        (tmp_path / "x.bin").write_bytes((tmp_path / "x.bin").read_bytes()[:-1])
        read_frames(tmp_path / "x.bin", port)


VITIS_PORT = """
#pragma once
template <int Data, int User, int Id, int Dest> struct ap_axiu {
  ap_uint<Data> data;
  ap_uint<Data / 8> keep, strb;
  ap_uint<User> user;
  ap_uint<1> last;
};
"""


@pytest.mark.slow
def test_the_code_that_vitis_sees(project: tuple[Path, Graph], tmp_path: Path) -> None:
    """With -DSIEVIT_VITIS all arithmetic and constants are of ap_int; the result is the same."""
    folder, _ = project
    (tmp_path / "ap_axi_sdata.h").write_text(VITIS_PORT)
    sources = [*(folder / "src").glob("*.cpp"), folder / "tb" / "main.cpp"]
    kept = [f for f in csim.FLAGS if f not in ("-O2", "-DSIEVIT_TAPS")]
    flags = [*kept, "-O1", "-DSIEVIT_VITIS"]
    include = ["-isystem", str(csim.ap_types()), "-I", str(tmp_path)]
    program = tmp_path / "sim"
    subprocess.run(["g++", *flags, *include, *sources, "-o", program], check=True)
    for name in ("input.bin", "golden.bin"):
        shutil.copy(folder / "tb" / name, tmp_path)
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 frames equal golden.bin" in done.stdout


# -- vendor flow ---------------------------------------------------------------------------------

STUBS = """
set calls [open calls.txt w]
set log [list]
foreach name {open_project set_top open_solution set_part create_clock set_clock_uncertainty
              csim_design csynth_design cosim_design export_design} {
  proc $name {args} "puts \\$::calls \\"$name \\$args\\""
}
proc add_files {args} {
  set path [lindex $args end]
  if {![file exists $path]} { puts stderr "missing $path"; ::tcl_exit 3 }
  puts $::calls "add_files [file tail $path]"
}
rename exit tcl_exit
proc exit {} { close $::calls; tcl_exit 0 }
cd CWD
source SCRIPT
"""


@pytest.mark.skipif(shutil.which("tclsh") is None, reason="tclsh is not installed")
@pytest.mark.parametrize("steps", [[], ["csynth"], ["csim", "export"]])
def test_tcl_runs(project: tuple[Path, Graph], tmp_path: Path, steps: list[str]) -> None:
    folder, _ = project
    script = folder / "run_hls.tcl"
    calls = tmp_path / "calls.txt"
    stubs = STUBS.replace("calls.txt", str(calls)).replace("CWD", str(tmp_path))
    (tmp_path / "stubs.tcl").write_text(stubs.replace("SCRIPT", str(script)))
    command = ["tclsh", str(tmp_path / "stubs.tcl"), *steps]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = calls.read_text().splitlines()
    names = [line.split()[0] for line in got]
    sources = sorted(p.name for p in (folder / "src").glob("*.cpp"))
    assert names[:2] == ["open_project", "set_top"]
    assert got[1] == "set_top small_net"
    files = sorted(line.split()[1] for line in got if line.startswith("add_files"))
    assert files == sorted([*sources, "main.cpp", "input.bin", "golden.bin"])
    after = names[2 + len(files) :]
    want = [f"{step}_design" for step in steps or codegen.STEPS]
    setup = ["open_solution", "set_part", "create_clock", "set_clock_uncertainty"]
    assert after == [*setup, *want]
    assert f"set_part {BOARD['part']}" in got
    assert "create_clock -period 3.333 -name default" in got


def test_config_file(project: tuple[Path, Graph]) -> None:
    folder, _ = project
    pairs = [
        line.split("=", 1)
        for line in (folder / "hls_config.cfg").read_text().splitlines()
        if line and line[0] not in "#["
    ]
    for key, value in pairs:
        if key in ("syn.file", "tb.file"):
            assert (folder / value).is_file(), value
    assert dict(pairs)["part"] == BOARD["part"]
    assert dict(pairs)["clock"] == "3.333ns"
    assert dict(pairs)["syn.top"] == "small_net"
    listed = {v for k, v in pairs if k == "syn.file"}
    assert listed == {f"src/{p.name}" for p in (folder / "src").glob("*.cpp")}


def test_missing_compiler(
    project: tuple[Path, Graph], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"g\+\+: not found on PATH; install"):
        csim.compile(project[0])


def test_code_that_does_not_compile(project: tuple[Path, Graph], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(project[0], folder)
    (folder / "tb" / "main.cpp").write_text("int main() { return nothing; }\n")
    with pytest.raises(ToolError, match=r"main\.o does not compile"):
        csim.compile(folder)


def test_synthesis_without_vitis(
    project: tuple[Path, Graph], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    text = csim.synthesis(project[0])
    assert isinstance(text, str)
    assert "vitis_hls -f run_hls.tcl -tclargs csynth" in text and str(project[0].resolve()) in text


REPORT = """<?xml version="1.0" encoding="UTF-8" ?>
<profile><PerformanceEstimates>
<SummaryOfOverallLatency><Best-caseLatency>120</Best-caseLatency><Worst-caseLatency>undef</Worst-caseLatency>
<Interval-min>65</Interval-min><Interval-max>99</Interval-max></SummaryOfOverallLatency>
<SummaryOfTimingAnalysis><EstimatedClockPeriod>2.433</EstimatedClockPeriod></SummaryOfTimingAnalysis>
</PerformanceEstimates><AreaEstimates>
<Resources><BRAM_18K>3</BRAM_18K><DSP>4</DSP><FF>500</FF><LUT>600</LUT><URAM>0</URAM></Resources>
<AvailableResources><BRAM_18K>624</BRAM_18K><DSP>1728</DSP><FF>460800</FF><LUT>230400</LUT><URAM>96</URAM>
</AvailableResources></AreaEstimates></profile>
"""


def test_synthesis_with_a_stand_in_for_vitis(
    project: tuple[Path, Graph], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project[0], folder)
    tool = tmp_path / "bin" / "vitis_hls"
    tool.parent.mkdir()
    report = "build_hls/sol1/syn/report"
    tool.write_text(
        f'#!/bin/sh\necho "$@" > arguments\nmkdir -p {report}\n'
        f"cat > {report}/csynth.xml <<X\n{REPORT}X\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    got = csim.synthesis(folder)
    assert (folder / "arguments").read_text().strip() == "-f run_hls.tcl -tclargs csynth"
    assert isinstance(got, dict)
    assert (got["latency_min"], got["latency_max"], got["interval_max"]) == (120, None, 99)
    assert got["clock_ns"] == 2.433
    assert got["resources"] == {"lut": 600, "ff": 500, "dsp": 4, "bram18": 3, "uram": 0}
