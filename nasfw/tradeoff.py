"""Architectures along the trade-off between what a mixture prefers and what options cost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nasfw import costs, progress
from nasfw.contracts import Architecture, Candidate, CostTable, Objective, Problem, SearchSpace

log = logging.getLogger("nasfw")

Array = NDArray[np.float64]


def supported(gains: Sequence[Array], costs: Sequence[Array]) -> list[tuple[int, ...]]:
    """A maximiser of sum(gain) - t * sum(cost) for every t >= 0, from the cheapest to the best.

    ``gains[i][j]`` and ``costs[i][j]`` belong to option j of decision i; the result holds option indices.
    Since both sums are over decisions, each decision walks its own upper concave hull, and the walks merge
    by slope: the classic parametric solution of a separable Lagrangian (Everett 1963). Among options of equal
    cost only the first of the largest gain counts; where several architectures are equal at one t, the result
    changes decision by decision, in their order.
    """
    choice, steps = [], []
    for i, (gain, cost) in enumerate(zip(gains, costs, strict=True)):
        hull = _upper_hull(gain, cost)
        choice.append(hull[0])
        slope = np.inf
        for a, b in pairwise(hull):
            # Rounding must not reverse the order of two steps that are nearly equal.
            slope = min(slope, (gain[b] - gain[a]) / (cost[b] - cost[a]))
            steps.append((slope, i, b))
    found = [tuple(choice)]
    for _, i, option in sorted(steps, key=lambda step: -step[0]):
        choice[i] = option
        found.append(tuple(choice))
    return found


def _upper_hull(gain: Array, cost: Array) -> list[int]:
    """Options on the upper concave hull from the cheapest to the one of largest gain."""
    hull: list[int] = []
    for o in sorted(range(len(gain)), key=lambda o: (cost[o], -gain[o], o)):
        if hull and gain[o] <= gain[hull[-1]]:
            continue
        # Drop a corner that lies on or below the line from its predecessor to the new option.
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (gain[b] - gain[a]) * (cost[o] - cost[a]) > (gain[o] - gain[a]) * (cost[b] - cost[a]):
                break
            hull.pop()
        hull.append(o)
    return hull


def total(space: SearchSpace, rows: Sequence[Array], architecture: Architecture) -> float:
    """The sum of an architecture's values in ``rows``, in which an edge that is left out counts nothing."""
    absent = {i: j.absent for j in space.junctions if j.selects for i in j.decisions}
    chosen = zip(space.decisions.values(), architecture, rows, strict=True)
    return sum(
        float(row[list(options).index(option)])
        for i, (options, option, row) in enumerate(chosen)
        if i not in absent or option != absent[i]
    )


def walk(space: SearchSpace, gains: Sequence[Array], costs: Sequence[Array]) -> list[Architecture]:
    """The architectures of ``space`` that maximise sum(gain) - t * sum(cost) for some t >= 0, cheapest first.

    An edge that is left out at a junction counts nothing. Without such edges it is what ``supported`` finds;
    with them, the lines between two architectures found are followed to what lies beyond (Aneja and Nair
    1979), which takes as many maximisations as there are architectures to find.
    """
    options = list(space.decisions.values())
    if not any(j.selects for j in space.junctions):
        return [
            tuple(o[k] for o, k in zip(options, choice, strict=True)) for choice in supported(gains, costs)
        ]
    # In units of their own, so that seconds are as good as microseconds.
    gains, costs = _scaled(gains), _scaled(costs)

    def totals(architecture: Architecture) -> tuple[float, float]:
        return total(space, gains, architecture), total(space, costs, architecture)

    def maximiser(gain: float, cost: float) -> Architecture:
        return space.discretise([(gain * g - cost * c).tolist() for g, c in zip(gains, costs, strict=True)])

    # The other sum decides between equals.
    found = [maximiser(_LITTLE, 1.0), maximiser(1.0, _LITTLE)]
    i = 0
    while i + 1 < len(found):
        (low_gain, low_cost), (high_gain, high_cost) = totals(found[i]), totals(found[i + 1])
        rise, run = high_gain - low_gain, high_cost - low_cost
        between = maximiser(run, rise) if rise > 0 and run > 0 else found[i]
        gain, cost = totals(between)
        above = run * (gain - low_gain) - rise * (cost - low_cost)
        if above > _ROUNDING * (abs(run) + abs(rise)):
            found.insert(i + 1, between)
        else:
            i += 1
    return list(dict.fromkeys(found))


# A weight that decides only between what is otherwise equal, and what sums of doubles may be off by.
_LITTLE, _ROUNDING = 1e-9, 1e-12


def _scaled(rows: Sequence[Array]) -> list[Array]:
    scale = max((float(np.abs(row).max()) for row in rows), default=0.0) or 1.0
    return [row / scale for row in rows]


def option_costs(problem: Problem, objective: Objective) -> list[Array]:
    """What each option adds to ``objective``; lower is better; one array per decision.

    From the objective's own table where it has one, which is kept in the problem's folder. Otherwise measured
    network by network, each option alone replacing the plain backbone's choice.
    """
    space, sign = problem.space, -1.0 if objective.maximise else 1.0
    table = cost_table(problem, objective)
    if table is not None:
        return [sign * np.array(row) for row in table.costs]
    total = 1 + sum(len(options) - 1 for options in space.decisions.values())
    with progress.track(f"measuring {objective.name} of every option", total) as bar:

        def cost(architecture: Architecture) -> float:
            bar.advance()
            candidate = Candidate(space, problem.task, architecture, compute=problem.compute)
            return sign * objective.measure(candidate)

        plain = space.default
        start = cost(plain)
        return [
            np.array(
                [0.0 if o == plain[i] else cost((*plain[:i], o, *plain[i + 1 :])) - start for o in options]
            )
            for i, options in enumerate(space.decisions.values())
        ]


def cost_table(problem: Problem, objective: Objective) -> CostTable | None:
    """The objective's table: the one that this search began with, or a new one; None if it offers none."""
    # A search that goes on must propose what it would have proposed.
    if (known := costs.kept(problem.folder, objective.name)) is not None:
        return known
    table = objective.table(problem.space, problem.task, problem.seed)
    if table is not None:
        log.info(
            "%s as a sum over layers: rank correlation %.3f, error %.1f %% on %d networks measured whole",
            *(objective.name, table.tau, 100 * table.error, table.tested),
        )
        costs.keep(problem.folder, objective.name, table)
    return table
