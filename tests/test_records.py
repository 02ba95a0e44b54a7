"""Records survive kills, refuse damage, and answer queries by their definitions."""

import itertools
import logging
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nasfw.records import Records, by_device, costs, finalists, front
from nasfw.values import Measure, Measured, Recipe, Record, UsageError

LOSS, SIZE = Measure("loss", trained=True), Measure("size")
GAIN = Measure("gain", maximise=True)


def record(key="k", choice=0, error=None, phase="search", space="s", seconds=0.0, **values):
    values = {} if error else values or {"loss": 0.5}
    return Record(key, phase, space, {"a": choice}, Recipe(), False, values, seconds, error)


def write(path, *records):
    with Records(path, write=True) as store:
        for r in records:
            store.append(r)


finite = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [5e-324, -5e-324, sys.float_info.min, sys.float_info.max, -sys.float_info.max, -0.0, 1e16 + 2]
)
options = st.text() | st.integers(-(2**70), 2**70) | finite | st.booleans()
positive = st.floats(0, sys.float_info.max)
recipes = st.builds(
    Recipe,
    epochs=st.integers(0, 10**6),
    batch_size=st.integers(1, 10**6),
    fraction=st.floats(0, 1),
    lr=positive,
    milestones=st.lists(st.integers(0, 999), max_size=3).map(tuple),
    dropout=st.none() | st.floats(0, 1),
    clip=st.none() | positive,
    seed=st.integers(0, 2**63),
)
names = st.text(max_size=9)
details = st.builds(
    lambda value, more, **given: Measured(value, **given, **more).details,
    value=finite,
    low=finite,
    high=finite,
    repetitions=st.integers(1, 10**6),
    outliers=st.integers(0, 10**6),
    drift=st.none() | positive,
    clock=st.text(),
    remark=st.text(),
    # As joules have it: the state of the machine.
    more=st.just({}) | st.builds(dict, conditions=st.dictionaries(names, finite | names, max_size=2)),
)
records = st.builds(
    Record,
    key=st.text(max_size=9),
    phase=st.sampled_from(["search", "final"]),
    space=st.text(max_size=9),
    choices=st.dictionaries(st.text(max_size=9), options, max_size=4),
    recipe=recipes,
    inherited=st.booleans(),
    values=st.dictionaries(st.text(max_size=9), finite, max_size=3),
    seconds=positive,
    error=st.none() | st.text(),
    measured=st.dictionaries(names, details, max_size=3),
    text=st.none() | st.text(),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(records, max_size=4, unique_by=lambda r: (r.phase, r.space, r.key)))
def test_what_was_written_is_read(tmp_path, written):
    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    write(path, *written)
    assert repr(list(Records(path))) == repr(written)


def test_what_was_measured_is_read_as_such(tmp_path):
    path = tmp_path / "r.jsonl"
    value = Measured(2e-3, low=1e-3, high=3e-3, repetitions=7, drift=1.25, clock="a stopwatch")
    measured = {"loss": value.details}
    write(
        path,
        Record("k", "search", "s", {}, Recipe(), False, {"loss": 2e-3, "size": 4.0}, 0.0, None, measured),
    )
    (r,) = Records(path)
    assert isinstance(r.value("loss"), Measured)
    assert (r.value("loss"), r.value("loss").details) == (2e-3, value.details)
    assert type(r.value("size")) is float


def test_records_from_before_there_were_measurements_are_read(tmp_path):
    """And what is only counted is written as it was then."""
    path = tmp_path / "r.jsonl"
    line = (
        '{"key": "k", "phase": "search", "space": "s", "choices": {"a": 0}, "recipe": {"epochs": 20, '
        '"batch_size": 64, "fraction": 1.0, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, '
        '"weight_decay": 0.0005, "schedule": "cosine", "milestones": [], "decay": 0.2, "dropout": null, '
        '"clip": null, "seed": 0}, "inherited": false, "values": {"loss": 0.5}, "seconds": 0.0, '
        '"error": null}'
    )
    path.write_text(line + "\n")
    assert list(Records(path)) == [record()]
    assert record().to_json() == line


def test_appended_records_are_on_the_disk_before_closing(tmp_path):
    path = tmp_path / "r.jsonl"
    with Records(path, write=True) as store:
        for i, seconds in enumerate((0.0, 9.0)):
            store.append(record(str(i), seconds=seconds))
            assert len(Records(path)) == i + 1


def test_an_absent_file_holds_no_records(tmp_path):
    assert list(Records(tmp_path / "r.jsonl")) == []
    assert not (tmp_path / "r.jsonl").exists()


def test_a_second_session_goes_on_behind_the_first(tmp_path):
    path = tmp_path / "r.jsonl"
    for key in "abc":
        write(path, record(key))
    assert [r.key for r in Records(path)] == list("abc")


def test_the_same_trial_is_kept_once(tmp_path):
    path = tmp_path / "r.jsonl"
    first = record(error="no")
    others = [record(phase="final"), record(space="t"), record("l")]
    write(path, first, record(), *others, *others)
    assert list(Records(path)) == [first, *others]
    assert len(path.read_text().splitlines()) == 4


def test_find_tells_phases_and_spaces_apart(tmp_path):
    path = tmp_path / "r.jsonl"
    write(path, record("k", space="s"))
    store = Records(path)
    assert store.find("search", "s", "k") == record("k", space="s")
    assert store.find("final", "s", "k") is store.find("search", "t", "k") is None


def test_select_leaves_failed_trials_out(tmp_path):
    path = tmp_path / "r.jsonl"
    write(path, record("a"), record("b", error="no"), record("c", space="t"), record("d", phase="final"))
    store = Records(path)
    assert [r.key for r in store.select("search")] == ["a", "c"]
    assert [r.key for r in store.select("search", "t")] == ["c"]
    assert [r.key for r in store] == list("abcd")


def test_reading_does_not_allow_writing(tmp_path):
    with pytest.raises(ValueError, match="reading"):
        Records(tmp_path / "r.jsonl").append(record())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_and_leaves_no_trace(tmp_path, bad):
    path = tmp_path / "r.jsonl"
    with Records(path, write=True) as store:
        with pytest.raises(ValueError, match="JSON compliant"):
            store.append(record(loss=bad))
        assert len(store) == 0
    assert path.read_bytes() == b""


def test_every_cut_of_the_last_line_loses_that_record_alone(tmp_path, caplog):
    """What a kill in the middle of a write leaves, at each byte."""
    path = tmp_path / "r.jsonl"
    kept, lost = record("a"), record("b", choice="é")
    write(path, kept, lost)
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start + 1, len(whole)):
        path.write_bytes(whole[:end])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert list(Records(path)) == [kept]
        assert "last line" in caplog.text
        assert path.read_bytes() == whole[:end]
    write(path, lost)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "garbage",
    [
        b"#\n",
        b"null\n",
        b"{}\n",
        b"\n",
        b"\x00" * 50,
        b"\x00\n",
        b"\xff\xfe\n",
        b'{"key": 1}\r\n',
        b"a\rb\x0bc\n",
    ],
)
def test_a_last_line_of_garbage_is_dropped_said_and_cut_off(tmp_path, caplog, garbage):
    path = tmp_path / "r.jsonl"
    write(path, record("a"))
    good = path.read_bytes()
    path.write_bytes(good + garbage)
    write(path, record("b"))
    assert "last line is not a whole record" in caplog.text
    assert path.read_bytes().startswith(good)
    assert [r.key for r in Records(path)] == ["a", "b"]


@pytest.mark.parametrize("garbage", [b"#\n", b"null\n", b"\n", b"\xff\n", b'{"key"\n'])
def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path, garbage):
    path = tmp_path / "r.jsonl"
    write(path, record("a"), record("b"), record("c"))
    a, b, c = path.read_bytes().splitlines(keepends=True)
    for damaged in (a + garbage + c, a + garbage + b + c):
        path.write_bytes(damaged)
        lines = damaged.count(b"\n")
        for write_too in (False, True):
            with pytest.raises(UsageError, match=rf"r.jsonl is damaged in line 2 of {lines} \(.+\).*remove"):
                Records(path, write=write_too)
        assert path.read_bytes() == damaged


def test_costs_are_lower_is_better():
    table = costs([record(loss=1.0, gain=3.0), record(loss=2.0, gain=-4.0)], [GAIN, LOSS])
    np.testing.assert_array_equal(table, [[-3.0, 1.0], [4.0, 2.0]])
    assert costs([], [GAIN, LOSS]).shape == (0, 2)


def test_each_device_is_compared_with_what_needs_none():
    fast, slow = Measure("latency@a", device="a"), Measure("latency@b", device="b")
    assert by_device([LOSS, fast, slow, SIZE]) == [[LOSS, fast, SIZE], [LOSS, slow, SIZE]]
    assert by_device([LOSS, SIZE]) == [[LOSS, SIZE]]


def table_of(rows, measures=(LOSS, SIZE)):
    names = [m.name for m in measures]
    return [record(str(i), choice=i, **dict(zip(names, row, strict=True))) for i, row in enumerate(rows)]


def test_front_keeps_what_no_other_beats_in_the_given_order():
    rows = table_of([(3.0, 1.0), (2.0, 2.0), (3.0, 3.0), (1.0, 9.0), (2.0, 3.0)])
    assert [r.key for r in front(rows, [LOSS, SIZE])] == ["0", "1", "3"]


def test_equal_records_collapse_to_the_first():
    """Else one architecture would be trained a second time as often as it was recorded."""
    rows = table_of([(1.0, 1.0)] * 3 + [(0.0, 2.0)] * 2)
    assert [r.key for r in front(rows, [LOSS, SIZE])] == ["0", "3"]


def test_front_over_devices_joins_one_front_each():
    """Record 2 is beaten on each device alone, though by two different ones; together nothing beats it."""
    measures = [Measure("t@a", device="a"), Measure("t@b", device="b")]
    rows = table_of([(1.0, 9.0), (9.0, 1.0), (2.0, 2.0)], measures)
    assert [r.key for r in front(rows, measures)] == ["0", "1"]


def test_finalists_start_with_the_best_in_the_first_measure():
    rows = table_of([(3.0, 1.0), (1.0, 9.0), (2.0, 2.0), (2.5, 2.5)])
    chosen = [r.key for r in finalists(rows, [LOSS, SIZE], 3)]
    assert chosen[0] == "1"
    assert set(chosen) == {"0", "1", "2"}
    assert [r.key for r in finalists(rows, [LOSS, SIZE], 1)] == ["1"]


def test_finalists_hold_the_best_record_of_an_architecture_only():
    """Two recipes of one architecture may both be on the front of a noisy measure."""
    rows = [
        record("slow", 1, loss=0.1, size=5.0),
        record("fast", 1, loss=0.2, size=4.9),
        record("small", 2, loss=0.3, size=1.0),
    ]
    measures = [LOSS, SIZE]
    assert len(front(rows, measures)) == 3
    assert {r.key for r in finalists(rows, measures, 5)} == {"slow", "small"}


LAYERS_OF_FRONTS = [(1.0, 5.0), (5.0, 1.0), (2.0, 6.0), (6.0, 2.0), (3.0, 7.0), (7.0, 7.5)]


@pytest.mark.parametrize(
    ("limit", "least", "expected"),
    [
        (8, 1, "01"),
        (8, 2, "01"),
        (8, 3, "012"),
        (8, 4, "0123"),
        (8, 5, "01234"),
        (8, 99, "012345"),
        (3, 99, "012"),
        (1, 99, "0"),
    ],
)
def test_a_short_front_is_filled_up_with_the_next_ones(limit, least, expected):
    """The first two are the front, the next two that of the others, and so on."""
    rows = table_of(LAYERS_OF_FRONTS)
    chosen = [r.key for r in finalists(rows, [LOSS, SIZE], limit, least)]
    assert chosen[0] == "0"
    assert sorted(chosen) == list(expected)


def test_a_front_that_is_long_enough_is_not_filled_up():
    rows = table_of([(float(i), float(-i)) for i in range(6)] + [(9.0, 9.0)])
    assert len(finalists(rows, [LOSS, SIZE], 4, 4)) == 4
    assert "6" not in {r.key for r in finalists(rows, [LOSS, SIZE], 6, 6)}
    assert finalists([], [LOSS, SIZE], 4, 4) == []


def test_no_architecture_fills_up_twice():
    rows = [record("a", 1, loss=0.1, size=5.0), record("b", 1, loss=0.2, size=6.0)]
    assert [r.key for r in finalists(rows, [LOSS, SIZE], 5, 5)] == ["a"]


def test_finalists_keep_the_most_hypervolume():
    """Greedy choice on six points against all pairs that hold the best first point."""
    rng = np.random.default_rng(3)
    x = np.sort(rng.random(6))
    rows = table_of([(float(a), float(1 - a**2)) for a in x])
    chosen = [int(r.key) for r in finalists(rows, [LOSS, SIZE], 2)]
    table = costs(rows, [LOSS, SIZE])
    high, low = table.max(0), table.min(0)
    reference = high + 0.1 * (high - low)

    def volume(pair):
        (a, b), (c, d) = sorted(map(tuple, table[list(pair)]))
        return (reference[0] - a) * (reference[1] - b) + (reference[0] - c) * (b - d)

    best = max((p for p in itertools.combinations(range(6), 2) if 0 in p), key=volume)
    assert sorted(chosen) == list(best)


def test_the_next_best_fill_up_where_the_front_is_short():
    """Record 0 beats all; behind it come the front of the rest, then what is left."""
    rows = table_of([(0.1, 1.0), (0.2, 9.0), (0.9, 2.0), (0.9, 9.5)])
    assert [r.key for r in finalists(rows, [LOSS, SIZE], 4)] == ["0"]
    assert [r.key for r in finalists(rows, [LOSS, SIZE], 4, 2)] == ["0", "1"]
    assert [r.key for r in finalists(rows, [LOSS, SIZE], 4, 3)] == ["0", "1", "2"]
    assert [r.key for r in finalists(rows, [LOSS, SIZE], 9, 9)] == ["0", "1", "2", "3"]
    assert [r.key for r in finalists(rows, [LOSS, SIZE], 1, 9)] == ["0"]
