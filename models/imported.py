# SPDX-License-Identifier: Apache-2.0
"""A model that comes as integers, and the folder that it lies in between import and build."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sievit.quant.errors import SievitError
from sievit.quant.graph import Graph, Node
from sievit.quant.itype import IntType
from sievit.quant.params import Stream


class FormatError(SievitError):
    """A file that holds something else than its name promises."""


@dataclass(frozen=True)
class Imported:
    """A network of integers and what its makers published of it.

    Attributes:
        graph: unfolded.
        images: the published ones.
        published: int64 ``[images, tokens, channels]`` of some edges on these images, by name.
    """

    graph: Graph
    images: Stream
    published: dict[str, Tensor]

    def save(self, folder: Path) -> None:
        """Replace the folder by ``graph/`` and ``published.npz``."""
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        self.graph.save(part / "graph")
        arrays = {Graph.INPUT: self.images.data, **self.published}
        values: dict[str, Any] = {name: value.numpy() for name, value in arrays.items()}
        np.savez_compressed(part / "published.npz", **values)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    @classmethod
    def load(cls, folder: Path) -> Imported:
        """Read a saved model. Raises ValueError if its graph was changed."""
        with np.load(folder / "published.npz") as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        images = Stream.full(arrays.pop(Graph.INPUT))
        return cls(Graph.load(folder / "graph"), images, arrays)


def align_blocks(nodes: list[Node]) -> list[Node]:
    """The nodes, every type as wide as that of the same layer in any block: layers that compute the
    same become one shape, which a simulator compiles once and a folding is chosen for once."""

    def layer(node: Node) -> str:
        return re.sub(r"^blocks_\d+", "blocks", node.name)

    widest: dict[tuple[str, str], IntType] = {}
    for node in nodes:
        for f in fields(node.params):
            t = getattr(node.params, f.name)
            if isinstance(t, IntType):
                known = widest.get((layer(node), f.name), t)
                both = IntType.fitting(min(t.min, known.min), max(t.max, known.max))
                widest[layer(node), f.name] = both
    aligned = []
    for node in nodes:
        types: dict[str, Any] = {n: t for (key, n), t in widest.items() if key == layer(node)}
        aligned.append(replace(node, params=replace(node.params, **types)))
    return aligned
