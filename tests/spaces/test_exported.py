"""Backbones that a run found: which network a folder means, and that it can be searched again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import nasfw
from nasfw import config, plugins
from nasfw.spaces import exported
from nasfw.spaces.aggconv import AggConv
from nasfw.spaces.backbones import located, make
from nasfw.spaces.xd import XD
from nasfw.values import UsageError

BRIEF = {
    "strategy": {"random": {"trials": 1}},
    "objectives": ["accuracy", "parameters"],
    "effort": 0.02,
    "recipe": {"epochs": 1, "lr": 0.01},
    "final": {"seeds": 1, "limit": 1, "least": 1},
    "yardsticks": [],
}


class Own(nn.Module):
    """Has a parameter, a constant and a filter of its own beside layers that learn."""

    def __init__(self, input_shape, output_shape):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(4, 1))
        self.register_buffer("window", torch.rand(input_shape[1]))
        self.fixed = nn.Conv1d(input_shape[0], 4, 1).requires_grad_(False)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.out = nn.Linear(4, output_shape[0])

    def forward(self, x):
        return self.out((torch.relu(self.norm(self.conv(self.fixed(x * self.window)))) * self.gain).mean(2))


@pytest.fixture(scope="module")
def task():
    y = torch.arange(40) % 2
    x = torch.randn(40, 1, 16, generator=torch.Generator().manual_seed(0)) + y[:, None, None]
    return nasfw.ArraysTask(x, y)


@pytest.fixture(scope="module")
def run(task, tmp_path_factory):
    """The folder of a finished run, and what it found."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    space = {"aggconv": {"backbone": f"{__name__}:Own", "kernel_sizes": [5], "dilations": [2]}}
    return folder, nasfw.run(task=task, spaces=space, folder=folder, **BRIEF)


def test_a_runs_folder_means_the_network_that_it_chose(run):
    folder, result = run
    file = folder / "export" / result.pick.name / "model.py"
    assert located(str(folder)).startswith(f"{file}@")
    assert located(str(file.parent)) == located(str(file)) == located(str(folder))
    assert located(located(str(folder))) == located(str(folder))


def test_it_is_the_networks_code_with_fresh_weights(run, task):
    folder, _ = run
    trained = nasfw.load(folder, task=task)
    torch.manual_seed(0)
    made = make(located(str(folder)), (1, 16), (2,)).eval()
    assert made.state_dict().keys() == trained.state_dict().keys()
    assert not torch.equal(made.conv.weight, trained.conv.weight)
    assert not torch.equal(made.out.weight, trained.out.weight)
    assert torch.equal(made.norm.running_mean, torch.zeros(4))
    torch.manual_seed(0)
    assert torch.equal(make(str(folder), (1, 16), (2,)).conv.weight, made.conv.weight)
    made.load_state_dict(trained.state_dict())
    x = torch.randn(3, 1, 16)
    torch.testing.assert_close(made(x), trained(x))


def test_what_no_layer_draws_anew_is_kept(run, task):
    folder, _ = run
    trained, made = nasfw.load(folder, task=task), make(str(folder), (1, 16), (2,))
    for name in ("gain", "window", "fixed.weight", "fixed.bias"):
        torch.testing.assert_close(made.state_dict()[name], trained.state_dict()[name], rtol=0, atol=0)
    assert made.gain.requires_grad
    assert not made.fixed.weight.requires_grad


@pytest.mark.parametrize("kind", [XD, AggConv])
def test_its_convolutions_are_searched_under_their_names(run, task, kind):
    space = kind(task, backbone=str(run[0]))
    assert list(space.decisions) == ["fixed", "conv"]
    assert space.enlarged() is space
    assert space.build(space.default)(torch.randn(2, 1, 16)).shape == (2, 2)
    assert space.description == f"backbone {run[0]}/export/{run[1].pick.name}"


def test_settings_hold_the_file_whatever_the_folder_means_later(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    latest = Path("runs/latest")
    latest.symlink_to(run[0], target_is_directory=True)
    registry = plugins.load(entry_points=False)
    settings = config.resolve(["spaces=xd", "spaces.backbone=runs/latest"], registry)
    assert settings.spaces[0].parameters["backbone"] == located(str(run[0]))
    latest.unlink()
    assert config.resolve(settings.plain(), registry) == settings


def test_an_unfinished_search_of_such_a_backbone_stands_for_it(run, tmp_path):
    """Its command is repeated when runs/latest means itself."""
    (tmp_path / "run.yaml").write_text(f"spaces:\n- xd:\n    backbone: {located(str(run[0]))}\n")
    assert located(str(tmp_path)) == located(str(run[0]))


@pytest.mark.slow
def test_a_killed_search_of_the_latest_run_goes_on(run, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run[0], "runs/first")
    Path("runs/latest").symlink_to("first", target_is_directory=True)
    settings = {**BRIEF, "task": task, "spaces": {"xd": {"backbone": "runs/latest"}}}
    first, tried = nasfw.run(**settings).plain_data(), Path("runs/latest").resolve()
    assert tried.name != "first"
    for name in ("result.json", "xd/spent.json"):
        (tried / name).unlink()
    records = (tried / "records.jsonl").read_text().splitlines(keepends=True)
    (tried / "records.jsonl").write_text(records[0])
    again = nasfw.run(**settings).plain_data()
    assert Path(again["folder"]).resolve() == tried
    assert [n["name"] for n in again["front"]] == [n["name"] for n in first["front"]]
    assert nasfw.load(tried, task=task)(torch.randn(2, 1, 16)).shape == (2, 2)


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, to be spoilt."""
    return Path(shutil.copytree(run[0], tmp_path / "run"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "there is no such file or folder"),
        (lambda run: (run / "result.json").unlink(), "that run is not finished; its command, given again"),
        (lambda run: shutil.rmtree(run / "export"), "is not exported; nasfw export .* does it"),
        (lambda run: (run / "result.json").write_text("{}"), "no network that was trained to the end"),
        (lambda run: (run / "run.yaml").unlink(), "is no run's folder, and no network's that nasfw export"),
        (lambda run: [f.write_text("1") for f in run.glob("export/*/model.py")], "has no class Network"),
        (lambda run: [f.write_bytes(b"\xff") for f in run.glob("export/*/model.py")], "cannot be read"),
    ],
)
def test_a_folder_without_such_a_network_is_explained(copy, spoil, message):
    spoil(copy)
    with pytest.raises(UsageError, match=message) as error:
        located(str(copy))
    assert str(copy) in str(error.value)


def test_a_search_only_run_has_no_network(copy):
    content = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps({**content, "phase": "search"}))
    with pytest.raises(UsageError, match="no network that was trained to the end"):
        located(str(copy))


@pytest.mark.parametrize("file", ["model.py", "weights.safetensors"])
def test_a_network_that_changed_is_noticed(copy, file):
    known = located(str(copy))
    (changed,) = copy.glob(f"export/*/{file}")
    changed.write_bytes(changed.read_bytes().replace(b"self.gain", b"self.lift").replace(b"}", b"} ", 1))
    with pytest.raises(UsageError, match="has changed since this search was begun with it"):
        located(known)
    with pytest.raises(UsageError, match="has changed"):
        make(known, (1, 16), (2,))


def test_a_comment_in_its_file_changes_nothing(copy):
    known = located(str(copy))
    (file,) = copy.glob("export/*/model.py")
    file.write_text(f"# Written again.\n{file.read_text()}")
    assert located(known) == known


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ((2, 16), 2, r"cannot process an input of shape \(2, 16\)"),
        ((1, 16), 3, r"gives an output of shape \(2,\); the task needs \(3,\)"),
    ],
)
def test_another_tasks_shapes_are_refused(run, inputs, outputs, message):
    other = nasfw.ArraysTask(torch.randn(40, *inputs), torch.arange(40) % outputs)
    with pytest.raises(UsageError, match=f"backbone '{run[0]}/export/{run[1].pick.name}' {message}"):
        _ = XD(other, backbone=str(run[0])).decisions
    with pytest.raises(UsageError, match="has no parameter width"):
        _ = replace(XD(other, backbone=str(run[0])), width=2).decisions


def test_only_files_and_folders_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("wrn").mkdir()
    assert [located(name) for name in ("auto", "wrn", "my.module:net", "nothing")] == [
        "auto",
        "wrn",
        "my.module:net",
        "nothing",
    ]
    assert exported.called("wrn") == "wrn"


def test_a_chosen_network_without_convolutions_says_where_others_are(copy, task):
    (file,) = copy.glob("export/*/model.py")
    # None of a padding that is searched.
    file.write_text(file.read_text().replace("kernel_size=", 'padding_mode="reflect", kernel_size='))
    with pytest.raises(UsageError, match=r"no convolution to search.*give another folder beside this one"):
        _ = XD(task, backbone=str(copy)).decisions
