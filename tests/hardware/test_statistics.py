"""Confidence intervals of medians, and weighted medians."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import quantile_test

from nasfw.hardware.statistics import median_interval, weighted_median


def test_six_values_hold_the_median_unless_all_lie_on_one_side():
    """Probability 1 - 2 / 2^6 = 0.96875: the smallest level that their extremes do not reach is above it."""
    values = [3.0, 1.0, 6.0, 2.0, 5.0, 4.0]
    assert median_interval(values, level=0.96875) == (1.0, 6.0)
    # The next pair holds it unless five lie on one side: 1 - 2 (1 + 6) / 2^6 = 0.78125.
    assert median_interval(values, level=0.78125) == (2.0, 5.0)
    assert median_interval(values, level=0.7813) == (1.0, 6.0)


@pytest.mark.parametrize("count", range(1, 6))
def test_too_few_values_give_their_extremes(count):
    values = [float(v) for v in range(count)]
    assert median_interval(reversed(values)) == (0.0, count - 1.0)


def test_no_values_have_no_median():
    with pytest.raises(ValueError, match="no values"):
        median_interval([])


@pytest.mark.parametrize("count", [7, 12, 25, 60])
def test_it_holds_the_true_median_as_often_as_it_says(count):
    draws = np.random.default_rng(0).exponential(size=(4000, count))
    intervals = np.array([median_interval(draw) for draw in draws])
    held = np.mean((intervals[:, 0] <= np.log(2)) & (np.log(2) <= intervals[:, 1]))
    # Three standard deviations of 4000 draws; steps of the binomial distribution keep it above 0.95.
    assert 0.94 <= held <= 0.995


@pytest.mark.parametrize("count", [6, 7, 9, 10, 31, 200])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_it_is_scipys_interval(count, level):
    values = np.random.default_rng(count).normal(size=count)
    expected = quantile_test(values, p=0.5).confidence_interval(level)
    assert median_interval(values, level) == (expected.low, expected.high)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=8))
def test_a_weight_is_how_often_a_value_counts(pairs):
    values, weights = np.array(pairs, dtype=float).T
    if not weights.any():
        weights[0] = 1
    expected = np.median(np.repeat(values, weights.astype(int)))
    assert weighted_median(values, weights) == expected
    assert weighted_median(values, 0.1 * weights) == expected


def test_faint_values_do_not_count_beside_others():
    values, weights = np.array([0.0, 1.0, *[0.1] * 24]), np.array([1.0, 1.0, *[1e-12] * 24])
    assert weighted_median(values, weights) == 0.5
    assert weighted_median(values[2:], weights[2:]) == 0.1


def test_medians_are_taken_along_the_last_axis():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4, 6))
    assert np.array_equal(weighted_median(values, np.full_like(values, 0.3)), np.median(values, axis=-1))
