"""Numbers as people write them, and tables that fit."""

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nasfw.display import (
    format_seconds,
    format_spread,
    format_value,
    front_table,
    magnitude,
    sparkline,
    text_table,
)
from nasfw.values import Measure


@pytest.mark.parametrize(
    ("value", "unit", "name", "text"),
    [
        (0.98611, "", "accuracy", "98.61 %"),
        (0.5, "", "f1@board", "50.00 %"),
        (0.0123, "%", "error", "1.23 %"),
        (0.0, "%", "", "0.00 %"),
        (176_412, "", "parameters", "176.4k"),
        (999, "", "parameters", "999"),
        (1000, "", "parameters", "1.000k"),
        (999_960, "", "parameters", "1.000M"),
        (0, "", "parameters", "0"),
        (-2500, "", "x", "-2.500k"),
        (0.012345, "", "error", "0.01235"),
        (-0.5, "", "x", "-0.5"),
        (3.14159, "", "x", "3.142"),
        (999.96, "", "x", "1.000k"),
        (1.5e25, "", "x", "1.500e+25"),
        (0.00123, "s", "latency", "1.230 ms"),
        (4.56e-6, "s", "latency", "4.560 µs"),
        (7.8e-8, "s", "latency", "78.00 ns"),
        (1.5, "s", "", "1.500 s"),
        (0.0, "s", "", "0 s"),
        (200.0, "s", "", "3 min 20 s"),
        (-200.0, "s", "", "-3 min 20 s"),
        (2_500_000, "B", "", "2.500 MB"),
        (12, "B", "", "12 B"),
        (1.2e9, "FLOP", "flops", "1.200 GFLOP"),
        (0.05, "J", "energy", "50.00 mJ"),
        (math.inf, "s", "", "inf s"),
        (math.nan, "s", "", "-"),
        (None, "", "accuracy", "-"),
    ],
)
def test_values(value, unit, name, text):
    assert format_value(value, unit, name) == text


@given(st.floats(allow_nan=False), st.sampled_from(["", "s", "B", "J", "%"]))
def test_every_number_is_short(value, unit):
    assert len(format_value(value, unit)) <= 18


@given(st.floats(1e-12, 1e17))
def test_a_prefix_changes_no_value(value):
    number, _, unit = format_value(value, "J").partition(" ")
    scale = {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0}
    scale |= {"m": 1e-3, "µ": 1e-6, "n": 1e-9, "p": 1e-12}
    assert float(number) * scale[unit.removesuffix("J")] == pytest.approx(value, rel=5.1e-4)
    assert 1 <= float(number) < 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.4, "7 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


def test_spread_over_seeds_is_in_one_unit():
    assert format_spread([0.982, 0.991, 0.986], name="accuracy") == "98.60 (98.20 to 99.10) %"
    assert format_spread([0.9e-3, 1.3e-3], "s") == "1.100 (0.900 to 1.300) ms"
    assert format_spread([1200, 1200], name="parameters") == "1.200k"
    assert format_spread([0.5], name="accuracy") == "50.00 %"
    assert format_spread([], name="accuracy") == "-"


MEASURES = [
    Measure("accuracy", "", maximise=True),
    Measure("parameters"),
    Measure("latency@Intel Xeon", "s", device="Intel Xeon"),
]


def drawn(renderable, **options):
    console = Console(file=io.StringIO(), width=80, **options)
    console.print(renderable)
    return console.file.getvalue()


def test_front_table_fits_and_keeps_every_number():
    rows = [
        {"network": "[2] of 7", "choices": "k7d3 " * 20, "accuracy": [0.98, 0.99], "parameters": 176_412},
        {"network": "front 2", "choices": "k3d1", "accuracy": 0.9, "latency@Intel Xeon": 0.00123},
    ]
    below = [{"network": "plain", "accuracy": 0.95, "parameters": 170_000}]
    text = drawn(front_table(rows, MEASURES, below, title="digits [final]"))
    assert max(map(len, text.splitlines())) <= 80
    whole = " ".join(text.split())
    for part in ("[2]", "176.4k", "90.00 %", "1.230 ms", "95.00 %", "170.0k", "[final]", "accuracy ↑"):
        assert part in whole
    lines = text.splitlines()
    plain = next(i for i, line in enumerate(lines) if "plain" in line)
    assert set(lines[plain - 1].strip()) <= {"─", " "}


def test_text_table_fits():
    rows = [{"kind": "strategy", "name": "dash", "package": "nasfw", "summary": "long " * 40}]
    text = drawn(text_table(rows, "plugins"))
    assert max(map(len, text.splitlines())) <= 80
    assert "strategy" in text
    assert drawn(text_table([])).strip() == ""


def test_no_color_is_respected(monkeypatch):
    table = text_table([{"a": 1}])
    monkeypatch.setenv("NO_COLOR", "1")
    text = drawn(table, force_terminal=True)
    # Bold may stay; escape codes 30 to 49 are colours.
    assert not any(f"\x1b[{code}" in text for code in ("3", "4"))


@given(st.floats(1e-14, 1e20), st.sampled_from(["", "s", "B", "J", "FLOP", "%"]))
def test_an_axis_is_in_the_unit_that_a_value_is_written_in(value, unit):
    factor, name = magnitude(value, unit)
    written = format_value(value, unit)
    if "e" in written or (unit == "s" and value >= 120):
        assert name == unit or unit == "%"
    else:
        assert written.lstrip("0123456789.").strip() == name
        number = float(written[: len(written) - len(name)])
        assert number == pytest.approx(value / factor, rel=1e-3, abs=0.005 if unit == "%" else 0.5)


def test_nothing_is_no_reason_for_a_prefix():
    assert magnitude(0.0, "s") == magnitude(math.inf, "s") == magnitude(math.nan, "s") == (1.0, "s")
    assert magnitude(0.0, "", "accuracy") == (0.01, "%")


BLOCKS = "▁▂▃▄▅▆▇█"


def test_eight_equal_steps_are_the_eight_blocks():
    assert sparkline(range(8)) == BLOCKS
    assert sparkline(range(7, -1, -1)) == BLOCKS[::-1]
    assert sparkline([0.0, 0.5, 1.0], 0.0, 1.0) == "▁▅█"


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.integers(1, 20))
def test_a_sparkline_is_as_long_as_it_may_be_and_rises_with_its_values(values, width):
    drawn = sparkline(sorted(values), width=width)
    assert len(drawn) == min(len(values), width)
    assert list(drawn) == sorted(drawn)


def test_many_values_are_drawn_as_their_means():
    assert sparkline([0, 2, 8, 6, 1, 1], 0, 8, width=3) == sparkline([1, 7, 1], 0, 8)


def test_what_is_not_finite_is_a_gap_and_what_is_constant_is_low():
    assert sparkline([1.0, math.nan, 2.0, math.inf]) == "▁ █ "
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([]) == ""
