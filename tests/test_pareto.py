"""Dominance and hypervolume against their definitions."""

import itertools
import math

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasfw.pareto import hypervolume, non_dominated, ranks, reference_point, spread


def on_grid(objectives=(1, 5), points=(0, 40), side=4):
    """Costs on a small grid, where ties and equal points abound."""
    return st.integers(*objectives).flatmap(
        lambda m: st.lists(
            st.tuples(*[st.integers(0, side)] * m), min_size=points[0], max_size=points[1]
        ).map(lambda rows: np.array(rows, dtype=float).reshape(-1, m))
    )


def simplex(n, m, seed=0):
    """Points none of which dominates another."""
    gaps = np.random.default_rng(seed).exponential(size=(n, m))
    return gaps / gaps.sum(axis=1, keepdims=True)


def dominates(a, b):
    return bool((a <= b).all() and (a < b).any())


def first_undominated(costs):
    return [
        not any(dominates(a, b) for a in costs) and not any((a == b).all() for a in costs[:i])
        for i, b in enumerate(costs)
    ]


def cells(costs, reference):
    """Number of unit cells of the grid below ``reference`` that a point with integer costs dominates."""
    corners = itertools.product(*[range(r) for r in reference])
    return sum(any((c <= corner).all() for c in costs) for corner in map(np.array, corners))


@given(on_grid())
def test_non_dominated_is_the_definition(costs):
    assert non_dominated(costs).tolist() == first_undominated(costs)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("side", [3, 12, 10**6])
def test_non_dominated_is_the_definition_for_many_points(m, side):
    """Enough points for every branch of the divide and conquer, with many ties and with none."""
    costs = np.random.default_rng(m).integers(0, side, (1500, m)).astype(float)
    at_most = (costs[:, None] <= costs[None]).all(axis=2)
    equal = at_most & at_most.T
    dominated = (at_most & ~equal).any(axis=0) | np.triu(equal, 1).any(axis=0)
    np.testing.assert_array_equal(non_dominated(costs), ~dominated)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_all_points_of_a_simplex_are_kept_and_all_behind_it_are_not(m):
    front = simplex(2000, m)
    costs = np.concatenate([front + 1e-3, front])
    np.testing.assert_array_equal(non_dominated(costs), np.repeat([False, True], 2000))


@given(on_grid())
def test_the_front_of_a_front_is_itself(costs):
    front = costs[non_dominated(costs)]
    assert non_dominated(front).all()


@given(on_grid(points=(1, 30)), st.randoms(use_true_random=False))
def test_order_of_points_and_of_objectives_does_not_matter(costs, random):
    costs = np.unique(costs, axis=0)
    rows = random.sample(range(len(costs)), len(costs))
    columns = random.sample(range(costs.shape[1]), costs.shape[1])
    shuffled = costs[rows][:, columns]
    bound = costs.max(axis=0) + 1
    np.testing.assert_array_equal(non_dominated(shuffled), non_dominated(costs)[rows])
    np.testing.assert_array_equal(ranks(shuffled), ranks(costs)[rows])
    assert hypervolume(shuffled, bound[columns]) == pytest.approx(hypervolume(costs, bound), rel=1e-12)


def test_equal_points_keep_the_first():
    assert non_dominated([[1, 2], [1, 2], [2, 1], [1, 2]]).tolist() == [True, False, True, False]
    assert non_dominated([[3], [1], [1], [2]]).tolist() == [False, True, False, False]


@given(on_grid())
def test_ranks_peel_fronts(costs):
    """A point's rank is one more than the largest rank among those that dominate it."""
    r = ranks(costs)
    for i, b in enumerate(costs):
        above = [int(r[j]) for j, a in enumerate(costs) if dominates(a, b)]
        assert r[i] == max(above, default=-1) + 1


@pytest.mark.parametrize("m", [2, 3, 4])
def test_ranks_and_front_agree_with_moocore(m):
    costs = np.random.default_rng(m).random((600, m))
    np.testing.assert_array_equal(ranks(costs), moocore.pareto_rank(costs))
    np.testing.assert_array_equal(non_dominated(costs), moocore.is_nondominated(costs))


def test_no_points():
    for empty in ([], np.empty((0, 3))):
        assert non_dominated(empty).tolist() == []
        assert ranks(empty).tolist() == []
        assert spread(empty, 3) == []
        assert hypervolume(empty, [1.0, 1.0, 1.0]) == 0.0
        with pytest.raises(ValueError, match="no points"):
            reference_point(empty)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "function",
    [non_dominated, ranks, reference_point, lambda c: hypervolume(c, [2, 2]), lambda c: spread(c, 1)],
)
def test_costs_that_are_not_finite_are_refused(function, bad):
    with pytest.raises(ValueError, match="1 costs are not finite"):
        function([[0.0, 1.0], [1.0, bad]])


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"points x objectives, not of shape \(2,\)"):
        non_dominated([1.0, 2.0])
    with pytest.raises(ValueError, match="reference of 3 values for costs of 2 objectives"):
        hypervolume([[1.0, 2.0]], [3, 3, 3])
    with pytest.raises(ValueError, match="finite"):
        hypervolume([[1.0, 2.0]], [3, math.inf])
    with pytest.raises(ValueError, match="limit is -1"):
        spread([[1.0, 2.0]], -1)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_hypervolume_of_one_point_is_a_box(m):
    reference = np.arange(2.0, 2.0 + m)
    assert hypervolume([np.ones(m)], reference) == math.factorial(m)


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_hypervolume_of_a_staircase(n):
    """The points (i, n-1-i) leave a triangle of n(n-1)/2 cells of the n x n square."""
    stairs = np.array([(i, n - 1 - i) for i in range(n)], dtype=float)
    expected = n * n - n * (n - 1) // 2
    assert hypervolume(stairs, [n, n]) == expected
    for others in range(1, 4):
        deep = np.hstack([stairs, np.zeros((n, others))])
        assert hypervolume(deep, [n, n] + [2] * others) == expected * 2**others
        if n > 10:
            break


@pytest.mark.parametrize("m", [2, 3, 4, 5, 6])
def test_hypervolume_of_two_boxes_is_inclusion_exclusion(m):
    a, b = np.random.default_rng(m).random((2, m))
    both = np.prod(1 - a) + np.prod(1 - b) - np.prod(1 - np.maximum(a, b))
    assert hypervolume([a, b], np.ones(m)) == pytest.approx(both, rel=1e-13)


@given(on_grid(objectives=(1, 4), points=(0, 12), side=5))
def test_hypervolume_counts_the_dominated_cells(costs):
    """Costs on the border of the reference are among them, and must contribute nothing."""
    reference = [4] * costs.shape[1]
    assert hypervolume(costs, reference) == cells(costs, reference)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
@pytest.mark.parametrize("points", [simplex, lambda n, m: np.random.default_rng(7).random((n, m))])
def test_hypervolume_agrees_with_moocore(m, points):
    costs = points(60, m)
    reference = np.full(m, 0.9)
    assert hypervolume(costs, reference) == pytest.approx(
        moocore.hypervolume(costs, ref=reference), rel=1e-12
    )


def test_hypervolume_agrees_with_monte_carlo_in_four_dimensions():
    costs = simplex(30, 4)
    samples = np.random.default_rng(1).random((20_000, 4))
    hit = (costs[:, None] <= samples).all(axis=2).any(axis=0)
    # Four standard deviations.
    assert hypervolume(costs, np.ones(4)) == pytest.approx(hit.mean(), abs=4 * hit.std() / math.sqrt(20_000))


@given(on_grid(objectives=(2, 4), points=(1, 15)))
def test_dominated_points_change_no_hypervolume_and_others_never_reduce_it(costs):
    reference = np.full(costs.shape[1], 5.0)
    whole = hypervolume(costs, reference)
    assert hypervolume(costs[non_dominated(costs)], reference) == whole
    assert hypervolume(np.concatenate([costs, costs + 0.5]), reference) == whole
    assert hypervolume(costs[1:], reference) <= whole


def test_the_ideal_point_fills_the_unit_square():
    assert hypervolume([[0, 0], [0.5, 0.2]], [1, 1]) == 1.0


def test_reference_point_is_the_nadir_and_a_tenth_of_the_range():
    costs = [[0.0, 100.0, 7.0, 0.0, -2.0], [1.0, 300.0, 7.0, 0.0, -2.0], [0.5, 200.0, 7.0, 0.0, -2.0]]
    np.testing.assert_allclose(reference_point(costs), [1.1, 320.0, 7.7, 0.1, -1.8], rtol=1e-15)


@given(on_grid(points=(1, 20)), st.sampled_from([1e-9, 1.0, 1e9]), st.sampled_from([0.0, 1.0, -1e12]))
def test_every_point_is_better_than_the_reference_point(costs, scale, shift):
    costs = costs * scale + shift
    assert (costs < reference_point(costs)).all()


def brute_spread(costs, limit):
    indices = [i for i, kept in enumerate(first_undominated(costs)) if kept]
    front = costs[indices]
    reference = reference_point(front)
    chosen = [min(indices, key=lambda i: tuple(costs[i]))]
    while len(chosen) < min(limit, len(indices)):
        rest = [i for i in indices if i not in chosen]
        chosen.append(max(rest, key=lambda i: hypervolume(costs[[*chosen, i]], reference)))
    return chosen


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_spread_is_the_greedy_choice(m, seed):
    rng = np.random.default_rng(seed)
    costs = np.concatenate([simplex(12, m, seed), rng.random((12, m))])[rng.permutation(24)]
    assert spread(costs, 6) == brute_spread(costs, 6)


@given(on_grid(points=(1, 30)), st.integers(1, 6))
def test_spread_is_non_dominated_distinct_and_led_by_the_best_of_the_first(costs, limit):
    chosen = spread(costs, limit)
    kept = non_dominated(costs)
    assert len(set(chosen)) == len(chosen) == min(limit, kept.sum())
    assert kept[chosen].all()
    assert costs[chosen[0], 0] == costs[:, 0].min()


def test_spread_does_not_depend_on_units():
    costs = simplex(40, 3)
    assert spread(costs * [1e6, 1.0, 1e-6], 8) == spread(costs, 8)


def test_spread_of_a_line_leaves_no_wide_gap():
    line = np.array([(i, 10 - i) for i in range(11)], dtype=float)
    chosen = spread(line, 5)
    assert chosen[0] == 0
    assert np.diff(sorted([*chosen, 10])).max() <= 3
