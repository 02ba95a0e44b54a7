"""Numbers as people write them, tables that fit, and progress that is neither silent nor a flood."""

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nasfw.display import (
    Bars,
    Lines,
    format_seconds,
    format_spread,
    format_value,
    front_table,
    showing,
    text_table,
)
from nasfw.progress import listening, track
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


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_say_start_progress_time_left_and_end():
    clock, out = Clock(), io.StringIO()
    with listening(Lines(Console(file=out, width=80), clock)), track("train [x]", 100) as bar:
        for _ in range(100):
            clock.now += 2.0
            bar.advance(loss=0.31)
    lines = out.getvalue().splitlines()
    assert lines[0] == "train [x]: 0/100"
    assert lines[1] == "train [x]: 5/100, loss 0.31, about 3 min 10 s left"
    assert lines[-1] == "train [x]: done in 3 min 20 s, loss 0.31"
    assert len(lines) == 21


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ({"accuracy": 0.9792, "latency@an old laptop": 2.088e-4}, "accuracy 97.92 %, latency 208.8 µs"),
        ({"latency@a": 1e-3, "latency@b": 2e-3}, "latency@a 1.000 ms, latency@b 2.000 ms"),
        ({"loss": 0.01234, "parameters": 12345.0}, "loss 0.01234, parameters 1.234e+04"),
    ],
)
def test_figures_with_units_are_shown_as_in_tables(figures, shown):
    """A device is named where it tells two figures apart."""
    out = io.StringIO()
    units = {"accuracy": "", "latency@an old laptop": "s", "latency@a": "s", "latency@b": "s"}
    with listening(Lines(Console(file=out, width=80), Clock())), track("search", 1, units=units) as bar:
        bar.advance(1, **figures)
    assert out.getvalue().splitlines()[-1].endswith(f", {shown}")


def test_time_left_counts_only_what_this_process_did():
    clock, out = Clock(), io.StringIO()
    with listening(Lines(Console(file=out, width=80), clock)), track("train", 100, done=50) as bar:
        clock.now += 20.0
        bar.advance(10)
    assert "60/100, about 1 min 20 s left" in out.getvalue()
    assert "stopped at 60/100" in out.getvalue()


def test_short_phases_are_no_flood():
    clock, out = Clock(), io.StringIO()
    with listening(Lines(Console(file=out, width=80), clock)), track("search", 1000) as outer:
        for _ in range(1000):
            with track("trial", 50) as inner:
                inner.advance(50)
            clock.now += 0.1
            outer.advance()
    lines = out.getvalue().splitlines()
    assert not any("trial" in line for line in lines)
    assert len(lines) <= 2 + 100 / 10 + 5


def test_long_nested_phases_are_told():
    clock, out = Clock(), io.StringIO()
    lines = Lines(Console(file=out, width=80), clock)
    with listening(lines), track("search", 2), track("final", 4) as inner:
        for _ in range(4):
            clock.now += 6
            inner.advance()
    assert "final: 2/4, about 12 s left" in out.getvalue()
    assert "final: done in 24 s" in out.getvalue()


def test_bars_show_the_outermost_and_leave_a_line():
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    with Bars(console, clock) as bars, listening(bars):
        with track("search [all]", 2) as outer:
            with track("trial", 3) as inner, track("third", 1), track("fourth", 1) as hidden:
                hidden.advance()
                clock.now += 1
                inner.advance(loss=0.5)
                assert [t.description for t in bars._progress.tasks][1:] == ["  trial", "    third"]
                assert bars._progress.tasks[1].fields["figures"] == "loss 0.5"
            clock.now += 9
            outer.advance(2)
        assert bars._progress.tasks == []
    assert "search [all]: done in 10 s" in out.getvalue()


def test_a_terminal_gets_bars_and_a_file_lines():
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, width=80, force_terminal=terminal)
        with showing(console), track("train", 2) as bar:
            bar.advance(2, loss=0.25)
        assert ("\x1b" in out.getvalue()) == terminal
        assert "train: done" in out.getvalue()
