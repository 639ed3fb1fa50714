# SPDX-License-Identifier: Apache-2.0
"""Open synthesis of a core with yosys: do the sources parse, and what do they cost."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sievit.quant.errors import SievitError
from sievit.quant.params import Constants, CoreParams, Resources, camel
from sievit.quant.sources import rtl_sources
from sievit.rtl import netlist
from sievit.rtl.netlist import Timing

RTL = Path(__file__).resolve().parent

# yosys keeps global state and may end the process on an error, so every run is a process of its own
_SCRIPT = """
import sys
from pyosys import libyosys as ys
design = ys.Design()
for line in sys.stdin.read().splitlines():
    ys.run_pass(line, design)
"""


class SynthesisError(SievitError):
    """yosys refused a design."""


def _yosys(commands: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input="\n".join(commands),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    log = done.stdout + done.stderr
    if done.returncode:
        raise SynthesisError(f"yosys failed ({done.returncode}):\n{log.strip()[-4000:]}")
    return log


def read_command(top: str, parameters: dict[str, int | str], primitives: str = "") -> str:
    """The yosys command that elaborates a module of ``rtl/lib`` or ``rtl/cores``; ``primitives``:
    folder of ``rtl`` with modules that take the place of those of the same name."""
    values = " ".join(
        f'-G{k}="{v}"' if isinstance(v, str) else f"-G{k}={v}" for k, v in parameters.items()
    )
    found = {p.stem: p for p in (RTL / "lib").glob("*.sv") if p.stem != "axis_checker"}
    if primitives:
        found |= {p.stem: p for p in (RTL / primitives).glob("*.sv")}
    files = [found[stem] for stem in sorted(found)]
    core = RTL / "cores" / f"{top}.sv"
    sources = " ".join(str(p) for p in [*files, *([core] if core.exists() else [])])
    return f"read_slang --threads 1 --top {top} {values} {sources}"


def without_dsp_blocks(read: str, top: str) -> list[str]:
    """The same, flat, with every ``dsp_blocks`` as a black box: yosys knows neither the registers
    nor the cascade of a DSP block. Its size is in the width of its ports, so each is a module of
    its own: ``dsp_blocks$`` and where it stands."""
    return [
        read.replace("read_slang", "read_slang --keep-hierarchy"),
        "blackbox =dsp_blocks$*",
        f"hierarchy -check -top {top}",
        "flatten -noscopeinfo",
    ]


def parse(top: str) -> None:
    """Elaborate a module of ``rtl/lib`` or ``rtl/cores`` with its default parameters."""
    with tempfile.TemporaryDirectory() as folder:
        _yosys([read_command(top, {}), f"hierarchy -check -top {top}"], Path(folder))


@dataclass(frozen=True)
class Synthesis:
    """What one run of open synthesis says about a core."""

    resources: Resources
    timing: Timing


def synthesise(
    stem: str, params: CoreParams, constants: Constants | None = None, family: str = "xcup"
) -> Synthesis:
    """Resources and longest paths of one core after ``synth_xilinx``.

    ``family``: as in ``synth_xilinx -family``. Without ``constants`` the memories keep their size
    and unknown contents. Raises SynthesisError if yosys refuses the core.
    """
    parameters: dict[str, int | str] = dict(params.sv_parameters())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key, memory in params.images(constants).items() if constants else ():
            for file, text in memory.files(f"{key}.hex").items():
                (folder / file).write_text(text)
            parameters[f"{camel(key)}File"] = f"{key}.hex"
        predicted = params.resources()
        # yosys ignores use_dsp = "no", and makes no URAM unless told to
        options = "" if predicted.dsp else "-nodsp "
        options += "-uram " if predicted.uram else ""
        synth = f"synth_xilinx -family {family} -noiopad -noclkbuf -flatten {options}-top {stem}"
        # without a chain yosys makes more of the design when it reads it flat
        chained = any(path.stem == netlist.CHAINS for path in rtl_sources(stem)) and predicted.dsp
        read = read_command(stem, parameters, "xilinx")
        commands = without_dsp_blocks(read, stem) if chained else [read]
        _yosys([*commands, synth, "write_json netlist.json"], folder)
        module = json.loads((folder / "netlist.json").read_text())["modules"][stem]
    for cell in module["cells"].values():
        if cell["type"].startswith(f"{netlist.CHAINS}$"):
            cell["type"] = netlist.CHAINS
    return Synthesis(netlist.resources(module), netlist.timing(module))


def yosys_stat(
    stem: str, params: CoreParams, constants: Constants | None = None, family: str = "xcup"
) -> Resources:
    """The resources of :func:`synthesise`."""
    return synthesise(stem, params, constants, family).resources


def timing(
    stem: str, params: CoreParams, constants: Constants | None = None, family: str = "xcup"
) -> Timing:
    """The longest paths of :func:`synthesise`."""
    return synthesise(stem, params, constants, family).timing
