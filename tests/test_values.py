"""The plain values refuse what cannot be used, and identify what they hold."""

import hashlib
import json
import math
from dataclasses import asdict

import pytest

from nasfw.values import Recipe, Record, Unsupported, UsageError, digest


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("epochs", 0, math.inf),
        ("batch_size", 1, math.inf),
        ("fraction", 0, 1),
        ("lr", 0, math.inf),
        ("momentum", 0, 1),
        ("weight_decay", 0, math.inf),
        ("decay", 0, 1),
        ("dropout", 0, 1),
        ("clip", 0, math.inf),
        ("transform_lr", 0, math.inf),
        ("transform_momentum", 0, 1),
        ("transform_decay", 0, math.inf),
        ("transform_warmup", 0, math.inf),
        ("transform_cooldown", 0, math.inf),
    ],
)
def test_recipe_takes_the_ends_of_each_range_and_nothing_outside(name, low, high):
    Recipe(**{name: low})
    Recipe(**{name: high})
    for outside in (low - 1, low - 1e-9, math.nan, *([] if math.isinf(high) else [high + 1e-9])):
        with pytest.raises(UsageError, match=f"recipe.{name} is .* between"):
            Recipe(**{name: outside})


def test_dropout_and_clip_may_be_left_open():
    assert Recipe(dropout=None, clip=None) == Recipe()


def test_passes_count_whole_training_splits():
    assert Recipe(epochs=30, fraction=0.2).passes == pytest.approx(6.0, abs=1e-12)


def test_unsupported_is_an_error_of_the_user():
    assert issubclass(Unsupported, UsageError)
    assert issubclass(UsageError, ValueError)


def test_digest_is_the_hash_of_lengths_and_json():
    total = hashlib.sha256()
    for raw in (b"\x00\xff", b'{"a": 2, "b": 1}'):
        total.update(len(raw).to_bytes(8, "little") + raw)
    assert digest(b"\x00\xff", {"b": 1, "a": 2}) == total.hexdigest()[:16]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a",), ("a", "")),
        ((1, 2), (2, 1)),
        ((1,), (1.0,)),
        ((1,), (True,)),
        ((1,), ("1",)),
        (([1, [2]],), ([[1], 2],)),
        ((b"ab", b""), (b"a", b"b")),
    ],
)
def test_digest_tells_parts_apart(one, other):
    assert digest(*one) != digest(*other)


def record(**changes):
    values = {"key": "k", "phase": "search", "space": "s", "choices": {"a": 1, "b": "x"}}
    values |= {"recipe": Recipe(milestones=(3, 5), clip=1.0), "inherited": True}
    return Record(**{**values, "values": {"error": 0.25}, "seconds": 1.5, **changes})


def test_record_survives_json():
    for r in (record(), record(values={}, error="out of memory", phase="final"), record(text="|a~0|")):
        assert Record.from_json(r.to_json()) == r
        assert Record.from_json(r.to_json().encode()) == r


def test_a_record_is_one_line_of_strict_json():
    r = record(choices={"a\n\r": "\u2028 \ud83d\ude00"})
    line = r.to_json()
    assert line.isascii()
    assert not set(line) & set("\n\r")
    assert json.loads(line)["recipe"] == {**r.recipe.content, "milestones": [3, 5]}


@pytest.mark.parametrize(
    "change",
    [
        {"transform_optimizer": "adam"},
        {"transform_lr": 0.0},
        {"transform_momentum": 0.5, "transform_decay": 0.0},
        {"transform_warmup": 3},
        {"transform_cooldown": 2},
    ],
)
def test_what_is_said_of_transforms_is_written_only_where_it_is_said(change):
    """So records from before there were transforms are read, and written as they were."""
    plain, changed = Recipe(), Recipe(**change)
    names = [name for name in asdict(plain) if not name.startswith("transform_")]
    assert plain.content == {name: getattr(plain, name) for name in names}
    assert changed.content == {**plain.content, **change}
    assert Record.from_json(record(recipe=changed).to_json()).recipe == changed


def test_only_an_architecture_in_a_notation_of_its_own_is_written_as_text():
    """So records from before there was such a thing are read, and written as they were."""
    assert "text" not in json.loads(record().to_json())
    assert json.loads(record(text="|a~0|").to_json())["text"] == "|a~0|"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_in_both_directions(bad):
    with pytest.raises(ValueError, match="JSON compliant"):
        record(values={"error": bad}).to_json()
    line = record(values={"error": 123.0}).to_json().replace("123.0", str(bad).replace("inf", "Infinity"))
    with pytest.raises(ValueError, match=r"finite|Expecting"):
        Record.from_json(line)


def test_architecture_is_the_choices_in_order():
    assert record(choices={"z": 2.5, "a": "k3", "m": False}).architecture == (2.5, "k3", False)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "12",
        '"text"',
        "[1]",
        "{}",
        "\x00" * 64,
        '{"recipe": null}',
        '{"recipe": []}',
        record().to_json().replace('"key": "k", ', ""),
        record().to_json().replace('"key": "k"', '"key": "k", "other": 1'),
        record().to_json().replace('"lr": 0.1', '"lr": -0.1'),
        record().to_json().replace('"lr": 0.1', '"rate": 0.1'),
        record().to_json().replace('{"error": 0.25}', "[0.25]"),
        record().to_json()[:-1],
        record().to_json() + "}",
    ],
)
def test_anything_else_is_no_record(line):
    for form in (line, line.encode()):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Record.from_json(form)
