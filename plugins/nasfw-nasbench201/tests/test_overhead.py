"""What nasfw adds to a lookup: under a millisecond is wanted.

    pytest plugins/nasfw-nasbench201/tests/test_overhead.py --benchmark-enable --benchmark-json=overhead.json

The figures of interest are in ``extra_info``: the overhead per evaluation is what nasfw adds, by the
processor's clock, on which other programs do not count.
"""

import itertools
import time

import pytest
from nasfw_nasbench201.cells import architectures
from nasfw_nasbench201.objectives import Accuracy
from nasfw_nasbench201.task import NasBench201

import nasfw

pytest.importorskip("pytest_benchmark")

FEW, MANY = 100, 2100
# Milliseconds per evaluation.
WANTED = 1.0


@pytest.mark.benchmark(timer=time.process_time)
def test_a_search_costs_little_more_than_its_lookups(benchmark, tmp_path, file, space):
    """At most a millisecond for an evaluation is wanted.

    From the difference of a long and a short random search, hence without what a run costs once.
    """
    task, folders = NasBench201("cifar10", file), itertools.count()

    def search(trials):
        return nasfw.run(
            task=task,
            spaces="nasbench201",
            strategy={"random": {"trials": trials}},
            objectives=[Accuracy()],
            final=False,
            effort=None,
            compute="cpu",
            folder=tmp_path / str(next(folders)),
        ).trials

    def seconds(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    recipe = task.recipe
    shown = [nasfw.Candidate(space, task, a, "valid", recipe=recipe) for a in architectures()[:MANY]]
    lookup = min(seconds(lambda: [Accuracy().measure(c) for c in shown]) for _ in range(3)) / MANY
    short = min(seconds(lambda: search(FEW)) for _ in range(3))
    assert benchmark.pedantic(search, args=(MANY,), rounds=3) == MANY
    if benchmark.stats is not None:
        each = (benchmark.stats.stats.min - short) / (MANY - FEW)
        overhead = 1e3 * (each - lookup)
        benchmark.extra_info["milliseconds per lookup"] = 1e3 * lookup
        benchmark.extra_info["milliseconds of overhead per evaluation"] = overhead
        assert overhead <= WANTED
