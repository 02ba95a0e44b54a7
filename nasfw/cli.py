"""The command line: nasfw run | show | plugins, and what ``commands`` adds."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from nasfw.commands import compatibility, hardware, measuring, plotting, shipping
from nasfw.guide import GUIDE
from nasfw.hardware.machine import share_politely
from nasfw.terminal import Json, err, guarded, log_to_stderr, out, print_json

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)


def main() -> None:
    """Entry point of the console script."""
    share_politely()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console without the arrows of the tables shows question marks instead of failing.
            stream.reconfigure(errors="replace")
    app()


@app.callback()
def root() -> None:
    """Neural architecture search: from your data to a Pareto front of trained networks.

    `nasfw run spaces=aggconv strategy=dash` searches on the digits of scikit-learn;
    `nasfw run task=my.npz` on your arrays. `nasfw run --help` explains the settings.
    """


@app.command(help=GUIDE)
@guarded
def run(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="settings; see above")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be run and stop")] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="one line for every trial, and how a supernet's layers were computed"
        ),
    ] = False,
) -> None:
    """Search, train the front again, and compare it with the plain backbone and random search."""
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    from nasfw import bars, config, plugins
    from nasfw.reports import plan
    from nasfw.reports.outcome import outcome

    registry = plugins.load()
    resolved = config.resolve(settings or [], registry)
    from nasfw import experiment

    with bars.showing(err):
        prepared = experiment.prepare(resolved, registry)
        folder = prepared.place()
        out.print(plan.announcement(prepared, folder), crop=False)
        if dry_run:
            from nasfw.estimate import estimate

            out.print(plan.forecast(estimate(prepared)))
            return
        result = prepared.run(folder)
    out.print(outcome(result, layers=verbose), crop=False)


@app.command()
@guarded
def show(
    folder: Annotated[Path, typer.Argument(help="the folder of a run")],
    as_json: Json = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="also how a supernet's layers were computed")
    ] = False,
) -> None:
    """Recompute the table, the front and the hypervolume of a run from its folder."""
    log_to_stderr()
    from nasfw import results
    from nasfw.reports.outcome import outcome

    result = results.read(folder)
    if as_json:
        print_json(result.plain_data())
    else:
        out.print(outcome(result, layers=verbose), crop=False)


@app.command()
@guarded
def plugins(
    name: Annotated[str | None, typer.Argument(help="a plugin, to see its parameters")] = None,
) -> None:
    """List the plugins that are installed, or explain one of them."""
    from nasfw.plugins import load
    from nasfw.reports.catalogue import catalogue, explanation

    registry = load()
    out.print(catalogue(registry) if name is None else explanation(registry, name))


for module in (shipping, plotting, compatibility, measuring, hardware):
    app.add_typer(module.app)
