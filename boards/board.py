# SPDX-License-Identifier: Apache-2.0
"""What the flow knows about a board. A new TOML file in this folder is a new board."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sievit.quant.errors import SievitError
from sievit.quant.params import Device, Resources

FOLDER = Path(__file__).resolve().parent

#: DSP48E2, DSP48E1, DSP58 and MULT18X18D; only Versal's bitstreams can fill UltraRAM
_DEVICES = {
    "ultrascale+": Device((27, 18)),
    "7series": Device((25, 18)),
    "versal": Device((27, 24), uram_init=True),
    "ecp5": Device((18, 18)),
}

#: LUTs of the family for one of the cost model, which counts those of UltraScale+. ECP5 has LUTs of
#: four inputs, holds 16 words of LUT RAM in six of them, and its DSP blocks have neither the adder
#: before nor the one behind the multiplier: docs/ecp5.md says how it was measured.
_LUTS = {"ecp5": 2.0}

_CHOICES: dict[str, tuple[str, ...]] = {
    "family": tuple(_DEVICES),
    "ps": ("", "zynq_ultra_ps_e", "processing_system7", "versal_cips"),
    "toolchain": ("vivado", "trellis"),
    "deploy": ("pynq", "openfpgaloader", "manual"),
    "exclude_category": ("", "ps", "toolchain"),
}

#: keys that boards of a toolchain have and others do not
_OWN = {
    "vivado": ("board_part", "ps", "dma_width"),
    "trellis": ("oscillator_mhz", "baud", "pins"),
}


#: ports of a design behind a serial line, and those that only some boards ask for
PINS, PINS_MORE = ("clk", "rx", "tx"), ("rst_n", "high")


class BoardError(SievitError):
    """A board that is not known or a board file that is wrong: what and what to do about it."""


@dataclass(frozen=True)
class Board:
    """Contents of one board file. Raises BoardError for a value outside its range."""

    #: stem of the file
    name: str
    #: as people call it
    title: str
    #: vendor's full part name
    part: str
    #: ultrascale+, 7series, versal or ecp5
    family: str
    #: clock of the accelerator
    clock_mhz: float
    #: capacity of the device; bram36 in blocks of 36 Kbit
    lut: int
    ff: int
    dsp: int
    bram36: int
    uram: int
    #: what builds the bitstream: vivado, or trellis = yosys, nextpnr and ecppack
    toolchain: str
    #: how it gets onto the board: pynq = overlay and driver, openfpgaloader, manual = by hand
    deploy: str
    #: Vivado: board definition in its board store
    board_part: str = ""
    #: Vivado: IP of the processing system
    ps: str = ""
    #: Vivado: bits of the processing system's memory port that the DMA uses
    dma_width: int = 0
    #: Trellis: clock that the board brings to the pin ``clk``
    oscillator_mhz: float = 0.0
    #: Trellis: bits per second of the serial line
    baud: int = 0
    #: Trellis: name of the board in openFPGALoader; "" = by hand
    loader: str = ""
    #: Trellis: pin by port: clk, rx, tx, and if wanted rst_n (a button), high (drives a one)
    pins: dict[str, str] = field(default_factory=dict)
    #: Trellis: standard of all these pins
    io_type: str = "LVCMOS33"
    #: fraction of each resource that still closes timing (the limits that FINN recommends)
    usable_lut: float = 0.70
    usable_ff: float = 0.50
    usable_dsp: float = 0.80
    usable_bram36: float = 0.80
    usable_uram: float = 0.80
    #: Vivado: clock that the DSP blocks of this part bear with all their registers used; they then
    #: may run at twice clock_mhz. 0: they run with the cores
    dsp_mhz: float = 0.0
    #: why there is no bitstream for it: category (ps: its processing system, toolchain) and reason
    exclude_category: str = ""
    exclude_reason: str = ""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value: Any = getattr(self, f.name)
            kinds: Any
            kinds = {"str": (str,), "int": (int,), "float": (int, float)}.get(str(f.type), (dict,))
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise BoardError(f"board {self.name}: {f.name} = {value!r} is not {f.type}")
            if f.name.startswith("usable_") and not 0 < value <= 1:
                raise BoardError(f"board {self.name}: {f.name} = {value} is not in 0..1")
            if isinstance(value, int | float) and value < 0:
                raise BoardError(f"board {self.name}: {f.name} = {value} is negative")
        for key in ("clock_mhz", "lut", "ff"):
            if not getattr(self, key):
                raise BoardError(f"board {self.name}: {key} must be positive")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise BoardError(
                    f"board {self.name}: {key} = {getattr(self, key)!r}; "
                    f"known: {', '.join(c for c in choices if c)}"
                )
        for toolchain, keys in _OWN.items():
            for key in keys:
                if bool(getattr(self, key)) != (toolchain == self.toolchain):
                    has = "has no" if getattr(self, key) else "needs"
                    raise BoardError(f"board {self.name}: toolchain {self.toolchain} {has} {key}")
        if self.dsp_mhz and self.family != "ultrascale+":
            raise BoardError(f"board {self.name}: dsp_mhz: only ultrascale+ has a second clock")
        if bool(self.exclude_category) != bool(self.exclude_reason):
            raise BoardError(f"board {self.name}: an exclusion needs category and reason")
        self._check_pins()

    def _check_pins(self) -> None:
        """Raise BoardError unless every pin has a known name and a place of its own."""
        if self.toolchain != "trellis":
            return
        missing = [name for name in PINS if name not in self.pins]
        unknown = [name for name in self.pins if name not in (*PINS, *PINS_MORE)]
        if missing or unknown:
            raise BoardError(
                f"board {self.name}: pins {', '.join(missing + unknown)}: "
                f"{', '.join(PINS)} are needed, {', '.join(PINS_MORE)} possible, no others"
            )
        for name, pin in self.pins.items():
            if not isinstance(pin, str) or not re.fullmatch(r"[A-Z]{1,2}\d{1,2}", pin):
                raise BoardError(f"board {self.name}: pin {name} = {pin!r} is no place, as G2 is")
        if len(set(self.pins.values())) < len(self.pins):
            raise BoardError(f"board {self.name}: two pins have the same place")

    def capacity(self) -> Resources:
        """Everything on the device."""
        return Resources(self.lut, self.ff, self.dsp, self.bram36, self.uram)

    def device(self) -> Device:
        """What the blocks of its family can do, and how fast they are."""
        pump = 2 if 2 * self.clock_mhz <= self.dsp_mhz else 1
        return dataclasses.replace(_DEVICES[self.family], pump=pump)

    def budget(self) -> Resources:
        """What a design may use: capacity times the usable fraction, in LUTs of the cost model."""
        return Resources(
            self.lut * self.usable_lut / _LUTS.get(self.family, 1.0),
            self.ff * self.usable_ff,
            self.dsp * self.usable_dsp,
            self.bram36 * self.usable_bram36,
            self.uram * self.usable_uram,
        )


def names(folder: Path = FOLDER) -> list[str]:
    """All boards, by file stem."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load(name: str, folder: Path = FOLDER) -> Board:
    """The board of that name.

    Raises:
        BoardError: unknown name; unreadable file; missing, unknown or wrong keys.
    """
    if name not in names(folder):
        raise BoardError(f"no board {name!r}; known: {', '.join(names(folder))}")
    path = folder / f"{name}.toml"
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BoardError(f"{path}: not TOML ({error})") from error
    fields = {f.name: f for f in dataclasses.fields(Board)}
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise BoardError(f"{path}: unknown key {', '.join(unknown)}; known: {', '.join(fields)}")
    required = [
        key
        for key, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [key for key in required if key not in values]
    if missing:
        raise BoardError(f"{path}: missing key {', '.join(missing)}")
    if values["name"] != name:
        raise BoardError(f"{path}: name = {values['name']!r}; it must be the file's name, {name!r}")
    return Board(**values)
