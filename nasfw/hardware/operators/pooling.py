"""Pooling and interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nasfw.hardware.operators.graph import Graph, Inconvertible, empty
from nasfw.hardware.operators.layers import each, spatial
from nasfw.hardware.operators.rules import Ints, register, rule


def _overhang(
    out: Tensor, input: Tensor, window: list[int], strides: list[int], padding: list[int]
) -> list[int]:
    """Positions behind the map that the last windows reach; it replaces rounding up."""
    axes = zip(out.shape[2:], input.shape[2:], window, strides, padding, strict=True)
    return [max(0, (o - 1) * s + w - n - p) for o, n, w, s, p in axes]


def _pooled(
    input: Tensor, kernel_size: Ints, stride: Ints | None, padding: Ints, dilation: Ints, up: bool
) -> Tensor:
    dims = spatial(input, input.dim() - 2)
    kernel, pads, dilations = (each(v, dims) for v in (kernel_size, padding, dilation))
    strides = each(stride, dims) if stride else kernel
    sizes = []
    for n, k, s, p, d in zip(input.shape[2:], kernel, strides, pads, dilations, strict=True):
        m = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if up else 0)) // s + 1
        # A window that would begin behind the map is left out.
        sizes.append(m - 1 if up and (m - 1) * s >= n + p else m)
    if min(sizes) < 1 or any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise Inconvertible(f"pooling of {tuple(input.shape)} by {kernel} with padding {pads}")
    return empty([*input.shape[:2], *sizes])


def _max_pooled(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    **_: Any,
) -> Tensor:
    return _pooled(input, kernel_size, stride, padding, dilation, ceil_mode)


def _avg_pooled(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    *_: Any,
    **__: Any,
) -> Tensor:
    return _pooled(input, kernel_size, stride, padding, 1, ceil_mode)


@rule("max_pool1d", "max_pool2d", "max_pool3d", shape=_max_pooled)
def _max_pool(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> str:
    dims = spatial(input, input.dim() - 2)
    kernel, dilations, before = (each(v, dims) for v in (kernel_size, dilation, padding))
    strides = each(stride, dims) if stride else kernel
    window = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    after = _overhang(out, input, window, strides, before) if ceil_mode else before
    value, pads = graph.name(input), before + after
    if any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        # The runtime's pooling pads by less than a kernel.
        value = graph.add("Pad", value, [0, 0, *before, 0, 0, *after], -math.inf)
        pads = [0] * len(pads)
    return graph.add("MaxPool", value, kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", shape=_avg_pooled)
def _avg_pool(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> str:
    if divisor_override is not None:
        raise Inconvertible("avg_pool with divisor_override")
    dims = spatial(input, input.dim() - 2)
    kernel, before = each(kernel_size, dims), each(padding, dims)
    strides = each(stride, dims) if stride else kernel
    after = _overhang(out, input, kernel, strides, before) if ceil_mode else before
    value = graph.name(input)
    if ceil_mode and count_include_pad and any(before):
        # Padding counts, but not what windows reach behind it.
        value = graph.add("Pad", value, [0, 0, *before] * 2)
        after = [max(0, a - b) for a, b in zip(after, before, strict=True)]
        before = [0] * dims
    return graph.add(
        "AveragePool",
        value,
        kernel_shape=kernel,
        strides=strides,
        pads=before + after,
        count_include_pad=int(count_include_pad and not ceil_mode),
    )


def _adapted(input: Tensor, output_size: Any, *_: Any, **__: Any) -> Tensor:
    dims = spatial(input, input.dim() - 2)
    sizes = [output_size] * dims if isinstance(output_size, int) else list(output_size)
    if len(sizes) == 1:
        sizes *= dims
    lengths = [n if m is None else int(m) for n, m in zip(input.shape[2:], sizes, strict=True)]
    return empty([*input.shape[:2], *lengths])


def _adaptive(op: str) -> Callable[..., str]:
    def emit(graph: Graph, out: Any, input: Tensor, output_size: Any, return_indices: bool = False) -> str:
        sizes = list(zip(input.shape[2:], out.shape[2:], strict=True))
        spatial(input, len(sizes))
        if all(m == 1 for _, m in sizes):
            return graph.add(f"Global{op}", input)
        if any(n % m for n, m in sizes):
            raise Inconvertible(
                f"adaptive pooling of {input.shape[2:]} to {out.shape[2:]}, which does not divide it"
            )
        window = [n // m for n, m in sizes]
        return graph.add(op, input, kernel_shape=window, strides=window)

    return emit


register(
    ["adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"], _adaptive("AveragePool"), _adapted
)
register(
    ["adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"], _adaptive("MaxPool"), _adapted
)


@rule("interpolate")
def _interpolate(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    size: Ints | None = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> str:
    if mode not in ("nearest", "linear", "bilinear") or antialias:
        raise Inconvertible(f"interpolate with mode {mode!r} and antialias {antialias}")
    dims = input.dim() - 2
    scales: Tensor | str = ""
    sizes: list[int] | str = list(out.shape[2:])
    if scale_factor is not None and not recompute_scale_factor:
        factors = list(scale_factor) if isinstance(scale_factor, list | tuple) else [scale_factor] * dims
        scales, sizes = torch.tensor(factors, dtype=torch.float32), ""
    if mode == "nearest":
        _check_nearest(out, input, scales)
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    corners = "align_corners" if align_corners else "half_pixel"
    linear = {"mode": "linear", "coordinate_transformation_mode": corners}
    axes = list(range(2, dims + 2))
    return graph.add(
        "Resize", input, "", scales, sizes, axes=axes, **nearest if mode == "nearest" else linear
    )


def _check_nearest(out: Tensor, input: Tensor, scales: Tensor | str) -> None:
    """Refuse where rounding decides which neighbour is taken: torch multiplies where ONNX divides."""
    for axis, (n, m) in enumerate(zip(input.shape[2:], out.shape[2:], strict=True)):
        scale = torch.tensor(m / n) if isinstance(scales, str) else scales[axis]
        other = torch.tensor(n / m) if isinstance(scales, str) else 1 / scales[axis].double()
        positions = torch.arange(m, dtype=torch.float32)
        taken = (positions / scale).floor(), (positions * other.float()).floor()
        if int((n * scale).floor()) != m or not torch.equal(*(t.clamp(max=n - 1) for t in taken)):
            raise Inconvertible(f"interpolate from {n} to {m} positions, which rounding decides")
