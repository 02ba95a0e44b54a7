"""A run is composed of its parts: what is prepared, trained and compared, and in which folder."""

import json
import logging
import shutil
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import nasfw
from nasfw import config, engine, experiment, folders, plugins, results
from nasfw.contracts import Device, Strategy, Trial, Unsupported
from nasfw.experiment import labelled, prepare, threads
from nasfw.hardware.host import Host
from nasfw.objectives.cost import Energy, Latency
from nasfw.records import Records
from nasfw.results import RANDOM, RECORDS, RESULT, SPENT
from nasfw.strategies.random import RandomSearch
from nasfw.testing import Echo, ToySpace, ToyTask
from nasfw.text import loads
from nasfw.values import Measured, UsageError

REGISTRY = plugins.load(entry_points=False)
TASK = ToyTask()
GIVEN = {
    "task": TASK,
    "spaces": ToySpace(TASK),
    "strategy": {"random": {"trials": 4}},
    "recipe": {"epochs": 2},
    "final": {"seeds": 2, "limit": 2},
    # Neither measured nor shipped, unless that is what a test is about.
    "objectives": ["accuracy", "parameters"],
    "export": False,
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


@dataclass(frozen=True)
class Tuned(Strategy):
    """One training at a rate of its own, of fresh weights or of given ones."""

    further: bool

    def search(self, problem, evaluate):
        some = problem.space.default
        weights = problem.space.build(some).state_dict() if self.further else None
        evaluate([Trial(some, replace(problem.recipe, lr=1e-3), weights)])


@pytest.mark.parametrize("further", [False, True])
def test_finals_have_the_rate_that_was_found_unless_it_was_one_for_trained_weights(further):
    outcome = prepared(folder="run", strategy=Tuned(further), recipe={"lr": 0.05}).run()
    assert {r.recipe.lr for r in finals("run")} == {0.05 if further else 1e-3}
    assert outcome.phase == "final"
    assert outcome.pick.seeds == outcome.plain.seeds == (0, 1)
    assert outcome.random is not None


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
    """Answers at once; remembers what it was asked, and is gone when it has no lives left."""

    label: str = "board"
    metrics = ("latency",)

    def __post_init__(self):
        # No settings, which would tell runs apart.
        vars(self).update(lives=10**9, asked=[])

    @property
    def name(self):
        return self.label

    def measure(self, metric, candidate):
        self.check(metric)
        self.asked.append(candidate.architecture)
        if len(self.asked) > self.lives:
            raise Unsupported(f"{self.name} does not answer; is it switched on?")
        value = 1e-3 * (1 + sum(candidate.architecture))
        return Measured(value, low=0.9 * value, high=1.1 * value, repetitions=9, clock="a stopwatch")


def mortal(lives):
    """A board that is gone after so many measurements."""
    board = Board()
    vars(board)["lives"] = lives
    return board


@dataclass(frozen=True)
class Meter(Board):
    """Has joules as well."""

    metrics = ("latency", "energy")


@dataclass(frozen=True)
class Unplugged(Meter):
    """Would have joules if its meter were plugged in."""

    def check(self, metric):
        super().check(metric)
        if metric == "energy":
            raise Unsupported("the meter is not plugged in; plug it in")


@dataclass(frozen=True)
class Scale(Board):
    """Knows nothing but weights."""

    metrics = ("weight",)


@pytest.fixture
def registry():
    added = plugins.load(entry_points=False)
    added.add("board", Board)
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
    given = {**GIVEN, "objectives": ["latency"], "hardware": []}
    with pytest.raises(UsageError, match=r"name them with hardware=\[\.\.\.\]"):
        prepare(config.resolve(given, registry), registry)


def test_what_a_device_cannot_measure_is_found_before_training(place):
    for device in (Board(), Unplugged()):
        with pytest.raises(UsageError, match=r"measures latency, not 'energy'|plug it in"):
            prepared(objectives=[Energy(device)])
    assert list(place.iterdir()) == []


def chosen(**settings):
    """The names of the default objectives, and whether each is better when it is higher."""
    run = prepared(objectives=None, **settings)
    return [o.name for o in run.objectives]


@pytest.mark.parametrize(
    ("hardware", "costs"),
    [
        ([], ["parameters"]),
        ([Scale()], ["parameters"]),
        ([Board()], ["latency@board"]),
        ([Scale("scale"), Board()], ["latency@board"]),
        ([Unplugged()], ["latency@board"]),
        ([Meter()], ["latency@board", "energy@board"]),
        ([Board(), Meter("meter")], ["latency@board", "latency@meter", "energy@meter"]),
    ],
)
def test_quality_is_traded_for_what_the_devices_can_measure(hardware, costs):
    assert chosen(hardware=hardware) == ["accuracy", *costs]


def test_the_quality_of_what_is_no_classification_is_its_error():
    @dataclass(frozen=True)
    class Distance(ToyTask):
        metric = "relative_l2"

    task = Distance()
    assert chosen(task=task, spaces=ToySpace(task), hardware=[Board()]) == ["error", "latency@board"]


def test_by_default_this_machine_measures():
    """Energy too, where its counters can be read."""
    pytest.importorskip("onnxruntime")
    host = Host()
    expected = ["accuracy", f"latency@{host.name}"]
    with suppress(Unsupported):
        host.check("energy")
        expected.append(f"energy@{host.name}")
    assert chosen() == expected


def test_without_a_runtime_the_extra_that_brings_one_is_named(monkeypatch, place):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError) as caught:
        prepared(objectives=None)
    assert 'pip install "nasfw[cpu]"' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(place.iterdir()) == []
    # What asks for no measurement needs none.
    assert chosen(hardware=[]) == ["accuracy", "parameters"]


def measuring(device, **settings):
    """A run that measures latency on a device."""
    return prepared(**{"folder": "run", "objectives": ["accuracy", Latency(device)], **settings})


def test_what_was_measured_and_where_is_in_the_folder():
    outcome = measuring(Board()).run()
    summary = json.loads(Path("run/problem.json").read_text())
    assert summary["devices"] == {"board": {"device": "board"}}
    for record in Records(Path("run", RECORDS)):
        value = record.value("latency@board")
        assert isinstance(value, Measured)
        assert record.measured.keys() == {"latency@board"}
        assert (value.low, value.high) == (0.9 * value, 1.1 * value)
        assert value.clock == "a stopwatch"
    for network in (*outcome.front, outcome.plain):
        assert network.measured["latency@board"]["repetitions"] == 9


def test_a_resumed_run_has_the_records_of_an_undisturbed_one():
    """All that they say but the time, wherever the records were cut off."""
    strategy = {"dash": {"epochs": 2, "candidates": 3}}

    def said(part):
        lines = Path("run", part, RECORDS).read_text().splitlines()
        return [{**json.loads(line), "seconds": 0.0} for line in lines]

    measuring(Board(), strategy=strategy).run()
    whole = {part: said(part) for part in (".", RANDOM)}
    lines = Path("run", RECORDS).read_bytes().splitlines(keepends=True)
    assert all(line["measured"] for part in whole.values() for line in part)
    for kept in range(len(lines)):
        Path("run", RESULT).unlink()
        Path("run", RECORDS).write_bytes(b"".join(lines[:kept]) + lines[kept][:9])
        measuring(Board(), strategy=strategy).run()
        assert {part: said(part) for part in whole} == whole


def test_counted_costs_leave_no_trace_of_measurements():
    outcome = prepared(folder="run").run()
    assert outcome.summary.devices == {}
    lines = Path("run", RECORDS).read_text().splitlines()
    assert lines
    assert all("measured" not in json.loads(line) for line in lines)


def test_an_architecture_is_measured_once_for_all_its_trainings():
    """Once before the run, once in the search; in the final phase, whose networks may be larger, again."""
    board = Board()
    measuring(board).run()
    assert board.asked[0] == ToySpace(TASK).default
    for count in Counter(board.asked[1:]).values():
        assert count <= 2


# The check before a run takes one of the lives of a board.
@pytest.mark.parametrize("lives", [2, 3])
def test_a_device_that_is_gone_ends_no_search(caplog, lives):
    """Four networks are searched; of those that were not measured it is said why."""
    board = mortal(1 + lives)
    with caplog.at_level(logging.WARNING):
        outcome = measuring(board, final=False).run()
    records = list(Records(Path("run", RECORDS)))
    assert [r.error for r in records[:lives]] == [None] * lives
    reason = "Unsupported: board does not answer; is it switched on?"
    assert [r.error for r in records[lives:]] == [reason] * (4 - lives)
    assert sum(reason in r.message for r in caplog.records) == 4 - lives
    assert (outcome.trials, outcome.failed) == (4, 4 - lives)
    assert f"({4 - lives} failed)" in str(outcome)
    assert {n.architecture for n in outcome.front} <= {r.architecture for r in records[:lives]}
    assert outcome.done


def test_a_device_that_is_gone_after_the_search_leaves_what_was_found(caplog):
    outcome = measuring(mortal(1 + 4)).run()
    assert outcome.phase == "search"
    assert outcome.pick is not None
    assert outcome.front
    assert outcome.failed == len(finals("run")) >= 2
    assert "does not answer; is it switched on?" in caplog.text
    assert "validation split" in str(outcome)


def test_a_device_that_is_gone_from_the_start_is_said_in_one_sentence(place):
    with pytest.raises(UsageError) as caught:
        measuring(mortal(1)).run()
    message = "no trial of the search in toyspace succeeded; the first one: Unsupported: board does not"
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert list(place.iterdir()) == []


def test_a_device_that_is_gone_before_random_search_costs_that_yardstick_only(caplog):
    """What was searched and trained until then is worth more than what it is compared with."""
    tested = Board()
    strategy = {"dash": {"epochs": 2, "candidates": 3}}
    measuring(tested, strategy=strategy, yardsticks=["plain"], folder="tested").run()
    outcome = measuring(mortal(len(tested.asked)), strategy=strategy).run()
    assert outcome.done
    assert outcome.phase == "final"
    assert outcome.random is None
    assert "no trial of the search in toyspace succeeded" in caplog.text


def test_a_supernet_waits_for_a_device_that_comes_back(monkeypatch):
    """Ranking needs the device; what was trained until then does not go with it."""
    strategy = {"dash": {"epochs": 2, "candidates": 9}}
    with pytest.raises(Unsupported, match="does not answer; is it switched on"):
        measuring(mortal(1), strategy=strategy).run()
    assert Path("run/toyspace/checkpoints/supernet.pt").exists()
    assert not Path("run", RESULT).exists()
    trained = []
    spend = engine.Evaluator.spend
    monkeypatch.setattr(
        engine.Evaluator, "spend", lambda self, passes: trained.append(passes) or spend(self, passes)
    )
    assert measuring(Board(), strategy=strategy).run().done
    # Both epochs at once: they are those from before.
    assert trained[0] == 2.0


def test_another_device_does_not_go_on_with_a_run(place):
    """Two numbers of one name must have been measured by one thing."""
    given = {**GIVEN, "hardware": ["board"], "objectives": None}

    def on(label, **settings):
        # As on another machine: the same setting, and a processor of another name.
        @dataclass(frozen=True)
        class Elsewhere(Board):
            @property
            def name(self):
                return label

        here = plugins.load(entry_points=False)
        here.add("board", Elsewhere)
        return prepare(config.resolve({**given, **settings}, here), here)

    on("one").run()
    on("one", folder="run").run()
    assert on("one", folder="run").run().done
    with pytest.raises(UsageError) as caught:
        on("other", folder="run")
    said = str(caught.value)
    assert "folder=run holds another run (it measured accuracy, latency@one, this machine accuracy" in said
    assert "latency@other" in said
    assert "\n" not in said
    (folder,) = (p for p in (place / "runs").iterdir() if not p.is_symlink())
    (folder / RESULT).unlink()
    assert on("other").place().resolve() != folder
    assert on("one").place().resolve() == folder


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The folder of a run that exports what it found."""
    folder = tmp_path_factory.mktemp("shipped") / "run"
    prepared(folder=folder, export=True, yardsticks=["plain"], final={"seeds": 1, "limit": 2}).run()
    return folder


def test_the_networks_that_were_trained_are_exported(shipped):
    trained = {r.architecture for r in finals(shipped)}
    made = [p for p in (shipped / "export").iterdir() if (p / "card.md").exists()]
    assert len(made) == len(trained) >= 2
    assert {n.name for n in results.read(shipped).front} <= {p.name for p in made}


def test_what_was_exported_is_not_exported_again(shipped, tmp_path):
    folder = shutil.copytree(shipped, tmp_path / "copy")
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("export/*/*")}
    (folder / RESULT).unlink()
    settings = {"export": True, "yardsticks": ["plain"], "final": {"seeds": 1, "limit": 2}}
    start = time.perf_counter()
    prepared(folder=folder, **settings).run()
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("export/*/*")} == files
    assert time.perf_counter() - start < 3


def test_nothing_is_exported_where_that_is_switched_off_or_nothing_was_trained():
    prepared(folder="off").run()
    prepared(folder="search", export=True, final=False).run()
    prepared(folder="untrained", export=True, objectives=[Echo()], strategy=RandomSearch(3)).run()
    assert not list(Path().rglob("export"))


@pytest.mark.parametrize("failure", [UsageError, RuntimeError, Unsupported])
def test_an_export_that_fails_is_a_warning(monkeypatch, caplog, failure):
    def fail(*_, **__):
        raise failure("the printer is out of paper")

    monkeypatch.setattr("nasfw.shipping.export.export_networks", fail)
    outcome = prepared(folder="run", export=True).run()
    assert outcome.done
    assert results.done(Path("run"))
    (warning,) = [r.message for r in caplog.records]
    assert warning == "the networks were not exported: the printer is out of paper"


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


@pytest.mark.slow
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
        objectives=["accuracy", "parameters"],
        final=False,
        folder=tmp_path / "run",
    )
    assert 2 <= outcome.trials <= 4
