"""The command that says which strategies work on which spaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from nasfw.terminal import Json, err, guarded, log_to_stderr, out, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nasfw.matrix import Matrix, Pair

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
@guarded
def matrix(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="as for nasfw run: task, spaces, strategy, ..."),
    ] = None,
    tried: Annotated[bool, typer.Option("--try", help="run every pair in miniature: takes minutes")] = False,
    as_json: Json = False,
) -> None:
    """Say which strategies work on which search spaces for a task, and why the others do not.

    Without settings these are all that are installed, for the task digits. `spaces=[darts,s5]` and
    `strategy=[dash,gdas]` name some, `strategy.gdas.epochs=3` sets a parameter.
    """
    log_to_stderr()
    from nasfw import bars, config, plugins
    from nasfw.matrix import matrix

    given = config.parse(settings or [])
    registry = plugins.load()
    with bars.showing(err):
        found = matrix(given, registry, tried)
    if as_json:
        print_json(asdict(found))
        return
    for part in _tables(found, out.width):
        out.print(part, highlight=False)


def _tables(found: Matrix, width: int) -> Iterator[RenderableType]:
    """Strategies by spaces, as many spaces side by side as there is room for, and the reasons below."""
    from rich.text import Text

    from nasfw.display import text_table

    strategies = list(dict.fromkeys(p.strategy for p in found.pairs))
    spaces = list(dict.fromkeys(p.space for p in found.pairs))
    reasons = list(dict.fromkeys(p.reason for p in found.pairs if p.reason is not None))
    cells = {(p.strategy, p.space): _cell(p, reasons) for p in found.pairs}
    for some in _side_by_side(spaces, strategies, cells, width):
        # A task may be called like a space.
        corner = f"task {found.task}" if found.task in some else found.task
        rows = [{corner: s, **{space: cells[s, space] for space in some}} for s in strategies]
        yield text_table(rows)
    for i, reason in enumerate(reasons, 1):
        yield Text(f"({i}) {reason}")
    if not found.tried:
        yield Text("Not run but checked, as a run does before it starts; --try runs each pair in miniature.")


def _cell(pair: Pair, reasons: Sequence[str]) -> str:
    from nasfw.display import format_seconds

    if pair.reason is not None:
        return f"no ({reasons.index(pair.reason) + 1})"
    return "yes" if pair.seconds is None else f"yes, {format_seconds(max(1.0, pair.seconds))}"


def _side_by_side(
    spaces: Sequence[str], strategies: Sequence[str], cells: dict[tuple[str, str], str], width: int
) -> Iterator[list[str]]:
    """The spaces in groups that fit into ``width`` beside the names of the strategies."""
    gap, first = 3, max(map(len, strategies), default=0)
    some: list[str] = []
    room = width - first
    for space in spaces:
        wide = gap + max(len(space), *(len(cells[s, space]) for s in strategies))
        if some and wide > room:
            yield some
            some, room = [], width - first
        some.append(space)
        room -= wide
    if some:
        yield some
