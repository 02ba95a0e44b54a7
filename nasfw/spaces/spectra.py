"""Spectra of kernels, from the grid of cells that holds their taps.

A kernel's taps lie at few distances, so its spectrum is a product with the columns of the Fourier matrix that
belong to these; the gradient goes back by the adjoint, and nothing is computed elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Folded:
    """Kernels of series. The grid (2, points) has the taps at the distances p >= 0, then those at -p.

    With e and o the sums and the differences of both,

        sum_s w_s e^(i t s)  =  sum_p e_p cos(t p)  +  i sum_p o_p sin(t p),

    half of the multiplications. ``waves`` are the cosines and the sines, (2, frequencies, points), ``back``
    what is multiplied by in the adjoint; ``each`` frequencies (v, u) have the same v.
    """

    waves: Tensor
    back: Tensor
    each: int

    def to(self, device: torch.device, dtype: torch.dtype) -> Folded:
        """The same on a device."""
        return Folded(_moved(self.waves, device, dtype), _moved(self.back, device, dtype), self.each)

    def first(self, grid: Tensor) -> Tensor:
        """e and o, (2, points, pairs of channels), of a grid (cells, outputs, inputs)."""
        positive, negative = grid.view(2, self.waves.shape[2], -1)
        return torch.stack([positive + negative, positive - negative])

    def rows(self, part: slice, first: Tensor, grid: Tensor, signed: bool) -> Tensor:
        """The rows (K_r, K_i), ``signed`` (-K_i, K_r, K_i), of a part of v: (frequencies, rows, inputs)."""
        waves = self.waves[:, self.each * part.start : self.each * part.stop]
        outputs, inputs = grid.shape[1:]
        kinds = 3 if signed else 2
        if torch.is_grad_enabled():
            real, imaginary = waves @ first
            whole = torch.stack([-imaginary, real, imaginary][-kinds:], 1)
        else:
            # Where they belong at once: a copy would take about as long as the products.
            whole = first.new_empty(waves.shape[1], kinds, outputs * inputs)
            for r in range(2):
                torch.mm(waves[r], first[r], out=whole[:, r - 2])
            if signed:
                torch.neg(whole[:, 2], out=whole[:, 0])
        return whole.view(-1, kinds * outputs, inputs)

    def add(self, part: slice, rows: Tensor, of_first: Tensor) -> None:
        """The adjoint of ``rows``, for rows (K_r, K_i), added to ``of_first``."""
        back = self.back[:, self.each * part.start : self.each * part.stop]
        pairs = rows.reshape(back.shape[1], 2, -1)
        for r in range(2):
            of_first[r].addmm_(back[r].t(), pairs[:, r])

    def grid(self, of_first: Tensor, grid: Tensor) -> Tensor:
        """The adjoint of ``first``."""
        return self.first(of_first).view_as(grid)


@dataclass(frozen=True)
class Rounds:
    """Kernels in two rounds: over the rows of the grid (rows, columns), then over its columns.

    ``along`` (V r, rows) is the matrix of the first round, of which r counts real and imaginary part, and
    ``back`` (rows, V r) its adjoint. Those of the second are ``parts`` (V or 1, U r, r columns) and, with
    minus the imaginary part before the two, ``signed`` (V or 1, U z, r columns).
    """

    along: Tensor
    back: Tensor
    parts: Tensor
    signed: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Rounds:
        """The same on a device."""
        matrices = (self.along, self.back, self.parts, self.signed)
        return Rounds(*(_moved(matrix, device, dtype) for matrix in matrices))

    def first(self, grid: Tensor) -> Tensor:
        """After the first round: (V, r columns, pairs of channels)."""
        columns = self.parts.shape[2] // 2
        rows = self.along @ grid.view(self.along.shape[1], -1)
        return rows.view(len(self.along) // 2, 2 * columns, -1)

    def rows(self, part: slice, first: Tensor, grid: Tensor, signed: bool) -> Tensor:
        """As ``Folded.rows``."""
        matrix = self.signed if signed else self.parts
        spectra = torch.bmm(matrix.expand(len(first), -1, -1)[part], first[part])
        return spectra.view(-1, (3 if signed else 2) * grid.shape[1], grid.shape[2])

    def add(self, part: slice, rows: Tensor, of_first: Tensor) -> None:
        """As ``Folded.add``; every part once."""
        matrix = self.parts.expand(len(of_first), -1, -1)[part].mT
        torch.bmm(matrix, rows.reshape(len(matrix), matrix.shape[2], -1), out=of_first[part])

    def grid(self, of_first: Tensor, grid: Tensor) -> Tensor:
        """The adjoint of ``first``."""
        return (self.back @ of_first.view(self.back.shape[1], -1)).view_as(grid)


Kernels = Folded | Rounds


def _moved(matrix: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return matrix.to(device, dtype).contiguous()
