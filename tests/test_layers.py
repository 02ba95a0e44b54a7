"""Who may import whom, and what stays short and light."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nasfw

ROOT = Path(nasfw.__file__).parent
PLUGIN_FOLDERS = ("spaces", "strategies", "objectives", "hardware", "tasks")
FOUNDATION = (
    "values",
    "hints",
    "junctions",
    "orders",
    "notation",
    "progress",
    "caches",
    "costs",
    # A plugin folder's, but only the machine's name and size: no plugin.
    "hardware/machine",
    "contracts",
    "supernets",
    "flops",
    "pareto",
    "mixtures",
    "bilevel",
    "auxiliary",
    "optimisers",
    "training",
    "records",
    "tradeoff",
    "diagnostics",
    "folding",
    "sampling",
    "proposals",
    "workloads",
    "oneshot",
)
MODULES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in ROOT.rglob("*.py")}


def imported(path: Path, top: bool = False) -> Iterator[str]:
    """What of nasfw a file imports, anywhere or at its top, as names of MODULES."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *parts = name.split(".")
            if package == "nasfw":
                while parts and not {"/".join(parts), "/".join([*parts, "__init__"])} & MODULES.keys():
                    parts.pop()
                name = "/".join(parts)
                yield name if name in MODULES else "/".join([*parts, "__init__"])


@pytest.mark.parametrize("folder", PLUGIN_FOLDERS)
def test_plugins_import_the_foundation_and_their_own_folder(folder):
    for name, path in MODULES.items():
        if name.startswith(f"{folder}/"):
            for other in imported(path):
                assert other in FOUNDATION or other.startswith(f"{folder}/"), f"{name} imports {other}"


def test_the_foundation_imports_itself_from_below():
    for i, name in enumerate(FOUNDATION):
        for other in imported(MODULES[name]):
            assert other in FOUNDATION[:i], f"{name} imports {other}"


def test_the_engine_knows_no_plugin_and_nothing_above_it():
    allowed = {*FOUNDATION, "trials", "engine"}
    for name in ("trials", "engine", "executors"):
        assert set(imported(MODULES[name])) <= allowed, name


def test_nothing_imports_the_command_line():
    assert [name for name, path in MODULES.items() if "cli" in set(imported(path))] == []


def test_no_module_imports_itself_in_a_circle():
    """At import time; an import inside a function may close a circle later."""
    edges = {name: set(imported(path, top=True)) for name, path in MODULES.items()}
    while free := [name for name, others in edges.items() if not others & edges.keys()]:
        for name in free:
            del edges[name]
    assert edges == {}


@pytest.mark.parametrize(("name", "limit"), [("engine", 250), ("cli", 150)])
def test_the_central_modules_stay_short(name, limit):
    assert len(MODULES[name].read_text().splitlines()) <= limit


LIGHT = (
    "values",
    "hints",
    "notation",
    "progress",
    "pareto",
    "costs",
    "diagnostics",
    "records",
    "networks",
    "diagnosis",
    "results",
    "evaluation",
    "parameters",
    "plugins",
    "builtin",
    "text",
    "settings",
    "config",
    "display",
    "bars",
    "choosing",
    "quantities",
    "terminal",
    "reports.outcome",
    "reports.plan",
    "reports.catalogue",
    "commands.compatibility",
    "commands.hardware",
    "commands.measuring",
    "commands.plotting",
    "commands.shipping",
    "cli",
)


def test_what_reads_and_shows_does_not_import_torch():
    """Torch takes a second; help, errors of spelling and finished runs need none of it."""
    script = "import sys, importlib\n"
    script += f"for name in {LIGHT!r}:\n"
    script += "    importlib.import_module('nasfw.' + name)\n"
    script += "    heavy = {'torch', 'sklearn', 'scipy'} & sys.modules.keys()\n"
    script += "    assert not heavy, f'{name} imports {heavy}'\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
