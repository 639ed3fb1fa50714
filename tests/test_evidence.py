# SPDX-License-Identifier: Apache-2.0
"""Stages follow from evidence: every demand can take a stage away, and so can changed sources."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sievit.quant.params import core_names
from sievit.quant.sources import bare
from sievit.sim import evidence

CORE = "residual_add"

GOOD: dict[str, Any] = {
    "golden": {"passed": 3, "failed": 0},
    "random": {
        "sets": 2, "seeds": 10, "profiles": [*evidence.PROFILES, "both"], "least_tokens": 1000,
        "least_resets": 20, "initial_states": ["0", "1", "random"], "transactions": 120_000,
        "frames": 9000,
    },
    "three_way": {"sets": 2, "frames": 60},
    "faults": {"caught": ["stuck_valid", "dropped_beat"], "missed": []},
    "coverage": {"line": 100.0, "branch": 90.0, "toggle": 95.0},
    "bins": {f"bin {i}": 7 for i in range(10)},
    "mutants": {"total": 30, "killed": 27, "equivalent": 2,
                "survivors": [{"mutant": "a", "reason": "unreachable"}]},
}  # fmt: skip


def worse(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    out = copy.deepcopy(GOOD)
    change(out)
    return out


#: criterion -> the stage that is left when it is not met, and evidence that does not meet it
WORSE: list[tuple[str, str, dict[str, Any]]] = [
    ("golden", "V0", worse(lambda e: e["golden"].update(failed=1))),
    ("golden", "V0", worse(lambda e: e["golden"].update(passed=0))),
    ("random", "V0", worse(lambda e: e["random"].update(transactions=99))),
    ("volume", "V1", worse(lambda e: e["random"].update(seeds=9))),
    ("volume", "V1", worse(lambda e: e["random"].update(least_tokens=999))),
    ("volume", "V1", worse(lambda e: e["random"].update(profiles=["none", "both"]))),
    ("reset", "V1", worse(lambda e: e["random"].update(least_resets=19))),
    ("reset", "V1", worse(lambda e: e["random"].update(initial_states=["0", "1"]))),
    ("three-way", "V1", worse(lambda e: e["three_way"].update(sets=1))),
    ("faults", "V1", worse(lambda e: e["faults"]["missed"].append("frozen_output"))),
    ("faults", "V1", worse(lambda e: e["faults"].update(caught=[]))),
    ("coverage", "V1", worse(lambda e: e["coverage"].update(toggle=89.9))),
    ("bins", "V1", worse(lambda e: e["bins"].update({"bin 0": 0, "bin 1": 0}))),
    ("mutants", "V1", worse(lambda e: e["mutants"].update(killed=25))),
    ("mutants", "V1", worse(lambda e: e["mutants"].update(total=29))),
    ("mutants", "V1", worse(lambda e: e["mutants"]["survivors"][0].update(reason=""))),
    ("bins", "V1", worse(lambda e: e.update(bins={}))),
]


def write(folder: Path, e: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "EVIDENCE", folder)
    values = {"sources": evidence.digest(CORE), **e}
    (folder / f"{CORE}.json").write_text(json.dumps(values))


def test_good_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD, monkeypatch)
    assert evidence.status(CORE).stage == "V2"


@pytest.mark.parametrize(("name", "stage", "e"), WORSE)
def test_every_demand_counts(
    name: str, stage: str, e: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, e, monkeypatch)
    status = evidence.status(CORE)
    assert status.stage == stage
    assert [n for n, (_, held, _) in status.criteria.items() if not held] == [name]


def test_every_criterion_has_a_case() -> None:
    assert {name for name, _, _ in WORSE} == {c.name for c in evidence.CRITERIA}


def test_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "EVIDENCE", tmp_path)
    assert evidence.status(CORE).stage == "V0"


def test_changed_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {**GOOD, "sources": "of another day"}, monkeypatch)
    status = evidence.status(CORE)
    assert status.stage == "V0" and not status.fresh


@pytest.mark.parametrize(
    ("name", "same", "other"),
    [
        ("a.sv", "// why\nassign a = b;  /* so */\n", "assign a = !b;\n"),
        ("a.sv", "assign a = b;\n", "// verilator coverage_off\nassign a = b;\n"),
        ("a.py", '"""Doc."""\n\n\ndef f():\n    """Doc."""\n    return 1  # one\n', "x = 1\n"),
    ],
)
def test_comments_are_no_change(name: str, same: str, other: str, tmp_path: Path) -> None:
    plain = {"a.sv": "assign a = b;", "a.py": "def f(): return 1"}[name]
    texts = []
    for text in (plain, same, other):
        (tmp_path / name).write_text(text)
        texts.append(bare(tmp_path / name))
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("stem", core_names())
def test_record_is_of_these_sources_and_supports_v2(stem: str) -> None:
    status = evidence.status(stem)
    assert status.fresh, f"{stem} has changed since; run: make soak CORE={stem}"
    assert status.stage == "V2", json.dumps(status.to_dict(), indent=1)
