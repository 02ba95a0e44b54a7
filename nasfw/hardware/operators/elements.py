"""Functions of each element, arithmetic of two tensors, and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nasfw.hardware.operators.graph import Graph, Inconvertible, Symbol
from nasfw.hardware.operators.rules import Ints, axes, broadcast, itself, like, reduced, register, rule


def _unary(op: str) -> Callable[..., str]:
    def emit(graph: Graph, out: Tensor, input: Tensor, inplace: bool = False) -> str:
        return graph.add(op, input)

    return emit


_UNARY = {
    **{
        op.lower(): op for op in ("Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Abs", "Erf", "Sin", "Cos")
    },
    **{op.lower(): op for op in ("Floor", "Ceil", "Sign", "Reciprocal", "Softsign", "Mish", "HardSwish")},
}
for _name, _op in _UNARY.items():
    register([_name], _unary(_op), like)
register(["neg", "negative", "__neg__"], _unary("Neg"), like, complexes=True)


@rule("silu", shape=like)
def _silu(graph: Graph, out: Tensor, input: Tensor, inplace: bool = False) -> str:
    return graph.add("Mul", input, graph.add("Sigmoid", input))


@rule("gelu", shape=like)
def _gelu(graph: Graph, out: Tensor, input: Tensor, approximate: str = "none") -> str:
    return graph.add("Gelu", input, approximate=approximate)


@rule("hardtanh", shape=like)
def _hardtanh(
    graph: Graph,
    out: Tensor,
    input: Tensor,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> str:
    return graph.add("Clip", input, min_val, max_val)


@rule("relu6", shape=like)
def _relu6(graph: Graph, out: Tensor, input: Tensor, inplace: bool = False) -> str:
    return graph.add("Clip", input, 0.0, 6.0)


@rule("clamp", "clip", shape=like)
def _clamp(
    graph: Graph, out: Tensor, input: Tensor, min: float | None = None, max: float | None = None
) -> str:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        raise Inconvertible("clamp with bounds that are tensors")
    return graph.add("Clip", input, min, max)


@rule("clamp_min", shape=like)
def _clamp_min(graph: Graph, out: Tensor, input: Tensor, min: float) -> str:
    return _clamp(graph, out, input, min)


@rule("clamp_max", shape=like)
def _clamp_max(graph: Graph, out: Tensor, input: Tensor, max: float) -> str:
    return _clamp(graph, out, input, None, max)


@rule("hardsigmoid", shape=like)
def _hardsigmoid(graph: Graph, out: Tensor, input: Tensor, inplace: bool = False) -> str:
    return graph.add("HardSigmoid", input, alpha=1 / 6, beta=0.5)


@rule("elu", shape=like)
def _elu(graph: Graph, out: Tensor, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> str:
    return graph.add("Elu", input, alpha=float(alpha))


@rule("leaky_relu", shape=like)
def _leaky_relu(
    graph: Graph, out: Tensor, input: Tensor, negative_slope: float = 0.01, inplace: bool = False
) -> str:
    return graph.add("LeakyRelu", input, alpha=float(negative_slope))


@rule("prelu", shape=like)
def _prelu(graph: Graph, out: Tensor, input: Tensor, weight: Tensor) -> str:
    shape = [weight.numel(), *[1] * (input.dim() - 2)] if input.dim() > 1 else [1]
    return graph.add("PRelu", input, graph.reshape(weight, shape))


@rule("softplus", shape=like)
def _softplus(graph: Graph, out: Tensor, input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> str:
    if beta != 1 or threshold != 20:
        raise Inconvertible(f"softplus with beta {beta} and threshold {threshold}; only 1 and 20")
    return graph.add("Softplus", input)


def _softmax(op: str) -> Callable[..., str]:
    def emit(
        graph: Graph,
        out: Tensor,
        input: Tensor,
        dim: int | None = None,
        _stacklevel: int = 3,
        dtype: torch.dtype | None = None,
    ) -> str:
        if dim is None or not isinstance(_stacklevel, int) or dtype not in (None, torch.float32):
            raise Inconvertible(f"{op} over dim {dim} as {dtype}; an axis must be named, and no other type")
        return graph.add(op, input, axis=axes(input, dim)[0])

    return emit


register(["softmax"], _softmax("Softmax"), like)
register(["log_softmax"], _softmax("LogSoftmax"), like)


@rule("rsqrt", shape=like)
def _rsqrt(graph: Graph, out: Tensor, input: Tensor) -> str:
    return graph.add("Reciprocal", graph.add("Sqrt", input))


@rule("square", shape=like)
def _square(graph: Graph, out: Tensor, input: Tensor) -> str:
    return graph.add("Mul", input, input)


@rule(
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
    shape=itself,
    complexes=True,
)
def _dropout(
    graph: Graph, out: Tensor, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> str:
    if training and p > 0:
        raise Inconvertible("dropout that is active in evaluation mode")
    return graph.name(input)


@rule("contiguous", "detach", "clone", complexes=True)
def _same(graph: Graph, out: Tensor, input: Tensor, **_: Any) -> str:
    return graph.name(input)


@rule("to", "float", "double", "half", "bfloat16", "type_as", "cpu", shape=like)
def _cast(graph: Graph, out: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> str | Tensor:
    wanted = [*args, *kwargs.values()]
    types = [w.dtype if isinstance(w, Tensor) else w for w in wanted]
    # All is computed in single precision, whatever floating type the network prefers.
    if any(isinstance(t, torch.dtype) and not t.is_floating_point for t in types):
        raise Inconvertible(f"conversion to {types}; only floating types")
    return graph.name(input) if isinstance(input, Symbol) else input.float()


@rule("add", "__add__", "__radd__", shape=broadcast, complexes=True)
def _add(graph: Graph, out: Tensor, input: Any, other: Any, *, alpha: float = 1) -> str:
    return _sum(graph, out, "Add", input, other, alpha)


@rule("sub", "subtract", "__sub__", shape=broadcast, complexes=True)
def _sub(graph: Graph, out: Tensor, input: Any, other: Any, *, alpha: float = 1) -> str:
    return _sum(graph, out, "Sub", input, other, alpha)


@rule("rsub", "__rsub__", shape=broadcast, complexes=True)
def _rsub(graph: Graph, out: Tensor, input: Any, other: Any) -> str:
    return _sum(graph, out, "Sub", other, input, 1)


def _sum(graph: Graph, out: Tensor, op: str, first: Any, second: Any, alpha: float) -> str:
    name = graph.complex if out.is_complex() else graph.name
    scaled = name(second)
    if isinstance(alpha, complex):
        raise Inconvertible("addition with a complex alpha")
    if alpha != 1:
        scaled = graph.add("Mul", scaled, float(alpha))
    return graph.add(op, name(first), scaled)


@rule("mul", "multiply", "__mul__", "__rmul__", shape=broadcast, complexes=True)
def _mul(graph: Graph, out: Tensor, input: Any, other: Any) -> str:
    if not out.is_complex():
        return graph.add("Mul", input, other)
    if _complex(input) and _complex(other):
        x, w = graph.complex(input), graph.complex(other)
        real, imaginary = (graph.add("Gather", x, [i], axis=-1) for i in (0, 1))
        return graph.add("Add", graph.add("Mul", real, w), graph.add("Mul", imaginary, rotated(graph, w)))
    z, factor = (input, other) if _complex(input) else (other, input)
    return graph.add("Mul", graph.complex(z), _factor(graph, factor))


@rule("div", "divide", "true_divide", "__div__", "__truediv__", shape=broadcast, complexes=True)
def _div(graph: Graph, out: Tensor, input: Any, other: Any, *, rounding_mode: str | None = None) -> str:
    if rounding_mode is not None or _complex(other):
        raise Inconvertible("division with rounding, or by complex numbers")
    if out.is_complex():
        return graph.add("Div", graph.complex(input), _factor(graph, other))
    return graph.add("Div", input, other)


@rule("__rtruediv__", "__rdiv__", shape=broadcast)
def _rdiv(graph: Graph, out: Tensor, input: Any, other: Any) -> str:
    return graph.add("Div", other, input)


def _complex(value: Any) -> bool:
    return value.is_complex() if isinstance(value, Tensor) else isinstance(value, complex)


def _factor(graph: Graph, value: Any) -> str:
    """Real numbers that broadcast against complex ones."""
    return graph.add("Unsqueeze", value, [value.dim()]) if isinstance(value, Tensor) else graph.name(value)


def rotated(graph: Graph, value: str) -> str:
    """Complex numbers times i."""
    swapped = graph.add("Gather", value, [1, 0], axis=-1)
    return graph.add("Mul", swapped, torch.tensor([-1.0, 1.0]))


@rule("pow", "__pow__", shape=broadcast)
def _pow(graph: Graph, out: Tensor, input: Any, exponent: Any) -> str:
    return graph.add("Pow", input, exponent)


@rule("__rpow__", shape=broadcast)
def _rpow(graph: Graph, out: Tensor, input: Any, other: Any) -> str:
    return graph.add("Pow", other, input)


@rule("maximum", shape=broadcast)
def _maximum(graph: Graph, out: Tensor, input: Tensor, other: Tensor) -> str:
    return graph.add("Max", input, other)


@rule("minimum", shape=broadcast)
def _minimum(graph: Graph, out: Tensor, input: Tensor, other: Tensor) -> str:
    return graph.add("Min", input, other)


def _reduction(op: str) -> Callable[..., str]:
    def emit(
        graph: Graph,
        out: Tensor,
        input: Tensor,
        dim: Ints | None = None,
        keepdim: bool = False,
        dtype: torch.dtype | None = None,
    ) -> str:
        if dtype not in (None, torch.float32):
            raise Inconvertible(f"{op} as {dtype}")
        return graph.add(op, input, axes(input, dim), keepdims=int(keepdim))

    return emit


register(["mean"], _reduction("ReduceMean"), reduced, complexes=True)
register(["sum"], _reduction("ReduceSum"), reduced, complexes=True)
register(["amax"], _reduction("ReduceMax"), reduced)
register(["amin"], _reduction("ReduceMin"), reduced)
register(["logsumexp"], _reduction("ReduceLogSumExp"), reduced)


def _extremum(op: str, reduce: str) -> Callable[..., Any]:
    def emit(
        graph: Graph, out: Any, input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None
    ) -> Any:
        second = dim if isinstance(dim, Tensor) else other
        if second is not None:
            return graph.add(op, input, second)
        values = graph.add(reduce, input, axes(input, dim), keepdims=int(keepdim))
        # The second result, where the extrema are, has no name.
        return values if dim is None else [values, ""]

    return emit


register(["max"], _extremum("Max", "ReduceMax"))
register(["min"], _extremum("Min", "ReduceMin"))
