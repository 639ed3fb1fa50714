# SPDX-License-Identifier: Apache-2.0
"""The driver against the simulated board: equal logits, and no fault goes unnoticed."""

from __future__ import annotations

import random
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stand_in_pynq
import torch
from device_network import TOKENS, network, smallest

from sievit.boards import overlay, shell
from sievit.boards.device import DeviceError, Ints
from sievit.boards.driver import Accelerator
from sievit.boards.interface import interface
from sievit.boards.shell import ShellDevice, to_words, word_bytes
from sievit.quant.execute import execute
from sievit.quant.graph import Graph
from sievit.quant.params import Stream
from sievit.sim.bench import STALLS
from sievit.sim.device import SimulatedLink, simulated
from sievit.sim.harness import build_root
from sievit.sim.runner import lint


def golden(graph: Graph, x: Ints) -> Ints:
    logits: Ints = execute(graph, Stream.full(torch.from_numpy(x)))["logits"].data[:, 0].numpy()
    return logits


@pytest.fixture(scope="module")
def built(worker_id: str) -> Path:
    """A finished build as ``sievit build`` leaves it, as far as the driver needs it."""
    folder = build_root() / f"device-{worker_id}"
    shutil.rmtree(folder / "graph", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    graph = network()
    graph.save(folder / "graph")
    interface(graph, folder / "graph").save(folder)
    return folder


@pytest.fixture(scope="module")
def open_device(built: Path) -> Iterator[ShellDevice]:
    device = simulated(built, batch=8)
    yield device
    device.close()


@pytest.fixture
def device(open_device: ShellDevice) -> ShellDevice:
    open_device.reset()
    link(open_device).call("stall", "none", 0)
    return open_device


def link(device: ShellDevice) -> SimulatedLink:
    assert isinstance(device.link, SimulatedLink)
    return device.link


@pytest.fixture
def images(seed: int) -> Ints:
    return np.random.default_rng(seed).integers(-512, 512, (21, TOKENS, 6))


def words_of(device: ShellDevice, images: Ints) -> np.ndarray:
    return to_words(device.interface.input, b"".join(device.interface.encode(images)))


def result_size(device: ShellDevice, frames: int) -> int:
    port = device.interface.output
    return frames * port.beats * word_bytes(port)


@pytest.mark.parametrize("stall", sorted(set(STALLS) - {"starve"}))
def test_equal_under_stalls(device: ShellDevice, images: Ints, stall: str, seed: int) -> None:
    link(device).call("stall", stall, seed)
    acc = Accelerator(device)
    want = golden(network(), images)
    for count in (1, 8, 21):  # less than a batch, one, three
        assert (acc.predict(images[:count]) == want[:count]).all()
    status = acc.status()
    assert (status.frames, status.errors) == (30, ())
    assert status.build == int(device.interface.build[:8], 16) and status.version == 1
    assert acc.predict(images[:0]).shape == (0, 10)


def test_cycles_are_those_of_the_clock(device: ShellDevice, images: Ints) -> None:
    acc = Accelerator(device)
    before = link(device).call("cycles")
    acc.predict(images)
    cycles = acc.status().cycles
    beats = 21 * TOKENS * device.interface.input.beats
    assert beats < cycles < link(device).call("cycles") - before
    link(device).call("run", 100)
    assert acc.status().cycles == cycles  # nothing has come out since
    acc.reset()
    assert acc.status().cycles == acc.status().frames == 0


def test_batches_do_not_wait_for_each_other(built: Path, device: ShellDevice) -> None:
    """Ten batches take hardly more cycles than the same frames in one."""
    images = np.zeros((80, TOKENS, 6), np.int64)
    acc, cycles = Accelerator(device), []
    for batch in (8, 80):
        device.reset()
        device.batch = batch
        acc.predict(images)
        cycles.append(acc.status().cycles)
    device.batch = 8
    assert cycles[0] < 1.05 * cycles[1]


def test_large_frames_make_small_batches(device: ShellDevice) -> None:
    frame = replace(device.interface, tokens=1 << 17)  # 1.5 MB
    with pytest.raises(DeviceError, match="not in 1"):
        ShellDevice(frame, device.link, 0)
    assert ShellDevice(frame, device.link).batch == 2
    assert ShellDevice(replace(frame, tokens=1 << 20), device.link).batch == 1
    assert ShellDevice(device.interface, device.link, 5).batch == 5


def test_wrong_images_are_refused(device: ShellDevice, images: Ints) -> None:
    acc = Accelerator(device)
    with pytest.raises(DeviceError, match=r"input .*512 is not in -512\.\.511"):
        acc.predict(images + 512 - images.max())
    with pytest.raises(DeviceError, match="takes integers"):
        acc.predict(images.astype(float))
    with pytest.raises(DeviceError, match="5 tokens of 6 channels"):
        acc.predict(images[:, :4])
    assert acc.status().frames == 0


def test_frames_of_one_beat(worker_id: str, seed: int) -> None:
    """A beat fills its word, and is a frame; so is a result."""
    folder, graph = build_root() / f"smallest-{worker_id}", smallest()
    shutil.rmtree(folder / "graph", ignore_errors=True)
    graph.save(folder / "graph")
    interface(graph, folder / "graph").save(folder)
    x = np.random.default_rng(seed).integers(0, 256, (300, 1, 1))
    want = execute(graph, Stream.full(torch.from_numpy(x)))["table"].data[:, 0].numpy()
    device = simulated(folder, batch=37)
    with Accelerator(device) as acc:
        assert word_bytes(acc.interface.input) == 1
        for stall in ("none", "both", "bursts"):
            link(device).call("stall", stall, seed)
            assert (acc.predict(x) == want).all()
        whole = link(device)
        for words, flag in ((b"\1\2", "oversize"), (b"\1", "truncated")):
            device.reset()
            whole.write(shell.BATCH, 1 if flag == "oversize" else 2)
            whole.receive(2)
            whole.call("send", words, True, None)
            whole.wait_received()
            assert device.errors() == (flag,)
        device.reset()
        assert (acc.predict(x) == want).all()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("bits", [1, 8, 9, 33, 1024])
def test_shell_of_any_width(bits: int) -> None:
    sizes = {"InBits": bits, "OutBits": 1025 - bits, "FrameBeats": bits, "ResultBeats": 1}
    lint("axi_shell", None, sizes)


# -- faults --------------------------------------------------------------------------------------


class Faulty:
    """A link that spoils the transfer of one batch."""

    def __init__(self, whole: SimulatedLink, at: int, fault: str) -> None:
        self.whole, self.left, self.fault = whole, at, fault

    def __getattr__(self, name: str) -> object:
        return getattr(self.whole, name)

    def send(self, words: np.ndarray) -> None:
        self.left -= 1
        size, data = 4, words.tobytes()
        if self.left >= 0 or self.fault == "none":
            self.whole.send(words)
            return
        fault, self.fault = self.fault, "none"
        if fault == "truncated by a word":
            self.whole.call("send", data[:-size], True, None)
        elif fault == "truncated by frames":
            self.whole.call("send", data[: 3 * size], True, None)
        elif fault == "oversize by a word":
            self.whole.call("send", data + data[:size], True, None)
        elif fault == "oversize by a frame":
            self.whole.call("send", data + data[: 15 * size], True, None)
        elif fault == "tlast late":
            self.whole.call("send", data, False, None)
            self.whole.call("send", data[:size], True, None)
        elif fault == "tlast early":
            self.whole.call("send", data[: 40 * size], True, None)
            self.whole.call("send", data[40 * size :], True, None)
        elif fault == "no end":
            self.whole.call("send", data[:-size], False, None)
        elif fault == "byte missing":
            self.whole.call("send", data, True, 0b0111)
        elif fault == "bits beyond the beat":
            self.whole.call("send", data[:-1] + b"\x01", True, None)


@pytest.mark.parametrize(
    ("fault", "flag"),
    [
        ("truncated by a word", "truncated"),
        ("truncated by frames", "truncated"),
        ("oversize by a word", "oversize"),
        ("oversize by a frame", "oversize"),
        ("tlast late", "oversize"),
        ("tlast early", "truncated"),
        ("byte missing", "ragged"),
        ("bits beyond the beat", "ragged"),
    ],
)
def test_a_spoilt_transfer_is_an_error(
    device: ShellDevice, images: Ints, fault: str, flag: str, seed: int
) -> None:
    want = golden(network(), images)
    for at in range(3):  # the first, a middle one, the last batch
        link(device).call("stall", random.Random(f"{seed} {at}").choice(["none", "both"]), seed)
        acc = Accelerator(device)
        whole = link(device)
        device.link = Faulty(whole, at, fault)  # type: ignore[assignment]
        try:
            with pytest.raises(DeviceError, match=rf"{flag}: .*the results are void"):
                acc.predict(images)
        finally:
            device.link = whole
        # reset by the driver; in step again
        assert acc.status().errors == ()
        assert (acc.predict(images) == want).all()


@pytest.mark.parametrize("fault", ["truncated by frames", "oversize by a frame", "tlast late"])
def test_the_accelerator_stays_in_step(device: ShellDevice, images: Ints, fault: str) -> None:
    """Without any reset: the batch behind a spoilt one is right, and the flag stays until it is
    cleared."""
    want = golden(network(), images)
    whole = link(device)
    spoilt = Faulty(whole, 0, fault)
    for n, sender in enumerate((spoilt, whole)):
        whole.write(shell.BATCH, 8)
        sender.send(words_of(device, images[8 * n : 8 * n + 8]))
        whole.receive(result_size(device, 8))
        words = whole.wait_received()
    found = device.interface.decode(
        [shell.from_words(device.interface.output, w) for w in words.reshape(8, -1)]
    )
    assert (found == want[8:16]).all()
    assert len(device.errors()) == 1
    whole.write(shell.ERRORS, 0x1F)
    assert device.errors() == ()


def test_reset_in_the_middle_of_a_frame(device: ShellDevice, images: Ints, seed: int) -> None:
    rng, want = random.Random(seed), golden(network(), images)
    whole, words = link(device), words_of(device, images[:8])
    for _ in range(20):
        whole.write(shell.BATCH, 8)
        whole.send(words)
        whole.receive(result_size(device, 8))
        whole.call("run", rng.randrange(300))
        device.reset()
        assert (Accelerator(device).predict(images[:3]) == want[:3]).all()
        assert device.status().frames == 3


def test_words_that_a_reset_left_over_are_no_images(device: ShellDevice, images: Ints) -> None:
    """A DMA that goes on after the shell was reset alone: its rest is taken for a short batch."""
    whole = link(device)
    whole.write(shell.BATCH, 8)
    whole.send(words_of(device, images[:8]))
    whole.call("run", 50)
    whole.write(shell.CONTROL, shell.RESET)
    whole.write(shell.CONTROL, shell.ENABLE)
    whole.write(shell.BATCH, 8)
    whole.receive(result_size(device, 8))
    whole.wait_received()
    assert device.errors() == ("truncated",)


def test_host_stops_reading(device: ShellDevice, images: Ints) -> None:
    """Nothing is lost while nobody reads, for however long."""
    whole, want = link(device), golden(network(), images)
    for n in range(2):
        whole.write(shell.BATCH, 8)
        whole.send(words_of(device, images[8 * n : 8 * n + 8]))
    with pytest.raises(DeviceError, match=r"does not take the images: .* without a beat"):
        whole.wait_sent()
    words = []
    for _ in range(2):
        whole.receive(result_size(device, 8))
        words += [*whole.wait_received().reshape(8, -1)]
        whole.call("run", 5000)
    found = [shell.from_words(device.interface.output, w) for w in words]
    assert (device.interface.decode(found) == want[:16]).all() and not device.errors()


@pytest.mark.parametrize("fault", ["nothing sent", "no end"])
def test_a_device_that_hangs_is_an_error(device: ShellDevice, images: Ints, fault: str) -> None:
    acc, want, whole = Accelerator(device), golden(network(), images), link(device)
    for at in range(3):
        device.link = Faulty(whole, at, fault)  # type: ignore[assignment]
        try:
            # behind a transfer that is missing the next one is taken for it
            with pytest.raises(DeviceError, match=r"cycles without a beat|results are void"):
                acc.predict(images)
        finally:
            device.link = whole
        assert (acc.predict(images) == want).all()


def test_a_shell_that_is_switched_off(device: ShellDevice, images: Ints) -> None:
    acc, want = Accelerator(device), golden(network(), images)
    link(device).write(shell.CONTROL, 0)
    with pytest.raises(DeviceError, match="overrun: a batch was announced that could not be taken"):
        acc.predict(images)
    assert (acc.predict(images) == want).all()


def test_batches_that_cannot_be_taken(device: ShellDevice) -> None:
    whole = link(device)
    for wrong in (0, 1 << 16):
        whole.write(shell.BATCH, wrong)
        assert device.errors() == ("overrun",) and whole.read(shell.BATCH) == 0
        device.reset()
    for n in range(9):
        assert whole.read(shell.BATCH) == n
        assert device.errors() == ()
        whole.write(shell.BATCH, 1)
        if n == 8:
            assert device.errors() == ("overrun",) and whole.read(shell.BATCH) == 8
            break


def test_registers(device: ShellDevice) -> None:
    whole = link(device)
    assert whole.read(shell.VERSION) == shell.MAGIC << 16 | 1
    whole.write(shell.VERSION, 0)
    whole.write(0x3C, 1)
    assert whole.read(shell.VERSION) >> 16 == shell.MAGIC and whole.read(0x3C) == 0
    assert whole.call("write", shell.CONTROL, 0, 0b0011) == 2  # SLVERR: not all of the word
    assert whole.read(shell.CONTROL) == shell.ENABLE


def test_two_clients(built: Path, device: ShellDevice, images: Ints) -> None:
    with pytest.raises(DeviceError, match=r"in use by process \d+ .*close it there first"):
        Accelerator.simulate(built)
    # threads share one
    acc, want = Accelerator(device), golden(network(), images)
    found: dict[int, Ints] = {}

    def ask(i: int) -> None:
        found[i] = acc.predict(images[i:])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[i] == want[i:]).all() for i in range(4))


def test_other_weights_are_refused(built: Path, device: ShellDevice, tmp_path: Path) -> None:
    # the hardware holds another build than the file beside the bitstream tells of
    other = replace(device.interface, build="0" * 64)
    with pytest.raises(DeviceError, match="describes 00000000: other weights"):
        ShellDevice(other, device.link)
    # weights changed behind the build's back
    folder = tmp_path / "build"
    shutil.copytree(built / "graph", folder / "graph")
    shutil.copy(built / "interface.json", folder)
    weights = folder / "graph" / "constants" / "embed.weight.npy"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DeviceError, match="was changed after the build; build again"):
        Accelerator.simulate(folder)
    # and with a manifest that fits
    shutil.rmtree(folder / "graph")
    network(6).save(folder / "graph")
    with pytest.raises(DeviceError, match="other weights; build again"):
        Accelerator.simulate(folder)
    with pytest.raises(DeviceError, match="run: sievit build"):
        Accelerator.simulate(tmp_path / "nothing")


def test_no_shell_there(device: ShellDevice) -> None:
    class Nothing:
        def read(self, address: int) -> int:
            return 0xFFFFFFFF if address == shell.VERSION else 0

    class Newer:
        def read(self, address: int) -> int:
            return shell.MAGIC << 16 | 2

    with pytest.raises(DeviceError, match="VERSION holds 0xffffffff"):
        ShellDevice(device.interface, Nothing())  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="version 2, this driver knows 1"):
        ShellDevice(device.interface, Newer())  # type: ignore[arg-type]


def test_a_simulator_that_dies(built: Path, device: ShellDevice) -> None:
    whole = link(device)
    extra = SimulatedLink(built / "shell", "device_net_axi", whole.patience)
    extra.process.kill()
    with pytest.raises(DeviceError, match="the simulator has ended"):
        for _ in range(3):
            extra.read(shell.VERSION)
    extra.close()
    assert not extra.scratch.exists()


# -- the driver of the boards --------------------------------------------------------------------


@pytest.fixture
def bit(built: Path, device: ShellDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bitstream whose hardware is the simulated board, behind a stand-in for PYNQ."""
    monkeypatch.setitem(sys.modules, "pynq", stand_in_pynq)
    monkeypatch.setattr(stand_in_pynq, "LINK", link(device))
    monkeypatch.setattr(stand_in_pynq, "MEMORY", {})
    monkeypatch.setattr(overlay.tempfile, "gettempdir", lambda: str(tmp_path))
    for name in ("net.bit", "net.hwh"):
        (tmp_path / name).write_text("")
    shutil.copy(built / "interface.json", tmp_path)
    return tmp_path / "net.bit"


def test_overlay(bit: Path, images: Ints) -> None:
    want = golden(network(), images)
    with Accelerator(bit) as acc:
        assert isinstance(acc.device, ShellDevice)
        acc.device.batch = 4
        assert (acc.predict(images) == want).all()
        assert (acc.predict(images[:2]) == want[:2]).all()
        assert acc.status().frames == 23 and acc.status().errors == ()
        with pytest.raises(DeviceError, match=r"in use by process \d+"):
            Accelerator(bit)
        assert len(stand_in_pynq.MEMORY) == 4
    assert not stand_in_pynq.MEMORY
    Accelerator(bit).close()  # free again


def test_overlay_notices(bit: Path, images: Ints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in_pynq, "CELLS", ["accelerator", "dma", "core"])
    want = golden(network(), images)
    device = overlay.open_overlay(bit, timeout=0.3)
    core = device.link.core  # type: ignore[attr-defined]
    assert core.control == [overlay.START_FOREVER]
    acc = Accelerator(device)
    # a result longer than announced: the DMA halts
    good = device.link.receive
    with monkeypatch.context() as short:
        short.setattr(device.link, "receive", lambda size: good(size - 4))
        with pytest.raises(DeviceError, match="the DMA reports 0x10"):
            acc.predict(images)
    assert core.control == [overlay.START_FOREVER] * 2  # a reset stops it
    assert (acc.predict(images) == want).all()
    # the shell takes nothing, and the flag tells why
    device.link.write(shell.CONTROL, 0)
    with pytest.raises(DeviceError, match="overrun"):
        acc.predict(images)
    device.link.write(shell.CONTROL, shell.RESET)  # silent: not even flags
    with pytest.raises(DeviceError, match=r"no results for 0\.3 s"):
        acc.predict(images)
    acc.close()


def test_overlay_refuses(bit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in_pynq, "CELLS", ["dma"])
    with pytest.raises(DeviceError, match="the overlay has no accelerator"):
        Accelerator(bit)
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(DeviceError, match="PYNQ is not installed: this runs on the board"):
        Accelerator(bit)
    bit.with_suffix(".hwh").unlink()
    with pytest.raises(DeviceError, match=r"net\.hwh is missing; copy the whole folder"):
        Accelerator(bit)
