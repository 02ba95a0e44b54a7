"""How latencies are measured: in turns with reference networks, by a clock that other work disturbs least.

On a machine that others use as well, the usual median of wall-clock times varies by 6 to 20 %, and all times
drift together by a half within minutes. What repeats is the ratio of a network's time to that of a reference
network (a canary) run right before it. Values are such ratios times what the canary takes when the device is
undisturbed, which is measured once per device and kept.

What disturbs small networks is not what disturbs large ones: neighbours slow down arithmetic in one case,
what surrounds it in the other. So there is a small and a large canary, and a network of time t is compared
with their weighted geometric mean, s^(1 - w) l^w, where w = log(t / s) / log(l / s), within 0 and 1.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

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
# Networks share one run of the canaries before them, up to so many and so many times their time together.
_GROUP, _SHARE = 16, 4.0
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
class _Series:
    """Times of a few networks and of the two canaries before them, round by round."""

    runs: Sequence[_Sample]
    canaries: list[tuple[float, float]] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)
    spent: float = 0.0


def measure(
    runs: Sequence[Run], canaries: Pair[Run], reference: Pair[float], clock: Clock, plan: Plan | None = None
) -> list[Measured]:
    """Seconds of each of ``runs``, taken in turns.

    ``canaries`` are a small and a large network, and ``reference`` their times on the undisturbed device. A
    value whose drift stays beyond the plan's bound says so in its remark, which then begins with "unsure".
    """
    plan = plan or Plan()
    small, large = (_Sample.of(run, clock) for run in canaries)
    samples = [_Sample.of(run, clock) for run in runs]
    groups = list(_groups(samples, _SHARE * (small.seconds + large.seconds)))
    for attempt in range(1, plan.attempts + 1):
        found = _attempt(groups, (small, large), clock, plan)
        if attempt == plan.attempts or all(plan.calm(d) for s in found for d in _drifts(s, reference)):
            break
        time.sleep(0.2 * attempt)
    return [value for series in found for value in _values(series, reference, clock, plan, attempt)]


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


def _groups(samples: Sequence[_Sample], limit: float) -> Iterator[list[_Sample]]:
    """``samples`` in their order, in groups that take about ``limit`` seconds each."""
    group: list[_Sample] = []
    total = 0.0
    for sample in samples:
        if group and (len(group) == _GROUP or total + sample.seconds / 2 > limit):
            yield group
            group, total = [], 0.0
        group.append(sample)
        total += sample.seconds
    yield group


def _attempt(
    groups: Sequence[Sequence[_Sample]], canaries: Pair[_Sample], clock: Clock, plan: Plan
) -> list[_Series]:
    found = [_Series(runs) for runs in groups]
    seconds = plan.seconds * sum(len(runs) for runs in groups)
    start = time.perf_counter()
    for done in range(1, plan.most + 1):
        for series in found:
            _round(series, canaries, clock)
        # Work that is stuck behind other work must end as well.
        if done >= 3 and time.perf_counter() - start > _PATIENCE * max(seconds, 1.0):
            break
        if done < plan.least:
            continue
        # By the clock that measures: other work must not cost repetitions.
        if sum(series.spent for series in found) >= seconds:
            break
        # The interval is worth computing now and then only.
        if done % 8 == 0 and all(_settled(series, plan.width) for series in found):
            break
    return found


def _round(series: _Series, canaries: Pair[_Sample], clock: Clock) -> None:
    everything = (*canaries, *series.runs)
    block = [[sample.by(clock) for sample in everything] for _ in range(clock.block)]
    series.spent += sum(t * s.times for row in block for t, s in zip(row, everything, strict=True))
    small, large, *times = (min(column) for column in zip(*block, strict=True))
    series.canaries.append((small, large))
    series.times.append(times)


def _ratios(series: _Series) -> tuple[Array, Array]:
    """Weights of the two canaries [networks, 2], and times in units of their mean [networks, rounds]."""
    times, canaries = np.log(series.times), np.log(series.canaries)
    small, large = np.median(canaries, axis=0)
    # Where the two take the same time it does not matter which one counts.
    apart = max(large - small, 1e-3)
    large_share = np.clip((np.median(times, axis=0) - small) / apart, 0.0, 1.0)
    shares = np.stack([1 - large_share, large_share], axis=1)
    return shares, np.exp(times - canaries @ shares.T).T


def _settled(series: _Series, width: float) -> bool:
    for row in _ratios(series)[1]:
        low, high = median_interval(row)
        if high - low > width * float(np.median(row)):
            return False
    return True


def _drifts(series: _Series, reference: Pair[float]) -> Array:
    """How much slower than undisturbed the canaries were, as each network weighs them [networks]."""
    slower = np.median(np.log(series.canaries), axis=0) - np.log(reference)
    drifts: Array = np.exp(_ratios(series)[0] @ slower)
    return drifts


def _values(
    series: _Series, reference: Pair[float], clock: Clock, plan: Plan, attempts: int
) -> Iterator[Measured]:
    shares, ratios = _ratios(series)
    units = np.exp(shares @ np.log(reference))
    now = conditions()
    for sample, row, unit, drift in zip(series.runs, ratios, units, _drifts(series, reference), strict=True):
        middle = float(np.median(row))
        low, high = median_interval(row)
        unsure = (
            f"unsure: the device was {drift:.2f} times slower than it can be in {attempts} attempts; measure "
            "again when it has less to do"
        )
        yield Measured(
            float(middle * unit),
            low=float(low * unit),
            high=float(high * unit),
            repetitions=len(row) * clock.block * sample.times,
            outliers=int((row > _OUTLIER * middle).sum()),
            drift=float(drift),
            clock=clock.name,
            remark="" if plan.calm(drift) else unsure,
            conditions=now,
        )


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
