"""From settings to a finished folder: resolve plugins, check everything, search, train the front, compare."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nasfw import effort, engine, folders, results, training
from nasfw.config import Final, Settings, Spec, dumps
from nasfw.contracts import (
    Architecture,
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
    Unsupported,
    UsageError,
)
from nasfw.flops import count_layers, forward_flops
from nasfw.hardware import machine
from nasfw.plugins import Registry
from nasfw.records import Records, finalists
from nasfw.results import EXPORT, RANDOM, RECORDS, RESULT, SETTINGS, Result, Summary
from nasfw.strategies.random import RandomSearch
from nasfw.text import write

log = logging.getLogger("nasfw")


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

    def place(self) -> Path:
        """The folder to run in: the one asked for, an unfinished one of the same run, or a new one."""
        return folders.choose(self.settings, self.data, [o.name for o in self.objectives])

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
        folder = self.place() if folder is None else folder
        fresh = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with folders.locked(folder), threads(self.threads):
            if not results.done(folder):
                try:
                    self._work(folder)
                except UsageError as reason:
                    # Nothing in such a folder helps a second attempt, which will have other settings; but a
                    # device that is gone may come back, and then a supernet that is trained already helps.
                    comes_back = isinstance(reason, Unsupported) and any(folder.glob("*/checkpoints/*"))
                    if fresh and not comes_back and not Records(folder / RECORDS).select("search"):
                        folders.discard(folder)
                    raise
                outcome = results.read(folder)
                self._export(outcome)
                write(folder / RESULT, json.dumps(outcome.plain_data(), indent=1))
                return replace(outcome, done=True)
            return results.read(folder)

    def _work(self, folder: Path) -> None:
        self._start(folder)
        with Records(folder / RECORDS, write=True) as records:
            passes = {label: self._search(label, folder, records) for label in self.spaces}
            chosen = self._finish(folder, records)
        if chosen and "random" in self.yardsticks:
            try:
                self._random(folder, passes)
            except UsageError as reason:
                # What was found is worth more than what it is compared with.
                log.warning("there is no random search to compare with: %s", reason)

    def _export(self, outcome: Result) -> None:
        """Write the networks of the final phase so that they work without nasfw."""
        trained = any(o.trained for o in self.objectives)
        if not (self.settings.export and trained and outcome.phase == "final"):
            return
        # That module makes experiments of its own.
        from nasfw.shipping import export

        export.clear(outcome.folder / EXPORT)
        networks = results.finals(outcome.folder)
        try:
            export.export_networks(outcome, networks, self.spaces, self.task, again=False)
        except (UsageError, RuntimeError, OSError) as reason:
            # What was found is worth more than its packaging.
            log.warning("the networks were not exported: %s", reason)

    @property
    def yardsticks(self) -> tuple[str, ...]:
        """What the front is compared with; random search is not compared with itself."""
        alone = self.strategy.yardstick
        return tuple(y for y in self.settings.yardsticks if not (alone and y == "random"))

    def _start(self, folder: Path) -> None:
        write(folder / SETTINGS, dumps(self.settings.plain()))
        environment = {
            **machine.environment(),
            "seed": self.settings.seed,
            "threads": torch.get_num_threads(),
        }
        write(folder / "env.json", json.dumps(environment, indent=1))
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
            least=self.final.least,
            yardsticks=self.yardsticks,
            final=self.settings.final is not None,
            data=self.data,
            metric=self.task.metric,
            samples={split: self.task.size(split) for split in ("valid", "test")},
            devices={o.device.name: o.device.fingerprint for o in self.objectives if o.device is not None},
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
        spent = problem.folder / results.SPENT
        if spent.exists():
            former = json.loads(spent.read_text())
            # A search that a clock ended must not go on; one that lost a record must.
            if _searched(records, label) >= former["trials"]:
                return float(former["passes"])
        resumed = problem.folder.exists()
        problem.folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        engine.search(problem, label, strategy, records, self.executor, budget, title)
        if not spent.exists():
            took = {
                "passes": budget.passes,
                "seconds": None if resumed else time.perf_counter() - start,
                "trials": _searched(records, label),
            }
            write(spent, json.dumps(took))
        return budget.passes

    def _finish(self, folder: Path, records: Records) -> list[Record]:
        """Train the finalists and, by the best one's recipe, the plain backbone of its space."""
        if self.settings.final is None:
            return []
        measures = [o.reading for o in self.objectives]
        chosen = finalists(records.select("search"), measures, self.final.limit, self.final.least)
        for label, space in self.spaces.items():
            trials: list[Trial] = []
            for i, record in enumerate(chosen):
                if record.space == label:
                    # Only what is compared needs the spread over seeds.
                    seeds = self.seeds if i == 0 else self.seeds[:1]
                    trials += self._final(record.architecture, record, seeds)
            if "plain" in self.settings.yardsticks and chosen[0].space == label:
                trials += self._final(space.default, chosen[0], self.seeds)
            trials = list({t.key: t for t in trials}.values())
            engine.finish(
                self.problem(label, folder), label, trials, records, self.executor, "final trainings"
            )
        return chosen

    def _final(self, architecture: Architecture, record: Record, seeds: Sequence[int]) -> Iterator[Trial]:
        """Trainings by the recipe of ``record``, if that is one for a training from scratch."""
        # Weights that are trained already are trained further at rates that fresh ones learn little by.
        recipe = self.recipe if record.inherited else record.recipe
        epochs = self.final.epochs or self.recipe.epochs
        for seed in seeds:
            yield Trial(
                architecture, replace(recipe, epochs=epochs, fraction=self.recipe.fraction, seed=seed)
            )

    def _random(self, folder: Path, passes: Mapping[str, float]) -> None:
        """Random search with as many training passes as the search used, and its best network's training."""
        place = folder / RANDOM
        place.mkdir(exist_ok=True)
        with Records(place / RECORDS, write=True) as records:
            for label in self.spaces:
                trials = max(1, round(passes[label] / self.recipe.passes)) if self.recipe.passes else 1
                title = f"random search in {label}"
                self._timed(label, place, RandomSearch(trials), records, engine.Budget(), title)
            best = finalists(records.select("search"), [o.reading for o in self.objectives], 1)[0]
            again = list(self._final(best.architecture, best, self.seeds))
            problem = self.problem(best.space, place)
            engine.finish(problem, best.space, again, records, self.executor, "random search's best")


def _searched(records: Records, label: str) -> int:
    return sum(r.phase == "search" and r.space == label for r in records)


def prepare(settings: Settings, registry: Registry) -> Experiment:
    """Make every plugin and try the plain backbone on one batch; UsageError if anything cannot work."""
    compute = _compute(settings.compute)
    folders.check_place(settings)
    task: Task = registry.make("task", settings.task)
    executor: Executor = registry.make("executor", settings.executor)
    devices: list[Device] = [registry.make("device", d) for d in settings.hardware]
    objectives = _objectives(settings.objectives, registry, task, devices)
    # Where nothing is trained there is no time to save.
    trained = any(o.trained for o in objectives)
    spaces = make_spaces(settings if trained else replace(settings, effort=None), registry, task)
    strategy: Strategy = registry.make("strategy", settings.strategy)
    recipe, count = replace(task.recipe, **settings.recipe), torch.get_num_threads()
    if trained:
        space = next(iter(spaces.values()))
        plain = space.build(space.default)
        flops, layers = forward_flops(plain, task.input_shape), count_layers(plain)
        if settings.effort is not None and "epochs" not in settings.recipe:
            recipe = effort.affordable(recipe, task.size("train"), flops, settings.effort, layers)
        count = effort.threads(count, flops, recipe.batch_size)
    fingerprint = getattr(task, "fingerprint", None)
    data = fingerprint() if callable(fingerprint) else ""
    experiment = Experiment(
        settings, task, spaces, strategy, objectives, executor, compute, recipe, data, count
    )
    folders.check_same(settings, data, [o.name for o in objectives])
    for label in spaces:
        preflight(experiment.problem(label, Path()), strategy)
    return experiment


def make_spaces(settings: Settings, registry: Registry, task: Task) -> dict[str, SearchSpace]:
    """The spaces by their names in records, in the size that the run's effort allows."""
    spaces = {}
    for label, spec in labelled(settings.spaces):
        space: SearchSpace = registry.make("space", spec, task=task)
        if settings.effort is not None:
            space = space.reduced(effort.size_limit(task.size("train"), settings.effort))
        spaces[label] = space
    return spaces


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
        return _default_objectives(registry, task, devices)
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
        raise UsageError(f"{', '.join(double)}: such an objective is given twice")
    return sorted(made, key=lambda o: o.fixed)


def _default_objectives(registry: Registry, task: Task, devices: Sequence[Device]) -> list[Objective]:
    """The quality, then latency on every device that measures it, and energy where it can be measured now.

    The number of parameters if no device measures either.
    """
    quality = registry.make("objective", "accuracy" if task.metric == "error" else "error", task=task)
    costs = []
    for device in devices:
        if "latency" in device.metrics:
            costs.append(registry.make("objective", "latency", task=task, device=device))
        with suppress(Unsupported):
            device.check("energy")
            costs.append(registry.make("objective", "energy", task=task, device=device))
    return [quality, *(costs or [registry.make("objective", "parameters", task=task)])]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside."""
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def preflight(problem: Problem, strategy: Strategy) -> None:
    """Put the plain backbone through one batch and every objective once, before any long work starts.

    UsageError if it fails, or if the strategy cannot work on the problem.
    """
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
        strategy.check(problem)
        for objective in problem.objectives:
            objective.measure(candidate)


def _share(total: Any, parts: int) -> Any:
    return None if total is None else max(1, total // parts) if isinstance(total, int) else total / parts
