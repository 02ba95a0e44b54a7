"""Asynchronous successive halving: many short trainings, and longer ones for those that did best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field

from nasfw.contracts import (
    Architecture,
    Evaluate,
    Problem,
    Recipe,
    Record,
    Strategy,
    Trial,
    UsageError,
    Workload,
)
from nasfw.sampling import distinct
from nasfw.strategies.nsga import Order


@dataclass(frozen=True)
class Asha(Strategy):
    """Trains random architectures briefly, and the best 1 / eta of each rung eta times longer.

    ASHA (Li et al. 2020) with rungs of r eta^(k + s) epochs, r being ``min_epochs`` and s ``stop_rate``; the
    last rung has ``max_epochs``, also where that is no power of eta times r. A worker that is free promotes
    the best architecture that is among the best 1 / eta of its rung so far, from the highest rung that has
    one, or else starts a new one. So nobody waits for a rung to be complete, at the price of some promotions
    that a complete rung would not have made. Under several objectives a rung is in the order of NSGA-II.

    A promoted architecture is trained from the start: what a training gives depends on its whole recipe, and
    a schedule such as cosine on its length, so that a longer training is no continuation of a shorter one.
    """

    trials: Annotated[int, Field(ge=1, description="how many different architectures to start")] = 32
    eta: Annotated[int, Field(ge=2, description="one in so many is promoted to so many times the epochs")] = 4
    min_epochs: Annotated[int, Field(ge=1, description="epochs of the lowest rung, if stop_rate is 0")] = 1
    max_epochs: Annotated[int | None, Field(ge=1, description="of the highest; null: the recipe's")] = None
    stop_rate: Annotated[int, Field(ge=0, description="how many of the lowest rungs are left out")] = 0

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        rungs = _Rungs(self, problem)
        # Once all are started, workers may find nothing to promote before others are done.
        while rungs.ready:
            for record in evaluate.as_completed(rungs):
                rungs.add(record)
            if rungs.done < rungs.started:
                # The budget is used up.
                return

    def check(self, problem: Problem) -> None:
        self.epochs(problem.recipe)

    def workload(self, problem: Problem) -> Workload:
        """Of the rungs when they are complete; promotions that are made too early come on top."""
        count, trials, passes = min(self.trials, problem.space.size), 0, 0.0
        for epochs in self.epochs(problem.recipe):
            trials += count
            passes += count * replace(problem.recipe, epochs=epochs).passes
            count //= self.eta
        return Workload(trials, passes)

    def epochs(self, recipe: Recipe) -> list[int]:
        """Epochs of each rung, from the lowest up; UsageError if there is only one rung."""
        highest = recipe.epochs if self.max_epochs is None else self.max_epochs
        lowest = self.min_epochs * self.eta**self.stop_rate
        if lowest * self.eta > highest:
            given = "the recipe's epochs are" if self.max_epochs is None else "max_epochs is"
            raise UsageError(
                f"asha needs at least min_epochs * eta^(stop_rate + 1) = {lowest * self.eta} epochs for two "
                f"rungs, but {given} {highest}"
            )
        rungs = [lowest]
        while rungs[-1] * self.eta <= highest:
            rungs.append(rungs[-1] * self.eta)
        return [*rungs[:-1], highest]


class _Rung:
    """Who was trained for so many epochs and with which costs, in the order in which they were done."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.members: list[Architecture] = []
        self.costs = order.costs([])
        self.failed = 0
        self.promoted: set[Architecture] = set()

    def add(self, record: Record) -> None:
        if record.error is None:
            self.members.append(record.architecture)
            self.costs = np.concatenate([self.costs, self.order.costs([record])])
        else:
            self.failed += 1

    def promotable(self, eta: int) -> Architecture | None:
        """The best of the best 1 / ``eta`` that was not promoted yet."""
        # A training that failed was done as well, and is worse than any other.
        count = (len(self.members) + self.failed) // eta
        best = (self.members[i] for i in self.order.best_first(self.costs)[:count])
        return next((a for a in best if a not in self.promoted), None)


class _Rungs:
    """All rungs by their epochs; iterating over them draws what a free worker should do."""

    def __init__(self, strategy: Asha, problem: Problem) -> None:
        self.eta, self.recipe = strategy.eta, problem.recipe
        order = Order(problem.objectives)
        self.rungs = {epochs: _Rung(order) for epochs in strategy.epochs(problem.recipe)}
        self.new = distinct(problem.space, np.random.default_rng(problem.seed), strategy.trials)
        self.fresh = min(strategy.trials, problem.space.size)
        self.expected = strategy.workload(problem).trials
        self.started = self.done = 0

    @property
    def ready(self) -> bool:
        """Whether there is something to do for a worker."""
        return self.fresh > 0 or self._promotion() is not None

    def add(self, record: Record) -> None:
        """A worker is done."""
        self.done += 1
        self.rungs[record.recipe.epochs].add(record)

    def __length_hint__(self) -> int:
        return max(0, self.expected - self.started)

    def __iter__(self) -> Iterator[Trial]:
        while self.ready:
            self.started += 1
            yield self._next()

    def _next(self) -> Trial:
        promotion = self._promotion()
        if promotion is None:
            self.fresh -= 1
            return Trial(next(self.new), replace(self.recipe, epochs=min(self.rungs)))
        lower, higher, best = promotion
        self.rungs[lower].promoted.add(best)
        return Trial(best, replace(self.recipe, epochs=higher))

    def _promotion(self) -> tuple[int, int, Architecture] | None:
        """From the highest rung that has somebody to promote: its epochs, the next rung's, and whom."""
        for lower, higher in reversed(list(pairwise(self.rungs))):
            best = self.rungs[lower].promotable(self.eta)
            if best is not None:
                return lower, higher, best
        return None
