"""Correlation of maps with kernels that mix channels, as a product of spectra.

With r for real and imaginary part, a complex product over channels is two real ones: the rows (K_r, K_i) of
the kernel's spectrum K times X_r, and the rows (-K_i, K_r) times X_i. Kept as (-K_i, K_r, K_i), both are
slices of one tensor. Frequencies are independent and treated in parts that stay in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nasfw.spaces.kernels import Size
from nasfw.spaces.transforms import Frame, Kind, Plan

# So many numbers are treated at once, roughly.
_PART = 2**19


def mixing(x: Tensor, grid: Tensor, made: Plan, keep: bool = True) -> Tensor:
    """Maps (batch, inputs, *size) correlated with a grid (cells, outputs, inputs), (batch, outputs, ...).

    With ``keep`` the spectra of the maps are kept for the backward pass; without, they are computed again.
    """
    keep = keep and torch.is_grad_enabled()
    return _Mixing.apply(x, grid, made, keep)  # type: ignore[no-any-return, no-untyped-call]


class _Mixing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, made: Plan, keep: bool) -> Tensor:
        (_, outputs, inputs), batch = grid.shape, len(x)
        maps, kernel = enter(x, made), rows_of_kernel(grid, made)
        result = _room(x, outputs * batch, made, made.frame.result_columns)
        kept = []
        for part in _parts(made, batch, grid):
            spectra = _forth(made.second_map, part, maps, made).view(-1, 2, inputs, batch)
            low, high = kernel_spectra(made, part, kernel, grid)
            product = torch.bmm(high, spectra[:, 0]).baddbmm_(low, spectra[:, 1])
            _back(made.second_result, part, product, result, made)
            if keep:
                kept.append(spectra)
        ctx.save_for_backward(x, grid, *kept)
        ctx.made = made
        return leave(result, batch, made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, grid, *kept = ctx.saved_tensors
        made: Plan = ctx.made
        if torch.is_grad_enabled():
            return (*again(_mixing, x, grid, made, gradients[0]), None, None)
        (_, outputs, inputs), batch = grid.shape, len(x)
        needs_x, needs_grid = ctx.needs_input_grad[:2]
        maps = None if kept else enter(x, made)
        results, kernel = _enter_gradient(gradients[0], made), rows_of_kernel(grid, made)
        of_maps = _room(x, inputs * batch, made, made.frame.columns) if needs_x else x
        of_kernel = torch.zeros_like(kernel)
        for i, part in enumerate(_parts(made, batch, grid)):
            product = _forth(made.second_result.mT, part, results, made).view(-1, 2 * outputs, batch)
            if maps is None:
                spectra = kept[i]
            else:
                spectra = _forth(made.second_map, part, maps, made).view(-1, 2, inputs, batch)
            if needs_x:
                low, high = kernel_spectra(made, part, kernel, grid)
                of_spectra = torch.empty_like(spectra)
                of_spectra[:, 0] = torch.bmm(high.mT, product)
                of_spectra[:, 1] = torch.bmm(low.mT, product)
                _back(made.second_map.mT, part, of_spectra, of_maps, made)
            if needs_grid:
                high, low = (torch.bmm(product, spectra[:, r].mT) for r in (0, 1))
                kernel_back(made, part, _folded(high, low), of_kernel)
        of_x = _leave_gradient(of_maps, batch, made) if needs_x else None
        of_grid = grid_back(of_kernel, grid, made) if needs_grid else None
        return of_x, of_grid, None, None


def _mixing(x: Tensor, grid: Tensor, made: Plan) -> Tensor:
    """The same of differentiable functions only, for derivatives of the backward pass."""
    (_, outputs, inputs), batch, half = grid.shape, len(x), made.frame.half
    whole = slice(0, half)
    spectra = _forth(made.second_map, whole, enter(x, made), made).view(-1, 2, inputs, batch)
    low, high = kernel_spectra(made, whole, rows_of_kernel(grid, made), grid)
    product = torch.bmm(high, spectra[:, 0]) + torch.bmm(low, spectra[:, 1])
    product = product.view(half, -1, outputs * batch)
    if made.kind is Kind.MATRIX:
        product = torch.bmm(product.mT, made.second_result.expand(half, -1, -1).mT).transpose(0, 1)
    return leave(product, batch, made)


def again(
    function: Callable[[Tensor, Tensor, Plan], Tensor], x: Tensor, grid: Tensor, made: Plan, gradient: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``function`` with respect to maps and grid that can be differentiated once more."""
    wanted = [t for t in (x, grid) if t.requires_grad]
    found = iter(torch.autograd.grad(function(x, grid, made), wanted, gradient, create_graph=True))
    return next(found) if x.requires_grad else None, next(found) if grid.requires_grad else None


def _parts(made: Plan, batch: int, grid: Tensor) -> list[slice]:
    """Frequencies v that are treated at once; on a GPU all."""
    outputs, inputs = grid.shape[1:]
    numbers = made.frame.column_length * (2 * batch * (inputs + outputs) + 3 * inputs * outputs)
    half = made.frame.half
    step = max(1, round(_PART / numbers)) if grid.device.type == "cpu" else half
    return [slice(v, min(v + step, half)) for v in range(0, half, step)]


def enter(x: Tensor, made: Plan) -> Tensor:
    """Maps (batch, channels, *size) after the first round, (maps, V, r columns), or wholly transformed."""
    x = x.transpose(0, 1)
    if made.kind is Kind.FAST:
        return _fast(x, made.frame)
    return _first_round(made.first_map, _cut(x, made.frame.rows, made.frame.columns))


def leave(rows: Tensor, batch: int, made: Plan) -> Tensor:
    """Results (batch, outputs, *positions) of what ``_back`` has filled."""
    frame = made.frame
    if made.kind is not Kind.FAST:
        maps = _apply(made.first_result, rows.reshape(len(rows), -1, frame.result_columns))
        return _whole(maps, batch, frame.positions)
    maps = _slow(rows, batch, frame)
    for axis, n in enumerate(frame.positions, 2):
        maps = every(maps, axis, n, frame.stride)
    return maps.transpose(0, 1).contiguous()


def _enter_gradient(gradient: Tensor, made: Plan) -> Tensor:
    """The adjoint of ``leave``; of a library's FFT without the weights of frequencies."""
    frame, gradient = made.frame, gradient.transpose(0, 1)
    if made.kind is not Kind.FAST:
        return _first_round(made.first_result.mT, _cut(gradient, frame.result_rows, frame.result_columns))
    if frame.stride > 1:
        spaced = gradient.new_zeros(
            *gradient.shape[:2], *((n - 1) * frame.stride + 1 for n in frame.positions)
        )
        spaced[(..., *[slice(None, None, frame.stride)] * len(frame.positions))] = gradient
        gradient = spaced
    return _fast(gradient, frame)


def _leave_gradient(rows: Tensor, batch: int, made: Plan) -> Tensor:
    """The adjoint of ``enter``, for spectra from ``_enter_gradient``."""
    frame = made.frame
    if made.kind is not Kind.FAST:
        return _whole(_apply(made.first_map.mT, rows.view(len(rows), -1, frame.columns)), batch, frame.size)
    maps = _slow(rows, batch, frame)
    for axis, n in enumerate(frame.size, 2):
        maps = every(maps, axis, n)
    return maps.transpose(0, 1).contiguous()


def every(maps: Tensor, axis: int, count: int, stride: int = 1) -> Tensor:
    """The first ``count`` of every ``stride``-th entry on an axis."""
    return maps.narrow(axis, 0, (count - 1) * stride + 1)[
        (slice(None),) * axis + (slice(None, None, stride),)
    ]


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


def _fast(x: Tensor, frame: Frame) -> Tensor:
    """Spectra (V, U r, maps) of maps (channels, batch, *size)."""
    if x.dim() == 3:
        spectra = torch.fft.rfft(x, frame.row_length)
    else:
        spectra = torch.fft.rfftn(x, (frame.column_length, frame.row_length), (3, 2))
    flat = torch.view_as_real(spectra).reshape(x.shape[0] * x.shape[1], -1)
    return flat.t().contiguous().view(frame.half, 2 * frame.column_length, -1)


def _slow(spectra: Tensor, batch: int, frame: Frame) -> Tensor:
    """Maps (channels, batch, *lengths) of their spectra (V, U r, maps)."""
    numbers = spectra.flatten(0, 1).t().contiguous()
    complex_ = torch.view_as_complex(numbers.view(-1, batch, frame.half, frame.column_length, 2))
    if len(frame.size) == 1:
        maps: Tensor = torch.fft.irfft(complex_.squeeze(3), frame.row_length)
    else:
        maps = torch.fft.irfftn(complex_, (frame.column_length, frame.row_length), (3, 2))
    return maps


def _cut(x: Tensor, rows: int, columns: int) -> Tensor:
    """Maps (channels, batch, *size) as matrices (maps, rows, columns)."""
    if x.dim() == 3:
        x = F.pad(x, (0, rows * columns - x.shape[2]))
    return x.reshape(-1, rows, columns)


def _whole(maps: Tensor, batch: int, size: Size) -> Tensor:
    """Matrices (maps, rows, columns) as maps (batch, channels, *size)."""
    maps = maps.reshape(-1, batch, *maps.shape[1:])
    if len(size) == 1:
        maps = maps.flatten(2)[:, :, : size[0]]
    return maps.transpose(0, 1).contiguous()


def _first_round(first: Tensor, maps: Tensor) -> Tensor:
    """(V r, rows) times (maps, rows, columns), as (maps, V, r columns)."""
    return _apply(first, maps).view(len(maps), len(first) // 2, -1)


def _apply(matrix: Tensor, maps: Tensor) -> Tensor:
    return torch.bmm(matrix.expand(len(maps), -1, -1), maps)


def _room(like: Tensor, maps: int, made: Plan, columns: int) -> Tensor:
    """What ``_back`` fills."""
    frame = made.frame
    if made.kind is Kind.FAST:
        return like.new_empty(frame.half, 2 * frame.column_length, maps)
    return like.new_empty(maps, frame.half, 2 * columns)


def _forth(second: Tensor, part: slice, maps: Tensor, made: Plan) -> Tensor:
    """Second round for a part of V: (part, U r, maps)."""
    if made.kind is Kind.FAST:
        return maps[part]
    return torch.bmm(second.expand(made.frame.half, -1, -1)[part], maps[:, part].permute(1, 2, 0))


def _back(second: Tensor, part: slice, spectra: Tensor, result: Tensor, made: Plan) -> None:
    """The way back from a part of V, into ``result``."""
    spectra = spectra.view(part.stop - part.start, 2 * made.frame.column_length, -1)
    if made.kind is Kind.FAST:
        result[part] = spectra
    else:
        second = second.expand(made.frame.half, -1, -1)[part]
        torch.bmm(spectra.mT, second.mT, out=result[:, part].transpose(0, 1))


def rows_of_kernel(grid: Tensor, made: Plan) -> Tensor:
    """The grid after the first round, (V, r columns, pairs of channels), or as it is if there is only one."""
    if _once(made):
        return grid.flatten(1)
    rows, columns = made.grid
    return (made.first_kernel @ grid.view(rows, -1)).view(made.frame.half, 2 * columns, -1)


def kernel_spectra(made: Plan, part: slice, kernel: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (-K_i, K_r) and (K_r, K_i) of a part of V: (frequencies, 2 outputs, inputs)."""
    if _once(made):
        spectra = made.first_kernel[3 * part.start : 3 * part.stop] @ kernel
    else:
        spectra = torch.bmm(made.second_kernel.expand(made.frame.half, -1, -1)[part], kernel[part])
    rows = spectra.view(-1, 3 * grid.shape[1], grid.shape[2])
    return rows[:, : 2 * grid.shape[1]], rows[:, grid.shape[1] :]


def _folded(high: Tensor, low: Tensor) -> Tensor:
    """Gradients of the rows (K_r, K_i) and (-K_i, K_r) as one of K: (frequencies, r, outputs, inputs)."""
    outputs = high.shape[1] // 2
    spectra = high.new_empty(len(high), 2, outputs, high.shape[2])
    torch.add(high[:, :outputs], low[:, outputs:], out=spectra[:, 0])
    torch.sub(high[:, outputs:], low[:, :outputs], out=spectra[:, 1])
    return spectra


def kernel_back(made: Plan, part: slice, spectra: Tensor, of_kernel: Tensor) -> None:
    """The adjoint of ``kernel_spectra``, into ``of_kernel``; spectra (frequencies, r, outputs, inputs)."""
    pairs = of_kernel.shape[-1]
    if _once(made):
        of_kernel.addmm_(made.first_back[:, 2 * part.start : 2 * part.stop], spectra.reshape(-1, pairs))
    else:
        spectra = spectra.reshape(part.stop - part.start, -1, pairs)
        torch.bmm(made.kernel_back.expand(made.frame.half, -1, -1)[part], spectra, out=of_kernel[part])


def grid_back(of_kernel: Tensor, grid: Tensor, made: Plan) -> Tensor:
    """The adjoint of ``rows_of_kernel``."""
    if _once(made):
        return of_kernel.view_as(grid)
    return (made.first_back @ of_kernel.view(made.first_back.shape[1], -1)).view_as(grid)


def _once(made: Plan) -> bool:
    """Whether the kernel is transformed in one round."""
    return made.kind is Kind.FAST and len(made.frame.size) == 1
