"""What a run is about to do, and what it would take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from nasfw.display import format_seconds, format_value, text_table
from nasfw.reports.words import count, place, recipe, runtime

if TYPE_CHECKING:
    from pathlib import Path

    from nasfw.estimate import Estimate
    from nasfw.experiment import Experiment

_YARDSTICKS = {
    "plain": "the plain backbone by the same recipe",
    "random": "random search with as many passes over the data, as the cost of a step is modelled",
}


def announcement(experiment: Experiment, folder: Path) -> RenderableType:
    """What a run is about to do."""
    from nasfw.results import SETTINGS, done

    table = Table.grid(Column(style="bold", no_wrap=True), Column(overflow="fold"), padding=(0, 1))
    for name, text in _plan(experiment, folder):
        table.add_row(name, Text(text))
    goes_on = ""
    if (folder / SETTINGS).exists():
        goes_on = " (this run is done)" if done(folder) else " (this run goes on where it stopped)"
    return Group(table, place(folder, goes_on))


def _plan(experiment: Experiment, folder: Path) -> Iterator[tuple[str, str]]:
    from nasfw.folders import name_of
    from nasfw.hardware.machine import compute_name

    settings, task = experiment.settings, experiment.task
    sizes = ", ".join(f"{task.size(split)} {split}" for split in ("train", "valid", "test"))
    yield (
        "Task",
        f"{name_of(settings.task)}: {_shape(task.input_shape)} to {_shape(task.output_shape)}; {sizes}",
    )
    described = getattr(task, "description", "")
    if described:
        yield "", described
    for label, space in experiment.spaces.items():
        described = getattr(space, "description", "")
        size = f"{count(len(space.decisions), 'decision')}, {count(float(space.size), 'architecture')}"
        yield "Space", f"{label}: {described + '; ' if described else ''}{size}"
        plain = space.own_text(space.default)
        if plain is not None:
            yield "", f"plain backbone: {plain}"
    yield "Strategy", name_of(settings.strategy) + _work(experiment)
    directions = [
        f"{o.name} ({'higher' if o.maximise else 'lower'} is better)" for o in experiment.objectives
    ]
    yield "Objectives", ", ".join(directions) + f"; the task's metric is {task.metric}"
    devices = {o.device.name: o.device for o in experiment.objectives if o.device is not None}
    for name, device in devices.items():
        yield "Device", f"{name}: {runtime(device.fingerprint)}"
    yield "Training", recipe(experiment.recipe)
    if settings.final is not None:
        seeds = ", ".join(map(str, experiment.seeds))
        yield (
            "Final",
            f"up to {experiment.final.limit} networks, trained on train and valid together and measured "
            f"on test, the best with {'seeds' if len(experiment.seeds) > 1 else 'seed'} {seeds}",
        )
        if experiment.yardsticks:
            yield "Beside it", " and ".join(_YARDSTICKS[y] for y in experiment.yardsticks)
    yield "Compute", compute_name(experiment.compute, experiment.threads)


def _work(experiment: Experiment) -> str:
    from pathlib import Path

    parts = []
    for label in experiment.spaces:
        work = experiment.strategy.workload(experiment.problem(label, Path()))
        if work is None:
            continue
        whole, paths = work.supernet_passes, work.path_passes
        kinds = [(count(whole, "pass"), whole), (count(paths, "pass") + " by single paths", paths)]
        passes = " and ".join(said for said, number in kinds if number)
        networks = f"up to {count(work.trials, 'network')}"
        if passes:
            # Only beside a supernet it need be said that they do not have its weights.
            supernet = f"a supernet for {passes} over the data, all gradients counted"
            networks = f"{supernet}, then {networks} from scratch"
        parts.append(networks)
    return ": trains " + "; ".join(parts) if parts else ""


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def forecast(estimates: Sequence[Estimate]) -> RenderableType:
    """What a run would take."""
    if not estimates:
        return Text(
            "Nothing is trained, so there are no steps whose time could be told.\nNothing was written."
        )
    parts: list[RenderableType] = [part for e in estimates for part in (_sizes(e), _times(e))]
    totals = [e.total for e in estimates]
    known = [t for t in totals if t is not None]
    if len(known) == len(totals) > 1:
        parts.append(Text(f"All spaces together: {format_seconds(sum(known))}."))
    return Group(*parts)


def _sizes(e: Estimate) -> RenderableType:
    rows: list[tuple[str, int | None, float]] = [("plain backbone", e.plain_parameters, e.plain_step)]
    rows.append(("average architecture", None, e.candidate_step))
    rows.append(("final network", e.final_parameters, e.final_step))
    if e.supernet_step is not None:
        rows.append(("supernet", e.supernet_parameters, e.supernet_step))
    table = [
        {
            "network": name,
            "parameters": format_value(size, "", "parameters"),
            "per training step": format_value(seconds, "s"),
        }
        for name, size, seconds in rows
    ]
    return text_table(table, f"Measured on this machine: {e.space}")


def _besides(e: Estimate) -> str:
    return (
        f"Measuring {' and '.join(e.measured)} comes on top of it, and so do exports.\n" if e.measured else ""
    )


def _times(e: Estimate) -> RenderableType:
    if e.search is None or e.total is None:
        return Text("The strategy does not say what it will evaluate, so the time cannot be estimated.")
    random = f", random search {format_seconds(e.random)}" if e.random is not None else ""
    return Text(
        f"Estimated time {format_seconds(e.total)}: search {format_seconds(e.search)} "
        f"({count(e.trials or 0, 'trial')}), final trainings at most {format_seconds(e.final)}{random}.\n"
        f"Peak memory so far {format_value(e.peak_memory, 'B')}, one step of each kind included.\n"
        f"{_besides(e)}Nothing was written."
    )
