"""A convolution whose first input channels have a mixture of kernels, and the others its own kernel."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from nasfw.spaces.aggregated import AggregatedConv, Memory
from nasfw.spaces.kernels import Layout, standalone
from nasfw.spaces.speed import Mode


class PartlyAggregatedConv(nn.Module):
    """The first 1 / ``share`` of the input channels go through a mixture, the others through the own kernel.

    What partial channels (Xu et al. 2020, section 3.2) are to a convolution, which has no way around it.
    """

    def __init__(self, layout: Layout, share: int, mode: Mode, memory: Memory) -> None:
        super().__init__()
        self.mixed = AggregatedConv(mixed_part(layout, share), mode, memory)
        self.rest = standalone(rest_part(layout, share), 0)

    def forward(self, x: Tensor) -> Tensor:
        """Output of shape (batch, outputs, *positions) for a map of shape (batch, inputs, *size)."""
        count = self.mixed.layout.convolution.inputs
        y: Tensor = self.mixed(x[:, :count]) + self.rest(x[:, count:])
        return y


def divides(layout: Layout, share: int) -> bool:
    """Whether the input channels can be parted so: all outputs read all of them, and they divide."""
    c = layout.convolution
    return share > 1 and c.groups == 1 and c.inputs % share == 0


def mixed_part(layout: Layout, share: int) -> Layout:
    """The layer on the channels that are mixed, with the bias."""
    c = layout.convolution
    return replace(layout, convolution=replace(c, inputs=c.inputs // share))


def rest_part(layout: Layout, share: int) -> Layout:
    """The layer on the other channels, with its own kernel alone."""
    c = layout.convolution
    other = replace(c, inputs=c.inputs - c.inputs // share, biased=False)
    return replace(layout, convolution=other, kernels=(c.own,))
