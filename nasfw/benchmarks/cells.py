"""Training steps of supernets of cells, in steps of the networks that they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from nasfw import progress
from nasfw.benchmarks import tables
from nasfw.benchmarks.subjects import Shapes, step
from nasfw.benchmarks.timing import Pass, Spread, Timing, clock, interleaved, using
from nasfw.contracts import Supernet
from nasfw.display import format_value
from nasfw.mixtures import one_hot
from nasfw.spaces.cell import CellSpace, Darts
from nasfw.spaces.nasbench201 import NasBench201
from nasfw.spaces.robust import S2, S5

Space = CellSpace | NasBench201

MIXED, PATH, PARTIAL = "mixed", "single path", "partial channels"
_NETWORKS, _SHARE = 4, 4

_IMAGES, _SMALL, _SERIES = (
    Shapes((3, 32, 32), (10,), 32),
    Shapes((1, 8, 8), (10,), 64),
    Shapes((1, 128), (10,), 64),
)
FULL: Mapping[str, Space] = {
    "darts, 8 cells, 16 channels, 32 x 32, batch 32": Darts(_IMAGES),
    "darts, 3 cells, 12 channels, 8 x 8, batch 64": Darts(_SMALL, layers=3, channels=12),
    "darts, 3 cells, 16 channels, series of 128, batch 64": Darts(_SERIES, layers=3),
    "s2, 8 cells, 16 channels, 32 x 32, batch 32": S2(_IMAGES),
    "s5, 8 x 8, batch 64": S5(_SMALL),
    "nasbench201, 15 cells, 16 channels, 32 x 32, batch 32": NasBench201(_IMAGES),
}
QUICK: Mapping[str, Space] = {
    "darts, 3 cells, 16 channels, 16 x 16, batch 8": Darts(Shapes((3, 16, 16), (10,), 8), layers=3),
    "s5, 8 x 8, batch 64": S5(_SMALL),
    "nasbench201, 3 cells, 16 channels, 16 x 16, batch 8": NasBench201(
        Shapes((3, 16, 16), (10,), 8), cells=1
    ),
}
# The most that a step shall take, in steps of a network of DARTS's space at its default size.
WANTED = {MIXED: 6.0, PATH: 0.95, PARTIAL: 2.5}


def passes(space: Space) -> tuple[dict[str, Pass], dict[str, float]]:
    """Steps of random networks, of a supernet in three ways, and what these are expected to take."""
    rng = np.random.default_rng(0)
    found, expected = {}, {}
    for i in range(_NETWORKS):
        network = space.build(space.sample(rng))
        found[f"network {i}"] = step(space.task, network, list(network.parameters()), network, "cpu")
    logits = [torch.zeros(len(options), requires_grad=True) for options in space.decisions.values()]
    paths = cycle([one_hot(space.decisions, space.sample(rng)) for _ in range(_NETWORKS)])
    ways: dict[str, tuple[Space, Callable[[], Sequence[Tensor]]]] = {
        MIXED: (space, lambda: [torch.softmax(a, 0) for a in logits]),
        PATH: (space, lambda: next(paths)),
        PARTIAL: (space.partial(_SHARE), lambda: [torch.softmax(a, 0) for a in logits]),
    }
    for name, (searched, mixture) in ways.items():
        supernet = searched.supernet()
        found[name] = _supernet_step(space, supernet, mixture)
        expected[name] = supernet.path_cost if name == PATH else supernet.cost
    return found, expected


def _supernet_step(space: Space, supernet: Supernet, mixture: Callable[[], Sequence[Tensor]]) -> Pass:
    def forward(x: Tensor) -> Tensor:
        return supernet(x, mixture())  # type: ignore[no-any-return]

    return step(space.task, supernet, list(supernet.parameters()), forward, "cpu")


def ratios(timings: Mapping[str, Timing]) -> dict[str, Spread]:
    """The supernets' times in the mean over the networks, each round compared with the same round."""
    networks = [t.seconds for name, t in timings.items() if name.startswith("network ")]
    mean = Timing(tuple(sum(seconds) / len(networks) for seconds in zip(*networks, strict=True)))
    return {name: timings[name].over(mean) for name in (MIXED, PATH, PARTIAL)}


def table(cases: Mapping[str, Space], threads: int, rounds: int) -> Table:
    """The ratios of all cases, as measured and as the supernets expect."""
    reads = clock(threads, "cpu")
    title = (
        f"Steps of supernets, in those of the mean of {_NETWORKS} networks; {threads} threads, {reads.name}"
    )
    made = tables.empty(title, ("case", "way"), ("median", "times a network", "expected"))
    with progress.track("cells", len(cases)) as bar, using(threads):
        for case, space in cases.items():
            steps, expected = passes(space)
            timings, _ = interleaved(steps, rounds, reads)
            for i, (name, ratio) in enumerate(ratios(timings).items()):
                median = format_value(timings[name].spread.median, "s")
                made.add_row(
                    case if i == 0 else "", name, median, tables.ranged(ratio), f"{expected[name]:.2g}"
                )
            bar.advance()
    return made
