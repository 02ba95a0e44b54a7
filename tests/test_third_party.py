"""Packages of somebody else, installed beside nasfw, work without touching it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PLUGINS = Path(__file__).parents[1] / "plugins"
EXAMPLE, NASBENCH201 = "nasfw-example", "nasfw-nasbench201"
OFFERS = {
    EXAMPLE: [("space", "layers"), ("strategy", "climb"), ("objective", "duration"), ("device", "abacus")],
    NASBENCH201: [
        ("task", "nasbench201"),
        ("objective", "nasbench201-accuracy"),
        ("objective", "nasbench201-flops"),
        ("objective", "nasbench201-parameters"),
        ("device", "nasbench201"),
    ],
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder with an installed package; by hand where the tools to build one are missing."""
    sites = {}

    def site(name):
        if name not in sites:
            sites[name] = install(name, tmp_path_factory.mktemp(name))
        return sites[name]

    return site


def install(name, root):
    # Building leaves files beside the source.
    source = shutil.copytree(PLUGINS / name, root / "source")
    target = root / "site"
    if importlib.util.find_spec("setuptools") and importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        offline = ["--no-index", "--disable-pip-version-check", "--target", str(target), str(source)]
        subprocess.run([*command, *offline], check=True, timeout=120)
    else:
        module = name.replace("-", "_")
        shutil.copytree(source / module, target / module)
        info = target / f"{module}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[nasfw]\n{module} = {module}\n")
    return target


def nasfw(site, folder, *arguments):
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", "from nasfw.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", OFFERS)
def test_its_plugins_are_listed_with_package_and_version(installed, tmp_path, name):
    rows = [line.split() for line in nasfw(installed(name), tmp_path, "plugins").splitlines()]
    for kind, plugin in OFFERS[name]:
        assert [kind, plugin, name, "0.1.0"] in rows


@pytest.mark.slow
def test_a_run_uses_all_of_them(installed, tmp_path):
    said = nasfw(
        installed(EXAMPLE),
        tmp_path,
        "run",
        "spaces=layers",
        "spaces.depth=1",
        "strategy=climb",
        "strategy.steps=2",
        "objectives=[accuracy,duration]",
        "hardware=[abacus]",
        "recipe.epochs=1",
        "final.seeds=1",
        "export=false",
        "folder=run",
    )
    assert "duration@abacus" in said
    assert "The search " in said
    data = json.loads(nasfw(installed(EXAMPLE), tmp_path, "show", "run", "--json"))
    assert [m["device"] for m in data["objectives"]] == [None, "abacus"]
    assert data["trials"] == 2


@pytest.mark.slow
def test_a_run_looks_networks_up_without_training(installed, tmp_path):
    rng = np.random.default_rng(0)
    accuracies = {f"{split}_acc_12": rng.uniform(10, 90, (15625, 1)) for split in ("valid", "test")}
    np.savez(tmp_path / "table.npz", datasets=["cifar10"], **accuracies)
    np.savez(tmp_path / "times.npz", devices=["fpga"], latency_ms=rng.uniform(1, 9, (1, 15625)))
    command = (
        "run",
        "task=nasbench201",
        "task.file=table.npz",
        "spaces=nasbench201",
        "strategy=evolution",
        "strategy.trials=100",
        "objectives=[nasbench201-accuracy,latency]",
        "hardware=[{nasbench201: {platform: fpga, file: times.npz}}]",
        "final.seeds=1",
        "folder=run",
    )
    planned = nasfw(installed(NASBENCH201), tmp_path, *command, "--dry-run")
    assert "Nothing is trained" in planned
    assert not (tmp_path / "run").exists()
    said = nasfw(installed(NASBENCH201), tmp_path, *command)
    assert "latency@fpga" in said
    data = json.loads(nasfw(installed(NASBENCH201), tmp_path, "show", "run", "--json"))
    assert (data["trials"], data["random_trials"], data["phase"]) == (100, 100, "final")
    tested = {round(v, 4) for v in accuracies["test_acc_12"][:, 0]}
    assert {round(100 * n["median"]["accuracy"], 4) for n in data["front"]} <= tested


@pytest.mark.slow
@pytest.mark.parametrize("name", [EXAMPLE, NASBENCH201])
def test_its_own_tests_pass(installed, tmp_path, name):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PLUGINS / name / "tests")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed(name)), *filter(None, sys.path)])},
        check=False,
    )
    assert done.returncode == 0, done.stdout
