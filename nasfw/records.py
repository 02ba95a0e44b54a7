"""Records of a run: an append-only file of JSON lines, and the queries on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasfw.pareto import non_dominated, spread
from nasfw.values import Architecture, Measure, Phase, Record, UsageError

log = logging.getLogger("nasfw")

# A sync can cost milliseconds; a trial that took less than this is cheaper to repeat after a power failure.
_SYNC_SECONDS = 0.05


class Records:
    """The records in ``path``; with ``write=True`` new ones can be appended and survive a kill at any moment.

    A last line that is not a whole record is dropped and said so; a broken line before it is a UsageError.
    """

    def __init__(self, path: Path, write: bool = False) -> None:
        self.path = path
        self._records: dict[tuple[str, str, str], Record] = {}
        good = self._read()
        self._file = None
        if write:
            self._file = path.open("ab")
            if self._file.tell() != good:
                self._file.truncate(good)

    def _read(self) -> int:
        """Load what is there; the length in bytes of the lines that are whole."""
        if not self.path.exists():
            return 0
        good, whole = 0, True
        *lines, rest = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                record = Record.from_json(line)
            except (ValueError, KeyError, TypeError) as reason:
                if rest or number < len(lines):
                    raise UsageError(
                        f"{self.path} is damaged in line {number} of {len(lines) + bool(rest)} ({reason}); "
                        "remove that line to go on without its record"
                    ) from None
                whole = False
                break
            self._keep(record)
            good += len(line) + 1
        if rest or not whole:
            log.warning("%s: the last line is not a whole record and is left out", self.path)
        return good

    def _keep(self, record: Record) -> bool:
        count = len(self._records)
        self._records.setdefault((record.phase, record.space, record.key), record)
        return len(self._records) > count

    def append(self, record: Record) -> None:
        """Add ``record`` and write it to the disk, unless a record of the same trial is there."""
        if self._file is None:
            raise ValueError(f"{self.path} was opened for reading")
        line = record.to_json().encode() + b"\n"
        if self._keep(record):
            self._file.write(line)
            self._file.flush()
            if record.seconds >= _SYNC_SECONDS:
                os.fsync(self._file.fileno())

    def find(self, phase: Phase, space: str, key: str) -> Record | None:
        """The record of a trial, if it was made."""
        return self._records.get((phase, space, key))

    def select(self, phase: Phase, space: str | None = None) -> list[Record]:
        """Records of one phase (and space) that did not fail, in the order in which they were made."""
        return [
            r
            for r in self._records.values()
            if r.phase == phase and r.error is None and (space is None or r.space == space)
        ]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None:
        """Sync and close the file."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def costs(records: Iterable[Record], measures: Sequence[Measure]) -> NDArray[np.float64]:
    """The records' values [n, measures] with the sign that makes lower better."""
    return as_costs((r.values for r in records), measures)


def as_costs(values: Iterable[Mapping[str, float]], measures: Sequence[Measure]) -> NDArray[np.float64]:
    """Rows of values by name as costs [n, measures]: the one place where directions become signs."""
    names, signs = [m.name for m in measures], [-1.0 if m.maximise else 1.0 for m in measures]
    rows = [[row[name] for name in names] for row in values]
    table: NDArray[np.float64] = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    table *= np.array(signs)
    return table


def by_device(measures: Sequence[Measure]) -> list[list[Measure]]:
    """The measures that are compared together: one list per device, each with those that need none."""
    devices = list(dict.fromkeys(m.device for m in measures if m.device is not None))
    if not devices:
        return [list(measures)]
    return [[m for m in measures if m.device in (None, device)] for device in devices]


def front(records: Sequence[Record], measures: Sequence[Measure]) -> list[Record]:
    """Records that no other beats in every objective, device by device, in their given order.

    Over many devices nearly everything is non-dominated, hence one front per device. Equal values keep the
    first record.
    """
    return [records[i] for i in front_rows([r.values for r in records], measures)]


def front_rows(values: Sequence[Mapping[str, float]], measures: Sequence[Measure]) -> list[int]:
    """Which rows of values by name form the front that ``front`` describes."""
    kept: set[int] = set()
    for group in by_device(measures):
        kept.update(np.flatnonzero(non_dominated(as_costs(values, group))).tolist())
    return sorted(kept)


def finalists(
    records: Sequence[Record], measures: Sequence[Measure], limit: int, least: int = 1
) -> list[Record]:
    """At most ``limit`` records worth a final training; the best in the first measure comes first.

    The front, with the best record of each architecture, thinned to what keeps the most hypervolume. If it
    has fewer than ``least``, the next fronts fill up: what was measured on few samples may well be wrong.
    """
    table = costs(records, measures)
    best: dict[tuple[str, Architecture], Record] = {}
    for i in np.lexsort(table.T[::-1]).tolist():
        best.setdefault((records[i].space, records[i].architecture), records[i])
    rest = list(best.values())
    candidates = front(rest, measures)
    chosen = [candidates[i] for i in spread(costs(candidates, measures), limit)]
    while len(chosen) < min(least, limit) and len(candidates) < len(rest):
        rest = [r for r in rest if r not in candidates]
        candidates = front(rest, measures)
        chosen += candidates[: min(least, limit) - len(chosen)]
    return chosen
