"""What came out of a run: the front, its yardsticks, how the search went, and how values were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from nasfw.display import format_seconds, format_value, front_table, text_table
from nasfw.networks import Network
from nasfw.reports.folding import folding
from nasfw.reports.oneshot import alarms, course
from nasfw.reports.verdict import is_plain, verdict
from nasfw.reports.words import count, described, label, place, runtime
from nasfw.results import EXPORT, Result
from nasfw.values import Measure

if TYPE_CHECKING:
    from nasfw.supernets import Training

_SHOWN = 20


def outcome(result: Result, layers: bool = False) -> RenderableType:
    """The front, the yardsticks beside it, and whether the search beat them.

    ``layers`` says whether to list how the supernet's layers were computed.
    """
    measures = [replace(m, name=label(m, result)) for m in result.summary.measures]
    kind = "test split" if result.phase == "final" else "validation split; not trained again yet"
    title = f"Pareto front of {result.summary.task} ({kind})"
    rows = [_row(n, result) for n in result.front[:_SHOWN]]
    below = []
    unchanged = is_plain(result)
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
        other = "" if result.pick in result.front else ", though not on the test split"
        best = f"* best on the validation split{other}"
        plain = Text(f"{best}: the plain backbone as it is")
        parts += [plain] if unchanged else described(result.pick, best)
    said = [Text(said, style="bold")] if (said := verdict(result)) else []
    warned = [alarm for space, found in result.diagnoses.items() for alarm in alarms(space, found)]
    if said or warned:
        parts += [Text(), *said, *warned]
    about = list(_about(result))
    if about:
        parts += [Text(), *map(Text, about)]
    for space in dict.fromkeys([*result.supernets, *result.diagnoses]):
        parts += [Text(), *_oneshot(space, result, layers)]
    for space, report in result.foldings.items():
        parts += [Text(), *folding(space, report)]
    if not result.done:
        parts += [Text(), Text("The run is not done; its command, given again, goes on where it stopped.")]
    parts += [Text(), place(result.folder)]
    return Group(*parts)


def _oneshot(space: str, result: Result, layers: bool) -> Iterator[RenderableType]:
    """How the supernet of a space was trained, and how its search went."""
    if space in result.supernets:
        yield from supernet(space, result.supernets[space], layers)
    if space in result.diagnoses:
        yield from course(space, result.diagnoses[space])


def _about(result: Result) -> Iterator[str]:
    """How what was measured was measured, how well costs were predicted, and where the networks are."""
    for name, fingerprint in result.summary.devices.items():
        own = [m for m in result.summary.measures if m.device == name]
        metrics = " and ".join(m.name.partition("@")[0] for m in own)
        yield f"{metrics.capitalize()} on {name}: {runtime(fingerprint)}{_clocks(result, own)}."
    for name, table in result.tables.items():
        yield (
            f"Proposals for {name.partition('@')[0]} by a sum over layers: {table.entries} measured in "
            f"{format_value(table.seconds, 's')}; on {count(table.tested, 'network')} measured whole it was "
            f"{100 * table.error:.1f} % off, rank correlation {table.tau:.2f}."
        )
    exports = result.folder / EXPORT
    if exports.is_dir():
        done = sum((p / "card.md").exists() for p in exports.glob("[!.]*"))
        yield (
            f"{count(done, 'network')} exported and verified in {exports}: model.py, weights.safetensors, "
            "model.onnx, card.md."
        )


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
        return f"{count(trials, 'trial')} (interrupted)"
    duration = format_value(seconds, "s") if seconds < 1 else format_seconds(seconds)
    return f"{count(trials, 'trial')} in {duration}"
