"""What a run would take: sizes, measured seconds per step, total time and peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nasfw import engine, mixtures, training
from nasfw.contracts import Problem
from nasfw.experiment import Experiment, threads
from nasfw.flops import count_parameters
from nasfw.hardware.machine import peak_memory

_STEPS, _SAMPLES = 3, 3


@dataclass(frozen=True)
class Estimate:
    """Of one space: parameters, seconds per training step, and seconds of each part of the run.

    ``None`` where the strategy does not tell what it will do, or the part does not take place. ``measured``
    are the metrics that are measured on devices, whose time is not estimated.
    """

    space: str
    architectures: int
    plain_parameters: int
    final_parameters: int
    supernet_parameters: int | None
    plain_step: float
    candidate_step: float
    final_step: float
    supernet_step: float | None
    trials: int | None
    search: float | None
    final: float
    random: float | None
    peak_memory: int
    measured: tuple[str, ...] = ()

    @property
    def total(self) -> float | None:
        """Seconds of the whole run."""
        return None if self.search is None else self.search + self.final + (self.random or 0.0)


def estimate(experiment: Experiment) -> list[Estimate]:
    """Time a few training steps of each kind of network that the run would train, if it trains any."""
    if not any(o.trained for o in experiment.objectives):
        return []
    with threads(experiment.threads):
        return [_of_space(experiment, label) for label in experiment.spaces]


def _of_space(experiment: Experiment, label: str) -> Estimate:
    problem = experiment.problem(label, Path())
    space, task, recipe = problem.space, problem.task, problem.recipe
    rng = np.random.default_rng(problem.seed)
    enlarged = replace(problem, space=space.enlarged())
    with engine.seeded(problem.seed):
        some = [space.sample(rng) for _ in range(_SAMPLES)]
        plain = _network_step(problem, space.default)
        candidate = statistics.fmean(_network_step(problem, a) for a in some)
        final = statistics.fmean(_network_step(enlarged, a) for a in some)
        work = experiment.strategy.workload(problem)
        supernet_step = supernet_parameters = None
        if work is not None and work.supernet_passes:
            supernet_step, supernet_parameters = _supernet_step(problem)
        plain_size = count_parameters(space.build(space.default))
        final_size = count_parameters(enlarged.space.build(space.default))
    # Steps of one pass over the training split.
    steps = training.steps_per_epoch(task, "train", replace(recipe, fraction=1.0))
    whole = recipe.epochs * training.steps_per_epoch(task, "full", recipe)
    search = None
    if work is not None:
        search = steps * (work.passes * candidate + work.supernet_passes * (supernet_step or 0.0))
    again, yardsticks = experiment.settings.final is not None, experiment.yardsticks
    # The best and the yardsticks with every seed, the rest of the front with one.
    networks = experiment.final.limit - 1 + len(experiment.seeds) * (1 + len(yardsticks)) if again else 0
    # The finalists of all spaces together; which space they come from is not known yet.
    share = networks / len(experiment.spaces)
    return Estimate(
        space=label,
        architectures=space.size,
        plain_parameters=plain_size,
        final_parameters=final_size,
        supernet_parameters=supernet_parameters,
        plain_step=plain,
        candidate_step=candidate,
        final_step=final,
        supernet_step=supernet_step,
        trials=None if work is None else work.trials,
        search=search,
        final=share * whole * final,
        random=search if "random" in yardsticks and again else None,
        peak_memory=peak_memory(),
        measured=tuple(dict.fromkeys(o.metric for o in problem.objectives if o.device is not None)),
    )


def _network_step(problem: Problem, architecture: tuple[str | int | float | bool, ...]) -> float:
    model = problem.space.build(architecture)
    return _step(problem, model, model)


def _supernet_step(problem: Problem) -> tuple[float, int]:
    supernet = problem.space.supernet()
    mixture = [w.to(problem.compute) for w in mixtures.uniform(problem.space.decisions)]
    return _step(problem, supernet, lambda x: supernet(x, mixture)), count_parameters(supernet)


def _step(problem: Problem, model: nn.Module, forward: Callable[[Tensor], Tensor]) -> float:
    """Median seconds of a training step, after one that does not count."""
    model.to(problem.compute).train()
    parameters = list(model.parameters())
    if not parameters:
        return 0.0
    optimiser = training.optimizer(parameters, problem.recipe, training.transforms(model))
    generator = torch.Generator().manual_seed(problem.seed)
    x, y = next(training.batches(problem.task, "train", problem.recipe, generator, problem.compute))
    times = []
    for _ in range(_STEPS + 1):
        start = time.perf_counter()
        optimiser.zero_grad()
        loss = problem.task.loss(forward(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if problem.compute.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
