"""Which way of evaluating an aggregated convolution is fastest, by a rule.

A measurement would make runs irreproducible. The expected times are linear in counted work. Their
coefficients were fitted to forward and backward passes on one x86 core (80 shapes: 1-D and 2-D, 1 to 64
channels, 2 to 1024 positions, batches of 8 to 64, 2 to 20 kernels): there the choice is within 1.3 of the
best way for 79 of the 80, and for 76 with two threads. It concerns speed only: all ways give the same result.
"""

from __future__ import annotations

import enum
import math
from functools import lru_cache
from typing import Literal

from nasfw.spaces.kernels import Convolution, Layout, Size
from nasfw.spaces.transforms import smooth

Mode = Literal["auto", "results", "weights", "dilations", "fourier", "matrix"]


class Way(enum.Enum):
    """How to evaluate an aggregated convolution."""

    RESULTS = "results"
    WEIGHTS = "weights"
    DILATIONS = "dilations"
    MATRIX = "matrix"
    FOURIER = "fourier"


_WAYS_OF: dict[Mode, tuple[Way, ...]] = {
    "auto": (Way.WEIGHTS, Way.MATRIX, Way.FOURIER, Way.DILATIONS, Way.RESULTS),
    "results": (Way.RESULTS,),
    "weights": (Way.WEIGHTS,),
    "dilations": (Way.DILATIONS,),
    "fourier": (Way.FOURIER,),
    "matrix": (Way.MATRIX,),
}


@lru_cache(maxsize=1024)
def fastest(layout: Layout, mode: Mode, batch: int, size: Size) -> Way:
    """The way that is expected to be fastest among those of ``mode``, for maps of ``size``."""
    return min(_WAYS_OF[mode], key=lambda way: expected(layout, way, batch, size))


def expected(layout: Layout, way: Way, batch: int, size: Size) -> float:
    """Seconds for one forward and backward pass."""
    c = layout.convolution
    channels = batch * (c.inputs + c.outputs)
    pairs = layout.pairs
    gathered = len(layout.taps) * pairs
    if way is Way.RESULTS:
        return sum(convolving(c, math.prod(b.counts), batch, size) for b in layout.blocks)
    if way is Way.WEIGHTS:
        return 4e-4 + convolving(c, math.prod(layout.extent), batch, size)
    if way is Way.DILATIONS:
        return sum(convolving(c, math.prod(comb.counts), batch, size) for comb in layout.combs)
    lengths = layout.transform(size)
    if way is Way.MATRIX:
        reals = 2 * math.prod(lengths[:-1]) * (lengths[-1] // 2 + 1)
        pixels = math.prod(size)
        moved = pixels * channels + reals * (channels + pairs)
        transformed = reals * (pixels * channels + len(layout.union) * pairs)
        return 9e-4 + 1e-9 * (
            2.2 * gathered + 2.4 * moved + 0.05 * transformed + 0.14 * reals * batch * pairs
        )
    points = math.prod(map(smooth, lengths))
    return 1.4e-3 + 1e-9 * (7.0 * gathered + 10.0 * points * channels + 30.0 * points * pairs)


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
