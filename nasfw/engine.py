"""The engine: has trials trained and measured, keeps their records, and trains the front a second time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from operator import length_hint
from pathlib import Path

import torch
from safetensors.torch import save_file

from nasfw import training
from nasfw.contracts import (
    Candidate,
    Diverged,
    Executor,
    Job,
    Objective,
    Phase,
    Problem,
    Record,
    SearchSpace,
    Split,
    Strategy,
    Task,
    Trial,
    UsageError,
)
from nasfw.records import Records

log = logging.getLogger("nasfw")

_SPLITS: Mapping[Phase, tuple[Split, Split]] = {"search": ("train", "valid"), "final": ("full", "test")}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generators start from ``seed`` inside, and go on undisturbed outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Setting:
    """Everything but the trial that decides what a record will say."""

    space: SearchSpace
    label: str
    task: Task
    objectives: Sequence[Objective]
    phase: Phase
    folder: Path
    compute: str

    def checkpoint(self, key: str) -> Path:
        """Where a training of this trial keeps its state while it lasts."""
        return self.folder / "checkpoints" / f"{self.phase}-{key}.pt"


def evaluate_trial(setting: Setting, trial: Trial, known: Mapping[str, float], label: str) -> Record:
    """Build, train and measure one trial; ``known`` values are not measured again.

    Running out of memory and a loss that is not finite make a failed record; anything else is a bug and is
    raised. Nothing is built if no objective needs it.
    """
    start = time.perf_counter()
    learn, judge = _SPLITS[setting.phase]
    candidate = Candidate(
        setting.space, setting.task, trial.architecture, judge, trial.weights, setting.compute
    )
    values, error = dict(known), None
    try:
        with seeded(trial.recipe.seed):
            if any(o.trained for o in setting.objectives):
                model = candidate.model
                checkpoint = setting.checkpoint(trial.key)
                training.fit(model, setting.task, trial.recipe, learn, setting.compute, checkpoint, label)
                model.eval()
            for objective in setting.objectives:
                if objective.name not in values:
                    values[objective.name] = _finite(objective, candidate)
    except (Diverged, MemoryError, torch.OutOfMemoryError) as reason:
        error = str(reason) or "out of memory"
    except RuntimeError as reason:
        # torch has no exception of its own for a CPU allocation that fails.
        if "allocate memory" not in str(reason):
            raise
        error = f"out of memory: {reason}"
    if setting.phase == "final" and error is None and any(o.trained for o in setting.objectives):
        keep(candidate.model, network_file(setting.folder, trial.key))
    return Record(
        key=trial.key,
        phase=setting.phase,
        space=setting.label,
        choices=dict(zip(setting.space.decisions, trial.architecture, strict=True)),
        recipe=trial.recipe,
        inherited=trial.weights is not None,
        values={} if error else values,
        seconds=time.perf_counter() - start,
        error=error,
    )


def _finite(objective: Objective, candidate: Candidate) -> float:
    value = float(objective.measure(candidate))
    if not math.isfinite(value):
        raise Diverged(f"objective {objective.name} gave {value}")
    return value


def network_file(folder: Path, key: str) -> Path:
    """Where the trained weights of a final record are, below the folder of its space."""
    return folder / "networks" / f"{key}.safetensors"


def keep(model: torch.nn.Module, path: Path) -> None:
    """Write the state of ``model`` to ``path``, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    # Two names may share one tensor, which the format does not know.
    save_file({name: value.detach().cpu().clone() for name, value in model.state_dict().items()}, scratch)
    scratch.replace(path)


@dataclass
class Budget:
    """How much a search may use. ``passes`` counts training, in passes over the training split."""

    trials: int | None = None
    seconds: float | None = None
    passes: float = 0.0
    drawn: int = 0
    started: float = field(default_factory=time.perf_counter)

    def open(self) -> bool:
        """Whether another trial may start."""
        over = self.seconds is not None and time.perf_counter() - self.started >= self.seconds
        return not over and (self.trials is None or self.drawn < self.trials)


@dataclass
class Evaluator:
    """Answers trials from the records, and has an executor run the others."""

    setting: Setting
    records: Records
    executor: Executor
    budget: Budget
    properties: dict[tuple[object, ...], Mapping[str, float]] = field(default_factory=dict)

    def __call__(self, trials: Iterable[Trial]) -> list[Record]:
        order: list[str] = []

        def noted() -> Iterator[Trial]:
            for trial in takewhile(lambda _: self.budget.open(), trials):
                order.append(trial.key)
                yield trial

        done = {r.key: r for r in self._run(noted(), length_hint(trials))}
        return [done[key] for key in order]

    def as_completed(self, trials: Iterable[Trial]) -> Iterator[Record]:
        # takewhile, not a filter: a filter would draw from an endless generator for ever.
        return self._run(takewhile(lambda _: self.budget.open(), trials), length_hint(trials))

    def spend(self, passes: float) -> bool:
        self.budget.passes += passes
        return self.budget.open()

    def _run(self, trials: Iterable[Trial], total: int) -> Iterator[Record]:
        for record in self.executor.run(self._job(trial, total) for trial in trials):
            known = self.records.find(record.phase, record.space, record.key)
            self._learn(record)
            if known is None:
                self.records.append(record)
                self.setting.checkpoint(record.key).unlink(missing_ok=True)
                _report(record)
            yield record

    def _job(self, trial: Trial, total: int) -> Job:
        self.budget.drawn += 1
        self.budget.passes += trial.recipe.passes
        known = self.records.find(self.setting.phase, self.setting.label, trial.key)
        if known is not None:
            return partial(_answer, known)
        of = f" of {total}" if total else ""
        label = f"{self.setting.label} {self.setting.phase}: network {self.budget.drawn}{of}"
        properties = self.properties.get(trial.architecture, {})
        return partial(evaluate_trial, self.setting, trial, properties, label)

    def _learn(self, record: Record) -> None:
        if record.error is None and record.architecture not in self.properties:
            self.properties[record.architecture] = {
                o.name: record.values[o.name] for o in self.setting.objectives if not o.trained
            }


def _answer(record: Record) -> Record:
    return record


def _report(record: Record) -> None:
    figures = ", ".join(f"{name} {value:.6g}" for name, value in record.values.items())
    if record.error:
        log.warning("%s trial %s failed: %s", record.phase, record.key, record.error)
    else:
        log.info("%s trial %s: %s (%.1f s)", record.phase, record.key, figures, record.seconds)


def search(
    problem: Problem, label: str, strategy: Strategy, records: Records, executor: Executor, budget: Budget
) -> None:
    """Let ``strategy`` search ``problem``; UsageError with the first reason if every trial failed."""
    setting = Setting(
        problem.space, label, problem.task, problem.objectives, "search", problem.folder, problem.compute
    )
    with seeded(problem.seed):
        strategy.search(problem, Evaluator(setting, records, executor, budget))
    if not records.select("search", label):
        failures = [r.error for r in records if r.space == label and r.error]
        reason = f"the first one: {failures[0]}" if failures else "the strategy evaluated none"
        raise UsageError(f"no trial of the search in {label} succeeded; {reason}")


def finish(
    problem: Problem,
    label: str,
    trials: Iterable[Trial],
    records: Records,
    executor: Executor,
) -> list[Record]:
    """Train ``trials`` in the enlarged space on train and valid together and measure them on test."""
    setting = Setting(
        problem.space.enlarged(),
        label,
        problem.task,
        problem.objectives,
        "final",
        problem.folder,
        problem.compute,
    )
    return Evaluator(setting, records, executor, Budget())(trials)
