"""What people read: announcement, forecast, table, sentence, catalogue."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nasfw import plugins, report
from nasfw.display import format_value
from nasfw.estimate import Estimate
from nasfw.results import Network, Result, Summary
from nasfw.supernets import Training
from nasfw.values import Measure, Recipe, UsageError

ACCURACY = Measure("accuracy", maximise=True, trained=True)
ERROR = Measure("error", trained=True)
SIZE = Measure("parameters")


def network(name, *values, measure=ACCURACY, seeds=None, size=1000.0):
    seeds = tuple(range(len(values))) if seeds is None else seeds
    sizes = (size,) * len(values)
    content = {measure.name: values, "parameters": sizes}
    return Network("s", {"conv": name}, Recipe(epochs=1), tuple(map(str, seeds)), seeds, content)


def result(pick, plain=None, random=None, measure=ACCURACY, **more):
    summary = Summary("waves", "dash", "a cpu", (measure, SIZE), {"s": {"conv": "p"}}, (0,), 4, True)
    given = {
        "folder": Path("runs/a"),
        "summary": summary,
        "phase": "final",
        "front": [pick],
        "pick": pick,
        "plain": plain,
        "random": random,
        "random_trials": 3,
        "trials": 4,
        "failed": 0,
        "seconds": 2.0,
        "random_seconds": None,
        "hypervolume": 1.0,
        "reference": [0.5, 2000.0],
        "done": True,
    }
    return Result(**{**given, **more})


def printed(what, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(what, crop=False)
    return console.export_text()


@pytest.mark.parametrize(
    ("ours", "theirs", "measure", "parts"),
    [
        (
            (0.95,),
            (0.90,),
            ACCURACY,
            ["beat the plain backbone by 5.00 points", "accuracy 95.00 % against 90.00 %", "seed 0"],
        ),
        (
            (0.9, 0.95, 0.8),
            (0.8, 0.85, 0.9),
            ACCURACY,
            ["beat", "by 5.00 points in the median", "seeds 0, 1, 2, 2 of 3 better"],
        ),
        ((0.90,), (0.90,), ACCURACY, ["did not beat the plain backbone: they are equal"]),
        ((0.85,), (0.90,), ACCURACY, ["did not beat", "it is 5.00 points behind"]),
        ((0.25,), (0.50,), ERROR, ["beat the plain backbone by 0.25 (error 0.25 against 0.5"]),
        ((0.75,), (0.50,), ERROR, ["did not beat", "it is 0.25 behind"]),
        ((3e-5,), (5e-5,), ERROR, ["beat the plain backbone by 2e-05"]),
    ],
)
def test_the_sentence_says_who_won_by_how_much_over_which_seeds(ours, theirs, measure, parts):
    outcome = result(
        network("a", *ours, measure=measure), network("p", *theirs, measure=measure), measure=measure
    )
    said = report.verdict(outcome)
    assert said.startswith("The search ")
    assert said.endswith(".")
    for part in parts:
        assert part in said


def test_the_sentence_speaks_of_both_yardsticks():
    outcome = result(network("a", 0.9), network("p", 0.8), network("r", 0.95))
    said = report.verdict(outcome)
    assert said.count(".") >= 1
    assert "beat the plain backbone by 10.00 points" in said
    assert "and it did not beat equal-budget random search: it is 5.00 points behind" in said


def test_the_sentence_says_that_the_plain_backbone_was_picked():
    pick = network("p", 0.9)
    assert "which it chose unchanged" in report.verdict(result(pick, pick))


def test_without_yardsticks_nothing_is_said():
    assert report.verdict(result(network("a", 0.9))) == ""
    assert report.verdict(result(network("a", 0.9), network("p", 0.9, seeds=(7,)))) == ""


@pytest.mark.parametrize("width", [80, 120])
def test_the_outcome_fits_its_width(width):
    outcome = result(
        network("a", 0.9, 0.92, 0.95), network("p", 0.8, 0.81, 0.85), network("r", 0.9), failed=1
    )
    text = printed(report.outcome(outcome), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert any("plain backbone" in line and "81.00 (80.00 to 85.00) %" in line for line in lines)
    assert "Search: 4 trials in 2 s (1 failed), random search: 3 trials (interrupted)." in " ".join(
        text.split()
    )
    assert "Folder     runs/a" in text
    assert "not done" not in text


def test_a_long_folder_stays_in_one_line():
    folder = Path("/" + "/".join(["long-name"] * 20))
    assert str(folder) in printed(report.outcome(result(network("a", 0.9), folder=folder)), 80)


def test_a_run_that_is_not_done_says_so():
    assert "The run is not done" in printed(report.outcome(result(network("a", 0.9), done=False)))


def test_a_pick_off_the_front_is_shown_below_it():
    pick = network("a", 0.9)
    text = printed(report.outcome(result(pick, front=[network("b", 0.95)])))
    assert f"{pick.name} *" in text


def test_an_empty_run_is_shown():
    empty = result(None, front=[], phase="search", hypervolume=0.0)
    assert "validation split" in printed(report.outcome(empty))


LAYERS = {
    "block1.conv1": "16 -> 16 channels, 32 x 32, batch 64, 17 kernels: matrix 2.1 ms; fourier 3.02 ms",
    "stem": "3 -> 16 channels, 32 x 32, batch 64, 17 kernels: weights 1.5 ms",
    "block1.conv2": "16 -> 16 channels, 32 x 32, batch 64, 17 kernels: matrix 2.1 ms; fourier 3.02 ms",
}


@pytest.mark.parametrize("width", [80, 120])
def test_the_supernet_is_shown_by_kinds_of_layers(width):
    training = Training(LAYERS, 0.0421, 2**29, "resident")
    text = printed(report.outcome(result(network("a", 0.9), supernets={"aggconv": training})), width)
    assert max(map(len, text.splitlines())) <= width
    assert "Supernet of aggconv: 42.10 ms per step, peak memory 536.9 MB (resident)." in " ".join(
        text.split()
    )
    lines = [line.strip() for line in text.splitlines()]
    rows = [line for line in lines if line.startswith(("block1", "stem"))]
    assert [row.split("  ")[0] for row in rows] == ["block1.conv1 and 1 more", "stem"]
    assert "matrix 2.1 ms; fourier 3.02 ms" in " ".join(text.split())


def test_what_is_not_known_of_a_supernet_is_said():
    text = printed(report.outcome(result(network("a", 0.9), supernets={"s": Training(LAYERS, remark="why")})))
    assert "Supernet of s: peak memory unknown (why)." in text
    assert "Supernet" not in printed(report.outcome(result(network("a", 0.9))))


def test_a_long_front_is_cut():
    front = [network(f"n{i}", 0.9) for i in range(30)]
    assert "... and 10 more; --json shows all." in printed(report.outcome(result(front[0], front=front)))


def test_a_recipe_in_words():
    said = report.recipe(Recipe(epochs=1, fraction=0.25, lr=0.002))
    assert said.startswith("1 epoch of 25 % of the batches, batch size 64, sgd, learning rate 0.002")
    assert report.recipe(Recipe(epochs=8)).startswith("8 epochs, ")


TIMES = Estimate("s", 9, 1000, 2000, None, 0.1, 0.1, 0.1, None, 1, 60.0, 30.0, None, 2**20)


def test_a_forecast_adds_the_parts():
    text = printed(report.forecast([TIMES]))
    assert "Estimated time 1 min 30 s: search 1 min 0 s (1 trial), final trainings at most 30 s." in text
    assert "supernet" not in text
    other = replace(TIMES, supernet_step=0.2, supernet_parameters=5, random=30.0)
    text = printed(report.forecast([other]))
    assert "Estimated time 2 min 0 s" in text
    assert "supernet" in text


def test_a_strategy_that_foretells_nothing_gets_no_estimate():
    assert "cannot be estimated" in printed(report.forecast([replace(TIMES, search=None)]))


def test_differences_of_shares_are_in_points():
    assert report.difference(0.0123, ACCURACY) == "1.23 points"
    assert report.difference(0.0123, Measure("share", "%")) == "1.23 points"
    assert report.difference(1.5e-3, Measure("latency", "s")) == format_value(1.5e-3, "s")


REGISTRY = plugins.load(entry_points=False)


def test_the_catalogue_names_every_plugin():
    lines = [line.split() for line in printed(report.catalogue(REGISTRY)).splitlines()]
    for entry in REGISTRY.entries():
        assert [entry.kind, entry.name, "nasfw", entry.version] in lines


@pytest.mark.parametrize("entry", REGISTRY.entries(), ids=lambda e: e.name)
def test_every_plugin_is_explained(entry):
    text = printed(report.explanation(REGISTRY, entry.name), 80)
    assert f"{entry.kind} {entry.name} (nasfw" in text
    for parameter in REGISTRY.parameters(entry):
        assert parameter.name in text


def test_an_unknown_plugin_is_not_explained():
    with pytest.raises(UsageError, match="did you mean 'dash'"):
        report.explanation(REGISTRY, "dahs")
