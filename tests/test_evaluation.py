"""The evaluation protocol against published tables and its definitions."""

import math

import numpy as np
import pytest

from nasfw.evaluation import compare, geometric_mean_ratio, performance_profile, relative_improvement

# Errors on NAS-Bench-360 (CIFAR-100, Spherical, Darcy, PSICOV, Cosmic, NinaPro, FSD50K, ECG, Satellite,
# DeepSEA) from the paper on DASH (Shen, Khodak and Talwalkar 2022), and what was computed from them outside
# this package: the profile at 1, 1.1, 1.5 and 2, and the geometric mean ratio.
PUBLISHED = {
    "Expert": [19.39, 67.41, 0.008, 3.35, 0.13, 8.73, 0.62, 0.28, 19.8, 0.30],
    "WRN": [23.35, 85.77, 0.073, 3.84, 0.24, 6.78, 0.92, 0.43, 15.49, 0.40],
    "WRN-ASHA": [23.39, 75.46, 0.066, 3.84, 0.25, 7.34, 0.91, 0.43, 15.84, 0.41],
    "DARTS-GAEA": [24.02, 48.23, 0.026, 2.94, 0.22, 17.67, 0.94, 0.34, 12.51, 0.36],
    "DenseNAS": [25.98, 72.99, 0.10, 3.84, 0.38, 10.17, 0.64, 0.40, 13.81, 0.40],
    "Perceiver IO": [70.04, 82.57, 0.24, 8.06, 0.48, 22.22, 0.72, 0.66, 15.93, 0.38],
    "BABY DASH": [25.56, 63.45, 0.016, 3.94, 0.16, 8.28, 0.62, 0.37, 13.29, 0.37],
    "DASH": [24.37, 71.28, 0.0079, 3.30, 0.19, 6.60, 0.60, 0.32, 12.28, 0.28],
}
PROFILES = {
    "Expert": ([0.3, 0.6, 0.9, 1.0], 1.143),
    "WRN": ([0.0, 0.1, 0.5, 0.9], 1.705),
    "WRN-ASHA": ([0.0, 0.0, 0.5, 0.9], 1.693),
    "DARTS-GAEA": ([0.2, 0.3, 0.6, 0.8], 1.467),
    "DenseNAS": ([0.0, 0.1, 0.6, 0.8], 1.806),
    "Perceiver IO": ([0.0, 0.0, 0.3, 0.4], 2.821),
    "BABY DASH": ([0.0, 0.2, 0.9, 0.9], 1.304),
    "DASH": ([0.5, 0.5, 1.0, 1.0], 1.133),
}
ERRORS = np.array(list(PUBLISHED.values()))


@pytest.mark.parametrize("method", PUBLISHED)
def test_profiles_and_mean_ratios_of_the_published_table(method):
    row = list(PUBLISHED).index(method)
    shares, ratio = PROFILES[method]
    np.testing.assert_allclose(performance_profile(ERRORS, [1, 1.1, 1.5, 2])[row], shares, rtol=1e-15)
    assert geometric_mean_ratio(ERRORS)[row] == pytest.approx(ratio, abs=5e-4)


def test_dash_beats_the_expert_on_six_of_ten_published_tasks():
    result = compare(PUBLISHED["DASH"], PUBLISHED["Expert"], maximise=False)
    assert (result.wins, result.ties, result.losses) == (6, 0, 4)


def test_profiles_grow_from_the_share_of_wins_to_one():
    errors = np.random.default_rng(0).random((5, 40)) + 0.01
    errors[3] = errors[2]
    taus = np.geomspace(1, 1e3, 50)
    profile = performance_profile(errors, taus)
    assert (np.diff(profile, axis=1) >= 0).all()
    assert profile[:, 0].sum() >= 1
    assert (profile[:, -1] == 1).all()
    wins = [(errors[m] <= errors.min(axis=0)).mean() for m in range(5)]
    np.testing.assert_array_equal(profile[:, 0], wins)


def test_profiles_and_ratios_do_not_depend_on_a_tasks_unit():
    errors, units = np.random.default_rng(1).random((4, 6)), np.geomspace(1e-3, 1e3, 6)
    taus = [1, 1.3, 2, 5]
    np.testing.assert_array_equal(
        performance_profile(errors * units, taus), performance_profile(errors, taus)
    )
    np.testing.assert_allclose(geometric_mean_ratio(errors * units), geometric_mean_ratio(errors), rtol=1e-12)


def test_a_perfect_method_leaves_the_others_out_of_reach_on_that_task():
    errors = [[0.0, 2.0], [1e-9, 1.0], [0.0, 1.0]]
    np.testing.assert_array_equal(performance_profile(errors, [1, 1e300]), [[0.5, 1], [0.5, 0.5], [1, 1]])
    np.testing.assert_allclose(geometric_mean_ratio(errors), [math.sqrt(2), math.inf, 1])


def test_a_printed_ratio_is_met_whatever_the_last_bit():
    smallest = np.arange(1, 200) / 1000
    errors = np.array([smallest, np.arange(1, 200) * 11 / 10_000])
    assert performance_profile(errors, [1.1])[1, 0] == 1


def test_geometric_mean_ratio_of_one_and_four_is_two():
    np.testing.assert_allclose(geometric_mean_ratio([[1.0, 4.0], [1.0, 1.0]]), [2, 1])


@pytest.mark.parametrize("errors", [[1.0, 2.0], [[]], [[1.0, math.nan]], [[1.0, -1.0]], [[math.inf]]])
def test_errors_that_cannot_be_compared_are_refused(errors):
    with pytest.raises(ValueError, match="errors must be"):
        performance_profile(errors, [1])
    with pytest.raises(ValueError, match="errors must be"):
        geometric_mean_ratio(errors)


@pytest.mark.parametrize("taus", [[0.9], [math.nan], 1.0])
def test_factors_below_one_are_refused(taus):
    with pytest.raises(ValueError, match="at least 1"):
        performance_profile([[1.0]], taus)


def test_relative_improvement():
    assert relative_improvement(0.92, [0.91, 0.93]) == pytest.approx(0.0, abs=1e-13)
    assert relative_improvement(99.0, [89.0, 91.0]) == pytest.approx(10.0, rel=1e-14)
    assert relative_improvement(0.45, [0.9]) == pytest.approx(-50.0, rel=1e-14)


@pytest.mark.parametrize("scores", [[], [0.0], [math.nan], [-1.0], [math.inf]])
def test_relative_improvement_needs_a_positive_mean(scores):
    with pytest.raises(ValueError, match="positive"):
        relative_improvement(0.5, scores)


def test_a_comparison_pairs_seeds():
    result = compare([0.90, 0.82, 0.75], [0.85, 0.80, 0.75], maximise=True)
    assert (result.wins, result.ties, result.losses, result.seeds) == (2, 1, 0, 3)
    assert (result.difference, result.lowest, result.highest) == pytest.approx((0.02, 0.0, 0.05), abs=1e-15)
    assert result.verdict == "beat"
    assert str(result) == "beat (median +0.02, +0 to +0.05 over 3 seeds: 2 won, 1 tied, 0 lost)"


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([1], "beat"),
        ([0], "tied"),
        ([-1], "did not beat"),
        ([1, 1, -9], "beat"),
        ([9, -1, -1], "did not beat"),
        ([0, 0, 1], "tied"),
        ([0, 0, -1], "tied"),
        ([1, -1], "tied"),
        ([3, -1], "did not beat"),
        ([1, -3], "did not beat"),
    ],
)
def test_verdict(gains, verdict):
    theirs = [5.0] * len(gains)
    assert compare([5.0 + g for g in gains], theirs, maximise=True).verdict == verdict
    assert compare([5.0 - g for g in gains], theirs, maximise=False).verdict == verdict


def test_one_seed_is_said():
    assert str(compare([0.1], [0.3], maximise=False)) == "beat (+0.2, one seed)"


def test_swapping_sides_swaps_wins_and_losses():
    a, b = np.random.default_rng(2).integers(0, 3, (2, 25)).astype(float)
    one, other = compare(a, b, maximise=True), compare(b, a, maximise=True)
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
    assert (one.difference, one.lowest, one.highest) == (-other.difference, -other.highest, -other.lowest)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], []), ([math.nan], [1.0])])
def test_values_that_cannot_be_paired_are_refused(ours, theirs):
    with pytest.raises(ValueError, match=r"one value per seed|finite"):
        compare(ours, theirs, maximise=True)
