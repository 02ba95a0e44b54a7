"""Decisions that belong together: the edges into a node of a cell, of which only some are kept.

A space's members are the combinations of options in which every junction keeps as many edges as it must.
Without junctions every combination is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from nasfw.values import Architecture, Option

Decisions = Mapping[str, Sequence[Option]]


@dataclass(frozen=True)
class Junction:
    """The edges into one node: positions of decisions of which ``keep`` take another option than ``absent``.

    If all are kept, with any option, ``absent`` is None. ``mixed`` says whether a mixture may give weight to
    ``absent``: in a supernet an edge may be weakened by it, and in some published spaces it may not.
    """

    decisions: tuple[int, ...]
    keep: int
    absent: Option | None = None
    mixed: bool = True

    @property
    def selects(self) -> bool:
        """Whether only so many edges may take another option than ``absent``."""
        return self.absent is not None or self.keep < len(self.decisions)


def size(decisions: Decisions, junctions: Sequence[Junction]) -> int:
    """Number of members."""
    counts = [len(options) for options in decisions.values()]
    total = math.prod(counts[i] for i in _free(decisions, junctions))
    for junction in _selecting(junctions):
        total *= sum(_ways(counts, kept) for kept in combinations(junction.decisions, junction.keep))
    return total


def sample(decisions: Decisions, junctions: Sequence[Junction], rng: np.random.Generator) -> Architecture:
    """A member drawn uniformly."""
    options = list(decisions.values())
    counts = [len(o) for o in options]
    chosen: list[Option] = [o[0] for o in options]
    for i in _free(decisions, junctions):
        chosen[i] = options[i][int(rng.integers(counts[i]))]
    for junction in _selecting(junctions):
        subsets = list(combinations(junction.decisions, junction.keep))
        ways = np.array([_ways(counts, kept) for kept in subsets], dtype=np.float64)
        kept = subsets[int(rng.choice(len(subsets), p=ways / ways.sum()))]
        for i in junction.decisions:
            chosen[i] = _other(options[i], junction.absent, rng) if i in kept else _absent(junction)
    return tuple(chosen)


def mutate(
    decisions: Decisions, junctions: Sequence[Junction], parent: Architecture, rng: np.random.Generator
) -> Architecture:
    """A member that differs from ``parent`` in one option, or has one edge in the place of another.

    Uniformly over the decisions that can change; at a junction that leaves edges out, half of the changes
    move the edge and half change its option, if both are possible. ``parent`` itself if it is the only one.
    """
    options = list(decisions.values())
    among = {i: j for j in _selecting(junctions) for i in j.decisions}
    absent = {i: j.absent for i, j in among.items()}
    present = [i for i, o in enumerate(parent) if i not in among or o != absent[i]]
    changes = {
        i: [o for o in options[i] if o != parent[i] and (i not in among or o != absent[i])] for i in present
    }
    free = {
        i: [k for k in among[i].decisions if parent[k] == absent[i]] if i in among else [] for i in present
    }
    able = [i for i in present if changes[i] or free[i]]
    if not able:
        return parent
    chosen, i = list(parent), able[int(rng.integers(len(able)))]
    if free[i] and (not changes[i] or rng.random() < 0.5):
        junction = among[i]
        place = free[i][int(rng.integers(len(free[i])))]
        chosen[i] = _absent(junction)
        kept = parent[i] in options[place]
        chosen[place] = parent[i] if kept else _other(options[place], junction.absent, rng)
    else:
        chosen[i] = changes[i][int(rng.integers(len(changes[i])))]
    return tuple(chosen)


def best(
    decisions: Decisions, junctions: Sequence[Junction], scores: Sequence[Sequence[float]]
) -> Architecture:
    """The member with the largest sum of scores, where an edge that is left out counts nothing.

    For scores that are mixture weights or their logarithms this is the rule of DARTS (Liu, Simonyan and Yang
    2019, section 2.4): the strongest option of every edge, then the strongest edges of every node. The first
    ones among equals.
    """
    options = list(decisions.values())
    absent = {i: j.absent for j in _selecting(junctions) for i in j.decisions}
    chosen: list[Option] = []
    strength: list[float] = []
    for i, (names, row) in enumerate(zip(options, scores, strict=True)):
        known = [k for k, name in enumerate(names) if i not in absent or name != absent[i]]
        top = max(known, key=lambda k: row[k])
        chosen.append(names[top])
        strength.append(float(row[top]))
    for junction in _selecting(junctions):
        ordered = sorted(junction.decisions, key=lambda i: -strength[i])
        for i in ordered[junction.keep :]:
            chosen[i] = _absent(junction)
    return tuple(chosen)


def is_member(junctions: Sequence[Junction], architecture: Architecture) -> bool:
    """Whether every junction keeps as many edges as it must."""
    return all(sum(architecture[i] != j.absent for i in j.decisions) == j.keep for j in _selecting(junctions))


def _selecting(junctions: Sequence[Junction]) -> list[Junction]:
    return [j for j in junctions if j.selects]


def _free(decisions: Decisions, junctions: Sequence[Junction]) -> list[int]:
    bound = {i for j in _selecting(junctions) for i in j.decisions}
    return [i for i in range(len(decisions)) if i not in bound]


def _ways(counts: Sequence[int], kept: Sequence[int]) -> int:
    return math.prod(counts[i] - 1 for i in kept)


def _other(options: Sequence[Option], absent: Option | None, rng: np.random.Generator) -> Option:
    present = [o for o in options if o != absent]
    return present[int(rng.integers(len(present)))]


def _absent(junction: Junction) -> Option:
    if junction.absent is None:
        raise ValueError("a junction that leaves edges out must say what absent edges are called")
    return junction.absent
