"""A convolution whose kernel is a mixture over sizes and dilations, evaluated in three equal ways.

With place(w) the dense kernel whose entry at a tap's offset is that tap, and p_i the weights of a mixture,

    sum_i p_i conv(x, w_i)  =  conv(x, sum_i p_i place(w_i))  =  F^-1[F(x) F(sum_i p_i place(w_i))],

the modes ``results``, ``weights`` and ``fourier`` (Shen, Khodak and Talwalkar, "Efficient Architecture
Search for Diverse Tasks", NeurIPS 2022, section 3). All are made of differentiable torch functions, so
second derivatives work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasfw.spaces.kernels import Convolution, Layout, Size
from nasfw.spaces.speed import Mode, Way, fastest, smooth


class AggregatedConv(nn.Module):
    """A convolution with a mixture of kernels; ``mixture`` holds their weights and must be set before a call.

    ``weight`` has the shape (taps, outputs, inputs / groups): one row for every tap of every kernel that
    can touch maps of the layout's sizes. The mode ``auto`` takes the way that ``nasfw.spaces.speed``
    expects to be fastest.
    """

    def __init__(self, layout: Layout, mode: Mode = "auto") -> None:
        super().__init__()
        c = layout.convolution
        self.layout, self.mode = layout, mode
        self.mixture: Tensor | None = None
        self.weight = nn.Parameter(torch.empty(len(layout.taps), c.outputs, c.inputs // c.groups))
        self.bias = nn.Parameter(torch.empty(c.outputs)) if c.biased else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights, N(0, 0.01^2) as in the authors' code, and no bias.

        Weights of the size that a single convolution starts with train far slower: the random kernels that
        are mixed drown the ones that learn (handwritten digits, ten epochs: loss 1.4 instead of 0.2).
        """
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Output of shape (batch, outputs, *positions) for a map of shape (batch, inputs, *size)."""
        if self.mixture is None:
            raise RuntimeError("the mixture of an aggregated convolution is not set")
        way = fastest(self.layout, self.mode, x.shape[0], tuple(x.shape[2:]))
        y = _WAYS[way](self.layout, x, self.weight, self.mixture)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * self.layout.convolution.dims)

    def kernel(self, option: int) -> Tensor:
        """The weight of the option's standalone convolution: (outputs, inputs / groups, *box)."""
        block, box = self.layout.blocks[option], self.layout.box(option)
        whole = self.weight.new_zeros(*self.weight.shape[1:], *box.counts)
        inside = whole
        for axis, (first, origin) in enumerate(zip(block.first, box.first, strict=True), 2):
            inside = inside.narrow(axis, first - origin, block.counts[axis - 2])
        inside.copy_(_box(self.weight.detach(), block.rows, block.counts))
        return whole


def block_diagonal(kernel: Tensor, groups: int, target: int = 1) -> Tensor:
    """The kernel with ``groups`` as an equal one with ``target`` groups, a divisor of ``groups``."""
    outputs, inputs, *size = kernel.shape
    merged = groups // target
    whole = kernel.new_zeros(target, merged, outputs // groups, merged, inputs, *size)
    parts = kernel.reshape(target, merged, outputs // groups, inputs, *size)
    for i in range(merged):
        whole[:, i, :, i] = parts[:, i]
    return whole.reshape(outputs, merged * inputs, *size)


def mixed_results(layout: Layout, x: Tensor, weight: Tensor, mixture: Tensor) -> Tensor:
    """One convolution for each kernel, their results mixed."""
    y = x.new_zeros(())
    for block, p in zip(layout.blocks, mixture, strict=True):
        if block.rows.stop > block.rows.start:
            part = _box(weight, block.rows, block.counts)
            y = y + p * _correlate(layout.convolution, x, part, block.start, block.kernel[1])
    return y


def mixed_weights(layout: Layout, x: Tensor, weight: Tensor, mixture: Tensor) -> Tensor:
    """One convolution with the dense kernel that holds the mixture of all."""
    cells = _index("cells", layout, layout.extent, x.device)
    dense = _gather(layout, weight, mixture, cells, math.prod(layout.extent))
    kernel = _box(dense, slice(None), layout.extent)
    return _correlate(layout.convolution, x, kernel, layout.low, 1)


def fourier_matrix(layout: Layout, x: Tensor, weight: Tensor, mixture: Tensor) -> Tensor:
    """The product of spectra, by real matrices that hold the discrete Fourier transform: for small maps.

    The matrices have a column for every pixel, tap and position that there is, so nothing is padded or cut,
    and their results stand frequency first, as the product over channels needs them.
    """
    c, size = layout.convolution, tuple(x.shape[2:])
    at_pixels, at_taps, at_positions = _matrices(layout, size, x.dtype, x.device)
    batch, pixels, count = x.shape[0], math.prod(size), len(at_pixels[0])
    union = _gather(layout, weight, mixture, _index("union", layout, (), x.device), len(layout.union))
    k = (at_taps.flatten(0, 1) @ union.flatten(1)).view(2, count, *union.shape[1:])
    f = (at_pixels.flatten(0, 1) @ x.reshape(-1, pixels).t()).view(2, count, batch, c.inputs)
    y = torch.stack(_complex_product(f, k, c.groups)).view(2 * count, -1)
    result = y.t() @ at_positions
    return result.view(batch, c.outputs, *map(c.positions, size))


def fourier(layout: Layout, x: Tensor, weight: Tensor, mixture: Tensor) -> Tensor:
    """The product of spectra, by fast Fourier transforms."""
    c, size = layout.convolution, tuple(x.shape[2:])
    lengths = tuple(map(smooth, layout.transform(size)))
    axes = tuple(range(-c.dims, 0))
    cells = _index("circular", layout, lengths, x.device)
    kernel = _gather(layout, weight, mixture, cells, math.prod(lengths))
    spectrum = torch.fft.rfftn(x, s=lengths, dim=axes)
    if c.groups == c.inputs == c.outputs:
        kernel = kernel.flatten(1).t().reshape(-1, *lengths)
        y = spectrum * torch.fft.rfftn(kernel, dim=axes)
    else:
        # Frequency first, the channels' product is one batched matrix product.
        k = torch.fft.rfftn(kernel.view(*lengths, *kernel.shape[1:]), dim=tuple(range(c.dims)))
        f = spectrum.reshape(-1, math.prod(spectrum.shape[2:])).t().reshape(-1, x.shape[0], c.inputs)
        product = _grouped(f, k.flatten(0, c.dims - 1), c.groups).flatten(1)
        y = product.t().reshape(x.shape[0], c.outputs, *spectrum.shape[2:])
    result: Tensor = torch.fft.irfftn(y, s=lengths, dim=axes)
    for axis, n in enumerate(size, 2):
        result = result[(slice(None),) * axis + (slice(0, (c.positions(n) - 1) * c.stride + 1, c.stride),)]
    return result


_WAYS = {
    Way.RESULTS: mixed_results,
    Way.WEIGHTS: mixed_weights,
    Way.MATRIX: fourier_matrix,
    Way.FOURIER: fourier,
}


def _gather(layout: Layout, weight: Tensor, mixture: Tensor, index: Tensor, count: int) -> Tensor:
    """The taps, weighted, summed where they share a place: (count, outputs, inputs / groups)."""
    weighted = weight * mixture[_index("option", layout, (), weight.device)].view(-1, 1, 1)
    return weight.new_zeros(count, *weight.shape[1:]).index_add(0, index, weighted)


def _box(rows: Tensor, part: slice, counts: Size) -> Tensor:
    """Rows of taps as a kernel of shape (outputs, inputs / groups, *counts)."""
    rows = rows[part]
    return rows.movedim(0, -1).reshape(*rows.shape[1:], *counts)


def _correlate(c: Convolution, x: Tensor, kernel: Tensor, start: Size, dilation: int) -> Tensor:
    """The convolution whose first tap has the offset ``start`` on each axis."""
    pads = []
    for n, t, first in zip(x.shape[2:], kernel.shape[2:], start, strict=True):
        before = -(c.shift + first)
        after = (c.positions(n) - 1) * c.stride - before + (t - 1) * dilation - (n - 1)
        # A few zeros that no window reads do no harm, and spare the copy that uneven padding costs.
        even = before >= 0 and before - c.stride < after <= before
        pads.append((before, before if even else after))
    convolve = F.conv1d if c.dims == 1 else F.conv2d
    if all(before == after and before >= 0 for before, after in pads):
        return convolve(x, kernel, None, c.stride, [b for b, _ in pads], dilation, c.groups)
    padded = F.pad(x, [p for pad in reversed(pads) for p in pad])
    return convolve(padded, kernel, None, c.stride, 0, dilation, c.groups)


def _complex_product(f: Tensor, k: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the channels' product, from those of both spectra."""
    (fr, fi), (kr, ki) = f, k
    real = _grouped(fr, kr, groups) - _grouped(fi, ki, groups)
    return real, _grouped(fr, ki, groups) + _grouped(fi, kr, groups)


def _grouped(f: Tensor, k: Tensor, groups: int) -> Tensor:
    """(F, batch, inputs) times (F, outputs, inputs / groups), by groups: (F, batch, outputs)."""
    if groups == 1:
        return torch.bmm(f, k.transpose(1, 2))
    if groups == f.shape[2] == k.shape[1]:
        return f * k.transpose(1, 2)
    left = f.reshape(*f.shape[:2], groups, -1).transpose(1, 2)
    right = k.reshape(len(k), groups, -1, k.shape[2]).transpose(2, 3)
    return torch.matmul(left, right).transpose(1, 2).flatten(2)


@lru_cache(maxsize=256)
def _index(kind: str, layout: Layout, lengths: Size, device: torch.device) -> Tensor:
    """For every row its option, or its place in the union, in the dense or in the circular kernel."""
    if kind == "option":
        rows = [i for i, b in enumerate(layout.blocks) for _ in range(b.rows.start, b.rows.stop)]
        return torch.tensor(rows, device=device)
    if kind == "union":
        order = {tap: i for i, tap in enumerate(layout.union)}
        return torch.tensor([order[tap] for tap in layout.taps], device=device)
    taps = torch.tensor(layout.taps)
    places = taps - torch.tensor(layout.low) if kind == "cells" else -(taps + layout.convolution.shift)
    steps = torch.tensor([math.prod(lengths[i + 1 :]) for i in range(len(lengths))])
    return (places.remainder(torch.tensor(lengths)) * steps).sum(1).to(device)


@lru_cache(maxsize=64)
def _matrices(
    layout: Layout, size: Size, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The Fourier transform at pixels and taps, (2, F, points), and back at positions, (2 F, points).

    The parts of the first two are real and imaginary; F runs over all frequencies of the half spectrum.
    """
    c, lengths = layout.convolution, layout.transform(size)
    counts = [*lengths[:-1], lengths[-1] // 2 + 1]
    frequencies = _points([range(n) for n in counts]) / torch.tensor(lengths)
    pixels = 2 * math.pi * frequencies @ _points([range(n) for n in size]).t()
    taps = 2 * math.pi * frequencies @ (torch.tensor(layout.union).double() + c.shift).t()
    back = _points([range(0, c.positions(n) * c.stride, c.stride) for n in size])
    positions = 2 * math.pi * frequencies @ back.t()
    # All but the lowest and, for an even length, the highest frequency stand for a conjugate pair.
    last = frequencies[:, -1:]
    share = torch.where((last == 0) | (last == 0.5), 1.0, 2.0).double() / math.prod(lengths)
    return (
        torch.stack([pixels.cos(), -pixels.sin()]).to(device, dtype),
        torch.stack([taps.cos(), taps.sin()]).to(device, dtype),
        torch.cat([share * positions.cos(), -share * positions.sin()]).to(device, dtype),
    )


def _points(axes: Sequence[range]) -> Tensor:
    """All points of a grid, last axis fastest: (points, axes)."""
    grids = torch.meshgrid(*(torch.tensor(axis, dtype=torch.float64) for axis in axes), indexing="ij")
    return torch.stack([g.flatten() for g in grids], 1)
