# SPDX-License-Identifier: Apache-2.0
"""Everything that a verification stage asks for, run to its end: writes ``sim/records``.

A step is one parameter set, or one figure, of one core. Finished steps are kept under
``build/soak`` with a digest of all that they depend on: an interrupted run goes on where it
stopped, and after a change only what it concerns is run again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sievit.quant.files import replace_section, write_atomic
from sievit.quant.params import CoreParams, core_names
from sievit.quant.sources import ROOT, bare
from sievit.sim import evidence
from sievit.sim.evidence import SEEDS, TOKENS

FRAMES = 10_000  # of the random graphs

#: files beside a core's own that decide what its steps find
BENCH = ("bench.py", "harness.py", "runner.py")


def parameter_sets(stem: str) -> list[CoreParams]:
    """The parameter sets that a core's bench declares."""
    return list(importlib.import_module(f"sievit.sim.cores.test_{stem}").SETS)


# -- the steps -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One unit of work. ``index``: the parameter set, where there is one."""

    core: str
    kind: str
    index: int = 0

    @property
    def name(self) -> str:
        return f"{self.core}.{self.kind}" + (f".{self.index}" if self.kind == "random" else "")

    def key(self) -> str:
        """Digest of everything that the result depends on."""
        text = [evidence.digest(self.core)] if self.core in core_names() else _everything()
        files = [ROOT / "sim" / name for name in BENCH]
        files += [ROOT / "tests" / "test_golden.py"] if self.kind == "golden" else []
        files += [ROOT / "sim" / "coverage.py"] if self.kind == "coverage" else []
        text += [bare(p) for p in files]
        if self.kind == "mutants":
            text += [bare(ROOT / "sim" / "mutate.py")]
            people = tomllib.loads((ROOT / "sim" / "mutants.toml").read_text())
            text += [repr((people["set"].get(self.core), people.get(self.core)))]
        return hashlib.sha256("\n".join([self.name, *text]).encode()).hexdigest()


def _everything() -> list[str]:
    files = [*ROOT.glob("rtl/**/*.sv"), *ROOT.glob("sim/formal/*"), *ROOT.glob("quant/**/*.py")]
    files += [ROOT / "sim" / "liveness.py", ROOT / "rtl" / "codegen.py"]
    return [bare(p) for p in sorted(files) if p.is_file()]


def steps(cores: list[str]) -> Iterator[Step]:
    """All steps of the given cores and those of the library. What may ask for a better bench comes
    first, the volume last."""
    if set(cores) == set(core_names()):
        yield Step("library", "liveness")
        yield Step("library", "formal")
    for kind in ("mutants", "coverage", "faults", "three_way", "golden"):
        for stem in cores:
            yield Step(stem, kind)
    for stem in cores:
        for i in range(len(parameter_sets(stem))):
            yield Step(stem, "random", i)


def run(step: Step) -> dict[str, Any]:
    """Carry out one step. Raises what it finds: AssertionError, SimulationError ..."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    if step.core == "library":
        return _library(step)
    from sievit.sim import harness

    sets = parameter_sets(step.core)
    if step.kind == "random":
        return harness.soak_set(step.core, sets[step.index], range(1, SEEDS + 1), TOKENS)
    if step.kind == "three_way":
        return {"sets": len(sets), "frames": harness.three_way_sets(step.core, sets, seed=1)}
    if step.kind == "faults":
        # a set in which every fault is possible: lanes can be swapped where there are two
        wide = max(sets, key=lambda p: min(p.output().lanes, 2))
        return harness.check_faults(step.core, wide, seed=1)
    if step.kind == "coverage":
        return harness.coverage(step.core, sets)
    if step.kind == "mutants":
        from sievit.sim.mutate import mutate

        return asdict(mutate(step.core))
    return _golden(step.core)


def _golden(stem: str) -> dict[str, Any]:
    """The core's tests against big-integer twins."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        tests = ROOT / "tests" / "test_golden.py"
        command = [sys.executable, "-m", "pytest", "-q", "-n0", f"--junitxml={report}", "-k", stem]
        subprocess.run([*command, str(tests)], cwd=ROOT, capture_output=True)
        suite = next(iter(ElementTree.parse(report).iter("testsuite")))
    count = {k: int(suite.get(k, "0")) for k in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"] + count["skipped"]
    return {"passed": count["tests"] - failed, "failed": failed}


def _library(step: Step) -> dict[str, Any]:
    if step.kind == "liveness":
        from sievit.sim import liveness

        return liveness.run(FRAMES, 1, Path("build/soak/liveness"))
    from sievit.sim import formal

    return {"proofs": [asdict(formal.prove(name)) for name in formal.proofs()]}


# -- all of them ---------------------------------------------------------------------------------


def soak(cores: list[str], folder: Path, console: Console, jobs: int = 2) -> dict[str, str]:
    """Run all steps of ``cores`` that have no result yet, and write the evidence of every core
    whose steps all passed. Returns the failures, text by step name."""
    todo, results, failures = [], {}, {}
    keys = {step: step.key() for step in steps(cores)}
    for step, key in keys.items():
        path = folder / f"{step.name}.json"
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if kept.get("key") == key:
            results[step] = kept["value"]
        else:
            todo.append((step, path, key))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        # ten times a second, as is usual, takes an eighth of a core for an hour
        Progress(*columns, TimeElapsedColumn(), console=console, refresh_per_second=1) as progress,
        ProcessPoolExecutor(jobs) as pool,
    ):
        bar = progress.add_task("soak", total=len(todo) + len(results), completed=len(results))
        running = {pool.submit(run, step): (step, path, key) for step, path, key in todo}
        try:
            for future in as_completed(running):
                step, path, key = running[future]
                try:
                    results[step] = future.result()
                    _write(path, {"key": key, "value": results[step]})
                except Exception as error:  # the others still run; every failure is reported
                    failures[step.name] = f"{type(error).__name__}: {error}"
                    console.print(f"FAILED {step.name}: {error}", style="red", markup=False)
                progress.update(bar, advance=1, description=step.name)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    for stem in cores:
        own = {s: v for s, v in results.items() if s.core == stem}
        if any(s.key() != keys[s] for s in own):
            failures[stem] = "sources have changed during the run; run it again"
        elif len(own) == sum(s.core == stem for s in keys):
            _write(evidence.EVIDENCE / f"{stem}.json", collect(stem, own))
    library = {s.kind: v for s, v in results.items() if s.core == "library"}
    if len(library) == 2:
        _write(evidence.EVIDENCE / "library.json", library)
    write_summary()
    return failures


def _write(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_summary() -> None:
    """Rewrite the tables of docs/verification.md from the evidence."""
    known = [evidence.status(stem) for stem in core_names()]
    head = ("core", "stage", *evidence.COLUMNS)
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "--:|" * len(evidence.COLUMNS)]
    lines += [f"| {s.core} | {s.stage} | " + " | ".join(s.row) + " |" for s in known if s.row]
    path = evidence.EVIDENCE / "library.json"
    if path.is_file():
        library = json.loads(path.read_text())
        live, proofs = library["liveness"], library["formal"]["proofs"]
        proved = sum(p["proved"] for p in proofs)
        lines += [
            "",
            f"Composed graphs: {live['frames']:,} frames through {live['graphs']} random graphs "
            f"with minimum FIFO depths under random stalls, {live['deadlocks']} deadlocks. "
            f"Formal: {proved} of {len(proofs)} proofs.",
        ]
    replace_section(ROOT / "docs" / "verification.md", "soak", "\n".join(lines))


def collect(stem: str, own: dict[Step, dict[str, Any]]) -> dict[str, Any]:
    """Evidence of one core from the results of its steps."""
    sets = [v for s, v in own.items() if s.kind == "random"]
    kinds = {s.kind: v for s, v in own.items() if s.kind != "random"}
    coverage = dict(kinds["coverage"])
    return {
        "core": stem,
        "sources": evidence.digest(stem),
        "random": {
            "sets": len(sets),
            "seeds": min(v["seeds"] for v in sets),
            "profiles": sorted(set.intersection(*(set(v["profiles"]) for v in sets))),
            "least_tokens": min(v["least_tokens"] for v in sets),
            "least_resets": min(v["resets"] for v in sets),
            "initial_states": sorted(set.intersection(*(set(v["initial_states"]) for v in sets))),
            "transactions": sum(v["transactions"] for v in sets),
            "frames": sum(v["frames"] for v in sets),
        },
        "bins": coverage.pop("bins"),
        "coverage": coverage,
        "golden": kinds["golden"],
        "three_way": kinds["three_way"],
        "faults": kinds["faults"],
        "mutants": kinds["mutants"],
    }
