# SPDX-License-Identifier: Apache-2.0
"""Seed of the random tests, and one small trained network that many tests share."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from qonnx.core.modelwrapper import ModelWrapper
from rich.console import Console
from torch import Tensor, nn

from sievit.models import data as datasets
from sievit.models import export as exporter
from sievit.models import recipe as recipes
from sievit.models.data import Dataset, patchify
from sievit.models.qvit import QuantVisionTransformer, image_input
from sievit.models.recipe import Recipe
from sievit.models.train import (
    Geometry,
    Trainer,
    build_model,
    geometry,
    load_checkpoint,
    save_checkpoint,
)
from sievit.quant.execute import execute
from sievit.quant.graph import Graph
from sievit.quant.lower import lower
from sievit.quant.params import CoreParams, Stream
from sievit.sim.runner import locked
from sievit.sim.soak import parameter_sets

# processes that a test starts share the cores with other tests: threads would wait for each other
os.environ["OMP_NUM_THREADS"] = "1"
# into the environment, so that the processes of pytest-xdist draw the same
if not os.environ.get("SEED"):
    os.environ["SEED"] = str(secrets.randbelow(1 << 31))
SEED = int(os.environ["SEED"])

T = TypeVar("T")

#: 2 x 36 steps a phase: every quantiser collects statistics for 60
TINY = """
[data]
source = "digits"
patch_size = 2

[model]
embed_dim = 16
depth = 2
num_heads = 2
mlp_ratio = 1.0

[quant]
weight_bits = 4
act_bits = 5

[sparsity]
weights = { "blocks.*" = "2:4" }
attention = { "blocks.*.attn" = "2:4" }

[selector]
blocks = [0, 1]
keep = [0.8, 0.5]

[train]
batch_size = 40
float_epochs = 4
float_lr = 8e-3
qat_epochs = 2
pruned_epochs = 2
distill = 0.5
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="without tests marked slow; of every core's bench one parameter set and of a test "
        "marked sampled(n) n cases, drawn by SEED",
    )


def pytest_report_header(config: pytest.Config) -> str:
    quick = "; a sample of the tests (all: make test-all)"
    return f"random tests: SEED={SEED}{quick if config.getoption('--quick') else ''}"


def draw(name: str, cases: Sequence[T], count: int) -> list[T]:
    """The cases of a quick run, the same in every process."""
    return random.Random(f"{SEED} {name}").sample(cases, min(count, len(cases)))


def bench_of(stem: str) -> str:
    """The test that tries the parameter sets of a core."""
    return f"sim/cores/test_{stem}.py::test_{stem}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A case of the tests that are sampled is one more design to compile or proof to find, and most
    of what they try is in the records of ``make soak``, which count only while they are of the
    present sources."""
    if not config.getoption("--quick"):
        return
    dropped = {i for i in items if i.get_closest_marker("slow")}
    cases: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        if item.path.parent.name == "cores":  # a mark in these files would void the cores' records
            item.add_marker(pytest.mark.sampled(1))
        if mark := item.get_closest_marker("sampled"):
            cases.setdefault((item.nodeid.split("[")[0], mark.args[0]), []).append(item)
    for (name, count), own in cases.items():
        dropped |= set(own) - set(draw(name, own, count))
    config.hook.pytest_deselected(items=list(dropped))
    items[:] = [i for i in items if i not in dropped]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    report = yield
    if report.failed:
        report.sections.append(("seed", f"the same random numbers again: SEED={SEED}"))
    return report


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)  # small tensors: more threads would only wait for each other


@pytest.fixture(scope="session")
def seed() -> int:
    """Seed of this run; the environment variable SEED overrides it."""
    return SEED


@pytest.fixture(scope="session")
def tried_sets(request: pytest.FixtureRequest) -> Callable[[str], list[CoreParams]]:
    """The parameter sets that this run tries of a core."""

    def sets(stem: str) -> list[CoreParams]:
        every = parameter_sets(stem)
        return draw(bench_of(stem), every, 1) if request.config.getoption("--quick") else every

    return sets


@pytest.fixture
def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Tiny:
    """The shared network. Tests must not change it."""

    recipe: Recipe
    toml: Path
    data: Dataset
    geometry: Geometry
    checkpoint: Path
    models: dict[str, nn.Module]
    #: integer patches of the test split
    patches: Tensor

    @property
    def network(self) -> QuantVisionTransformer:
        model = self.models["qat_pruned"]
        assert isinstance(model, QuantVisionTransformer)
        return model


@torch.no_grad()
def level_selectors(network: QuantVisionTransformer, patches: Tensor) -> None:
    """Spread the selectors' scores around 0; after so few steps they would keep everything."""
    network.eval()
    for selector in network.selectors.values():
        fc3, seen = selector.fc3, []
        hook = fc3.register_forward_hook(lambda *found, seen=seen: seen.append(found[2]))
        network(image_input(patches, network.levels))
        for name, scale in selector.fc3_act.named_parameters():
            if name.endswith("scaling_impl.value"):
                scale.fill_(0.0)  # log2 of the range: -1..1
        fc3.weight *= 0.3 / seen.pop()[:, 1:].std((0, 1))[:, None]  # a row is a head
        network(image_input(patches, network.levels))
        fc3.bias -= seen.pop()[:, 1:].flatten(0, 1).quantile(0.4, dim=0)
        hook.remove()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Trained in the three phases; two selectors, 2:4 weights and 2:4 attention."""
    folder = tmp_path_factory.mktemp("tiny")
    toml = folder / "tiny.toml"
    toml.write_text(TINY)
    recipe, data = recipes.load(str(toml)), datasets.load("digits")
    # trained by the first process that comes; the others find all phases finished
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with locked(shared / "tiny"):
        done = Trainer(recipe, data, shared / "tiny" / "train", Console(quiet=True)).run()
    network = build_model(recipe, geometry(recipe, data), "qat_pruned")
    network.load_state_dict(done["qat_pruned"]["state"])
    level_selectors(network, patchify(data.train_images[:200], recipe.data.patch_size))
    done["qat_pruned"]["state"] = network.state_dict()
    path = folder / "tiny.pt"
    save_checkpoint(path, recipe, done)
    g = geometry(recipe, data)
    models = load_checkpoint(path, recipe, g)
    patches = patchify(data.test_images, recipe.data.patch_size)
    return Tiny(recipe, toml, data, g, path, models, patches)


@pytest.fixture(scope="session")
def tiny_onnx(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> ModelWrapper:
    """The exported network; copy it before changing it."""
    return exporter.export(tiny.network, tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="session")
def tiny_graph(tiny: Tiny, tiny_onnx: ModelWrapper) -> Graph:
    """The lowered, unfolded network; copy it before changing it."""
    return lower(tiny_onnx, tiny.recipe.name)


@pytest.fixture(scope="session")
def tiny_edges(tiny: Tiny, tiny_graph: Graph) -> dict[str, Stream]:
    """Every edge for all test images."""
    return execute(tiny_graph, Stream.full(tiny.patches))
