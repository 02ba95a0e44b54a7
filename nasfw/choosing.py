"""Which network of a front to take: by bounds, by weights, or where the front bends most."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nasfw.display import format_value
from nasfw.networks import Network
from nasfw.parameters import suggestion
from nasfw.quantities import quantity
from nasfw.records import as_costs
from nasfw.reports import words
from nasfw.results import Result
from nasfw.values import Measure, UsageError

Floats = NDArray[np.float64]

# What a sum or a difference of doubles may be off by; less than this is no difference between networks.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Bound:
    """How bad ``measure`` may be: at most ``limit``, or at least where higher is better."""

    measure: Measure
    limit: float

    def __str__(self) -> str:
        sign = ">=" if self.measure.maximise else "<="
        return f"{self.measure.name} {sign} {_short(self.limit, self.measure)}"


@dataclass(frozen=True)
class Choice:
    """A network of a front, and in one sentence ``why`` it was taken."""

    network: Network
    why: str


def pick(
    result: Result,
    maximum: Mapping[str, float | str] | None = None,
    minimum: Mapping[str, float | str] | None = None,
    weights: Mapping[str, float | str] | None = None,
) -> Choice:
    """The network of the run's front that ``choose`` takes, under bounds and weights by objective.

    ``maximum={"latency": "5ms"}`` bounds from above what should be low, ``minimum={"accuracy": 0.97}`` from
    below what should be high. A bound is a number in SI units or a text with a unit. An objective on one
    device may go without the device's name.
    """
    measures = [replace(m, name=words.label(m, result)) for m in result.summary.measures]
    called = {m.name: label.name for m, label in zip(result.summary.measures, measures, strict=True)}
    networks = [replace(n, values={called.get(k, k): v for k, v in n.values.items()}) for n in result.front]

    def known(name: str) -> str:
        """The label of the one objective whose name this is or begins, with at least an @; else the name."""
        found = [v for k, v in called.items() if k == name or ("@" in name and k.startswith(name))]
        return found[0] if len(found) == 1 else name

    sides = ((maximum or {}, True), (minimum or {}, False))
    bounds = [bound(known(k), v, measures, most) for side, most in sides for k, v in side.items()]
    weighed = {known(k): v for k, v in weights.items()} if weights is not None else None
    choice = choose(networks, measures, bounds, weighed)
    return replace(choice, network=result.front[networks.index(choice.network)])


def choose(
    front: Sequence[Network],
    measures: Sequence[Measure],
    bounds: Sequence[Bound] = (),
    weights: Mapping[str, float | str] | None = None,
) -> Choice:
    """The network of ``front`` to take, by the medians of all ``measures``; UsageError if there is none.

    With ``weights``: the smallest weighted sum of costs, each scaled to 0..1 over the front, among what the
    ``bounds`` admit (Miettinen 1999, Nonlinear Multiobjective Optimization, 3.1). With bounds alone: the best
    in the first objective that has none, in the first if all have one (the epsilon-constraint method of
    Haimes, Lasdon and Wismer 1971). With neither: the ``knee``, or of two networks the better in the first
    objective, since after scaling both are equally far from the ideal.

    Costs are scaled linearly, not as logarithms: so a weight is a price, neither the unit nor the zero of an
    objective matters, and a cost may be zero or negative. Among equals the better in the first objective is
    taken, then in the second.
    """
    if not front:
        raise UsageError("there is no network to choose from: no trial has succeeded")
    costs = as_costs((n.median for n in front), measures)
    rows = _admitted(front, measures, bounds)
    if weights is not None:
        prices = _prices(weights, measures)
        best = _least(scaled(costs) @ prices / prices.sum(), costs, rows)
        listed = ", ".join(f"{m.name} {price:g}" for m, price in zip(measures, prices, strict=True))
        sort = "smallest weighted sum of costs"
        why = f"{_superlative(sort, front, rows, bounds)}; scaled to 0..1 over the front, they weigh {listed}"
    elif bounds or len(front) <= 2:
        held = [b.measure for b in bounds]
        aim = next((i for i, m in enumerate(measures) if m not in held), 0)
        best = _least(scaled(costs)[:, aim], costs, rows)
        why = _superlative(f"{_best(measures[aim])} {measures[aim].name}", front, rows, bounds)
    else:
        best, why = knee(costs, [m.name for m in measures])
    return Choice(front[best], f"{why}.")


def knee(costs: Floats, names: Sequence[str]) -> tuple[int, str]:
    """Which of ``costs`` (n x m) is the knee of their front, and how that was found.

    Das 1999 (Structural Optimization 18, On characterizing the "knee" of the Pareto curve): the point of
    maximal bulge, farthest towards the ideal from the line, or hyperplane, through the best points of the
    objectives, each scaled to 0..1. Where these span no plane that falls in every objective, or nothing lies
    beyond it: the point nearest to the ideal one (compromise programming, Zeleny 1973).
    """
    points = scaled(costs)
    # What is the same everywhere decides nothing, and would span no plane.
    live = np.flatnonzero(points.max(axis=0) > 0)
    points, called = points[:, live], [names[int(i)] for i in live]
    told = " and ".join([", ".join(called[:-1]), *called[-1:]] if len(called) > 1 else called)
    plane = "line" if len(live) == 2 else "plane"
    bulge = _bulge(points)
    if bulge is not None and bulge.max() > _ROUNDING:
        why = f"It is the knee of the front, farthest out from the {plane} through the best in {told}"
        return _least(-bulge, costs), why
    reason = f"span no {plane} to find a knee from"
    if bulge is not None:
        reason = f"lie on a {plane} with no network beyond it, so that there is no knee"
    why = (
        "It is nearest to the ideal point, the best of every objective, each scaled to 0..1 over the front; "
        f"the best in {told} {reason}"
    )
    return _least(np.linalg.norm(points, axis=1), costs), why


def _bulge(points: Floats) -> Floats | None:
    """How far points (n x m, scaled) lie beyond the hyperplane through the best of each objective."""
    corners = np.array([points[np.lexsort([points.sum(axis=1), column])[0]] for column in points.T])
    if len(corners) < 2 or np.linalg.cond(corners) > 1 / _ROUNDING:
        return None
    normal = np.linalg.solve(corners, np.ones(len(corners)))
    # Across a plane that rises in an objective, worse would count as farther out.
    if normal.min() <= _ROUNDING:
        return None
    result: Floats = (1 - points @ normal) / np.linalg.norm(normal)
    return result


def scaled(costs: Floats) -> Floats:
    """``costs`` (n x m), each objective from 0 for the best to 1 for the worst; 0 where all are equal."""
    low, high = costs.min(axis=0), costs.max(axis=0)
    differ = high - low > 1e-12 * np.maximum(abs(low), abs(high))
    result: Floats = np.where(differ, costs - low, 0.0) / np.where(differ, high - low, 1.0)
    return result


def _least(scores: Floats, costs: Floats, rows: Sequence[int] | None = None) -> int:
    """The index, among ``rows``, of the lowest score; of equal ones that with the best first cost."""
    rows = range(len(costs)) if rows is None else rows
    order = np.lexsort([*costs[rows].T[::-1], np.round(scores[rows], 12)])
    return int(rows[order[0]])


def _superlative(sort: str, front: Sequence[Network], rows: Sequence[int], bounds: Sequence[Bound]) -> str:
    """That a network is the best of its sort among those that the bounds admit."""
    limits = " and ".join(map(str, bounds))
    every = f"the {len(front)} networks of the front"
    if len(front) == 1:
        return "It is the only network of the front" + (f", and has {limits}" if bounds else "")
    if len(rows) == 1:
        return f"It is the only one of {every} with {limits}"
    if len(rows) < len(front):
        return f"It has the {sort} of the {len(rows)} networks with {limits}, of {len(front)} on the front"
    return f"It has the {sort} of {every}" + (f", all of which have {limits}" if bounds else "")


def _best(measure: Measure) -> str:
    return "highest" if measure.maximise else "lowest"


def _prices(weights: Mapping[str, float | str], measures: Sequence[Measure]) -> Floats:
    """The weight of each measure, 0 where none is given; UsageError unless they can weigh costs."""
    prices: dict[str, float] = {}
    for name, given in weights.items():
        measure = named(name, measures)
        try:
            price = float(given)
        except ValueError:
            price = math.nan
        if not 0 <= price < math.inf:
            raise UsageError(f"the weight of {measure.name} must be a number of at least 0, not {given!r}")
        if measure.name in prices:
            raise UsageError(f"the weight of {measure.name} is given twice")
        prices[measure.name] = price
    if not any(price > 0 for price in prices.values()):
        raise UsageError("no objective weighs more than 0: give one of them a positive weight")
    return np.array([prices.get(m.name, 0.0) for m in measures])


def admissible(
    front: Sequence[Network], measures: Sequence[Measure], bounds: Sequence[Bound]
) -> list[Network]:
    """The networks that meet all bounds; if there is none, UsageError says how close one can get."""
    return [front[i] for i in _admitted(front, measures, bounds)]


def _admitted(front: Sequence[Network], measures: Sequence[Measure], bounds: Sequence[Bound]) -> list[int]:
    met = [_met(front, b) for b in bounds]
    rows = [i for i in range(len(front)) if all(m[i] for m in met)]
    if not rows:
        limits = " and ".join(map(str, bounds))
        hints = [_nearest(front, measures, bounds, met, b) for b in bounds]
        raise UsageError(f"no network of the front has {limits}; {', '.join(dict.fromkeys(hints))}")
    return rows


def _met(front: Sequence[Network], bound: Bound) -> list[bool]:
    costs = as_costs((n.median for n in front), [bound.measure])
    (limit,) = as_costs([{bound.measure.name: bound.limit}], [bound.measure])[0]
    # What rounding alone puts beyond the limit is on it: 1 - 0.66 is less than 0.34.
    return [bool(c <= limit + _ROUNDING * abs(limit)) for c in costs[:, 0]]


def _nearest(
    front: Sequence[Network],
    measures: Sequence[Measure],
    bounds: Sequence[Bound],
    met: Sequence[Sequence[bool]],
    missed: Bound,
) -> str:
    """The best that there is of one bounded measure where the other bounds hold, or anywhere."""
    others = [(b, m) for b, m in zip(bounds, met, strict=True) if b is not missed]
    rows = [i for i in range(len(front)) if all(m[i] for _, m in others)]
    where = f"with {' and '.join(str(b) for b, _ in others)} " if others and rows else ""
    measure = missed.measure
    costs = as_costs((n.median for n in front), [measure, *measures])
    best = front[_least(scaled(costs)[:, 0], costs, rows or None)]
    value = _short(best.median[measure.name], measure)
    if value == _short(missed.limit, measure):
        value = f"{best.median[measure.name]:.9g} {measure.unit}".rstrip()
    other = next((m for m in measures if m != measure), None)
    beside = f", {other.name} {_short(best.median[other.name], other)}" if other else ""
    what = f"{_best(measure)} {measure.name}" if len(bounds) > 1 else _best(measure)
    return f"{where}the {what} is {value} (network {best.name}{beside})"


def _short(value: float, measure: Measure) -> str:
    """A value as tables show it, without zeros at the end."""
    text = format_value(value, measure.unit, measure.name)
    return text if "." not in text or "e" in text else re.sub(r"\.?0+(?=\D*$)", "", text)


def bound(name: str, limit: float | str, measures: Sequence[Measure], most: bool) -> Bound:
    """The bound that ``limit`` sets from above (``most``) or below; UsageError if that is the good side.

    A bound on the good side would refuse networks for being too good, which nobody wants: it is a slip.
    """
    measure = named(name, measures)
    if most == measure.maximise:
        better, side, option = ("higher", "below", "min") if most else ("lower", "above", "max")
        raise UsageError(
            f"{measure.name} is better when {better}: bound it from {side} (--{option} {name}={limit})"
        )
    value = quantity(limit, measure) if isinstance(limit, str) else float(limit)
    if not math.isfinite(value):
        raise UsageError(f"the bound of {measure.name} must be finite, not {limit}")
    return Bound(measure, value)


def named(name: str, measures: Sequence[Measure]) -> Measure:
    """The measure called ``name``, or the one whose name is so before "@" or begins so beyond it.

    UsageError if there is none or several.
    """
    short = [m.name.partition("@")[0] for m in measures]
    found = [m for m in measures if m.name == name]
    found = found or [m for m, s in zip(measures, short, strict=True) if s == name]
    found = found or [m for m in measures if "@" in name and m.name.startswith(name)]
    if len(found) > 1:
        raise UsageError(
            f"{name} has {len(found)} devices; say which: {' or '.join(repr(m.name) for m in found)}"
        )
    if not found:
        raise UsageError(
            f"no objective is called {name!r}{suggestion(name, {*short, *(m.name for m in measures)})}"
        )
    return found[0]
