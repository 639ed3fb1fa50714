# SPDX-License-Identifier: Apache-2.0
"""The report of a complete, an incomplete and a failed build."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from sievit.flow.report import PAIRS, ReportDetails, terminal_table, verdict, write_report
from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.graph import Graph, Node
from sievit.quant.itype import IntType
from sievit.quant.params import Port

NAMES = [f"block{i}.{part}" for i in range(4) for part in ("norm1", "attn", "add1", "mlp1", "mlp2")]


def example_result() -> dict[str, Any]:
    pair = {"images": 64, "mismatches": 0, "stalled": False}
    return {
        "model": "digits-tiny",
        "board": "zcu102",
        "clock_mhz": 300.0,
        "accuracy": {
            "float": 0.98889,
            "qat_dense": 0.98333,
            "qat_pruned": 0.975,
            "integer": 0.975,
            "images": 360,
        },
        "pairs": list(PAIRS),
        "equal": {key: dict(pair) for key in PAIRS} | {"graph_rtl": pair | {"stalled": True}},
        "cycles": {"ii": 1234, "latency": 4100, "ii_predicted": 1230, "latency_predicted": 4050},
        "fps": 243112.0,
        "resources": {
            "lut": 61234.4,
            "ff": 80111.0,
            "dsp": 512,
            "bram36": 88.5,
            "uram": 0,
            "source": "yosys",
        },
        "budget": {"lut": 191856.0, "ff": 274080.0, "dsp": 2016.0, "bram36": 729.6, "uram": 0.0},
        "tokens": {"stages": [11.3, 6.25]},
        "macs": {"dense": 1_250_000, "executed": 431_000},
        "time": {"train": 312.0, "export": 2.5, "rtl simulation": 44.0},
        "artefacts": {
            "graph": "build/digits-tiny/graph.json",
            "RTL": "build/digits-tiny/rtl/top.sv",
        },
        "vendor": {"vivado": "not installed; run: vivado -mode batch -source build.tcl <part>"},
    }


def example_graph() -> Graph:
    params = ResidualAddParams(channels=4, simd=2, max_tokens=17)
    nodes = [Node(name, "residual_add", params, {}, ("input", "input")) for name in NAMES]
    return Graph("digits-tiny", Port("s_axis", 4, 2, IntType(12, True)), 16, 0, nodes)


def example_details(n: int = 4) -> ReportDetails:
    rng = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 16, 64).reshape(1, 1, 8, 8).round()
    images = (ramp * torch.rand(n, 1, 8, 8, generator=rng)).to(torch.uint8)
    first = torch.rand(n, 16, generator=rng) < 0.7
    second = first & (torch.rand(n, 16, generator=rng) < 0.6)
    kept = torch.randint(6, 15, (360,), generator=rng)
    cycles = np.arange(6000)[:, None]
    start = 150 * np.arange(len(NAMES))[None]
    fires = (cycles > start) & ((cycles - start) % 1234 < 700) & (cycles % 3 > 0)
    cores = [
        {
            "name": name,
            "core": "residual_add",
            "folding": "simd 2",
            "cycles_predicted": 300 + 47 * i,
            "cycles_measured": None if i == 3 else 302 + 47 * i,
            "utilisation": (300 + 47 * i) / 1234,
            "lut": 900.0 + 211 * i,
            "ff": 1500.0 + 190 * i,
            "dsp": 8 * (i % 5),
            "bram36": 1.5 * (i % 4),
            "share": 0.02,
        }
        for i, name in enumerate(NAMES)
    ]
    return ReportDetails(
        images,
        16,
        (4, 4),
        list(range(n)),
        [0, 1, 7, 3][:n],
        [str(i) for i in range(10)],
        {"selector1": first, "selector2": second},
        {"selector1": kept, "selector2": kept // 2},
        fires,
        NAMES,
        [2500, 3734, 4968],
        cores,
    )


class Page(HTMLParser):
    """Collects pictures, links and text; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.sources: list[str] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def build(folder: Path, result: dict[str, Any], details: ReportDetails) -> Page:
    write_report(result, example_graph(), details, folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_complete(tmp_path: Path) -> None:
    result = example_result()
    page = build(tmp_path / "new", result, example_details())
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == result
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]
    assert len(page.images) == 5
    for image in page.images:
        assert image["alt"] and image["src"]
        media, data = image["src"].split(";base64,")
        head = {"data:image/png": b"\x89PNG", "data:image/svg+xml": b"<?xml"}[media]
        assert base64.b64decode(data).startswith(head)
    # self-contained: nothing but data URIs
    assert all(source.startswith("data:") for source in page.sources)
    text = " ".join(page.words.split())
    for shown in (
        "All equal",
        "1,234 cycles (predicted 1,230), 4.11 µs",
        "243,112 images/s",
        "11.3 → 6.25",
        "431,000 (34.48%)",
        "integer 97.50% (360 images)",
        "17 x 4 int12",
        "-source build.tcl <part>",
    ):
        assert shown in text, shown


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        build(tmp_path / folder, example_result(), example_details())
    pages = [(tmp_path / f / "report.html").read_bytes() for f in ("a", "b")]
    assert pages[0] == pages[1]


def test_not_equal_is_said_first(tmp_path: Path) -> None:
    result = example_result()
    result["equal"]["graph_rtl"]["mismatches"] = 3
    page = build(tmp_path, result, example_details())
    assert "NOT equal: integer graph = RTL" in page.words and "All equal" not in page.words
    assert verdict(result).kind == "bad"


@pytest.mark.parametrize("entry", [None, {"images": 0, "mismatches": 0, "stalled": False}])
def test_a_comparison_that_did_not_run_is_not_equal(entry: dict[str, Any] | None) -> None:
    result = example_result()
    result["equal"]["graph_hls"] = entry
    assert verdict(result).kind == "open" and "HLS" in verdict(result).text
    del result["equal"]["graph_hls"]
    assert verdict(result).kind == "open"
    assert verdict({}).kind == "open"


def test_incomplete(tmp_path: Path) -> None:
    """A dense model, nothing simulated, no vendor tool asked for."""
    result = example_result()
    result["cycles"] |= {"ii": None, "latency": None}
    result["accuracy"] = {"float": None, "integer": 0.5, "images": 10}
    result["tokens"] = {"stages": []}
    result["equal"] = {}
    for key in ("vendor", "time", "artefacts"):
        del result[key]
    page = build(tmp_path, result, ReportDetails())
    assert "not measured (predicted 1,230), 4.1 µs" in page.words
    assert "Not compared" in page.words and len(page.images) == 1


def test_over_budget_is_marked(tmp_path: Path) -> None:
    result = example_result()
    result["resources"] |= {"dsp": 4032, "uram": 2}
    page = build(tmp_path, result, example_details())
    assert "200.0%" in page.words
    assert re.search(r'class="n bad">200.0%', (tmp_path / "report.html").read_text())


def test_wrong_details_leave_no_file(tmp_path: Path) -> None:
    good = example_details()
    for change, reason in (
        ({"alive": {"selector1": torch.zeros(4, 9, dtype=torch.bool)}}, "expected (4, 16)"),
        ({"labels": [1]}, "1 labels for 4 images"),
        ({"edges": ["one"]}, "1 edge names"),
        ({"grid": (3, 4), "alive": {}}, "does not divide (8, 8)"),
    ):
        details = ReportDetails(**(vars(good) | change))
        with pytest.raises(ValueError, match=re.escape(reason)):
            write_report(example_result(), example_graph(), details, tmp_path)
    with pytest.raises(TypeError):
        write_report(example_result() | {"fps": tmp_path}, example_graph(), good, tmp_path)
    assert not list(tmp_path.iterdir())


def test_colour_images_of_many_patches(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    mask = torch.rand(1, 256) < 0.4
    details = ReportDetails(
        images, 255, (16, 16), [5], [5], (), {"s": mask}, {"s": torch.tensor([99])}
    )
    assert len(build(tmp_path, example_result(), details).images) == 3


def test_terminal_table() -> None:
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(terminal_table(example_result()))
    text = " ".join(console.export_text().split())
    for shown in (
        "All equal",
        "integer graph = RTL 64 images, 0 mismatches, under back-pressure",
        "LUT 61,234 of 191,856 (31.9%)",
        "yosys",
        "build/digits-tiny/rtl/top.sv",
        "train 5m12s, export 2.5s",
        "vivado -mode batch",
    ):
        assert shown in text, shown
