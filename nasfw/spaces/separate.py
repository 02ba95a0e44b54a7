"""Correlation of maps with one kernel for each channel, as a product of spectra.

Two ways. A library's FFT and a product point by point; or, as channels do not mix, a transform along the rows
only and then a product with the Toeplitz matrices of the kernel's transform along the rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nasfw.spaces.kernels import Size
from nasfw.spaces.mixing import again, of_bias
from nasfw.spaces.transforms import (
    PART,
    Frame,
    Kind,
    Plan,
    apply,
    cut,
    fast,
    frequencies,
    precisely,
    slow,
    spaced,
)


def separate(x: Tensor, grid: Tensor, bias: Tensor | None, made: Plan, keep: bool = True) -> Tensor:
    """Maps (batch, channels, *size) correlated with a grid (cells, channels): (batch, channels, *positions).

    With ``keep`` the spectra that an FFT has given are kept for the backward pass. The ``bias`` joins as the
    lowest frequency.
    """
    if made.kind is Kind.FAST:
        return _Fast.apply(x, grid, bias, made, keep and torch.is_grad_enabled())  # type: ignore[no-any-return, no-untyped-call]
    if x.device.type != "cpu":
        # Launches cost more than copies there.
        y = _toeplitz_way(x, grid, made)
        return y if bias is None else y + bias.view(-1, *[1] * (y.dim() - 2))
    return _Toeplitz.apply(x, grid, bias, made)  # type: ignore[no-any-return, no-untyped-call]


class _Fast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, bias: Tensor | None, made: Plan, keep: bool) -> Tensor:
        kernel = _spectrum_of_kernel(grid, made)
        result = x.new_empty(*x.shape[:2], *made.frame.positions)
        kept = []
        for part in _batches(x, made):
            spectra = fast(x[part], made.frame)
            kept += [spectra] if keep else []
            product = torch.mul(spectra, kernel, out=None if keep else spectra)
            if bias is not None:
                _lowest(product).add_(made.frame.points * bias)
            result[part] = slow(product, made.frame, made.frame.positions, made.frame.stride)
        ctx.save_for_backward(x, grid, kernel, *kept)
        ctx.made = made
        return result

    @staticmethod
    @precisely
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, grid, kernel, *kept = ctx.saved_tensors
        made: Plan = ctx.made
        if torch.is_grad_enabled():
            return (*again(_fast_way, x, grid, made, gradients[0]), of_bias(ctx, gradients[0]), None, None)
        conjugate = kernel.conj_physical()
        of_x = torch.empty_like(x, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        of_kernel = torch.zeros_like(kernel)
        lowest = x.new_zeros(x.shape[1]) if ctx.needs_input_grad[2] else None
        for i, part in enumerate(_batches(x, made)):
            gradient = fast(spaced(gradients[0][part], made.frame), made.frame)
            if lowest is not None:
                lowest += _lowest(gradient).sum(0)
            if of_x is not None:
                of_x[part] = slow(gradient * conjugate, made.frame, made.frame.size)
            if ctx.needs_input_grad[1]:
                spectra = kept[i] if kept else fast(x[part], made.frame)
                of_kernel += gradient.conj_physical_().mul_(spectra).sum(0)
        of_grid = (
            _grid_of_spectrum(of_kernel.conj_physical_(), grid, made) if ctx.needs_input_grad[1] else None
        )
        return of_x, of_grid, lowest, None, None


def _lowest(spectra: Tensor) -> Tensor:
    """The real parts (batch, channels) at the lowest frequency."""
    lowest = spectra.real
    while lowest.dim() > 2:
        lowest = lowest[:, :, 0]
    return lowest


def _fast_way(x: Tensor, grid: Tensor, made: Plan) -> Tensor:
    """The same of differentiable functions only, for derivatives of the backward pass."""
    return slow(
        fast(x, made.frame) * _spectrum_of_kernel(grid, made),
        made.frame,
        made.frame.positions,
        made.frame.stride,
    )


def _batches(x: Tensor, made: Plan) -> list[slice]:
    """Maps that are treated at once; on a GPU all."""
    numbers = 2 * x.shape[1] * made.frame.half * made.frame.column_length
    step = max(1, PART // numbers) if x.device.type == "cpu" else len(x)
    return [slice(i, min(i + step, len(x))) for i in range(0, len(x), step)]


def _spectrum_of_kernel(grid: Tensor, made: Plan) -> Tensor:
    """Complex (channels, V, U), or (channels, V) of a series."""
    pairs, channels = grid[:, :, None], grid.shape[1]
    whole = slice(0, made.frame.half)
    rows = made.kernels.rows(whole, made.kernels.first(pairs), pairs, signed=False)
    real, imaginary = rows.view(-1, 2, channels).permute(1, 2, 0)
    return torch.complex(real, imaginary).view(channels, *frequencies(made.frame))


def _grid_of_spectrum(of_kernel: Tensor, grid: Tensor, made: Plan) -> Tensor:
    """The adjoint of ``_spectrum_of_kernel``, apart from the weights of frequencies."""
    spectra = torch.view_as_real(of_kernel).reshape(grid.shape[1], -1, 2).permute(1, 2, 0)
    pairs = grid[:, :, None]
    of_rows = torch.zeros_like(made.kernels.first(pairs))
    made.kernels.add(slice(0, made.frame.half), spectra[..., None], of_rows)
    return made.kernels.grid(of_rows, grid)


class _Toeplitz(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, bias: Tensor | None, made: Plan) -> Tensor:
        maps, kernel = _rows_of_maps(x, made), _rows_of_channels(grid, made)
        result = maps.new_empty(*maps.shape[:3], 2 * made.frame.result_columns)
        for part in _parts(maps):
            matrices = _matrices(kernel[part], made.frame)
            _select(result, part).copy_(torch.bmm(_select(maps, part), matrices.mT))
        if bias is not None:
            lowest = result[:, :, 0, : made.frame.result_columns]
            lowest += made.frame.row_length * bias[:, None]
        ctx.save_for_backward(x, grid)
        ctx.made = made
        # Not as a view: that could not be changed in place.
        return _result_of_rows(result, made).detach()

    @staticmethod
    @precisely
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, grid = ctx.saved_tensors
        made: Plan = ctx.made
        if torch.is_grad_enabled():
            return (*again(_toeplitz_way, x, grid, made, gradients[0]), of_bias(ctx, gradients[0]), None)
        maps, kernel = _rows_of_maps(x, made), _rows_of_channels(grid, made)
        results = _rows_of_gradient(gradients[0], made)
        of_maps, of_kernel = torch.empty_like(maps), torch.empty_like(kernel)
        for part in _parts(maps):
            result = _select(results, part)
            if ctx.needs_input_grad[0]:
                _select(of_maps, part).copy_(torch.bmm(result, _matrices(kernel[part], made.frame)))
            if ctx.needs_input_grad[1]:
                of_kernel[part] = _diagonals(torch.bmm(result.mT, _select(maps, part)), made)
        of_grid = of_x = lowest = None
        if ctx.needs_input_grad[2]:
            lowest = results[:, :, 0, : made.frame.result_columns].sum((0, 2)) * made.frame.row_length
        if ctx.needs_input_grad[0]:
            rows = of_maps.view(-1, 2 * made.frame.half, made.frame.columns)
            of_x = _whole(apply(made.first_map.mT, rows), x, made.frame.size)
        if ctx.needs_input_grad[1]:
            of_grid = made.kernels.grid(of_kernel.permute(0, 2, 3, 1).contiguous(), grid)
        return of_x, of_grid, lowest, None


def _toeplitz_way(x: Tensor, grid: Tensor, made: Plan) -> Tensor:
    """The same of differentiable functions only, and at once."""
    maps, kernel = _rows_of_maps(x, made), _rows_of_channels(grid, made)
    matrices = _matrices(kernel.flatten(0, 1), made.frame)
    matrices = matrices.view(*kernel.shape[:2], *matrices.shape[1:])
    result = torch.matmul(maps.permute(2, 1, 0, 3), matrices.mT)
    return _result_of_rows(result.permute(2, 1, 0, 3), made)


def _rows_of_maps(x: Tensor, made: Plan) -> Tensor:
    """(batch, channels, V, r columns)."""
    rows = apply(made.first_map, cut(x, made.frame.rows, made.frame.columns))
    return rows.view(*x.shape[:2], made.frame.half, -1)


def _rows_of_channels(grid: Tensor, made: Plan) -> Tensor:
    """(V, channels, r, columns)."""
    spectrum = made.kernels.first(grid).view(made.frame.half, 2, made.grid[1], -1)
    return spectrum.permute(0, 3, 1, 2).contiguous()


def _result_of_rows(rows: Tensor, made: Plan) -> Tensor:
    """Results (batch, channels, *positions); the columns of rows come in reverse."""
    maps = apply(made.first_result, rows.reshape(-1, 2 * made.frame.half, made.frame.result_columns))
    return _whole(maps.flip(2), rows, made.frame.positions)


def _rows_of_gradient(gradient: Tensor, made: Plan) -> Tensor:
    maps = cut(gradient, made.frame.result_rows, made.frame.result_columns).flip(2)
    return apply(made.first_result.mT, maps).view(*gradient.shape[:2], made.frame.half, -1)


def _parts(maps: Tensor) -> list[tuple[slice | int, ...]]:
    """Frequency by frequency or channel by channel, whichever is less often."""
    channels, frequencies = maps.shape[1:3]
    if frequencies <= channels:
        return [(v,) for v in range(frequencies)]
    return [(slice(None), i) for i in range(channels)]


def _select(maps: Tensor, part: tuple[slice | int, ...]) -> Tensor:
    """The part of (batch, channels, V, r columns), as (channels or V, batch, r columns)."""
    return maps.permute(2, 1, 0, 3)[part]


def _whole(maps: Tensor, like: Tensor, size: Size) -> Tensor:
    """Matrices (batch channels, rows, columns) as maps (batch, channels, *size)."""
    maps = maps.reshape(*like.shape[:2], *maps.shape[1:])
    return maps.flatten(2)[:, :, : size[0]].contiguous() if len(size) == 1 else maps


def _matrices(kernel: Tensor, frame: Frame) -> Tensor:
    """Toeplitz matrices (n, r result columns, r columns) of (n, r, distances); result columns in reverse.

    In reverse every row of a matrix is a stretch of the distances.
    """
    real, imaginary = kernel.unfold(2, frame.columns, frame.stride).unbind(1)
    n, rows, columns = real.shape
    blocks = real.new_empty(n, 2, rows, 2, columns)
    blocks[:, 0, :, 0] = real
    blocks[:, 1, :, 1] = real
    blocks[:, 1, :, 0] = imaginary
    blocks[:, 0, :, 1] = -imaginary
    return blocks.flatten(1, 2).flatten(2)


def _diagonals(matrices: Tensor, made: Plan) -> Tensor:
    """The adjoint of ``_matrices``: (n, r, distances)."""
    frame, distances = made.frame, made.grid[1]
    b = matrices.view(-1, 2, frame.result_columns, 2, frame.columns)
    # Rows that are longer by the step, read as rows of the right length, have the diagonals as columns.
    skewed = b.new_zeros(len(b), 2, frame.result_columns, distances + frame.stride)
    torch.add(b[:, 0, :, 0], b[:, 1, :, 1], out=skewed[:, 0, :, : frame.columns])
    torch.sub(b[:, 1, :, 0], b[:, 0, :, 1], out=skewed[:, 1, :, : frame.columns])
    diagonals = skewed.flatten(2)[:, :, : frame.result_columns * distances]
    return diagonals.reshape(len(b), 2, -1, distances).sum(2)
