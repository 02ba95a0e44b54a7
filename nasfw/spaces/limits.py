"""Numbers that a convolution can have; importing this does not import torch."""

from __future__ import annotations

from nasfw.values import UsageError


def kernel_size(number: int) -> int:
    """``number`` if it is odd and positive, UsageError otherwise."""
    if number < 1 or number % 2 == 0:
        raise UsageError(f"a zero or even kernel size is not possible: {number}; use 1, 3, 5 and so on")
    return number


def dilation(number: int) -> int:
    """``number`` if it is positive, UsageError otherwise."""
    if number < 1:
        raise UsageError(f"a dilation below 1 is not possible: {number}")
    return number
