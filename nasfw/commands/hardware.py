"""nasfw devices, measure and device serve: what can be measured here, and measuring it."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasfw.terminal import err, guarded, log_to_stderr, out
from nasfw.values import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nasfw.devices import Comparison, Described, Measurement

app = typer.Typer()
listing = typer.Typer(invoke_without_command=True)
device = typer.Typer()
app.add_typer(listing, name="devices")
app.add_typer(device, name="device")

Json = Annotated[bool, typer.Option("--json", help="print JSON for machines")]


@listing.callback()
@guarded
def devices(context: typer.Context, as_json: Json = False) -> None:
    """List the devices of this machine, and what each can measure; or compare two of them."""
    if context.invoked_subcommand is not None:
        return
    log_to_stderr()
    from nasfw import plugins
    from nasfw.devices import here, waiting
    from nasfw.hardware.machine import conditions

    registry = plugins.load()
    found, others, now = here(registry), waiting(registry), conditions()
    if as_json:
        _print_json({"devices": [asdict(d) for d in found], "conditions": now, "need_parameters": others})
        return
    for part in _devices(found, others, now):
        out.print(part, highlight=False)


def _devices(
    found: Sequence[Described], others: Mapping[str, Sequence[str]], now: Mapping[str, Any]
) -> Iterator[RenderableType]:
    from rich.text import Text

    from nasfw.devices import written
    from nasfw.display import DASH, format_value, text_table

    there = [d for d in found if d.problem is None]
    metrics = list(dict.fromkeys(metric for d in there for metric in d.metrics))
    yield text_table(
        [
            {"hardware=": written(d.spec), "name": d.name}
            | {m: ("yes" if d.metrics[m] is None else "no") if m in d.metrics else DASH for m in metrics}
            for d in there
        ]
    )
    for d in found:
        if d.problem is not None:
            yield Text(f"{written(d.spec)}: {d.problem}")
        for metric, why in d.metrics.items():
            if why is not None:
                yield Text(f"{written(d.spec)}, no {metric}: {why}")
    yield Text()
    for d in there:
        told = ", ".join(f"{k} {_plain(v)}" for k, v in d.fingerprint.items() if k != "device")
        yield Text(f"{written(d.spec)}: {told}")
        if d.canary is not None:
            small, large = (format_value(t, "s") for t in d.canary)
            yield Text(f"{written(d.spec)}, undisturbed: reference networks take {small} and {large}")
    if now:
        told = ", ".join(f"{k} {_plain(v)}{_UNITS.get(k, '')}" for k, v in now.items())
        yield Text(f"Now: {told}")
    if others:
        named = ", ".join(f"{name} ({', '.join(required)})" for name, required in others.items())
        yield Text(f"With parameters: {named}; nasfw plugins NAME explains them.")


_UNITS = {"temperature": " °C"}


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


@listing.command()
@guarded
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="a device, as in hardware=A")],
    second: Annotated[str, typer.Argument(metavar="B", help='another one, such as "{host: {threads: 2}}"')],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE", help="task, spaces, samples (20), seed (0), metric (latency)"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure random networks on two devices, and say how well they agree which is better."""
    log_to_stderr()
    from nasfw import config, plugins
    from nasfw.devices import compare, unit
    from nasfw.display import showing

    given = config.parse(settings or [])
    a, b = (config.parse([f"hardware={text}"])["hardware"] for text in (first, second))
    registry = plugins.load()
    with showing(err):
        found = compare(a, b, given, registry)
    if as_json:
        agreed = {k: None if math.isnan(v) else v for k, v in vars(found.agreement).items()}
        _print_json({**asdict(found), "agreement": agreed})
        return
    for part in _comparison(found, unit(found.metric, registry)):
        out.print(part, highlight=False)


def _comparison(found: Comparison, unit: str) -> Iterator[RenderableType]:
    from rich.text import Text

    from nasfw.display import format_value, text_table

    agreed = found.agreement
    yield Text(
        f"{found.metric} of {len(found.architectures)} random networks of {found.space}, task {found.task}, "
        f"seed {found.seed}"
    )
    rows = []
    for letter, spec, name, values in zip("AB", found.specs, found.names, found.values, strict=True):
        told = {"least": min(values), "median": median(values), "most": max(values)}
        rows.append(
            {"": letter, "hardware": spec, "name": name} | {k: format_value(v, unit) for k, v in told.items()}
        )
    yield text_table(rows)
    lines = {
        "Kendall's tau": f"{agreed.tau:.3f} ({agreed.tau_low:.3f} to {agreed.tau_high:.3f})",
        "Spearman's rho": f"{agreed.spearman:.3f}",
        "median of B / median of A": f"{agreed.ratio:.4g}",
        "better half in common": f"{100 * agreed.half:.0f} % (50 % by chance)",
    }
    for name, text in lines.items():
        yield Text(f"{name:<26} {text}")


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
    from nasfw.devices import chosen, unit
    from nasfw.devices import measure as measured
    from nasfw.display import showing
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
        _print_json({"measured": done, "left_out": found.left_out, "failed": found.failed})
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


@device.callback()
def lend() -> None:
    """Lend this machine's devices to another machine."""


@device.command()
@guarded
def serve() -> None:
    """Measure for another machine: requests come on the input, answers go to the output.

    There, `hardware=[{remote: {address: user@this-machine}}]` starts it through ssh.
    """
    log_to_stderr(logging.INFO)
    from nasfw import plugins
    from nasfw.hardware.serve import private_streams
    from nasfw.hardware.serve import serve as answer

    registry = plugins.load()
    # Who asked may be gone.
    with suppress(BrokenPipeError), private_streams() as (requests, answers):
        answer(lambda spec: registry.make("device", spec), requests, answers)


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
