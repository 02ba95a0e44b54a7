"""A network as ONNX, from one run of its ``forward`` on tensors that have shapes but no values.

Every torch operation of that run is intercepted and written down as ``operators`` says, so Python in the
network (loops, conditions on shapes, hooks that compute weights) runs as it always does, and what only
concerns parameters is computed once and becomes a constant. For a symbolic batch the run is repeated with
another batch size: what differs between both graphs depends on the batch, and nothing else may differ.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from nasfw.hardware.operators import RULES, Graph, Inconvertible, Node, Symbol, empty
from nasfw.hardware.writing import assemble

__all__ = ["Inconvertible", "convert"]

_Modules = list[tuple[str, nn.Module]]

# A batch of one treats itself specially wherever anything can; a large prime is no size of anything else.
_ONE, _MANY = 1, 61
_ALIASES = {"axis": "dim", "keepdims": "keepdim"}


def convert(model: nn.Module, input_shape: Sequence[int], batch: int | None = 1) -> onnx.ModelProto:
    """``model`` in evaluation mode, in single precision, with one "input" and one "output".

    ``input_shape`` has no batch axis. ``batch`` is the size of that axis; None leaves it open, as "batch".
    ``model`` stays as it is. Inconvertible if that cannot be done without doubt.
    """
    modules = list(model.named_modules())
    _check(modules)
    graph = _trace(modules, (_ONE if batch is None else batch, *input_shape))
    if batch is not None:
        return assemble(graph, (batch, *input_shape), graph.output.shape)
    other = _trace(modules, (_MANY, *input_shape))
    _unite(graph, other)
    shape = [
        size if size == larger else "batch" if size == 1 else f"{size}*batch"
        for size, larger in zip(graph.output.shape, other.output.shape, strict=True)
    ]
    return assemble(graph, ("batch", *input_shape), shape)


def _trace(modules: _Modules, shape: Sequence[int]) -> Graph:
    """The graph of one run of the first module on an input of ``shape``."""
    model, own = modules[0][1], _tensors(modules)
    graph = Graph()
    with _untouched(modules, {tensor.device for _, tensor in own}), torch.no_grad():
        model.eval()
        tracer = _Tracer(graph, own)
        try:
            with tracer:
                output = model(tracer.symbol(empty(shape), "input"))
        except Inconvertible:
            raise
        except Exception as error:
            raise Inconvertible(
                f"the network cannot be traced with one input: {type(error).__name__}: {error}"
            ) from error
    if not isinstance(output, Symbol) or output.is_complex():
        kind = "a complex tensor" if isinstance(output, Symbol) else type(output).__name__
        raise Inconvertible(
            f"the network's output must be one real tensor that its input determines, not {kind}"
        )
    graph.add("Identity", output, output="output")
    graph.output = output
    return graph


def _tensors(modules: _Modules) -> list[tuple[str, Tensor]]:
    """All parameters and buffers with their paths."""
    return [
        (f"{path}.{name}", tensor)
        for path, module in modules
        for entries in (module._parameters, module._buffers)
        for name, tensor in entries.items()
        if tensor is not None
    ]


@contextmanager
def _untouched(modules: _Modules, devices: set[torch.device]) -> Iterator[None]:
    """Afterwards, modules have the attributes and generators have the states that they have now."""
    held = [vars(module) for _, module in modules]
    held += [attributes[name] for attributes in held for name in ("_parameters", "_buffers", "_modules")]
    content = [entries.copy() for entries in held]
    with _reproducible(devices):
        try:
            yield
        finally:
            for entries, before in zip(held, content, strict=True):
                entries.clear()
                entries.update(before)


@contextmanager
def _reproducible(devices: set[torch.device]) -> Iterator[None]:
    """Refuse random numbers, and take back that they were drawn."""
    cards = [device for device in devices if device.type == "cuda"]
    states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, cards)]
    try:
        yield
        now = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, cards)]
        if not all(map(torch.equal, states, now)):
            raise Inconvertible("the network draws random numbers in evaluation mode")
    finally:
        torch.set_rng_state(states[0])
        for card, state in zip(cards, states[1:], strict=True):
            torch.cuda.set_rng_state(state, card)


class _Tracer(TorchFunctionMode):
    """Writes into ``graph`` what happens to symbols; the rest happens as usual."""

    def __init__(self, graph: Graph, own: list[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.graph = graph
        # Nothing else in the graph has a dot in its name. A tensor with several names goes by its last.
        graph.names = {id(tensor): name for name, tensor in own}
        graph.fixed = {tensor.untyped_storage().data_ptr() for _, tensor in own}
        self.device = own[0][1].device if own else torch.device("cpu")
        graph.device = self.device
        self.shadows: dict[int, Tensor] = {}
        self.living: list[weakref.ref[Symbol]] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function == _DEVICE and isinstance(args[0], Symbol):
            return self.device
        kwargs = {_ALIASES.get(name, name): value for name, value in kwargs.items()} if kwargs else {}
        traced = args and isinstance(args[0], Symbol)
        if function in _PASSIVE or not (traced or _has_symbol((*args, *kwargs.values()))):
            return self._usual(function, args, kwargs)
        rule = RULES.get(function)
        if rule is None:
            raise Inconvertible(_unknown(function))
        try:
            # Most of torch's own ways to find a shape without computing take longer than all the rest.
            shadow = rule.shape(*args, **kwargs) if rule.shape else self._shadow(function, args, kwargs)
            if not rule.complexes and _is_complex((shadow, *args, *kwargs.values())):
                raise Inconvertible(f"{resolve_name(function)} of complex numbers is not converted")
            result = rule.emit(self.graph, shadow, *args, **kwargs)
        except TypeError as error:
            raise Inconvertible(f"{resolve_name(function)} with arguments of this sort: {error}") from error
        if rule.overwrites(function, args, kwargs):
            return self._overwrite(function, args[0], shadow, result)
        source = next((v for v in (*args, *kwargs.values()) if isinstance(v, Symbol)), None)
        if rule.shape and isinstance(result, str) and not isinstance(shadow, Symbol):
            # Whether a cast copies depends on types that are not known here, so it may be a view.
            same = source is not None and source.result == result
            return self.symbol(shadow, result, source.memory if source is not None and same else None)
        return self._bind(shadow, result, source)

    def symbol(self, shadow: Tensor, result: str, memory: object = None) -> Symbol:
        """A symbol with the shape of ``shadow``, which is a view of ``memory`` if that is given."""
        symbol = shadow.as_subclass(Symbol)
        symbol.result, symbol.memory = result, memory or object()
        self.living.append(weakref.ref(symbol))
        return symbol

    def _usual(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Do what does not depend on the input, unless it would change what the model or graph holds."""
        name = function.__name__
        changes = name in ("__setitem__", "__set__") or (name.endswith("_") and not name.endswith("__"))
        targets = [kwargs.get("out"), *(args[:1] if changes or kwargs.get("inplace") else ())]
        for target in targets:
            if isinstance(target, Tensor) and target.untyped_storage().data_ptr() in self.graph.fixed:
                raise Inconvertible(f"{resolve_name(function)} changes a tensor that the network keeps")
        return function(*args, **kwargs)

    def _shadow(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The result of ``function`` as far as shapes go."""
        return function(*map(self._hollow, args), **{n: self._hollow(v) for n, v in kwargs.items()})

    def _hollow(self, value: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            return [self._hollow(v) for v in value]
        if not isinstance(value, Tensor) or isinstance(value, Symbol):
            return value
        if (found := self.shadows.get(id(value))) is None:
            found = empty(value.shape, value.is_complex())
            # Only tensors that the model keeps alive have an identity that lasts.
            if id(value) in self.graph.names:
                self.shadows[id(value)] = found
        return found

    def _bind(self, shadow: Any, result: Any, source: Symbol | None) -> Any:
        """Symbols for the results; they share the memory of ``source`` if their shadows do."""
        if isinstance(result, Tensor):
            return result
        if isinstance(shadow, Symbol) and shadow.result == result:
            return shadow
        if isinstance(shadow, Tensor):
            shared = source is not None and _address(source) == _address(shadow)
            # A view would keep alive what it is a view of.
            fresh = torch.empty_strided(shadow.shape, shadow.stride(), dtype=shadow.dtype, device="meta")
            return self.symbol(fresh, result, source.memory if source is not None and shared else None)
        # Extrema come as a named tuple, which is made from a sequence like any other.
        return type(shadow)([self._bind(s, r, source) for s, r in zip(shadow, result, strict=True)])

    def _overwrite(self, function: Any, target: Any, shadow: Tensor, result: str) -> Tensor:
        """Let ``target`` stand for ``result`` from now on, as torch's operations in place do."""
        name = resolve_name(function)
        if isinstance(target, Symbol) and target.result == result:
            return target
        if not isinstance(target, Symbol) or target.shape != shadow.shape or target.dtype != shadow.dtype:
            raise Inconvertible(f"{name} in place would change what its target is")
        self.living = [reference for reference in self.living if reference() is not None]
        for reference in self.living:
            other = reference()
            if other is not None and other is not target and other.memory is target.memory:
                raise Inconvertible(
                    f"{name} in place changes other tensors that share memory with its target"
                )
        target.result = result
        return target


_DEVICE = Tensor.device.__get__
_PASSIVE = {
    *(getattr(Tensor, n).__get__ for n in ("shape", "ndim", "dtype", "device", "layout", "requires_grad")),
    *(getattr(Tensor, n).__get__ for n in ("is_cuda", "is_sparse", "is_quantized", "is_nested", "is_mps")),
    *(getattr(Tensor, n) for n in ("dim", "ndimension", "size", "numel", "nelement", "__len__", "stride")),
    *(getattr(Tensor, n) for n in ("is_contiguous", "is_floating_point", "is_complex", "element_size")),
    *(torch.numel, torch.is_floating_point, torch.is_complex),
}
_READING = {"__bool__", "__int__", "__float__", "__index__", "__array__", "item", "tolist", "numpy"}


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _unknown(function: Any) -> str:
    name = resolve_name(function) or str(function)
    if function.__name__ in _READING:
        return f"what the network does depends on the values of its input: {name}"
    return f"{name} is an operation that the converter does not know"


def _check(modules: _Modules) -> None:
    """Refuse what a run without values would disturb or could not see."""
    for name, module in modules:
        compiled = module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"
        if compiled or isinstance(module, torch.jit.ScriptModule):
            raise Inconvertible(f"module {name!r} is compiled; its operations cannot be seen")
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            # Torch's own compute weights; anyone else's may keep what it sees.
            if not type(hook).__module__.startswith("torch.nn.utils."):
                raise Inconvertible(f"module {name!r} has a hook, which must not see tensors without values")
    if any(tensor.is_meta for _, tensor in _tensors(modules)):
        raise Inconvertible("the network has parameters on the device meta, that is without values")


def _has_symbol(values: Sequence[Any]) -> bool:
    return any(
        isinstance(value, Symbol) or (isinstance(value, list | tuple) and _has_symbol(value))
        for value in values
    )


def _is_complex(values: Sequence[Any]) -> bool:
    return any(
        value.is_complex()
        if isinstance(value, Tensor)
        else isinstance(value, complex) or (isinstance(value, list | tuple) and _is_complex(value))
        for value in values
    )


def _unite(one: Graph, many: Graph) -> None:
    """Let ``one`` compute what differs from ``many`` by the batch size from the batch size."""
    if one.nodes != many.nodes or one.constants.keys() != many.constants.keys():
        raise Inconvertible("what the network does depends on the batch size")
    nodes: list[Node] = []
    for name, value in list(one.constants.items()):
        larger = many.constants[name]
        if isinstance(value, list) and isinstance(larger, list):
            nodes += _sizes(one, name, value, larger)
        elif isinstance(value, Tensor) and isinstance(larger, Tensor):
            nodes += _repeated(one, name, value, larger)
        elif value != larger:
            raise Inconvertible("a number in the network depends on the batch size")
    if nodes:
        shape = Node("Shape", ("input",), ("batch_size",), {"start": 0, "end": 1})
        one.nodes[:0] = [shape, *nodes]


def _sizes(graph: Graph, name: str, one: list[int], many: list[int]) -> list[Node]:
    """Nodes for the list ``name`` of sizes, ``one`` for the small batch and ``many`` for the large one."""
    if one == many:
        return []
    if len(one) != len(many) or any(b not in (a, _MANY * a) for a, b in zip(one, many, strict=True)):
        raise Inconvertible("a size in the network depends on the batch size, but is no multiple of it")
    changes = [a != b for a, b in zip(one, many, strict=True)]
    if name in graph.targets and sum(changes) == 1:
        graph.constants[name] = [-1 if change else a for a, change in zip(one, changes, strict=True)]
        return []
    del graph.constants[name]
    graph.constants[f"{name}_multiple"] = [a * change for a, change in zip(one, changes, strict=True)]
    graph.constants[f"{name}_fixed"] = [a * (not change) for a, change in zip(one, changes, strict=True)]
    return [
        Node("Mul", ("batch_size", f"{name}_multiple"), (f"{name}_product",), {}),
        Node("Add", (f"{name}_product", f"{name}_fixed"), (name,), {}),
    ]


def _repeated(graph: Graph, name: str, one: Tensor, many: Tensor) -> list[Node]:
    """Nodes for a constant tensor that is the same for every sample."""
    if one is many or (one.shape == many.shape and torch.equal(one, many)):
        return []
    fits = one.dim() == many.dim() and all(
        b in (a, _MANY * a) and (a == b or a == 1) for a, b in zip(one.shape, many.shape, strict=True)
    )
    if not fits or not torch.equal(one.expand_as(many), many):
        raise Inconvertible("a constant in the network depends on the batch size")
    graph.constants[f"{name}_once"] = graph.constants.pop(name)
    graph.constants[f"{name}_shape"] = list(one.shape)
    nodes = _sizes(graph, f"{name}_shape", list(one.shape), list(many.shape))
    return [*nodes, Node("Expand", (f"{name}_once", f"{name}_shape"), (name,), {})]
