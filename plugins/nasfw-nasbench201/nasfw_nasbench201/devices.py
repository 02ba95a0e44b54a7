"""The devices on which somebody has measured every network of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

import nasfw
from nasfw_nasbench201.cells import COUNT, index_of, is_constant
from nasfw_nasbench201.tables import arrays, digest

_CONSTANT = "no path leads through the cell: the network is a constant, which some compilers return at once"


@dataclass(frozen=True)
class Platform(nasfw.Device):
    """Latencies from an npz file: ``latency_ms`` [platforms, 15625], in the official order, and ``devices``.

    A platform is a device with a batch size, where its name ends in one: ``titan_rtx_32``. Networks whose
    output does not depend on their input carry a remark: on some platforms they take no time at all.
    """

    platform: Annotated[str, Field(description="one of the file's devices, such as fpga or titan_rtx_32")]
    file: Annotated[str, Field(description="an npz file with latency_ms and devices")]

    metrics = ("latency",)

    @property
    def name(self) -> str:
        return self.platform

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"device": self.platform, "content": digest(self.file)}

    def check(self, metric: str) -> None:
        super().check(metric)
        self._row()

    def measure(self, metric: str, candidate: nasfw.Candidate) -> float:
        super().check(metric)
        seconds = float(self._row()[index_of(candidate)]) / 1e3
        remark = _CONSTANT if is_constant(candidate.architecture) else ""
        return nasfw.Measured(seconds, clock=f"table {Path(self.file).name}", remark=remark)

    def _row(self) -> Any:
        content = arrays(self.file)
        names = [str(name) for name in content.get("devices", ())]
        values = content.get("latency_ms")
        if values is None or values.shape != (len(names), COUNT):
            raise nasfw.UsageError(
                f"{self.file} has no latency_ms [devices, {COUNT}] with the names devices beside it"
            )
        if self.platform not in names:
            raise nasfw.UsageError(
                f"{self.file} has the devices {', '.join(names)}, and no {self.platform!r}"
            )
        return values[names.index(self.platform)]
