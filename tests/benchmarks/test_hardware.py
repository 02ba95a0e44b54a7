"""How fast networks become sessions, how well latencies repeat, and how far predicted costs are off.

    pytest tests/benchmarks/test_hardware.py -m "" --benchmark-enable --benchmark-json=hardware.json

The figures of interest are in ``extra_info``. Load the machine meanwhile to see what the protocol is for.
"""

import statistics
import time
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from nasfw.contracts import Candidate
from nasfw.hardware import measuring, session
from nasfw.hardware.host import Host
from nasfw.hardware.quiet import silence
from nasfw.mixtures import indices
from nasfw.spaces.aggconv import AggConv
from nasfw.tasks.digits import Digits

TASK = Digits()
ANEW = Host(reuse=False)


def samples(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [Candidate(space, TASK, space.sample(rng)) for _ in range(count)]


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def by_torch(model):
    with silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.zeros(1, *TASK.input_shape)
        torch.onnx.export(model, (x,), dynamo=True, verbose=False, external_data=False)


def test_architecture_to_session(benchmark):
    """A network of 22 layers: 0.05 s at most are wanted, conversion and session together."""
    space = AggConv(TASK, depth=22)
    models = [c.model for c in samples(space, 8 if benchmark.enabled else 2)]

    def opened(model):
        session.open_session(session.to_onnx(model, TASK.input_shape).SerializeToString(), ANEW.runtime)

    opened(models[0])
    own, other = [], []
    for model in models[1:]:
        own.append(seconds(lambda model=model: opened(model)))
        # A trial run of this file need not wait for the other one.
        other.append(seconds(lambda model=model: by_torch(model)) if benchmark.enabled else 1.0)
    benchmark.extra_info["seconds"] = statistics.median(own)
    benchmark.extra_info["torch.onnx, times that"] = statistics.median(
        b / a for a, b in zip(own, other, strict=True)
    )
    benchmark.pedantic(opened, args=(models[0],), rounds=1)


def unguarded(subject):
    """What is usually done: the median of some runs by the wall clock."""
    run = subject.open().bound()
    run()
    return statistics.median(seconds(run) for _ in range(50))


@pytest.mark.slow
def test_latencies_repeat(benchmark):
    """The same networks again and again: coefficients of variation and rank correlation, in new sessions."""
    candidates = samples(AggConv(TASK), 12 if benchmark.enabled else 2)
    subjects = [measuring.of_candidate(c, ANEW.runtime) for c in candidates]
    repetitions = 5 if benchmark.enabled else 1
    ours, theirs = [], []
    for _ in range(repetitions):
        measuring._sessions.clear()
        ours.append([float(v) for v in ANEW.measure_all("latency", candidates)])
        theirs.append([unguarded(s) for s in subjects])
    for name, table in (("ours", np.array(ours)), ("unguarded", np.array(theirs))):
        assert (table > 0).all()
        variation = table.std(0) / table.mean(0)
        pairs = [(a, b) for i, a in enumerate(table) for b in table[:i]]
        taus = [kendalltau(a, b).statistic for a, b in pairs]
        benchmark.extra_info[f"{name}: median and worst variation"] = [
            float(np.median(variation)),
            float(variation.max()),
        ]
        benchmark.extra_info[f"{name}: least tau"] = min(taus, default=None)
    benchmark.pedantic(ANEW.measure_all, args=("latency", candidates[:2]), rounds=1)


@pytest.mark.slow
def test_predicted_against_measured(benchmark):
    """Random networks: an error of 3 % at most and a rank correlation of 0.97 at least are wanted."""
    space = AggConv(TASK, preset="default" if benchmark.enabled else "baby")
    table = benchmark.pedantic(ANEW.table, args=("latency", space, TASK, 1), rounds=1)
    candidates = samples(space, 50 if benchmark.enabled else 2)
    measured = np.array(ANEW.measure_all("latency", candidates))
    predicted = np.array([table.predict(indices(space.decisions, c.architecture)) for c in candidates])
    assert (predicted > 0).all()
    benchmark.extra_info["mean error"] = float(np.mean(np.abs(predicted / measured - 1)))
    benchmark.extra_info["tau"] = float(kendalltau(predicted, measured).statistic)
    benchmark.extra_info["seconds"] = table.seconds
