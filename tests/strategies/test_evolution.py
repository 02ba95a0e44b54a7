"""Regularised evolution: parents win tournaments, the oldest leave, and nothing is trained twice."""

from itertools import pairwise

import numpy as np
import pytest

from nasfw.contracts import Problem, Recipe, UsageError
from nasfw.engine import Budget
from nasfw.pareto import hypervolume
from nasfw.strategies.evolution import Evolution
from nasfw.strategies.random import RandomSearch
from nasfw.testing import Echo, ToySpace, ToyTask


def total(architecture, epochs):
    """The best one is 9, 9, ..., 9; there are no local maxima."""
    return sum(architecture)


def changed(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


def architectures(records):
    return [r.architecture for r in records]


def test_a_population_of_one_walks_on_whatever_it_meets(find, known, numbers):
    """The only member is the newest one, so every child has one other digit than the one before."""
    found = architectures(find(Evolution(50, 1, 1), [known(total)], space=numbers(30)))
    assert [changed(a, b) for a, b in pairwise(found)] == [1] * 49
    sums = [sum(a) for a in found]
    assert sums != sorted(sums)


@pytest.mark.parametrize("population", [2, 5, 20])
def test_parents_are_the_best_of_the_youngest(find, known, numbers, population):
    """If all take part in the tournament, a child has one other digit than the best of the last P.

    There are so many digits that no mutation leads back to what is known.
    """
    found = architectures(
        find(Evolution(150, population, population), [known(total)], space=numbers(400), seed=1)
    )
    for i in range(population, len(found)):
        alive = found[i - population : i]
        highest = max(map(sum, alive))
        assert any(sum(a) == highest and changed(a, found[i]) == 1 for a in alive)


def test_the_first_ones_are_drawn_as_random_search_draws_them(find, known):
    evolved = architectures(find(Evolution(40, 20, 5), [known(total)], folder="evolution"))
    drawn = architectures(find(RandomSearch(20), [known(total)], folder="random"))
    assert evolved[:20] == drawn


def test_nothing_is_trained_twice_and_a_small_space_is_exhausted(find, toy_task):
    found = architectures(find(Evolution(1000, 4, 2), [Echo()], space=ToySpace(toy_task)))
    assert sorted(found) == sorted({(a, b) for a in (0.0, 1.0, 2.0) for b in (0.0, 1.0, 2.0)})


def test_as_many_are_trained_as_were_asked_for(find, known, numbers):
    """Near the only maximum of a thousand numbers most children are known already."""
    found = architectures(find(Evolution(300, 10, 5), [known(total)], space=numbers(3)))
    assert len(set(found)) == len(found) == 300


def test_the_planted_optimum_is_found_and_random_search_is_beaten(find, known, numbers):
    """The sum of four digits: 300 of ten thousand are enough to climb, and not to guess."""
    best = {}
    for strategy in (Evolution(300), RandomSearch(300)):
        name, space = type(strategy).__name__, numbers(4)
        runs = [find(strategy, [known(total)], space=space, seed=s, folder=f"{name}{s}") for s in range(5)]
        best[name] = [max(sum(a) for a in architectures(r)) for r in runs]
    assert np.median(best["Evolution"]) == 36
    assert min(best["Evolution"]) > max(best["RandomSearch"])


def test_failed_trainings_have_no_children(find, known, numbers):
    """An odd sum fails, and the population of one stays as it was."""
    parent, failed = None, 0
    even = known(lambda a, epochs: None if sum(a) % 2 else sum(a))
    for record in find(Evolution(100, 1, 1), [even], space=numbers(400)):
        assert parent is None or changed(parent, record.architecture) == 1
        failed += record.error is not None
        parent = record.architecture if record.error is None else parent
    assert 0 < failed < 100


def test_until_one_succeeds_they_are_drawn_at_random(find, known, numbers):
    """One of ten first digits works: the first success comes late, but it comes."""
    found = find(
        Evolution(100, 2, 2),
        [known(lambda a, epochs: sum(a) if a[0] == 0 else None)],
        space=numbers(8),
        seed=5,
    )
    first = next(i for i, r in enumerate(found) if r.error is None)
    assert first >= 2
    assert all(changed(a.architecture, b.architecture) > 2 for a, b in pairwise(found[: first + 1]))


def volume(points):
    """What (sum, cost) points dominate, up to the worst there are."""
    return hypervolume([(-total, cost) for total, cost in points], [1.0, 200.0])


def test_several_objectives_give_a_front(find, known, numbers):
    """A large sum of two digits, small squares and other digits: each of 19 sums is best split evenly."""
    objectives = [
        known(lambda a, epochs: a[0] + a[1], "sum"),
        known(lambda a, epochs: -(a[0] ** 2 + a[1] ** 2 + a[2] + a[3]), "thrift"),
    ]
    ideal = volume([(s, (s // 2) ** 2 + (s - s // 2) ** 2) for s in range(19)])
    shares = {}
    for strategy in (Evolution(300, 20, 5), RandomSearch(300)):
        name = type(strategy).__name__
        runs = [find(strategy, objectives, space=numbers(4), seed=s, folder=f"{name}{s}") for s in range(3)]
        shares[name] = [volume([(r.values["sum"], -r.values["thrift"]) for r in run]) / ideal for run in runs]
    assert min(shares["Evolution"]) > 0.97
    assert min(shares["Evolution"]) > max(shares["RandomSearch"])


def test_a_run_that_was_killed_ends_with_the_same_records(find, known):
    whole = [r.key for r in find(Evolution(60), [known(total)], folder="whole")]
    for trials in (7, 33):
        find(Evolution(60), [known(total)], budget=Budget(trials=trials), folder="part")
    part = find(Evolution(60), [known(total)], folder="part")
    assert [r.key for r in part] == whole


@pytest.mark.parametrize("count", [3, 40])
def test_several_workers_are_kept_busy(find, known, workers, count):
    """Children are made of whoever is done; with more workers than members some are drawn at random."""
    executor = workers(count)
    found = architectures(find(Evolution(120, 10, 5), [known(total)], executor=executor))
    assert len(set(found)) == 120
    assert executor.busy == [count] * (120 - count + 1) + list(range(count - 1, 0, -1))


def test_a_tournament_must_fit_into_the_population():
    with pytest.raises(UsageError, match="tournament of 5 from a population of 4"):
        Evolution(population=4, tournament=5)


@pytest.mark.parametrize(("trials", "expected"), [(4, 4), (1000, 9)])
def test_workload_is_what_will_be_trained(tmp_path, trials, expected):
    task = ToyTask()
    problem = Problem(ToySpace(task), task, [Echo()], Recipe(epochs=3), 0, tmp_path)
    work = Evolution(trials).workload(problem)
    assert (work.trials, work.passes) == (expected, 3 * expected)
