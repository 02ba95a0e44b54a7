"""Random search with weight sharing (Li and Talwalkar 2019): uniform paths, then the best of many samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated

import numpy as np
from pydantic import Field

from nasfw import mixtures, oneshot, progress, training, workloads
from nasfw.contracts import Architecture, Evaluate, Mixture, Problem, Strategy, Workload
from nasfw.oneshot import Batch, Search
from nasfw.sampling import distinct
from nasfw.strategies.parameters import Candidates, Clip, Epochs, Fraction, Proposals
from nasfw.tradeoff import Array
from nasfw.workloads import Work

# One round for so many steps of training.
_STEPS = 10_000


@dataclass(frozen=True)
class WeightSharing(Strategy):
    """Trains paths drawn uniformly, then rates many architectures with the weights that they share.

    For every training batch one architecture is drawn and its path alone takes a step. Then, in each of the
    ``rounds``, ``samples`` architectures are drawn and rated on ``batches`` validation batches, and the best
    ``top`` of them on the whole validation split. The result is the best of all rounds (the published code
    returns that of the first). The best ones are trained from scratch, and with several objectives those
    along the trade-off too: there an option's gain is the mean rating of the samples that have it.
    """

    rounds: Annotated[
        int | None, Field(ge=1, description="of sampling; None: one per 10,000 steps of training")
    ] = None
    samples: Annotated[int, Field(ge=1, description="architectures rated per round")] = 1000
    batches: Annotated[int, Field(ge=1, description="validation batches for the first rating")] = 10
    top: Annotated[int, Field(ge=1, description="of each round, rated on the whole split")] = 10
    epochs: Epochs = None
    fraction: Fraction = None
    clip: Clip = 5.0
    proposals: Proposals = 24
    candidates: Candidates = 6

    @property
    def eigenvalue(self) -> int:
        """There is no mixture that the loss could be sharp in."""
        return 0

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        search = self.train(problem, evaluate)
        ranked, gains = self.select(search)
        search.finish(gains, ranked[: search.settings.proposals])

    def check(self, problem: Problem) -> None:
        oneshot.check(problem)

    def workload(self, problem: Problem) -> Workload:
        task, recipe = problem.task, workloads.recipe_of(problem, self)
        samples = min(self.samples, problem.space.size)
        rough = samples * min(self.batches * recipe.batch_size, task.size("valid"))
        exact = min(self.top, samples) * task.size("valid")
        rating = training.forward_passes(task, self._rounds(problem) * (rough + exact))
        return workloads.workload(problem, self, Work(paths=1.0), rating)

    def _rounds(self, problem: Problem) -> int:
        recipe = workloads.recipe_of(problem, self)
        steps = recipe.epochs * training.steps_per_epoch(problem.task, "train", recipe)
        return self.rounds or max(1, steps // _STEPS)

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of the supernet."""
        search = Search(problem, evaluate, self, Work(paths=1.0))
        for _ in search.epochs():
            rng = search.rng()
            for batch in search.batches():
                search.learn(batch, path(search, problem.space.sample(rng)))
        return search

    def select(self, search: Search) -> tuple[list[Architecture], list[Array]]:
        """The best architectures of each round, best of all first, and what each option is worth."""
        space = search.problem.space
        rounds, samples = self._rounds(search.problem), self.samples
        if not search.evaluate.spend(0.0):
            # The budget is used up: only so many as the best of them are needed.
            rounds, samples = 1, min(samples, self.top)
        rng = np.random.default_rng([search.problem.seed, 2])
        whole = training.steps_per_epoch(search.task, "valid", replace(search.recipe, fraction=1.0))
        batches = list(islice(search.valid_batches(), min(self.batches, whole)))
        rough: dict[Architecture, tuple[float, float]] = {}
        exact: dict[Architecture, tuple[float, float]] = {}
        count = rounds * min(samples, space.size)
        with progress.track("rating samples with shared weights", count) as bar:
            for _ in range(rounds):
                drawn = list(distinct(space, rng, samples))
                for architecture in drawn:
                    if architecture not in rough:
                        rough[architecture] = search.judged(path(search, architecture), batches)
                    bar.advance()
                best = sorted(drawn, key=lambda a: rough[a])[: self.top]
                exact |= {a: search.judged(path(search, a)) for a in best if a not in exact}
        self._charge(search, len(rough), len(exact), batches)
        return sorted(exact, key=lambda a: exact[a]), worth(search, rough)

    def _charge(self, search: Search, rough: int, exact: int, batches: Sequence[Batch]) -> None:
        seen = rough * sum(len(x) for x, _ in batches) + exact * search.task.size("valid")
        search.evaluate.spend(training.forward_passes(search.task, seen) * search.supernet.path_cost)


def path(search: Search, architecture: Architecture) -> Mixture:
    """The one-hot mixture of an architecture where the search computes."""
    chosen = mixtures.one_hot(search.problem.space.decisions, architecture)
    return [row.to(search.compute) for row in chosen]


def worth(search: Search, ratings: dict[Architecture, tuple[float, float]]) -> list[Array]:
    """Minus the mean error of the samples that have an option; of all samples where none has it."""

    def mean(errors: Iterator[float], otherwise: float) -> float:
        found = list(errors)
        return float(np.mean(found)) if found else otherwise

    overall = mean((error for error, _ in ratings.values()), 0.0)
    return [
        np.array([-mean((e for a, (e, _) in ratings.items() if a[i] == o), overall) for o in options])
        for i, options in enumerate(search.problem.space.decisions.values())
    ]
