# SPDX-License-Identifier: Apache-2.0
"""The training loop: everything at once resumes exactly; processes and GPUs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console
from test_models import SMALL, Interrupted, small_data, weights
from torch import Tensor, nn

from sievit.models.quantizers import (
    QuantActivation,
    QuantLinear,
    act,
    is_smooth,
    round_to_grid,
    smooth_forward,
)
from sievit.models.qvit import QuantVisionTransformer
from sievit.models.recipe import DataRecipe, SelectorRecipe, TrainRecipe
from sievit.models.train import Average, Geometry, OutOfTime, Trainer, build_model
from sievit.quant.itype import IntType

QUIET = Console(quiet=True)

#: every setting of the loop in use
FULL = dataclasses.replace(
    SMALL,
    data=DataRecipe(shift=0.5, flip=True, crop=1, randaugment=1, erase=0.5),
    train=TrainRecipe(
        batch_size=20, float_epochs=2, qat_epochs=2, pruned_epochs=3, mixup=0.8, cutmix=1.0,
        ema=0.9, amp=True, exact=0.4, clip=0.5,
    ),
)  # fmt: skip


class Late(Trainer):
    """Its time is up after an epoch."""

    def epoch(self, *given: Any) -> dict[str, float]:
        found = super().epoch(*given)
        self.end = 0.0
        return found


def test_everything_on_resumes_exactly(tmp_path: Path) -> None:
    whole = weights(Trainer(FULL, small_data(), tmp_path / "whole", QUIET).run())
    trainer = Interrupted(FULL, small_data(), tmp_path / "parts", QUIET)
    trainer.left = 7
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    torch.manual_seed(99)
    with pytest.raises(OutOfTime, match="time is up before qat_pruned"):
        Late(FULL, small_data(), tmp_path / "parts", QUIET).run()
    with pytest.raises(OutOfTime, match="time is up after qat_pruned epoch 1 of 3"):
        Late(FULL, small_data(), tmp_path / "parts", QUIET).run()
    torch.manual_seed(98)
    got = weights(Trainer(FULL, small_data(), tmp_path / "parts", QUIET).run())
    wrong = [k for k, v in got.items() if not torch.equal(v, whole[k])]
    assert not wrong, f"{len(wrong)} tensors differ, first {wrong[0]}"


def test_given_phases_are_not_trained_again(tmp_path: Path) -> None:
    first = Trainer(SMALL, small_data(), tmp_path / "a", QUIET)
    given = first.run(("float", "qat_dense"))
    assert list(given) == ["float", "qat_dense"]
    found = Trainer(SMALL, small_data(), tmp_path / "b", QUIET, given=given).run()
    assert list(found) == ["float", "qat_dense", "qat_pruned"]
    assert all(
        torch.equal(v, found["float"]["state"][k]) for k, v in given["float"]["state"].items()
    )


def test_average_is_that_of_the_steps() -> None:
    layer = QuantLinear(4, 2, 4)
    layer.mask[:, 1] = False
    layer.project()
    average = Average([layer.weight], 0.9)
    want = layer.weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            layer.weight += 1
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        want = decay * want + (1 - decay) * layer.weight.detach()
    live = layer.weight.detach().clone()
    with average.swapped(layer):
        assert torch.allclose(layer.weight[:, 0], want[:, 0])
        assert not bool(layer.weight[:, 1].any())  # held to its zeros
    assert torch.equal(layer.weight[:, 0], live[:, 0])


def test_fixed_quantisers_round_as_brevitas_does(rng: torch.Generator) -> None:
    """The shortcut of training gives the values and gradients of Brevitas' own path."""
    quantiser = act(5)
    assert isinstance(quantiser, QuantActivation)
    scaling = quantiser.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl
    scaling.collect_stats_steps = 3
    scaling.value.requires_grad_(False)
    quantiser.train()
    for _ in range(5):
        quantiser(torch.randn(100, 7, generator=rng))
    assert quantiser._grid[0] == scaling.value._version
    x = torch.cat(
        [torch.randn(50, 7, generator=rng) * 3, torch.arange(-35.0, 35).reshape(10, 7) / 16]
    )
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, want = quantiser(a), super(QuantActivation, quantiser).forward(b)
    assert torch.equal(got.value, want.value) and float(got.scale) == float(want.scale)
    pull = torch.randn(x.shape, generator=rng)
    got.value.backward(pull)
    want.value.backward(pull)
    assert torch.equal(a.grad, b.grad)
    with torch.no_grad():
        scaling.value += 1  # another scale: the known grid no longer holds
    assert float(quantiser(x).scale) == 2 * float(got.scale)


def test_rounding_is_half_to_even_within_the_type() -> None:
    x = torch.tensor([-9.0, -2.5, -0.5, 0.5, 1.5, 2.5, 7.4, 7.6]) / 4
    x.requires_grad_()
    y = round_to_grid(x, -2, IntType(4, True))
    assert (y * 4).tolist() == [-8, -2, 0, 0, 2, 2, 7, 7]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]


def quantised(phase: str, **selector: Any) -> QuantVisionTransformer:
    """A network past its collection of statistics."""
    recipe = (
        SMALL if not selector else dataclasses.replace(SMALL, selector=SelectorRecipe(**selector))
    )
    torch.manual_seed(5)
    model = build_model(recipe, Geometry(16, 4, 10, 16, (4, 4)), phase)
    assert isinstance(model, QuantVisionTransformer)
    for part in model.modules():
        if hasattr(part, "collect_stats_steps"):
            part.collect_stats_steps = 2
    for name, parameter in model.named_parameters():
        if "scaling_impl" in name:
            parameter.requires_grad_(False)
    model.train()
    for _ in range(4):
        model(torch.randint(0, 17, (8, 16, 4)) / 16)
    return model


@pytest.mark.parametrize("phase", ["qat_dense", "qat_pruned"])
def test_smooth_passes_are_close_to_exact_ones(phase: str, rng: torch.Generator) -> None:
    """The cores' tables differ from the functions that they hold by a few steps of their grids."""
    model = quantised(phase)
    x = torch.randint(0, 17, (40, 16, 4), generator=rng) / 16
    exact = model(x)
    with smooth_forward():
        assert is_smooth()
        smooth = model(x)
        with torch.no_grad():
            assert not is_smooth() and torch.equal(model(x), exact)
    assert not is_smooth() and not torch.equal(smooth, exact)
    error = (smooth - exact).abs().mean() / exact.std()
    assert float(error) < 0.5, float(error)


def test_smooth_linear_layers_have_the_weights_of_brevitas(rng: torch.Generator) -> None:
    for scale in (0.3, 0.5, 1.0, 0.01):
        layer = QuantLinear(12, 8, 4).train()
        with torch.no_grad():
            layer.weight.copy_(torch.randn(8, 12, generator=rng) * scale)
            layer.weight[0, 0] = 4 * scale  # powers of two among the largest
            layer.bias.copy_(torch.randn(8, generator=rng))
        model = quantised("qat_dense")
        y = model.residual(torch.randn(3, 5, 12, generator=rng))
        want = layer(y)
        with smooth_forward():
            assert torch.equal(layer(y), want)


# -- devices -------------------------------------------------------------------------------------
def trained(fabric: Fabric, folder: Path) -> None:
    """In every process: train, and leave the weights."""
    torch.set_num_threads(1)
    recipe = dataclasses.replace(SMALL, train=dataclasses.replace(SMALL.train, ema=0.9, mixup=0.8))
    done = Trainer(recipe, small_data(), folder, QUIET, fabric).run()
    torch.save(done, folder / f"{fabric.global_rank}.pt")


def test_two_processes(tmp_path: Path) -> None:
    """Float training is that of one process up to the order of sums; QAT scales follow the first
    process's share of a batch, so the quantised networks are alike in both, not those of one."""
    for name, count, strategy in (("one", 1, "auto"), ("two", 2, "ddp_fork")):
        (tmp_path / name).mkdir()
        fabric = Fabric(accelerator="cpu", devices=count, strategy=strategy)
        fabric.launch(trained, tmp_path / name)
    alone, first, second = (
        torch.load(tmp_path / f, weights_only=True) for f in ("one/0.pt", "two/0.pt", "two/1.pt")
    )
    for phase, found in first.items():
        for key, value in found["state"].items():
            assert torch.equal(value, second[phase]["state"][key]), f"{phase} {key}"
    for key, value in first["float"]["state"].items():
        assert torch.allclose(value, alone["float"]["state"][key], rtol=1e-3, atol=1e-5), key
    assert abs(alone["float"]["accuracy"] - first["float"]["accuracy"]) < 5.1


def test_a_share_may_be_empty(tmp_path: Path) -> None:
    """A last batch of one picture, and two processes: the second one counts for nothing."""
    data = small_data()
    data = dataclasses.replace(
        data, train_images=data.train_images[:21], train_labels=data.train_labels[:21]
    )
    trainer = Trainer(SMALL, data, tmp_path, QUIET)

    class Second:
        global_rank, world_size = 1, 2

        def backward(self, loss: Tensor) -> None:
            seen.append(float(loss.detach()))
            loss.backward()

        def all_reduce(self, x: Tensor, reduce_op: str) -> Tensor:
            return x

    seen: list[float] = []
    trainer.fabric = Second()  # type: ignore[assignment]
    model: nn.Module = build_model(SMALL, trainer.geometry, "float")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1.0)
    trainer.epoch(model, None, optimizer, schedule, torch.Generator().manual_seed(0), 0.0)
    assert len(seen) == 2 and seen[0] > 0 and seen[1] == 0
