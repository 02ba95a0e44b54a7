"""The text of ``card.md``, which says to people what an exported network is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nasfw
from nasfw.display import format_seconds, format_spread, format_value
from nasfw.networks import Network
from nasfw.reports.words import label
from nasfw.reports.words import recipe as in_words
from nasfw.results import SETTINGS
from nasfw.shipping.artefact import (
    MODEL,
    ONNX,
    WEIGHTS,
    Subject,
    decoded,
    onnx_use,
    prepared,
    shapes,
    torch_use,
)
from nasfw.tasks.meaning import Meaning
from nasfw.values import Measure

# So many numbers are read at a glance.
_FEW = 8


def card(subject: Subject) -> str:
    """The text of ``card.md``."""
    network, outcome = subject.network, subject.outcome
    sections = {
        f"Network {network.name} for {outcome.summary.task}": _introduction(subject),
        "Use": _use(subject),
        "Inputs and outputs": _meaning(subject),
        "Results": _results(subject),
        "Measurements": _measurements(subject),
        "Architecture": _architecture(subject),
        "How it was found and trained": _search(subject),
        "Verification": _verification(subject),
        "Provenance": _provenance(subject),
    }
    written = [(title, text) for title, text in sections.items() if text]
    return (
        "\n\n".join(f"{'#' if i == 0 else '##'} {title}\n\n{text}" for i, (title, text) in enumerate(written))
        + "\n"
    )


def _introduction(subject: Subject) -> str:
    outcome, task = subject.outcome, subject.task
    described = getattr(task, "description", "")
    sizes = ", ".join(f"{task.size(s)} {s}" for s in ("train", "valid", "test"))
    data = f" The data: {described.removesuffix('.')}." if described else ""
    return (
        f"A network of the space {subject.network.space} with {subject.parameters:,} parameters, found by "
        f"strategy {outcome.summary.strategy} for the task {outcome.summary.task} (samples: {sizes}).{data}"
    )


def _use(subject: Subject) -> str:
    samples = prepared(subject.meaning)
    needed = f"With torch and nothing else, from `{MODEL}` and `{WEIGHTS}` in this folder:"
    parts = [needed, _block(torch_use(samples), "python")]
    if subject.onnx:
        given = f", as `{samples}.numpy()` gives it" if subject.meaning.axes else ""
        parts += [
            f"With ONNX Runtime, from `{ONNX}` alone, for batches of any size:",
            _block(onnx_use("inputs"), "python"),
            f"There `inputs` is a NumPy array of what the network takes{given}.",
        ]
    return "\n\n".join(parts)


def _meaning(subject: Subject) -> str:
    meant = subject.meaning
    parts = [shapes(subject)]
    if not meant.axes:
        parts.append(
            "Inputs are what the batches of the task hold; whatever the task does to its data before must be "
            "done to new samples, too."
        )
    elif meant.standardised:
        numbers = f"mean {_few(meant.mean)}, deviation {_few(meant.deviation)}"
        parts.append(
            f"**Inputs must be standardised** as in training: (x - mean) / deviation for each channel, with "
            f"{numbers}. `model.prepare(x)` does that to samples {meant.axes} in the units of the data"
            f"{_moved(meant)}."
        )
    else:
        parts.append(
            f"Inputs are not standardised; `model.prepare(x)` takes samples {meant.axes} of the data"
            f"{_moved(meant)}."
        )
    if meant.kind:
        words = decoded(meant)
        parts.append(f"`model.decode(outputs)` gives {words[0].lower()}{words[1:]}.")
    return "\n\n".join(parts)


def _moved(meant: Meaning) -> str:
    """What ``prepare`` does to axes, in words."""
    if "channels" not in meant.axes:
        return ", and puts an axis for the one channel behind the first"
    return ", and moves the channels behind the first axis" if meant.axes.endswith("channels]") else ""


def _few(values: Sequence[float]) -> str:
    if len(values) > _FEW:
        return f"{len(values)} numbers that stand in model.py"
    return ", ".join(map(str, values))


def _results(subject: Subject) -> str:
    network, measures = subject.network, subject.outcome.summary.measures
    at = network.keys.index(subject.key)
    better = ("lower is better", "higher is better")
    rows = [
        {
            "objective": f"{label(m, subject.outcome)} ({better[m.maximise]})",
            f"these weights (seed {subject.seed})": format_value(network.values[m.name][at], m.unit, m.name),
            "median (range) over seeds": format_spread(network.values[m.name], m.unit, m.name),
            "validation split, in the search": format_value(
                (network.validation or {}).get(m.name), m.unit, m.name
            ),
        }
        for m in measures
    ]
    seeds = ", ".join(map(str, network.seeds))
    text = (
        f"On the test split, after training on the others together; seeds: {seeds}. The weights are those of "
        "the first seed, whatever the results of the others."
    )
    return "\n\n".join([_table(rows), text + _interval(subject, at)])


def _interval(subject: Subject, at: int) -> str:
    """How well the test split tells the accuracy, as a sentence; nothing for other qualities."""
    accuracy = subject.network.values.get("accuracy")
    if accuracy is None or subject.meaning.kind != "classification":
        return ""
    count = subject.task.size("test")
    low, high = (format_value(v, "", "accuracy") for v in wilson(accuracy[at], count))
    return (
        f" With {count} test samples, the 95 % confidence interval of these weights' accuracy on new samples "
        f"is {low} to {high} (Wilson's)."
    )


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a probability, of the ``share`` of ``count`` samples (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return middle - half, middle + half


def _measurements(subject: Subject) -> str:
    """How costs were measured, and the devices; nothing if none was."""
    rows = [row for m in subject.outcome.summary.measures for row in _measured(m, subject.network)]
    parts = [_table(_filled(rows)), _LEGEND] if rows else []
    for name, fingerprint in subject.outcome.summary.devices.items():
        about = [{"device": str(n), name: _plain(v)} for n, v in fingerprint.items() if n != "device"]
        parts.append(_table(about))
    return "\n\n".join(parts)


_LEGEND = (
    "The interval is that of the median over the repetitions. Outliers are repetitions that took half as "
    "long again as the median. Drift is the time that a reference network took beside it, in units of its "
    "known time; values are corrected for it."
)


def _measured(measure: Measure, network: Network) -> Iterator[dict[str, str]]:
    """How an objective was measured, if it was."""
    found = network.measured.get(measure.name)
    if not found:
        return
    low, high = (format_value(found.get(n), measure.unit, measure.name) for n in ("low", "high"))
    yield {
        "objective": measure.name,
        "value": format_value(network.median[measure.name], measure.unit, measure.name),
        "95 % confidence interval": f"{low} to {high}",
        **{n: _text(found.get(n)) for n in ("repetitions", "outliers", "drift", "clock")},
        "conditions": _plain(found.get("conditions") or ""),
        "remark": _text(found.get("remark")),
    }


def _filled(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The rows without columns that are empty in all of them."""
    return [{n: v for n, v in row.items() if any(r[n] for r in rows)} for row in rows]


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _architecture(subject: Subject) -> str:
    text = (
        f"The choices as the space {subject.network.space} names them; {MODEL} has the layers they amount to."
    )
    rows = [{"decision": n, "choice": str(c)} for n, c in subject.network.choices.items()]
    parts = [text, _table(rows)]
    if subject.network.text is not None:
        said = "The same as such networks are published, which the strategy `given` reads:"
        parts += [said, _block([subject.network.text], "")]
    return "\n\n".join(parts)


def _search(subject: Subject) -> str:
    outcome, recipe, task = subject.outcome, subject.network.recipe, subject.task
    seconds = "" if outcome.seconds is None else f" in {format_seconds(outcome.seconds)}"
    failed = f", {outcome.failed} of which failed" if outcome.failed else ""
    more = {"dropout": recipe.dropout, "clip": recipe.clip}
    more |= {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    more |= {"decay": recipe.decay} if recipe.schedule == "step" else {}
    listed = [f"{name} {value:g}" for name, value in more.items() if value is not None]
    listed += [f"milestones {', '.join(map(str, recipe.milestones))}"] if recipe.milestones else []
    return (
        f"Strategy {outcome.summary.strategy}: {outcome.trials} trial{'s' * (outcome.trials != 1)}{seconds}"
        f"{failed}, on {outcome.summary.compute}.\n\n"
        f"Final training, on {task.size('full')} samples: {', '.join([in_words(recipe), *listed])}."
    )


def _verification(subject: Subject) -> str:
    values, outcome = subject.network.values, subject.outcome
    metric = "accuracy" if "accuracy" in values else label(Measure("error"), outcome)
    largest = "largest difference from the searched network's outputs, relative to the largest of them"
    words = {
        "torch": f"{MODEL}: {largest}",
        "onnx": f"{ONNX}: {largest}",
        "metric": f"{metric} on the test split, computed from the outputs of {MODEL}",
        "reported": f"{metric} on the test split, as the run reported it for these weights",
    }
    rows = [{"check": words[n], "value": f"{subject.checks[n]:.6g}"} for n in words if n in subject.checks]
    text = "In a process of its own, without nasfw, the files were loaded and run on the whole test split."
    return "\n\n".join([text, _table(rows), *(f"Note: {remark}" for remark in subject.remarks)])


def _provenance(subject: Subject) -> str:
    folder = subject.outcome.folder
    environment = _read(folder / "env.json")
    packages = environment.pop("packages", {})
    rows = [
        {"what": "run", "value": folder.resolve().name},
        {"what": "record", "value": subject.key},
        {"what": "seed", "value": str(subject.seed)},
        {"what": "exported by", "value": f"nasfw {nasfw.__version__}"},
        {"what": "data", "value": subject.outcome.summary.data},
        *({"what": n, "value": _plain(v)} for n, v in environment.items() if n != "seed"),
        {"what": "versions", "value": _plain(packages)},
    ]
    settings = (folder / SETTINGS).read_text().strip().splitlines()
    rows = [row for row in rows if row["value"]]
    return "\n\n".join([_table(rows), f"Settings ({SETTINGS}):", _block(settings, "yaml")])


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{n} {_plain(v)}" for n, v in value.items())
    return str(value)


def _block(lines: Iterable[str], language: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table in Markdown."""
    if not rows:
        return "None."
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
