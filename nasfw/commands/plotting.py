"""The command that draws a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from nasfw.terminal import guarded, log_to_stderr, out
from nasfw.values import UsageError

app = typer.Typer(rich_markup_mode="markdown")
_FILE = "report.svg"
_KINDS = (".svg", ".png", ".pdf")


@app.command()
@guarded
def plot(
    folder: Annotated[Path, typer.Argument(help="the folder of a run")],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help="a .svg, .png or .pdf; by default report.svg in the folder"
        ),
    ] = None,
) -> None:
    """Draw a run: its networks by quality and cost, and how its one-shot search went.

    Needs matplotlib, which the extra `plots` brings.
    """
    log_to_stderr()
    from nasfw import results

    result = results.read(folder)
    file = folder / _FILE if to is None else to
    if file.suffix.lower() not in _KINDS:
        raise UsageError(
            f"{file} cannot be drawn: its name must end in {', '.join(_KINDS[:-1])} or {_KINDS[-1]}"
        )
    if not file.parent.is_dir():
        raise UsageError(f"{file} cannot be written: there is no folder {file.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError('matplotlib is not installed, which draws: pip install "nasfw[plots]"')
    from nasfw.plots.figure import draw

    try:
        draw(result, file)
    except OSError as reason:
        raise UsageError(f"{file} cannot be written: {reason.strerror}") from None
    out.print(f"written: {file}", soft_wrap=True, highlight=False, markup=False)
