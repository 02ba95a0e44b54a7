"""The command line: nasfw run | show | plugins."""

from __future__ import annotations

import functools
import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from nasfw.guide import GUIDE
from nasfw.hardware.machine import share_politely
from nasfw.values import UsageError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
out, err = Console(), Console(stderr=True)
Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> None:
    """Entry point of the console script."""
    share_politely()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console without the arrows of the tables shows question marks instead of failing.
            stream.reconfigure(errors="replace")
    app()


def _guarded(command: Command) -> Command:
    """Turn errors that are the user's into one sentence and exit code 2, and an interrupt into a hint."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            _fail(f"[bold red]error:[/] {escape(str(error))}", 2)
        except KeyboardInterrupt:
            _fail("stopped; the same command goes on from here", 130)

    return guarded  # type: ignore[return-value]


def _fail(message: str, code: int) -> NoReturn:
    err.print(message, soft_wrap=True, highlight=False)
    raise typer.Exit(code)


class _Handler(logging.Handler):
    """Prints each message as one line."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        err.print(level + record.getMessage(), soft_wrap=True, markup=False, highlight=False)


@app.callback()
def root() -> None:
    """Neural architecture search: from your data to a Pareto front of trained networks.

    `nasfw run spaces=aggconv strategy=dash` searches on the digits of scikit-learn;
    `nasfw run task=my.npz` on your arrays. `nasfw run --help` explains the settings.
    """


@app.command(help=GUIDE)
@_guarded
def run(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="settings; see above")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be run and stop")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="one line for every trial")] = False,
) -> None:
    """Search, train the front again, and compare it with the plain backbone and random search."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[_Handler()])
    from nasfw import config, display, plugins, report

    registry = plugins.load()
    resolved = config.resolve(settings or [], registry)
    from nasfw import experiment, folders

    with display.showing(err):
        prepared = experiment.prepare(resolved, registry)
        folder = folders.choose(prepared.settings, prepared.data)
        out.print(report.announcement(prepared, folder), crop=False)
        if dry_run:
            from nasfw.estimate import estimate

            out.print(report.forecast(estimate(prepared)))
            return
        result = prepared.run(folder)
    out.print(report.outcome(result), crop=False)


@app.command()
@_guarded
def show(
    folder: Annotated[Path, typer.Argument(help="the folder of a run")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Recompute the table, the front and the hypervolume of a run from its folder."""
    logging.basicConfig(handlers=[_Handler()])
    from nasfw import report, results

    result = results.read(folder)
    if as_json:
        sys.stdout.write(json.dumps(result.plain_data(), indent=1) + "\n")
    else:
        out.print(report.outcome(result), crop=False)


@app.command()
@_guarded
def plugins(
    name: Annotated[str | None, typer.Argument(help="a plugin, to see its parameters")] = None,
) -> None:
    """List the plugins that are installed, or explain one of them."""
    from nasfw import report
    from nasfw.plugins import load

    registry = load()
    out.print(report.catalogue(registry) if name is None else report.explanation(registry, name))
