# SPDX-License-Identifier: Apache-2.0
"""What every core declares: streams, parameters, constants, cost.

A core is ``quant/cores/X.py`` with a frozen dataclass ``XParams(CoreParams)`` and a golden function
``X``. Every field of the dataclass is an ``int`` or an ``IntType``. The field ``out_type`` becomes
``OutBits`` and ``OutSigned`` in SystemVerilog, ``out_bits`` and ``out_signed`` in C++; the field
``in_channels`` becomes ``InChannels`` / ``in_channels``. Memories add one file-name parameter each
(``weights`` -> ``WeightsFile``).

Layers of equal shape may share a core. It then has a set of constants per layer, and an input
``s_axis_set`` with one beat per frame, the number of the frame's set (the names are those of the
``SETS`` in FINN's RTL library). Such constants have a first axis for the sets; fields of the
parameters that differ between layers (``SETTINGS``) are constants too.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sievit.quant.itype import IntType

Constants = Mapping[str, Tensor]

#: input of a core that several layers share: the number of the set of a frame
SET = "s_axis_set"


@dataclass
class Stream:
    """A batch of frames on one edge.

    Attributes:
        data: int64 ``[B, T, C]``, T = longest frame; rows at and after a frame's length are 0.
        length: int64 ``[B]``, tokens of each frame, 1..T (``tlast`` in hardware).
        package: bool ``[B]``, the last token of the frame is a package token (``tuser`` in
        hardware).
    """

    data: Tensor
    length: Tensor
    package: Tensor

    @classmethod
    def full(cls, data: Tensor) -> Stream:
        """Frames of equal length without a package token, from int64 ``[B, T, C]``."""
        batch, tokens, _ = data.shape
        return cls(data, torch.full((batch,), tokens), torch.zeros(batch, dtype=torch.bool))

    def valid(self) -> Tensor:
        """bool ``[B, T]``: the token exists."""
        return torch.arange(self.data.shape[1]) < self.length[:, None]

    def with_data(self, data: Tensor) -> Stream:
        """Same frames, other channels; rows past the length are cleared."""
        return Stream(data * self.valid()[:, :, None], self.length, self.package)

    def pick(self, index: Tensor | slice) -> Stream:
        """The frames of these indices alone, in that order."""
        return Stream(self.data[index], self.length[index], self.package[index])

    @classmethod
    def cat(cls, streams: Sequence[Stream]) -> Stream:
        """The frames of all streams, one stream after the other."""
        tokens = max(x.data.shape[1] for x in streams)
        data = [nn.functional.pad(x.data, (0, 0, 0, tokens - x.data.shape[1])) for x in streams]
        return cls(
            torch.cat(data),
            torch.cat([x.length for x in streams]),
            torch.cat([x.package for x in streams]),
        )

    def frame(self, i: int) -> Tensor:
        """int64 ``[length, C]`` of frame ``i``."""
        return self.data[i, : int(self.length[i])]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stream) or not torch.equal(self.length, other.length):
            return False
        tokens = int(self.length.max())
        return torch.equal(self.package, other.package) and torch.equal(
            self.data[:, :tokens], other.data[:, :tokens]
        )


@dataclass(frozen=True)
class Port:
    """One AXI4-Stream port: ``channels`` per token, ``lanes`` channels per beat of ``itype``."""

    name: str
    channels: int
    lanes: int
    itype: IntType

    @property
    def beats(self) -> int:
        """Beats per token."""
        return self.channels // self.lanes

    @property
    def kind(self) -> str:
        """What its tokens are, in however many lanes: ``192 x int14``."""
        return f"{self.channels} x {self.itype}"


@dataclass(frozen=True)
class Memory:
    """A ROM image: ``words`` of ``width`` bits, read by ``$readmemh`` through ``<Name>File``.

    With ``slices`` the core keeps it in memories of these widths, least significant bits first:
    each is a file of its own, its number (one hexadecimal digit) behind the name.
    """

    width: int
    words: list[int]
    slices: tuple[int, ...] = ()

    def hex(self) -> str:
        digits = -(-self.width // 4)
        return "".join(f"{word:0{digits}x}\n" for word in self.words)

    def files(self, name: str) -> dict[str, str]:
        """File name -> contents, given the value of the parameter."""
        if not self.slices:
            return {name: self.hex()}
        out, at = {}, 0
        for i, width in enumerate(self.slices):
            words = [word >> at & (1 << width) - 1 for word in self.words]
            out[f"{name}{i:x}"] = Memory(width, words).hex()
            at += width
        return out


@dataclass(frozen=True)
class Resources:
    """FPGA resources of one instance; ``bram36`` counts in halves (a RAMB18 is 0.5)."""

    lut: float = 0
    ff: float = 0
    dsp: float = 0
    bram36: float = 0
    uram: float = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(*(a + b for a, b in zip(self.astuple(), other.astuple(), strict=True)))

    def astuple(self) -> tuple[float, ...]:
        return (self.lut, self.ff, self.dsp, self.bram36, self.uram)


@dataclass(frozen=True)
class Device:
    """What the blocks of an FPGA can do, as far as a choice of a core depends on it."""

    #: bits of the signed operands of a DSP block
    dsp_ports: tuple[int, int] = (27, 18)
    #: a bitstream can fill UltraRAM
    uram_init: bool = False
    #: clock that DSP blocks can have over that of the cores, 1 or 2
    pump: int = 1


@dataclass(frozen=True)
class CoreParams(ABC):
    """Base of all core parameters. ``max_tokens`` bounds the tokens of an input frame."""

    max_tokens: int = field(default=1, kw_only=True)

    HEAD_LATENCY: ClassVar[int] = 4
    #: layers that share the core, each with constants of its own; a field of cores that can
    sets = 1
    #: fields of which every set has its own value, and the type of that in the settings memory;
    #: the field itself then holds what widths follow from: see the core
    SETTINGS: ClassVar[dict[str, IntType]] = {}
    #: memories whose sets follow each other; in all others they begin at multiples of a power of 2
    DENSE: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def stem(cls) -> str:
        return cls.__module__.rsplit(".", 1)[-1]

    # -- streams ---------------------------------------------------------------------------------
    @abstractmethod
    def inputs(self) -> tuple[Port, ...]:
        """Input ports; the first carries the frame's ``tuser``."""

    @abstractmethod
    def output(self) -> Port:
        """The one output port, ``m_axis``."""

    def out_tokens(self, tokens: int) -> int:
        """Most tokens that leave for a frame of ``tokens``."""
        return tokens

    # -- constants -------------------------------------------------------------------------------
    def memories(self, constants: Constants) -> dict[str, Memory]:
        """ROM images of the RTL core for these constants at this folding."""
        return {}

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        """Constant arrays of the HLS core."""
        return {}

    # -- sets of constants -----------------------------------------------------------------------
    @classmethod
    def can_share(cls) -> bool:
        """Layers can share the core."""
        return any(f.name == "sets" for f in fields(cls))

    def set_ports(self) -> tuple[Port, ...]:
        """The last input of a core that several layers share: the number of a frame's set."""
        bits = max(1, (self.sets - 1).bit_length())
        return (Port(SET, 1, 1, IntType(bits, False)),) if self.sets > 1 else ()

    @classmethod
    def unify(
        cls, layers: list[tuple[Self, dict[str, Tensor]]]
    ) -> list[tuple[Self, dict[str, Tensor]]]:
        """Layers that compute the same as these, alike in more fields if the core knows how."""
        return layers

    @classmethod
    def bound(cls, name: str, values: Tensor) -> int:
        """What the field ``name`` holds if the sets have these ``values`` (int64 ``[sets]``): the
        one of the greatest magnitude."""
        return int(values[values.abs().argmax()])

    @classmethod
    def stack(cls, layers: list[tuple[Self, dict[str, Tensor]]]) -> tuple[Self, dict[str, Tensor]]:
        """Parameters and constants of one core for these layers, each of them a set.

        Raises ValueError naming the first field that is no setting and differs.
        """
        layers = cls.unify(layers)
        first = layers[0][0]
        for f in fields(cls):
            differ = any(getattr(p, f.name) != getattr(first, f.name) for p, _ in layers)
            first.require(f.name in cls.SETTINGS or not differ, f"{f.name} differs between layers")
        constants = {k: torch.stack([c[k] for _, c in layers]) for k in layers[0][1]}
        own = {k: torch.tensor([getattr(p, k) for p, _ in layers]) for k in cls.SETTINGS}
        bounds = {k: cls.bound(k, v) for k, v in own.items()}
        changes: dict[str, int] = {"sets": len(layers), **bounds}
        return replace(first, **changes), {**constants, **own}

    def one(self, constants: Constants, index: int) -> tuple[Self, dict[str, Tensor]]:
        """Parameters and constants of a core with set ``index`` alone."""
        own = {k: int(v[index]) for k, v in constants.items() if k in self.SETTINGS}
        rest = {k: v[index] for k, v in constants.items() if k not in self.SETTINGS}
        return replace(self, **{"sets": 1, **own}), rest

    def images(self, constants: Constants) -> dict[str, Memory]:
        """``memories`` of all sets, and ``settings``: a word per set, its first field in the least
        significant bits."""
        if self.sets == 1:
            return self.memories(constants)
        each = [p.memories(c) for p, c in (self.one(constants, s) for s in range(self.sets))]
        out = {}
        for key, first in each[0].items():
            size = len(first.words)
            stride = size if key in self.DENSE else 1 << (size - 1).bit_length()
            words = [w for m in each for w in m[key].words + [0] * (stride - size)]
            out[key] = Memory(first.width, words[: stride * (self.sets - 1) + size], first.slices)
        if self.SETTINGS:
            words, at = [0] * self.sets, 0
            for name, t in self.SETTINGS.items():
                codes = t.encode(t.check(constants[name], name)).tolist()
                words = [w | code << at for w, code in zip(words, codes, strict=True)]
                at += t.bits
            out["settings"] = Memory(at, words)
        return out

    def tables(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        """``arrays`` of all sets with a first axis for them, then the settings."""
        if self.sets == 1:
            return self.arrays(constants)
        each = [p.arrays(c) for p, c in (self.one(constants, s) for s in range(self.sets))]
        out = {k: (t, torch.stack([a[k][1] for a in each])) for k, (t, _) in each[0].items()}
        return out | {name: (t, constants[name]) for name, t in self.SETTINGS.items()}

    # -- cost ------------------------------------------------------------------------------------
    @abstractmethod
    def cycles(self, tokens: int) -> int:
        """Cycles between frames of ``tokens`` tokens in steady state, no stalls."""

    def head_latency(self, tokens: int) -> int:
        """Cycles from a frame's first input beat to its first output beat, inputs never waiting."""
        return self.HEAD_LATENCY

    def barrier(self) -> bool:
        """The first output beat needs the whole input frame."""
        return False

    @abstractmethod
    def resources(self) -> Resources:
        """Predicted resources on UltraScale+ (LUT6, RAMB36, DSP48E2)."""

    def macs(self, tokens: int) -> int:
        """Multiplications that a frame of ``tokens`` tokens really executes."""
        return 0

    def foldings(self) -> Iterator[dict[str, int]]:
        """Legal values of the folding fields, cheapest first not required."""
        yield {}

    def suits(self, device: Device) -> bool:
        """The blocks of the device can do what ``resources`` counts on."""
        return True

    # -- the same names in three languages -------------------------------------------------------
    def flat(self) -> dict[str, int]:
        """Every parameter as integers, IntType fields as ``_bits`` and ``_signed``."""
        out: dict[str, int] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, IntType):
                base = f.name.removesuffix("_type")
                new = {f"{base}_bits": value.bits, f"{base}_signed": int(value.signed)}
            else:
                new = {f.name: int(value)}
            double = out.keys() & new.keys()
            self.require(not double, f"two parameters are called {double}")
            out.update(new)
        return out

    def sv_parameters(self) -> dict[str, int]:
        return {camel(name): value for name, value in self.flat().items()}

    def to_dict(self) -> dict[str, Any]:
        """Readable form: ints and type names."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {k: str(v) if isinstance(v, IntType) else v for k, v in values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CoreParams:
        given: dict[str, Any] = dict(values)
        for name, value in given.items():
            given[name] = IntType.parse(value) if isinstance(value, str) else value
        return cls(**given)

    def require(self, condition: bool, text: str) -> None:
        """Raise ValueError naming the core if ``condition`` does not hold."""
        if not condition:
            raise ValueError(f"{self.stem()}: {text}")


def most_tokens(p: CoreParams, tokens: int) -> int:
    """Most tokens that leave for a frame of ``tokens``: class token, chosen ones and package token
    where top-k chooses them, ``out_tokens`` elsewhere."""
    topk: int = getattr(p, "topk", 0)
    return min(p.out_tokens(tokens), topk + 2) if topk else p.out_tokens(tokens)


def camel(name: str) -> str:
    """``num_lanes`` -> ``NumLanes``; the one naming rule between Python and SystemVerilog."""
    return "".join(part.capitalize() for part in name.split("_"))


@dataclass(frozen=True)
class Core:
    """A core of the library: its parameters and its golden function."""

    stem: str
    params: type[CoreParams]
    golden: Callable[..., Stream]
    stimuli: Callable[..., Any]


def core_names() -> list[str]:
    """All cores, by file stem."""
    import sievit.quant.cores as package

    return sorted(m.name for m in pkgutil.iter_modules(package.__path__))


def load_core(stem: str) -> Core:
    """The core of that stem. Raises KeyError listing the known ones."""
    if stem not in core_names():
        raise KeyError(f"no core {stem!r}; known: {', '.join(core_names())}")
    module = importlib.import_module(f"sievit.quant.cores.{stem}")
    params = getattr(module, f"{camel(stem)}Params")
    if not params.can_share():
        return Core(stem, params, getattr(module, stem), module.stimuli)
    settings: Callable[..., Any] = getattr(module, "settings", lambda rng, p: {})
    return Core(
        stem,
        params,
        partial(_golden_of_sets, getattr(module, stem)),
        partial(_stimuli_of_sets, module.stimuli, settings),
    )


def _golden_of_sets(
    golden: Callable[..., Stream], p: CoreParams, constants: Constants, *inputs: Stream
) -> Stream:
    """The golden function of every frame's set."""
    if p.sets == 1:
        return golden(p, constants, *inputs)
    parts = [(at, golden(*one, *frames)) for at, one, frames in by_set(p, constants, inputs)]
    order = torch.cat([at for at, _ in parts])
    return Stream.cat([y for _, y in parts]).pick(order.argsort())


def by_set(
    p: CoreParams, constants: Constants, inputs: Sequence[Stream]
) -> Iterator[tuple[Tensor, tuple[CoreParams, Constants], list[Stream]]]:
    """For every set that occurs: int64 indices of its frames, its parameters and constants, and the
    frames of all inputs but the last one, which names the sets."""
    *streams, chosen = inputs
    number = chosen.data[:, 0, 0]
    for index in number.unique().tolist():
        at = (number == index).nonzero()[:, 0]
        yield at, p.one(constants, index), [x.pick(at) for x in streams]


def _stimuli_of_sets(
    stimuli: Callable[..., Any], settings: Callable[..., Any], rng: torch.Generator,
    p: CoreParams, frames: int,
) -> tuple[dict[str, Tensor], list[Stream]]:  # fmt: skip
    """Stimuli of every set, in random order."""
    if p.sets == 1:
        return stimuli(rng, p, frames)  # type: ignore[no-any-return]
    own = settings(rng, p)
    found = []
    for index in range(p.sets):
        one, _ = p.one(own, index)
        found.append(stimuli(rng, one, -(-frames // p.sets) + 1))
    constants = {k: torch.stack([c[k] for c, _ in found]) for k in found[0][0]}
    number = torch.arange(p.sets).repeat_interleave(len(found[0][1][0].length))
    order = torch.randperm(len(number), generator=rng)[:frames]
    order = torch.where(torch.arange(len(order)) == 0, 0, order)  # of the greatest length
    streams = [Stream.cat(many).pick(order) for many in zip(*(s for _, s in found), strict=True)]
    return {**constants, **own}, [*streams, Stream.full(number[order][:, None, None])]


def pack(values: Tensor, t: IntType) -> list[int]:
    """One word per row of int64 ``[words, lanes]``; lane 0 in the least significant bits."""
    rows = t.encode(values).tolist()
    return [sum(code << (i * t.bits) for i, code in enumerate(row)) for row in rows]


def divisors(x: int) -> list[int]:
    return [d for d in range(1, x + 1) if x % d == 0]


def exact_matmul(x: Tensor, w: Tensor, bound: int) -> Tensor:
    """``x @ w`` of int64 tensors through double BLAS; ``bound`` >= every partial sum's magnitude.

    Raises OverflowError where double could round.
    """
    if bound >= 1 << 53:
        raise OverflowError(f"a sum of magnitude {bound} is not exact in double")
    return (x.double() @ w.double()).long()


def random_frames(
    rng: torch.Generator, port: Port, frames: int, max_tokens: int, package: bool = False
) -> Stream:
    """Random frames of 1..max_tokens tokens; a fifth of the values are the type's extremes."""
    length = torch.randint(1, max_tokens + 1, (frames,), generator=rng)
    length[0] = max_tokens
    if frames > 1:
        length[1] = 1
    shape = (frames, int(length.max()), port.channels)
    t = port.itype
    data = torch.randint(t.min, t.max + 1, shape, generator=rng)
    kind = torch.randint(0, 10, shape, generator=rng)
    data = torch.where(kind == 0, t.min, torch.where(kind == 1, t.max, data))
    flag = torch.randint(0, 2, (frames,), generator=rng).bool() & (length > 1) & package
    return Stream(data, length, flag).with_data(data)
