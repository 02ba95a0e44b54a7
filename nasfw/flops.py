"""Counting parameters and floating-point operations of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

aten = torch.ops.aten


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


def count_layers(model: nn.Module) -> int:
    """Number of modules that have parameters of their own."""
    return sum(next(module.parameters(recurse=False), None) is not None for module in model.modules())


def forward_flops(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Floating-point operations of ``model`` for one input of ``input_shape``, which has no batch axis.

    Counted in evaluation mode, by shape alone and without arithmetic, unless the model has to see values;
    then it runs where its parameters are. Convolutions and matrix products: 2 per multiply-add, 8 if complex.
    Fourier transforms: ``fourier_flops``. Elementwise products of complex numbers: 6, or 2 if one factor is
    real. Other elementwise operations count nothing, as is usual.
    """
    shape = (1, *input_shape)
    state = dict(_state(model))
    hollow = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    try:
        return _count(model, torch.empty(shape, device="meta"), hollow)
    except (RuntimeError, TypeError):
        device = next((value.device for value in state.values()), torch.device("cpu"))
        return _count(model, torch.zeros(shape, device=device))


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers: shared ones in every module, but a module of several names once."""
    for path, module in model.named_modules():
        for entries in (module._parameters, module._buffers):
            yield from ((f"{path}.{n}".lstrip("."), v) for n, v in entries.items() if v is not None)


def _count(model: nn.Module, x: Tensor, state: dict[str, Tensor] | None = None) -> int:
    with (
        torch.no_grad(),
        _evaluating(model),
        FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter,
    ):
        # Ties are resolved: torch would put back only the first name of a module that has several.
        torch.func.functional_call(model, state or {}, (x,), tie_weights=False)
    return int(counter.get_total_flops())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every module in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def fourier_flops(points: int, real: bool) -> int:
    """Operations of one fast Fourier transform of ``points``: 5 N log2 N, half of it if one side is real.

    N is the product over the transformed axes, a power of two or not: the convention of the FFTW benchmarks.
    A radix-2 transform has N/2 butterflies in each of log2 N stages, with one complex product (6 operations)
    and two complex sums (2 each).
    """
    return round((2.5 if real else 5.0) * points * math.log2(points))


def _transform(real: bool) -> Callable[..., int]:
    def formula(x: Tensor, dim: Sequence[int], *args: Any, out_val: Tensor, **kwargs: Any) -> int:
        # The real side has the full length of the halved axis.
        full = max(x, out_val, key=torch.numel)
        points = math.prod(full.shape[d] for d in dim)
        return full.numel() // points * fourier_flops(points, real) if full.numel() else 0

    return formula


def _product(operation: Any) -> Callable[..., int]:
    # torch counts a complex multiply-add as 2 operations; it takes four real products and four real sums.
    counted = flop_registry[operation]

    def formula(*args: Any, out_val: Tensor, **kwargs: Any) -> int:
        return int(counted(*args, out_val=out_val, **kwargs)) * (4 if out_val.is_complex() else 1)

    return formula


def _elementwise(x: Any, y: Any, *, out_val: Tensor, **kwargs: Any) -> int:
    number = sum(v.is_complex() if isinstance(v, Tensor) else isinstance(v, complex) for v in (x, y))
    return (0, 2, 6)[number] * out_val.numel()


def _raw(formula: Callable[..., int]) -> Callable[..., int]:
    # The counter's own mark for formulas that look at tensors, not only at their shapes.
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._fft_c2c: _raw(_transform(real=False)),
    aten._fft_r2c: _raw(_transform(real=True)),
    aten._fft_c2r: _raw(_transform(real=True)),
    aten.mul: _raw(_elementwise),
    aten.mul_: _raw(_elementwise),
    **{op: _raw(_product(op)) for op in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)},
}
