"""Fourier transforms of maps and kernels as products of real matrices.

A map is seen as a matrix of rows and columns: an image as it is, a series cut into rows of equal length. Its
transform is then two rounds of matrix products,

    S[v, :] = sum_m e^(-2 pi i v m / M) x[m, :]           over the rows, and
    X[v, u] = sum_l e^(-2 pi i f(v, u) l) S[v, l]         over the columns,

with f = u / L for an image that is transformed in M x L points, and f = (v + M u) / (M L) for a series that
is transformed in M L points (Cooley and Tukey 1965, the twiddle factors inside the second matrices). As maps
are real, half of the v suffice. Only rows and columns that exist have an entry in the matrices, so nothing is
padded, and the results stand as a product over channels needs them, frequency first.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nasfw.spaces.kernels import Layout, Size
from nasfw.spaces.spectra import Folded, Kernels, Rounds

# So many numbers are treated at once, roughly: they stay in a processor's cache.
PART = 2**19


class Kind(enum.Enum):
    """What transforms maps: two rounds of matrices, one round with Toeplitz matrices, or a library's FFT."""

    MATRIX = "matrix"
    TOEPLITZ = "toeplitz"
    FAST = "fast"


@dataclass(frozen=True)
class Frame:
    """How maps of one ``size`` and the results are cut into rows and columns; M and L are the lengths."""

    size: Size
    positions: Size
    rows: int
    columns: int
    result_rows: int
    result_columns: int
    row_length: int
    column_length: int
    stride: int

    @property
    def half(self) -> int:
        """Number of frequencies v of the half spectrum."""
        return self.row_length // 2 + 1

    @property
    def points(self) -> int:
        """How many points a transform has in all."""
        return self.row_length * self.column_length


@dataclass(frozen=True)
class Plan:
    """A frame with its matrices, and where a layer's taps lie in the ``grid`` of its ``kernels``.

    Entry i of ``cells`` is the grid's cell to which row ``taps[i]`` of the layer's weight belongs. With r
    counting real and imaginary part, ``first_map`` (V r, rows) and ``second_map`` (V or 1, U r, r columns)
    transform maps, ``second_result`` (V or 1, r columns, U r) and ``first_result`` (rows, V r) turn spectra
    into results. For a library's FFT the adjoint of the ``kernels`` also weighs the frequencies, as those
    libraries do in the transform back.
    """

    kind: Kind
    frame: Frame
    grid: Size
    taps: Tensor
    cells: Tensor
    kernels: Kernels
    first_map: Tensor
    first_result: Tensor
    second_map: Tensor
    second_result: Tensor


Backward = Callable[..., tuple[Tensor | None, ...]]


def precisely(backward: Backward) -> Backward:
    """A backward pass that autocast leaves alone, as it has left alone the forward pass."""

    @functools.wraps(backward)
    def wrapped(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(gradients[0].device.type, enabled=False):
            return backward(ctx, *gradients)

    return wrapped


@lru_cache(maxsize=128)
def plan(layout: Layout, size: Size, kind: Kind, dtype: torch.dtype, device: torch.device) -> Plan:
    """The plan for maps of ``size``."""
    # What is kept for other calls must not be bound to the mode of the first.
    with torch.inference_mode(False):
        return _plan(layout, size, kind, dtype, device)


def _plan(layout: Layout, size: Size, kind: Kind, dtype: torch.dtype, device: torch.device) -> Plan:
    c, frame = layout.convolution, frame_of(layout, size, kind)
    v = torch.arange(frame.half, dtype=torch.float64)[:, None] / frame.row_length
    u = torch.arange(frame.column_length, dtype=torch.float64)
    f = u[None] / frame.column_length if c.dims == 2 else (v + u) / frame.column_length
    # All v but the lowest and, for an even length, the highest stand for a conjugate pair.
    pairs = torch.where((v == 0) | (v == 0.5), 1.0, 2.0).double()
    share = pairs / (frame.row_length * (1 if kind is Kind.TOEPLITZ else frame.column_length))
    result_rows = (
        range(0, frame.result_rows * c.stride, c.stride) if c.dims == 2 else range(frame.result_rows)
    )
    result_columns = range(0, frame.result_columns * c.stride, c.stride)
    weight = share if kind is Kind.FAST else torch.ones_like(share)
    if c.dims == 1 and kind is not Kind.TOEPLITZ:
        grid, places, kernels = _folded(layout, f, weight)
    else:
        grid, places, kernels = _rounds(layout, frame, kind, v, f, weight)
    maps = [
        _first(-v, range(frame.rows)),
        (_first(-v, result_rows) * share.repeat_interleave(2, 0)).t(),
        _second(-f, range(frame.columns)).flatten(1, 2),
        _second(-f, result_columns).flatten(1, 2).mT,
    ]
    of_taps, cells = zip(*places, strict=True)
    return Plan(
        kind,
        frame,
        grid,
        torch.tensor(of_taps, device=device),
        torch.tensor(cells, device=device),
        kernels.to(device, dtype),
        *(matrix.to(device, dtype).contiguous() for matrix in maps),
    )


# Pairs of a tap's number and its cell.
_Cells = list[tuple[int, int]]


def _folded(layout: Layout, f: Tensor, weight: Tensor) -> tuple[Size, _Cells, Kernels]:
    """The grid of a series, its cells and transform; ``f`` (V, U) in turns, ``weight`` (V, 1)."""
    distances = [t + layout.convolution.shift for (t,) in layout.taps]
    points = sorted(set(map(abs, distances)))
    index = {p: i for i, p in enumerate(points)}
    cells = [(i, index[abs(d)] + (len(points) if d < 0 else 0)) for i, d in enumerate(distances)]
    angles = 2 * math.pi * f[:, :, None] * torch.tensor(points, dtype=torch.float64)
    waves = torch.stack([angles.cos(), angles.sin()])
    kernels = Folded(waves.flatten(1, 2), (waves * weight[:, :, None]).flatten(1, 2), f.shape[1])
    return (2, len(points)), cells, kernels


def _rounds(
    layout: Layout, frame: Frame, kind: Kind, v: Tensor, f: Tensor, weight: Tensor
) -> tuple[Size, _Cells, Kernels]:
    """The grid of rows and columns, its cells and transform."""
    places = list(_places(layout, frame, kind))
    rows = sorted({row for _, row, _ in places})
    columns = sorted({column for _, _, column in places})
    if kind is Kind.TOEPLITZ:
        columns = list(range(-frame.stride * (frame.result_columns - 1), frame.columns))
    row_of, column_of = ({value: i for i, value in enumerate(values)} for values in (rows, columns))
    cells = [(i, row_of[r] * len(columns) + column_of[q]) for i, r, q in places]
    along, second = _first(v, rows), _second(f, columns)
    back = (along * weight.repeat_interleave(2, 0)).t()
    signed = torch.cat([-second[:, :, 1:], second], 2).flatten(1, 2)
    return (len(rows), len(columns)), cells, Rounds(along, back, second.flatten(1, 2), signed)


def smooth(n: int) -> int:
    """The smallest length from ``n`` on that libraries transform fast.

    That is a number without prime factors above 5 and, from 32 on, a multiple of 8.
    """
    step = 8 if n >= 32 else 2
    n += -n % step
    while not _is_smooth(n):
        n += step
    return n


def _is_smooth(n: int) -> bool:
    for p in (2, 3, 5):
        while n % p == 0:
            n //= p
    return n == 1


@lru_cache(maxsize=1024)
def frame_of(layout: Layout, size: Size, kind: Kind) -> Frame:
    """How maps of ``size`` are cut: images as they are, a series so that there is the least work."""
    c, lengths = layout.convolution, layout.transform(size)
    positions = tuple(map(c.positions, size))
    if kind is Kind.FAST:
        lengths = tuple(map(smooth, lengths))
    if c.dims == 2:
        (rows, columns), (result_rows, result_columns), (m, n) = size, positions, lengths
        return Frame(size, positions, rows, columns, result_rows, result_columns, m, n, c.stride)
    (points,), (count,), (whole,) = size, positions, lengths
    if kind is Kind.FAST:
        return Frame(size, positions, points, 1, count, 1, whole, 1, c.stride)

    def cut(columns: int) -> Frame:
        wide = columns // c.stride
        rows, result_rows, length = (
            -(-n // per) for n, per in ((points, columns), (count, wide), (whole, columns))
        )
        return Frame(size, positions, rows, columns, result_rows, wide, length, columns, c.stride)

    def work(frame: Frame) -> float:
        # Multiplications for a map, forward and backward: four first rounds, and second ones or Toeplitz's.
        first = 2 * frame.half * frame.rows * frame.columns
        second = 4 * frame.half * frame.columns * frame.column_length
        return 4 * first + (3 if kind is Kind.TOEPLITZ else 4) * second

    # Rows of results have equal length if the columns are a multiple of the stride.
    most = 4 * math.isqrt(whole) + c.stride
    return min((cut(columns) for columns in range(c.stride, most + 1, c.stride)), key=work)


def _places(layout: Layout, frame: Frame, kind: Kind) -> Iterator[tuple[int, int, int]]:
    """For every tap its number, and row and column of its distance; taps that touch no map are left out."""
    c = layout.convolution
    low = -c.stride * (frame.result_columns - 1)
    for i, tap in enumerate(layout.taps):
        distance = [t + c.shift for t in tap]
        if c.dims == 2:
            found = [(distance[0], distance[1])]
        else:
            row, column = divmod(distance[0], frame.columns)
            # From a later column of a row the same distance leads into the next row.
            found = [(row, column), (row + 1, column - frame.columns)]
        for row, column in found:
            if kind is not Kind.TOEPLITZ or low <= column < frame.columns:
                yield i, row, column


def _first(v: Tensor, points: Sequence[int]) -> Tensor:
    """Matrix (V r, points) of e^(2 pi i v points); v in turns, (V, 1)."""
    angles = 2 * math.pi * v * torch.tensor(points, dtype=torch.float64)
    return torch.stack([angles.cos(), angles.sin()], 1).flatten(0, 1)


def _second(f: Tensor, points: Sequence[int]) -> Tensor:
    """Matrices (V or 1, U, r, r points) that multiply by e^(2 pi i f points) and sum over the points."""
    angles = 2 * math.pi * f[:, :, None] * torch.tensor(points, dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, -sin], 2), torch.cat([sin, cos], 2)], 2)


def fast(x: Tensor, frame: Frame) -> Tensor:
    """Complex spectra (a, b, V, U) of images (a, b, height, width), (a, b, V) of series, by an FFT."""
    if len(frame.size) == 1:
        spectra: Tensor = torch.fft.rfft(x, frame.row_length)
    else:
        spectra = torch.fft.rfftn(x, (frame.column_length, frame.row_length), (3, 2))
    return spectra


def slow(spectra: Tensor, frame: Frame, counts: Size, stride: int = 1) -> Tensor:
    """The way back from ``fast``: of every axis the first ``counts`` of every ``stride``-th entry."""
    if len(frame.size) == 1:
        maps: Tensor = torch.fft.irfft(spectra, frame.row_length)
    else:
        maps = torch.fft.irfftn(spectra, (frame.column_length, frame.row_length), (3, 2))
    for axis, n in enumerate(counts, 2):
        maps = every(maps, axis, n, stride)
    return maps


def every(maps: Tensor, axis: int, count: int, stride: int = 1) -> Tensor:
    """The first ``count`` of every ``stride``-th entry on an axis."""
    return maps.transpose(0, axis)[: (count - 1) * stride + 1 : stride].transpose(0, axis)


def spaced(gradient: Tensor, frame: Frame) -> Tensor:
    """The gradient with zeros between, where a stride has left results out."""
    if frame.stride == 1:
        return gradient
    inner = [(n - 1) * frame.stride + 1 for n in frame.positions]
    wide = gradient.new_zeros(*gradient.shape[:2], *inner)
    places = wide
    for axis, n in enumerate(frame.positions, 2):
        places = every(places, axis, n, frame.stride)
    places.copy_(gradient)
    return wide


def cut(x: Tensor, rows: int, columns: int) -> Tensor:
    """Maps (a, b, *size) as matrices (a b, rows, columns)."""
    if x.dim() == 3:
        x = F.pad(x, (0, rows * columns - x.shape[2]))
    return x.reshape(-1, rows, columns)


def apply(matrix: Tensor, maps: Tensor) -> Tensor:
    """The matrix times each of the maps."""
    return torch.bmm(matrix.expand(len(maps), -1, -1), maps)


def frequencies(frame: Frame) -> Size:
    """The shape of a map's spectrum: (V,) of a series, (V, U) of an image."""
    return (frame.half,) if len(frame.size) == 1 else (frame.half, frame.column_length)
