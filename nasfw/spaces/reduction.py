"""Smaller built-in backbones, for runs that may take minutes only."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# What to try, by falling cost: layers and channels of the first block.
_SMALLER: Mapping[str, tuple[tuple[int | None, int], ...]] = {
    "wrn": ((10, 16), (10, 12), (10, 8), (10, 6), (10, 4)),
    "wrn1d": ((None, 12), (None, 8), (None, 6), (None, 4)),
    "tcn": ((None, 24), (None, 16), (None, 12), (None, 8)),
    "pde": ((None, 24), (None, 16), (None, 12), (None, 8), (3, 8)),
}


def reduced(
    backbone: str, cost: Callable[[int | None, int | None], float], flops: float
) -> tuple[int | None, int | None]:
    """Depth and channels with which ``cost`` is at most ``flops``, or the smallest there are.

    None stands for the backbone's own, also where it is none of the built-in ones.
    """
    chosen: tuple[int | None, int | None] = (None, None)
    for smaller in _SMALLER.get(backbone, ()):
        if cost(*chosen) <= flops:
            break
        chosen = smaller
    return chosen
