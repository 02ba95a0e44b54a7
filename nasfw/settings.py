"""What a run does, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from nasfw.parameters import Spec, plain

# Settings that name plugins, and the kind of each.
KIND_OF = {
    "task": "task",
    "spaces": "space",
    "strategy": "strategy",
    "objectives": "objective",
    "hardware": "device",
    "executor": "executor",
}
MANY = ("spaces", "objectives", "hardware")
GROUPS = ("budget", "final", "recipe")
DEFAULTS = {
    "task": "digits",
    "spaces": "aggconv",
    "strategy": "dash",
    "hardware": "host",
    "executor": "serial",
}


def _compute(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise ValueError("should be auto, cpu, cuda or cuda:1 and so on")
    return text


Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Budget:
    """When a search ends at the latest; None is no limit."""

    trials: Positive | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True)
class Final:
    """How the front is trained again: epochs (None: the recipe's), number of seeds, networks at most.

    If the front has fewer than ``least`` networks, the next best fill up. The best network and the yardsticks
    are trained with every seed, the others with the first.
    """

    epochs: Positive | None = None
    seeds: Positive = 1
    limit: Positive = 8
    least: Positive = 1


@dataclass(frozen=True)
class Settings:
    """What a run does. A plugin is a Spec, or the object itself where Python gave one.

    ``final`` is None if nothing is trained again; ``objectives`` is None for the default ones; ``recipe`` has
    the fields of Recipe that differ from the task's own. ``effort`` sets the epochs by the work that they
    are, 1 for a run of minutes on a laptop; None leaves them to the recipe. ``export`` says whether the final
    networks are written so that they work without nasfw.
    """

    task: Any = field(default_factory=lambda: Spec(DEFAULTS["task"]))
    spaces: tuple[Any, ...] = field(default_factory=lambda: (Spec(DEFAULTS["spaces"]),))
    strategy: Any = field(default_factory=lambda: Spec(DEFAULTS["strategy"]))
    objectives: tuple[Any, ...] | None = None
    hardware: tuple[Any, ...] = field(default_factory=lambda: (Spec(DEFAULTS["hardware"]),))
    compute: Annotated[str, AfterValidator(_compute)] = "auto"
    executor: Any = field(default_factory=lambda: Spec(DEFAULTS["executor"]))
    budget: Budget = Budget()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    final: Final | None = Final()
    yardsticks: tuple[Literal["plain", "random"], ...] = ("plain", "random")
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    folder: str | None = None
    experiment: str | None = None
    effort: Annotated[float, Field(gt=0)] | None = None
    export: bool = True

    def plain(self) -> dict[str, Any]:
        """The settings as JSON values; ``resolve`` makes the same settings of them.

        An object becomes ``{class name: {field: value}}`` with arrays as digests: that tells runs apart, but
        cannot be resolved.
        """
        content = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        content["budget"], content["final"] = vars(self.budget), vars(self.final) if self.final else False
        return content


NAMES = tuple(f.name for f in fields(Settings))
