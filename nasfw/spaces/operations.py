"""The operations of cells, as ordinary layers: what stands on an edge of a built network.

On maps they are what their names say; on series a kernel has one axis, so "sep_conv_3x3" has 3 taps, and a
pair like 1 x 7 and 7 x 1 is one convolution of 7 taps.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasfw.values import UsageError

NONE, SKIP = "none", "skip_connect"

CONVOLUTIONS: Mapping[int, type[nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
NORMS: Mapping[int, type[nn.BatchNorm1d | nn.BatchNorm2d]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
MAXIMA: Mapping[int, type[nn.MaxPool1d | nn.MaxPool2d]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
AVERAGES: Mapping[int, type[nn.AvgPool1d | nn.AvgPool2d]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d}

# Channels, stride, axes, and whether batch norms scale and shift.
Make = Callable[[int, int, int, bool], nn.Module]


def operation(name: str, channels: int, stride: int, dims: int, affine: bool = True) -> nn.Module:
    """The operation ``name`` with fresh weights, from maps of ``channels`` to as many."""
    return OPERATIONS[name](channels, stride, dims, affine)


def convolved(
    inputs: int, outputs: int, kernel: int, stride: int, dims: int, affine: bool = True
) -> nn.Sequential:
    """ReLU, convolution, batch norm."""
    conv = CONVOLUTIONS[dims](inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, NORMS[dims](outputs, affine=affine))


def _dense(kernel: int, channels: int, stride: int, dims: int, affine: bool) -> nn.Module:
    return convolved(channels, channels, kernel, stride, dims, affine)


def _crossed(kernel: int, channels: int, stride: int, dims: int, affine: bool) -> nn.Module:
    """A kernel along one axis, then one along the other."""
    if dims == 1:
        return _dense(kernel, channels, stride, dims, affine)
    half = kernel // 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, kernel), (1, stride), padding=(0, half), bias=False),
        nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), padding=(half, 0), bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def _separable(
    kernel: int, dilation: int, times: int, channels: int, stride: int, dims: int, affine: bool
) -> nn.Module:
    """So many ``times`` ReLU, depthwise and pointwise convolution, batch norm; the first one strides."""
    conv, layers = CONVOLUTIONS[dims], nn.Sequential()
    padding = dilation * (kernel // 2)
    for i in range(times):
        step = stride if i == 0 else 1
        layers.extend(
            [
                # In place where no gradient needs what it reads, which a batch norm returned.
                nn.ReLU(inplace=i > 0),
                conv(channels, channels, kernel, step, padding, dilation, groups=channels, bias=False),
                conv(channels, channels, 1, bias=False),
                NORMS[dims](channels, affine=affine),
            ]
        )
    return layers


def _max_pooled(kernel: int, channels: int, stride: int, dims: int, affine: bool) -> nn.Module:
    return _normed(MAXIMA[dims](kernel, stride, padding=kernel // 2), channels, dims)


def _mean_pooled(kernel: int, channels: int, stride: int, dims: int, affine: bool) -> nn.Module:
    return _normed(AVERAGES[dims](kernel, stride, kernel // 2, count_include_pad=False), channels, dims)


def _normed(pool: nn.Module, channels: int, dims: int) -> nn.Module:
    # In the released code supernets have a batch norm without scale and shift behind pools, but the networks
    # that are built and evaluated have none there. Here they keep it: what was searched is what is trained.
    return nn.Sequential(pool, NORMS[dims](channels, affine=False))


def _skip(channels: int, stride: int, dims: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else halved(channels, channels, dims, affine)


def halved(inputs: int, outputs: int, dims: int, affine: bool = True) -> nn.Sequential:
    """ReLU, ``Halved``, batch norm: DARTS's factorised reduction."""
    return nn.Sequential(nn.ReLU(), Halved(inputs, outputs, dims), NORMS[dims](outputs, affine=affine))


def _noise(channels: int, stride: int, dims: int, affine: bool) -> nn.Module:
    return Noise(stride)


class Halved(nn.Module):
    """Two 1 x 1 convolutions of stride 2, the second one of the map moved by a position.

    Each makes half of the channels. A map of n positions per axis has n / 2 afterwards, rounded up: behind
    the last position of an odd axis the second convolution reads a zero.
    """

    def __init__(self, inputs: int, outputs: int, dims: int) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        self.first = conv(inputs, outputs - outputs // 2, 1, 2, bias=False)
        self.second = conv(inputs, outputs // 2, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(moved(x))], 1)


def moved(x: Tensor) -> Tensor:
    """Maps without the first position of each axis, and with a zero behind the last one of odd axes."""
    # Axis by axis, since an exported network's code decides on sizes, but does not loop over them.
    if x.shape[-1] % 2:
        x = F.pad(x, (0, 1))
    x = x[..., 1:]
    if x.dim() == 3:
        return x
    if x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, 1))
    return x[:, :, 1:]


def strided(x: Tensor, stride: int) -> Tensor:
    """Every ``stride``-th position on each axis."""
    if stride == 1:
        return x
    return x[:, :, ::stride] if x.dim() == 3 else x[:, :, ::stride, ::stride]


def zero(x: Tensor, stride: int) -> Tensor:
    """Zeros in the place of every ``stride``-th position.

    Formally they depend on the input, as what devices run has to.
    """
    return strided(x, stride) * 0.0


class Noise(nn.Module):
    """Standard normal noise in place of the input, drawn anew in every training step.

    In evaluation it is its mean, zero: the published operation draws then, too, but a network that is shipped
    must give the same answer twice.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn_like(strided(x, self.stride)) if self.training else zero(x, self.stride)


OPERATIONS: Mapping[str, Make] = {
    "max_pool_3x3": partial(_max_pooled, 3),
    "max_pool_5x5": partial(_max_pooled, 5),
    "max_pool_7x7": partial(_max_pooled, 7),
    "avg_pool_3x3": partial(_mean_pooled, 3),
    SKIP: _skip,
    "sep_conv_3x3": partial(_separable, 3, 1, 2),
    "sep_conv_5x5": partial(_separable, 5, 1, 2),
    "sep_conv_7x7": partial(_separable, 7, 1, 2),
    "dil_conv_3x3": partial(_separable, 3, 2, 1),
    "dil_conv_5x5": partial(_separable, 5, 2, 1),
    "conv_1x1": partial(_dense, 1),
    "conv_3x3": partial(_dense, 3),
    "conv_3x1_1x3": partial(_crossed, 3),
    "conv_7x1_1x7": partial(_crossed, 7),
    "noise": _noise,
}

_DARTS = (
    NONE,
    "max_pool_3x3",
    "avg_pool_3x3",
    SKIP,
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
_NASNET = (
    NONE,
    SKIP,
    "conv_3x1_1x3",
    "conv_7x1_1x7",
    "dil_conv_3x3",
    "avg_pool_3x3",
    "max_pool_3x3",
    "max_pool_5x5",
    "max_pool_7x7",
    "conv_1x1",
    "conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
)
LISTS: Mapping[str, tuple[str, ...]] = {"darts": _DARTS, "nasnet": _NASNET}


def named(operations: str | Iterable[str]) -> tuple[str, ...]:
    """The operations of a list by its name, or those that are named; UsageError for unknown ones."""
    if isinstance(operations, str) and operations in LISTS:
        return LISTS[operations]
    names = (operations,) if isinstance(operations, str) else tuple(operations)
    for name in names:
        if name not in OPERATIONS and name != NONE:
            raise UsageError(_unknown(name))
    if len(set(names)) < len(names) or set(names) <= {NONE}:
        raise UsageError(
            f"operations {', '.join(names) or '()'} are not possible: there must be at least one besides "
            f"{NONE}, and none twice"
        )
    return names


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, [NONE, *OPERATIONS, *LISTS], 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"no operation is called {name!r}; {hint}There are {', '.join([NONE, *OPERATIONS])}, and the lists "
        f"{' and '.join(LISTS)}"
    )


def usual(names: Iterable[str]) -> str:
    """What a plain network takes of ``names``: sep_conv_3x3 if it can, else a convolution, else anything."""
    order = [n for n in names if n != NONE]
    return next(_preferred(order))


def _preferred(names: list[str]) -> Iterator[str]:
    yield from (n for n in names if n == "sep_conv_3x3")
    yield from (n for n in names if "conv" in n)
    yield from (n for n in names if n != SKIP)
    yield from names
