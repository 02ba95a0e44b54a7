"""Any pair of torch datasets as a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader

from nasfw.contracts import Task
from nasfw.tasks.arrays import RESOLVED, KindName, MetricName, check_choices, chunks, default_recipe
from nasfw.tasks.kinds import class_numbers, classes_of, infer_kind, standard_form
from nasfw.tasks.meaning import Meaning, meaning
from nasfw.tasks.metrics import Kind
from nasfw.tasks.reading import Array, Channels, Layout, as_array, check_finite, layout, standardised
from nasfw.tasks.splits import split, strata
from nasfw.tasks.targets import Code, code, scale
from nasfw.values import Recipe, Split, UsageError

# Layout, kind and statistics are taken from so many samples, spread evenly over the training set.
_SAMPLE = 1024


@dataclass(frozen=True, eq=False)
class DatasetTask(Task):
    """Map-style datasets whose items are (x, y); they are read whenever a batch is asked for, so may augment.

    x is one input, [channels, length], [channels, height, width], [channels, depth, height, width] or what
    ``channels`` says; y is one target, read as ``nasfw.tasks.kinds.infer_kind`` says. Kind and statistics
    come from up to 1024 samples of ``train``, the classes from all of its targets. Without ``valid``, a part
    of ``train`` is split off. Targets of regression are in their own units unless ``standardise`` is set.
    ``permuted`` is what it is for an ``ArraysTask``.
    """

    train: Annotated[Any, "the training samples"] = field(default=(), repr=False)
    test: Annotated[Any, "the test samples"] = field(default=(), repr=False)
    valid: Annotated[Any, "the validation samples; split off if missing"] = field(default=None, repr=False)
    kind: Annotated[KindName, "what y means; auto: inferred from its shape and values"] = "auto"
    metric: Annotated[MetricName, "what is measured; auto: the usual metric of the kind"] = RESOLVED
    channels: Annotated[Channels, "where the channel axis of x is"] = "first"
    standardise: Annotated[bool, "bring inputs and targets of regression to mean 0, deviation 1"] = False
    valid_fraction: Annotated[float, "share of the training samples split off for validation"] = 0.2
    seed: Annotated[int, "seed of the split"] = 0
    batch_size: Annotated[int | None, "training batch; by default a tenth of the samples, 8 to 32"] = None
    workers: Annotated[int, "processes that read batches; 0: none but this one"] = 0
    permuted: Annotated[bool, "positions (rows, columns) in bit-reversed order, no longer local"] = False

    def __post_init__(self) -> None:
        """Refuse parameters that no data can make possible."""
        check_choices(self.kind, self.__dict__["metric"], self.valid_fraction, self.batch_size, self.seed)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._facts.layout.shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.code.output_shape

    @property
    def code(self) -> Code:
        """What the targets mean, and how outputs turn back into the data's own units."""
        return self._facts.code

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels, in the order of the network's outputs; () for kinds without."""
        return self._facts.classes

    @property
    def meaning(self) -> Meaning:
        """How inputs are made of the datasets' samples, and what outputs stand for."""
        facts = self._facts
        return meaning(facts.layout, facts.mean, facts.std, facts.code, facts.classes, self.permuted)

    @property
    def recipe(self) -> Recipe:
        """AdamW with one cycle."""
        return default_recipe(self.size("train"), self.batch_size)

    def size(self, split: Split) -> int:
        return len(self._facts.rows[split])

    def batches(
        self, split: Split, batch_size: int = 256, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs float32; targets class numbers or float32; no lone sample ends a shuffle."""
        facts = self._facts
        plan = [rows.tolist() for rows in chunks(facts.rows[split], batch_size, generator)]
        for x, y in _read(self._datasets[split], plan, self.workers, generator):
            check_finite(f"x of {split}", x)
            yield (
                self._inputs(x),
                facts.code.batch(torch.from_numpy(facts.code.encode(self._targets(y, split)))),
            )

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """See ``Code.loss``."""
        return self.code.loss(output, target)

    def error(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric, in the data's own units."""
        return self.code.error(outputs, targets)

    def _inputs(self, x: Array) -> Tensor:
        facts = self._facts
        if x.shape[1:] != facts.item:
            raise UsageError(f"inputs have shape {x.shape[1:]} and {facts.item}; all must have the same")
        return torch.from_numpy(standardised(facts.layout(x), facts.mean, facts.std, self.permuted))

    def _targets(self, y: Array, name: str) -> Array:
        facts = self._facts
        y = standard_form(f"y of {name}", y, facts.code.kind, facts.layout.shape[1:])
        return class_numbers(f"y of {name}", y, facts.classes) if facts.classes else y

    @cached_property
    def _datasets(self) -> dict[str, Any]:
        for name in ("train", "test", *(["valid"] if self.valid is not None else [])):
            dataset = getattr(self, name)
            if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
                raise UsageError(
                    f"{name} is a {type(dataset).__name__}; a dataset with items and a length is needed"
                )
            if not len(dataset):
                raise UsageError(f"the dataset for {name} is empty")
        if self.valid is None:
            return dict.fromkeys(("train", "valid", "full"), self.train) | {"test": self.test}
        both: Any = ConcatDataset([self.train, self.valid])
        return {"train": self.train, "valid": self.valid, "full": both, "test": self.test}

    @cached_property
    def _facts(self) -> Facts:
        train = self._datasets["train"]
        some = np.unique(np.linspace(0, len(train) - 1, _SAMPLE).astype(int)).tolist()
        x, y = next(iter(_read(train, [some], self.workers)))
        check_finite("x of train", x)
        check_finite("y of train", y)
        reading = layout(x, y, self.channels)
        kind: Kind = infer_kind(y, reading.shape[1:])[0] if self.kind == "auto" else self.kind
        y = standard_form("y of train", y, kind, reading.shape[1:])
        labels, classes = self._labels(kind, reading)
        sampled = class_numbers("y of train", y, classes) if classes else y
        every = np.arange(len(y))
        target_code = code(
            kind, self.__dict__["metric"], sampled, every, len(classes), self.standardise, self.permuted
        )
        inputs = reading(x)
        mean, std = np.zeros(inputs.shape[1]), np.ones(inputs.shape[1])
        if self.standardise:
            mean, std = scale([inputs])
        rows = self._rows(strata(labels, "classification") if labels is not None else None)
        return Facts(reading, x.shape[1:], mean, std, target_code, classes, rows)

    def _labels(self, kind: Kind, reading: Layout) -> tuple[Array | None, tuple[Any, ...]]:
        """Class numbers of all training samples, for classification, and the classes."""
        if kind not in ("classification", "dense_classification", "dense_binary"):
            return None, ()
        train = self._datasets["train"]
        plan = [rows.tolist() for rows in chunks(np.arange(len(train)), 256, None)]
        parts = (
            standard_form("y of train", y, kind, reading.shape[1:])
            for _, y in _read(train, plan, self.workers)
        )
        if kind == "classification":
            labels = np.concatenate(list(parts))
            classes = classes_of(labels, kind)
            return class_numbers("y of train", labels, classes), classes
        return None, classes_of(np.unique(np.concatenate([np.unique(part) for part in parts])), kind)

    def _rows(self, strata: Array | None) -> dict[str, Array]:
        every = {name: np.arange(len(dataset)) for name, dataset in self._datasets.items()}
        if self.valid is not None:
            return every
        groups = np.zeros(len(every["train"]), np.int64) if strata is None else strata
        rng = np.random.default_rng(self.seed)
        train, valid = split(every["train"], groups, self.valid_fraction, rng, None, "valid")
        return {"train": train, "valid": valid, "full": np.concatenate([train, valid]), "test": every["test"]}

    def __getstate__(self) -> dict[str, Any]:
        """The parameters alone: another process finds the facts again."""
        return {f.name: self.__dict__[f.name] for f in fields(self)}


@dataclass(frozen=True)
class Facts:
    """What was learned from the training set; ``item`` is the shape of an input as the dataset gives it."""

    layout: Layout
    item: tuple[int, ...]
    mean: Array
    std: Array
    code: Code
    classes: tuple[Any, ...]
    rows: dict[str, Array]


def _read(
    dataset: Any, plan: Sequence[list[int]], workers: int, generator: torch.Generator | None = None
) -> Iterator[tuple[Array, Array]]:
    """Stacked x and y of the rows that each entry of ``plan`` names."""
    # Without a generator the loader would draw from the global one and so change everybody's random numbers.
    generator = generator or torch.Generator().manual_seed(0)
    yield from DataLoader(
        dataset, batch_sampler=plan, num_workers=workers, collate_fn=_stack, generator=generator
    )


def _stack(items: Sequence[Any]) -> tuple[Array, Array]:
    try:
        inputs, targets = zip(*((x, y) for x, y in items), strict=True)
    except (TypeError, ValueError) as problem:
        raise UsageError("the datasets' items must be pairs (x, y)") from problem
    return _stacked("x", inputs), _stacked("y", targets)


def _stacked(name: str, values: Sequence[Any]) -> Array:
    if all(isinstance(v, torch.Tensor) for v in values):
        values = [v.float() if v.dtype == torch.bfloat16 else v for v in values]
    arrays = [np.asarray(v) for v in values]
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise UsageError(f"{name} has several shapes in one dataset: {', '.join(map(str, sorted(shapes)))}")
    return as_array(name, np.stack(arrays), text=name == "y")
