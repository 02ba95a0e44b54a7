"""How a one-shot search went: compact, complete, and with what speaks against it in plain sight."""

import os
import subprocess
import sys

import pytest

from nasfw.diagnosis import Diagnosis
from nasfw.diagnostics import Agreement, Diagnostics, Moment, Rating
from nasfw.reports.oneshot import alarms, course


def diagnosis(*moments, drawn=None, rated=None, pairs=(), **found):
    return Diagnosis(Diagnostics(moments, **found), pairs, drawn, rated)


WAY = [
    Moment(1, 2.0, 1.0, 0.25, 0.125),
    Moment(2, 1.0, 0.9, 0.25, 0.25),
    Moment(3, 0.5, 0.63, 0.75, 0.5),
]
RATINGS = tuple(Rating({"conv": i}, 0.1 * i, i < 5) for i in range(8))
PAIRS = tuple((r, r.value) for r in RATINGS)


@pytest.fixture
def shown(printed):
    def shown(diagnosis, width=80):
        return "".join(printed(part, width) for part in course("s", diagnosis))

    return shown


def test_every_series_goes_from_its_first_to_its_last_value(shown):
    lines = [" ".join(line.split()) for line in shown(diagnosis(*WAY)).splitlines()]
    assert lines == [
        "One-shot search in s, 3 epochs:",
        "entropy 1.00 to 0.63 of 1 ██▆",
        "skip connections 25 to 75 % of the edges ▃▃▇",
        "largest eigenvalue 0.125 to 0.5 ▃▅█",
        "training loss 2 to 0.5 █▅▃",
    ]


def test_a_space_without_skip_connections_says_so(shown):
    text = shown(diagnosis(Moment(1, entropy=0.5)))
    assert "the space has none" in text
    assert "eigenvalue" not in text


def test_without_a_mixture_nothing_is_said_of_one(shown):
    text = shown(diagnosis(Moment(1, loss=2.0)))
    assert "entropy" not in text
    assert "skip" not in text


@pytest.mark.parametrize("width", [60, 80])
def test_all_of_it_fits(shown, width):
    found = diagnosis(
        *(Moment(e, 1 / e, 1 / e, 0.5, e) for e in range(1, 101)),
        drawn=Agreement(0.5, 16),
        rated=Agreement(0.25, 22),
        pairs=PAIRS,
        ratings=RATINGS,
        notes=("the validation loss became sharper: " * 4,),
    )
    assert max(map(len, shown(found, width).splitlines())) <= width


def test_agreement_is_told_with_its_number_of_architectures(shown):
    both = diagnosis(drawn=Agreement(0.5, 5), rated=Agreement(0.25, 8), pairs=PAIRS, ratings=RATINGS)
    text = " ".join(shown(both).split())
    assert "Kendall's tau 0.50 between the supernet's ratings and trainings from scratch" in text
    assert "(5 drawn uniformly; 0.25 of all 8 rated and trained)" in text
    same = diagnosis(drawn=Agreement(0.5, 5), rated=Agreement(0.5, 5), pairs=PAIRS[:5], ratings=RATINGS)
    assert "(5 drawn uniformly)" in " ".join(shown(same).split())


def test_too_few_architectures_have_no_agreement(shown):
    few = diagnosis(pairs=PAIRS[4:5], ratings=RATINGS)
    assert "unknown, as only 1 architecture drawn uniformly can be compared" in " ".join(shown(few).split())
    proposed = diagnosis(rated=Agreement(0.25, 4), pairs=PAIRS[4:], ratings=RATINGS)
    assert "0.25 of all 4 rated and trained, but the ratings chose most of these" in " ".join(
        shown(proposed).split()
    )
    assert "Kendall" not in shown(diagnosis(*WAY))


def test_notes_are_passed_on(shown):
    assert "it ended early" in shown(diagnosis(*WAY, notes=("it ended early",)))


def test_alarms_stand_out_each_with_its_reason(printed):
    found = diagnosis(
        *(Moment(e, entropy=0.999, skips=0.8) for e in range(3)), drawn=Agreement(-0.2, 9), ratings=RATINGS
    )
    parts = alarms("s", found)
    assert len(parts) == len(found.alarms) == 3
    for part, reason in zip(parts, found.alarms, strict=True):
        assert reason in part.plain
        assert part.style == "bold yellow"
        assert "\x1b[1;33m" in printed(part, force_terminal=True, color_system="standard")
    assert alarms("s", diagnosis(Moment(1, entropy=0.5))) == []


def test_a_console_without_blocks_shows_the_rest():
    script = (
        "import sys, nasfw.cli\n"
        "from nasfw.diagnosis import Diagnosis\n"
        "from nasfw.diagnostics import Diagnostics, Moment\n"
        "from nasfw.reports.oneshot import course\n"
        "from nasfw.terminal import out\n"
        "def app():\n"
        "    moments = Moment(1, entropy=1.0), Moment(2, entropy=0.5)\n"
        "    for part in course('s', Diagnosis(Diagnostics(moments))):\n"
        "        out.print(part)\n"
        "nasfw.cli.app = app\n"
        "nasfw.cli.main()\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"1.00 to 0.50 of 1 ??" in done.stdout
