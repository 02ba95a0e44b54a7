"""What a supernet's ratings are worth is told by the standalone trainings of the same architectures."""

import json
import math
from itertools import combinations

import numpy as np
import pytest

from nasfw import diagnosis
from nasfw.diagnostics import Agreement, Diagnostics, Moment, Rating
from nasfw.values import Measure, Recipe, Record

QUALITY = Measure("accuracy", maximise=True, trained=True)


def rating(i, value, drawn=True):
    return Rating({"conv": i}, value, drawn)


def record(i, value, space="s", inherited=False, error=None):
    values = {} if error else {"accuracy": value}
    return Record(f"{space}{i}", "search", space, {"conv": i}, Recipe(), inherited, values, 1.0, error)


def agreement(tau, count):
    return Agreement(pytest.approx(tau, abs=1e-12), count)


def read(folder, ratings, records, moments=()):
    (folder / "s").mkdir(exist_ok=True)
    Diagnostics(tuple(moments), tuple(ratings)).write(folder / "s")
    return diagnosis.read(folder, "s", records, QUALITY)


def test_a_space_without_one_shot_search_has_no_diagnosis(tmp_path):
    assert diagnosis.read(tmp_path, "s", [], QUALITY) is None


def test_equal_order_agrees_and_reversed_order_disagrees(tmp_path):
    ratings = [rating(i, 0.1 * i) for i in range(5)]
    same = read(tmp_path, ratings, [record(i, 0.5 + 0.01 * i) for i in range(5)])
    assert same.drawn == same.rated == agreement(1.0, 5)
    other = read(tmp_path, ratings, [record(i, 0.5 - 0.01 * i) for i in range(5)])
    assert other.drawn == agreement(-1.0, 5)


def test_tau_counts_the_pairs_that_are_in_order(tmp_path):
    """Without ties, tau is the share of pairs in order less that of pairs in reverse."""
    rng = np.random.default_rng(0)
    one, other = rng.permutation(9), rng.permutation(9)
    found = read(
        tmp_path,
        [rating(i, float(v)) for i, v in enumerate(one)],
        [record(i, float(v)) for i, v in enumerate(other)],
    )
    signs = [np.sign((one[i] - one[j]) * (other[i] - other[j])) for i, j in combinations(range(9), 2)]
    assert found.drawn.tau == pytest.approx(np.mean(signs), abs=1e-12)


def test_what_was_drawn_uniformly_is_told_apart_from_what_was_proposed(tmp_path):
    """Drawn ones in order, proposed ones against it."""
    ratings = [rating(i, 0.1 * i, drawn=i < 4) for i in range(6)]
    values = [0.5, 0.6, 0.7, 0.8, 0.2, 0.1]
    found = read(tmp_path, ratings, [record(i, v) for i, v in enumerate(values)])
    assert found.drawn == agreement(1.0, 4)
    # 6 pairs in order; each of 8 mixed ones, and the proposed ones', against it.
    assert found.rated.tau == pytest.approx((6 - 9) / 15, abs=1e-12)
    assert found.rated.count == 6
    assert [(r.choices["conv"], v) for r, v in found.pairs] == list(enumerate(values))


def test_only_standalone_trainings_of_this_space_count_and_the_first_of_each(tmp_path):
    ratings = [rating(i, 0.1 * i) for i in range(4)]
    others = [
        record(0, 0.9, space="t"),
        record(1, 0.9, inherited=True),
        record(2, 0.9, error="out of memory"),
        record(7, 0.9),
    ]
    own = [record(i, 0.5 + 0.01 * i) for i in range(4)]
    found = read(tmp_path, ratings, [*others, *own, record(3, 0.0)])
    assert found.drawn == agreement(1.0, 4)


def test_fewer_than_four_have_no_rank_correlation(tmp_path):
    found = read(tmp_path, [rating(i, 0.1 * i) for i in range(5)], [record(i, 0.1 * i) for i in range(3)])
    assert found.drawn is found.rated is None
    assert len(found.pairs) == 3


def test_the_agreement_of_drawn_ones_raises_the_alarm(tmp_path):
    ratings = [rating(i, 0.1 * i) for i in range(5)]
    good = read(tmp_path, ratings, [record(i, 0.1 * i) for i in range(5)])
    assert good.alarms == []
    (alarm,) = read(tmp_path, ratings, [record(i, -0.1 * i) for i in range(5)]).alarms
    assert "rank 5 architectures no better than chance" in alarm


def test_json_has_no_numbers_that_json_lacks(tmp_path):
    moments = [Moment(1, loss=math.inf, entropy=math.nan, preferred=("a", 3))]
    found = read(tmp_path, [rating(0, math.nan)], [record(0, 0.5)], moments)
    data = json.loads(json.dumps(found.plain_data(), allow_nan=False))
    (moment,), (each,) = data["moments"], data["standalone"]
    assert moment["loss"] is moment["entropy"] is None
    assert moment["preferred"] == ["a", 3]
    assert (each["value"], each["trained"]) == (None, 0.5)
    assert data["agreement"] is None
