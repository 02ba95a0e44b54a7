"""Single aggregated convolutions: their growth in two sweeps, and layers of images against the plain one.

The sweeps are those of Shen, Khodak and Talwalkar, "Efficient Architecture Search for Diverse Tasks",
NeurIPS 2022: the number of kernels on series of 1,000 points, and the length of the series with 25 kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from nasfw import progress
from nasfw.benchmarks import subjects
from nasfw.benchmarks.bench import Bench
from nasfw.benchmarks.findings import Finding, Growth
from nasfw.benchmarks.published import kept_bytes
from nasfw.benchmarks.subjects import LOW, PLAIN, PUBLISHED, WAYS
from nasfw.benchmarks.timing import Spread, outlook, slope
from nasfw.display import format_value
from nasfw.spaces.kernels import Layout

KERNELS, LENGTH = "number of kernels", "length"
# What the sweeps are about; the other ways are left out where they would take too long.
_ALWAYS = (PLAIN, "auto", LOW)


def sweeps(bench: Bench) -> None:
    """Time against the number of kernels and against the length, with the exponents of growth."""
    s = bench.scale
    kernels = {float(c * c): _with_kernels(bench, c) for c in s.largest}
    lengths = {float(n): _with_length(bench, n) for n in s.lengths}
    with progress.track(f"sweeps, {bench.conditions}", len(kernels) + len(lengths) + 1) as bar:
        _sweep(bench, KERNELS, kernels, bar)
        _compare(
            bench, *(_with_kernels(bench, c) for c in (min(c for c in s.largest if c > 1), s.largest[-1]))
        )
        bar.advance()
        _sweep(bench, LENGTH, lengths, bar)
    for growth in bench.report.growth:
        if (growth.sweep, growth.way, growth.threads) == (LENGTH, "auto", bench.threads):
            value = Spread(growth.exponent, growth.exponent, growth.exponent, growth.points)
            bench.report.check("exponent of growth with the length", value, "at most", 1.1, bench.threads)
    bench.report.save()


def _with_kernels(bench: Bench, c: int) -> Layout:
    sizes, dilations = [2 * p + 1 for p in range(1, c + 1)], [2**q - 1 for q in range(1, c + 1)]
    return subjects.layout(
        bench.scale.sweep_channels, (bench.scale.points,), sizes, dilations, bench.depthwise
    )


def _with_length(bench: Bench, n: int) -> Layout:
    sizes, dilations = (3, 5, 7, 9, 11), (1, 3, 7, 15, 31)
    return subjects.layout(bench.scale.sweep_channels, (n,), sizes, dilations, bench.depthwise)


def _compare(bench: Bench, few: Layout, many: Layout) -> None:
    """Few and many kernels in turns: points of a sweep are measured at different moments."""
    layouts = {f"auto, {len(layout.kernels)} kernels": layout for layout in (few, many)}
    passes = {
        name: subjects.layer_pass(
            subjects.make_layer("auto", layout), layout, bench.scale.sweep_batch, bench.compute
        )
        for name, layout in layouts.items()
    }
    less, more = layouts
    case = f"{len(few.kernels)} and {len(many.kernels)} kernels"
    found = bench.measure("sweeps", case, passes, less)
    what = f"time of {len(many.kernels)} kernels, times that of {len(few.kernels)}"
    bench.check(found, more, less, "at most", 2.0, what)


def _sweep(bench: Bench, name: str, points: Mapping[float, Layout], bar: progress.Bar) -> None:
    known: dict[str, list[tuple[float, float]]] = {}
    for x, layout in points.items():
        expected = {way: outlook(past, x) for way, past in known.items() if way not in _ALWAYS}
        case = f"{name} {x:g}"
        found = _measure(bench, "sweeps", case, layout, bench.scale.sweep_batch, expected, x)
        for way, timing in found.timings.items():
            known.setdefault(way, []).append((x, timing.spread.median))
        for way in found.skipped:
            # What failed at one point is not tried at larger ones.
            known.setdefault(way, []).append((x, math.inf))
        bar.advance()
    for way, past in known.items():
        finite = [(x, seconds) for x, seconds in past if seconds < math.inf]
        if len(finite) > 2:
            exponent = slope([x for x, _ in finite], [seconds for _, seconds in finite])
            bench.report.growth.append(Growth(name, way, bench.threads, exponent, len(finite)))


def layers(bench: Bench) -> None:
    """Single layers of 16 kernels on maps against the plain convolution."""
    s = bench.scale
    kind = "depthwise, " if bench.depthwise else ""
    with progress.track(f"layers, {bench.conditions}", len(s.layers)) as bar:
        for channels, n in s.layers:
            layout = subjects.layout(channels, (n, n), (3, 5, 7, 9), (1, 3, 7, 15), bench.depthwise)
            case = f"{channels} to {channels} channels, {kind}{n} x {n}, batch {s.layer_batch}"
            found = _measure(bench, "layers", case, layout, s.layer_batch, {})
            bench.check(found, "auto", PLAIN, "at most", 6.0, f"layer {case}, times the plain one")
            bar.advance()


def _measure(
    bench: Bench,
    section: str,
    case: str,
    layout: Layout,
    batch: int,
    expected: Mapping[str, float],
    x: float | None = None,
) -> Finding:
    """All ways of one layer, without those that are expected to take too long or too much memory."""
    c, size = layout.convolution, layout.sizes[0]
    needed = {
        PUBLISHED: 2 * kept_bytes(layout, batch, size),
        # The result of every kernel is kept for the gradient of the mixture.
        "results": 4.0 * len(layout.kernels) * batch * c.outputs * math.prod(map(c.positions, size)),
    }
    passes, skipped = {}, {}
    for way in WAYS:
        seconds = expected.get(way, 0.0)
        if seconds == math.inf:
            skipped[way] = "left out at the point before"
        elif seconds > bench.scale.sweep_patience:
            skipped[way] = f"about {format_value(seconds, 's')} expected"
        elif reason := bench.too_large(needed.get(way, 0.0)):
            skipped[way] = reason
        else:
            passes[way] = subjects.layer_pass(subjects.make_layer(way, layout), layout, batch, bench.compute)
    return bench.measure(section, case, passes, PLAIN, skipped, x)
