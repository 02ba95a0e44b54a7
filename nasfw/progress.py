"""Progress of long phases: whoever works reports here, whoever wants to know listens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """What is told about bars."""

    def started(self, bar: Bar) -> None:
        """A phase begins."""

    def advanced(self, bar: Bar) -> None:
        """``bar.done`` or ``bar.figures`` changed."""

    def ended(self, bar: Bar) -> None:
        """A phase is over, complete or not."""


class Bar:
    """One phase: ``done`` of ``total`` steps, and its latest figures, some with units. A context manager."""

    __slots__ = ("_listener", "done", "figures", "first", "label", "total", "units")

    def __init__(
        self, label: str, total: int, done: int, units: Mapping[str, str], listener: Listener | None
    ) -> None:
        self.label = label
        self.total = total
        self.first = self.done = done
        self.figures: dict[str, float] = {}
        self.units = units
        self._listener = listener

    def advance(self, step: int = 1, /, **figures: float) -> None:
        """Report ``step`` more steps as done, with figures worth showing, such as ``loss=0.31``."""
        if self._listener is None:
            return
        self.done += step
        self.figures.update(figures)
        self._listener.advanced(self)

    def __enter__(self) -> Bar:
        if self._listener is not None:
            self._listener.started(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._listener is not None:
            self._listener.ended(self)


_listener: Listener | None = None
_process = 0


def track(label: str, total: int, done: int = 0, units: Mapping[str, str] | None = None) -> Bar:
    """The bar of a phase of ``total`` steps: ``with track("train", 20) as bar: ... bar.advance()``.

    ``done`` steps were done earlier, in a phase that goes on. Figures named in ``units`` are shown as values
    of an objective with that unit are. It does nothing unless someone listens in this process.
    """
    # A forked worker inherits the listener, but the terminal belongs to its parent.
    return Bar(label, total, done, units or {}, _listener if _process == os.getpid() else None)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Tell ``listener`` of all bars made inside this context; None silences them."""
    global _listener, _process
    former = (_listener, _process)
    _listener, _process = listener, os.getpid()
    try:
        yield
    finally:
        _listener, _process = former
