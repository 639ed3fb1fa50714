# SPDX-License-Identifier: Apache-2.0
"""Recipes, pruning, the quantised network, checkpoints and interrupted training."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from qonnx.core.modelwrapper import ModelWrapper
from rich.console import Console
from torch import Tensor

from sievit.models import recipe as recipes
from sievit.models.pruning import kept_per_group, nm_mask, sparsify
from sievit.models.quantizers import QuantLinear
from sievit.models.qvit import QuantVisionTransformer, image_input
from sievit.models.recipe import Recipe, RecipeError, parse_nm
from sievit.models.train import (
    PHASES,
    CheckpointError,
    Trainer,
    build_model,
    geometry,
    load_checkpoint,
    logits,
)
from sievit.quant.execute import execute
from sievit.quant.graph import Graph
from sievit.quant.params import Stream

QUIET = Console(quiet=True)


# -- recipes -------------------------------------------------------------------------------------
def test_every_recipe_of_the_zoo_loads() -> None:
    assert recipes.names()
    for name in recipes.names():
        assert recipes.load(name).name == name


def test_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'vit_giant'; known: .*heatvit_nm_digits"):
        recipes.load("vit_giant")
    with pytest.raises(RecipeError, match="no recipe"):
        recipes.load("missing.toml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("colour = 1", r"unknown key 'colour'; known: data, model, name"),
        ("[model]\nembed = 3", r"\[model\]: unknown key 'embed'; known: depth, embed_dim"),
        ("[train]\nbatchsize = 3", r"\[train\]: unknown key 'batchsize'; known: amp, batch_size"),
        ('[model]\ndepth = "four"', "depth must be int, not 'four'"),
        ("[model]\ndepth = 4.5", "depth must be int, not 4.5"),
        ("[model]\ndepth = true", "depth must be int, not True"),
        ('[data]\nflip = "yes"', "flip must be bool, not 'yes'"),
        ("model = 3", "model must be a table"),
        ("[model]\nembed_dim = 10\nnum_heads = 3", "num_heads must divide model.embed_dim"),
        ('[sparsity]\nweights = { "blocks.*" = "5:4" }', "'5:4' is not an N:M pattern"),
        ('[sparsity]\nattention = { "blocks.*" = "two" }', "'two' is not an N:M pattern"),
        ("[selector]\nblocks = [1]", "selector.blocks and selector.keep differ in length"),
        ("[selector]\nblocks = [2, 1]\nkeep = [0.5, 0.5]", "selector.blocks must ascend"),
        ("[selector]\nblocks = [9]\nkeep = [0.5]", r"within 0\.\.3"),
        ("[selector]\nblocks = [1]\ntopk = [2, 1]", "selector.blocks and selector.topk differ"),
        ("[selector]\nblocks = [1]\ntopk = [2]\nkeep = [0.5]", "keep or selector.topk, not both"),
        ("[selector]\nblocks = [1, 2]\ntopk = [2, 2]", "selector.topk must fall"),
        ("[selector]\nblocks = [1]\ntopk = [0]", "selector.topk must fall"),
        ("[model\n", "wrong.toml: "),
    ],
)
def test_wrong_recipes_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=reason):
        recipes.load(str(path))


@pytest.mark.parametrize("text", ["0:4", "5:4", "1:33", "2", "2:4:8", "-1:4", "a:b", ""])
def test_wrong_patterns_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="write for example 2:4"):
        parse_nm(text)


def test_last_pattern_wins() -> None:
    sparsity = recipes.SparsityRecipe({"*": "2:4", "blocks.0.*": "1:4", "blocks.0.attn.q": "4:4"})
    r = Recipe("x", sparsity=sparsity)
    found = [r.weight_nm(n) for n in ("head", "blocks.0.attn.k", "blocks.0.attn.q", "blocks.1.x")]
    assert found == [(2, 4), (1, 4), (1, 1), (2, 4)]
    assert Recipe("x").attention_nm("blocks.0.attn") == (4, 4)


# -- pruning -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n", "m"), [(1, 2), (1, 4), (2, 4), (3, 4), (4, 4), (3, 8)])
def test_nm_mask_against_brute_force(n: int, m: int, rng: torch.Generator) -> None:
    """Few levels, so that most groups have ties: the lower index stays."""
    weight = torch.randint(-2, 3, (40, 3 * m), generator=rng).float()
    mask = nm_mask(weight, n, m)
    for row, kept in zip(weight.tolist(), mask.tolist(), strict=True):
        for start in range(0, len(row), m):
            group = sorted(range(start, start + m), key=lambda i: (-abs(row[i]), i))
            assert [i for i in range(start, start + m) if kept[i]] == sorted(group[:n])


def test_nm_mask_refuses_a_remainder() -> None:
    with pytest.raises(ValueError, match="2:4 does not divide 6 inputs; choose another M"):
        nm_mask(torch.ones(2, 6), 2, 4)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (1, 1), (1, 16)])
def test_gradual_schedule(n: int, m: int) -> None:
    values = [kept_per_group(n, m, i / 40) for i in range(41)]
    assert values[0] == m and values[-1] == n
    assert all(a >= b for a, b in itertools.pairwise(values))
    assert set(values) == set(range(n, m + 1))
    assert kept_per_group(n, m, -1.0) == m and kept_per_group(n, m, 3.0) == n


def test_sparsify_leaves_dense_layers_and_zeroes_the_others(rng: torch.Generator) -> None:
    layers = {"a": QuantLinear(8, 4, 4), "b": QuantLinear(8, 4, 4)}
    layers["a"].nm = (1, 4)
    before = layers["b"].weight.clone()
    for progress, most in ((0.0, 4), (0.4, 3), (1.0, 1)):
        sparsify(layers, progress)
        groups = (layers["a"].weight.reshape(4, 2, 4) != 0).sum(-1)
        assert int(groups.max()) == most
    assert torch.equal(layers["b"].weight, before)


def test_grouped_layer_keeps_its_zeros() -> None:
    layer = QuantLinear(6, 4, 8, groups=2)
    assert torch.equal(layer.weight != 0, layer.mask)
    with torch.no_grad():
        layer.weight += 1
    layer.project()
    assert not bool(layer.weight[:2, 3:].any()) and not bool(layer.weight[2:, :3].any())


# -- the quantised network -----------------------------------------------------------------------
def test_forward_is_the_golden_execution(
    tiny: Tiny, tiny_graph: Graph, rng: torch.Generator
) -> None:
    """Random pixels, not only digits: network == Graph, every logit."""
    patches = torch.randint(0, tiny.data.levels + 1, (100, *tiny.patches.shape[1:]), generator=rng)
    patches[0], patches[1] = 0, tiny.data.levels
    got = logits(tiny.network, patches, tiny.data.levels)
    out = tiny_graph.output
    edges = execute(tiny_graph, Stream.full(patches))
    want = edges[out.name].data[:, 0].double() * 2.0**out.exponent
    assert torch.equal(got.double(), want)
    assert float(want.std()) > 0 and len(want.argmax(1).unique()) > 1


def test_evaluation_repeats_and_images_are_independent(tiny: Tiny) -> None:
    x = tiny.patches[:60]
    for name, model in tiny.models.items():
        whole = logits(model, x, tiny.data.levels)
        if name == "float":
            continue  # BLAS may order float sums by batch size
        assert torch.equal(logits(model, x, tiny.data.levels), whole), name
        assert torch.equal(logits(model, x, tiny.data.levels, batch=7), whole), name
        back = logits(model, x.flip(0), tiny.data.levels)
        assert torch.equal(back.flip(0), whole), name


def test_selectors_of_the_shared_network_work(tiny: Tiny) -> None:
    """Tests that use it rely on frames of different length and on merged package tokens."""
    logits(tiny.network, tiny.patches, tiny.data.levels, batch=len(tiny.patches))
    first, second = tiny.network.stages
    for stage in (first, second):
        assert len(stage[:, 0].unique()) > 3 and bool(stage[:, 1].any()), stage[:, 0].unique()
    assert bool(((first[:, 1] > 0) & (second[:, 1] > 0) & (second[:, 0] < first[:, 0])).any())


def test_float_weights_load_by_name(tiny: Tiny) -> None:
    """Every weight of the float network has its place in the quantised one."""
    source = tiny.models["float"].state_dict()
    for phase in PHASES[1:]:
        model = build_model(tiny.recipe, tiny.geometry, phase)
        found = model.load_state_dict(source, strict=False)
        assert not found.unexpected_keys
        for key, value in source.items():
            assert torch.equal(model.state_dict()[key], value), key


def test_weights_obey_the_recipe(tiny: Tiny) -> None:
    pruned = 0
    for name, layer in tiny.network.matrices().items():
        n, m = tiny.recipe.weight_nm(name)
        assert layer.nm == (n, m)
        if m > 1:
            count = (layer.weight.reshape(len(layer.weight), -1, m) != 0).sum(-1)
            assert int(count.max()) == n, name
            pruned += 1
    assert pruned == 12


@pytest.mark.sampled(4)
@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 70])
@pytest.mark.parametrize("ramp", [0.0, 0.4, 1.0])
def test_pruning_reaches_its_pattern_in_any_number_of_epochs(
    epochs: int, ramp: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = recipes.TrainRecipe(pruned_epochs=epochs, ramp=ramp)
    data = small_data()
    trainer = Trainer(dataclasses.replace(SMALL, train=train), data, tmp_path, QUIET)
    model = build_model(trainer.recipe, trainer.geometry, "qat_pruned")
    monkeypatch.setattr(trainer, "batches", lambda rng: iter(()))
    rest: Any = None  # not used without batches
    for epoch in range(epochs):
        trainer.epoch(model, None, rest, None, torch.Generator(), epoch / epochs)
    weight = model.matrices()["blocks.0.attn.q"].weight
    assert int((weight.reshape(8, 2, 4) != 0).sum(-1).max()) == 2


# -- checkpoints ---------------------------------------------------------------------------------
def refused(path: Path, recipe: Recipe, tiny: Tiny) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, recipe, tiny.geometry)
    text = str(caught.value)
    assert text.endswith(f"train it: sievit train {recipe.name}") and "\n" not in text
    assert str(path) in text
    return text


def test_missing_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    assert refused(tmp_path / "none.pt", tiny.recipe, tiny).startswith("no checkpoint")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_checkpoint(tiny: Tiny, tmp_path: Path, share: float) -> None:
    data = tiny.checkpoint.read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(data[: int(len(data) * share)])
    assert "is damaged" in refused(path, tiny.recipe, tiny)


def test_checkpoint_of_something_else(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "list.pt"
    torch.save([1, 2, 3], path)
    assert "is damaged" in refused(path, tiny.recipe, tiny)
    path.write_text("not a checkpoint at all")
    assert "is damaged" in refused(path, tiny.recipe, tiny)


@pytest.mark.parametrize(
    "change", [{"embed_dim": 32}, {"depth": 3}, {"mlp_ratio": 2.0}, {"num_heads": 4}]
)
def test_checkpoint_of_another_recipe(tiny: Tiny, change: dict[str, Any]) -> None:
    model = dataclasses.replace(tiny.recipe.model, **change)
    other = dataclasses.replace(tiny.recipe, name="other", model=model)
    assert "does not fit recipe other" in refused(tiny.checkpoint, other, tiny)


def test_checkpoint_without_a_phase(tiny: Tiny, tmp_path: Path) -> None:
    saved = torch.load(tiny.checkpoint, weights_only=True)
    del saved["phases"]["qat_pruned"]
    path = tmp_path / "half.pt"
    torch.save(saved, path)
    assert "qat_pruned" in refused(path, tiny.recipe, tiny)


# -- interruption --------------------------------------------------------------------------------
SMALL = Recipe(
    "small",
    data=recipes.DataRecipe(shift=0.5, rotate=10.0),
    model=recipes.ModelRecipe(embed_dim=8, depth=1, num_heads=2, mlp_ratio=1.0),
    sparsity=recipes.SparsityRecipe({"blocks.*": "2:4"}, {"blocks.*.attn": "2:4"}),
    selector=recipes.SelectorRecipe((0,), (0.5,)),
    train=recipes.TrainRecipe(batch_size=20, float_epochs=2, qat_epochs=2, pruned_epochs=3),
)


def small_data() -> Any:
    data = recipes_data("digits")
    return dataclasses.replace(
        data,
        train_images=data.train_images[:40],
        train_labels=data.train_labels[:40],
        test_images=data.test_images[:20],
        test_labels=data.test_labels[:20],
    )


def recipes_data(name: str) -> Any:
    from sievit.models import data

    return data.load(name)


class Interrupted(Trainer):
    """Ctrl-C in front of the given batch, counted over all phases."""

    left = 0

    def batches(self, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in super().batches(rng):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield batch


def weights(done: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    return {f"{p}.{k}": v for p, found in done.items() for k, v in found["state"].items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return weights(Trainer(SMALL, small_data(), tmp_path_factory.mktemp("whole"), QUIET).run())


# two batches an epoch: within the first epoch of a phase, at its end, within a later one
@pytest.mark.sampled(1)
@pytest.mark.parametrize("batches", [3, 4, 7, 8, 12])
def test_interrupted_training_ends_with_the_same_weights(
    batches: int, tmp_path: Path, uninterrupted: dict[str, Tensor]
) -> None:
    trainer = Interrupted(SMALL, small_data(), tmp_path, QUIET)
    trainer.left = batches
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    torch.manual_seed(12345)  # whatever state the new process begins with
    got = weights(Trainer(SMALL, small_data(), tmp_path, QUIET).run())
    assert list(got) == list(uninterrupted)
    wrong = [k for k, v in got.items() if not torch.equal(v, uninterrupted[k])]
    assert not wrong, f"{len(wrong)} tensors differ, first {wrong[0]}"


@pytest.mark.slow
def test_every_epoch_is_saved_whether_it_is_tested_or_not(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, train=dataclasses.replace(SMALL.train, test_every=5))
    trainer = Interrupted(recipe, small_data(), tmp_path, QUIET)
    trainer.left, tested = 3, []
    trainer.measure = lambda model: tested.append(model)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["phase"]["epoch"] == 1 and not tested
    assert set(Trainer(recipe, small_data(), tmp_path, QUIET).run()) == set(PHASES)


def test_finished_training_is_not_repeated(
    tmp_path: Path, uninterrupted: dict[str, Tensor]
) -> None:
    Trainer(SMALL, small_data(), tmp_path, QUIET).run()
    again = Interrupted(SMALL, small_data(), tmp_path, QUIET)  # would stop at the first batch
    assert all(torch.equal(v, uninterrupted[k]) for k, v in weights(again.run()).items())


def test_state_of_another_recipe_is_not_used(tmp_path: Path) -> None:
    Trainer(SMALL, small_data(), tmp_path, QUIET).save(None)
    other = dataclasses.replace(SMALL, train=dataclasses.replace(SMALL.train, seed=7))
    console = Console(record=True, quiet=False, file=(tmp_path / "log").open("w"), width=300)
    Trainer(other, small_data(), tmp_path, console)
    assert "belongs to another recipe: starting afresh" in console.export_text()


def test_geometry_of_the_data(tiny: Tiny) -> None:
    g = geometry(tiny.recipe, tiny.data)
    assert (g.num_patches, g.patch_dim, g.num_classes, g.levels, g.grid) == (16, 4, 10, 16, (4, 4))


def test_exported_metadata_names_the_pattern(tiny: Tiny, tiny_onnx: ModelWrapper) -> None:
    text = tiny_onnx.get_metadata_prop("sievit.nm")
    assert len(re.findall("2:4", text)) == 12
    assert isinstance(tiny.network, QuantVisionTransformer)
    x = image_input(tiny.patches[:2], tiny.data.levels)
    assert float(x.max()) <= 1.0 and float(x.min()) >= 0.0
