"""A convolution whose kernel is a mixture over sizes and dilations, evaluated in equal ways.

With place(w) the dense kernel whose entry at a tap's offset is that tap, and p_i the weights of a mixture,

    sum_i p_i conv(x, w_i)  =  conv(x, sum_i p_i place(w_i))  =  F^-1[F(x) F(sum_i p_i place(w_i))],

the ways ``results``, ``weights`` and ``fourier`` (Shen, Khodak and Talwalkar, "Efficient Architecture
Search for Diverse Tasks", NeurIPS 2022, section 3). The way ``dilations`` sums the kernels of equal dilation
before convolving, and ``matrix`` is ``fourier`` with the transforms as products of matrices. Second
derivatives of all of them work; the transforms of ``torch.func`` do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasfw.spaces.choice import Choice, measured
from nasfw.spaces.kernels import Comb, Convolution, Layout, Size
from nasfw.spaces.mixing import mixing
from nasfw.spaces.race import Evaluate
from nasfw.spaces.separate import separate
from nasfw.spaces.speed import Mode, Way, expected, fastest, kind_of, ways_of
from nasfw.spaces.transforms import Kind, plan, precisely

Memory = Literal["default", "low"]


class AggregatedConv(nn.Module):
    """A convolution with a mixture of kernels; ``mixture`` holds their weights and must be set before a call.

    If the mixture is one kernel alone, and needs no gradient, ``path`` may say which: then only that is used.
    ``weight`` has the shape (taps, outputs, inputs / groups): one row for every tap of every kernel that
    can touch maps of the layout's sizes. With ``memory`` "low", spectra are computed again for the backward
    pass instead of kept. Under autocast transforms are in single precision, and the result in the lower.
    """

    def __init__(self, layout: Layout, mode: Mode = "auto", memory: Memory = "default") -> None:
        super().__init__()
        c = layout.convolution
        self.layout, self.mode, self.memory = layout, mode, memory
        self.mixture: Tensor | None = None
        self.path: int | None = None
        self.choices: dict[Size, Choice] = {}
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
        self._check(x)
        if self.path is not None:
            return self._single(x, self.path)
        size = tuple(x.shape[2:])
        if self.training and torch.is_grad_enabled() and size not in self.choices:
            self.settle(len(x), size)
        known = self.choices.get(size)
        way = known.way if known else fastest(self.layout, self.mode, len(x), size)
        if len(x) == 0:
            way = Way.WEIGHTS
        return ways(self.layout, self.memory)[way](x, self.weight, self.mixture, self.bias)

    def _single(self, x: Tensor, option: int) -> Tensor:
        """The convolution with one kernel."""
        block, c = self.layout.blocks[option], self.layout.convolution
        if block.rows.stop == block.rows.start:
            y = x.new_zeros(len(x), c.outputs, *map(c.positions, x.shape[2:]))
            return _biased(y, self.bias)
        part = _box(self.weight[block.rows], block.counts)
        return _correlate(c, x, part, block.start, block.kernel[1], self.bias)

    def _check(self, x: Tensor) -> None:
        c, largest = self.layout.convolution, tuple(map(max, zip(*self.layout.sizes, strict=True)))
        if x.dim() != c.dims + 2 or x.shape[1] != c.inputs:
            raise ValueError(
                f"maps of the shape {tuple(x.shape)} were given; this layer takes (batch, {c.inputs}, "
                f"{', '.join(['length'] if c.dims == 1 else ['height', 'width'])})"
            )
        if any(n > most for n, most in zip(x.shape[2:], largest, strict=True)):
            raise ValueError(
                f"a map of {tuple(x.shape[2:])} was given; this layer has only the taps that reach maps of "
                f"up to {largest}"
            )
        if x.dtype != self.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"maps of {x.dtype} were given; the weights of this layer are {self.weight.dtype}"
            )

    def settle(self, batch: int, size: Size) -> None:
        """Take for maps of ``size`` from now on what is fastest on this device, as measured now or before."""
        possible = ways(self.layout, self.memory)
        wanted = ways_of(self.mode)
        if self.memory == "low" and len(wanted) > 1:
            # The mixture's gradient needs the results of all kernels.
            wanted = tuple(way for way in wanted if way is not Way.RESULTS)
        some = {way: possible[way] for way in wanted}
        times = {way: expected(self.layout, way, batch, size) for way in some}
        self.choices[size] = measured(self.layout, batch, size, some, times, self.weight, self.memory)

    def kernel(self, option: int) -> Tensor:
        """The weight of the option's standalone convolution: (outputs, inputs / groups, *box)."""
        block, box = self.layout.blocks[option], self.layout.box(option)
        whole = self.weight.new_zeros(*self.weight.shape[1:], *box.counts)
        inside = whole
        for axis, (first, origin) in enumerate(zip(block.first, box.first, strict=True), 2):
            inside = inside.narrow(axis, first - origin, block.counts[axis - 2])
        inside.copy_(_box(self.weight.detach()[block.rows], block.counts))
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


def ways(layout: Layout, memory: Memory = "default") -> Mapping[Way, Evaluate]:
    """All ways to evaluate; each takes maps, taps, mixture and the bias, if there is one."""
    keep = memory == "default"
    return {
        Way.WEIGHTS: partial(mixed_weights, layout),
        Way.MATRIX: partial(matrix, layout, keep=keep),
        Way.FOURIER: partial(fourier, layout, keep=keep),
        Way.DILATIONS: partial(mixed_dilations, layout),
        Way.RESULTS: partial(mixed_results, layout),
    }


def mixed_results(
    layout: Layout, x: Tensor, weight: Tensor, mixture: Tensor, bias: Tensor | None = None
) -> Tensor:
    """One convolution for each kernel, their results mixed."""
    y = x.new_zeros(())
    for block, p in zip(layout.blocks, mixture, strict=True):
        if block.rows.stop > block.rows.start:
            part = _box(weight[block.rows], block.counts)
            y = y + p * _correlate(layout.convolution, x, part, block.start, block.kernel[1])
    return _biased(y, bias)


def mixed_weights(
    layout: Layout, x: Tensor, weight: Tensor, mixture: Tensor, bias: Tensor | None = None
) -> Tensor:
    """One convolution with the dense kernel that holds the mixture of all."""
    dense = _grid(layout, weight, mixture, None, _cells(layout, x.device), math.prod(layout.extent))
    return _correlate(layout.convolution, x, _box(dense, layout.extent), layout.low, 1, bias)


def mixed_dilations(
    layout: Layout, x: Tensor, weight: Tensor, mixture: Tensor, bias: Tensor | None = None
) -> Tensor:
    """One convolution for each dilation, with the kernel that holds the mixture of all with this dilation."""
    y = x.new_zeros(())
    for comb, rows, cells in _combs(layout, x.device):
        kernel = _box(_grid(layout, weight, mixture, rows, cells, math.prod(comb.counts)), comb.counts)
        y = y + _correlate(layout.convolution, x, kernel, comb.start, comb.dilation)
    return _biased(y, bias)


def _biased(y: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        # In place: a fresh result of this size takes longer to get from the system than to fill.
        y += bias.to(y.dtype).view(-1, *[1] * (y.dim() - 2))
    return y


def fourier(
    layout: Layout,
    x: Tensor,
    weight: Tensor,
    mixture: Tensor,
    bias: Tensor | None = None,
    keep: bool = True,
) -> Tensor:
    """The product of spectra, by fast Fourier transforms."""
    return _spectral(layout, x, weight, mixture, bias, Kind.FAST, keep)


def matrix(
    layout: Layout,
    x: Tensor,
    weight: Tensor,
    mixture: Tensor,
    bias: Tensor | None = None,
    keep: bool = True,
) -> Tensor:
    """The product of spectra, by products with matrices that hold the Fourier transform."""
    return _spectral(layout, x, weight, mixture, bias, kind_of(Way.MATRIX, layout.convolution), keep)


def _spectral(
    layout: Layout,
    x: Tensor,
    weight: Tensor,
    mixture: Tensor,
    bias: Tensor | None,
    kind: Kind,
    keep: bool,
) -> Tensor:
    device = x.device.type
    wanted = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    # Half the digits are not enough for sums over all pixels.
    precise = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(device, enabled=False):
        x, weight, mixture = (t.to(precise) for t in (x, weight, mixture))
        bias = None if bias is None else bias.to(precise)
        made = plan(layout, tuple(x.shape[2:]), kind, precise, x.device)
        taps = None if len(made.taps) == len(weight) else made.taps
        grid = _grid(layout, weight, mixture, taps, made.cells, math.prod(made.grid))
        c = layout.convolution
        if c.groups == 1:
            y = mixing(x, grid, bias, made, keep)
        elif c.apart:
            maps = x if c.outputs == c.inputs else x.repeat_interleave(c.outputs // c.inputs, 1)
            y = separate(maps, grid.flatten(1), bias, made, keep)
        else:
            biases = [None] * c.groups if bias is None else bias.chunk(c.groups)
            groups = zip(x.chunk(c.groups, 1), grid.chunk(c.groups, 1), biases, strict=True)
            y = torch.cat([mixing(maps, part.contiguous(), b, made, keep) for maps, part, b in groups], 1)
    return y.to(wanted if precise == torch.float32 else precise)


def _grid(
    layout: Layout, weight: Tensor, mixture: Tensor, rows: Tensor | None, cells: Tensor, count: int
) -> Tensor:
    """The taps (those in ``rows``), weighted, summed in their cells: (count, outputs, inputs / groups)."""
    options = _options(layout, weight.device)
    if rows is not None:
        weight, options = weight[rows], options[rows]
    return _Grid.apply(weight, mixture.to(weight.dtype), options, cells, count)  # type: ignore[no-any-return, no-untyped-call]


class _Grid(torch.autograd.Function):
    """cell[cells[i]] += mixture[options[i]] * weight[i]; with one temporary tensor in each direction."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, mixture: Tensor, options: Tensor, cells: Tensor, count: int
    ) -> Tensor:
        ctx.save_for_backward(weight, mixture, options, cells)
        weighted = weight * mixture[options].view(-1, 1, 1)
        return weight.new_zeros(count, *weight.shape[1:]).index_add_(0, cells, weighted)

    @staticmethod
    @precisely
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, mixture, options, cells = ctx.saved_tensors
        rows = gradients[0].index_select(0, cells)
        share = torch.linalg.vecdot(rows.flatten(1), weight.flatten(1))
        of_mixture = torch.zeros_like(mixture).index_add(0, options, share)
        factors = mixture[options].view(-1, 1, 1)
        of_weight = rows * factors if torch.is_grad_enabled() else rows.mul_(factors)
        return of_weight, of_mixture, None, None, None


def _box(rows: Tensor, counts: Size) -> Tensor:
    """Rows of taps as a kernel of shape (outputs, inputs / groups, *counts)."""
    return rows.movedim(0, -1).reshape(*rows.shape[1:], *counts)


def _correlate(
    c: Convolution, x: Tensor, kernel: Tensor, start: Size, dilation: int, bias: Tensor | None = None
) -> Tensor:
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
        return convolve(x, kernel, bias, c.stride, [b for b, _ in pads], dilation, c.groups)
    padded = F.pad(x, [p for pad in reversed(pads) for p in pad])
    return convolve(padded, kernel, bias, c.stride, 0, dilation, c.groups)


@lru_cache(maxsize=256)
def _options(layout: Layout, device: torch.device) -> Tensor:
    """The option of every row of the weight."""
    rows = [i for i, b in enumerate(layout.blocks) for _ in range(b.rows.start, b.rows.stop)]
    with torch.inference_mode(False):
        return torch.tensor(rows, device=device)


@lru_cache(maxsize=256)
def _cells(layout: Layout, device: torch.device) -> Tensor:
    """The cell of every row in the dense kernel that holds all."""
    with torch.inference_mode(False):
        places = torch.tensor(layout.taps) - torch.tensor(layout.low)
        steps = torch.tensor([math.prod(layout.extent[i + 1 :]) for i in range(places.shape[1])])
        return (places * steps).sum(1).to(device)


@lru_cache(maxsize=256)
def _combs(layout: Layout, device: torch.device) -> list[tuple[Comb, Tensor, Tensor]]:
    """The combs of a layout with their rows and cells."""
    with torch.inference_mode(False):
        return [
            (comb, torch.tensor(comb.rows, device=device), torch.tensor(comb.cells, device=device))
            for comb in layout.combs
        ]
