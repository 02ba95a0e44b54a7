"""RobustDARTS (Zela et al. 2020): DARTS that watches how sharp its validation loss becomes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from nasfw import oneshot, training, workloads
from nasfw.contracts import Evaluate, Problem, Recipe, Strategy, UsageError, Workload
from nasfw.oneshot import Search
from nasfw.strategies.darts import WORK, adam, hypergradient
from nasfw.strategies.parameters import (
    Candidates,
    Clip,
    Epochs,
    Fraction,
    MixtureDecay,
    MixtureRate,
    Proposals,
)

log = logging.getLogger("nasfw")

# In computations of the eigenvalue, of which the paper has one every other epoch: the mean of five belongs to
# the middle one, it is compared with the one four before, and nothing is decided before the eleventh.
_WINDOW, _MIDDLE, _BACK, _FIRST = 5, 2, 4, 11
# How many the paper's search has, and how many are enough for a few decisions.
_USUAL, _ENOUGH = 25, 16


@dataclass(frozen=True)
class RobustDarts(Strategy):
    """DARTS, first order, that ends or starts anew from an earlier state when the validation loss sharpens.

    The largest eigenvalue of the validation loss's Hessian with respect to the mixture's logits is computed
    on a random batch every ``interval`` epochs (Lanczos's method); short searches divide their epochs for
    that. Once its mean over five computations is more than ``factor`` times that of four computations
    earlier, with ``mode`` "stop" the search returns to the state that the earlier mean belongs to and ends
    (DARTS-ES). With "adapt" it goes on from there with a ``decay_factor`` times larger weight decay,
    ``rollbacks`` times at most (DARTS-ADA). Proposals are made as those of ``darts``.
    """

    mode: Annotated[Literal["stop", "adapt"], Field(description="what happens when the loss sharpens")] = (
        "stop"
    )
    factor: Annotated[float, Field(gt=1, description="growth of the mean eigenvalue that is too much")] = 1.3
    interval: Annotated[
        int | None,
        Field(ge=1, description="epochs between eigenvalues; None: 16 to 49 over the whole search"),
    ] = None
    decay_factor: Annotated[float, Field(gt=1, description="growth of the weight decay (adapt)")] = 10.0
    rollbacks: Annotated[int, Field(ge=0, description="how often to start anew at most (adapt)")] = 2
    epochs: Epochs = None
    fraction: Fraction = None
    mixture_lr: MixtureRate = 3e-4
    mixture_decay: MixtureDecay = 1e-3
    clip: Clip = 5.0
    proposals: Proposals = 24
    candidates: Candidates = 6

    @property
    def eigenvalue(self) -> int:
        """It is computed here, at moments of this strategy's own."""
        return 0

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        self.train(problem, evaluate).finish()
        # Only now, as a search that is killed before goes through its last epochs once more.
        for state in (problem.folder / "checkpoints").glob("sharpness-*.pt"):
            state.unlink()

    def check(self, problem: Problem) -> None:
        oneshot.check(problem)
        recipe = workloads.recipe_of(problem, self)
        if self.interval is not None and recipe.epochs // self.interval < _FIRST:
            raise UsageError(
                f"robust_darts with interval={self.interval} computes {recipe.epochs // self.interval} "
                f"eigenvalues in {recipe.epochs} epochs, and decides nothing before it has {_FIRST}; "
                f"choose strategy.epochs={_FIRST * self.interval} or more, or leave the interval out"
            )
        if self.mode == "adapt" and recipe.weight_decay == 0:
            raise UsageError("robust_darts with mode=adapt multiplies the recipe's weight_decay, which is 0")

    def workload(self, problem: Problem) -> Workload:
        settings = self._divided(problem)
        recipe = workloads.recipe_of(problem, settings)
        looks = recipe.epochs // settings._interval(recipe)
        return workloads.workload(
            problem, settings, WORK["first"], mixed=workloads.sharpness_passes(problem, recipe, looks)
        )

    def _divided(self, problem: Problem) -> RobustDarts:
        """These settings, with shorter epochs where there are too few for the means of eigenvalues."""
        recipe = workloads.recipe_of(problem, self)
        steps = training.steps_per_epoch(problem.task, "train", recipe)
        parts = min(ceil(_ENOUGH / recipe.epochs), steps)
        if self.interval is not None or parts == 1:
            return self
        return replace(self, epochs=recipe.epochs * parts, fraction=recipe.fraction / parts)

    def _interval(self, recipe: Recipe) -> int:
        return self.interval or max(1, recipe.epochs // _USUAL)

    def train(self, problem: Problem, evaluate: Evaluate) -> Search:
        """The search after the training of supernet and mixture."""
        search = Search(problem, evaluate, self._divided(problem), WORK["first"])
        search.outer = search.logits()
        optimiser, watch = adam(search, self.mixture_lr, self.mixture_decay), _Watch()
        epochs, interval = search.recipe.epochs, self._interval(search.recipe)
        if epochs // interval < _FIRST:
            log.warning(
                "robust_darts computes %d eigenvalues in so few steps, and decides nothing before it has %d",
                *(epochs // interval, _FIRST),
            )
        state: dict[str, training.Stateful] = {
            "supernet": search.supernet,
            "outer": search.outer,
            "optimizer": search.optimiser,
            "schedule": search.schedule,
            "mixture optimizer": optimiser,
        }
        limit = epochs * (1 + (self.rollbacks if self.mode == "adapt" else 0))
        for _ in search.epochs({"mixture optimizer": optimiser, "watch": watch}, limit):
            # Here and not where it is found out, so that the last state is in the checkpoint.
            if watch.ended or watch.epoch >= epochs:
                break
            for train, valid in search.pairs():
                search.descend(optimiser, hypergradient(search, train, valid))
                search.learn(train, search.mixture)
            watch.epoch += 1
            if watch.epoch % interval == 0:
                self._look(search, watch, state, interval)
        return search

    def _look(
        self, search: Search, watch: _Watch, state: dict[str, training.Stateful], interval: int
    ) -> None:
        """Compute the eigenvalue, and return to an earlier state if it grew too much."""
        watch.values.append(search.sharpness())
        folder = search.problem.folder / "checkpoints"
        # Named by the epochs that were ever trained, so that none is written over before it is needed.
        watch.saved.append(search.epoch + 1)
        training.save(folder / f"sharpness-{search.epoch + 1}.pt", watch.epoch, state, search.generator)
        back = returns_to(watch.values, self.factor)
        if back is None or (self.mode == "adapt" and watch.returned >= self.rollbacks):
            return
        growth = f"the validation loss became more than {self.factor:g} times as sharp by epoch {watch.epoch}"
        training.restore(folder / f"sharpness-{watch.saved[back - 1]}.pt", state, search.generator)
        search.history.discard(watch.saved[back - 1])
        watch.values, watch.saved = watch.values[:back], watch.saved[:back]
        watch.epoch, watch.returned = back * interval, watch.returned + 1
        if self.mode == "stop":
            watch.ended = True
            said = f"{growth}: the search ended with the state of epoch {watch.epoch}"
        else:
            group = search.optimiser.param_groups[0]
            group["weight_decay"] = search.recipe.weight_decay * self.decay_factor**watch.returned
            said = (
                f"{growth}: it went on from epoch {watch.epoch} with weight decay {group['weight_decay']:g}"
            )
        search.history.notes.append(said)
        log.info("%s", said)


def returns_to(eigenvalues: Sequence[float], factor: float) -> int | None:
    """To which of the eigenvalues (from 1 on) a search returns after the last one; None if it goes on.

    The mean of the last five is compared with that of the five that ended four before; on the paper's
    schedule, from epoch 22 on, with what belongs to epoch e - 12.
    """
    count = len(eigenvalues)
    if count < _FIRST:
        return None
    now = np.mean(eigenvalues[count - _WINDOW :])
    then = np.mean(eigenvalues[count - _BACK - _WINDOW : count - _BACK])
    # Of a loss that is flat, or curves down, nothing is a multiple.
    return count - _BACK - _MIDDLE if then > 0 and now > factor * then else None


@dataclass
class _Watch:
    """What is known of the eigenvalues, and after which epochs, as a part of a checkpoint."""

    values: list[float] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    epoch: int = 0
    returned: int = 0
    ended: bool = False

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)
