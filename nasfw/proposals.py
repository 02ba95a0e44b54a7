"""From a trained supernet and what it prefers to the architectures that are trained from scratch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from nasfw import mixtures, progress, training
from nasfw.contracts import (
    Architecture,
    Candidate,
    CostTable,
    Diverged,
    Evaluate,
    Objective,
    Problem,
    Supernet,
    Unsupported,
)
from nasfw.pareto import ranks, spread
from nasfw.records import as_costs
from nasfw.tradeoff import Array, cost_table, option_costs, total, walk

_CALIBRATION = 16
# Candidates that cheaper ones do not displace: the preferred one, the one ranked best, the plain backbone.
_FIRST = 3
# So many neighbours are drawn for each that is wanted.
_DRAWS = 8
# Candidates between the cheapest ones chosen by their ranks and the cheapest of all.
_BETWEEN = 2


@dataclass(frozen=True)
class Judge:
    """Rates architectures with the weights of a trained supernet, each once; ``known`` has its ratings."""

    problem: Problem
    supernet: Supernet
    known: dict[Architecture, dict[str, float]] = field(default_factory=dict)

    def candidate(self, architecture: Architecture) -> Candidate:
        """The network with the supernet's weights and batch statistics of its own.

        The standalone one, or the supernet under a one-hot mixture where it has no weights for that.
        """
        problem = self.problem
        candidate = Candidate(problem.space, problem.task, architecture, compute=problem.compute)
        try:
            candidate.weights = self.supernet.weights(architecture)
        except Unsupported:
            # A copy, since the batch statistics of a single path are not those of the mixture.
            model = _Path(copy.deepcopy(self.supernet), problem, architecture)
            vars(candidate)["model"] = model.to(problem.compute)
        generator = torch.Generator().manual_seed(problem.seed)
        some = islice(
            training.batches(problem.task, "train", problem.recipe, generator, problem.compute), _CALIBRATION
        )
        torch.optim.swa_utils.update_bn((x for x, _ in some), candidate.model)
        candidate.model.eval()
        return candidate

    def rate(
        self, architectures: Sequence[Architecture], objectives: Sequence[Objective], what: str
    ) -> Iterator[tuple[Architecture, dict[str, float]]]:
        """The ``objectives`` of each architecture that can be judged; costs are predicted where possible."""
        tables = {o.name: cost_table(self.problem, o) for o in objectives if o.fixed}
        with progress.track(what, len(architectures)) as bar:
            for architecture in architectures:
                bar.advance()
                known = self.known.setdefault(architecture, {})
                missing = [o for o in objectives if o.name not in known]
                # With inherited weights a network may well overflow; its own training decides about it.
                with suppress(Diverged, Unsupported):
                    if missing:
                        known |= self._values(architecture, missing, tables)
                    yield architecture, {o.name: known[o.name] for o in objectives}

    def _values(
        self,
        architecture: Architecture,
        objectives: Sequence[Objective],
        tables: Mapping[str, CostTable | None],
    ) -> dict[str, float]:
        problem, found = self.problem, {}
        trained: Candidate | None = None
        chosen = mixtures.indices(problem.space.decisions, architecture)
        for objective in objectives:
            if (table := tables.get(objective.name)) is not None:
                found[objective.name] = table.predict(chosen)
                continue
            if objective.fixed:
                # That of the standalone network, also where the supernet stands in for it.
                plain = Candidate(problem.space, problem.task, architecture, compute=problem.compute)
                found[objective.name] = objective.measure(plain)
                continue
            trained = trained or self.candidate(architecture)
            found[objective.name] = objective.measure(trained)
        return found

    @property
    def passes(self) -> float:
        """What rating one costs, in training passes."""
        return rating_passes(self.problem)


class _Path(nn.Module):
    """A supernet under one mixture."""

    def __init__(self, supernet: Supernet, problem: Problem, architecture: Architecture) -> None:
        super().__init__()
        self.supernet = supernet
        chosen = mixtures.one_hot(problem.space.decisions, architecture)
        self.mixture = [w.to(problem.compute) for w in chosen]

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.supernet(x, self.mixture)
        return output


def rating_passes(problem: Problem) -> float:
    """What a rating with inherited weights costs, in training passes: forward only, few batches and valid."""
    task = problem.task
    seen = min(_CALIBRATION * problem.recipe.batch_size, task.size("train")) + task.size("valid")
    return training.forward_passes(task, seen)


def gains_of(weights: Sequence[Tensor]) -> list[Array]:
    """The logarithms of mixture weights: what the trade-off with costs adds up."""
    return [np.log(np.maximum(w.detach().cpu().double().numpy(), 1e-30)) for w in weights]


def propose(problem: Problem, gains: Sequence[Array], count: int) -> list[Architecture]:
    """At most ``count`` along the trade-off: the preferred one, then cheapest first within each cost."""
    space = problem.space
    tables = [option_costs(problem, o) for o in problem.objectives if o.fixed]
    if len(tables) > 1:
        scaled = [_normalised(table) for table in tables]
        tables.append([np.sum(rows, axis=0) for rows in zip(*scaled, strict=True)])
    share = max(1, count // max(1, len(tables)))
    found = [space.discretise([g.tolist() for g in gains])]
    for table in tables:
        found += _evenly(walk(space, gains, table), share)
    return list(dict.fromkeys(found))[:count]


def near(
    problem: Problem, gains: Sequence[Array], architecture: Architecture, count: int
) -> list[Architecture]:
    """At most ``count`` that differ from it in one decision or edge; of many, those that gain most."""
    space, rng = problem.space, np.random.default_rng([problem.seed, 3])
    drawn = dict.fromkeys(space.mutate(architecture, rng) for _ in range(_DRAWS * count))
    drawn.pop(architecture, None)
    return sorted(drawn, key=lambda a: -total(space, gains, a))[:count]


def cautious(problem: Problem, gains: Sequence[Array]) -> list[Architecture]:
    """The plain backbone with its most preferred change, and with half of the preferred changes.

    The trade-off between gain and the number of changes, by ``walk``.
    """
    options = list(problem.space.decisions.values())
    plain = mixtures.indices(problem.space.decisions, problem.space.default)
    changes = [np.array([float(j != i) for j in range(len(o))]) for o, i in zip(options, plain, strict=True)]
    found = walk(problem.space, gains, changes)
    return [found[min(1, len(found) - 1)], found[len(found) // 2]]


def choose(
    judge: Judge,
    evaluate: Evaluate,
    gains: Sequence[Array],
    proposals: int,
    candidates: int,
    found: Sequence[Architecture],
) -> list[Architecture]:
    """The architectures to train from scratch, at most ``candidates``.

    ``found`` and the ``proposals``, which without costs are neighbours of the preferred one, are ranked with
    the supernet's weights. First come the preferred one (the first of ``found``), the one ranked best and
    the plain backbone; then the two ``cautious`` ones, and of the rest those that keep the most hypervolume,
    and those on the next fronts. With costs, the last two places are for such as are cheaper than these.
    Where there is but one place, the one ranked best has it.
    """
    problem = judge.problem
    must = list(dict.fromkeys([found[0], problem.space.default, *cautious(problem, gains)]))
    offered = list(dict.fromkeys([*found, *propose(problem, gains, proposals)]))
    costs = [o.reading for o in problem.objectives if o.fixed]
    if not costs:
        others = near(problem, gains, found[0], proposals)
        offered = list(dict.fromkeys([*offered, *others]))[: max(len(offered), proposals)]
    rated = dict(judge.rate(offered, problem.objectives, "ranking proposals"))
    evaluate.spend(len(offered) * judge.passes)
    ranked = list(rated)
    table = as_costs(rated.values(), [o.reading for o in problem.objectives])
    kept = np.flatnonzero(np.isfinite(table).all(axis=1))
    order = [ranked[kept[i]] for i in _best_first(table[kept], candidates)]
    if candidates == 1:
        return order[:1] or must[:1]
    chosen = list(dict.fromkeys([found[0], *order[:1], *must, *order]))
    if not costs:
        return chosen[:candidates]
    price = dict(zip(ranked, as_costs(rated.values(), costs[:1])[:, 0].tolist(), strict=True))
    head = chosen[: max(_FIRST, candidates - _BETWEEN)]
    return list(dict.fromkeys([*head, *_between(price, head), *chosen]))[:candidates]


def _best_first(table: Array, count: int) -> list[int]:
    """The rows that keep the most hypervolume, at most ``count``; then the others, front by front."""
    first = spread(table, count)
    others = set(range(len(table))) - set(first)
    fronts = ranks(table).tolist()
    return [*first, *sorted(others, key=lambda i: (fronts[i], *table[i], i))]


def _normalised(table: Sequence[Array]) -> list[Array]:
    scale = sum(float(row.max() - row.min()) for row in table) or 1.0
    return [row / scale for row in table]


def _between(price: Mapping[Architecture, float], chosen: Sequence[Architecture]) -> list[Architecture]:
    """Up to ``_BETWEEN`` of the priced ones, from the cheapest chosen towards the cheapest of all.

    Where networks are as cheap as possible, quality breaks down, and inherited weights do not show where.
    """
    known = [price[a] for a in chosen if a in price]
    if not known or len(chosen) < 2:
        return []
    low, high = min(price.values()), min(known)
    found: list[Architecture] = []
    for i in range(1, _BETWEEN + 1):
        # Halfway, then halfway again: quality falls late and fast.
        target = low + (high - low) / 2**i
        nearest = min(price, key=lambda a: abs(price[a] - target))
        if low < price[nearest] < high and nearest not in found:
            found.append(nearest)
    return found


def _evenly(found: Sequence[Architecture], count: int) -> list[Architecture]:
    picks = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
    return [found[i] for i in picks]
