"""A plugin's parameters read from its source: a wrong one is refused before its module imports torch.

Importing torch takes about two seconds, most of the time that a user waits for the message about a slip of
the pen. An outline is only a first look: whatever it cannot tell for sure is left to the class itself.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

_CONTRACTS = {"Task", "SearchSpace", "Strategy", "Objective", "Device", "Executor"}
_LIGHT = {
    "__future__",
    "collections.abc",
    "pathlib",
    "pydantic",
    "typing",
    "nasfw.values",
    "nasfw.spaces.limits",
    "nasfw.strategies.parameters",
}


def outline(reference: str) -> type | None:
    """A dataclass with the fields of the class at ``module:Class``; None if its source does not tell them."""
    module, _, name = reference.partition(":")
    if module in sys.modules:
        return None
    tree = _tree(module)
    node = _class(tree, name)
    if tree is None or node is None or not all(_adds_no_fields(b, tree) for b in node.bases):
        return None
    fields = _fields(node, _namespace(tree))
    return None if fields is None else dataclasses.make_dataclass(name, fields, kw_only=True)


def _tree(module: str) -> ast.Module | None:
    try:
        found = importlib.util.find_spec(module)
        return ast.parse(Path(found.origin).read_bytes()) if found and found.origin else None
    # Whatever is wrong with the module, its import will say.
    except Exception:
        return None


def _class(tree: ast.Module | None, name: str) -> ast.ClassDef | None:
    classes = [n for n in (tree.body if tree else ()) if isinstance(n, ast.ClassDef) and n.name == name]
    return classes[0] if classes else None


def _adds_no_fields(base: ast.expr, tree: ast.Module) -> bool:
    """Whether a base class is a contract, or derives from nothing else and is no dataclass."""
    name = ast.unparse(base)
    if name in _CONTRACTS:
        return True
    for node in tree.body:
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and name in [a.asname or a.name for a in node.names]
        ):
            origin = _tree(node.module) if node.level == 0 else None
            parent = _class(origin, name)
            if origin is None or parent is None or parent.decorator_list:
                return False
            return all(_adds_no_fields(b, origin) for b in parent.bases)
    return False


def _namespace(tree: ast.Module) -> dict[str, Any]:
    """The names that annotations may use: imports of light modules, and aliases of types made of them."""
    names: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in _LIGHT:
            module = importlib.import_module(node.module)
            names.update({a.asname or a.name: getattr(module, a.name, Any) for a in node.names})
        elif isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp)):
            alias = _evaluated(node.value, names)
            names.update({t.id: alias for t in node.targets if isinstance(t, ast.Name) and alias is not Any})
    return names


def _evaluated(annotation: ast.expr, names: dict[str, Any]) -> Any:
    """The type that an annotation means; Any if that takes names from heavier modules."""
    try:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        return eval(compile(ast.Expression(annotation), "annotation", "eval"), dict(names))
    except Exception:
        return Any


def _fields(node: ast.ClassDef, names: dict[str, Any]) -> list[Any] | None:
    fields: list[Any] = []
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        text = ast.unparse(line.annotation)
        if "InitVar" in text or "KW_ONLY" in text:
            return None
        if "ClassVar" in text:
            continue
        # What a call such as field(...) means is left to the class: the parameter may have a default.
        default = None if line.value is None else dataclasses.field(default=None)
        hint = _evaluated(line.annotation, names)
        fields.append((line.target.id, hint) if default is None else (line.target.id, hint, default))
    return fields
