# SPDX-License-Identifier: Apache-2.0
"""From a network that came as integers to a build of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from sievit.flow.build import Build, first, one
from sievit.models.imported import Imported
from sievit.quant.execute import execute, first_difference
from sievit.quant.params import Stream

#: images of random pixels beside the published ones
RANDOM_IMAGES, SEED = 15, 1


@dataclass(kw_only=True)
class ImportedBuild(Build):
    """Build of what ``sievit import`` wrote: the published images, and some of random pixels.

    Of a pruned variant nothing may be published; then nothing is compared with it.
    """

    PAIRS: ClassVar[tuple[str, ...]] = ("published",)

    source: Path
    #: a network of full size takes long to simulate
    stalled_images: int = 2
    random_images: int = RANDOM_IMAGES
    has_published: bool = True

    @property
    def pairs(self) -> tuple[str, ...]:
        return tuple(p for p in super().pairs if p != "published" or self.has_published)

    def front(self) -> None:
        with self.step("load") as note:
            model = Imported.load(self.source)
            self.graph, self.x = model.graph, self.frames()
            count = len(model.images.length)
            self.has_published = bool(model.published)
            note["text"] = f"{len(self.graph.nodes)} cores, {count} published image"
        with self.step("Graph") as note:
            self.edges = execute(self.graph, self.x)
            self.lengths = {k: v.length for k, v in self.edges.items()}
            note["text"] = f"{len(self.x.length)} images; nothing is published to compare with"
            if not self.has_published:
                return
            golden = {k: Stream.full(v) for k, v in model.published.items()}
            own = {k: first(self.edges[k], count) for k in golden}
            wrong = torch.zeros(count, dtype=torch.bool)
            for name in golden:
                wrong |= (golden[name].data != own[name].data).flatten(1).any(1)

            def locate(i: int) -> str:
                want, got = ({k: one(v, i) for k, v in e.items()} for e in (golden, own))
                return str(first_difference(self.graph, {**self.edges, **want}, got))

            note["text"] = self.compare("published", wrong, locate)
            note["text"] += f"; {len(golden)} edges compared"

    def frames(self) -> Stream:
        model = Imported.load(self.source)
        t = model.graph.input.itype
        rng = torch.Generator().manual_seed(SEED)
        shape = (self.random_images, *model.images.data.shape[1:])
        noise = torch.randint(t.min, t.max + 1, shape, generator=rng)
        return Stream.full(torch.cat([model.images.data, noise]))
