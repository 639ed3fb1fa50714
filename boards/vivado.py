# SPDX-License-Identifier: Apache-2.0
"""A Vivado project for a Zynq board: ``shell.tcl`` and what it reads.

::

    vivado/shell.tcl      the same for all boards
    vivado/settings.tcl   what depends on board and model
    vivado/ip/            sources and, in mem/, memory images; the top is MODEL_axi.v

All paths are relative to the folder ``vivado``, which may be moved to another machine (with
``hls/`` beside it if the core is that of Vitis HLS); the same build gives the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sievit.boards import top
from sievit.boards.board import Board, BoardError
from sievit.boards.device import Interface
from sievit.boards.interface import load_graph
from sievit.boards.package import add_bitstream, package
from sievit.boards.shell import word_bytes
from sievit.hls import codegen as hls_codegen
from sievit.quant.graph import Graph
from sievit.quant.sources import ROOT, rtl_sources
from sievit.quant.tools import ToolError
from sievit.rtl import codegen

#: of rtl/; a source includes others by their place in it
FOLDERS = ("lib", "cores", "shell")
SETTINGS = "settings.tcl"
SCRIPT = Path(__file__).resolve().parent / "shell.tcl"
#: what Vivado leaves in the project folder
BIT, HWH = "accelerator.bit", "accelerator.hwh"
EXPORT = "vitis_hls -f run_hls.tcl -tclargs csynth export"
COMMAND = ["vivado", "-mode", "batch", "-nojournal", "-source", "shell.tcl"]


def sources(graph: Graph, core: str) -> list[Path]:
    """Files of the library that a design needs, with what they include."""
    found = set((ROOT / "rtl" / "lib").glob("*.sv*")) if core == "rtl" else set()
    found |= {ROOT / "rtl" / "lib" / f"{name}.sv" for name in ("skid_buffer", "axis_fifo")}
    found |= {
        ROOT / "rtl" / "shell" / f"{name}.sv"
        for name in ("axi_shell", "shell_regs", "frame_guard", "batch_framer")
    }
    if core == "rtl":
        found |= {p for node in graph.nodes for p in rtl_sources(node.core)}
    return sorted(p for p in found if p.stem != "axis_checker")


def settings(board: Board, graph: Graph, found: Interface, core: str, folder: Path) -> str:
    """Text of ``settings.tcl``; ``folder``: where the sources lie."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + path.read_bytes())
    widths = [8 * word_bytes(port) for port in (found.input, found.output)]
    design: dict[str, Any] = {
        "model": graph.name,
        "build": found.build,
        "top": top.name(found),
        "core": core,
        "hls_top": hls_codegen.identifier(graph.name),
        "sources": sorted(n for n in files if not n.startswith("mem/")),
        "digest": digest.hexdigest(),
        # clock of the DSP blocks over that of the cores
        "pump": 2 if core == "rtl" and codegen.pumped(graph) else 1,
        "in_width": widths[0],
        # a stream of the DMA is no wider than its memory port
        "mm2s_width": max(32, board.dma_width, widths[0]),
        "s2mm_width": max(32, board.dma_width, widths[1]),
    }
    keys = ("name", "part", "board_part", "ps", "clock_mhz", "dma_width")
    lines = ["# SPDX-License-Identifier: Apache-2.0", f"# {graph.name} for {board.title}"]
    for name, values in (("board", {k: getattr(board, k) for k in keys}), ("design", design)):
        lines += [f"set {name} {{", *(f"  {k} {_word(v)}" for k, v in values.items()), "}"]
    return "\n".join(lines) + "\n"


def _word(value: Any) -> str:
    """A Tcl word inside braces."""
    if isinstance(value, list):
        return "{" + " ".join(value) + "}"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if text and not set(text) & set(' {}"$[];\\') else "{" + text + "}"


def generate(build_dir: Path, board: Board, core: str = "rtl") -> Path:
    """Write the project of a build; returns its folder, ``build_dir/vivado``. One that is there and
    would be the same stays, with all that Vivado made in it.

    Raises BoardError if the board has no such project, DeviceError if the build is not whole.
    """
    if board.exclude_category:
        raise BoardError(f"board {board.name}: no bitstream: {board.exclude_reason}")
    graph, found = load_graph(build_dir)
    folder = build_dir / "vivado"
    part = build_dir / "vivado.part"
    shutil.rmtree(part, ignore_errors=True)
    for name in FOLDERS:
        (part / "ip" / name).mkdir(parents=True)
    for path in sources(graph, core):
        shutil.copy(path, part / "ip" / path.parent.name)
    if core == "rtl":  # in primitives of the device
        shutil.copy(ROOT / "rtl" / "xilinx" / "add3.sv", part / "ip" / "lib")
        codegen.generate(graph, part / "ip")
    source = top.source(found, core, core == "rtl" and codegen.pumped(graph))
    (part / "ip" / f"{top.name(found)}.v").write_text(source)
    shutil.copy(SCRIPT, part / SCRIPT.name)
    (part / SETTINGS).write_text(settings(board, graph, found, core, part / "ip"))
    if all(_same(folder / name, part / name) for name in (SCRIPT.name, SETTINGS)):
        shutil.rmtree(part)
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def _same(a: Path, b: Path) -> bool:
    return a.is_file() and a.read_bytes() == b.read_bytes()


def bitstream(build: Any, core: str = "rtl") -> None:
    """Write the project and the package for the board, and run Vivado where there is one; without
    it say what is ready and what to call.

    Raises BoardError, DeviceError, and ToolError if Vivado fails.
    """
    folder = generate(build.folder, build.board, core)

    def say(text: str) -> None:
        build.console.print(text, soft_wrap=True, markup=False, highlight=False)

    say(f"Vivado project  {folder}")
    say(f"for the board   {package(build)}")
    results = [folder / name for name in (BIT, HWH)]
    if not all(path.is_file() for path in results):
        missing = []
        if core == "hls" and not any((build.folder / "hls" / "build_hls").glob("*/impl/ip")):
            hls = (build.folder / "hls").resolve()
            missing.append(f"the IP of Vitis HLS; in {hls}:\n  {EXPORT}")
        if shutil.which("vivado") is None:
            missing.append(
                "Vivado, which is not on PATH; where it is (the folder may be moved there, with "
                f"hls beside it), in {folder.resolve()}:\n  {' '.join(COMMAND)}\n"
                f"then bring {BIT} and {HWH} back into the folder, and call this again"
            )
        if missing:
            say("no bitstream was made; missing: " + "\nand ".join(missing))
            return
        with build.step("Vivado") as note:
            log = folder / "vivado.log"
            with log.open("w") as out:
                done = subprocess.run(COMMAND, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
            if done.returncode or not all(path.is_file() for path in results):
                for path in results:
                    path.unlink(missing_ok=True)
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise ToolError("vivado", f"ended with status {done.returncode}", f"{log}:\n{tail}")
            note["text"] = "timing met; utilisation.rpt and timing.rpt lie beside the project"
    say(f"bitstream       {add_bitstream(build.folder, *results)}")
