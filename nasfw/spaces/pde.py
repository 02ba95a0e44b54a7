"""The network of neural operators, for maps that depend on whole maps, such as solutions of equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasfw.spaces.site import CONVOLUTIONS, Size
from nasfw.values import UsageError

# By the number of axes: channels, and kernel size of the large convolutions (Roberts et al. 2021).
_SIZES = {1: (64, 17), 2: (32, 13), 3: (20, 9)}
_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_PROJECTION = 128


def pde(
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    width: int = 1,
    channels: int | None = None,
    depth: int = 4,
    circular: bool = True,
) -> nn.Module:
    """The network of the Fourier neural operator, with convolutions of large kernels in place of its layers.

    Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, as Roberts
    et al., "Rethinking Neural Operations for Diverse Tasks", NeurIPS 2021, search it: the input with its
    coordinates is lifted to ``width`` times ``channels`` (by default 64 for series, 32 for maps, 20 for
    volumes); ``depth`` times, a convolution of 17, 13 x 13 or 9 x 9 x 9 taps plus one of a single tap, batch
    norm and, but for the last time, ReLU; then two layers at every position, with 128 channels between them.
    On n positions there are no more than 2 n + 1 taps. ``circular``: at the border the convolutions go on at
    the other side, else in zeros. Inputs are [channels, *sizes]; outputs [channels, *sizes], or [channels] of
    the mean. UsageError for shapes that do not fit.
    """
    sizes = tuple(input_shape[1:])
    dense = len(output_shape) > 1
    if len(sizes) not in _SIZES or (dense and tuple(output_shape[1:]) != sizes):
        raise UsageError(
            f"backbone pde turns inputs (channels, *sizes) of one to three axes into outputs (channels, "
            f"*sizes) or (channels,), not {tuple(input_shape)} into {tuple(output_shape)}"
        )
    if width < 1 or depth < 1 or (channels is not None and channels < 1):
        raise UsageError("width, depth and channels of backbone pde must be at least 1")
    first, kernel = _SIZES[len(sizes)]
    planes = (channels or first) * width
    # A border goes around a small map no more than once.
    kernels = tuple(min(kernel, 2 * n + 1) for n in sizes)
    return OperatorNetwork(input_shape[0], output_shape[0], sizes, planes, kernels, depth, circular, dense)


class OperatorNetwork(nn.Module):
    """Lift, blocks, head."""

    coordinates: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        sizes: Size,
        planes: int,
        kernel: Size,
        depth: int,
        circular: bool,
        dense: bool,
    ) -> None:
        super().__init__()
        convolution, self.dense = CONVOLUTIONS[len(sizes)], dense
        axes = torch.meshgrid(*(torch.arange(n) / n for n in sizes), indexing="ij")
        self.register_buffer("coordinates", torch.stack(axes), persistent=False)
        self.lift = convolution(inputs + len(sizes), planes, 1)
        self.blocks = nn.ModuleList(
            OperatorBlock(planes, kernel, circular, i + 1 < depth) for i in range(depth)
        )
        hidden = convolution(planes, _PROJECTION, 1)
        self.head = nn.Sequential(hidden, nn.ReLU(), convolution(_PROJECTION, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.coordinates.expand(x.shape[0], *self.coordinates.shape)], 1)
        x = self.lift(x)
        for block in self.blocks:
            x = block(x)
        x = self.head(x)
        return x if self.dense else x.flatten(2).mean(2)


class OperatorBlock(nn.Module):
    """A large convolution plus one of a single tap, batch norm, and perhaps ReLU."""

    def __init__(self, planes: int, kernel: Size, circular: bool, active: bool) -> None:
        super().__init__()
        convolution: Callable[..., nn.Module] = CONVOLUTIONS[len(kernel)]
        halo, mode = tuple(k // 2 for k in kernel), "circular" if circular else "zeros"
        self.conv = convolution(planes, planes, kernel, padding=halo, padding_mode=mode)
        self.shortcut, self.active = convolution(planes, planes, 1), active
        self.norm, self.dropout = _NORMS[len(kernel)](planes), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x) + self.shortcut(x))
        return self.dropout(F.relu(y, inplace=True) if self.active else y)  # type: ignore[no-any-return]
