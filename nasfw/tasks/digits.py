"""Handwritten digits, 1 x 8 x 8, ten classes: the small task that every run can start with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.generated import GeneratedTask


@dataclass(frozen=True)
class Digits(GeneratedTask):
    """Scikit-learn's 1797 handwritten digits (Alpaydin and Kaynak 1998) of 8 x 8 pixels in ten classes."""

    seed: Annotated[int, "seed of the split into 1150 train, 288 valid and 359 test samples"] = 0
    permuted: Annotated[bool, "rows and columns in bit-reversed order, no longer local"] = False

    @cached_property
    def arrays(self) -> ArraysTask:
        from sklearn.datasets import load_digits

        digits = load_digits()
        return ArraysTask(
            digits.images,
            digits.target,
            kind="classification",
            channels="none",
            seed=self.seed,
            permuted=self.permuted,
        )
