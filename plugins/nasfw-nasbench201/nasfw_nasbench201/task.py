"""The benchmark's data sets, as far as a search in tables needs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import nasfw
from nasfw_nasbench201.objectives import Dataset, File
from nasfw_nasbench201.tables import load

# Side of the images, classes, and samples for training, validation and test.
_DATA: Mapping[str, tuple[int, int, int, int, int]] = {
    "cifar10": (32, 10, 25_000, 25_000, 10_000),
    "cifar100": (32, 100, 50_000, 5_000, 5_000),
    "ImageNet16-120": (16, 120, 151_700, 3_000, 3_000),
}


@dataclass(frozen=True)
class NasBench201(nasfw.Task):
    """A data set of NAS-Bench-201 without its images: networks are looked up, they cannot be trained.

    The recipe is the benchmark's, with as many epochs as the longest training of which the table has the
    validation accuracy.
    """

    dataset: Dataset = "cifar10"
    file: File = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        side = _DATA[self.dataset][0]
        return (3, side, side)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (_DATA[self.dataset][1],)

    @property
    def recipe(self) -> nasfw.Recipe:
        table = load(self.file)
        known = table.epochs("valid", self.dataset)
        if not known:
            raise nasfw.UsageError(f"{table.name} has no validation accuracies of {self.dataset}")
        return nasfw.Recipe(epochs=known[-1], batch_size=256)

    def size(self, split: str) -> int:
        train, valid, test = _DATA[self.dataset][2:]
        return {"train": train, "valid": valid, "full": train + valid, "test": test}[split]

    def fingerprint(self) -> str:
        """Identifies the data set and the table."""
        return f"{self.dataset} {load(self.file).digest}"

    def batches(self, split: str, batch_size: int = 256, generator: Any = None) -> Iterable[Any]:
        self._refuse()

    def loss(self, output: Any, target: Any) -> Any:
        self._refuse()

    def error(self, outputs: Any, targets: Any) -> float:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise nasfw.Unsupported(
            "task nasbench201 has no images, so nothing can be trained or tried on it; its networks are "
            "looked up: objectives=[nasbench201-accuracy,...]"
        )
