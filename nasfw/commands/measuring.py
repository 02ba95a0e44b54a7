"""nasfw measure: what ONNX files cost on a device."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasfw.terminal import Json, err, guarded, log_to_stderr, out, print_json
from nasfw.values import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nasfw.devices import Measurement

app = typer.Typer()


@app.command()
@guarded
def measure(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE.onnx|NAME=VALUE", help="ONNX files; hardware=host, metrics=latency,memory"
        ),
    ],
    as_json: Json = False,
) -> None:
    """Measure ONNX files: latency, memory and, where it can be measured, energy of one inference.

    Several files are taken in turns. Settings are `hardware`, by default host, written as for `nasfw run`,
    and `metrics`, a list. Everything is measured anew.
    """
    log_to_stderr()
    from nasfw import config, plugins
    from nasfw.bars import showing
    from nasfw.devices import chosen, unit
    from nasfw.devices import measure as measured
    from nasfw.parameters import suggestion

    settings = [a for a in arguments if "=" in a and not Path(a).exists()]
    files = [Path(a) for a in arguments if a not in settings]
    given = config.parse(settings)
    metrics = _names(given.pop("metrics", None))
    for name in given:
        if (setting := name.partition(".")[0]) != "hardware":
            known = ("hardware", "metrics")
            raise UsageError(f"there is no setting {setting!r} here{suggestion(setting, known)}")
    if not files:
        raise UsageError("no file was given; name an ONNX file, as in nasfw measure network.onnx")
    registry = plugins.load()
    devices = chosen({"hardware": "host", **given}, registry)
    with showing(err):
        found = measured(files, devices, metrics)
    if as_json:
        done = [{**vars(m), "value": float(m.value), **m.value.details} for m in found.done]
        print_json({"measured": done, "left_out": found.left_out, "failed": found.failed})
        _refuse(found.failed)
        return
    units = {m.metric: unit(m.metric, registry) for m in found.done}
    for part in _measurements(found.done, units):
        out.print(part, highlight=False)
    for sentence in found.left_out:
        out.print(f"Not measured: {sentence}", highlight=False, markup=False)
    _refuse(found.failed)


def _refuse(failed: Sequence[str]) -> None:
    """End with code 2 if some files could not be measured, as is said of each."""
    if failed:
        raise UsageError("\n       ".join(failed))


def _names(metrics: Any) -> list[str] | None:
    """The setting metrics, a list or a text with commas, as a list."""
    if metrics is None:
        return None
    names = [n.strip() for n in metrics.split(",")] if isinstance(metrics, str) else metrics
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UsageError("metrics are written metrics=latency,memory")
    return names


def _measurements(done: Sequence[Measurement], units: Mapping[str, str]) -> Iterator[RenderableType]:
    """A table for every device and metric, with what is to be said of it below."""
    from rich.text import Text

    from nasfw.display import text_table

    names = {d.spec: d.device for d in done}
    for spec, name in names.items():
        yield Text(f"{spec}: {name}", style="bold")
        own = [d for d in done if d.spec == spec]
        for metric, group in groupby(own, key=lambda d: d.metric):
            part = list(group)
            yield text_table([_row(d, units[metric], _short(part), _base(part)) for d in part])
            clocks = dict.fromkeys(d.value.clock for d in part if d.value.clock)
            if clocks:
                yield Text(f"Measured by: {', '.join(clocks)}.")
            for d in part:
                if d.value.remark:
                    yield Text(f"{d.file}: {d.value.remark}")
            yield Text()
    if any(d.value.drift is not None for d in done):
        yield Text("Drift: how much slower the device was than it can be; the values are corrected for it.")


def _row(measured: Measurement, unit: str, least: int, base: Path | None) -> dict[str, str]:
    from nasfw.display import format_value

    value, file = measured.value, Path(measured.file)
    middle, low, high = (format_value(v, unit) for v in (value, value.low, value.high))
    # One unit is enough.
    if len({text.partition(" ")[2] for text in (middle, low, high)}) == 1:
        low, high = low.partition(" ")[0], high.partition(" ")[0]
    row = {
        "file": _shortened(file.name if base is None else str(file.relative_to(base))),
        measured.metric: middle,
        "95 % interval" if least >= _LEAST else "range": f"{low} to {high}",
        "runs": str(value.repetitions),
    }
    if value.drift is not None:
        row |= {"outliers": str(value.outliers), "drift": f"{value.drift:.3f}"}
    return row


# Fewer repetitions have no interval of 95 % confidence, whatever the distribution.
_LEAST = 6


def _short(part: Iterable[Measurement]) -> int:
    return min(m.value.repetitions for m in part)


def _base(part: Sequence[Measurement]) -> Path | None:
    """The folder that all files are in, where their names alone do not tell them apart."""
    files = [Path(d.file) for d in part]
    if len({f.name for f in files}) == len(files):
        return None
    return Path(os.path.commonpath([f.parent for f in files]))


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:11]}...{name[-10:]}"
