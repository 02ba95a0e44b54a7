"""A package with one strategy, as a third party writes it."""

from dataclasses import dataclass

from nasfw.contracts import Evaluate, Problem, Strategy
from nasfw.plugins import Registry, hookimpl


@dataclass(frozen=True)
class Toy(Strategy):
    """Does nothing, ``times`` times."""

    times: int = 1

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        pass


@hookimpl
def nasfw_register(registry: Registry) -> None:
    registry.add("toy", Toy)
