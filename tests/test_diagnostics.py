"""What tells whether a one-shot search works, against definitions."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from nasfw.diagnostics import (
    FILE,
    Agreement,
    Diagnostics,
    History,
    Moment,
    Rating,
    agreement,
    alarms,
    entropy,
    kendall_tau,
    matched,
    sharpening,
    skip_share,
)
from nasfw.junctions import Junction
from nasfw.values import Measure, Recipe, Record


def test_the_entropy_is_zero_for_one_hot_and_one_for_equal_weights():
    assert entropy([[0.0, 1.0, 0.0], [1.0, 0.0]]) == 0.0
    assert entropy([[0.25] * 4, [0.5] * 2]) == pytest.approx(1.0, abs=1e-15)


def test_the_entropy_is_its_formula():
    """For two options of weight p and 1 - p, the binary entropy; the mean over decisions."""
    p = 0.2
    binary = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert entropy([[p, 1 - p]]) == pytest.approx(binary, rel=1e-14)
    assert entropy([[p, 1 - p], [1 / 3] * 3, [1.0, 0.0]]) == pytest.approx((binary + 1) / 3, rel=1e-14)


def test_weights_that_do_not_sum_to_one_are_normalised():
    """So an edge's own weight does not count; what has no choice, or no weight, says nothing."""
    assert entropy([[0.02, 0.08]]) == pytest.approx(entropy([[0.2, 0.8]]), rel=1e-14)
    assert entropy([[0.2, 0.8], [1.0], [0.0, 0.0]]) == entropy([[0.2, 0.8]])
    assert entropy([[1.0], []]) is None


def test_the_share_of_skips_is_among_the_edges_that_are_kept():
    junctions = [Junction((0, 1, 2), 2, "none"), Junction((3, 4), 2)]
    architecture = ("skip", "none", "conv", "skip", "none", "conv")
    # Of skip, conv, skip, none and conv: at the second node "none" is an option like others.
    assert skip_share(architecture, junctions, frozenset({"skip"})) == 2 / 5
    assert skip_share(architecture, junctions, frozenset({"skip", "conv"})) == 4 / 5
    assert skip_share(architecture, [], frozenset({"skip"})) == 2 / 6
    assert skip_share(architecture, junctions, frozenset()) is None


def test_a_moment_keeps_what_its_plain_form_says():
    moment = Moment(3, 0.5, 0.25, 0.0, -1.5, ("skip", 2, True, 0.5))
    plain = json.loads(json.dumps(vars(moment)))
    assert Moment.plain(plain) == moment
    assert Moment.plain(vars(Moment(1))) == Moment(1)


FOUND = Diagnostics(
    (Moment(1, 2.5), Moment(2, 1.5, 0.9, 0.25, 3.0, ("skip", 1.0, True))),
    (
        Rating({"edge": "skip", "factor": 1.0}, 0.25, True),
        Rating({"edge": "conv", "factor": 2.0}, 0.5, False),
    ),
    ("it went on from epoch 3",),
)


def test_what_is_written_is_read(tmp_path):
    FOUND.write(tmp_path)
    assert Diagnostics.read(tmp_path) == FOUND
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "null", "[]", "3", '"moments"', "{}", "\udcff", '{"moments": [], "ratings": []}'),
        '{"moments": null, "ratings": [], "notes": []}',
        '{"moments": [3], "ratings": [], "notes": []}',
        '{"moments": [{"epoch": 1}], "ratings": [], "notes": []}',
        '{"moments": [{"epoch": 1, "preferred": 5}], "ratings": [], "notes": []}',
        '{"moments": [{"epoch": 1, "preferred": null, "mood": 5}], "ratings": [], "notes": []}',
        '{"moments": [], "ratings": [{"value": 1.0}], "notes": []}',
        '{"moments": [], "ratings": [3], "notes": []}',
        '{"moments": [], "ratings": [], "notes": 3}',
    ],
)
def test_a_damaged_file_says_nothing(tmp_path, content):
    (tmp_path / FILE).write_bytes(content.encode(errors="surrogateescape"))
    assert Diagnostics.read(tmp_path) is None


def test_a_missing_file_says_nothing(tmp_path):
    assert Diagnostics.read(tmp_path) is None
    assert Diagnostics.read(tmp_path / "nowhere") is None


def test_a_series_has_the_known_values_with_their_epochs():
    found = Diagnostics((Moment(1, loss=2.0), Moment(2, eigenvalue=0.0), Moment(3, loss=1.0)))
    assert found.series("loss") == [(1, 2.0), (3, 1.0)]
    assert found.series("eigenvalue") == [(2, 0.0)]
    assert found.series("skips") == []


def test_a_history_survives_a_checkpoint(tmp_path):
    """As torch writes and reads it, without code in the file."""
    history = History(list(FOUND.moments), list(FOUND.notes))
    torch.save(history.state_dict(), tmp_path / "state.pt")
    other = History([Moment(9)], ["another one"])
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other == history


MEASURE = Measure("error", trained=True)


def record(option, value, *, error=None, inherited=False, key="k", name="error"):
    values = {} if value is None else {name: value}
    return Record(key, "search", "toy", {"edge": option}, Recipe(), inherited, values, 0.0, error)


def rating(option, value, drawn=True):
    return Rating({"edge": option}, value, drawn)


def tau_by_pairs(x, y):
    """Kendall's tau-b: (concordant - discordant) / sqrt(pairs untied in x * pairs untied in y)."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    return sum(a * b for a, b in signs) / math.sqrt(
        sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [4, 7, 20])
def test_agreement_is_kendalls_tau_over_all_pairs(seed, count):
    """With ties on both sides, and in any order of ratings and records."""
    rng = np.random.default_rng([seed, count])
    x, y = rng.integers(0, 5, count).astype(float), rng.integers(0, 5, count).astype(float)
    order = rng.permutation(count)
    found = agreement(
        [rating(str(i), x[i]) for i in range(count)], [record(str(i), y[i]) for i in order], MEASURE
    )
    assert found.count == count
    assert found.tau == pytest.approx(tau_by_pairs(x, y), abs=1e-12)
    assert kendall_tau(x, y) == pytest.approx(tau_by_pairs(x, y), abs=1e-12)


def test_agreement_of_one_order_is_one_and_of_the_reverse_minus_one():
    ratings = [rating(i, float(i)) for i in range(5)]
    for sign in (1, -1):
        records = [record(i, sign * float(i) ** 3) for i in range(5)]
        assert agreement(ratings, records, MEASURE) == Agreement(pytest.approx(sign), 5)


def test_fewer_than_four_architectures_and_equal_values_do_not_agree_on_anything():
    ratings = [rating(i, float(i)) for i in range(9)]
    assert agreement(ratings, [record(i, float(i)) for i in range(3)], MEASURE) is None
    assert agreement(ratings, [record(i, 1.0) for i in range(9)], MEASURE) is None
    assert agreement([], [], MEASURE) is None


def test_only_what_was_drawn_uniformly_agrees_unless_all_are_asked_for():
    ratings = [rating(i, float(i), drawn=i % 2 == 0) for i in range(10)]
    records = [record(i, float(i if i % 2 == 0 else -i)) for i in range(10)]
    assert agreement(ratings, records, MEASURE) == Agreement(pytest.approx(1.0), 5)
    everything = agreement(ratings, records, MEASURE, drawn=False)
    x, y = zip(*((r.value, v) for r, v in matched(ratings, records, MEASURE)), strict=True)
    assert everything == Agreement(pytest.approx(tau_by_pairs(x, y)), 10)


def test_ratings_are_compared_with_the_first_full_training_of_an_architecture():
    records = [
        record("a", None, error="out of memory"),
        record("a", 5.0, inherited=True),
        record("a", 7.0, name="loss"),
        record("a", 1.0),
        record("a", 2.0),
        record("b", 3.0),
    ]
    ratings = [rating("a", 10.0), rating("c", 20.0), rating("b", 30.0)]
    assert matched(ratings, records, MEASURE) == [(ratings[0], 1.0), (ratings[2], 3.0)]


def of_eigenvalues(*values):
    return Diagnostics(tuple(Moment(i + 1, eigenvalue=v) for i, v in enumerate(values)))


# Each reason with diagnostics that give it, and with the nearest ones that do not.
ALARMS = {
    "skip connections take 75 %": (
        Diagnostics((Moment(1, skips=0.75),)),
        Diagnostics((Moment(1, skips=0.5),)),
    ),
    "1.40 times as sharp": (
        of_eigenvalues(*[1.0] * 5, *[1.5] * 4),
        of_eigenvalues(*[1.0] * 5, *[1.41] * 4),
    ),
    "training loss went from 2.3 to 2.4": (
        Diagnostics((Moment(1, loss=2.3), Moment(2, loss=2.0), Moment(3, loss=2.4))),
        Diagnostics((Moment(1, loss=2.3), Moment(2, loss=2.25))),
    ),
    "hardly prefers anything": (
        Diagnostics((Moment(1, entropy=0.98),)),
        Diagnostics((Moment(1, entropy=0.99), Moment(2, entropy=0.97))),
    ),
}


@pytest.mark.parametrize("reason", ALARMS)
def test_each_alarm_has_its_reason_and_only_that(reason):
    alarming, calm = ALARMS[reason]
    (said,) = alarms(alarming)
    assert reason in said
    assert alarms(calm) == []


def test_a_ranking_that_is_no_better_than_chance_is_an_alarm():
    (said,) = alarms(Diagnostics(), Agreement(-0.25, 12))
    assert "rank 12 architectures no better than chance" in said
    assert "-0.25" in said
    assert alarms(Diagnostics(), Agreement(0.01, 12)) == alarms(Diagnostics()) == []


def test_all_that_is_wrong_is_said():
    moments = [Moment(i + 1, 1.0, 0.99, 1.0, 1.0 + i) for i in range(10)]
    assert len(alarms(Diagnostics(tuple(moments)), Agreement(0.0, 4))) == 5


def test_sharpening_is_the_largest_growth_of_a_mean_of_five_over_four_computations():
    """Also where the loss stayed as sharp afterwards; slow growth never adds up to it."""
    values = [5.0, 4.0, 3.0, 2.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0]
    means = [sum(values[i : i + 5]) / 5 for i in range(14)]
    most = max(b / a for a, b in zip(means[:-4], means[4:], strict=True))
    assert sharpening(values) == pytest.approx(most, rel=1e-14)
    assert sharpening(values) > means[-1] / means[-5]
    assert sharpening([2.0] * 30) == pytest.approx(1.0)
    # A peak that passes is none.
    assert sharpening([*[1.0] * 10, *[5.0] * 10, *[1.0] * 10]) == pytest.approx(1.0)
    assert sharpening([*[1.0] * 10, *[5.0] * 10, *[2.0] * 10]) == pytest.approx(2.0)
    assert sharpening([1.01**k for k in range(100)]) == pytest.approx(1.01**4)


def test_sharpening_is_not_known_from_few_values_or_flat_losses():
    assert sharpening([1.0] * 8) is None
    assert sharpening([1.0] * 9) == pytest.approx(1.0)
    assert sharpening([0.0] * 10) is sharpening([-1.0] * 20) is None
    assert alarms(of_eigenvalues(*[1.0] * 8, math.nan)) == []


def test_what_a_search_went_back_on_is_shown_and_raises_no_alarm():
    """Ten moments, of which the last five sharpened; the search returned to the fifth."""
    history = History([Moment(e, eigenvalue=1.0 if e <= 7 else 100.0) for e in range(1, 13)])
    assert alarms(Diagnostics(tuple(history.moments)))
    history.discard(5)
    assert [m.epoch for m in history.moments if m.discarded] == list(range(6, 13))
    found = Diagnostics(tuple(history.moments))
    assert alarms(found) == []
    assert len(found.series("eigenvalue")) == 12
    assert found.series("eigenvalue", kept=True) == [(e, 1.0) for e in range(1, 6)]
