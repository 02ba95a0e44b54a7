"""DARTS-PT (Wang et al. 2021): options are chosen by what the supernet loses without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, cos, pi
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nasfw import mixtures, oneshot, training, workloads
from nasfw.contracts import Evaluate, Problem, Strategy, Workload
from nasfw.oneshot import Search
from nasfw.strategies.darts import WORK, adam, hypergradient
from nasfw.strategies.parameters import (
    Candidates,
    Clip,
    Eigenvalue,
    Epochs,
    Fraction,
    MixtureDecay,
    MixtureRate,
    Proposals,
)
from nasfw.tradeoff import Array
from nasfw.workloads import Work

# The paper decides the 14 edges of two kinds of cells in so many rounds.
_ROUNDS = 14
# The share of the learning rate that the tuning between two rounds begins with.
_TUNING = 0.1


@dataclass(frozen=True)
class DartsPt(Strategy):
    """Trains a supernet, then decides by perturbation: an option is worth what is lost without it.

    The supernet is trained with a mixture as by ``darts`` or, with ``mixture`` "blank", with equal weights.
    Then, round by round, some decisions are made in random order: the validation error is computed with each
    option left out in turn, the others' weights unchanged, and the option whose loss hurts most is kept;
    equal errors are decided by the loss. Between two rounds the supernet is tuned for ``tune_epochs``, from a
    tenth of its learning rate on. Then the nodes that keep fewer edges than they have lose the edges, one by
    one, that are missed least. For DARTS's two cells that makes 14 and 3 rounds, as in the paper.

    With several objectives an option's gain, which is traded for its cost, is the error without it.
    """

    mixture: Annotated[Literal["darts", "blank"], Field(description="how the supernet is trained")] = "darts"
    tune_epochs: Annotated[int, Field(ge=0, description="epochs of tuning between two rounds")] = 5
    epochs: Epochs = None
    fraction: Fraction = None
    mixture_lr: MixtureRate = 3e-4
    mixture_decay: MixtureDecay = 1e-3
    clip: Clip = 5.0
    proposals: Proposals = 24
    candidates: Candidates = 6
    eigenvalue: Eigenvalue = 0

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        search, decided = self.train(problem, evaluate)
        options = problem.space.decisions.values()
        done = all(i in decided.kept for i, o in enumerate(options) if len(o) > 1)
        # What the budget left undecided, the mixture decides.
        chosen = problem.space.discretise(search.mixture)
        search.finish(decided.gains(problem) if done else None, [chosen, *search.trail()])

    def check(self, problem: Problem) -> None:
        oneshot.check(problem)

    def workload(self, problem: Problem) -> Workload:
        recipe = workloads.recipe_of(problem, self)
        tuned = replace(recipe, epochs=self._tunings(problem) * self.tune_epochs).passes
        judging = self._judging(problem, _validations(problem))
        return workloads.workload(problem, self, self._work, mixed=self._work.mixed * tuned + judging)

    @property
    def _work(self) -> Work:
        return WORK["first"] if self.mixture == "darts" else Work(mixed=1.0)

    def train(self, problem: Problem, evaluate: Evaluate) -> tuple[Search, _Decided]:
        """The search after all rounds, and what they decided."""
        search, decided = Search(problem, evaluate, self, self._work), _Decided()
        rounds, main = list(self._rounds(problem)), search.recipe.epochs
        search.outer = search.logits(1e-3 if self.mixture == "darts" else 0.0)
        search.schedule = self._annealing(search)
        search.relax = lambda outer: decided.applied(search.softmax(outer))
        optimiser = adam(search, self.mixture_lr, self.mixture_decay)
        total = main + self._tunings(problem) * self.tune_epochs
        for epoch in search.epochs({"mixture optimizer": optimiser, "decided": decided}, total):
            done = epoch - main
            if done >= 0 and done % self.tune_epochs == 0:
                self._decide(search, decided, rounds[done // self.tune_epochs])
            for train, valid in search.pairs():
                if self.mixture == "darts":
                    search.descend(optimiser, hypergradient(search, train, valid))
                search.learn(train, search.mixture)
        if search.epoch == total:
            # Nothing is tuned after the last round, and after none if there is no tuning.
            for what in rounds[self._tunings(problem) :]:
                self._decide(search, decided, what)
        search.evaluate.spend(self._judging(problem, decided.judged) * search.supernet.cost)
        return search, decided

    def _tunings(self, problem: Problem) -> int:
        """How often the supernet is tuned: between two rounds each."""
        return max(0, len(list(self._rounds(problem))) - 1) if self.tune_epochs else 0

    def _judging(self, problem: Problem, count: int) -> float:
        """What so many validations take, in passes of the supernet: forward only."""
        return training.forward_passes(problem.task, count * problem.task.size("valid"))

    def _rounds(self, problem: Problem) -> Iterator[tuple[str, list[int]]]:
        """What is decided in each round: positions of decisions, then of junctions."""
        rng = np.random.default_rng([problem.seed, 1])
        options = [i for i, o in enumerate(problem.space.decisions.values()) if len(o) > 1]
        nodes = [i for i, j in enumerate(problem.space.junctions) if len(j.decisions) > j.keep]
        size = max(1, ceil(len(options) / _ROUNDS))
        for kind, items in (("options", options), ("edges", nodes)):
            order = [items[i] for i in rng.permutation(len(items))]
            yield from ((kind, order[k : k + size]) for k in range(0, len(order), size))

    def _annealing(self, search: Search) -> torch.optim.lr_scheduler.LambdaLR:
        """The recipe's schedule, then for every round's tuning a cosine from a tenth of the rate to zero."""
        recipe, steps = search.recipe, search.steps
        main, tuning = recipe.epochs * steps, max(1, self.tune_epochs) * steps

        def factor(step: int) -> float:
            if step < main:
                return training.factor(recipe, step, steps)
            return _TUNING * 0.5 * (1 + cos(pi * ((step - main) % tuning) / tuning))

        return training.schedule(search.optimiser, recipe, steps, factor)

    def _decide(self, search: Search, decided: _Decided, what: tuple[str, list[int]]) -> None:
        kind, items = what
        for item in items:
            if kind == "options":
                decided.option(search, item)
            else:
                decided.edges(search, item)


@dataclass
class _Decided:
    """The decisions made so far, as a part of a checkpoint: option numbers, and edges that were removed.

    ``worth`` has the errors without each option, None where that was not tried; ``judged`` counts them all.
    """

    kept: dict[int, int] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)
    worth: dict[int, list[float | None]] = field(default_factory=dict)
    judged: int = 0

    def applied(self, mixture: Sequence[Tensor]) -> list[Tensor]:
        """``mixture`` with the decisions made: one option of weight 1, nothing of a removed edge."""
        found = list(mixture)
        for i, k in self.kept.items():
            row = torch.zeros_like(found[i])
            if i not in self.removed:
                row[k] = 1.0
            found[i] = row
        return found

    def option(self, search: Search, decision: int) -> None:
        """Decide for the option that is missed most."""
        mixture, errors = search.mixture, {}
        for k in search.mixed[decision]:
            if k != _absent(search.problem, decision):
                without = mixture[decision].clone()
                without[k] = 0.0
                errors[k] = search.judged([*mixture[:decision], without, *mixture[decision + 1 :]])
        self.kept[decision] = max(errors, key=lambda k: errors[k])
        self.worth[decision] = [errors[k][0] if k in errors else None for k in range(len(mixture[decision]))]
        self.judged += len(errors)

    def edges(self, search: Search, junction: int) -> None:
        """Remove the edges of a node that are missed least."""
        node = search.problem.space.junctions[junction]
        left = list(node.decisions)
        while len(left) > node.keep:
            mixture, errors = search.mixture, []
            for i in left:
                row = torch.zeros_like(mixture[i])
                errors.append(search.judged([*mixture[:i], row, *mixture[i + 1 :]]))
            least = left[min(range(len(left)), key=lambda n: errors[n])]
            self.judged += len(errors)
            left.remove(least)
            self.removed.append(least)

    def gains(self, problem: Problem) -> list[Array]:
        """By how much the error grows without each option, against the option that is missed least."""
        found = []
        for i, options in enumerate(problem.space.decisions.values()):
            errors = self.worth.get(i, [None] * len(options))
            least = min((e for e in errors if e is not None), default=0.0)
            found.append(np.array([0.0 if e is None else e - least for e in errors]))
        return found

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


def _validations(problem: Problem) -> int:
    """How many there are until everything is decided."""
    options = mixtures.mixed(problem.space.decisions, problem.space.junctions)
    absent = [_absent(problem, i) for i in range(len(options))]
    tried = sum(len(o) - (a in o) for o, a in zip(options, absent, strict=True) if len(o) > 1)
    nodes = (range(j.keep + 1, len(j.decisions) + 1) for j in problem.space.junctions)
    return tried + sum(sum(node) for node in nodes)


def _absent(problem: Problem, decision: int) -> int | None:
    """The number of the option that stands for an absent edge, which is no choice here; None if none does."""
    options = [*list(problem.space.decisions.values())[decision]]
    for junction in problem.space.junctions:
        if junction.selects and decision in junction.decisions and junction.absent is not None:
            return options.index(junction.absent)
    return None
