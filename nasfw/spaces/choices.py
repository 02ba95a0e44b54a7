"""The supernet of a space that puts one of several operations in the place of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from nasfw.contracts import Architecture, Mixture, Supernet
from nasfw.mixtures import indices


class Mixed(nn.Module):
    """sum_i p_i operation_i(x) over the operations whose weight p_i is not zero."""

    def __init__(self, operations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.mixture: Tensor | None = None
        self.kept: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert self.mixture is not None
        y: Tensor | None = None
        for i in self.kept:
            part = self.operations[i](x) * self.mixture[i]
            y = part if y is None else y + part
        assert y is not None
        return y


class ChoiceSupernet(Supernet):
    """A network that has a ``Mixed`` layer for every decision, at the path of its name."""

    def __init__(self, network: nn.Module, decisions: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.network, self.decisions = network, {name: list(o) for name, o in decisions.items()}

    @property
    def layers(self) -> Iterator[Mixed]:
        """The layers, in the order of the decisions."""
        for name in self.decisions:
            layer = self.network.get_submodule(name)
            assert isinstance(layer, Mixed)
            yield layer

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """The network's output; ``mixture`` has one weight for each option, decision by decision."""
        layers = list(self.layers)
        if [len(p) for p in mixture] != [len(layer.operations) for layer in layers]:
            raise ValueError(
                "the mixture needs one vector for each decision, with one weight for each option"
            )
        # An option without weight is left out, unless somebody asks what its weight would do.
        asked = torch.is_grad_enabled() and any(p.requires_grad for p in mixture)
        values = torch.cat([p.detach().reshape(-1) for p in mixture]).tolist()
        for layer, p in zip(layers, mixture, strict=True):
            row, values = values[: len(p)], values[len(p) :]
            vars(layer)["mixture"] = p
            layer.kept = [i for i, v in enumerate(row) if v != 0.0 or asked]
        try:
            return self.network(x)  # type: ignore[no-any-return]
        finally:
            # A mixture that stays would keep its graph alive, and the supernet from being copied.
            for layer in layers:
                layer.mixture = None

    def weights(self, architecture: Architecture) -> Mapping[str, Tensor]:
        """The state of the standalone network."""
        state = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        chosen = indices(self.decisions, architecture)
        for name, i in zip(self.decisions, chosen, strict=True):
            prefix = f"{name}.operations."
            layer = {key: state.pop(key) for key in list(state) if key.startswith(prefix)}
            own = f"{prefix}{i}."
            state |= {f"{name}.{key[len(own) :]}": v for key, v in layer.items() if key.startswith(own)}
        return state
