from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from nasfw.spaces.borders import periodic
from nasfw.spaces.xd import XD
from nasfw.tasks.burgers import Burgers
from nasfw.tasks.darcy import Darcy
from nasfw.tasks.navier_stokes import NavierStokes


@dataclass(frozen=True)
class Given:
    """A task of these inputs and targets, as far as it is looked at."""

    x: Tensor
    y: Tensor

    @property
    def output_shape(self):
        return tuple(self.y.shape[1:])

    def batches(self, split, batch_size=256, generator=None):
        assert split == "train"
        yield self.x[:batch_size], self.y[:batch_size]


def waves(count, size, frequencies, circular):
    """Random sums of sines and cosines of whole periods, or of half periods as between two walls."""
    generator = torch.Generator().manual_seed(0)
    result = torch.zeros(count, 1, *size)
    for f in frequencies:
        for axis, n in enumerate(size):
            angles = math.pi * f * torch.arange(n) / (n / 2 if circular else n - 1)
            for wave in (angles.sin(), angles.cos()):
                factors = torch.randn(count, 1, *[1] * len(size), generator=generator)
                result += factors * wave.view(-1, *[1] * (len(size) - 1 - axis))
    return result


@pytest.mark.parametrize("size", [(16,), (64,), (12, 20), (8, 9, 10)])
@pytest.mark.parametrize("circular", [True, False])
def test_whole_waves_go_on_at_the_other_side_and_halves_do_not(size, circular):
    maps = waves(50, size, (1, 2, 3), circular)
    assert periodic(Given(maps, maps)) == circular


def test_one_map_of_one_axis_that_ends_is_enough():
    around, ending = waves(50, (16, 16), (1, 2), True), waves(50, (16, 16), (1, 2), False)
    assert periodic(Given(around, around))
    assert not periodic(Given(around, ending))
    assert not periodic(Given(ending, around))
    rows = torch.cat([around[:, :, :10], around[:, :, 8:9]], 2)
    assert not periodic(Given(rows, rows))


def test_only_maps_of_numbers_go_on():
    around = waves(50, (16,), (1, 2), True)
    for target in (
        torch.zeros(50, dtype=torch.long),
        torch.zeros(50, 1),
        torch.zeros(50, 16, dtype=torch.long),
    ):
        assert not periodic(Given(around, target))


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_constant_and_very_short_maps_have_no_border(value):
    assert periodic(Given(torch.full((5, 2, 8), value), torch.full((5, 1, 8), value)))
    assert periodic(Given(torch.randn(5, 2, 3), torch.randn(5, 1, 3)))


def test_a_ramp_has_one():
    ramp = torch.arange(8.0).expand(5, 1, 8)
    assert not periodic(Given(ramp, ramp))


@pytest.mark.parametrize(
    ("flow", "circular"),
    [
        (Burgers(resolution=16, samples=40, test_samples=4), True),
        (NavierStokes(resolution=16, samples=20, test_samples=4, time=1.0), True),
        (Darcy(resolution=16, samples=40, test_samples=4), False),
        *((Burgers(resolution=64, samples=10, test_samples=4, seed=s), True) for s in range(3)),
    ],
)
def test_solutions_on_circles_and_on_squares_are_told_apart(flow, circular):
    assert periodic(flow) == circular
    space = XD(flow, "pde", depth=1, channels=2)
    assert all(site.circular == circular for site in space.sites.values())
    words = "periodic at the border" if circular else "zeros at the border"
    assert space.description == f"backbone pde, depth 1, channels 2, {words}"
    for chosen in (True, False):
        other = XD(flow, "pde", depth=1, channels=2, circular=chosen)
        assert all(site.circular == chosen for site in other.sites.values())
