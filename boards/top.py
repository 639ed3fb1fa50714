# SPDX-License-Identifier: Apache-2.0
"""The top of a Zynq design: ``axi_shell`` and the accelerator, instances and wires.

It is Verilog, for Vivado's IP packager takes no SystemVerilog at the top.
"""

from __future__ import annotations

from sievit.boards.device import Interface
from sievit.boards.shell import MOST_BYTES, word_bytes
from sievit.quant.errors import SievitError

STREAM = ("tdata", "tvalid", "tready", "tlast", "tuser")
#: AXI4-Lite port of the registers: (signal, bits, comes from the master)
REGISTERS = (
    ("awaddr", 12, True), ("awvalid", 1, True), ("awready", 1, False),
    ("wdata", 32, True), ("wstrb", 4, True), ("wvalid", 1, True), ("wready", 1, False),
    ("bresp", 2, False), ("bvalid", 1, False), ("bready", 1, True),
    ("araddr", 12, True), ("arvalid", 1, True), ("arready", 1, False),
    ("rdata", 32, False), ("rresp", 2, False), ("rvalid", 1, False), ("rready", 1, True),
)  # fmt: skip


def name(interface: Interface) -> str:
    """Module, and file, of the top."""
    return f"{interface.model}_axi"


def source(interface: Interface, core: str = "rtl", pumped: bool = False) -> str:
    """Verilog of the top. ``core`` = rtl: the accelerator inside, ``pumped`` with a clock for its
    DSP blocks; hls: its streams are ports, whole bytes wide. ``core_rst_no`` resets what stands
    behind it, too. Raises SievitError for a beat wider than a DMA word can be."""
    for what, lanes in (("input", interface.input), ("output", interface.output)):
        if word_bytes(lanes) > MOST_BYTES:
            raise SievitError(
                f"{interface.model}: a beat of the {what} has {lanes.lanes * lanes.bits} bits, "
                f"a DMA word {8 * MOST_BYTES} at most; fold it with fewer lanes"
            )
    inside = core == "rtl"
    bits = {
        "In": interface.input.lanes * interface.input.bits,
        "Out": interface.output.lanes * interface.output.bits,
    }
    if not inside:  # Vitis HLS fills beats up to bytes with zeros
        bits = {"In": 8 * interface.input.beat_bytes, "Out": 8 * interface.output.beat_bytes}
    busses = "s_axil:s_axis:m_axis" + ("" if inside else ":s_axis_core:m_axis_core")
    ports = [
        '    (* X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 clk_i CLK",\n'
        f'       X_INTERFACE_PARAMETER = "ASSOCIATED_BUSIF {busses}, ASSOCIATED_RESET rst_ni" *)\n'
        "    input wire clk_i",
        '    (* X_INTERFACE_INFO = "xilinx.com:signal:reset:1.0 rst_ni RST",\n'
        '       X_INTERFACE_PARAMETER = "POLARITY ACTIVE_LOW" *)\n'
        "    input wire rst_ni",
    ]
    if pumped:
        ports.append(
            '    (* X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 clk2x_i CLK" *)\n'
            "    input wire clk2x_i"
        )
    links = [".clk_i(clk_i)", ".rst_ni(rst_ni)"]

    def port(signal: str, width: int, enters: bool) -> None:
        shape = f"[{width - 1}:0] " if width > 1 or signal.endswith(("tdata", "tkeep")) else ""
        ports.append(f"    {'input' if enters else 'output'} wire {shape}{signal}")
        links.append(f".{signal}({signal})")

    for signal, width, enters in REGISTERS:
        port(f"s_axil_{signal}", width, enters)
    for prefix, lanes, enters in (
        ("s_axis", interface.input, True), ("m_axis", interface.output, False),
    ):  # fmt: skip
        size = word_bytes(lanes)
        port(f"{prefix}_tdata", 8 * size, enters)
        port(f"{prefix}_tkeep", size, enters)
        port(f"{prefix}_tvalid", 1, enters)
        port(f"{prefix}_tready", 1, not enters)
        port(f"{prefix}_tlast", 1, enters)
    wires: list[str] = []
    ports.append(
        '    (* X_INTERFACE_INFO = "xilinx.com:signal:reset:1.0 core_rst_no RST",\n'
        '       X_INTERFACE_PARAMETER = "POLARITY ACTIVE_LOW" *)\n'
        "    output wire core_rst_no"
    )
    links.append(".core_rst_no(core_rst_no)")
    for prefix, width, enters in (
        ("m_axis_core", bits["In"], False), ("s_axis_core", bits["Out"], True),
    ):  # fmt: skip
        for signal in STREAM:
            wide = width if signal == "tdata" else 1
            if inside:
                shape = f"[{wide - 1}:0] " if signal == "tdata" else ""
                wires.append(f"  wire {shape}{prefix}_{signal};")
                links.append(f".{prefix}_{signal}({prefix}_{signal})")
            else:
                port(f"{prefix}_{signal}", wide, enters != (signal == "tready"))
    parameters = {
        "InBits": bits["In"],
        "OutBits": bits["Out"],
        "FrameBeats": interface.tokens * interface.input.beats,
        "ResultBeats": interface.output.beats,
        "Build": f"32'h{interface.build[:8]}",
    }
    values = ",\n".join(f"      .{k}({v})" for k, v in parameters.items())
    lines = [
        "// SPDX-License-Identifier: Apache-2.0",
        f"// {interface.model} behind AXI4-Lite and AXI4-Stream; build {interface.build}",
        "",
        f"module {name(interface)} (",
        ",\n".join(ports),
        ");",
        "",
        *(wires if inside else []),
        "",
        "  axi_shell #(",
        values,
        "  ) u_shell (",
        ",\n".join(f"      {link}" for link in links),
        "  );",
        "",
    ]
    if inside:
        core_links = [".clk_i(clk_i)", ".rst_ni(core_rst_no)"]
        core_links += [".clk2x_i(clk2x_i)"] if pumped else []
        core_links += [f".s_axis_{s}(m_axis_core_{s})" for s in STREAM]
        core_links += [f".m_axis_{s}(s_axis_core_{s})" for s in STREAM]
        lines += [f"  {interface.model} u_core ("]
        lines += [",\n".join(f"      {link}" for link in core_links), "  );", ""]
    return "\n".join([*lines, "endmodule", ""])
