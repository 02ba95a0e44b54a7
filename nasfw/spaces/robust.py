"""The spaces of RobustDARTS, in which DARTS is known to fail, and a toy one.

Zela et al., "Understanding and Robustifying Differentiable Architecture Search", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nasfw.spaces.cell import (
    Auxiliary,
    CellSpace,
    Channels,
    DropPathRate,
    FinalChannels,
    FinalLayers,
    Layers,
    Nodes,
)
from nasfw.spaces.operations import NONE, SKIP
from nasfw.values import UsageError

_MAX, _MEAN, _NOISE = "max_pool_3x3", "avg_pool_3x3", "noise"
_SEP, _DIL3, _DIL5 = "sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5"
_S1: Mapping[str, tuple[tuple[str, str], ...]] = {
    "normal": (
        *((SKIP, _DIL3), (SKIP, _DIL5)),
        *((SKIP, _DIL5), (SKIP, _SEP), (SKIP, _DIL3)),
        *((_MAX, SKIP), (SKIP, _SEP), (SKIP, _SEP), (SKIP, _DIL3)),
        *((SKIP, _SEP), (_MAX, SKIP), (SKIP, _DIL3), (_DIL3, _DIL5), (_DIL3, _DIL5)),
    ),
    "reduce": (
        *((_MAX, _MEAN), (_MAX, _DIL3)),
        *((_MAX, _MEAN), (_MAX, _MEAN), (SKIP, _DIL5)),
        *((_MAX, _MEAN), (_MAX, _SEP), (SKIP, _DIL3), (SKIP, _DIL5)),
        *((_MAX, _MEAN), (_MAX, _MEAN), (SKIP, _DIL5), (SKIP, _DIL5), (SKIP, _DIL5)),
    ),
}


@dataclass(frozen=True)
class S1(CellSpace):
    """RobustDARTS's first space: two operations on each edge, the best ones that DARTS had found there."""

    final_channels: FinalChannels = 16

    def __post_init__(self) -> None:
        """Refuse other cells than those of the published table."""
        super().__post_init__()
        if self.nodes != 4:
            raise UsageError(f"space s1 has cells of 4 nodes, not of {self.nodes}")

    def operations_on(self, kind: str, position: int) -> Sequence[str]:
        """Those of the published table."""
        return _S1[kind][position]


@dataclass(frozen=True)
class S2(CellSpace):
    """RobustDARTS's second space: a skip connection or a separable convolution on each edge."""

    final_channels: FinalChannels = 16

    def operations_on(self, kind: str, position: int) -> Sequence[str]:
        """The same on every edge."""
        return (SKIP, _SEP)


@dataclass(frozen=True)
class S3(CellSpace):
    """RobustDARTS's third space: as the second one, but edges may be weakened in the supernet."""

    final_channels: FinalChannels = 16

    def operations_on(self, kind: str, position: int) -> Sequence[str]:
        """The same on every edge."""
        return (NONE, SKIP, _SEP)


@dataclass(frozen=True)
class S4(CellSpace):
    """RobustDARTS's fourth space: noise, which is never good, or a separable convolution on each edge.

    The noise is normal and drawn anew in every training step; in evaluation it is zero.
    """

    final_channels: FinalChannels = 16

    def operations_on(self, kind: str, position: int) -> Sequence[str]:
        """The same on every edge."""
        return (_NOISE, _SEP)


@dataclass(frozen=True)
class S5(CellSpace):
    """A toy space of 81 small networks: cells with one node, which keeps both edges, with three operations.

    As in talks about RobustDARTS; small enough to train every network and know the best. In RobustDARTS's
    released code "s5" is another space: the whole one of DARTS, which is ``darts`` here.
    """

    layers: Layers = 3
    channels: Channels = 8
    final_layers: FinalLayers = None
    final_channels: FinalChannels = None
    drop_path: DropPathRate = 0.0
    auxiliary: Auxiliary = 0.0
    nodes: Nodes = 1

    def operations_on(self, kind: str, position: int) -> Sequence[str]:
        """The same on every edge."""
        return (_SEP, _MAX, SKIP)
