"""The progress of a run in a terminal: bars, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
from rich.table import Column
from rich.text import Text

from nasfw.display import format_seconds, format_value
from nasfw.progress import Bar, listening

Clock = Callable[[], float]


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
