"""Whether the maps of a task go on at the other side of their borders."""

from __future__ import annotations

import math

from torch import Tensor

from nasfw.contracts import Task

_SAMPLES = 256
# Second differences across the border, in those elsewhere: about 1 for solutions of equations on circles,
# from 2.3 (Darcy flow on 16 x 16 points) to 16 for those on squares.
_JUMP = 1.6
# How many of its standard errors the excess over this must be, as few samples say little.
_ERRORS = 2.0


def periodic(task: Task) -> bool:
    """Whether what is predicted is a map that goes on at the other side of its borders, as does the input.

    That is said if second differences across the borders of the first samples to learn from are not clearly
    larger than those within, of inputs [B, C, *sizes] and of targets; so also of maps that are zero or random
    at all borders. False where no maps of numbers are predicted, such as for classes.
    """
    x, y = next(iter(task.batches("train", _SAMPLES)))
    if not (isinstance(y, Tensor) and y.is_floating_point() and y.ndim == x.ndim > 2):
        return False
    return not any(_ends(some.double(), axis) for some in (x, y) for axis in range(2, x.ndim))


def _ends(maps: Tensor, axis: int) -> bool:
    """Whether second differences at both ends of an axis' circle are larger than others, over the samples."""
    if maps.shape[axis] < 4:
        return False
    second = (maps.roll(1, axis) - 2 * maps + maps.roll(-1, axis)).abs().movedim(axis, 1).flatten(2).mean(2)
    excess = second[:, [0, -1]].mean(1) - _JUMP * second[:, 1:-1].mean(1)
    if len(excess) == 1:
        return bool(excess > 0)
    return bool(excess.mean() > _ERRORS * excess.std() / math.sqrt(len(excess)))
