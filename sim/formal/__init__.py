# SPDX-License-Identifier: Apache-2.0
"""Formal proofs of the stream modules: k-induction over all inputs, stalls and resets, unbounded.

``prove_X.sv`` puts module X between free inputs that obey the stream rules and assertions. Labels
say what a statement is for: ``a_`` a property of the module, ``i_`` an invariant that only helps
the induction, ``c_`` a state that must be reachable, so that nothing is proven of an empty set.
Every property has a fault, a small edit of the module's source, under which it must fail.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sievit.quant.errors import SievitError

FORMAL = Path(__file__).resolve().parent
RTL = FORMAL.parent.parent / "rtl"

#: longest induction tried
MAX_K = 8
#: cycles within which covers are reached and faults show
DEPTH = 30


class FormalError(SievitError):
    """yosys refused a design, or a fault does not fit its source any more."""


@dataclass(frozen=True)
class Fault:
    """``old`` of the module's source becomes ``new``: then each of ``properties`` must fail."""

    properties: tuple[str, ...]
    old: str
    new: str
    #: index of the parameter set that it shows in
    set: int = 0
    #: it shows only while the sink is not always ready
    stall: bool = False


@dataclass(frozen=True)
class Harness:
    """``prove_<module>.sv`` around one module, proven for several sets of parameters."""

    module: str
    sets: tuple[dict[str, int], ...]
    faults: tuple[Fault, ...]
    #: (old, new) texts of the source that make the module smaller, for solving time
    edits: tuple[tuple[str, str], ...] = ()
    #: nets that the solver may drive as it likes
    cut: tuple[str, ...] = ()
    #: inputs that are high in the traces to covers and faults, to find deep ones fast
    eager: tuple[str, ...] = ()
    #: > 0: no induction, all traces of so many cycles instead
    bounded: int = 0

    @property
    def source(self) -> Path:
        return next(RTL.glob(f"*/{self.module}.sv"))

    def name(self, parameters: dict[str, int]) -> str:
        return "-".join([self.module, *(f"{k}{v}" for k, v in parameters.items())])


@dataclass(frozen=True)
class ProofResult:
    """``proved``: all properties hold and all covers are reached.

    ``k``: length of the induction, or cycles of a bounded proof.
    """

    name: str
    proved: bool
    k: int
    kind: str  # "induction" or "bounded"
    seconds: float
    asserts: int
    #: cycles after which each state is reached, None: never
    covers: dict[str, int | None] = field(default_factory=dict)
    #: properties and invariants that do not hold at the end of the trace
    failing: list[str] = field(default_factory=list)
    #: the trace that violates a property, or from which the induction does not close
    trace: str = ""


def _job(
    harness: Harness, parameters: dict[str, int], fault: Fault | None, options: dict[str, Any]
) -> dict[str, Any]:
    text = harness.source.read_text()
    for old, new in (*harness.edits, *(((fault.old, fault.new),) if fault else ())):
        if text.count(old) != 1:
            raise FormalError(f"{harness.module}: {old!r} stands {text.count(old)} times")
        text = text.replace(old, new)
    top = f"prove_{harness.module}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / harness.source.name
        source.write_text(text)
        sources = [RTL / "lib" / "num_pkg.sv", FORMAL / f"{top}.sv", source]
        job = {
            "top": top, "parameters": parameters, "sources": [str(s) for s in sources],
            "folders": [str(FORMAL), str(RTL / "lib")], "cut": harness.cut,
            "eager": harness.eager,
            "bounded": harness.bounded, "depth": DEPTH, "max_k": MAX_K,
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job | options))
        command = [sys.executable, "-m", "sievit.sim.formal.engine"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            log = folder / "yosys.log"
            report = done.stderr + (log.read_text() if log.exists() else "")
            raise FormalError(f"formal: {top} failed in yosys:\n{report.strip()[-4000:]}")
        return json.loads((folder / "result.json").read_text())


def _find(name: str) -> tuple[Harness, dict[str, int]]:
    for harness in HARNESSES:
        for parameters in harness.sets:
            if harness.name(parameters) == name:
                return harness, parameters
    raise FormalError(f"no proof named {name!r}; there are: {', '.join(proofs())}")


def proofs() -> list[str]:
    """The names of all proofs, one per module and parameter set."""
    return [h.name(p) for h in HARNESSES for p in h.sets]


def prove(name: str) -> ProofResult:
    """Carry out one proof. Raises FormalError for an unknown name or a design yosys refuses."""
    return attempt(*_find(name))


def attempt(
    harness: Harness, parameters: dict[str, int], fault: Fault | None = None
) -> ProofResult:
    """One proof, of the module as it is or with a fault."""
    start = time.monotonic()
    found = _job(harness, parameters, fault, {"task": "prove"})
    return ProofResult(
        name=harness.name(parameters),
        proved=found["proved"] and None not in found["covers"].values(),
        k=found["k"],
        kind="bounded" if harness.bounded else "induction",
        seconds=round(time.monotonic() - start, 2),
        asserts=len(found["asserts"]),
        covers=found["covers"],
        failing=found["failing"],
        trace=found["trace"],
    )


def refute(harness: Harness, fault: Fault) -> dict[str, int | None]:
    """Cycles after which each of the fault's properties fails in the edited module, None: never.

    Raises FormalError unless ``fault.old`` stands exactly once in the source.
    """
    eager = [e for e in harness.eager if not (fault.stall and e == "m_axis_tready")]
    options = {"task": "refute", "properties": fault.properties, "eager": eager}
    found = _job(harness, harness.sets[fault.set], fault, options)["steps"]
    return {
        p: min((s for n, s in found.items() if n.rsplit(".", 1)[-1] == p and s), default=None)
        for p in fault.properties
    }


def properties(module: str) -> set[str]:
    """The ``a_`` labels that the harness of a module states, its stream rules included."""
    text = (FORMAL / f"prove_{module}.sv").read_text()
    for helper in ("stream_rules", "part_tracker"):
        text += (FORMAL / f"{helper}.sv").read_text() if f" {helper} #(" in text else ""
    return set(re.findall(r"\b(a_\w+): assert", text))


_SKID = Harness(
    "skid_buffer",
    sets=({"DataBits": 1}, {"DataBits": 8}, {"DataBits": 33}),
    faults=(
        Fault(("a_stays",), "end else if (m_axis_tready || !out_valid_q) begin",
              "end else if (1'b1) begin"),
        Fault(("a_stable",), "if (m_axis_tready || !out_valid_q) out_q", "out_q"),
        Fault(("a_idle",), "out_valid_q  <= 1'b0;", "out_valid_q <= 1'b1;"),
        Fault(("a_source",), "out_valid_q  <= skid_valid_q || s_axis_tvalid;",
              "out_valid_q <= 1'b1;"),
        Fault(("a_rate_out",), "out_valid_q  <= skid_valid_q || s_axis_tvalid;",
              "out_valid_q <= s_axis_tvalid;"),
        Fault(("a_order",), "skid_valid_q ? skid_q : beat", "beat"),
        Fault(("a_order",), "{s_axis_tuser, s_axis_tlast, s_axis_tdata}",
              "{s_axis_tlast, s_axis_tuser, s_axis_tdata}"),
        Fault(("a_bound",), "s_axis_tready = !skid_valid_q", "s_axis_tready = 1'b1"),
        Fault(("a_full",), "s_axis_tready = !skid_valid_q",
              "s_axis_tready = !skid_valid_q && !out_valid_q"),
        Fault(("a_rate_in",), "      skid_valid_q <= 1'b0;\n    end else if (s_axis_tvalid)",
              "    end else if (s_axis_tvalid)"),
    ),
)  # fmt: skip

_FIFO = Harness(
    "axis_fifo",
    sets=tuple({"Depth": d, "DataBits": b} for d, b in
               ((3, 2), (1, 1), (2, 8), (4, 2), (5, 3), (8, 2), (11, 1))),
    faults=(
        Fault(("a_stays",), "if (!out_valid_q || m_axis_tready) out_valid_q", "out_valid_q"),
        Fault(("a_stable",), "if (rd) out_q", "out_q"),
        Fault(("a_idle",), "out_valid_q <= 1'b0;", "out_valid_q <= 1'b1;"),
        Fault(("a_source", "a_underflow"), "count_q != '0 && (", "1'b1 && ("),
        Fault(("a_bound", "a_overflow"), "count_q != count_t'(Words)", "1'b1"),
        Fault(("a_order",), "wr_q == addr_t'(Words - 1) ? '0 : wr_q + 1'b1", "wr_q + 1'b1"),
        Fault(("a_order",), "rd_q <= rd_q == addr_t'(Words - 1) ? '0 : rd_q + 1'b1",
              "rd_q <= rd_q == '0 ? addr_t'(Words - 1) : rd_q - 1'b1"),
        Fault(("a_order",), "{s_axis_tuser, s_axis_tlast, s_axis_tdata}",
              "{s_axis_tlast, s_axis_tuser, s_axis_tdata}"),
        Fault(("a_full",), "count_q != count_t'(Words)", "count_q < count_t'(Words - 2)"),
        Fault(("a_rate_in",), "count_q != count_t'(Words)", "count_q != count_t'(Words) && !rd"),
        Fault(("a_rate_out",), "(!out_valid_q || m_axis_tready);", "!out_valid_q;"),
        Fault(("a_latency",), "count_q != '0", "count_q > count_t'(1)"),
        # right for every depth but a power of two
        Fault(("a_order",), "addr_t'(Words - 1) ? '0 : rd_q + 1'b1",
              "addr_t'(2 ** AddrBits - 1) ? '0 : rd_q + 1'b1"),
    ),
)  # fmt: skip

_FORK = Harness(
    "axis_fork",
    sets=({"NumOut": 2, "DataBits": 2}, {"NumOut": 1, "DataBits": 3}, {"NumOut": 3, "DataBits": 1},
          {"NumOut": 5, "DataBits": 8}),
    faults=(
        Fault(("a_stays", "a_offer"), "& ~done_q;", "& ~done_q & {NumOut{m_axis_tready[0]}};"),
        Fault(("a_stable", "a_content"), "{NumOut{s_axis_tdata}}",
              "{NumOut{s_axis_tdata ^ DataBits'(done_q)}}"),
        Fault(("a_content",), "{NumOut{s_axis_tlast}}", "{NumOut{s_axis_tuser}}"),
        Fault(("a_idle", "a_source"), "{NumOut{s_axis_tvalid}} & ~done_q", "~done_q"),
        Fault(("a_once",), " & ~done_q;", ";"),
        Fault(("a_all",), "&(done_q | m_axis_tready)", "|(done_q | m_axis_tready)"),
        Fault(("a_rate",), "&(done_q | m_axis_tready)", "&done_q"),
    ),
)  # fmt: skip

_JOIN = Harness(
    "axis_join",
    sets=({"ABits": 2, "BBits": 1}, {"ABits": 1, "BBits": 1}, {"ABits": 8, "BBits": 12}),
    faults=(
        Fault(("a_together",), "m_axis_tready && s_axis_b_tvalid", "m_axis_tready"),
        Fault(("a_together",), "m_axis_tready && s_axis_a_tvalid", "m_axis_tready"),
        Fault(("a_offer",), "s_axis_a_tvalid && s_axis_b_tvalid",
              "s_axis_a_tvalid && s_axis_b_tvalid && m_axis_tready"),
        Fault(("a_stays",), "s_axis_a_tvalid && s_axis_b_tvalid",
              "s_axis_a_tvalid && (s_axis_b_tvalid ^ m_axis_tready)"),
        Fault(("a_stable", "a_content"), "m_axis_tlast = s_axis_a_tlast",
              "m_axis_tlast = m_axis_tready"),
        Fault(("a_content",), "{s_axis_b_tdata, s_axis_a_tdata}",
              "{s_axis_a_tdata, s_axis_b_tdata}"),
        Fault(("a_idle",), "s_axis_a_tvalid && s_axis_b_tvalid", "1'b1"),
    ),
)  # fmt: skip

_UP, _DOWN, _SAME = 0, 1, 2
_WIDTH = Harness(
    "axis_width",
    sets=tuple({"InLanes": i, "OutLanes": o, "LaneBits": b} for i, o, b in
               ((1, 3, 2), (3, 1, 2), (2, 2, 2), (1, 2, 1), (2, 4, 3), (2, 6, 2), (1, 5, 1),
                (2, 1, 1), (4, 2, 3), (6, 2, 2), (5, 1, 1), (1, 1, 8))),
    faults=(
        Fault(("a_stays",), "if (m_axis_tready) m_axis_tvalid", "m_axis_tvalid", _UP),
        Fault(("a_stable",), "if (final_part) {m_axis_tuser", "if (1'b1) {m_axis_tuser", _UP),
        Fault(("a_idle",),
              "m_axis_tvalid <= 1'b0;\n      end else begin\n        if (m_axis_tready)",
              "m_axis_tvalid <= 1'b1;\n      end else begin\n        if (m_axis_tready)", _UP),
        Fault(("a_source",), "if (final_part) m_axis_tvalid", "m_axis_tvalid", _UP),
        Fault(("a_bound",), "!final_part || !m_axis_tvalid || m_axis_tready", "1'b1", _UP),
        Fault(("a_order",), "{s_axis_tdata, part_q}", "{part_q, s_axis_tdata}", _UP),
        Fault(("a_order",), "{s_axis_tuser, s_axis_tlast, full}", "{s_axis_tuser, 1'b0, full}",
              _UP),
        Fault(("a_rate_in",), "!final_part || !m_axis_tvalid || m_axis_tready",
              "!final_part || !m_axis_tvalid", _UP),
        Fault(("a_rate_out",), "if (final_part) m_axis_tvalid",
              "if (final_part && !m_axis_tvalid) m_axis_tvalid", _UP),
        Fault(("a_full",), "!final_part || !m_axis_tvalid || m_axis_tready",
              "!m_axis_tvalid || m_axis_tready", _UP),
        Fault(("a_stays",), "if (s_axis_tready) m_axis_tvalid", "m_axis_tvalid", _DOWN),
        Fault(("a_stable",), "else if (m_axis_tready) data_q", "else data_q", _DOWN),
        Fault(("a_idle",),
              "m_axis_tvalid <= 1'b0;\n      end else begin\n        if (s_axis_tready)",
              "m_axis_tvalid <= 1'b1;\n      end else begin\n        if (s_axis_tready)", _DOWN),
        Fault(("a_source",), "m_axis_tvalid <= s_axis_tvalid;", "m_axis_tvalid <= 1'b1;", _DOWN),
        Fault(("a_bound", "a_order", "a_rate_out"), "(final_part && m_axis_tready)",
              "m_axis_tready", _DOWN),
        Fault(("a_order",), "m_axis_tlast = last_q && final_part", "m_axis_tlast = last_q", _DOWN),
        Fault(("a_order",), "data_q >> OutBits", "data_q << OutBits", _DOWN),
        Fault(("a_rate_in",), "!m_axis_tvalid || (final_part && m_axis_tready)",
              "!m_axis_tvalid", _DOWN),
        Fault(("a_full",), "!m_axis_tvalid || (final_part && m_axis_tready)",
              "final_part && m_axis_tready", _DOWN),
        Fault(("a_idle", "a_source"), "assign m_axis_tvalid = s_axis_tvalid;",
              "assign m_axis_tvalid = 1'b1;", _SAME),
        Fault(("a_order",), "assign m_axis_tuser = s_axis_tuser;", "assign m_axis_tuser = 1'b0;",
              _SAME),
        Fault(("a_rate_in",), "assign s_axis_tready = m_axis_tready;",
              "assign s_axis_tready = 1'b0;", _SAME),
        Fault(("a_bound",), "assign s_axis_tready = m_axis_tready;",
              "assign s_axis_tready = 1'b1;", _SAME),
        Fault(("a_rate_out",), "assign m_axis_tvalid = s_axis_tvalid;",
              "assign m_axis_tvalid = s_axis_tvalid && m_axis_tready;", _SAME),
    ),
)  # fmt: skip

# The proof is of the module with shorter buffers, of 4 to 8 words instead of 16 to 32, which make
# the SAT problems too large for every day. All sizes follow from the two that are edited.
_SELECT = Harness(
    "token_select",
    sets=({"Beats": 1}, {"Beats": 3}),
    edits=(("PackageDelay = 16;", "PackageDelay = 3;"), ("FifoDepth = 16 + ", "FifoDepth = 3 + ")),
    cut=("w:dut.package_y_q",),
    eager=("s_axis_x_tvalid", "s_axis_score_tvalid", "m_axis_tready"),
    faults=(
        # a score before its token is complete
        Fault(("a_pair",), "s_axis_score_tready = info_wr_q != info_rd_q;",
              "s_axis_score_tready = 1'b1;"),
        # the class token is not forced; a score of 0 is dropped; a package token is kept
        Fault(("a_user",), "(token_zero_q || !s_axis", "(!s_axis"),
        Fault(("a_user",), "!s_axis_score_tdata[ScoreBits-1])", "signed'(s_axis_score_tdata) > 0)"),
        Fault(("a_user",), "!info_package && (token_zero_q", "(token_zero_q"),
        # a beat is overwritten
        Fault(("a_order",), "fifo_count_q != '0 && (!x_valid_q || pass);", "fifo_count_q != '0;"),
        # a package token without participants, or with those of the frame before
        Fault(("a_last", "a_source"), "frame_end && (any_q || !keep);", "frame_end;"),
        Fault(("a_last",), "any_q <= !last_token && (any_q || !keep);", "any_q <= any_q || !keep;"),
        # the last kept token ends a frame that a package token follows
        Fault(("a_last",), "frame_end && !package_start, package_start",
              "frame_end, package_start"),
        Fault(("a_user",), ".s_axis_tuser(package_q && package_last)",
              ".s_axis_tuser(package_last)"),
        # a beat for a token that is not kept
        Fault(("a_source",), "head_valid && head_keep;", "head_valid;"),
        Fault(("a_idle",), ") u_skid (\n      .clk_i,\n      .rst_ni,",
              ") u_skid (\n      .clk_i,\n      .rst_ni(1'b1),"),
        Fault(("a_stays", "a_stable"), ".m_axis_tready,\n      .m_axis_tlast,",
              ".m_axis_tready(1'b1),\n      .m_axis_tlast,", stall=True),
    ),
)  # fmt: skip

_GUARD = Harness(
    "frame_guard",
    sets=({"FrameBeats": 3}, {"FrameBeats": 1}, {"FrameBeats": 4, "BeatBits": 8},
          {"FrameBeats": 2, "BeatBits": 9, "WordBytes": 2}),
    faults=(
        Fault(("a_stays",), "state_q == Pad || (", "state_q == Pad && !m_axis_tready || ("),
        Fault(("a_stable", "a_content"), "state_q == Pad ? '0 : s_axis_tdata[BeatBits-1:0]",
              "m_axis_tready ? '0 : s_axis_tdata[BeatBits-1:0]"),
        Fault(("a_idle", "a_announced"), "state_q <= Idle;\n      beat_q",
              "state_q <= Pad;\n      beat_q"),
        Fault(("a_whole",), "m_axis_tlast = frame_end", "m_axis_tlast = batch_end"),
        Fault(("a_whole",), "m_axis_tlast = frame_end", "m_axis_tlast = s_axis_tlast"),
        Fault(("a_all",), "else if (sent && s_axis_tlast) state_d = Pad;",
              "else if (sent && s_axis_tlast) state_d = Idle;"),
        Fault(("a_boundary",), "s_axis_tlast ? Idle : Drain", "Idle"),
        Fault(("a_announced",), "Pad: if (sent && batch_end) state_d = Idle;",
              "Pad: if (sent && batch_end) state_d = Pass;"),
        Fault(("a_early",), "s_axis_tlast && !batch_end", "s_axis_tlast && !frame_end"),
        Fault(("a_late",), "!s_axis_tlast && batch_end", "!s_axis_tlast && frame_end"),
        Fault(("a_ragged",), "(s_axis_tkeep != '1 || stray)", "(s_axis_tkeep == '0 || stray)",
              set=3),
        Fault(("a_ragged",), "(s_axis_tkeep != '1 || stray)", "(s_axis_tkeep != '1)"),
        Fault(("a_rate",), "(state_q == Pass && s_axis_tvalid)",
              "(state_q == Pass && s_axis_tvalid && left_q[0])"),
    ),
)  # fmt: skip

HARNESSES = (_SKID, _FIFO, _FORK, _JOIN, _WIDTH, _SELECT, _GUARD)
