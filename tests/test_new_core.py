# SPDX-License-Identifier: Apache-2.0
"""A new core is a working start: it imports, lints, compiles and simulates like its golden."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sievit.quant.cores as library
from sievit.flow.new_core import NewCoreError, new_core
from sievit.quant.itype import IntType
from sievit.quant.params import core_names, load_core
from sievit.sim import harness, runner

ROOT = Path(__file__).resolve().parent.parent
NAME = "demo_merge"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with this one's libraries, without its cores' benches."""
    for folder in ("rtl/lib", "hls/lib", "quant/cores"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for folder in ("rtl/cores", "hls/cores", "sim/cores"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def core(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new core, importable; its repository."""
    new_core(NAME, root)
    monkeypatch.setattr(library, "__path__", [*library.__path__, str(root / "quant" / "cores")])
    importlib.invalidate_caches()
    yield root
    sys.modules.pop(f"sievit.quant.cores.{NAME}", None)
    vars(library).pop(NAME, None)


def everything(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def test_writes_four_files_and_nothing_else(root: Path) -> None:
    before = everything(root)
    files = new_core(NAME, root)
    assert [path.relative_to(root).as_posix() for path in files] == [
        f"quant/cores/{NAME}.py",
        f"rtl/cores/{NAME}.sv",
        f"hls/cores/{NAME}.hpp",
        f"sim/cores/test_{NAME}.py",
    ]
    assert everything(root) - before == set(files)
    for path in files:
        text = path.read_text()
        assert "SPDX-License-Identifier: Apache-2.0" in text.splitlines()[0]
        assert "$" not in text and max(map(len, text.splitlines())) <= 100


def test_golden_runs(core: Path) -> None:
    assert NAME in core_names()
    entry = load_core(NAME)
    params = entry.params(channels=6, simd=3, in_type=IntType(5, False), max_tokens=4)  # type: ignore[call-arg]
    assert entry.params.from_dict(params.to_dict()) == params
    constants, (x,) = entry.stimuli(torch.Generator().manual_seed(0), params, 5)
    assert entry.golden(params, constants, x) == x
    assert params.cycles(4) == 8 and params.resources().lut > 0
    assert {"simd": 6} in list(params.foldings())


def test_the_three_languages_agree_on_parameters(core: Path) -> None:
    params = load_core(NAME).params()
    rtl = (core / f"rtl/cores/{NAME}.sv").read_text()
    hls = (core / f"hls/cores/{NAME}.hpp").read_text()
    found = re.findall(r"parameter (?:int unsigned|bit) (\w+) = (\d+)", rtl)
    assert {name: int(value) for name, value in found} == params.sv_parameters()
    found = re.findall(r"static constexpr int (\w+) = (\d+);", hls)
    assert {name: int(value) for name, value in found} == params.flat()


def test_style(core: Path) -> None:
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    assert ruff, "ruff is part of the dev extra"
    files = [core / f"quant/cores/{NAME}.py", core / f"sim/cores/test_{NAME}.py"]
    # outside the repository ruff does not know that these are ours
    check = ["check", "--ignore", "RUF009", "--config", 'lint.isort.known-first-party=["sievit"]']
    for action in (check, ["format", "--check"]):
        command = [ruff, *action, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
        done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.sampled(1)
@pytest.mark.parametrize("signed", [0, 1])
def test_hls_compiles(core: Path, tmp_path: Path, signed: int) -> None:
    spec = importlib.util.find_spec("hls4ml")
    assert spec and spec.origin
    types = Path(spec.origin).parent / "templates" / "vivado" / "ap_types"
    source = tmp_path / "use.cpp"
    source.write_text(
        f'#include "{core}/hls/cores/{NAME}.hpp"\n'
        f"struct config : sievit::{NAME}_config {{ static constexpr int in_signed = {signed}; }};\n"
        "int main() {\n"
        "  hls::stream<sievit::beat<16>> in, out;\n"
        "  for (int i = 0; i < 3; i++) in.write({0xf107 + i, i == 2, i == 2});\n"
        f"  sievit::{NAME}<config>(in, out);\n"
        "  for (int i = 0; i < 3; i++) {\n"
        "    const auto x = out.read();\n"
        "    if (x.data != 0xf107 + i || x.last != (i == 2) || x.user != (i == 2)) return 1;\n"
        "  }\n"
        "  return out.empty() ? 0 : 2;\n"
        "}\n"
    )
    flags = [
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Wno-unknown-pragmas",
        "-Wno-unused-label",
        "-isystem",
        str(types),
    ]
    program = tmp_path / "use"
    done = subprocess.run(
        ["g++", *flags, str(source), "-o", str(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if f"{NAME}.hpp" in line], done.stderr
    assert subprocess.run([str(program)]).returncode == 0


def test_rtl_lints_and_simulates(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LIBRARY", [ROOT / "rtl" / "lib", core / "rtl" / "cores"])
    runner.lint(NAME, [core / "rtl" / "cores" / f"{NAME}.sv"], {"InSigned": 0, "Channels": 6})
    monkeypatch.setattr(harness, "build_root", lambda: core / "build")
    params = load_core(NAME).params(max_tokens=5)
    results = harness.check_core(NAME, params, seed=1, exact_rate=True)
    measured = results["rate"]
    assert measured.out_first[0] - measured.in_first[0] == params.head_latency(5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("TokenMerge", "small letters"),
        ("token-merge", "small letters"),
        ("token__merge", "small letters"),
        ("2d_conv", "small letters"),
        ("../evil", "small letters"),
        ("", "small letters"),
        ("x" * 25, "25 characters; at most 24"),
        ("table", "'table' is a word of SystemVerilog; add a noun"),
        ("template", "a word of C++"),
        ("lambda", "a word of Python"),
        ("torch", "a word of Python"),
        ("residual_add", r"'residual_add' is taken: .*residual_add.py exists"),
        ("skid_buffer", r"is taken: .*rtl/lib/skid_buffer.sv exists"),
        ("widen", r"is taken: .*hls/lib/axis.hpp uses it"),
    ],
)
def test_refused_names(root: Path, name: str, reason: str) -> None:
    before = everything(root)
    with pytest.raises(NewCoreError, match=reason):
        new_core(name, root)
    assert everything(root) == before


def test_all_or_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_core(NAME, root)
    (root / "quant/cores" / f"{NAME}.py").unlink()
    before = everything(root)
    with pytest.raises(NewCoreError, match=rf"taken: .*{NAME}.sv exists"):
        new_core(NAME, root)
    link = os.link
    calls: list[Path] = []

    def full_disk(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError("no space left")
        link(source, target)

    monkeypatch.setattr(os, "link", full_disk)
    with pytest.raises(NewCoreError, match="nothing was written: no space left"):
        new_core("other_core", root)
    assert len(calls) == 3 and everything(root) == before


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(NewCoreError, match="give the root of the repository"):
        new_core(NAME, tmp_path)
