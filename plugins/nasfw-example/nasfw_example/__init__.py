"""A space, a strategy, an objective and a device, found by nasfw through an entry point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import nn

import nasfw

Sizes = tuple[Annotated[int, Field(ge=1)], ...]


@dataclass(frozen=True)
class Layers(nasfw.SearchSpace):
    """Fully connected networks whose hidden layers choose their sizes."""

    task: nasfw.Task
    depth: Annotated[int, Field(ge=1, description="number of hidden layers")] = 2
    sizes: Annotated[Sizes, Field(min_length=1, description="sizes to choose from")] = (8, 16, 32)

    @property
    def decisions(self) -> Mapping[str, Sequence[nasfw.Option]]:
        return {f"layer{i}": self.sizes for i in range(self.depth)}

    @property
    def default(self) -> nasfw.Architecture:
        return (self.sizes[-1],) * self.depth

    def build(self, architecture: nasfw.Architecture) -> nn.Module:
        if len(architecture) != self.depth:
            raise ValueError(f"{len(architecture)} options for {self.depth} decisions")
        outputs = self.task.output_shape
        widths = [math.prod(self.task.input_shape), *map(int, architecture)]
        hidden = [
            layer
            for a, b in itertools.pairwise(widths)
            for layer in (nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU())
        ]
        return nn.Sequential(
            nn.Flatten(), *hidden, nn.Linear(widths[-1], math.prod(outputs)), nn.Unflatten(1, outputs)
        )


@dataclass(frozen=True)
class Climb(nasfw.Strategy):
    """Starts from the plain backbone, and changes one decision of the best network so far at a time."""

    steps: Annotated[int, Field(ge=1, description="networks to train")] = 8

    def search(self, problem: nasfw.Problem, evaluate: nasfw.Evaluate) -> None:
        rng = np.random.default_rng(problem.seed)
        first = problem.objectives[0]
        best, highest, current = problem.space.default, -math.inf, problem.space.default
        for _ in range(self.steps):
            records = evaluate([nasfw.Trial(current, problem.recipe)])
            if not records:
                return
            if not records[0].error:
                value = records[0].values[first.name] * (1 if first.maximise else -1)
                if value > highest:
                    best, highest = current, value
            current = problem.space.mutate(best, rng)

    def workload(self, problem: nasfw.Problem) -> nasfw.Workload:
        trials = min(self.steps, problem.space.size)
        return nasfw.Workload(trials, trials * problem.recipe.passes)


@dataclass(frozen=True)
class Abacus(nasfw.Device):
    """A patient person who moves one bead per parameter."""

    beads: Annotated[float, Field(gt=0, description="beads moved in a second")] = 2.0

    metrics = ("duration",)

    @property
    def name(self) -> str:
        return "abacus"

    def measure(self, metric: str, candidate: nasfw.Candidate) -> float:
        self.check(metric)
        return sum(p.numel() for p in candidate.model.parameters()) / self.beads


@dataclass(frozen=True)
class Duration(nasfw.Objective):
    """Seconds that one inference takes on a device."""

    device: nasfw.Device

    metric = "duration"
    unit = "s"

    def measure(self, candidate: nasfw.Candidate) -> float:
        return self.device.measure(self.metric, candidate)


@nasfw.hookimpl
def nasfw_register(registry: nasfw.Registry) -> None:
    registry.add("layers", Layers)
    registry.add("climb", Climb)
    registry.add("abacus", Abacus)
    registry.add("duration", Duration)
