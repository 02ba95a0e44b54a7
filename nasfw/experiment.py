"""From settings to a finished folder: resolve plugins, check everything, search, train the front, compare."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nasfw import engine, folders, results, training
from nasfw.config import Final, Settings, Spec, dumps
from nasfw.contracts import (
    Candidate,
    Device,
    Executor,
    Objective,
    Problem,
    Recipe,
    Record,
    SearchSpace,
    Strategy,
    Task,
    Trial,
    UsageError,
)
from nasfw.hardware import machine
from nasfw.objectives.size import forward_flops
from nasfw.plugins import Registry
from nasfw.records import Records, finalists
from nasfw.results import RANDOM, RECORDS, SETTINGS, Result, Summary
from nasfw.strategies.random import RandomSearch

log = logging.getLogger("nasfw")

# Below this many operations in a training step, threads cost more than they bring.
_THREADS_FROM = 2e9

# The quick preset's clock: a deterministic model of a step on two laptop cores, so that the same command trains
# equally long on every machine and a killed run goes on as it began.
_SECONDS_PER_TRAINING = 3.0
_STEP_SECONDS = 0.008
_FLOPS_PER_SECOND = 4e10
_EPOCHS = (8, 60)


@dataclass(frozen=True)
class Experiment:
    """A run whose every part exists and was tried on one batch; nothing is on the disk yet."""

    settings: Settings
    task: Task
    spaces: Mapping[str, SearchSpace]
    strategy: Strategy
    objectives: Sequence[Objective]
    executor: Executor
    compute: str
    recipe: Recipe
    data: str
    threads: int

    def problem(self, label: str, folder: Path) -> Problem:
        """The problem of searching one of the spaces in ``folder``."""
        seed, compute = self.settings.seed, self.compute
        place = folder / label
        return Problem(self.spaces[label], self.task, self.objectives, self.recipe, seed, place, compute)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the final trainings."""
        return tuple(self.settings.seed + i for i in range(self.final.seeds))

    @property
    def final(self) -> Final:
        """How the front is trained again, also where it is not."""
        return self.settings.final or Final()

    def run(self, folder: Path | None = None) -> Result:
        """Search, train the front and the yardsticks, and read the outcome; goes on where a run stopped."""
        folder = folders.choose(self.settings, self.data) if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        with folders.locked(folder), threads(self.threads):
            if not (folder / folders.RESULT).exists():
                self._start(folder)
                with Records(folder / RECORDS, write=True) as records:
                    passes = {label: self._search(label, folder, records) for label in self.spaces}
                    chosen = self._finish(folder, records)
                if chosen and "random" in self.settings.yardsticks:
                    self._random(folder, passes)
                outcome = results.read(folder)
                folders.write(folder / folders.RESULT, json.dumps(outcome.plain_data(), indent=1))
            return results.read(folder)

    def _start(self, folder: Path) -> None:
        folders.write(folder / SETTINGS, dumps(self.settings.plain()))
        environment = {
            **machine.environment(),
            "seed": self.settings.seed,
            "threads": torch.get_num_threads(),
        }
        folders.write(folder / "env.json", json.dumps(environment, indent=1))
        self.summary().write(folder)
        folders.link(folder)

    def summary(self) -> Summary:
        """What the folder needs to keep for its reader."""
        return Summary(
            task=folders.name_of(self.settings.task),
            strategy=folders.name_of(self.settings.strategy),
            compute=machine.compute_name(self.compute, self.threads),
            measures=tuple(o.reading for o in self.objectives),
            defaults={
                label: dict(zip(s.decisions, s.default, strict=True)) for label, s in self.spaces.items()
            },
            seeds=self.seeds,
            limit=self.final.limit,
            final=self.settings.final is not None,
            data=self.data,
        )

    def _search(self, label: str, folder: Path, records: Records) -> float:
        """Search one space; how many passes over the training split that took."""
        budget = engine.Budget(
            trials=_share(self.settings.budget.trials, len(self.spaces)),
            seconds=_share(self.settings.budget.seconds, len(self.spaces)),
        )
        return self._timed(label, folder, self.strategy, records, budget, f"search in {label}")

    def _timed(
        self,
        label: str,
        folder: Path,
        strategy: Strategy,
        records: Records,
        budget: engine.Budget,
        title: str,
    ) -> float:
        problem = self.problem(label, folder)
        resumed = problem.folder.exists()
        problem.folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        engine.search(problem, label, strategy, records, self.executor, budget, title)
        spent = problem.folder / results.SPENT
        if not spent.exists():
            seconds = None if resumed else time.perf_counter() - start
            folders.write(spent, json.dumps({"passes": budget.passes, "seconds": seconds}))
        return budget.passes

    def _finish(self, folder: Path, records: Records) -> list[Record]:
        """Train the finalists and, by the best one's recipe, the plain backbone of its space."""
        if self.settings.final is None:
            return []
        measures = [o.reading for o in self.objectives]
        chosen = finalists(records.select("search"), measures, self.final.limit)
        for label, space in self.spaces.items():
            trials = [t for r in chosen if r.space == label for t in self._final(r.architecture, r.recipe)]
            if "plain" in self.settings.yardsticks and chosen[0].space == label:
                trials += self._final(space.default, chosen[0].recipe)
            trials = list({t.key: t for t in trials}.values())
            engine.finish(
                self.problem(label, folder), label, trials, records, self.executor, "final trainings"
            )
        return chosen

    def _final(self, architecture: tuple[Any, ...], recipe: Recipe) -> Iterator[Trial]:
        epochs = self.final.epochs or self.recipe.epochs
        for seed in self.seeds:
            yield Trial(
                architecture, replace(recipe, epochs=epochs, fraction=self.recipe.fraction, seed=seed)
            )

    def _random(self, folder: Path, passes: Mapping[str, float]) -> None:
        """Random search with as many training passes as the search used, and its best network's training."""
        if isinstance(self.strategy, RandomSearch):
            return
        place = folder / RANDOM
        place.mkdir(exist_ok=True)
        with Records(place / RECORDS, write=True) as records:
            for label in self.spaces:
                trials = max(1, round(passes[label] / max(self.recipe.passes, 1e-9)))
                title = f"random search in {label}"
                self._timed(label, place, RandomSearch(trials), records, engine.Budget(), title)
            best = finalists(records.select("search"), [o.reading for o in self.objectives], 1)[0]
            again = list(self._final(best.architecture, best.recipe))
            problem = self.problem(best.space, place)
            engine.finish(problem, best.space, again, records, self.executor, "random search's best")


def prepare(settings: Settings, registry: Registry) -> Experiment:
    """Make every plugin and try the plain backbone on one batch; UsageError if anything cannot work."""
    compute = _compute(settings.compute)
    task: Task = registry.make("task", settings.task)
    executor: Executor = registry.make("executor", settings.executor)
    devices: list[Device] = [registry.make("device", d) for d in settings.hardware]
    objectives = _objectives(settings.objectives, registry, task, devices)
    spaces = {label: registry.make("space", spec, task=task) for label, spec in labelled(settings.spaces)}
    strategy: Strategy = registry.make("strategy", settings.strategy)
    recipe = replace(task.recipe, **settings.recipe)
    count = torch.get_num_threads()
    if any(o.trained for o in objectives):
        space = next(iter(spaces.values()))
        flops = 3 * forward_flops(space.build(space.default), task.input_shape) * recipe.batch_size
        if settings.effort is not None and "epochs" not in settings.recipe:
            recipe = affordable(recipe, task.size("train"), flops, settings.effort)
        count = count if flops >= _THREADS_FROM else 1
    fingerprint = getattr(task, "fingerprint", None)
    data = fingerprint() if callable(fingerprint) else ""
    experiment = Experiment(
        settings, task, spaces, strategy, objectives, executor, compute, recipe, data, count
    )
    folders.check(settings, data)
    for label in spaces:
        preflight(experiment.problem(label, Path()))
    return experiment


def _compute(name: str) -> str:
    cards = torch.cuda.device_count()
    if name == "auto":
        return "cuda:0" if cards else "cpu"
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        return name
    if kind == "cuda" and (index.isdigit() or not index) and int(index or 0) < cards:
        return name if index else "cuda:0"
    possible = ["auto", "cpu", *(f"cuda:{i}" for i in range(cards))]
    raise UsageError(f"compute={name} is not possible here; possible: {', '.join(possible)}")


def labelled(specs: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Each space with its name in records: numbered from the second one of a name."""
    seen: dict[str, int] = {}
    for spec in specs:
        name = folders.name_of(spec)
        seen[name] = seen.get(name, 0) + 1
        yield name + (str(seen[name]) if seen[name] > 1 else ""), spec


def _objectives(
    specs: Sequence[Any] | None, registry: Registry, task: Task, devices: Sequence[Device]
) -> list[Objective]:
    """One objective per spec, or per spec and device; those of trained networks first."""
    if specs is None:
        specs = [Spec("accuracy" if task.metric == "error" else "error", {}), Spec("parameters", {})]
    made: list[Objective] = []
    for spec in specs:
        named = isinstance(spec, Spec)
        fields = dataclasses.fields(registry.find("objective", spec.name).load()) if named else ()
        if not any(f.name == "device" for f in fields):
            made.append(registry.make("objective", spec, task=task))
            continue
        if not devices:
            raise UsageError(f"objective {spec.name} is measured on devices; name them with hardware=[...]")
        made += [registry.make("objective", spec, task=task, device=d) for d in devices]
    names = [o.name for o in made]
    double = sorted({n for n in names if names.count(n) > 1})
    if double:
        raise UsageError(f"objectives {', '.join(double)} are given twice")
    return sorted(made, key=lambda o: not o.trained)


def affordable(recipe: Recipe, samples: int, flops: float, effort: float) -> Recipe:
    """``recipe`` with as many epochs over ``samples`` as a fixed amount of work allows.

    ``flops`` is the work of one step of the plain backbone. At least 8 and at most 60 epochs; where 8 are too
    many, they use a fraction of the batches. The work is modelled, not timed, so that every machine trains
    equally long; ``effort`` multiplies it.
    """
    step = _STEP_SECONDS + flops / _FLOPS_PER_SECOND
    steps = max(1, math.ceil(samples / recipe.batch_size))
    fit = effort * _SECONDS_PER_TRAINING / (step * steps)
    low, high = _EPOCHS
    fraction = 1.0 if fit >= low else max(fit / low, 1 / steps)
    return replace(recipe, epochs=int(min(max(fit, low), high * max(1.0, effort))), fraction=fraction)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside."""
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def preflight(problem: Problem) -> None:
    """Put the plain backbone through one batch and every objective once, before any long work starts."""
    space, task = problem.space, problem.task
    with engine.seeded(problem.seed):
        candidate = Candidate(space, task, space.default, "valid", compute=problem.compute)
        if any(o.trained for o in problem.objectives):
            generator = torch.Generator().manual_seed(problem.seed)
            batches = training.batches(task, "train", problem.recipe, generator, problem.compute)
            x, y = next(iter(batches))
            with torch.no_grad():
                output = candidate.model(x)
            expected = (len(x), *task.output_shape)
            if tuple(output.shape) != expected:
                raise UsageError(
                    f"the backbone turns inputs of shape {tuple(x.shape)} into outputs of shape "
                    f"{tuple(output.shape)}; the task needs {expected}"
                )
            task.loss(output, y)
        for objective in problem.objectives:
            objective.measure(candidate)


def _share(total: Any, parts: int) -> Any:
    return None if total is None else max(1, total // parts) if isinstance(total, int) else total / parts
