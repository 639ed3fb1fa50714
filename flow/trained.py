# SPDX-License-Identifier: Apache-2.0
"""From a trained model over QONNX to the integer graph."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from qonnx.core.modelwrapper import ModelWrapper

from sievit.flow.build import Build, one
from sievit.models import data as datasets
from sievit.models import export as exporter
from sievit.models import train
from sievit.models.data import Dataset, patchify
from sievit.models.qvit import QuantVisionTransformer, image_input
from sievit.models.recipe import ZOO, Recipe, RecipeError
from sievit.quant.execute import execute
from sievit.quant.lower import lower
from sievit.quant.params import Stream
from sievit.quant.sources import folders_digest

PROFILE_IMAGES = 512
CACHE = Path("build") / "data"


def checkpoint_path(recipe: Recipe) -> Path:
    """Where the trained networks of a recipe lie."""
    return ZOO / f"{recipe.name}.pt"


def load_data(recipe: Recipe, path: Path | None) -> Dataset:
    """The data set of a recipe; an .npz archive in place of its folder is one of JPEG files, which
    are decoded once: the pixels stay in ``build/data``."""
    if path is None or path.suffix != ".npz" or not path.is_file():
        return datasets.load(recipe.data.source, path, None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    file = CACHE / f"{path.stem}-{digest}.pt"
    if file.is_file():
        return Dataset(**torch.load(file, weights_only=True))
    data = datasets.load("jpeg", path, None)
    train.write_atomically(file, {f.name: getattr(data, f.name) for f in dataclasses.fields(data)})
    return data


def first_images(data: Dataset, count: int) -> Dataset:
    """The data set with its first ``count`` test images alone."""
    images, labels = data.test_images[:count], data.test_labels[:count]
    return dataclasses.replace(data, test_images=images, test_labels=labels)


@dataclass(kw_only=True)
class TrainedBuild(Build):
    """Build of a recipe of the zoo: its checkpoint on the test split of its data."""

    PAIRS: ClassVar[tuple[str, ...]] = ("qat_qonnx", "qonnx_graph")

    recipe: Recipe
    data_path: Path | None = None
    checkpoint: Path | None = None
    #: test images that are compared, the first ones
    images_compared: int = 512

    def front(self) -> None:
        self.load()
        self.export()
        self.lower()

    def frames(self) -> Stream:
        images = load_data(self.recipe, self.data_path).test_images[: self.images_compared]
        return Stream.full(patchify(images, self.recipe.data.patch_size))

    def load(self) -> None:
        if self.recipe.selector.method != "heatvit":
            raise RecipeError(
                f"{self.recipe.name}: selector.method {self.recipe.selector.method} has no cores; "
                "heatvit has"
            )
        with self.step("load") as note:
            self.data = first_images(load_data(self.recipe, self.data_path), self.images_compared)
            self.geometry = train.geometry(self.recipe, self.data)
            path = self.checkpoint or checkpoint_path(self.recipe)
            self.models = train.load_checkpoint(path, self.recipe, self.geometry)
            self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.patches = patchify(self.data.test_images, self.recipe.data.patch_size)
            self.x = Stream.full(self.patches)
            self.qat_logits = torch.zeros(0)
            for name, model in self.models.items():
                y = train.logits(model, self.patches, self.data.levels)
                self.accuracy[name] = round(train.accuracy(y, self.data.test_labels) / 100, 5)
                self.qat_logits = y
            shown = ", ".join(f"{k} {100 * v:.2f} %" for k, v in self.accuracy.items())
            note["text"] = f"{self.data.name}, {len(self.patches)} test images: {shown}"

    def export(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "model.onnx"
        stamp = self.folder / "model.stamp"
        key = f"{self.digest} {folders_digest('models', 'quant')}"
        with self.step("export") as note:
            if path.exists() and stamp.exists() and stamp.read_text() == key:
                self.onnx = ModelWrapper(str(path))
                note["text"] = "unchanged, reused"
            else:
                stamp.unlink(missing_ok=True)
                model = self.models["qat_pruned"]
                assert isinstance(model, QuantVisionTransformer)
                self.onnx = exporter.export(model, path)
                stamp.write_text(key)
                note["text"] = f"{len(self.onnx.graph.node)} QONNX nodes"
        with self.step("QONNX") as note:
            x = image_input(self.patches, self.data.levels)
            self.tensors = exporter.execute(self.onnx, x)
            self.qonnx_logits = torch.from_numpy(self.tensors[exporter.OUTPUT]).flatten(1)
            wrong = (self.qat_logits != self.qonnx_logits).any(1)

            def locate(i: int) -> str:
                model = self.models["qat_pruned"]
                assert isinstance(model, QuantVisionTransformer)
                return str(exporter.first_difference(model, self.tensors, self.onnx, x))

            note["text"] = self.compare("qat_qonnx", wrong, locate)

    def lower(self) -> None:
        with self.step("lower") as note:
            self.graph = lower(self.onnx, self.name)
            profile = self.data.train_images[:PROFILE_IMAGES]
            edges = execute(self.graph, Stream.full(patchify(profile, self.recipe.data.patch_size)))
            self.lengths = {k: v.length for k, v in edges.items()}
            note["text"] = f"{len(self.graph.nodes)} cores"
        with self.step("Graph") as note:
            self.edges = execute(self.graph, self.x)
            out = self.graph.output
            logits = self.edges[out.name].data[:, 0]
            scaled = (logits.double() * 2.0**out.exponent).float()
            top1 = train.accuracy(logits.double(), self.data.test_labels)
            self.accuracy["integer"] = round(top1 / 100, 5)
            wrong = (scaled != self.qonnx_logits).any(1)
            note["text"] = self.compare("qonnx_graph", wrong, self.locate_qonnx)

    def locate_qonnx(self, i: int) -> str:
        """First edge, token and channel at which the Graph leaves the QONNX execution."""
        scaled = {}
        for node in self.graph.nodes:
            value = torch.from_numpy(self.tensors[self.graph.meta["tensors"][node.name]])
            ints = (value.double() * 2.0**-node.exponent).round().long()
            golden = self.edges[node.name]
            scaled[node.name] = golden.with_data(ints[:, : golden.data.shape[1]])
        return self.locate(i, {k: one(v, i) for k, v in scaled.items()})

    def pictures(self) -> dict[str, Any]:
        index = [
            int((self.data.test_labels == c).nonzero()[0]) for c in range(len(self.data.classes))
        ][:10]
        return {
            "images": self.data.test_images[index],
            "levels": self.data.levels,
            "grid": self.geometry.grid,
            "labels": self.data.test_labels[index].tolist(),
            "predictions": self.edges[self.graph.output.name].data[index, 0].argmax(1).tolist(),
            "classes": self.data.classes,
            "alive": {k: v[index] for k, v in self.kept.items()},
        }
