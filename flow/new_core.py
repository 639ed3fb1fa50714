# SPDX-License-Identifier: Apache-2.0
"""``make core NAME=x``: the four files of a new core, a pass-through that builds and simulates."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from sievit.quant.errors import SievitError
from sievit.quant.params import camel

MAX_LENGTH = 24


class NewCoreError(SievitError):
    """A core that cannot be started under that name, and why."""


def new_core(name: str, root: Path) -> list[Path]:
    """Write ``quant/cores/x.py``, ``rtl/cores/x.sv``, ``hls/cores/x.hpp``, ``sim/cores/test_x.py``.

    Args:
        name: ``lower_snake``; becomes the file stem, the module and the functions.
        root: the repository.

    Returns:
        The files. Either all are written or none.

    Raises:
        NewCoreError: the name is malformed, reserved or taken, or ``root`` is not the repository.
    """
    _check_word(name)
    files = {root / path.format(name=name): text for path, text in _TEMPLATES.items()}
    for path in files:
        if not path.parent.is_dir():
            raise NewCoreError(f"{path.parent}: no such folder; give the root of the repository")
    _check_free(name, root, files)
    words = {
        "name": name,
        "params": f"{camel(name)}Params",
        "indent": " " * len(f"void {name}("),
    }
    _write({path: Template(text).substitute(words) for path, text in files.items()})
    return list(files)


def _check_word(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise NewCoreError(
            f"{name!r} is not a core name; write small letters, digits and single underscores, "
            "for example token_merge"
        )
    if len(name) > MAX_LENGTH:
        raise NewCoreError(f"{name!r} has {len(name)} characters; at most {MAX_LENGTH}")
    for language, words in _RESERVED.items():
        if name in words:
            raise NewCoreError(f"{name!r} is a word of {language}; add a noun to it")


def _check_free(name: str, root: Path, files: Mapping[Path, str]) -> None:
    for path in files:
        if path.exists():
            raise NewCoreError(f"{name!r} is taken: {path} exists")
    module = root / "rtl" / "lib" / f"{name}.sv"
    if module.exists():
        raise NewCoreError(f"{name!r} is taken: {module} exists")
    for header in sorted((root / "hls" / "lib").glob("*.hpp")):
        code = re.sub(r"//[^\n]*", "", header.read_text(encoding="utf-8"))
        if re.search(rf"\b{name}(_config)?\b", code):
            raise NewCoreError(f"{name!r} is taken: {header} uses it")


def _write(files: Mapping[Path, str]) -> None:
    """All files or none; never over an existing one."""
    parts = {path: path.with_name(f".{path.name}.part") for path in files}
    done: list[Path] = []
    try:
        for path, text in files.items():
            parts[path].write_text(text, encoding="utf-8")
        for path, part in parts.items():
            os.link(part, path)
            done.append(path)
    except OSError as error:
        for path in done:
            path.unlink()
        raise NewCoreError(f"nothing was written: {error}") from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


_SYSTEMVERILOG = """
accept_on alias always always_comb always_ff always_latch and assert assign assume automatic
before begin bind bins binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle
checker class clocking cmos config const constraint context continue cover covergroup coverpoint
cross deassign default defparam design disable dist do edge else end endcase endchecker endclass
endclocking endconfig endfunction endgenerate endgroup endinterface endmodule endpackage
endprimitive endprogram endproperty endsequence endspecify endtable endtask enum event eventually
expect export extends extern final first_match for force foreach forever fork forkjoin function
generate genvar global highz0 highz1 if iff ifnone ignore_bins illegal_bins implements implies
import incdir include initial inout input inside instance int integer interconnect interface
intersect join join_any join_none large let liblist library local localparam logic longint
macromodule matches medium modport module nand negedge nettype new nexttime nmos nor
noshowcancelled not notif0 notif1 null or output package packed parameter pmos posedge primitive
priority program property protected pull0 pull1 pulldown pullup pulsestyle_ondetect
pulsestyle_onevent pure rand randc randcase randsequence rcmos real realtime ref reg reject_on
release repeat restrict return rnmos rpmos rtran rtranif0 rtranif1 s_always s_eventually
s_nexttime s_until s_until_with scalared sequence shortint shortreal showcancelled signed small
soft solve specify specparam static string strong strong0 strong1 struct super supply0 supply1
sync_accept_on sync_reject_on table tagged task this throughout time timeprecision timeunit tran
tranif0 tranif1 tri tri0 tri1 triand trior trireg type typedef union unique unique0 unsigned until
until_with untyped use uwire var vectored virtual void wait wait_order wand weak weak0 weak1 while
wildcard wire with within wor xnor xor
"""
_CPP = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t
char8_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
constinit continue decltype default delete do double dynamic_cast else enum explicit export extern
false float for friend goto if inline int long main mutable namespace new noexcept not not_eq
nullptr operator or or_eq private protected public register reinterpret_cast requires return short
signed sizeof static static_assert static_cast std struct switch template this thread_local throw
true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor
xor_eq hls sievit
"""
_PYTHON = "dataclass dataclasses divisors random_frames stimuli torch"

_RESERVED = {
    "SystemVerilog": frozenset([*_SYSTEMVERILOG.split(), "unused", "clk_i", "rst_ni", "u_out"]),
    "C++": frozenset(_CPP.split()),
    "Python": frozenset([*keyword.kwlist, *keyword.softkwlist, *_PYTHON.split()]),
}

_QUANT = '''\
# SPDX-License-Identifier: Apache-2.0
"""What $name computes, in one line: passes its input on, until you change it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sievit.quant.itype import IntType
from sievit.quant.params import (
    Constants,
    CoreParams,
    Port,
    Resources,
    Stream,
    divisors,
    random_frames,
)


@dataclass(frozen=True)
class $params(CoreParams):
    """``y = x`` for every channel."""

    channels: int = 4
    simd: int = 2
    in_type: IntType = IntType(8, True)

    HEAD_LATENCY: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")

    def inputs(self) -> tuple[Port, ...]:
        return (Port("s_axis", self.channels, self.simd, self.in_type),)

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.in_type)

    def cycles(self, tokens: int) -> int:
        return tokens * (self.channels // self.simd)

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        bits = self.simd * self.in_type.bits + 2
        return Resources(lut=bits + 4, ff=2 * bits + 2)


def $name(p: $params, constants: Constants, x: Stream) -> Stream:
    """Golden function."""
    return x.with_data(p.in_type.check(x.data, "$name"))


def stimuli(
    rng: torch.Generator, p: $params, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random frames."""
    return {}, [random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)]
'''

_RTL = """\
// SPDX-License-Identifier: Apache-2.0

/// y = x for every channel. One beat per cycle, latency 1.
module $name #(
    parameter int unsigned MaxTokens = 1,  // tokens of a frame, any number works
    parameter int unsigned Channels = 4,
    parameter int unsigned Simd = 2,       // divides Channels
    parameter int unsigned InBits = 8,
    parameter bit InSigned = 1
) (
    input  logic                   clk_i,
    input  logic                   rst_ni,
    input  logic [Simd*InBits-1:0] s_axis_tdata,
    input  logic                   s_axis_tvalid,
    output logic                   s_axis_tready,
    input  logic                   s_axis_tlast,
    input  logic                   s_axis_tuser,
    output logic [Simd*InBits-1:0] m_axis_tdata,
    output logic                   m_axis_tvalid,
    input  logic                   m_axis_tready,
    output logic                   m_axis_tlast,
    output logic                   m_axis_tuser
);
  /*verilator no_inline_module*/

  logic unused;

  assign unused = ^{MaxTokens, Channels, InSigned};

  skid_buffer #(
      .DataBits(Simd * InBits)
  ) u_out (
      .clk_i,
      .rst_ni,
      .s_axis_tdata,
      .s_axis_tvalid,
      .s_axis_tready,
      .s_axis_tlast,
      .s_axis_tuser(s_axis_tuser && s_axis_tlast),
      .m_axis_tdata,
      .m_axis_tvalid,
      .m_axis_tready,
      .m_axis_tlast,
      .m_axis_tuser
  );

endmodule
"""

_HLS = """\
// SPDX-License-Identifier: Apache-2.0
/// \\file
/// What $name computes, in one line: passes its input on, until you change it.
#pragma once

#include "../lib/axis.hpp"

namespace sievit {

struct ${name}_config {
  static constexpr int max_tokens = 1;
  static constexpr int channels = 4;
  static constexpr int simd = 2;
  static constexpr int in_bits = 8;
  static constexpr int in_signed = 1;
};

/// `y = x` for every channel.
///
/// II 1 per beat.
/// \\tparam Cfg a `${name}_config`
template <class Cfg>
void $name(hls::stream<beat<Cfg::simd * Cfg::in_bits>>& s_axis,
${indent}hls::stream<beat<Cfg::simd * Cfg::in_bits>>& m_axis) {
  typedef num<Cfg::in_bits, Cfg::in_signed> in_t;
  bool last = false;
beats:
  while (!last) {
#pragma HLS PIPELINE II=1  // a beat per cycle
    const beat<Cfg::simd * Cfg::in_bits> in = s_axis.read();
    beat<Cfg::simd * Cfg::in_bits> out = {0, in.last, in.user};
  lanes:
    for (int i = 0; i < Cfg::simd; i++) {
#pragma HLS UNROLL  // lanes side by side
      const in_t y = get_lane<in_t>(in.data, i);
      set_lane(out.data, i, y);
    }
    m_axis.write(out);
    last = in.last;
  }
}

}  // namespace sievit
"""

_SIM = '''\
# SPDX-License-Identifier: Apache-2.0
"""$name: golden == RTL."""

import pytest

from sievit.quant.cores.$name import $params
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    $params(max_tokens=5),
    $params(channels=3, simd=1, in_type=IntType(5, False), max_tokens=4),
    $params(channels=6, simd=6, in_type=IntType(16, True), max_tokens=1),
]


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_$name(params: $params) -> None:
    check_core("$name", params, seed=1)
'''

_TEMPLATES = {
    "quant/cores/{name}.py": _QUANT,
    "rtl/cores/{name}.sv": _RTL,
    "hls/cores/{name}.hpp": _HLS,
    "sim/cores/test_{name}.py": _SIM,
}
