"""``nasfw plot``: where the picture goes, and why there is none."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nasfw import cli
from nasfw.records import Records
from nasfw.results import RECORDS, Summary
from nasfw.values import Measure, Recipe, Record


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    """A run of two networks that were searched."""
    monkeypatch.chdir(tmp_path)
    measures = (Measure("accuracy", maximise=True, trained=True), Measure("size", "B"))
    folder = Path("run")
    folder.mkdir()
    Summary("digits", "dash", "a cpu", measures, {"s": {"conv": "a"}}, (0,), 3, True).write(folder)
    with Records(folder / RECORDS, write=True) as store:
        for name, accuracy, size in (("a", 0.9, 20.0), ("b", 0.8, 10.0)):
            values = {"accuracy": accuracy, "size": size}
            store.append(Record(name, "search", "s", {"conv": name}, Recipe(), False, values, 1.0))
    return folder


def nasfw(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def refused(*arguments):
    result = nasfw(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_the_picture_is_in_the_folder_or_where_one_says(run):
    pytest.importorskip("matplotlib")
    result = nasfw("plot", "run")
    assert result.exit_code == 0, result.output
    assert result.stdout == "written: run/report.svg\n"
    assert (run / "report.svg").read_text().startswith("<?xml")
    assert nasfw("plot", "run", "--to", "a.png").stdout == "written: a.png\n"
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


def test_places_and_formats_that_cannot_be():
    pytest.importorskip("matplotlib")
    assert "must end in .svg, .png or .pdf" in refused("plot", "run", "--to", "a.gif")
    assert "there is no folder nowhere" in refused("plot", "run", "--to", "nowhere/a.svg")
    Path("b.svg").mkdir()
    assert "b.svg cannot be written: Is a directory" in refused("plot", "run", "--to", "b.svg")
    assert "holds no run" in refused("plot", "nowhere")
    assert sorted(p.name for p in Path().iterdir()) == ["b.svg", "run"]


def test_without_matplotlib_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install "nasfw[plots]"' in refused("plot", "run")
