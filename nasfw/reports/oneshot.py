"""How a one-shot search went, in a few lines, and what speaks against its outcome."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from nasfw.diagnosis import Diagnosis
from nasfw.diagnostics import Diagnostics
from nasfw.display import format_value, sparkline
from nasfw.reports.words import count

_ALARM = "bold yellow"


def alarms(space: str, diagnosis: Diagnosis) -> list[RenderableType]:
    """Each reason for distrust, to stand out beside the verdict."""
    return [Text(f"Warning: in {space}, {reason}.", style=_ALARM) for reason in diagnosis.alarms]


def course(space: str, diagnosis: Diagnosis) -> Iterator[RenderableType]:
    """The time series of a search from their first to their last value, and what its ratings were worth."""
    found = diagnosis.found
    epochs = f", {count(found.moments[-1].epoch, 'epoch')}" if found.moments else ""
    yield Text(f"One-shot search in {space}{epochs}:")
    table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1), pad_edge=True)
    for name, text in [*_series(found), *_agreement(diagnosis), *(("note", n) for n in found.notes)]:
        table.add_row(name, Text(text))
    yield table


def _series(found: Diagnostics) -> Iterator[tuple[str, str]]:
    entropy, skips = _known(found, "entropy"), _known(found, "skips")
    if entropy:
        yield "entropy", f"{_way([f'{v:.2f}' for v in entropy])} of 1 {sparkline(entropy, 0.0, 1.0)}"
    if skips:
        shares = _way([f"{100 * v:.0f}" for v in skips])
        yield "skip connections", f"{shares} % of the edges {sparkline(skips, 0.0, 1.0)}"
    elif entropy:
        yield "skip connections", "the space has none"
    for name, title in (("eigenvalue", "largest eigenvalue"), ("loss", "training loss")):
        values = _known(found, name)
        if values:
            numbers = _way([format_value(v) for v in values])
            yield title, f"{numbers} {sparkline(values, min(0.0, *values))}"


def _known(found: Diagnostics, name: str) -> list[float]:
    return [value for _, value in found.series(name)]


def _way(texts: list[str]) -> str:
    """From the first to the last."""
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _agreement(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """How far ratings with inherited weights rank as trainings from scratch, where there are ratings."""
    drawn, rated, ratings = diagnosis.drawn, diagnosis.rated, diagnosis.found.ratings
    if not ratings:
        return
    every = "" if rated is None else f"{rated.tau:.2f} of all {rated.count} rated and trained"
    if drawn is not None:
        others = f"; {every}" if rated is not None and rated.count > drawn.count else ""
        yield (
            "Kendall's tau",
            f"{drawn.tau:.2f} between the supernet's ratings and trainings from scratch "
            f"({drawn.count} drawn uniformly{others})",
        )
        return
    both = count(sum(rating.drawn for rating, _ in diagnosis.pairs), "architecture")
    known = f"; {every}, but the ratings chose most of these" if every else ""
    yield "Kendall's tau", f"unknown, as only {both} drawn uniformly can be compared{known}"
