"""A task whose arrays are made by a function."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from nasfw.contracts import Task
from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.meaning import Meaning
from nasfw.tasks.reading import Array, Channels
from nasfw.values import Recipe, Split


class GeneratedTask(Task):
    """Does all that a task does through the ``ArraysTask`` that a subclass, a frozen dataclass, makes."""

    permuted: bool = False

    @property
    @abstractmethod
    def arrays(self) -> ArraysTask:
        """The data, made on first use."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.arrays.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.arrays.output_shape

    @property
    def description(self) -> str:
        """What the data are, in one sentence, and in another whether they are permuted."""
        order = " The positions along every axis are in bit-reversed order." if self.permuted else ""
        return (inspect.getdoc(type(self)) or "").partition("\n")[0] + order

    @property
    def parameters(self) -> dict[str, Any]:
        """What decides about the data before they are permuted, as JSON values."""
        given = asdict(self)  # type: ignore[call-overload]
        return {name: value for name, value in given.items() if name != "permuted"}

    @property
    def meaning(self) -> Meaning:
        """See ``ArraysTask.meaning``."""
        return self.arrays.meaning

    @property
    def recipe(self) -> Recipe:
        return self.arrays.recipe

    def size(self, split: Split) -> int:
        return self.arrays.size(split)

    def batches(
        self, split: Split, batch_size: int = 256, generator: torch.Generator | None = None
    ) -> Iterable[tuple[Tensor, Any]]:
        return self.arrays.batches(split, batch_size, generator)

    def loss(self, output: Tensor, target: Any) -> Tensor:
        return self.arrays.loss(output, target)

    def error(self, outputs: Tensor, targets: Tensor) -> float:
        return self.arrays.error(outputs, targets)

    def __getstate__(self) -> dict[str, Any]:
        """The parameters alone: another process makes the data again, or finds them in the cache."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


def dense(x: Array, y: Array, samples: int, channels: Channels, seed: int, permuted: bool) -> ArraysTask:
    """Predicting ``y`` from ``x`` at every position; what comes after the first ``samples`` is for the test.

    Where the ``channels`` are, ``seed`` and ``permuted`` are those of ``ArraysTask``.
    """
    return ArraysTask(
        x[:samples],
        y[:samples],
        x_test=x[samples:],
        y_test=y[samples:],
        kind="dense_regression",
        channels=channels,
        seed=seed,
        permuted=permuted,
    )
