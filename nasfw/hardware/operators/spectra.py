"""Complex numbers and Fourier transforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nasfw.hardware.operators.graph import Graph, Inconvertible
from nasfw.hardware.operators.layers import each
from nasfw.hardware.operators.rules import Ints, register, rule


@rule("view_as_real", "view_as_complex", complexes=True)
def _viewed(graph: Graph, out: Tensor, input: Tensor) -> str:
    return graph.name(input)


@rule("real", complexes=True)
def _real(graph: Graph, out: Tensor, input: Tensor) -> str:
    return _part(graph, input, 0) if input.is_complex() else graph.name(input)


@rule("imag", complexes=True)
def _imag(graph: Graph, out: Tensor, input: Tensor) -> str:
    return _part(graph, input, 1)


def _part(graph: Graph, value: Any, part: int) -> str:
    return graph.add("Squeeze", graph.add("Gather", value, [part], axis=-1), [-1])


@rule("complex", complexes=True)
def _complex_of(graph: Graph, out: Tensor, real: Tensor, imag: Tensor) -> str:
    parts = (graph.add("Unsqueeze", part, [out.dim()]) for part in (real, imag))
    return graph.add("Concat", *parts, axis=out.dim())


@rule("conj", complexes=True)
def _conj(graph: Graph, out: Tensor, input: Tensor) -> str:
    return graph.add("Mul", input, torch.tensor([1.0, -1.0])) if input.is_complex() else graph.name(input)


def _fourier(inverse: bool, real: bool, default: Ints | None) -> Callable[..., str]:
    def emit(
        graph: Graph,
        out: Tensor,
        input: Tensor,
        n: Ints | None = None,
        dim: Ints | None = default,
        norm: str | None = None,
        *,
        s: Ints | None = None,
    ) -> str:
        if dim is None:
            raise Inconvertible("a Fourier transform over all axes")
        if not input.is_complex() and (inverse or not real):
            raise Inconvertible("a complex Fourier transform of real numbers")
        dims = [d % input.dim() for d in ([dim] if isinstance(dim, int) else dim)]
        wanted = n if n is not None else s
        sizes = [input.shape[d] for d in dims] if wanted is None else each(wanted, 1)
        if any(size < 1 for size in sizes):
            raise Inconvertible(f"a Fourier transform of lengths {sizes}")
        if wanted is None and real and inverse:
            sizes[-1] = out.shape[dims[-1]]
        transform = _inverse if inverse else _forward
        value = transform(graph, input, list(zip(dims, sizes, strict=True)), real)
        power = {None: 0.0, "backward": 0.0, "ortho": 0.5, "forward": 1.0}[norm]
        scale = math.prod(sizes) ** (power if inverse else -power)
        return value if scale == 1 else graph.add("Mul", value, scale)

    return emit


def _forward(graph: Graph, input: Tensor, axes: list[tuple[int, int]], real: bool) -> str:
    value = graph.add("Unsqueeze", input, [input.dim()]) if real else graph.name(input)
    for i, (axis, size) in enumerate(reversed(axes)):
        value = _resized(graph, value, axis, input.shape[axis], size)
        # Half of what comes from real numbers says all.
        value = graph.add("DFT", value, "", graph.constant(axis), onesided=int(real and i == 0))
    return value


def _inverse(graph: Graph, input: Tensor, axes: list[tuple[int, int]], real: bool) -> str:
    value = graph.name(input)
    for axis, size in axes[:-1] if real else axes:
        value = _resized(graph, value, axis, input.shape[axis], size)
        value = graph.add("DFT", value, "", graph.constant(axis), inverse=1)
    if not real:
        return value
    axis, size = axes[-1]
    half = _resized(graph, value, axis, input.shape[axis], size // 2 + 1)
    mirrored = list(range((size - 1) // 2, 0, -1))
    if mirrored:
        # The other half is the conjugate of the first, backwards.
        rest = graph.add("Gather", half, mirrored, axis=axis)
        half = graph.add("Concat", half, graph.add("Mul", rest, torch.tensor([1.0, -1.0])), axis=axis)
    return _part(graph, graph.add("DFT", half, "", graph.constant(axis), inverse=1), 0)


def _resized(graph: Graph, value: str, axis: int, size: int, wanted: int) -> str:
    """``value`` cut or filled with zeros on one axis."""
    if wanted < size:
        return graph.add("Slice", value, [0], [wanted], [axis])
    if wanted > size:
        return graph.add("Pad", value, [0, wanted - size], None, [axis])
    return value


for _axes_name, _default in (("", -1), ("2", (-2, -1)), ("n", None)):
    for _kind, _inverted, _is_real in (
        ("rfft", False, True),
        ("irfft", True, True),
        ("fft", False, False),
        ("ifft", True, False),
    ):
        register([_kind + _axes_name], _fourier(_inverted, _is_real, _default), complexes=True)
