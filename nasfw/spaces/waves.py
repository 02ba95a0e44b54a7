"""An operation's axes, and the Fourier matrices with which it is the convolution that it replaces.

On every axis a convolution computes y[o] = sum_j w[j] x[o s + t_j], with x zero outside the map or periodic.
With N points, no fewer than what is read, and f running over all N frequencies that is

    y[o] = sum_f K[o, f] (sum_j L[f, j] w[j]) (sum_m M[f, m] x[m]),
    M[f, m] = e^(-2 pi i f m / N) / sqrt(N),
    L[f, j] = e^(2 pi i f t_j / N),
    K[o, f] = e^(2 pi i f o s / N) / sqrt(N),

whatever kernel size, dilation, stride and N are: nothing is padded, flipped or cut off, and only positions
that exist have a row or a column. As maps are real, one axis needs half of its frequencies, and those that
stand for a pair count twice: a factor of sqrt(2) in K and M each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

# Series that need more points than this are transformed in two stages; shorter ones by one matrix.
LONGEST = 256


@dataclass(frozen=True)
class Axis:
    """One axis of an operation: ``results`` outputs, of which o reads at o ``stride`` + each of ``taps``.

    The input has ``size`` points; outside it is zero, or periodic if ``circular``.
    """

    size: int
    results: int
    stride: int = 1
    taps: tuple[int, ...] = (0,)
    circular: bool = False

    @property
    def first(self) -> int:
        """The first position that is read, or 0 if that comes before."""
        return min(0, *self.taps)

    @property
    def last(self) -> int:
        """The last position that is read or written, or the input's last."""
        end = (self.results - 1) * self.stride
        return max(self.size - 1, end, end + max(self.taps))

    @property
    def length(self) -> int:
        """The fewest points of a transform that reads nothing where it should read zeros."""
        return self.size if self.circular else max(self.size - self.first, self.last + 1)

    @property
    def positions(self) -> list[int]:
        """Where the outputs lie."""
        return [o * self.stride for o in range(self.results)]

    @cached_property
    def unrolled(self) -> tuple[Axis, list[int]]:
        """An axis that is not circular and reads the same of an input whose points are these of the input."""
        index = [p % self.size for p in range(self.first, self.last + 1)]
        taps = tuple(t - self.first for t in self.taps)
        return replace(self, size=len(index), taps=taps, circular=False), index


@dataclass(frozen=True)
class Grid:
    """The ``rows`` x ``columns`` points of a transform: position m columns + l, frequency v + rows u.

    With one column it is one matrix over all points; with more, two stages (Cooley and Tukey 1965). ``half``:
    v runs over half of the rows. ``modes``, with one column, keeps the lowest frequencies: so many from 0 on,
    and, unless half, as many negative ones.
    """

    axis: Axis
    rows: int
    columns: int = 1
    half: bool = False
    modes: int | None = None

    @property
    def points(self) -> int:
        """How many points there are."""
        return self.rows * self.columns

    @cached_property
    def low(self) -> list[int]:
        """The frequencies v."""
        n, q = self.rows, self.modes
        if self.half:
            return list(range(n // 2 + 1 if q is None else min(q, n // 2 + 1)))
        return list(range(n)) if q is None or 2 * q >= n else [*range(q), *range(n - q, n)]

    @cached_property
    def frequencies(self) -> list[int]:
        """All frequencies, v outside, u inside."""
        return [v + self.rows * u for v in self.low for u in range(self.columns)]

    @property
    def rows_read(self) -> int:
        """Rows that the input fills, the last one perhaps in part."""
        return math.ceil(self.axis.size / self.columns)

    @property
    def rows_written(self) -> int:
        """Rows that the outputs need; with one column, only theirs."""
        if self.columns == 1:
            return self.axis.results
        return math.ceil(((self.axis.results - 1) * self.axis.stride + 1) / self.columns)

    def analysis(self) -> list[Tensor]:
        """M: [columns, v, rows] over rows, then [v, u, columns] over columns, if several; complex128."""
        first = self._over_rows(-1, range(self.rows_read)).expand(self.columns, -1, -1)
        return [first] if self.columns == 1 else [first, self._over_columns(-1)]

    def synthesis(self) -> list[Tensor]:
        """K: [columns, rows, v], which comes last, and [v, columns, u], if there are several; complex128."""
        rows = self.axis.positions if self.columns == 1 else range(self.rows_written)
        first = self._over_rows(1, rows).mT.expand(self.columns, -1, -1)
        return [first] if self.columns == 1 else [first, self._over_columns(1).mT]

    def taps(self) -> Tensor:
        """L, [frequencies, taps], complex128."""
        return wave(self.frequencies, self.axis.taps, self.points)

    @property
    def paired(self) -> list[float]:
        """How often each v counts."""
        return [2.0 if self.half and v not in (0, self.rows / 2) else 1.0 for v in self.low]

    def _over_rows(self, sign: int, positions: Sequence[int]) -> Tensor:
        shares = torch.tensor(self.paired, dtype=torch.float64)[:, None] / self.rows
        return wave(self.low, positions, sign * self.rows) * shares.sqrt()

    def _over_columns(self, sign: int) -> Tensor:
        matrix = wave(self.frequencies, range(self.columns), sign * self.points)
        return matrix.view(len(self.low), self.columns, self.columns) / math.sqrt(self.columns)


def hartley(n: int) -> Tensor:
    """The discrete Hartley transform of ``n`` points, orthonormal and its own inverse: [n, n], float64.

    Bracewell, "Discrete Hartley transform", JOSA 1983: H[f, m] = (cos t + sin t) / sqrt(n), t = 2 pi f m / n.
    """
    places = torch.arange(n)
    angles = 2 * math.pi / n * (places[:, None] * places % n).double()
    return (angles.cos() + angles.sin()) / math.sqrt(n)


def wave(frequencies: Sequence[int], positions: Sequence[int], points: int) -> Tensor:
    """e^(2 pi i f p / points), [frequencies, positions], complex128; points < 0 turns the other way."""
    f = torch.tensor(list(frequencies), dtype=torch.int64)
    p = torch.tensor(list(positions), dtype=torch.int64)
    # Whole turns are taken off before rounding can make them wrong.
    turns = torch.remainder(f[:, None] * p, abs(points)).double() / points
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns)


def grid(axis: Axis, half: bool = True, modes: int | None = None, longest: int = LONGEST) -> Grid:
    """How ``axis``, which must be ``unrolled`` where ``divided`` says no, is transformed."""
    if axis.length <= longest or modes is not None:
        return Grid(axis, axis.length, 1, half, modes)
    columns = min(_columns(axis), key=lambda c: _work(axis, c))
    return Grid(axis, math.ceil(axis.length / columns), columns, half)


def divided(axis: Axis, longest: int = LONGEST) -> bool:
    """Whether a circular axis has a number of points that two stages can be made of."""
    if not axis.circular or axis.length <= longest:
        return True
    least = min((_work(axis, c) for c in _columns(axis)), default=math.inf)
    return least <= 1.5 * _work(axis, round(math.sqrt(axis.length)))


def _columns(axis: Axis) -> list[int]:
    """Possible numbers of columns."""
    top = range(2, axis.length)
    return [c for c in top if axis.length % c == 0] if axis.circular else list(top)


def _work(axis: Axis, columns: int) -> float:
    """Products of real numbers that two stages take, in units of two for each vector."""
    rows = axis.length / columns
    return columns * rows * rows / 2 + rows * columns * columns
