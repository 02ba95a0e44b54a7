"""What a run would take."""

from dataclasses import replace

from nasfw.estimate import Estimate
from nasfw.reports.plan import forecast

TIMES = Estimate("s", 9, 1000, 2000, None, 0.1, 0.1, 0.1, None, 1, 60.0, 30.0, None, 2**20)


def test_a_forecast_adds_the_parts(printed):
    text = printed(forecast([TIMES]))
    assert "Estimated time 1 min 30 s: search 1 min 0 s (1 trial), final trainings at most 30 s." in text
    assert "supernet" not in text
    other = replace(TIMES, supernet_step=0.2, supernet_parameters=5, random=30.0)
    text = printed(forecast([other]))
    assert "Estimated time 2 min 0 s" in text
    assert "supernet" in text


def test_a_forecast_says_what_it_leaves_out(printed):
    assert "comes on top" not in printed(forecast([TIMES]))
    text = printed(forecast([replace(TIMES, measured=("latency", "energy"))]))
    assert "Measuring latency and energy comes on top of it, and so do exports." in text


def test_a_strategy_that_foretells_nothing_gets_no_estimate(printed):
    assert "cannot be estimated" in printed(forecast([replace(TIMES, search=None)]))
