"""Networks of a run: records of one architecture and recipe, joined over the seeds of its trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nasfw.values import Architecture, Option, Recipe, Record, digest


@dataclass(frozen=True)
class Network:
    """One architecture with what was measured of it, over the seeds of its trainings.

    ``validation`` holds the search's values, if it was searched; ``values`` the final ones on the test split,
    one per seed, or the search's where no final training was done. ``measured`` has the details of those that
    were measured, which are the same for every seed. ``text`` is the architecture in its space's own
    notation, if that has one.
    """

    space: str
    choices: Mapping[str, Option]
    recipe: Recipe
    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    validation: Mapping[str, float] | None = None
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    text: str | None = None

    @property
    def architecture(self) -> Architecture:
        """The chosen options, in the order of the decisions."""
        return tuple(self.choices.values())

    @property
    def median(self) -> dict[str, float]:
        """Median over seeds, value by value."""
        return {name: float(np.median(v)) for name, v in self.values.items()}

    @property
    def name(self) -> str:
        """Eight digits that identify the architecture and its recipe."""
        return digest(self.space, dict(self.choices), self.recipe.content)[:8]

    def plain_data(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "name": self.name,
            "space": self.space,
            "choices": dict(self.choices),
            **({"text": self.text} if self.text is not None else {}),
            "recipe": self.recipe.content,
            "keys": list(self.keys),
            "seeds": list(self.seeds),
            "median": self.median,
            "values": {name: list(v) for name, v in self.values.items()},
            "validation": self.validation and dict(self.validation),
            "measured": {name: dict(details) for name, details in self.measured.items()},
        }


def joined(final: Sequence[Record], searched: Sequence[Record]) -> dict[tuple[object, ...], Network]:
    """Final records joined over their seeds, by space, architecture and recipe."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in sorted(final, key=lambda r: r.recipe.seed):
        groups.setdefault(_identity(record), []).append(record)
    validation = {(r.space, r.architecture): r.values for r in searched}
    return {
        identity: Network(
            space=group[0].space,
            choices=group[0].choices,
            recipe=replace(group[0].recipe, seed=0),
            keys=tuple(r.key for r in group),
            seeds=tuple(r.recipe.seed for r in group),
            values={name: tuple(r.values[name] for r in group) for name in group[0].values},
            validation=validation.get((group[0].space, group[0].architecture)),
            measured=group[0].measured,
            text=group[0].text,
        )
        for identity, group in groups.items()
    }


def _identity(record: Record) -> tuple[object, ...]:
    return (record.space, record.architecture, replace(record.recipe, seed=0))


def training_of(record: Record, trained: Mapping[tuple[object, ...], Network]) -> Network | None:
    """The network of ``trained`` that the search had as ``record``; None if there is none."""
    return next((n for n in trained.values() if continues(n, record)), None)


def continues(final: Network | Record, former: Record) -> bool:
    """Whether ``final`` is the training of what the search had as ``former``: length and seed may differ.

    So may the whole recipe if that was one for inherited weights.
    """

    def recipe(of: Network | Record) -> Recipe:
        return replace(of.recipe, epochs=0, fraction=1.0, seed=0)

    same = (final.space, final.architecture) == (former.space, former.architecture)
    return same and (former.inherited or recipe(final) == recipe(former))


def searched(record: Record) -> Network:
    """What is known of a network that was only searched: one training, on the validation split."""
    return Network(
        space=record.space,
        choices=record.choices,
        recipe=record.recipe,
        keys=(record.key,),
        seeds=(record.recipe.seed,),
        values={name: (value,) for name, value in record.values.items()},
        validation=record.values,
        measured=record.measured,
        text=record.text,
    )
