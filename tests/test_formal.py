# SPDX-License-Identifier: Apache-2.0
"""The formal proofs hold, and every property that they state can fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sievit.sim import formal
from sievit.sim.formal import Fault, Harness

FAULTS = [(h, f) for h in formal.HARNESSES for f in h.faults]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", formal.proofs())
def test_proved(name: str) -> None:
    """All properties hold; full, stalled ... states are reached, so they hold of something."""
    result = formal.prove(name)
    assert result.proved, f"failing: {result.failing}, covers: {result.covers}\n{result.trace}"
    assert result.asserts > 0 and result.covers


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("harness", "fault"), FAULTS, ids=[f"{h.module}-{'-'.join(f.properties)}" for h, f in FAULTS]
)
def test_fault_is_found(harness: Harness, fault: Fault) -> None:
    """A trace leads from reset to the violation of every property that the fault breaks."""
    steps = formal.refute(harness, fault)
    assert set(steps) == set(fault.properties)
    assert all(steps.values()), steps


@pytest.mark.parametrize("harness", formal.HARNESSES, ids=lambda h: h.module)
def test_every_property_can_fail(harness: Harness) -> None:
    broken = {p for f in harness.faults for p in f.properties}
    assert broken == formal.properties(harness.module)


def test_false_property_is_not_proved() -> None:
    """A faulty module comes out as not proved, with the property and a trace."""
    fifo = next(h for h in formal.HARNESSES if h.module == "axis_fifo")
    fault = next(f for f in fifo.faults if f.properties == ("a_full",))
    result = formal.attempt(fifo, fifo.sets[0], fault)
    assert not result.proved
    assert "a_full" in result.failing and "s_axis_tvalid" in result.trace


def test_unreachable_state_is_not_proved() -> None:
    """Without a beat that gets in, everything holds, and the proof is still refused."""
    fifo = next(h for h in formal.HARNESSES if h.module == "axis_fifo")
    closed = Fault((), "assign wr = s_axis_tvalid && s_axis_tready;", "assign wr = 1'b0;")
    ready = Fault((), "assign s_axis_tready = count_q != count_t'(Words);",
                  "assign s_axis_tready = 1'b0;")  # fmt: skip
    result = formal.attempt(fifo, fifo.sets[0], ready)
    assert not result.proved and None in result.covers.values()
    assert not formal.attempt(fifo, fifo.sets[0], closed).proved


COUNTER = """
module prove_counter (input logic clk_i, input logic rst_ni);
  logic [2:0] count_q;
  logic active;
  formal_reset u_reset (.clk_i, .rst_ni, .active_o(active));
  always_ff @(posedge clk_i) begin
    if (!rst_ni || count_q == 3'd4) count_q <= '0;
    else count_q <= count_q + 1'b1;
  end
  always_comb begin
    if (active) a_count: assert (count_q != 3'd%d);
  end
endmodule
"""


@pytest.mark.parametrize(
    ("never", "proved", "k"),
    [
        (5, True, 1),  # nothing leads to 5
        (7, True, 3),  # only 5 and 6 lead to 7
        (3, False, 4),  # reached in the fourth cycle after the reset
    ],
)
def test_induction_length(never: int, proved: bool, k: int, tmp_path: Path) -> None:
    """From 0 a counter to 4 and back: how long an induction has to be."""
    source = tmp_path / "prove_counter.sv"
    source.write_text(COUNTER % never)
    job = {
        "task": "prove", "top": "prove_counter", "parameters": {}, "sources": [str(source)],
        "folders": [str(formal.FORMAL)], "cut": [], "eager": [], "bounded": 0, "depth": 9,
        "max_k": 6,
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    subprocess.run([sys.executable, "-m", "sievit.sim.formal.engine"], cwd=tmp_path, check=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["proved"], result["k"]) == (proved, k)
    assert bool(result["failing"]) == (not proved)


def test_stale_fault_is_refused() -> None:
    stale = Fault(("a_order",), "no such text", "")
    with pytest.raises(formal.FormalError, match="no such text"):
        formal.refute(formal.HARNESSES[0], stale)


def test_unknown_proof() -> None:
    with pytest.raises(formal.FormalError, match="no proof named"):
        formal.prove("axis_fifo-Depth0")


def test_yosys_error_is_reported() -> None:
    skid = formal.HARNESSES[0]
    with pytest.raises(formal.FormalError, match="nonsense"):
        formal.attempt(skid, skid.sets[0], Fault((), "!skid_valid_q;", "nonsense;"))
