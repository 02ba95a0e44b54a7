"""``nasfw matrix``: a table that fits, reasons in words, and the same for machines."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from nasfw import cli
from nasfw.commands.compatibility import _tables
from nasfw.matrix import Matrix, Pair


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    np.savez("my.npz", x_train=rng.normal(size=(40, 1, 16)) + y[:, None, None], y_train=y)


def nasfw(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


PAIR = ("matrix", "task=my.npz", "spaces={aggconv: {kernel_sizes: [3]}}", "strategy=[random,gdas]")


def test_the_table_says_yes_and_that_nothing_was_run():
    result = nasfw(*PAIR)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["arrays", "aggconv"] in rows
    assert ["random", "yes"] in rows
    assert ["gdas", "yes"] in rows
    assert "--try runs each pair" in result.stdout


def test_a_task_that_is_called_like_a_space_keeps_its_column():
    pairs = [Pair(strategy, space) for strategy in ("darts", "asha") for space in ("toy", "s5")]
    console = Console(width=80, file=io.StringIO())
    for part in _tables(Matrix("toy", False, pairs), 80):
        console.print(part)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["task", "toy", "toy", "s5"] in rows
    assert ["asha", "yes", "yes"] in rows


def test_json_has_every_pair_and_its_reason():
    result = nasfw(*PAIR, "strategy.gdas.epochs=1", "--try", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["tried"] is True
    for pair, strategy in zip(data["pairs"], ("random", "gdas"), strict=True):
        assert (pair["strategy"], pair["space"], pair["reason"]) == (strategy, "aggconv", None)
        assert pair["seconds"] > 0


def test_slips_of_the_pen_are_one_sentence():
    result = nasfw("matrix", "task=my.npz", "strategy=gdass")
    assert result.exit_code == 2
    assert "did you mean 'gdas'?" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("width", [40, 80, 200])
def test_tables_fit_and_name_every_reason_once(width):
    """Nine spaces by two strategies; each cell stands once in one of the tables."""
    spaces = [f"space{i}" for i in range(9)]
    pairs = [Pair("random", s, None, 0.2 + 70 * i) for i, s in enumerate(spaces)]
    pairs += [Pair("gdas", s, ("one reason", "another", None)[i % 3], 1.0) for i, s in enumerate(spaces)]
    console = Console(width=width, file=io.StringIO())
    for part in _tables(Matrix("digits", True, pairs), width):
        console.print(part)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for space in spaces:
        assert text.count(space) == 1
    assert text.count("no (1)") == text.count("no (2)") == 3
    assert text.count("(1) one reason") == text.count("(2) another") == 1
    assert "yes, 1 s" in text
    assert "yes, 9 min 20 s" in text
    assert "--try" not in text
