"""Layers of cells in a form that a processor computes faster than torch's own, with equal results.

The gradients of a depthwise convolution are depthwise convolutions again. That of its input is one with the
flipped kernels. That of tap t, the sum over samples and positions n of g(n) x(n + t), has the gradient g for
a kernel, as large as the map, with a channel for each channel of each sample. Torch's library is fast at
these forward passes, but computes the gradients of dilated and of 5 x 5 kernels 10 to 40 times as slowly.

A mean over windows is a depthwise convolution with equal taps, divided by how many of them are on the map. A
pointwise convolution is a matrix product. The library's maxima are fast with channels side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasfw.spaces import normalisation
from nasfw.spaces.normalisation import is_plain

Pair = tuple[int, int]


class QuickDepthwise1d(nn.Conv1d):
    """For series, which are images of one row."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_plain(x):
            return super().forward(x)
        stride, dilation = (1, self.stride[0]), (1, self.dilation[0])
        return _depthwise(x[:, :, None], self.weight[:, :, None], stride, dilation)[:, :, 0]


class QuickDepthwise2d(nn.Conv2d):
    """For images."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_plain(x):
            return super().forward(x)
        return _depthwise(x, self.weight, self.stride, self.dilation)  # type: ignore[arg-type]


class QuickPointwise1d(nn.Conv1d):
    """For series."""

    def forward(self, x: Tensor) -> Tensor:
        return _product(self.weight, x) if is_plain(x) else super().forward(x)


class QuickPointwise2d(nn.Conv2d):
    """For images."""

    def forward(self, x: Tensor) -> Tensor:
        return _product(self.weight, x) if is_plain(x) else super().forward(x)


class QuickMaxPool1d(nn.MaxPool1d):
    """For series."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_plain(x):
            return super().forward(x)  # type: ignore[no-any-return]
        size, stride, padding = (1, self.kernel_size), (1, self.stride), (0, self.padding)
        return _greatest(x[:, :, None], size, stride, padding, self.ceil_mode)[:, :, 0]


class QuickMaxPool2d(nn.MaxPool2d):
    """For images."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_plain(x):
            return super().forward(x)  # type: ignore[no-any-return]
        return _greatest(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)


class QuickAvgPool1d(nn.AvgPool1d):
    """For series."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_plain(x):
            return super().forward(x)
        (size,), (stride,) = self.kernel_size, self.stride  # type: ignore[misc]
        return _mean(x[:, :, None], (1, size), (1, stride))[:, :, 0]


class QuickAvgPool2d(nn.AvgPool2d):
    """For images."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_plain(x):
            return super().forward(x)
        size, stride = int(self.kernel_size), int(self.stride)  # type: ignore[arg-type]
        return _mean(x, (size, size), (stride, stride))


def quicken(network: nn.Module) -> None:
    """Let layers of the network be quick ones where there are such; they stay what they are otherwise."""
    normalisation.quicken(network)
    for module in network.modules():
        # Both classes have the same state: parameters, hooks and names stay.
        module.__class__ = _quick(module) or type(module)


_DEPTHWISE: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: QuickDepthwise1d,
    nn.Conv2d: QuickDepthwise2d,
}
_POINTWISE: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: QuickPointwise1d,
    nn.Conv2d: QuickPointwise2d,
}
_POOLS: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.MaxPool1d: QuickMaxPool1d,
    nn.MaxPool2d: QuickMaxPool2d,
    nn.AvgPool1d: QuickAvgPool1d,
    nn.AvgPool2d: QuickAvgPool2d,
}


def _quick(module: nn.Module) -> type[nn.Module] | None:
    """The class for a layer that works as those of cells do; None for others."""
    kind = type(module)
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.bias is None and module.padding_mode == "zeros":
        sizes = zip(module.kernel_size, module.dilation, module.padding, strict=True)
        centred = all(k % 2 and p == d * (k // 2) for k, d, p in sizes)
        if centred and module.groups == module.in_channels == module.out_channels > 1:
            return _DEPTHWISE.get(kind)
        if module.groups == 1 and {*module.kernel_size, *module.stride} == {1}:
            return _POINTWISE.get(kind)
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d):
        # Of series' these are pairs of one, of images' numbers.
        size, padding = (n[0] if isinstance(n, tuple) else n for n in (module.kernel_size, module.padding))
        centred = (
            bool(size % 2) and padding == size // 2 and getattr(module, "divisor_override", None) is None
        )
        return _POOLS.get(kind) if centred and not (module.count_include_pad or module.ceil_mode) else None
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        return _POOLS.get(kind) if module.dilation == 1 and not module.return_indices else None
    return None


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """A pointwise convolution."""
    y = torch.bmm(weight.flatten(1).expand(len(x), -1, -1), x.flatten(2))
    return y.view(*y.shape[:2], *x.shape[2:])


def _greatest(x: Tensor, size: Any, stride: Any, padding: Any, up: bool) -> Tensor:
    beside = x.contiguous(memory_format=torch.channels_last)
    return F.max_pool2d(beside, size, stride, padding, ceil_mode=up).contiguous()


def _mean(x: Tensor, size: Pair, stride: Pair) -> Tensor:
    """The mean over the positions of centred windows that are on the map."""
    taps = x.new_ones(x.shape[1], 1, *size)
    padding = size[0] // 2, size[1] // 2
    counts = F.conv2d(x.new_ones(1, 1, *x.shape[2:]), taps[:1], None, stride, padding)
    return _depthwise(x, taps, stride, (1, 1)) / counts


def _depthwise(x: Tensor, weight: Tensor, stride: Pair, dilation: Pair) -> Tensor:
    """A depthwise convolution whose kernels are centred, without the taps that meet nothing but padding."""
    halves = [n // 2 for n in weight.shape[2:]]
    near = [min(m, (n - 1) // d) for m, n, d in zip(halves, x.shape[2:], dilation, strict=True)]
    for axis, (half, kept) in enumerate(zip(halves, near, strict=True), 2):
        weight = weight.narrow(axis, half - kept, 2 * kept + 1)
    padding = dilation[0] * near[0], dilation[1] * near[1]
    return _Depthwise.apply(x, weight, stride, padding, dilation)  # type: ignore[no-any-return, no-untyped-call]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (stride, padding, dilation) = ctx.saved_tensors, ctx.settings
        (b, c), g = x.shape[:2], gradients[0].contiguous()
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            spread = _spread(g, x, stride)
            of_input = F.conv2d(spread, weight.flip(2, 3), None, 1, padding, dilation, c)
        if ctx.needs_input_grad[1]:
            maps, kernels = x.reshape(1, b * c, *x.shape[2:]), g.reshape(b * c, 1, *g.shape[2:])
            taps = F.conv2d(maps, kernels, None, dilation, padding, stride, b * c)
            height, width = weight.shape[2:]
            # Behind an even number of positions a stride leaves room for a tap that there is not.
            of_weight = taps[0, :, :height, :width].reshape(b, c, height, width).sum(0)[:, None]
        return of_input, of_weight, None, None, None


def _spread(g: Tensor, x: Tensor, stride: Pair) -> Tensor:
    """The gradient with zeros between, where a stride has left results out."""
    if stride == (1, 1):
        return g
    wide = torch.zeros_like(x)
    wide[:, :, :: stride[0], :: stride[1]] = g
    return wide
