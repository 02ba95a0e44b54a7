"""Self-distillation in DARTS: earlier states of the supernet teach the present one, for a flatter loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from nasfw import oneshot, workloads
from nasfw.contracts import Evaluate, Problem, Strategy, Workload
from nasfw.oneshot import Batch, Search
from nasfw.strategies.darts import adam, hypergradient
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
from nasfw.workloads import Work


@dataclass(frozen=True)
class SdDarts(Strategy):
    """DARTS, first order, whose weights also learn what earlier states of the supernet answer.

    The idea is that of SD-DARTS (Zhu et al. 2022): several earlier supernets vote, and the mean of their
    answers is a target beside the labels. How it is done here is ours, since no code of theirs is public. The
    ``teachers`` latest snapshots of weights and mixture, one every ``interval`` epochs, answer each training
    batch; with z the present outputs and z_v theirs, the weights' loss has the additional term
    strength * T^2 * KL(mean_v softmax(z_v / T) || softmax(z / T)) for labels of classes, and strength times
    the mean squared distance of z from the mean of z_v for all other targets. Proposals are made as those of
    ``darts``.
    """

    strength: Annotated[float, Field(ge=0, description="weight of what earlier states answer")] = 1.0
    teachers: Annotated[int, Field(ge=1, description="how many earlier states vote")] = 3
    interval: Annotated[int, Field(ge=1, description="epochs from one state to the next")] = 2
    temperature: Annotated[float, Field(gt=0, description="of the votes")] = 2.0
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
        return workloads.workload(problem, self, self._work(problem))

    def _work(self, problem: Problem) -> Work:
        epochs = workloads.recipe_of(problem, self).epochs
        teachers = sum(min(self.teachers, epoch // self.interval) for epoch in range(epochs))
        # A teacher only answers, which is a third of a step.
        return Work(mixed=2.0 + teachers / (3 * epochs))

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of supernet and mixture."""
        search = Search(problem, evaluate, self, self._work(problem))
        search.outer = search.logits()
        optimiser, past = adam(search, self.mixture_lr, self.mixture_decay), _Past()
        for epoch in search.epochs({"mixture optimizer": optimiser, "past": past}):
            if epoch and epoch % self.interval == 0:
                past.keep(search, self.teachers)
            for train, valid in search.pairs():
                search.descend(optimiser, hypergradient(search, train, valid))
                answers = past.answers(search, train)
                extra = partial(self._distance, target=train[1], answers=answers) if answers else None
                search.learn(train, search.mixture, extra)
        return search

    def _distance(self, output: Tensor, target: Any, answers: Sequence[Tensor]) -> Tensor:
        return self.strength * distance(output, target, answers, self.temperature)


def distance(output: Tensor, target: Any, answers: Sequence[Tensor], temperature: float) -> Tensor:
    """How far ``output`` is from the mean of ``answers``: T^2 KL for labels of classes, or squared."""
    labelled = isinstance(target, Tensor) and not target.is_floating_point() and target.ndim < output.ndim
    if not labelled:
        return F.mse_loss(output, torch.stack(list(answers)).mean(0))
    voted = torch.stack([torch.softmax(z / temperature, 1) for z in answers]).mean(0)
    found = torch.log_softmax(output / temperature, 1)
    divergence = (voted * (voted.clamp_min(1e-12).log() - found)).sum(1).mean()
    return temperature**2 * divergence


@dataclass
class _Past:
    """Earlier states of the supernet: weights and mixture of each, the latest last."""

    states: list[tuple[list[Tensor], list[Tensor]]] = field(default_factory=list)

    def keep(self, search: Search, most: int) -> None:
        weights = [w.detach().clone() for w in search.weights]
        self.states = [*self.states, (weights, search.mixture)][-most:]

    @torch.no_grad()
    def answers(self, search: Search, batch: Batch) -> list[Tensor]:
        """What each of them answers, with the statistics of the batch."""
        found = []
        with search.statistics_kept():
            for weights, mixture in self.states:
                state = {n: w.to(search.compute) for n, w in zip(search.names, weights, strict=True)}
                rows = [m.to(search.compute) for m in mixture]
                found.append(torch.func.functional_call(search.supernet, state, (batch[0], rows)))
        return found

    def state_dict(self) -> list[list[list[Tensor]]]:
        return [[weights, mixture] for weights, mixture in self.states]

    def load_state_dict(self, state_dict: list[list[list[Tensor]]]) -> None:
        self.states = [(weights, mixture) for weights, mixture in state_dict]
