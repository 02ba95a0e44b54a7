"""Times of several candidates, measured in turns so that a busy moment of the machine meets all of them."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from nasfw.progress import Bar

Pass = Callable[[], object]

# A sample lasts at least so long: several passes if one is shorter.
_SHORTEST = 0.02
_MOST_PASSES = 50
_LONG = 5.0


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it, and how many samples they are of."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of ``values``, at least one."""
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(middle), float(low), float(high), len(values))


@dataclass(frozen=True)
class Timing:
    """Seconds that one pass took, round by round."""

    seconds: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Median and quartiles in seconds."""
        return Spread.of(self.seconds)

    def over(self, other: Timing) -> Spread:
        """How many times the ``other`` one's time this is, each round compared with the same round."""
        return Spread.of([a / b for a, b in zip(self.seconds, other.seconds, strict=True)])


@dataclass(frozen=True)
class Clock:
    """What is read before and after a sample; ``name`` says to people what it shows."""

    name: str
    read: Callable[[], float]


def clock(threads: int, compute: str) -> Clock:
    """The steadiest clock that is right: processor time where one thread does all, else the wall clock."""
    if compute.startswith("cuda"):
        return Clock("wall clock", partial(_synchronised, compute))
    if threads == 1:
        # Other programs on the machine do not count.
        return Clock("processor time", time.process_time)
    return Clock("wall clock", time.perf_counter)


def _synchronised(compute: str) -> float:
    torch.cuda.synchronize(compute)
    return time.perf_counter()


@contextmanager
def using(threads: int) -> Iterator[None]:
    """Let torch work with so many threads inside this context."""
    former = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def interleaved(
    passes: Mapping[str, Pass], rounds: int, reads: Clock, limit: float = math.inf, bar: Bar | None = None
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time all ``passes``, one after the other in each of the ``rounds``, after passes for warming up.

    Returns the times, and for passes that took more than ``limit`` seconds or too much memory why there are
    none.
    """
    repeats: dict[str, int] = {}
    skipped: dict[str, str] = {}
    for name, run in passes.items():
        try:
            seconds = _sample(run, 1, reads)
            # The first pass also sets things up, and may measure what is fastest: it says little.
            if seconds <= max(_LONG, 2 * limit):
                seconds = _sample(run, 1, reads)
        except torch.OutOfMemoryError:
            skipped[name] = "out of memory"
            continue
        if seconds > limit:
            skipped[name] = f"took {seconds:.2g} s a pass"
        else:
            repeats[name] = min(_MOST_PASSES, max(1, math.ceil(_SHORTEST / max(seconds, 1e-9))))
    samples: dict[str, list[float]] = {name: [] for name in repeats}
    with _undisturbed():
        for i in range(rounds):
            # Everyone comes after everyone else in some round: what is in the caches differs.
            names = list(repeats)
            turn = i % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                samples[name].append(_sample(passes[name], repeats[name], reads))
            if bar is not None:
                bar.advance()
    return {name: Timing(tuple(values)) for name, values in samples.items()}, skipped


def _sample(run: Pass, repeats: int, reads: Clock) -> float:
    start = reads.read()
    for _ in range(repeats):
        run()
    return (reads.read() - start) / repeats


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the garbage collector inside this context."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent b of the power law y = a x^b that fits best, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def outlook(known: Sequence[tuple[float, float]], x: float) -> float:
    """What to expect at ``x`` by the last two of the ``known`` points; growth is at least proportional."""
    if not known:
        return 0.0
    last, value = known[-1]
    exponent = max(1.0, slope(*zip(*known[-2:], strict=True))) if len(known) > 1 else 1.0
    return float(value * (x / last) ** exponent)
