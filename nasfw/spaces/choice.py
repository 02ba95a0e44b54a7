"""Which way of evaluating an aggregated convolution is fastest on this machine, by a short measurement.

All ways give the same result but for rounding, so a choice decides about speed, and about the last digits. It
is made once for each shape, kept in the cache folder for other runs, and belongs to the state of a training:
what goes on from a checkpoint takes the ways that it began with, whatever the clock says.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from nasfw.caches import recall, remember
from nasfw.hardware.machine import processor
from nasfw.spaces.kernels import Layout, Size
from nasfw.spaces.race import Evaluate, Timing, race
from nasfw.spaces.speed import Way
from nasfw.values import digest

log = logging.getLogger("nasfw")

# To be raised with every change of a way's code that may change its speed: older measurements are then void.
REVISION = 3

# On a processor the modelled times are right within a small factor, so ways beyond this one are hopeless.
_HOPELESS = 6.0
_TIE = 1.03


@dataclass(frozen=True)
class Choice:
    """The way taken for a ``shape``, which is described in words, and the ``times`` of all ways measured."""

    way: Way
    shape: str
    times: Mapping[Way, Timing] = field(default_factory=dict)

    def __str__(self) -> str:
        """The shape, then the way taken, then the others: ``...: matrix 2.10 ms; fourier 3.02 ms``."""
        others = sorted((w for w in self.times if w is not self.way), key=lambda w: self.times[w].minimum)
        rest = ", ".join(map(self._timed, others))
        return f"{self.shape}: {self._timed(self.way)}{'; ' if rest else ''}{rest}"

    def _timed(self, way: Way) -> str:
        return f"{way.value} {1e3 * self.times[way].minimum:.3g} ms" if way in self.times else way.value

    def plain(self) -> dict[str, Any]:
        """The choice as JSON values."""
        times = {way.value: asdict(timing) for way, timing in self.times.items()}
        return {"shape": self.shape, "way": self.way.value, "times": times}

    @classmethod
    def read(cls, content: Any) -> Choice:
        """What ``plain`` returned; ValueError, KeyError or TypeError if it is anything else."""
        times = {
            Way(name): Timing(float(t["minimum"]), float(t["median"]), int(t["rounds"]))
            for name, t in content["times"].items()
        }
        return cls(Way(content["way"]), str(content["shape"]), times)


def measured(
    layout: Layout,
    batch: int,
    size: Size,
    ways: Mapping[Way, Evaluate],
    expected: Mapping[Way, float],
    weight: Tensor,
    variant: str = "",
) -> Choice:
    """The fastest of ``ways`` for maps of ``size``: as measured before on such a machine, or now.

    Each way computes y from x, weight, mixture and any bias. Measured is the device and the dtype of
    ``weight``, with random numbers and a batch that is a power of two. ``expected`` has the modelled seconds
    of the ways; on a processor those that seem hopeless are left out. Among ways that are within 3 % of the
    fastest, the first of ``ways`` is taken. ``variant`` tells apart functions that evaluate the same ways.
    The global random streams, gradients and the modes of torch stay as they are.
    """
    # No larger than the real one: its memory may be all there is.
    batch = 1 << (batch.bit_length() - 1)
    shape = _described(layout, batch, size)
    order = _hopeful(ways, expected, weight.device)
    if len(order) == 1:
        return Choice(order[0], shape)
    key = _key(layout, batch, size, ways, weight) | {"variant": variant}
    name = digest(key)
    if name not in _known and (kept := _kept(key, ways)) is not None:
        log.info("%s (as measured before)", kept)
        _known[name] = kept
    if name not in _known:
        c = layout.convolution
        bias = ((c.outputs,),) if c.biased else ()
        sizes = (batch, c.inputs, *size), tuple(weight.shape), (len(layout.kernels),), *bias
        times = race({way: ways[way] for way in order}, sizes, weight.dtype, weight.device)
        _known[name] = Choice(_fastest(ways, times, order[0]), shape, times)
        log.info("%s", _known[name])
        # Memory may be short only now, which must not decide for all time.
        if len(times) == len(order):
            remember("ways", key, _known[name].plain())
    return _known[name]


_known: dict[str, Choice] = {}


def _described(layout: Layout, batch: int, size: Size) -> str:
    c = layout.convolution
    stride = f", stride {c.stride}" if c.stride > 1 else ""
    groups = f", {c.groups} groups" if c.groups > 1 else ""
    return (
        f"{c.inputs} -> {c.outputs} channels{groups}, {' x '.join(map(str, size))}{stride}, batch {batch}, "
        f"{len(layout.kernels)} kernels"
    )


def _hopeful(ways: Iterable[Way], expected: Mapping[Way, float], device: torch.device) -> list[Way]:
    """The ways worth a measurement, the most promising one first."""
    order = sorted(ways, key=lambda way: expected[way])
    # The model was fitted on processors.
    limit = _HOPELESS * expected[order[0]] if device.type == "cpu" else math.inf
    return [way for way in order if expected[way] <= limit]


def _key(layout: Layout, batch: int, size: Size, ways: Iterable[Way], weight: Tensor) -> dict[str, Any]:
    """Everything that the times depend on, as JSON values."""
    card = weight.device.type == "cuda"
    key = {
        "revision": REVISION,
        "convolution": asdict(layout.convolution),
        "kernels": layout.kernels,
        "sizes": layout.sizes,
        "size": size,
        "batch": batch,
        "ways": [way.value for way in ways],
        "dtype": str(weight.dtype),
        "device": torch.cuda.get_device_name(weight.device) if card else processor(),
        "threads": None if card else torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
    }
    # As the file has it: a list where there was a tuple.
    return json.loads(json.dumps(key))  # type: ignore[no-any-return]


def _fastest(ways: Iterable[Way], times: Mapping[Way, Timing], otherwise: Way) -> Way:
    """The first of ``ways`` that is about as fast as any; ``otherwise`` if none fits into memory."""
    # Where nothing fits, the training itself will say so.
    limit = _TIE * min((t.minimum for t in times.values()), default=math.inf)
    return next((w for w in ways if w in times and times[w].minimum <= limit), otherwise)


def _kept(key: Mapping[str, Any], ways: Iterable[Way]) -> Choice | None:
    """The choice in the cache; None if there is none that can be used."""

    def read(content: Any) -> Choice:
        choice = Choice.read(content)
        if choice.way not in choice.times or not choice.times.keys() <= set(ways):
            raise ValueError("it belongs to something else")
        return choice

    return recall("ways", key, read)
