# SPDX-License-Identifier: Apache-2.0
"""Open synthesis of a core with yosys: do the sources parse, and what do they cost."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from sievit.quant.errors import SievitError
from sievit.quant.params import Constants, CoreParams, Resources, camel

RTL = Path(__file__).resolve().parent

#: yosys cell -> its share of a resource
LUTS = {f"LUT{i}": 1.0 for i in range(1, 7)} | {
    "LUT6_2": 1.0, "SRL16E": 1.0, "SRLC32E": 1.0, "RAM32X1D": 2.0, "RAM64X1D": 2.0, "RAM128X1D":
    4.0, "RAM32M": 4.0, "RAM64M": 4.0, "RAM32M16": 8.0, "RAM64M8": 8.0, "RAM64X8SW": 8.0,
    "RAM256X1D": 8.0,
}  # fmt: skip
REGISTERS = ("FDRE", "FDSE", "FDCE", "FDPE")

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


def _read(top: str, parameters: dict[str, int | str]) -> str:
    values = " ".join(
        f'-G{k}="{v}"' if isinstance(v, str) else f"-G{k}={v}" for k, v in parameters.items()
    )
    files = sorted(p for p in (RTL / "lib").glob("*.sv") if p.stem != "axis_checker")
    core = RTL / "cores" / f"{top}.sv"
    sources = " ".join(str(p) for p in [*files, *([core] if core.exists() else [])])
    return f"read_slang --threads 1 --top {top} {values} {sources}"


def parse(top: str) -> None:
    """Elaborate a module of ``rtl/lib`` or ``rtl/cores`` with its default parameters."""
    with tempfile.TemporaryDirectory() as folder:
        _yosys([_read(top, {}), f"hierarchy -check -top {top}"], Path(folder))


def yosys_stat(
    stem: str, params: CoreParams, constants: Constants | None = None, family: str = "xcup"
) -> Resources:
    """Resources of one core after ``synth_xilinx``.

    Without ``constants`` the memories keep their size and unknown contents.
    """
    parameters: dict[str, int | str] = dict(params.sv_parameters())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key, memory in params.memories(constants).items() if constants else ():
            (folder / f"{key}.hex").write_text(memory.hex())
            parameters[f"{camel(key)}File"] = f"{key}.hex"
        no_dsp = "" if params.resources().dsp else "-nodsp "  # yosys ignores use_dsp = "no"
        synth = f"synth_xilinx -family {family} -noiopad -noclkbuf -flatten {no_dsp}-top {stem}"
        stat = "tee -q -o stat.json stat -json"
        _yosys([_read(stem, parameters), synth, stat], folder)
        report = json.loads((folder / "stat.json").read_text())
    cells = report["design"]["num_cells_by_type"]

    def count(*names: str) -> int:
        return sum(cells.get(n, 0) for n in names)

    return Resources(
        lut=sum(share * count(n) for n, share in LUTS.items()),
        ff=count(*REGISTERS),
        dsp=count("DSP48E2", "DSP48E1"),
        bram36=count("RAMB36E2", "RAMB36E1") + count("RAMB18E2", "RAMB18E1") / 2,
        uram=count("URAM288"),
    )
