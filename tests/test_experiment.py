"""A run is composed of its parts: what is prepared, trained and compared, and in which folder."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import nasfw
from nasfw import config, experiment, folders, plugins
from nasfw.contracts import Device, Objective, Unsupported
from nasfw.experiment import labelled, prepare, threads
from nasfw.records import Records
from nasfw.results import RANDOM, RECORDS, RESULT, SPENT
from nasfw.strategies.random import RandomSearch
from nasfw.testing import Echo, ToySpace, ToyTask
from nasfw.text import loads
from nasfw.values import UsageError

REGISTRY = plugins.load(entry_points=False)
TASK = ToyTask()
GIVEN = {
    "task": TASK,
    "spaces": ToySpace(TASK),
    "strategy": {"random": {"trials": 4}},
    "recipe": {"epochs": 2},
    "final": {"seeds": 2, "limit": 2},
}


def prepared(**settings):
    return prepare(config.resolve({**GIVEN, **settings}, REGISTRY), REGISTRY)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finals(path):
    return [r for r in Records(Path(path, RECORDS)) if r.phase == "final"]


def test_preparing_writes_nothing(place):
    prepared()
    assert list(place.iterdir()) == []


def test_final_networks_and_the_plain_backbone_are_trained_by_the_recipe(place):
    outcome = prepared(folder="run").run()
    recipes = {replace(r.recipe, seed=0) for r in finals("run")}
    assert recipes == {prepared().recipe}
    assert outcome.pick.seeds == outcome.plain.seeds == (0, 1)
    assert outcome.plain.architecture == ToySpace(TASK).default
    assert len(outcome.front) <= 2


def test_seeds_of_final_trainings_start_at_the_seed():
    assert prepared(seed=5, final={"seeds": 3}).seeds == (5, 6, 7)


def test_final_epochs_may_differ():
    prepared(folder="run", final={"epochs": 3, "seeds": 1}).run()
    assert {r.recipe.epochs for r in finals("run")} == {3}


def test_random_search_gets_the_passes_that_the_search_used():
    """A supernet of e epochs and c networks are worth e * cost + c (+ ranking) networks."""
    strategy = {"dash": {"epochs": 6, "candidates": 2}}
    prepared(folder="run", strategy=strategy).run()
    spent = json.loads(Path("run", "toyspace", SPENT).read_text())
    drawn = [r for r in Records(Path("run", RANDOM, RECORDS)) if r.phase == "search"]
    assert spent["passes"] >= 6 + 2 * 2
    assert len(drawn) == min(9, round(spent["passes"] / 2))


def test_random_search_is_no_yardstick_of_itself():
    run = prepared(folder="run")
    assert run.yardsticks == ("plain",)
    run.run()
    assert not Path("run", RANDOM).exists()


def test_without_epochs_random_search_stays_small():
    """A recipe without training costs nothing, and is not a reason to draw for ever."""
    outcome = prepared(folder="run", strategy={"dash": {"candidates": 2}}, recipe={"epochs": 0}).run()
    assert outcome.random_trials == 1


def test_a_second_run_of_a_lost_result_trains_nothing():
    prepared(folder="run").run()
    before = Path("run", RECORDS).read_bytes()
    Path("run", RESULT).unlink()
    prepared(folder="run").run()
    assert Path("run", RECORDS).read_bytes() == before


def test_a_run_that_fails_from_the_start_leaves_no_folder(place):
    with pytest.raises(UsageError, match="no trial of the search in toyspace succeeded"):
        prepared(recipe={"epochs": 2, "lr": 1e38, "optimizer": "sgd"}).run()
    assert list(place.iterdir()) == []


def test_a_run_that_fails_keeps_what_was_there():
    Path("run").mkdir()
    with pytest.raises(UsageError):
        prepared(folder="run", recipe={"epochs": 2, "lr": 1e38, "optimizer": "sgd"}).run()
    assert Path("run", RECORDS).exists()


def test_other_settings_are_told_apart_by_name():
    prepared(folder="run").run()
    with pytest.raises(UsageError, match=r"recipe\.epochs is 2 there and 3 here"):
        prepared(folder="run", recipe={"epochs": 3})
    with pytest.raises(UsageError, match="holds another run"):
        prepared(folder="run", task=ToyTask(samples=48))


def test_a_folder_in_use_is_refused():
    run = prepared(folder="run")
    Path("run").mkdir()
    with folders.locked(Path("run")), pytest.raises(UsageError, match="another process is running in run"):
        run.run()


def test_what_a_kill_in_the_first_moment_leaves_is_no_obstacle():
    Path("run").mkdir()
    Path("run", ".lock").touch()
    Path("run", "run.yaml.tmp").write_text("ta")
    prepared(folder="run").run()


def test_spaces_of_one_name_are_numbered():
    specs = [config.Spec("a"), config.Spec("b"), config.Spec("a")]
    assert [label for label, _ in labelled(specs)] == ["a", "b", "a2"]


def test_threads_are_given_back():
    former = torch.get_num_threads()
    with threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == former


@dataclass(frozen=True)
class Wrong(ToySpace):
    def build(self, architecture):
        return nn.Linear(4, 7)


def test_a_network_of_the_wrong_shape_is_found_before_training():
    with pytest.raises(UsageError, match=r"outputs of shape \(16, 7\); the task needs \(16, 3\)"):
        prepared(spaces=Wrong(TASK))


@dataclass(frozen=True)
class Board(Device):
    label: str = "board"
    metrics = ("latency",)

    @property
    def name(self):
        return self.label

    def measure(self, metric, candidate):
        if metric not in self.metrics:
            raise Unsupported(f"device {self.name} measures latency, not {metric}")
        return 1e-3


@dataclass(frozen=True)
class On(Objective):
    device: Device
    metric = "latency"
    unit = "s"

    def measure(self, candidate):
        return self.device.measure(self.metric, candidate)


@pytest.fixture
def registry():
    added = plugins.load(entry_points=False)
    added.add("board", Board)
    added.add("latency", On)
    return added


def test_an_objective_with_a_device_is_made_once_for_each(registry):
    given = {
        **GIVEN,
        "objectives": ["latency", "accuracy"],
        "hardware": ["board", {"board": {"label": "other"}}],
    }
    run = prepare(config.resolve(given, registry), registry)
    assert [o.name for o in run.objectives] == ["accuracy", "latency@board", "latency@other"]


def test_an_objective_without_its_device_asks_for_one(registry):
    given = {**GIVEN, "objectives": ["latency"]}
    with pytest.raises(UsageError, match=r"name them with hardware=\[\.\.\.\]"):
        prepare(config.resolve(given, registry), registry)


def test_what_a_device_cannot_measure_is_found_before_training(place):
    @dataclass(frozen=True)
    class Joules(On):
        metric = "energy"

    with pytest.raises(UsageError, match="measures latency, not energy"):
        prepared(objectives=[Joules(Board())])
    assert list(place.iterdir()) == []


def test_the_folder_tells_how_it_was_made():
    prepared(folder="run").run()
    environment = json.loads(Path("run/env.json").read_text())
    assert {"python", "processor", "packages", "git", "seed"} <= environment.keys()
    settings = loads(Path("run/run.yaml").read_text(), "run.yaml")
    assert settings["strategy"] == {"random": {"trials": 4}}


def test_budgets_are_shared_by_the_spaces():
    outcome = prepared(
        folder="run",
        spaces=[ToySpace(TASK), ToySpace(TASK)],
        strategy=RandomSearch(9),
        objectives=[Echo()],
        budget={"trials": 4},
        final=False,
    ).run()
    assert outcome.trials == 4
    assert {r.space for r in Records(Path("run", RECORDS))} == {"toyspace", "toyspace2"}


def test_what_takes_a_share_takes_at_least_one():
    assert experiment._share(1, 3) == 1
    assert experiment._share(1.5, 3) == 0.5
    assert experiment._share(None, 3) is None


def test_the_papers_preset_runs(tmp_path):
    """Its penalty, its grid and its schedule, for one epoch each."""
    y = torch.arange(60) % 2
    task = nasfw.ArraysTask(torch.randn(60, 1, 16, generator=torch.Generator().manual_seed(0)), y)
    short = {"epochs": 1, "tune_epochs": 1, "lrs": [0.1, 0.01], "dropouts": [], "weight_decays": []}
    outcome = nasfw.run(
        task=task,
        experiment="paper",
        recipe={"epochs": 1},
        strategy={"dash": {**short, "momenta": [], "candidates": 2}},
        final=False,
        folder=tmp_path / "run",
    )
    assert 2 <= outcome.trials <= 4
