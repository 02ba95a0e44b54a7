"""Navier-Stokes in two dimensions: from the initial vorticity to the vorticity later on."""

from __future__ import annotations

from collections.abc import Sequence
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
# Samples are solved together as long as their modes fit into a processor's cache.
_POINTS = 1 << 15


@dataclass(frozen=True)
class NavierStokes(GeneratedTask):
    """w_t + u . grad w = viscosity Laplace w + f on a periodic unit square: predict w(., time) from w(., 0).

    w is the vorticity of the incompressible flow u, f = 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y)), and the
    start a Gaussian field of covariance 7^3 (-Laplace + 49)^-2.5 (Li et al. 2021, 5.3; ``gaussian_field`` has
    more). One channel of maps in, one out. With ``steps`` of 2 or more, both are [steps, height, width], for
    networks of three axes: out are the maps at so many times, equally apart, and in is the start, once for
    each. Made by a pseudo-spectral solver on first use and then kept in the cache.
    """

    metric = "relative_l2"

    resolution: Annotated[int, "points along each side"] = 32
    viscosity: Annotated[float, "0.001 is smooth; 0.0001 makes eddies, and takes minutes to solve"] = 0.001
    time: Annotated[float, "time of the last map that is to be predicted"] = 5.0
    steps: Annotated[int, "maps to be predicted; with 2 or more, a task of three axes"] = 1
    samples: Annotated[int, "samples for training and validation"] = 800
    test_samples: Annotated[int, "samples for the test"] = 200
    seed: Annotated[int, "seed of the starts and of the validation split"] = 0
    permuted: Annotated[bool, "rows, columns and steps in bit-reversed order, no longer local"] = False

    def __post_init__(self) -> None:
        """Refuse sizes that make no task."""
        check_sizes(self.resolution, self.samples, self.test_samples, self.seed)
        if not 1e-5 <= self.viscosity <= 1:
            raise UsageError(f"viscosity is {self.viscosity}; it must lie between 0.00001 and 1")
        if not 0 < self.time <= 100:
            raise UsageError(f"time is {self.time}; it must be more than 0 and at most 100")
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}; it must be 1 or more")

    @cached_property
    def arrays(self) -> ArraysTask:
        made = cached("navier_stokes", [_VERSION, self.parameters], self._make)
        start, end = np.broadcast_to(made["start"][:, None], made["maps"].shape), made["maps"]
        if self.steps == 1:
            start, end = start[:, 0], end[:, 0]
        return dense(start, end, self.samples, "none", self.seed, self.permuted)

    def _make(self) -> dict[str, Array]:
        rng = np.random.default_rng(self.seed)
        # Eddies are some sqrt(viscosity) wide, for w is about 1, and must be resolved whatever the data show:
        # at 0.001 the error is then below 0.0002, where networks err by some percent.
        finer = 1
        while self.resolution * finer < max(32, self.viscosity**-0.5):
            finer *= 2
        n, total = self.resolution * finer, self.samples + self.test_samples
        times = self.time * np.arange(1, self.steps + 1) / self.steps
        together = max(1, _POINTS // n**2)
        starts, maps = [], []
        for done in range(0, total, together):
            start = gaussian_field(min(together, total - done), n, rng)
            end = solve(start, self.viscosity, times, force(n))
            starts.append(start[:, ::finer, ::finer].astype(np.float32))
            maps.append(end[..., ::finer, ::finer].astype(np.float32))
        return {"start": np.concatenate(starts), "maps": np.concatenate(maps)}


def force(n: int) -> Array:
    """0.1 (sin 2 pi (x + y) + cos 2 pi (x + y)) at the points (i / n, j / n), [n, n]."""
    x = np.arange(n) / n
    angle = 2 * np.pi * (x[:, None] + x)
    wave: Array = 0.1 * (np.sin(angle) + np.cos(angle))
    return wave


def gaussian_field(samples: int, n: int, rng: np.random.Generator) -> Array:
    """Draws from N(0, 7^3 (-Laplace + 49)^-2.5) on the periodic unit square, [samples, n, n].

    The mode exp(2 pi i (k x + l y)) has the variance 7^3 (4 pi^2 (k^2 + l^2) + 49)^-2.5, up to a third of n.
    The constant one is left out: the vorticity of a periodic flow has no mean. Li et al. print 7^(3/2), but
    their code takes that as the deviation; with it as the variance the force would make all samples alike.
    """
    from scipy.fft import irfft2, rfft2

    flow = Flow(n)
    deviation = 7**1.5 * (flow.square + 49) ** -1.25 * (flow.kept & (flow.square > 0))
    # The modes of independent normal numbers have the variance n^2, and n^2 times a field's are its own.
    field: Array = irfft2(n * deviation * rfft2(rng.standard_normal((samples, n, n))), (n, n))
    return field


class Flow:
    """Modes [..., n, n // 2 + 1] of fields on the n x n points of the periodic unit square.

    ``square`` is the square of a mode's wave vector, ``kept`` whether the mode is below a third of n: of
    products of such fields, all modes that are kept are exact (Orszag's rule).
    """

    def __init__(self, n: int) -> None:
        self.n = n
        down, across = ((np.arange(n) + n // 2) % n - n // 2)[:, None], np.arange(n // 2 + 1)
        self.kept = (3 * np.abs(down) < n) & (3 * across < n)
        kx, ky = 2 * np.pi * down, 2 * np.pi * across
        self.square = kx**2 + ky**2
        # w = -Laplace psi and u = (psi_y, -psi_x).
        inverse = self.kept / np.where(self.square > 0, self.square, np.inf)
        self._u, self._v = 1j * ky * inverse, -1j * kx * inverse
        self._difference, self._product = self.kept * (kx**2 - ky**2), self.kept * kx * ky

    def velocity(self, w: Array) -> tuple[Array, Array]:
        """Both components at the points, of the flow without mean that has the vorticity with modes ``w``."""
        from scipy.fft import irfft2

        size = (self.n, self.n)
        return irfft2(self._u * w, size), irfft2(self._v * w, size)

    def advection(self, velocity: tuple[Array, Array]) -> Array:
        """Modes of -u . grad w = (d_yy - d_xx) u v + d_xy (u^2 - v^2) for a velocity (u, v)."""
        from scipy.fft import rfft2

        u, v = velocity
        modes: Array = self._difference * rfft2(u * v) + self._product * rfft2(v * v - u * u)
        return modes


def solve(
    start: Array,
    viscosity: float,
    times: Sequence[float] | Array,
    force: Array | float = 0.0,
    courant: float = 1.0,
) -> Array:
    """Vorticity at increasing ``times`` [samples, times, n, n] after ``start`` [samples, n, n].

    Pseudo-spectral: fourth-order Runge-Kutta on what is left when the viscous term and the ``force`` [n, n],
    which does not change in time, have been integrated exactly. A step carries no point of any sample further
    than ``courant`` grid points, neither by the speed that it has nor by what the force gives it.
    """
    from scipy.fft import irfft2, rfft2

    n = start.shape[-1]
    flow = Flow(n)
    pushed = flow.kept * rfft2(np.broadcast_to(force, (n, n)))
    gain = max(_fastest(flow.velocity(pushed)), 1e-12)
    # Where viscosity stops the largest eddies within the time of a step, it is not the flow that bounds it.
    longest = min((n * gain) ** -0.5, 1 / (8 * np.pi**2 * viscosity))
    w = flow.kept * rfft2(start)
    now, maps = 0.0, []
    for time in times:
        while now < time:
            velocity = flow.velocity(w)
            fastest = max(_fastest(velocity), 1e-12)
            steps = int(np.ceil((time - now) / (courant * min(longest, 1 / (n * fastest)))))
            dt = (time - now) / steps
            w = _step(flow, w, velocity, viscosity, pushed, dt)
            now = now + dt if steps > 1 else time
        maps.append(irfft2(w, (n, n)))
    return np.stack(maps, axis=1)


def _fastest(velocity: tuple[Array, Array]) -> float:
    u, v = velocity
    return float(np.abs(u).max() + np.abs(v).max())


def _step(
    flow: Flow, w: Array, velocity: tuple[Array, Array], viscosity: float, force: Array, dt: float
) -> Array:
    """Modes of the vorticity a time ``dt`` after ``w``, which has this velocity."""
    from scipy.special import exprel

    half = np.exp(-viscosity * flow.square * dt / 2)
    # What the force alone would have brought about in half a step.
    brought = force * exprel(-viscosity * flow.square * dt / 2) * (dt / 2)
    middle = half * w + brought
    end = half * middle + brought
    first = flow.advection(velocity)
    second = flow.advection(flow.velocity(middle + dt / 2 * half * first))
    third = flow.advection(flow.velocity(middle + dt / 2 * second))
    fourth = flow.advection(flow.velocity(end + dt * half * third))
    modes: Array = end + dt / 6 * (half**2 * first + 2 * half * (second + third) + fourth)
    return modes
