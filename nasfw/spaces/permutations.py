"""Permutations as kaleidoscope matrices.

Switches that either keep or swap the two indices of a pair, with the strides N/2, .., 2, 1 and then 1, 2, ..,
N/2, can realise every permutation (Beneš, "Mathematical Theory of Connecting Networks and Telephone Traffic",
1965). As 2 x 2 matrices of zeros and ones, these switches make a kaleidoscope matrix of two blocks.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from nasfw.spaces.kaleidoscope import Kaleidoscope, identity
from nasfw.values import UsageError


def permutation(order: Iterable[int], dtype: torch.dtype = torch.complex64) -> Kaleidoscope:
    """Two blocks of zeros and ones, decreasing and then increasing, whose product with x is x[.., order]."""
    order = [int(i) for i in order]
    n = len(order)
    k = identity(n, 2, increasing=False, dtype=dtype)
    if missing := {*range(n)} - {*order}:
        raise UsageError(
            f"a permutation of {n} indices has each from 0 to {n - 1} once; this one lacks {min(missing)}"
        )
    orders = [order]
    for stage in range(k.stages):
        routes = [_route(o) for o in orders]
        for block, at in ((0, stage), (1, -1 - stage)):
            swapped = torch.tensor([swap for route in routes for swap in route[block]])
            k.twiddle[block, at, swapped] = torch.eye(2, dtype=dtype).flip(0)
        orders = [half for _, _, halves in routes for half in halves]
    return k


def _route(order: list[int]) -> tuple[list[bool], list[bool], list[list[int]]]:
    """Which pairs (p, p + s) of inputs and of outputs swap, and the orders that are left to the halves of s.

    Two inputs of a pair go to different halves, and two outputs of a pair come from different halves. Taking
    these demands in turn walks through cycles of even length, so all of them can be met.
    """
    n = len(order)
    s = n // 2
    place = sorted(range(n), key=order.__getitem__)
    half = [-1] * n  # of every output
    for output in range(s):
        while half[output] < 0:
            beside = (output + s) % n
            half[output], half[beside] = 0, 1
            output = place[(order[beside] + s) % n]
    inputs = [half[place[p]] == 1 for p in range(s)]
    outputs = [half[p] == 1 for p in range(s)]
    halves = [[order[p if half[p] == side else p + s] % s for p in range(s)] for side in (0, 1)]
    return inputs, outputs, halves
