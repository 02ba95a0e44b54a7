"""Quality against each cost, or quality alone where nothing is traded for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nasfw.networks import Network
from nasfw.pareto import non_dominated
from nasfw.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Scale,
    direction,
    scale_of,
    spread,
)
from nasfw.records import as_costs
from nasfw.reports.words import label
from nasfw.results import Result
from nasfw.values import Measure

# Of networks that are listed.
_SHOWN = 20
# Of the networks of one space, and of those of further spaces.
_COLOURS = (BLUE, PURPLE, SKY, ORANGE)
_PICK: Mapping[str, Any] = {"marker": "*", "color": RED, "markersize": 9.5, "zorder": 6}
_PLAIN: Mapping[str, Any] = {"marker": "s", "color": BLACK, "markersize": 5, "zorder": 5}
_RANDOM: Mapping[str, Any] = {"marker": "^", "color": GREEN, "markersize": 6, "zorder": 4}


@dataclass(frozen=True)
class Group:
    """Networks that are drawn alike. ``called`` is their entry in the legend."""

    called: str
    networks: Sequence[Network]
    style: Mapping[str, Any]


def groups(result: Result, trained: Sequence[Network]) -> list[Group]:
    """The networks of a run by their part in it; each is in one group, the front in that of its space."""
    marked = {n.name for n in (result.pick, result.plain) if n is not None}
    front = {n.name for n in result.front}
    found = []
    spaces = list(dict.fromkeys(n.space for n in trained))
    for i, space in enumerate(spaces):
        own = [n for n in trained if n.space == space and n.name not in marked]
        of = f" of {space}" if len(spaces) > 1 else ""
        colour = _COLOURS[i % len(_COLOURS)]
        for called, on, face in ((f"front{of}", True, colour), (f"other networks{of}", False, "white")):
            some = [n for n in own if (n.name in front) == on]
            style = {"marker": "o", "color": colour, "markerfacecolor": face, "zorder": 3}
            found.append(Group(called, some, style))
    chose_plain = result.pick is not None and len(marked) == 1 and result.plain is not None
    best = "chosen on the validation split"
    if result.pick is not None:
        called = f"plain backbone, {best}" if chose_plain else f"{result.pick.name}, {best}"
        found.append(Group(called, [result.pick], _PICK))
    if result.plain is not None and not chose_plain:
        found.append(Group("plain backbone", [result.plain], _PLAIN))
    if result.random is not None:
        found.append(Group("best of random search", [result.random], _RANDOM))
    return [group for group in found if group.networks]


def against(axes: Axes, result: Result, shown: Sequence[Group], cost: Measure) -> None:
    """Quality against one cost: medians over the seeds, their ranges, and the front as a staircase."""
    quality = result.summary.measures[0]
    every = [n for group in shown for n in group.networks]
    x, y = (scale_of(m, [n.median[m.name] for n in every]) for m in (cost, quality))
    for group in shown:
        _points(axes, group, (cost, x), (quality, y))
    _staircase(axes, result.front, (cost, x), (quality, y))
    spread(axes, "x", x(n.median[cost.name] for n in every))
    axes.set_xlabel(x.label(label(cost, result), direction(cost)))
    axes.set_ylabel(y.label(label(quality, result), direction(quality)))
    axes.margins(0.08)


def _points(axes: Axes, group: Group, x: tuple[Measure, Scale], y: tuple[Measure, Scale]) -> None:
    across, up = (np.array([s(_extremes(n, m)) for n in group.networks]).T for m, s in (x, y))
    (low, middle, high), (bottom, centre, top) = across, up
    axes.errorbar(
        middle,
        centre,
        # A value may lie a rounding error outside its interval.
        xerr=np.maximum(0.0, [middle - low, high - middle]),
        yerr=np.maximum(0.0, [centre - bottom, top - centre]),
        fmt="none",
        ecolor=group.style["color"],
        elinewidth=0.8,
        capsize=2.0,
        capthick=0.8,
        zorder=2.5,
    )
    axes.plot(middle, centre, linestyle="none", label=group.called, **group.style)


def _extremes(network: Network, measure: Measure) -> tuple[float, float, float]:
    """Lowest, middle and highest value over the seeds; of what is measured once, the value's interval."""
    details, middle = network.measured.get(measure.name), network.median[measure.name]
    if details is not None:
        return details["low"], middle, details["high"]
    return min(network.values[measure.name]), middle, max(network.values[measure.name])


def _staircase(
    axes: Axes, front: Sequence[Network], x: tuple[Measure, Scale], y: tuple[Measure, Scale]
) -> None:
    """What is not dominated in these two objectives, joined by steps from the cheapest on."""
    pair = (x[0], y[0])
    if not front:
        return
    costs = as_costs((n.median for n in front), pair)
    kept = [n.median for n, keep in zip(front, non_dominated(costs), strict=True) if keep]
    kept.sort(key=lambda m: -m[x[0].name] if x[0].maximise else m[x[0].name])
    across, up = (scale(m[measure.name] for m in kept) for measure, scale in (x, y))
    axes.plot(across, up, drawstyle="steps-post", color=GREY, linewidth=1.0, zorder=2)


def alone(axes: Axes, result: Result, shown: Sequence[Group]) -> None:
    """The one objective of the best networks, best at the top: each seed, and the median."""
    measure = result.summary.measures[0]
    rows = [(n, group) for group in shown for n in group.networks]
    rows.sort(key=lambda row: row[0].median[measure.name], reverse=not measure.maximise)
    rows = rows[-_SHOWN:]
    scale = scale_of(measure, [n.median[measure.name] for n, _ in rows])
    names, drawn = [], set()
    for height, (network, group) in enumerate(rows):
        values, style = scale(network.values[measure.name]), dict(group.style)
        called = None if group.called in drawn else group.called
        drawn.add(group.called)
        axes.plot([min(values), max(values)], [height] * 2, color=style["color"], linewidth=0.8, zorder=2)
        axes.plot(
            values, [height] * len(values), "|", color=style["color"], markersize=5, markeredgewidth=0.8
        )
        axes.plot(scale([network.median[measure.name]]), [height], linestyle="none", label=called, **style)
        names.append(
            "plain" if result.plain is not None and network.name == result.plain.name else network.name
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(scale.label(label(measure, result), direction(measure)))
    axes.margins(x=0.08)
