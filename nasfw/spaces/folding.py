"""The named operation that is nearest to an XD operation, and how far away it is.

T = Re{K diag(D) M} is one matrix for every pair of channels, K and M are Kronecker products over the axes.
Inner products with matrices that are Kronecker products too take small sums axis by axis, so nothing of the
size of T is ever made. Each sort of named operations is a subspace with an orthogonal basis: all shifts of a
kernel's taps; one shift or their mean, the same for all channels; the periodic operations of some
frequencies, whose basis is the Fourier transform's. So the nearest one is a projection, and its distance, by
Pythagoras, sqrt(1 - |projection|^2 / |T|^2): 0 where T is such an operation, 1 where it has nothing of it, as
for zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from nasfw.folding import Fold
from nasfw.orders import bit_reversal
from nasfw.spaces.named import numbers
from nasfw.spaces.spectral import Frame
from nasfw.spaces.waves import Axis, wave
from nasfw.spaces.xd_layers import Spectral


class Folding:
    """The projections of one operation, in double precision."""

    def __init__(self, layer: Spectral) -> None:
        self.site, frame = layer.site, layer.frame
        with torch.no_grad():
            m, k, made = layer.parts()
            diagonal = made.whole()
            self.bias = None if layer.bias is None else layer.bias.detach()
            self.m = axis_matrices(frame, [p.detach() for p in m], False)
            self.k = axis_matrices(frame, [p.detach() for p in k], True)
        pairs = torch.view_as_complex(diagonal.detach().double().cpu().movedim(1, -1).contiguous())
        # [frequencies of each axis, the last one first, ci / groups, co]
        self.d = pairs.reshape(*frame.counts, *pairs.shape[1:])
        self.dtype, self.device = diagonal.dtype, diagonal.device
        self.square = self._square()

    def _square(self) -> float:
        """|T|^2, summed over the pairs of channels."""
        straight = [(k.mH @ k).mT * (m @ m.mH) for k, m in zip(self.k, self.m, strict=True)]
        crossed = [(k.mT @ k).mT * (m @ m.mT) for k, m in zip(self.k, self.m, strict=True)]
        one = (_across(straight, self.d.conj()) * self.d).sum().real
        two = (_across(crossed, self.d) * self.d).sum().real
        return float(one + two) / 2

    def to(self, option: str) -> Fold | None:
        """The nearest operation of that name, with its distance; None if it is not known."""
        found = numbers(option)
        if option == "zero":
            return self._found(0.0, {}, True)
        if option == "skip":
            return self._same(1)
        if "pool" in found:
            return self._same(found["pool"])
        if option == "conv":
            return self._shifted([a.taps for a in self._axes], "")
        if option == "permuted":
            return self._shifted([a.taps for a in self._axes], "convolution.", True)
        if "k" in found:
            return self._shifted([_centred(found["k"], found["d"])] * self.site.dims, "")
        if option.startswith("fourier"):
            return self._periodic(found.get("modes"))
        return None

    @property
    def _axes(self) -> list[Axis]:
        """Those of the site, the last one first."""
        return self.site.axes[::-1]

    def _products(self, taps: Sequence[Sequence[int]], permuted: bool = False) -> tuple[Tensor, Tensor]:
        """Inner products with the shifts by each tap, [taps of each axis, ci / groups, co]; their squares."""
        maps = [reads(a, t, permuted) for a, t in zip(self._axes, taps, strict=True)]
        sums = []
        for k, m, read in zip(self.k, self.m, maps, strict=True):
            # A column of zeros stands for what lies outside.
            padded = torch.cat([m, m.new_zeros(len(m), 1)], 1)
            sums.append(torch.stack([(k.mT * padded[:, q]).sum(1) for q in read.T]))
        counts = [(read >= 0).sum(0).double() for read in maps]
        squares = reduce(lambda a, b: a[..., None] * b, counts)
        return _across(sums, self.d).real, squares

    def _shifted(self, taps: Sequence[Sequence[int]], prefix: str, permuted: bool = False) -> Fold:
        products, squares = self._products(taps, permuted)
        if self.site.circular:
            # Taps a whole turn apart are one shift; the first one has all of its weight.
            firsts = [_firsts([t % a.size for t in own]) for own, a in zip(taps, self._axes, strict=True)]
            products = products * reduce(lambda a, b: a[..., None] * b, firsts)[..., None, None]
        weight = products / squares.clamp_min(1.0)[..., None, None]
        projection = float((weight * products).sum())
        # The last axis comes last, and outputs before inputs.
        turned = weight.permute(*reversed(range(weight.ndim)))
        return self._found(projection, {f"{prefix}weight": turned}, False, prefix)

    def _same(self, size: int) -> Fold:
        """The nearest multiple of the mean over ``size`` positions of each axis, channel by channel."""
        products, squares = self._products([_centred(size, 1)] * self.site.dims)
        each, outputs = products.shape[-2:]
        own = torch.arange(outputs) % each, torch.arange(outputs)
        inner = float(products[..., own[0], own[1]].sum()) / size**self.site.dims
        # Of a short periodic axis, several positions may be the same.
        counts = [Counter(t % a.size if a.circular else t for t in _centred(size, 1)) for a in self._axes]
        often = math.prod(sum(c * c for c in count.values()) / size for count in counts)
        square = float(squares.sum()) * often * outputs / size ** (2 * self.site.dims)
        return self._found(inner**2 / square, {"scale": torch.tensor([inner / square])}, True)

    def _periodic(self, modes: int | None) -> Fold | None:
        """The nearest Fourier layer; only without stride, for its basis is orthogonal then."""
        if any(s > 1 for s in self.site.stride):
            return None
        frame = self.site.periodic(modes)
        straight, crossed = [], []
        for k, m, grid in zip(self.k, self.m, frame.grids, strict=True):
            basis = wave(grid.low, range(grid.rows), grid.rows) / math.sqrt(grid.rows)
            straight.append((basis.conj() @ k) * (m @ basis.T).T)
            crossed.append((basis.conj() @ k.conj()) * (m.conj() @ basis.T).T)
        spectrum = (_across(straight, self.d) + _across(crossed, self.d.conj())) / 2
        share = shares(frame)[..., None, None]
        # Its negative frequencies are the complex conjugates, which a transform of half of them implies.
        projection = float((spectrum.abs().square() * share).sum())
        alone = torch.where(share == 2, 2.0, 1.0) / _paired(frame)[..., None, None]
        weight = torch.view_as_real(spectrum * alone).movedim(-1, -3).flatten(0, self.site.dims - 1)
        return self._found(projection, {"weight": weight}, False)

    def _found(
        self, projection: float, weights: Mapping[str, Tensor], shaped: bool, prefix: str = ""
    ) -> Fold:
        state = {n: w.to(self.dtype).to(self.device).contiguous() for n, w in weights.items()}
        if self.bias is not None:
            # Operations without weights add it to maps as they are.
            state[f"{prefix}bias"] = self.bias.view(-1, *[1] * self.site.dims) if shaped else self.bias
        share = projection / self.square if self.square > 0 else 1.0
        return Fold(math.sqrt(max(0.0, 1.0 - share)), state)


def axis_matrices(frame: Frame, matrices: Sequence[Tensor], synthesis: bool) -> list[Tensor]:
    """M or K as one complex matrix for each axis, [frequencies, size] or [results, frequencies]."""
    complexes = [torch.complex(*p.double().cpu()) for p in matrices]
    # Two stages are there only where there is no other axis.
    found = [_joined(frame, complexes, synthesis)] if frame.divided else [c[0] for c in complexes]
    if synthesis:
        return found
    for i, (grid, index) in enumerate(zip(frame.grids, frame.index, strict=True)):
        if index is not None:
            size = max(index) + 1
            places = torch.tensor(index)
            whole = found[i].new_zeros(len(found[i]), size)
            found[i] = whole.index_add(1, places, found[i][:, : grid.axis.size])
    return found


def _joined(frame: Frame, stages: Sequence[Tensor], synthesis: bool) -> Tensor:
    """Two stages, and further factors, as one matrix."""
    grid = frame.grids[0]
    rows, across, *more = stages
    v, u = len(grid.low), grid.columns
    if synthesis:
        # [rows, columns, v, u]
        whole = torch.einsum("lmv,vlu->mlvu", rows, across)
        for first, second in zip(more[-2::-2], more[::-2], strict=True):
            whole = torch.einsum("mlvu,vuw->mlvw", whole, second)
            whole = torch.einsum("mlvw,wvx->mlxw", whole, first)
        last = (grid.axis.results - 1) * grid.axis.stride + 1
        return whole.reshape(-1, v * u)[: last : grid.axis.stride]
    whole = torch.einsum("lvm,vul->vuml", rows, across)
    for first, second in zip(more[::2], more[1::2], strict=True):
        whole = torch.einsum("uwv,vuml->wuml", first, whole)
        whole = torch.einsum("vwu,vuml->vwml", second, whole)
    return whole.reshape(v * u, -1)[:, : grid.axis.size]


def reads(axis: Axis, taps: Iterable[int], permuted: bool = False) -> Tensor:
    """Where every output reads with every tap, [results, taps]; -1 is outside."""
    start = torch.tensor(axis.positions)
    there = torch.tensor(bit_reversal(axis.size)) if permuted else torch.arange(axis.size)
    start = there.argsort()[start] if permuted else start
    places = start[:, None] + torch.tensor(list(taps))
    if axis.circular:
        return there[places % axis.size]
    inside = (places >= 0) & (places < axis.size)
    return torch.where(inside, there[places.clamp(0, axis.size - 1)], -1)


def shares(frame: Frame) -> Tensor:
    """How many frequencies, itself and its negative, each one of a half spectrum stands for: 1 or 2."""
    own = [set(grid.low) for grid in frame.grids]
    sizes = [grid.rows for grid in frame.grids]
    found = torch.ones(frame.counts, dtype=torch.float64)
    for place in torch.cartesian_prod(*map(torch.arange, frame.counts)).reshape(-1, len(sizes)).tolist():
        f = [grid.low[i] for grid, i in zip(frame.grids, place, strict=True)]
        negative = [-x % n for x, n in zip(f, sizes, strict=True)]
        there = all(x in low for x, low in zip(negative, own, strict=True))
        found[tuple(place)] = 1.0 if there else 2.0
    return found


def _paired(frame: Frame) -> Tensor:
    """How often each frequency counts in the transforms themselves."""
    row = torch.tensor(frame.grids[0].paired, dtype=torch.float64)
    return row.view(-1, *[1] * (len(frame.counts) - 1)).expand(frame.counts)


def _across(matrices: Sequence[Tensor], x: Tensor) -> Tensor:
    """Every leading axis of ``x`` multiplied by its matrix."""
    for axis, matrix in enumerate(matrices):
        x = torch.tensordot(matrix, x, ([1], [axis])).movedim(0, axis)
    return x


def _centred(k: int, d: int) -> list[int]:
    return [(j - k // 2) * d for j in range(k)]


def _firsts(places: Sequence[int]) -> Tensor:
    """1 for the first of equal places, 0 for others."""
    return torch.tensor([float(p not in places[:i]) for i, p in enumerate(places)], dtype=torch.float64)
