"""Convolutions, padding and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nasfw.hardware.operators.graph import Graph, Inconvertible, empty
from nasfw.hardware.operators.rules import Ints, like, rule


def each(value: Any, dims: int) -> list[int]:
    """A number for each of the spatial axes."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (values * dims if len(values) == 1 else values)]


def _convolved(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    dims = spatial(input, weight.dim() - 2)
    if input.shape[1] != weight.shape[1] * groups:
        raise Inconvertible(f"a convolution of {input.shape[1]} channels by {tuple(weight.shape)}")
    dilations = each(dilation, dims)
    pads = _padding(padding, weight.shape[2:], dilations)
    axes = zip(
        input.shape[2:], weight.shape[2:], each(stride, dims), dilations, pads, pads[dims:], strict=False
    )
    sizes = [(n + p + q - d * (k - 1) - 1) // s + 1 for n, k, s, d, p, q in axes]
    if min(sizes) < 1:
        raise Inconvertible(f"a convolution of {tuple(input.shape)} by {tuple(weight.shape)} is empty")
    return empty([input.shape[0], weight.shape[0], *sizes])


@rule("conv1d", "conv2d", "conv3d", shape=_convolved)
def _conv(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> str:
    dims = spatial(input, weight.dim() - 2)
    dilations = each(dilation, dims)
    return graph.add(
        "Conv",
        input,
        weight,
        bias,
        kernel_shape=list(weight.shape[2:]),
        strides=each(stride, dims),
        pads=_padding(padding, weight.shape[2:], dilations),
        dilations=dilations,
        group=groups,
    )


def spatial(input: Tensor, dims: int) -> int:
    """``dims``, if the tensor has a batch, channels and as many axes more."""
    if input.dim() != dims + 2:
        raise Inconvertible(f"a layer for {dims} spatial axes on a tensor of rank {input.dim()}")
    return dims


def _padding(padding: Ints | str, kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Zeros before each axis, then those after each."""
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
        return [n // 2 for n in total] + [n - n // 2 for n in total]
    return each(0 if padding == "valid" else padding, len(kernel)) * 2


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> str:
    dims = spatial(input, weight.dim() - 2)
    strides, added = each(stride, dims), each(output_padding, dims)
    if any(a >= s for a, s in zip(added, strides, strict=True)):
        raise Inconvertible(f"a transposed convolution with output_padding {added} and stride {strides}")
    return graph.add(
        "ConvTranspose",
        input,
        weight,
        bias,
        kernel_shape=list(weight.shape[2:]),
        strides=strides,
        pads=each(padding, dims) * 2,
        output_padding=added,
        dilations=each(dilation, dims),
        group=groups,
    )


@rule("pad", complexes=True)
def _pad(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> str:
    if input.is_complex() and (mode != "constant" or value):
        raise Inconvertible(f"padding of complex numbers, mode {mode}, with {value}")
    if mode != "constant" and min(pad) < 0:
        raise Inconvertible(f"padding in mode {mode} that removes")
    # Torch begins with the last axis.
    sides = [(0, 0)] * (input.dim() - len(pad) // 2) + list(zip(pad[-2::-2], pad[-1::-2], strict=True))
    sides += [(0, 0)] * input.is_complex()
    pads = [before for before, _ in sides] + [after for _, after in sides]
    return graph.add("Pad", input, pads, value or None, mode=_PAD_MODES[mode])


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _or(value: Tensor | None, fill: float, shape: Sequence[int]) -> Tensor:
    return torch.full(shape, fill) if value is None else value


@rule("batch_norm", shape=like)
def _batch_norm(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> str:
    if training or running_mean is None or running_var is None:
        raise Inconvertible("batch_norm with the statistics of the batch")
    n = running_mean.shape
    scale, shift = _or(weight, 1.0, n), _or(bias, 0.0, n)
    return graph.add("BatchNormalization", input, scale, shift, running_mean, running_var, epsilon=float(eps))


@rule("instance_norm", shape=like)
def _instance_norm(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> str:
    if not use_input_stats:
        return _batch_norm(graph, out, input, running_mean, running_var, weight, bias, eps=eps)
    n = input.shape[1:2]
    return graph.add(
        "InstanceNormalization", input, _or(weight, 1.0, n), _or(bias, 0.0, n), epsilon=float(eps)
    )


@rule("group_norm", shape=like)
def _group_norm(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> str:
    n = [num_groups]
    grouped = graph.add("Reshape", input, [0, num_groups, -1])
    value = graph.add("InstanceNormalization", grouped, torch.ones(n), torch.zeros(n), epsilon=float(eps))
    value = graph.reshape(value, input.shape)
    for op, factor in (("Mul", weight), ("Add", bias)):
        if factor is not None:
            value = graph.add(op, value, graph.reshape(factor, [-1, *[1] * (input.dim() - 2)]))
    return value


@rule("layer_norm", shape=like)
def _layer_norm(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> str:
    scale = _or(weight, 1.0, normalized_shape)
    return graph.add(
        "LayerNormalization", input, scale, bias, axis=-len(normalized_shape), epsilon=float(eps)
    )
