"""Pieces of sentences."""

from dataclasses import replace

import pytest
from rich.console import Group

from nasfw.display import format_value
from nasfw.networks import Network
from nasfw.reports.words import choices, described, difference, recipe, runtime
from nasfw.values import Measure, Recipe

HOST = {
    "device": "a cpu",
    "cores": 2,
    "runtime": "onnxruntime 1.2.3",
    "provider": "CPUExecutionProvider",
    "threads": 1,
    "batch": 1,
    "precision": "fp32",
}


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
    assert runtime({**HOST, **changes}) == said


def test_a_device_of_another_kind_in_words():
    assert runtime({"device": "board", "firmware": 7}) == "device board, firmware 7"


def test_a_recipe_in_words():
    said = recipe(Recipe(epochs=1, fraction=0.25, lr=0.002))
    assert said.startswith("1 epoch of 25 % of the batches, batch size 64, sgd, learning rate 0.002")
    assert recipe(Recipe(epochs=8)).startswith("8 epochs, ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "weight decay 0.0005"),
        ({"transform_lr": 0.0}, ", for transforms learning rate 0"),
        (
            {"transform_optimizer": "adam", "transform_lr": 1e-3, "transform_decay": 0.0},
            ", for transforms adam, learning rate 0.001, weight decay 0",
        ),
        (
            {"transform_momentum": 0.5, "transform_warmup": 1, "transform_cooldown": 20},
            ", for transforms momentum 0.5, at rest in the first epoch and the last 20 epochs",
        ),
    ],
)
def test_a_recipe_says_how_transforms_are_trained_where_that_is_given(changes, said):
    assert recipe(Recipe(**changes)).endswith(said)


def test_differences_of_shares_are_in_points():
    assert difference(0.0123, Measure("accuracy")) == "1.23 points"
    assert difference(0.0123, Measure("share", "%")) == "1.23 points"
    assert difference(1.5e-3, Measure("latency", "s")) == format_value(1.5e-3, "s")


def test_an_architecture_is_said_in_its_notation_or_by_its_decisions(printed):
    plain = Network("s", {"first": 1.0, "second": "bent"}, Recipe(), ("k",), (0,), {})
    noted = replace(plain, text=" ".join(["Genotype"] * 20))
    assert choices(plain) == "first=1.0, second=bent"
    assert [t.plain for t in described(plain, "best")] == ["best: first=1.0, second=bent"]
    assert choices(noted) == noted.text
    # In one piece, however narrow the terminal.
    assert printed(Group(*described(noted, "best")), width=40) == f"best:\n{noted.text}\n"
