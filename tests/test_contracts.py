"""Everything that is registered passes its contract."""

import math
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from nasfw.contracts import Candidate, Device, SearchSpace, Unsupported
from nasfw.objectives.cost import Latency
from nasfw.plugins import load
from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.navier_stokes import NavierStokes
from nasfw.testing import (
    DeviceContract,
    Echo,
    ExecutorContract,
    ObjectiveContract,
    SpaceContract,
    StrategyContract,
    TaskContract,
    ToyCells,
    ToySpace,
    ToyTask,
)

REGISTRY = load(entry_points=False)


def series(samples=60, channels=2, length=16):
    """A small task of two classes of series."""
    rng = np.random.default_rng(0)
    y = np.arange(samples) % 2
    x = rng.normal(size=(samples, channels, length)) + y[:, None, None]
    return ArraysTask(x=x.astype(np.float32), y=y, channels="first")


def maps(samples=60, side=8):
    """A small task of two classes of images."""
    rng = np.random.default_rng(0)
    y = np.arange(samples) % 2
    x = rng.normal(size=(samples, 1, side, side)) + y[:, None, None, None]
    return ArraysTask(x=x.astype(np.float32), y=y, channels="first")


# What makes the contract's tests quick; a plugin that is not named here is made with its defaults.
SMALL = {
    "task": {
        "burgers": {"resolution": 32, "samples": 24, "test_samples": 8},
        "darcy": {"resolution": 8, "samples": 24, "test_samples": 8},
        "navier_stokes": {"resolution": 8, "time": 0.5, "samples": 24, "test_samples": 8},
    },
    "space": {
        "darts": {"layers": 3, "channels": 4},
        **{name: {"layers": 3, "channels": 4} for name in ("s1", "s2", "s3", "s4")},
        "nasbench201": {"cells": 1, "channels": 4},
        "xd": {"backbone": "pde", "depth": 2, "channels": 4},
    },
    "strategy": {
        "asha": {"trials": 4, "eta": 2},
        "darts": {"epochs": 2, "candidates": 3},
        "darts_pt": {"epochs": 2, "tune_epochs": 1, "candidates": 3},
        "gaea": {"epochs": 2, "candidates": 3},
        "gdas": {"epochs": 2, "candidates": 3},
        "given": {"architectures": ("first=1.0, second=2.0", {"first": 2.0, "second": 2.0})},
        "pc_darts": {"epochs": 2, "candidates": 3},
        "proxyless": {"epochs": 2, "candidates": 3},
        "reinmax": {"epochs": 2, "candidates": 3},
        "robust_darts": {"epochs": 2, "candidates": 3},
        "sd_darts": {"epochs": 3, "interval": 1, "candidates": 3},
        "sharp_darts": {"epochs": 2, "candidates": 3},
        "weight_sharing": {"epochs": 2, "samples": 9, "candidates": 3},
        "dash": {"epochs": 2, "candidates": 3},
        "evolution": {"trials": 4, "population": 2, "tournament": 2},
        "random": {"trials": 3},
    },
    "executor": {"processes": {"workers": 1}},
    # Here, through a pipe instead of a secure shell.
    "device": {"remote": {"address": "here", "command": [sys.executable, "-m", "nasfw", "device", "serve"]}},
}
SPECIAL = {("task", "arrays"): series}


def names(kind):
    return [entry.name for entry in REGISTRY.entries(kind)]


def made(kind, name, **context):
    if (kind, name) in SPECIAL:
        return SPECIAL[kind, name]()
    return REGISTRY.make(kind, {name: SMALL.get(kind, {}).get(name, {})}, **context)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """Generated data are kept for the tests of this module, and not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASFW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class TestTasks(TaskContract):
    @pytest.fixture(params=names("task"))
    def task(self, request):
        return made("task", request.param)


class TestTaskOfThreeAxes(TaskContract):
    @pytest.fixture
    def task(self):
        return NavierStokes(resolution=8, time=0.5, steps=3, samples=24, test_samples=8, permuted=True)


class TestToyTask(TaskContract):
    @pytest.fixture
    def task(self):
        return ToyTask()


class TestSpaces(SpaceContract):
    @pytest.fixture(params=[series, maps])
    def task(self, request):
        return request.param()

    @pytest.fixture(params=names("space"))
    def space(self, request, task):
        return made("space", request.param, task=task)


class TestToySpace(SpaceContract):
    @pytest.fixture
    def space(self, task):
        return ToySpace(task)


class TestToyCells(SpaceContract):
    @pytest.fixture
    def space(self, task):
        return ToyCells(task)


class TestStrategies(StrategyContract):
    @pytest.fixture(params=[name for name in names("strategy") if name != "xd"])
    def strategy(self, request):
        return made("strategy", request.param)


class TestXD(StrategyContract):
    """It searches none but spaces of operations that can become others."""

    @pytest.fixture
    def strategy(self):
        return REGISTRY.make("strategy", {"xd": {"epochs": 2, "candidates": 3, "proposals": 4}})

    @pytest.fixture
    def task(self):
        return made("task", "burgers")

    @pytest.fixture
    def space(self, task):
        options = {"options": ["k1d1", "fourier", "xd"]}
        small = {"backbone": "pde", "depth": 2, "channels": 4}
        return REGISTRY.make("space", {"xd": {**small, **options}}, task=task)

    @pytest.fixture
    def objectives(self):
        return [made("objective", "error"), made("objective", "parameters")]


class TestDashWithGrid(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return REGISTRY.make("strategy", {"dash": {"epochs": 2, "lrs": [0.1, 0.01], "momenta": [0.5, 0.9]}})


class TestObjectives(ObjectiveContract):
    @pytest.fixture(params=names("objective"))
    def objective(self, request):
        return made("objective", request.param, device=Notebook())


class TestToyObjective(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        return Echo()


class TestExecutors(ExecutorContract):
    @pytest.fixture(params=names("executor"))
    def executor(self, request):
        return made("executor", request.param)


@dataclass(frozen=True)
class Notebook(Device):
    """Counts on paper: a multiplication for every weight, and a second and a joule for each so many."""

    metrics = ("latency", "energy", "memory")
    per_second: float = 10.0

    @property
    def name(self) -> str:
        return "Notebook 80 g/m2"

    def measure(self, metric: str, candidate: Candidate) -> float:
        weights = sum(p.numel() for p in candidate.model.parameters())
        if metric in ("latency", "energy"):
            return weights / self.per_second
        if metric == "memory":
            return 4.0 * weights
        raise Unsupported(f"device {self.name} measures {', '.join(self.metrics)}, not {metric!r}")


class TestSmallDevice(DeviceContract):
    @pytest.fixture
    def device(self):
        return Notebook()


class TestDevices(DeviceContract):
    @pytest.fixture(params=names("device"))
    def device(self, request, tmp_path):
        if request.param == "table":
            # The architecture that the contract's candidate has.
            file = tmp_path / "bench.csv"
            file.write_text("first,second,latency_ms,energy_mJ,memory_MB\n1,2,3,4,5\n")
            return REGISTRY.make("device", {"table": {"file": str(file)}})
        device = made("device", request.param)
        try:
            device.check("latency")
        except Unsupported as reason:
            pytest.skip(str(reason))
        return device


class TestObjectiveOfADevice(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        return Latency(Notebook())

    def test_is_named_after_both(self, objective):
        assert objective.name == "latency@Notebook 80 g/m2"
        assert objective.reading.device == "Notebook 80 g/m2"


def test_a_mutant_of_a_space_without_choice_is_itself(toy_task):
    space = ToySpace(toy_task, (1.0,))
    assert space.size == 1
    assert space.mutate(space.default, np.random.default_rng(0)) == space.default


def test_mutants_are_uniform_over_decisions_and_options(toy_space):
    """Of nine architectures four differ from (1, 1) in one decision; chi square of 3 degrees of freedom."""
    rng = np.random.default_rng(0)
    drawn = [toy_space.mutate((1.0, 1.0), rng) for _ in range(4000)]
    counts = np.array([drawn.count(a) for a in ((0.0, 1.0), (2.0, 1.0), (1.0, 0.0), (1.0, 2.0))])
    assert counts.sum() == 4000
    assert ((counts - 1000) ** 2 / 1000).sum() < 3 + 4 * math.sqrt(6)


def test_samples_are_uniform(toy_space):
    rng = np.random.default_rng(1)
    drawn = [toy_space.sample(rng) for _ in range(9000)]
    counts = np.array([drawn.count((a, b)) for a in (0.0, 1.0, 2.0) for b in (0.0, 1.0, 2.0)])
    assert ((counts - 1000) ** 2 / 1000).sum() < 8 + 4 * 4


def test_a_space_without_supernet_says_so(toy_task):
    with pytest.raises(Unsupported, match="ToySpace offers no supernet"):
        SearchSpace.supernet(ToySpace(toy_task))


def test_fields_that_are_not_known_are_said_to_be(toy_space):
    with pytest.raises(Unsupported, match="receptive fields"):
        toy_space.supernet().fields()
