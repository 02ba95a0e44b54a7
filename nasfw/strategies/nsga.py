"""Which records are better under several objectives: the order of NSGA-II (Deb et al. 2002)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nasfw.contracts import Objective, Record
from nasfw.pareto import ranks
from nasfw.records import as_costs, by_device

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


def crowding(costs: ArrayLike, fronts: ArrayLike) -> Floats:
    """Crowding distance of each of ``costs`` (n x m) on its front, as n values; more is better.

    The distance between the two neighbours on the same front, in units of the front's extent and summed over
    the objectives. A front's ends are infinitely far, but for an objective in which the front is one value.
    """
    table, number = np.asarray(costs, dtype=np.float64), np.asarray(fronts)
    total = np.zeros(len(table))
    for column in table.T:
        order = np.lexsort([column, number])
        values = column[order]
        first = np.diff(number[order], prepend=-1) != 0
        last = np.append(first, True)[1:]
        starts, ends = np.flatnonzero(first), np.flatnonzero(last)
        extent = np.repeat(values[ends] - values[starts], ends - starts + 1)
        gap = np.full(len(values), np.inf)
        inner = np.flatnonzero(~(first | last))
        gap[inner] = values[inner + 1] - values[inner - 1]
        total[order] += np.divide(gap, extent, out=np.zeros_like(gap), where=extent > 0)
    return total


class Order:
    """The order of records under ``objectives``: by front, then by crowding distance, then as they come.

    Fronts are made device by device, and a record counts by the best place that it has on any.
    """

    def __init__(self, objectives: Iterable[Objective]) -> None:
        self.measures = [o.reading for o in objectives]

    @cached_property
    def _columns(self) -> list[list[int]]:
        return [[self.measures.index(m) for m in group] for group in by_device(self.measures)]

    def costs(self, records: Iterable[Record]) -> Floats:
        """The records' costs [n, objectives], lower is better."""
        return as_costs((r.values for r in records), self.measures)

    def best_first(self, costs: Floats) -> Integers:
        """Indices of the rows of ``costs`` [n, objectives] from the best to the worst."""
        # What the fronts of one objective come to, in a fraction of the time.
        if costs.shape[1] == 1:
            return np.argsort(costs[:, 0], kind="stable")
        front, distance = _places(costs[:, self._columns[0]])
        for columns in self._columns[1:]:
            other, further = _places(costs[:, columns])
            better = (other < front) | ((other == front) & (further > distance))
            front, distance = np.where(better, other, front), np.where(better, further, distance)
        return np.lexsort([-distance, front])


def _places(costs: Floats) -> tuple[Integers, Floats]:
    front = ranks(costs)
    return front, crowding(costs, front)
