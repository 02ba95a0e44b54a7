"""Every plugin of the package fulfils its contract, and does what it says."""

import numpy as np
import pytest
from nasfw_example import Abacus, Climb, Duration, Layers

import nasfw
from nasfw.testing import (
    DeviceContract,
    Echo,
    ObjectiveContract,
    SpaceContract,
    StrategyContract,
    ToySpace,
    ToyTask,
)


class TestLayers(SpaceContract):
    @pytest.fixture
    def space(self, task):
        return Layers(task)


class TestClimb(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return Climb(steps=4)


class TestAbacus(DeviceContract):
    @pytest.fixture
    def device(self):
        return Abacus()


class TestDuration(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        return Duration(Abacus())


def test_duration_is_parameters_by_beads():
    """A network of layers 4-8-3 has 4 8 + 8 weights, 2 8 of the norm, and 8 3 + 3."""
    task = ToyTask()
    space = Layers(task, depth=1, sizes=(8,))
    seconds = Duration(Abacus(beads=2.0)).measure(nasfw.Candidate(space, task, (8,)))
    assert seconds == (40 + 16 + 27) / 2


def test_climbing_finds_the_top(tmp_path):
    """The sum of two independent numbers has no local maxima."""
    task = ToyTask()
    result = nasfw.run(
        task=task,
        spaces=ToySpace(task),
        strategy=Climb(steps=40),
        objectives=[Echo()],
        folder=tmp_path / "run",
        final=False,
    )
    assert result.pick.architecture == (2.0, 2.0)


def test_the_seed_decides_the_climb():
    """Mutation draws from the problem's generator alone."""
    space = Layers(ToyTask())
    one, two = (space.mutate(space.default, np.random.default_rng(1)) for _ in range(2))
    assert one == two
