"""Contract tests for plugin authors: subclass one class, override one fixture.

from nasfw.testing import StrategyContract

class TestMine(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return Mine(trials=4)
"""

from nasfw.testing.contracts import (
    DeviceContract,
    ExecutorContract,
    ObjectiveContract,
    SpaceContract,
    StrategyContract,
    TaskContract,
)
from nasfw.testing.toys import Echo, ToySpace, ToyTask, Wrong

__all__ = [
    "DeviceContract",
    "Echo",
    "ExecutorContract",
    "ObjectiveContract",
    "SpaceContract",
    "StrategyContract",
    "TaskContract",
    "ToySpace",
    "ToyTask",
    "Wrong",
]
