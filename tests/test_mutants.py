# SPDX-License-Identifier: Apache-2.0
"""Mutation: a sample of what the soak does, and that it cannot flatter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sievit.sim import mutate as mutation
from sievit.sim.mutate import Bench, Mutation, mutate

COUNT = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutants")


def fates(root: Path, stem: str) -> dict[str, str]:
    known: dict[str, str] = json.loads((root / stem / "fates.json").read_text())["known"]
    return known


def sample(root: Path, stem: str) -> Mutation:
    """Cheap the second time: the fates are kept."""
    return mutate(stem, count=COUNT, root=root)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stem", ["residual_add", "lookup_table"])
def test_sample(stem: str, root: Path) -> None:
    m = sample(root, stem)
    assert m.core == stem and m.total == COUNT
    assert m.killed + m.equivalent + len(m.survivors) == COUNT
    assert m.killed > 0 and m.rate >= 80, m


def test_sample_depends_on_the_seed(tmp_path: Path) -> None:
    params = mutation.choice("residual_add")
    constants = Bench("residual_add", params, 1).constants
    mutation._elaborate("residual_add", params, constants, tmp_path)
    one, same, other = ([m.key for m in mutation._sample(tmp_path, seed, 20)] for seed in (1, 1, 2))
    assert one == same != other
    assert len(set(one)) > 15


def test_finished_mutants_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sample(root, "residual_add")
    monkeypatch.setattr(Bench, "run", lambda *_: pytest.fail("simulated again"))
    assert sample(root, "residual_add") == before


@pytest.mark.slow
def test_a_bench_that_notices_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is killed, everything that is not proven equivalent survives without a reason, and
    nothing that a real bench kills is ever proven equivalent."""
    sample(root, "residual_add")
    real = fates(root, "residual_add")
    monkeypatch.setattr(Bench, "killer", lambda *_: "")
    monkeypatch.setattr(mutation, "PROOF_SECONDS", 3)
    monkeypatch.setattr(mutation, "_digest", lambda *_: "blind")  # nothing that is kept applies
    blind = sample(root, "residual_add")
    assert blind.killed == 0 and blind.rate == 0
    assert len(blind.survivors) == COUNT - blind.equivalent > 0
    assert all(s.mutant and s.source and not s.reason for s in blind.survivors)
    killed = {index for index, what in real.items() if what.startswith("killed")}
    assert all(fates(root, "residual_add")[index] == "survivor" for index in killed)


def test_no_change_is_equivalent(root: Path) -> None:
    """The proof goes through where there is nothing to tell apart: mutant 0 is the core itself."""
    sample(root, "lookup_table")
    folder, params = root / "lookup_table", mutation.choice("lookup_table")
    none = mutation.Mutant(0, "", "", "", "")
    assert mutation._equivalent("lookup_table", params, folder, none, COUNT, 10)


def test_a_core_that_fails_has_no_figures(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench must pass on the netlist without a change, or every mutant would seem killed."""
    draw = mutation.harness.Trial.draw

    def wrong(*arguments: object) -> mutation.harness.Trial:
        trial = draw(*arguments)  # type: ignore[arg-type]
        trial.golden.data[0, 0, 0] ^= 1
        return trial

    monkeypatch.setattr(mutation.harness.Trial, "draw", wrong)
    monkeypatch.setattr(mutation, "_digest", lambda *_: "wrong")  # nothing that is kept applies
    with pytest.raises(AssertionError, match="frame 0, token 0, channel 0"):
        sample(root, "lookup_table")


def test_reasons(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    """A reason belongs to one mutant of one core."""
    people = tmp_path / "mutants.toml"
    people.write_text('[[residual_add]]\nmutant = "a | b.sv: c"\nreason = "d"\n')
    monkeypatch.setattr(mutation, "PEOPLE", people)
    assert mutation.reasons("residual_add") == {"a | b.sv: c": "d"}
    assert mutation.reasons("lookup_table") == {}
