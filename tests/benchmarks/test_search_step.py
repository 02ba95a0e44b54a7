"""What a step of DASH costs beside its supernet's forward and backward pass.

    pytest tests/benchmarks/test_search_step.py -m "" --benchmark-enable --benchmark-json=step.json

The shares are in ``extra_info``: of batches, mixture, clipping, optimisers and all the rest, by the clock of
the thread, with one thread.
"""

import statistics
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from nasfw.benchmarks.timing import using
from nasfw.contracts import Problem
from nasfw.spaces.aggconv import AggConv
from nasfw.strategies.dash import Dash
from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.digits import Digits


class Watch:
    """Seconds of whole steps, and of the network's part in them."""

    def __init__(self):
        self.steps, self.network = [], []
        self.began = self.part = None

    def forward(self, *_):
        now = time.thread_time()
        if self.began is not None:
            self.steps.append(now - self.began)
        self.began = self.part = now

    def pause(self):
        self.network.append(time.thread_time() - self.part)

    def backward(self, _):
        self.part = time.thread_time()

    def end(self):
        self.network[-1] += time.thread_time() - self.part

    @property
    def share(self):
        """Of a step, beside the network; the first steps, which prepare things, do not count."""
        pairs = zip(self.steps[3:], self.network[3:], strict=False)
        return statistics.median(1 - network / step for step, network in pairs)


def watched(task_type, watch):
    """The type of task, whose loss ends the forward pass and whose gradient begins the backward one."""

    class Watched(task_type):
        def loss(self, output, target):
            loss = super().loss(output, target)
            watch.pause()
            loss.register_hook(watch.backward)
            return loss

    return Watched


class WatchedDash(Dash):
    """DASH whose ``watch`` is told when the backward pass is over."""

    def _treat(self, logits, fields):
        self.__dict__["watch"].end()
        super()._treat(logits, fields)


class WatchedSpace(AggConv):
    """The space, whose supernet tells its ``watch`` of every forward pass."""

    def supernet(self):
        made = super().supernet()
        made.register_forward_pre_hook(self.__dict__["watch"].forward)
        return made


class Free:
    """Evaluates nothing, and its budget never ends."""

    def __call__(self, trials):
        return []

    def as_completed(self, trials):
        return iter(())

    def spend(self, passes):
        return True


def noise(task_type, batch_size, *shape):
    """A task of noise with ten batches for training."""
    rng = np.random.default_rng(0)
    # A fifth is for the test, and a fifth of the rest for validation.
    x = rng.standard_normal((round(10 * batch_size / 0.64), *shape)).astype(np.float32)
    return task_type(x, np.arange(len(x)) % 10, channels="first", batch_size=batch_size)


TASKS = {
    "digits, adamw": lambda watch: watched(Digits, watch)(),
    "digits, sgd": lambda watch: watched(Digits, watch)(),
    "3 x 32 x 32, batch 64, sgd": lambda watch: noise(watched(ArraysTask, watch), 64, 3, 32, 32),
    "1 x 1000, batch 32, sgd": lambda watch: noise(watched(ArraysTask, watch), 32, 1, 1000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_share_of_a_step_beside_the_supernet(benchmark, tmp_path, name):
    """Under 5 per cent are wanted; on digits, whose step is short, the passes over the weights take more."""
    watch = Watch()
    task = TASKS[name](watch)
    recipe = replace(task.recipe, epochs=2, lr=0.01, optimizer="adamw" if "adamw" in name else "sgd")
    space, dash = WatchedSpace(task), WatchedDash()
    space.__dict__["watch"] = dash.__dict__["watch"] = watch
    problem = Problem(space, task, [], recipe, 0, tmp_path)

    def train():
        torch.manual_seed(0)
        dash.train(problem, Free())
        (tmp_path / "checkpoints" / "supernet.pt").unlink()
        watch.began = None

    with using(1):
        benchmark.pedantic(train, rounds=1)
    benchmark.extra_info["share of a step beside the supernet"] = watch.share
    benchmark.extra_info["milliseconds per step"] = 1e3 * statistics.median(watch.steps)
    assert 0 < watch.share < 1
