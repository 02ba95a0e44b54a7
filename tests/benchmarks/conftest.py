"""What benchmarks share."""

import pytest

from nasfw.benchmarks.timing import clock, interleaved, using


@pytest.fixture
def compare(benchmark):
    """Times ``way`` for the benchmark, and keeps its ratio to each of the ``references``."""

    def compare(passes, way, *references):
        rounds = 1 if benchmark.disabled else 7
        with using(1):
            timings, skipped = interleaved(passes, rounds, clock(1, "cpu"))
            assert skipped == {}
            for reference in references:
                ratio = timings[way].over(timings[reference])
                benchmark.extra_info[f"times {reference}"] = ratio.median
                benchmark.extra_info[f"times {reference}, quartiles"] = [ratio.low, ratio.high]
            benchmark.pedantic(passes[way], rounds=rounds)

    return compare
