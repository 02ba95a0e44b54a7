"""Whether the maps of a task go on at the other side of their borders."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from nasfw.contracts import Task

_SAMPLES = 256
# Second differences across the border, in those elsewhere: 0.9 to 1.2 for solutions of equations on circles,
# from 2.3 (Darcy flow on 16 x 16 points) to 16 for those on squares.
_JUMP = 1.6


def periodic(task: Task) -> bool:
    """Whether second differences across the borders are about as large as those within the maps.

    Looks at the first samples to learn from: at inputs [B, C, *sizes], and at targets of this form. Of maps
    that are zero or random at all borders this is said too; for them it makes no difference.
    """
    x, y = next(iter(task.batches("train", _SAMPLES)))
    maps = [x, y] if len(task.output_shape) > 1 and isinstance(y, Tensor) else [x]
    return all(jump <= _JUMP for some in maps for jump in _jumps(some.double()))


def _jumps(maps: Tensor) -> Iterator[float]:
    """For every axis, the mean second difference at both ends of its circle over the mean of all others."""
    for axis in range(2, maps.ndim):
        if maps.shape[axis] < 4:
            continue
        second = maps.roll(1, axis) - 2 * maps + maps.roll(-1, axis)
        means = second.abs().movedim(axis, 0).flatten(1).mean(1)
        within, across = float(means[1:-1].mean()), float(means[[0, -1]].mean())
        yield 0.0 if across == 0 else across / within if within else float("inf")
