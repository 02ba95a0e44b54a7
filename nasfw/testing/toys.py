"""Small real plugins to test others with: a task that trains in milliseconds, a space, an objective."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasfw.contracts import (
    Architecture,
    Candidate,
    Mixture,
    Objective,
    Option,
    Recipe,
    Record,
    SearchSpace,
    Split,
    Supernet,
    Task,
    Trial,
)
from nasfw.mixtures import indices

_FEATURES, _CLASSES = 4, 3


@dataclass(frozen=True)
class ToyTask(Task):
    """Three classes told apart by the largest of the first three of four normal features."""

    samples: int = 96
    epochs: int = 2

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (_FEATURES,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (_CLASSES,)

    @property
    def recipe(self) -> Recipe:
        return Recipe(epochs=self.epochs, batch_size=16, lr=0.1)

    def size(self, split: Split) -> int:
        return len(self._data(split)[0])

    def _data(self, split: Split) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.samples, _FEATURES, generator=torch.Generator().manual_seed(0))
        third = self.samples // 3
        part = {
            "train": slice(0, third),
            "valid": slice(third, 2 * third),
            "full": slice(0, 2 * third),
            "test": slice(2 * third, None),
        }[split]
        return x[part], x[part, :_CLASSES].argmax(1)

    def batches(
        self, split: Split, batch_size: int = 256, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self._data(split)
        order = torch.arange(len(x)) if generator is None else torch.randperm(len(x), generator=generator)
        for part in torch.split(order, batch_size):
            yield x[part], y[part]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def error(self, outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) != targets).double().mean())


@dataclass(frozen=True)
class ToySpace(SearchSpace):
    """Two linear layers, each scaled by one of three factors; the supernet mixes the factors."""

    task: Task
    scales: tuple[float, ...] = (0.0, 1.0, 2.0)

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        return {"first": self.scales, "second": self.scales}

    @property
    def default(self) -> Architecture:
        return (self.scales[0], self.scales[0])

    def build(self, architecture: Architecture) -> nn.Module:
        indices(self.decisions, architecture)
        first, second = (float(a) for a in architecture)
        return _Scaled(self.task, first, second)

    def supernet(self) -> Supernet:
        return _ScaledSupernet(self)


class _Scaled(nn.Module):
    def __init__(self, task: Task, first: float, second: float) -> None:
        super().__init__()
        self.inner = nn.Linear(task.input_shape[0], 8)
        self.outer = nn.Linear(8, task.output_shape[0])
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first * self.inner(x))
        output: Tensor = self.second * self.outer(hidden)
        return output


class _ScaledSupernet(Supernet):
    def __init__(self, space: ToySpace) -> None:
        super().__init__()
        self.space = space
        self.network = _Scaled(space.task, 1.0, 1.0)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        scales = torch.tensor(self.space.scales, device=x.device)
        first, second = ((w.to(scales.dtype) * scales).sum() for w in mixture)
        hidden = torch.tanh(first * self.network.inner(x))
        output: Tensor = second * self.network.outer(hidden)
        return output

    def weights(self, architecture: Architecture) -> Mapping[str, Tensor]:
        indices(self.space.decisions, architecture)
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}


@dataclass(frozen=True)
class Echo(Objective):
    """The sum of an architecture's numbers: nothing is built or trained, and the best one is known."""

    metric = "echo"
    maximise = True

    def measure(self, candidate: Candidate) -> float:
        return float(sum(float(option) for option in candidate.architecture))


@dataclass(frozen=True)
class Wrong(Objective):
    """Share of samples with a wrong answer."""

    metric = "error"
    trained = True

    def measure(self, candidate: Candidate) -> float:
        return candidate.task.error(*candidate.predictions)


@dataclass(frozen=True)
class Price(Objective):
    """What an architecture of numbers costs: the sum of their powers. Lower is better."""

    power: int = 1
    metric = "price"

    @property
    def name(self) -> str:
        return f"price{self.power}"

    def measure(self, candidate: Candidate) -> float:
        return float(sum(float(a) ** self.power for a in candidate.architecture))


class Free:
    """An ``Evaluate`` without budget that answers nothing: for parts of a search that have no trial.

    ``passes`` has what it was charged.
    """

    def __init__(self) -> None:
        self.passes: list[float] = []

    def __call__(self, trials: Iterable[Trial]) -> list[Record]:
        return []

    def as_completed(self, trials: Iterable[Trial]) -> Iterator[Record]:
        return iter(())

    def spend(self, passes: float) -> bool:
        self.passes.append(passes)
        return True
