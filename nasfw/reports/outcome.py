"""A run in words and tables: what is about to happen, what it would take, and what came out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.table import Column, Table
from rich.text import Text

from nasfw.display import PERCENT, format_seconds, format_value, front_table, is_share, text_table
from nasfw.experiments import EXPERIMENTS
from nasfw.parameters import suggestion
from nasfw.results import EXPORT, Network, Result
from nasfw.values import Measure, Recipe, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from nasfw.estimate import Estimate
    from nasfw.experiment import Experiment
    from nasfw.plugins import Registry
    from nasfw.supernets import Training

_SHOWN = 20
# A cost that is at most this share of the plain backbone's.
_WORTH_SAYING = 0.95
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
    return Group(table, _place(folder, goes_on))


def _place(folder: Path, remark: str = "") -> Text:
    """A line with the run's folder, in one piece however long it is, so that it can be copied."""
    return Text.assemble(("Folder     ", "bold"), f"{folder}{remark}", no_wrap=True, overflow="ignore")


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
        size = f"{_count(len(space.decisions), 'decision')}, {space.size:.3g} architectures"
        yield "Space", f"{label}: {described + '; ' if described else ''}{size}"
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
        supernet = (
            f"a supernet for {_count(work.supernet_passes, 'pass')} over the data, then "
            if work.supernet_passes
            else ""
        )
        parts.append(f"{supernet}up to {_count(work.trials, 'network')} from scratch")
    return ": trains " + "; ".join(parts) if parts else ""


def recipe(values: Recipe) -> str:
    """A recipe in words."""
    part = "" if values.fraction >= 1 else f" of {100 * values.fraction:.3g} % of the batches"
    return (
        f"{_count(values.epochs, 'epoch')}{part}, batch size {values.batch_size}, {values.optimizer}, "
        f"learning rate {values.lr:g} ({values.schedule}), weight decay {values.weight_decay:g}"
    )


def _count(number: float, noun: str) -> str:
    written = number if isinstance(number, int) else f"{number:.3g}"
    return f"{written} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def forecast(estimates: Sequence[Estimate]) -> RenderableType:
    """What a run would take."""
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
        f"({_count(e.trials or 0, 'trial')}), final trainings at most {format_seconds(e.final)}{random}.\n"
        f"Peak memory so far {format_value(e.peak_memory, 'B')}, one step of each kind included.\n"
        f"{_besides(e)}Nothing was written."
    )


def outcome(result: Result, layers: bool = False) -> RenderableType:
    """The front, the yardsticks beside it, and whether the search beat them.

    ``layers`` says whether to list how the supernet's layers were computed.
    """
    measures = [replace(m, name=label(m, result)) for m in result.summary.measures]
    kind = "test split" if result.phase == "final" else "validation split; not trained again yet"
    title = f"Pareto front of {result.summary.task} ({kind})"
    rows = [_row(n, result) for n in result.front[:_SHOWN]]
    below = []
    unchanged = _is_plain(result)
    if result.pick is not None and result.pick not in result.front and not unchanged:
        below.append(_row(result.pick, result))
    if result.plain is not None:
        below.append(_row(result.plain, result, "plain backbone" + " *" * unchanged))
    if result.random is not None:
        below.append(_row(result.random, result, "random search"))
    parts: list[RenderableType] = [front_table(rows, measures, below, title)]
    if len(result.front) > _SHOWN:
        parts.append(Text(f"... and {len(result.front) - _SHOWN} more; --json shows all."))
    parts.append(Text(_counts(result)))
    if result.pick is not None:
        what = "the plain backbone as it is" if unchanged else choices(result.pick)
        other = "" if result.pick in result.front else ", though not on the test split"
        parts.append(Text(f"* best on the validation split{other}: {what}"))
    said = verdict(result)
    if said:
        parts += [Text(), Text(said, style="bold")]
    about = list(_about(result))
    if about:
        parts += [Text(), *map(Text, about)]
    for space, training in result.supernets.items():
        parts += [Text(), *supernet(space, training, layers)]
    if not result.done:
        parts += [Text(), Text("The run is not done; its command, given again, goes on where it stopped.")]
    parts += [Text(), _place(result.folder)]
    return Group(*parts)


def _about(result: Result) -> Iterator[str]:
    """How what was measured was measured, how well costs were predicted, and where the networks are."""
    for name, fingerprint in result.summary.devices.items():
        own = [m for m in result.summary.measures if m.device == name]
        metrics = " and ".join(m.name.partition("@")[0] for m in own)
        yield f"{metrics.capitalize()} on {name}: {runtime(fingerprint)}{_clocks(result, own)}."
    for name, table in result.tables.items():
        yield (
            f"Proposals for {name.partition('@')[0]} by a sum over layers: {table.entries} measured in "
            f"{format_value(table.seconds, 's')}; on {_count(table.tested, 'network')} measured whole it was "
            f"{100 * table.error:.1f} % off, rank correlation {table.tau:.2f}."
        )
    place = result.folder / EXPORT
    if place.is_dir():
        count = sum((p / "card.md").exists() for p in place.glob("[!.]*"))
        yield (
            f"{_count(count, 'network')} exported and verified in {place}: model.py, weights.safetensors, "
            "model.onnx, card.md."
        )


def runtime(fingerprint: Mapping[str, Any]) -> str:
    """A device's fingerprint in words: what runs the networks, and how."""
    known = {"provider", "threads", "batch", "precision", "runtime"}
    if not known <= fingerprint.keys():
        return ", ".join(f"{name} {value}" for name, value in fingerprint.items())
    on_card = fingerprint["provider"] != "CPUExecutionProvider"
    parts = [
        str(fingerprint["runtime"]).replace("onnxruntime", "ONNX Runtime"),
        str(fingerprint["provider"]).removesuffix("ExecutionProvider"),
        "" if on_card else _count(fingerprint["threads"], "thread"),
        f"batch {fingerprint['batch']}",
        str(fingerprint["precision"]),
    ]
    return ", ".join(p for p in parts if p)


def _clocks(result: Result, measures: Sequence[Measure]) -> str:
    """What the values of ``measures`` come from, and how much they were corrected for drift."""
    networks = [n for n in (*result.front, result.pick, result.plain, result.random) if n is not None]
    details = [n.measured[m.name] for n in networks for m in measures if m.name in n.measured]
    clocks = list(dict.fromkeys(d["clock"] for d in details if d.get("clock")))
    drifts = [d["drift"] for d in details if d.get("drift")]
    said = f"; {', '.join(clocks)}" if clocks else ""
    if drifts:
        said += f", corrected for a drift of {min(drifts):.2f} to {max(drifts):.2f}"
    unsure = sum("unsure" in d.get("remark", "") for d in details)
    return said + (f"; {unsure} of {len(details)} values are unsure" if unsure else "")


def supernet(label: str, training: Training, layers: bool) -> list[RenderableType]:
    """How a space's supernet was trained: time per step, peak memory, on request each kind of layer's way."""
    figures = [f"{format_value(training.step, 's')} per step"] if training.step is not None else []
    memory = "" if training.memory is None else f"{format_value(training.memory, 'B')} "
    if training.memory is not None:
        figures.append(f"peak memory {memory}({training.remark})")
    elif training.remark:
        figures.append(f"peak memory unknown ({training.remark})")
    line = Text(f"Supernet of {label}: {', '.join(figures) or 'no figures'}.")
    if not (layers and training.layers):
        return [line]
    kinds: dict[str, list[str]] = {}
    for layer, way in training.layers.items():
        kinds.setdefault(way, []).append(layer)
    return [line, text_table([{"layers": _some(names), "computed": way} for way, names in kinds.items()])]


def _some(names: Sequence[str]) -> str:
    """One name, or the first and how many there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _is_plain(result: Result) -> bool:
    pick, plain = result.pick, result.plain
    return pick is not None and plain is not None and pick.architecture == plain.architecture


def _row(network: Network, result: Result, name: str = "") -> dict[str, Any]:
    first = result.summary.measures[0]
    mark = " *" if network == result.pick and not name else ""
    validation = (network.validation or {}).get(first.name)
    row: dict[str, Any] = {"network": name or network.name + mark}
    if result.phase == "final":
        row["validated"] = format_value(validation, first.unit, first.name)
    return row | {label(m, result): _values(network, m) for m in result.summary.measures}


def _values(network: Network, measure: Measure) -> list[float]:
    """One value per seed; of what is measured once, the value and its interval."""
    details = network.measured.get(measure.name)
    if details is None:
        return list(network.values[measure.name])
    return [details["low"], network.median[measure.name], details["high"]]


def label(measure: Measure, result: Result) -> str:
    """A measure's name for people: without its device if there is one only, an error by the metric it is."""
    metric = result.summary.metric
    if measure.device is not None and len({m.device for m in result.summary.measures} - {None}) == 1:
        return measure.name.partition("@")[0]
    if measure.name != "error" or metric == "error":
        return measure.name
    return f"1 - {metric}" if metric in PERCENT else metric


def _counts(result: Result) -> str:
    reference = ", ".join(
        f"{label(m, result)} {format_value(v, m.unit, m.name)}"
        for m, v in zip(result.summary.measures, result.reference, strict=True)
    )
    failed = f" ({result.failed} failed)" if result.failed else ""
    effort = [f"Search: {_took(result.trials, result.seconds)}{failed}"]
    if result.random is not None:
        effort.append(f"random search: {_took(result.random_trials, result.random_seconds)}")
    return f"{', '.join(effort)}.\nHypervolume {result.hypervolume:.4g} from the reference point {reference}."


def _took(trials: int, seconds: float | None) -> str:
    if seconds is None:
        return f"{_count(trials, 'trial')} (interrupted)"
    duration = format_value(seconds, "s") if seconds < 1 else format_seconds(seconds)
    return f"{_count(trials, 'trial')} in {duration}"


def choices(network: Network) -> str:
    """An architecture in a line: decisions and options."""
    return ", ".join(f"{name} {option}" for name, option in network.choices.items())


def verdict(result: Result) -> str:
    """One sentence: whether the search beat the plain backbone and equal-budget random search."""
    first = result.summary.measures[0]
    parts = []
    if result.pick is not None and result.plain is not None:
        if _is_plain(result):
            parts.append("did not beat the plain backbone, which it chose unchanged")
        else:
            parts.append(_against(result, result.plain, "the plain backbone", first))
    if result.random is not None:
        parts.append(_against(result, result.random, "equal-budget random search", first))
    said = [f"The search {', and it '.join(p for p in parts if p)}."] if any(parts) else []
    return " ".join([*said, *_bargains(result)])


def _bargains(result: Result) -> Iterator[str]:
    """For each cost, the network that saves most of it and is no worse than the plain backbone."""
    plain, (first, *costs) = result.plain, result.summary.measures
    if plain is None:
        return
    sign = 1.0 if first.maximise else -1.0
    good = [n for n in result.front if sign * n.median[first.name] >= sign * plain.median[first.name]]
    for measure in costs:
        if measure.maximise or not good or plain.median[measure.name] <= 0:
            continue
        best = min(good, key=lambda n: n.median[measure.name])
        share = best.median[measure.name] / plain.median[measure.name]
        if share < _WORTH_SAYING:
            ours, theirs = (format_value(n.median[first.name], first.unit, first.name) for n in (best, plain))
            yield (
                f"Network {best.name} needs {share:.2f} times the {label(measure, result)} of the plain "
                f"backbone and is no worse ({label(first, result)} {ours} against {theirs})."
            )


def _against(result: Result, other: Network, name: str, measure: Measure) -> str:
    comparison = result.against(other)
    if comparison is None or result.pick is None:
        return ""
    seeds = sorted(set(result.pick.seeds) & set(other.seeds))
    ours, theirs = (_per_seed(n, seeds, measure) for n in (result.pick, other))
    plural = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    figures = f"({label(measure, result)} {ours} against {theirs} with {plural})"
    amount = difference(abs(comparison.difference), measure)
    if len(seeds) > 1:
        amount += " in the median"
        figures = f"{figures[:-1]}, {comparison.wins} of {len(seeds)} better)"
    if comparison.verdict == "beat":
        return f"beat {name} by {amount} {figures}"
    if comparison.verdict == "tied":
        return f"did not beat {name}: they are equal{' in the median' if len(seeds) > 1 else ''} {figures}"
    behind = f"it is {amount} behind" if comparison.difference < 0 else "it was not better with most seeds"
    return f"did not beat {name}: {behind} {figures}"


def _per_seed(network: Network, seeds: Sequence[int], measure: Measure) -> str:
    values = dict(zip(network.seeds, network.values[measure.name], strict=True))
    texts = [format_value(values[s], measure.unit, measure.name) for s in seeds]
    # One percent sign is enough.
    return " / ".join(t.removesuffix(" %") for t in texts) + (" %" if texts[0].endswith(" %") else "")


def catalogue(registry: Registry) -> RenderableType:
    """All plugins by kind, name, package and version; those that could not be loaded below."""
    rows = [
        {"kind": e.kind, "name": e.name, "package": e.package, "version": e.version}
        for e in registry.entries()
    ]
    broken = [
        Text(f"not available: {b.name} of package {b.package} {b.version}: {b.reason}")
        for b in registry.broken
    ]
    return Group(text_table(rows), *broken)


def explanation(registry: Registry, name: str) -> RenderableType:
    """The plugins of a name: docstring, parameters, types and defaults; UsageError if there is none."""
    found = [e for e in registry.entries() if e.name == name]
    if not found:
        raise UsageError(
            f"no plugin is called {name!r}{suggestion(name, [e.name for e in registry.entries()])}"
        )
    parts: list[RenderableType] = []
    for entry in found:
        parts.append(Text(f"{entry.kind} {entry.name} ({entry.package} {entry.version})", style="bold"))
        parts += [Markdown(inspect.getdoc(entry.load()) or ""), Text()]
        rows = [
            {
                "parameter": p.name,
                "type": p.type,
                "default": "required" if p.required else p.default,
                "": p.help,
            }
            for p in registry.parameters(entry)
        ]
        parts.append(text_table(rows) if rows else Text("It has no parameters."))
        parts += [Text(line) for line in _presets(entry.kind, entry.name)]
    return Group(*parts)


def _presets(kind: str, name: str) -> Iterator[str]:
    """What the presets set of a plugin's parameters."""
    for preset, content in EXPERIMENTS.items():
        values = content["plugins"].get(kind, {}).get(name)
        if values:
            default = ", the default without a GPU," if preset == "quick" else ""
            listed = ", ".join(f"{n}={v}" for n, v in values.items())
            yield f"experiment={preset}{default} sets {listed}"


def difference(amount: float, measure: Measure) -> str:
    """A difference of two values of one measure: in points where the values are shown in percent."""
    if is_share(measure.unit, measure.name):
        return f"{100 * amount:.2f} points"
    return format_value(amount, measure.unit, measure.name)
