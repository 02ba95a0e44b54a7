"""A graph of ONNX operators while it is written, and the tensors that stand for its results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Constant = Tensor | list[int] | int | float


class Inconvertible(ValueError):
    """The network cannot be traced, or has an operation that the converter does not know."""


class Symbol(Tensor):
    """A tensor without values that stands for one result in a graph; views of one ``memory`` share it."""

    result: str
    memory: object
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def empty(shape: Sequence[int], complexes: bool = False) -> Tensor:
    """A tensor without values."""
    return torch.empty(shape, dtype=torch.complex64 if complexes else torch.float32, device="meta")


@dataclass
class Node:
    """An ONNX operator with the names of what it reads and writes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass
class Graph:
    """Nodes in the order of execution, and constants by name; ``targets`` are those that reshapes ask for.

    ``names`` are those of the model's tensors by identity, ``fixed`` the memory that must not change.
    """

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    targets: set[str] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)
    fixed: set[int] = field(default_factory=set)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    output: Tensor = field(default_factory=lambda: empty(()))

    def add(self, op: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """The result of a new node; tensors, numbers and lists of sizes among ``inputs`` become names."""
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(Node(op, self._operands(inputs), (output,), attributes))
        return output

    def add_many(self, count: int, op: str, *inputs: Any, **attributes: Any) -> list[str]:
        """The results of a new node that has ``count`` of them."""
        outputs = [f"{op}_{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(Node(op, self._operands(inputs), tuple(outputs), attributes))
        return outputs

    def reshape(self, value: Any, shape: Sequence[int]) -> str:
        """``value`` in another shape of as many elements."""
        if 0 in shape:
            raise Inconvertible(f"a tensor of shape {tuple(shape)} is empty")
        target = self.constant(list(shape))
        self.targets.add(target)
        return self.add("Reshape", value, target)

    def constant(self, value: Constant) -> str:
        """The name of a constant; a tensor of the model has the name that it has there."""
        if not isinstance(value, Tensor):
            name = f"constant_{len(self.constants)}"
        elif value.is_meta:
            raise Inconvertible("a tensor without values comes from an operation that cannot be seen")
        else:
            name = self.names.get(id(value)) or f"constant_{len(self.constants)}"
            self.fixed.add(value.untyped_storage().data_ptr())
        self.constants[name] = value
        return name

    def name(self, value: Any) -> str:
        """How nodes refer to ``value``."""
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, Symbol):
            if not value.result:
                raise Inconvertible("the positions of extrema are not converted")
            return value.result
        if isinstance(value, list | tuple):
            return self.constant([int(v) for v in value])
        return self.constant(value if isinstance(value, Tensor) else float(value))

    def complex(self, value: Any) -> str:
        """How nodes refer to ``value`` as complex numbers."""
        if isinstance(value, Symbol):
            if value.is_complex():
                return self.name(value)
            padded = [0] * (2 * value.dim() + 1) + [1]
            return self.add("Pad", self.add("Unsqueeze", value, [value.dim()]), padded)
        if isinstance(value, Tensor) and value.is_complex():
            return self.name(value)
        return self.name(torch.as_tensor(value, dtype=torch.complex64))

    def _operands(self, inputs: Iterable[Any]) -> tuple[str, ...]:
        names = [self.name(value) for value in inputs]
        while names and not names[-1]:
            names.pop()
        return tuple(names)
