"""Pareto dominance and hypervolume, on arrays of costs: n points x m objectives, all minimised."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Mask = NDArray[np.bool_]

# Up to so many comparisons, all pairs at once are faster than another split.
_PAIRS = 1 << 14


def non_dominated(costs: ArrayLike) -> Mask:
    """Which of ``costs`` (n x m) no other point dominates, as n booleans; of equal points only the first.

    Point a dominates b if a <= b in every objective and a < b in one. ValueError if a cost is not finite.
    O(n log^(m-2) n) for m > 2 by divide and conquer (Kung, Luccio and Preparata 1975).
    """
    points = _points(costs)
    keep = np.zeros(len(points), dtype=bool)
    order = _lexicographic(points)
    keep[order[_first_front(points[order])]] = True
    return keep


def ranks(costs: ArrayLike) -> Integers:
    """Number of the front that each of ``costs`` (n x m) is on, as n integers; 0 is the best.

    Non-dominated sorting (Deb et al. 2002): front r is what nothing dominates once the fronts before it are
    taken away. Equal points share a rank. ValueError if a cost is not finite.
    """
    points = _points(costs)
    order = _lexicographic(points)
    points = points[order]
    fresh = np.ones(len(points), dtype=bool)
    fresh[1:] = (points[1:] != points[:-1]).any(axis=1)
    distinct = points[fresh]
    ranked = _chain_ranks(distinct) if points.shape[1] <= 2 else _peeled_ranks(distinct)
    result = np.empty(len(points), dtype=np.intp)
    result[order] = ranked[np.cumsum(fresh) - 1]
    return result


def hypervolume(costs: ArrayLike, reference: ArrayLike) -> float:
    """Volume that ``costs`` (n x m) dominate and ``reference`` (m values) bounds; 0.0 for no points.

    Exact in any number of objectives; O(n log n) up to three. A point that is not better than the reference
    in every objective contributes nothing. ValueError if a value is not finite or the shapes do not fit.
    """
    points = _points(costs)
    bound = np.asarray(reference, dtype=np.float64)
    if bound.ndim != 1 or not np.isfinite(bound).all():
        raise ValueError("the reference must be a vector of finite values")
    if len(points) == 0:
        return 0.0
    if len(bound) != points.shape[1]:
        raise ValueError(f"a reference of {len(bound)} values for costs of {points.shape[1]} objectives")
    # As gains below the reference, every volume is measured from the origin.
    return _volume(points[(points < bound).all(axis=1)] - bound)


def reference_point(costs: ArrayLike) -> Floats:
    """The hypervolume's reference for ``costs`` (n x m), as m values: r = z + 0.1 s in every objective.

    z is the nadir, the largest value among the points given, and s the range, largest minus smallest (the
    rule of BoTorch). Where that adds nothing, because all values are equal, s is |z|, and where z is zero as
    well, s is 1. Hence every point is strictly better than the reference. ValueError if there are no points.
    """
    points = _points(costs)
    if len(points) == 0:
        raise ValueError("no points to take the reference from")
    nadir = points.max(axis=0)
    result: Floats = nadir + 0.1 * (nadir - points.min(axis=0))
    for scale in (np.abs(nadir), np.ones_like(nadir)):
        result = np.where(result > nadir, result, nadir + 0.1 * scale)
    return result


def spread(costs: ArrayLike, limit: int) -> list[int]:
    """Indices of at most ``limit`` non-dominated points of ``costs`` (n x m) that keep the most hypervolume.

    The first is the best point of the first objective; each further one adds the most hypervolume to those
    before it (the lowest index among equals) under the ``reference_point`` of the non-dominated points. What
    is added so is at least 1 - 1/e of what as many others could add, because the hypervolume is submodular
    (Nemhauser, Wolsey and Fisher 1978).
    """
    if limit < 0:
        raise ValueError(f"limit is {limit}; it must be at least 0")
    points = _points(costs)
    indices = np.flatnonzero(non_dominated(points))
    if limit == 0 or len(indices) == 0:
        return []
    front = points[indices]
    front = front - reference_point(front)
    chosen = [int(_lexicographic(front)[0])]
    # Submodular: a gain computed earlier bounds the gain now, so most need not be computed again.
    heap = [(-bound, i) for i, bound in enumerate(np.prod(-front, axis=1).tolist()) if i != chosen[0]]
    heapify(heap)
    while heap and len(chosen) < limit:
        chosen.append(_best(heap, front, chosen))
    return [int(indices[i]) for i in chosen]


def _best(heap: list[tuple[float, int]], front: Floats, chosen: Sequence[int]) -> int:
    """Take the point of largest gain over ``chosen`` off the heap of (-bound on its gain, point)."""
    taken = front[list(chosen)]
    known: set[int] = set()
    while (i := heap[0][1]) not in known:
        known.add(i)
        heapreplace(heap, (-_gain(front[i], taken), i))
    heappop(heap)
    return i


def _points(costs: ArrayLike) -> Floats:
    points = np.asarray(costs, dtype=np.float64)
    if points.size == 0 and points.ndim == 1:
        return points.reshape(0, 1)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"costs must be points x objectives, not of shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(points))} costs are not finite")
    return points


def _lexicographic(points: Floats) -> Integers:
    """The stable order by first objective, then second, ...: nothing dominates what comes before it."""
    order: Integers = np.lexsort(list(points.T[::-1]))
    return order


def _first_front(points: Floats) -> Integers:
    """Positions of the non-dominated ones among lexicographically ordered points."""
    if points.shape[1] == 1:
        return np.arange(min(1, len(points)))
    if points.shape[1] == 2:
        lowest = np.r_[np.inf, np.minimum.accumulate(points[:, 1])]
        return np.flatnonzero(points[:, 1] < lowest[:-1])
    if len(points) ** 2 <= _PAIRS:
        return np.flatnonzero(~np.triu(_covers(points, points), 1).any(axis=0))
    middle = len(points) // 2
    upper = _first_front(points[:middle])
    lower = middle + _first_front(points[middle:])
    # The upper half is at least as good in the first objective; the others decide.
    return np.concatenate([upper, lower[_open(points[upper, 1:], points[lower, 1:])]])


def _covers(a: Floats, b: Floats) -> Mask:
    """Whether a[i] <= b[j] in every objective, at [i, j]."""
    result: Mask = a[:, :1] <= b[:, 0]
    for k in range(1, a.shape[1]):
        result &= a[:, k : k + 1] <= b[:, k]
    return result


def _open(a: Floats, b: Floats) -> Mask:
    """Which of the points ``b`` are covered by none of ``a``."""
    if len(a) == 0 or len(b) == 0:
        return np.ones(len(b), dtype=bool)
    if a.shape[1] == 2:
        a = a[np.argsort(a[:, 0], kind="stable")]
        lowest = np.r_[np.inf, np.minimum.accumulate(a[:, 1])]
        free: Mask = b[:, 1] < lowest[np.searchsorted(a[:, 0], b[:, 0], side="right")]
        return free
    if len(a) * len(b) <= _PAIRS:
        return np.logical_not(_covers(a, b).any(axis=0))
    values = np.concatenate([a[:, -1], b[:, -1]])
    least = values.min()
    above = values[values > least]
    if len(above) == 0:
        return _open(a[:, :-1], b[:, :-1])
    cut = max(float(np.median(values)), float(above.min()))
    a_low, b_low = a[:, -1] < cut, b[:, -1] < cut
    result = np.empty(len(b), dtype=bool)
    result[b_low] = _open(a[a_low], b[b_low])
    high = b[~b_low]
    result[~b_low] = _open(a[~a_low], high) & _open(a[a_low, :-1], high[:, :-1])
    return result


def _chain_ranks(points: Floats) -> Integers:
    """Ranks of distinct ordered points in one or two objectives, in O(n log n)."""
    result = np.zeros(len(points), dtype=np.intp)
    # lowest[r] is the smallest last value on front r; it never falls with r. A lone objective gets an equal
    # second one.
    lowest: list[float] = []
    values = points[:, 1] if points.shape[1] == 2 else np.zeros(len(points))
    for i, value in enumerate(values.tolist()):
        r = bisect_right(lowest, value)
        lowest[r : r + 1] = [value]
        result[i] = r
    return result


def _peeled_ranks(points: Floats) -> Integers:
    """Ranks of distinct ordered points, one front after the other."""
    result = np.zeros(len(points), dtype=np.intp)
    left = np.arange(len(points))
    while len(left):
        result[left] += 1
        left = np.delete(left, _first_front(points[left]))
    return result - 1


def _gain(point: Floats, others: Floats) -> float:
    """Volume between ``point`` and the origin that ``others`` leave; all coordinates are negative."""
    return float(np.prod(-point)) - _volume(np.maximum(point, others))


def _volume(points: Floats) -> float:
    """Hypervolume of points with negative coordinates against the origin."""
    points = points[_lexicographic(points)]
    points = points[_first_front(points)]
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(-points[0, 0])
    if points.shape[1] == 2:
        heights = np.diff(points[:, 1], prepend=0.0)
        return float(points[:, 0] @ heights)
    if points.shape[1] == 3:
        return _volume_3d(points)
    # In the order of the first objective, what a point adds is a prism over what it adds in the others.
    rest = points[:, 1:]
    return float(sum(-x[0] * _gain(x[1:], rest[:i]) for i, x in enumerate(points)))


def _volume_3d(points: Floats) -> float:
    """Sweep along the first objective over the staircase of the other two (Beume et al. 2009)."""
    xs, ys = [-np.inf, 0.0], [0.0, -np.inf]
    total = 0.0
    for depth, x, y in points.tolist():
        i = j = bisect_left(xs, x)
        height = ys[i - 1]
        if height <= y:
            continue
        area, left = 0.0, x
        while ys[j] >= y:
            area += (xs[j] - left) * (height - y)
            left, height = xs[j], ys[j]
            j += 1
        area += (xs[j] - left) * (height - y)
        total -= depth * area
        xs[i:j], ys[i:j] = [x], [y]
    return total
