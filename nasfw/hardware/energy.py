"""Energy per inference in joules, read from the meters of graphics cards and processors.

A meter counts all that its hardware uses, for whomever. What the hardware would have used anyway, its idle
power, is measured first and subtracted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasfw.hardware.meters import Meter
from nasfw.hardware.nvml import gpu_meter
from nasfw.hardware.rapl import Rapl, cpu_meter
from nasfw.hardware.statistics import median_interval
from nasfw.values import Unsupported

__all__ = ["Energy", "Meter", "Rapl", "cpu_meter", "gpu_meter", "per_inference"]


@dataclass(frozen=True)
class Energy:
    """Joules per inference above idle: their median over ``blocks``, with its 95 % confidence interval.

    With n < 6 blocks, ``low`` to ``high`` is their range, which holds the median with probability
    1 - 2^(1-n). ``repetitions`` counts the inferences of all blocks; ``idle`` is in watts; ``seconds`` were
    spent in all.
    """

    joules: float
    low: float
    high: float
    repetitions: int
    blocks: int
    idle: float
    seconds: float
    meter: str
    source: str


def per_inference(
    run: Callable[[], object],
    meter: Meter,
    *,
    synchronise: Callable[[], None] | None = None,
    idle_seconds: float = 0.5,
    seconds: float = 2.0,
    blocks: int = 7,
    width: float = 0.02,
) -> Energy:
    """Joules that one ``run()`` adds to idle power; Unsupported if they cannot be told from it.

    Idle power is measured over ``idle_seconds``, or up to four times as long where the meter needs it. Each
    block of inferences begins right after an update of the meter and ends with the first update after
    it: all its energy lies between two readings. A block lasts ``seconds / blocks``, or longer where the
    meter needs it. They end when the confidence interval of the median is narrower than ``width`` times the
    median, or after ``seconds``, but there are three at least. ``synchronise`` waits for what was started.
    """
    begun = time.perf_counter()

    def repeat(count: int) -> None:
        for _ in range(count):
            run()
        if synchronise is not None:
            synchronise()

    with meter:
        # The first inference is slow, and wakes what stays awake: both would mislead what follows.
        repeat(1)
        time.sleep(meter.settle)
        idle, noise = _idle_power(meter, idle_seconds)
        length = max(seconds / blocks, _shortest(meter, idle))
        number = _warm_up(repeat, length, meter.settle)
        marks = [_update(meter)]
        while len(marks) < 4 or (_span(marks) < seconds and not _narrow(_net(marks, idle, number), width)):
            repeat(number)
            marks.append(_update(meter))
    net = _net(marks, idle, number)
    low, high = median_interval(net.tolist())
    _refuse_weak(meter, net.sum() * number / _span(marks), low, idle, noise)
    spent = time.perf_counter() - begun
    median = float(np.median(net))
    return Energy(median, low, high, number * len(net), len(net), idle, spent, meter.name, meter.source)


class _Mark(NamedTuple):
    """A moment at which a meter was updated, and the joules it showed then."""

    seconds: float
    joules: float


# Seconds between two looks at a meter whose next update is awaited.
_POLL = 2e-4
# Seconds between two looks after which an update may be older than it seems: the machine was busy.
_LATE = 2e-3
# Seconds after which a meter that shows no update counts as broken.
_PATIENCE = 3.0
_IDLE_WINDOWS = 5


def _update(meter: Meter) -> _Mark:
    """Wait for the meter's next update that is seen as it happens; for the third if all are seen late."""
    mark = _Mark(time.perf_counter(), meter.joules())
    for _ in range(3):
        mark, late = _next(meter, mark)
        if not late:
            break
    return mark


def _next(meter: Meter, shown: _Mark) -> tuple[_Mark, bool]:
    """The first update after what was ``shown``, and if it was seen late."""
    past = shown.seconds
    while past - shown.seconds < _PATIENCE:
        time.sleep(_POLL)
        mark = _Mark(seconds=time.perf_counter(), joules=meter.joules())
        if mark.joules != shown.joules:
            return mark, mark.seconds - past > _LATE
        past = mark.seconds
    raise Unsupported(f"{meter.name} stands still: no update in {_PATIENCE:g} s; it counts nothing here")


def _idle_power(meter: Meter, seconds: float) -> tuple[float, float]:
    """Watts while nothing runs, and how far they fluctuate: median and median deviation of some windows.

    A window grows up to fourfold until it holds 20 steps of the meter.
    """
    window = seconds / _IDLE_WINDOWS
    watts = []
    for _ in range(_IDLE_WINDOWS):
        start = _update(meter)
        time.sleep(window)
        end = _update(meter)
        while end.joules - start.joules < 20 * meter.resolution and _span([start, end]) < 4 * window:
            end = _update(meter)
        watts.append((end.joules - start.joules) / _span([start, end]))
    idle = np.median(watts)
    return float(idle), float(np.median(np.abs(np.array(watts) - idle)))


def _shortest(meter: Meter, idle: float) -> float:
    """Seconds of a block in which neither the meter's updates and steps matter, nor how far it looks back.

    After the last inference the card stays awake, for half an interval between updates on average. If that
    takes a tenth of the power above idle, it adds 0.5 % to ten intervals.
    """
    marks = [_update(meter) for _ in range(6)]
    interval = float(np.median([_span(pair) for pair in pairwise(marks)]))
    return max(meter.settle, 10 * interval, 100 * meter.resolution / idle)


def _warm_up(repeat: Callable[[int], None], length: float, settle: float) -> int:
    """Run for a while; the number of inferences that take ``length`` seconds."""
    begun = time.perf_counter()
    number, taken = 1, 0.0
    while taken < length / 4 or time.perf_counter() - begun < settle:
        if taken:
            number = min(10 * number, _fitting(number, taken, length))
        start = time.perf_counter()
        repeat(number)
        taken = time.perf_counter() - start
    return _fitting(number, taken, length)


def _fitting(number: int, taken: float, length: float) -> int:
    return max(1, round(number * length / taken))


def _span(marks: list[_Mark] | tuple[_Mark, ...]) -> float:
    return marks[-1].seconds - marks[0].seconds


def _net(marks: list[_Mark], idle: float, number: int) -> NDArray[np.float64]:
    """Joules above idle per inference, block by block."""
    seconds, joules = np.diff(np.array(marks), axis=0).T
    net: NDArray[np.float64] = (joules - idle * seconds) / number
    return net


def _narrow(net: NDArray[np.float64], width: float) -> bool:
    low, high = median_interval(net.tolist())
    return high - low <= width * float(np.median(net))


def _refuse_weak(meter: Meter, watts: float, low: float, idle: float, noise: float) -> None:
    """``watts`` above idle must exceed its fluctuation, of which the median deviation is ``noise``."""
    if low <= 0 or watts <= max(3 * noise, 0.01 * idle):
        raise Unsupported(
            f"{meter.name}: too little energy to be told from idle: {watts:+.3g} W beside {idle:.3g} W idle; "
            "try a larger batch, and see that nothing else runs"
        )
