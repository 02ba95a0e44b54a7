"""Statistics of repeated measurements."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray


def median_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """Two of ``values`` that hold the median of their distribution with probability ``level`` at least.

    Whatever the distribution. Too few values to reach ``level`` (fewer than 6 for 0.95) give the smallest
    and the largest, which hold the median with probability 1 - 2^(1-n).
    """
    ordered = sorted(values)
    count = len(ordered)
    if not count:
        raise ValueError("no values, no median")
    # The k-th smallest lies above the median if fewer than k of n fair coins show heads.
    rank, outside = 0, 0.0
    for k in range((count + 1) // 2):
        outside += 2 * comb(count, k) / 2**count
        if 1 - outside < level:
            break
        rank = k
    return ordered[rank], ordered[count - 1 - rank]


def weighted_median(values: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
    """Medians along the last axis: the value that half of the weight lies below, or the middle of two.

    ``weights`` are non-negative, and positive somewhere along the axis. Equal ones give the usual median.
    """
    order = np.argsort(values, axis=-1)
    ordered = np.take_along_axis(values, order, axis=-1)
    reached = np.cumsum(np.take_along_axis(weights, order, axis=-1), axis=-1)
    # Sums of equal weights differ in the last digits.
    half, slack = reached[..., -1:] / 2, 1e-9 * reached[..., -1:]
    below = np.argmax(reached >= half - slack, axis=-1, keepdims=True)
    above = np.argmax(reached > half + slack, axis=-1, keepdims=True)
    both = np.take_along_axis(ordered, below, axis=-1) + np.take_along_axis(ordered, above, axis=-1)
    median: NDArray[np.float64] = both[..., 0] / 2
    return median
