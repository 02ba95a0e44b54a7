"""Cells as the text that DARTS and its successors publish them in."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from nasfw.hints import brief
from nasfw.mixtures import indices
from nasfw.spaces.operations import NONE
from nasfw.values import Architecture, Option, UsageError

_KINDS = ("normal", "reduce")
_INPUTS, _KEPT = 2, 2
_EXAMPLE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ...], normal_concat=range(2, 6), "
    "reduce=[...], reduce_concat=range(2, 6))"
)

Decisions = Mapping[str, Sequence[Option]]
Pairs = list[tuple[str, int]]


def exists(decisions: Decisions, architecture: Architecture) -> bool:
    """Whether an architecture of cells has a genotype: every node has two edges."""
    return _complete(_nodes(decisions, architecture))


def text(decisions: Decisions, architecture: Architecture) -> str:
    """The genotype of an architecture; UsageError unless every node has two edges.

    Each node's edges come in the order of the states that they leave.
    """
    cells = _nodes(decisions, architecture)
    if not _complete(cells):
        raise UsageError("only cells whose nodes have two edges each have a genotype")
    parts = []
    for kind, nodes in cells.items():
        parts.append(f"{kind}={[pair for pairs in nodes.values() for pair in pairs]}")
        parts.append(f"{kind}_concat=range({_INPUTS}, {_INPUTS + len(nodes)})")
    return f"Genotype({', '.join(parts)})"


def parse(decisions: Decisions, text: str) -> Architecture:
    """The architecture of a genotype; UsageError if it is none, or none of these decisions."""
    cells = _cells(text)
    chosen: dict[str, str] = {}
    for kind in _KINDS:
        nodes = sorted({_edge(name)[1] for name in decisions if name.startswith(f"{kind} ")})
        pairs, joined = cells[kind]
        if len(pairs) != _KEPT * len(nodes) or sorted(joined) != nodes:
            raise UsageError(
                f"the genotype's {kind} cell has {len(pairs)} edges and joins the nodes {joined}; here cells "
                f"have the nodes {nodes} with two edges each, and join them all"
            )
        for i, (option, source) in enumerate(pairs):
            name = f"{kind} {nodes[i // _KEPT]}<-{source}"
            if name in chosen or option == NONE or option not in decisions.get(name, ()):
                raise UsageError(_impossible(decisions, name, option, name in chosen))
            chosen[name] = option
    return tuple(chosen.get(name, NONE) for name in decisions)


def _nodes(decisions: Decisions, architecture: Architecture) -> dict[str, dict[int, Pairs]]:
    """The edges into each node of each kind of cell, with what is on them."""
    indices(decisions, architecture)
    cells: dict[str, dict[int, Pairs]] = {kind: {} for kind in _KINDS}
    for name, option in zip(decisions, architecture, strict=True):
        kind, node, source = _edge(name)
        pairs = cells[kind].setdefault(node, [])
        if option != NONE:
            pairs.append((str(option), source))
    return cells


def _complete(cells: Mapping[str, Mapping[int, Pairs]]) -> bool:
    return all(len(pairs) == _KEPT for nodes in cells.values() for pairs in nodes.values())


def _edge(name: str) -> tuple[str, int, int]:
    """Kind, node and source of the decision ``name``."""
    kind, _, edge = name.partition(" ")
    node, _, source = edge.partition("<-")
    if kind not in _KINDS or not (node.isdigit() and source.isdigit()):
        raise UsageError(f"only cells with normal and reduction edges have a genotype, not decision {name!r}")
    return kind, int(node), int(source)


def _impossible(decisions: Decisions, name: str, option: str, twice: bool) -> str:
    if twice:
        return f"the genotype has two edges {name}; here there is one between two states"
    if name not in decisions:
        return f"the genotype has an edge {name}, which there is not"
    possible = ", ".join(str(o) for o in decisions[name] if o != NONE)
    return f"the genotype has {option!r} on the edge {name}; possible there: {possible}"


def _cells(text: str) -> dict[str, tuple[Pairs, list[int]]]:
    """Each cell's edges and the nodes that it joins, read as data and never run."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args or ast.unparse(call.func) != "Genotype":
            raise ValueError("no genotype")
        values = {word.arg: _list(word.value) for word in call.keywords}
        return {
            kind: (
                [(str(name), int(source)) for name, source in values[kind]],
                [int(node) for node in values[f"{kind}_concat"]],
            )
            for kind in _KINDS
        }
    except (ValueError, SyntaxError, KeyError, TypeError):
        raise UsageError(f"{brief(text)} is no genotype, which is written as {_EXAMPLE}") from None


def _list(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "range":
        return list(range(*(int(ast.literal_eval(a)) for a in node.args)))
    return list(ast.literal_eval(node))
