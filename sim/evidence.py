# SPDX-License-Identifier: Apache-2.0
"""What has been shown about every core, and the verification stage that follows from it.

``sievit soak`` writes one file per core, ``sim/records/X.json``. Nothing declares a stage: it is
computed here from the figures in that file, and only while the core's sources are those that the
figures were measured on. The stages follow OpenTitan's (V1: works, V2: trusted), with this
project's own thresholds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sievit.quant.sources import ROOT, bare, rtl_sources

EVIDENCE = Path(__file__).resolve().parent / "records"

SEEDS, TOKENS = 10, 1000
PROFILES = ("none", "idle", "ready_75", "ready_25", "bursts")
RESETS, MUTANTS, COVERED = 20, 30, 90.0

Evidence = dict[str, Any]


@dataclass(frozen=True)
class Criterion:
    """One demand: ``measure`` gives (held, figures for people) from a core's evidence."""

    stage: int
    name: str
    measure: Callable[[Evidence], tuple[bool, str]]


def _golden(e: Evidence) -> tuple[bool, str]:
    tests = e["golden"]["passed"]
    return tests > 0 and not e["golden"]["failed"], f"{tests} tests against big-integer twins"


def _random(e: Evidence) -> tuple[bool, str]:
    r = e["random"]
    # a mismatch leaves no evidence at all
    return r["sets"] > 0 and r["transactions"] >= 100, f"{r['transactions']:,} tokens equal"


def _volume(e: Evidence) -> tuple[bool, str]:
    r = e["random"]
    held = (
        r["seeds"] >= SEEDS and r["least_tokens"] >= TOKENS and set(PROFILES) <= set(r["profiles"])
    )
    return held, (
        f"{r['sets']} parameter sets x {r['seeds']} seeds x {len(r['profiles'])} stall profiles, "
        f"at least {r['least_tokens']:,} tokens each"
    )


def _reset(e: Evidence) -> tuple[bool, str]:
    r = e["random"]
    held = r["least_resets"] >= RESETS and set(r["initial_states"]) >= {"0", "1", "random"}
    return held, (
        f"{r['least_resets']} mid-frame resets per set, "
        f"initial states {', '.join(r['initial_states'])}"
    )


def _three_way(e: Evidence) -> tuple[bool, str]:
    t, sets = e["three_way"], e["random"]["sets"]
    return t["sets"] == sets > 0, f"golden = HLS = RTL on {t['sets']} of {sets} sets"


def _faults(e: Evidence) -> tuple[bool, str]:
    f = e["faults"]
    return bool(f["caught"]) and not f["missed"], f"{len(f['caught'])} caught" + (
        f", missed: {', '.join(f['missed'])}" if f["missed"] else ""
    )


def _coverage(e: Evidence) -> tuple[bool, str]:
    c = e["coverage"]
    shown = ", ".join(f"{kind} {c[kind]:.1f} %" for kind in ("line", "branch", "toggle"))
    return all(c[kind] >= COVERED for kind in ("line", "branch", "toggle")), shown


def _bins(e: Evidence) -> tuple[bool, str]:
    hit = sum(n > 0 for n in e["bins"].values())
    total = len(e["bins"])
    return total > 0 and 100 * hit >= COVERED * total, f"{hit} of {total} bins"


def _mutants(e: Evidence) -> tuple[bool, str]:
    m = e["mutants"]
    living = m["total"] - m["equivalent"]
    held = m["total"] >= MUTANTS and 100 * m["killed"] >= COVERED * living
    unexplained = [s["mutant"] for s in m["survivors"] if not s["reason"]]
    return held and not unexplained, (
        f"{m['killed']} of {living} killed, {m['equivalent']} equivalent"
        + (f", {len(unexplained)} unexplained" if unexplained else "")
    )


CRITERIA = (
    Criterion(1, "golden", _golden),
    Criterion(1, "random", _random),
    Criterion(2, "volume", _volume),
    Criterion(2, "reset", _reset),
    Criterion(2, "three-way", _three_way),
    Criterion(2, "faults", _faults),
    Criterion(2, "coverage", _coverage),
    Criterion(2, "bins", _bins),
    Criterion(2, "mutants", _mutants),
)


COLUMNS = ("sets", "tokens", "line %", "branch %", "toggle %", "bins", "mutants killed")


def _row(e: Evidence) -> tuple[str, ...]:
    hit, mutants = sum(n > 0 for n in e["bins"].values()), e["mutants"]
    return (
        str(e["random"]["sets"]),
        f"{e['random']['transactions']:,}",
        *(f"{e['coverage'][kind]:.1f}" for kind in ("line", "branch", "toggle")),
        f"{hit}/{len(e['bins'])}",
        f"{mutants['killed']}/{mutants['total'] - mutants['equivalent']}",
    )


@dataclass(frozen=True)
class Status:
    """Stage of a core ("V0", "V1", "V2") and per criterion: stage, held, figures."""

    core: str
    stage: str
    fresh: bool
    criteria: dict[str, tuple[int, bool, str]]
    #: short figures under ``COLUMNS``
    row: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        shown = {
            name: {"stage": f"V{stage}", "held": held, "figures": text}
            for name, (stage, held, text) in self.criteria.items()
        }
        return {"name": self.core, "stage": self.stage, "fresh": self.fresh, "evidence": shown}


def status(stem: str) -> Status:
    """Stage of a core from its evidence file; V0 without one, or if the sources have changed."""
    path = EVIDENCE / f"{stem}.json"
    if not path.is_file():
        missing = {c.name: (c.stage, False, "no evidence") for c in CRITERIA}
        return Status(stem, "V0", False, missing, ())
    e = json.loads(path.read_text())
    criteria = {}
    for c in CRITERIA:
        try:
            held, text = c.measure(e)
        except KeyError as missing_key:
            held, text = False, f"no figure {missing_key}"
        criteria[c.name] = (c.stage, held, text)
    fresh = e.get("sources") == digest(stem)
    stage = 0
    if fresh:
        for level in (1, 2):
            if not all(held for s, held, _ in criteria.values() if s <= level):
                break
            stage = level
    return Status(stem, f"V{stage}", fresh, criteria, _row(e))


# -- which sources the figures belong to ---------------------------------------------------------


def sources(stem: str) -> list[Path]:
    """Files that decide what a core does: its four, the modules and headers they use, the
    arithmetic."""
    own = [
        ROOT / "quant" / "cores" / f"{stem}.py",
        ROOT / "hls" / "cores" / f"{stem}.hpp",
        ROOT / "sim" / "cores" / f"test_{stem}.py",
        ROOT / "quant" / "rounding.py",
        ROOT / "quant" / "itype.py",
    ]
    return sorted({*own, *(ROOT / "hls" / "lib").glob("*.hpp"), *rtl_sources(stem)})


def digest(stem: str) -> str:
    """SHA-256 of a core's sources without comments, docstrings, white space and the cost model."""
    text = "\n".join(f"{p.relative_to(ROOT)}\n{bare(p)}" for p in sources(stem))
    return hashlib.sha256(text.encode()).hexdigest()
