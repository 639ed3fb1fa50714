# SPDX-License-Identifier: Apache-2.0
"""Command line: ``sievit train | import | export | build | sim | report | boards | cores ...``."""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sievit.boards.device import DeviceError
from sievit.quant.errors import SievitError

CONSOLE = Console()
BUILD = Path("build")
#: toolchain of a board -> module with ``bitstream(build, core)``
TOOLCHAINS = {"vivado": "sievit.boards.vivado", "trellis": "sievit.boards.trellis"}

#: roads of ``build`` from the integer graph on
BACKENDS = ("native", "finn", "hls4ml")

model_option = click.option(
    "--model",
    default="heatvit_nm_digits",
    show_default=True,
    help="Recipe of the zoo, or a .toml file.",
)
board_option = click.option(
    "--board", default="zcu102", show_default=True, help="Board (see: sievit boards)."
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=None,
    help="Data set for recipes that need one; the digits come with scikit-learn.",
)
checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    default=None,
    help="Trained networks; default: the one of the zoo.",
)


@click.group()
def cli() -> None:
    """Train pruned, quantised Vision Transformers and turn them into proven FPGA accelerators."""


def device_options(command: Any) -> Any:
    """Options of what trains: where, and for how long."""
    options = (
        click.option(
            "--accelerator",
            default="auto",
            show_default=True,
            help="auto, cpu, cuda ..., as Lightning Fabric names them.",
        ),
        click.option("--devices", default=1, show_default=True, help="Processes on this machine."),
        click.option("--nodes", default=1, show_default=True, help="Machines, with a launcher."),
        click.option(
            "--limit", default=0.0, help="Stop after this many seconds; the same call goes on."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def make_fabric(accelerator: str, devices: int, nodes: int) -> Any:
    """A launched Fabric; more processes of this machine start here."""
    from sievit.models.train import launch

    return launch(accelerator, devices, nodes)


@cli.command()
@model_option
@data_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Checkpoint to write; default: the one of the zoo.",
)
@device_options
def train(
    model: str,
    data: Path | None,
    out: Path | None,
    accelerator: str,
    devices: int,
    nodes: int,
    limit: float,
) -> None:
    """Train float, QAT dense and QAT pruned networks of a recipe (resumes if interrupted)."""
    from sievit.models import recipe as recipes

    recipe = recipes.load(model)
    from sievit.flow.trained import checkpoint_path, load_data
    from sievit.models.train import Trainer, save_checkpoint

    fabric = make_fabric(accelerator, devices, nodes)
    folder = BUILD / "train" / recipe.name
    console = CONSOLE if fabric.is_global_zero else Console(quiet=True)
    with fabric.rank_zero_first():
        images = load_data(recipe, data)
    trainer = Trainer(recipe, images, folder, console, fabric, limit=limit or math.inf)
    done = trainer.run()
    if not fabric.is_global_zero:
        return
    path = out or checkpoint_path(recipe)
    save_checkpoint(path, recipe, done)
    table = Table("network", "top-1 on the test split", title=recipe.name)
    for phase, result in done.items():
        table.add_row(phase.replace("_", " "), f"{result['accuracy']:.2f} %")
    CONSOLE.print(table)
    CONSOLE.print(f"checkpoint {path}; log: tensorboard --logdir {folder / 'tensorboard'}")


matrix_option = click.option(
    "--matrix",
    default="cifar10",
    show_default=True,
    help="Comparison of models/zoo/matrix, or a .toml file.",
)


@cli.command("train-zoo")
@matrix_option
@data_option
@click.option("--only", multiple=True, help="These points; default: all that lack a checkpoint.")
@click.option("--jobs", default=1, show_default=True, help="Points side by side on one device.")
@device_options
def train_zoo(
    matrix: str,
    data: Path | None,
    only: tuple[str, ...],
    jobs: int,
    accelerator: str,
    devices: int,
    nodes: int,
    limit: float,
) -> None:
    """Train every point of the accuracy comparison that lacks a checkpoint (resumes)."""
    if jobs > 1 and devices * nodes > 1:
        raise click.UsageError("--jobs is for one device; leave out --devices and --nodes")
    from sievit.flow import zoo

    found = zoo.load(matrix)
    unknown = set(only) - {p.name for p in found.points}
    if unknown:
        known = ", ".join(p.name for p in found.points)
        raise click.UsageError(f"no point {', '.join(sorted(unknown))}; known: {known}")
    from sievit.flow.trained import load_data

    fabric = make_fabric(accelerator, devices, nodes)
    console = CONSOLE if fabric.is_global_zero else Console(quiet=True)
    command = zoo.command_line(matrix, data, ["--accelerator", accelerator])
    with fabric.rank_zero_first():
        images = load_data(found.shared, data)
    seconds = limit or math.inf
    missing = zoo.train(found, images, BUILD, console, fabric, only, seconds, jobs, command)
    count = len(only or found.points)
    console.print(f"{count - len(missing)} of {count} points trained")


@cli.command("bench-accuracy")
@matrix_option
@data_option
@click.option("--accelerator", default="auto", show_default=True, help="auto, cpu, cuda.")
@click.option("--limit", default=0.0, help="Stop after this many seconds; the same call goes on.")
def bench_accuracy(matrix: str, data: Path | None, accelerator: str, limit: float) -> None:
    """Measure the points that have a checkpoint: writes docs/accuracy.md."""
    from sievit.flow import zoo

    found = zoo.load(matrix)
    from sievit.flow.trained import load_data

    device = make_fabric(accelerator, 1, 1).device
    images = load_data(found.shared, data)
    missing = zoo.bench(found, images, BUILD, CONSOLE, device, limit or math.inf)
    CONSOLE.print(f"not measured: {', '.join(missing) or 'none'}")


def make_build(
    model: str, board: str, data: Path | None, checkpoint: Path | None, **more: Any
) -> Any:
    """A Build of the command line's options."""
    from sievit.boards import board as boards
    from sievit.models import recipe as recipes

    target = boards.load(board)
    common = {"board": target, "folder": BUILD / target.name / model, "console": CONSOLE, **more}
    source = BUILD / "imported" / model
    backend = common.pop("backend", "native")
    if source.is_dir():
        if backend != "native":
            raise click.UsageError(f"{model} was imported: --backend {backend} takes recipes")
        if data or checkpoint:
            raise click.UsageError(f"{model} was imported: it has neither --data nor --checkpoint")
        from sievit.flow.imported import ImportedBuild

        return ImportedBuild(name=model, source=source, **common)
    recipe = recipes.load(model)
    from sievit.flow.trained import TrainedBuild  # takes seconds: after what is refused at once

    common["folder"] = BUILD / target.name / recipe.name
    kind: type[TrainedBuild] = TrainedBuild
    if backend == "finn":
        from sievit.flow.finn import FinnBuild

        kind = FinnBuild
    return kind(name=recipe.name, recipe=recipe, data_path=data, checkpoint=checkpoint, **common)


@cli.command("import")
@click.argument("kind", type=click.Choice(["hgpipe"]))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--variant", default=None, help="Prune it: 2_4, 4_16 or dense, each also _pruned.")
def import_(kind: str, file: Path, variant: str | None) -> None:
    """Read a published network of integers as a model: hgpipe, the .npz of HG-PIPE's DeiT-Tiny.

    A variant has N:M weights by magnitude and N:M attention; _pruned adds token selectors of random
    weights. It shows cycles, not accuracy.
    """
    from sievit.models import hgpipe

    made = hgpipe.load(file)
    if variant:
        from sievit.models import variants  # takes seconds: after what is refused at once

        made = variants.make(made, variant)
    folder = BUILD / "imported" / made.graph.name
    made.save(folder)
    CONSOLE.print(
        f"{folder}: {len(made.graph.nodes)} cores; now: sievit build --model {made.graph.name}"
    )


@cli.command("bench-deit")
@click.argument("file", type=click.Path(path_type=Path))
@board_option
@click.option("--only", multiple=True, help="These variants; default: all six.")
@click.option("--no-sim", is_flag=True, help="Fold only: predicted cycles and resources.")
@click.option("--cores", is_flag=True, help="Simulate some cores of every stage alone, too.")
@click.option("--synth", default=0, help="Synthesise as many of the largest cores, too (yosys).")
@click.option("--images", default=16, show_default=True, help="Images simulated in RTL.")
def bench_deit(
    file: Path,
    board: str,
    only: tuple[str, ...],
    no_sim: bool,
    cores: bool,
    synth: int,
    images: int,
) -> None:
    """Compare pruned variants of HG-PIPE's DeiT-Tiny (FILE.npz) on a board: writes docs/deit.md.

    Resumes if interrupted; a variant is done again when sources, FILE or board have changed.
    """
    from sievit.boards import board as boards

    target = boards.load(board)
    if images < 2:
        raise click.UsageError("an interval lies between two images: --images 2 or more")
    from sievit.flow import bench_deit as bench
    from sievit.models.variants import VARIANTS

    unknown = set(only) - set(VARIANTS)
    if unknown:
        raise click.UsageError(
            f"no variant {', '.join(sorted(unknown))}; known: {', '.join(VARIANTS)}"
        )
    bench.run(file, target, only, not no_sim, cores, synth, images, BUILD, CONSOLE)


@cli.command()
@model_option
@board_option
@data_option
@checkpoint_option
def export(model: str, board: str, data: Path | None, checkpoint: Path | None) -> None:
    """Write the trained network as QONNX and compare its execution with the QAT model."""
    build = make_build(model, board, data, checkpoint)
    if not hasattr(build, "export"):
        raise click.UsageError(f"{model} was imported as integers: there is nothing to export")
    build.load()
    build.export()
    CONSOLE.print(f"{build.folder / 'model.onnx'}")


@cli.command()
@model_option
@board_option
@data_option
@checkpoint_option
@click.option("--images", default=64, show_default=True, help="Images simulated in RTL.")
@click.option("--fps", default=0.0, help="Stop folding at that speed; default: as fast as fits.")
@click.option("--seed", default=1, show_default=True, help="Seed of the random stalls.")
@click.option("--no-proof", is_flag=True, help="Generate only; compile and compare nothing.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="native",
    show_default=True,
    help="finn and hls4ml: through these tools; finn takes recipes of fixed top-k.",
)
@click.option("--vendor", is_flag=True, help="With --backend finn: FINN's stitched IP by Vivado.")
def build(
    model: str,
    board: str,
    data: Path | None,
    checkpoint: Path | None,
    images: int,
    fps: float,
    seed: int,
    no_proof: bool,
    backend: str,
    vendor: bool,
) -> None:
    """Compile a trained model for a board and prove every view of it equal."""
    options: dict[str, Any] = {"rtl_images": images, "fps": fps, "seed": seed}
    if vendor and backend != "finn":
        raise click.UsageError("--vendor goes with --backend finn")
    if backend == "finn":
        options |= {"backend": backend, "vendor_steps": vendor}
    made = make_build(model, board, data, checkpoint, **options)
    if backend == "hls4ml":
        from sievit.flow import hls4ml  # takes seconds: after what is refused at once

        hls4ml.run(made, proof=not no_proof)
    else:
        made.run(proof=not no_proof)


@cli.command("compare-backends")
@click.option("--model", default="heatvit_nm_digits_topk", show_default=True, help="Recipe.")
@board_option
@click.option("--images", default=64, show_default=True, help="Images simulated in RTL.")
def compare_backends(model: str, board: str, images: int) -> None:
    """Build a model with every back end and stock FINN and hls4ml: writes docs/backends.md."""
    from sievit.boards import board as boards
    from sievit.models import recipe as recipes

    recipe, target = recipes.load(model), boards.load(board)
    from sievit.flow import compare  # takes seconds: after what is refused at once

    compare.run(recipe, target, BUILD / target.name / recipe.name, images, CONSOLE)


@cli.command()
@model_option
@board_option
@click.option("--core", default=None, help="Run the bench of one core instead of the accelerator.")
@click.option("--images", default=64, show_default=True)
@click.option(
    "--stall",
    default="both",
    show_default=True,
    help="none, idle, ready_75, ready_25, bursts or both.",
)
@click.option("--seed", default=1, show_default=True)
@data_option
def sim(
    model: str, board: str, core: str | None, images: int, stall: str, seed: int, data: Path | None
) -> None:
    """Simulate the RTL of a finished build, or the bench of one core."""
    if core:
        import pytest

        from sievit.quant.params import core_names

        if core not in core_names():
            raise click.UsageError(f"no core {core!r}; known: {', '.join(core_names())}")
        bench = Path(__file__).resolve().parent.parent / "sim" / "cores" / f"test_{core}.py"
        sys.exit(pytest.main([str(bench), "-q"]))
    from sievit.flow.build import BuildError, first, frames_differ
    from sievit.quant.execute import execute
    from sievit.quant.graph import Graph
    from sievit.sim import bench as benches
    from sievit.sim import runner

    if stall not in benches.STALLS:
        raise click.UsageError(f"no stall profile {stall!r}; known: {', '.join(benches.STALLS)}")
    made = make_build(model, board, data, None)
    folder = made.folder
    if not (folder / "graph" / "manifest.json").is_file():
        raise BuildError(f"nothing built in {folder}; run: sievit build --board {board}")
    graph = Graph.load(folder / "graph")
    x = first(made.frames(), images)
    golden = execute(graph, x)[graph.output.name]
    result = runner.run_graph(graph, folder / "rtl", x, stall, seed, record=False)
    wrong = int(frames_differ(golden, result.output).sum())
    cycles = result.out_last[-1] + 1
    CONSOLE.print(
        f"{len(x.length)} images, stall {stall}, seed {seed}: {wrong} mismatches, "
        f"{cycles} cycles, {cycles / len(x.length):.1f} per image"
    )
    if wrong:
        raise BuildError(f"{wrong} of {len(x.length)} images differ; sievit build locates the edge")


@cli.command()
@model_option
@board_option
@data_option
@checkpoint_option
@click.option(
    "--core",
    type=click.Choice(["rtl", "hls"]),
    default="rtl",
    show_default=True,
    help="The accelerator: generated RTL, or the IP of Vitis HLS (Vivado boards).",
)
@click.option("--seed", default=0, help="Of the placement, ECP5 boards; default: 1.")
def bitstream(
    model: str, board: str, data: Path | None, checkpoint: Path | None, core: str, seed: int
) -> None:
    """Make the bitstream of a model for a board, or everything up to the vendor tool's call."""
    from sievit.boards import board as boards

    kind = boards.load(board).toolchain
    if seed and kind != "trellis":
        raise click.UsageError(f"--seed is for nextpnr; {board} is built by {kind}")
    toolchain = importlib.import_module(TOOLCHAINS[kind])
    made = make_build(model, board, data, checkpoint)
    if not (made.folder / "graph" / "manifest.json").is_file():
        made.run(proof=False)
        CONSOLE.print(f"compiled without proof; to prove it: sievit build --board {board}")
    toolchain.bitstream(made, core, **({"seed": seed} if seed else {}))


@cli.command()
@model_option
@board_option
@click.option("--of", default="zcu102", show_default=True, help="Board that BOARD=sim simulates.")
@click.option("--host", default="", help="Zynq: the board, as ssh takes it: xilinx@pynq.")
@click.option("--port", default="", help="ECP5: serial port of the board.")
@click.option("--images", default=360, show_default=True, help="Test images to run.")
@data_option
def deploy(
    model: str, board: str, of: str, host: str, port: str, images: int, data: Path | None
) -> None:
    """Bring a build to its board, run the test images there, compare every byte of the logits.

    --board sim does the same against the simulated board.
    """
    from sievit.boards import board as boards
    from sievit.boards import deploy as deploying

    way = "sim" if board == "sim" else boards.load(board).deploy
    if way == "manual":
        raise boards.BoardError(f"board {board} is deployed by hand; see docs/boards.md")
    made = make_build(model, of if board == "sim" else board, data, None)
    if way == "sim":
        found = deploying.simulate(made, images)
    elif way == "pynq":
        found = deploying.pynq(made, images, host)
    else:
        found = deploying.openfpgaloader(made, images, port)
    CONSOLE.print(
        f"{found['images']} images on {board}: every byte of the logits is equal; "
        f"{found['cycles']:,} cycles, {found['seconds']:.2f} s"
    )


@cli.command()
@model_option
@board_option
@data_option
@click.option("--port", required=True, help="Serial port of the board, or sim: the simulated one.")
@click.option(
    "--image",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Picture to classify; again for more. Default: the test images.",
)
@click.option("--images", default=0, help="This many test images; default: all.")
def run(
    model: str, board: str, data: Path | None, port: str, files: tuple[Path, ...], images: int
) -> None:
    """Classify images on a board behind a serial port: accuracy and throughput."""
    from sievit.flow import host

    made = make_build(model, board, data, None)
    found = host.run(made, port, files, images)
    for file, name in zip(files, found.classes, strict=False):
        CONSOLE.print(f"{file}: {name}")
    count, clock = len(found.classes), made.board.clock_mhz
    CONSOLE.print(
        f"{count} images, all logits equal to the graph's; {count / found.seconds:.1f} images/s "
        f"with the line, {found.cycles:,.0f} cycles each in the accelerator "
        f"({found.cycles / clock:,.1f} µs at {clock:g} MHz); {found.repeated} requests repeated"
    )
    if found.accuracy is not None:
        CONSOLE.print(f"accuracy {100 * found.accuracy:.2f} %")


@cli.command()
@model_option
@board_option
def report(model: str, board: str) -> None:
    """Print the report of a finished build."""
    from sievit.flow.build import load_result
    from sievit.flow.report import terminal_table

    made = make_build(model, board, None, None)
    CONSOLE.print(terminal_table(load_result(made.folder)))
    CONSOLE.print(f"{made.folder / 'report.html'}")


@cli.command()
def boards() -> None:
    """List the boards."""
    from sievit.boards import board as known

    table = Table("board", "part", *("MHz LUT DSP BRAM36 URAM".split()), box=None)
    for column in table.columns:
        column.no_wrap = True
    for name in known.names():
        b = known.load(name)
        numbers = (f"{v:,}" for v in (b.lut, b.dsp, b.bram36, b.uram))
        table.add_row(b.name, b.part, f"{b.clock_mhz:g}", *numbers)
    CONSOLE.print(table)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Name, stage and evidence as JSON.")
def cores(as_json: bool) -> None:
    """List the cores and how far each is verified (computed from sim/records)."""
    import json

    from sievit.quant.params import core_names, load_core
    from sievit.sim import evidence

    known = [evidence.status(name) for name in core_names()]
    if as_json:
        click.echo(json.dumps([s.to_dict() for s in known], indent=1))
        return
    table = Table("core", "stage", "what it computes", box=None)
    table.columns[0].no_wrap = True
    for s in known:
        module = sys.modules[load_core(s.core).params.__module__]
        table.add_row(s.core, s.stage, (module.__doc__ or "").strip().splitlines()[0])
    CONSOLE.print(table)
    table = Table("core", *evidence.COLUMNS, box=None, title="\nEvidence")
    for s in known:
        table.add_row(s.core, *s.row)
    for column in table.columns:
        column.no_wrap = True
    CONSOLE.print(table)
    for s in known:
        if not s.fresh:
            why = "the sources are newer than the evidence" if s.row else "no evidence yet"
            CONSOLE.print(f"{s.core}: {why}; run: make soak CORE={s.core}")
    for s in known:
        for name, (level, held, text) in s.criteria.items():
            if s.fresh and not held:
                CONSOLE.print(f"{s.core}: V{level} {name} not reached: {text}")


@cli.command()
@click.option("--core", "only", multiple=True, help="These cores alone; default: all, and graphs.")
@click.option("--jobs", default=2, show_default=True, help="Steps run side by side.")
def soak(only: tuple[str, ...], jobs: int) -> None:
    """Run everything that the verification stages ask for (resumes if interrupted)."""
    from sievit.quant.params import core_names
    from sievit.sim import soak as soaking

    unknown = set(only) - set(core_names())
    if unknown:
        raise click.UsageError(
            f"no core {', '.join(sorted(unknown))}; known: {', '.join(core_names())}"
        )
    failures = soaking.soak(list(only) or core_names(), BUILD / "soak", CONSOLE, jobs)
    if failures:
        raise SievitError(f"{len(failures)} steps failed: {', '.join(sorted(failures))}")
    CONSOLE.print(f"evidence in {soaking.evidence.EVIDENCE}; see: sievit cores")


@cli.command()
@click.argument("name")
def core(name: str) -> None:
    """Write the four files of a new core NAME."""
    from sievit.flow.new_core import new_core

    for path in new_core(name, Path(__file__).resolve().parent.parent):
        CONSOLE.print(str(path))


def main() -> None:
    """Entry point: known errors are one line and exit status 1."""
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        cli(prog_name="sievit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        CONSOLE.print("interrupted; the same command goes on where it stopped")
        sys.exit(130)
    except (SievitError, DeviceError) as error:
        Console(stderr=True).print(f"sievit: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
