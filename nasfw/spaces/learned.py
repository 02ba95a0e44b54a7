"""The transforms of XD operations as parameters: matrices as they are evaluated, or butterflies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasfw.orders import bit_reversal
from nasfw.spaces.kaleidoscope import Kaleidoscope, dense, dft, extended, multiply, two_stage
from nasfw.spaces.site import Site
from nasfw.spaces.spectral import Frame, Transforms, mixed, paired
from nasfw.spaces.waves import LONGEST, Axis, Grid, hartley

# At one rate, entries of L move so much faster, and those of K and M so much more slowly, than if they were
# stored as they are. Slower ones generalise better where the frequencies are right (Burgers' equation, 64
# points, 20 epochs: error .032, .030 and .028 with 1, 3 and 30); faster ones sooner become other transforms,
# as a permuted convolution needs (8 x 8 points, 640 steps: distance .3, .4 and .5 with 1, 3 and 10).
_FASTER, _SLOWER = 12.0, 3.0


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """In here, parameters are made in this precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Exact(nn.Module):
    """Parameters that, as long as they are as they started, are exact in a precision that is raised, too."""

    def __init__(self, frame: Frame, depth: int) -> None:
        super().__init__()
        self.frame, self.depth = frame, depth

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Exact:
        before = next(self.parameters()).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        now = next(self.parameters())
        if now.dtype.itemsize > before.itemsize and not now.is_meta:
            with made_in(now.dtype):
                exact = type(self)(self.frame, self.depth)
            for p, q in zip(self.parameters(), exact.parameters(), strict=True):
                if torch.equal(p.detach().cpu(), q.detach().to(before).to(q.dtype)):
                    p.data.copy_(q)
        return self


class Blocks(Exact):
    """K, L and M as the matrices that are applied: dense ones, or of a long series two block-diagonal stages.

    They start as those of a convolution and hold every butterfly of their size. They are kept in units that
    do not depend on the length, so that one learning rate suits all; but with SGD they hardly move, unlike
    the butterflies that are published with it. With a ``depth`` of more than 1 each has so many factors: the
    others, identities at first, are on the side of the frequencies.

    L is applied to a kernel's Hartley transform, see ``turned``. As kernels of smooth operations have few
    frequencies, an optimiser that scales every gradient by itself learns these coefficients faster than taps
    (Darcy flow, 17 x 17, 30 epochs: error .016 instead of .020).
    """

    def __init__(self, frame: Frame, depth: int = 1) -> None:
        super().__init__(frame, depth)
        analysis, synthesis, taps = frame.analysis(), frame.synthesis(), frame.taps()
        self.units = [float(m.abs().square().mean().sqrt()) / _SLOWER for m in analysis]
        self.m = _parameters(m / u for m, u in zip(analysis, self.units, strict=True))
        self.k = _parameters(m / u for m, u in zip(synthesis, self.units, strict=True))
        self.l = _parameters(m @ hartley(m.shape[-1]).to(m) / _FASTER for m in taps)
        more = range(depth - 1)
        self.more_m, self.more_k, self.more_l = (
            nn.ModuleList(self._identity() for _ in more) for _ in range(3)
        )

    def _identity(self) -> nn.ParameterList:
        """One more factor for every axis: for two stages, over rows and over columns of the frequencies."""
        shapes = [(1, count) for count in self.frame.counts]
        if self.frame.divided:
            grid = self.frame.grids[0]
            shapes[:1] = [(grid.columns, len(grid.low)), (len(grid.low), grid.columns)]
        eyes = (torch.eye(n, dtype=torch.complex128).expand(batch, n, n) / _small(n) for batch, n in shapes)
        return _parameters(eyes)

    @staticmethod
    def turned(weight: Tensor) -> Tensor:
        """The Hartley transform of kernels [co, ci / groups, *sizes], and of such transforms the kernels."""
        for axis in range(2, weight.ndim):
            basis = hartley(weight.shape[axis]).to(weight)
            weight = torch.tensordot(weight, basis, ([axis], [0])).movedim(-1, axis)
        return weight

    def forward(self) -> Transforms:
        """The complex matrices of M, K and L, as [2, batch, to, from] each."""
        m = [p * unit for p, unit in zip(self.m, self.units, strict=True)]
        k = [p * unit for p, unit in zip(self.k, self.units, strict=True)]
        taps = [p * _FASTER for p in self.l]
        # Beside the frequencies: after M and L, before K.
        for factors in map(_scaled, self.more_m):
            m = [*m, *factors] if self.frame.divided else list(map(_times, factors, m))
        for factors in map(_scaled, self.more_k):
            k = [*k, *factors] if self.frame.divided else list(map(_times, k, factors))
        for factors in map(_scaled, self.more_l):
            if self.frame.divided:
                taps = [mixed(self.frame.grids[0], factors, taps[0])]
            else:
                taps = list(map(_times, factors, taps))
        return m, k, taps


def _small(n: int) -> float:
    """The unit of a factor of ``n`` x ``n`` entries, in which an identity moves as slowly as K and M."""
    return 1 / (math.sqrt(n) * _SLOWER)


def _scaled(parameters: nn.Module) -> list[Tensor]:
    # One by one, as a trace of the network can follow no other way to them.
    assert isinstance(parameters, nn.ParameterList)
    return [p * _small(p.shape[-1]) for p in parameters]


def _parameters(matrices: Iterable[Tensor]) -> nn.ParameterList:
    dtype = torch.get_default_dtype()
    return nn.ParameterList(nn.Parameter(paired(m).to(dtype).contiguous()) for m in matrices)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """The product of two complex matrices whose parts come first."""
    (ar, ai), (br, bi) = a, b
    return torch.stack([ar @ br - ai @ bi, ar @ bi + ai @ br])


class Butterflies(Exact):
    """K, L and M as kaleidoscope matrices, products of ``depth`` butterflies, as published.

    All axes have a power of two of points. A butterfly of more than 256 indices is evaluated in two stages,
    all other kaleidoscope matrices as dense ones; of both, only those rows and columns that are needed.
    """

    def __init__(self, frame: Frame, depth: int = 1) -> None:
        super().__init__(frame, depth)

        def learned(inverse: bool, orthonormal: bool) -> nn.ParameterList:
            # Decimation in frequency and an inverse in time need no bit reversal between them.
            starts = (dft(g.points, inverse, inverse, orthonormal, torch.complex128) for g in frame.grids)
            twiddles = (torch.view_as_real(extended(s, depth).twiddle) for s in starts)
            return nn.ParameterList(nn.Parameter(t.to(torch.get_default_dtype())) for t in twiddles)

        self.m, self.k, self.l = learned(False, True), learned(True, True), learned(False, False)

    @staticmethod
    def turned(weight: Tensor) -> Tensor:
        """The kernels themselves are what L is applied to."""
        return weight

    @staticmethod
    def make_frame(site: Site, depth: int) -> Frame:
        """How the axes of ``site`` are transformed."""
        grids, indices = [], []
        for i, axis in enumerate(reversed(site.axes)):
            index = None
            if axis.circular and axis.size & (axis.size - 1):
                axis, index = axis.unrolled
            grids.append(_grid(axis, i == 0, site.dims == 1 and depth == 1))
            indices.append(None if index is None else tuple(index))
        return Frame(tuple(grids), tuple(indices))

    def forward(self) -> Transforms:
        """The complex matrices of M, K and L, as [2, batch, to, from] each."""
        m: list[Tensor] = []
        k: list[Tensor] = []
        taps: list[Tensor] = []
        for grid, *parameters in zip(self.frame.grids, self.m, self.k, self.l, strict=True):
            complexes = [torch.view_as_complex(p) for p in parameters]
            analysis, synthesis, kernel = (
                Kaleidoscope(c, increasing)
                for c, increasing in zip(complexes, (False, True, False), strict=True)
            )
            shares = complexes[0].new_tensor(grid.paired)
            split = _stages if grid.columns > 1 else _matrix
            m += map(paired, split(grid, analysis, False))
            found = list(split(grid, synthesis, True))
            k += map(paired, [found[0] * shares, *found[1:]])
            taps.append(paired(_taps(grid, kernel)[None]))
        return m, k, taps


def _grid(axis: Axis, half: bool, divisible: bool) -> Grid:
    points = 1 << (axis.length - 1).bit_length()
    stages = points.bit_length() - 1
    columns = 1 << (stages // 2) if divisible and points > LONGEST else 1
    return Grid(axis, points // columns, columns, half)


def _matrix(grid: Grid, k: Kaleidoscope, synthesis: bool) -> list[Tensor]:
    """The rows and columns that are needed of a dense matrix."""
    matrix, reverse = dense(k), bit_reversal(grid.rows)
    low = [reverse[v] for v in grid.low]
    if not synthesis:
        return [matrix[low][:, : grid.axis.size][None]]
    # Of a periodic axis there may be more outputs than points.
    return [matrix[[p % grid.rows for p in grid.axis.positions]][:, low][None]]


def _stages(grid: Grid, k: Kaleidoscope, synthesis: bool) -> list[Tensor]:
    """The same of two stages: index columns q + r is row q of column r, and bit-reversed a frequency."""
    split = two_stage(k, grid.columns.bit_length() - 1)
    rows, columns = bit_reversal(grid.rows), bit_reversal(grid.columns)
    low = [rows[v] for v in grid.low]
    if synthesis:
        written = [row % grid.rows for row in range(grid.rows_written)]
        return [split.strided[:, written][..., low], split.contiguous[low][..., columns]]
    return [split.strided[:, low, : grid.rows_read], split.contiguous[low][:, columns]]


def _taps(grid: Grid, k: Kaleidoscope) -> Tensor:
    """What a kernel's taps become, [frequencies, taps]."""
    places = [-t % grid.points for t in grid.axis.taps]
    units = F.one_hot(torch.tensor(places, device=k.twiddle.device), grid.points).to(k.twiddle.dtype)
    reverse = bit_reversal(grid.points)
    return multiply(k, units)[:, [reverse[f] for f in grid.frequencies]].mT
