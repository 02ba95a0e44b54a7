"""Where trials run: here, one after another, or in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import torch
from pydantic import Field

from nasfw.contracts import Executor, Job, Record


@dataclass(frozen=True)
class Serial(Executor):
    """Runs trials in this process, one after another."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Record]:
        for job in jobs:
            yield job()


@dataclass(frozen=True)
class Processes(Executor):
    """Runs trials in ``workers`` processes of this machine (0: one per two cores, at least two).

    The cores are shared out evenly. Results come as they are done, so strategies that learn from them may
    take another course in another run.
    """

    workers: Annotated[int, Field(ge=0, description="processes; 0: one per two cores, at least two")] = 0

    def run(self, jobs: Iterable[Job]) -> Iterator[Record]:
        cores = os.cpu_count() or 1
        workers = self.workers or max(2, cores // 2)
        # Forking a process whose torch has started threads can hang it.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            workers, context, initializer=torch.set_num_threads, initargs=(max(1, cores // workers),)
        ) as pool:
            queue = iter(jobs)
            running: set[Future[Record]] = {pool.submit(job) for job in islice(queue, workers)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    running.update(pool.submit(job) for job in islice(queue, 1))
