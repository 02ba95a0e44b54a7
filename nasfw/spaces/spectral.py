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

    @property
    def beside(self) -> int:
        """To how many columns, or rows of the next axis, the first matrix of M is applied at once."""
        if self.divided:
            return self.grids[0].columns
        return len(self.index[1] or range(self.grids[1].axis.size)) if len(self.grids) > 1 else 1

    @property
    def written(self) -> int:
        return self.grids[1].axis.results if len(self.grids) > 1 else 1

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
    join = {"real": None, "split": _beside, "woven": _woven}[columns]
    real = re if join is None else join(re, -im)
    if rows == "real":
        return real
    imaginary = im if join is None else join(im, re)
    return torch.cat([real, imaginary], -2) if rows == "split" else _woven(real.mT, imaginary.mT).mT


def _beside(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], -1)


def _woven(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b], -1).flatten(-2)


def analysis_forms(frame: Frame, matrices: Sequence[Tensor]) -> list[Tensor]:
    """M's matrices, [2, batch, to, from] each, as real ones."""
    first, *rest = matrices
    rows = "split" if rest else "woven"
    return [real_form(first, rows, "real"), *(real_form(m, "woven", "woven") for m in rest)]


def synthesis_forms(frame: Frame, matrices: Sequence[Tensor]) -> list[Tensor]:
    """K's matrices, [2, batch, to, from] each, as real ones."""
    first, *rest = matrices
    forms = [real_form(first, "real", "woven")]
    return forms + [real_form(m, "woven" if i else "split", "woven") for i, m in enumerate(rest)]


def analysed(frame: Frame, forms: Sequence[Tensor], x: Tensor) -> Tensor:
    """The spectrum M x, [frequencies, 2, B, C], of maps x [B, C, *sizes]."""
    samples, channels = x.shape[0], x.shape[1]
    for axis, index in enumerate(frame.index):
        if index is not None:
            x = x.index_select(len(frame.grids) + 1 - axis, torch.tensor(index, device=x.device))
    first, low = frame.grids[0], len(frame.grids[0].low)
    beside = frame.beside
    if frame.divided:
        missing = first.rows_read * first.columns - first.axis.size
        x = F.pad(x, [0, missing]) if missing else x
        # [column, row, rest], by a copy of a matrix, which is faster than that of an array.
        x = x.reshape(-1, beside).transpose(0, 1).contiguous()
        x = x.view(beside, -1, first.rows_read).transpose(1, 2)
    else:
        x = x.reshape(-1, beside, first.axis.size).permute(1, 2, 0)
    x = torch.bmm(forms[0].expand(beside, -1, -1), x)
    if len(forms) > 1:
        # [beside, (part, v), rest], read as [v, (beside, part), rest].
        x = x.view(2 * beside, low, -1).transpose(0, 1)
        x = torch.bmm(forms[1].expand(low, -1, -1), x)
    if frame.divided:
        for rows, columns in zip(forms[2::2], forms[3::2], strict=True):
            x = _mixed(first, rows, columns, x)
    elif len(forms) > 2:
        last = frame.grids[2].axis.size
        x = x.view(-1, 2, samples * channels, last).permute(0, 3, 1, 2)
        x = x.reshape(-1, 2 * last, samples * channels)
        x = torch.bmm(forms[2].expand(frame.counts[0] * frame.counts[1], -1, -1), x)
    return x.view(-1, 2, samples, channels)


def synthesised(frame: Frame, forms: Sequence[Tensor], z: Tensor) -> Tensor:
    """The maps K z, [B, C, *results], of spectra [frequencies, 2, B, C]."""
    samples, channels = z.shape[2], z.shape[3]
    first, low = frame.grids[0], len(frame.grids[0].low)
    sizes = [grid.axis.results for grid in reversed(frame.grids)]
    if frame.divided:
        # The last factor stands beside the diagonal.
        for rows, across in zip(forms[-2:1:-2], forms[:2:-2], strict=True):
            z = _mixed(first, rows, across, z.reshape(low, 2 * first.columns, -1))
    elif len(forms) > 2:
        done, last = frame.counts[0] * frame.counts[1], sizes[0]
        z = torch.bmm(forms[2].expand(done, -1, -1), z.reshape(done, 2 * frame.counts[2], -1))
        z = z.view(done, last, 2, samples * channels).permute(0, 2, 3, 1)
    written = first.columns if frame.divided else frame.written
    if len(forms) > 1:
        z = torch.bmm(forms[1].expand(low, -1, -1), z.reshape(low, forms[1].shape[2], -1))
    # [v, (part, beside), rest], read as [beside, rest, (v, part)].
    z = z.reshape(2 * low, written, -1).permute(1, 2, 0)
    z = torch.bmm(z, forms[0].transpose(1, 2).expand(written, -1, -1))
    if frame.divided:
        z = z.view(written, -1).transpose(0, 1).contiguous()
        z = z.view(samples * channels, -1)
        end = (first.axis.results - 1) * first.axis.stride + 1
        z = z[:, : end : first.axis.stride]
    else:
        z = z.transpose(0, 1)
    return z.reshape(samples, channels, *sizes).contiguous()


def spectra(frame: Frame, forms: Sequence[Tensor], x: Tensor) -> Tensor:
    """The matrices of the axes after the first on what it left, [(its frequencies, part), ...]."""
    done = frame.counts[0]
    for form, count in zip(forms, frame.counts[1:], strict=True):
        x = torch.bmm(form.expand(done, -1, -1), x.reshape(done, form.shape[2], -1))
        done *= count
    return x


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
    # Taken apart in one go, as the gradient of each part alone would be as large as the whole.
    (a, b), (c, d) = left.unbind(1), right.unbind(1)
    return torch.stack([a - d, b + c], 1)


def kernel_spectrum(frame: Frame, matrices: Sequence[Tensor], weight: Tensor) -> Tensor:
    """L w, [frequencies, 2, ci / groups, co], of kernels w [co, ci / groups, *sizes].

    ``matrices`` are those of L, [2, 1, frequencies, taps], the last axis first.
    """
    outputs, inputs = weight.shape[:2]
    w = weight.permute(*range(len(frame.grids) + 1, 1, -1), 1, 0)
    forms = [real_form(matrices[0], "woven", "real"), *(real_form(m, "woven", "split") for m in matrices[1:])]
    spectrum = forms[0][0] @ w.reshape(w.shape[0], -1)
    return spectra(frame, forms[1:], spectrum).view(-1, 2, inputs, outputs)
