"""How a one-shot search went: its diagnostics, with the standalone trainings that confirm them or do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nasfw import diagnostics
from nasfw.diagnostics import Agreement, Diagnostics, Rating
from nasfw.values import Measure, Record


@dataclass(frozen=True)
class Diagnosis:
    """What is known of the one-shot search in a space.

    ``pairs`` has the architectures that the supernet rated and that were trained standalone, in the search or
    in random search, with the value of that. ``drawn`` says how far the two agree for those that were drawn
    uniformly, ``rated`` for all of them.
    """

    found: Diagnostics
    pairs: tuple[tuple[Rating, float], ...] = ()
    drawn: Agreement | None = None
    rated: Agreement | None = None

    @property
    def alarms(self) -> list[str]:
        """Why the outcome may be worth little."""
        return diagnostics.alarms(self.found, self.drawn)

    def plain_data(self) -> dict[str, Any]:
        """Everything as JSON values."""
        content = {
            **asdict(self.found),
            "standalone": [{**asdict(rating), "trained": value} for rating, value in self.pairs],
            "agreement": self.drawn and asdict(self.drawn),
            "agreement_of_all": self.rated and asdict(self.rated),
            "alarms": self.alarms,
        }
        return {name: _finite(part) for name, part in content.items()}


def read(folder: Path, space: str, records: Sequence[Record], measure: Measure) -> Diagnosis | None:
    """How the search of ``space`` in the run of ``folder`` went; None if it was no one-shot search.

    ``records`` are those of all searches, also of random search, and ``measure`` is the first objective.
    """
    found = Diagnostics.read(folder / space)
    if found is None:
        return None
    own = [r for r in records if r.space == space]
    drawn, rated = (diagnostics.agreement(found.ratings, own, measure, only) for only in (True, False))
    return Diagnosis(found, tuple(diagnostics.matched(found.ratings, own, measure)), drawn, rated)


def _finite(content: Any) -> Any:
    """JSON values with null for the numbers that JSON does not have."""
    if isinstance(content, dict):
        return {name: _finite(part) for name, part in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(part) for part in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
