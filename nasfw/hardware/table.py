"""A device whose measurements were made before, by whomever: one row for each architecture in a file."""

from __future__ import annotations

import csv
import io
import logging
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nasfw.contracts import Candidate, Device
from nasfw.values import Architecture, Measured, Option, Unsupported, UsageError, digest

log = logging.getLogger("nasfw")

# What a column's suffix says of its unit, in units of SI; none is SI itself.
_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_ENERGIES = {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "kJ": 1e3}
_SIZES = {
    "B": 1.0,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
}
UNITS = {"latency": _TIMES, "energy": _ENERGIES, "memory": _SIZES}

CHOICES = "choices"

Decisions = tuple[tuple[str, tuple[Option, ...]], ...]


@dataclass(frozen=True)
class Table(Device):
    """Measurements from a file: one row for each architecture, in columns named as the space's decisions.

    A CSV file has a header; an npz file has arrays of one length instead of columns, or the options in one
    array ``choices`` of rows x decisions, in the order of the space. Values are in the columns ``latency``,
    ``energy`` and ``memory`` in s, J and B, or in other units as in ``latency_ms`` and ``memory_MiB``.
    """

    file: Annotated[str, Field(description="a CSV or npz file, one row for each architecture")]
    label: Annotated[str, Field(description="name of the real thing; by default the file's")] = ""

    metrics = ("latency", "energy", "memory")

    @property
    def name(self) -> str:
        return self.label or Path(self.file).stem

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"device": self.name, "content": self._content().digest}

    def _content(self) -> _Content:
        path = Path(self.file).expanduser()
        try:
            state = path.stat()
        except OSError as reason:
            raise UsageError(f"file {self.file} cannot be read: {reason.strerror}") from None
        return _read(path, state.st_mtime_ns, state.st_size)

    def check(self, metric: str) -> None:
        super().check(metric)
        _numbers(self._content(), metric)

    def measure(self, metric: str, candidate: Candidate) -> float:
        super().check(metric)
        content = self._content()
        decisions = tuple((name, tuple(options)) for name, options in candidate.space.decisions.items())
        values = _values(content, metric, decisions)
        value = values.get(candidate.architecture)
        if value is None:
            chosen = zip(candidate.space.decisions, candidate.architecture, strict=True)
            raise Unsupported(
                f"{content.name} has {content.count} rows, but none for the architecture "
                f"{', '.join(f'{name}={option}' for name, option in chosen)}"
            )
        return Measured(value, clock=f"table {content.name}")


@dataclass(frozen=True, eq=False)
class _Content:
    """A file's columns by name; ``places`` says how a person finds each row."""

    name: str
    digest: str
    columns: Mapping[str, NDArray[Any]]
    places: Sequence[str]

    @property
    def count(self) -> int:
        return len(self.places)

    def column(self, name: str, *more: int) -> NDArray[Any]:
        """One of the columns, or an array of ``more`` axes; UsageError if it has another shape."""
        values, shape = self.columns[name], (self.count, *more)
        if values.shape != shape:
            raise UsageError(f"{name} of {self.name} has the shape {values.shape}; it should be {shape}")
        return values


@lru_cache(maxsize=8)
def _read(path: Path, modified: int, size: int) -> _Content:
    """The file as it was ``modified`` last."""
    readers = {".csv": _read_csv, ".npz": _read_npz}
    kind = path.suffix.lower()
    if kind not in readers:
        raise UsageError(f"{path.name} must be a .csv or .npz file")
    try:
        return readers[kind](path)
    except OSError as reason:
        raise UsageError(f"{path} cannot be read: {reason.strerror or reason}") from None


def _read_csv(path: Path) -> _Content:
    raw = path.read_bytes()
    try:
        reader = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        header = [cell.strip() for cell in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as reason:
        raise UsageError(f"{path.name} is no CSV file: {reason}") from None
    if not rows:
        raise UsageError(f"{path.name} has no rows")
    for name in header:
        if header.count(name) > 1:
            raise UsageError(f"{path.name} has two columns {name!r}")
    for line, row in rows:
        if len(row) != len(header):
            raise UsageError(f"line {line} of {path.name} has {len(row)} cells, its header {len(header)}")
    cells = np.array([row for _, row in rows])
    columns = dict(zip(header, cells.T, strict=True))
    return _Content(path.name, digest(raw), columns, [f"line {line}" for line, _ in rows])


def _read_npz(path: Path) -> _Content:
    try:
        # numpy leaves a damaged file open that it has opened.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it holds a single array")
            columns = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as reason:
        raise UsageError(f"{path.name} is no npz file of plain arrays: {reason}") from None
    # What is no column, such as a text about the file, may have any length.
    telling = [columns[n] for n in sorted(columns, key=CHOICES.__ne__) if n == CHOICES or _unit(n)]
    count = next((len(values) for values in telling if values.ndim), 0)
    if not count:
        raise UsageError(
            f"{path.name} has no measurements: no array {' or '.join(UNITS)}; it has "
            f"{', '.join(columns) or 'nothing'}"
        )
    return _Content(path.name, digest(path.read_bytes()), columns, [f"row {i}" for i in range(count)])


def _unit(column: str) -> tuple[str, float] | None:
    """Metric and unit of a column by its name; None if it is no metric's."""
    metric, _, unit = column.partition("_")
    if metric not in UNITS:
        return None
    factor = 1.0 if column == metric else UNITS[metric].get(unit)
    return None if factor is None else (metric, factor)


def _numbers(content: _Content, metric: str) -> list[float]:
    """The metric in SI units, row by row; UsageError names the first that is no positive number."""
    found = [(c, unit[1]) for c in content.columns if (unit := _unit(c)) and unit[0] == metric]
    if not found:
        possible = ", ".join(f"{metric}_{unit}" for unit in UNITS[metric])
        raise Unsupported(
            f"{content.name} has no column {metric}, nor one of {possible}; its columns are "
            f"{', '.join(content.columns)}"
        )
    if len(found) > 1:
        raise UsageError(f"{content.name} has {metric} twice: {' and '.join(c for c, _ in found)}")
    column, factor = found[0]
    values = []
    for place, cell in zip(content.places, content.column(column).tolist(), strict=True):
        value = _number(cell)
        if not 0 < value < math.inf:
            raise UsageError(f"{place} of {content.name}: {column} is {cell!r}, not a positive number")
        values.append(value * factor)
    return values


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


@lru_cache(maxsize=8)
def _values(content: _Content, metric: str, decisions: Decisions) -> Mapping[Architecture, float]:
    """The metric of every architecture of the space that the file has."""
    found: dict[Architecture, float] = {}
    places: dict[Architecture, str] = {}
    rows = zip(content.places, _architectures(content, decisions), _numbers(content, metric), strict=True)
    for place, architecture, value in rows:
        # A larger space's row is none of this one.
        if None in architecture:
            continue
        if found.setdefault(architecture, value) != value:
            raise UsageError(
                f"{places[architecture]} and {place} of {content.name} are of one architecture, but differ "
                f"in {metric}"
            )
        places.setdefault(architecture, place)
    if not found:
        raise UsageError(f"none of the {content.count} rows of {content.name} has the options of this space")
    return found


def _architectures(content: _Content, decisions: Decisions) -> Iterable[tuple[Any, ...]]:
    """The options, row by row; None for what is no option of the space."""
    names = [name for name, _ in decisions]
    missing = [name for name in names if name not in content.columns]
    if not missing:
        columns, used = [content.column(name) for name in names], names
    elif CHOICES in content.columns:
        columns, used = list(content.column(CHOICES, len(names)).T), [CHOICES]
    else:
        raise UsageError(
            f"{content.name} has no column for {len(missing)} of {len(names)} decisions: "
            f"{', '.join(missing)}; its columns are {', '.join(content.columns)}"
        )
    extra = [name for name in content.columns if name not in used and not _unit(name)]
    if extra:
        log.info("%s: columns without use here: %s", content.name, ", ".join(extra))
    found = []
    for (_, options), column in zip(decisions, columns, strict=True):
        cells = column.tolist()
        known = {cell: next((o for o in options if _is(cell, o)), None) for cell in set(cells)}
        found.append([known[cell] for cell in cells])
    return zip(*found, strict=True)


_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def _is(cell: Any, option: Option) -> bool:
    """Whether a cell, which may be text, means the option."""
    if isinstance(option, str):
        return str(cell) == option
    if isinstance(option, bool):
        return _TRUTH.get(str(cell).lower()) is option
    return _number(cell) == option
