"""How a one-shot search went: time series over its epochs, and what its ratings were worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nasfw.diagnosis import Diagnosis
from nasfw.diagnostics import Diagnostics
from nasfw.plots.style import BLACK, BLUE, ORANGE, RED, scale_of, spread
from nasfw.reports.words import label
from nasfw.results import Result

Panel = tuple[str, Callable[[Axes], None]]


def panels(space: str, diagnosis: Diagnosis, result: Result) -> Iterator[Panel]:
    """Titles of the panels that there is something to draw in, and what draws them."""
    found = diagnosis.found
    if found.series("entropy"):
        yield "mixture", lambda axes: mixture(axes, found)
    if found.series("loss"):
        yield "training", lambda axes: series(axes, found, "loss", "training loss", BLUE)
    if found.series("eigenvalue"):
        name = "largest eigenvalue"
        yield "sharpness", lambda axes: series(axes, found, "eigenvalue", name, RED)
    if diagnosis.pairs:
        yield _worth(diagnosis), lambda axes: ratings(axes, diagnosis, result)


def _worth(diagnosis: Diagnosis) -> str:
    if diagnosis.drawn is None:
        return "inherited weights"
    # A hyphen is no minus sign.
    return f"Kendall's τ = {diagnosis.drawn.tau:.2f}".replace("-", "\N{MINUS SIGN}")


def mixture(axes: Axes, found: Diagnostics) -> None:
    """Entropy and skip connections, both as shares."""
    lines = (("entropy", "entropy", BLACK, "o"), ("skips", "skip connections", ORANGE, "s"))
    for name, called, colour, marker in lines:
        points = found.series(name)
        if points:
            epochs, shares = zip(*points, strict=True)
            axes.plot(epochs, shares, color=colour, marker=marker, markersize=3, label=called)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share of the largest possible")
    _legend(axes)
    _epochs(axes)


def series(axes: Axes, found: Diagnostics, name: str, called: str, colour: str) -> None:
    """One number of every epoch."""
    epochs, values = zip(*found.series(name), strict=True)
    axes.plot(epochs, values, color=colour, marker="o", markersize=3)
    spread(axes, "y", values)
    axes.set_ylabel(called)
    _epochs(axes)


def ratings(axes: Axes, diagnosis: Diagnosis, result: Result) -> None:
    """Values with inherited weights against those of standalone trainings, on the validation split."""
    measure = result.summary.measures[0]
    x = scale_of(measure, [rating.value for rating, _ in diagnosis.pairs])
    y = scale_of(measure, [value for _, value in diagnosis.pairs])
    for drawn, called, face in ((True, "drawn uniformly", BLUE), (False, "proposed", "white")):
        some = [(r.value, value) for r, value in diagnosis.pairs if r.drawn == drawn]
        if some:
            inherited, trained = zip(*some, strict=True)
            axes.plot(
                x(inherited), y(trained), "o", color=BLUE, markerfacecolor=face, label=f"{len(some)} {called}"
            )
    axes.set_xlabel(x.label(label(measure, result), "inherited weights"))
    axes.set_ylabel(y.label(label(measure, result), "trained alone"))
    axes.margins(0.08)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """In one line above the axes, where it covers no data."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2,
        borderaxespad=0.1,
        borderpad=0.1,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.2,
    )


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch of the search")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
