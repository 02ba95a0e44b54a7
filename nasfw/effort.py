"""How much a run of the quick preset trains: a model of the time on two laptop cores.

The time is modelled, not measured, so that the same command trains equally long on every machine, and a run
that was killed goes on as it began.
"""

from __future__ import annotations

import math
from dataclasses import replace

from nasfw.values import Recipe

# One training of the plain backbone; a whole run is some forty to eighty of them.
_SECONDS = 3.6
# Where that is less than this many passes over the data, they are made, up to a time.
_PASSES, _AT_MOST = 5.0, 8.0
_EPOCHS = (8, 60)

# A step takes at least this long, and with more layers than so many (a WRN-16-1's) in proportion to them.
_STEP_SECONDS, _LAYERS = 0.008, 29
_FLOPS_PER_SECOND = 4e10

# Below this many operations in a training step, threads cost more than they bring.
_THREADS_FROM = 2e9


def affordable(recipe: Recipe, samples: int, flops: float, effort: float, layers: int = _LAYERS) -> Recipe:
    """``recipe`` with as many epochs over ``samples`` as ``effort`` allows the plain backbone.

    ``flops`` is the work of one inference, ``layers`` the number of layers with weights. At least 8 and at
    most 60 epochs (times the effort, if it is above 1); where 8 are too many, they use a fraction of the
    batches.
    """
    step = _STEP_SECONDS * max(1.0, layers / _LAYERS) + 3 * flops * recipe.batch_size / _FLOPS_PER_SECOND
    steps = max(1, math.ceil(samples / recipe.batch_size))
    epoch = step * steps
    passes = effort * max(_SECONDS / epoch, min(_PASSES, _AT_MOST / epoch))
    low, high = _EPOCHS
    fraction = 1.0 if passes >= low else max(passes / low, 1 / steps)
    return replace(recipe, epochs=int(min(max(passes, low), high * max(1.0, effort))), fraction=fraction)


def size_limit(samples: int, effort: float) -> float:
    """Operations of one inference with which the passes over ``samples`` fit into the time."""
    return max(1.0, effort) * _AT_MOST * _FLOPS_PER_SECOND / (3 * _PASSES * samples)


def threads(available: int, flops: float, batch_size: int) -> int:
    """How many threads a training should use, for ``flops`` of one inference."""
    return available if 3 * flops * batch_size >= _THREADS_FROM else 1
