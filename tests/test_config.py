"""Settings: every way to write them, how their sources merge, and what is said of wrong ones."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nasfw.config import Budget, Final, Settings, Spec, dumps, parse, resolve
from nasfw.contracts import (
    Architecture,
    Candidate,
    Device,
    Evaluate,
    Executor,
    Objective,
    Problem,
    Recipe,
    SearchSpace,
    Strategy,
    Task,
    UsageError,
)
from nasfw.experiments import EXPERIMENTS
from nasfw.optimisers import factor
from nasfw.plugins import Registry, load
from nasfw.text import loads


@dataclass(frozen=True)
class Data(Task):
    x: Any = None
    file: str = ""
    metric: str = "error"
    input_shape = (1, 8)
    output_shape = (2,)

    def size(self, split: str) -> int:
        return 0

    def batches(self, split: str, batch_size: int = 256, generator: object = None) -> Iterable[Any]:
        return []

    def loss(self, output: Tensor, target: Any) -> Tensor:
        return output.mean()

    def error(self, outputs: Tensor, targets: Tensor) -> float:
        return 0.0


@dataclass(frozen=True)
class Marked(Data):
    def fingerprint(self) -> str:
        return "f00d"


@dataclass(frozen=True)
class Agg(SearchSpace):
    kernel_sizes: tuple[int, ...] = (3, 5)
    decisions = {"op": [1, 2]}  # noqa: RUF012
    default = (1,)

    def build(self, architecture: Architecture) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True)
class Cell(Agg):
    cells: int = 4


@dataclass(frozen=True)
class Dash(Strategy):
    epochs: int = 10
    lr: float = 0.1

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        pass


@dataclass(frozen=True)
class Random(Dash):
    trials: int = 5


@dataclass(frozen=True)
class Size(Objective):
    metric = "size"
    power: int = 1

    def measure(self, candidate: Candidate) -> float:
        return 1.0


@dataclass(frozen=True)
class Scale(Device):
    metrics = ("weight",)
    digits: int = 3

    @property
    def name(self) -> str:
        return "scale"

    def measure(self, metric: str, candidate: Candidate) -> float:
        return 1.0


@dataclass(frozen=True)
class Here(Executor):
    def run(self, jobs: Any) -> Any:
        return (job() for job in jobs)


@pytest.fixture(scope="module")
def registry() -> Registry:
    registry = Registry()
    for name, plugin in {
        "digits": Data,
        "arrays": Data,
        "aggconv": Agg,
        "darts": Cell,
        "dash": Dash,
        "random": Random,
        "size": Size,
        "weight": Size,
        "host": Scale,
        "board": Scale,
        "serial": Here,
    }.items():
        registry.add(name, plugin)
    return registry


PRESETS = {
    "quick": {
        "settings": {"effort": 0.5, "final": {"seeds": 3, "limit": 4}, "recipe": {"epochs": 7, "lr": 0.2}},
        "plugins": {"strategy": {"dash": {"epochs": 3, "lr": 0.3}}, "space": {"darts": {"cells": 2}}},
    },
    "paper": {"settings": {"final.epochs": 200, "strategy": "random"}, "plugins": {}},
}


def settled(registry: Registry, *arguments: str, presets: Mapping[str, Any] | None = None) -> Settings:
    return resolve(arguments, registry, {} if presets is None else presets)


def refused(registry: Registry, *arguments: str, presets: Mapping[str, Any] = PRESETS) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(arguments, registry, presets)
    text = str(caught.value)
    assert "\n" not in text
    assert "pydantic" not in text.lower()
    assert "http" not in text
    return text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("2.", 2.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("no", "no"),
        ("007", "007"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("a: b", "a: b"),
        ("runs/a#b", "runs/a#b"),
        ("~/runs", "~/runs"),
        ("C:\\data\\x.npz", "C:\\data\\x.npz"),
        ('"20"', "20"),
        ("'a b'", "a b"),
        ("[aggconv,darts]", ["aggconv", "darts"]),
        ("[1e-3, no, 1]", [0.001, "no", 1]),
        ("{aggconv: {kernel_sizes: [3,5]}}", {"aggconv": {"kernel_sizes": [3, 5]}}),
        ("a=b", "a=b"),
    ],
)
def test_values_read_as_a_person_means_them(text, value):
    (read,) = parse([f"key={text}"]).values()
    assert read == value
    assert type(read) is type(value)


def test_parts_keep_their_path():
    assert parse(["strategy.epochs=20", "spaces.darts.cells=8"]) == {
        "strategy.epochs": 20,
        "spaces.darts.cells": 8,
    }


@pytest.mark.parametrize("argument", ["dash", "=3", "--seed", "seed=", "spaces=[3", 'x="a', "x={a: 1, a: 2}"])
def test_what_is_no_setting_is_refused(argument):
    with pytest.raises(UsageError) as caught:
        parse([argument])
    assert argument.split("=")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_setting_given_twice_is_refused_unless_equal(registry):
    assert parse(["seed=1", "seed=1"]) == {"seed": 1}
    with pytest.raises(UsageError, match=r"seed is given twice: 1 and 2"):
        parse(["seed=1", "seed=2"])
    assert "given twice" in refused(registry, "space=aggconv", "spaces=darts")


def test_defaults(registry):
    assert settled(registry) == Settings()
    assert Settings().spaces == (Spec("aggconv"),)
    assert Settings().hardware == (Spec("host"),)
    assert Settings().objectives is None
    assert Settings().export is True
    assert Settings().final == Final(epochs=None, seeds=1, limit=8, least=1)


def test_everything_at_once(registry):
    settings = settled(
        registry,
        "spaces=[aggconv,darts]",
        "spaces.darts.cells=8",
        "spaces.aggconv={kernel_sizes: [3, 7]}",
        "strategy=dash",
        "strategy.lr=1e-3",
        "objective=size,weight",
        "objectives.weight.power=2",
        "budget.trials=10",
        "budget.seconds=60",
        "recipe.lr=0.01",
        "recipe.milestones=[3,5]",
        "final.epochs=3",
        "final.least=2",
        "hardware=[host,board]",
        "hardware.board.digits=4",
        "yardsticks=plain",
        "seed=1",
        "compute=cuda:0",
        "folder=runs/1",
        "effort=2",
        "export=false",
    )
    assert settings == Settings(
        spaces=(Spec("aggconv", {"kernel_sizes": (3, 7)}), Spec("darts", {"cells": 8})),
        strategy=Spec("dash", {"lr": 0.001}),
        objectives=(Spec("size"), Spec("weight", {"power": 2})),
        hardware=(Spec("host"), Spec("board", {"digits": 4})),
        budget=Budget(10, 60.0),
        recipe={"lr": 0.01, "milestones": (3, 5)},
        final=Final(epochs=3, least=2),
        yardsticks=("plain",),
        seed=1,
        compute="cuda:0",
        folder="runs/1",
        effort=2.0,
        export=False,
    )


@given(st.permutations(["strategy.epochs=3", "strategy=random", "space.cells=8", "spaces=darts", "seed=4"]))
def test_order_does_not_matter(registry, arguments):
    settings = settled(registry, *arguments)
    assert settings.strategy == Spec("random", {"epochs": 3})
    assert settings.spaces == (Spec("darts", {"cells": 8}),)


def test_final_can_be_switched_off_and_on(registry):
    assert settled(registry, "final=false").final is None
    assert settled(registry, "final=true").final == Final()
    assert settled(registry, "final={seeds: 5}").final == Final(seeds=5)
    assert "contradict" in refused(registry, "final=false", "final.epochs=3")


@pytest.mark.parametrize(
    ("argument", "devices"),
    [
        ("hardware=[]", ()),
        ("hardware=board", (Spec("board"),)),
        ("hardware=host,board", (Spec("host"), Spec("board"))),
        ("hardware.digits=5", (Spec("host", {"digits": 5}),)),
        ("hardware={board: {digits: 5}}", (Spec("board", {"digits": 5}),)),
    ],
)
def test_what_measures_is_this_machine_unless_others_are_named(registry, argument, devices):
    """Also none: parameters are then all that is counted."""
    settings = settled(registry, argument)
    assert settings.hardware == devices
    assert resolve(settings.plain(), registry, {}) == settings


def test_networks_are_exported_unless_that_is_switched_off(registry):
    assert settled(registry, "export=true").export
    assert not settled(registry, "export=false").export
    assert resolve({"export": False}, registry, {}).plain()["export"] is False


def test_yardsticks_may_be_none(registry):
    assert settled(registry, "yardsticks=[]").yardsticks == ()
    assert settled(registry, "yardsticks=null").yardsticks == ()


@pytest.mark.parametrize("text", ["my.npz", "data/unknown", "./digits"])
def test_a_file_is_a_task(registry, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path(text).touch()
    settings = settled(registry, f"task={text}", "task.metric=f1")
    assert settings.task == Spec("arrays", {"file": text, "metric": "f1"})


def test_a_file_that_is_not_there_is_said_to_be_missing(registry):
    with pytest.raises(UsageError, match=r"there is no file 'no\.npz'"):
        settled(registry, "task=no.npz")


def test_an_existing_file_is_a_task_unless_a_task_has_its_name(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "mine"):
        (tmp_path / name).touch()
    assert settled(registry, "task=digits").task == Spec("digits")
    assert settled(registry, "task=mine").task == Spec("arrays", {"file": "mine"})
    assert resolve({"task": tmp_path / "a.npz"}, registry, {}).task.parameters == {
        "file": str(tmp_path / "a.npz")
    }


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["startegy=dash"], ["there is no setting 'startegy'", "did you mean 'strategy'?", "Known:", "seed"]),
        (["strategy=dahs"], ["no strategy is called 'dahs'", "did you mean 'dash'?", "random"]),
        (["strategy=aggconv"], ["'aggconv' is a space"]),
        (["spaces=[aggconv,dart]"], ["no space is called 'dart'", "'darts'"]),
        (["task=my.csv"], ["no task is called 'my.csv'"]),
        (["spaces.kernal_sizes=[3]"], ["aggconv has no parameter 'kernal_sizes'", "'kernel_sizes'"]),
        (["strategy.epochs=ten"], ["dash.epochs", "'ten'", "whole number"]),
        (["spaces=[aggconv,darts]", "spaces.kernel_sizes=[3]"], ["could mean aggconv or darts"]),
        (["spaces.darts.cells=8"], ["spaces.darts.cells", "'darts'", "aggconv"]),
        (["objectives.power=2"], ["objectives.power", "not given"]),
        (["strategy.epochs.more=2"], ["strategy.epochs.more"]),
        (["seed=-1"], ["seed cannot be -1", "greater than or equal to 0"]),
        (["seed=x"], ["seed cannot be 'x'", "whole number"]),
        (["seed.x=1"], ["seed has no parts"]),
        (["effort=0"], ["effort cannot be 0"]),
        (["effort=nan"], ["effort cannot be"]),
        (["export=maybe"], ["export cannot be 'maybe'", "true or false"]),
        (["export.x=1"], ["export has no parts"]),
        (["hardware=[bored]"], ["no device is called 'bored'", "did you mean 'board'?"]),
        (["hardware.digit=1"], ["host has no parameter 'digit'", "'digits'"]),
        (["compute=gpu"], ["compute cannot be 'gpu'", "cuda"]),
        (["budget.trails=3"], ["budget has no parameter 'trails'", "did you mean 'trials'?"]),
        (["budget.trials=0"], ["budget.trials cannot be 0"]),
        (["budget.trials=true"], ["budget.trials cannot be True"]),
        (["budget=10"], ["budget cannot be 10"]),
        (["final.seeds=0"], ["final.seeds cannot be 0"]),
        (["final.least=0"], ["final.least cannot be 0"]),
        (["final=3"], ["final cannot be 3"]),
        (["recipe.lrate=1"], ["recipe has no parameter 'lrate'", "lr"]),
        (["recipe.lr=-1"], ["recipe.lr is -1"]),
        (["recipe.optimizer=sgdd"], ["recipe.optimizer", "did you mean 'sgd'?"]),
        (["yardsticks=[plane]"], ["yardsticks", "'plane'", "did you mean 'plain'?"]),
        (["spaces=[]"], ["spaces is empty"]),
        (["objectives=[]"], ["objectives is empty"]),
        (["strategy=3"], ["strategy must be a name", "3"]),
        (["strategy=[dash]"], ["strategy must be a name"]),
        (["experiment=qick"], ["no experiment is called 'qick'", "did you mean 'quick'?"]),
        (["config=nothing.yaml"], ["nothing.yaml cannot be read", "No such file"]),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(registry, arguments, parts):
    text = refused(registry, *arguments)
    for part in parts:
        assert part in text


def test_preset_lies_under_what_the_user_gives(registry):
    settings = settled(registry, "compute=cpu", "strategy.lr=0.5", "final.limit=9", presets=PRESETS)
    assert settings.experiment == "quick"
    assert settings.effort == 0.5
    assert settings.final == Final(seeds=3, limit=9)
    # Only the parameters of the plugins in use.
    assert settings.strategy == Spec("dash", {"epochs": 3, "lr": 0.5})
    assert settings.spaces == (Spec("aggconv"),)
    assert settings.recipe == {"epochs": 7, "lr": 0.2}
    other = settled(registry, "compute=cpu", "strategy=random", "spaces=darts", presets=PRESETS)
    assert (other.strategy, other.spaces) == (Spec("random"), (Spec("darts", {"cells": 2}),))


def test_preset_is_chosen_by_name_or_by_the_lack_of_a_gpu(registry):
    assert settled(registry, "experiment=paper", presets=PRESETS).strategy == Spec("random")
    assert settled(registry, "experiment=paper", presets=PRESETS).final == Final(epochs=200)
    assert settled(registry, "compute=cuda", presets=PRESETS).experiment is None


def test_config_file_lies_under_the_command_line(registry, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "strategy: {dash: {epochs: 4, lr: 1e-3}}\n"
        "spaces:\n  darts:\n    cells: 6\n"
        "budget: {trials: 5}\n"
        "recipe.epochs: 2\n"
        "seed: 3\n"
    )
    settings = settled(
        registry, "seed=4", f"config={file}", "budget.seconds=9", "strategy=dash", "strategy.lr=0.2"
    )
    assert settings.seed == 4
    assert settings.strategy == Spec("dash", {"epochs": 4, "lr": 0.2})
    assert settings.spaces == (Spec("darts", {"cells": 6}),)
    assert settings.budget == Budget(5, 9.0)
    assert settings.recipe == {"epochs": 2}
    # Another strategy does not get the parameters of the file's.
    assert settled(registry, f"config={file}", "strategy=random").strategy == Spec("random")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("- a\n- b\n", ["must hold settings"]),
        ("", ["must hold settings"]),
        ("seed: 1\nstrategy: [dash\n", ["line 3"]),
        ("seed: 1\nseed: 2\n", ["line 2", "'seed' is given twice"]),
        ("sede: 1\n", ["there is no setting 'sede'", "'seed'"]),
        ("config: other.yaml\n", ["another config file"]),
        ("seed: !!python/object:os.system 1\n", ["line 1"]),
        ("1: 2\n", ["line 1", "no name"]),
    ],
)
def test_wrong_config_files_are_refused_with_the_line(registry, tmp_path, content, parts):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    text = refused(registry, f"config={file}")
    assert "mine.yaml" in text
    for part in parts:
        assert part in text


def test_a_config_file_that_is_no_text_is_refused(registry, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused(registry, f"config={file}")
    assert "cannot be read" in refused(registry, f"config={tmp_path}")


def test_objects_stand_where_names_do(registry):
    task, size = Data(x=np.arange(3.0)), Size(power=3)
    settings = resolve({"task": task, "objectives": ["size", size]}, registry, {})
    assert settings.task is task
    assert settings.objectives == (Spec("size"), size)
    plain = settings.plain()
    assert plain["objectives"] == ["size", {"Size": {"power": 3}}]
    assert plain["task"]["Data"]["x"].startswith("float64 3 ")
    changed = replace(settings, task=Data(x=np.arange(1.0, 4.0))).plain()
    assert changed["task"] != plain["task"]
    marked = resolve({"task": Marked()}, registry, {}).plain()
    assert marked["task"] == {"Marked": {"fingerprint": "f00d"}}
    json.dumps(plain, allow_nan=False)


def test_objects_of_the_wrong_kind_are_refused(registry):
    with pytest.raises(UsageError, match="task: a Size is no task"):
        resolve({"task": Size()}, registry, {})
    with pytest.raises(UsageError, match=r"task is given the class Data; give an instance"):
        resolve({"task": Data}, registry, {})
    with pytest.raises(UsageError, match=r"strategy.epochs.*an object"):
        resolve({"strategy": Dash(), "strategy.epochs": 3}, registry, {})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_preset_fits_what_ships(name):
    shipped = load(entry_points=False)
    for strategy in shipped.entries("strategy"):
        settings = resolve([f"experiment={name}", f"strategy={strategy.name}"], shipped)
        assert resolve(settings.plain(), shipped) == settings


def test_the_preset_of_xd_halves_all_rates_every_hundred_epochs():
    shipped = load(entry_points=False)
    settings = resolve(["experiment=paper_xd", "spaces=xd", "strategy=given", "task=burgers"], shipped)
    recipe = Recipe(**settings.recipe)
    for epoch, halved in ((0, 0), (99, 0), (100, 1), (199, 1), (200, 2), (499, 4)):
        assert factor(recipe, epoch * 50, 50) == 0.5**halved
    assert settings.spaces[0].parameters == {"backbone": "pde", "transforms": "butterflies", "circular": True}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")))
    | st.sampled_from(["no", "1e-3", "null", "~", "", "0x1F", "1:30", "2024-01-01", "- a", "a: b", "#", "'"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_dumped_is_read_back(value):
    text = dumps({"key": value})
    assert loads(text, "text") == {"key": value}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    content: dict[str, Any] = {
        "strategy": draw(st.sampled_from(["dash", {"random": {"trials": 3}}, {"dash": {"lr": 1e-5}}])),
        "spaces": draw(st.sampled_from([["aggconv"], ["darts", {"aggconv": {"kernel_sizes": [3, 9]}}]])),
        "objectives": draw(st.sampled_from([None, ["size"], [{"size": {"power": 2}}, "weight"]])),
        "final": draw(st.sampled_from([False, True, {"seeds": 2}, {"epochs": 1, "least": 2}])),
        "budget": {"trials": draw(st.none() | st.integers(1, 99)), "seconds": draw(st.none() | st.just(0.5))},
        "recipe": draw(st.sampled_from([{}, {"milestones": [1, 2]}, {"clip": None, "lr": 1e-4}])),
        "seed": draw(st.integers(0, 2**40)),
        "folder": draw(st.none() | st.sampled_from(["runs/1", "1e-3", "no", "~/x", "ünï cödé: #"])),
        "hardware": draw(st.sampled_from([[], "board", ["host", {"board": {"digits": 2}}]])),
        "export": draw(st.booleans()),
        "compute": draw(st.sampled_from(["cpu", "cuda:1"])),
        "experiment": draw(st.sampled_from([None, "quick", "paper"])),
        "yardsticks": draw(st.sampled_from([[], ["random"], ["plain", "random"]])),
    }
    return {key: content[key] for key in draw(st.sets(st.sampled_from(sorted(content))))}


@given(requests())
def test_plain_settings_resolve_to_the_same(registry, wanted):
    settings = resolve({"compute": "cpu", **wanted}, registry, PRESETS)
    plain = settings.plain()
    assert resolve(plain, registry, PRESETS) == settings
    assert loads(dumps(plain), "run.yaml") == plain
    assert json.loads(json.dumps(plain)) == plain
