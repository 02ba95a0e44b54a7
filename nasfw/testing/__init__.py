"""Contract tests for plugin authors: subclass one class, override one fixture.

from nasfw.testing import StrategyContract

class TestMine(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return Mine(trials=4)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasfw.testing.contracts import (
        DeviceContract,
        ExecutorContract,
        ObjectiveContract,
        SpaceContract,
        StrategyContract,
        TaskContract,
    )
    from nasfw.testing.toys import Echo, Free, Price, ToyCells, ToySpace, ToyTask, Wrong

__all__ = [
    "DeviceContract",
    "Echo",
    "ExecutorContract",
    "Free",
    "ObjectiveContract",
    "Price",
    "SpaceContract",
    "StrategyContract",
    "TaskContract",
    "ToyCells",
    "ToySpace",
    "ToyTask",
    "Wrong",
]


def __getattr__(name: str) -> Any:
    """Import when first used: pytest loads this package at every start, and rewrites its asserts later."""
    if name not in __all__:
        raise AttributeError(f"module 'nasfw.testing' has no attribute {name!r}")
    module = "contracts" if name.endswith("Contract") else "toys"
    return getattr(importlib.import_module(f"nasfw.testing.{module}"), name)
