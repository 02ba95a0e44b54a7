"""From what an ``ArraysTask`` names to arrays that are ready for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nasfw.tasks.kinds import class_numbers, classes_of, infer_kind, standard_form
from nasfw.tasks.reading import (
    Array,
    Layout,
    as_array,
    check_finite,
    layout,
    portions,
    read_npz,
    standardised,
)
from nasfw.tasks.splits import split, strata
from nasfw.tasks.targets import Code, code, scale
from nasfw.values import UsageError

if TYPE_CHECKING:
    from nasfw.tasks.arrays import ArraysTask

ARRAYS = ("x", "y", "x_valid", "y_valid", "x_test", "y_test", "groups")
# Inputs that are larger than this many bytes as 32-bit floats stay as they are until a batch needs them.
_LARGE = 2 << 30


@dataclass(frozen=True)
class Data:
    """Arrays that are ready for training; ``rows`` are the samples of each split.

    Inputs too large for a copy are standardised, and ``permuted``, ``late``: batch by batch.
    """

    x: Array
    late: bool
    permuted: bool
    mean: Array
    std: Array
    y: Array
    rows: dict[str, Array]
    code: Code
    classes: tuple[Any, ...]
    description: str
    reading: Layout

    def prepare(self, x: Any) -> Tensor:
        """Inputs that a network can take, of new samples ``x`` in the form of those for training."""
        array = as_array("x", x)
        check_finite("x", array)
        if array.ndim != len(self.reading.words.split(",")):
            raise UsageError(f"x has shape {array.shape}; x for training was read as {self.reading.words}")
        array = self.reading(array)
        if array.shape[1:] != self.x.shape[1:]:
            raise UsageError(
                f"samples of x have shape {array.shape[1:]}, channels first; those for training have "
                f"{self.x.shape[1:]}"
            )
        return torch.from_numpy(standardised(array, self.mean, self.std, self.permuted))

    def batch(self, rows: Array) -> tuple[Tensor, Tensor]:
        """Inputs and targets of ``rows``."""
        # Small gathers are many times faster in numpy than in torch when other processes share the cores.
        x = self.x[rows]
        x = standardised(x, self.mean, self.std, self.permuted) if self.late else x
        return torch.from_numpy(x), self.code.batch(torch.from_numpy(self.y[rows]))


def load(task: ArraysTask) -> Data:
    """Read, check, split and standardise what ``task`` names; UsageError says what is wrong."""
    given = given_arrays(task)
    reading = layout(given["x"], given["y"], task.channels)
    parts = [p for p in ("", "_valid", "_test") if "x" + p in given]
    for part in parts:
        check_alike("x" + part, given["x" + part], given["x"])
    inputs = {p: reading(given["x" + p]) for p in parts}
    positions = reading.shape[1:]
    kind, reason = task.kind, "as asked for"
    if kind == "auto":
        kind, reason = infer_kind(given["y"], positions)
    targets = {p: standard_form("y" + p, given["y" + p], kind, positions) for p in parts}
    for part in parts:
        check_alike("y" + part, targets[part], targets[""])
    classes = classes_of(targets[""], kind)
    if classes:
        targets = {p: class_numbers("y" + p, y, classes) for p, y in targets.items()}
    sizes = {p: len(x) for p, x in inputs.items()}
    rows = split_rows(task, sizes, strata(targets[""], kind), given.get("groups"))
    x, y = joined(inputs), joined(targets)
    target_code = code(kind, task.__dict__["metric"], y, rows["train"], len(classes), permuted=task.permuted)
    mean, std = np.zeros(x.shape[1]), np.ones(x.shape[1])
    if task.standardise:
        mean, std = scale(portions(x, rows["train"]))
    named = f" of {len(classes)} classes" if classes and kind != "dense_binary" else ""
    channels = f"{x.shape[1]} channel{'s' * (x.shape[1] > 1)} of {' x '.join(map(str, positions))}"
    counts = ", ".join(f"{len(rows[s])} {s}" for s in ("train", "valid", "test"))
    order = "; the positions along every axis in bit-reversed order" if task.permuted else ""
    description = (
        f"{task.file or 'arrays'}: x was read as {reading.words}, {channels}; {kind}{named} ({reason}), "
        f"measured by {target_code.metric}; samples: {counts}{order}"
    )
    late = x.size * 4 > _LARGE
    return Data(
        x=x if late else standardised(x, mean, std, task.permuted),
        late=late,
        permuted=task.permuted,
        mean=mean,
        std=std,
        y=target_code.encode(y),
        rows=rows,
        code=target_code,
        classes=classes,
        description=description,
        reading=reading,
    )


def given_arrays(task: ArraysTask) -> dict[str, Array]:
    """The arrays by parameter name, checked one by one and against each other's lengths."""
    values = {name: value for name in ARRAYS if (value := task.__dict__[name]) is not None}
    if task.file is not None and values:
        raise UsageError(f"both a file and {', '.join(values)} were given; one of the two is needed")
    if task.file is None and ("x" not in values or "y" not in values):
        raise UsageError("a task of arrays needs a file (file=my.npz) or both x and y")
    values = values if task.file is None else dict(read_npz(task.file))
    arrays = {name: as_array(name, v, text=name[0] in "yg") for name, v in values.items()}
    for part in ("", "_valid", "_test"):
        x, y = arrays.get("x" + part), arrays.get("y" + part)
        if (x is None) != (y is None):
            there, missing = ("y", "x") if x is None else ("x", "y")
            raise UsageError(f"{there}{part} was given without {missing}{part}")
        if x is None or y is None:
            continue
        if len(x) != len(y):
            raise UsageError(f"x{part} has {len(x)} samples and y{part} has {len(y)}; they must have as many")
        check_finite("x" + part, x)
        check_finite("y" + part, y)
    check_groups(arrays)
    return arrays


def check_groups(arrays: dict[str, Array]) -> None:
    """UsageError unless there is one group for each training sample, and more than one group."""
    groups = arrays.get("groups")
    if groups is None:
        return
    if groups.shape != arrays["x"].shape[:1]:
        raise UsageError(
            f"groups has shape {groups.shape}; the {len(arrays['x'])} samples of x need one each"
        )
    if len(np.unique(groups)) == 1 and ("x_valid" not in arrays or "x_test" not in arrays):
        raise UsageError(f"groups holds one group only ({groups[0].item()!r}); a split needs two or more")


def check_alike(name: str, array: Array, train: Array) -> None:
    """UsageError if samples of ``array`` differ in shape from those for training."""
    if array.shape[1:] != train.shape[1:]:
        raise UsageError(
            f"{name} has shape {array.shape}, where {name[0]} for training has {train.shape}; "
            "all but the first number must be equal"
        )


def split_rows(
    task: ArraysTask, sizes: dict[str, int], strata: Array, groups: Array | None
) -> dict[str, Array]:
    """Rows of every split in the joined arrays."""
    ends = np.cumsum(list(sizes.values()))
    rows = {p: np.arange(end - n, end) for (p, n), end in zip(sizes.items(), ends, strict=True)}
    rng = np.random.default_rng(task.seed)
    train, valid, test = rows[""], rows.get("_valid"), rows.get("_test")
    if test is None:
        train, test = split(train, strata, task.test_fraction, rng, groups, "test")
    if valid is None:
        train, valid = split(train, strata, task.valid_fraction, rng, groups, "valid")
    return {"train": train, "valid": valid, "full": np.concatenate([train, valid]), "test": test}


def joined(parts: dict[str, Array]) -> Array:
    """All parts in one array, without a copy if there is only one."""
    arrays = list(parts.values())
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
