# SPDX-License-Identifier: Apache-2.0
"""Bytes between host and accelerator."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from device_network import network

from sievit.boards.device import CHUNK, DeviceError, Interface, Lanes
from sievit.boards.interface import interface
from sievit.quant.graph import Graph
from sievit.quant.itype import IntType
from sievit.quant.params import Port, Stream
from sievit.rtl import codegen
from sievit.sim.runner import to_beats


def test_bytes_are_the_beats_of_the_simulation(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        bits, signed = rng.randint(1, 16), rng.random() < 0.5
        lanes = rng.randint(1, 9)
        port = Lanes(lanes * rng.randint(1, 4), lanes, bits, signed)
        low = -(1 << bits - 1) if signed else 0
        x = np.array(
            [rng.randint(low, low + (1 << bits) - 1) for _ in range(3 * port.channels)]
        ).reshape(3, port.channels)
        data = port.encode(x)
        stream = Stream.full(torch.from_numpy(x)[None])
        beats = to_beats(Port("p", port.channels, lanes, IntType(bits, signed)), stream)
        assert data == b"".join(b.to_bytes(port.beat_bytes, "little") for b, _, _ in beats)
        assert (port.decode(data) == x).all()


def test_what_does_not_fit_is_refused() -> None:
    port = Lanes(6, 3, 4, True)
    with pytest.raises(DeviceError, match=r"input 0\.\.8 is not in -8\.\.7"):
        port.encode(np.array([[0, 0, 0, 0, 0, 8]]))
    with pytest.raises(DeviceError, match="3 bytes are not tokens of 4 bytes"):
        port.decode(b"\0\0\0")
    with pytest.raises(DeviceError, match="bits beyond the lanes"):
        port.decode(b"\0\x10\0\0")


def test_interface_of_a_graph(tmp_path: Path) -> None:
    graph = network()
    graph.save(tmp_path)
    found = interface(Graph.load(tmp_path), tmp_path)
    assert found.build == hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest()
    out = codegen.output_port(graph)
    assert (found.tokens, found.input.channels) == (graph.input_tokens, graph.input.channels)
    assert (found.output.lanes, found.output.channels) == (out.lanes, out.channels)
    found.save(tmp_path)
    assert Interface.load(tmp_path) == found
    with pytest.raises(DeviceError, match=r"images of shape \(1, 2\)"):
        found.encode(np.zeros((1, 2), np.int64))
    with pytest.raises(DeviceError, match="result 0 has 1 bytes"):
        found.decode([b"\0"])
    (tmp_path / "interface.json").write_text("{")
    with pytest.raises(DeviceError, match="build again"):
        Interface.load(tmp_path)


def test_many_images(seed: int) -> None:
    """In pieces as well as at once."""
    port, out = Lanes(6, 2, 10, True), Lanes(10, 2, 11, True)
    face = Interface("net", "0" * 64, 5, port, out)
    rng = np.random.default_rng(seed)
    images = rng.integers(-512, 512, (2 * CHUNK + 3, 5, 6))
    assert face.encode(images) == [port.encode(image) for image in images]
    logits = rng.integers(-1024, 1024, (2 * CHUNK + 3, 10))
    assert (face.decode([out.encode(row[None]) for row in logits]) == logits).all()
    assert face.encode(images[:0]) == [] and face.decode([]).shape == (0, 10)
