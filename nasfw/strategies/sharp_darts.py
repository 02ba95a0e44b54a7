"""SharpDARTS (Hundt, Jain and Hager 2019): DARTS with cosine power annealing and Max-W regularisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

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


@dataclass(frozen=True)
class SharpDarts(Strategy):
    """DARTS whose learning rate falls as a power of a cosine, and whose strongest option has the weight 1.

    The weights' learning rate is the recipe's times (p^c - 1) / (p - 1), where c falls from 1 to 0 as half a
    cosine and p is ``power`` (the paper's cosine power annealing). An option of weight w counts with
    1 - max(w) + w, the maximum without gradient (Max-W regularisation): the strongest option learns as it
    would alone, and gains nothing by pushing the others down. Proposals are made as those of ``darts``.
    """

    order: Annotated[Literal["first", "second"], Field(description="of the hypergradient")] = "first"
    power: Annotated[float, Field(ge=1, description="base of the annealing; 1 is plain cosine annealing")] = (
        10.0
    )
    max_w: Annotated[bool, Field(description="Max-W regularisation")] = True
    epochs: Epochs = None
    fraction: Fraction = None
    mixture_lr: MixtureRate = 3e-4
    mixture_decay: MixtureDecay = 1e-3
    clip: Clip = 5.0
    proposals: Proposals = 24
    candidates: Candidates = 6
    eigenvalue: Eigenvalue = 0

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        self.train(problem, evaluate).finish()

    def check(self, problem: Problem) -> None:
        oneshot.check(problem)

    def workload(self, problem: Problem) -> Workload:
        return workloads.workload(problem, self, WORK[self.order])

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of supernet and mixture."""
        search = Search(problem, evaluate, self, WORK[self.order])
        search.outer = search.logits()
        total = max(1, search.recipe.epochs * search.steps)
        search.schedule = training.schedule(
            search.optimiser,
            search.recipe,
            search.steps,
            lambda step: cosine_power(min(1.0, step / total), self.power),
        )

        def relax(outer: Sequence[Tensor]) -> list[Tensor]:
            rows = mixtures.softmax(outer)
            return search.full([max_w(row) for row in rows] if self.max_w else rows)

        # The strongest options of all edges have the weight 1; which edges are stronger, their shares tell.
        search.relax, search.shares = relax, search.softmax
        optimiser = adam(search, self.mixture_lr, self.mixture_decay)
        for _ in search.epochs({"mixture optimizer": optimiser}):
            for train, valid in search.pairs():
                search.descend(optimiser, hypergradient(search, train, valid, self.order))
                search.learn(train, search.mixture)
        return search


def cosine_power(done: float, power: float) -> float:
    """The annealed learning rate as a multiple of the first, when the share ``done`` of the steps is done."""
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return cosine if power == 1 else (power**cosine - 1) / (power - 1)


def max_w(weights: Tensor) -> Tensor:
    """1 - max(w) + w, where the maximum passes no gradient on."""
    return 1 - weights.detach().max() + weights
