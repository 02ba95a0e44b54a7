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
from nasfw.values import CostTable, Measure, Measured, Recipe, UsageError

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


HOST = {
    "device": "a cpu",
    "cores": 2,
    "runtime": "onnxruntime 1.2.3",
    "provider": "CPUExecutionProvider",
    "threads": 1,
    "batch": 1,
    "precision": "fp32",
}
LATENCY = Measure("latency@a cpu", "s", device="a cpu")
ENERGY = Measure("energy@a cpu", "J", device="a cpu")


def timed(name, *accuracies, seconds=2e-3, low=1.8e-3, high=2.5e-3, **details):
    """A network whose latency was measured once for all its seeds."""
    given = {"repetitions": 9, "drift": 1.25, "clock": "a stopwatch", **details}
    value = Measured(seconds, low=low, high=high, **given)
    content = {"accuracy": accuracies, LATENCY.name: (seconds,) * len(accuracies)}
    seeds = tuple(range(len(accuracies)))
    keys = tuple(map(str, seeds))
    return Network("s", {"conv": name}, Recipe(), keys, seeds, content, None, {LATENCY.name: value.details})


def timings(pick, *others, measures=(ACCURACY, LATENCY), devices=None, **more):
    """The outcome of a run that measured latencies."""
    devices = {"a cpu": HOST} if devices is None else devices
    defaults = {"s": {"conv": "p"}}
    summary = Summary("waves", "dash", "a cpu", measures, defaults, (0,), 4, True, devices=devices)
    given = {"summary": summary, "front": [pick, *others], "reference": [0.5, 1e-2], **more}
    return printed(report.outcome(result(pick, **given)))


def test_measured_values_are_shown_with_their_interval():
    """Of counted ones and of a single seed there is none."""
    text = timings(timed("a", 0.9, 0.92, 0.95), timed("b", 0.8, seconds=1e-3, low=1e-3, high=1e-3))
    assert "2.000 (1.800 to 2.500) ms" in text
    assert "92.00 (90.00 to 95.00) %" in text
    assert "1.000 ms" in text
    assert "(1.000 to" not in text


def test_the_device_is_told_below_the_table_and_not_in_it():
    text = " ".join(timings(timed("a", 0.9), timed("b", 0.8, drift=1.0)).split())
    assert (
        "Latency on a cpu: ONNX Runtime 1.2.3, CPU, 1 thread, batch 1, fp32; a stopwatch, corrected for a "
        "drift of 1.00 to 1.25."
    ) in text
    assert "latency@" not in text
    assert "unsure" not in text


def test_with_two_devices_every_column_has_its_own():
    board = Measure("latency@board", "s", device="board")
    one = timed("a", 0.9)
    one = replace(one, values={**one.values, board.name: (0.5,)})
    devices = {"a cpu": HOST, "board": {"device": "board", "firmware": 7}}
    text = timings(one, measures=(ACCURACY, LATENCY, board), devices=devices, reference=[0.5, 1e-2, 1.0])
    text = " ".join(text.split())
    assert "latency@board" in text
    assert "Latency on board: device board, firmware 7." in text
    assert "Latency on a cpu: ONNX Runtime" in text


def test_all_that_one_device_measured_is_told_at_once():
    one = timed("a", 0.9)
    values, details = {**one.values, ENERGY.name: (0.5,)}, {"clock": "a meter", "low": 0.4, "high": 0.6}
    one = replace(one, values=values, measured={**one.measured, ENERGY.name: details})
    text = timings(one, measures=(ACCURACY, LATENCY, ENERGY), reference=[0.5, 1e-2, 1.0])
    assert "Latency and energy on a cpu: ONNX Runtime 1.2.3" in text
    assert "a stopwatch, a meter, corrected for a drift of 1.25 to 1.25" in " ".join(text.split())


def test_values_that_are_unsure_are_counted():
    shaky = timed("b", 0.8, remark="unsure: reference networks took 2.00 times their time, 3 times")
    assert "of 3 values are unsure." in (text := " ".join(timings(timed("a", 0.9), shaky).split()))
    assert "1 of 3" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "ONNX Runtime 1.2.3, CPU, 1 thread, batch 1, fp32"),
        (
            {"threads": 4, "batch": 8, "precision": "int8"},
            "ONNX Runtime 1.2.3, CPU, 4 threads, batch 8, int8",
        ),
        ({"provider": "CUDAExecutionProvider"}, "ONNX Runtime 1.2.3, CUDA, batch 1, fp32"),
    ],
)
def test_a_runtime_in_words(changes, said):
    assert report.runtime({**HOST, **changes}) == said


def test_a_device_of_another_kind_in_words():
    assert report.runtime({"device": "board", "firmware": 7}) == "device board, firmware 7"


def test_tables_are_told_with_their_quality():
    table = CostTable(((1.0,),), 0.0, 0.875, 0.021, 6, 80, 4.5)
    text = " ".join(timings(timed("a", 0.9), tables={f"s: {LATENCY.name}": table}).split())
    assert (
        "Proposals for s: latency by a sum over layers: 80 measured in 4.500 s; on 6 networks measured whole "
        "it was 2.1 % off, rank correlation 0.88."
    ) in text


def test_exports_are_told_where_there_are_any(tmp_path):
    assert "exported" not in timings(timed("a", 0.9), folder=tmp_path)
    for name, file in (("a", "card.md"), ("b", "card.md"), (".writing-c", "model.py")):
        (tmp_path / "export" / name).mkdir(parents=True)
        (tmp_path / "export" / name / file).touch()
    text = timings(timed("a", 0.9), folder=tmp_path)
    assert "2 networks exported and verified in" in text
    assert "model.py, weights.safetensors, model.onnx, card.md" in " ".join(text.split())


LAYERS = {
    "block1.conv1": "16 -> 16 channels, 32 x 32, batch 64, 17 kernels: matrix 2.1 ms; fourier 3.02 ms",
    "stem": "3 -> 16 channels, 32 x 32, batch 64, 17 kernels: weights 1.5 ms",
    "block1.conv2": "16 -> 16 channels, 32 x 32, batch 64, 17 kernels: matrix 2.1 ms; fourier 3.02 ms",
}


@pytest.mark.parametrize("width", [80, 120])
def test_the_supernet_is_shown_by_kinds_of_layers(width):
    training = Training(LAYERS, 0.0421, 2**29, "resident")
    text = printed(report.outcome(result(network("a", 0.9), supernets={"aggconv": training}), True), width)
    assert max(map(len, text.splitlines())) <= width
    assert "Supernet of aggconv: 42.10 ms per step, peak memory 536.9 MB (resident)." in " ".join(
        text.split()
    )
    lines = [line.strip() for line in text.splitlines()]
    rows = [line for line in lines if line.startswith(("block1", "stem"))]
    assert [row.split("  ")[0] for row in rows] == ["block1.conv1 and 1 more", "stem"]
    assert "matrix 2.1 ms; fourier 3.02 ms" in " ".join(text.split())


def test_layers_of_a_supernet_are_listed_on_request():
    outcome = result(network("a", 0.9), supernets={"aggconv": Training(LAYERS, 0.0421)})
    text = printed(report.outcome(outcome))
    assert "Supernet of aggconv: 42.10 ms per step." in text
    assert "stem" not in text
    assert "stem" in printed(report.outcome(outcome, layers=True))


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


def test_a_forecast_says_what_it_leaves_out():
    assert "comes on top" not in printed(report.forecast([TIMES]))
    text = printed(report.forecast([replace(TIMES, measured=("latency", "energy"))]))
    assert "Measuring latency and energy comes on top of it, and so do exports." in text


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
