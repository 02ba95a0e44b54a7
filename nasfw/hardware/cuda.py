"""A graphics card of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from nasfw.contracts import Candidate, CostTable, Device, SearchSpace, Task, Unsupported
from nasfw.hardware import measuring, predictors, session

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


@dataclass(frozen=True)
class Cuda(Device):
    """An NVIDIA graphics card, measured through ONNX Runtime with its CUDA or TensorRT provider.

    Latency is taken by CUDA events, inputs and outputs staying on the card, in turns with a reference network
    whose drift it is corrected for. Energy is read from NVML's counter, or summed from its power readings.
    """

    index: Annotated[int, Field(ge=0, description="which card, as torch counts them")] = 0
    provider: Annotated[Literal["cuda", "tensorrt"], Field(description="ONNX Runtime's provider")] = "cuda"
    batch: Annotated[int, Field(ge=1, description="inputs of one inference")] = 1
    precision: Annotated[Literal["fp32", "fp16"], Field(description="of the arithmetic")] = "fp32"
    dynamic: Annotated[bool, Field(description="the network takes batches of any size")] = False
    reuse: Annotated[bool, Field(description="take what was measured here before from the cache")] = True

    metrics = ("latency", "energy", "memory")

    @property
    def name(self) -> str:
        self._present()
        parts = [f"batch {self.batch}"] * (self.batch != 1) + ["TensorRT"] * (self.provider == "tensorrt")
        parts += [self.precision] * (self.precision != "fp32") + ["dynamic"] * self.dynamic
        return ", ".join([torch.cuda.get_device_name(self.index), *parts])

    @property
    def runtime(self) -> session.Runtime:
        """How ONNX Runtime runs networks there."""
        return session.Runtime(
            _PROVIDERS[self.provider],
            self.index,
            batch=self.batch,
            precision=self.precision,
            dynamic=self.dynamic,
        )

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        self._present()
        return measuring.fingerprint(self.runtime)

    def _present(self) -> None:
        cards = torch.cuda.device_count()
        if self.index >= cards:
            there = f"torch sees {cards} of them" if cards else "torch sees none"
            raise Unsupported(f"there is no graphics card {self.index} here; {there}")

    def check(self, metric: str) -> None:
        self._present()
        super().check(metric)
        session.onnxruntime(_PROVIDERS[self.provider])
        if metric == "energy":
            measuring.meter(self.runtime)

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
