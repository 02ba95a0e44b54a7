"""Darcy flow through a medium of two materials: from the coefficient to the pressure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np

from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.cache import cached
from nasfw.tasks.generated import GeneratedTask, dense
from nasfw.tasks.reading import Array
from nasfw.values import UsageError

# To be raised whenever the same parameters give other data.
_VERSION = 1


@dataclass(frozen=True)
class Darcy(GeneratedTask):
    """-div(a grad u) = 1 on the unit square, u = 0 on its boundary: predict u from a (Li et al. 2021, 5.2).

    a is 12 where a Gaussian field of covariance (-Laplace + 9)^-2 is positive, and 3 elsewhere. One channel
    of values at the cells' centres in, one out. Made by finite volumes on first use, then kept in the cache.
    """

    metric = "relative_l2"

    resolution: Annotated[int, "cells along each side"] = 32
    samples: Annotated[int, "samples for training and validation"] = 800
    test_samples: Annotated[int, "samples for the test"] = 200
    seed: Annotated[int, "seed of the coefficients and of the validation split"] = 0
    permuted: Annotated[bool, "rows and columns in bit-reversed order, no longer local"] = False

    def __post_init__(self) -> None:
        """Refuse sizes that make no task."""
        check_sizes(self.resolution, self.samples, self.test_samples, self.seed)

    @cached_property
    def arrays(self) -> ArraysTask:
        made = cached("darcy", [_VERSION, self.parameters], self._make)
        return dense(made["a"], made["u"], self.samples, "none", self.seed, self.permuted)

    def _make(self) -> dict[str, Array]:
        rng = np.random.default_rng(self.seed)
        a = np.stack([coefficient(self.resolution, rng) for _ in range(self.samples + self.test_samples)])
        u = np.stack([solve(field) for field in a])
        return {"a": a.astype(np.float32), "u": u.astype(np.float32)}


def coefficient(resolution: int, rng: np.random.Generator) -> Array:
    """A draw of the coefficient at the cells' centres, [resolution, resolution], values 3 and 12."""
    return np.where(gaussian_field(resolution, rng) >= 0, 12.0, 3.0)


def gaussian_field(resolution: int, rng: np.random.Generator) -> Array:
    """A draw from N(0, (-Laplace + 9)^-2) with zero Neumann boundary at the cells' centres.

    The eigenfunctions are products of 1 and sqrt(2) cos(pi k x), the square root of the covariance has the
    eigenvalues 1 / (pi^2 |k|^2 + 9): a cosine transform of independent normal numbers.
    """
    from scipy.fft import idctn

    k = np.arange(resolution)
    scale = 1 / (np.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    modes = scale * rng.standard_normal((resolution, resolution))
    # The orthonormal transform carries 1 / resolution, the functions above have mean square 1.
    field: Array = idctn(modes, norm="ortho") * resolution
    return field


def solve(a: Array, source: Array | float = 1.0) -> Array:
    """u [h, w] at the centres of h x w cells of the unit square, for ``a`` > 0 and ``source`` there.

    Finite volumes: the flow through a face is the difference of its cells' u over their distance, times the
    harmonic mean of their a, which is exact for materials that meet at the face. The boundary, u = 0, is half
    a cell away from the outermost centres. Second order.
    """
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import spsolve

    h, w = a.shape
    # Conductance of every face: of inner faces, and of the two boundary faces of each line of cells.
    down = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1]) * (h / w)
    right = 2 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1]) * (w / h)
    centre = np.zeros((h, w))
    centre[1:] += down
    centre[:-1] += down
    centre[:, 1:] += right
    centre[:, :-1] += right
    centre[[0, -1]] += 2 * a[[0, -1]] * (h / w) if h > 1 else 4 * a * (h / w)
    centre[:, [0, -1]] += 2 * a[:, [0, -1]] * (w / h) if w > 1 else 4 * a * (w / h)
    # No face joins the end of a row to the beginning of the next.
    beside = np.pad(right, ((0, 0), (0, 1))).ravel()[:-1]
    below = down.ravel()
    matrix = diags_array(
        [centre.ravel(), -beside, -beside, -below, -below], offsets=[0, 1, -1, w, -w], shape=(h * w, h * w)
    )
    load = np.broadcast_to(np.asarray(source, float), (h, w)).ravel() / (h * w)
    pressure: Array = spsolve(csc_array(matrix), load, permc_spec="MMD_AT_PLUS_A").reshape(h, w)
    return pressure


def check_sizes(resolution: int, samples: int, test_samples: int, seed: int) -> None:
    """UsageError for sizes that make no task."""
    for name, value, low in (
        ("resolution", resolution, 4),
        ("samples", samples, 10),
        ("test_samples", test_samples, 1),
        ("seed", seed, 0),
    ):
        if value < low:
            raise UsageError(f"{name} is {value}; it must be {low} or more")
