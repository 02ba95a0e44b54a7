"""nasfw pick and nasfw export, as a user types them."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import nasfw
from nasfw import choosing
from nasfw.commands import shipping
from nasfw.records import Records
from nasfw.results import RECORDS, Summary
from nasfw.shipping import export
from nasfw.values import Measure, Recipe, Record

MEASURES = (Measure("accuracy", maximise=True, trained=True), Measure("latency@cpu", "s", device="cpu"))
SUMMARY = Summary("digits", "dash", "a cpu", MEASURES, {"s": {"conv": "plain"}}, (0,), 40, True)
KNEE = {"a": (0.98, 0.010), "b": (0.97, 0.003), "c": (0.90, 0.002), "d": (0.5, 0.001)}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def called(*arguments):
    return CliRunner().invoke(shipping.app, [str(a) for a in arguments])


def refused(*arguments):
    """The one sentence with which a command is refused, and what it printed before."""
    result = called(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip(), result.stdout


def run_of(folder, networks, summary=SUMMARY):
    """A folder whose search found ``networks``, none of them trained again."""
    folder.mkdir()
    summary.write(folder)
    with Records(folder / RECORDS, write=True) as store:
        for name, (accuracy, latency) in networks.items():
            values = {"accuracy": accuracy, "latency@cpu": latency}
            store.append(Record(name, "search", "s", {"conv": name}, Recipe(), False, values, 1.0))
    return folder


@pytest.fixture
def searched(place):
    return run_of(place / "run", KNEE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a tiny run whose front is trained, and what ``nasfw pick`` printed for it."""
    place = tmp_path_factory.mktemp("trained")
    y = np.arange(40) % 2
    x = np.random.default_rng(0).normal(size=(40, 1, 16)) + y[:, None, None]
    np.savez(place / "my.npz", x_train=x, y_train=y)
    settings = {"strategy": {"random": {"trials": 2}}, "recipe": {"epochs": 1}, "yardsticks": []}
    settings |= {"objectives": ["accuracy", "parameters"], "final": {"seeds": 1}, "effort": 0.02}
    spaces = {"aggconv": {"channels": 4, "kernel_sizes": [3], "dilations": [1, 2]}}
    run = place / "run"
    nasfw.run(task=str(place / "my.npz"), spaces=spaces, folder=run, **settings)
    result = called("pick", run)
    assert result.exit_code == 0, result.output
    return run, result.stdout


def chosen(*arguments):
    """The option that the chosen network has, and the printed text."""
    result = called("pick", *arguments, "--no-export")
    assert result.exit_code == 0, result.output
    data = json.loads(called("pick", *arguments, "--no-export", "--json").stdout)
    assert data["why"] in " ".join(result.stdout.split())
    assert f"{data['network']['name']} *" in result.stdout
    return data["network"]["choices"]["conv"], result.stdout


def test_the_front_is_shown_with_the_choice_and_its_reason(searched):
    found, text = chosen(searched)
    assert found == "b"
    assert "Pareto front of digits (validation split; not trained again yet)" in " ".join(text.split())
    assert "* It is the knee of the front" in text
    assert "Its choices: conv=b" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--max", "latency=2.5ms"], "c"),
        (["--max", "latency@cpu=0.0025"], "c"),
        (["--min", "accuracy=95%"], "b"),
        (["--min", "accuracy=95%", "--max", "latency=1"], "a"),
        (["--weight", "accuracy=1"], "a"),
        (["--weight", "latency=1", "--weight", "accuracy=0.1"], "d"),
    ],
)
def test_options_choose(searched, options, found):
    if options[-1] == "latency=1":
        assert "write 1ms or 1s" in refused("pick", searched, *options)[0]
        options[-1] = "latency=1s"
    assert chosen(searched, *options)[0] == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max", "latency=0.5ms"], "no network of the front has latency <= 500 µs; the lowest is 1 ms"),
        (["--max", "latency"], "--max is written NAME=VALUE, not 'latency'"),
        (["--max", "latency="], "--max is written NAME=VALUE, not 'latency='"),
        (["--max", "latency=5"], "so that 5 alone would be 5 s: write 5ms or 5s"),
        (["--max", "latency=5MB"], "write 5ms or 0.005, not '5MB'"),
        (["--max", "accuracy=0.9"], "bound it from below (--min accuracy=0.9)"),
        (["--max", "latency=5ms", "--max", "latency=4ms"], "--max latency is given twice"),
        (["--min", "acuracy=0.9"], "did you mean 'accuracy'?"),
        (["--weight", "accuracy=-1"], "at least 0, not '-1'"),
        (["--weight", "accuracy=0"], "no objective weighs more than 0"),
    ],
)
def test_options_that_cannot_be_used(searched, options, message):
    said, printed = refused("pick", searched, *options)
    assert message in said
    assert printed == ""


def test_the_choice_is_shown_on_long_fronts_too(place):
    many = {f"n{i:02}": (1 - i / 100, 1 / (i + 1)) for i in range(40)}
    found, text = chosen(run_of(place / "long", many), "--weight", "latency=1")
    assert found == "n39"
    assert "... and 19 more; --json shows all." in text


def test_what_is_not_trained_is_chosen_but_not_exported(searched, place):
    said, printed = refused("pick", searched)
    assert "It is the knee" in printed
    assert "has no trained networks to export yet: its final trainings are not done; its command" in said
    said, printed = refused("export", searched)
    assert "to export yet" in said
    assert printed == ""
    alone = run_of(place / "alone", KNEE, replace(SUMMARY, final=False))
    assert "it was run without final trainings (final=false)" in refused("export", alone)[0]
    assert not list(place.rglob("export"))


def test_folders_without_networks(place):
    assert "holds no run" in refused("pick", place / "nowhere")[0]
    assert "holds no run" in refused("export", place)[0]
    assert "no network to choose from" in refused("pick", run_of(place / "empty", {}))[0]


def lines_after(text, heading):
    """The indented lines below a heading."""
    rest = text[text.index(heading) :].splitlines()[1:]
    count = next(i for i, line in enumerate([*rest, ""]) if not line.startswith("    "))
    return [line.strip() for line in rest[:count]]


def test_a_picked_network_is_exported_and_loads_by_the_printed_lines(trained):
    folder, text = trained
    (place,) = (p for p in (folder / "export").iterdir() if f"Exported and verified: {p}\n" in text)
    assert f"{place.name} *" in text
    assert [line for line in text.splitlines() if len(line) > 80 and str(place) not in line] == []
    torch, onnx = (lines_after(text, heading) for heading in ("There, with torch", "or with ONNX"))
    assert len(torch) == len(onnx) == 3
    script = [
        "import numpy as np",
        "x = np.ones((3, 1, 16))",
        *torch,
        "first = outputs.detach().numpy()",
        *onnx,
    ]
    script += ["assert outputs.shape == (3, 2)", "assert np.allclose(first, outputs, atol=1e-5)"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", "\n".join(script)], cwd=place, check=True, env=environment)


def test_json_says_where_the_files_are(trained):
    result = nasfw.show(trained[0])
    choice = choosing.pick(result)
    made = export.existing(trained[0] / "export" / choice.network.name, choice.network.keys[0])
    data = json.loads(json.dumps(shipping._data(choice, result, made)))
    assert data["export"]["folder"] == str(trained[0] / "export" / data["network"]["name"])
    assert data["export"]["checks"]["metric"] == data["export"]["checks"]["reported"]
    assert data["phase"] == "final"
    assert [n["name"] for n in data["front"]] == [n.name for n in result.front]


def test_networks_are_exported_with_their_checks(trained, place):
    one = nasfw.show(trained[0]).front[0]
    result = called("export", trained[0], one.name[:5], "--to", "ship")
    assert result.exit_code == 0, result.output
    assert [p.name for p in (place / "ship").iterdir()] == [one.name]
    assert "Folder     ship" in result.stdout
    (row,) = (line.split() for line in result.stdout.splitlines() if line.startswith(f" {one.name}"))
    assert row[3:] == [f"{100 * one.median['accuracy']:.2f}", "%"] * 2
    assert float(row[1]) <= 1e-5
    assert float(row[2]) <= 1e-4
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "no network of the run is named 'zz'" in refused("export", trained[0], "zz")[0]
