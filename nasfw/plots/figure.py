"""The picture of a run: fronts first, then how each one-shot search went."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from string import ascii_lowercase

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nasfw import results
from nasfw.caches import written
from nasfw.networks import Network, searched
from nasfw.plots import fronts, searches
from nasfw.plots.searches import Panel
from nasfw.plots.style import SETTINGS
from nasfw.records import Records
from nasfw.results import RECORDS, Result
from nasfw.values import UsageError

_COLUMNS = 3
# In inches: of a panel, of the legend, and the least width of all.
_WIDTH, _HEIGHT, _LEGEND, _LEAST = 3.0, 2.6, 0.9, 4.2
_BARS = "Points: medians over the seeds. Bars: their range,\nor of what is measured its 95 % interval."


@mpl.rc_context(SETTINGS)
def draw(result: Result, file: Path) -> None:
    """Draw a run into ``file``, all of it or nothing; the suffix says in which format."""
    kind = file.suffix.lower().removeprefix(".")
    # Without a date the same run gives the same file.
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    figure = picture(result)
    with written(file) as stream:
        figure.savefig(stream, format=kind, dpi=200, metadata=undated)


@mpl.rc_context(SETTINGS)
def picture(result: Result) -> Figure:
    """All panels of a run in rows of three, with the legend of the networks below."""
    shown = fronts.groups(result, networks(result))
    panels = [*_fronts(result, shown), *_searches(result)]
    if not panels:
        raise UsageError(f"{result.folder} has nothing to draw yet: no network of it is trained")
    # Four in rows of three would look lost.
    columns = 2 if len(panels) == 4 else min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (max(_LEAST, _WIDTH * columns), _HEIGHT * rows + _LEGEND)
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.06)  # type: ignore
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        if i >= len(panels):
            axes.set_axis_off()
            continue
        title, drawing = panels[i]
        drawing(axes)
        _title(axes, f"({_letter(i)}) {title}")
    if shown:
        handles, names = grid.flat[0].get_legend_handles_labels()
        known = dict(zip(names, handles, strict=True))
        ordered = [group.called for group in shown]
        figure.legend(
            [known[name] for name in ordered],
            ordered,
            title=_BARS if any(n.measured or len(n.seeds) > 1 for g in shown for n in g.networks) else None,
            alignment="left",
            loc="outside lower left",
            ncols=columns,
            handletextpad=0.3,
        )
    return figure


def _letter(i: int) -> str:
    """a, b, ... z, aa, bb, ..."""
    return ascii_lowercase[i % 26] * (i // 26 + 1)


def networks(result: Result) -> list[Network]:
    """The networks of a run's phase, those of random search aside."""
    if result.phase == "final":
        return results.finals(result.folder)
    records = Records(result.folder / RECORDS)
    return [searched(r) for r in records.select("search")]


def _fronts(result: Result, shown: list[fronts.Group]) -> Iterator[Panel]:
    split = "test" if result.phase == "final" else "validation"
    costs, title = result.summary.measures[1:], f"{result.summary.task}, {split} split"
    if not shown:
        return
    if not costs:
        yield title, lambda axes: fronts.alone(axes, result, shown)
    for cost in costs:
        yield title, partial(fronts.against, result=result, shown=shown, cost=cost)


def _searches(result: Result) -> Iterator[Panel]:
    for space, diagnosis in result.diagnoses.items():
        for title, drawing in searches.panels(space, diagnosis, result):
            yield f"{space}: {title}", drawing


def _title(axes: Axes, text: str) -> None:
    """A title above the legend of its panel, if there is one."""
    legend = axes.get_legend()
    axes.set_title(text, pad=4 if legend is None else 17)
