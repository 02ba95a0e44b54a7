from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from nasfw.contracts import Recipe, Split, Task


@dataclass(frozen=True)
class ShapeTask(Task):
    """Random data of any shape: classes for a vector of outputs, values otherwise."""

    inputs: tuple[int, ...] = (1, 8, 8)
    outputs: tuple[int, ...] = (3,)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.inputs

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.outputs

    @property
    def recipe(self) -> Recipe:
        return Recipe(epochs=1, batch_size=4)

    def size(self, split: Split) -> int:
        return 4

    def batches(
        self, split: Split, batch_size: int = 256, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        seeded = torch.Generator().manual_seed(0)
        yield torch.randn(4, *self.inputs, generator=seeded), torch.randn(4, *self.outputs, generator=seeded)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean()

    def error(self, outputs: Tensor, targets: Tensor) -> float:
        return float(self.loss(outputs, targets))


@pytest.fixture
def task() -> Callable[..., ShapeTask]:
    return ShapeTask


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
