"""What training steps of supernets of cells cost; small versions of ``python -m nasfw.benchmarks cells``.

    pytest tests/benchmarks/test_cells.py --benchmark-enable --benchmark-json=cells.json

The ratios to the mean of four networks are in ``extra_info``; the rounds of what is compared take turns.
"""

import pytest

from nasfw.benchmarks.cells import FULL, MIXED, PARTIAL, PATH, QUICK, WANTED, passes, ratios, table
from nasfw.benchmarks.timing import clock, interleaved, using

LARGE = next(iter(FULL))


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c == LARGE else ()) for c in (LARGE, *QUICK)]
)
def test_a_supernets_step_against_the_networks(benchmark, case):
    """Of DARTS's space in its default size at most 6 are wanted, 0.95 for a path and 2.5 for parts."""
    rounds = 1 if benchmark.disabled else 7
    with using(1):
        steps, expected = passes((FULL | QUICK)[case])
        timings, skipped = interleaved(steps, rounds, clock(1, "cpu"))
        assert skipped == {}
        for name, ratio in ratios(timings).items():
            benchmark.extra_info[name] = ratio.median
            benchmark.extra_info[f"{name}, quartiles"] = [ratio.low, ratio.high]
            benchmark.extra_info[f"{name}, expected"] = expected[name]
            if case == LARGE and not benchmark.disabled:
                assert ratio.median <= WANTED[name]
        benchmark.pedantic(steps[MIXED], rounds=1)
    assert set(ratios(timings)) == {MIXED, PATH, PARTIAL}


def test_the_table_has_all_ways():
    made = table({case: QUICK[case] for case in list(QUICK)[1:2]}, 1, 1)
    assert made.row_count == 3
