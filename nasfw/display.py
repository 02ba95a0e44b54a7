"""What a run shows in a terminal: numbers for people, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from nasfw.values import Measure

PERCENT = ("accuracy", "auroc", "f1", "map")
_LARGE = ("", "k", "M", "G", "T", "P", "E")
_SMALL = ("", "m", "µ", "n", "p")
DASH = "-"
_BLOCKS = "▁▂▃▄▅▆▇█"


def format_value(value: float | None, unit: str = "", name: str = "") -> str:
    """A number with four digits and its unit: 98.61 %, 176.4k, 1.234 ms, 3 min 20 s.

    Shares are shown in percent: those of unit "%" or with a name in PERCENT (a device after @ is ignored).
    Other units get SI prefixes; without unit only large numbers do.
    """
    if value is None or math.isnan(value):
        return DASH
    if unit == "s" and 120 <= abs(value) < math.inf:
        return ("-" if value < 0 else "") + format_seconds(abs(value))
    number, suffix = _scale(value, unit, name)
    return number(value) + suffix


def format_spread(values: Sequence[float], unit: str = "", name: str = "") -> str:
    """The median over seeds with the range: 98.61 (98.20 to 99.10) %."""
    known = [v for v in values if not math.isnan(v)]
    if len(known) < 2 or not all(map(math.isfinite, known)) or min(known) == max(known):
        return format_value(known[0] if known else None, unit, name)
    middle = median(known)
    number, suffix = _scale(middle, unit, name)
    return f"{number(middle)} ({number(min(known))} to {number(max(known))}){suffix}"


def format_seconds(seconds: float) -> str:
    """A duration in its two largest units: 7 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if not seconds < 1e11:
        return f"{seconds:.3e} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def sparkline(
    values: Sequence[float], low: float | None = None, high: float | None = None, width: int = 16
) -> str:
    """A time series as blocks of eight heights between ``low`` and ``high``, by default its extremes.

    More than ``width`` values are drawn as the means of equal parts; one that is not finite is a gap.
    """
    count = min(width, len(values))
    parts = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [sum(part) / len(part) for part in parts]
    known = [m for m in means if math.isfinite(m)]
    low = min(known, default=0.0) if low is None else low
    high = max(known, default=0.0) if high is None else high
    return "".join(_block(m, low, high) for m in means)


def _block(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return " "
    share = (value - low) / (high - low) if high > low else 0.0
    return _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)]


def is_share(unit: str, name: str) -> bool:
    """Whether values are shown in percent: by their unit, or by a name in PERCENT (a device is ignored)."""
    return unit == "%" or (not unit and name.partition("@")[0] in PERCENT)


def _scale(value: float, unit: str, name: str) -> tuple[Callable[[float], str], str]:
    """How to write numbers of the size of ``value``, and what to write behind them."""
    if is_share(unit, name):
        return (lambda v: f"{100 * v:.2f}" if abs(v) < 1e4 else f"{100 * v:.3e}"), " %"
    size = abs(value)
    space = " " if unit else ""
    if size == 0 or math.isinf(size):
        return (lambda v: f"{v:.4g}"), space + unit
    exponent = _exponent(size)
    step = exponent // 3
    if not unit and (step < 0 or size < 1000):
        if size < 999.5 and value != round(value):
            return (lambda v: f"{v:.4g}"), ""
        if size < 1000 and value == round(value):
            return (lambda v: f"{v:.0f}" if v == round(v) else f"{v:.1f}"), ""
    if step >= len(_LARGE) or -step >= len(_SMALL):
        return (lambda v: f"{v:.3e}"), space + unit
    if unit == "B" and size < 1000:
        return (lambda v: f"{v:.0f}"), " B"
    factor, written = magnitude(value, unit, name)
    decimals = max(0, 3 - exponent + round(math.log10(factor)))
    return (lambda v: f"{v / factor:.{decimals}f}"), space + written


def magnitude(value: float, unit: str = "", name: str = "") -> tuple[float, str]:
    """The unit that ``value`` is shown in, its size and its name: (1e-3, "ms"), (0.01, "%"), (1e3, "k").

    It is 1 and ``unit`` itself where no prefix would help.
    """
    if is_share(unit, name):
        return 0.01, "%"
    if value == 0 or not math.isfinite(value):
        return 1.0, unit
    step = _exponent(abs(value)) // 3
    # Nobody counts kiloseconds, or thousandths of a byte.
    odd = (step < 0 and unit in ("", "B")) or (step > 0 and unit == "s")
    if odd or step >= len(_LARGE) or -step >= len(_SMALL):
        return 1.0, unit
    return 10.0 ** (3 * step), (_LARGE[step] if step >= 0 else _SMALL[-step]) + unit


def _exponent(size: float) -> int:
    """The power of ten of a size with four digits."""
    # Four digits first: 999.96 is 1.000k, not 1000.
    return int(f"{size:.3e}".partition("e")[2])


def front_table(
    rows: Sequence[Mapping[str, Any]],
    measures: Sequence[Measure],
    below: Sequence[Mapping[str, Any]] = (),
    title: str = "",
) -> Table:
    """A table of networks, those ``below`` under a rule.

    A row has texts, and for a measure's name its value or a sequence with one value per seed. Texts become
    the first columns, in the order of the first row.
    """
    table = _table(title)
    names = [m.name for m in measures]
    texts = list(dict.fromkeys(k for row in (*rows, *below) for k in row if k not in names))
    for text in texts:
        table.add_column(text, overflow="fold", min_width=6)
    for measure in measures:
        table.add_column(
            f"{measure.name} {'↑' if measure.maximise else '↓'}", justify="right", no_wrap=len(measures) < 3
        )
    for i, row in enumerate((*rows, *below)):
        cells = [*(str(row.get(t, "")) for t in texts), *(_cell(row.get(m.name), m) for m in measures)]
        table.add_row(*map(escape, cells), end_section=i == len(rows) - 1 and bool(below))
    return table


def _cell(value: Any, measure: Measure) -> str:
    if isinstance(value, Sequence):
        return format_spread(value, measure.unit, measure.name)
    return format_value(value, measure.unit, measure.name)


def text_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """A table of texts with one column for each key of the first row; the last column may wrap."""
    table = _table(title)
    names = list(rows[0]) if rows else []
    for i, name in enumerate(names):
        table.add_column(name, overflow="fold", no_wrap=i == 0 and len(names) > 1)
    for row in rows:
        table.add_row(*(escape("" if row.get(n) is None else str(row[n])) for n in names))
    return table


def _table(title: str) -> Table:
    return Table(
        title=escape(title) or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        header_style="bold",
        pad_edge=False,
    )
