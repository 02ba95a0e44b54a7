"""The plain values that travel between plugins and the disk; importing them does not import torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

Option = str | int | float | bool
Architecture = tuple[Option, ...]
Split = Literal["train", "valid", "full", "test"]
Phase = Literal["search", "final"]


class UsageError(ValueError):
    """What the user gave cannot be used; the message says what was given and what is possible."""


class Unsupported(UsageError):
    """A plugin lacks a power that was asked of it; the message names both."""


class Diverged(ArithmeticError):
    """Training met a loss that is not finite."""


@dataclass(frozen=True)
class Recipe:
    """How to train one network. ``fraction`` is the share of the training batches that an epoch uses.

    ``dropout`` sets the rate of the network's dropout layers; None leaves them as they were built. ``clip``
    bounds the gradient's norm. ``milestones`` and ``decay`` belong to the schedule "step".

    The fields ``transform_...`` are for networks with transforms, parameters that shape an operation (as in
    XD operations): what is None is as for the weights. Their learning rate follows the schedule, too, but is
    0 in the first ``transform_warmup`` and the last ``transform_cooldown`` epochs. Where these are all
    epochs, as may be in the short trainings of a search, the transforms stay as they were built.
    """

    epochs: int = 20
    batch_size: int = 64
    fraction: float = 1.0
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["constant", "step", "cosine", "onecycle"] = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 0.2
    dropout: float | None = None
    clip: float | None = None
    seed: int = 0
    transform_optimizer: Literal["sgd", "adamw", "adam"] | None = None
    transform_lr: float | None = None
    transform_momentum: float | None = None
    transform_decay: float | None = None
    transform_warmup: int = 0
    transform_cooldown: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no training can use."""
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"recipe.{name} is {value}; it must lie between {low:g} and {high:g}")

    @property
    def passes(self) -> float:
        """How often training sees the whole training split: epochs times fraction."""
        return self.epochs * self.fraction

    @property
    def content(self) -> dict[str, Any]:
        """The fields by name, those of transforms only where they are set.

        So what is kept of a recipe, and what is made of it to tell trials apart, is what it was before there
        were transforms.
        """
        usual = vars(type(self))
        return {n: v for n, v in vars(self).items() if not n.startswith("transform_") or v != usual[n]}


_RANGES = (
    ("epochs", 0, math.inf),
    ("batch_size", 1, math.inf),
    ("fraction", 0.0, 1.0),
    ("lr", 0.0, math.inf),
    ("momentum", 0.0, 1.0),
    ("weight_decay", 0.0, math.inf),
    ("decay", 0.0, 1.0),
    ("dropout", 0.0, 1.0),
    ("clip", 0.0, math.inf),
    ("transform_lr", 0.0, math.inf),
    ("transform_momentum", 0.0, 1.0),
    ("transform_decay", 0.0, math.inf),
    ("transform_warmup", 0, math.inf),
    ("transform_cooldown", 0, math.inf),
)


class Measured(float):
    """A measured value in SI units, a float that knows how it was obtained.

    ``low`` to ``high`` is the 95 % confidence interval of the median over ``repetitions``. ``drift`` is the
    time of a reference network beside it in units of its known time: how much slower the device was than it
    can be, which the value is corrected for. ``clock`` names what counted, ``outliers`` how many repetitions
    took half as long again as the median, ``remark`` what else there is to know.
    """

    low: float
    high: float
    repetitions: int
    outliers: int
    drift: float | None
    clock: str
    remark: str

    def __new__(cls, value: float, **details: Any) -> Measured:
        """``value`` with any of the attributes; what is not given is unknown: an interval without width."""
        made = super().__new__(cls, value)
        unknown = {"repetitions": 1, "outliers": 0, "drift": None, "clock": "", "remark": ""}
        vars(made).update({"low": float(value), "high": float(value), **unknown, **details})
        return made

    @property
    def details(self) -> dict[str, Any]:
        """Everything but the value, as JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Record:
    """What became of a trial; one line of ``records.jsonl``.

    ``choices`` is the architecture, decision by decision; ``values`` are the objectives' values as a person
    expects them (accuracy up, seconds, bytes); ``measured`` has the details of those that were measured, as
    ``Measured`` names them; ``error`` says why a failed trial has no values. ``text`` is the architecture in
    its space's own notation, if that has one.
    """

    key: str
    phase: Phase
    space: str
    choices: Mapping[str, Option]
    recipe: Recipe
    inherited: bool
    values: Mapping[str, float]
    seconds: float
    error: str | None = None
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    text: str | None = None

    @property
    def architecture(self) -> Architecture:
        """The chosen options, in the order of the decisions."""
        return tuple(self.choices.values())

    def value(self, name: str) -> float:
        """An objective's value, a ``Measured`` if it was measured."""
        details = self.measured.get(name)
        return self.values[name] if details is None else Measured(self.values[name], **details)

    def to_json(self) -> str:
        """One line of strict JSON; a value that is not finite is refused."""
        content = {
            "key": self.key,
            "phase": self.phase,
            "space": self.space,
            "choices": dict(self.choices),
            "recipe": self.recipe.content,
            "inherited": self.inherited,
            "values": dict(self.values),
            "seconds": self.seconds,
            "error": self.error,
            **({"measured": {k: dict(v) for k, v in self.measured.items()}} if self.measured else {}),
            **({"text": self.text} if self.text is not None else {}),
        }
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Record:
        """Read what ``to_json`` wrote; ValueError, KeyError or TypeError if it is anything else."""
        text = line if isinstance(line, str) else line.decode()
        # Thousands of trials share a few recipes, and a recipe is most of a line.
        start = text.find(_RECIPE) + len(_RECIPE) - 1
        end = text.find("}", start) + 1
        shared = text[start:end] if start >= len(_RECIPE) and end else None
        if shared is not None:
            text = f"{text[:start]}null{text[end:]}"
        content: dict[str, Any] = _STRICT.decode(text)
        if not isinstance(content, dict):
            raise TypeError("a record must be an object")
        recipe = content.pop("recipe")
        if not isinstance(content["choices"], dict) or not isinstance(content["values"], dict):
            raise TypeError("choices and values must be objects")
        return cls(recipe=_recipe(shared or json.dumps(recipe)), **content)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a finite number")


# No string holds this: inside one, every quote follows a backslash.
_RECIPE = '"recipe": {'
_STRICT = json.JSONDecoder(parse_constant=_refuse)


@lru_cache(maxsize=1024)
def _recipe(text: str) -> Recipe:
    content = _STRICT.decode(text)
    content["milestones"] = tuple(content["milestones"])
    return Recipe(**content)


@dataclass(frozen=True)
class Measure:
    """How to read one objective's values: its name in records, unit, direction, device.

    ``trained`` says whether the value depends on trained weights, or on the architecture alone.
    """

    name: str
    unit: str = ""
    maximise: bool = False
    device: str | None = None
    trained: bool = False


@dataclass(frozen=True)
class CostTable:
    """What a network costs as a sum over its decisions, fitted to whole networks that were measured.

    ``costs[i][j]`` belongs to option j of decision i, and ``base`` to all networks, in the unit of the
    measure. ``tau`` (Kendall's rank correlation) and ``error`` (mean absolute percentage error, as a share)
    are from ``tested`` random networks that the fit did not see; ``entries`` parts were measured in
    ``seconds``.
    """

    costs: tuple[tuple[float, ...], ...]
    base: float
    tau: float
    error: float
    tested: int
    entries: int
    seconds: float

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> CostTable:
        """A table from its fields as JSON values; TypeError, KeyError or ValueError for anything else."""
        costs = tuple(tuple(float(c) for c in row) for row in content["costs"])
        return cls(**{**content, "costs": costs})

    def predict(self, choice: Sequence[int]) -> float:
        """The cost of the network that takes option ``choice[i]`` in decision i."""
        return self.base + sum(row[j] for row, j in zip(self.costs, choice, strict=True))


@dataclass(frozen=True)
class Workload:
    """What a strategy is about to do: trials, and how often they and its own supernet pass over the data.

    ``passes`` take as long as those of networks, ``supernet_passes`` as those of the whole supernet; of the
    first, ``path_passes`` train single paths of a supernet.
    """

    trials: int
    passes: float
    supernet_passes: float = 0.0
    path_passes: float = 0.0


def digest(*parts: object) -> str:
    """Sixteen hexadecimal digits that identify ``parts``: JSON values, bytes, or their mixture."""
    total = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        total.update(len(raw).to_bytes(8, "little"))
        total.update(raw)
    return total.hexdigest()[:16]
