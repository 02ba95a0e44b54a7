"""The user's own arrays as a task: ``task=my.npz`` or ``ArraysTask(x, y)``."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor

from nasfw.contracts import Task
from nasfw.tasks.loading import ARRAYS, Data, given_arrays, load
from nasfw.tasks.meaning import Meaning, meaning
from nasfw.tasks.metrics import KINDS, METRICS, SUITABLE, Kind
from nasfw.tasks.reading import Array, Channels
from nasfw.tasks.targets import Code
from nasfw.values import Recipe, Split, UsageError, digest

log = logging.getLogger("nasfw")

MetricName = Literal["auto", "error", "f1", "auroc", "map", "relative_l2", "mae", "mse"]
KindName = Literal[
    "auto",
    "classification",
    "multilabel",
    "regression",
    "dense_classification",
    "dense_regression",
    "dense_binary",
]


class ResolvedMetric:
    """The field ``metric``: as a parameter perhaps "auto", as an attribute what "auto" turned out to be."""

    def __get__(self, task: Any, owner: type | None = None) -> str:
        given: str = "auto" if task is None else task.__dict__["metric"]
        return given if task is None or given != "auto" else task.code.metric

    def __set__(self, task: Any, value: str) -> None:
        task.__dict__["metric"] = value


RESOLVED: Any = ResolvedMetric()


@dataclass(frozen=True, eq=False, repr=False)
class ArraysTask(Task):
    """Arrays of an .npz file or of Python, to be classified, predicted or segmented.

    A file holds x_train and y_train, and as it likes x_valid, y_valid, x_test, y_test and groups.
    x is [n, length], [n, channels, length], [n, height, width], [n, channels, height, width] or
    [n, channels, depth, height, width] of any integer or float type; y says what is to be predicted (see
    ``nasfw.tasks.kinds.infer_kind``). How both were read is logged and in ``description``. Inputs are
    standardised per channel on the training split. Test and validation parts that are not given are split
    off, first test, then validation from the rest.

    ``permuted`` makes a hard task of the same data: networks see the positions along every axis, also of
    dense targets, in bit-reversed order (see ``nasfw.tasks.permutation``). What people give and get stays as
    it is, for ``prepare`` permutes samples and ``code.decode`` puts outputs back.

    Nothing is read before it is needed; UsageError then says what is wrong with the data.
    """

    x: Annotated[Any, "inputs of the training samples"] = None
    y: Annotated[Any, "targets of the training samples"] = None
    x_valid: Annotated[Any, "inputs for validation; split off if missing"] = None
    y_valid: Annotated[Any, "targets for validation"] = None
    x_test: Annotated[Any, "inputs for the test; split off if missing"] = None
    y_test: Annotated[Any, "targets for the test"] = None
    groups: Annotated[Any, "group of every training sample; a group is never cut by a split"] = None
    file: Annotated[str | None, "the .npz file that holds the arrays"] = None
    kind: Annotated[KindName, "what y means; auto: inferred from its shape and values"] = "auto"
    metric: Annotated[MetricName, "what is measured; auto: the usual metric of the kind"] = RESOLVED
    channels: Annotated[Channels, "where the channel axis of x is; auto: inferred"] = "auto"
    standardise: Annotated[bool, "bring every input channel to mean 0 and deviation 1"] = True
    valid_fraction: Annotated[float, "share of the training samples split off for validation"] = 0.2
    test_fraction: Annotated[float, "share of all samples split off for the test"] = 0.2
    seed: Annotated[int, "seed of the splits"] = 0
    batch_size: Annotated[int | None, "training batch; by default a tenth of the samples, 8 to 32"] = None
    permuted: Annotated[bool, "positions (rows, columns) in bit-reversed order, no longer local"] = False

    def __post_init__(self) -> None:
        """Refuse parameters that no data can make possible."""
        check_choices(self.kind, self.__dict__["metric"], self.valid_fraction, self.batch_size, self.seed)
        check_fraction("test_fraction", self.test_fraction)
        if self.channels not in ("auto", "first", "last", "none"):
            raise UsageError(f"channels is {self.channels!r}; possible: auto, first, last, none")

    @property
    def input_shape(self) -> tuple[int, ...]:
        data = self._data
        return tuple(data.x.shape[1:])

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.code.output_shape

    @property
    def code(self) -> Code:
        """What the targets mean, and how outputs turn back into the data's own units."""
        return self._data.code

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels, in the order of the network's outputs; () for kinds without."""
        return self._data.classes

    @property
    def meaning(self) -> Meaning:
        """How ``prepare`` makes inputs of samples, and what outputs stand for."""
        data = self._data
        return meaning(data.reading, data.mean, data.std, data.code, data.classes, self.permuted)

    @property
    def description(self) -> str:
        """How the arrays were read, in one sentence."""
        return self._data.description

    @property
    def recipe(self) -> Recipe:
        """AdamW with one cycle."""
        return default_recipe(self.size("train"), self.batch_size)

    def size(self, split: Split) -> int:
        return len(self._data.rows[split])

    def batches(
        self, split: Split, batch_size: int = 256, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs float32; targets class numbers int64 or float32, standardised for regression.

        Positions are in bit-reversed order if ``permuted``.
        Shuffled, a last batch of a single sample is left out: batch normalisation cannot use it.
        """
        data = self._data
        for rows in chunks(data.rows[split], batch_size, generator):
            yield data.batch(rows)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """See ``Code.loss``."""
        return self.code.loss(output, target)

    def error(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric; regression outputs and targets are brought back to the data's own units first."""
        return self.code.error(outputs, targets)

    def prepare(self, x: Any) -> Tensor:
        """New samples as a trained network takes them: [n, channels, ...], prepared as those for training.

        ``x`` has the axes of the training samples; UsageError if it has not.
        """
        return self._data.prepare(x)

    def fingerprint(self) -> str:
        """Identifies the data: names, shapes, types and bytes of the arrays."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        parts: list[object] = []
        for name, array in sorted(given_arrays(self).items()):
            parts += [name, array.dtype.str, list(array.shape), array.tobytes()]
        return digest(*parts)

    @cached_property
    def _data(self) -> Data:
        data = load(self)
        log.info("%s", data.description)
        return data

    def _identity(self) -> tuple[object, ...]:
        """Parameters by value, arrays by identity: comparing must neither read nor compare arrays."""
        values = ((f.name, self.__dict__[f.name]) for f in fields(self))
        return tuple(id(v) if n in ARRAYS and v is not None else v for n, v in values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArraysTask) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        given = {f.name: self.__dict__[f.name] for f in fields(self) if f.name not in ARRAYS}
        changed = [f"{k}={v!r}" for k, v in given.items() if v != getattr(ArraysTask, k)]
        arrays = [f"{n}=<{type(v).__name__}>" for n in ARRAYS if (v := self.__dict__[n]) is not None]
        return f"ArraysTask({', '.join(arrays + changed)})"

    def __getstate__(self) -> dict[str, Any]:
        """The parameters alone: another process reads and splits the data again."""
        return {f.name: self.__dict__[f.name] for f in fields(self)}


def default_recipe(samples: int, batch_size: int | None) -> Recipe:
    """AdamW with one cycle; batches small enough for ten steps an epoch, as a power of two from 8 to 32.

    Short trainings gain from a high learning rate and many steps: with 5 passes over 2,400 spectrograms a
    plain WRN-10 errs on 30 % of others with 0.01 and batches of 32, on 67 % with 0.002 and batches of 64.
    """
    if batch_size is None:
        batch_size = min(32, max(8, 1 << max(0, (samples // 10).bit_length() - 1)))
    return Recipe(
        optimizer="adamw",
        lr=1e-2,
        weight_decay=1e-2,
        schedule="onecycle",
        batch_size=min(batch_size, samples),
    )


def chunks(rows: Array, batch_size: int, generator: torch.Generator | None) -> Iterator[Array]:
    """``rows`` in batches: in order, or shuffled and then without a last batch of a single sample."""
    if batch_size < 1:
        raise ValueError(f"a batch of {batch_size} samples is not possible")
    if generator is not None:
        rows = rows[torch.randperm(len(rows), generator=generator).numpy()]
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        if generator is None or len(chosen) > 1 or len(rows) == 1 or batch_size == 1:
            yield chosen


def check_choices(kind: str, metric: str, valid_fraction: float, batch_size: int | None, seed: int) -> None:
    """UsageError for names that do not exist or do not go together, and for numbers out of range."""
    for what, name, known in (("kind", kind, ("auto", *KINDS)), ("metric", metric, ("auto", *METRICS))):
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise UsageError(f"there is no {what} {name!r}{hint} Known: {', '.join(known)}")
    if kind != "auto" and metric not in ("auto", *SUITABLE[cast(Kind, kind)]):
        possible = ", ".join(SUITABLE[cast(Kind, kind)])
        raise UsageError(f"metric {metric!r} does not suit {kind}; possible: {possible}")
    check_fraction("valid_fraction", valid_fraction)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be 1 or more")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must be 0 or more")


def check_fraction(name: str, fraction: float) -> None:
    """UsageError unless 0 < fraction < 1."""
    if not 0 < fraction < 1:
        raise UsageError(f"{name} is {fraction}; it must lie between 0 and 1, both excluded")
