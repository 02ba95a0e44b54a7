"""The search space of NAS-Bench-201: one kind of cell with six edges, 15625 networks in all."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from nasfw.contracts import Architecture, Junction, Option, SearchSpace, Task
from nasfw.mixtures import indices
from nasfw.spaces.backbones import head, is_dense
from nasfw.spaces.cell_supernet import CellSupernet
from nasfw.spaces.cells import Cell, CellNetwork, Edges, divide, edges, first_fitting
from nasfw.spaces.mixed_edges import MixedEdges
from nasfw.spaces.operations import AVERAGES, CONVOLUTIONS, NONE, NORMS, SKIP, convolved
from nasfw.spaces.pace import costs
from nasfw.values import UsageError

OPERATIONS = (NONE, SKIP, "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_INPUTS, _NODES, _STAGES = 1, 3, 3
_EDGES = edges(_INPUTS, _NODES)
_KIND = "cell"
# What a cell takes beside its edges, in the unit of ``costs``: its part of the blocks between.
_REST = 0.2
# What to try where a run must be short, by falling cost: cells and channels.
_REDUCED = ((5, 16), (3, 16), (2, 12), (1, 12), (1, 8), (1, 4))


@dataclass(frozen=True)
class NasBench201(SearchSpace):
    """The operations on the six edges between the four states of a cell that is repeated along the network.

    Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020:
    three stages of cells, between them residual blocks that halve the map and double the channels; for
    dense prediction they only double the channels.
    """

    task: Task
    cells: Annotated[int, Field(ge=1), "cells of each of the three stages"] = 5
    channels: Annotated[int, Field(ge=1), "channels of the first stage"] = 16
    partial_channels: Annotated[
        int, Field(ge=1), "the supernet mixes one of so many channels and passes on the others (PC-DARTS)"
    ] = 1

    skips = frozenset({SKIP})

    def __post_init__(self) -> None:
        """Refuse channels that cannot be divided."""
        divide(self.channels, self.partial_channels)

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        """The edges, as "1<-0" and so on, with their operations; state 0 is the cell's input."""
        return {str(edge): OPERATIONS for edge in _EDGES}

    @property
    def junctions(self) -> Sequence[Junction]:
        """The edges into each node, of which all are kept."""
        within = [[i for i, e in enumerate(_EDGES) if e.node == n] for n in range(1, _NODES + 1)]
        return [Junction(tuple(positions), len(positions)) for positions in within]

    @property
    def default(self) -> Architecture:
        """Cells that are residual blocks of two 3 x 3 convolutions."""
        return parse("|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|")

    @property
    def description(self) -> str:
        """The network's size, in words."""
        return f"{_STAGES} stages of {self.cells} cells, {self.channels} channels"

    def build(self, architecture: Architecture) -> nn.Module:
        """The network of such cells."""
        chosen = [OPERATIONS[i] for i in indices(self.decisions, architecture)]

        def inner(channels: int) -> nn.Module:
            pairs = zip(_EDGES, chosen, strict=True)
            made = {edge: _operation(name, channels, self._dims) for edge, name in pairs if name != NONE}
            return Edges(made, _INPUTS, _NODES, 1)

        return self._network(inner)

    def reduced(self, flops: float) -> NasBench201:
        """The space with fewer cells and channels, if these are the defaults; layers count as work, too."""
        if (self.cells, self.channels) != (type(self).cells, type(self).channels):
            return self
        smaller = (
            replace(self, cells=cells, channels=channels)
            for cells, channels in _REDUCED
            if channels % self.partial_channels == 0
        )
        return first_fitting(self, smaller, self.task, flops)

    def partial(self, share: int) -> NasBench201:
        """The space whose supernet mixes one of ``share`` channels."""
        return replace(self, partial_channels=share)

    def modules(self, decision: str) -> Sequence[str]:
        """The edge in all cells."""
        key = decision.replace("<-", "_")
        return [f"cells.{i}.edges.{key}" for i in range(_STAGES * (self.cells + 1)) if i not in self._blocks]

    def text(self, architecture: Architecture) -> str:
        """The benchmark's string."""
        return text(architecture)

    def parse(self, text: str) -> Architecture:
        """The architecture of the benchmark's string, or of "1<-0=none, ..."."""
        return super().parse(text) if "=" in text else parse(text)

    def supernet(self) -> CellSupernet:
        """The network with all operations on every edge."""

        def inner(channels: int) -> nn.Module:
            def make(name: str, stride: int) -> nn.Module:
                return _operation(name, channels // self.partial_channels, self._dims, False)

            options = dict.fromkeys(_EDGES, OPERATIONS)
            return MixedEdges(_KIND, options, make, _INPUTS, _NODES, 1, self.partial_channels)

        options = {(_KIND, edge): OPERATIONS for edge in _EDGES}
        supernet = CellSupernet(self._network(inner), self.decisions, list(options), self.build)
        paces = costs(options, self.junctions, _REST, self.partial_channels)
        supernet.cost, supernet.path_cost, supernet.drawn_cost = paces
        return supernet

    @property
    def _dims(self) -> int:
        return len(self.task.input_shape) - 1

    @property
    def _blocks(self) -> list[int]:
        """Where residual blocks stand among the cells."""
        return [(self.cells + 1) * stage - 1 for stage in range(1, _STAGES + 1)]

    def _network(self, inner: Callable[[int], nn.Module]) -> CellNetwork:
        """Stem, cells with what ``inner`` puts into those of so many channels, and head."""
        inputs, outputs, dims = tuple(self.task.input_shape), tuple(self.task.output_shape), self._dims
        dense = is_dense("a space of cells", inputs, outputs, min(max(dims, 1), 2))
        channels = self.channels
        conv = CONVOLUTIONS[dims](inputs[0], channels, 3, padding=1, bias=False)
        cells = nn.Sequential()
        for stage in range(_STAGES):
            if stage:
                cells.append(Residual(channels, 2 * channels, 1 if dense else 2, dims))
                channels *= 2
            for _ in range(self.cells):
                cells.append(Cell([nn.Identity()], inner(channels), joins=False))
        end = nn.Sequential(NORMS[dims](channels), nn.ReLU())
        return CellNetwork(
            nn.Sequential(conv, NORMS[dims](self.channels)), cells, end, head(channels, outputs)
        )


class Residual(nn.Module):
    """Twice ReLU, 3 x 3 convolution and batch norm; plus the input, averaged if there is a stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, dims: int) -> None:
        super().__init__()
        self.first = convolved(inputs, outputs, 3, stride, dims)
        self.second = convolved(outputs, outputs, 3, 1, dims)
        if stride == 1:
            self.shortcut: nn.Module = convolved(inputs, outputs, 1, 1, dims)
        else:
            pool = AVERAGES[dims](stride, stride, ceil_mode=True, count_include_pad=False)
            self.shortcut = nn.Sequential(pool, CONVOLUTIONS[dims](inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.shortcut(x)  # type: ignore[no-any-return]


def _operation(name: str, channels: int, dims: int, affine: bool = True) -> nn.Module:
    if name == SKIP:
        return nn.Identity()
    if name == "avg_pool_3x3":
        return AVERAGES[dims](3, 1, 1, count_include_pad=False)
    return convolved(channels, channels, 1 if name == "nor_conv_1x1" else 3, 1, dims, affine)


def parse(text: str) -> Architecture:
    """The architecture of a string like "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|".

    UsageError if it is none.
    """
    nodes = [re.findall(r"([^|~]+)~(\d+)", part) for part in text.strip().split("+")]
    found = [name for pairs in nodes for name, _ in pairs]
    sources = [[int(source) for _, source in pairs] for pairs in nodes]
    expected = [list(range(node)) for node in range(1, _NODES + 1)]
    if sources != expected or not set(found) <= set(OPERATIONS) or _text(found) != text.strip():
        raise UsageError(
            f"{text!r} is no architecture of NAS-Bench-201; one is {_text([NONE] * len(_EDGES))!r}, with "
            f"{', '.join(OPERATIONS)}"
        )
    return tuple(found)


def text(architecture: Architecture) -> str:
    """The benchmark's string for an architecture."""
    return _text([OPERATIONS[OPERATIONS.index(str(o))] for o in architecture])


def _text(names: Sequence[str]) -> str:
    parts: dict[int, str] = {}
    for edge, name in zip(_EDGES, names, strict=True):
        parts[edge.node] = parts.get(edge.node, "|") + f"{name}~{edge.source}|"
    return "+".join(parts.values())


def architecture_of(index: int) -> Architecture:
    """The architecture that the benchmark's tables have at ``index``."""
    return _order()[index]


def index_of(architecture: Architecture) -> int:
    """Where the benchmark's tables have an architecture."""
    return _places()[architecture]


@lru_cache(maxsize=1)
def _order() -> list[Architecture]:
    """All architectures, shuffled as the benchmark's authors have done."""
    found: list[Architecture] = list(product(OPERATIONS, repeat=len(_EDGES)))
    random.Random(88).shuffle(found)
    return found


@lru_cache(maxsize=1)
def _places() -> dict[Architecture, int]:
    return {architecture: i for i, architecture in enumerate(_order())}
