"""Other shapes, parts and orders of axes; products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nasfw.hardware.operators.elements import rotated
from nasfw.hardware.operators.graph import Graph, Inconvertible, Symbol, empty
from nasfw.hardware.operators.rules import RULES, Rule, operations, register, rule


@rule(
    *("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel"),
    complexes=True,
)
def _reshape(graph: Graph, out: Tensor, input: Tensor, *_: Any, **__: Any) -> str:
    if out is input:
        return graph.name(input)
    if out.dtype != input.dtype:
        raise Inconvertible(f"a view of {input.dtype} as {out.dtype}")
    return graph.reshape(input, _stored(out))


def _stored(tensor: Tensor) -> list[int]:
    """The shape in the graph."""
    return [*tensor.shape, 2] if tensor.is_complex() else list(tensor.shape)


def _transpose(function: Callable[..., Tensor]) -> Callable[..., str]:
    def emit(graph: Graph, out: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> str:
        # Where axes of distinct lengths go is where all go.
        order = list(function(empty(list(range(input.dim()))), *args, **kwargs).shape)
        return graph.add("Transpose", input, perm=order + [input.dim()] * input.is_complex())

    return emit


for _name in ("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "T", "mT"):
    for _function in operations(_name):
        RULES[_function] = Rule(_transpose(_function), None, True, -1)


@rule("__getitem__", complexes=True)
def _getitem(graph: Graph, out: Tensor, input: Tensor, index: Any) -> str:
    items = list(index) if isinstance(index, tuple) else [index]
    if any(not (i is None or i is ... or isinstance(i, slice) or type(i) is int) for i in items):
        raise Inconvertible(f"indexing with {', '.join(type(i).__name__ for i in items)}")
    used = sum(i is not None and i is not ... for i in items)
    rest = [slice(None)] * (input.dim() - used)
    at = next((n for n, i in enumerate(items) if i is ...), len(items))
    items[at : at + 1] = rest
    return _index(graph, input, items)


def _index(graph: Graph, input: Tensor, items: Sequence[Any]) -> str:
    """``input`` indexed by numbers, slices and None, one for each axis and None for a new one."""
    cuts = []
    for axis, item in enumerate(i for i in items if i is not None):
        if isinstance(item, slice) and item != slice(None):
            cuts.append((item.start or 0, _LAST if item.stop is None else item.stop, axis, item.step or 1))
        elif not isinstance(item, slice):
            cuts.append((item, _LAST if item == -1 else item + 1, axis, 1))
    value = graph.name(input)
    if cuts:
        value = graph.add("Slice", value, *(list(column) for column in zip(*cuts, strict=True)))
    if gone := [axis for axis, i in enumerate(i for i in items if i is not None) if not isinstance(i, slice)]:
        value = graph.add("Squeeze", value, gone)
    kept = [i for i in items if i is None or isinstance(i, slice)]
    if new := [axis for axis, i in enumerate(kept) if i is None]:
        value = graph.add("Unsqueeze", value, new)
    return value


_LAST = 2**63 - 1


@rule("narrow", complexes=True)
def _narrow(graph: Graph, out: Tensor, input: Tensor, dim: int, start: int, length: int) -> str:
    items = [slice(None)] * input.dim()
    start = start % input.shape[dim] if start < 0 else start
    items[dim] = slice(start, start + length)
    return _index(graph, input, items)


@rule("select", complexes=True)
def _select(graph: Graph, out: Tensor, input: Tensor, dim: int, index: int) -> str:
    items: list[Any] = [slice(None)] * input.dim()
    items[dim] = index
    return _index(graph, input, items)


@rule("index_select", complexes=True)
def _index_select(graph: Graph, out: Tensor, input: Tensor, dim: int, index: Tensor) -> str:
    if isinstance(index, Symbol):
        raise Inconvertible("index_select at positions that depend on the input")
    return graph.add("Gather", input, index.tolist(), axis=dim % input.dim())


@rule("chunk", "split", "split_with_sizes", complexes=True)
def _split(
    graph: Graph, out: Sequence[Tensor], input: Tensor, sizes: Any = None, dim: int = 0, **_: Any
) -> list[str]:
    axis = dim % input.dim()
    return graph.add_many(len(out), "Split", input, [part.shape[axis] for part in out], axis=axis)


@rule("unbind", complexes=True)
def _unbind(graph: Graph, out: Sequence[Tensor], input: Tensor, dim: int = 0) -> list[str]:
    axis = dim % input.dim()
    parts = graph.add_many(len(out), "Split", input, [1] * len(out), axis=axis)
    return [graph.add("Squeeze", part, [axis]) for part in parts]


def _concatenated(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shapes = [list(t.shape) for t in tensors]
    rest = [s[:dim] + s[dim:][1:] for s in shapes]
    if not -len(shapes[0]) <= dim < len(shapes[0]) or any(r != rest[0] for r in rest):
        raise Inconvertible(f"concatenation over axis {dim} of shapes {shapes}")
    shapes[0][dim] = sum(s[dim] for s in shapes)
    return empty(shapes[0], any(t.is_complex() for t in tensors))


@rule("cat", "concat", "concatenate", shape=_concatenated, complexes=True)
def _cat(graph: Graph, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> str:
    name = graph.complex if out.is_complex() else graph.name
    return graph.add("Concat", *map(name, tensors), axis=dim % out.dim())


@rule("stack", complexes=True)
def _stack(graph: Graph, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> str:
    axis = dim % out.dim()
    name = graph.complex if out.is_complex() else graph.name
    return graph.add("Concat", *(graph.add("Unsqueeze", name(t), [axis]) for t in tensors), axis=axis)


@rule("expand", "expand_as", "broadcast_to", complexes=True)
def _expand(graph: Graph, out: Tensor, input: Tensor, *_: Any, **__: Any) -> str:
    # Elements are counted from the last axis, which complex numbers have one more of on both sides.
    return graph.add("Expand", input, _stored(out))


@rule("repeat")
def _repeat(graph: Graph, out: Tensor, input: Tensor, *repeats: Any) -> str:
    times = list(repeats[0]) if isinstance(repeats[0], tuple | list) else list(repeats)
    new = len(times) - input.dim()
    value = graph.add("Unsqueeze", input, list(range(new))) if new else graph.name(input)
    return graph.add("Tile", value, times)


@rule("pixel_shuffle")
def _pixel_shuffle(graph: Graph, out: Tensor, input: Tensor, upscale_factor: int) -> str:
    if input.dim() != 4:
        raise Inconvertible("pixel_shuffle of other than four axes")
    return graph.add("DepthToSpace", input, blocksize=upscale_factor, mode="CRD")


def _filled(value: float) -> Callable[..., Tensor]:
    def emit(graph: Graph, out: Tensor, input: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.full(out.shape, value, device=graph.device)

    return emit


register(["zeros_like", "new_zeros"], _filled(0.0))
register(["ones_like", "new_ones"], _filled(1.0))


def _projected(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    if weight.dim() != 2 or input.shape[-1] != weight.shape[1]:
        raise Inconvertible(f"a linear layer of {tuple(input.shape)} by {tuple(weight.shape)}")
    return empty([*input.shape[:-1], weight.shape[0]])


@rule("linear", shape=_projected)
def _linear(graph: Graph, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
    if input.dim() == 2:
        return graph.add("Gemm", input, weight, bias, transB=1)
    product = graph.add("MatMul", input, graph.add("Transpose", weight, perm=[1, 0]))
    return product if bias is None else graph.add("Add", product, bias)


@rule("matmul", "mm", "bmm", "__matmul__")
def _matmul(graph: Graph, out: Tensor, input: Tensor, other: Tensor) -> str:
    return graph.add("MatMul", input, other)


@rule("__rmatmul__")
def _rmatmul(graph: Graph, out: Tensor, input: Tensor, other: Tensor) -> str:
    return graph.add("MatMul", other, input)


@rule("einsum", complexes=True)
def _einsum(graph: Graph, out: Tensor, equation: str, *operands: Any) -> str:
    if not isinstance(equation, str):
        raise Inconvertible("einsum without an equation in letters")
    tensors = list(operands[0]) if isinstance(operands[0], list | tuple) else list(operands)
    equation = equation.replace(" ", "")
    if not out.is_complex():
        return graph.add("Einsum", *tensors, equation=equation)
    if "->" not in equation or "..." in equation or len(tensors) > 2:
        raise Inconvertible(
            f"einsum {equation!r} of complex numbers; letters, an arrow, at most two operands"
        )
    left, result = equation.split("->")
    return _complex_einsum(graph, left.split(","), result, tensors)


def _complex_einsum(graph: Graph, inputs: list[str], result: str, tensors: list[Tensor]) -> str:
    """One more letter for the two parts; a second factor is a matrix that acts on them."""
    y, z = [c for c in "abcdefghijklmnopqrstuvwxyz" if c not in "".join((*inputs, result))][:2]
    if len(tensors) == 1:
        return graph.add("Einsum", tensors[0], equation=f"{inputs[0]}{y}->{result}{y}")
    matrices = _acting(graph, graph.name(tensors[1]))
    equation = f"{inputs[0]}{y},{inputs[1]}{y}{z}->{result}{z}"
    return graph.add("Einsum", tensors[0], matrices, equation=equation)


def _acting(graph: Graph, value: str) -> str:
    """Complex numbers as the matrices, transposed, by which they multiply."""
    rows = [graph.add("Unsqueeze", v, [-2]) for v in (value, rotated(graph, value))]
    return graph.add("Concat", *rows, axis=-2)
