"""Every script in ``examples`` runs, from an empty folder, and says something."""

import logging
import runpy
import sys
from pathlib import Path

import pytest

# What a script is called with, if it takes long without.
ARGUMENTS = {"pde_operators": ["--quick"]}
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(script, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), *ARGUMENTS.get(script.stem, [])])
    former = sys.modules["__main__"]
    with caplog.at_level(logging.WARNING):
        runpy.run_path(str(script), run_name="__main__")
    assert sys.modules["__main__"] is former
    assert capsys.readouterr().out.strip()
    assert not caplog.records
