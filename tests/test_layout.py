# SPDX-License-Identifier: Apache-2.0
"""One stem per core in four folders, one set of parameters in three languages."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sievit.quant.params import camel, core_names, load_core
from sievit.rtl import synth
from sievit.sim.runner import lint

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    p for f in ("cores", "lib", "shell") for p in ROOT.glob(f"rtl/{f}/*.sv")
    if not p.stem.endswith("_pkg")
)  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    ["quant/cores/*.py", "rtl/cores/*.sv", "hls/cores/*.hpp", "sim/cores/test_*.py"],
)
def test_stems(pattern: str) -> None:
    stems = {p.stem.removeprefix("test_") for p in ROOT.glob(pattern)} - {"__init__"}
    assert stems == set(core_names())


def declared(text: str) -> dict[str, int | str]:
    """Parameters of the module header with their defaults."""
    header = re.search(r"^module \w+ #\((.*?)\n\) \(", text, re.S | re.M)
    assert header, "no parameter list"
    body = re.sub(r"//[^\n]*", "", header[1])
    out: dict[str, int | str] = {}
    for item in re.findall(r"\bparameter\b[^,]*", body):
        match = re.fullmatch(r"parameter\s+(?:[\w ]+\s)?(\w+)\s*=\s*(\S+)\s*", item)
        assert match, f"cannot read {item!r}"
        out[match[1]] = match[2].strip('"') if match[2].startswith('"') else int(match[2])
    return out


@pytest.mark.parametrize("stem", core_names())
def test_parameters(stem: str) -> None:
    core = load_core(stem)
    params = core.params()
    have = declared((ROOT / "rtl" / "cores" / f"{stem}.sv").read_text())
    files = {name for name, value in have.items() if value == ""}
    assert {k: v for k, v in have.items() if k not in files} == params.sv_parameters()
    if params.can_share():
        params = replace(params, sets=2)
    constants, _ = core.stimuli(torch.Generator().manual_seed(0), params, 2)
    assert files == {f"{camel(key)}File" for key in params.images(constants)}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_lint(path: Path) -> None:
    lint(path.stem)


# axis_checker is instantiated by benches alone
@pytest.mark.parametrize(
    "path", [m for m in MODULES if m.stem != "axis_checker"], ids=lambda p: p.stem
)
def test_yosys_parses(path: Path) -> None:
    if path.parent.name != "shell":
        synth.parse(path.stem)
        return
    files = " ".join(str(p) for p in sorted(path.parent.glob("*.sv")))
    read = f"{synth.read_command(path.stem, {})} {files}"
    synth._yosys([read, f"hierarchy -check -top {path.stem}"], ROOT)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_module_is_named_after_its_file(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("// SPDX-License-Identifier: Apache-2.0\n")
    assert re.findall(r"^module (\w+)", text, re.M) == [path.stem]
