"""The search space of DASH: the kernel size and the dilation of every convolution of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import nn

from nasfw.contracts import Architecture, Option, SearchSpace, Task
from nasfw.mixtures import indices
from nasfw.spaces import speed
from nasfw.spaces.aggconv_supernet import AggConvSupernet, Place
from nasfw.spaces.aggregated import AggregatedConv
from nasfw.spaces.backbones import INITIALISED, accepts, find, initialise, located
from nasfw.spaces.exported import called
from nasfw.spaces.kernels import Convolution, Kernel, Layout, convolution_of, standalone
from nasfw.spaces.limits import dilation, kernel_size
from nasfw.spaces.normalisation import quicken
from nasfw.spaces.partly import PartlyAggregatedConv, divides, mixed_part, rest_part
from nasfw.spaces.reduction import described, reduced
from nasfw.spaces.traced import check_positive, check_settings, chosen_backbone, fresh, met
from nasfw.values import UsageError

# By the preset and the number of axes; Shen et al., section 3 and appendix.
_DEFAULTS: Mapping[tuple[str, int], tuple[tuple[int, ...], tuple[int, ...]]] = {
    ("default", 1): ((3, 7, 11, 15, 19), (1, 3, 7, 15)),
    ("default", 2): ((3, 5, 7, 9), (1, 3, 7, 15)),
    ("baby", 1): ((3, 5), (1, 2)),
    ("baby", 2): ((3, 5), (1, 2)),
}


@dataclass(frozen=True)
class AggConv(SearchSpace):
    """Any network with convolutions; what is decided is the kernel size and the dilation of each.

    Shen, Khodak and Talwalkar, "Efficient Architecture Search for Diverse Tasks", NeurIPS 2022. The options
    "k3d1" and so on are all pairs of ``kernel_sizes`` and ``dilations`` and the backbone's own kernel, so
    that the plain backbone is a member. By default these are {3, 5, 7, 9} x {1, 3, 7, 15} for maps and {3,
    7, 11, 15, 19} x {1, 3, 7, 15} for series; the preset "baby" has {3, 5} x {1, 2}. Channels, strides and
    alignment stay those of the backbone. Taps that can only meet padding, since the map is small, are left
    out of the networks: on 8 x 8 pixels "k9d3" has 5 x 5 taps.

    Searched is every ``nn.Conv1d`` and ``nn.Conv2d`` with equal settings on both axes and zero padding,
    unless its path names a downsample, pool, shortcut or channel_match, or has a part called head or lift. A
    backbone of the user's, "package:function", is called with the shapes of input and output, or with
    nothing if it takes nothing; if it has a parameter ``width``, the final phase uses it. A run's folder is
    the network that its search chose, as it was exported, with fresh weights; a network's own folder in
    ``export`` names another.

    With ``depthwise`` the supernet's layers with as many outputs as inputs work channel by channel, as in the
    authors' code: faster, but less like the final network, which is dense.
    """

    task: Task
    backbone: Annotated[
        str,
        AfterValidator(located),
        "auto (wrn for maps, wrn1d for series), wrn, wrn1d, tcn, pde, package:function, or a run's folder",
    ] = "auto"
    kernel_sizes: Annotated[
        tuple[Annotated[int, AfterValidator(kernel_size)], ...] | None, "odd numbers; by default the paper's"
    ] = None
    dilations: Annotated[
        tuple[Annotated[int, AfterValidator(dilation)], ...] | None,
        "numbers from 1 on; by default the paper's",
    ] = None
    preset: Annotated[Literal["default", "baby"], "where kernel sizes and dilations come from"] = "default"
    depthwise: Annotated[bool, "supernet layers work channel by channel where they can"] = False
    mode: Annotated[
        Literal["auto", "results", "weights", "dilations", "fourier", "matrix"],
        "how the supernet evaluates its layers, with equal results; auto: whatever is fastest here",
    ] = "auto"
    memory: Annotated[
        Literal["default", "low"], "low: the supernet computes spectra twice instead of keeping them"
    ] = "default"
    partial_channels: Annotated[
        int, Field(ge=1), "the supernet mixes one of so many input channels, the others have their own kernel"
    ] = 1
    width: Annotated[int, Field(ge=1), "width of the network that is searched, if the backbone has one"] = 1
    final_width: Annotated[int, Field(ge=1), "width of the networks that the final phase trains"] = 4
    depth: Annotated[int | None, "layers, if the backbone (wrn) has the choice; by default 16"] = None
    channels: Annotated[
        int | Literal["paper"] | None,
        "channels of the first block of wrn, wrn1d or tcn; paper: the published rule of wrn1d",
    ] = None

    def __post_init__(self) -> None:
        """Refuse numbers that no convolution can have."""
        # Here too, as a space that is made in Python is checked nowhere else.
        object.__setattr__(self, "backbone", located(self.backbone))
        for k in self.kernel_sizes or ():
            kernel_size(k)
        for d in self.dilations or ():
            dilation(d)
        if self.kernel_sizes == () or self.dilations == ():
            raise UsageError("kernel_sizes and dilations must name at least one number each, or be left out")
        check_positive(
            width=self.width, final_width=self.final_width, depth=self.depth, channels=self.channels
        )

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        """The searched convolutions by their paths in the backbone, with options like "k3d1"."""
        return {place.name: place.options for place in self.places}

    @property
    def default(self) -> Architecture:
        """Every convolution's own kernel."""
        return tuple("k{}d{}".format(*place.layout.convolution.own) for place in self.places)

    @property
    def description(self) -> str:
        """The backbone and its size, in words."""
        return described(self, self._name)

    def build(self, architecture: Architecture) -> nn.Module:
        """The backbone with the chosen kernels; convolutions that keep their own are untouched."""
        chosen = indices(self.decisions, architecture)
        network = self._fresh()
        for place, i in zip(self.places, chosen, strict=True):
            if place.layout.kernels[i] != place.layout.convolution.own:
                module = standalone(place.layout, i)
                # The built-in backbones draw their weights otherwise than torch does by default.
                network.set_submodule(place.name, initialise(module) if self._name in INITIALISED else module)
        return network

    def enlarged(self) -> AggConv:
        """The space of ``final_width``, if the backbone has a width."""
        if not accepts(find(self._name), "width"):
            return self
        return replace(self, width=self.final_width)

    def reduced(self, flops: float) -> AggConv:
        """The space with fewer layers and channels of its built-in backbone, if these are the defaults."""
        return reduced(self, self._name, AggConv._fresh, flops)

    def supernet(self) -> AggConvSupernet:
        """The backbone with all kernels of every searched convolution."""
        network = self._fresh()
        for place in self.places:
            layout, share = self._layout(place), self.partial_channels
            layer: nn.Module
            if divides(layout, share):
                layer = PartlyAggregatedConv(layout, share, self.mode, self.memory)
            else:
                layer = AggregatedConv(layout, self.mode, self.memory)
            network.set_submodule(place.name, layer)
        quicken(network)
        supernet = AggConvSupernet(network, self.places, len(self.task.output_shape) > 1)
        supernet.cost, supernet.path_cost = self._costs()
        return supernet

    def partial(self, share: int) -> AggConv:
        """The space whose supernet mixes one of ``share`` input channels of each layer, where it can."""
        return replace(self, partial_channels=share)

    @cached_property
    def places(self) -> list[Place]:
        """The searched convolutions in the order of the backbone's modules; UsageError if there are none."""
        channels = self.channels if isinstance(self.channels, int) else None
        check_settings(
            self._name, width=self.width if self.width != 1 else None, depth=self.depth, channels=channels
        )
        # Tracing must not disturb the stream of random numbers that fresh weights are drawn from.
        with torch.random.fork_rng(devices=[]):
            found = self._trace()
        if not found:
            raise UsageError(
                f"backbone {called(self._name)!r} has no convolution to search: there must be an nn.Conv1d "
                "or nn.Conv2d with equal settings on both axes and zero padding, and not named "
                "shortcut, downsample, channel_match, pool, head or lift"
            )
        return found

    @property
    def _name(self) -> str:
        return chosen_backbone(self.backbone, self.task, ("wrn1d", "wrn"))

    def _fresh(self) -> nn.Module:
        # Only zero padding is searched.
        sizes = {"width": self.width, "depth": self.depth, "channels": self.channels}
        return fresh(self._name, self.task, **sizes, circular=False)

    def _trace(self) -> list[Place]:
        """The searched convolutions that a run of the backbone meets."""
        places = [
            Place(path, Layout(convolution, self._kernels(convolution), tuple(sizes)))
            for path, (module, sizes) in met(self._name, self._fresh(), self.task, convolution_of).items()
            if (convolution := convolution_of(module))
        ]
        # A convolution that reads nothing but padding has nothing to decide.
        return [place for place in places if place.layout.taps]

    def _kernels(self, convolution: Convolution) -> tuple[Kernel, ...]:
        sizes, dilations = _DEFAULTS[self.preset, convolution.dims]
        # The dilation of a single tap has no effect.
        kernels = [
            (k, d if k > 1 else 1) for k in self.kernel_sizes or sizes for d in self.dilations or dilations
        ]
        k, d = convolution.own
        return tuple(dict.fromkeys([*kernels, (k, d)]))

    def _layout(self, place: Place) -> Layout:
        c = place.layout.convolution
        if self.depthwise and c.groups == 1 and c.inputs == c.outputs:
            return replace(place.layout, convolution=replace(c, groups=c.inputs))
        return place.layout

    def _costs(self) -> tuple[float, float]:
        """Expected times of a supernet step, and of one with a single path, by the rule of ``speed``.

        In those of an average architecture.
        """
        batch, share = self.task.recipe.batch_size, self.partial_channels
        mixed = plain = weights = 0.0
        for place in self.places:
            layout = self._layout(place)
            parted = divides(layout, share)
            inner = mixed_part(layout, share) if parted else layout
            for size in layout.sizes:
                way = speed.fastest(inner, self.mode, batch, size)
                mixed += speed.expected(inner, way, batch, size)
                mixed += speed.average(rest_part(layout, share), batch, size) if parted else 0.0
                plain += speed.average(place.layout, batch, size)
                rest = speed.other(layout.convolution, batch, size)
                mixed, plain = mixed + rest, plain + rest
            weights += speed.updating(len(inner.taps) * inner.pairs)
        # The weights that a path does not use have gradients of zero, and are updated as well.
        return (mixed + weights) / plain, (plain + weights) / plain
