"""What tests of strategies search: numbers whose values are known, with executors of several workers."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pytest
from torch import nn

from nasfw.contracts import (
    Architecture,
    Candidate,
    Diverged,
    Executor,
    Job,
    Objective,
    Option,
    Problem,
    Recipe,
    Record,
    SearchSpace,
)
from nasfw.engine import Budget, search
from nasfw.executors import Serial
from nasfw.records import Records
from nasfw.testing import ToyTask


@dataclass(frozen=True)
class Numbers(SearchSpace):
    """Numbers of so many digits; nothing is built."""

    digits: int = 6

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        return {f"digit{i}": tuple(range(10)) for i in range(self.digits)}

    @property
    def default(self) -> Architecture:
        return (0,) * self.digits

    def build(self, architecture: Architecture) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True)
class Known(Objective):
    """A function of architecture and epochs; None where the training fails."""

    of: Callable[[Architecture, int], float | None]
    label: str = "known"

    metric = "known"
    maximise = True
    looked_up = True

    @property
    def name(self) -> str:
        return self.label

    def measure(self, candidate: Candidate) -> float:
        value = self.of(candidate.architecture, candidate.recipe.epochs)
        if value is None:
            raise Diverged("the loss is not finite")
        return float(value)


@dataclass(frozen=True)
class Workers(Executor):
    """So many workers whose trials end in any order; ``busy`` notes how many work when one is done."""

    count: int
    seed: int = 0
    busy: list[int] = field(default_factory=list)

    def run(self, jobs: Iterable[Job]) -> Iterator[Record]:
        queue, rng = iter(jobs), np.random.default_rng(self.seed)
        running = list(islice(queue, self.count))
        while running:
            self.busy.append(len(running))
            yield running.pop(int(rng.integers(len(running))))()
            running += islice(queue, 1)


@dataclass(frozen=True)
class Rounds(Executor):
    """Workers that wait for each other: nobody starts anew before all are done."""

    count: int

    def run(self, jobs: Iterable[Job]) -> Iterator[Record]:
        queue = iter(jobs)
        while started := list(islice(queue, self.count)):
            yield from [job() for job in started]


@dataclass(frozen=True)
class Clocked(Executor):
    """So many workers on a simulated clock, where a trial takes as long as ``seconds`` says.

    ``taken`` has what each trial took, and ``ends`` when each was done.
    """

    count: int
    seconds: Callable[[Architecture, int], float]
    taken: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def run(self, jobs: Iterable[Job]) -> Iterator[Record]:
        queue, now = iter(jobs), self.ends[-1] if self.ends else 0.0
        running: list[tuple[float, int, Record]] = []

        def start(count: int) -> None:
            for job in islice(queue, count):
                record = job()
                self.taken.append(self.seconds(record.architecture, record.recipe.epochs))
                heapq.heappush(running, (now + self.taken[-1], len(self.taken), record))

        start(self.count)
        while running:
            now, _, record = heapq.heappop(running)
            self.ends.append(now)
            yield record
            start(1)

    @property
    def idle(self) -> float:
        """The share of the workers' time until the last trial is done in which they did nothing."""
        return 1 - sum(self.taken) / (self.count * self.ends[-1])


@pytest.fixture
def numbers():
    return Numbers


@pytest.fixture
def known():
    return Known


@pytest.fixture
def workers():
    return Workers


@pytest.fixture
def rounds():
    return Rounds


@pytest.fixture
def clocked():
    return Clocked


@pytest.fixture
def find(tmp_path):
    """All records of a search with a strategy, in the order in which they were made."""

    def found(
        strategy, objectives, *, space=None, epochs=64, seed=0, executor=None, budget=None, folder="run"
    ):
        place, task = tmp_path / folder, ToyTask()
        place.mkdir(exist_ok=True)
        problem = Problem(space or Numbers(), task, objectives, Recipe(epochs=epochs), seed, place)
        with Records(place / "r.jsonl", write=True) as records:
            search(problem, "numbers", strategy, records, executor or Serial(), budget or Budget())
            return list(records)

    return found
