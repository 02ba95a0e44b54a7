"""The Python API: run, show, load."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nasfw
from nasfw.objectives.quality import Error
from nasfw.testing import Echo, ToySpace, ToyTask

TASK = ToyTask()
# Neither measures nor ships.
COUNTED = {"objectives": ["accuracy", "parameters"], "export": False}


def run(folder, **settings):
    given = {
        "task": TASK,
        "spaces": ToySpace(TASK),
        "strategy": {"random": {"trials": 3}},
        "recipe": {"epochs": 2},
        **COUNTED,
    }
    return nasfw.run(**{**given, **settings}, folder=folder)


def test_every_public_name_is_there():
    for name in nasfw.__all__:
        assert getattr(nasfw, name) is not None
    assert set(nasfw.__all__) <= set(dir(nasfw))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nasfw.nothing


def test_importing_it_imports_no_torch():
    code = "import sys, nasfw, nasfw.cli; print('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_show_repeats_what_run_returned(tmp_path):
    result = run(tmp_path / "run")
    assert nasfw.show(tmp_path / "run") == result
    assert nasfw.show(str(tmp_path / "run")) == result


def test_running_again_is_the_same_run(tmp_path):
    assert run(tmp_path / "run") == run(tmp_path / "run")


@pytest.mark.parametrize("which", ["pick", "plain", "random"])
def test_a_loaded_network_has_the_recorded_accuracy(tmp_path, which):
    result = run(tmp_path / "run", strategy={"dash": {"candidates": 2}}, final={"seeds": 2})
    network = getattr(result, which)
    x, y = (torch.cat(parts) for parts in zip(*TASK.batches("test"), strict=True))
    for seed, recorded in zip(network.seeds, network.values["accuracy"], strict=True):
        # The space object is not in the folder; here its description is.
        model = ToySpace(TASK).enlarged().build(network.architecture)
        # Where the search and random search found the same, each has trained it.
        files = list((tmp_path / "run").rglob(f"{network.keys[network.seeds.index(seed)]}.safetensors"))
        assert files
        for file in files:
            model.load_state_dict(load_file(file))
            with torch.no_grad():
                assert 1 - TASK.error(model.eval()(x), y) == recorded


SIGNALS = np.random.default_rng(0).normal(size=(40, 16)) + (np.arange(40) % 2)[:, None]
LABELS = np.arange(40) % 2
SHORT = {"strategy": {"random": {"trials": 2}}, "recipe": {"epochs": 1}, "final": {"seeds": 2}, **COUNTED}


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("waves") / "run"
    return folder, nasfw.run(task=nasfw.ArraysTask(SIGNALS, LABELS), folder=folder, **SHORT)


def test_load_gives_the_pick_by_default(waves):
    folder, result = waves
    task = nasfw.ArraysTask(SIGNALS, LABELS)
    model = nasfw.load(folder, task=task)
    assert not model.training
    with torch.no_grad():
        outputs = torch.cat([model(x) for x, _ in task.batches("test")])
    targets = torch.cat([y for _, y in task.batches("test")])
    assert 1 - task.error(outputs, targets) == result.pick.values["accuracy"][0]


def test_prepared_samples_are_those_of_the_task(waves):
    """All samples, prepared one by one, are the batches of the splits in another order."""
    task = nasfw.ArraysTask(SIGNALS, LABELS)
    prepared = task.prepare(SIGNALS)
    inside = torch.cat([x for split in ("train", "valid", "test") for x, _ in task.batches(split)])
    order = [t[:, 0, 0].argsort() for t in (prepared, inside)]
    torch.testing.assert_close(prepared[order[0]], inside[order[1]], rtol=0, atol=1e-6)
    assert torch.equal(task.prepare(SIGNALS[3:4]), prepared[3:4])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (SIGNALS[0], "was read as"),
        (SIGNALS[:, None], "was read as"),
        (SIGNALS[:, :9], "have shape"),
        (SIGNALS * np.nan, "NaN"),
        ([["a"] * 16], "text"),
    ],
)
def test_samples_of_another_form_are_refused(x, message):
    with pytest.raises(nasfw.UsageError, match=message):
        nasfw.ArraysTask(SIGNALS, LABELS).prepare(x)


def test_objects_that_do_not_shape_networks_do_not_hinder_loading(tmp_path):
    task = nasfw.ArraysTask(SIGNALS, LABELS)
    nasfw.run(task=task, folder=tmp_path / "run", **{**SHORT, "objectives": ["accuracy", Half()]})
    nasfw.load(tmp_path / "run", task=task)


def test_load_says_what_it_lacks(waves, tmp_path):
    folder, _ = waves
    with pytest.raises(nasfw.UsageError, match=r"was trained with the seeds \(0, 1\), not 7"):
        nasfw.load(folder, seed=7, task=nasfw.ArraysTask(SIGNALS, LABELS))
    with pytest.raises(nasfw.UsageError, match="made in Python is given as task="):
        nasfw.load(folder)
    with pytest.raises(nasfw.UsageError, match="holds no run"):
        nasfw.load(tmp_path / "nothing")
    run(tmp_path / "search", final=False)
    with pytest.raises(nasfw.UsageError, match="holds no trained network"):
        nasfw.load(tmp_path / "search")
    run(tmp_path / "objects")
    with pytest.raises(nasfw.UsageError, match="a space made in Python builds"):
        nasfw.load(tmp_path / "objects", task=TASK)


@dataclass(frozen=True)
class Half(nasfw.Objective):
    metric = "half"

    def measure(self, candidate):
        return float(str(candidate.architecture[0]).strip("kd").replace("d", ".")) / 2


def test_an_objective_of_ones_own_is_recorded(tmp_path):
    result = run(tmp_path / "run", objectives=["accuracy", Half()], final=False)
    for network in result.front:
        assert network.values["half"] == (network.architecture[0] / 2,)


def test_objectives_that_need_no_training_train_nothing(tmp_path):
    """The best of nine architectures is (2, 2), by its sum."""
    settings = {"objectives": [Echo()], "strategy": {"random": {"trials": 9}}}
    result = run(tmp_path / "run", **settings)
    assert result.pick.architecture == (2.0, 2.0)
    assert result.pick.median["echo"] == 4.0
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": nasfw.Task}, "give an instance"),
        ({"task": Error()}, "a Error is no task"),
        ({"spaces": []}, "spaces is empty"),
        ({"strtegy": "dash"}, "did you mean 'strategy'"),
        ({"objectives": [Echo(), Echo()]}, "given twice"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(nasfw.UsageError, match=message):
        run(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
