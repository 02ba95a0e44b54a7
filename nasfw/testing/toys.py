"""Small real plugins to test others with: a task that trains in milliseconds, a space, an objective."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasfw.contracts import (
    Architecture,
    Candidate,
    Junction,
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
    Unsupported,
)
from nasfw.mixtures import indices

_FEATURES, _CLASSES = 4, 3
_NONE, _SKIP = "none", "skip"
# A cell's edges: node and source; states 0 and 1 are the inputs.
_EDGES = ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
_WIDTH = 4


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
class ToyCells(SearchSpace):
    """A cell of two nodes that keep two edges each, and a factor of the output: 486 networks.

    In the supernet every option of an edge has weights of its own. ``mixed`` says whether mixtures may give
    weight to absent edges; one of ``share`` channels goes through the edges, and the others pass them by.
    """

    task: Task
    mixed: bool = True
    share: int = 1

    skips = frozenset({_SKIP})

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        edges: dict[str, Sequence[Option]] = {
            f"{node}<-{source}": (_NONE, _SKIP, "linear", "bent") for node, source in _EDGES
        }
        return {**edges, "factor": (1.0, 2.0)}

    @property
    def junctions(self) -> Sequence[Junction]:
        return [Junction(where, 2, _NONE, self.mixed) for where in ((0, 1), (2, 3, 4))]

    @property
    def default(self) -> Architecture:
        return (*("linear",) * 4, _NONE, 1.0)

    def build(self, architecture: Architecture) -> nn.Module:
        indices(self.decisions, architecture)
        *edges, factor = architecture
        options = [[str(name)] if name != _NONE else [] for name in edges]
        return _Cell(self.task, options, 1, float(factor))

    def partial(self, share: int) -> ToyCells:
        return replace(self, share=share)

    def supernet(self) -> Supernet:
        return _CellSupernet(self)


class _Cell(nn.Module):
    """The ``options`` of each edge; those of an edge are added up, each times its weight."""

    def __init__(self, task: Task, options: Sequence[Sequence[str]], share: int, factor: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(task.input_shape[0], 2 * _WIDTH), nn.BatchNorm1d(2 * _WIDTH))
        width = _WIDTH // share
        self.edges = nn.ModuleList(nn.ModuleDict({o: _option(o, width) for o in names}) for names in options)
        self.head = nn.Linear(2 * _WIDTH, task.output_shape[0])
        self.width, self.factor = width, factor

    def forward(self, x: Tensor, weights: Sequence[Mapping[str, Tensor]] | None = None) -> Tensor:
        states = list(self.stem(x).chunk(2, 1))
        for node in (2, 3):
            total = torch.zeros_like(states[0])
            for i, (end, source) in enumerate(_EDGES):
                if end == node:
                    total = total + self._edge(i, states[source], None if weights is None else weights[i])
            states.append(total)
        output: Tensor = self.factor * self.head(torch.cat(states[2:], 1))
        return output

    def _edge(self, i: int, x: Tensor, weights: Mapping[str, Tensor] | None) -> Tensor:
        part, rest = x[:, : self.width], x[:, self.width :]
        total = torch.zeros_like(part)
        for name, module in self.edges[i].named_children():
            if weights is None:
                total = total + module(part)
            elif name in weights:
                total = total + weights[name] * module(part)
        return torch.cat([total, rest], 1)


def _option(name: str, width: int) -> nn.Module:
    if name == _SKIP:
        return nn.Identity()
    if name == "linear":
        return nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, affine=False))
    return nn.Sequential(nn.Linear(width, width), nn.Tanh())


class _CellSupernet(Supernet):
    cost, path_cost = 2.0, 1.0

    def __init__(self, space: ToyCells) -> None:
        super().__init__()
        self.space = space
        self.options = list(space.decisions.values())
        self.cell = _Cell(
            space.task, [[str(o) for o in row if o != _NONE] for row in self.options[:-1]], space.share
        )

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        *edges, factor = mixture
        weights = [self._used(names, row) for names, row in zip(self.options, edges, strict=False)]
        values = torch.tensor(self.options[-1], device=x.device, dtype=factor.dtype)
        output: Tensor = (factor * values).sum() * self.cell(x, weights)
        return output

    @staticmethod
    def _used(names: Sequence[Option], row: Tensor) -> dict[str, Tensor]:
        """The weights of the options that are computed: all, if the mixture learns."""
        values = row.detach().tolist()
        used = [k for k, o in enumerate(names) if o != _NONE and (row.requires_grad or values[k])]
        return {str(names[k]): row[k] for k in used}

    def weights(self, architecture: Architecture) -> Mapping[str, Tensor]:
        if self.space.share > 1:
            raise Unsupported("no standalone network has partial channels")
        indices(self.space.decisions, architecture)
        gone = tuple(
            f"edges.{i}.{o}."
            for i, chosen in enumerate(architecture[:-1])
            for o in self.options[i]
            if o != chosen
        )
        state = self.cell.state_dict()
        return {name: value.clone() for name, value in state.items() if not name.startswith(gone)}


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
