"""Plugins are found, named, checked and made; whatever is wrong with one is said in one sentence."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from nasfw.contracts import (
    Candidate,
    Device,
    Evaluate,
    Executor,
    Job,
    Objective,
    Problem,
    Record,
    Strategy,
    Task,
    UsageError,
)
from nasfw.plugins import KINDS, PluginError, Registry, Spec, discover, hookimpl, kind_of, load

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Walk(Strategy):
    """Walks about.

    It takes ``steps`` steps, each of ``stride``.
    """

    steps: Annotated[int, Field(ge=1)] = 10
    stride: float = 0.5
    sizes: tuple[int, ...] = (3, 5)
    mode: Literal["random", "greedy"] = "random"
    label: str | None = None
    note: Annotated[str, "what to write in the margin"] = ""
    fast: bool = False
    weights: dict[str, float] = field(default_factory=dict)
    base: int | tuple[int, ...] = 2

    def __post_init__(self) -> None:
        if any(s % 2 == 0 for s in self.sizes):
            raise UsageError(f"walk.sizes must be odd, not {list(self.sizes)}")

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        pass


@dataclass(frozen=True)
class Heat(Objective):
    metric = "heat"
    unit = "K"
    device: Device
    task: Task | None = None
    repeats: int = 3

    def measure(self, candidate: Candidate) -> float:
        return self.device.measure("heat", candidate)


@dataclass(frozen=True)
class Oven(Device):
    metrics = ("heat",)
    degrees: float

    @property
    def name(self) -> str:
        return "Oven 3000"

    def measure(self, metric: str, candidate: Candidate) -> float:
        return self.degrees


@dataclass(frozen=True)
class Picky(Executor):
    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers > 8:
            raise ValueError("there are 8 workers at most")

    def run(self, jobs: Iterable[Job]) -> Iterator[Record]:
        return (job() for job in jobs)


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.add("walk", Walk)
    registry.add("heat", Heat)
    registry.add("oven", Oven)
    registry.add("picky", Picky)
    return registry


def message(registry: Registry, kind: str, spec: object) -> str:
    with pytest.raises(UsageError) as caught:
        registry.check(kind, spec)
    text = str(caught.value)
    assert "\n" not in text
    assert "pydantic" not in text.lower()
    assert "http" not in text
    return text


def test_kind_is_found_from_the_contract():
    assert [kind_of(c) for c in (Walk, Heat, Oven, Picky, int)] == [
        "strategy",
        "objective",
        "device",
        "executor",
        None,
    ]


def test_entries_say_where_a_plugin_comes_from(registry):
    entry = registry.find("strategy", "walk")
    assert (entry.kind, entry.package, entry.summary) == ("strategy", "unnamed", "Walks about.")
    assert entry.reference.endswith(":Walk")
    assert entry.load() is Walk
    kinds = [e.kind for e in registry.entries()]
    assert kinds == sorted(kinds, key=KINDS.index)


def test_unknown_name_is_answered_with_the_nearest_and_all(registry):
    assert message(registry, "strategy", "wakl") == (
        "no strategy is called 'wakl'; did you mean 'walk'? Known: walk"
    )
    assert message(registry, "task", "digits") == "no task is called 'digits'. Known: none"


def test_name_of_another_kind_is_said_to_be_so(registry):
    assert "'heat' is an objective" in message(registry, "strategy", "heat")
    assert "'walk' is a strategy" in message(registry, "objective", "walk")


@pytest.mark.parametrize(
    ("parameters", "parts"),
    [
        ({"stepz": 3}, ["walk has no parameter 'stepz'", "did you mean 'steps'?", "stride"]),
        ({"steps": "ten"}, ["walk.steps", "'ten'", "whole number"]),
        ({"steps": 0}, ["walk.steps", "0", "greater than or equal to 1"]),
        ({"steps": 2.5}, ["walk.steps", "2.5"]),
        ({"steps": True}, ["walk.steps", "True", "number"]),
        ({"stride": float("nan")}, ["walk.stride", "nan", "finite"]),
        ({"stride": "inf"}, ["walk.stride", "finite"]),
        ({"sizes": [3, "x"]}, ["item 2 of walk.sizes", "'x'"]),
        ({"sizes": 3}, ["walk.sizes", "3", "list"]),
        ({"sizes": [4]}, ["walk.sizes must be odd"]),
        ({"mode": "greddy"}, ["walk.mode", "'random' or 'greedy'", "did you mean 'greedy'?"]),
        ({"weights": {"a": "b"}}, ["walk.weights", "'b'"]),
        ({"base": "x"}, ["walk.base", "'x'", "whole number", " or ", "list"]),
        ({"label": [1]}, ["walk.label", "text"]),
    ],
)
def test_wrong_parameters_are_refused_in_one_sentence(registry, parameters, parts):
    text = message(registry, "strategy", {"walk": parameters})
    for part in parts:
        assert part in text


def test_values_are_converted_to_the_annotated_types(registry):
    given = {"steps": "20", "stride": "1e-3", "sizes": [3, 7], "label": 5, "fast": "true"}
    walk = registry.make("strategy", Spec("walk", given))
    assert walk == Walk(steps=20, stride=1e-3, sizes=(3, 7), label="5", fast=True)
    assert registry.check("strategy", {"walk": given}).parameters["sizes"] == (3, 7)


def test_missing_parameter_is_named(registry):
    assert "oven needs the parameter 'degrees'" in message(registry, "device", "oven")


def test_a_value_error_of_construction_is_the_users(registry):
    assert message(registry, "executor", {"picky": {"workers": 9}}) == ("picky: there are 8 workers at most")


def test_context_reaches_the_fields_that_exist_and_no_user(registry):
    oven = registry.make("device", {"oven": {"degrees": 180}})
    assert registry.make("objective", "heat", device=oven, task=None) == Heat(oven)
    assert registry.make("strategy", "walk", device=oven) == Walk()
    with pytest.raises(UsageError, match=r"needs a device.*hardware="):
        registry.make("objective", "heat")
    assert "has no parameter 'device'" in message(registry, "objective", {"heat": {"device": "x"}})
    assert registry.check("objective", "heat") == Spec("heat")


def test_instances_pass_through(registry):
    walk = Walk(steps=3)
    assert registry.make("strategy", walk) is walk
    assert registry.check("strategy", walk) is walk


@pytest.mark.parametrize("spec", [3, None, {"walk": 3}, {"a": {}, "b": {}}, ["walk"], Walk])
def test_what_is_no_spec_is_refused(registry, spec):
    assert message(registry, "strategy", spec).startswith("strategy ")


def test_parameters_are_described(registry):
    described = {p.name: p for p in registry.parameters(registry.find("strategy", "walk"))}
    assert list(described)[:3] == ["steps", "stride", "sizes"]
    assert described["steps"].type == "int (>= 1)"
    assert described["sizes"].type == "tuple[int, ...]"
    assert described["mode"].type == "'random' | 'greedy'"
    assert described["label"].type == "str | None"
    assert described["base"].type == "int | tuple[int, ...]"
    assert described["steps"].help == "It takes steps steps, each of stride"
    assert described["note"].help == "what to write in the margin"
    assert described["weights"].default == {}
    (degrees,) = registry.parameters(registry.find("device", "oven"))
    assert degrees.required
    assert [p.name for p in registry.parameters(registry.find("objective", "heat"))] == ["repeats"]


def test_classes_that_break_the_rules_are_refused():
    @dataclass(frozen=True)
    class Lazy(Strategy):
        pass

    @dataclass
    class Soft(Strategy):
        def search(self, problem: Problem, evaluate: Evaluate) -> None:
            pass

    class Undecorated(Walk):
        pass

    registry = Registry()
    for plugin, reason in (
        (Lazy, "lacks search"),
        (Soft, "frozen=True"),
        (Undecorated, "frozen=True"),
        (int, "fulfils no contract"),
        (Walk(), "fulfils no contract"),
    ):
        with pytest.raises(PluginError, match=reason) as caught:
            registry.add("mine", plugin)
        assert "'mine'" in str(caught.value)
    with pytest.raises(PluginError, match="letters"):
        registry.add("a.b", Walk)
    assert registry.entries() == []


def test_lazy_plugins_are_imported_when_used(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lazy_bad.py").write_text("import nothing_like_this\n")
    registry = Registry()
    registry.add_lazy("strategy", "bad", "lazy_bad:Bad")
    registry.add_lazy("strategy", "gone", "collections:Gone")
    registry.add_lazy("strategy", "wrong", "collections:OrderedDict")
    assert "nothing_like_this" in message(registry, "strategy", "bad")
    assert "Gone" in message(registry, "strategy", "gone")
    assert "is no strategy" in message(registry, "strategy", "wrong")
    with pytest.raises(PluginError, match="did you mean 'strategy'"):
        registry.add_lazy("strategi", "x", "a:b")
    with pytest.raises(PluginError, match="module:Class"):
        registry.add_lazy("strategy", "x", "a")


SOURCE = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal
from pydantic import Field
import torch_of_another_world
from nasfw.contracts import Strategy
Positive = Annotated[int, Field(ge=1)]

@dataclass(frozen=True)
class Far(Strategy):
    kind: ClassVar[str] = "x"
    steps: Positive | None = None
    mode: Literal["a", "b"] = "a"
    data: torch_of_another_world.Tensor | None = None
    sizes: tuple[int, ...] = field(default_factory=tuple)
    needed: float

@dataclass(frozen=True)
class Child(Far):
    more: int = 1
"""


def test_an_outline_sees_what_the_source_tells_for_sure(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "far_away.py").write_text(SOURCE)
    registry = Registry()
    registry.add_lazy("strategy", "far", "far_away:Far")
    registry.add_lazy("strategy", "child", "far_away:Child")
    registry.add_lazy("strategy", "gone", "far_away_too:Far")
    for parameters, part in (
        ({"stepz": 3}, "did you mean 'steps'?"),
        ({"kind": 3}, "has no parameter 'kind'"),
        ({"needed": 1, "steps": 0}, "far.steps cannot be 0"),
        ({"needed": 1, "mode": "c"}, "'a' or 'b'"),
        ({"steps": 3}, "needs the parameter 'needed'"),
    ):
        with pytest.raises(UsageError) as caught:
            registry.glance("strategy", {"far": parameters})
        assert part in str(caught.value)
    registry.glance("strategy", {"far": {"needed": 1, "data": object(), "sizes": [1]}})
    # What a parent class adds is not in the source of the child.
    registry.glance("strategy", {"child": {"anything": 1}})
    registry.glance("strategy", {"gone": {"anything": 1}})
    assert "far_away" not in sys.modules


def test_a_name_offered_twice_names_both_packages():
    class First:
        @hookimpl
        def nasfw_register(self, registry):
            registry.add("walk", Walk)

    class Second:
        @hookimpl
        def nasfw_register(self, registry):
            registry.add("oven", Oven)
            registry.add("walk", Walk)

    registry = Registry()
    registry.include(First(), "alpha", "1.0")
    with pytest.raises(UsageError, match=r"strategy 'walk' is offered twice.*alpha.*beta"):
        registry.include(Second(), "beta", "2.0")
    # All that a package registers stays, or nothing.
    assert [e.name for e in registry.entries()] == ["walk"]
    assert (registry.find("strategy", "walk").package, registry.find("strategy", "walk").version) == (
        "alpha",
        "1.0",
    )


def test_a_plugin_without_the_hook_is_refused():
    with pytest.raises(PluginError, match="nasfw_register"):
        Registry().include(object(), "alpha")


def test_entry_points_are_found_and_broken_ones_named(monkeypatch, caplog):
    monkeypatch.syspath_prepend(DATA / "plugin_toy")
    monkeypatch.syspath_prepend(DATA / "plugin_broken")
    registry = Registry()
    discover(registry)
    toy = registry.find("strategy", "toy")
    assert (toy.package, toy.version) == ("nasfw-toy", "0.3")
    assert registry.make("strategy", {"toy": {"times": 2}}).times == 2
    (broken,) = [b for b in registry.broken if b.package == "nasfw-broken"]
    assert (broken.version, broken.name) == ("1.2", "board")
    assert broken.reason == "RuntimeError: the board is not connected"
    assert any(r.levelname == "WARNING" and "nasfw-broken" in r.getMessage() for r in caplog.records)
    assert "package nasfw-broken: RuntimeError" in message(registry, "device", "board")


def test_what_ships_is_registered_by_nasfw_itself():
    registry = load(entry_points=False)
    assert {e.package for e in registry.entries()} == {"nasfw"}
    assert {"dash", "random"} <= {e.name for e in registry.entries("strategy")}


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("strategy=dsah", "did you mean 'dash'?"),
        ("startegy=dash", "did you mean 'strategy'?"),
        ("strategy.epohcs=3", "did you mean 'epochs'?"),
        ("strategy.epochs=ten", "dash.epochs cannot be 'ten'"),
        ("task.metrik=f1", "digits has no parameter 'metrik'"),
    ],
)
def test_slips_of_the_pen_are_found_without_torch(argument, part):
    code = (
        "import sys\n"
        "import nasfw.config, nasfw.display, nasfw.plugins, nasfw.progress\n"
        "registry = nasfw.plugins.load(entry_points=False)\n"
        "try:\n"
        "    nasfw.config.resolve([sys.argv[1]], registry)\n"
        "except nasfw.config.UsageError as error:\n"
        "    assert sys.argv[2] in str(error), error\n"
        "else:\n"
        "    raise SystemExit('accepted')\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "raise SystemExit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, argument, part], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
