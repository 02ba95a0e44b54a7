"""The benchmark's cells: six edges with one of five operations each, numbered as in its tables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import nasfw
from nasfw.spaces.nasbench201 import OPERATIONS, architecture_of

EDGES = ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")
COUNT = len(OPERATIONS) ** len(EDGES)
# Positions of the edges that lead from the cell's input to its output.
_PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))


@lru_cache(maxsize=1)
def architectures() -> tuple[nasfw.Architecture, ...]:
    """All of them, in the official order."""
    return tuple(map(architecture_of, range(COUNT)))


@lru_cache(maxsize=1)
def indices() -> Mapping[nasfw.Architecture, int]:
    """The official index of every architecture."""
    return {architecture: i for i, architecture in enumerate(architectures())}


def index_of(candidate: nasfw.Candidate) -> int:
    """Where tables have the candidate; Unsupported if its space has other cells."""
    index = indices().get(candidate.architecture)
    if index is None or tuple(candidate.space.decisions) != EDGES:
        raise nasfw.Unsupported(
            f"NAS-Bench-201 has networks with the decisions {', '.join(EDGES)} among "
            f"{', '.join(OPERATIONS)}, and none of {type(candidate.space).__name__}; use spaces=nasbench201"
        )
    return index


def is_constant(architecture: nasfw.Architecture) -> bool:
    """Whether no path leads through the cell, so that the network's output does not depend on its input."""
    present = [option != OPERATIONS[0] for option in architecture]
    return not any(all(present[i] for i in path) for path in _PATHS)
