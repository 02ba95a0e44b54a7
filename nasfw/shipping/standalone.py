"""A network as Python source that needs torch alone: its layers and, traced, its forward pass."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasfw.hardware.quiet import silence
from nasfw.shipping.forward import Body, fold, forward
from nasfw.shipping.layers import Parts, constructor, container
from nasfw.spaces.normalisation import restore
from nasfw.values import UsageError

# What a source may differ by from its network, of the largest output: rounding.
_ROUNDING = 1e-5
_COMPARED = ("getitem", "eq", "ne", "lt", "le", "gt", "ge", "mod", "not_", "and_", "or_")
_PURE = (getattr, *(getattr(operator, name) for name in _COMPARED))
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# What a tensor tells of itself without its values.
_FORM = ("shape", "size", "ndim", "dim", "dtype", "is_floating_point", "is_contiguous")


@dataclass(frozen=True)
class Source:
    """The class ``Network`` as ``code``, the lines that import what it uses, and what to know of it.

    ``constants`` are tensors that its state has besides that of the network it was made of.
    """

    code: str
    imports: tuple[str, ...]
    constants: Mapping[str, Tensor]
    remark: str = ""


def source(model: nn.Module, example: Tensor) -> Source:
    """The code that computes what ``model`` does to inputs like ``example``, with the names of its state.

    Layers of torch.nn stay layers, and what lies between them is traced. Where that is impossible, the
    operations that ``torch.export`` finds are written down. UsageError if neither gives the same outputs.
    """
    model, reasons = copy.deepcopy(model).cpu().eval(), []
    restore(model)
    # Tracing builds layers, and must not disturb the random numbers of others.
    with torch.random.fork_rng(devices=[]), silence():
        for write in (_layered, _operations):
            try:
                written = write(model, example)
                _check(written, model, example)
                return written
            # A network's own code meets stand-ins for tensors here, and may raise anything.
            except Exception as error:
                reason = next(iter(str(error).strip().splitlines()), "")
                reasons.append(f"{type(error).__name__}: {reason[:200]}")
    raise UsageError(
        f"{type(model).__name__} cannot be written as code of its own (by layers: {reasons[0]}; by "
        f"torch.export: {reasons[1]}); its forward pass must be the same sequence of operations for all "
        "inputs: use torch.where and other operations in place of if, for and int() on values of tensors"
    )


def _check(written: Source, model: nn.Module, example: Tensor) -> None:
    """ValueError unless the source does to some inputs what the network does."""
    names: dict[str, Any] = {}
    exec(compile("\n".join([*written.imports, written.code]), "model.py", "exec"), names)
    network = names["Network"]()
    network.load_state_dict({**model.state_dict(), **written.constants})
    network.eval()
    with torch.no_grad():
        for x in (example, example[:1], torch.cat([example, example[:1]])):
            if difference(network(x.clone()), model(x.clone())) > _ROUNDING:
                raise ValueError("the traced operations give other outputs than the network")


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest expected value; infinite if they cannot be compared."""
    if found.shape != expected.shape:
        return math.inf
    if torch.equal(found, expected):
        return 0.0
    found, expected = found.double(), expected.double()
    value = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    return value if math.isfinite(value) else math.inf


def _layered(model: nn.Module, example: Tensor) -> Source:
    """The source whose layers are those of torch.nn."""
    model = copy.deepcopy(model)
    learning = copy.deepcopy(model).train()
    body = Body(_traced(model, example), model)
    try:
        same = _by_mode(body.statements, Body(_traced(learning, example), learning).statements)
    # Only the evaluation has to be traceable.
    except Exception:
        same = False
    remark = "" if same else "In training, too, it computes what the searched network does in evaluation."
    return _written(model, model, body, True, remark)


def _traced(model: nn.Module, example: Tensor) -> fx.Graph:
    """What ``model`` does to its first argument, the others being what they are by default."""
    _, *rest = inspect.signature(model.forward).parameters.values()
    given = {p.name: p.default for p in rest if p.kind is p.POSITIONAL_OR_KEYWORD}
    graph = _Tracer(example).trace(model, given or None)
    for node in graph.nodes:
        if node.op == "call_module" and _passes(model.get_submodule(node.target)):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return _with_one_input(graph)


def _passes(module: nn.Module) -> bool:
    """Whether the layer returns its input as it is, in training too."""
    dropped = getattr(module, "p", None) if type(module) in _DROPOUTS else None
    return type(module) is nn.Identity or dropped == 0


class _Tracer(fx.Tracer):
    """Traces through all modules but layers of torch.nn, and decides conditions on shapes by an example."""

    # Otherwise what is computed of buffers alone would be constant, whatever state is loaded.
    proxy_buffer_attributes = True

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example, self.deciding = example, False

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.deciding else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        return attr_val if self.deciding else super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return constructor(m) is not None

    def to_bool(self, obj: fx.Proxy) -> bool:
        """The condition's truth, if it is the same for all batches of such inputs."""
        pending = [obj.node]
        while pending:
            node = pending.pop()
            if node.target in _FORM or (node.target is getattr and node.args[1] in _FORM):
                continue
            if node.op != "call_function":
                raise ValueError("a condition depends on values of tensors")
            pending += node.all_input_nodes
        batches = (self.example, torch.cat([self.example, self.example[:1]]))
        self.deciding = True
        first, second = (bool(self._value(obj.node, x.clone())) for x in batches)
        self.deciding = False
        if first != second:
            raise ValueError("a condition depends on the size of the batch")
        return first

    @torch.no_grad()
    def _value(self, wanted: fx.Node, x: Tensor) -> Any:
        """What a node is for an input ``x``."""
        values: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            args, words = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "call_module":
                values[node] = self.root.get_submodule(node.target)(*args, **words)
            elif node.op == "call_function":
                values[node] = node.target(*args, **words)
            elif node.op == "call_method":
                values[node] = getattr(args[0], node.target)(*args[1:], **words)
            elif node.op == "get_attr":
                values[node] = reduce(getattr, node.target.split("."), self.root)
            else:
                values[node] = None if values else x
        return values[wanted]


def _by_mode(statements: Sequence[ast.stmt], learning: Sequence[ast.stmt]) -> bool:
    """Let ``statements`` follow the mode where training has True for False; False if more is different."""
    pairs = [(ast.walk(a), ast.walk(b)) for a, b in zip(statements, learning, strict=True)]
    for left, right in (pair for walks in pairs for pair in zip(*walks, strict=True)):
        for name, value in ast.iter_fields(left):
            if isinstance(value, ast.Constant) and value.value is False:
                other = getattr(right, name)
                if isinstance(other, ast.Constant) and other.value is True:
                    for node in (left, right):
                        setattr(node, name, ast.parse("self.training", mode="eval").body)
    return [ast.dump(s) for s in statements] == [ast.dump(s) for s in learning]


def _operations(model: nn.Module, example: Tensor) -> Source:
    """The source whose forward pass is made of torch's elementary operations."""
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (example,), dynamic_shapes=sizes, strict=False).module()
    program.graph.set_codegen(fx.graph.CodeGen())
    body = Body(_with_one_input(program.graph), model)
    remark = "Its batch norms and dropouts work as in evaluation, in training too."
    return _written(model, program, body, False, remark)


def _with_one_input(graph: fx.Graph) -> fx.Graph:
    """``graph`` without checks and without arguments that nothing uses, and with one result."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in reversed(graph.nodes):
        name = str(node.target)
        check = node.op.startswith("call") and ("_assert" in name or name == "_guards_fn")
        told = node.target in (*_FORM, *_PURE) or "sym_size" in name
        unused = not node.users and (told or node in inputs[1:])
        if check or unused:
            graph.erase_node(node)
        elif node.op == "output" and isinstance(node.args[0], tuple | list):
            (result,) = node.args[0]
            node.args = (result,)
    return graph


def _written(model: nn.Module, values: nn.Module, body: Body, layers: bool, remark: str) -> Source:
    """The class with the parts of ``model`` and this forward pass; constants are found in ``values``."""
    parts = Parts(model, values, body, layers)
    code = [
        f"class Network(nn.{container(model)}):",
        f'''    """The network, {"layer by layer" if layers else "operation by operation"}."""''',
        "",
        "    def __init__(self):",
        "        super().__init__()",
        *(fold(line, 8) for line in parts.lines),
        "",
        f"    def forward(self, {body.argument}):",
        *(fold(line, 8) for line in forward(body)),
    ]
    imports = [
        *sorted(i for i in body.imports if i.startswith("import")),
        "import torch",
        "from torch import nn",
    ]
    imports += sorted(i for i in body.imports if i.startswith("from"))
    return Source("\n".join(code), tuple(imports), parts.constants, remark)
