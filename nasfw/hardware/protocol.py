"""How latencies are measured: in turns with reference networks, by a clock that other work disturbs least.

On a machine that others use as well, the usual median of wall-clock times varies by 6 to 20 %, and all times
drift together by a half within minutes. What repeats is the ratio of a network's time to that of a reference
network (a canary) run right before it. Values are such ratios times what the canary takes when the device is
undisturbed, which is measured once per device and kept.

There are a small and a large canary. Networks that are measured together run in another order every round, in
groups that begin with both canaries, so that each of them helps to tell how much the others were slowed down
(``drift``).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from nasfw.hardware.drift import LARGE, SMALL, Adjusted, adjust
from nasfw.hardware.machine import conditions
from nasfw.hardware.statistics import median_interval
from nasfw.values import Measured

T = TypeVar("T")
Pair = tuple[T, T]
Run = Callable[[], object]
Array = NDArray[np.float64]

# What is timed at once takes about so many seconds at least.
_SAMPLE = 1e-3
# Runs that take less are made once before they are timed.
_SHORT = 2e-3
# Networks share one run of the canaries before them, up to so many, and on average so many times their time.
_GROUP, _SHARE = 24, 4.0
# So many times its seconds by the clock may a measurement take by the wall clock.
_PATIENCE = 10.0
# Seconds of a calibration, on a device that is slow or far too busy.
_CALIBRATION = 10.0
# A repetition that takes so many times the median is reported as an outlier.
_OUTLIER = 1.5


class Clock(ABC):
    """Times one run in seconds; of every ``block`` runs the least time counts."""

    name: str
    block: int = 1

    @abstractmethod
    def seconds(self, run: Run) -> float:
        """What one run takes."""


class ThreadClock(Clock):
    """Processor time of this thread, which does not run while another process has the core."""

    name = "processor time of the thread"

    def seconds(self, run: Run) -> float:
        start = time.thread_time()
        run()
        return time.thread_time() - start


class WallClock(Clock):
    """The wall clock, for work that several threads share: their time cannot be told from their waiting."""

    name = "wall clock, least of 5"
    block = 5

    def seconds(self, run: Run) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start


class EventClock(Clock):
    """CUDA events on the stream that the work is queued in."""

    name = "CUDA events"

    def __init__(self, index: int) -> None:
        self.index = index

    def seconds(self, run: Run) -> float:
        with torch.cuda.device(self.index):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            run()
            end.record()
            end.synchronize()
            milliseconds: float = start.elapsed_time(end)
        return milliseconds / 1e3


@dataclass(frozen=True)
class Plan:
    """When a measurement ends: a relative ``width`` of the interval, or ``seconds`` per network by the clock.

    At least ``least`` rounds are made, whatever they take, and at most ``most``. Beyond a drift of ``bound``
    in either direction the measurement is repeated, up to ``attempts`` in all.
    """

    width: float = 0.01
    least: int = 7
    most: int = 200
    seconds: float = 0.3
    bound: float = 1.6
    attempts: int = 3

    def calm(self, drift: float) -> bool:
        """Whether a drift is within the bound."""
        return 1 / self.bound <= drift <= self.bound


@dataclass(frozen=True)
class _Sample:
    """What is timed at once: so many runs that they take a millisecond or so; ``level`` is the time of one.

    A single run of some microseconds would show how cold the caches are rather than how fast the network is.
    """

    run: Run
    times: int
    level: float

    @classmethod
    def of(cls, run: Run, clock: Clock) -> _Sample:
        """As many runs as it takes, after a warm-up that tells how long one takes."""
        level = _warm(run, clock)
        return cls(run, min(100, max(1, round(_SAMPLE / level))) if level > 0 else 100, level)

    @property
    def seconds(self) -> float:
        """What all of them take."""
        return self.level * self.times

    def __call__(self) -> None:
        for _ in range(self.times):
            self.run()

    def by(self, clock: Clock) -> float:
        """Seconds of one run now."""
        if self.level < _SHORT:
            # It would show what ran before it: whatever that left in the caches.
            self.run()
        return clock.seconds(self) / self.times


@dataclass
class _Turns:
    """What runs, the two canaries first; the ``members`` of each group that ran, and their ``seconds``."""

    samples: Sequence[_Sample]
    members: list[list[int]] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)
    spent: float = 0.0

    def take(self, members: list[int], clock: Clock) -> None:
        """Run a group."""
        chosen = [self.samples[i] for i in members]
        block = [[sample.by(clock) for sample in chosen] for _ in range(clock.block)]
        self.spent += sum(t * s.times for row in block for t, s in zip(row, chosen, strict=True))
        self.members.append(members)
        self.seconds.append([min(column) for column in zip(*block, strict=True)])

    def adjusted(self) -> Adjusted:
        """Levels and times without drift."""
        return adjust(self.members, self.seconds)

    def canaries(self) -> Array:
        """Logarithms of what each took [2]."""
        return np.median(np.log([row[:2] for row in self.seconds]), axis=0)


def measure(
    runs: Sequence[Run], canaries: Pair[Run], reference: Pair[float], clock: Clock, plan: Plan | None = None
) -> list[Measured]:
    """Seconds of each of ``runs``, taken in turns.

    ``canaries`` are a small and a large network, and ``reference`` their times on the undisturbed device. A
    value whose drift stays beyond the plan's bound says so in its remark, which then begins with "unsure".
    """
    plan = plan or Plan()
    if not runs:
        return []
    samples = [_Sample.of(run, clock) for run in (*canaries, *runs)]
    for attempt in range(1, plan.attempts + 1):
        turns = _attempt(samples, clock, plan)
        values = _values(turns, reference, clock, plan, attempt)
        if attempt == plan.attempts or all(plan.calm(value.drift or 1.0) for value in values):
            break
        time.sleep(0.2 * attempt)
    return values


def _warm(run: Run, clock: Clock) -> float:
    """Run until the times have settled: the last three within a tenth, or half a second is over.

    The last time is returned.
    """
    last = [clock.seconds(run) for _ in range(3)]
    spent = sum(last)
    while max(last[-3:]) > 1.1 * min(last[-3:]) and spent < 0.5 and len(last) < 20:
        last.append(clock.seconds(run))
        spent += last[-1]
    return last[-1]


def _attempt(samples: Sequence[_Sample], clock: Clock, plan: Plan) -> _Turns:
    turns = _Turns(samples)
    seconds = plan.seconds * (networks := len(samples) - 2)
    canaries, others = sum(s.seconds for s in samples[:2]), sum(s.seconds for s in samples[2:])
    # A coarse clock may show no time at all.
    slow = math.ceil(others / (_SHARE * canaries)) if canaries else 1
    groups = min(networks, max(slow, math.ceil(networks / _GROUP)))
    # The interval is worth computing now and then only, of many networks less often.
    every = 8 * math.ceil(networks / _GROUP)
    # Always the same orders, so that a measurement can be repeated.
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for done in range(1, plan.most + 1):
        for chosen in np.array_split(rng.permutation(networks), groups):
            turns.take([SMALL, LARGE, *(chosen + 2)], clock)
        # Work that is stuck behind other work must end as well.
        if done >= 3 and time.perf_counter() - start > _PATIENCE * max(seconds, 1.0):
            break
        if done < plan.least:
            continue
        # By the clock that measures: other work must not cost repetitions.
        if turns.spent >= seconds:
            break
        if done % every == 0 and _settled(turns, plan.width):
            break
    return turns


def _settled(turns: _Turns, width: float) -> bool:
    rows = np.exp(turns.adjusted().times)
    return all(float(np.ptp(median_interval(row)) / np.median(row)) <= width for row in rows)


def _values(turns: _Turns, reference: Pair[float], clock: Clock, plan: Plan, attempts: int) -> list[Measured]:
    adjusted, now, found = turns.adjusted(), conditions(), []
    # From the canaries' levels in this measurement to those on the undisturbed device.
    calm = np.exp(adjusted.scale(np.log(reference) - adjusted.levels[:2]))
    drifts = np.exp(adjusted.scale(turns.canaries() - np.log(reference)))
    rows = np.exp(adjusted.times) * calm[:, None]
    for sample, row, slower in zip(turns.samples[2:], rows, drifts, strict=True):
        middle = float(np.median(row))
        low, high = median_interval(row)
        unsure = (
            f"unsure: the device was {slower:.2f} times slower than it can be in {attempts} attempts; "
            "measure again when it has less to do"
        )
        value = Measured(
            middle,
            low=float(low),
            high=float(high),
            repetitions=len(row) * clock.block * sample.times,
            outliers=int((row > _OUTLIER * middle).sum()),
            drift=float(slower),
            clock=clock.name,
            remark="" if plan.calm(slower) else unsure,
            conditions=now,
        )
        found.append(value)
    return found


def calibrate(canaries: Pair[Run], clock: Clock, bursts: int = 30, pause: float = 0.1) -> Pair[float]:
    """Seconds that each canary takes on the undisturbed device: what the calmest tenth of some bursts take.

    The bursts are spread over seconds, since other work comes and goes.
    """
    small, large = (_Sample.of(canary, clock) for canary in canaries)
    levels: list[Pair[float]] = []
    start = time.perf_counter()
    for _ in range(bursts):
        levels.append((_level(small, clock), _level(large, clock)))
        if time.perf_counter() - start > _CALIBRATION:
            break
        time.sleep(pause)
    low: Array = np.quantile(levels, 0.1, axis=0)
    return float(low[0]), float(low[1])


def _level(sample: _Sample, clock: Clock) -> float:
    """What one run takes now; the first finds cold caches and a processor that has been waiting."""
    sample.by(clock)
    times = [sample.by(clock) for _ in range(5)]
    return min(times) if clock.block > 1 else median(times)
