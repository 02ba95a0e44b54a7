"""From settings to a finished folder: resolve plugins, check everything, search, train the front, compare."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from nasfw import engine, results, training
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
from nasfw.text import loads

log = logging.getLogger("nasfw")

RUNS = Path("runs")
_RESULT = "result.json"

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
        folder = choose_folder(self) if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not (folder / _RESULT).exists():
                self._start(folder)
                with Records(folder / RECORDS, write=True) as records:
                    passes = {label: self._search(label, folder, records) for label in self.spaces}
                    chosen = self._finish(folder, records)
                if chosen and "random" in self.settings.yardsticks:
                    self._random(folder, passes)
                outcome = results.read(folder)
                _write(folder / _RESULT, json.dumps(outcome.plain_data(), indent=1))
            return results.read(folder)

    def _start(self, folder: Path) -> None:
        _write(folder / SETTINGS, dumps(self.settings.plain()))
        environment = {
            **machine.environment(),
            "seed": self.settings.seed,
            "threads": torch.get_num_threads(),
        }
        _write(folder / "env.json", json.dumps(environment, indent=1))
        self.summary().write(folder)
        _link(folder)

    def summary(self) -> Summary:
        """What the folder needs to keep for its reader."""
        return Summary(
            task=name_of(self.settings.task),
            strategy=name_of(self.settings.strategy),
            compute=machine.compute_name(self.compute),
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
        budget = engine.Budget(
            trials=_share(self.settings.budget.trials, len(self.spaces)),
            seconds=_share(self.settings.budget.seconds, len(self.spaces)),
        )
        problem = self.problem(label, folder)
        engine.search(problem, label, self.strategy, records, self.executor, budget)
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
            engine.finish(self.problem(label, folder), label, trials, records, self.executor)
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
                problem = self.problem(label, place)
                strategy = RandomSearch(trials)
                engine.search(problem, f"{label}", strategy, records, self.executor, engine.Budget())
            best = finalists(records.select("search"), [o.reading for o in self.objectives], 1)[0]
            trials_ = list(self._final(best.architecture, best.recipe))
            engine.finish(self.problem(best.space, place), best.space, trials_, records, self.executor)


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
    if settings.effort is not None and "epochs" not in settings.recipe and any(o.trained for o in objectives):
        recipe = affordable(recipe, task, next(iter(spaces.values())), settings.effort)
    fingerprint = getattr(task, "fingerprint", None)
    data = fingerprint() if callable(fingerprint) else ""
    experiment = Experiment(settings, task, spaces, strategy, objectives, executor, compute, recipe, data)
    check_folder(experiment)
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


def name_of(spec: Any) -> str:
    """The name of a plugin: as registered, or its class's where Python gave an object."""
    return spec.name if isinstance(spec, Spec) else type(spec).__name__.lower()


def labelled(specs: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Each space with its name in records: numbered from the second one of a name."""
    seen: dict[str, int] = {}
    for spec in specs:
        name = name_of(spec)
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


def affordable(recipe: Recipe, task: Task, space: SearchSpace, effort: float) -> Recipe:
    """``recipe`` with as many epochs of the plain backbone as a fixed amount of work allows.

    At least 8 and at most 60 epochs; where 8 are too many, they use a fraction of the batches. The work is
    modelled, not timed, so that every machine trains equally long; ``effort`` multiplies it.
    """
    flops = forward_flops(space.build(space.default), task.input_shape)
    step = _STEP_SECONDS + 3 * flops * recipe.batch_size / _FLOPS_PER_SECOND
    steps = max(1, math.ceil(task.size("train") / recipe.batch_size))
    fit = effort * _SECONDS_PER_TRAINING / (step * steps)
    low, high = _EPOCHS
    fraction = 1.0 if fit >= low else max(fit / low, 1 / steps)
    return replace(recipe, epochs=int(min(max(fit, low), high * max(1.0, effort))), fraction=fraction)


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


def choose_folder(experiment: Experiment) -> Path:
    """The run's folder: the one asked for, an unfinished one of the same settings, or a new one."""
    settings = experiment.settings
    if settings.folder is not None:
        folder = Path(settings.folder)
    else:
        unfinished = _unfinished(experiment)
        if unfinished is not None:
            log.info("going on with the unfinished run in %s", unfinished)
            return unfinished
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        spaces = "+".join(name_of(s) for s in settings.spaces)
        name = f"{now}-{name_of(settings.task)}-{spaces}-{name_of(settings.strategy)}"
        folder = RUNS / name
        while folder.exists():
            folder = folder.with_name(folder.name + "+")
    return folder


def _unfinished(experiment: Experiment) -> Path | None:
    for path in sorted(RUNS.glob(f"*/{SETTINGS}"), reverse=True):
        folder = path.parent
        if folder.is_symlink() or (folder / _RESULT).exists():
            continue
        try:
            if not _differences(experiment, folder) and not _busy(folder):
                return folder
        except UsageError:
            continue
    return None


def check_folder(experiment: Experiment) -> None:
    """UsageError if the folder asked for holds another run or other things, or cannot be written."""
    if experiment.settings.folder is None:
        return
    folder = Path(experiment.settings.folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"folder={folder} is a file; name a folder")
    if (folder / SETTINGS).exists():
        differences = _differences(experiment, folder)
        if differences:
            raise UsageError(
                f"folder={folder} holds another run ({'; '.join(differences)}); name another folder, or repeat "
                "that run's command"
            )
    elif folder.exists() and any(p.name != ".lock" for p in folder.iterdir()):
        raise UsageError(f"folder={folder} is not empty and holds no run; name another folder")
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    probe = nearest / ".nasfw-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as reason:
        raise UsageError(f"folder={folder} cannot be written: {reason.strerror}") from None


def _differences(experiment: Experiment, folder: Path) -> list[str]:
    """What tells the run in ``folder`` from this one, in words; nothing if they are the same."""
    try:
        there = loads((folder / SETTINGS).read_text(), str(folder / SETTINGS))
    except OSError as reason:
        raise UsageError(f"{folder / SETTINGS} cannot be read: {reason}") from None
    here = loads(dumps(experiment.settings.plain()), "these settings")
    there, here = _flat(there), _flat(here)
    found = [
        f"{name} is {there.get(name)} there and {here.get(name)} here"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name) and name != "folder"
    ]
    if not found and (folder / results.SUMMARY).exists():
        data = Summary.read(folder).data
        if data != experiment.data:
            found = ["the task's data have changed"]
    return found[:4]


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {
        name: value
        for key, part in content.items()
        for name, value in _flat(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise UsageError(f"another process is running in {folder}") from None


def _busy(folder: Path) -> bool:
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text)
    scratch.replace(path)


def _link(folder: Path) -> None:
    if folder.parent.name != RUNS.name:
        return
    latest = folder.parent / "latest"
    try:
        latest.unlink(missing_ok=True)
        latest.symlink_to(folder.name, target_is_directory=True)
    except OSError as reason:
        # Some systems keep links for administrators; the run does not need it.
        log.info("runs/latest was not set: %s", reason)


def _share(total: Any, parts: int) -> Any:
    return None if total is None else max(1, total // parts) if isinstance(total, int) else total / parts
