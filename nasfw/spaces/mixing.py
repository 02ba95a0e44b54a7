"""Correlation of maps with kernels that mix channels, as a product of spectra.

A complex product over channels is two real ones: the rows (K_r, K_i) of the kernel's spectrum times X_r, and
(-K_i, K_r) times X_i. Kept as (-K_i, K_r, K_i) both are slices of one tensor; but where there are more
channels than maps in a batch, it takes less to multiply X_i by (K_r, K_i) and to turn the product.
Frequencies are independent and treated in parts that stay in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nasfw.spaces.kernels import Size
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


def mixing(x: Tensor, grid: Tensor, bias: Tensor | None, made: Plan, keep: bool = True) -> Tensor:
    """Maps (batch, inputs, *size) correlated with a grid (cells, outputs, inputs), (batch, outputs, ...).

    With ``keep`` the spectra of the maps are kept for the backward pass; without, they are computed again.
    The ``bias`` joins as the lowest frequency, which spares two passes over the results.
    """
    keep = keep and torch.is_grad_enabled()
    return _Mixing.apply(x, grid, bias, made, keep)  # type: ignore[no-any-return, no-untyped-call]


class _Mixing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, bias: Tensor | None, made: Plan, keep: bool) -> Tensor:
        (_, outputs, inputs), batch = grid.shape, len(x)
        maps, kernel = enter(x, made), made.kernels.first(grid)
        result = _room(x, outputs * batch, made, made.frame.result_columns)
        kept = []
        for part in _parts(made, batch, grid):
            spectra = _forth(made.second_map, part, maps, made).view(-1, 2, inputs, batch)
            rows = made.kernels.rows(part, kernel, grid, signed=batch >= inputs)
            product = _times(rows, spectra, outputs, _place(result, part, 2 * outputs, batch, made))
            if bias is not None and part.start == 0:
                product[0, :outputs] += made.frame.points * bias[:, None]
            _back(made.second_result, part, product, result, made)
            if keep:
                kept.append(spectra)
        ctx.save_for_backward(x, grid, *kept)
        ctx.made = made
        del maps, kernel
        # Not as a view: that could not be changed in place.
        return leave(result, batch, made).detach()

    @staticmethod
    @precisely
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, grid, *kept = ctx.saved_tensors
        made: Plan = ctx.made
        if torch.is_grad_enabled():
            return (*again(_mixing, x, grid, made, gradients[0]), of_bias(ctx, gradients[0]), None, None)
        (_, outputs, inputs), batch = grid.shape, len(x)
        needs_x, needs_grid, needs_bias = ctx.needs_input_grad[:3]
        maps = None if kept else enter(x, made)
        results, kernel = _enter_gradient(gradients[0], made), made.kernels.first(grid)
        of_maps = _room(x, inputs * batch, made, made.frame.columns) if needs_x else x
        of_kernel, lowest = torch.zeros_like(kernel), None
        for i, part in enumerate(_parts(made, batch, grid)):
            product = _forth(made.second_result.mT, part, results, made).view(-1, 2 * outputs, batch)
            if needs_bias and part.start == 0:
                # An FFT has not weighed the frequencies.
                lowest = product[0, :outputs].sum(1) * (1 if made.kind is Kind.FAST else made.frame.points)
            if maps is None:
                spectra = kept[i]
            else:
                spectra = _forth(made.second_map, part, maps, made).view(-1, 2, inputs, batch)
            signed = batch >= inputs
            turned = None if signed else _turned(product)
            if needs_x:
                rows = made.kernels.rows(part, kernel, grid, signed)
                of_spectra = _place(of_maps, part, 2 * inputs, batch, made)
                _of_spectra(rows, product, turned, of_spectra.view_as(spectra))
                _back(made.second_map.mT, part, of_spectra, of_maps, made)
            if needs_grid:
                made.kernels.add(part, _of_rows(product, turned, spectra), of_kernel)
        del maps, results, kernel
        of_x = _leave_gradient(of_maps, batch, made) if needs_x else None
        of_grid = made.kernels.grid(of_kernel, grid) if needs_grid else None
        return of_x, of_grid, lowest, None, None


def _mixing(x: Tensor, grid: Tensor, made: Plan) -> Tensor:
    """The same of differentiable functions only, for derivatives of the backward pass."""
    (_, outputs, inputs), batch, half = grid.shape, len(x), made.frame.half
    whole = slice(0, half)
    spectra = _forth(made.second_map, whole, enter(x, made), made).view(-1, 2, inputs, batch)
    rows = made.kernels.rows(whole, made.kernels.first(grid), grid, signed=True)
    product = _times(rows, spectra, outputs).view(half, -1, outputs * batch)
    if made.kind is Kind.MATRIX:
        product = torch.bmm(product.mT, made.second_result.expand(half, -1, -1).mT).transpose(0, 1)
    return leave(product, batch, made)


def _times(rows: Tensor, spectra: Tensor, outputs: int, out: Tensor | None = None) -> Tensor:
    """The product over channels, (frequencies, 2 outputs, batch), in ``out`` if that is given."""
    real, imaginary = spectra[:, 0], spectra[:, 1]
    if rows.shape[1] == 3 * outputs:
        return torch.bmm(rows[:, outputs:], real, out=out).baddbmm_(rows[:, : 2 * outputs], imaginary)
    product, other = torch.bmm(rows, real, out=out), torch.bmm(rows, imaginary)
    product[:, :outputs] -= other[:, outputs:]
    product[:, outputs:] += other[:, :outputs]
    return product


def _turned(product: Tensor) -> Tensor:
    """The gradient of the product that was turned, of that of the whole."""
    outputs = product.shape[1] // 2
    turned = torch.empty_like(product)
    turned[:, :outputs] = product[:, outputs:]
    torch.neg(product[:, :outputs], out=turned[:, outputs:])
    return turned


def _of_spectra(rows: Tensor, product: Tensor, turned: Tensor | None, of_spectra: Tensor) -> None:
    """The adjoint of ``_times`` for the spectra of maps, into ``of_spectra``."""
    outputs = product.shape[1]
    of_spectra[:, 0] = torch.bmm(rows[:, -outputs:].mT, product)
    of_spectra[:, 1] = torch.bmm(rows[:, :outputs].mT, product if turned is None else turned)


def _of_rows(product: Tensor, turned: Tensor | None, spectra: Tensor) -> Tensor:
    """The adjoint of ``_times`` for the rows (K_r, K_i): (frequencies, 2 outputs, inputs)."""
    high = torch.bmm(product, spectra[:, 0].mT)
    if turned is not None:
        return high.baddbmm_(turned, spectra[:, 1].mT)
    low, outputs = torch.bmm(product, spectra[:, 1].mT), product.shape[1] // 2
    high[:, :outputs] += low[:, outputs:]
    high[:, outputs:] -= low[:, :outputs]
    return high


def again(
    function: Callable[[Tensor, Tensor, Plan], Tensor], x: Tensor, grid: Tensor, made: Plan, gradient: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``function`` with respect to maps and grid that can be differentiated once more."""
    wanted = [t for t in (x, grid) if t.requires_grad]
    found = iter(torch.autograd.grad(function(x, grid, made), wanted, gradient, create_graph=True))
    return next(found) if x.requires_grad else None, next(found) if grid.requires_grad else None


def of_bias(ctx: Any, gradient: Tensor) -> Tensor | None:
    """The gradient of a bias, the third argument, that can be differentiated once more."""
    return gradient.transpose(0, 1).flatten(1).sum(1) if ctx.needs_input_grad[2] else None


def _parts(made: Plan, batch: int, grid: Tensor) -> list[slice]:
    """Frequencies v that are treated at once; on a GPU all."""
    outputs, inputs = grid.shape[1:]
    numbers = made.frame.column_length * (2 * batch * (inputs + outputs) + 3 * inputs * outputs)
    half = made.frame.half
    # Where a library transforms, parts have only products to do: fewer of them, each larger, take less.
    most = 2 * PART if made.kind is Kind.FAST else PART
    step = max(1, round(most / numbers)) if grid.device.type == "cpu" else half
    return [slice(v, min(v + step, half)) for v in range(0, half, step)]


def enter(x: Tensor, made: Plan) -> Tensor:
    """Maps (batch, channels, *size) after the first round, (maps, V, r columns), or wholly transformed."""
    x = x.transpose(0, 1)
    if made.kind is Kind.FAST:
        return _fast_spectra(x, made.frame)
    return _first_round(made.first_map, cut(x, made.frame.rows, made.frame.columns))


def leave(rows: Tensor, batch: int, made: Plan) -> Tensor:
    """Results (batch, outputs, *positions) of what ``_back`` has filled."""
    frame = made.frame
    if made.kind is not Kind.FAST:
        maps = apply(made.first_result, rows.reshape(len(rows), -1, frame.result_columns))
        return _whole(maps, batch, frame.positions)
    return _slow_maps(rows, batch, frame, frame.positions, frame.stride)


def _enter_gradient(gradient: Tensor, made: Plan) -> Tensor:
    """The adjoint of ``leave``; of a library's FFT without the weights of frequencies."""
    frame, gradient = made.frame, gradient.transpose(0, 1)
    if made.kind is not Kind.FAST:
        return _first_round(made.first_result.mT, cut(gradient, frame.result_rows, frame.result_columns))
    return _fast_spectra(spaced(gradient, frame), frame)


def _leave_gradient(rows: Tensor, batch: int, made: Plan) -> Tensor:
    """The adjoint of ``enter``, for spectra from ``_enter_gradient``."""
    frame = made.frame
    if made.kind is not Kind.FAST:
        return _whole(apply(made.first_map.mT, rows.view(len(rows), -1, frame.columns)), batch, frame.size)
    return _slow_maps(rows, batch, frame, frame.size)


def _fast_spectra(x: Tensor, frame: Frame) -> Tensor:
    """Spectra (V, U r, maps) of maps (channels, batch, *size)."""
    numbers = torch.view_as_real(fast(x, frame)).reshape(-1, 2 * frame.half * frame.column_length)
    # Of a whole tensor, torch's copy in the other order is several times as fast as of its parts.
    return numbers.t().contiguous().view(frame.half, 2 * frame.column_length, -1)


def _slow_maps(spectra: Tensor, batch: int, frame: Frame, counts: Size, stride: int = 1) -> Tensor:
    """Maps (batch, channels, *counts), every ``stride``-th entry, of their spectra (V, U r, maps)."""
    numbers = spectra.flatten(0, 1).t().contiguous()
    parts = torch.view_as_complex(numbers.view(-1, batch, *frequencies(frame), 2))
    return slow(parts, frame, counts, stride).transpose(0, 1).contiguous()


def _whole(maps: Tensor, batch: int, size: Size) -> Tensor:
    """Matrices (maps, rows, columns) as maps (batch, channels, *size)."""
    maps = maps.reshape(-1, batch, *maps.shape[1:])
    if len(size) == 1:
        maps = maps.flatten(2)[:, :, : size[0]]
    return maps.transpose(0, 1).contiguous()


def _first_round(first: Tensor, maps: Tensor) -> Tensor:
    """(V r, rows) times (maps, rows, columns), as (maps, V, r columns)."""
    return apply(first, maps).view(len(maps), len(first) // 2, -1)


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


def _place(result: Tensor, part: slice, rows: int, batch: int, made: Plan) -> Tensor:
    """Where to write the spectra of a part of V, (frequencies, rows, batch), for ``_back`` to take them.

    Where a library transforms that is in ``result`` itself, as nothing is left to be done.
    """
    shape = (part.stop - part.start) * made.frame.column_length, rows, batch
    return result[part].view(shape) if made.kind is Kind.FAST else result.new_empty(shape)


def _back(second: Tensor, part: slice, spectra: Tensor, result: Tensor, made: Plan) -> None:
    """The way back from a part of V, from the ``_place`` of its ``spectra`` into ``result``."""
    if made.kind is Kind.FAST:
        return
    spectra = spectra.view(part.stop - part.start, 2 * made.frame.column_length, -1)
    second = second.expand(made.frame.half, -1, -1)[part]
    torch.bmm(spectra.mT, second.mT, out=result[:, part].transpose(0, 1))
