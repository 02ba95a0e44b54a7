"""A device of another machine, which measures there what is converted here."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from nasfw.contracts import Candidate, CostTable, Device, SearchSpace, Task
from nasfw.hardware import predictors
from nasfw.hardware.connection import connection
from nasfw.hardware.session import to_onnx
from nasfw.values import Measured, Unsupported, UsageError

_SSH = ("ssh", "-o", "BatchMode=yes", "{address}", "nasfw", "device", "serve")
# So many networks are taken in turns there; more in one request would only wait longer for their answer.
_AT_ONCE = 16


@dataclass(frozen=True)
class Remote(Device):
    """A device of another machine, reached through ssh, which must not ask for a password.

    Networks are converted here and measured there by ``nasfw device serve``: nasfw must be installed there,
    too, in a version that speaks the same protocol. Each process keeps one connection to a machine.
    """

    address: Annotated[str, Field(description="the machine, as ssh takes it: user@board")]
    hardware: Annotated[
        str | dict[str, Any], Field(description="the device there, as one writes it in hardware=...")
    ] = field(default="host", hash=False)
    command: Annotated[
        tuple[str, ...], Field(description="what starts the server there; {address} is replaced")
    ] = _SSH
    timeout: Annotated[float, Field(gt=0, le=1e6, description="seconds to wait for one answer")] = 300.0

    metrics = ("latency", "energy", "memory")

    def __post_init__(self) -> None:
        # What begins with a hyphen would be an option of ssh.
        if not re.fullmatch(r"[^\s-]\S*", self.address):
            raise UsageError(f"address must be a machine as in user@board, not {self.address!r}")
        if not self.command:
            raise UsageError("command is empty; it starts nasfw device serve on the other machine")

    @property
    def name(self) -> str:
        return f"{self._described['name']} on {self.address}"

    @property
    def batch(self) -> int:
        """Inputs of one inference there."""
        return int(self._described["batch"])

    @property
    def dynamic(self) -> bool:
        """Whether networks there take batches of any size."""
        return bool(self._described["dynamic"])

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {**self._described["fingerprint"], "address": self.address}

    @property
    def _described(self) -> Mapping[str, Any]:
        """What the device there says of itself; asked for once in a process."""
        key = (self._line, json.dumps(self.hardware, sort_keys=True))
        if key not in _descriptions:
            answer = self._ask("describe")
            wanted = {"name": str, "fingerprint": dict, "batch": int, "dynamic": bool}
            if not all(isinstance(answer.get(k), kind) for k, kind in wanted.items()):
                raise Unsupported(f"{self.address} describes its device in a way that is not understood here")
            _descriptions[key] = answer
        return _descriptions[key]

    @property
    def _line(self) -> tuple[str, ...]:
        return tuple(part.replace("{address}", self.address) for part in self.command)

    def _ask(self, op: str, **content: Any) -> Mapping[str, Any]:
        """The answer to a request; what the other side refuses or fails at is raised here."""
        request = {"op": op, "device": self.hardware, **content}
        answer = connection(self.address, self._line).ask(request, self.timeout)
        if "unsupported" in answer:
            raise Unsupported(f"{self.address}: {answer['unsupported']}")
        if "usage" in answer:
            raise UsageError(f"{self.address}: {answer['usage']}")
        if "failed" in answer:
            raise Unsupported(f"{self.address} failed at {op}: {answer['failed']}")
        return answer

    def check(self, metric: str) -> None:
        self._ask("check", metric=metric)

    def measure(self, metric: str, candidate: Candidate) -> float:
        return self.measure_all(metric, [candidate])[0]

    def measure_all(
        self, metric: str, candidates: Sequence[Candidate], rounds: int | None = None
    ) -> list[float]:
        batch = None if self.dynamic else self.batch
        models = [to_onnx(c.model, c.task.input_shape, batch).SerializeToString() for c in candidates]
        return self.measure_onnx(metric, models, rounds)

    def measure_onnx(self, metric: str, models: Sequence[bytes], rounds: int | None = None) -> list[float]:
        found: list[float] = []
        for start in range(0, len(models), _AT_ONCE):
            texts = [base64.b64encode(m).decode() for m in models[start : start + _AT_ONCE]]
            answer = self._ask("measure", metric=metric, models=texts, rounds=rounds)
            found += _values(answer, len(texts), self.address)
        return found

    def table(self, metric: str, space: SearchSpace, task: Task, seed: int) -> CostTable | None:
        return predictors.additive(self, metric, space, task, seed)


_descriptions: dict[tuple[tuple[str, ...], str], Mapping[str, Any]] = {}


def _values(answer: Mapping[str, Any], wanted: int, address: str) -> list[Measured]:
    try:
        values = [Measured(**v) for v in answer["values"]]
        if len(values) != wanted or not all(0 < v < math.inf for v in values):
            raise ValueError(f"{len(values)} values for {wanted} networks: {values}")
    except (KeyError, TypeError, ValueError) as reason:
        raise Unsupported(f"{address} answers what are no measurements: {reason}") from None
    return values
