"""What came out of a run, for people: table, sentence, and how it all came about."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nasfw.diagnosis import Diagnosis
from nasfw.diagnostics import Diagnostics, Moment
from nasfw.networks import Network
from nasfw.reports.outcome import outcome
from nasfw.reports.verdict import verdict
from nasfw.results import Result, Summary
from nasfw.supernets import Training
from nasfw.values import CostTable, Measure, Measured, Recipe

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


def shown(found, width=100, layers=False):
    console = Console(width=width, file=io.StringIO())
    console.print(outcome(found, layers), crop=False)
    return console.file.getvalue()


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
    found = result(
        network("a", *ours, measure=measure), network("p", *theirs, measure=measure), measure=measure
    )
    said = verdict(found)
    assert said.startswith("The search ")
    assert said.endswith(".")
    for part in parts:
        assert part in said


def judged_on(count, ours, theirs, measure=ACCURACY, metric="error"):
    found = result(
        network("a", ours, measure=measure), network("p", theirs, measure=measure), measure=measure
    )
    return verdict(
        replace(found, summary=replace(found.summary, samples={"test": count, "valid": 5}, metric=metric))
    )


def test_a_difference_that_may_be_chance_is_said_to_be():
    """Two standard deviations of 0.9 and 0.8 on n samples are sqrt(8 * 0.85 * 0.15 / n): 0.1 for n = 102."""
    said = "by 10.00 points, which 101 test samples cannot tell from chance ("
    assert said in judged_on(101, 0.9, 0.8)
    assert "chance" not in judged_on(103, 0.9, 0.8)
    assert "it is 10.00 points behind, which 101 test samples cannot tell from chance" in judged_on(
        101, 0.8, 0.9
    )
    assert "chance" not in judged_on(101, 0.9, 0.9)
    # Of what is no share of wrong samples, the samples' number says nothing.
    assert "chance" not in judged_on(101, 0.9, 0.8, metric="mse")
    assert "chance" not in judged_on(101, 0.25, 0.26, Measure("f1", trained=True))
    assert "cannot tell from chance" in judged_on(101, 0.25, 0.26, ERROR)


def test_the_sentence_speaks_of_both_yardsticks():
    found = result(network("a", 0.9), network("p", 0.8), network("r", 0.95))
    said = verdict(found)
    assert said.count(".") >= 1
    assert "beat the plain backbone by 10.00 points" in said
    assert "and it did not beat equal-budget random search: it is 5.00 points behind" in said


def test_the_sentence_says_that_the_plain_backbone_was_picked():
    pick = network("p", 0.9)
    assert "which it chose unchanged" in verdict(result(pick, pick))


def test_without_yardsticks_nothing_is_said():
    assert verdict(result(network("a", 0.9))) == ""
    assert verdict(result(network("a", 0.9), network("p", 0.9, seeds=(7,)))) == ""


@pytest.mark.parametrize("width", [80, 120])
def test_the_outcome_fits_its_width(width):
    found = result(network("a", 0.9, 0.92, 0.95), network("p", 0.8, 0.81, 0.85), network("r", 0.9), failed=1)
    text = shown(found, width)
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
    assert str(folder) in shown(result(network("a", 0.9), folder=folder), 80)


def test_a_run_that_is_not_done_says_so():
    assert "The run is not done" in shown(result(network("a", 0.9), done=False))


def test_a_pick_off_the_front_is_shown_below_it():
    pick = network("a", 0.9)
    text = shown(result(pick, front=[network("b", 0.95)]))
    assert f"{pick.name} *" in text


def test_an_empty_run_is_shown():
    empty = result(None, front=[], phase="search", hypervolume=0.0)
    assert "validation split" in shown(empty)


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
    return shown(result(pick, **given))


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


def test_alarms_follow_the_verdict_and_the_course_the_supernet():
    moments = (Moment(1, entropy=1.0, skips=0.25), Moment(2, entropy=0.5, skips=0.75))
    diagnosis = Diagnosis(Diagnostics(moments))
    found = result(
        network("a", 0.9), network("p", 0.8), supernets={"s": Training(LAYERS)}, diagnoses={"s": diagnosis}
    )
    lines = shown(found).splitlines()
    (alarm,) = (
        i for i, line in enumerate(lines) if line.startswith("Warning: in s, skip connections take 75 %")
    )
    assert lines[alarm - 1].strip().endswith("better)." if "better" in lines[alarm - 1] else "with seed 0).")
    supernet = next(i for i, line in enumerate(lines) if line.startswith("Supernet of s"))
    assert lines[supernet + 1].startswith("One-shot search in s, 2 epochs:")
    # Without a verdict as well.
    assert "Warning: in s" in shown(result(network("a", 0.9), diagnoses={"s": diagnosis}))


LAYERS = {
    "block1.conv1": "16 -> 16 channels, 32 x 32, batch 64, 17 kernels: matrix 2.1 ms; fourier 3.02 ms",
    "stem": "3 -> 16 channels, 32 x 32, batch 64, 17 kernels: weights 1.5 ms",
    "block1.conv2": "16 -> 16 channels, 32 x 32, batch 64, 17 kernels: matrix 2.1 ms; fourier 3.02 ms",
}


@pytest.mark.parametrize("width", [80, 120])
def test_the_supernet_is_shown_by_kinds_of_layers(width):
    training = Training(LAYERS, 0.0421, 2**29, "resident")
    text = shown(result(network("a", 0.9), supernets={"aggconv": training}), width, layers=True)
    assert max(map(len, text.splitlines())) <= width
    assert "Supernet of aggconv: 42.10 ms per step, peak memory 536.9 MB (resident)." in " ".join(
        text.split()
    )
    lines = [line.strip() for line in text.splitlines()]
    rows = [line for line in lines if line.startswith(("block1", "stem"))]
    assert [row.split("  ")[0] for row in rows] == ["block1.conv1 and 1 more", "stem"]
    assert "matrix 2.1 ms; fourier 3.02 ms" in " ".join(text.split())


def test_layers_of_a_supernet_are_listed_on_request():
    found = result(network("a", 0.9), supernets={"aggconv": Training(LAYERS, 0.0421)})
    text = shown(found)
    assert "Supernet of aggconv: 42.10 ms per step." in text
    assert "stem" not in text
    assert "stem" in shown(found, layers=True)


def test_what_is_not_known_of_a_supernet_is_said():
    text = shown(result(network("a", 0.9), supernets={"s": Training(LAYERS, remark="why")}))
    assert "Supernet of s: peak memory unknown (why)." in text
    assert "Supernet" not in shown(result(network("a", 0.9)))


def test_a_long_front_is_cut():
    front = [network(f"n{i}", 0.9) for i in range(30)]
    assert "... and 10 more; --json shows all." in shown(result(front[0], front=front))
