# SPDX-License-Identifier: Apache-2.0
"""Cost of memories in open synthesis, by the rules of yosys' ``memory_libmap`` on UltraScale+."""

from __future__ import annotations

from sievit.quant.params import Resources

#: (cost, kbit, widths): RAMB18 and RAMB36, whose words lose their parity bits below 9 bits
_BLOCKS = ((129.0, 14, (1, 2, 4, 9, 18, 36)), (257.0, 15, (1, 2, 4, 9, 18, 36, 72)))
#: (words, bits) of eight LUTs with one write and one read port
_LUTRAMS = ((32, 14), (64, 7))


def _block(words: int, bits: int, rom: bool) -> tuple[float, float, int]:
    """Cost, blocks (RAMB36) and banks of the cheapest arrangement in block RAM."""
    options = []
    for size, (price, address, widths) in enumerate(_BLOCKS):
        for log, width in enumerate(widths):
            banks = -(-words // (1 << (address - log)))
            byte = 1 if rom else min(9, width)
            padded = -(-bits // byte) * byte
            count = -(-banks * padded // width)
            score = price * count + (banks - 1) * bits / 2
            score += banks / 2 if banks > 1 and not rom else 0  # write enables
            options.append((score, -size, count * (0.5 + 0.5 * size), banks))
    score, _, blocks, banks = min(options)
    return score, blocks, banks


def _mux(banks: int, bits: int) -> float:
    """LUTs that enable one of ``banks`` and choose its word."""
    return bits * (banks - 1) / 2 + 2 * banks if banks > 1 else 0.0


def rom(words: int, bits: int) -> Resources:
    """A ROM behind an address register, with a registered output (its registers included).

    Its contents are taken for random. In LUTs it takes one per bit and 64 words.
    """
    score, blocks, banks = _block(words, bits, True)
    if score + 2 < words * bits / 64:
        # part of the choice between banks goes into the logic behind
        choose = bits * (0.42 * (banks - 1) - 0.8) if banks > 1 else 0.0
        return Resources(lut=max(choose, 0.0), bram36=blocks)
    pages = -(-words // 64)
    return Resources(lut=bits * (pages + max(pages - 4, 0) / 3), ff=bits)


def block_rom(words: int, bits: int) -> Resources:
    """A ROM that an attribute puts into block RAM."""
    _, blocks, banks = _block(words, bits, True)
    return Resources(lut=_mux(banks, bits), bram36=blocks)


def ram(words: int, bits: int) -> Resources:
    """A RAM with one write port and one registered read port (its registers included)."""
    score, blocks, banks = _block(words, bits, False)
    options = []
    for depth, width in _LUTRAMS:
        pages = -(-words // depth)
        cost = 16 * pages * bits / width + (pages - 1) * bits / 2 + (pages / 2 if pages > 1 else 0)
        options.append((cost, 8 * pages * -(-bits // width) + _mux(pages, bits)))
    cost, lut = min(options)
    if score < cost:
        return Resources(lut=_mux(banks, bits), bram36=blocks)
    return Resources(lut=lut, ff=bits)
