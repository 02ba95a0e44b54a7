"""What running a candidate costs on a device: time, energy and memory, measured there."""

from __future__ import annotations

from dataclasses import dataclass

from nasfw.contracts import Candidate, CostTable, Device, Objective, SearchSpace, Task


@dataclass(frozen=True)
class Latency(Objective):
    """Seconds that one inference of a batch takes on a device."""

    device: Device

    metric = "latency"
    unit = "s"

    def measure(self, candidate: Candidate) -> float:
        return self.device.measure(self.metric, candidate)

    def table(self, space: SearchSpace, task: Task, seed: int) -> CostTable | None:
        return self.device.table(self.metric, space, task, seed)


@dataclass(frozen=True)
class Energy(Objective):
    """Joules that one inference of a batch takes on a device, above what it takes when idle."""

    device: Device

    metric = "energy"
    unit = "J"

    def measure(self, candidate: Candidate) -> float:
        return self.device.measure(self.metric, candidate)

    def table(self, space: SearchSpace, task: Task, seed: int) -> CostTable | None:
        return self.device.table(self.metric, space, task, seed)


@dataclass(frozen=True)
class Memory(Objective):
    """Peak bytes that loading a candidate and one inference of a batch take on a device."""

    device: Device

    metric = "memory"
    unit = "B"

    def measure(self, candidate: Candidate) -> float:
        return self.device.measure(self.metric, candidate)

    def table(self, space: SearchSpace, task: Task, seed: int) -> CostTable | None:
        return self.device.table(self.metric, space, task, seed)
