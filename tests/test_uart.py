# SPDX-License-Identifier: Apache-2.0
"""The serial line from end to end: the host's software at the pins of the simulated hardware."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from device_network import checked, network
from PIL import Image

from sievit.boards import uart
from sievit.boards.board import load
from sievit.boards.device import DeviceError, Interface
from sievit.boards.driver import Accelerator
from sievit.boards.interface import interface
from sievit.boards.uart import Packets, UartDevice, packet
from sievit.flow import host
from sievit.models import data as datasets
from sievit.quant.errors import SievitError
from sievit.quant.execute import execute
from sievit.quant.params import Stream
from sievit.sim import uart as pins

#: seconds of the simulated line within which every request is answered
TIMEOUT = 0.004


class FaultyLine(pins.SimulatedLine):
    """Damages what passes: ``out`` what the host sends, ``back`` what it gets."""

    out: Callable[[bytes], list[int]] | None = None
    back: Callable[[bytes], bytes] | None = None

    def write(self, data: bytes) -> None:
        if self.out is None:
            super().write(data)
        else:
            self.levels(self.out(data))

    def read(self, count: int, seconds: float) -> bytes:
        data = super().read(count, seconds)
        return self.back(data) if self.back else data


@dataclass(frozen=True)
class Built:
    """The program that simulates the device, what the host knows of it, and where it runs."""

    program: Path
    face: Interface
    folder: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder, graph = tmp_path_factory.mktemp("uart"), network()
    graph.meta["board"] = "ulx3s_85f"
    graph.save(folder / "graph")
    face = interface(graph, folder / "graph")
    face.save(folder)
    return Built(pins.build(graph, face, folder / "uart"), face, folder)


@pytest.fixture
def line(built: Built) -> Iterator[FaultyLine]:
    line = FaultyLine(built.program, built.folder / "uart")
    yield line
    line.close()


@pytest.fixture
def device(built: Built, line: FaultyLine) -> UartDevice:
    return UartDevice(built.face, line, TIMEOUT)


def images(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images, and the logits of the golden graph, int64 ``[images, classes]``."""
    graph = network()
    t = graph.input.itype
    rng = torch.Generator().manual_seed(seed)
    shape = (count, graph.input_tokens, graph.input.channels)
    x = torch.randint(t.min, t.max + 1, shape, generator=rng)
    return x.numpy(), execute(graph, Stream.full(x))[graph.output.name].data[:, 0].numpy()


def logits(device: UartDevice, x: np.ndarray) -> np.ndarray:
    return device.interface.decode(device.run(device.interface.encode(x)))


def test_logits_cycles_and_counters(device: UartDevice, seed: int) -> None:
    x, want = images(seed, 40)
    assert (logits(device, x) == want).all()
    assert device.repeated == 0 and len(set(device.cycles)) == 1 and device.cycles[0] > 30
    status = device.status()
    assert (status.version, status.frames, status.errors) == (1, 40, ())
    # forty images crossed the line meanwhile
    assert status.cycles > 40 * len(packet(1, 0, device.interface.encode(x[:1])[0])) * 10 * 8 * 0.9
    device.reset()
    assert (device.status().frames, device.status().cycles) == (0, 0)
    assert (logits(device, x[:3]) == want[:3]).all() and device.status().frames == 3
    assert logits(device, x[:0]).shape == (0, 10)


def test_the_device_starts_in_reset(tmp_path: Path, seed: int) -> None:
    """Whatever its other registers hold then: the core would notice a cycle before the reset."""
    graph = checked(seed)
    graph.save(tmp_path / "graph")
    program = pins.build(graph, interface(graph, tmp_path / "graph"), tmp_path / "uart")
    for start in range(1, 9):
        line = pins.SimulatedLine(program, tmp_path / "uart", seed=start)
        assert line.read(1, TIMEOUT) == b""
        line.close()
        assert line.process.returncode == 0


def test_bit_errors_on_both_ways(line: FaultyLine, device: UartDevice, seed: int) -> None:
    """One of 3,000 bits is wrong, start and stop bits among them."""
    rng = random.Random(seed)

    def flip(bits: int) -> int:
        return sum((rng.random() < 1 / 3000) << i for i in range(bits))

    x, want = images(seed, 60)
    line.out = lambda data: [pins.symbol(c) ^ flip(10) for c in data]
    line.back = lambda data: bytes(c ^ flip(8) for c in data)
    done = wrong = 0
    for i in range(len(x)):
        try:
            assert (logits(device, x[i : i + 1]) == want[i : i + 1]).all()
            done += 1
        except DeviceError:
            wrong += 1
    assert done >= 40 and device.repeated > 0 and device.packets.damaged > 0, (done, wrong)
    line.out = line.back = None
    assert (logits(device, x) == want).all()
    assert {"crc"} <= set(device.status().errors)


def refused(device: UartDevice, characters: list[int]) -> set[str]:
    """Reasons for which the hardware refuses these characters."""
    device.line.levels(characters)  # type: ignore[attr-defined]
    found = set()
    while (reply := device._reply()) is not None:
        assert reply[0] == uart.REFUSED and len(reply[2]) == 1
        found |= {n for i, n in enumerate(uart.REASONS) if reply[2][0] >> i & 1}
    return found


def test_damaged_packets_are_refused_with_their_reasons(device: UartDevice, seed: int) -> None:
    rng = random.Random(seed)
    x, want = images(seed, 2)
    frame = device.interface.encode(x[:1])[0]
    good = packet(uart.IMAGE, 7, frame)
    body = bytes([uart.IMAGE, 7]) + frame
    check = zlib.crc32(body).to_bytes(4, "little")

    def sent(data: bytes) -> set[str]:
        return refused(device, [pins.symbol(c) for c in data])

    for i in rng.sample(range(2, len(good) - 1), 6):
        wrong = good[i] ^ 1 << rng.randrange(8)
        if {wrong, good[i], good[i - 1]} & {uart.END, uart.ESC}:
            continue
        assert sent(good[:i] + bytes([wrong]) + good[i + 1 :]) == {"crc"}, i
    end = bytes([uart.END])
    assert sent(uart.characters(body[:-3] + check)) == {"crc"}  # bytes are missing
    assert sent(packet(uart.IMAGE, 7, frame[:-1])) == {"length"}
    assert sent(packet(uart.IMAGE, 7, frame + b"\0")) == {"length"}
    assert sent(packet(uart.IMAGE, 7, frame * 8)) == {"length"}
    assert sent(packet(uart.IMAGE, 7)) == {"length"}
    assert sent(packet(uart.STATUS, 7, b"\0")) == {"length"}
    assert sent(packet(0x55, 7)) == {"kind"}
    assert sent(uart.characters(body[:20])) == {"crc"}  # truncated
    assert sent(end + b"\1" + end) == {"crc"}
    assert sent(end + bytes([uart.ESC, 1, 2, 3, 4, 5, 6]) + end) == {"line"}
    assert sent(end + bytes([uart.ESC]) + end) == {"line"}
    broken = [pins.symbol(c) for c in good]
    broken[9] &= ~(1 << 9)  # no stop bit
    assert refused(device, broken) == {"line"}
    assert refused(device, [0, 0, pins.IDLE, pins.symbol(uart.END)]) == {"line"}  # a break
    assert sent(end * 5) == set()
    # a glitch is no start bit
    assert refused(device, [pins.IDLE]) == set()
    assert device.status().frames == 0
    assert set(device.status().errors) == {"crc", "length", "kind", "line"}
    assert (logits(device, x) == want).all()


def test_garbage_between_images(line: FaultyLine, device: UartDevice, seed: int) -> None:
    rng = random.Random(seed)
    x, want = images(seed, 8)
    for i in range(len(x)):
        noise = [rng.randrange(1 << 10) for _ in range(rng.randrange(60))]
        line.levels([*noise, pins.IDLE])
        try:
            assert (logits(device, x[i : i + 1]) == want[i : i + 1]).all()
        except DeviceError:
            pytest.fail("noise before a request must not outlast it")


def test_truncated_request_and_then_another(line: FaultyLine, device: UartDevice) -> None:
    x, want = images(3, 3)
    frame = device.interface.encode(x[:1])[0]
    line.write(packet(uart.IMAGE, 9, frame)[:-12])  # the host was killed here
    assert (logits(device, x) == want).all()


def test_host_that_does_not_read(line: FaultyLine, device: UartDevice, seed: int) -> None:
    """Characters get lost; the results that follow are right, and those of old requests are not
    taken for new ones."""
    rng = random.Random(seed)
    x, want = images(seed, 24)
    line.back = lambda data: b"" if rng.random() < 0.1 else data[rng.randrange(4) == 0 :]
    lost = 0
    for i in range(0, len(x), 4):
        try:
            assert (logits(device, x[i : i + 4]) == want[i : i + 4]).all()
        except DeviceError:
            lost += 1
    line.back = None
    assert device.repeated > 0
    assert (logits(device, x) == want).all()


def test_more_images_than_there_is_room_for(built: Built, line: FaultyLine) -> None:
    """A host without a window: what finds no room is refused, what is accepted is right."""
    device = UartDevice(built.face, line, TIMEOUT)
    assert device.window == 4
    x, want = images(5, 30)
    frames = device.interface.encode(x)
    checks = {zlib.crc32(bytes([uart.IMAGE, i]) + f).to_bytes(4, "little"): i
              for i, f in enumerate(frames)}  # fmt: skip
    line.write(b"".join(packet(uart.IMAGE, i, f) for i, f in enumerate(frames)))
    got = {}
    busy = False
    while (reply := device._reply()) is not None:
        kind, tag, payload = reply
        if kind == uart.REFUSED:
            busy |= payload[0] == 1 << uart.REASONS.index("busy")
            continue
        assert kind == uart.RESULT and checks[payload[:4]] == tag
        got[tag] = device.interface.decode([payload[8:]])[0]
    assert len(got) >= 4 and all((got[i] == want[i]).all() for i in got)
    assert len(got) == 30 or busy
    device.window = 30
    assert (logits(device, x) == want).all()


def test_two_hosts_on_one_line(built: Built, line: FaultyLine, seed: int) -> None:
    """The characters of both are mixed; each of them reads what is meant for the other, too."""
    rng = random.Random(seed)
    face = built.face
    x, want = images(seed, 12)
    others = [packet(uart.IMAGE, t, f) for t, f in enumerate(face.encode(images(seed + 1, 9)[0]))]
    device = UartDevice(face, line, TIMEOUT)

    def mix(data: bytes) -> list[int]:
        other = list(rng.choice(others)) if rng.random() < 0.5 else []
        mixed = []
        for c in data:
            mixed.append(c)
            while other and rng.random() < 0.1:
                mixed.append(other.pop(0))
        if rng.random() < 0.5:  # the other one's request is whole
            mixed += rng.choice(others)
        return [pins.symbol(c) for c in mixed]

    line.out = mix
    done = 0
    for i in range(len(x)):
        try:
            assert (logits(device, x[i : i + 1]) == want[i : i + 1]).all()
            done += 1
        except DeviceError:
            pass
    assert done
    line.out = None
    assert (logits(device, x) == want).all()


def test_reset_while_images_are_under_way(line: FaultyLine, device: UartDevice) -> None:
    x, want = images(9, 6)
    frames = device.interface.encode(x)
    line.write(b"".join(packet(uart.IMAGE, i, f) for i, f in enumerate(frames[:3])))
    line.read(20, 0.01)
    device.reset()
    assert device.status().frames == 0
    assert (logits(device, x) == want).all()


def test_other_builds_and_silent_lines_are_refused(built: Built, line: FaultyLine) -> None:
    face = built.face
    with pytest.raises(DeviceError, match=r"the board holds build .* not 12345678 of device_net"):
        UartDevice(replace(face, build="12345678" + "0" * 56), line, TIMEOUT)
    line.back = lambda data: b""
    with pytest.raises(DeviceError, match="no undamaged answer to 4 requests"):
        UartDevice(face, line, TIMEOUT)
    line.back = None
    with pytest.raises(DeviceError, match="image 0 has 1 bytes instead of"):
        UartDevice(face, line, TIMEOUT).run([b"\0"])


def test_one_driver_for_all_boards(built: Built, seed: int) -> None:
    x, want = images(seed, 9)
    with Accelerator.simulate(built.folder) as accelerator:
        assert isinstance(accelerator.device, UartDevice)
        assert (accelerator.predict(x) == want).all()
        assert accelerator.status().frames == 9
        accelerator.reset()
        assert accelerator.status().frames == 0


def test_run_compares_with_the_graph(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """``sievit run``, on the same device by the same road."""
    x, _ = images(2, 5)
    frames = Stream.full(torch.from_numpy(x))
    made: Any = SimpleNamespace(
        board=load("ulx3s_85f"), folder=built.folder, name="device_net", frames=lambda: frames
    )
    found = host.run(made, "sim", most=3)
    assert (len(found.classes), found.accuracy, found.mismatches) == (3, None, 0)
    assert found.cycles > 30 and found.repeated == 0 and found.seconds > 0
    with pytest.raises(SievitError, match="imported as integers: it takes no pictures"):
        host.run(made, "sim", [Path("seven.png")])
    with pytest.raises(SievitError, match="board zcu102 has no serial line"):
        host.run(SimpleNamespace(**{**vars(made), "board": load("zcu102")}), "sim")  # type: ignore[arg-type]
    decode = Interface.decode
    monkeypatch.setattr(Interface, "decode", lambda face, got: decode(face, got) + 1)
    with pytest.raises(SievitError, match="5 of 5 images differ from the graph"):
        host.run(made, "sim")


def test_pictures_become_those_of_the_data_set(tmp_path: Path) -> None:
    data = datasets.load("digits")
    digit = data.test_images[3, 0].numpy()
    grey = np.rint(digit * (255 / data.levels)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    large = np.kron(grey, np.ones((4, 4), np.uint8))
    Image.fromarray(large).convert("RGB").save(tmp_path / "large.png")
    found = datasets.pictures([tmp_path / "grey.png", tmp_path / "large.png"], data)
    assert found.shape == (2, 1, 8, 8) and (found[0, 0].numpy() == digit).all()
    assert abs(found[1, 0].numpy().astype(int) - digit).max() <= 6
    (tmp_path / "text.png").write_text("7")
    with pytest.raises(datasets.DataError, match=r"text.png: damaged picture"):
        datasets.pictures([tmp_path / "text.png"], data)


def test_packets_survive_every_split(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        sent = [(rng.randrange(256), rng.randrange(256), rng.randbytes(rng.randrange(40)))
                for _ in range(3)]  # fmt: skip
        data = b"".join(packet(*p) for p in sent)
        packets, got, at = Packets(), [], 0
        while at < len(data):
            step = rng.randint(1, 30)
            got += packets.feed(data[at : at + step])
            at += step
        assert got == sent and packets.damaged == 0


def test_serial_port_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match="is the board there, and free"):
        uart.SerialLine("/dev/there_is_no_such_port", 1_000_000)
