"""Orders of positions."""

from __future__ import annotations


def bit_reversal(n: int) -> list[int]:
    """The order of n positions by their reversed binary digits: ``permuted[i] = original[order[i]]``.

    For 8: 0, 4, 2, 6, 1, 5, 3, 7. If n is no power of two, the order of the next one, without what is not
    below n. Applied twice, it is the identity for powers of two.
    """
    order = [0]
    while len(order) < n:
        order = [2 * i for i in order] + [2 * i + 1 for i in order]
    return [i for i in order if i < n]
