"""What training steps of supernets of cells cost; small versions of ``python -m nasfw.benchmarks cells``.

    pytest tests/benchmarks/test_cells.py -m "" --benchmark-enable --benchmark-json=cells.json

The ratios to the mean of four networks, and to DARTS's first order, are in ``extra_info``; the rounds of what
is compared take turns, and peak memory is that of fresh processes.
"""

from dataclasses import dataclass

import pytest

from nasfw.benchmarks import orders
from nasfw.benchmarks.cells import FULL, MIXED, PARTIAL, PATH, QUICK, WANTED, passes, ratios, table
from nasfw.benchmarks.subjects import Shapes
from nasfw.benchmarks.timing import clock, interleaved, using
from nasfw.spaces.cell import Darts

LARGE = next(iter(FULL))


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if "darts" in c else ()) for c in (LARGE, *QUICK)]
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


@pytest.mark.slow
@pytest.mark.parametrize("case", [*orders.FULL, *orders.QUICK])
def test_a_search_step_of_second_order_against_the_first(benchmark, case):
    """Of DARTS's space in its default size at most 3 times the time are wanted, and 1.6 times the memory."""
    if case in orders.FULL and benchmark.disabled:
        pytest.skip("takes minutes; --benchmark-enable measures it")
    task, settings = (orders.FULL | orders.QUICK)[case]
    found = orders.measure((task, settings), 1, 1 if benchmark.disabled else 7)
    for what, (_, _, ratio) in found.items():
        benchmark.extra_info[f"{what}, times first order"] = ratio.median
        benchmark.extra_info[f"{what}, quartiles"] = [ratio.low, ratio.high]
        if case in orders.FULL and not benchmark.disabled:
            assert ratio.median <= orders.WANTED[what]
    with using(1):
        benchmark.pedantic(orders.search_step(Darts(task, **settings), "second"), rounds=1)
    assert list(found) == list(orders.WANTED)
    assert orders.table({case: found}, 1).row_count == len(found)
    assert all(0 < found[orders.NET][i] < found[orders.PEAK][i] for i in range(2))


@dataclass(frozen=True)
class Counting(Darts):
    """DARTS's space, whose supernet notes in ``passes`` on how many inputs it computed."""

    def supernet(self):
        made = super().supernet()
        made.register_forward_hook(lambda module, x, output: self.__dict__["passes"].append(len(output)))
        return made


@pytest.mark.parametrize(("order", "count"), [("first", 1 + 1), ("second", 4 + 1)])
def test_a_search_step_is_a_gradient_of_its_order_and_one_of_the_weights(order, count):
    """Of second order: two at the weights and a step further, two around the weights."""
    space = Counting(Shapes((1, 8, 8), (10,), 4), layers=1, channels=2)
    space.__dict__["passes"] = passes = []
    step = orders.search_step(space, order)
    step()
    step()
    assert passes == [4] * 2 * count
