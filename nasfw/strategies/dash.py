"""DASH (Shen, Khodak and Talwalkar 2022): one-shot search by single-level training of weights and mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from nasfw import mixtures, oneshot, training, workloads
from nasfw.contracts import Architecture, Evaluate, Problem, Recipe, Strategy, Trial, Workload
from nasfw.oneshot import Search
from nasfw.records import costs
from nasfw.strategies.parameters import Candidates, Eigenvalue, Epochs, Fraction, Proposals
from nasfw.workloads import Work

_WORK = Work(mixed=1.0)
# Below so many batches an epoch, a recipe of the grid is tried on this share of them.
_TUNE_FRACTIONS = ((50, 0.2), (100, 0.1), (500, 0.05))


@dataclass(frozen=True)
class Dash(Strategy):
    """Trains one supernet, reads off the best architectures, and trains those.

    1. Weights and mixture of the supernet are trained together on the training split (single level), the
       mixture as a soft Gumbel-softmax sample per step. Per decision the mixture's gradient g becomes
       g / (grad_scale * (|g| + 1e-8)) + field_penalty * (receptive fields) if these are set; then the joint
       norm of all gradients is clipped.
    2. With one objective, the preferred architecture has the option of largest weight in every decision, and
       those that differ from it in one decision are proposed beside it. With more, every
       architecture that maximises sum(log mixture weight) - t * sum(cost) for some t >= 0 is proposed, where
       an option's cost is measured by putting it alone into the plain backbone; with several costs, each by
       itself and their normalised sum. At most ``proposals`` of them, evenly along the way.
    3. The ``candidates`` are, as far as they go: the preferred architecture; the best of the proposals,
       ranked on the validation split with the supernet's weights and batch statistics computed anew; the
       plain backbone; the plain backbone with the one change, and with half of the changes, that the mixture
       prefers most over the backbone's own options; then those proposals that keep the most hypervolume, and
       two that are cheaper than these. Architectures that the mixture preferred earlier are ranked along.
       Costs are predicted for that where the objective has a table. The changes count because a short
       training of a large mixture says more about where another option helps than about all layers at once.
    4. If a grid of recipes is given, the best architecture tries it with short trainings.
    5. The candidates are trained from scratch with the best recipe.
    """

    epochs: Epochs = None
    fraction: Fraction = None
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
    proposals: Proposals = 24
    candidates: Candidates = 6
    eigenvalue: Eigenvalue = 0
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
        chosen = self.train(problem, evaluate).propose()
        recipe = self._tune(problem, evaluate, chosen[0])
        evaluate([Trial(a, recipe) for a in chosen])

    def check(self, problem: Problem) -> None:
        supernet = oneshot.check(problem)
        if self.field_penalty:
            supernet.fields()

    def workload(self, problem: Problem) -> Workload:
        grid = list(self._grid(problem)) if self._has_grid else []
        work = workloads.workload(problem, self, _WORK, sum(r.passes for r in grid))
        return replace(work, trials=work.trials + len(grid))

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of supernet and mixture."""
        search = Search(problem, evaluate, self, _WORK)
        search.outer = logits = search.logits()
        fields = None
        if self.field_penalty:
            rows = zip(search.supernet.fields(), search.mixed, strict=True)
            fields = [f[kept].to(problem.compute) for f, kept in rows]
        optimiser = self._mixture_optimizer(logits, search.recipe)
        rates = training.schedule(optimiser, search.recipe, search.steps)
        mixed = list(logits)
        parameters = [*search.weights, *mixed]
        for _ in search.epochs({"mixture optimizer": optimiser, "mixture schedule": rates}):
            for batch in search.batches():
                mixture = search.full(mixtures.gumbel_softmax(mixed, self.temperature, self.noise))
                loss = search.loss(batch, mixture)
                search.optimiser.zero_grad()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self._treat(mixed, fields)
                training.clip(parameters, self.clip)
                search.optimiser.step()
                optimiser.step()
                search.schedule.step()
                rates.step()
                search.noted(loss)
        return search

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
