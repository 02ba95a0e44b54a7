"""What all panels share: colours, axes in the units that tables use, and scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nasfw.display import magnitude
from nasfw.values import Measure

# Colours that people with any kind of colour vision tell apart (Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
RED, BLACK, GREY = "#D55E00", "#000000", "#8A8A8A"
SETTINGS: Any = {
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    # Names in the file do not change from time to time.
    "svg.hashsalt": "nasfw",
}
# An axis over which values differ by more than this factor is logarithmic.
_FAR = 20.0


@dataclass(frozen=True)
class Scale:
    """The unit that an axis is in: values are divided by ``factor`` and called ``unit``."""

    factor: float = 1.0
    unit: str = ""

    def __call__(self, values: Iterable[float]) -> list[float]:
        """Values as the axis has them."""
        return [v / self.factor for v in values]

    def label(self, name: str, remark: str = "") -> str:
        """An axis label: name (unit, remark)."""
        inside = ", ".join(part for part in (self.unit, remark) if part)
        return f"{name} ({inside})" if inside else name


def scale_of(measure: Measure, values: Iterable[float]) -> Scale:
    """The unit in which tables show the largest of ``values``."""
    return Scale(*magnitude(max(map(abs, values), default=0.0), measure.unit, measure.name))


def direction(measure: Measure) -> str:
    """Which values are good, for an axis label."""
    return f"{'higher' if measure.maximise else 'lower'} is better"


def spread(axis: Axes, which: str, values: Sequence[float]) -> None:
    """Make the x or y axis logarithmic where ``values`` differ by orders of magnitude."""
    if min(values, default=0.0) <= 0 or max(values) < _FAR * min(values):
        return
    getattr(axis, f"set_{which}scale")("log")
    ticks: Any = getattr(axis, f"{which}axis")
    near = max(values) < 1e3 * min(values)
    ticks.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if near else (1.0,)))
    ticks.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ticks.set_minor_formatter(NullFormatter())
