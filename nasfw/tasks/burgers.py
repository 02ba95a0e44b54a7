"""Viscous Burgers in one dimension: from the initial velocity to the velocity at time 1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np

from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.cache import cached
from nasfw.tasks.darcy import check_sizes
from nasfw.tasks.generated import GeneratedTask, dense
from nasfw.tasks.reading import Array
from nasfw.values import UsageError

# To be raised whenever the same parameters give other data.
_VERSION = 1


@dataclass(frozen=True)
class Burgers(GeneratedTask):
    """u_t + u u_x = viscosity u_xx, periodic on the unit interval: predict u(., 1) from u(., 0).

    The start is a Gaussian field of covariance 625 (-Laplace + 25)^-2 (Li et al. 2021, 5.1). One channel in,
    one out. Made by a pseudo-spectral solver on first use and then kept in the cache.
    """

    metric = "relative_l2"

    resolution: Annotated[int, "points on the interval"] = 128
    viscosity: Annotated[float, "0.1 gives smooth waves, 0.01 steep fronts"] = 0.01
    samples: Annotated[int, "samples for training and validation"] = 800
    test_samples: Annotated[int, "samples for the test"] = 200
    seed: Annotated[int, "seed of the starts and of the validation split"] = 0
    permuted: Annotated[bool, "points in bit-reversed order, no longer local"] = False

    def __post_init__(self) -> None:
        """Refuse sizes that make no task."""
        check_sizes(self.resolution, self.samples, self.test_samples, self.seed)
        if not 0.001 <= self.viscosity <= 10:
            raise UsageError(f"viscosity is {self.viscosity}; it must lie between 0.001 and 10")

    @cached_property
    def arrays(self) -> ArraysTask:
        made = cached("burgers", [_VERSION, self.parameters], self._make)
        return dense(made["start"], made["end"], self.samples, "first", self.seed, self.permuted)

    def _make(self) -> dict[str, Array]:
        rng = np.random.default_rng(self.seed)
        # Fronts are some 2 * viscosity wide and must be resolved, whatever the resolution of the data.
        finer = 1
        while self.resolution * finer < max(64, 2.5 / self.viscosity):
            finer *= 2
        start = gaussian_field(self.samples + self.test_samples, self.resolution * finer, rng)
        end = solve(start, self.viscosity)
        return {
            "start": start[:, ::finer].astype(np.float32),
            "end": end[:, ::finer].astype(np.float32),
        }


def gaussian_field(samples: int, resolution: int, rng: np.random.Generator) -> Array:
    """Draws from N(0, 625 (-Laplace + 25)^-2) on the periodic unit interval, [samples, resolution].

    Without the constant mode, which would only move the solution as a whole. The others are
    sqrt(2) cos(2 pi k x) and sqrt(2) sin(2 pi k x) with deviation 25 / ((2 pi k)^2 + 25), up to a third of
    the resolution.
    """
    k = np.arange(1, resolution // 3 + 1)
    deviation = 25 / ((2 * np.pi * k) ** 2 + 25)
    cosine, sine = rng.standard_normal((2, samples, len(k)))
    modes = np.zeros((samples, resolution // 2 + 1), complex)
    modes[:, k] = deviation * (cosine - 1j * sine) * (resolution / np.sqrt(2))
    return np.fft.irfft(modes, resolution)


def solve(start: Array, viscosity: float, time: float = 1.0, courant: float = 1.0) -> Array:
    """u(., time) [samples, n] of u_t + u u_x = viscosity u_xx from ``start``, periodic on the unit interval.

    Fourier in space with the upper third of the modes cut (Orszag's rule), fourth-order Runge-Kutta on the
    modes times exp(viscosity (2 pi k)^2 t), which takes care of the viscous term exactly. A step carries no
    point further than ``courant`` grid points: max |u| does not grow.
    """
    from scipy.fft import irfft, rfft

    n = start.shape[-1]
    k = 2 * np.pi * np.arange(n // 2 + 1)
    kept = np.arange(n // 2 + 1) <= n / 3
    fastest = max(float(np.abs(start).max()), 1e-12)
    # A heavily damped mode must not be multiplied by the square of time steps that only the flow allows.
    steps = max(1, int(np.ceil(time * fastest * n / courant)), int(np.ceil(time / 0.02)))
    dt = time / steps
    half = np.exp(-viscosity * k**2 * dt / 2)
    factor = -0.5j * k * kept

    def advection(modes: Array) -> Array:
        velocity = irfft(modes, n)
        result: Array = factor * rfft(velocity * velocity)
        return result

    v = rfft(start) * kept
    for _ in range(steps):
        first = advection(v)
        second = advection(half * (v + dt / 2 * first))
        third = advection(half * v + dt / 2 * second)
        fourth = advection(half * (half * v + dt * third))
        v = half**2 * (v + dt / 6 * first) + dt / 3 * half * (second + third) + dt / 6 * fourth
    end: Array = irfft(v, n)
    return end
