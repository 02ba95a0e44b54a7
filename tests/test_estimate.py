"""The forecast of a run is the sum of its parts."""

from pathlib import Path

import pytest

from nasfw import config, plugins, training
from nasfw.estimate import estimate
from nasfw.experiment import prepare
from nasfw.objectives.size import count_parameters
from nasfw.proposals import rating_passes
from nasfw.testing import Echo, ToySpace, ToyTask

REGISTRY = plugins.load(entry_points=False)
TASK = ToyTask()


def forecast(**settings):
    given = {
        "task": TASK,
        "spaces": ToySpace(TASK),
        "recipe": {"epochs": 3},
        "final": {"seeds": 2, "limit": 4},
        "objectives": ["accuracy", "parameters"],
    }
    run = prepare(config.resolve({**given, **settings}, REGISTRY), REGISTRY)
    (of_space,) = estimate(run)
    return run, of_space


def test_where_nothing_is_trained_no_step_is_timed():
    given = {"task": TASK, "spaces": ToySpace(TASK), "strategy": "random", "objectives": [Echo()]}
    assert estimate(prepare(config.resolve(given, REGISTRY), REGISTRY)) == []


def test_random_search_is_its_trials():
    run, e = forecast(strategy={"random": {"trials": 5}})
    steps = 3 * training.steps_per_epoch(TASK, "train", run.recipe)
    assert e.trials == 5
    assert e.search == pytest.approx(5 * steps * e.candidate_step)
    assert e.supernet_step is e.supernet_parameters is e.random is None
    assert e.total == e.search + e.final


def test_one_shot_search_is_its_supernet_and_its_candidates():
    run, e = forecast(strategy={"dash": {"epochs": 6, "candidates": 2}})
    steps = training.steps_per_epoch(TASK, "train", run.recipe)
    # All nine architectures are rated.
    ratings = 9 * rating_passes(run.problem(e.space, Path()))
    assert e.search == pytest.approx(
        steps * ((2 * 3 + ratings) * e.candidate_step + 6 * e.supernet_step), rel=1e-12
    )
    assert e.supernet_parameters == count_parameters(ToySpace(TASK).supernet())
    assert e.random == e.search
    assert e.total == e.search + e.final + e.random


def test_final_trainings_are_the_best_and_the_yardsticks_with_all_seeds_and_the_rest_with_one():
    """4 networks, 2 seeds, 1 yardstick: 2 + 3 + 2 trainings on train and valid."""
    run, e = forecast(strategy={"random": {"trials": 5}})
    steps = 3 * training.steps_per_epoch(TASK, "full", run.recipe)
    assert e.final == pytest.approx(7 * steps * e.final_step)


def test_without_final_trainings_there_are_none():
    _, e = forecast(strategy={"dash": {"candidates": 2}}, final=False)
    assert e.final == 0
    assert e.random is None


def test_sizes_are_those_of_the_networks():
    _, e = forecast(strategy={"random": {"trials": 1}})
    size = count_parameters(ToySpace(TASK).build((0.0, 0.0)))
    assert (e.plain_parameters, e.final_parameters, e.architectures) == (size, size, 9)
    assert e.peak_memory > 0
