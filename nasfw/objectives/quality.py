"""How well a trained candidate predicts."""

from __future__ import annotations

from dataclasses import dataclass

from nasfw.contracts import Candidate, Objective, Unsupported


@dataclass(frozen=True)
class Error(Objective):
    """The task's published metric on the whole split, in the task's own unit; lower is better."""

    metric = "error"
    trained = True

    def measure(self, candidate: Candidate) -> float:
        return float(candidate.task.error(*candidate.predictions))


@dataclass(frozen=True)
class Accuracy(Objective):
    """Share of the samples that are classified correctly, 0 to 1; for tasks whose metric is ``error``."""

    metric = "accuracy"
    maximise = True
    trained = True

    def measure(self, candidate: Candidate) -> float:
        task = candidate.task
        if task.metric != "error":
            raise Unsupported(
                f"accuracy is 1 - error, but the metric of task {type(task).__name__} is {task.metric}; "
                "use objectives=[error,...]"
            )
        return 1.0 - float(task.error(*candidate.predictions))
