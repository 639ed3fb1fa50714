# SPDX-License-Identifier: Apache-2.0
"""What the flow knows about a board. A new TOML file in this folder is a new board."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sievit.quant.errors import SievitError
from sievit.quant.params import Device, Resources

FOLDER = Path(__file__).resolve().parent

_CHOICES: dict[str, tuple[str, ...]] = {
    "family": ("ultrascale+", "7series", "versal"),
    "ps": ("zynq_ultra_ps_e", "processing_system7", "versal_cips"),
    "toolchain": ("vivado",),
    "deploy": ("pynq", "manual"),
    "exclude_category": ("", "ps", "toolchain"),
}

#: DSP48E2, DSP48E1 and DSP58; only Versal's bitstreams can fill UltraRAM
_DEVICES = {
    "ultrascale+": Device((27, 18)),
    "7series": Device((25, 18)),
    "versal": Device((27, 24), uram_init=True),
}


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
    #: board definition in Vivado's board store; "" = none
    board_part: str
    #: ultrascale+, 7series or versal
    family: str
    #: IP of the processing system
    ps: str
    #: clock of the accelerator
    clock_mhz: float
    #: capacity of the device; bram36 in blocks of 36 Kbit
    lut: int
    ff: int
    dsp: int
    bram36: int
    uram: int
    #: bits of the processing system's memory port that the DMA uses
    dma_width: int
    #: what builds the bitstream
    toolchain: str
    #: how it gets onto the board: pynq = overlay and driver, manual = by hand
    deploy: str
    #: fraction of each resource that still closes timing (the limits that FINN recommends)
    usable_lut: float = 0.70
    usable_ff: float = 0.50
    usable_dsp: float = 0.80
    usable_bram36: float = 0.80
    usable_uram: float = 0.80
    #: why there is no bitstream for it: category (ps: its processing system, toolchain) and reason
    exclude_category: str = ""
    exclude_reason: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            kinds: Any
            kinds = {"str": (str,), "int": (int,), "float": (int, float)}[str(field.type)]
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise BoardError(f"board {self.name}: {field.name} = {value!r} is not {field.type}")
            if field.name.startswith("usable_") and not 0 < value <= 1:
                raise BoardError(f"board {self.name}: {field.name} = {value} is not in 0..1")
            if not isinstance(value, str) and value < 0:
                raise BoardError(f"board {self.name}: {field.name} = {value} is negative")
        for key in ("clock_mhz", "lut", "ff", "dma_width"):
            if not getattr(self, key):
                raise BoardError(f"board {self.name}: {key} must be positive")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise BoardError(
                    f"board {self.name}: {key} = {getattr(self, key)!r}; "
                    f"known: {', '.join(c for c in choices if c)}"
                )

        if bool(self.exclude_category) != bool(self.exclude_reason):
            raise BoardError(f"board {self.name}: an exclusion needs category and reason")

    def capacity(self) -> Resources:
        """Everything on the device."""
        return Resources(self.lut, self.ff, self.dsp, self.bram36, self.uram)

    def device(self) -> Device:
        """What the blocks of its family can do."""
        return _DEVICES[self.family]

    def budget(self) -> Resources:
        """What a design may use: capacity times the usable fraction."""
        return Resources(
            self.lut * self.usable_lut,
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
    required = [key for key, f in fields.items() if f.default is dataclasses.MISSING]
    missing = [key for key in required if key not in values]
    if missing:
        raise BoardError(f"{path}: missing key {', '.join(missing)}")
    if values["name"] != name:
        raise BoardError(f"{path}: name = {values['name']!r}; it must be the file's name, {name!r}")
    return Board(**values)
