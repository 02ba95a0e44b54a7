from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

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


class Inner(nn.Module):
    """Has a width, and reads values while it runs."""

    def __init__(self, input_shape, output_shape, width=1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(input_shape[0], 4 * width, 3, padding="same")
        self.out = nn.Linear(4 * width, output_shape[0])

    def forward(self, x):
        scale = max(1.0, float(x.abs().max()))
        return self.out(self.conv(x / scale).mean(2))


@pytest.fixture
def own(request, monkeypatch):
    """Makes the networks of a test's file, and Inner, reachable as "own:name"."""
    module = ModuleType("own")
    vars(module).update(vars(request.module), Inner=Inner)
    monkeypatch.setitem(sys.modules, "own", module)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
