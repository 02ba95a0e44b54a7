"""Costs are what a device says, under the name of the device."""

from dataclasses import dataclass

import pytest

from nasfw.contracts import Candidate, CostTable, Device
from nasfw.hardware import machine
from nasfw.hardware.host import Host
from nasfw.objectives.cost import Energy, Latency, Memory
from nasfw.plugins import load
from nasfw.testing import ObjectiveContract, ToySpace, ToyTask
from nasfw.values import Measured, Unsupported, UsageError

COSTS = {"latency": (Latency, "s"), "energy": (Energy, "J"), "memory": (Memory, "B")}
TABLE = CostTable(((0.0, 1.0), (2.0, 3.0)), 5.0, 1.0, 0.0, 6, 4, 0.1)


@dataclass(frozen=True)
class Board(Device):
    """Says its metric's number times the first choice; its table knows of energy."""

    metrics = ("latency", "energy", "memory")

    @property
    def name(self):
        return "Board 3"

    def measure(self, metric, candidate):
        self.check(metric)
        return Measured((1 + self.metrics.index(metric)) * candidate.architecture[0], clock="none")

    def table(self, metric, space, task, seed):
        return TABLE if (metric, seed) == ("energy", 7) else None


class Silent(Board):
    metrics = ("latency",)


def toy(*architecture):
    task = ToyTask()
    return Candidate(ToySpace(task), task, architecture)


class TestLatency(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        pytest.importorskip("onnxruntime")
        return Latency(Host())


class TestMemory(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        pytest.importorskip("onnxruntime")
        return Memory(Host())


class TestEnergy(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        return Energy(Board())


@pytest.mark.parametrize("metric", COSTS)
def test_the_device_says_it_and_names_it(metric):
    cost, unit = COSTS[metric]
    objective = cost(Board())
    value = objective.measure(toy(2.0, 1.0))
    assert value == 2.0 * (1 + list(COSTS).index(metric))
    assert value.clock == "none"
    assert objective.name == f"{metric}@Board 3"
    assert (objective.reading.unit, objective.reading.device) == (unit, "Board 3")
    assert not objective.maximise
    assert not objective.trained


def test_on_this_machine_they_are_named_for_its_processor():
    assert Latency(Host()).name == f"latency@{machine.processor()}"
    assert Latency(Host(batch=8)).name == f"latency@{Host(batch=8).name}"


def test_what_the_device_lacks_is_refused():
    with pytest.raises(Unsupported, match="device Board 3 measures latency, not 'energy'"):
        Energy(Silent()).measure(toy(1.0, 2.0))


def test_tables_are_the_devices_and_memory_is_no_sum():
    candidate = toy(1.0, 2.0)
    given = candidate.space, candidate.task
    assert Energy(Board()).table(*given, 7) is TABLE
    assert Latency(Board()).table(*given, 7) is None
    assert Memory(Board()).table(*given, 7) is None
    assert TABLE.predict((1, 0)) == 5.0 + 1.0 + 2.0


@pytest.mark.parametrize("metric", COSTS)
def test_they_are_made_for_a_device(metric):
    registry = load(entry_points=False)
    assert registry.make("objective", metric, device=Board()).name == f"{metric}@Board 3"
    with pytest.raises(UsageError, match="needs a device"):
        registry.make("objective", metric)
