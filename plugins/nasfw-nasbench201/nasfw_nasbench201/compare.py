"""Strategies against each other and against the best network there is, over seeds, in lookups."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nasfw
from nasfw_nasbench201.cells import indices
from nasfw_nasbench201.objectives import Accuracy
from nasfw_nasbench201.tables import load
from nasfw_nasbench201.task import NasBench201

STRATEGIES = ("random", "evolution", "asha")


@dataclass(frozen=True)
class Outcome:
    """What a search found: per cent of its pick and what these lack to the best of all networks.

    ``evaluations`` and ``epochs`` count what was spent, ``seconds`` what the whole run took. There is no test
    accuracy where the table has none.
    """

    strategy: str
    validated: float
    regret: float
    test: float | None
    test_regret: float | None
    evaluations: int
    epochs: int
    seconds: float


def compare(
    task: NasBench201, strategies: Sequence[str], evaluations: int, seeds: Iterable[int]
) -> Iterator[Outcome]:
    """Search ``task`` by each strategy with each seed, all with as many epochs of training.

    These are ``evaluations`` trainings of the longest known validation accuracy. ASHA needs two lengths: its
    rungs are the shortest and the longest, and their ratio is how many it chooses one of.
    """
    settings = {name: _settings(task, name, evaluations) for name in strategies}
    for seed in seeds:
        for name in strategies:
            yield _search(task, name, settings[name], evaluations, seed)


def _settings(task: NasBench201, name: str, evaluations: int) -> dict[str, Any]:
    if name != "asha":
        return {"trials": evaluations}
    known = load(task.file).epochs("valid", task.dataset)
    if len(known) < 2:
        raise nasfw.UsageError(
            f"asha needs validation accuracies after two numbers of epochs, and {load(task.file).name} has "
            f"them after {known[0]}; join two tables with python -m nasfw_nasbench201 merge"
        )
    eta = known[-1] // known[0]
    trials = int(evaluations * known[-1] / (known[0] + known[-1] / eta))
    return {"trials": trials, "eta": eta, "min_epochs": known[0], "max_epochs": known[-1]}


def _search(task: NasBench201, name: str, settings: dict[str, Any], evaluations: int, seed: int) -> Outcome:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        nasfw.run(
            task=task,
            spaces="nasbench201",
            strategy={name: settings},
            objectives=[Accuracy()],
            final=False,
            yardsticks=[],
            effort=None,
            compute="cpu",
            seed=seed,
            folder=folder,
        )
        lines = (folder / "records.jsonl").read_text().splitlines()
    seconds = time.perf_counter() - start
    longest = task.recipe.epochs
    records = _within([nasfw.Record.from_json(line) for line in lines], evaluations * longest)
    best = max((r for r in records if r.recipe.epochs == longest), key=lambda r: r.values["accuracy"])
    validated, regret = _found(task, f"valid_acc_{longest}", best)
    test = test_regret = None
    if tested := load(task.file).epochs("test", task.dataset):
        test, test_regret = _found(task, f"test_acc_{tested[-1]}", best)
    return Outcome(
        strategy=name,
        validated=validated,
        regret=regret,
        test=test,
        test_regret=test_regret,
        evaluations=len(records),
        epochs=sum(r.recipe.epochs for r in records),
        seconds=seconds,
    )


def _within(records: Sequence[nasfw.Record], epochs: int) -> list[nasfw.Record]:
    """The first ones, as far as the epochs go."""
    spent = np.cumsum([r.recipe.epochs for r in records])
    return list(records[: int(np.searchsorted(spent, epochs, side="right"))])


def _found(task: NasBench201, column: str, record: nasfw.Record) -> tuple[float, float]:
    """The record's per cent in a column of the table, and what it lacks to the highest."""
    values = load(task.file).columns[column, task.dataset]
    found = values[indices()[record.architecture]]
    return found, max(values) - found


def report(outcomes: Sequence[Outcome]) -> str:
    """The medians by strategy, as a table."""
    header = "strategy    validated  regret   test     regret  evaluations  epochs  s per run"
    rows = [header]
    for name in dict.fromkeys(o.strategy for o in outcomes):
        own = [o for o in outcomes if o.strategy == name]
        columns = [
            _median([o.validated for o in own], "9.2f"),
            _median([o.regret for o in own], "7.3f"),
            _median([o.test for o in own], "7.2f"),
            _median([o.test_regret for o in own], "8.3f"),
            _median([o.evaluations for o in own], "12.0f"),
            _median([o.epochs for o in own], "8.0f"),
            _median([o.seconds for o in own], "10.2f"),
        ]
        rows.append(f"{name:11} " + " ".join(columns))
    return "\n".join(rows)


def _median(values: Sequence[float | None], form: str) -> str:
    known = [v for v in values if v is not None]
    width = int(form.partition(".")[0])
    return format(float(np.median(known)), form) if known else "-".rjust(width)
