"""A package of somebody else, installed beside nasfw, works without touching it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plugins" / "nasfw-example"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed package; by hand where the tools to build one are missing."""
    root = tmp_path_factory.mktemp("third-party")
    # Building leaves files beside the source.
    source = shutil.copytree(PACKAGE, root / "source")
    target = root / "site"
    if importlib.util.find_spec("setuptools") and importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        offline = ["--no-index", "--disable-pip-version-check", "--target", str(target), str(source)]
        subprocess.run([*command, *offline], check=True, timeout=120)
    else:
        shutil.copytree(source / "nasfw_example", target / "nasfw_example")
        info = target / "nasfw_example-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nasfw-example\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text("[nasfw]\nexample = nasfw_example\n")
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


def test_its_plugins_are_listed_with_package_and_version(site, tmp_path):
    rows = [line.split() for line in nasfw(site, tmp_path, "plugins").splitlines()]
    for kind, name in (
        ("space", "layers"),
        ("strategy", "climb"),
        ("objective", "duration"),
        ("device", "abacus"),
    ):
        assert [kind, name, "nasfw-example", "0.1.0"] in rows


def test_a_run_uses_all_of_them(site, tmp_path):
    said = nasfw(
        site,
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
    data = json.loads(nasfw(site, tmp_path, "show", "run", "--json"))
    assert [m["device"] for m in data["objectives"]] == [None, "abacus"]
    assert data["trials"] == 2


def test_its_own_tests_pass(site, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PACKAGE / "tests")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])},
        check=False,
    )
    assert done.returncode == 0, done.stdout
