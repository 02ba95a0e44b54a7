"""What one-shot searches are about to do, and what their steps cost in those of an average network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from nasfw import training
from nasfw.contracts import Problem, Recipe, Supernet, Workload
from nasfw.proposals import rating_passes

# Architectures drawn uniformly that are rated, to compare with what becomes of them in random search.
DRAWN = 16
# What computing all options of a supernet, without their gradients, takes of a step of it.
_ALL_FORWARD = 0.4
# Gradients of a batch's loss that an eigenvalue takes, about.
_GRADIENTS = 24


class Extent(Protocol):
    """How much a strategy trains its own network; None is what the recipe says."""

    @property
    def epochs(self) -> int | None: ...
    @property
    def fraction(self) -> float | None: ...


class Settings(Extent, Protocol):
    """The parameters that all one-shot strategies have."""

    @property
    def clip(self) -> float: ...
    @property
    def proposals(self) -> int: ...
    @property
    def candidates(self) -> int: ...
    @property
    def eigenvalue(self) -> int: ...


@dataclass(frozen=True)
class Work:
    """What a step of a search costs: gradients of the whole mixture, and of single paths.

    ``paths`` are architectures of the space, ``drawn`` have an option for every decision, also on the edges
    that an architecture leaves out. ``pairs`` are gradients of the mixture alone, on two options of each
    decision.
    """

    mixed: float = 0.0
    paths: float = 0.0
    drawn: float = 0.0
    pairs: float = 0.0

    def cost(self, supernet: Supernet) -> float:
        """In steps of an average architecture."""
        drawn = supernet.path_cost if supernet.drawn_cost is None else supernet.drawn_cost
        # The option that does not take part is computed forward only.
        pair = drawn * 4 / 3
        if type(supernet).only is Supernet.only:
            pair = drawn + _ALL_FORWARD * supernet.cost
        return (
            self.mixed * supernet.cost
            + self.paths * supernet.path_cost
            + self.drawn * drawn
            + self.pairs * pair
        )


def recipe_of(problem: Problem, settings: Extent) -> Recipe:
    """How a strategy's own network is trained: the recipe, for the strategy's epochs and fraction."""
    return replace(
        problem.recipe,
        epochs=settings.epochs or problem.recipe.epochs,
        fraction=settings.fraction or problem.recipe.fraction,
        seed=problem.seed,
    )


def workload(
    problem: Problem, settings: Settings, work: Work, extra: float = 0.0, mixed: float = 0.0
) -> Workload:
    """What a search is about to do; ``extra`` passes of networks and ``mixed`` of the supernet come on top.

    The ratings with inherited weights, and the eigenvalues that ``settings`` ask for, are counted.
    """
    count = min(settings.candidates, problem.space.size)
    recipe = recipe_of(problem, settings)
    rated = min(settings.proposals + DRAWN, problem.space.size) * rating_passes(problem)
    paths = (work.paths + work.drawn + 4 / 3 * work.pairs) * recipe.passes
    looks = recipe.epochs // settings.eigenvalue if settings.eigenvalue else 0
    mixed += work.mixed * recipe.passes + sharpness_passes(problem, recipe, looks)
    return Workload(count, count * problem.recipe.passes + paths + rated + extra, mixed, paths)


def sharpness_passes(problem: Problem, recipe: Recipe, count: int) -> float:
    """About what ``count`` eigenvalues take, in passes of the supernet over the training split."""
    return count * _GRADIENTS * recipe.fraction / training.steps_per_epoch(problem.task, "train", recipe)
