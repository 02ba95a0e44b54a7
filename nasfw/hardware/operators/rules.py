"""The table of operations, and what many of its entries share: shapes, axes, sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nasfw.hardware.operators.graph import Inconvertible, empty

Ints = int | Sequence[int]


@dataclass(frozen=True)
class Rule:
    """How to write an operation, its shape if torch is not asked, and whether complex numbers may enter."""

    emit: Callable[..., Any]
    shape: Callable[..., Any] | None
    complexes: bool
    inplace: int

    def overwrites(self, function: Any, args: Sequence[Any], kwargs: Any) -> bool:
        """Whether the operation changes its first argument."""
        if function.__name__.endswith("_") and not function.__name__.endswith("__"):
            return True
        positional = 0 <= self.inplace < len(args) and args[self.inplace]
        return bool(positional or kwargs.get("inplace"))


RULES: dict[Any, Rule] = {}


def register(
    names: Iterable[str],
    emit: Callable[..., Any],
    shape: Callable[..., Any] | None = None,
    complexes: bool = False,
) -> None:
    """Let ``emit`` write all operations of these names; those in place only if torch need not be asked."""
    parameters = list(inspect.signature(emit).parameters)
    inplace = parameters.index("inplace") - 2 if "inplace" in parameters else -1
    for name in names:
        for variant in (name, f"{name}_") if shape else (name,):
            for operation in operations(variant):
                RULES[operation] = Rule(emit, shape, complexes, inplace)


def operations(name: str) -> Iterable[Any]:
    """Everything in torch that has this name."""
    for place in (torch, F, Tensor, torch.fft):
        found = getattr(place, name, None)
        if callable(found):
            yield found
        elif inspect.isgetsetdescriptor(found) or isinstance(found, property):
            yield found.__get__


_Emitter = TypeVar("_Emitter", bound=Callable[..., Any])


def rule(
    *names: str, shape: Callable[..., Any] | None = None, complexes: bool = False
) -> Callable[[_Emitter], _Emitter]:
    """Register the decorated function for all operations of these names."""

    def decorate(emit: _Emitter) -> _Emitter:
        register(names, emit, shape, complexes)
        return emit

    return decorate


def like(input: Tensor, *_: Any, **__: Any) -> Tensor:
    """The shape of the first argument."""
    return empty(input.shape, input.is_complex())


def itself(input: Tensor, *_: Any, **__: Any) -> Tensor:
    """The first argument, for operations that return it."""
    return input


def broadcast(*args: Any, **kwargs: Any) -> Tensor:
    """The shape to which all tensors among the arguments are repeated."""
    values = [*args, *kwargs.values()]
    shapes = [v.shape for v in values if isinstance(v, Tensor)]
    complexes = any(v.is_complex() if isinstance(v, Tensor) else isinstance(v, complex) for v in values)
    same = all(s == shapes[0] for s in shapes)
    return empty(shapes[0] if same else _joined(shapes), complexes)


def _joined(shapes: Sequence[Sequence[int]]) -> list[int]:
    rank = max(map(len, shapes))
    columns = zip(*([1] * (rank - len(s)) + list(s) for s in shapes), strict=True)
    sizes = [{n for n in column if n != 1} or {1} for column in columns]
    if any(len(s) > 1 for s in sizes):
        raise Inconvertible(f"shapes {', '.join(str(tuple(s)) for s in shapes)} do not fit each other")
    return [s.pop() for s in sizes]


def axes(input: Tensor, dim: Ints | None) -> list[int]:
    """Axes counted from the front, in order."""
    rank = input.dim()
    if dim is None:
        return list(range(rank))
    dims = [dim] if isinstance(dim, int) else list(dim)
    if not dims or any(not -rank <= d < rank for d in dims):
        raise Inconvertible(f"axes {dim} of a tensor of rank {rank}")
    return sorted(d % rank for d in dims)


def reduced(input: Tensor, dim: Ints | None = None, keepdim: bool = False, *_: Any, **__: Any) -> Tensor:
    """What is left of a shape without some of its axes."""
    gone = axes(input, dim)
    shape = [1 if i in gone else n for i, n in enumerate(input.shape) if keepdim or i not in gone]
    return empty(shape, input.is_complex())
