"""A task with few samples, to see quickly whether something works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nasfw.contracts import Recipe, Split, Task


@dataclass(frozen=True)
class Few(Task):
    """At most so many samples of each split of another task: the first, or the first after shuffling."""

    whole: Task
    samples: int
    metric: str = "error"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.whole.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.whole.output_shape

    @property
    def recipe(self) -> Recipe:
        return self.whole.recipe

    def size(self, split: Split) -> int:
        return min(self.samples, self.whole.size(split))

    def batches(
        self, split: Split, batch_size: int = 256, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Any]]:
        seen, size = 0, self.size(split)
        for x, y in self.whole.batches(split, min(batch_size, size), generator):
            yield x[: size - seen], y[: size - seen]
            seen += len(x)
            if seen >= size:
                return

    def loss(self, output: Tensor, target: Any) -> Tensor:
        return self.whole.loss(output, target)

    def error(self, outputs: Tensor, targets: Tensor) -> float:
        return self.whole.error(outputs, targets)

    def __getattr__(self, name: str) -> Any:
        # What a task has beyond its contract; but not while it is being unpickled.
        if name.startswith("__") or "whole" not in vars(self):
            raise AttributeError(name)
        return getattr(self.whole, name)
