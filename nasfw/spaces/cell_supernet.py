"""The supernet of a space of cells: on every edge of a cell all its operations, weighted by a mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nasfw.contracts import Architecture, Mixture, Option, Supernet
from nasfw.mixtures import indices
from nasfw.spaces.cells import Edge
from nasfw.spaces.mixed_edges import Gate, MixedEdges
from nasfw.spaces.operations import NONE
from nasfw.spaces.quick import quicken
from nasfw.values import Unsupported


class CellSupernet(Supernet):
    """A network whose cells have ``MixedEdges``; those of one kind follow the same decisions.

    ``edges`` has the kind and the edge of every decision, in order. ``build`` makes standalone networks.
    """

    def __init__(
        self,
        network: nn.Module,
        decisions: Mapping[str, Sequence[Option]],
        edges: Sequence[tuple[str, Edge]],
        build: Callable[[Architecture], nn.Module],
    ) -> None:
        super().__init__()
        self.network, self.decisions, self.edges = network, dict(decisions), list(edges)

        def built(architecture: Architecture) -> nn.Module:
            return build(architecture)

        self.wanted: Sequence[Sequence[int]] | None = None
        # A function is not copied with the supernet; a method would be, with the space and its data.
        self.build = built
        quicken(network)

    @property
    def mixed(self) -> Iterator[tuple[str, MixedEdges]]:
        """The cells' edges by their paths in the network."""
        for path, module in self.network.named_modules():
            if isinstance(module, MixedEdges):
                yield path, module

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """The network's output; ``mixture`` has one weight for each option, decision by decision."""
        gates = self._gates(x, mixture)
        cells = [module for _, module in self.mixed]
        for cell in cells:
            cell.gates = gates[cell.kind]
        try:
            return self.network(x)  # type: ignore[no-any-return]
        finally:
            # A mixture that stays would keep its graph alive, and the supernet from being copied.
            for cell in cells:
                cell.gates = {}

    @contextmanager
    def only(self, options: Sequence[Sequence[int]]) -> Iterator[None]:
        """In here, of each edge only these options are computed."""
        self.wanted = options
        try:
            yield
        finally:
            self.wanted = None

    def _gates(self, x: Tensor, mixture: Mixture) -> dict[str, dict[Edge, Gate]]:
        """What each kind of cell computes on each edge, and with which weights."""
        options = list(self.decisions.values())
        if [len(p) for p in mixture] != [len(names) for names in options]:
            raise ValueError(
                "the mixture needs one vector for each decision, with one weight for each option"
            )
        # All zeros are read at once, since reading from a card stalls it.
        zeros = iter((torch.cat([p.detach() for p in mixture]) == 0).tolist())
        found: dict[str, dict[Edge, Gate]] = {kind: {} for kind, _ in self.edges}
        wanted = self.wanted or [range(len(names)) for names in options]
        for (kind, edge), names, p, some in zip(self.edges, options, mixture, wanted, strict=True):
            closed = frozenset(k for k, _ in enumerate(names) if next(zeros))
            learned = p.requires_grad and torch.is_grad_enabled()
            computed = (k for k in some if names[k] != NONE and (learned or k not in closed))
            found[kind][edge] = Gate(p.to(x), tuple(computed), closed, learned or len(closed) < len(names))
        return found

    @torch.no_grad()
    def weights(self, architecture: Architecture) -> Mapping[str, Tensor]:
        """The state of the standalone network, whose batch norms scale by 1 and shift by 0 in the cells."""
        chosen = indices(self.decisions, architecture)
        if any(module.share > 1 for _, module in self.mixed):
            raise Unsupported(
                "a supernet with partial channels has no weights for standalone networks, which mix them all"
            )
        names = {
            (kind, edge): options[i]
            for (kind, edge), options, i in zip(self.edges, self.decisions.values(), chosen, strict=True)
        }
        paths = {
            f"{path}.{edge.key}.": f"{path}.{edge.key}.{names[module.kind, edge]}."
            for path, module in self.mixed
            for edge in module.options
        }
        own = self.network.state_dict()
        state = {}
        for name, value in self._template(architecture).items():
            front = next((p for p in paths if name.startswith(p)), "")
            source = paths[front] + name.removeprefix(front) if front else name
            if source in own:
                state[name] = own[source].clone()
            else:
                state[name] = torch.full(value.shape, float(name.endswith("weight")))
        return state

    def _template(self, architecture: Architecture) -> Mapping[str, Tensor]:
        """The standalone network's state, without values."""
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return self.build(architecture).state_dict()
