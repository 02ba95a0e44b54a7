"""Search steps of DARTS of second order, in those of first order: time and peak memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from nasfw import progress
from nasfw.benchmarks import memory, tables
from nasfw.benchmarks.subjects import Shapes
from nasfw.benchmarks.timing import Pass, Spread, clock, interleaved, using
from nasfw.contracts import Problem
from nasfw.display import format_value
from nasfw.oneshot import Search
from nasfw.spaces.cell import Darts
from nasfw.strategies import darts
from nasfw.strategies.parameters import Order
from nasfw.testing.toys import Free

# A task, and the parameters of DARTS's space on it.
Case = tuple[Shapes, dict[str, Any]]
# By what is measured: the first order's median, the second one's, and how many times the first it is.
Found = dict[str, tuple[float, float, Spread]]

ORDERS: tuple[Order, ...] = ("first", "second")
FULL: Mapping[str, Case] = {
    "darts, 8 cells, 16 channels, 32 x 32, batch 32": (Shapes((3, 32, 32), (10,), 32), {}),
}
QUICK: Mapping[str, Case] = {
    "darts, 1 cell, 16 channels, 16 x 16, batch 16": (Shapes((3, 16, 16), (10,), 16), {"layers": 1}),
}
TIME, PEAK, NET = "time of a step", "peak memory in all", "peak memory of the steps"
_UNITS = {TIME: "s", PEAK: "B", NET: "B"}
# The most that the second order shall take of the first one's, of DARTS's space at its default size.
WANTED = {TIME: 3.0, PEAK: 1.6, NET: 1.6}


def search_step(space: Darts, order: Order, compute: str = "cpu") -> Pass:
    """A step of the mixture, by a gradient of that ``order``, and one of the weights, on the same batches."""
    strategy = darts.Darts(order=order)
    # Slow enough for random classes: without a finite gradient the second order has nothing to compute.
    recipe = replace(space.task.recipe, lr=1e-3, schedule="constant")
    search = Search(
        Problem(space, space.task, [], recipe, 0, Path(), compute), Free(), strategy, darts.WORK[order]
    )
    search.supernet.train()
    search.outer = search.logits()
    optimiser = darts.adam(search, strategy.mixture_lr, strategy.mixture_decay)
    train, valid = next(search.pairs())

    def run() -> None:
        search.descend(optimiser, darts.hypergradient(search, train, valid, order))
        search.learn(train, search.mixture)

    return run


def measure(case: Case, threads: int, rounds: int) -> Found:
    """Seconds of steps that take turns, and bytes in a fresh process for each order."""
    task, settings = case
    with using(threads):
        steps: dict[str, Pass] = {order: search_step(Darts(task, **settings), order) for order in ORDERS}
        timings, _ = interleaved(steps, rounds, clock(threads, "cpu"))
    first, second = (timings[order] for order in ORDERS)
    found = {TIME: (first.spread.median, second.spread.median, second.over(first))}
    asked = {**asdict(task), "settings": settings}
    one, other = (memory.footprint({**asked, "kind": order}, threads, "cpu") for order in ORDERS)
    for what, a, b in ((PEAK, one.peak, other.peak), (NET, one.net, other.net)):
        found[what] = (a, b, Spread.of([b / max(1, a)]))
    return found


def measured(cases: Mapping[str, Case], threads: int, rounds: int) -> dict[str, Found]:
    """``measure`` for all cases."""
    found = {}
    with progress.track("orders", len(cases)) as bar:
        for name, case in cases.items():
            found[name] = measure(case, threads, rounds)
            bar.advance()
    return found


def table(cases: Mapping[str, Found], threads: int) -> Table:
    """What was measured in all cases, and what is wanted."""
    title = f"Search steps of DARTS; {threads} threads, {clock(threads, 'cpu').name}"
    numbers = ("first order", "second order", "times", "wanted")
    made = tables.empty(title, ("case", "what"), numbers)
    for name, found in cases.items():
        for i, (what, (*values, ratio)) in enumerate(found.items()):
            texts = [format_value(value, _UNITS[what]) for value in values]
            wanted = f"at most {WANTED[what]:g}"
            made.add_row(name if i == 0 else "", what, *texts, tables.ranged(ratio), wanted)
    return made
