"""What stands between the inputs and the output of a supernet's cell: all options on every edge, weighted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from nasfw.spaces.cells import Edge
from nasfw.spaces.normalisation import QuickBatchNorm
from nasfw.spaces.operations import MAXIMA, NONE, Noise, zero

# An operation by its name and stride.
Make = Callable[[str, int], nn.Module]


@dataclass(frozen=True)
class Gate:
    """An edge's weights for its options.

    ``computed`` are those whose output is needed, ``closed`` those whose weight is zero. ``passes`` says
    whether channels that are not mixed are needed, too.
    """

    weights: Tensor
    computed: tuple[int, ...]
    closed: frozenset[int]
    passes: bool


class State:
    """An input or node of a cell, and what is made of it once for all edges.

    One of ``share`` channels is mixed.
    """

    def __init__(self, x: Tensor, share: int = 1) -> None:
        self.x, self.share = x, share
        self.outputs: dict[nn.Module, Tensor] = {}

    @cached_property
    def mixed(self) -> Tensor:
        """The first channels, which are mixed."""
        return self.x if self.share == 1 else self.x[:, : self.x.shape[1] // self.share].contiguous()

    @cached_property
    def rest(self) -> Tensor:
        """The other channels, which pass by."""
        return self.x[:, self.x.shape[1] // self.share :]

    @cached_property
    def positive(self) -> Tensor:
        """The mixed channels behind the ReLU that operations begin with."""
        return torch.relu(self.mixed)

    def output(self, operation: nn.Module, x: Tensor) -> Tensor:
        """The output of an operation that edges share."""
        if operation not in self.outputs:
            self.outputs[operation] = operation(x)
        return self.outputs[operation]


class MixedEdges(nn.ModuleDict):
    """All options on a cell's edges, by the edges' keys; a node is the weighted sum over these options.

    ``gates`` hold the weights, edge by edge, while the network runs. ``kind`` is the cell's. An operation
    without parameters is one module, and computed once, for all edges out of a state.

    One of ``share`` channels is mixed; the others pass by, weighted like all options together, and are
    shuffled with them. Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture
    Search", ICLR 2020.
    """

    def __init__(
        self,
        kind: str,
        options: Mapping[Edge, Sequence[str]],
        make: Make,
        inputs: int,
        nodes: int,
        stride: int,
        share: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.kind, self.inputs, self.stride, self.share = kind, inputs, stride, share
        self.options = {edge: tuple(names) for edge, names in options.items()}
        self.incoming = [[e for e in options if e.node == inputs + i] for i in range(nodes)]
        self.gates: Mapping[Edge, Gate] = {}
        self.common: dict[tuple[str, int], nn.Module] = {}
        for edge, names in self.options.items():
            self[edge.key] = nn.ModuleDict(
                {name: self._operation(name, edge, make) for name in names if name != NONE}
            )
        if share > 1 and stride > 1:
            self.shrink: nn.Module = MAXIMA[dims](stride, stride, ceil_mode=True)

    def _stride(self, edge: Edge) -> int:
        return self.stride if edge.source < self.inputs else 1

    def _operation(self, name: str, edge: Edge, make: Make) -> nn.Module:
        if (name, edge.source) in self.common:
            return self.common[name, edge.source]
        made = make(name, self._stride(edge))
        if not (list(made.parameters()) or isinstance(made, Noise)):
            self.common[name, edge.source] = made
        return made

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        states = [State(x, self.share) for x in inputs]
        for incoming in self.incoming:
            terms = (term for edge in incoming for term in self._terms(edge, states[edge.source]))
            node = _sum(terms, states[0].mixed, self.stride)
            if self.share > 1:
                passing = (term for edge in incoming for term in self._passing(edge, states[edge.source]))
                rest = _sum(passing, states[0].rest, self.stride)
                node = shuffled(torch.cat([node, rest], 1), self.share)
            states.append(State(node, self.share))
        return [state.x for state in states[self.inputs :]]

    def _terms(self, edge: Edge, state: State) -> Iterator[Tensor]:
        """What each option that is computed adds to the node."""
        gate, operations = self.gates[edge], self[edge.key]
        assert isinstance(operations, nn.ModuleDict)
        for k in gate.computed:
            name, closed = self.options[edge][k], k in gate.closed
            if (name, edge.source) in self.common:
                y = state.output(operations[name], state.mixed)
                yield (y.detach() if closed else y) * gate.weights[k]
                continue
            y, layers, norm = _begun(operations[name], state)
            # A factor of zero lets no gradient through: the output serves that of the factor.
            with torch.set_grad_enabled(torch.is_grad_enabled() and not closed):
                for layer in layers:
                    y = layer(y)
            yield y * gate.weights[k] if norm is None else norm.scaled(y, gate.weights[k])

    def _passing(self, edge: Edge, state: State) -> Iterator[Tensor]:
        """What the channels that are not mixed add to the node."""
        gate = self.gates[edge]
        if gate.passes:
            strides = self._stride(edge) > 1
            yield (state.output(self.shrink, state.rest) if strides else state.rest) * gate.weights.sum()


def shuffled(x: Tensor, groups: int) -> Tensor:
    """The channels in another order: the first of each group, the second of each, and so on."""
    return x.reshape(len(x), groups, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


def _begun(operation: nn.Module, state: State) -> tuple[Tensor, Sequence[nn.Module], QuickBatchNorm | None]:
    """What an operation's layers read, these layers, and the batch norm behind them if there is one.

    The ReLU at their beginning has been computed, since others read what it returns.
    """
    layers = list(operation) if isinstance(operation, nn.Sequential) else [operation]
    last = layers[-1]
    norm = last if isinstance(last, QuickBatchNorm) else None
    begin = isinstance(layers[0], nn.ReLU)
    return (
        state.positive if begin else state.mixed,
        layers[begin : None if norm is None else -1],
        norm,
    )


def _sum(terms: Iterable[Tensor], like: Tensor, stride: int) -> Tensor:
    """The sum, in the memory of the first; zeros for every ``stride``-th position if there are none."""
    total: Tensor | None = None
    for term in terms:
        # No gradient needs what is overwritten here: each term is a product or was normalised.
        total = term if total is None else total.add_(term)
    return zero(like, stride) if total is None else total
