# SPDX-License-Identifier: Apache-2.0
"""What every core bench does: golden == RTL on random frames under stalls, and the promised
rate."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from sievit.quant.params import Constants, CoreParams, Stream, load_core
from sievit.sim.runner import RtlResult, run_core

STALLS = ("none", "both", "ready_25")


def build_root() -> Path:
    """Where benches build: ``SIEVIT_BUILD`` or a folder under the system's temporary directory."""
    return Path(os.environ.get("SIEVIT_BUILD", Path(tempfile.gettempdir()) / "sievit-build"))


def build_folder(stem: str, params: CoreParams) -> Path:
    """One folder per core and parameter set, so that unchanged ones are not built again."""
    key = hashlib.sha256(repr(sorted(params.flat().items())).encode()).hexdigest()[:12]
    return build_root() / f"{stem}-{key}"


def check_core(
    stem: str,
    params: CoreParams,
    seed: int,
    stalls: Sequence[str] = STALLS,
    frames: int = 24,
    rate_slack: int = 8,
    exact_rate: bool = False,
) -> dict[str, RtlResult]:
    """Simulate random frames under every stall profile and compare with the golden function, bit
    for bit.

    Without stalls, frames of equal length follow each other afterwards, and the cycles between
    their last beats are at most ``params.cycles`` plus ``rate_slack`` (equal to it with
    ``exact_rate``). Returns the result of every profile, and of the rate measurement as ``"rate"``.
    """
    print(f"{stem}: seed {seed}, {params.to_dict()}")
    core = load_core(stem)
    rng = torch.Generator().manual_seed(seed)
    constants, inputs = core.stimuli(rng, params, frames)
    golden = core.golden(params, constants, *inputs)
    if frames > 4 and golden.data.numel() > 1:
        assert golden.data.float().std() > 0, f"{stem}: these stimuli give a constant output"
    folder = build_folder(stem, params)
    results = {}
    for stall in stalls:
        result = run_core(stem, params, constants, inputs, folder, stall, seed)
        compare(f"{stem}, stall {stall}, seed {seed}", golden, result.output)
        results[stall] = result
    results["rate"] = measure_rate(stem, params, constants, inputs, folder, seed)
    period = rate(results["rate"])
    want = params.cycles(params.max_tokens)
    head = results["rate"].out_first[0] - results["rate"].in_first[0]
    print(f"{stem}: {period} cycles per frame, predicted {want}; head latency {head}, "
          f"predicted {params.head_latency(params.max_tokens)}")  # fmt: skip
    if exact_rate:
        assert period == want, f"{stem}: {period} cycles per frame instead of {want}"
    assert period <= want + rate_slack, f"{stem}: {period} cycles per frame, predicted {want}"
    return results


def measure_rate(
    stem: str,
    params: CoreParams,
    constants: Constants,
    inputs: list[Stream],
    folder: Path,
    seed: int,
    frames: int = 6,
) -> RtlResult:
    """Run ``frames`` copies of the longest frame of ``inputs`` back to back without stalls."""
    i = int(inputs[0].length.argmax())
    copies = [
        Stream(x.data[i : i + 1].repeat(frames, 1, 1), x.length[i].repeat(frames),
               x.package[i].repeat(frames))
        for x in inputs
    ]  # fmt: skip
    golden = load_core(stem).golden(params, constants, *copies)
    result = run_core(stem, params, constants, copies, folder, "none", seed)
    compare(f"{stem}, equal frames, seed {seed}", golden, result.output)
    return result


def rate(result: RtlResult) -> int:
    """Cycles between the last beats of the last two frames."""
    return result.out_last[-1] - result.out_last[-2]


def compare(what: str, want: Stream, got: Stream) -> None:
    """Raise AssertionError naming the first frame, token and channel that differ."""
    assert len(got.length) == len(want.length), f"{what}: {len(got.length)} frames"
    for i in range(len(want.length)):
        a, b = want.frame(i), got.frame(i)
        assert len(a) == len(b), f"{what}: frame {i} has {len(b)} tokens instead of {len(a)}"
        wrong = (a != b).nonzero()
        assert not len(wrong), (
            f"{what}: frame {i}, token {int(wrong[0][0])}, channel {int(wrong[0][1])}: "
            f"{int(b[tuple(wrong[0])])} instead of {int(a[tuple(wrong[0])])}"
        )
        assert bool(want.package[i]) == bool(got.package[i]), f"{what}: frame {i}: tuser"
    assert want == got, what
