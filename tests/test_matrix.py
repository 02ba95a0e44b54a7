"""What works is what a run accepts; what was tried was run; what does not work says why."""

import logging
from dataclasses import dataclass

import pytest

from nasfw import config, experiment, plugins
from nasfw.contracts import SearchSpace, Strategy, Task
from nasfw.matrix import matrix
from nasfw.testing import ToySpace, ToyTask
from nasfw.values import UsageError

SENTENCE = "space Closed offers no supernet, which one-shot strategies need"


@dataclass(frozen=True)
class Closed(ToySpace):
    """Like the other one, but without a supernet."""

    def supernet(self):
        return SearchSpace.supernet(self)


@dataclass(frozen=True)
class Unfit(ToySpace):
    """For other tasks."""

    def __post_init__(self):
        raise UsageError(f"inputs of shape {self.task.input_shape} do not fit")


@dataclass(frozen=True)
class Needy(ToySpace):
    """Cannot be made without being told something."""

    task: Task = None
    hint: str = None

    def __post_init__(self):
        if self.hint is None:
            raise UsageError("a hint is needed")


@dataclass(frozen=True)
class Buggy(Strategy):
    """Only running it shows that it does not work."""

    def search(self, problem, evaluate):
        raise TypeError("this is a bug")


@pytest.fixture
def registry():
    found = plugins.load(entry_points=False)
    for name, plugin in {
        "toy": ToyTask,
        "open": ToySpace,
        "closed": Closed,
        "unfit": Unfit,
        "needy": Needy,
        "buggy": Buggy,
    }.items():
        found.add(name, plugin)
    return found


GIVEN = {
    "task": "toy",
    "objectives": ["error", "parameters"],
    "strategy": ["random", "gdas", "dash", "buggy"],
}


def reasons(found):
    return {(p.strategy, p.space): p.reason for p in found.pairs}


def test_one_shot_strategies_need_a_supernet_and_the_others_do_not(registry):
    found = matrix({**GIVEN, "spaces": ["open", "closed"]}, registry)
    assert found.task == "toy"
    assert reasons(found) == {
        ("random", "open"): None,
        ("random", "closed"): None,
        ("gdas", "open"): None,
        ("gdas", "closed"): SENTENCE,
        ("dash", "open"): None,
        ("dash", "closed"): SENTENCE,
        ("buggy", "open"): None,
        ("buggy", "closed"): None,
    }
    assert all(p.seconds is None for p in found.pairs)


@pytest.mark.parametrize("space", ["open", "closed", "unfit", "needy"])
@pytest.mark.parametrize("strategy", ["random", "gdas", {"asha": {"max_epochs": 1}}])
def test_a_run_is_refused_with_the_same_sentence(registry, tmp_path, strategy, space):
    given = {"task": "toy", "objectives": ["error", "parameters"], "hardware": []}
    (pair,) = matrix({**given, "strategy": strategy, "spaces": space}, registry).pairs
    settings = {**given, "strategy": strategy, "spaces": space, "folder": str(tmp_path / "run")}

    def prepared():
        return experiment.prepare(config.resolve(settings, registry), registry)

    if pair.reason is None:
        prepared()
    else:
        with pytest.raises(UsageError) as refused:
            prepared()
        assert str(refused.value) == pair.reason
    assert not (tmp_path / "run").exists()


def test_every_pair_that_is_tried_is_run(registry):
    found = matrix({**GIVEN, "spaces": ["open", "closed", "unfit"]}, registry, tried=True)
    ran = {(p.strategy, p.space) for p in found.pairs if p.seconds is not None}
    assert ran == {
        ("random", "open"),
        ("random", "closed"),
        ("gdas", "open"),
        ("dash", "open"),
        ("buggy", "open"),
        ("buggy", "closed"),
    }
    said = reasons(found)
    assert said["buggy", "open"] == said["buggy", "closed"] == "TypeError: this is a bug"
    assert said["random", "open"] is said["gdas", "open"] is said["dash", "open"] is None
    assert "do not fit" in said["random", "unfit"]
    assert found.tried


def test_trying_leaves_the_log_and_the_folder_alone(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("nasfw")
    before = log.level
    matrix({**GIVEN, "spaces": "open"}, registry, tried=True)
    assert log.level == before
    assert list(tmp_path.iterdir()) == []


def test_what_is_merely_installed_may_be_unusable_but_what_is_named_must_not(registry):
    """A space that cannot be made for the task is a no in both cases: that is what was asked."""
    found = matrix({"task": "toy", "objectives": ["error"], "strategy": "random"}, registry)
    assert {p.space for p in found.pairs} == {e.name for e in registry.entries("space")}
    for setting, message in (
        ({"spaces": "opn"}, "did you mean 'open'"),
        ({"strategy": "rnd"}, "no strategy is called 'rnd'"),
        ({"spaces": "open", "spaces.scale": 3}, "open has no parameter 'scale'"),
        ({"strategy.epohcs": 3, "strategy": "dash"}, "did you mean 'epochs'"),
        ({"task.sample": 3}, "toy has no parameter 'sample'"),
        ({"folder": "here"}, "the setting folder makes no difference here"),
        ({"final.seeds": 2}, "the setting final makes no difference here"),
        ({"spaces": ["open", "closed"], "spaces.scales": [1.0]}, "could mean open or closed"),
    ):
        with pytest.raises(UsageError, match=message):
            matrix({"task": "toy", **setting}, registry)


def test_parameters_reach_the_plugin_that_they_name(registry):
    given = {**GIVEN, "strategy": ["random", "asha"], "spaces": ["open", "needy"]}
    named = {"spaces.needy.hint": "so", "strategy.asha.max_epochs": 1, "strategy.asha.min_epochs": 1}
    said = reasons(matrix({**given, **named}, registry))
    assert said["random", "needy"] is None
    assert "two rungs" in said["asha", "open"]
    assert "two rungs" in said["asha", "needy"]


def test_the_same_space_with_other_parameters_is_another_column(registry):
    spaces = ["open", {"open": {"scales": [1.0, 2.0]}}]
    found = matrix({**GIVEN, "strategy": "random", "spaces": spaces}, registry)
    assert [p.space for p in found.pairs] == ["open", "open2"]
