"""One network of a front: bounds, weights and knees by their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasfw.choosing import Bound, admissible, bound, choose, knee, named, pick
from nasfw.networks import Network
from nasfw.pareto import non_dominated
from nasfw.results import Result, Summary
from nasfw.values import Measure, Recipe, UsageError

ACCURACY = Measure("accuracy", maximise=True, trained=True)
ERROR = Measure("error", trained=True)
LATENCY = Measure("latency@cpu", "s", device="cpu")
PARAMETERS = Measure("parameters")


def networks(values, measures):
    """One network for each row of values."""
    return [
        Network(
            "s",
            {"i": i},
            Recipe(),
            ("k",),
            (0,),
            {m.name: (float(v),) for m, v in zip(measures, row, strict=True)},
        )
        for i, row in enumerate(values)
    ]


def at(choice):
    return choice.network.choices["i"]


def test_a_bound_is_of_an_objective_on_any_or_a_named_device():
    other = Measure("latency@board one", "s", device="board one")
    assert bound("latency", "5ms", [ACCURACY, LATENCY], True) == Bound(LATENCY, 0.005)
    assert bound("latency@cpu", 0.005, [LATENCY, other], True) == Bound(LATENCY, 0.005)
    assert bound("accuracy", "97%", [ACCURACY, LATENCY], False) == Bound(ACCURACY, 0.97)
    assert named("latency@bo", [LATENCY, other]) == other
    with pytest.raises(UsageError, match=r"2 devices; say which: 'latency@cpu' or 'latency@board one'"):
        named("latency", [LATENCY, other])
    with pytest.raises(UsageError, match=r"no objective is called 'latncy'; did you mean 'latency'\?"):
        named("latncy", [ACCURACY, LATENCY])


def test_a_bound_on_the_good_side_is_refused():
    with pytest.raises(UsageError, match=r"better when higher: bound it from below \(--min accuracy=0.9\)"):
        bound("accuracy", "0.9", [ACCURACY], True)
    with pytest.raises(UsageError, match=r"better when lower: bound it from above \(--max latency=5ms\)"):
        bound("latency", "5ms", [LATENCY], False)
    with pytest.raises(UsageError, match="must be finite"):
        bound("latency", math.nan, [LATENCY], True)


SPACED = st.integers(0, 8)
TWO, THREE = [ACCURACY, LATENCY], [ACCURACY, LATENCY, PARAMETERS]


def fronts(columns, least=1):
    """Values (accuracy, then costs) of which none dominates another, on a grid, in any order."""

    def kept(rows):
        table = np.array(rows, dtype=float)
        table[:, 0] /= 8
        return table[non_dominated(table * [-1, *[1] * (columns - 1)])]

    rows = st.lists(st.tuples(*[SPACED] * columns), min_size=least, max_size=20)
    return rows.map(kept).filter(lambda table: len(table) >= least)


@given(fronts(3), SPACED, SPACED)
def test_bounds_admit_what_meets_them_all_and_take_the_best_of_it(values, least, most):
    front = networks(values, THREE)
    bounds = [Bound(ACCURACY, least / 8), Bound(LATENCY, float(most))]
    meets = [i for i, (a, s, _) in enumerate(values) if a >= least / 8 and s <= most]
    if not meets:
        with pytest.raises(UsageError, match="no network of the front has accuracy"):
            choose(front, THREE, bounds)
        return
    assert [n.choices["i"] for n in admissible(front, THREE, bounds)] == meets
    # Accuracy and latency have their bounds, hence parameters decide; alone, accuracy does.
    assert values[at(choose(front, THREE, bounds)), 2] == values[meets, 2].min()
    fast = values[:, 1] <= most
    assert values[at(choose(front, THREE, bounds[1:])), 0] == values[fast, 0].max()


def test_rounding_puts_nothing_beyond_a_bound():
    assert 1 - 0.66 < 0.34
    front = networks([(1 - 0.66, 1)], TWO)
    assert admissible(front, TWO, [bound("accuracy", "34%", TWO, False)]) == front


def test_what_no_network_meets_is_answered_with_the_nearest():
    front = networks([(0.972, 0.00231), (0.95, 0.0025)], TWO)
    name, other = (n.name for n in front)

    def said(*bounds):
        with pytest.raises(UsageError) as caught:
            choose(front, TWO, bounds)
        return str(caught.value)

    assert said(Bound(LATENCY, 0.001)) == (
        "no network of the front has latency@cpu <= 1 ms; "
        f"the lowest is 2.31 ms (network {name}, accuracy 97.2 %)"
    )
    assert said(Bound(LATENCY, 0.0023)).endswith(f"the lowest is 2.31 ms (network {name}, accuracy 97.2 %)")
    # What looks the same is told with more digits.
    assert "the lowest is 0.00231 s" in said(Bound(LATENCY, 0.0023099))
    front[:] = networks([(0.972, 0.003), (0.95, 0.002)], TWO)
    name, other = (n.name for n in front)
    assert said(Bound(LATENCY, 0.0025), Bound(ACCURACY, 0.96)) == (
        "no network of the front has latency@cpu <= 2.5 ms and accuracy >= 96 %; "
        f"with accuracy >= 96 % the lowest latency@cpu is 3 ms (network {name}, accuracy 97.2 %), "
        f"with latency@cpu <= 2.5 ms the highest accuracy is 95 % (network {other}, latency@cpu 2 ms)"
    )


@given(fronts(3), st.tuples(*[st.integers(0, 9)] * 3).filter(any))
def test_weights_take_the_smallest_weighted_sum_of_scaled_costs(values, weights):
    names = ("accuracy", "latency", "parameters")
    found = at(choose(networks(values, THREE), THREE, weights=dict(zip(names, weights, strict=True))))

    def price(row):
        total = 0.0
        for value, column, sign, weight in zip(row, values.T, (-1, 1, 1), weights, strict=True):
            costs = sign * column
            if costs.max() > costs.min():
                total += weight * (sign * value - costs.min()) / (costs.max() - costs.min())
        return total

    assert price(values[found]) == pytest.approx(min(map(price, values)), abs=1e-9)


@given(fronts(3), st.integers(0, 2))
def test_a_weight_on_one_objective_takes_the_best_in_it(values, one):
    found = at(choose(networks(values, THREE), THREE, weights={THREE[one].name: 0.1}))
    best = values[:, 0].max() if one == 0 else values[:, one].min()
    assert values[found, one] == best


def test_weights_choose_among_what_bounds_admit():
    front = networks([(0.9, 3), (0.8, 2), (0.7, 1)], TWO)
    choice = choose(front, TWO, [Bound(LATENCY, 2.0)], {"accuracy": "2", "latency": 1})
    assert at(choice) == 1
    assert choice.why == (
        "It has the smallest weighted sum of costs of the 2 networks with latency@cpu <= 2 s, of 3 on the "
        "front; scaled to 0..1 over the front, they weigh accuracy 2, latency@cpu 1."
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"latency": -1}, "weight of latency@cpu must be a number of at least 0, not -1"),
        ({"latency": "much"}, "at least 0, not 'much'"),
        ({"latency": math.nan}, "at least 0"),
        ({"latency": math.inf}, "at least 0"),
        ({"latency": 0}, "no objective weighs more than 0"),
        ({}, "no objective weighs more than 0"),
        ({"size": 1}, "no objective is called 'size'"),
        ({"latency": 1, "latency@cpu": 2}, "latency@cpu is given twice"),
    ],
)
def test_weights_that_cannot_weigh(weights, message):
    with pytest.raises(UsageError, match=message):
        choose(networks([(0.9, 1)], TWO), TWO, weights=weights)


def test_the_knee_of_a_curve_is_where_it_bulges_most():
    """On y = (1 - sqrt x)^2 the slope is -1, that of the chord, at x = y = 1/4."""
    x = np.linspace(0, 1, 101)
    best, why = knee(np.stack([x, (1 - np.sqrt(x)) ** 2], 1), ["a", "b"])
    assert x[best] == 0.25
    assert why == "It is the knee of the front, farthest out from the line through the best in a and b"


def test_the_knee_of_a_surface_is_where_it_bulges_most():
    """On sqrt x + sqrt y + sqrt z = 1 that is x = y = z = 1/9 by symmetry."""
    steps = [(i, j, 9 - i - j) for i in range(10) for j in range(10 - i)]
    best, why = knee(np.square(np.array(steps) / 9), ["a", "b", "c"])
    assert steps[best] == (3, 3, 3)
    assert "from the plane through the best in a, b and c" in why


@given(fronts(2, least=3))
def test_the_knee_is_farthest_from_the_chord_by_brute_force(values):
    costs = values * [-1, 1]
    best, why = knee(costs, ["accuracy", "latency"])
    unit = (costs - costs.min(0)) / (costs.max(0) - costs.min(0))
    first, last = unit[unit[:, 0].argmin()], unit[unit[:, 1].argmin()]
    along = (last - first) / math.dist(first, last)
    # The cross product is positive on the side of the ideal point.
    beyond = [along[1] * (p - first)[0] - along[0] * (p - first)[1] for p in unit]
    assert along[1] * (0 - first)[0] - along[0] * (0 - first)[1] > 0
    if max(beyond) > 1e-9:
        assert beyond[best] == pytest.approx(max(beyond), abs=1e-9)
        assert "knee of the front" in why
    else:
        distances = [math.hypot(*p) for p in unit]
        assert distances[best] == pytest.approx(min(distances), abs=1e-9)
        assert "so that there is no knee" in why


def test_a_front_that_bulges_the_other_way_has_a_compromise():
    best, why = knee(np.array([[0, 1], [0.6, 0.6], [1, 0]]), ["a", "b"])
    assert best == 1
    assert "nearest to the ideal point" in why
    assert "the best in a and b lie on a line with no network beyond it" in why


def test_a_network_that_is_best_in_two_objectives_leaves_no_plane():
    costs = np.array([[0, 9, 9], [2, 3, 3], [9, 0, 0]])
    best, why = knee(costs, ["a", "b", "c"])
    assert best == 1
    assert "span no plane" in why


def test_what_is_equal_everywhere_decides_nothing():
    curve = np.array([[0, 9], [2, 3], [4, 2], [9, 0]])
    flat = np.insert(curve, 1, 7, axis=1)
    assert knee(flat, ["a", "b", "c"]) == knee(curve, ["a", "c"])


@given(
    fronts(3, least=2),
    st.integers(-8, 8),
    st.integers(-100, 100),
    st.integers(0, 2),
    st.sampled_from([None, {"accuracy": 1, "latency": 2}]),
)
def test_units_and_zeros_of_objectives_do_not_matter(values, exponent, shift, column, weights):
    """Powers of two and whole numbers, so that scaling itself rounds nothing."""
    former = at(choose(networks(values, THREE), THREE, weights=weights))
    values = values.copy()
    values[:, column] = 2.0**exponent * (values[:, column] + shift)
    assert at(choose(networks(values, THREE), THREE, weights=weights)) == former


@given(fronts(2))
def test_directions_do_not_matter(values):
    turned = [Measure("loss"), LATENCY]
    former = at(choose(networks(values, TWO), TWO))
    assert at(choose(networks(values * [-1, 1], turned), turned)) == former


def test_one_or_two_networks_have_no_knee():
    front = networks([(0.8, 1), (0.9, 3)], TWO)
    choice = choose(front, TWO)
    assert at(choice) == 1
    assert choice.why == "It has the highest accuracy of the 2 networks of the front."
    assert choose(front[:1], TWO).why == "It is the only network of the front."
    with pytest.raises(UsageError, match="no network to choose from"):
        choose([], TWO)


def test_the_sentence_says_what_a_bound_did():
    front = networks([(0.9, 0.003), (0.8, 0.002), (0.7, 0.001)], TWO)
    for limit, sentence in (
        (0.002, "It has the highest accuracy of the 2 networks with latency@cpu <= 2 ms, of 3 on the front."),
        (0.001, "It is the only one of the 3 networks of the front with latency@cpu <= 1 ms."),
        (
            5.0,
            "It has the highest accuracy of the 3 networks of the front, "
            "all of which have latency@cpu <= 5 s.",
        ),
    ):
        assert choose(front, TWO, [Bound(LATENCY, limit)]).why == sentence


def result(values, measures, metric="error"):
    summary = Summary("t", "dash", "cpu", tuple(measures), {}, (0,), 9, True, "", metric)
    given = dict.fromkeys(["folder", "pick", "plain", "random", "seconds", "random_seconds"])
    numbers = {
        "random_trials": 0,
        "trials": 0,
        "failed": 0,
        "hypervolume": 0.0,
        "reference": [],
        "done": True,
    }
    return Result(summary=summary, phase="final", front=networks(values, measures), **given, **numbers)


def test_a_runs_network_is_picked_by_what_its_tables_say():
    """An error has the name of its metric there; records call it error, which is understood as well."""
    outcome = result([(0.1, 0.003), (0.2, 0.001)], [ERROR, LATENCY], "relative_l2")
    for name in ("relative_l2", "error"):
        choice = pick(outcome, maximum={name: "0.15"})
        assert choice.network is outcome.front[0]
        assert "relative_l2 <= 0.15" in choice.why
    for name in ("latency", "latency@cpu", "latency@c"):
        assert pick(outcome, {name: "1ms"}).network is outcome.front[1]
    assert pick(outcome, weights={"error": 1}).network is outcome.front[0]


def test_medians_over_seeds_decide():
    front = [
        Network(
            "s", {"i": i}, Recipe(), ("a", "b", "c"), (0, 1, 2), {"accuracy": v, "latency@cpu": (1.0,) * 3}
        )
        for i, v in enumerate([(0.9, 0.1, 0.2), (0.3, 0.4, 0.3)])
    ]
    assert at(choose(front, TWO)) == 1
