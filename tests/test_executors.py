"""Executors run every job, lazily, here or in other processes, with the same results."""

import os
import sys
from dataclasses import dataclass
from functools import partial
from itertools import count, islice

import pytest

from nasfw.contracts import Candidate, Objective, Problem, Recipe, Record
from nasfw.engine import Budget, search
from nasfw.executors import Processes, Serial
from nasfw.records import Records
from nasfw.strategies.random import RandomSearch
from nasfw.testing import ToySpace, ToyTask, Wrong


@pytest.fixture(autouse=True)
def importable(monkeypatch, pytestconfig):
    """A process of its own imports this module as pytest has named it, by its path from pytest's root."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(pytestconfig.rootpath)])


def job(number):
    return Record(str(number), "search", "toy", {"a": number}, Recipe(), False, {}, 0.0)


def bug():
    raise ZeroDivisionError("a bug")


def test_serial_keeps_the_order_and_draws_one_job_at_a_time():
    drawn = []

    def jobs():
        for i in count():
            drawn.append(i)
            yield partial(job, i)

    for i, record in enumerate(islice(Serial().run(jobs()), 5)):
        assert record.key == str(i)
        assert drawn == list(range(i + 1))


def test_an_error_of_a_job_surfaces():
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(Serial().run([bug]))


@dataclass(frozen=True)
class Where(Objective):
    """The process that measures."""

    metric = "process"
    trained = True

    def measure(self, candidate: Candidate) -> float:
        return float(os.getpid())


def run(folder, executor):
    folder.mkdir()
    task = ToyTask()
    problem = Problem(ToySpace(task), task, [Wrong(), Where()], task.recipe, 3, folder)
    with Records(folder / "r.jsonl", write=True) as records:
        search(problem, "toy", RandomSearch(5), records, executor, Budget())
        return list(records)


def test_processes_find_what_serial_finds_and_share_the_cores(tmp_path):
    """Random search does not learn from results, so the records are the same but for their order."""
    ours, theirs = run(tmp_path / "a", Serial()), run(tmp_path / "b", Processes(2))
    assert {r.key: r.values["error"] for r in ours} == {r.key: r.values["error"] for r in theirs}
    assert {r.values["process"] for r in ours} == {float(os.getpid())}
    processes = {r.values["process"] for r in theirs}
    assert float(os.getpid()) not in processes
    assert len(processes) <= 2


def test_processes_draw_no_more_than_they_can_start_and_errors_surface():
    drawn = []

    def jobs():
        for i in range(3):
            drawn.append(i)
            yield partial(job, i)
        yield bug

    found = Processes(1).run(jobs())
    for i in range(3):
        assert next(found).key == str(i)
        assert drawn == list(range(i + 1))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        next(found)
