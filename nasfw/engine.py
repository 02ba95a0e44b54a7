"""The engine: has trials trained and measured, keeps their records, and trains the front a second time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from operator import length_hint

from nasfw import progress
from nasfw.contracts import Diverged, Executor, Job, Measured, Problem, Record, Strategy, Trial, UsageError
from nasfw.records import Records
from nasfw.trials import Setting, evaluate_trial, keep, network_file, seeded

__all__ = [
    "Budget",
    "Evaluator",
    "Setting",
    "evaluate_trial",
    "finish",
    "keep",
    "network_file",
    "search",
    "seeded",
]

log = logging.getLogger("nasfw")


@dataclass
class Budget:
    """How much a search may use. ``passes`` counts training, in passes over the training split."""

    trials: int | None = None
    seconds: float | None = None
    passes: float = 0.0
    drawn: int = 0
    started: float = field(default_factory=time.perf_counter)

    def left(self) -> bool:
        """Whether neither the trials nor the seconds are used up."""
        over = self.seconds is not None and time.perf_counter() - self.started >= self.seconds
        return not over and (self.trials is None or self.drawn < self.trials)

    def open(self) -> bool:
        """Whether another trial may start: always a first one, or time spent on a supernet gives nothing."""
        return self.left() or (self.drawn == 0 and self.trials != 0)


@dataclass
class Evaluator:
    """Answers trials from the records, and has an executor run the others."""

    setting: Setting
    records: Records
    executor: Executor
    budget: Budget
    title: str = "trials"
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
        return self.budget.left()

    def _run(self, trials: Iterable[Trial], total: int) -> Iterator[Record]:
        units = {o.name: o.unit for o in self.setting.objectives}
        with progress.track(f"{self.title}: networks", total, units=units) as bar:
            for record in self.executor.run(self._job(trial, total) for trial in trials):
                known = self.records.find(record.phase, record.space, record.key)
                if known is None:
                    known = self._settled(record)
                    self.records.append(known)
                    _report(known)
                self.setting.checkpoint(known.key).unlink(missing_ok=True)
                self._learn(known)
                bar.advance(1, **known.values)
                yield known

    def _job(self, trial: Trial, total: int) -> Job:
        self.budget.drawn += 1
        self.budget.passes += trial.recipe.passes
        known = self.records.find(self.setting.phase, self.setting.label, trial.key)
        if known is not None:
            return partial(_answer, known)
        of = f" of {total}" if total else ""
        label = f"{self.title}: network {self.budget.drawn}{of}"
        properties = self.properties.get(trial.architecture, {})
        return partial(evaluate_trial, self.setting, trial, properties, label)

    def _settled(self, record: Record) -> Record:
        """``record`` with what another trial of its architecture measured while this one ran."""
        properties = self.properties.get(record.architecture)
        if record.error is not None or not properties:
            return record
        details = {n: v.details for n, v in properties.items() if isinstance(v, Measured)}
        return replace(
            record,
            values={**record.values, **{n: float(v) for n, v in properties.items()}},
            measured={**record.measured, **details},
        )

    def _learn(self, record: Record) -> None:
        if record.error is None and record.architecture not in self.properties:
            self.properties[record.architecture] = {
                o.name: record.value(o.name) for o in self.setting.objectives if o.fixed
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
    problem: Problem,
    label: str,
    strategy: Strategy,
    records: Records,
    executor: Executor,
    budget: Budget,
    title: str = "search",
) -> None:
    """Let ``strategy`` search ``problem``; progress is shown under ``title``.

    UsageError with the first reason if every trial failed or the strategy's own training diverged.
    """
    setting = Setting(
        problem.space, label, problem.task, problem.objectives, "search", problem.folder, problem.compute
    )
    try:
        with seeded(problem.seed):
            strategy.search(problem, Evaluator(setting, records, executor, budget, title))
    except Diverged as loss:
        raise UsageError(f"the search in {label} diverged: {loss}; try a smaller recipe.lr") from loss
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
    title: str = "final",
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
    return Evaluator(setting, records, executor, Budget(), title)(trials)
