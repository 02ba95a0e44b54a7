"""The supernet of the AggConv space: a backbone whose searched convolutions have all their kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasfw.contracts import Architecture, Mixture, Supernet
from nasfw.mixtures import indices
from nasfw.spaces import speed
from nasfw.spaces.aggregated import AggregatedConv, block_diagonal
from nasfw.spaces.choice import Choice
from nasfw.spaces.kernels import Layout, Size
from nasfw.spaces.partly import PartlyAggregatedConv
from nasfw.values import Unsupported


@dataclass(frozen=True)
class Place:
    """A searched convolution: its path in the backbone, and its kernels on the maps that it meets."""

    name: str
    layout: Layout

    @property
    def options(self) -> list[str]:
        """The kernels by name."""
        return ["k{}d{}".format(*kernel) for kernel in self.layout.kernels]


class AggConvSupernet(Supernet):
    """The backbone with an ``AggregatedConv`` in each of the ``places``."""

    def __init__(self, network: nn.Module, places: Sequence[Place], dense: bool = False) -> None:
        super().__init__()
        self.network, self.places, self.dense = network, list(places), dense

    @property
    def layers(self) -> Iterator[AggregatedConv]:
        """The searched layers, in the order of the decisions."""
        for place in self.places:
            layer = self.network.get_submodule(place.name)
            found = layer.mixed if isinstance(layer, PartlyAggregatedConv) else layer
            if isinstance(found, AggregatedConv):
                yield found

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """The backbone's output; ``mixture`` has one weight for each option, decision by decision."""
        layers = list(self.layers)
        if [len(p) for p in mixture] != [len(place.options) for place in self.places]:
            raise ValueError(
                "the mixture needs one vector for each decision, with one weight for each option"
            )
        for layer, p, path in zip(layers, mixture, _paths(mixture), strict=True):
            # Not by setting the attribute: that would make a mixture of parameters the layer's own.
            vars(layer).update(mixture=p, path=path)
        try:
            return self.network(x)  # type: ignore[no-any-return]
        finally:
            # A mixture that stays would keep its graph alive, and the supernet from being copied.
            for layer in layers:
                layer.mixture = layer.path = None

    def details(self) -> Mapping[str, str]:
        """By layer: its shape, the way it is evaluated, and the times of the ways that were measured."""
        return {
            place.name: ", then ".join(map(str, layer.choices.values()))
            for place, layer in zip(self.places, self.layers, strict=True)
            if layer.choices
        }

    def get_extra_state(self) -> list[list[tuple[Size, dict[str, Any]]]]:
        """The ways in use: rounding differs between them, so a training goes on with those it began with."""
        return [[(size, choice.plain()) for size, choice in layer.choices.items()] for layer in self.layers]

    def set_extra_state(self, state: Any) -> None:
        """Take the ways of a saved state, as far as the layers' modes allow."""
        for layer, known in zip(self.layers, state, strict=True):
            found = {tuple(size): Choice.read(content) for size, content in known}
            layer.choices = {s: c for s, c in found.items() if c.way in speed.ways_of(layer.mode)}

    def fields(self) -> list[Tensor]:
        """What the authors' code penalises: the receptive field d (k - 1) + 1; 10 k for dense prediction."""
        return [
            torch.tensor([10.0 * k if self.dense else d * (k - 1.0) + 1 for k, d in place.layout.kernels])
            for place in self.places
        ]

    def weights(self, architecture: Architecture) -> Mapping[str, Tensor]:
        """The state of the standalone network; taps that cannot touch the map are zero.

        Unsupported if only a part of the channels is mixed, since no standalone layer has two kernels.
        """
        if any(isinstance(module, PartlyAggregatedConv) for module in self.network.modules()):
            raise Unsupported("a supernet with partial channels has no weights for standalone networks")
        chosen = indices({place.name: place.options for place in self.places}, architecture)
        state = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        for place, layer, i in zip(self.places, self.layers, chosen, strict=True):
            c = place.layout.convolution
            plain = place.layout.kernels[i] == c.own or place.layout.is_plain(i)
            prefix = f"{place.name}." if plain else f"{place.name}.1."
            del state[f"{place.name}.weight"]
            groups = layer.layout.convolution.groups
            state[f"{prefix}weight"] = block_diagonal(layer.kernel(i), groups, c.groups)
            if c.biased:
                state[f"{prefix}bias"] = state.pop(f"{place.name}.bias")
        return state


def _paths(mixture: Mixture) -> list[int | None]:
    """The only option of each decision that has weight, if the weight is 1 and needs no gradient."""
    if torch.is_grad_enabled() and any(p.requires_grad for p in mixture):
        return [None] * len(mixture)
    # All are read at once, since reading from a card stalls it.
    values = torch.cat([p.detach().reshape(-1) for p in mixture]).tolist()
    paths: list[int | None] = []
    for p in mixture:
        row, values = values[: len(p)], values[len(p) :]
        only = [k for k, value in enumerate(row) if value != 0.0]
        paths.append(only[0] if len(only) == 1 and row[only[0]] == 1.0 else None)
    return paths
