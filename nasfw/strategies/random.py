"""Random search: the yardstick of every other strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from nasfw.contracts import Evaluate, Problem, Strategy, Trial, Workload
from nasfw.sampling import distinct


@dataclass(frozen=True)
class RandomSearch(Strategy):
    """Trains architectures drawn uniformly, each once, with the task's recipe."""

    yardstick: ClassVar[bool] = True

    trials: Annotated[int, Field(ge=1, description="how many different architectures to train")] = 16

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        rng = np.random.default_rng(problem.seed)
        trials = [Trial(a, problem.recipe) for a in distinct(problem.space, rng, self.trials)]
        for _ in evaluate.as_completed(trials):
            pass

    def workload(self, problem: Problem) -> Workload:
        trials = min(self.trials, problem.space.size)
        return Workload(trials, trials * problem.recipe.passes)
