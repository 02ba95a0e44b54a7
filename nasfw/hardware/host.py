"""The processor of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from nasfw.caches import warn_once
from nasfw.contracts import Candidate, CostTable, Device, SearchSpace, Task
from nasfw.hardware import energy, machine, measuring, predictors, session


@dataclass(frozen=True)
class Host(Device):
    """The processor of this machine, measured through ONNX Runtime.

    Latency is the processor time of the thread that computes or, with several threads, the wall clock's; both
    are taken in turns with reference networks whose drift they are corrected for. Energy is read from
    RAPL's counters, where Linux offers them to this user.
    """

    threads: Annotated[int, Field(ge=1, description="of one inference")] = 1
    batch: Annotated[int, Field(ge=1, description="inputs of one inference")] = 1
    precision: Annotated[
        Literal["fp32", "int8"], Field(description="int8: static quantisation, calibrated on training inputs")
    ] = "fp32"
    dynamic: Annotated[bool, Field(description="the network takes batches of any size")] = False
    reuse: Annotated[bool, Field(description="take what was measured here before from the cache")] = True

    metrics = ("latency", "energy", "memory")

    @property
    def name(self) -> str:
        told = {"threads": self.threads, "batch": self.batch}
        parts = [f"{name} {value}" for name, value in told.items() if value != 1]
        parts += [self.precision] * (self.precision != "fp32") + ["dynamic"] * self.dynamic
        return ", ".join([machine.processor(), *parts])

    @property
    def runtime(self) -> session.Runtime:
        """How ONNX Runtime runs networks here."""
        return session.Runtime(
            threads=self.threads, batch=self.batch, precision=self.precision, dynamic=self.dynamic
        )

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return measuring.fingerprint(self.runtime)

    def check(self, metric: str) -> None:
        super().check(metric)
        session.onnxruntime()
        if metric == "energy":
            energy.cpu_meter()
        if self.threads > machine.cores():
            warn_once(f"{self.threads} threads share {machine.cores()} cores: they will wait for each other")

    def measure(self, metric: str, candidate: Candidate) -> float:
        return self.measure_all(metric, [candidate])[0]

    def measure_all(
        self, metric: str, candidates: Sequence[Candidate], rounds: int | None = None
    ) -> list[float]:
        self.check(metric)
        subjects = [measuring.of_candidate(c, self.runtime) for c in candidates]
        return measuring.measure(metric, subjects, self.runtime, rounds, self.reuse)

    def measure_onnx(self, metric: str, models: Sequence[bytes], rounds: int | None = None) -> list[float]:
        self.check(metric)
        subjects = [measuring.of_file(m, self.runtime) for m in models]
        return measuring.measure(metric, subjects, self.runtime, rounds, self.reuse)

    def table(self, metric: str, space: SearchSpace, task: Task, seed: int) -> CostTable | None:
        return predictors.additive(self, metric, space, task, seed)
