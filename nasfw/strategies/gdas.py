"""GDAS (Dong and Yang 2019): single paths drawn by Gumbel's trick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from nasfw import mixtures, oneshot, workloads
from nasfw.contracts import Evaluate, Problem, Strategy, Workload
from nasfw.oneshot import Search
from nasfw.strategies.darts import adam
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
from nasfw.workloads import Settings, Work

# The step of the mixture computes all options once, without their gradients.
WORK = Work(mixed=0.4, drawn=2.0)
# One-hot vectors with a gradient, given the logits and the share of the epochs that is done.
Draw = Callable[[Sequence[Tensor], float], list[Tensor]]


@dataclass(frozen=True)
class Gdas(Strategy):
    """Trains one sampled path at a time; the mixture learns from the samples.

    For each validation batch every decision draws one option, with the probability that the mixture gives it,
    as the largest entry of a Gumbel-softmax sample; the logits get the gradient of the soft sample, whose
    temperature falls linearly over the epochs. Then the weights of another sampled path are trained on a
    training batch. The gradient of an option that was not drawn is the exact one, from its output: the
    published code takes its output for ones. Proposals are made as those of ``darts``.
    """

    hot: Annotated[float, Field(gt=0, description="temperature in the first epoch")] = 10.0
    cold: Annotated[float, Field(gt=0, description="temperature in the last epoch")] = 0.1
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
        return workloads.workload(problem, self, WORK)

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of supernet and mixture."""

        def draw(logits: Sequence[Tensor], done: float) -> list[Tensor]:
            return mixtures.hard_gumbel(logits, self.hot + done * (self.cold - self.hot))

        return by_samples(problem, evaluate, self, draw, self.mixture_lr, self.mixture_decay)


def by_samples(
    problem: Problem, evaluate: Evaluate, settings: Settings, draw: Draw, lr: float, decay: float
) -> Search:
    """Train weights and mixture in turns, each on a path that ``draw`` gives."""
    search = Search(problem, evaluate, settings, WORK)
    search.outer = search.logits()
    optimiser = adam(search, lr, decay)
    last = max(1, search.recipe.epochs - 1)
    for epoch in search.epochs({"mixture optimizer": optimiser}):
        for train, valid in search.pairs():
            with search.statistics_kept():
                path = search.full(draw(list(search.outer), epoch / last))
                search.descend(optimiser, search.gradients(search.loss(valid, path)))
            path = search.full(draw(list(search.outer), epoch / last))
            search.learn(train, [row.detach() for row in path])
    return search
