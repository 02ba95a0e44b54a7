"""What a run keeps of its supernet's training: how the layers were computed, seconds per step, peak memory.

A strategy that trains a supernet calls ``started`` before and ``ended`` after it, and lets the clock tick.
Importing this does not import torch, so that a folder is read quickly.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nasfw.caches import written
from nasfw.hardware.machine import peak_memory

if TYPE_CHECKING:
    from nasfw.contracts import Supernet

FILE = "supernet.json"

_ON_CARD = "allocated on the graphics card"
_IN_PROCESS = "of the process, from its start on"
_UNKNOWN = "this system does not tell a process's peak memory"


@dataclass(frozen=True)
class Training:
    """A supernet's training as the run's folder keeps it.

    ``layers`` says how each layer was computed. ``step`` has seconds per training step, all included, and
    ``memory`` the peak in bytes: None where they are not known. ``remark`` says what the memory is, or why it
    is not known.
    """

    layers: Mapping[str, str] = field(default_factory=dict)
    step: float | None = None
    memory: int | None = None
    remark: str = ""

    @classmethod
    def read(cls, folder: Path) -> Training | None:
        """What ``ended`` wrote; None if there is nothing that can be read."""
        try:
            content = cls(**json.loads((folder / FILE).read_text()))
            numbers = [n for n in (content.step, content.memory) if n is not None]
            texts = [content.remark, *content.layers.keys(), *content.layers.values()]
            valid = all(math.isfinite(n) for n in numbers) and all(isinstance(t, str) for t in texts)
        except (OSError, ValueError, TypeError, AttributeError):
            # A report about speed; the run's outcome does not depend on it.
            return None
        return content if valid else None


class Clock:
    """Counts the steps of a supernet's training, and how long they take, once it was ``started``.

    The first step is not counted: what is prepared once is done in it.
    """

    def __init__(self) -> None:
        self.steps, self.begin, self.end = 0, 0.0, 0.0

    def tick(self) -> None:
        """A step is done."""
        self.steps, self.end = self.steps + 1, time.perf_counter()
        if self.steps == 1:
            self.begin = self.end

    @property
    def step(self) -> float | None:
        """Seconds per step; None if there were too few."""
        return (self.end - self.begin) / (self.steps - 1) if self.steps > 1 else None


def started(compute: str) -> Clock:
    """A clock for the training of a supernet that begins now, on the device ``compute``."""
    if compute.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(compute)
    return Clock()


def ended(supernet: Supernet, clock: Clock, compute: str, folder: Path) -> None:
    """Keep in ``folder`` what is to know about the training of ``supernet`` that just ended.

    A training that had already ended when this process began keeps its figures.
    """
    step, layers = clock.step, dict(supernet.details())
    if step is None and (not layers or (folder / FILE).exists()):
        return
    memory, remark = _peak(compute)
    content = Training(layers, step, memory, remark)
    with written(folder / FILE) as stream:
        stream.write(json.dumps(asdict(content), indent=1).encode())


def _peak(compute: str) -> tuple[int | None, str]:
    if compute.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(compute), _ON_CARD
    peak = peak_memory()
    return (peak, _IN_PROCESS) if peak else (None, _UNKNOWN)
