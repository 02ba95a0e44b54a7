"""What a learned operation has become: the named operation that is nearest to it, and how near that is.

A space whose ``universal`` architecture can become all others builds it of layers that have a method
``folded``: given options of their decision, it returns a ``Fold`` for each that it knows the nearest of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from nasfw.caches import written
from nasfw.values import Option

if TYPE_CHECKING:
    from torch import Tensor

FILE = "folding.json"

# A distance's square is the share of what a layer makes of random maps that another operation leaves out. Up
# to this share a layer is said to have become that, and as near as the nearest are those that leave out no
# more than so much more.
_FARTHEST, _ALIKE = 0.25, 0.03
# By which share the loss may grow with an operation that is said to do as well.
_HARMLESS = 0.01


@dataclass(frozen=True)
class Fold:
    """The operation of an option that is nearest to a layer's.

    ``distance`` is |layer - operation| / |layer| in the Frobenius norm, from 0, for the same, to 1;
    ``weights`` is the state of the operation.
    """

    distance: float
    weights: Mapping[str, Tensor]


@runtime_checkable
class Foldable(Protocol):
    """A layer that says which other operations it is near to."""

    def folded(self, options: Sequence[Option]) -> Mapping[Option, Fold]: ...


@dataclass(frozen=True)
class Replacement:
    """An option in the place of one learned operation, all others staying.

    ``distance`` is its ``Fold``'s; ``loss`` what the loss on the validation split becomes with its weights,
    of which there are ``weights``.
    """

    option: Option
    distance: float
    loss: float
    weights: int


def name_of(replacements: Sequence[Replacement]) -> Replacement | None:
    """What a learned operation has become: the option of fewest weights among those that are about as near.

    A convolution of 3 taps is one of 5 taps too, and both are Fourier layers. None if no option is near.
    """
    near = min((r.distance**2 for r in replacements), default=1.0)
    if near > _FARTHEST:
        return None
    alike = [r for r in replacements if r.distance**2 <= near + _ALIKE]
    return min(alike, key=lambda r: (r.weights, r.distance))


def harmless(replacements: Sequence[Replacement], loss: float) -> Replacement | None:
    """The option of fewest weights with which the loss is at most one percent more than ``loss``, if any."""
    good = [r for r in replacements if r.loss <= loss + _HARMLESS * abs(loss)]
    return min(good, key=lambda r: (r.weights, r.loss), default=None)


@dataclass(frozen=True)
class Report:
    """What the learned operations have become: the loss with all of them, and the replacements of each.

    ``replacements`` has a list, the nearest first, for every decision.
    """

    loss: float
    replacements: Mapping[str, Sequence[Replacement]]

    def write(self, folder: Path) -> None:
        """Keep it in the folder of a space."""
        with written(folder / FILE) as stream:
            stream.write(json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> Report | None:
        """What ``write`` kept; None if there is nothing that can be read."""
        try:
            content: dict[str, Any] = json.loads((folder / FILE).read_text())
            rows = {n: [Replacement(**r) for r in rows] for n, rows in content["replacements"].items()}
            return cls(float(content["loss"]), rows)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
