"""How long the ways of evaluating an aggregated convolution are expected to take, by a rule.

It leaves out of a measurement what is hopeless, chooses where nothing is measured, and compares a supernet's
step with others before anything runs. The expected times are linear in counted work, with coefficients fitted
to forward and backward passes on one x86 core (70 shapes: 1-D and 2-D, 1 to 128 channels, 4 to 4096
positions, batches of 2 to 128, 2 to 20 kernels): there the expected way was within 1.1 of the fastest for 61
of the 70, and the fastest way never expected to take more than 1.9 times the least. On a core of another
maker two ways that take equally long are expected to differ by a factor of up to 4.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from nasfw.spaces.kernels import Convolution, Layout, Size
from nasfw.spaces.transforms import Kind, frame_of

Mode = Literal["auto", "results", "weights", "dilations", "fourier", "matrix"]


class Way(enum.Enum):
    """How to evaluate an aggregated convolution."""

    RESULTS = "results"
    WEIGHTS = "weights"
    DILATIONS = "dilations"
    MATRIX = "matrix"
    FOURIER = "fourier"


def ways_of(mode: Mode) -> tuple[Way, ...]:
    """The ways of a mode; where two are as fast, the first is taken."""
    if mode != "auto":
        return (Way(mode),)
    return (Way.WEIGHTS, Way.MATRIX, Way.FOURIER, Way.DILATIONS, Way.RESULTS)


@lru_cache(maxsize=1024)
def fastest(layout: Layout, mode: Mode, batch: int, size: Size) -> Way:
    """The way that is expected to be fastest among those of ``mode``, for maps of ``size``."""
    return min(ways_of(mode), key=lambda way: expected(layout, way, batch, size))


def expected(layout: Layout, way: Way, batch: int, size: Size) -> float:
    """Seconds for one forward and backward pass."""
    c = layout.convolution
    if way is Way.RESULTS:
        return sum(convolving(c, math.prod(b.counts), batch, size) for b in layout.blocks)
    if way is Way.WEIGHTS:
        return 4e-4 + convolving(c, math.prod(layout.extent), batch, size)
    if way is Way.DILATIONS:
        return sum(convolving(c, math.prod(comb.counts), batch, size) for comb in layout.combs)
    kind = kind_of(way, c)
    work = _work(layout, kind, batch, size)
    return math.fsum(a * n for a, n in zip(_SECONDS[kind, c.apart], work, strict=True))


def kind_of(way: Way, c: Convolution) -> Kind:
    """What transforms maps in the ways that multiply spectra."""
    if way is Way.FOURIER:
        return Kind.FAST
    return Kind.TOEPLITZ if c.apart else Kind.MATRIX


# Seconds for each of what ``_work`` counts, by kind and whether channels stay apart.
_SECONDS: Mapping[tuple[Kind, bool], tuple[float, ...]] = {
    (Kind.MATRIX, False): (9.4e-4, 1.0e-11, 8.1e-10, 2.7e-9, 0.0),
    (Kind.FAST, False): (7.6e-4, 0.0, 4.5e-9, 8.5e-9, 0.0),
    (Kind.TOEPLITZ, True): (9.3e-4, 0.0, 3.0e-9, 2.3e-9, 9.0e-8),
    (Kind.FAST, True): (4.9e-4, 0.0, 2.6e-9, 1.0e-8, 4.3e-8),
}


def _work(layout: Layout, kind: Kind, batch: int, size: Size) -> tuple[float, ...]:
    """One for each group, operations of matrix products, numbers in spectra of maps and of kernels, taps."""
    c, frame = layout.convolution, frame_of(layout, size, kind)
    half, length, pairs = frame.half, frame.column_length, layout.pairs
    maps = batch * (c.outputs if c.apart else c.inputs), batch * c.outputs
    sides = (maps[0], frame.rows, frame.columns), (maps[1], frame.result_rows, frame.result_columns)
    operations, moved = 0.0, 0.0
    for count, rows, columns in sides:
        if kind is Kind.FAST:
            moved += 4 * count * half * length
        else:
            operations += 8 * half * rows * columns * count
            moved += 4 * count * half * columns
        if kind is Kind.MATRIX:
            operations += 16 * half * length * columns * count
            moved += 4 * count * half * length
    if kind is Kind.TOEPLITZ:
        entries = 4 * half * frame.columns * frame.result_columns
        operations += 6 * entries * maps[1]
        return 1, operations, moved, entries * c.outputs, len(layout.taps) * pairs
    if not c.apart:
        operations += 24 * half * length * pairs * batch
        if c.dims == 1:
            depth = len({abs(t + c.shift) for (t,) in layout.union})
        else:
            depth = 2 * len({t[-1] for t in layout.union})
        operations += 12 * half * length * pairs * depth
    return 1 if c.apart else c.groups, operations, moved, 2 * half * length * pairs, len(layout.taps) * pairs


def convolving(c: Convolution, taps: int, batch: int, size: Size) -> float:
    """Seconds for one forward and backward pass of an ordinary convolution with so many taps."""
    positions = math.prod(map(c.positions, size))
    moved = batch * (math.prod(size) * c.inputs + positions * c.outputs)
    # Libraries compute several output channels at once, and lose on narrow groups.
    narrow = c.groups > 1
    pairs = max(c.outputs, 8) * max(c.inputs // c.groups, 16 if narrow else 1)
    return 5e-4 + 1e-9 * (3.4 * moved + 0.05 * batch * positions * pairs * taps)


def average(layout: Layout, batch: int, size: Size) -> float:
    """Seconds for a standalone convolution, as ``convolving``, in the mean over the options."""
    boxes = [layout.box(i) for i in range(len(layout.kernels))]
    times = [convolving(layout.convolution, math.prod(b.counts), batch, size) for b in boxes]
    return sum(times) / len(times)


def other(c: Convolution, batch: int, size: Size) -> float:
    """Seconds for what usually goes with a convolution: batch norm, activation, addition."""
    return 4e-4 + 1e-8 * batch * c.outputs * math.prod(map(c.positions, size))


def updating(parameters: int) -> float:
    """Seconds for an optimiser's step."""
    return 4e-9 * parameters
