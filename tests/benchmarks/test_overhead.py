"""What the framework itself costs: trials that train nothing, and folders with many records.

    pytest tests/benchmarks -m "" --benchmark-enable --benchmark-json=overhead.json

The figures of interest are in ``extra_info``.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from torch import nn

from nasfw import results
from nasfw.contracts import Architecture, Executor, Option, Problem, Recipe, SearchSpace
from nasfw.engine import Budget, search
from nasfw.executors import Serial
from nasfw.records import Records, front
from nasfw.results import RECORDS, Summary
from nasfw.strategies.random import RandomSearch
from nasfw.testing import Echo, ToyTask
from nasfw.values import Measure, Record, digest

MEASURES = (Measure("accuracy", maximise=True, trained=True), Measure("parameters"))


@dataclass(frozen=True)
class Unbuilt(SearchSpace):
    """Ten decisions among ten numbers; nothing is built."""

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        return {f"digit{i}": tuple(range(10)) for i in range(10)}

    @property
    def default(self) -> Architecture:
        return (0,) * 10

    def build(self, architecture: Architecture) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True)
class Timed(Executor):
    """Serial, and notes when each record was there."""

    moments: list[float] = field(default_factory=list)

    def run(self, jobs):
        for record in Serial().run(jobs):
            self.moments.append(time.perf_counter())
            yield record


def test_ten_thousand_trials_of_nothing(benchmark, tmp_path):
    """Under a millisecond each is wanted, and the last thousand no slower than 1.3 times the first."""
    task, folders, timed = ToyTask(), itertools.count(), []

    def run():
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        timed.append(Timed())
        problem = Problem(Unbuilt(), task, [Echo()], task.recipe, 0, folder)
        with Records(folder / RECORDS, write=True) as records:
            search(problem, "unbuilt", RandomSearch(10_000), records, timed[-1], Budget())
            return len(records)

    assert benchmark.pedantic(run, rounds=3) == 10_000
    moments = [t.moments for t in timed]
    benchmark.extra_info["milliseconds per trial"] = min((m[-1] - m[0]) / len(m) * 1e3 for m in moments)
    benchmark.extra_info["last to first thousand"] = min(
        (m[-1] - m[-1000]) / (m[999] - m[0]) for m in moments
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run's folder with 100,000 records of a search."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    values, options = rng.random((100_000, 2)), rng.integers(1, 10, (100_000, 10))
    with (folder / RECORDS).open("w") as file:
        for i, (row, chosen) in enumerate(zip(values.tolist(), options.tolist(), strict=True)):
            choices = {f"layer{j}.conv": f"k{o}d1" for j, o in enumerate(chosen)}
            measured = {"accuracy": row[0], "parameters": float(int(1e6 * row[1]))}
            record = Record(digest(i), "search", "aggconv", choices, Recipe(), False, measured, 1.0)
            file.write(record.to_json() + "\n")
    plain = {"aggconv": {f"layer{j}.conv": "k3d1" for j in range(10)}}
    Summary("digits", "random", "a processor", MEASURES, plain, (0,), 6, True).write(folder)
    return folder


@pytest.mark.slow
def test_reading_a_hundred_thousand_records(benchmark, large):
    records = benchmark.pedantic(lambda: Records(large / RECORDS), rounds=3)
    assert len(records) == 100_000


@pytest.mark.slow
def test_front_of_a_hundred_thousand_records(benchmark, large):
    searched = Records(large / RECORDS).select("search")
    found = benchmark.pedantic(lambda: front(searched, MEASURES), rounds=3)
    assert 1 < len(found) < 100


@pytest.mark.slow
def test_outcome_of_a_hundred_thousand_records(benchmark, large):
    """All that ``nasfw show`` computes; under 5 seconds are wanted."""
    outcome = benchmark.pedantic(lambda: results.read(large), rounds=3)
    assert outcome.trials == 100_000
    assert outcome.phase == "search"
