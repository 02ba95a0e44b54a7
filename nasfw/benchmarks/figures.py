"""The sweeps of a report as figures: time against the number of kernels, and against the length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from nasfw.benchmarks.findings import Finding, Report
from nasfw.benchmarks.layers import KERNELS, LENGTH
from nasfw.benchmarks.subjects import LOW, MODES, PLAIN, PUBLISHED
from nasfw.benchmarks.timing import Spread

_FILES = {KERNELS: "kernels.png", LENGTH: "length.png"}
_AXES = {KERNELS: "number of kernels |K| |D|", LENGTH: "length of the series (points)"}
# Colours that people with any kind of colour vision tell apart (Okabe and Ito).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C6D1F", "#7F7F7F")
_MARKERS = "sD^vPX*"


def draw(report: Report, folder: Path) -> list[Path]:
    """Draw every sweep that has points, with a panel for each number of threads; returns the files."""
    drawn = []
    for sweep, file in _FILES.items():
        found = [f for f in report.findings if f.x is not None and f.case.startswith(f"{sweep} ")]
        if found:
            drawn.append(draw_sweep(found, folder / file, _AXES[sweep], _title(report, sweep)))
    return drawn


def draw_sweep(found: Sequence[Finding], file: Path, label: str, title: str) -> Path:
    """Draw one sweep as ``file``; ``label`` says what is on the horizontal axis."""
    figure = _figure(found, label, title)
    scratch = file.with_name(f"{file.name}.tmp")
    figure.savefig(scratch, format="png", dpi=160)
    scratch.replace(file)
    return file


def _figure(found: Sequence[Finding], label: str, title: str) -> Figure:
    counts = list(dict.fromkeys(f.threads for f in found))
    figure = Figure(figsize=(1.8 + 6.0 * len(counts), 5.2), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, threads in zip(panels, counts, strict=True):
        some = [f for f in found if f.threads == threads]
        _lines(axes, some)
        axes.set_xlabel(label)
        axes.set_title(f"{threads} thread{'s' if threads > 1 else ''}, {some[0].clock}", fontsize=10)
    panels[0].set_ylabel("time of forward and backward pass")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _title(report: Report, sweep: str) -> str:
    scale = report.header["scale"]
    channels, kind = scale["sweep_channels"], "depthwise" if report.header["depthwise"] else "dense"
    fixed = f"length {scale['points']}" if sweep == KERNELS else "25 kernels"
    return (
        f"Aggregated convolution: {fixed}, {channels} to {channels} channels, {kind}, "
        f"batch {scale['sweep_batch']}; plain: size 3\n{report.header['machine']}"
    )


def _lines(axes: Axes, found: Sequence[Finding]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    ways = list(dict.fromkeys(name for f in found for name in f.timings))
    for way in ways:
        points = [(f.x or 0.0, f.timings[way].spread) for f in found if way in f.timings]
        _line(axes, way, points, _style(way, ways))
    ticks = sorted({f.x for f in found if f.x is not None})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(_seconds))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _line(axes: Axes, way: str, points: Sequence[tuple[float, Spread]], style: Mapping[str, object]) -> None:
    x, middle = [x for x, _ in points], [s.median for _, s in points]
    axes.fill_between(
        x,
        [s.low for _, s in points],
        [s.high for _, s in points],
        color=style["color"],
        alpha=0.15,
        linewidth=0,
    )
    axes.plot(x, middle, label="plain convolution" if way == PLAIN else way, **style)  # type: ignore[arg-type]


def _style(way: str, ways: Sequence[str]) -> Mapping[str, object]:
    if way == PLAIN:
        return {"color": "black", "linestyle": "--", "marker": "", "linewidth": 1.6}
    if way == PUBLISHED:
        return {"color": "#D55E00", "linestyle": "-", "marker": "o", "markersize": 5, "linewidth": 2.0}
    if way == "auto":
        # Drawn wide and below: it is one of the other ways.
        return {"color": "black", "linewidth": 5.0, "alpha": 0.35, "marker": "", "zorder": 1.5}
    modes = [*(mode for mode in MODES if mode != "auto"), LOW]
    i = (modes if way in modes else ways).index(way) % len(_COLOURS)
    return {"color": _COLOURS[i], "marker": _MARKERS[i], "markersize": 5, "linewidth": 1.6}


def _seconds(value: float, _: object = None) -> str:
    """Seconds in the unit that people use for so many."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size * 0.999:
            return f"{value / size:g} {unit}"
    return f"{value * 1e9:g} ns"
