"""What counts joules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Self


class Meter(ABC):
    """What counts joules; it is read inside ``with meter:``.

    ``resolution`` is its smallest step in joules; ``settle`` the seconds after which its readings no longer
    show what ran before.
    """

    name: str
    source: Literal["counter", "power"]
    resolution: float
    settle: float = 0.0

    @abstractmethod
    def joules(self) -> float:
        """Joules used since some fixed moment; Unsupported if they cannot be read, or no longer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return
