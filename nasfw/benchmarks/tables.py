"""A report of benchmarks as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from nasfw.benchmarks.findings import Check, Finding, Memory, Report
from nasfw.benchmarks.timing import Spread
from nasfw.display import DASH, format_value

_SECTIONS = {
    "sweeps": "Sweeps",
    "layers": "Layers",
    "networks": "Networks",
    "train": "Forward and backward pass",
    "inference": "Inference",
}


def conditions(header: Mapping[str, Any]) -> list[str]:
    """Under which conditions the times were measured, line by line."""
    scale, depthwise = header["scale"], header["depthwise"]
    channels, batch = scale["sweep_channels"], scale["sweep_batch"]
    return [
        machine(header),
        f"medians of {scale['rounds']} rounds in which all ways take turns, forward and backward, with the "
        "quartiles",
        f"sweeps: {channels} to {channels} channels, batch {batch}; "
        f"layers: batch {scale['layer_batch']}; {'depthwise' if depthwise else 'dense'}, plain always dense",
        *busy(header),
    ]


def machine(header: Mapping[str, Any]) -> str:
    """What the times were measured with, as a line."""
    return f"{header['machine']}; torch {header['environment']['packages']['torch']}, {header['dtype']}"


def busy(header: Mapping[str, Any]) -> list[str]:
    """A line if the machine was at work already."""
    load = header["load"]
    if load + max(header["threads"]) <= header["environment"]["cores"] + 0.5:
        return []
    return [f"the machine was busy at the start (load {load:.1f}): times of several threads say little"]


def tables(report: Report) -> Iterator[Table]:
    """Times by section and number of threads, growth, memory, and last what is wanted."""
    for section, title in _SECTIONS.items():
        for threads in dict.fromkeys(f.threads for f in report.findings):
            found = [f for f in report.findings if (f.section, f.threads) == (section, threads)]
            if found:
                yield _times(found, f"{title}, {_threads(threads)}, {found[0].clock}")
    if report.growth:
        yield _growth(report)
    if report.memory:
        yield _memory(report.memory)
    if report.checks:
        yield _checks(report.checks)


def _times(found: Sequence[Finding], title: str) -> Table:
    table = empty(title, ("case", "way"), ("median", "quartiles", "times reference"))
    for finding in found:
        ratios = finding.ratios()
        for i, (name, timing) in enumerate(finding.timings.items()):
            s = timing.spread
            times = [format_value(t, "s") for t in (s.median, s.low, s.high)]
            ratio = "reference" if name == finding.reference else ranged(ratios.get(name))
            table.add_row(escape(finding.case) if i == 0 else "", name, times[0], _range(*times[1:]), ratio)
        for name, why in finding.skipped.items():
            table.add_row("", name, DASH, escape(why), DASH)
        table.add_section()
    return table


def _growth(report: Report) -> Table:
    table = empty("Growth: time as a power of", ("sweep", "way", "threads"), ("exponent", "points"))
    for g in report.growth:
        table.add_row(g.sweep, g.way, str(g.threads), f"{g.exponent:.2f}", str(g.points))
    return table


def _memory(cases: Sequence[Memory]) -> Table:
    table = empty(
        "Peak memory of three training steps, each in a fresh process",
        ("case", "way"),
        ("in all", "times", "of the steps", "times"),
    )
    for case in cases:
        base = case.footprints.get(case.reference)
        for i, (name, f) in enumerate(case.footprints.items()):
            ratios = [f"{f.peak / base.peak:.2f}", f"{f.net / max(1, base.net):.2f}"] if base else [DASH] * 2
            whole, net = format_value(f.peak, "B"), format_value(f.net, "B")
            table.add_row(escape(case.case) if i == 0 else "", name, whole, ratios[0], net, ratios[1])
        for name, why in case.skipped.items():
            table.add_row("", name, escape(why), DASH, DASH, DASH)
        table.add_section()
    return table


def _checks(checks: Sequence[Check]) -> Table:
    table = empty("What is wanted", ("what", "threads"), ("measured", "wanted", "kept"))
    for c in checks:
        kept = "[green]yes[/]" if c.kept else "[bold red]no[/]"
        table.add_row(escape(c.what), str(c.threads), ranged(c.value), f"{c.relation} {c.bound:g}", kept)
    return table


def empty(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table with columns of texts and of numbers."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", header_style="bold", pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def ranged(value: Spread | None) -> str:
    """A median with its quartiles, as text."""
    if value is None:
        return DASH
    median = f"{value.median:.3g}" if value.median < 1000 else f"{value.median:.0f}"
    if value.low == value.high:
        return median
    return f"{median} ({_range(*(f'{v:.3g}' if v < 1000 else f'{v:.0f}' for v in (value.low, value.high)))})"


def _range(low: str, high: str) -> str:
    return f"{low} to {high}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
