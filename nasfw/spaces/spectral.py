"""y = Re{K diag(D) M x} for maps x, as products of real matrices, one axis after the other.

Complex numbers are pairs of real ones, and maps stand with their channels last: [positions, B, C]. Every axis
is transformed by one batched product, whose result stands as the next one reads it, so that nothing is copied
between them. The map's last axis comes first in the analysis M, and last in the synthesis K; of its
frequencies half suffice, and it alone may be transformed in two stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from nasfw.spaces.waves import Grid

# The matrices of M, of K and of L, each as pairs of real numbers, [2, batch, to, from], real parts first.
Transforms = tuple[list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Frame:
    """How maps are transformed: the ``grids`` of their axes, the last axis first.

    ``index`` says for each of these axes which points of a map are read in which order; None: all, in order.
    """

    grids: tuple[Grid, ...]
    index: tuple[tuple[int, ...] | None, ...]

    @property
    def divided(self) -> bool:
        """Whether the first of the axes is transformed in two stages."""
        return self.grids[0].columns > 1

    @property
    def stages(self) -> int:
        """How many matrices M has."""
        return len(self.grids) + self.divided

    @property
    def count(self) -> int:
        """How many frequencies there are in all."""
        return math.prod(self.counts)

    @cached_property
    def counts(self) -> list[int]:
        """Frequencies of each axis."""
        return [len(grid.frequencies) for grid in self.grids]

    def analysis(self) -> list[Tensor]:
        """The matrices of M, [batch, to, from], complex128, in the order in which they are applied."""
        return [matrix for grid in self.grids for matrix in grid.analysis()]

    def synthesis(self) -> list[Tensor]:
        """The matrices of K, as those of M, so that the last one is applied first."""
        return [matrix for grid in self.grids for matrix in grid.synthesis()]

    def taps(self) -> list[Tensor]:
        """The matrices of L, [1, frequencies, taps], complex128."""
        return [grid.taps()[None] for grid in self.grids]


def paired(matrix: Tensor) -> Tensor:
    """A complex matrix as real and imaginary part, [2, ...]."""
    return torch.view_as_real(matrix).movedim(-1, 0)


def real_form(matrix: Tensor, rows: str, columns: str) -> Tensor:
    """What a complex matrix (2, ..., rows, columns) is for pairs of real numbers: a real one, twice as large.

    The parts of a vector are "split" where all real ones come before all imaginary ones, and "woven" where
    they take turns. "real" is for vectors without imaginary part: what enters has none, and what leaves loses
    it.
    """
    re, im = matrix.unbind(0)
    across = {"real": (re, im), "split": None, "woven": None}[columns]
    if across is None:
        join = (lambda a, b: torch.cat([a, b], -1)) if columns == "split" else _woven
        across = join(re, -im), join(im, re)
    if rows == "real":
        return across[0]
    if rows == "split":
        return torch.cat(across, -2)
    return _woven(across[0].mT, across[1].mT).mT


def _woven(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b], -1).flatten(-2)


def analysis_forms(frame: Frame, matrices: Sequence[Tensor]) -> list[Tensor]:
    """M's matrices, [2, batch, to, from] each, as real ones."""
    if frame.divided:
        first, *rest = matrices
        return [real_form(first, "split", "real"), *(real_form(m, "woven", "woven") for m in rest)]
    first, *rest = matrices
    return [real_form(first, "woven", "real"), *(real_form(m, "woven", "split") for m in rest)]


def synthesis_forms(frame: Frame, matrices: Sequence[Tensor]) -> list[Tensor]:
    """K's matrices, [2, batch, to, from] each, as real ones."""
    first, *rest = matrices
    forms = [real_form(first, "real", "woven")]
    for i, matrix in enumerate(rest):
        further = frame.divided and i > 0
        forms.append(real_form(matrix, "woven" if further else "split", "woven"))
    return forms


def analysed(frame: Frame, forms: Sequence[Tensor], x: Tensor) -> Tensor:
    """The spectrum M x, [frequencies, 2, B, C], of maps x [B, C, *sizes]."""
    samples, channels = x.shape[0], x.shape[1]
    x = x.permute(*range(x.ndim - 1, 1, -1), 0, 1)
    for axis, index in enumerate(frame.index):
        if index is not None:
            x = x.index_select(axis, torch.tensor(index, device=x.device))
    if frame.divided:
        grid = frame.grids[0]
        missing = grid.rows_read * grid.columns - grid.axis.size
        x = F.pad(x, [0, 0, 0, 0, 0, missing]) if missing else x
        x = x.reshape(grid.rows_read, grid.columns, -1)
        # [column, (part, v), rest], read as [v, (column, part), rest].
        x = torch.bmm(forms[0], x.transpose(0, 1)).view(2 * grid.columns, len(grid.low), -1)
        x = torch.bmm(forms[1], x.transpose(0, 1))
        for rows, columns in zip(forms[2::2], forms[3::2], strict=True):
            x = _mixed(grid, rows, columns, x)
    else:
        x = forms[0][0] @ x.reshape(frame.grids[0].axis.size, -1)
        x = spectra(frame, forms[1:], x)
    return x.view(-1, 2, samples, channels)


def spectra(frame: Frame, forms: Sequence[Tensor], x: Tensor) -> Tensor:
    """The matrices of the axes after the first on what it left, [(its frequencies, part), ...]."""
    done = frame.counts[0]
    for form, count in zip(forms, frame.counts[1:], strict=True):
        x = torch.bmm(form.expand(done, -1, -1), x.reshape(done, form.shape[2], -1))
        done *= count
    return x


def synthesised(frame: Frame, forms: Sequence[Tensor], z: Tensor) -> Tensor:
    """The maps K z, [B, C, *results], of spectra [frequencies, 2, B, C]."""
    samples, channels = z.shape[2], z.shape[3]
    first, done = frame.grids[0], z.shape[0]
    if frame.divided:
        low, columns = len(first.low), first.columns
        # The last factor stands beside the diagonal.
        for rows, across in zip(forms[-2:1:-2], forms[:2:-2], strict=True):
            z = _mixed(first, rows, across, z.reshape(low, 2 * columns, -1))
        # [v, (part, column), rest], read as [column, (v, part), rest].
        z = torch.bmm(forms[1], z.reshape(low, 2 * columns, -1)).view(2 * low, columns, -1)
        z = torch.bmm(forms[0], z.transpose(0, 1)).transpose(0, 1)
        z = z.reshape(first.rows_written * columns, -1)
        last = (first.axis.results - 1) * first.axis.stride + 1
        z = z[: last : first.axis.stride]
    else:
        for form, count in zip(reversed(forms[1:]), reversed(frame.counts[1:]), strict=True):
            done //= count
            z = torch.bmm(form.expand(done, -1, -1), z.reshape(done, 2 * count, -1))
        z = forms[0][0] @ z.reshape(2 * done, -1)
    z = z.reshape(*(grid.axis.results for grid in frame.grids), samples, channels)
    return z.permute(-2, -1, *range(z.ndim - 3, -1, -1)).contiguous()


def mixed(grid: Grid, factors: Sequence[Tensor], matrix: Tensor) -> Tensor:
    """What a factor over rows, [2, u, v, v], and columns, [2, v, u, u], makes of [2, 1, (v, u), columns]."""
    rows, columns = (real_form(f, "woven", "woven") for f in factors)
    x = matrix[:, 0].movedim(0, 1).reshape(len(grid.low), 2 * grid.columns, -1)
    return _mixed(grid, rows, columns, x).view(-1, 2, x.shape[-1]).movedim(1, 0)[:, None]


def _mixed(grid: Grid, rows: Tensor, columns: Tensor, x: Tensor) -> Tensor:
    """Rows within every column, then columns within every row, of [v, (u, part), ...]."""
    v, u = len(grid.low), grid.columns
    x = x.reshape(v, u, 2, -1).transpose(0, 1).reshape(u, 2 * v, -1)
    x = torch.bmm(rows, x).view(u, v, 2, -1).transpose(0, 1).reshape(v, 2 * u, -1)
    return torch.bmm(columns, x)


def multiplied(x: Tensor, diagonal: Tensor, groups: int) -> Tensor:
    """The product over channels [f, 2, B, co] of spectra [f, 2, B, ci] and [f, 2, ci / groups, co]."""
    f, _, samples, inputs = x.shape
    re, im = diagonal.unbind(1)
    if groups == inputs and re.shape[2] == inputs:
        left, right = x * re[:, None], x * im[:, None]
    elif groups == 1:
        flat = x.reshape(f, 2 * samples, inputs)
        left, right = ((flat @ d).view(f, 2, samples, -1) for d in (re, im))
    else:
        shared = x.reshape(f, 2 * samples, groups, -1).transpose(1, 2)
        parts = (d.reshape(f, d.shape[1], groups, -1).transpose(1, 2) for d in (re, im))
        left, right = ((shared @ d).transpose(1, 2).reshape(f, 2, samples, -1) for d in parts)
    return torch.stack([left[:, 0] - right[:, 1], left[:, 1] + right[:, 0]], 1)


def kernel_spectrum(frame: Frame, matrices: Sequence[Tensor], weight: Tensor) -> Tensor:
    """L w, [frequencies, 2, ci / groups, co], of kernels w [co, ci / groups, *sizes].

    ``matrices`` are those of L, [2, 1, frequencies, taps], the last axis first.
    """
    outputs, inputs = weight.shape[:2]
    w = weight.permute(*range(weight.ndim - 1, 1, -1), 1, 0)
    forms = [real_form(matrices[0], "woven", "real"), *(real_form(m, "woven", "split") for m in matrices[1:])]
    spectrum = forms[0][0] @ w.reshape(w.shape[0], -1)
    return spectra(frame, forms[1:], spectrum).view(-1, 2, inputs, outputs)
