"""What messages repeat is short, and what they propose is near."""

import pytest

from nasfw.hints import brief, meant


@pytest.mark.parametrize("value", ["", "short", "x" * 58, 3, None, [1, 2], {"a": 1}])
def test_what_is_short_is_repeated_as_it_is(value):
    assert brief(value) == repr(value)


@pytest.mark.parametrize("value", ["x" * 59, "x" * 10_000, "'\"\n" * 60, [*range(99)], {"a": "b" * 99}])
def test_what_is_long_is_cut_and_closed(value):
    found = brief(value)
    assert len(found) == 60
    assert found.startswith(repr(value)[:56])
    assert found[56:] == "..." + repr(value)[-1]


def test_the_nearest_is_proposed_as_it_is_written():
    assert meant("frst", ["first", "second"]) == "did you mean 'first'?"
    assert meant("ADAM", ["sgd", "Adam"]) == "did you mean 'Adam'?"
    assert meant("x", ["first", "second"]) == ""
    assert meant("x", []) == ""
