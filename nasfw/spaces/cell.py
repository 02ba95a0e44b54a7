"""Search spaces of cells: what decides is which operations stand on the edges of two kinds of cell."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field
from torch import nn

from nasfw.contracts import Architecture, Junction, Option, SearchSpace, Task
from nasfw.mixtures import indices
from nasfw.spaces import genotype
from nasfw.spaces.backbones import head, is_dense
from nasfw.spaces.cell_supernet import CellSupernet
from nasfw.spaces.cells import (
    Cell,
    CellNetwork,
    Chain,
    DropPath,
    Edge,
    Edges,
    Second,
    divide,
    edges,
    first_fitting,
)
from nasfw.spaces.mixed_edges import MixedEdges
from nasfw.spaces.operations import (
    CONVOLUTIONS,
    NONE,
    NORMS,
    SKIP,
    convolved,
    halved,
    named,
    operation,
    usual,
)
from nasfw.spaces.pace import costs

_KINDS = ("normal", "reduce")
_INPUTS, _KEPT, _STEM = 2, 2, 3
# What a cell takes beside its edges, in the unit of ``costs``.
_REST = 1.0

Layers = Annotated[int, Field(ge=3), "cells of the network that is searched"]
Channels = Annotated[int, Field(ge=1), "channels of a node of its first cell"]
FinalLayers = Annotated[
    Annotated[int, Field(ge=3)] | None, "cells of the networks of the final phase; null: as searched"
]
FinalChannels = Annotated[
    Annotated[int, Field(ge=1)] | None, "channels of the networks of the final phase; null: as searched"
]
DropPathRate = Annotated[float, Field(ge=0, lt=1), "share of paths that the final phase drops in the end"]
Auxiliary = Annotated[float, Field(ge=0), "weight of the final phase's second head in the loss; 0: no head"]
PartialChannels = Annotated[int, Field(ge=1), "the supernet mixes one of so many channels (PC-DARTS)"]
Nodes = Annotated[int, Field(ge=1), "intermediate nodes of a cell"]

# What to try where a run must be short, by falling cost: layers and channels.
_REDUCED = ((8, 16), (5, 16), (3, 16), (3, 12), (3, 8), (3, 4))


@dataclass(frozen=True)
class Place:
    """Where in a network a cell is: its kind, the channels of its nodes, and its stride."""

    kind: str
    channels: int
    stride: int


@dataclass(frozen=True)
class CellSpace(SearchSpace):
    """Networks of normal and reduction cells; what is decided is the operation on every edge of each kind.

    A cell reads the outputs of the two before it, and each node in it every earlier state. After a third and
    two thirds of the cells, a reduction cell halves the map and doubles the channels; for dense prediction it
    only doubles the channels.
    """

    task: Task
    layers: Layers = 8
    channels: Channels = 16
    final_layers: FinalLayers = 20
    final_channels: FinalChannels = 36
    drop_path: DropPathRate = 0.2
    auxiliary: Auxiliary = 0.4
    partial_channels: PartialChannels = 1
    final: Annotated[bool, "networks are those of the final phase, with drop path and second head"] = False
    nodes: Nodes = 4

    skips = frozenset({SKIP})

    def __post_init__(self) -> None:
        """Refuse channels that cannot be divided."""
        divide(self.channels, self.partial_channels)

    @abstractmethod
    def operations_on(self, kind: str, position: int) -> Sequence[str]:
        """The operations on an edge of a kind of cell, which is known by its position."""

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        """The edges, as "normal 2<-0" and so on, with their operations; states 0 and 1 are the inputs."""
        return {f"{kind} {edge}": options for (kind, edge), options in self._options.items()}

    @property
    def junctions(self) -> Sequence[Junction]:
        """The edges into each node, of which two are kept."""
        made = []
        for k, kind in enumerate(_KINDS):
            for node in range(_INPUTS, _INPUTS + self.nodes):
                within = [i for i, edge in enumerate(self._edges) if edge.node == node]
                mixed = all(NONE in self.operations_on(kind, i) for i in within)
                positions = tuple(k * len(self._edges) + i for i in within)
                absent = NONE if mixed or self._selects else None
                made.append(Junction(positions, _KEPT, absent, mixed or absent is None))
        return made

    @property
    def default(self) -> Architecture:
        """Every node takes a convolution from each of the two inputs, sep_conv_3x3 where there is one."""
        return tuple(
            usual(options) if edge.source < _INPUTS else NONE for (_, edge), options in self._options.items()
        )

    @property
    def description(self) -> str:
        """The network's size, in words."""
        return f"{self.layers} cells, {self.channels} channels"

    def build(self, architecture: Architecture) -> nn.Module:
        """The network of such cells; any number of edges may be absent."""
        chosen = indices(self.decisions, architecture)
        pairs = zip(self._options.items(), chosen, strict=True)
        names = {place: options[i] for (place, options), i in pairs if options[i] != NONE}
        drop = self.drop_path if self.final else 0.0

        def inner(place: Place) -> nn.Module:
            made = {}
            for edge in self._edges:
                if (place.kind, edge) in names:
                    stride = place.stride if edge.source < _INPUTS else 1
                    made[edge] = operation(names[place.kind, edge], place.channels, stride, self._dims)
            return Edges(made, _INPUTS, self.nodes, place.stride, DropPath(drop) if drop else None)

        return self._network(inner)

    def enlarged(self) -> CellSpace:
        """The space of ``final_layers`` and ``final_channels``, trained with drop path and second head."""
        layers, channels = self.final_layers or self.layers, self.final_channels or self.channels
        return replace(self, layers=layers, channels=channels, partial_channels=1, final=True)

    def reduced(self, flops: float) -> CellSpace:
        """The space with fewer cells and channels, if these are the defaults; layers count as work, too."""
        if (self.layers, self.channels) != (type(self).layers, type(self).channels):
            return self
        smaller = (
            replace(self, layers=layers, channels=channels)
            for layers, channels in _REDUCED
            if layers <= self.layers and channels <= self.channels and channels % self.partial_channels == 0
        )
        return first_fitting(self, smaller, self.task, flops)

    def partial(self, share: int) -> CellSpace:
        """The space whose supernet mixes one of ``share`` channels."""
        return replace(self, partial_channels=share)

    def modules(self, decision: str) -> Sequence[str]:
        """The edge in all cells of its kind."""
        kind, _, edge = decision.partition(" ")
        key = edge.replace("<-", "_")
        return [f"cells.{i}.edges.{key}" for i, place in enumerate(self._places) if place.kind == kind]

    def text(self, architecture: Architecture) -> str:
        """The genotype, if every node has two edges."""
        if genotype.exists(self.decisions, architecture):
            return genotype.text(self.decisions, architecture)
        return super().text(architecture)

    def parse(self, text: str) -> Architecture:
        """The architecture of a genotype, or of "normal 2<-0=none, ..."."""
        if "=" in text and "Genotype" not in text:
            return super().parse(text)
        return genotype.parse(self.decisions, text)

    def supernet(self) -> CellSupernet:
        """The network with all operations on every edge."""

        def inner(place: Place) -> nn.Module:
            options = {edge: self._options[place.kind, edge] for edge in self._edges}

            def make(name: str, stride: int) -> nn.Module:
                return operation(name, place.channels // self.partial_channels, stride, self._dims, False)

            share, dims = self.partial_channels, self._dims
            return MixedEdges(place.kind, options, make, _INPUTS, self.nodes, place.stride, share, dims)

        network = self._network(inner, False)
        supernet = CellSupernet(network, self.decisions, list(self._options), self.build)
        paces = costs(self._options, self.junctions, _REST, self.partial_channels)
        supernet.cost, supernet.path_cost, supernet.drawn_cost = paces
        return supernet

    @property
    def _edges(self) -> list[Edge]:
        return edges(_INPUTS, self.nodes)

    @property
    def _selects(self) -> bool:
        """Whether some node leaves edges out."""
        return _INPUTS + self.nodes - 1 > _KEPT

    @property
    def _options(self) -> dict[tuple[str, Edge], tuple[str, ...]]:
        """What each edge of each kind of cell chooses from."""
        found = {}
        for kind in _KINDS:
            for i, edge in enumerate(self._edges):
                names = tuple(self.operations_on(kind, i))
                found[kind, edge] = (NONE, *names) if self._selects and NONE not in names else names
        return found

    @property
    def _dims(self) -> int:
        return len(self.task.input_shape) - 1

    @property
    def _places(self) -> Iterator[Place]:
        channels = self.channels
        for i in range(self.layers):
            reduces = i in (self.layers // 3, 2 * self.layers // 3)
            channels *= 1 + reduces
            halves = reduces and len(self.task.output_shape) == 1
            yield Place(_KINDS[reduces], channels, 1 + halves)

    def _network(self, inner: Callable[[Place], nn.Module], affine: bool = True) -> CellNetwork:
        """Stem, cells with what ``inner`` puts into each, and head."""
        inputs, outputs = tuple(self.task.input_shape), tuple(self.task.output_shape)
        is_dense("a space of cells", inputs, outputs, min(max(self._dims, 1), 2))
        before = last = _STEM * self.channels
        conv = CONVOLUTIONS[self._dims](inputs[0], last, 3, padding=1, bias=False)
        cells, shrunk = Chain(), False
        for place in self._places:
            if shrunk:
                first = halved(before, place.channels, self._dims, affine)
            else:
                first = convolved(before, place.channels, 1, 1, self._dims, affine)
            second = convolved(last, place.channels, 1, 1, self._dims, affine)
            cells.append(Cell([first, second], inner(place), joins=True))
            before, last, shrunk = last, self.nodes * place.channels, place.stride > 1
        stem = nn.Sequential(conv, NORMS[self._dims](_STEM * self.channels))
        return CellNetwork(stem, cells, nn.Identity(), head(last, outputs), self._second())

    def _second(self) -> Second | None:
        """The second head, behind the second reduction cell."""
        if not (self.final and self.auxiliary) or len(self.task.output_shape) > 1:
            return None
        cell, size = 2 * self.layers // 3, tuple(self.task.input_shape[1:])
        before = list(self._places)[: cell + 1]
        for place in before:
            size = tuple(-(-n // place.stride) for n in size)
        channels = self.nodes * before[-1].channels
        return Second(cell, channels, size, self.task.output_shape[0], self.auxiliary)


@dataclass(frozen=True)
class Darts(CellSpace):
    """The space of DARTS: cells of four nodes, each with two of all possible edges.

    Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019. With ``operations`` =
    nasnet the choices are those of Zoph et al., "Learning Transferable Architectures for Scalable Image
    Recognition", CVPR 2018.
    """

    operations: Annotated[str | tuple[str, ...], "darts, nasnet, or a list of names"] = "darts"

    def __post_init__(self) -> None:
        """Refuse names of operations that there are not."""
        super().__post_init__()
        named(self.operations)

    def operations_on(self, kind: str, position: int) -> Sequence[str]:
        """The same on every edge."""
        return named(self.operations)
