"""nasfw devices and device serve: what can be measured here, and measuring it for others."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasfw.terminal import Json, err, guarded, log_to_stderr, out, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nasfw.devices import Comparison, Described

app = typer.Typer()
listing = typer.Typer(invoke_without_command=True)
device = typer.Typer()
app.add_typer(listing, name="devices")
app.add_typer(device, name="device")


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
        print_json({"devices": [asdict(d) for d in found], "conditions": now, "need_parameters": others})
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
    from nasfw.bars import showing
    from nasfw.devices import compare, unit

    given = config.parse(settings or [])
    a, b = (config.parse([f"hardware={text}"])["hardware"] for text in (first, second))
    registry = plugins.load()
    with showing(err):
        found = compare(a, b, given, registry)
    if as_json:
        agreed = {k: None if math.isnan(v) else v for k, v in vars(found.agreement).items()}
        print_json({**asdict(found), "agreement": agreed})
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
