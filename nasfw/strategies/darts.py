"""DARTS (Liu, Simonyan and Yang 2019): bi-level search, first and second order, or by implicit gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nasfw import bilevel, oneshot, training, workloads
from nasfw.contracts import Evaluate, Problem, Strategy, Workload
from nasfw.oneshot import Batch, Search
from nasfw.strategies.parameters import (
    Candidates,
    Clip,
    Eigenvalue,
    Epochs,
    Fraction,
    MixtureDecay,
    MixtureRate,
    Order,
    Orders,
    Proposals,
    Solver,
    SolverSteps,
)
from nasfw.workloads import Work

# Gradients of whole mixtures in a step, the weights' own included.
WORK = {"first": Work(mixed=2.0), "second": Work(mixed=5.0)}


@dataclass(frozen=True)
class Darts(Strategy):
    """Trains weights on the training split and the mixture on the validation split, in turns.

    A step of the mixture (Adam, on a shuffled validation batch) comes before every step of the weights. Its
    gradient takes the weights as given (order "first"), as one step further on the training batch ("second",
    equations 7 and 8 of the paper, the recipe's momentum and weight decay included), or as the minimum that
    they tend to ("implicit": conjugate gradients or a Neumann series instead of the inverse Hessian). The
    step of "second" is one of SGD without clipping, also where the recipe's optimiser is another.

    Proposed are the architecture that the mixture prefers (for cells: the strongest option of every edge,
    then the strongest edges of every node), those that it preferred on its way, the plain backbone with its
    most preferred changes, and, with more than one objective, those along the trade-off between the mixture's
    log weights and the options' costs; with one, architectures that differ from the preferred one in one
    decision. They are ranked with the supernet's weights, and at most ``candidates`` trained from scratch.
    """

    order: Orders = "first"
    epochs: Epochs = None
    fraction: Fraction = None
    mixture_lr: MixtureRate = 3e-4
    mixture_decay: MixtureDecay = 1e-3
    solver: Solver = "cg"
    solver_steps: SolverSteps = 5
    clip: Clip = 5.0
    proposals: Proposals = 24
    candidates: Candidates = 6
    eigenvalue: Eigenvalue = 0

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        self.train(problem, evaluate).finish()

    def check(self, problem: Problem) -> None:
        oneshot.check(problem)

    def workload(self, problem: Problem) -> Workload:
        return workloads.workload(problem, self, self._work)

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of supernet and mixture."""
        search = Search(problem, evaluate, self, self._work)
        search.outer = search.logits()
        optimiser = adam(search, self.mixture_lr, self.mixture_decay)
        for _ in search.epochs({"mixture optimizer": optimiser}):
            for train, valid in search.pairs():
                gradients = hypergradient(search, train, valid, self.order, self.solver, self.solver_steps)
                search.descend(optimiser, gradients)
                search.learn(train, search.mixture)
        return search

    @property
    def _work(self) -> Work:
        # A product with the Hessian takes two gradients, and one with the mixed derivatives two more.
        return WORK.get(self.order, Work(mixed=2.0 + 2 * self.solver_steps + 2))


def adam(
    search: Search, lr: float, decay: float = 0.0, betas: tuple[float, float] = (0.5, 0.999)
) -> torch.optim.Optimizer:
    """The optimiser of the mixture's parameters, with the betas of DARTS."""
    outer = list(search.outer)
    return torch.optim.Adam(outer, lr, betas, weight_decay=decay, fused=training.fusable(outer))


def hypergradient(
    search: Search,
    train: Batch,
    valid: Batch,
    order: Order = "first",
    solver: str = "cg",
    steps: int = 5,
) -> list[Tensor]:
    """The gradient of the validation batch's loss with respect to ``search.outer``.

    The supernet's weights and batch statistics stay what they are.
    """
    with search.statistics_kept():
        if order == "first":
            return search.gradients(search.loss(valid, search.relax(list(search.outer))))
        weights, outer = [w.detach() for w in search.weights], list(search.outer)
        losses = search.criterion(train), search.criterion(valid)
        rates, momenta, decays = zip(*_steps(search), strict=True)
        if order == "implicit":
            # The weights tend to the minimum of the loss with their decay, of which this is the Hessian.
            return bilevel.implicit(*losses, weights, outer, solver, steps, search.rate, damping=decays)
        velocity = [search.optimiser.state[w].get("momentum_buffer") for w in search.weights]
        return bilevel.unrolled(*losses, weights, outer, rates, momenta, decays, velocity)


def _steps(search: Search) -> list[tuple[float, float, float]]:
    """Rate, momentum and decay of an SGD step without Nesterov's correction, for each of the weights."""
    of = {id(w): _plain(group) for group in search.optimiser.param_groups for w in group["params"]}
    return [of[id(w)] for w in search.weights]


def _plain(group: Mapping[str, Any]) -> tuple[float, float, float]:
    rate, momentum, decay = group["lr"], group.get("momentum", 0.0), group["weight_decay"]
    if group.get("nesterov"):
        # With g = T_w + decay w, that step is rate (g + momentum (momentum velocity + g)).
        rate, momentum = rate * (1 + momentum), momentum**2 / (1 + momentum)
    return rate, momentum, decay
