"""A traced forward pass as the lines of Python that a person would write."""

from __future__ import annotations

import ast
import copy
import keyword
import re
import textwrap
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import torch
from torch import fx, nn

WIDTH = 110
_MODULES = {"math": "math", "_operator": "operator", "operator": "operator"}


class Body:
    """The forward pass as ``statements``, with the names that tracing gave; and what they need.

    ``modules`` are called, ``tensors`` are read, both by their paths in the network.
    """

    def __init__(self, graph: fx.Graph, model: nn.Module) -> None:
        self.modules = {str(n.target) for n in graph.nodes if n.op == "call_module"}
        self.tensors = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
        self.imports: set[str] = set()
        for node in graph.nodes:
            node.type = None
        code = graph.python_code("self")
        function = ast.parse(code.src).body[-1]
        assert isinstance(function, ast.FunctionDef)
        self.argument = function.args.args[1].arg
        plain = _Plain(model, code.globals, self.imports)
        self.statements: list[ast.stmt] = []
        for statement in function.body:
            # The tracer sets names to None where their values end; names that are used again do so, too.
            if isinstance(statement, ast.Assign) and not _is_none(statement.value):
                value = plain.visit(statement.value)
                if isinstance(value, ast.Name) or _reads(value):
                    plain.read[_target(statement)] = value
                else:
                    self.statements.append(ast.Assign(statement.targets, value, lineno=0))
            elif isinstance(statement, ast.Return):
                self.statements.append(plain.visit(statement))
        self._shorten()
        if plain.placed:
            self.statements.insert(0, ast.parse(f"device = {self.argument}.device").body[0])

    def _shorten(self) -> None:
        """Return what is computed last without a name for it."""
        match self.statements:
            case [*_, ast.Assign([ast.Name(made)], value), ast.Return(ast.Name(returned))] if (
                made == returned
            ):
                self.statements[-2:] = [ast.Return(value)]


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _reads(node: ast.expr) -> bool:
    """Whether the expression names a part of the network, or a property of a tensor that never changes."""
    text = ast.unparse(node)
    property = re.fullmatch(r"\w+\.(shape(\[-?\d+\])?|device|dtype)", text)
    return property is not None or bool(re.match(r"self[.[][^(]*$|getattr\(self", text))


class _Plain(ast.NodeTransformer):
    """Turns the tracer's code into what a person would write."""

    def __init__(self, model: nn.Module, names: Mapping[str, Any], imports: set[str]) -> None:
        self.model, self.names, self.imports = model, names, imports
        self.read: dict[str, ast.expr] = {}
        self.placed = False

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.read:
            return copy.deepcopy(self.read[node.id])
        known = self.names.get(node.id)
        if known is None or isinstance(node.ctx, ast.Store) or known is torch:
            return node
        if isinstance(known, float):
            self.imports.add("import math")
            return ast.parse(f"math.{node.id}", mode="eval").body
        module = _MODULES.get(known.__module__)
        if module is None:
            raise ValueError(f"it calls {known.__module__}.{node.id}, which is not torch's")
        self.imports.add(f"import {module}")
        return ast.parse(f"{module}.{known.__name__}", mode="eval").body

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        path = _path(node)
        if path is not None:
            return ast.parse(place(self.model, path), mode="eval").body
        text = ast.unparse(node)
        if text.startswith("torch.nn.functional."):
            self.imports.add("from torch.nn import functional as F")
            return ast.parse("F." + node.attr, mode="eval").body
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        path = _path(node)
        if path is not None:
            return ast.parse(place(self.model, path), mode="eval").body
        if isinstance(node.func, ast.Name) and self.names.get(node.func.id) is torch.device:
            # A network that is on another device than the one it was traced on makes its tensors there.
            self.placed = True
            return ast.Name("device", ast.Load())
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.slice, ast.Tuple):
            node.slice.elts = [_as_slice(e) for e in node.slice.elts]
        else:
            node.slice = _as_slice(node.slice)
        return node


def _as_slice(node: ast.expr) -> ast.expr:
    """``slice(None, 2, None)`` as it is written between brackets."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "slice"):
        return node
    lower, upper, step = (None if _is_none(a) else a for a in node.args)
    return ast.Slice(lower, upper, step)


def _path(node: ast.expr) -> str | None:
    """The path in the network that the tracer's ``getattr(self.blocks, "0").bn1`` means; None for others."""
    if isinstance(node, ast.Attribute):
        whole, last = node.value, node.attr
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        whole, last = node.args[0], ast.literal_eval(node.args[1])
    else:
        return None
    if isinstance(whole, ast.Name) and whole.id == "self":
        return str(last)
    front = _path(whole)
    return None if front is None else f"{front}.{last}"


def place(model: nn.Module, path: str) -> str:
    """How code names the part of ``self`` that has this path in ``model``."""
    text, at = "self", model
    for part in path.split("."):
        if numbered(at):
            text += f"[{part}]"
        elif isinstance(at, nn.ModuleDict):
            text += f'["{part}"]'
        elif part.isidentifier() and not keyword.iskeyword(part):
            text += f".{part}"
        else:
            text = f"getattr({text}, {part!r})"
        at = at._modules.get(part) or nn.Module()
    return text


def numbered(module: nn.Module) -> bool:
    """Whether the parts are known by their numbers."""
    listed = isinstance(module, nn.Sequential | nn.ModuleList)
    return listed and list(module._modules) == [str(i) for i in range(len(module._modules))]


def forward(body: Body) -> Iterator[str]:
    """The statements with as few names as they can do with, so that no value is kept for longer than used."""
    uses = [
        {n.id for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        for s in body.statements
    ]
    last = {name: i for i, names in enumerate(uses) for name in names}
    made = {body.argument, *(_target(s) for s in body.statements)} - {"", "device"}
    names, group = {body.argument: body.argument}, ""
    for i, statement in enumerate(body.statements):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in made:
                node.id = names[node.id]
        target = _target(statement)
        if target in made:
            names = {n: v for n, v in names.items() if last.get(n, -1) > i}
            names[target] = next(v for v in _pool(body.argument) if v not in names.values())
            statement.targets[0].id = names[target]  # type: ignore[attr-defined]
        text = ast.unparse(statement)
        found = re.search(r"self\.([\w.]*\[\d+\])\.\w+[.(\[]", text)
        if re.search(r"self[.[]", text) and (found.group(1) if found else "") != group:
            group = found.group(1) if found else ""
            yield from [f"# {group}"] if group else []
        yield text.replace("'", '"')


def _target(statement: ast.stmt) -> str:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    return target.id if isinstance(target, ast.Name) else ""


def _pool(first: str) -> Iterator[str]:
    """Names for values, those of formulas first."""
    yield first
    yield from (n for n in "xyzuvw" if n != first)
    yield from (n for i in count(1) if (n := f"x{i}") != first)


def fold(line: str, indent: int = 0) -> str:
    """``line`` of code, indented; if it is too long, the items in its longest brackets go over several."""
    start = " " * indent
    # Nothing inside a text is a bracket, and lines end after commas alone.
    shown = re.sub(_TEXT, _mask, line)
    first, close = max(_brackets(shown), key=lambda pair: pair[1] - pair[0], default=(0, 0))
    if indent + len(line) <= WIDTH or close <= first + 1:
        return start + line
    masked = re.sub(r"(?<!,) ", _mask, shown[first + 1 : close])
    hidden = iter([c for c, m in zip(line[first + 1 : close], masked, strict=True) if m == _HIDDEN])
    inner = textwrap.wrap(masked, WIDTH - indent - 4, break_long_words=False, break_on_hyphens=False)
    items = ["".join(next(hidden) if c == _HIDDEN else c for c in row) for row in inner]
    rows = [f"{start}{line[: first + 1]}", *(f"{start}    {item}" for item in items), start + line[close:]]
    return "\n".join(rows)


_TEXT = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\""""
_HIDDEN = "\0"


def _mask(found: re.Match[str]) -> str:
    return _HIDDEN * len(found.group())


def _brackets(line: str) -> Iterator[tuple[int, int]]:
    """Where the outermost brackets open and close."""
    opened: list[int] = []
    for i, character in enumerate(line):
        if character in "([{":
            opened.append(i)
        elif character in ")]}":
            start = opened.pop()
            if not opened:
                yield start, i
