"""Regularised evolution: a population in which the oldest dies, whatever it is worth."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from nasfw.contracts import Architecture, Evaluate, Problem, Record, Strategy, Trial, UsageError, Workload
from nasfw.strategies.nsga import Floats, Order

# So many births of known ones in a row, and a random architecture is trained instead.
_BIRTHS = 64


@dataclass(frozen=True)
class Evolution(Strategy):
    """Mutates the best of a few drawn from a population, whose oldest member leaves for each child.

    Regularised evolution (Real et al. 2019). Under several objectives the best is the first in the order of
    NSGA-II in the whole population: by front, then by crowding distance. Each architecture is trained once:
    one that is born again only becomes young again. One whose training failed has no children.
    """

    trials: Annotated[int, Field(ge=1, description="how many different architectures to train")] = 32
    population: Annotated[int, Field(ge=1, description="architectures that may have children")] = 10
    tournament: Annotated[int, Field(ge=1, description="drawn from the population for each child")] = 5

    def __post_init__(self) -> None:
        """Refuse a tournament that the population cannot fill."""
        if self.tournament > self.population:
            raise UsageError(
                f"evolution draws a tournament of {self.tournament} from a population of {self.population}; "
                "the population must be at least as large"
            )

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        population = _Population(self, problem)
        for record in evaluate.as_completed(population):
            population.add(record)

    def workload(self, problem: Problem) -> Workload:
        trials = min(self.trials, problem.space.size)
        return Workload(trials, trials * problem.recipe.passes)


class _Population(Iterator[Trial]):
    """Its members; iterating over it draws the next trial, for whoever has a worker free."""

    def __init__(self, strategy: Evolution, problem: Problem) -> None:
        self.strategy, self.problem = strategy, problem
        self.rng = np.random.default_rng(problem.seed)
        self.order = Order(problem.objectives)
        self.members: deque[Architecture] = deque(maxlen=strategy.population)
        self.drawn: set[Architecture] = set()
        self.costs: dict[Architecture, Floats] = {}

    def __length_hint__(self) -> int:
        return min(self.strategy.trials, self.problem.space.size) - len(self.drawn)

    def __next__(self) -> Trial:
        if self.__length_hint__() <= 0:
            raise StopIteration
        # The first ones may still be in training, or all have failed.
        first = len(self.drawn) < self.strategy.population or not self.members
        architecture = self._random() if first else self._child()
        self.drawn.add(architecture)
        return Trial(architecture, self.problem.recipe)

    def add(self, record: Record) -> None:
        """A member is born, and the oldest one leaves."""
        if record.error is None:
            self.costs[record.architecture] = self.order.costs([record])
            self.members.append(record.architecture)

    def _random(self) -> Architecture:
        while (architecture := self.problem.space.sample(self.rng)) in self.drawn:
            pass
        return architecture

    def _child(self) -> Architecture:
        for _ in range(_BIRTHS):
            child = self.problem.space.mutate(self._winner(), self.rng)
            if child not in self.drawn:
                return child
            # It costs nothing to be born again, and keeps what is good from dying out.
            if child in self.costs:
                self.members.append(child)
        return self._random()

    def _winner(self) -> Architecture:
        """The best of a tournament."""
        count = min(self.strategy.tournament, len(self.members))
        drawn = self.rng.choice(len(self.members), count, replace=False)
        ordered = self.order.best_first(np.concatenate([self.costs[a] for a in self.members]))
        return self.members[next(i for i in ordered if i in drawn)]
