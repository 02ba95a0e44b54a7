"""What a run shows in a terminal: bars or plain lines for progress, tables, and numbers for people."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from nasfw.progress import Bar, listening
from nasfw.values import Measure

Clock = Callable[[], float]

PERCENT = ("accuracy", "auroc", "f1", "map")
_LARGE = ("", "k", "M", "G", "T", "P", "E")
_SMALL = ("", "m", "µ", "n", "p")
DASH = "-"


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
    # Four digits first: 999.96 is 1.000k, not 1000.
    exponent = int(f"{size:.3e}".partition("e")[2])
    step = math.floor(exponent / 3)
    if not unit and (step < 0 or size < 1000):
        if size < 999.5 and value != round(value):
            return (lambda v: f"{v:.4g}"), ""
        if size < 1000 and value == round(value):
            return (lambda v: f"{v:.0f}" if v == round(v) else f"{v:.1f}"), ""
    if step >= len(_LARGE) or -step >= len(_SMALL):
        return (lambda v: f"{v:.3e}"), space + unit
    if unit == "B" and size < 1000:
        return (lambda v: f"{v:.0f}"), " B"
    factor = 10.0 ** (3 * step)
    decimals = max(0, 3 - (exponent - 3 * step))
    prefix = _LARGE[step] if step >= 0 else _SMALL[-step]
    return (lambda v: f"{v / factor:.{decimals}f}"), space + prefix + unit


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


@contextmanager
def showing(console: Console | None = None) -> Iterator[None]:
    """Show the progress of this process on ``console`` (the error stream): bars in a terminal, else lines."""
    console = Console(stderr=True) if console is None else console
    if console.is_terminal and not console.is_dumb_terminal:
        with Bars(console) as bars, listening(bars):
            yield
    else:
        with listening(Lines(console)):
            yield


class _Figures(ProgressColumn):
    """The figures of a bar: what gives way where the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


class Bars:
    """A listener that draws the outermost bars; an outermost one becomes a line when it ends."""

    visible = 3
    interval = 0.1

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._open: dict[Bar, TaskID | None] = {}
        self._drawn: dict[Bar, float] = {}
        self._started: dict[Bar, float] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _Figures(),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            expand=False,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def started(self, bar: Bar) -> None:
        task = None
        if len(self._open) < self.visible:
            label = "  " * len(self._open) + _short(self._news(bar.label))
            task = self._progress.add_task(
                escape(label), total=bar.total or None, completed=bar.done, figures=""
            )
        self._open[bar] = task
        self._started[bar] = self._drawn[bar] = self._clock()

    def _news(self, label: str) -> str:
        """``label`` without the beginning that it shares with the bar above."""
        above = next(reversed(self._open)).label if self._open else ""
        shared = above[: above.rfind(": ") + 2]
        return label[len(shared) :] if ": " in above and label.startswith(shared) else label

    def advanced(self, bar: Bar) -> None:
        task, now = self._open.get(bar), self._clock()
        if task is None or (now - self._drawn[bar] < self.interval and bar.done < bar.total):
            return
        self._drawn[bar] = now
        self._progress.update(task, completed=bar.done, figures=_figures(bar))

    def ended(self, bar: Bar) -> None:
        task = self._open.pop(bar, None)
        seconds = self._clock() - self._started.pop(bar)
        del self._drawn[bar]
        if task is not None:
            self._progress.remove_task(task)
        if not self._open:
            self._progress.console.print(_ending(bar, seconds))


class Lines:
    """A listener that prints lines: an outermost bar's start, now and then its state, and its end.

    A nested bar is silent unless it takes more than ``interval`` seconds.
    """

    interval = 10.0
    share = 0.2

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._open: list[Bar] = []
        self._started: dict[Bar, float] = {}
        self._shown: dict[Bar, tuple[float, int]] = {}

    def started(self, bar: Bar) -> None:
        self._open.append(bar)
        now = self._started[bar] = self._clock()
        self._shown[bar] = (now, bar.done)
        if len(self._open) == 1:
            self._print(f"{bar.label}: {bar.done}/{bar.total}")

    def advanced(self, bar: Bar) -> None:
        if bar not in self._shown or bar.done >= bar.total:
            return
        now = self._clock()
        when, done = self._shown[bar]
        outermost = bar is self._open[0]
        # A fifth done is news only if it took a while: short phases are many.
        fifth = outermost and bar.done - done >= self.share * bar.total and now - when >= self.interval / 10
        if not fifth and now - when < self.interval:
            return
        self._shown[bar] = (now, bar.done)
        elapsed = now - self._started[bar]
        fresh, todo = bar.done - bar.first, bar.total - bar.done
        left = f"about {format_seconds(elapsed / fresh * todo)} left" if fresh > 0 else ""
        parts = [f"{bar.done}/{bar.total}", _figures(bar), left]
        self._print(f"{bar.label}: " + ", ".join(p for p in parts if p))

    def ended(self, bar: Bar) -> None:
        outermost = bar is self._open[0]
        self._open.remove(bar)
        del self._shown[bar]
        seconds = self._clock() - self._started.pop(bar)
        if outermost or seconds >= self.interval:
            self._print(_ending(bar, seconds).plain)

    def _print(self, line: str) -> None:
        # A line stays a line in a log file, however long.
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _ending(bar: Bar, seconds: float) -> Text:
    state = "done" if bar.done >= bar.total else f"stopped at {bar.done}/{bar.total}"
    duration = format_value(seconds, "s") if 0 < seconds < 1 else format_seconds(seconds)
    parts = [f"{state} in {duration}", _figures(bar)]
    return Text(f"{bar.label}: " + ", ".join(p for p in parts if p))


def _figures(bar: Bar) -> str:
    """Figures of a bar; of one that a single device measured, the device need not be named."""
    names = {name: name.partition("@")[0] for name in bar.figures}
    short = len(set(names.values())) == len(names)
    return ", ".join(
        f"{names[name] if short else name} "
        + (format_value(value, bar.units[name], name) if name in bar.units else f"{value:.4g}")
        for name, value in bar.figures.items()
    )


def _short(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:21]}..."
