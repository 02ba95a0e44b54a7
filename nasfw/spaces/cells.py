"""Networks made of cells: graphs of operations that are repeated along the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from nasfw.contracts import SearchSpace, Task
from nasfw.flops import count_layers, forward_flops
from nasfw.spaces.operations import AVERAGES, CONVOLUTIONS, NORMS, zero
from nasfw.values import UsageError

Space = TypeVar("Space", bound=SearchSpace)


@dataclass(frozen=True)
class Edge:
    """From one state of a cell to a later one; the cell's inputs are the states 0, 1 and so on."""

    node: int
    source: int

    @property
    def key(self) -> str:
        """Its name among modules."""
        return f"{self.node}_{self.source}"

    def __str__(self) -> str:
        return f"{self.node}<-{self.source}"


def edges(inputs: int, nodes: int) -> list[Edge]:
    """All edges into ``nodes`` states that follow ``inputs``, node by node."""
    return [Edge(node, source) for node in range(inputs, inputs + nodes) for source in range(node)]


class Cell(nn.Module):
    """``edges`` make nodes of the inputs; the output has all nodes beside each other, or is the last one."""

    def __init__(self, preprocess: Sequence[nn.Module], inner: nn.Module, joins: bool) -> None:
        super().__init__()
        self.preprocess, self.edges, self.joins = nn.ModuleList(preprocess), inner, joins

    def forward(self, *inputs: Tensor) -> Tensor:
        nodes = self.edges([part(x) for part, x in zip(self.preprocess, inputs, strict=True)])
        return torch.cat(nodes, 1) if self.joins else nodes[-1]


class Edges(nn.ModuleDict):
    """The operations on a built cell's edges, by the edges' keys; a node is the sum over its edges.

    A node without edges is zero everywhere. ``dropped`` are the keys of the edges that drop path meets.
    """

    def __init__(
        self,
        operations: Mapping[Edge, nn.Module],
        inputs: int,
        nodes: int,
        stride: int,
        drop: nn.Module | None = None,
    ) -> None:
        super().__init__({edge.key: operation for edge, operation in operations.items()})
        self.inputs, self.stride = inputs, stride
        self.dropped = [e.key for e, op in operations.items() if drop and not isinstance(op, nn.Identity)]
        self.incoming = [[e for e in operations if e.node == inputs + i] for i in range(nodes)]
        self.drop = drop

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        states = list(inputs)
        for incoming in self.incoming:
            terms = [self._term(edge, states[edge.source]) for edge in incoming]
            states.append(sum(terms[1:], terms[0]) if terms else zero(states[0], self.stride))
        return states[self.inputs :]

    def _term(self, edge: Edge, x: Tensor) -> Tensor:
        y: Tensor = self[edge.key](x)
        return self.drop(y) if self.drop is not None and edge.key in self.dropped else y


class DropPath(nn.Module):
    """In training, lets each sample's map vanish with some probability, and makes up for it in the others.

    The probability grows with the training's progress from 0 to ``most``. Larsson, Maire and Shakhnarovich,
    "FractalNet", ICLR 2017.
    """

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most, self.rate = most, 0.0

    def progress(self, share: float) -> None:
        """Set the probability by the share of the training that is done."""
        self.rate = self.most * share

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.rate > 0):
            return x
        kept = 1 - self.rate
        mask = torch.empty(len(x), *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return x * (mask.bernoulli_(kept) / kept)


class Chain(nn.ModuleList):
    """Cells of which each takes the outputs of the two before it."""

    def forward(self, x: Tensor) -> Tensor:
        previous = x
        for cell in self:
            previous, x = x, cell(previous, x)
        return x


class CellNetwork(nn.Module):
    """Stem, cells, end, mean over all positions unless the head is a convolution, head.

    ``second`` is the auxiliary head's place, shape and weight, if there is one.
    """

    def __init__(
        self,
        stem: nn.Module,
        cells: nn.Module,
        end: nn.Module,
        head: nn.Module,
        second: Second | None = None,
    ) -> None:
        super().__init__()
        self.stem, self.cells, self.end, self.head, self.second = stem, cells, end, head, second

    def forward(self, x: Tensor) -> Tensor:
        x = self.end(self.cells(self.stem(x)))
        return self.head(x.flatten(2).mean(2) if isinstance(self.head, nn.Linear) else x)  # type: ignore[no-any-return]

    def auxiliary(self) -> tuple[str, nn.Module, float] | None:
        """Whose output a second head reads in training, that head with fresh weights, and its loss's weight.

        The head is no part of the network.
        """
        if self.second is None:
            return None
        return f"cells.{self.second.cell}", self.second.head(), self.second.weight


@dataclass(frozen=True)
class Second:
    """An auxiliary head: the cell that it reads, channels and positions there, outputs, the loss's weight."""

    cell: int
    channels: int
    size: tuple[int, ...]
    outputs: int
    weight: float

    def head(self) -> nn.Module:
        """DARTS's auxiliary head with fresh weights; on maps below 8 positions it pools to 2 x 2 at once."""
        dims = len(self.size)
        conv, norm = CONVOLUTIONS[dims], NORMS[dims]
        large = min(self.size) >= 8
        return nn.Sequential(
            nn.ReLU(),
            AVERAGES[dims](5, 3, count_include_pad=False) if large else _ADAPTED[dims](2),
            conv(self.channels, 128, 1, bias=False),
            norm(128),
            nn.ReLU(),
            conv(128, 768, 2, bias=False),
            norm(768),
            nn.ReLU(),
            _ADAPTED[dims](1),
            nn.Flatten(),
            nn.Linear(768, self.outputs),
        )


_ADAPTED: Mapping[int, type[nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d]] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
}


def divide(channels: int, parts: int) -> None:
    """UsageError unless the channels can be divided into so many equal parts."""
    if channels % parts:
        raise UsageError(
            f"{channels} channels cannot be divided into {parts} equal parts; choose channels or "
            "partial_channels otherwise"
        )


# To start a layer takes a processor as long as so many operations of one sample of a batch.
_LAYER = 1e5


def first_fitting(space: Space, smaller: Iterable[Space], task: Task, flops: float) -> Space:
    """The first of ``smaller`` whose plain backbone fits, or the last; ``space`` if there are none."""
    for space in smaller:
        if _fits(space.build(space.default), task, flops):
            break
    return space


def _fits(network: nn.Module, task: Task, flops: float) -> bool:
    """Whether an inference takes no longer than so many operations, of which each layer costs some anyway."""
    spare = flops - _LAYER * count_layers(network)
    return spare > 0 and forward_flops(network, task.input_shape) <= spare
