"""How much the quick preset trains."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasfw.effort import affordable, size_limit, threads
from nasfw.training import steps_per_epoch
from nasfw.values import Recipe

SAMPLES = st.integers(1, 10**6)
FLOPS = st.floats(1e3, 1e11)


class Sized:
    def __init__(self, samples):
        self.samples = samples

    def size(self, split):
        return self.samples


@given(SAMPLES, FLOPS, st.floats(0.01, 100))
def test_epochs_and_fraction_stay_in_their_range(samples, flops, effort):
    recipe = affordable(Recipe(batch_size=64, lr=0.3), samples, flops, effort)
    assert 8 <= recipe.epochs <= 60 * max(1, effort)
    assert 0 < recipe.fraction <= 1
    assert recipe.fraction == 1 or recipe.epochs == 8
    assert recipe.lr == 0.3
    assert steps_per_epoch(Sized(samples), "train", recipe) >= 1


@given(SAMPLES, FLOPS, st.floats(0.01, 10), st.floats(1, 10))
def test_more_effort_never_trains_less(samples, flops, effort, factor):
    less, more = (affordable(Recipe(), samples, flops, effort * f).passes for f in (1, factor))
    assert more >= less * 0.999


def test_many_small_layers_train_for_fewer_epochs():
    """Twenty times the layers of a WRN-16-1 take twenty times its shortest step: in 8 s, 2.5 passes."""
    few, many = (affordable(Recipe(batch_size=64), 64 * 20, 1e-3, 1.0, layers) for layers in (29, 580))
    assert few.passes == 22
    assert many.passes == pytest.approx(2.5)
    assert affordable(Recipe(batch_size=64), 64 * 20, 1e-3, 1.0, 3) == few


@given(st.integers(100, 10**6))
def test_a_network_at_the_size_limit_gets_five_passes(samples):
    """The limit solves: five passes at the modelled speed take the longest time allowed, steps aside."""
    flops = size_limit(samples, 1.0)
    assert 3 * flops * 5 * samples / 4e10 == pytest.approx(8.0)


def test_small_steps_use_one_thread():
    assert threads(8, 1e6, 64) == 1
    assert threads(8, 1e8, 64) == 8
