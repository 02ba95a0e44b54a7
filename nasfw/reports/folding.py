"""What learned operations have become, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from nasfw.display import format_value
from nasfw.folding import Replacement, Report, harmless, name_of
from nasfw.values import Option

_WORDS = {
    "conv": "the convolution that it replaced",
    "skip": "a skip connection",
    "zero": "nothing",
    "permuted": "that convolution in bit-reversed order",
    "fourier": "a Fourier layer of all modes",
}
_PATTERNS = (
    (r"k(\d+)d1", "a convolution of {0} taps per axis"),
    (r"k(\d+)d(\d+)", "a convolution of {0} taps per axis, {1} apart"),
    (r"pool(\d+)", "an average over {0} positions per axis"),
    (r"fourier(\d+)", "a Fourier layer of {0} modes per axis"),
)


def words(option: Option) -> str:
    """An operation's name as one says it."""
    text = str(option)
    for pattern, said in _PATTERNS:
        if found := re.fullmatch(pattern, text):
            return said.format(*found.groups())
    return _WORDS.get(text, text)


def folding(space: str, report: Report) -> Iterator[RenderableType]:
    """What each layer became, how far it is from that, and what taking that in its place does to the loss."""
    yield Text(
        f"What the operations of {space} became in training: the smallest named operation among the nearest "
        "(distance: norm of the difference over that of the operation, at most 0.5; loss: on the validation "
        f"split with the named one in its place, {format_value(report.loss)} as trained), and the smallest "
        "that leaves the loss as it is:"
    )
    first, became = Column("layer", no_wrap=True), Column("became", overflow="fold")
    columns = first, became, "distance", "loss", Column("does as well", no_wrap=True)
    table = Table(*columns, box=None, padding=(0, 1), pad_edge=True)
    for layer, rows in report.replacements.items():
        small = harmless(rows, report.loss)
        table.add_row(layer, *_row(rows), str(small.option) if small else "none")
    yield table


def _row(replacements: Sequence[Replacement]) -> tuple[str, str, str]:
    best = name_of(replacements)
    if best is not None:
        return f"{words(best.option)} ({best.option})", f"{best.distance:.2f}", format_value(best.loss)
    if not replacements:
        return "nothing else is possible", "", ""
    near = min(replacements, key=lambda r: r.distance)
    said = f"an operation without a name; nearest is {words(near.option)} ({near.option})"
    return said, f"{near.distance:.2f}", format_value(near.loss)
