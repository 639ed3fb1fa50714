# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention with dynamic N:M sparse rows and table softmax.

The selection is that of DFSS (Chen et al., PPoPP'23), which FNM-Trans (Zhang et al., DAC'24) builds
on: of every M consecutive keys of a row the N with the largest scores survive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from sievit.quant.cores.lookup_table import lookup
from sievit.quant.itype import IntType
from sievit.quant.params import (
    Constants,
    CoreParams,
    Device,
    Memory,
    Port,
    Resources,
    Stream,
    divisors,
    exact_matmul,
    pack,
    random_frames,
)
from sievit.quant.rounding import reciprocal_index, reciprocal_table, round_shift, saturate

#: keys of a group that have bins of their own
BIN_KEYS = 16
#: signed operands of a DSP block, and bits of its sum: DSP48E2
DSP_PORTS = (27, 18)
DSP_SUM_BITS = 48


class Packing(NamedTuple):
    """How inner products share chains of DSP blocks: rtl/lib/dsp_dots.sv. A block multiplies
    ``a`` words with ``b`` words; every product has a field of ``field`` bits."""

    a: int
    b: int
    field: int

    @classmethod
    def of(
        cls, a: IntType, b: IntType, counts: tuple[int, int], length: int, ports: tuple[int, int]
    ) -> Packing | None:
        """Of ``counts`` vectors a and b with ``length`` elements; None if they suit no block."""
        field = (length * _largest(a) * _largest(b)).bit_length() + 1
        for pack_a, pack_b in ((2, 2), (2, 1), (1, 2), (1, 1)):
            left = (pack_a - 1) * pack_b * field + a.bits + (pack_a > 1 or not a.signed)
            right = (pack_b - 1) * field + b.bits + (pack_b > 1 or not b.signed)
            whole = counts[0] % pack_a == 0 and counts[1] % pack_b == 0
            narrow = left <= ports[0] and right <= ports[1]
            if whole and narrow and pack_a * pack_b * field <= DSP_SUM_BITS:
                return cls(pack_a, pack_b, field)
        return None


@dataclass(frozen=True)
class AttentionParams(CoreParams):
    """Per head and query, over the keys j of the frame; heads are consecutive channel slices.

    ::

        s[j] = sum_d q[d] k[j, d]                                  # exact
        of every m consecutive keys the n largest survive, ties to the lower index
        e[j] = exp[clamp((max(s) - s[j] + exp_offset) >> exp_shift, 0, exp_entries - 1)]
        i, l = reciprocal_index(sum(e), index_bits)
        p[j] = saturate(round_shift(e[j] * recip[i], l + prob_shift), prob_type)
        y[d] = saturate(round_shift(sum_j p[j] v[j, d], shift), out_type)

    With ``recip_entries`` the table has two segments, each addressed linearly by the sum; that is
    how HG-PIPE (Guo et al., ICCAD'24) normalises::

        c = (sum(e) + near_offset) >> near_shift
        c < recip_entries:  i = max(c, 0),  l = 0
        otherwise:  i = recip_entries + clamp((sum(e) + far_offset) >> far_shift,
                                              0, recip_entries - 1),  l = far_prob_shift

    Keys that do not survive contribute nothing. ``n = m`` is dense attention, m keys at a time.
    ``tp`` query tokens and ``heads_par`` heads are computed side by side, against the same words of
    K and V: the core takes ``ceil(tokens / m) * (head_dim / simd)`` steps for them, of ``m * simd``
    score and ``n * simd`` value multiplications per token and head.

    With ``sets`` > 1 layers share the core, each with tables, offsets and shifts of its own. The
    fields of the offsets then hold those of the greatest magnitude, the fields of the shifts the
    greatest ones, and the fields ``.._span`` how far below them the least ones are.
    """

    SETTINGS: ClassVar[dict[str, IntType]] = {
        "exp_offset": IntType(31, False),
        "exp_shift": IntType(5, False),
        "near_offset": IntType(32, True),
        "near_shift": IntType(5, False),
        "far_offset": IntType(32, True),
        "far_shift": IntType(5, False),
    }
    #: settings that are shifts: multiplexers reach from the least to the greatest
    SPANS: ClassVar[tuple[str, ...]] = ("exp", "near", "far")

    channels: int = 8
    heads: int = 2
    n: int = 2
    m: int = 4
    #: channels per beat of q, k, v and y; divides channels / heads
    simd: int = 2
    #: heads computed side by side; divides heads
    heads_par: int = 1
    #: query tokens computed side by side
    tp: int = 1
    q_type: IntType = IntType(8, True)
    k_type: IntType = IntType(8, True)
    v_type: IntType = IntType(8, True)
    exp_offset: int = 32
    exp_shift: int = 6
    exp_entries: int = 128
    exp_type: IntType = IntType(10, False)
    index_bits: int = 6
    recip_type: IntType = IntType(13, False)
    prob_shift: int = 4
    prob_type: IntType = IntType(8, False)
    out_type: IntType = IntType(8, True)
    shift: int = 8
    half_up: int = 0
    #: 1: products in DSP blocks, 0: in LUTs
    mult_dsp: int = 0
    #: clock of the DSP blocks over that of the core, 1 or 2
    pump: int = 1
    #: memories of k and v: 0: LUT RAM, 1: block RAM, 2: UltraRAM
    kv_ram: int = 0
    #: 0: the reciprocal is addressed by the leading one, else entries of each of its two segments
    recip_entries: int = 0
    near_offset: int = 0
    near_shift: int = 0
    far_offset: int = 0
    far_shift: int = 0
    #: added to prob_shift in the far segment
    far_prob_shift: int = 0
    #: greatest minus least exp_shift, near_shift, far_shift of the sets
    exp_span: int = 0
    near_span: int = 0
    far_span: int = 0
    sets: int = 1

    def __post_init__(self) -> None:
        self.require(self.channels % self.heads == 0, "heads must divide channels")
        self.require(self.head_dim % self.simd == 0, "simd must divide channels / heads")
        self.require(self.heads % self.heads_par == 0, "heads_par must divide heads")
        self.require(self.tp >= 1, "tp must be positive")
        self.require(0 <= self.kv_ram <= 2, "kv_ram must be 0, 1 or 2")
        self.require(1 <= self.n <= self.m, f"{self.n}:{self.m} is not an N:M pattern")
        self.require(0 <= self.exp_offset < 1 << self.exp_shift, "exp_offset must be < 2^exp_shift")
        self.require(not self.exp_type.signed and not self.prob_type.signed, "exp, prob: unsigned")
        self.require(self.recip_entries >= 0, "recip_entries must not be negative")
        shifts = (self.near_shift, self.far_shift, self.far_prob_shift)
        self.require(min(shifts) >= 0, "shifts of the segments must not be negative")
        offsets = (self.near_offset, self.far_offset)
        self.require(max(map(abs, offsets)) < 1 << 31, "offsets of the segments must be < 2^31")
        self.require(
            not self.mult_dsp or self.fits_dsp(DSP_PORTS), "these operands suit no DSP block"
        )
        self.require(self.pump in (1, 2), f"pump {self.pump}: 1 or 2 are")
        self.require(self.pump == 1 or self.mult_dsp == 1, "products in LUTs have one clock")
        self.require(self.pump == 1 or self.pairs(), "an odd chain of DSP blocks has no other")
        self.require(1 <= self.sets <= 64, "sets must be 1 to 64")
        for name in self.SPANS:
            span, shift = getattr(self, f"{name}_span"), getattr(self, f"{name}_shift")
            if self.sets == 1:
                self.require(span == 0, f"{name}_span must be 0 with one set")
            else:
                self.require(0 <= span <= shift, f"{name}_span must be 0 to {name}_shift")
                self.require(shift < 32, f"{name}_shift must be < 32 with several sets")

    @classmethod
    def unify(
        cls, layers: list[tuple[Self, dict[str, Tensor]]]
    ) -> list[tuple[Self, dict[str, Tensor]]]:
        """Equal ``prob_shift`` and ``far_prob_shift``: for k >= 0, ``round_shift(e * r, s)`` is
        ``round_shift(e * (r << k), s + k)``."""
        first = layers[0][0]
        alike = ("recip_type", "prob_shift", "far_prob_shift")
        if all(getattr(p, name) == getattr(first, name) for p, _ in layers for name in alike):
            return layers
        least = max(p.prob_shift for p, _ in layers)
        far = max(p.prob_shift + p.far_prob_shift for p, _ in layers)
        for near in (far, least):  # a shift fewer at run time, if the larger entries suit a DSP
            tables = []
            for p, constants in layers:
                up = torch.full_like(constants["recip"], near - p.prob_shift)
                if p.recip_entries:
                    up[p.recip_entries :] = far - p.prob_shift - p.far_prob_shift
                tables.append(constants["recip"] << up)
            recip_type = IntType.fitting(0, max(int(t.max()) for t in tables))
            if recip_type.bits < min(DSP_PORTS):
                break
        new: dict[str, Any] = {
            "prob_shift": near,
            "far_prob_shift": far - near,
            "recip_type": recip_type,
        }
        return [
            (replace(p, **new), {**constants, "recip": table})
            for (p, constants), table in zip(layers, tables, strict=True)
        ]

    @classmethod
    def stack(cls, layers: list[tuple[Self, dict[str, Tensor]]]) -> tuple[Self, dict[str, Tensor]]:
        p, constants = super().stack(layers)
        if p.sets == 1:
            return p, constants
        shifts = {name: constants[f"{name}_shift"] for name in cls.SPANS}
        spans: dict[str, Any] = {f"{k}_span": int(s.max() - s.min()) for k, s in shifts.items()}
        return replace(p, **spans), constants

    def one(self, constants: Constants, index: int) -> tuple[Self, dict[str, Tensor]]:
        none: dict[str, Any] = {f"{name}_span": 0 for name in self.SPANS}
        fixed = replace(self, **none)
        return super(AttentionParams, fixed).one(constants, index)

    @property
    def head_dim(self) -> int:
        return self.channels // self.heads

    @property
    def score_corners(self) -> tuple[int, int]:
        """Smallest and largest score."""
        corners = [
            a * b * self.head_dim
            for a in (self.q_type.min, self.q_type.max)
            for b in (self.k_type.min, self.k_type.max)
        ]
        return min(corners), max(corners)

    @property
    def score_type(self) -> IntType:
        """Exact type of the scores."""
        low, high = self.score_corners
        return IntType.fitting(min(-1, low), high)

    def inputs(self) -> tuple[Port, ...]:
        return (
            Port("s_axis_q", self.channels, self.simd, self.q_type),
            Port("s_axis_k", self.channels, self.simd, self.k_type),
            Port("s_axis_v", self.channels, self.simd, self.v_type),
            *self.set_ports(),
        )

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.out_type)

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``exp`` and ``recip``: an entry per word."""
        return {
            "exp": Memory(self.exp_type.bits, pack(constants["exp"][:, None], self.exp_type)),
            "recip": Memory(
                self.recip_type.bits, pack(constants["recip"][:, None], self.recip_type)
            ),
        }

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        return {
            "exp": (self.exp_type, constants["exp"]),
            "recip": (self.recip_type, constants["recip"]),
        }

    @property
    def head_groups(self) -> int:
        """Blocks of ``heads_par`` heads."""
        return self.heads // self.heads_par

    @property
    def chunks(self) -> int:
        """Beats per token and head."""
        return self.head_dim // self.simd

    @property
    def softmax_lanes(self) -> int:
        """Survivors of a row per cycle in the softmax: as few as keep up with the products."""
        return min(d for d in divisors(self.n) if self.n // d <= self.chunks)

    def packings(self, ports: tuple[int, int]) -> tuple[Packing | None, Packing | None]:
        """Of the score and of the value products, in DSP blocks with such operands. The tokens of
        a block share its keys, and its values where no row chooses its own."""
        tokens = self.tp if self.n == self.m else 1
        return (
            Packing.of(self.k_type, self.q_type, (self.m, self.tp), self.simd, ports),
            Packing.of(self.v_type, self.prob_type, (self.simd, tokens), self.n, ports),
        )

    def pairs(self) -> bool:
        """Chains of DSP blocks can share them in pairs."""
        score, value = self.packings(DSP_PORTS)
        if score is None or value is None:
            return False
        tokens = self.tp if self.n == self.m else 1
        keys, channels = self.m // score.a * (self.tp // score.b), self.simd // value.a
        return keys % 2 == 0 and channels * (tokens // value.b) % 2 == 0

    def fits_dsp(self, ports: tuple[int, int]) -> bool:
        """Products suit DSP blocks with signed operands of these widths."""
        return None not in self.packings(ports)

    def suits(self, device: Device) -> bool:
        if self.pump > device.pump:
            return False
        return not self.mult_dsp or self.packings(device.dsp_ports) == self.packings(DSP_PORTS)

    def cycles(self, tokens: int) -> int:
        products = self.head_groups * -(-tokens // self.m) * self.chunks
        full, rest = divmod(tokens, self.tp)
        beats = self.channels // self.simd
        return full * max(products, self.tp * beats) + bool(rest) * max(products, rest * beats)

    def head_latency(self, tokens: int) -> int:
        groups = -(-tokens // self.m)
        steps = groups * (self.chunks + 2 * (self.n // self.softmax_lanes) + 1)
        softmax = (self.softmax_lanes - 1).bit_length() + self._stages(self.exp_type)
        select = (self.m - 1).bit_length() if self.n == self.m else 3
        products = self._score_at + self._value_at
        return tokens * (self.channels // self.simd) + steps + products + select + softmax + 15

    def barrier(self) -> bool:
        return True

    def macs(self, tokens: int) -> int:
        full, tail = divmod(tokens, self.m)
        kept = full * self.n + min(tail, self.n)
        return tokens * self.channels * (tokens + kept)

    def foldings(self) -> Iterator[dict[str, int]]:
        """Memories as LUT RAM where they are small, as block RAM where they are not small, as
        UltraRAM where they fill a good part of one. In DSP blocks pairs of tokens share products.
        """
        groups = -(-self.max_tokens // self.m)
        for simd in divisors(self.head_dim):
            for heads_par in divisors(self.heads):
                words = 2 * groups * self.channels // simd // heads_par
                bits = words * simd * max(self.k_type.bits, self.v_type.bits)
                rams = [
                    i
                    for i, fits in enumerate((words <= 256, bits >= 1024, bits >= 1 << 16))
                    if fits
                ]
                one = replace(self, simd=simd, heads_par=heads_par, tp=1, mult_dsp=0, pump=1)
                styles = [(0, (1, 2, 3, 4, 8))]
                styles += [(1, (1, 2, 4, 6, 8))] if one.fits_dsp(DSP_PORTS) else []
                for mult_dsp, tps in styles:
                    for tp in tps:
                        for kv_ram in rams if tp <= self.max_tokens else ():
                            folding = {
                                "simd": simd, "heads_par": heads_par, "tp": tp, "kv_ram": kv_ram,
                                "mult_dsp": mult_dsp, "pump": 1,
                            }  # fmt: skip
                            yield folding
                            if mult_dsp and replace(one, tp=tp).pairs():
                                yield {**folding, "pump": 2}

    def resources(self) -> Resources:
        """LUTs are counted as open synthesis maps them: one per bit of an adder and per bit of a
        stage of a product."""
        q, k, v, s = self.q_type, self.k_type, self.v_type, self.score_bits
        exp, recip, prob, out = self.exp_type, self.recip_type, self.prob_type, self.out_type
        simd, n, m, rows, par = (
            self.simd,
            self.n,
            self.m,
            self.tp * self.heads_par,
            self.softmax_lanes,
        )
        subs, slot = n // par, (m - 1).bit_length() if n < m else 0
        groups = -(-self.max_tokens // m)
        total = exp.bits + (groups * n - 1).bit_length()  # of a row's exponentials
        exp_rom = par * exp.bits * self.exp_entries / 80
        if self.recip_entries:  # two sums and their limits, table, choice of two shifts
            position, places = 1, self.far_prob_shift
            normal = 3.0 * total + 2 * (2 * self.recip_entries).bit_length()
            recip_rom = float(recip.bits * -(-self.recip_entries // 32))
        else:
            position, places = max((total - 1).bit_length(), 1), total - 1
            normal, recip_rom = 2 * total + 35, 10.0
        bram18 = shared_settings = 0.0
        if self.sets > 1:
            exp_rom, exp_blocks = self._table(self.exp_entries, exp.bits, par)
            words = 2 * self.recip_entries or 1 << self.index_bits
            recip_rom, recip_blocks = self._table(words, recip.bits, 1)
            bram18 = exp_blocks + recip_blocks
            shared_settings, own = self._settings(s, total)
            normal += own
        acc = prob.bits + v.bits + (not v.signed) + (groups * n - 1).bit_length()
        qk = q.bits + k.bits + (not q.signed and not k.signed)
        pv = prob.bits + v.bits + (not v.signed)
        aligned = (0.5 if self.recip_entries else 2.1) * (exp.bits + recip.bits + places)

        # products
        dsp = shared = 0.0
        if self.mult_dsp:
            delays, shared, dsp = self._dots()
            luts = m * s + simd * acc + delays / rows + par * _rest(recip, exp)
            dsp += rows * par * _is_dsp(recip, exp)
        else:
            score, value = simd * _product(q, k), n * _product(prob, v)
            luts = m * (score + _tree(simd, qk) + s) + simd * (value + _tree(n, pv) + acc)
            luts += par * _product(recip, exp)
            luts += 2 * simd * q.bits + 2 * n * prob.bits + recip.bits  # their multiples
        # selection
        if n < m:
            luts += 0.74 * s * m * (m - 1) / 2 + m * (n if m < 8 else 1.15 * (m - 1) + n)
            luts += n * (s + slot) * 0.55 * m + n * simd * v.bits * _multiplexer(m)
        else:
            luts += 2.5 * s * (m - 1)
        luts += 1.68 * s  # maximum of the row
        # softmax, requantisation
        luts += par * ((s + 2) * (1 + (subs > 2) * _multiplexer(subs)))
        luts += exp_rom + recip_rom
        luts += s / 2 + normal + _tree(par, exp.bits) + par * (aligned + 2 * prob.bits + 15)
        exact = out.signed and self.shift <= 0 and acc - self.shift <= out.bits
        luts += 0 if exact else simd * (out.bits + 6)
        # buffers
        depths = self._depths()
        for width, depth in (
            (n * (s + slot), depths["survivors"]),
            (par * (exp.bits + slot), depths["exp"]),
            (s, depths["blocks"]),
            (recip.bits + position, depths["blocks"]),
            (simd * out.bits, depths["out"]),
            (simd * q.bits, depths["queries"]),
            *[(par * prob.bits, depths["prob"])] * subs,
            *[(par * slot, depths["prob"])] * subs,
        ):
            luts += _lut_ram(width, depth)
        luts *= rows
        # the output, of one row at a time; control
        luts += simd * out.bits * (1 + _multiplexer(rows)) + 420 + shared + shared_settings
        # k and v, two frames each
        words = 2 * groups * self.head_groups * self.chunks
        uram = 0
        for bits in (simd * k.bits, simd * v.bits):
            if self.kv_ram == 0:
                luts += self.heads_par * m * _lut_ram(bits, words)
            elif self.kv_ram == 1:
                blocks, banks = _block_ram(bits, words)
                bram18 += self.heads_par * m * blocks
                luts += self.heads_par * m * bits * _multiplexer(banks)
            else:
                uram += self.heads_par * m * -(-bits // 72) * -(-words // 4096)
        return Resources(lut=luts, ff=self._registers(), dsp=dsp, bram36=bram18 / 2, uram=uram)

    def _table(self, size: int, bits: int, lanes: int) -> tuple[float, int]:
        """A ROM of ``size`` words per set: LUTs of a row, which reads it in ``lanes`` places, and
        RAMB18s of all rows."""
        words = (self.sets - 1 << (size - 1).bit_length()) + size
        if words <= 256:
            return lanes * bits * words / 80, 0
        readers = self.tp * self.heads_par * lanes
        blocks, banks = _rom(bits, words, readers)
        return lanes * bits * _multiplexer(banks), blocks

    def _settings(self, score: int, total: int) -> tuple[float, float]:
        """LUTs that all rows share, LUTs of a row: what the settings of a set ask for."""
        number, offset = (self.sets - 1).bit_length(), self.exp_offset.bit_length()
        spans = self.exp_span, self.near_span, self.far_span
        bits = offset + sum(span.bit_length() for span in spans)
        bits += sum(x.bit_length() + 1 for x in (self.near_offset, self.far_offset) if x)
        shared = bits + _lut_ram(offset + number, self._depths()["blocks"]) + 2 * number
        exp, near, far = (_multiplexer(span + 1) for span in spans)
        own = self.softmax_lanes * exp * (score + 2 - self.exp_shift + self.exp_span)
        if self.recip_entries:
            own += near * (total + 2 - self.near_shift + self.near_span)
            own += far * (total + 2 - self.far_shift + self.far_span)
        return shared, own

    def _dots(self) -> tuple[float, float, float]:
        """LUTs of all rows, LUTs that they share, DSP blocks: products in chains of DSP blocks.
        Shift registers delay their operands; those of up to two cycles are flip-flops."""
        score, value = self.packings(DSP_PORTS)
        assert score and value, "checked at the start"
        q, k, v = self.q_type, self.k_type, self.v_type
        simd, n, m, rows = self.simd, self.n, self.m, self.tp * self.heads_par
        # the register behind a LUT RAM or in front of the chain is one more cycle
        read = self.kv_ram == 0
        prob, pump = self.prob_type, self.pump

        def late(terms: int, free: int) -> int:
            """Elements of a vector that come after more than ``free`` + 1 cycles."""
            return max(0, terms - 1 - pump * free)

        luts = rows * (q.bits * late(simd, 1) + prob.bits * late(n, 0))
        if score.b > 1 and q.signed:
            luts += rows / 2 * simd * (q.bits + 1)  # type: ignore[assignment]
        shared = self.heads_par * m * k.bits * late(simd, 2 - read)
        values = simd * v.bits * late(n, 1 - (read and n == m))
        if n == m:
            shared += self.heads_par * values
        else:
            luts += rows * values
        scores, values = simd * m / score.a / score.b, n * simd / value.a / value.b  # type: ignore[assignment]
        if pump > 1:  # the words that differ between two chains take turns
            turn = score.a * k.bits if m // score.a % 2 == 0 else score.b * (q.bits + 1)
            luts += rows * scores / 2 * turn  # type: ignore[assignment]
            turn = value.a * v.bits if simd // value.a % 2 == 0 else value.b * (prob.bits + 1)
            luts += rows * values / 2 * turn  # type: ignore[assignment]
        return luts, shared, rows * (scores + values) / pump

    @property
    def score_bits(self) -> int:
        """Bits of a score in the hardware."""
        unsigned = not self.q_type.signed and not self.k_type.signed
        return self.q_type.bits + self.k_type.bits + unsigned + (self.head_dim - 1).bit_length()

    def _registers(self) -> float:
        q, k, v, s = self.q_type, self.k_type, self.v_type, self.score_bits
        exp, recip, prob, out = self.exp_type, self.recip_type, self.prob_type, self.out_type
        simd, n, m, par = self.simd, self.n, self.m, self.softmax_lanes
        slot = (m - 1).bit_length() if n < m else 0
        groups = -(-self.max_tokens // m)
        total = exp.bits + (groups * n - 1).bit_length()
        carried = 3 * total + 60  # the sum, on its way to the reciprocal
        if self.recip_entries:
            shifts = self.near_shift, self.far_shift
            carried = total + sum(max(1, total - shift) for shift in shifts) + 30
        acc = prob.bits + v.bits + (groups * n - 1).bit_length()

        def product(a: IntType, b: IntType) -> int:
            return -(-b.bits // 2) * (a.bits + 2) + b.bits

        def multiples(a: IntType, b: IntType) -> float:
            return a.bits if self.mult_dsp else 1.6 * (a.bits + 2) * -(-b.bits // 2)

        qk, pv = q.bits + k.bits, prob.bits + v.bits
        row = multiples(recip, exp) + m * s + simd * (acc + 2 * out.bits + 3)
        shared = 0 if self.kv_ram else self.heads_par * m * simd * (k.bits + v.bits)
        if self.mult_dsp:  # shift registers of up to two cycles
            shared = 3 * self.heads_par * (m * k.bits + (n == m) * simd * v.bits)
            row += 3 * q.bits + 2 * prob.bits + (n < m) * min(n, 3) * simd * v.bits
            if self.pump > 1:
                row, shared = row + self._halves(), shared + 3 * self.heads_par * m * k.bits
        else:
            row += simd * (q.bits + multiples(q, k)) + n * multiples(prob, v)
            row += m * (simd * product(q, k) + _tree(simd, qk + 1))
            row += simd * (n * product(prob, v) + _tree(n, pv + 1))
            row += n * (2 * prob.bits + simd * v.bits)
        row += m * s if n == m else 2 * m * s + m * (m - 1) / 2 + n * (m + s + slot)
        if self.sets > 1:
            bits = (self.sets - 1).bit_length()
            offsets = (self.near_offset, self.far_offset)
            shared += 6 * bits + sum(x.bit_length() + 1 for x in offsets if x) + 5
        row += n * (s + 2 * slot) + 2 * s + carried
        row += par * (s + 3 * exp.bits + 3 * slot + recip.bits + total + 3 * prob.bits)
        return self.tp * self.heads_par * row + shared + 4 * simd * out.bits + 350

    def _halves(self) -> float:
        """Registers of a row between two clocks: operands of every second DSP block, and sums."""
        found = 0.0
        sides = (
            (self.packings(DSP_PORTS)[0], self.k_type, self.q_type, self.m, self.simd),
            (self.packings(DSP_PORTS)[1], self.v_type, self.prob_type, self.simd, self.n),
        )
        for packing, a, b, count, length in sides:
            assert packing, "checked at the start"
            blocks = (length + 1) // 2
            found += blocks * (b.bits + count * a.bits / self.tp)
            found += count * packing.field * (3 + length % 2) / 2
        return found

    def _stages(self, t: IntType) -> int:
        """Cycles of a single product whose right operand is of this type."""
        return 2 if self.mult_dsp else (t.bits + 3) // 2

    @property
    def _score_at(self) -> int:
        """Cycles from a step of the score stage to the score."""
        if self.mult_dsp:
            return self.simd + 4 if self.pump == 1 else (self.simd + 1) // 2 + 5
        return 2 + self._stages(self.k_type) + (self.simd - 1).bit_length()

    @property
    def _value_at(self) -> int:
        """Cycles from a step of the value stage to the sum of the values."""
        if self.mult_dsp:
            return self.n + 5 if self.pump == 1 else (self.n + 1) // 2 + 6
        return 3 + self._stages(self.v_type) + (self.n - 1).bit_length()

    def _depths(self) -> dict[str, int]:
        """Entries of the buffers between the stages, as in the RTL."""
        n, m, chunks = self.n, self.m, self.chunks
        groups, subs = -(-self.max_tokens // m), n // self.softmax_lanes
        top = self._score_at + ((m - 1).bit_length() if n == m else 3)
        recip = 8 + (self.softmax_lanes - 1).bit_length()
        prob = 4 + self._stages(self.exp_type)
        out = self._value_at + 2
        several = self.head_groups if self.tp > 1 else 1
        entries = {
            "survivors": groups + (top + subs) // chunks + 2,
            "exp": groups * subs + recip + 2,
            "prob": (groups if subs == 1 else 2 * groups) + prob + 3,
            "blocks": 5 + -(-(top + recip + prob + 4) // chunks),
            "out": 2 * chunks * several + out + 4,
            "queries": 2 * chunks * several,
        }
        return {name: 1 << (depth - 1).bit_length() for name, depth in entries.items()}


def _largest(t: IntType) -> int:
    """The largest magnitude."""
    return max(-t.min, t.max)


def _product(a: IntType, b: IntType) -> float:
    """LUTs of a product, two bits of b per stage."""
    digits = -(-b.bits // 2)
    return digits * (a.bits + 1.5) + 4 * max(0, digits - 2)


def _is_dsp(a: IntType, b: IntType) -> bool:
    """Open synthesis puts no product of fewer than nine bits into a DSP block."""
    return a.bits + b.bits >= 9 and min(a.bits, b.bits) > 1


def _rest(a: IntType, b: IntType) -> int:
    """LUTs of a product that is written as one and may have a DSP block."""
    return 0 if _is_dsp(a, b) else a.bits * b.bits


def _tree(terms: int, bits: int) -> int:
    """LUTs of a sum of ``terms`` numbers."""
    luts = 0
    while terms > 1:
        luts += terms // 2 * bits
        terms, bits = terms - terms // 2, bits + 1
    return luts


def _multiplexer(inputs: int) -> int:
    """LUTs per bit."""
    return -(-(inputs - 1) // 3)


def _lut_ram(width: int, depth: int) -> int:
    """LUTs of a memory with a write and a read port: 14 bits of 32 or 7 of 64 words per 8 LUTs."""
    short, long = -(-depth // 32), -(-depth // 64)
    a = 8 * short * -(-width // 14) + width * _multiplexer(short)
    b = 8 * long * -(-width // 7) + width * _multiplexer(long)
    return min(a, b)


def _block_ram(width: int, depth: int) -> tuple[int, int]:
    """RAMB18s of a memory as open synthesis builds it, and the banks that a read chooses from.

    Banks of consecutive words stand side by side in wide blocks, in whole bytes of nine bits.
    """
    choices = []
    for cost, shapes in (
        (1, ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36))),
        (2, ((32768, 1), (16384, 2), (8192, 4), (4096, 9), (2048, 18), (1024, 36), (512, 72))),
    ):
        for words, bits in shapes:
            banks, unit = -(-depth // words), min(bits, 9)
            used = (
                banks * -(-width // unit) * unit if bits >= 9 else banks * bits * -(-width // bits)
            )
            choices.append((cost * -(-used // bits), banks))
    return min(choices)


def _rom(width: int, depth: int, readers: int) -> tuple[int, int]:
    """RAMB18s of a table in block RAM as open synthesis builds it, and the banks that a read
    chooses from: with a reader per block, or two readers per block, which is then half as wide."""
    choices = []
    for share, shapes in (
        (1, ((1, 512, 36), (2, 512, 72))),
        (2, ((1, 1024, 18), (1, 2048, 9), (2, 2048, 18), (2, 1024, 36), (2, 4096, 9))),
    ):
        for cost, words, bits in shapes:
            banks = -(-depth // words)
            choices.append((-(-readers // share) * cost * -(-banks * width // bits), banks))
    return min(choices)


def survivors(score: Tensor, valid: Tensor, n: int, m: int) -> Tensor:
    """bool ``[..., T]``: the n largest of every m consecutive valid scores, ties to the lower
    index.

    ``score`` int64 ``[..., T]``, ``valid`` bool, broadcastable. The last group is padded with
    absent keys.
    """
    tokens = score.shape[-1]
    pad = -tokens % m
    low = torch.iinfo(torch.int64).min
    masked = torch.nn.functional.pad(torch.where(valid, score, low), (0, pad), value=low)
    grouped = masked.reshape(*score.shape[:-1], -1, m)
    order = grouped.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(m).expand_as(order).contiguous()
    )
    return (rank < n).reshape(masked.shape)[..., :tokens] & valid


def attention(p: AttentionParams, constants: Constants, q: Stream, k: Stream, v: Stream) -> Stream:
    """Golden function. ``exp``: int64 ``[exp_entries]``, ``recip``: int64 ``[2^index_bits]``, or
    ``[2 * recip_entries]`` with the near segment first."""
    if not (torch.equal(q.length, k.length) and torch.equal(q.length, v.length)):
        raise ValueError("attention: q, k and v carry frames of different length")
    keep, prob = probabilities(p, constants, q, k)
    y = _values(p, prob * keep, v)
    return q.with_data(saturate(round_shift(y, p.shift, bool(p.half_up)), p.out_type))


def probabilities(
    p: AttentionParams, constants: Constants, q: Stream, k: Stream
) -> tuple[Tensor, Tensor]:
    """(survives bool, probability int64), both ``[B, H, T, T]``."""
    rows = _softmax(p, constants, q, k)
    return rows.keep, rows.prob


class _Rows(NamedTuple):
    """Steps of the softmax, ``[B, H, T, T]``; per row ``[B, H, T, 1]``."""

    score: Tensor
    keep: Tensor
    top: Tensor  # per row
    exp: Tensor
    recip: Tensor  # per row, index of the reciprocal
    position: Tensor  # per row, l of the formula
    scaled: Tensor
    prob: Tensor


def _softmax(p: AttentionParams, constants: Constants, q: Stream, k: Stream) -> _Rows:
    batch, tokens, _ = q.data.shape
    qh = q.data.reshape(batch, tokens, p.heads, p.head_dim).transpose(1, 2)
    kh = k.data.reshape(batch, tokens, p.heads, p.head_dim).permute(0, 2, 3, 1)
    score = exact_matmul(qh, kh, p.head_dim << (p.q_type.bits + p.k_type.bits))
    keep = survivors(score, k.valid()[:, None, None, :].expand(score.shape), p.n, p.m)
    low = torch.iinfo(torch.int32).min
    top = torch.where(keep, score, low).amax(-1, keepdim=True)
    e = lookup(top - score, constants["exp"], p.exp_offset, p.exp_shift) * keep
    index, position = _reciprocal(p, e.sum(-1, keepdim=True))
    scaled = e * constants["recip"][index]
    prob = saturate(round_shift(scaled, position + p.prob_shift, bool(p.half_up)), p.prob_type)
    return _Rows(score, keep, top, e, index, position, scaled, prob)


def _reciprocal(p: AttentionParams, total: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the reciprocal of a sum of exponentials, and l."""
    if not p.recip_entries:
        return reciprocal_index(total, p.index_bits)
    # one past the near segment's end is where the far one begins
    near = ((total + p.near_offset) >> p.near_shift).clamp(0, p.recip_entries)
    far = ((total + p.far_offset) >> p.far_shift).clamp(0, p.recip_entries - 1)
    beyond = near == p.recip_entries
    return near + far * beyond, p.far_prob_shift * beyond


def _values(p: AttentionParams, prob: Tensor, v: Stream) -> Tensor:
    """int64 ``[B, T, C]``: the sums of the values, before requantisation."""
    batch, tokens, _ = v.data.shape
    vh = v.data.reshape(batch, tokens, p.heads, p.head_dim).transpose(1, 2)
    bound = tokens << (p.prob_type.bits + p.v_type.bits)
    return exact_matmul(prob, vh, bound).transpose(1, 2).reshape(batch, tokens, p.channels)


def bins(
    p: AttentionParams, constants: Constants, q: Stream, k: Stream, v: Stream
) -> dict[str, int]:
    """How often these frames hit each functional bin; the same bins for all parameters."""
    rows = _softmax(p, constants, q, k)
    tokens = q.data.shape[1]
    exists = k.valid()[:, None, None, :].expand(rows.score.shape)
    keep = rows.keep & q.valid()[:, None, :, None]
    real = q.valid()[:, None, :].expand(rows.top.shape[:-1])  # rows that exist

    def row(condition: Tensor) -> int:
        return int((condition & real).sum())

    survives = keep.sum(-1)
    winner = (rows.score == rows.top) & keep
    places = torch.arange(tokens)
    first = torch.where(winner, places, tokens).amin(-1)
    last = torch.where(winner, places, -1).amax(-1)
    several = q.length[:, None, None].expand(first.shape) > 1
    lowest = torch.where(exists, rows.score, torch.iinfo(torch.int64).max).amin(-1)
    final = q.length[:, None, None].expand(first.shape) - 1

    # the weakest survivor of a group beside the strongest of the rest
    pad = -tokens % p.m
    groups = torch.nn.functional.pad(
        torch.stack([keep, exists & ~keep & real[..., None]]), (0, pad)
    )
    score = torch.nn.functional.pad(rows.score, (0, pad))
    grouped = score.reshape(*score.shape[:-1], -1, p.m)
    stay, leave = groups.reshape(2, *grouped.shape)
    limits = torch.iinfo(torch.int64)
    weakest = torch.where(stay, grouped, limits.max).amin(-1)
    tied = (weakest == torch.where(leave, grouped, limits.min).amax(-1)) & leave.any(-1)
    alive = stay.sum(-1)
    absent = p.m - (stay | leave).sum(-1)

    distance = rows.top - rows.score + p.exp_offset
    entry = distance >> p.exp_shift
    total = rows.exp.sum(-1)
    near = (total + p.near_offset) >> p.near_shift
    far = (total + p.far_offset) >> p.far_shift
    linear = torch.tensor(p.recip_entries > 0)
    beyond = near >= p.recip_entries
    most = int(constants["exp"].max())
    shift = rows.position + p.prob_shift
    remainder = rows.scaled & ((1 << shift.clamp(min=0)) - 1)
    half = torch.where(shift > 0, 1 << (shift - 1).clamp(min=0), -1)
    prob = round_shift(rows.scaled, shift, bool(p.half_up))

    y = _values(p, rows.prob * rows.keep, v)
    wide = round_shift(y, p.shift, bool(p.half_up))[v.valid()]
    step = 1 << max(p.shift, 0)
    tie = ((y[v.valid()] & (step - 1)) == step // 2) & (p.shift > 0)
    up = (y[v.valid()] >> max(p.shift, 0)) & 1

    def extreme(x: Stream, t: IntType) -> Tensor:
        """Of the largest magnitude, ``[B, H, T, head_dim]``."""
        found = (x.data == (t.min if t.signed else t.max)) & x.valid()[:, :, None]
        return found.reshape(*x.data.shape[:2], p.heads, p.head_dim).transpose(1, 2)

    def whole(x: Stream, t: IntType) -> Tensor:
        """Chunks that are extreme in some token, ``[B, H, chunks]``."""
        return extreme(x, t).unflatten(-1, (-1, p.simd)).all(-1).any(2)

    # survivors of a group with a full probability and an extreme value, per query and channel
    full = torch.nn.functional.pad(keep & (rows.prob == p.prob_type.max), (0, pad))
    value = torch.nn.functional.pad(extreme(v, p.v_type), (0, 0, 0, pad))
    full, value = full.unflatten(-1, (-1, p.m)), value.unflatten(2, (-1, p.m))
    products = full.float().transpose(2, 3) @ value.float()

    tail = (q.length - 1) % p.m + 1
    out = {
        "products: extreme sum of a chunk": int((whole(q, p.q_type) & whole(k, p.k_type)).sum()),
        "products: extreme sum of a group": int((products == p.n).sum()),
        "products: two clocks, even chains": int(p.pump > 1 and p.simd % 2 == p.n % 2 == 0),
        "products: two clocks, an odd chain": int(p.pump > 1 and p.simd % 2 + p.n % 2 > 0),
        "row: all scores equal": row(several & (lowest == rows.top[..., 0])),
        "row: one probability is not 0": row(
            (survives > 1) & ((rows.prob * keep > 0).sum(-1) == 1)
        ),
        "row: maximum first": row(several & (first == 0)),
        "row: maximum last": row(several & (last == final)),
        "row: maximum repeated": row(last > first),
        "row: maximum negative": row(rows.top[..., 0] < 0),
        "row: largest and smallest score": row(
            (rows.top[..., 0] == p.score_corners[1]) & (lowest == p.score_corners[0])
        ),
        "group: tie at the limit": int(tied.sum()),
        "group: fewer keys than survivors": int(
            ((alive > 0) & (alive + absent > p.m - 1) & (alive < p.n)).sum()
        ),
        "exp: first entry, not the maximum": int((keep & (entry == 0) & ~winner).sum()),
        "exp: last entry": int((keep & (entry == p.exp_entries - 1)).sum()),
        "exp: beyond the last entry": int((keep & (entry >= p.exp_entries)).sum()),
        "sum: a single full exponential": row((total == most) & (survives >= 1)),
        "sum: largest": row(
            (total == most * survives) & (survives == -(-p.max_tokens // p.m) * p.n)
        ),
        "sum: reciprocal index 0": row(~linear & (rows.recip[..., 0] == 0)),
        "sum: reciprocal index of ones": row(
            ~linear & (rows.recip[..., 0] == (1 << p.index_bits) - 1)
        ),
        "sum: below the near segment": row(linear & (near < 0)),
        "sum: in the near segment": row(linear & (near >= 0) & ~beyond),
        "sum: below the far segment": row(linear & beyond & (far < 0)),
        "sum: in the far segment": row(linear & beyond & (far >= 0) & (far < p.recip_entries)),
        "sum: above the far segment": row(linear & beyond & (far >= p.recip_entries)),
        "probability: 0": int((keep & (rows.prob == 0)).sum()),
        "probability: largest": int((keep & (rows.prob == p.prob_type.max)).sum()),
        "probability: saturated": int((keep & (prob > p.prob_type.max)).sum()),
        "probability: tie of the rounding": int((keep & (remainder == half)).sum()),
        "output: saturated high": int((wide > p.out_type.max).sum()),
        "output: saturated low": int((wide < p.out_type.min).sum()),
        "output: tie, quotient even": int((tie & (up == 0)).sum()),
        "output: tie, quotient odd": int((tie & (up == 1)).sum()),
        "output: 0": int((wide == 0).sum()),
        "input: most negative q": int((q.data == p.q_type.min).sum()) * p.q_type.signed,
        "input: most negative k": int((k.data == p.k_type.min).sum()) * p.k_type.signed,
        "input: most negative v": int((v.data == p.v_type.min).sum()) * p.v_type.signed,
        "frame: one token": int((q.length == 1).sum()),
        "frame: longest": int((q.length == p.max_tokens).sum()),
        "frame: with a package token": int(q.package.sum()),
        "frame: whole blocks of tokens": int((q.length % p.tp == 0).sum()) * (p.tp > 1),
        "frame: absent tokens in the last block": int((q.length % p.tp != 0).sum()),
        "frame: shorter than the one before": int((q.length[1:] < q.length[:-1]).sum()),
        "frame: last group full": int((tail == p.m).sum()) * (p.m > 1),
    }
    for i in range(1, BIN_KEYS):
        out[f"frame: {i} keys in the last group"] = int(((tail == i) & (i < p.m)).sum())
    for i in range(BIN_KEYS):
        at = int(stay[..., i].sum()) if i < p.m else 0
        out[f"group: key {i} survives"] = at * (p.n < p.m)
        out[f"group: key {i} lost"] = int(leave[..., i].sum()) if i < p.m else 0
    return out


def exp_table(entries: int, step: float, t: IntType) -> Tensor:
    """``T[i] = round(t.max * exp(-i * step))``, int64 ``[entries]``; ``step`` in nats."""
    from math import exp

    return torch.tensor([round(t.max * exp(-i * step)) for i in range(entries)])


def segment_table(p: AttentionParams) -> Tensor:
    """Reciprocals at the middle of every step of both segments, int64 ``[2 * recip_entries]``; the
    first one is the type's largest value."""
    most = p.recip_type.max
    table: list[int] = []
    unit = 0
    for offset, shift, up in (
        (p.near_offset, p.near_shift, 0),
        (p.far_offset, p.far_shift, p.far_prob_shift),
    ):
        for i in range(p.recip_entries):
            # no sum is less than the exponential of the maximum
            x = max(p.exp_type.max, ((2 * i + 1) << shift) // 2 - offset)
            unit = unit or most * x
            table.append(min(most, (2 * (unit << up) + x) // (2 * x)))
    return torch.tensor(table)


def settings(rng: torch.Generator, p: AttentionParams) -> dict[str, Tensor]:
    """Random settings of every set within what the fields of ``p`` allow; the first set has the
    greatest ones, the second the least shifts."""

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (p.sets,), generator=rng)

    out = {"exp_offset": draw(0, p.exp_offset)}
    for name in ("near_offset", "far_offset"):  # not far from the one that suits these sums
        ends = getattr(p, name), getattr(p, name) * 3 // 4
        out[name] = draw(min(ends), max(ends))
    for name in p.SPANS:
        shift, span = getattr(p, f"{name}_shift"), getattr(p, f"{name}_span")
        out[f"{name}_shift"] = draw(shift - span, shift)
        out[f"{name}_shift"][:2] = torch.tensor([shift, shift - span])
        out[f"{name}_offset"][0] = getattr(p, f"{name}_offset")
    out["exp_offset"] = torch.minimum(out["exp_offset"], (1 << out["exp_shift"]) - 1)
    return {name: out[name] for name in p.SETTINGS}


def stimuli(
    rng: torch.Generator, p: AttentionParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Frames whose scores range from all equal to the largest and smallest, with many ties."""
    q, k, v = (
        random_frames(rng, port, frames, p.max_tokens, i == 0) for i, port in enumerate(p.inputs())
    )
    length = q.length
    tokens = int(length.max())

    def fit(x: Stream) -> Tensor:
        return torch.nn.functional.pad(x.data, (0, 0, 0, tokens))[:, :tokens]

    # small keys, no query, small queries, all of the range, extremes alone
    kind = torch.randint(0, 5, (frames, 1, 1), generator=rng)
    low = torch.rand((frames, tokens, 1), generator=rng) < 0.5
    kd = torch.where(kind == 0, fit(k).clamp(0, 1), fit(k))
    kd = torch.where(kind == 4, torch.where(low, p.k_type.min, p.k_type.max), kd)
    qd = torch.where(kind == 1, 0, torch.where(kind == 2, fit(q) >> 4, fit(q)))
    qd = torch.where(kind == 4, p.q_type.min if p.q_type.signed else p.q_type.max, qd)
    vd = torch.where(kind == 4, torch.where(low, p.v_type.min, p.v_type.max), fit(v))
    flag = q.package
    streams = [Stream(d, length, flag).with_data(d) for d in (qd, kd, vd)]
    if p.recip_entries:
        recip = segment_table(p)
    else:
        recip = reciprocal_table(p.index_bits, p.recip_type.bits - 1)
    constants = {
        "exp": exp_table(p.exp_entries, 10 / p.exp_entries, p.exp_type),
        "recip": p.recip_type.check(recip, "recip"),
    }
    return constants, streams
