# SPDX-License-Identifier: Apache-2.0
"""rtl/xilinx/add3.sv == rtl/lib/add3.sv, proven, with one LUT per bit."""

import re
from pathlib import Path

import pytest

from sievit.rtl import synth


@pytest.mark.parametrize("bits", [1, 3, 8, 11])
def test_primitives_add(bits: int, tmp_path: Path) -> None:
    """For all operands; unsigned ones are signed ones with a zero in front."""
    for out in range(bits, bits + 3):
        values: dict[str, int | str] = {"Count": 2, "InBits": bits, "OutBits": out}
        gold, gate = (synth.read_command("add3", values, folder) for folder in ("", "xilinx"))
        log = synth._yosys(
            [
                gold, "hierarchy -top add3", "proc", "rename add3 gold", "design -stash gold",
                gate, "rename add3 gate", "read_verilog +/xilinx/cells_sim.v",
                "hierarchy -top gate", "stat", "proc", "flatten", "opt_clean", "design -stash gate",
                "design -copy-from gold -as gold gold", "design -copy-from gate -as gate gate",
                "miter -equiv -flatten -make_outputs gold gate miter", "hierarchy -top miter",
                "sat -verify -prove trigger 0 miter",
            ],
            tmp_path,
        )  # fmt: skip
        assert "no model found: SUCCESS" in log
        luts = re.findall(r"^\s*(\d+)\s+\S*LUT6_2\s*$", log, re.M)
        assert luts and int(luts[0]) == 2 * out, f"{luts} LUTs for 2 sums of {out} bits"


def test_families(tmp_path: Path) -> None:
    """Without a folder of primitives it is adders of two operands, and no carry-save adder."""
    values: dict[str, int | str] = {"Count": 1, "InBits": 6, "OutBits": 8}
    log = synth._yosys(
        [synth.read_command("add3", values), "proc", "alumacc", "stat"], tmp_path
    )  # fmt: skip
    assert re.search(r"^\s*2\s+\$alu\s*$", log, re.M) and "$macc" not in log.split("stat")[-1]
