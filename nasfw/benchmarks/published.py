"""Operations as published: the baselines that the layers of this package are timed against.

The aggregated convolution: Shen, Khodak and Talwalkar, "Efficient Architecture Search for Diverse Tasks",
NeurIPS 2022, section 3. With R half the width T = 2 R + 1 of the widest dilated kernel, and P_d the
d x ... x d array whose first entry is one and all others zero,

    A = sum_i p_i pad(crop(w_i (x) P_d)),        y = crop(F^-1[F(pad(x)) F(shift(flip(A)))]) + bias,

with every kernel centred in T points on each axis, the map padded by R zeros on each side, transforms of
exactly n + 2 R points, and a stride taken by leaving out results.

The XD operation: Roberts, Khodak, Dao, Li, Ré and Talwalkar, "Rethinking Neural Operations for Diverse
Tasks", NeurIPS 2021, section 3. On N = 2^L >= n points of every axis

    y = crop(Re{K diag(L w) M pad(x)}) + bias,

with kaleidoscope matrices K, L and M of all N complex points, applied stage by stage, axis by axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasfw.contracts import Mixture
from nasfw.spaces.aggconv import AggConv
from nasfw.spaces.aggregated import AggregatedConv
from nasfw.spaces.kaleidoscope import Kaleidoscope, dft, multiply
from nasfw.spaces.kernels import Convolution, Kernel, Layout, Size
from nasfw.spaces.normalisation import restore
from nasfw.spaces.site import Site


class PublishedConv(nn.Module):
    """A convolution with a mixture of kernels; ``mixture`` holds their weights and must be set before a call.

    ``weights`` has for every pair (size k, dilation d) a tensor (outputs, inputs / groups, k, ...).
    ValueError unless the convolution keeps the map's size up to its stride and all kernels have a centre.
    """

    def __init__(self, convolution: Convolution, kernels: tuple[Kernel, ...]) -> None:
        super().__init__()
        c = convolution
        k, d = c.own
        if c.shift != 0 or sum(c.padding) != (k - 1) * d or any((k - 1) * d % 2 for k, d in kernels):
            raise ValueError(
                "the published layer needs kernels with a centre and padding that keeps the size"
            )
        if c.groups not in (1, c.inputs) or (c.groups > 1 and c.inputs != c.outputs):
            raise ValueError("the published layer mixes all channels or works channel by channel")
        self.convolution, self.kernels = c, kernels
        self.mixture: Tensor | None = None
        shapes = [(c.outputs, c.inputs // c.groups, *[k] * c.dims) for k, _ in kernels]
        self.weights = nn.ParameterList(0.01 * torch.randn(shape) for shape in shapes)
        self.bias = nn.Parameter(torch.zeros(c.outputs)) if c.biased else None

    @property
    def width(self) -> int:
        """T: how many points the widest dilated kernel spans on an axis."""
        return widest(self.kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Output of shape (batch, outputs, *positions) for a map of shape (batch, inputs, *size)."""
        if self.mixture is None:
            raise RuntimeError("the mixture of an aggregated convolution is not set")
        c, half, size = self.convolution, self.width // 2, tuple(x.shape[2:])
        axes, lengths = tuple(range(-c.dims, 0)), tuple(n + 2 * half for n in size)
        kernel = self.aggregate(self.mixture)
        kernel = F.pad(kernel, [side for n in reversed(lengths) for side in (0, n - self.width)])
        # Flipped, and turned so that the tap s stands at the place R - s.
        kernel = torch.roll(kernel.flip(axes), (half + 1,) * c.dims, axes)
        f = torch.fft.rfftn(F.pad(x, (half, half) * c.dims), dim=axes, norm="ortho")
        k = torch.fft.rfftn(kernel, dim=axes)
        product = f * k.squeeze(1) if c.groups > 1 else torch.einsum("bi...,oi...->bo...", f, k)
        y: Tensor = torch.fft.irfftn(product, s=lengths, dim=axes, norm="ortho")
        for axis, n in enumerate(size, 2):
            y = y.narrow(axis, half, n)
        y = _cut(y, c.dims, slice(None, None, c.stride))
        return y if self.bias is None else y + self.bias.view(-1, *[1] * c.dims)

    def aggregate(self, mixture: Tensor) -> Tensor:
        """The whole kernel: (outputs, inputs / groups, T, ...)."""
        dims, total = self.convolution.dims, mixture.new_zeros(())
        for (k, d), weight, p in zip(self.kernels, self.weights, mixture, strict=True):
            first = weight.new_zeros([d] * dims)
            first[(0,) * dims] = 1
            span = (k - 1) * d + 1
            dilated = _cut(torch.kron(weight, first), dims, slice(span))
            side = (self.width - span) // 2
            total = total + p * F.pad(dilated, (side, side) * dims)
        return total


class PublishedSupernet(nn.Module):
    """A search space's supernet with the published layer wherever it has an aggregated convolution."""

    def __init__(self, space: AggConv) -> None:
        super().__init__()
        supernet = space.supernet()
        self.network = supernet.network
        restore(self.network)
        for place, layer in zip(supernet.places, list(supernet.layers), strict=True):
            self.network.set_submodule(place.name, published(layer))

    @property
    def layers(self) -> Iterator[PublishedConv]:
        """The searched layers, in the order of the decisions."""
        return (module for module in self.network.modules() if isinstance(module, PublishedConv))

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """The backbone's output; ``mixture`` has one weight for each option, decision by decision."""
        for layer, p in zip(self.layers, mixture, strict=True):
            layer.mixture = p
        try:
            return self.network(x)  # type: ignore[no-any-return]
        finally:
            # A mixture that stays would keep its graph alive.
            for layer in self.layers:
                layer.mixture = None


def published(layer: AggregatedConv) -> PublishedConv:
    """The published layer that computes what ``layer`` does; taps that it leaves out are zero."""
    layout = layer.layout
    made = PublishedConv(layout.convolution, layout.kernels).to(layer.weight)
    with torch.no_grad():
        for option, weight in enumerate(made.weights):
            box = layout.box(option)
            inside = weight.zero_()
            if 0 not in box.counts:
                for axis, (first, count) in enumerate(zip(box.first, box.counts, strict=True), 2):
                    inside = inside.narrow(axis, first, count)
                inside.copy_(layer.kernel(option))
        if made.bias is not None and layer.bias is not None:
            made.bias.copy_(layer.bias)
    return made


class PublishedXD(nn.Module):
    """An XD operation that starts as the convolution of ``site``, all channels mixed; ValueError for groups.

    A periodic axis that is no power of two long is continued on both sides by what its kernel reads.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        if site.groups != 1:
            raise ValueError("the published XD operation mixes all channels")
        self.site = site
        whole = [a.unrolled if a.circular and a.size & (a.size - 1) else (a, None) for a in site.axes]
        self.axes, self.index = [axis for axis, _ in whole], [index for _, index in whole]
        self.points = [1 << (axis.length - 1).bit_length() for axis in self.axes]
        self.weight = nn.Parameter(0.01 * torch.randn(site.outputs, site.inputs, *site.kernel))
        self.bias = nn.Parameter(torch.zeros(site.outputs)) if site.biased else None
        # From positions in order to bit-reversed frequencies and back, which needs no reversal.
        kinds = ((False, True), (True, True), (False, False))
        self.m, self.k, self.l = (self._butterflies(*kind) for kind in kinds)

    def _butterflies(self, inverse: bool, orthonormal: bool) -> nn.ParameterList:
        starts = (dft(n, inverse, inverse, orthonormal, torch.complex128).twiddle for n in self.points)
        dtype = torch.get_default_dtype()
        return nn.ParameterList(nn.Parameter(torch.view_as_real(t).to(dtype)) for t in starts)

    def forward(self, x: Tensor) -> Tensor:
        """Output of shape (batch, outputs, *results) for a map of shape (batch, inputs, *size)."""
        for dim, index in enumerate(self.index, 2):
            x = x if index is None else x.index_select(dim, torch.tensor(index, device=x.device))
        missing = [n - m for n, m in zip(self.points, x.shape[2:], strict=True)]
        x = F.pad(x, [side for m in reversed(missing) for side in (0, m)])
        spectrum, diagonal = _transformed(self.m, False, x), _transformed(self.l, False, self._kernel())
        y = _transformed(self.k, True, torch.einsum("bi...,oi...->bo...", spectrum, diagonal)).real
        for dim, axis in enumerate(self.axes, 2):
            y = y.index_select(dim, torch.tensor(axis.positions, device=y.device))
        return y if self.bias is None else y + self.bias.view(-1, *[1] * self.site.dims)

    def _kernel(self) -> Tensor:
        """The kernel on all points; its tap t stands at the place -t."""
        kernel: Tensor = self.weight
        for dim, (axis, n) in enumerate(zip(self.axes, self.points, strict=True), 2):
            places = torch.tensor([-t % n for t in axis.taps], device=kernel.device)
            shape = [*kernel.shape[:dim], n, *kernel.shape[dim + 1 :]]
            kernel = kernel.new_zeros(shape).index_add(dim, places, kernel)
        return kernel


def _transformed(twiddles: nn.ParameterList, increasing: bool, x: Tensor) -> Tensor:
    """``x`` with the last axes multiplied by a butterfly each."""
    x = x if x.is_complex() else torch.complex(x, torch.zeros_like(x))
    for dim, twiddle in enumerate(twiddles, 2):
        matrix = Kaleidoscope(torch.view_as_complex(twiddle), increasing)
        x = multiply(matrix, x.movedim(dim, -1)).movedim(-1, dim)
    return x


def _cut(x: Tensor, dims: int, part: slice) -> Tensor:
    """The same part of each of the last ``dims`` axes."""
    whole = [slice(None)] * (x.dim() - dims)
    return x[(*whole, *[part] * dims)]


def widest(kernels: tuple[Kernel, ...]) -> int:
    """How many points the widest dilated kernel spans on an axis."""
    return max((k - 1) * d + 1 for k, d in kernels)


def kept_bytes(layout: Layout, batch: int, size: Size) -> float:
    """About how many bytes, in 32-bit numbers, a published layer keeps from forward to backward pass."""
    c, width = layout.convolution, widest(layout.kernels)
    lengths = [n + width - 1 for n in size]
    spectrum = 8 * math.prod(lengths[:-1]) * (lengths[-1] // 2 + 1)
    kernels = 4.0 * len(layout.kernels) * layout.pairs * math.prod([width] * c.dims)
    return kernels + spectrum * (2 * batch * c.inputs + batch * c.outputs + layout.pairs)
