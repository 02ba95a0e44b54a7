"""Which strategies work on which spaces for a task: computed by making every pair, or by running it.

What works is what a run's own checks accept: the space can be made for the task, a batch passes through its
plain backbone, and the strategy has nothing against the space.
"""

from __future__ import annotations

import copy
import functools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from nasfw import config, engine, experiment, folders, progress
from nasfw.contracts import Problem, Strategy
from nasfw.experiment import Experiment
from nasfw.parameters import Spec, as_spec
from nasfw.plugins import Registry
from nasfw.settings import Budget, Settings
from nasfw.tasks.few import Few
from nasfw.values import UsageError

log = logging.getLogger("nasfw")
Made = TypeVar("Made")

# What makes a search short, for strategies that have such a parameter and whose user did not set it.
_SHORT: Mapping[str, Any] = {
    "candidates": 1,
    "proposals": 2,
    "trials": 2,
    "epochs": 1,
    "tune_epochs": 1,
    "samples": 4,
    "batches": 1,
    "top": 1,
    "rounds": 1,
    "population": 2,
    "tournament": 1,
    # The least that has two rungs.
    "eta": 2,
    "max_epochs": 2,
}
_BUDGET = Budget(trials=4)
_SAMPLES = 64
# Settings that say nothing about a pair.
_WITHOUT = ("folder", "final", "yardsticks", "export", "budget")


@dataclass(frozen=True)
class Pair:
    """Whether a strategy works on a space: if not, for which reason; if it was tried, how long that took."""

    strategy: str
    space: str
    reason: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Matrix:
    """All pairs for a task, strategy by strategy. ``tried`` says whether they were run."""

    task: str
    tried: bool
    pairs: list[Pair]


@dataclass(frozen=True)
class _Item:
    """A strategy or space as the settings have it: made of ``spec``, or the ``reason`` why it cannot be."""

    label: str
    settings: Settings | None
    given: frozenset[str] = frozenset()
    reason: str | None = None


def matrix(given: Mapping[str, Any], registry: Registry, tried: bool = False) -> Matrix:
    """Every strategy on every space; settings name some of them, or set what they have to set.

    With ``tried``, every pair that passes the checks is run in miniature, in a temporary folder.
    """
    given = {_full(key): value for key, value in given.items()}
    for name in _WITHOUT:
        if any(key.partition(".")[0] == name for key in given):
            raise UsageError(f"the setting {name} makes no difference here; leave it out")
    common = {"hardware": [], **{k: v for k, v in given.items() if k.partition(".")[0] not in _AXES}}
    # Whatever is wrong with the rest of the settings is said before anything is made.
    base = config.resolve({**common, "strategy": "random"}, registry)
    common["task"] = registry.make("task", base.task)
    spaces = list(_items("spaces", given, common, registry))
    strategies = list(_items("strategy", given, common, registry))
    label = folders.name_of(base.task)
    with tempfile.TemporaryDirectory(prefix="nasfw-") as place, _quiet():
        pairs = list(_pairs(spaces, strategies, registry, Path(place), tried))
    order = {item.label: i for i, item in enumerate(strategies)}
    return Matrix(label, tried, sorted(pairs, key=lambda pair: order[pair.strategy]))


_AXES = ("spaces", "strategy")


def _full(key: str) -> str:
    name, dot, rest = key.partition(".")
    return config.ALIASES.get(name, name) + dot + rest


def _items(
    setting: str, given: Mapping[str, Any], common: Mapping[str, Any], registry: Registry
) -> Iterator[_Item]:
    """What there is of one of the two kinds, or what ``given`` names, with its parameters checked.

    UsageError if the user named or set something that cannot be; what is merely installed has a reason.
    """
    kind = {"spaces": "space", "strategy": "strategy"}[setting]
    named = given.get(setting)
    every = [e.name for e in registry.entries(kind)] if named is None else config.items(named)
    specs = [as_spec(item, setting) for item in every]
    names = [folders.name_of(spec) for spec in specs]
    parts = {key: value for key, value in given.items() if key.startswith(f"{setting}.")}
    for key in parts:
        part = key.split(".")[1]
        if part not in names and len(names) > 1:
            raise UsageError(
                f"{key} could mean {' or '.join(names)}; write for example {setting}.{names[0]}.{part}=..."
            )
    for label, spec in experiment.labelled(specs):
        name = folders.name_of(spec)
        own = {k: v for k, v in parts.items() if k.split(".")[1] == name or len(names) == 1}
        values = {**common, "strategy": "random", setting: [spec] if setting == "spaces" else spec, **own}
        try:
            settings = config.resolve(values, registry)
        except UsageError as reason:
            if named is not None or own:
                raise
            yield _Item(label, None, reason=str(reason))
            continue
        set_here = {key.rpartition(".")[2] for key in own}
        yield _Item(label, settings, frozenset(set_here | set(getattr(spec, "parameters", ()))))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log of runs in miniature, whose outcome is nobody's concern, to errors."""
    former = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(former)


def _pairs(
    spaces: Sequence[_Item], strategies: Sequence[_Item], registry: Registry, place: Path, tried: bool
) -> Iterator[Pair]:
    made = {item.label: _strategy(item, registry, short=False) for item in strategies}
    brief = {item.label: _strategy(item, registry, short=True) for item in strategies} if tried else {}
    with progress.track("running pairs" if tried else "checking pairs", len(spaces) * len(strategies)) as bar:
        for item in spaces:
            prepared = _prepared(item, registry, place)
            problem = prepared if isinstance(prepared, str) else _problem(prepared)
            for label, strategy in made.items():
                reason, seconds = _refused(problem, strategy), None
                if tried and reason is None:
                    folder = place / label / item.label
                    reason, seconds = _run(prepared, brief[label], registry, folder)
                yield Pair(label, item.label, reason, seconds)
                bar.advance()


def _strategy(item: _Item, registry: Registry, short: bool) -> Strategy | str:
    """The strategy, in miniature if ``short``, or why it cannot be made."""
    if item.settings is None:
        return item.reason or ""
    spec = item.settings.strategy
    made: Strategy | str = _attempt(lambda: registry.make("strategy", spec))
    if not short or isinstance(made, str) or not isinstance(spec, Spec):
        return made
    known = {p.name for p in registry.parameters(registry.find("strategy", spec.name))} - item.given
    brief = Spec(spec.name, spec.parameters | {n: v for n, v in _SHORT.items() if n in known})
    shorter: Strategy | str = _attempt(lambda: registry.make("strategy", brief))
    # Another author's parameter of such a name may mean something else.
    return made if isinstance(shorter, str) else shorter


def _prepared(item: _Item, registry: Registry, place: Path) -> Experiment | str:
    """The space with all that a run needs around it, or why there is none."""
    if item.settings is None:
        return item.reason or ""
    settings = replace(item.settings, folder=str(place / "none"))
    return _attempt(lambda: experiment.prepare(settings, registry))


def _problem(prepared: Experiment) -> Problem:
    """The problem of a run, the supernet made once however many strategies want to see it."""
    ((label, space),) = prepared.spaces.items()
    shared = copy.copy(space)
    object.__setattr__(shared, "supernet", functools.cache(space.supernet))
    return replace(prepared.problem(label, Path()), space=shared)


def _refused(problem: Problem | str, strategy: Strategy | str) -> str | None:
    """Why the pair cannot work; None if nothing speaks against it."""
    if isinstance(problem, str):
        return problem
    if isinstance(strategy, str):
        return strategy
    with engine.seeded(problem.seed):
        return _attempt(lambda: strategy.check(problem))


def _run(prepared: Any, strategy: Any, registry: Registry, place: Path) -> tuple[str | None, float]:
    """Run a pair in miniature: why that failed, and how long it took."""
    begin = time.perf_counter()
    outcome = _attempt(lambda: _miniature(prepared, strategy, registry).run(place))
    return outcome if isinstance(outcome, str) else None, time.perf_counter() - begin


def _miniature(prepared: Experiment, strategy: Strategy, registry: Registry) -> Experiment:
    """The run on a few samples with the smallest networks of the space, and nothing after the search."""
    # Made anew, since one that was reduced already stays as it is.
    anew = {
        label: registry.make("space", spec, task=prepared.task).reduced(1.0)
        for label, spec in experiment.labelled(prepared.settings.spaces)
    }
    return replace(
        prepared,
        task=Few(prepared.task, _SAMPLES, prepared.task.metric),
        strategy=strategy,
        spaces=anew,
        recipe=replace(prepared.recipe, epochs=1, fraction=1.0, batch_size=_SAMPLES // 2),
        settings=replace(prepared.settings, final=None, yardsticks=(), export=False, budget=_BUDGET),
    )


def _attempt(job: Callable[[], Made]) -> Made | str:
    """What ``job`` gives, or in words why it failed."""
    try:
        return job()
    except UsageError as reason:
        return str(reason)
    # Whatever a plugin raises, it is the answer to the question whether it works.
    except Exception as reason:
        text = " ".join(str(reason).split())
        return f"{type(reason).__name__}: {text}" if text else type(reason).__name__
