"""How long the ways of evaluating an aggregated convolution take on this machine, against each other."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from nasfw.spaces.kernels import Size
from nasfw.spaces.speed import Way

# Maps, taps, mixture and any bias to the result.
Evaluate = Callable[..., Tensor]

_BEHIND, _CLEAR = 2.0, 1.5
_LEAST_ROUNDS, _MOST_ROUNDS, _SECONDS = 3, 21, 0.5
# Another process may hold a core for milliseconds: what was measured for less may be all its doing.
_SHORT_FOR_A_WAY, _SHORT_FOR_ALL = 0.02, 0.05
# A card is fed ahead of its work, as in training; one pass alone would measure how long it takes to start.
_PASSES_ON_CARD = 5


@dataclass(frozen=True)
class Timing:
    """Seconds of a forward and backward pass, over the rounds of a measurement."""

    minimum: float
    median: float
    rounds: int


def race(
    ways: Mapping[Way, Evaluate], sizes: Sequence[Size], dtype: torch.dtype, device: torch.device
) -> dict[Way, Timing]:
    """Times of the ways that fit into memory, taken in turns until one is clearly ahead or time is up.

    ``sizes`` are those of the arguments, which are random. Nothing remains: no gradients, and the
    global random streams and the modes of torch stay as they are.

    Ahead is the least time: other work on the machine only ever adds to a time, so the minimum over rounds
    is what comes nearest to the way itself, where a mean or a median follows the load.
    """
    passes = _Passes(sizes, dtype, device)
    warm = {way: passes.seconds(evaluate) for way, evaluate in ways.items()}
    spent = {way: first for way, first in warm.items() if first is not None}
    times: dict[Way, list[float]] = {way: [] for way in spent}
    racing, begin = list(times), time.perf_counter()
    for number in count(1):
        for way in tuple(racing):
            if (now := passes.seconds(ways[way])) is None:
                racing.remove(way)
                del times[way]
            else:
                times[way].append(now)
                spent[way] += now
        least = sorted(min(times[way]) for way in racing)
        # The pass to warm up counts here: a way is behind if none of its passes was near the best.
        racing = [
            w
            for w in racing
            if min(warm[w] or math.inf, *times[w]) <= _BEHIND * least[0] or spent[w] < _SHORT_FOR_A_WAY
        ]
        if len(racing) < 2 or _ended(number, time.perf_counter() - begin, least):
            break
    return {w: Timing(min(t), statistics.median(t), len(t)) for w, t in times.items()}


def _ended(rounds: int, seconds: float, least: Sequence[float]) -> bool:
    """Whether the ``least`` times, the best first, decide after so many rounds and seconds."""
    if rounds < _LEAST_ROUNDS or seconds < _SHORT_FOR_ALL:
        return False
    return least[1] > _CLEAR * least[0] or rounds >= _MOST_ROUNDS or seconds > _SECONDS


class _Passes:
    """Forward and backward passes with random numbers of the given sizes."""

    def __init__(self, sizes: Sequence[Size], dtype: torch.dtype, device: torch.device) -> None:
        self._sizes, self._dtype, self._device = sizes, dtype, device
        self._inputs: list[Tensor] | None = None

    def seconds(self, evaluate: Evaluate) -> float | None:
        """Seconds of a pass; None if memory does not suffice."""
        modes = torch.inference_mode(False), torch.enable_grad()
        try:
            with modes[0], modes[1], torch.autocast(self._device.type, enabled=False):
                if self._inputs is None:
                    self._inputs = self._drawn()
                return self._timed(evaluate, self._inputs)
        except (MemoryError, RuntimeError) as reason:
            if not _is_out_of_memory(reason):
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _drawn(self) -> list[Tensor]:
        own = torch.Generator(self._device).manual_seed(0)
        x, weight, mixture, *bias = (
            torch.randn(size, generator=own, dtype=self._dtype, device=self._device) for size in self._sizes
        )
        return [t.requires_grad_() for t in (x, weight, mixture.softmax(0), *bias)]

    def _timed(self, evaluate: Evaluate, inputs: Sequence[Tensor]) -> float:
        if self._device.type != "cuda":
            # Of a single thread the system knows how long it ran, whatever else the machine does.
            clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
            begin = clock()
            _pass(evaluate, inputs)
            return clock() - begin
        with torch.cuda.device(self._device):
            first, last = _moment(), _moment()
            torch.cuda.synchronize()
            first.record()
            for _ in range(_PASSES_ON_CARD):
                _pass(evaluate, inputs)
            last.record()
            last.synchronize()
        return float(first.elapsed_time(last)) / 1e3 / _PASSES_ON_CARD


def _moment() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _pass(evaluate: Evaluate, inputs: Sequence[Tensor]) -> None:
    y = evaluate(*inputs)
    # Not by backward(): that would leave gradients behind.
    torch.autograd.grad(y, inputs, y.detach())


def _is_out_of_memory(reason: Exception) -> bool:
    known = isinstance(reason, MemoryError | torch.OutOfMemoryError)
    # A processor's allocation and CUDA's libraries have no exception of their own.
    return known or "allocate memory" in str(reason) or "ALLOC_FAILED" in str(reason)
