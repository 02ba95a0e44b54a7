"""Statistics of repeated measurements."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb


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
