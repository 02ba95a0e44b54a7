"""GAEA (Li, Khodak, Balcan and Talwalkar 2021): a mixture on the simplex, by exponentiated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from nasfw import mixtures, oneshot, workloads
from nasfw.contracts import Evaluate, Problem, Strategy, Workload
from nasfw.oneshot import Search
from nasfw.strategies.darts import hypergradient
from nasfw.strategies.parameters import Candidates, Clip, Eigenvalue, Epochs, Fraction, Proposals
from nasfw.workloads import Work

# No option is given up for good.
_FLOOR = 1e-5


@dataclass(frozen=True)
class Gaea(Strategy):
    """Trains weights and a mixture in turns; the mixture's weights themselves are the parameters.

    They start equal and change by mirror descent: p becomes p exp(-mixture_lr * gradient), is kept above
    1e-5 and normalised, so that it stays on the simplex. There is no softmax. The gradient is that of a
    validation batch, or with ``single_level`` of the training batch. With ``edges`` the edges into a node
    have weights on a simplex too; together with the space's partial channels that is GAEA PC-DARTS.
    Proposals are made as those of ``darts``.
    """

    epochs: Epochs = None
    fraction: Fraction = None
    mixture_lr: Annotated[float, Field(gt=0, description="step size of mirror descent")] = 0.1
    adaptive: Annotated[
        bool, Field(description="divide the step size by the largest entry of all rows' gradients")
    ] = False
    entropy: Annotated[
        float, Field(ge=0, description="weight of sum p log p in the loss, against mixtures of one option")
    ] = 0.0
    single_level: Annotated[bool, Field(description="train the mixture on the training split too")] = False
    edges: Annotated[bool, Field(description="weights for the edges into a node")] = False
    clip: Clip = 5.0
    proposals: Proposals = 24
    candidates: Candidates = 6
    eigenvalue: Eigenvalue = 0

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        self.train(problem, evaluate).finish()

    def check(self, problem: Problem) -> None:
        oneshot.check(problem)

    def workload(self, problem: Problem) -> Workload:
        return workloads.workload(problem, self, Work(mixed=2.0))

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of supernet and mixture."""
        search = Search(problem, evaluate, self, Work(mixed=2.0))
        junctions, count = problem.space.junctions, len(problem.space.decisions)
        sizes = [len(kept) for kept in search.mixed]
        sizes += [len(j.decisions) for j in junctions] if self.edges else []
        search.outer = nn.ParameterList(torch.full((n,), 1.0 / n, device=search.compute) for n in sizes)

        def relax(outer: Sequence[Tensor]) -> list[Tensor]:
            rows = list(outer[:count])
            if self.edges:
                rows = mixtures.edge_weighted(rows, junctions, outer[count:])
            return search.full(rows)

        search.relax = relax
        for _ in search.epochs():
            for train, valid in search.pairs():
                gradients = hypergradient(search, train, train if self.single_level else valid)
                rows = list(search.outer)
                for part in (slice(count), slice(count, None)):
                    self.descend(rows[part], gradients[part])
                search.learn(train, search.mixture)
        return search

    @torch.no_grad()
    def descend(self, rows: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """One step of mirror descent of each of ``rows``, which stay on their simplices."""
        if self.entropy:
            pairs = zip(rows, gradients, strict=True)
            gradients = [g + self.entropy * (row.log() + 1) for row, g in pairs]
        rate: float | Tensor = self.mixture_lr
        if self.adaptive and rows:
            largest = torch.stack(torch._foreach_norm(list(gradients), torch.inf)).max()
            # Without a gradient there is no step; nothing is read from a card, which would stall it.
            rate = self.mixture_lr / torch.where(largest > 0, largest, 1.0)
        for row, gradient in zip(rows, gradients, strict=True):
            # Normalised by a softmax, as a sum of exponentials may overflow; and again after the floor.
            shares = torch.softmax(row.log() - rate * gradient, 0).clamp_(min=_FLOOR)
            row.copy_(shares / shares.sum())
