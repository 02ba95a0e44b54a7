"""Random search draws uniformly, each architecture once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
from torch import nn

from nasfw.contracts import Architecture, Option, Problem, Recipe, SearchSpace
from nasfw.engine import Budget, search
from nasfw.executors import Serial
from nasfw.records import Records
from nasfw.sampling import distinct
from nasfw.strategies.random import RandomSearch
from nasfw.testing import Echo, ToySpace, ToyTask


@dataclass(frozen=True)
class Digits(SearchSpace):
    """Numbers of so many digits."""

    digits: int = 2

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        return {f"digit{i}": tuple(range(10)) for i in range(self.digits)}

    @property
    def default(self) -> Architecture:
        return (0,) * self.digits

    def build(self, architecture: Architecture) -> nn.Module:
        return nn.Identity()


def run(folder, trials, budget=None, seed=0):
    folder.mkdir()
    task = ToyTask()
    problem = Problem(Digits(), task, [Echo()], Recipe(), seed, folder)
    with Records(folder / "r.jsonl", write=True) as records:
        search(problem, "digits", RandomSearch(trials), records, Serial(), budget or Budget())
        return list(records)


@pytest.mark.parametrize("count", [0, 1, 50, 100])
def test_architectures_are_different_members(count):
    found = list(distinct(Digits(), np.random.default_rng(0), count))
    assert len(found) == len(set(found)) == count
    assert all(0 <= o <= 9 for a in found for o in a)


def test_a_small_space_is_exhausted_and_then_ends():
    assert set(distinct(ToySpace(ToyTask()), np.random.default_rng(1), 1000)) == {
        (a, b) for a in (0.0, 1.0, 2.0) for b in (0.0, 1.0, 2.0)
    }


def test_first_draws_are_uniform():
    """Chi square of 10,000 first draws over 100 architectures: mean 99, deviation sqrt(198)."""
    rng = np.random.default_rng(2)
    counts = Counter(next(distinct(Digits(), rng, 1)) for _ in range(10_000))
    chi = sum((counts[(a, b)] - 100) ** 2 / 100 for a in range(10) for b in range(10))
    assert abs(chi - 99) < 4 * 198**0.5


def test_drawing_is_lazy():
    assert len(list(islice(distinct(Digits(12), np.random.default_rng(0), 10**12), 3))) == 3


def test_every_trial_uses_the_problems_recipe(tmp_path):
    found = run(tmp_path / "a", 7)
    assert len(found) == 7
    assert {r.recipe for r in found} == {Recipe()}


def test_the_seed_decides_the_draws(tmp_path):
    runs = [[r.key for r in run(tmp_path / name, 9, seed=s)] for name, s in (("a", 0), ("b", 0), ("c", 1))]
    assert runs[0] == runs[1] != runs[2]


def test_more_trials_begin_with_the_same_draws(tmp_path):
    few, many = ([r.key for r in run(tmp_path / str(n), n)] for n in (5, 20))
    assert many[:5] == few


def test_the_budget_ends_the_search(tmp_path):
    assert len(run(tmp_path / "a", 50, Budget(trials=4))) == 4


@pytest.mark.parametrize(("trials", "expected"), [(4, 4), (9, 9), (1000, 9)])
def test_workload_is_what_will_be_trained(tmp_path, trials, expected):
    task = ToyTask()
    problem = Problem(ToySpace(task), task, [Echo()], Recipe(), 0, tmp_path)
    assert RandomSearch(trials).workload(problem).trials == expected
