"""What the documents say is true: commands resolve, code runs, and nothing is left out."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nasfw import cli, config, plugins
from nasfw.config import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
REGISTRY = plugins.load(entry_points=False)
SET_UP = [
    'python -m pip install -c constraints.txt -e ".[cpu]" && nasfw run spaces=aggconv strategy=dash',
    'python -m pip install -c constraints.txt -e ".[cpu,test]" && pytest',
]


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def documented():
    """The arguments of every ``nasfw run`` in the README and in ``nasfw run --help``."""
    lines = [line for block in blocks(README, "bash") for line in block.splitlines()]
    lines += re.findall(r"`(nasfw run [^`]*)`", README + (cli.run.__doc__ or "") + (cli.root.__doc__ or ""))
    for line in lines:
        command = line.partition("&& ")[2] or line
        words = shlex.split(command, comments=True)
        if words[:2] == ["nasfw", "run"] and "..." not in line:
            yield tuple(w for w in words[2:] if not w.startswith("-"))


COMMANDS = sorted(set(documented()))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("my.npz", x_train=np.zeros((20, 16)), y_train=np.arange(20) % 2)
    Path("settings.yaml").write_text("seed: 1\n")
    Path("runs/latest").mkdir(parents=True)
    Path("runs/latest/model.py").write_text("class Network: ...\n")


def test_commands_were_found():
    assert ("spaces=aggconv", "strategy=dash") in COMMANDS
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_documented_commands_resolve(arguments):
    config.resolve(arguments, REGISTRY)


@pytest.mark.parametrize("command", SET_UP)
def test_the_set_up_commands_are_what_the_continuous_integration_does(command):
    assert command in README
    script = (ROOT / ".ci" / "run").read_text()
    install, _, then = command.partition(" && ")
    assert install in script
    assert then in script
    assert SET_UP[1] in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_python_blocks_run(number, capsys):
    exec(compile(blocks(README, "python")[number], f"README block {number}", "exec"), {"__name__": "readme"})


def text_of_help():
    return README + CliRunner().invoke(cli.app, ["run", "--help"], env={"COLUMNS": "200"}).output


@pytest.mark.parametrize("entry", REGISTRY.entries(), ids=lambda e: f"{e.kind}-{e.name}")
def test_every_plugin_is_named(entry):
    assert f"`{entry.name}`" in README


@pytest.mark.parametrize("name", [f.name for f in fields(Settings)])
def test_every_setting_is_explained(name):
    assert re.search(rf"\b{name}\b", text_of_help())


def test_links_lead_somewhere():
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), target
