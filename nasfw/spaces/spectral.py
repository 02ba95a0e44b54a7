"""y = Re{K diag(D) M x} for maps x, as products of real matrices, one axis after the other.

Complex numbers are pairs of real ones, and spectra stand with their channels last: [frequencies, 2, B, C].
Every axis is transformed by one batched product, which reads maps of two axes as they lie in memory, and
whose result stands as the next one reads it, so that little is copied. The map's last axis comes first in the
analysis M, and last in the synthesis K; of its frequencies half suffice, and it alone may be transformed in
two stages. Its columns are to these products what the second axis is otherwise: so many lines of positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from nasfw.spaces.products import Diagonal
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
    def lines(self) -> tuple[int, int]:
        """How many vectors of a map M's first matrix reads and K's writes: columns, or of the second axis."""
        if self.divided:
            return self.grids[0].columns, self.grids[0].columns
        axes = [grid.axis for grid in self.grids[1:2]]
        return math.prod(a.size for a in axes), math.prod(a.results for a in axes)

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


def analysis_forms(matrices: Sequence[Tensor]) -> list[Tensor]:
    """M's matrices, [2, batch, to, from] each, as real ones."""
    first, *rest = matrices
    rows = "split" if rest else "woven"
    return [real_form(first, rows, "real"), *(real_form(m, "woven", "woven") for m in rest)]


def synthesis_forms(matrices: Sequence[Tensor]) -> list[Tensor]:
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
    first, low, (lines, _) = frame.grids[0], len(frame.grids[0].low), frame.lines
    # As [line, position, rest], rest being samples and channels, of volumes also their first axis.
    if frame.divided:
        missing = first.rows_read * lines - first.axis.size
        x = F.pad(x, [0, missing]) if missing else x
        x = x.reshape(-1, lines).transpose(0, 1).contiguous()
        x = x.view(lines, -1, first.rows_read).transpose(1, 2)
    else:
        x = x.reshape(-1, lines, first.axis.size).permute(1, 2, 0)
    x = torch.bmm(forms[0].expand(lines, -1, -1), x)
    if len(forms) > 1:
        # [line, (part, v), rest], read as [v, (line, part), rest].
        x = x.view(2 * lines, low, -1).transpose(0, 1)
        x = torch.bmm(forms[1].expand(low, -1, -1), x)
    if frame.divided:
        for rows, columns in zip(forms[2::2], forms[3::2], strict=True):
            x = _mixed(first, rows, columns, x)
    elif len(forms) > 2:
        done, last = math.prod(frame.counts[:2]), frame.grids[2].axis.size
        x = x.view(done, 2, samples * channels, last).permute(0, 3, 1, 2)
        x = torch.bmm(forms[2].expand(done, -1, -1), x.reshape(done, 2 * last, -1))
    return x.view(-1, 2, samples, channels)


def synthesised(frame: Frame, forms: Sequence[Tensor], z: Tensor) -> Tensor:
    """The maps K z, [B, C, *results], of spectra [frequencies, 2, B, C]."""
    samples, channels = z.shape[2], z.shape[3]
    first, low, (_, lines) = frame.grids[0], len(frame.grids[0].low), frame.lines
    sizes = [grid.axis.results for grid in reversed(frame.grids)]
    if frame.divided:
        # The last factor stands beside the diagonal.
        for rows, across in zip(forms[-2:1:-2], forms[:2:-2], strict=True):
            z = _mixed(first, rows, across, z.reshape(low, 2 * lines, -1))
    elif len(forms) > 2:
        done = math.prod(frame.counts[:2])
        z = torch.bmm(forms[2].expand(done, -1, -1), z.reshape(done, 2 * frame.counts[2], -1))
        z = z.view(done, sizes[0], 2, samples * channels).permute(0, 2, 3, 1)
    if len(forms) > 1:
        z = torch.bmm(forms[1].expand(low, -1, -1), z.reshape(low, forms[1].shape[2], -1))
    # [v, (part, line), rest], read as [line, rest, (v, part)].
    z = z.reshape(2 * low, lines, -1).permute(1, 2, 0)
    z = torch.bmm(z, forms[0].transpose(1, 2).expand(lines, -1, -1))
    if not frame.divided:
        return z.transpose(0, 1).contiguous().view(samples, channels, *sizes)
    z = z.view(lines, -1).transpose(0, 1).contiguous().view(samples, channels, -1)
    end = (first.axis.results - 1) * first.axis.stride + 1
    return z[:, :, : end : first.axis.stride].contiguous()


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


def kernel_spectrum(
    frame: Frame,
    matrices: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
) -> Diagonal:
    """gate (L w + bias) for kernels w [co, ci / groups, *sizes].

    ``matrices`` are those of L, [2, 1, frequencies, taps], the last axis first. The ``bias`` is [frequencies,
    2], the ``gate`` [ci / groups, co].
    """
    outputs, inputs = weight.shape[:2]
    w = weight.permute(*range(len(frame.grids) + 1, 1, -1), 1, 0)
    first, *rest = matrices
    forms = [real_form(first, "woven", "real")[0], *(real_form(m, "woven", "split") for m in rest)]
    alone = len(forms) == 1
    count = math.prod(frame.counts if alone else frame.counts[:-1])
    if alone:
        rows, last = forms[0].view(count, 2, -1), w.flatten(1)
    else:
        rows, last = forms[0] @ w.reshape(w.shape[0], -1), forms[-1]
        for form, done in zip(forms[1:-1], frame.counts, strict=False):
            rows = torch.bmm(form.expand(done, -1, -1), rows.reshape(done, form.shape[2], -1))
        rows = rows.reshape(count, last.shape[2], -1)

    def make(rows: Tensor, *others: Tensor) -> Tensor:
        *biases, last = others if gate is None else others[:-1]
        made = rows.flatten(0, 1) @ last if alone else torch.bmm(last.expand(rows.shape[0], -1, -1), rows)
        made = made.view(-1, 2, inputs, outputs)
        for some in biases:
            made = made + some.reshape(-1, 2, 1, 1)
        return made if gate is None else made * others[-1]

    split = (rows,) if bias is None else (rows, bias.reshape(count, -1))
    return Diagonal(make, count, split, (last,) if gate is None else (last, gate))
