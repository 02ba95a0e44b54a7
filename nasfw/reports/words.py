"""Pieces of sentences that reports share: counts, names, recipes, devices and differences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from nasfw import notation
from nasfw.display import PERCENT, format_value, is_share
from nasfw.networks import Network
from nasfw.results import Result
from nasfw.values import Measure, Recipe


def count(number: float, noun: str) -> str:
    """A number with what it counts: 1 pass, 2.5 passes."""
    written = number if isinstance(number, int) else f"{number:.3g}"
    return f"{written} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def recipe(values: Recipe) -> str:
    """A recipe in words."""
    part = "" if values.fraction >= 1 else f" of {100 * values.fraction:.3g} % of the batches"
    return (
        f"{count(values.epochs, 'epoch')}{part}, batch size {values.batch_size}, {values.optimizer}, "
        f"learning rate {values.lr:g} ({values.schedule}), weight decay {values.weight_decay:g}"
        f"{_of_transforms(values)}"
    )


def _of_transforms(values: Recipe) -> str:
    """How transforms are trained in another way than the weights, if they are."""
    named = {
        "learning rate": values.transform_lr,
        "momentum": values.transform_momentum,
        "weight decay": values.transform_decay,
    }
    parts = [values.transform_optimizer or "", *(f"{n} {v:g}" for n, v in named.items() if v is not None)]
    windows = {"first": values.transform_warmup, "last": values.transform_cooldown}
    rests = [f"the {n} {'epoch' if v == 1 else count(v, 'epoch')}" for n, v in windows.items() if v]
    parts += [f"at rest in {' and '.join(rests)}"] if rests else []
    said = ", ".join(p for p in parts if p)
    return f", for transforms {said}" if said else ""


def runtime(fingerprint: Mapping[str, Any]) -> str:
    """A device's fingerprint in words: what runs the networks, and how."""
    known = {"provider", "threads", "batch", "precision", "runtime"}
    if not known <= fingerprint.keys():
        return ", ".join(f"{name} {value}" for name, value in fingerprint.items())
    on_card = fingerprint["provider"] != "CPUExecutionProvider"
    parts = [
        str(fingerprint["runtime"]).replace("onnxruntime", "ONNX Runtime"),
        str(fingerprint["provider"]).removesuffix("ExecutionProvider"),
        "" if on_card else count(fingerprint["threads"], "thread"),
        f"batch {fingerprint['batch']}",
        str(fingerprint["precision"]),
    ]
    return ", ".join(p for p in parts if p)


def label(measure: Measure, result: Result) -> str:
    """A measure's name for people: without its device if there is one only, an error by the metric it is."""
    metric = result.summary.metric
    if measure.device is not None and len({m.device for m in result.summary.measures} - {None}) == 1:
        return measure.name.partition("@")[0]
    if measure.name != "error" or metric == "error":
        return measure.name
    return f"1 - {metric}" if metric in PERCENT else metric


def choices(network: Network) -> str:
    """An architecture in a line, in its space's notation or by decisions and options."""
    return network.text or notation.text(network.choices)


def described(network: Network, introduction: str) -> list[Text]:
    """Lines with an architecture; a notation of its own in one piece, so that it can be copied."""
    if network.text is None:
        return [Text(f"{introduction}: {choices(network)}")]
    return [Text(f"{introduction}:"), Text(network.text, no_wrap=True, overflow="ignore")]


def difference(amount: float, measure: Measure) -> str:
    """A difference of two values of one measure: in points where the values are shown in percent."""
    if is_share(measure.unit, measure.name):
        return f"{100 * amount:.2f} points"
    return format_value(amount, measure.unit, measure.name)


def place(folder: Path, remark: str = "") -> Text:
    """A line with the run's folder, in one piece however long it is, so that it can be copied."""
    return Text.assemble(("Folder     ", "bold"), f"{folder}{remark}", no_wrap=True, overflow="ignore")
