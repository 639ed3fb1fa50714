# SPDX-License-Identifier: Apache-2.0
"""The Vivado project of every board, run by a Tcl in which Vivado's commands only record."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from device_network import TOKENS, network, two_clocks
from rich.console import Console

from sievit.boards import board as boards
from sievit.boards import check, package, top, vivado
from sievit.boards.board import Board, BoardError
from sievit.boards.device import DeviceError
from sievit.boards.interface import interface
from sievit.quant.params import Stream
from sievit.quant.sources import ROOT
from sievit.quant.tools import ToolError
from sievit.sim import runner

ZYNQ = [
    b.name
    for b in map(boards.load, boards.names())
    if b.toolchain == "vivado" and not b.exclude_category
]

#: every other command that Tcl does not know is an error, so that none is misspelt
STUBS = r"""
set calls [open CALLS w]
fconfigure $calls -encoding utf-8
proc record {name arguments} {
  set words [lmap x [list $name {*}$arguments] { regsub -all {\s+} [string trim $x] { } }]
  puts $::calls [join $words "\x1f"]
}
foreach name {
    create_project set_property update_compile_order close_project update_ip_catalog
    create_bd_design create_bd_cell apply_bd_automation connect_bd_net connect_bd_intf_net
    assign_bd_address validate_bd_design save_bd_design wait_on_run open_run
    report_utilization report_timing_summary ipx::package_project ipx::create_xgui_files
    ipx::update_checksums ipx::check_integrity ipx::save_core} {
  namespace eval ipx {}
  proc $name {args} "record $name \$args"
}
foreach {name value} {current_project project current_fileset sources_1 ipx::current_core core} {
  proc $name {args} "return $value"
}
foreach name {get_bd_cells get_bd_pins get_bd_intf_pins get_bd_addr_segs get_files get_runs} {
  proc $name {args} { lindex $args end }
}
proc make_wrapper {args} { record make_wrapper $args; return shell_wrapper.v }
proc add_files {args} {
  record add_files $args
  foreach path [lindex $args end] {
    if {$path ne "shell_wrapper.v" && ![file exists $path]} { error "add_files: no $path" }
  }
}
proc launch_runs {args} {
  record launch_runs $args
  set place [file join HERE project project.gen sources_1 bd shell hw_handoff]
  file mkdir $place
  close [open [file join $place shell.hwh] w]
  close [open [file join HERE project shell_wrapper.bit] w]
}
proc get_property {name run} {
  dict get {PROGRESS PERCENT STATUS failed STATS.WNS SLACK DIRECTORY {HERE/project}} $name
}
rename exit tcl_exit
proc exit {} { close $::calls; tcl_exit 0 }
set argv {STEP}
cd /
source SCRIPT
"""


def run_tcl(
    folder: Path, step: str = "", percent: str = "100%", slack: str = "0.1"
) -> subprocess.CompletedProcess[str]:
    """Run ``shell.tcl`` of a project; what it called is in ``calls`` of its parent."""
    text = STUBS.replace("CALLS", str(folder.parent / "calls")).replace("HERE", str(folder))
    text = text.replace("PERCENT", percent).replace("SLACK", slack).replace("STEP", step)
    script = folder.parent / "stubs.tcl"
    script.write_text(text.replace("SCRIPT", str(folder / "shell.tcl")))
    tclsh = shutil.which("tclsh")
    other = [sys.executable, "-c", f"import tkinter; tkinter.Tcl().eval('source {script}')"]
    command = [tclsh, str(script)] if tclsh else other
    return subprocess.run(command, capture_output=True, text=True)


def calls(folder: Path) -> list[list[str]]:
    text = (folder.parent / "calls").read_text(encoding="utf-8")
    return [line.split("\x1f") for line in text.splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build as far as the project needs it."""
    folder = tmp_path_factory.mktemp("build")
    graph = network()
    graph.save(folder / "graph")
    interface(graph, folder / "graph").save(folder)
    return folder


@pytest.fixture
def build(finished: Path, tmp_path: Path) -> SimpleNamespace:
    """What ``bitstream`` takes of a Build."""
    folder = tmp_path / "build"
    shutil.copytree(finished, folder)
    rng = torch.Generator().manual_seed(1)
    x = Stream.full(torch.randint(-512, 512, (12, TOKENS, 6), generator=rng))
    from sievit.flow.build import Build

    made = SimpleNamespace(
        name="device_net", folder=folder, board=boards.load("zcu102"), times={},
        console=Console(file=StringIO(), width=200), frames=lambda: x,
    )  # fmt: skip
    made.step = lambda name: Build.step(made, name)  # type: ignore[arg-type]
    return made


def expected(board: Board, core: str) -> list[tuple[str, str]]:
    """What the data of the board asks for: connections of interfaces, and of clocks and resets."""
    ultra = board.ps == "zynq_ultra_ps_e"
    ports = (
        "pl_clk0 pl_resetn0 M_AXI_HPM0_FPD maxihpm0_fpd_aclk S_AXI_HP0_FPD saxihp0_fpd_aclk"
        if ultra
        else "FCLK_CLK0 FCLK_RESET0_N M_AXI_GP0 M_AXI_GP0_ACLK S_AXI_HP0 S_AXI_HP0_ACLK"
    )
    clock, reset, master, master_clock, slave, slave_clock = (f"ps/{p}" for p in ports.split())
    bus = (
        f"clock/clk_in1 bus_reset/slowest_sync_clk control/aclk memory/aclk {master_clock} "
        f"{slave_clock} dma/s_axi_lite_aclk dma/m_axi_mm2s_aclk dma/m_axi_s2mm_aclk "
        "to_accelerator/s_axis_aclk from_accelerator/m_axis_aclk"
    )
    fast = (
        "core_reset/slowest_sync_clk control/aclk1 accelerator/clk_i to_accelerator/m_axis_aclk "
        "from_accelerator/s_axis_aclk"
    )
    quiet = "control/aresetn memory/aresetn dma/axi_resetn to_accelerator/s_axis_aresetn"
    out = [(clock, p) for p in bus.split()] + [("clock/clk_out1", p) for p in fast.split()]
    out += [
        (reset, p) for p in "clock/resetn bus_reset/ext_reset_in core_reset/ext_reset_in".split()
    ]
    out += [("bus_reset/peripheral_aresetn", p) for p in quiet.split()]
    out += [
        ("clock/locked", "core_reset/dcm_locked"),
        ("core_reset/peripheral_aresetn", "accelerator/rst_ni"),
        ("accelerator/core_rst_no", "from_accelerator/s_axis_aresetn"),
        (master, "control/S00_AXI"),
        ("control/M00_AXI", "dma/S_AXI_LITE"),
        ("control/M01_AXI", "accelerator/s_axil"),
        ("dma/M_AXI_MM2S", "memory/S00_AXI"),
        ("dma/M_AXI_S2MM", "memory/S01_AXI"),
        ("memory/M00_AXI", slave),
        ("dma/M_AXIS_MM2S", "to_accelerator/S_AXIS"),
        ("to_accelerator/M_AXIS", "accelerator/s_axis"),
        ("accelerator/m_axis", "from_accelerator/S_AXIS"),
        ("from_accelerator/M_AXIS", "dma/S_AXIS_S2MM"),
    ]
    if core == "hls":
        out += [
            ("clock/clk_out1", "core/ap_clk"),
            ("accelerator/core_rst_no", "core/ap_rst_n"),
            ("control/M02_AXI", "core/s_axi_control"),
            ("accelerator/m_axis_core", "core/s_axis"),
            ("core/m_axis", "accelerator/s_axis_core"),
        ]
    return out


@pytest.mark.parametrize("core", ["rtl", "hls"])
@pytest.mark.parametrize("name", ZYNQ)
def test_project(build: SimpleNamespace, name: str, core: str) -> None:
    board = boards.load(name)
    folder = vivado.generate(build.folder, board, core)
    if core == "hls":
        done = run_tcl(folder)
        assert done.returncode and "run vitis_hls -f run_hls.tcl" in done.stderr + done.stdout
        (build.folder / "hls" / "build_hls" / "sol1" / "impl" / "ip").mkdir(parents=True)
    done = run_tcl(folder)
    assert done.returncode == 0, done.stderr
    got = calls(folder)
    # the part and the board are those of the data, in both projects
    assert [c[-1] for c in got if c[0] == "create_project"] == [board.part] * 2
    assert ["set_property", "board_part", board.board_part, "project"] in got
    cells = {c[5]: c[4] for c in got if c[0] == "create_bd_cell"}
    assert cells["ps"] == f"xilinx.com:ip:{board.ps}"
    assert ("core" in cells) == (core == "hls")
    if core == "hls":
        assert cells["core"] == "xilinx.com:hls:device_net:1.0"
    options = {
        c[-1]: dict(zip(c[2].split()[::2], c[2].split()[1::2], strict=True))
        for c in got
        if c[:2] == ["set_property", "-dict"]
    }
    width = [v for k, v in options["ps"].items() if k.endswith("_DATA_WIDTH")]
    assert width == [str(board.dma_width)]
    assert float(options["clock"]["CONFIG.CLKOUT1_REQUESTED_OUT_FREQ"]) == board.clock_mhz
    assert options["clock"]["CONFIG.PRIM_IN_FREQ"] == "100"
    dma = options["dma"]
    assert dma["CONFIG.c_m_axis_mm2s_tdata_width"] == "32"  # 20 bits
    assert dma["CONFIG.c_m_axi_mm2s_data_width"] == str(board.dma_width)
    assert dma["CONFIG.c_include_sg"] == "0" and dma["CONFIG.c_sg_length_width"] == "26"
    assert options["control"]["CONFIG.NUM_MI"] == ("3" if core == "hls" else "2")
    # connections
    made = [(c[1], c[2]) for c in got if c[0] in ("connect_bd_net", "connect_bd_intf_net")]
    assert sorted(made) == sorted(expected(board, core))
    assert {end.split("/")[0] for pair in made for end in pair} == set(cells)
    assert max(Counter(to for _, to in made).values()) == 1  # nothing is driven twice
    # addresses
    base = 0xA0000000 if board.ps == "zynq_ultra_ps_e" else 0x40000000
    places = [(c[2], c[5]) for c in got if c[0] == "assign_bd_address" and len(c) > 1]
    ports = ["dma/S_AXI_LITE", "accelerator/s_axil", "core/s_axi_control"][: len(places)]
    assert places == [(f"0x{base + 0x10000 * i:08X}", f"{p}/*") for i, p in enumerate(ports)]
    # the order of the steps
    steps = [c[0] for c in got]
    order = [
        "create_project", "add_files", "ipx::package_project", "ipx::save_core", "close_project",
        "create_bd_design", "create_bd_cell", "apply_bd_automation", "connect_bd_net",
        "connect_bd_intf_net", "assign_bd_address", "validate_bd_design", "save_bd_design",
        "make_wrapper", "launch_runs", "wait_on_run", "open_run", "report_timing_summary",
    ]  # fmt: skip
    assert [steps.index(s) for s in order] == sorted(steps.index(s) for s in order)
    assert (folder / vivado.BIT).is_file() and (folder / vivado.HWH).is_file()


def test_sources_are_complete(build: SimpleNamespace) -> None:
    """What is packaged is what Verilator takes for the whole design, and no more."""
    for core in ("rtl", "hls"):
        folder = vivado.generate(build.folder, build.board, core)
        (build.folder / "hls" / "build_hls" / "sol1" / "impl" / "ip").mkdir(
            parents=True, exist_ok=True
        )
        assert run_tcl(folder, "project").returncode == 0
        got = calls(folder)
        assert not any(c[0] == "launch_runs" for c in got)
        files = [Path(p) for p in next(c for c in got if c[0] == "add_files")[-1].split()]
        assert ["set_property", "top", "device_net_axi", "sources_1"] in got
        code = [p for p in files if p.suffix in (".sv", ".v")]
        packages = [p for p in code if p.stem.endswith("_pkg")]
        arguments = ["--lint-only", "-Wall", "--unroll-count", "4", str(runner.WAIVERS)]
        include = next(c[2] for c in got if c[:2] == ["set_property", "include_dirs"])
        arguments += [f"-I{include}", "--top-module", "device_net_axi"]
        arguments += [str(p) for p in [*packages, *(p for p in code if p not in packages)]]
        if core == "rtl":  # Vivado knows them
            arguments.append(str(ROOT / "rtl" / "xilinx" / "primitives.sv"))
        # modules of the library that this design has no use for are tops of their own
        arguments += ["-Wno-MULTITOP", "-Wno-DECLFILENAME"]
        runner.verilate(arguments)
        if core == "rtl":
            text = (folder / "ip" / "work" / "device_net.sv").read_text()
            names = re.findall(r'"([^"]*mem/[^"]*)"', text)
            assert names and all(name.startswith(str(folder)) for name in names)
            found = [p for n in names for p in Path(n).parent.glob(f"{Path(n).name}*")]
            assert len(found) >= len(names)
            assert (folder / "ip" / "work" / "device_net.sv") in files


def test_second_clock(build: SimpleNamespace) -> None:
    """A design with DSP blocks at twice the clock gets that clock, from where the other comes."""
    graph = two_clocks()
    shutil.rmtree(build.folder / "graph")
    graph.save(build.folder / "graph")
    interface(graph, build.folder / "graph").save(build.folder)
    folder = vivado.generate(build.folder, build.board)
    assert run_tcl(folder, "project").returncode == 0
    got = calls(folder)
    made = [(c[1], c[2]) for c in got if c[0] == "connect_bd_net"]
    assert sorted(set(made) - set(expected(build.board, "rtl"))) == [
        ("clock/clk_out2", "accelerator/clk2x_i")
    ]
    words = [c[2].split() for c in got if c[:2] == ["set_property", "-dict"] and c[-1] == "clock"]
    options = {k: v for w in words for k, v in zip(w[::2], w[1::2], strict=True)}
    assert options["CONFIG.CLKOUT1_REQUESTED_OUT_FREQ"] == "300"
    assert options["CONFIG.CLKOUT2_REQUESTED_OUT_FREQ"] == "600"
    path = folder / "ip" / "device_net_axi.v"
    runner.lint("device_net_axi", [path, folder / "ip" / "device_net.sv"])


def test_the_top_is_whole(build: SimpleNamespace) -> None:
    """Both tops against the shell in Verilator: every port connected, widths equal."""
    found = interface(network(), build.folder / "graph")
    for core in ("rtl", "hls"):
        path = build.folder / core / "device_net_axi.v"
        path.parent.mkdir()
        path.write_text(top.source(found, core))
        extra = []
        if core == "rtl":
            extra = [runner.codegen.generate(network(), path.parent)]
        runner.lint("device_net_axi", [path, *extra])
    text = path.read_text()
    assert ".InBits(24)" in text and ".OutBits(24)" in text  # whole bytes for Vitis HLS
    assert f"32'h{found.build[:8]}" in text and found.build in text


@pytest.mark.parametrize(
    ("slack", "percent", "reason"),
    [("-0.25", "100%", "timing is not met: slack -0.25 ns at 300 MHz"),
     ("0.1", "40%", "implementation failed")],
)  # fmt: skip
def test_tcl_notices(build: SimpleNamespace, slack: str, percent: str, reason: str) -> None:
    folder = vivado.generate(build.folder, build.board)
    done = run_tcl(folder, percent=percent, slack=slack)
    assert done.returncode and reason in done.stdout + done.stderr
    assert not (folder / vivado.BIT).exists()


def test_generate_again(build: SimpleNamespace) -> None:
    folder = vivado.generate(build.folder, build.board)
    (folder / vivado.BIT).write_text("kept")
    assert vivado.generate(build.folder, build.board) == folder
    assert (folder / vivado.BIT).read_text() == "kept"
    vivado.generate(build.folder, boards.load("kv260"))  # another board, another project
    assert not (folder / vivado.BIT).exists()
    assert not (build.folder / "vivado.part").exists()


def test_what_has_no_project(build: SimpleNamespace) -> None:
    with pytest.raises(BoardError, match="board vck190: no bitstream: Versal's CIPS"):
        vivado.generate(build.folder, boards.load("vck190"))
    shutil.rmtree(build.folder / "graph")
    with pytest.raises(DeviceError, match="run: sievit build"):
        vivado.generate(build.folder, build.board)
    assert not (build.folder / "vivado").exists()


# -- bitstream and package -----------------------------------------------------------------------


def text_of(build: SimpleNamespace) -> str:
    file = build.console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_without_vivado(build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    vivado.bitstream(build, "hls")
    text = text_of(build)
    assert (
        str((build.folder / "vivado").resolve()) in text and "  " + " ".join(vivado.COMMAND) in text
    )
    assert vivado.EXPORT in text and "no bitstream was made" in text
    # brought back from another machine
    for name in (vivado.BIT, vivado.HWH):
        (build.folder / "vivado" / name).write_text(name)
    vivado.bitstream(build, "hls")
    assert (build.folder / "deploy" / "device_net.bit").read_text() == vivado.BIT
    assert (build.folder / "deploy" / "device_net.hwh").read_text() == vivado.HWH
    check.verify(build.folder / "deploy")


def test_with_a_stand_in_for_vivado(
    build: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "vivado"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@" > arguments\necho broken\nexit 3\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    with pytest.raises(ToolError, match=r"vivado: ended with status 3; .*vivado\.log:\nbroken"):
        vivado.bitstream(build)
    tool.write_text('#!/bin/sh\necho "$@" > arguments\ntouch accelerator.bit accelerator.hwh\n')
    vivado.bitstream(build)
    folder = build.folder / "vivado"
    assert (folder / "arguments").read_text().split() == vivado.COMMAND[1:]
    assert (build.folder / "deploy" / "device_net.bit").is_file()


def test_package_runs_alone(build: SimpleNamespace, tmp_path: Path) -> None:
    """On a board there is neither torch nor the rest of the package, and an older Python."""
    import ast

    folder = package.package(build)
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 10))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                lazy = name in ("pynq", "sievit.sim.device")
                known = name.split(".")[0] in (*sys.stdlib_module_names, "numpy")
                assert known or lazy or name.startswith("sievit.boards."), name
    place = tmp_path / "elsewhere"
    shutil.copytree(folder, place)
    code = (
        "import sys; sys.path.insert(0, '.'); sys.modules['torch'] = None; "
        "from sievit.boards import check; sys.exit(check.main([]))"
    )

    def run() -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": site}
        return subprocess.run(
            [sys.executable, "-S", "-c", code],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
        )

    import numpy

    site = str(Path(numpy.__file__).parent.parent)
    done = run()
    assert done.returncode == 1 and "0 bitstreams in" in done.stderr, done.stderr
    (place / "net.bit").write_text("")
    assert "net.hwh is missing" in run().stderr
    (place / "net.hwh").write_text("")
    assert "PYNQ is not installed" in run().stderr
    (place / "interface.json").write_text("{}")
    done = run()
    assert done.returncode == 1 and "interface.json was changed" in done.stderr
