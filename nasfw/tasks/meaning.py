"""What those who use a trained network without its task have to know of its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nasfw.tasks.reading import Array, Layout
from nasfw.tasks.targets import Code


@dataclass(frozen=True)
class Meaning:
    """How a task prepares samples, and what the outputs of its networks stand for.

    ``axes`` are those of samples as people have them, as in "[n, height, width]"; "" if only the task knows.
    Every input channel is (x - mean) / deviation of the data. ``kind`` is one of ``nasfw.tasks.metrics``.
    ``classes`` are the labels in the order of the outputs, () for kinds without. Outputs of regression, times
    ``output_deviation`` plus ``output_mean``, for all channels alike or one number each, are in the data's
    own units. Where ``permuted``, the positions along every axis of inputs, and of outputs of dense kinds,
    are in the order of ``bit_reversal``.
    """

    axes: str = ""
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    kind: str = ""
    classes: tuple[Any, ...] = ()
    output_mean: tuple[float, ...] = ()
    output_deviation: tuple[float, ...] = ()
    permuted: bool = False

    @property
    def standardised(self) -> bool:
        """Whether inputs are shifted or scaled."""
        return any(self.mean) or any(d != 1 for d in self.deviation)

    @property
    def scaled(self) -> bool:
        """Whether outputs are to be shifted or scaled."""
        return any(self.output_mean) or any(d != 1 for d in self.output_deviation)


def meaning(
    layout: Layout, mean: Array, std: Array, code: Code, classes: tuple[Any, ...], permuted: bool
) -> Meaning:
    """The meaning of inputs that are read, standardised and permuted so, and of targets of this code."""
    return Meaning(
        axes=layout.words,
        mean=_numbers(mean),
        deviation=_numbers(std),
        kind=code.kind,
        classes=classes,
        output_mean=_numbers(code.mean),
        output_deviation=_numbers(code.std),
        permuted=permuted,
    )


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values.reshape(-1))
