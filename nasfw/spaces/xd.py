"""The search space of operations: every convolution of a network may become any of those that XD contains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import nn

from nasfw.contracts import Architecture, Option, SearchSpace, Task
from nasfw.flops import forward_flops
from nasfw.mixtures import indices
from nasfw.spaces.backbones import INITIALISED, accepts, find, initialise, located
from nasfw.spaces.borders import periodic
from nasfw.spaces.choices import ChoiceSupernet, Mixed
from nasfw.spaces.exported import called
from nasfw.spaces.named import check_options, operation, possible, started
from nasfw.spaces.reduction import described, reduced
from nasfw.spaces.site import Site, site_of
from nasfw.spaces.traced import check_positive, check_settings, chosen_backbone, fresh, met
from nasfw.values import Unsupported, UsageError

_OPTIONS = (
    *("k1d1", "k3d1", "k5d1", "k7d1", "k3d2", "pool3", "skip", "zero", "permuted"),
    *("fourier4", "fourier8", "fourier16", "fourier", "xd"),
)


@dataclass(frozen=True)
class XD(SearchSpace):
    """Any network with convolutions; what is decided is the operation that stands in the place of each.

    Roberts, Khodak, Dao, Li, Ré and Talwalkar, "Rethinking Neural Operations for Diverse Tasks", NeurIPS
    2021. "conv" is the backbone's own convolution; "xd" an operation K diag(L w) M whose transforms K, L and
    M are learned and start as those of that convolution ("xd3": products of three factors); "fourier" the
    layer of the Fourier neural operator, of all frequencies or, as "fourier8", of the lowest on each axis.
    The others are what XD operations can turn into: "k3d2" is a convolution of another kernel size and
    dilation, "permuted" the convolution of a map in bit-reversed order, "pool3" an average over so many
    positions, "skip" and "zero". A convolution is offered what its channels and borders allow.

    Searched is every ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d`` with zero or circular padding that meets
    maps of one size, unless its path names a downsample, pool, shortcut or channel_match, or has a part
    called head or lift. A run's folder as backbone is the network that its search chose, as it was exported,
    with fresh weights; a network's own folder in ``export`` names another.
    """

    task: Task
    backbone: Annotated[
        str,
        AfterValidator(located),
        "auto (wrn1d for series, wrn for maps, pde for volumes), wrn, wrn1d, tcn, pde, package:function, or "
        "a run's folder",
    ] = "auto"
    options: Annotated[
        tuple[str, ...],
        "besides conv: k3d2, pool3, skip, zero, permuted, fourier, fourier8, xd, xd3 and so on",
    ] = _OPTIONS
    transforms: Annotated[
        Literal["blocks", "butterflies"],
        "what K, L and M are: matrices as they are evaluated, or products of butterflies, as published",
    ] = "blocks"
    extras: Annotated[bool, "XD operations have a channel gate and a spectral bias"] = False
    circular: Annotated[
        bool | None,
        "of the backbone pde: at the border, convolutions go on at the other side (true) or in zeros; "
        "by default as the task's maps do",
    ] = None
    width: Annotated[int, Field(ge=1), "width of the network that is searched, if the backbone has one"] = 1
    final_width: Annotated[int, Field(ge=1), "width of the networks that the final phase trains"] = 1
    depth: Annotated[int | None, "layers, if the backbone (wrn, pde) has the choice"] = None
    channels: Annotated[int | None, "channels of the first block of the built-in backbones"] = None

    def __post_init__(self) -> None:
        """Refuse operations that there are not, and numbers that no network can have."""
        # Here too, as a space that is made in Python is checked nowhere else.
        object.__setattr__(self, "backbone", located(self.backbone))
        check_options(self.options)
        check_positive(
            width=self.width, final_width=self.final_width, depth=self.depth, channels=self.channels
        )

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        """The searched convolutions by their paths in the backbone, with the names of operations."""
        return {name: list(options) for name, options in self._offered.items()}

    @property
    def default(self) -> Architecture:
        """Every convolution as it is."""
        return ("conv",) * len(self.sites)

    @property
    def universal(self) -> Architecture:
        """XD operations everywhere, which can become all others."""
        found = [
            next((o for o in map(str, options) if o.startswith("xd")), None)
            for options in self.decisions.values()
        ]
        if None in found:
            raise Unsupported("space xd has no operation that can become all others without an option xd")
        return tuple(o for o in found if o is not None)

    @property
    def description(self) -> str:
        """The backbone, its size, and which of the options that were chosen no layer can take."""
        text = described(self, self._name)
        if self._circular is not None:
            text += f", {'periodic' if self._circular else 'zeros'} at the border"
        # The default ones are for layers and maps of all sizes, so that some never fit.
        if self.options == _OPTIONS:
            return text
        unfit = [o for o in self.options if not any(o in offered for offered in self._offered.values())]
        return f"{text}, options without effect: {' '.join(unfit)}" if unfit else text

    def build(self, architecture: Architecture) -> nn.Module:
        """The backbone with the chosen operations; convolutions that stay are untouched.

        XD operations and permuted convolutions begin with the weights of those that they replace.
        """
        indices(self.decisions, architecture)
        network = self._fresh()
        for (name, site), option in zip(self.sites.items(), architecture, strict=True):
            if option != "conv":
                network.set_submodule(name, self._operation(site, str(option), network.get_submodule(name)))
        return network

    def enlarged(self) -> XD:
        """The space of ``final_width``, if the backbone has a width."""
        return replace(self, width=self.final_width) if accepts(find(self._name), "width") else self

    def reduced(self, flops: float) -> XD:
        """The space with fewer layers and channels of its built-in backbone, if these are the defaults."""
        return reduced(self, self._name, XD._fresh, flops)

    def supernet(self) -> ChoiceSupernet:
        """The backbone with all operations in the place of every searched convolution."""
        network, options = self._fresh(), self._offered
        mixed = plain = forward_flops(network, self.task.input_shape)
        for name, site in self.sites.items():
            layer = network.get_submodule(name)
            operations = [self._operation(site, o, layer) if o != "conv" else layer for o in options[name]]
            network.set_submodule(name, Mixed(operations))
            costs = [forward_flops(o, (site.inputs, *site.size)) for o in operations]
            mixed += sum(costs) - costs[0]
            plain += sum(costs) // len(costs) - costs[0]
        supernet = ChoiceSupernet(network, options)
        # The weights that a path does not use are not computed, but its operations may be cheap or dear.
        supernet.cost, supernet.path_cost = mixed / plain, 1.0
        return supernet

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The searched convolutions by their paths, in the backbone's order; UsageError if there are none."""
        check_settings(
            self._name,
            width=self.width if self.width != 1 else None,
            depth=self.depth,
            channels=self.channels,
            circular=self.circular,
        )
        # Tracing must not disturb the stream of random numbers that fresh weights are drawn from.
        with torch.random.fork_rng(devices=[]):
            layers = met(self._name, self._fresh(), self.task, lambda m: site_of(m, ()))
        found = {
            path: site
            for path, (module, sizes) in layers.items()
            if len(sizes) == 1 and (site := site_of(module, sizes[0]))
        }
        if not found:
            place, other = called(self._name), ""
            if place != self._name:
                other = "; where a run chose other operations everywhere, give another folder beside this one"
            raise UsageError(
                f"backbone {place!r} has no convolution to search: there must be an nn.Conv1d, "
                "nn.Conv2d or nn.Conv3d with zero or circular padding that meets maps of one size, and not "
                f"named shortcut, downsample, channel_match, pool, head or lift{other}"
            )
        return found

    @cached_property
    def _offered(self) -> dict[str, list[str]]:
        """The options of the searched convolutions, of those that they also have at the final width."""
        found = {name: possible(site, self.options) for name, site in self.sites.items()}
        wide = self.enlarged()
        if wide.width == self.width:
            return found
        return {n: [o for o in possible(s, self.options) if o in found[n]] for n, s in wide.sites.items()}

    @cached_property
    def _circular(self) -> bool | None:
        """Whether maps go on at the other side of their borders; None where the backbone has no choice."""
        if not accepts(find(self._name), "circular"):
            return None
        return periodic(self.task) if self.circular is None else self.circular

    @property
    def _name(self) -> str:
        return chosen_backbone(self.backbone, self.task, ("wrn1d", "wrn", "pde"))

    def _fresh(self) -> nn.Module:
        sizes = {"width": self.width, "depth": self.depth, "channels": self.channels}
        return fresh(self._name, self.task, **sizes, circular=self._circular)

    def _operation(self, site: Site, option: str, start: nn.Module) -> nn.Module:
        made = operation(site, option, self.transforms, self.extras)
        # The built-in backbones draw their weights otherwise than torch does by default.
        made = initialise(made) if self._name in INITIALISED else made
        return started(made, start)
