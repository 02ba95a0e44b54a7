"""DASH (Shen, Khodak and Talwalkar 2022): one-shot search by single-level training of weights and mixture."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from nasfw import mixtures, progress, supernets, training
from nasfw.contracts import (
    Architecture,
    Candidate,
    CostTable,
    Diverged,
    Evaluate,
    Problem,
    Recipe,
    Strategy,
    Supernet,
    Trial,
    Unsupported,
    Workload,
)
from nasfw.pareto import spread
from nasfw.records import as_costs, costs
from nasfw.tradeoff import Array, cost_table, option_costs, supported

log = logging.getLogger("nasfw")

_CALIBRATION = 16
# Candidates between the cheapest ones chosen by their ranks and the cheapest of all.
_BETWEEN = 2
# Below so many batches an epoch, a recipe of the grid is tried on this share of them.
_TUNE_FRACTIONS = ((50, 0.2), (100, 0.1), (500, 0.05))


@dataclass(frozen=True)
class Dash(Strategy):
    """Trains one supernet, reads off the best architectures, and trains those.

    1. Weights and mixture of the supernet are trained together on the training split (single level), the
       mixture as a soft Gumbel-softmax sample per step. Per decision the mixture's gradient g becomes
       g / (grad_scale * (|g| + 1e-8)) + field_penalty * (receptive fields) if these are set; then the joint
       norm of all gradients is clipped.
    2. With one objective, the proposal is the option of largest weight in every decision. With more, every
       architecture that maximises sum(log mixture weight) - t * sum(cost) for some t >= 0 is proposed, where
       an option's cost is measured by putting it alone into the plain backbone; with several costs, each by
       itself and their normalised sum. At most ``proposals`` of them, evenly along the way.
    3. The ``candidates`` are, as far as they go: the preferred architecture; the plain backbone; the plain
       backbone with the one change, and with half of the changes, that the mixture prefers most over the
       backbone's own options; then of the proposals, ranked on the validation split with the supernet's
       weights and batch statistics computed anew, those that keep the most hypervolume, and two that are
       cheaper than these. Costs are predicted for that where the objective has a table. The changes count
       because a short training of a large mixture says more about where another option helps than about all
       layers at once.
    4. If a grid of recipes is given, the best architecture tries it with short trainings.
    5. The candidates are trained from scratch with the best recipe.
    """

    epochs: Annotated[
        int | None, Field(ge=1, description="supernet epochs; None: as many as the recipe's")
    ] = None
    fraction: Annotated[
        float | None,
        Field(gt=0, le=1, description="share of the batches per supernet epoch; None: the recipe's"),
    ] = None
    mixture_optimizer: Annotated[
        Literal["sgd", "adam"], Field(description="of the mixture's logits; sgd has the recipe's momentum")
    ] = "sgd"
    mixture_lr: Annotated[float, Field(gt=0, description="learning rate of the mixture's logits")] = 0.05
    temperature: Annotated[float, Field(gt=0, description="of the Gumbel softmax")] = 1.0
    noise: Annotated[float, Field(ge=0, description="scale of the Gumbel noise; 0 is the plain softmax")] = (
        1.0
    )
    clip: Annotated[float, Field(gt=0, description="bound on the joint gradient norm")] = 1.0
    grad_scale: Annotated[
        float | None, Field(gt=0, description="normalise each decision's gradient to 1 / grad_scale")
    ] = None
    field_penalty: Annotated[float, Field(ge=0, description="weight of the receptive field")] = 0.0
    proposals: Annotated[int, Field(ge=1, description="architectures ranked with inherited weights")] = 24
    candidates: Annotated[int, Field(ge=1, description="architectures trained from scratch")] = 6
    lrs: Annotated[tuple[float, ...], Field(description="recipe grid: learning rates")] = ()
    dropouts: Annotated[tuple[float, ...], Field(description="recipe grid: dropout rates")] = ()
    weight_decays: Annotated[tuple[float, ...], Field(description="recipe grid: weight decays")] = ()
    momenta: Annotated[tuple[float, ...], Field(description="recipe grid: momenta")] = ()
    tune_epochs: Annotated[int | None, Field(ge=1, description="epochs per recipe; None: the recipe's")] = (
        None
    )
    tune_fraction: Annotated[
        Annotated[float, Field(gt=0, le=1)] | Literal["paper"] | None,
        Field(description="share of the batches per epoch of the grid; paper: less, the more there are"),
    ] = None

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        supernet, logits = self.train(problem, evaluate)
        supernets.ended(supernet, problem.compute, problem.folder)
        weights = [torch.softmax(a.detach(), 0).cpu() for a in logits]
        best = mixtures.discretise(problem.space.decisions, weights)
        log.info("the mixture prefers %s", dict(zip(problem.space.decisions, best, strict=True)))
        chosen = self._choose(problem, evaluate, supernet, weights, best)
        recipe = self._tune(problem, evaluate, best)
        evaluate([Trial(a, recipe) for a in chosen])

    def workload(self, problem: Problem) -> Workload:
        grid = list(self._grid(problem)) if self._has_grid else []
        # Without costs to trade off there are the preferred one, the plain backbone, and two in between.
        most = self.candidates if any(o.fixed for o in problem.objectives) else 4
        count = min(most, self.candidates, problem.space.size)
        passes = sum(r.passes for r in grid) + count * problem.recipe.passes
        return Workload(count + len(grid), passes, self.supernet_recipe(problem).passes)

    def supernet_recipe(self, problem: Problem) -> Recipe:
        """How the supernet's weights are trained: the recipe, for this strategy's epochs and fraction."""
        return replace(
            problem.recipe,
            epochs=self.epochs or problem.recipe.epochs,
            fraction=self.fraction or problem.recipe.fraction,
            seed=problem.seed,
        )

    def train(self, problem: Problem, evaluate: Evaluate) -> tuple[Supernet, nn.ParameterList]:
        """The trained supernet and the logits of its mixture, one vector per decision."""
        recipe, compute = self.supernet_recipe(problem), problem.compute
        supernet = problem.space.supernet().to(compute)
        supernets.started(supernet, compute)
        logits = nn.ParameterList(
            1e-3 * torch.randn(len(options), device=compute) for options in problem.space.decisions.values()
        )
        fields = [f.to(compute) for f in supernet.fields()] if self.field_penalty else None
        steps = training.steps_per_epoch(problem.task, "train", recipe)
        optimisers = [
            training.optimizer(supernet.parameters(), recipe),
            self._mixture_optimizer(logits, recipe),
        ]
        rates = [training.schedule(o, recipe, steps) for o in optimisers]
        generator = torch.Generator().manual_seed(recipe.seed)
        parts: dict[str, training.Stateful] = {"supernet": supernet, "logits": logits}
        parts |= {f"optimizer{i}": o for i, o in enumerate(optimisers)}
        parts |= {f"schedule{i}": r for i, r in enumerate(rates)}
        mixed = list(logits)
        parameters = [*supernet.parameters(), *mixed]
        checkpoint = problem.folder / "checkpoints" / "supernet.pt"
        charged = 0
        for epoch, bar in training.epochs(recipe.epochs, parts, generator, checkpoint, "supernet training"):
            supernet.train()
            total, seen = torch.zeros((), device=compute), 0
            for x, y in training.batches(problem.task, "train", recipe, generator, compute):
                mixture = mixtures.gumbel_softmax(mixed, self.temperature, self.noise)
                loss = problem.task.loss(supernet(x, mixture), y)
                for o in optimisers:
                    o.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self._treat(mixed, fields)
                training.clip(parameters, self.clip)
                for o, r in zip(optimisers, rates, strict=True):
                    o.step()
                    r.step()
                total += loss.detach()
                seen += 1
            bar.advance(loss=training.finite_mean(total, seen, epoch))
            # Epochs done before a restart count as well.
            within = evaluate.spend((epoch + 1 - charged) * recipe.fraction * supernet.cost)
            charged = epoch + 1
            if not within:
                log.warning("the budget ended the supernet's training after epoch %d", epoch + 1)
                return supernet, logits
        evaluate.spend((recipe.epochs - charged) * recipe.fraction * supernet.cost)
        return supernet, logits

    def _mixture_optimizer(self, logits: nn.ParameterList, recipe: Recipe) -> torch.optim.Optimizer:
        if self.mixture_optimizer == "adam":
            fused = training.fusable(logits)
            return torch.optim.Adam(logits, lr=self.mixture_lr, betas=(0.5, 0.999), fused=fused)
        return training.optimizer(logits, replace(recipe, optimizer="sgd", lr=self.mixture_lr))

    def _treat(self, logits: Sequence[Tensor], fields: Sequence[Tensor] | None) -> None:
        treated = [i for i, a in enumerate(logits) if a.grad is not None]
        gradients = [g for i in treated if (g := logits[i].grad) is not None]
        if self.grad_scale is not None and gradients:
            norms = torch._foreach_norm(gradients)
            torch._foreach_add_(norms, 1e-8)
            torch._foreach_mul_(norms, self.grad_scale)
            torch._foreach_div_(gradients, norms)
        if fields is not None and gradients:
            torch._foreach_add_(gradients, [fields[i] for i in treated], alpha=self.field_penalty)

    def propose(self, problem: Problem, weights: Sequence[Tensor]) -> list[Architecture]:
        """Architectures along the trade-off: the preferred one, then cheapest first within each cost."""
        decisions = problem.space.decisions
        gains = _gains(weights)
        tables = [option_costs(problem, o) for o in problem.objectives if o.fixed]
        if len(tables) > 1:
            scaled = [_normalised(table) for table in tables]
            tables.append([np.sum(rows, axis=0) for rows in zip(*scaled, strict=True)])
        walks = [supported(gains, table) for table in tables]
        share = max(1, self.proposals // max(1, len(walks)))
        found = [mixtures.discretise(decisions, weights)]
        for walk in walks:
            for choice in _evenly(walk, share):
                found.append(tuple(o[j] for o, j in zip(decisions.values(), choice, strict=True)))
        return list(dict.fromkeys(found))[: self.proposals]

    def _choose(
        self,
        problem: Problem,
        evaluate: Evaluate,
        supernet: Supernet,
        weights: Sequence[Tensor],
        best: Architecture,
    ) -> list[Architecture]:
        must = list(dict.fromkeys([best, problem.space.default, *cautious(problem, weights)]))
        if len(must) >= self.candidates:
            return must[: self.candidates]
        proposals = self.propose(problem, weights)
        if len(proposals) <= 1:
            return must
        tables = {o.name: cost_table(problem, o) for o in problem.objectives if o.fixed}
        ranked, values = [], []
        with progress.track("ranking proposals", len(proposals)) as bar:
            for architecture in proposals:
                bar.advance()
                candidate = inherit(problem, supernet, architecture)
                # With inherited weights a network may well overflow; its own training decides about it.
                with suppress(Diverged, Unsupported):
                    values.append(_values(problem, candidate, tables))
                    ranked.append(architecture)
        evaluate.spend(len(proposals) * _ranking_passes(problem))
        table = as_costs(values, [o.reading for o in problem.objectives])
        kept = np.flatnonzero(np.isfinite(table).all(axis=1))
        order = [ranked[kept[i]] for i in spread(table[kept], self.candidates)]
        chosen = list(dict.fromkeys([*must, *order]))
        cost = next(o.reading for o in problem.objectives if o.fixed)
        price = dict(zip(ranked, as_costs(values, [cost])[:, 0].tolist(), strict=True))
        head = chosen[: max(len(must), self.candidates - _BETWEEN)]
        return list(dict.fromkeys([*head, *_between(price, head), *chosen]))[: self.candidates]

    @property
    def _has_grid(self) -> bool:
        return bool(self.lrs or self.dropouts or self.weight_decays or self.momenta)

    def _grid(self, problem: Problem) -> Iterator[Recipe]:
        """Recipes to try, learning rate outermost."""
        recipe = problem.recipe
        if self.tune_fraction == "paper":
            whole = training.steps_per_epoch(problem.task, "train", replace(recipe, fraction=1.0))
            fraction = next((f for most, f in _TUNE_FRACTIONS if whole < most), 0.01)
        else:
            fraction = self.tune_fraction or recipe.fraction
        short = replace(recipe, epochs=self.tune_epochs or recipe.epochs, fraction=fraction)
        for lr, dropout, decay, momentum in product(
            self.lrs or (recipe.lr,),
            self.dropouts or (recipe.dropout,),
            self.weight_decays or (recipe.weight_decay,),
            self.momenta or (recipe.momentum,),
        ):
            yield replace(short, lr=lr, dropout=dropout, weight_decay=decay, momentum=momentum)

    def _tune(self, problem: Problem, evaluate: Evaluate, architecture: Architecture) -> Recipe:
        """The recipe of the grid with the best first objective, with the full number of epochs.

        The third learning rate is not tried if the second one brought no improvement on the first.
        """
        if not self._has_grid:
            return problem.recipe
        grid = list(self._grid(problem))
        per_lr = len(grid) // max(1, len(self.lrs))
        chosen, lowest, best_so_far = problem.recipe, np.inf, []
        queue = iter(grid)
        while batch := list(islice(queue, per_lr)):
            for record in evaluate([Trial(architecture, recipe) for recipe in batch]):
                if record.error is None:
                    cost = float(costs([record], [problem.objectives[0].reading])[0, 0])
                    if cost < lowest:
                        chosen, lowest = record.recipe, cost
            best_so_far.append(lowest)
            if len(best_so_far) == 2 and best_so_far[1] >= best_so_far[0]:
                break
        return replace(chosen, epochs=problem.recipe.epochs, fraction=problem.recipe.fraction)


def cautious(problem: Problem, weights: Sequence[Tensor]) -> list[Architecture]:
    """The plain backbone with its most preferred change, and with half of the preferred changes.

    The trade-off between mixture weight and the number of changes, by ``supported``.
    """
    options = list(problem.space.decisions.values())
    plain = mixtures.indices(problem.space.decisions, problem.space.default)
    changes = [np.array([float(j != i) for j in range(len(o))]) for o, i in zip(options, plain, strict=True)]
    walk = supported(_gains(weights), changes)
    steps = [walk[min(1, len(walk) - 1)], walk[len(walk) // 2]]
    return [tuple(o[j] for o, j in zip(options, step, strict=True)) for step in steps]


def _gains(weights: Sequence[Tensor]) -> list[Array]:
    return [np.log(np.maximum(w.double().numpy(), 1e-30)) for w in weights]


def inherit(problem: Problem, supernet: Supernet, architecture: Architecture) -> Candidate:
    """The standalone network with the supernet's weights and batch statistics of its own."""
    candidate = Candidate(
        problem.space, problem.task, architecture, "valid", supernet.weights(architecture), problem.compute
    )
    generator = torch.Generator().manual_seed(problem.seed)
    some = islice(
        training.batches(problem.task, "train", problem.recipe, generator, problem.compute), _CALIBRATION
    )
    torch.optim.swa_utils.update_bn((x for x, _ in some), candidate.model)
    candidate.model.eval()
    return candidate


def _ranking_passes(problem: Problem) -> float:
    """What ranking one proposal costs, in training passes: forward only, on few batches and on valid."""
    seen = min(_CALIBRATION * problem.recipe.batch_size, problem.task.size("train")) + problem.task.size(
        "valid"
    )
    return seen / (3 * problem.task.size("train"))


def _normalised(table: Sequence[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> list[np.ndarray]:
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


def _values(
    problem: Problem, candidate: Candidate, tables: Mapping[str, CostTable | None]
) -> dict[str, float]:
    """The candidate's objectives: predicted where there is a table, measured otherwise."""
    chosen = mixtures.indices(problem.space.decisions, candidate.architecture)
    return {
        o.name: table.predict(chosen) if (table := tables.get(o.name)) is not None else o.measure(candidate)
        for o in problem.objectives
    }


def _evenly(walk: Sequence[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    picks = np.unique(np.linspace(0, len(walk) - 1, min(count, len(walk))).round().astype(int))
    return [walk[i] for i in picks]
