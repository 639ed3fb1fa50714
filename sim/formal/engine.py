# SPDX-License-Identifier: Apache-2.0
"""One design in yosys: k-induction, and traces that reach a state.

Induction is by parts, one SAT problem per assertion: all assertions hold for k cycles, those
proven before hold in the next cycle too; then this one does. The base is one problem: all hold in
the first k cycles after the first one, which is a reset.

yosys keeps global state and ends the process on an error, so this runs as a process of its own:
``python -m sievit.sim.formal.engine`` reads ``job.json`` and writes ``result.json``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pyosys import libyosys as ys

FAILED = "model found for base case: FAIL!"


def _run(command: str, design: Any) -> str:
    """The log of one yosys command, which stays in ``yosys.log`` if yosys ends the process."""
    ys.run_pass(f"tee -q -o yosys.log {command}", design)
    return Path("yosys.log").read_text()


def _read(job: dict[str, Any], design: Any) -> list[str]:
    """Elaborate the harness; returns the names of its assertions and covers.

    A cover becomes the assertion that its condition never holds, for a trace to refute. Wire
    ``holds_n`` is the condition of assertion n.
    """
    top = job["top"]
    values = " ".join(f"-G{k}={v}" for k, v in job["parameters"].items())
    read = "read_slang --threads 1 --allow-hierarchical-const"
    folders = " ".join(f"-y {folder}" for folder in job["folders"])
    _run(f"{read} --top {top} {values} {folders} {' '.join(job['sources'])}", design)
    cut = [f"cutpoint {net}" for net in job["cut"]]
    # an unknown bit is any value of the solver's choice, not one that suits an optimisation
    free = "setundef -anyseq"
    prepare = (f"hierarchy -check -top {top}", free, f"prep -top {top} -flatten", *cut)
    for command in (*prepare, "memory_map", free, "opt -full", "async2sync"):
        _run(command, design)
    _run("chformal -lower", design)
    module = design.top_module()
    names: list[str] = []
    for cell in list(module.selected_cells()):
        kind, name = cell.type.str(), cell.name.str()
        if kind == "$cover":
            port, never = ys.IdString("\\A"), ys.IdString(f"$never{name}")
            cell.setPort(port, module.Not(never, cell.getPort(port)))
            cell.type = ys.IdString("$assert")
        if kind in ("$cover", "$assert"):
            wire = module.addWire(ys.IdString(f"\\holds_{len(names)}"), 1)
            enable, condition = (cell.getPort(ys.IdString(p)) for p in ("\\EN", "\\A"))
            idle = module.Not(ys.IdString(f"$idle{name}"), enable)
            module.addOr(ys.IdString(f"$holds{name}"), idle, condition, ys.SigSpec(wire))
            names.append(name.removeprefix("\\"))
    _run("design -save base", design)
    return names


def _base(
    job: dict[str, Any], design: Any, chosen: dict[int, str], depth: int, hints: str = ""
) -> str:
    """The log of a search for a trace of at most ``depth`` cycles after the reset that violates one
    of the assertions ``chosen``. ``hints`` narrows the search."""
    _run("design -load base", design)
    module = design.top_module()
    for cell in list(module.selected_cells()):
        name = cell.name.str().removeprefix("\\")
        if cell.type.str() == "$assert" and name not in chosen.values():
            module.remove(cell)
    for n in chosen:
        _run(f"setattr -set keep 1 w:holds_{n}", design)
    _run("opt_clean -purge", design)
    show = "-show-ports " + " ".join(f"-show holds_{n}" for n in chosen)
    only = f"-tempinduct -tempinduct-baseonly -maxsteps {depth}"
    log = _run(f"sat {only} -prove-asserts -set-assumes -seq 1 {hints} {show} {job['top']}", design)
    if FAILED in log or f"proved base case for {depth} steps: SUCCESS!" in log:
        return log
    raise RuntimeError(f"yosys gave no answer for {chosen}:\n{log[-2000:]}")


def _reach(job: dict[str, Any], design: Any, chosen: dict[int, str]) -> int | None:
    """Cycles of a short trace that violates an assertion; None: none within the depth.

    Looks at traces with one reset, and in which the inputs ``job["eager"]`` are high from the cycle
    after the reset on.
    """
    hints = "-set rst_ni 1 -set-at 1 rst_ni 0"
    hints += "".join(f" -set {e} 1 -set-at 2 {e} 0" for e in job["eager"])
    log = _base(job, design, chosen, job["depth"], hints)
    return log.count("** Trying induction") + 1 if FAILED in log else None


def _step(job: dict[str, Any], design: Any, chosen: dict[int, str], k: int) -> str:
    """Nothing if the induction step of length k holds, else the log of its first failure."""
    _run("design -load base", design)
    module = design.top_module()
    for cell in list(module.selected_cells()):
        if cell.type.str() == "$assert":
            module.remove(cell)
    parts = [ys.SigSpec(module.wire(ys.IdString(f"\\holds_{n}"))) for n in chosen]
    every = parts[0]
    for n, part in enumerate(parts[1:]):
        every = module.And(ys.IdString(f"$all{n}"), every, part)
    wire = module.addWire(ys.IdString("\\all_hold"), 1)
    module.connect(ys.SigSpec(wire), every)
    _run("setattr -unset init w:*", design)  # any state
    given = "".join(f" -set-at {t} all_hold 1" for t in range(1, k + 1))
    show = "-show-ports " + " ".join(f"-show holds_{n}" for n in chosen)
    # invariants first, as they are written: the properties follow from them
    for n in sorted(chosen, key=lambda n: (not _label(chosen[n]).startswith("i_"), -n)):
        goal = f"-seq {k + 1} -prove-skip {k} -prove holds_{n} 1 -set-assumes{given}"
        log = _run(f"sat {goal} {show} {job['top']}", design)
        if "SAT proof finished - model found: FAIL!" in log:
            return log
        answered = "SAT proof finished - no model found: SUCCESS!" in log
        if not answered or "from init attribute" in log:
            raise RuntimeError(f"yosys gave no answer for {chosen[n]}:\n{log[-2000:]}")
        given += f" -set-at {k + 1} holds_{n} 1"
    return ""


def _label(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _failing(log: str, names: list[str]) -> list[str]:
    """The assertions that do not hold in the last cycle of a log's trace."""
    rows = re.findall(r"^ +\d+ \\holds_(\d+) +(\d)", log[log.rfind("  Time ") :], re.M)
    last = dict(rows)
    return [names[int(n)] for n, value in last.items() if value == "0"]


def prove(job: dict[str, Any], design: Any, names: list[str]) -> dict[str, Any]:
    """Prove all assertions of the design, then reach every cover."""
    covers = {i: n for i, n in enumerate(names) if _label(n).startswith("c_")}
    asserts = {i: n for i, n in enumerate(names) if i not in covers}
    lengths = [job["bounded"]] if job["bounded"] else range(1, job["max_k"] + 1)
    for k in lengths:
        log = _base(job, design, asserts, k)
        violated = FAILED in log
        if not violated:
            log = "" if job["bounded"] else _step(job, design, asserts, k)
        if violated or not log:
            break
    return {
        "asserts": list(asserts.values()),
        "proved": not log,
        "k": k,
        "trace": log[log.rfind("\n  Time ") :] if log else "",
        "failing": _failing(log, names),
        "covers": {n: _reach(job, design, {i: n}) for i, n in covers.items()},
    }


def refute(job: dict[str, Any], design: Any, names: list[str]) -> dict[str, Any]:
    """How many cycles it takes to violate each assertion of the given names."""
    chosen = {i: n for i, n in enumerate(names) if _label(n) in job["properties"]}
    return {"steps": {n: _reach(job, design, {i: n}) for i, n in chosen.items()}}


def main() -> None:
    job = json.loads(Path("job.json").read_text())
    design = ys.Design()
    names = _read(job, design)
    result = {"prove": prove, "refute": refute}[job["task"]](job, design, names)
    Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
