"""Progress that is neither silent nor a flood."""

import io

import pytest
from rich.console import Console

from nasfw.bars import Bars, Lines, showing
from nasfw.progress import listening, track


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
