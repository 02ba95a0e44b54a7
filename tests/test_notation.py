"""Architectures as text, read back whatever their decisions and options are called."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasfw.notation import architecture, parse, text
from nasfw.values import UsageError

DECISIONS = {"first": (0.0, 1.0, 2.0), "second": ("linear", "bent"), "third": (True, False)}

awkward = st.text(' ,="\\\n1e-.ab~\u2028') | st.sampled_from(
    ["1", "1.0", "true", "null", "NaN", "[1]", "=", ","]
)
words = st.text() | awkward
options = (
    words | st.integers(-(2**70), 2**70) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
)
# As the contract for spaces demands, no options are equal.
spaces = st.dictionaries(words, st.lists(options, min_size=1, max_size=4, unique=True), max_size=4)


@given(spaces, st.data())
def test_parsing_inverts_text(decisions, data):
    """Also with commas, quotes and equals signs in names, and texts that look like numbers."""
    chosen = {name: data.draw(st.sampled_from(o)) for name, o in decisions.items()}
    found = parse(decisions, text(chosen))
    assert repr(found) == repr(tuple(chosen.values()))
    assert "\n" not in text(chosen)


def test_what_is_plain_is_written_plainly():
    assert text({"first": 1.0, "second": "bent", "third": True}) == "first=1.0, second=bent, third=true"
    assert text({"normal 2<-0": "sep_conv_3x3"}) == "normal 2<-0=sep_conv_3x3"


def test_only_what_would_be_misread_is_quoted():
    assert text({"a": "3", "b=c": "x, y", "": 'an "x"'}) == 'a="3", "b=c"="x, y", ""="an \\"x\\""'


@pytest.mark.parametrize(
    "written",
    [
        "third=false,second=bent ,first = 2",
        "first=2.0,\nsecond=bent,\n third=false\n",
        'third=false, first=2e0, second="bent"',
    ],
)
def test_order_and_spaces_do_not_matter(written):
    assert parse(DECISIONS, written) == (2.0, "bent", False)


@pytest.mark.parametrize(("option", "given"), [("3", "3"), (3, '"3"'), (3, "3"), ("3", '"3"')])
def test_numbers_and_texts_that_are_written_alike_stand_for_each_other(option, given):
    assert parse({"a": (option,)}, f"a={given}") == (option,)


def test_where_there_are_both_each_is_itself():
    decisions = {"a": (3, "3"), "b": (True, "true", 1.5)}
    assert parse(decisions, 'a="3", b=true') == ("3", True)
    assert parse(decisions, 'a=3, b="true"') == (3, "true")


def test_true_is_no_number():
    with pytest.raises(UsageError, match="'a' cannot be true; possible there: 1, 0"):
        parse({"a": (1, 0)}, "a=true")
    with pytest.raises(UsageError, match="'a' cannot be 1; possible there: true"):
        architecture({"a": (True,)}, {"a": 1})


@pytest.mark.parametrize("read", [architecture, lambda decisions, choices: parse(decisions, text(choices))])
@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"frst": 1.0}, "there is no decision 'frst'; did you mean 'first'? There are first, second, third"),
        ({"x": 1.0}, "there is no decision 'x'; there are first, second, third"),
        ({"first": 7.5}, "'first' cannot be 7.5; possible there: 0.0, 1.0, 2.0"),
        ({"second": "curved"}, "'second' cannot be curved; possible there: linear, bent"),
        ({"second": "bent", "third": True}, "has no option for 'first'; possible there: 0.0, 1.0, 2.0"),
        ({"first": 1.0}, "has no option for 'second' and 1 more; possible there: linear, bent"),
        ({}, "has no option for 'first' and 2 more; possible there: 0.0, 1.0, 2.0"),
    ],
)
def test_what_is_no_architecture_of_the_decisions_is_refused(choices, message, read):
    with pytest.raises(UsageError, match=re.escape(message)):
        read(DECISIONS, choices)


@pytest.mark.parametrize(
    "written", ["bent", "first", "first=", "=1", "first=1.0 = 2", 'first="1', "first=1.0;, ,"]
)
def test_what_is_no_such_text_is_repeated_beside_an_example(written):
    with pytest.raises(
        UsageError, match=r"is no architecture, which is written as 'first=0.0, second=linear, ...'"
    ):
        parse(DECISIONS, written)


def test_a_decision_is_given_once():
    with pytest.raises(UsageError, match="decides 'first' twice"):
        parse(DECISIONS, "first=1.0, first=1.0")


def test_a_message_does_not_repeat_a_book():
    with pytest.raises(UsageError) as found:
        parse(DECISIONS, "x" * 10_000)
    assert len(str(found.value)) < 200
