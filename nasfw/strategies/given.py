"""No search: architectures that were published, or found before, are trained on the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from nasfw import notation
from nasfw.contracts import Evaluate, Problem, SearchSpace, Strategy, Trial, Workload
from nasfw.junctions import is_member
from nasfw.values import Architecture, Option, UsageError


@dataclass(frozen=True)
class Given(Strategy):
    """Trains the architectures that you name, each once, with the task's recipe.

    As text they are what `nasfw show` prints: "name=option, name=option" in every space, a genotype in spaces
    of cells, "|none~0|+|..." in NAS-Bench-201. The best of them are then trained as after a search:
    `final.limit` is how many at most, and `final.least` how many even where others beat them.

    Tables show the front of what was named; `card.md` of each exported network has its own results.
    """

    # How many are named says nothing of how many random search should have.
    yardstick: ClassVar[bool] = True

    architectures: Annotated[
        str | dict[str, Option] | tuple[str | dict[str, Option], ...],
        Field(description="one or a list, as text or {decision: option}; none is the plain backbone"),
    ] = ()

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        trials = [Trial(a, problem.recipe) for a in self.named(problem.space)]
        for _ in evaluate.as_completed(trials):
            pass

    def check(self, problem: Problem) -> None:
        self.named(problem.space)

    def workload(self, problem: Problem) -> Workload:
        trials = len(self.named(problem.space))
        return Workload(trials, trials * problem.recipe.passes)

    def named(self, space: SearchSpace) -> list[Architecture]:
        """The different architectures of ``space`` that are meant; UsageError if one is none of its."""
        given = self.architectures
        every = (given,) if isinstance(given, str | Mapping) else given
        found: dict[Architecture, None] = {}
        for number, one in enumerate(every, 1):
            try:
                found[_read(space, one)] = None
            except UsageError as reason:
                which = f"architecture {number} of {len(every)}: " if len(every) > 1 else ""
                raise UsageError(f"given: {which}{reason}") from None
        return list(found) or [space.default]


def _read(space: SearchSpace, given: str | Mapping[str, Option]) -> Architecture:
    found = space.parse(given) if isinstance(given, str) else notation.architecture(space.decisions, given)
    names = list(space.decisions)
    for junction in space.junctions:
        if not is_member([junction], found):
            edges = ", ".join(names[i] for i in junction.decisions)
            kept = sum(found[i] != junction.absent for i in junction.decisions)
            raise UsageError(f"of the edges {edges} it has {kept}; in this space it has {junction.keep}")
    return found
