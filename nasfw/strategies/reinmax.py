"""Single paths with the gradient of ReinMax (Liu et al. 2023), which is of second order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nasfw import mixtures, oneshot, workloads
from nasfw.contracts import Evaluate, Problem, Strategy, Workload
from nasfw.oneshot import Search
from nasfw.strategies.gdas import WORK, by_samples
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
class ReinMax(Strategy):
    """Trains one sampled path at a time, as ``gdas`` does; the logits' gradient is that of ReinMax.

    Paths are drawn from the softmax of the logits, at temperature 1. In expectation the gradient is exact
    where the loss is quadratic in the path, because options that were not drawn are computed as well.
    Proposals are made as those of ``darts``.
    """

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
            return mixtures.reinmax(logits)

        return by_samples(problem, evaluate, self, draw, self.mixture_lr, self.mixture_decay)
