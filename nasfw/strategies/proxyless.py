"""ProxylessNAS (Cai, Zhu and Han 2019): binary gates, two paths, and expected costs in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from nasfw import mixtures, oneshot, workloads
from nasfw.contracts import Evaluate, Problem, Strategy, Workload
from nasfw.oneshot import Batch, Search
from nasfw.strategies.darts import adam
from nasfw.strategies.parameters import Candidates, Clip, Eigenvalue, Epochs, Fraction, MixtureRate, Proposals
from nasfw.tradeoff import option_costs
from nasfw.workloads import Work


@dataclass(frozen=True)
class Proxyless(Strategy):
    """Trains single paths, and the mixture on two options of each decision at a time.

    A step of the weights trains one path, drawn from the mixture; in the first ``warmup`` of the epochs all
    options are as likely, and nothing else is done. Then every ``interval`` steps the mixture learns from a
    validation batch: each decision draws two options, opens the gate of one, and the logits of both get the
    gradient of the gates, g_i = p_i sum_j (dL/dgate_j) (delta_ij - p_j), with p normalised over the two; the
    step leaves the probabilities of all other options unchanged.

    With other objectives than the quality, dL/dgate_j includes ``cost_weight`` times what option j costs (as
    measured on the device, from its table), as a share of the range of costs in the whole space: the gradient
    of the expected cost. Proposals are made as those of ``darts``.
    """

    warmup: Annotated[
        float, Field(ge=0, lt=1, description="share of the epochs that train weights alone")
    ] = 0.25
    interval: Annotated[int, Field(ge=1, description="steps of the weights for one of the mixture")] = 5
    cost_weight: Annotated[float, Field(ge=0, description="weight of the expected costs in the loss")] = 1.0
    epochs: Epochs = None
    fraction: Fraction = None
    mixture_lr: MixtureRate = 1e-3
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

    @property
    def _work(self) -> Work:
        share = (1 - self.warmup) / self.interval
        return Work(drawn=1.0, pairs=share)

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of supernet and mixture."""
        search = Search(problem, evaluate, self, self._work)
        search.outer = search.logits()
        prices = expected_costs(search, self.cost_weight)
        # Without momentum, a logit that was not drawn stays where it is.
        optimiser = adam(search, self.mixture_lr, betas=(0.0, 0.999))
        even = mixtures.softmax([torch.zeros_like(a) for a in search.outer])
        for epoch in search.epochs({"mixture optimizer": optimiser}):
            warm = epoch < self.warmup * search.recipe.epochs
            for step, (train, valid) in enumerate(search.pairs()):
                if not warm and step % self.interval == 0:
                    self._learn(search, optimiser, valid, prices)
                shares = even if warm else mixtures.softmax([a.detach() for a in search.outer])
                search.learn(train, search.full(mixtures.sampled(shares)))
        return search

    def _learn(
        self, search: Search, optimiser: torch.optim.Optimizer, valid: Batch, prices: Sequence[Tensor]
    ) -> None:
        """One step of the mixture, on two options of each decision."""
        # Copies, since the step is to be compared with what was before it.
        logits = [a.detach().clone() for a in search.outer]
        pairs = [two(a) for a in logits]
        # The gate of the first of the two is open: both were drawn by their probabilities.
        gates = [
            torch.zeros_like(a).scatter_(0, pair[_open(a, pair)], 1.0).requires_grad_()
            for a, pair in zip(logits, pairs, strict=True)
        ]
        # Read at once, since reading from a card stalls it.
        places = iter(torch.cat(pairs).tolist())
        options = [[kept[next(places)] for _ in pair] for kept, pair in zip(search.mixed, pairs, strict=True)]
        with search.statistics_kept(), search.supernet.only(options):
            loss = search.loss(valid, search.full(gates))
        slopes = torch.autograd.grad(loss, gates, materialize_grads=True)
        gradients = [
            gate_gradient(a, g + price, pair)
            for a, g, price, pair in zip(logits, slopes, prices, pairs, strict=True)
        ]
        search.descend(optimiser, gradients)
        with torch.no_grad():
            for parameter, before, pair in zip(search.outer, logits, pairs, strict=True):
                rebalance(parameter, before, pair)


def expected_costs(search: Search, weight: float) -> list[Tensor]:
    """What each option that may be mixed costs, all objectives together, in shares of the space's range."""
    problem = search.problem
    totals = [torch.zeros(len(kept), device=search.compute) for kept in search.mixed]
    for objective in problem.objectives:
        if weight and objective.fixed:
            rows = option_costs(problem, objective)
            scale = sum(float(row.max() - row.min()) for row in rows) or 1.0
            for total, row, kept in zip(totals, rows, search.mixed, strict=True):
                total += torch.as_tensor(weight * row[kept] / scale, dtype=total.dtype).to(total.device)
    return totals


def two(logits: Tensor) -> Tensor:
    """Positions of two different options drawn by their probabilities; of the only one if there is one."""
    return mixtures.drawn(logits, min(2, len(logits)))


def _open(logits: Tensor, pair: Tensor) -> Tensor:
    """Which of the two has its gate opened, by their probabilities."""
    return mixtures.drawn(logits[pair])


def gate_gradient(logits: Tensor, gates: Tensor, pair: Tensor) -> Tensor:
    """The gradient of the logits, given that of the gates, on the options of ``pair`` alone; sums to zero."""
    shares = torch.softmax(logits[pair], 0)
    slopes = gates[pair]
    return torch.zeros_like(logits).index_copy_(0, pair, shares * (slopes - (shares * slopes).sum()))


def rebalance(logits: Tensor, before: Tensor, pair: Tensor) -> None:
    """Shift the changed logits of ``pair`` so that all other options keep their probabilities."""
    shift = torch.logsumexp(logits[pair], 0) - torch.logsumexp(before[pair], 0)
    logits[pair] -= shift
