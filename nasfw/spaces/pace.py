"""How long a step of a supernet of cells takes, in steps of a built network, by a rule.

The time of a cell is a sum over its edges. What an operation adds to a training step was measured on one x86
core, for maps of 2 to 32 pixels and 12 to 64 channels, in units of a built 3 x 3 separable convolution; it
varies with the size by a factor of 2. For the supernets of DARTS's space the rule is within a third of what
whole steps take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nasfw.contracts import Junction, Option
from nasfw.spaces.cells import Edge
from nasfw.spaces.operations import NONE, SKIP

# In a built network, and in a supernet, whose layers are quick ones.
_TIMES: Mapping[str, tuple[float, float]] = {
    NONE: (0.0, 0.0),
    SKIP: (0.02, 0.04),
    "noise": (0.2, 0.2),
    "max_pool_3x3": (0.65, 0.35),
    "max_pool_5x5": (1.0, 0.4),
    "max_pool_7x7": (1.3, 0.45),
    "avg_pool_3x3": (0.6, 0.25),
    "sep_conv_3x3": (1.0, 0.8),
    "sep_conv_5x5": (1.9, 0.85),
    "sep_conv_7x7": (2.8, 0.9),
    "dil_conv_3x3": (0.95, 0.42),
    "dil_conv_5x5": (1.45, 0.45),
    "conv_1x1": (0.3, 0.25),
    "conv_3x3": (0.65, 0.6),
    "conv_3x1_1x3": (0.75, 0.75),
    "conv_7x1_1x7": (1.1, 1.1),
    "nor_conv_1x1": (0.3, 0.25),
    "nor_conv_3x3": (0.65, 0.6),
}
# Has no parameters, and is computed once for all edges out of a state, to which it is then added.
_COMMON = (SKIP, "max_pool_3x3", "max_pool_5x5", "max_pool_7x7", "avg_pool_3x3")
_ADDED = 0.04
# Of one of so many channels, this part of an operation's time depends on the channels.
_BY_CHANNELS = 0.67

Where = tuple[str, Edge]
Options = Sequence[Option]


def costs(
    edges: Mapping[Where, Options], junctions: Sequence[Junction], rest: float, share: int = 1
) -> tuple[float, float, float]:
    """Time of a step of the supernet, with a single path, and with an option on every edge.

    In steps of an average network. ``edges`` has the options of every edge of every kind of cell, ``rest``
    the time of a cell beside its edges, and ``share`` is as in ``MixedEdges``.
    """
    chances = {i: (j.keep / len(j.decisions), j.absent) for j in junctions if j.selects for i in j.decisions}
    outside = rest * len({kind for kind, _ in edges})
    built = path = drawn = 0.0
    for i, options in enumerate(edges.values()):
        chance, absent = chances.get(i, (1.0, None))
        times = [_TIMES[str(option)] for option in options if option != absent]
        built += chance * sum(t for t, _ in times) / len(times)
        mean = sum(t for _, t in times) / len(times)
        path += chance * mean
        drawn += mean
    less = 1 - _BY_CHANNELS * (1 - 1 / share)
    whole = outside + built
    mixed, path, drawn = ((outside + less * inner) / whole for inner in (_mixed(edges), path, drawn))
    return mixed, path, drawn


def _mixed(edges: Mapping[Where, Options]) -> float:
    """Time of all options on all edges."""
    total, known = 0.0, set()
    for (kind, edge), options in edges.items():
        for option in map(str, options):
            common = (kind, edge.source, option)
            total += _ADDED if common in known else _TIMES[option][1]
            if option in _COMMON:
                known.add(common)
    return total
