"""PC-DARTS (Xu et al. 2020): DARTS on a part of the channels, with weights of the edges into a node."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from nasfw import mixtures, oneshot, workloads
from nasfw.contracts import Evaluate, Problem, Strategy, UsageError, Workload
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

log = logging.getLogger("nasfw")


@dataclass(frozen=True)
class PcDarts(Strategy):
    """DARTS, first order, in a supernet that mixes 1 / ``share`` of the channels; the others bypass it.

    The edges into a node have weights of their own, normalised over the node (edge normalisation), and an
    option counts with the product of both. The mixture is left alone for the first ``warmup`` of the epochs.
    Proposals are made as those of ``darts``. In a space without partial channels the rest is as described.
    """

    share: Annotated[int, Field(ge=1, description="of so many channels one is mixed")] = 4
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="share of the epochs that train the weights alone")
    ] = 0.3
    epochs: Epochs = None
    fraction: Fraction = None
    mixture_lr: MixtureRate = 6e-4
    mixture_decay: MixtureDecay = 1e-3
    clip: Clip = 5.0
    proposals: Proposals = 24
    candidates: Candidates = 6
    eigenvalue: Eigenvalue = 0

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        self.train(problem, evaluate).finish()

    def check(self, problem: Problem) -> None:
        try:
            space = problem.space.partial(self.share)
        except UsageError as reason:
            said = str(reason).partition(";")[0]
            raise UsageError(
                f"strategy.share={self.share}: {said}; choose another share or channels"
            ) from None
        oneshot.check(replace(problem, space=space))

    def workload(self, problem: Problem) -> Workload:
        return workloads.workload(problem, self, WORK["first"])

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of supernet and mixture."""
        space = problem.space.partial(self.share)
        if space is problem.space and self.share > 1:
            log.info("%s has no partial channels: all are mixed", type(space).__name__)
        search = Search(problem, evaluate, self, WORK["first"], space)
        junctions, count = problem.space.junctions, len(problem.space.decisions)
        edges = [1e-3 * torch.randn(len(j.decisions)).to(search.compute) for j in junctions]
        search.outer = nn.ParameterList([*search.logits(), *edges])

        def relax(outer: Sequence[Tensor]) -> list[Tensor]:
            shares = mixtures.softmax(outer[count:])
            return search.full(mixtures.edge_weighted(mixtures.softmax(outer[:count]), junctions, shares))

        search.relax = relax
        optimiser = adam(search, self.mixture_lr, self.mixture_decay)
        for epoch in search.epochs({"mixture optimizer": optimiser}):
            for train, valid in search.pairs():
                if epoch >= self.warmup * search.recipe.epochs:
                    search.descend(optimiser, hypergradient(search, train, valid))
                search.learn(train, search.mixture)
        return search
