"""Positions in bit-reversed order: what lay side by side is torn apart, and no small kernel sees it whole.

Roberts et al. 2021, "Rethinking Neural Operations for Diverse Tasks", permute images of CIFAR-10 by rows and
columns, to see what a search finds where the operations made for images are wrong. Bit reversal is the order
in which the fast Fourier transform of Cooley and Tukey takes its inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nasfw.orders import bit_reversal

if TYPE_CHECKING:
    from nasfw.tasks.reading import Array


def bit_reversed(x: Array, dims: int) -> Array:
    """A copy of ``x`` with bit-reversed order along each of the last ``dims`` axes."""
    for axis in range(x.ndim - dims, x.ndim):
        x = np.take(x, bit_reversal(x.shape[axis]), axis)
    return x


def restored(x: Tensor, dims: int) -> Tensor:
    """What ``bit_reversed`` made ``x`` of."""
    for axis in range(x.ndim - dims, x.ndim):
        order = torch.tensor(bit_reversal(x.shape[axis]), device=x.device)
        x = x.index_select(axis, order.argsort())
    return x
