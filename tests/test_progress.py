"""Progress reaches whoever listens in this process, and costs next to nothing if nobody does."""

import os
import timeit

from nasfw.progress import Bar, listening, track


class Diary:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def started(self, bar: Bar) -> None:
        self.lines.append(f"{bar.label} starts at {bar.done}/{bar.total}")

    def advanced(self, bar: Bar) -> None:
        self.lines.append(f"{bar.label} {bar.done} {bar.figures}")

    def ended(self, bar: Bar) -> None:
        self.lines.append(f"{bar.label} ends")


def test_a_listener_hears_everything_in_order():
    diary = Diary()
    with listening(diary), track("train", 3, done=1) as bar:
        bar.advance(loss=0.5)
        with track("inner", 1):
            pass
        bar.advance(loss=0.25, rate=1.0)
    assert diary.lines == [
        "train starts at 1/3",
        "train 2 {'loss': 0.5}",
        "inner starts at 0/1",
        "inner ends",
        "train 3 {'loss': 0.25, 'rate': 1.0}",
        "train ends",
    ]


def test_a_phase_that_raises_ends():
    diary = Diary()
    try:
        with listening(diary), track("train", 3):
            raise ValueError
    except ValueError:
        pass
    assert diary.lines[-1] == "train ends"


def test_nobody_listens_outside_the_context():
    outer, inner = Diary(), Diary()
    with listening(outer):
        with listening(inner), track("a", 1):
            pass
        with listening(None), track("b", 1):
            pass
        with track("c", 1):
            pass
    with track("d", 1) as bar:
        bar.advance()
    assert [line.split()[0] for line in inner.lines] == ["a", "a"]
    assert [line.split()[0] for line in outer.lines] == ["c", "c"]


def test_another_process_is_silent(monkeypatch):
    """A forked worker has its parent's memory and another process number."""
    diary = Diary()
    with listening(diary):
        number = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: number + 1)
        with track("worker", 1) as bar:
            bar.advance()
    assert diary.lines == []


def test_advancing_unheard_costs_under_two_microseconds():
    with track("train", 10) as bar:
        best = min(timeit.repeat(lambda: bar.advance(loss=0.5), number=10_000, repeat=5))
    assert best / 10_000 < 2e-6
