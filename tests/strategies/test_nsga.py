"""The order of NSGA-II agrees with its definition."""

from dataclasses import dataclass

import numpy as np
import pytest

from nasfw.contracts import Candidate, Device, Recipe, Record
from nasfw.objectives.cost import Latency
from nasfw.objectives.size import Parameters
from nasfw.pareto import ranks
from nasfw.strategies.nsga import Order, crowding
from nasfw.testing import Echo, Wrong

RANDOM = [np.random.default_rng(s).integers(0, 6, (25, m)).astype(float) for s in range(4) for m in (1, 2, 3)]


@dataclass(frozen=True)
class Watch(Device):
    """Measures nothing here."""

    label: str

    metrics = ("latency",)

    @property
    def name(self) -> str:
        return self.label

    def measure(self, metric: str, candidate: Candidate) -> float:
        raise NotImplementedError


def distances(costs, fronts):
    """The definition (Deb et al. 2002, section III-B), one front and objective after the other."""
    total = np.zeros(len(costs))
    for front in set(fronts.tolist()):
        members = [i for i in range(len(costs)) if fronts[i] == front]
        for k in range(costs.shape[1]):
            order = sorted(members, key=lambda i: costs[i, k])
            extent = costs[order[-1], k] - costs[order[0], k]
            if extent == 0:
                continue
            total[[order[0], order[-1]]] = np.inf
            for before, i, after in zip(order, order[1:], order[2:], strict=False):
                total[i] += (costs[after, k] - costs[before, k]) / extent
    return total


@pytest.mark.parametrize("costs", RANDOM)
def test_crowding_is_its_definition(costs):
    fronts = ranks(costs)
    np.testing.assert_allclose(crowding(costs, fronts), distances(costs, fronts), rtol=1e-12)


def test_evenly_spread_points_are_equally_crowded():
    """On the line from (0, n) to (n, 0) the neighbours are two steps apart, in both of two objectives."""
    n = 10
    costs = np.array([(i, n - i) for i in range(n + 1)], dtype=float)
    found = crowding(costs, np.zeros(n + 1))
    np.testing.assert_allclose(found[1:-1], 4 / n)
    assert np.isinf(found[[0, -1]]).all()


def test_points_that_are_one_value_are_not_spread():
    assert crowding(np.ones((3, 2)), np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("costs", RANDOM)
def test_order_is_by_front_and_then_by_crowding_and_then_as_given(costs):
    order = Order([Wrong(), Echo(), Parameters()][: costs.shape[1]])
    fronts = ranks(costs)
    far = distances(costs, fronts)
    expected = sorted(range(len(costs)), key=lambda i: (fronts[i], -far[i]))
    assert order.best_first(costs).tolist() == expected


def test_one_objective_is_sorted():
    costs = np.array([[2.0], [1.0], [2.0], [0.0]])
    assert Order([Wrong()]).best_first(costs).tolist() == [3, 1, 0, 2]


def test_nothing_has_no_order():
    order = Order([Echo(), Wrong()])
    assert order.best_first(order.costs([])).tolist() == []


def test_costs_have_the_sign_that_makes_lower_better():
    record = Record("k", "search", "s", {"a": 1}, Recipe(), False, {"echo": 3.0, "error": 0.5}, 0.0)
    assert Order([Echo(), Wrong()]).costs([record]).tolist() == [[-3.0, 0.5]]


def test_a_record_counts_by_its_best_place_on_any_device():
    """Each of the first three leads on quality or on a device; the fourth is second on both."""
    order = Order([Wrong(), Latency(Watch("a")), Latency(Watch("b"))])
    costs = np.array([(3.0, 1.0, 9.0), (3.0, 9.0, 1.0), (1.0, 8.0, 8.0), (4.0, 2.0, 2.0)])
    assert set(order.best_first(costs)[:3].tolist()) == {0, 1, 2}
    assert order.best_first(costs)[3] == 3
