"""The command line of the benchmarks: python -m nasfw.benchmarks aggconv, cells or xd."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from nasfw.hardware.machine import cores, share_politely
from nasfw.values import UsageError

if TYPE_CHECKING:
    from nasfw.benchmarks.findings import Report

NAMES = ("aggconv", "cells", "xd")
SECTIONS = ("sweeps", "layers", "networks", "memory")
err = Console(stderr=True)
# In a file the tables have the width that they need.
out = Console(width=None if sys.stdout.isatty() else 130)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main(arguments: list[str]) -> None:
    """Run the benchmark that ``arguments`` name; exit code 2 with one sentence if they name none."""
    share_politely()
    name = arguments[0] if arguments else ""
    if name not in (*NAMES, "--help", "-h"):
        asked = f"there is no benchmark {name!r}" if name else "no benchmark is named"
        _fail(f"{asked}; say: python -m nasfw.benchmarks {' or '.join(NAMES)}", 2)
    try:
        app(arguments, prog_name="python -m nasfw.benchmarks")
    except UsageError as error:
        _fail(str(error), 2)


def _fail(message: str, code: int) -> None:
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    sys.exit(code)


@app.command()
def aggconv(
    folder: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="where results.json and the figures go")
    ] = Path("benchmarks-aggconv"),
    quick: Annotated[bool, typer.Option("--quick", help="small sizes: a look, not a measurement")] = False,
    threads: Annotated[str, typer.Option(help="numbers of threads, such as 1,2")] = "1",
    only: Annotated[str, typer.Option(help=f"sections: {', '.join(SECTIONS)}")] = ",".join(SECTIONS),
    compute: Annotated[str, typer.Option(help="cpu, or cuda for a graphics card")] = "cpu",
    depthwise: Annotated[bool, typer.Option("--depthwise", help="sweeps and layers depthwise")] = False,
) -> None:
    """Time the aggregated convolution against the plain one and against the published technique.

    Prints tables with what is wanted and whether it is kept; writes results.json, kernels.png and length.png.
    A full run takes about half an hour, a quick one about a minute.
    """
    sections, counts = _sections(only), _threads(threads)
    _check_matplotlib()
    _check_compute(compute)
    from nasfw.benchmarks import aggconv as suite
    from nasfw.benchmarks.bench import FULL, QUICK
    from nasfw.benchmarks.figures import draw
    from nasfw.benchmarks.tables import conditions

    scale = QUICK if quick else FULL
    header = suite.header(scale, counts, compute, depthwise)

    def fill(report: Report) -> None:
        suite.fill(report, sections, scale, counts, compute, depthwise)

    _report(folder, header, fill, conditions(header), lambda report: draw(report, folder), quick)


@app.command()
def xd(
    folder: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="where results.json and the figure go")
    ] = Path("benchmarks-xd"),
    quick: Annotated[bool, typer.Option("--quick", help="small sizes: a look, not a measurement")] = False,
) -> None:
    """Time XD operations against the convolutions that they start as, and against the published technique.

    One thread. Prints tables with what is wanted and whether it is kept; writes results.json and length.png.
    A full run takes about a quarter of an hour, a quick one about a minute.
    """
    _check_matplotlib()
    from nasfw.benchmarks import bench
    from nasfw.benchmarks import xd as suite

    scale, sizes = (bench.QUICK, suite.QUICK) if quick else (bench.FULL, suite.FULL)
    header = suite.header(scale.rounds, sizes)
    _report(
        folder,
        header,
        lambda report: suite.fill(bench.Bench(scale, report), sizes),
        suite.conditions(header),
        lambda report: suite.draw(report, folder, sizes.swept),
        quick,
    )


@app.command()
def cells(
    quick: Annotated[bool, typer.Option("--quick", help="small sizes: a look, not a measurement")] = False,
    threads: Annotated[int, typer.Option(help="number of threads")] = 1,
) -> None:
    """Time training steps of supernets of cells against those of networks that they hold.

    And search steps of DARTS of second order against those of first order, with their peak memory. A full run
    takes about a quarter of an hour, a quick one about a minute.
    """
    _threads(str(threads))
    from nasfw.bars import showing
    from nasfw.benchmarks import cells as suite
    from nasfw.benchmarks import orders

    with showing(err):
        steps = suite.table(suite.QUICK if quick else suite.FULL, threads, 7 if quick else 9)
        # Few rounds of long steps.
        found = orders.measured(orders.QUICK if quick else orders.FULL, threads, 7 if quick else 5)
    for table in (steps, orders.table(found, threads)):
        out.print(table, crop=False)


def _report(
    folder: Path,
    header: Mapping[str, Any],
    fill: Callable[[Report], None],
    conditions: Sequence[str],
    draw: Callable[[Report], list[Path]],
    quick: bool,
) -> None:
    """Fill a report in ``folder``, and show what there is of it, even after an interrupt."""
    from nasfw.bars import showing
    from nasfw.benchmarks.findings import Report
    from nasfw.benchmarks.tables import tables

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}") from error
    report = Report(folder / "results.json", header)
    interrupted = False
    with showing(err):
        try:
            fill(report)
        except KeyboardInterrupt:
            interrupted = True
    for line in conditions:
        out.print(line, soft_wrap=True, highlight=False, markup=False)
    if quick:
        out.print("quick: small sizes; only a full run tells whether what is wanted is kept", soft_wrap=True)
    for table in tables(report):
        out.print(table, crop=False)
    files = [report.file, *draw(report)]
    out.print("written: " + ", ".join(map(str, files)), soft_wrap=True, highlight=False, markup=False)
    if interrupted:
        err.print(f"stopped; {report.file} has what was measured until then", soft_wrap=True)
        raise typer.Exit(130)


def _sections(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in SECTIONS:
            raise UsageError(f"there is no section {name!r}; there are {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in names]


def _threads(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1 or max(counts) > cores():
        raise UsageError(f"threads {text!r} are not possible; give numbers from 1 to {cores()}, such as 1,2")
    return list(dict.fromkeys(counts))


def _check_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("the benchmarks draw with matplotlib; install it: pip install 'nasfw[benchmarks]'")


def _check_compute(compute: str) -> None:
    import torch

    if compute != "cpu" and not (compute.startswith("cuda") and torch.cuda.is_available()):
        raise UsageError(
            f"compute {compute!r} is not possible here; there is cpu, and cuda on a graphics card"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
