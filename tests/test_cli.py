"""The command line, as a user and as a hostile tester types it."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nasfw import cli, load
from nasfw.records import Records

DATA = Path(__file__).parent / "data"
# Neither measures nor ships, which takes seconds: for what is about neither.
COUNTED = ("hardware=[]", "export=false")
TINY = (
    "recipe.epochs=1",
    "strategy.candidates=2",
    "strategy.proposals=4",
    "final.seeds=1",
    "spaces.kernel_sizes=[3]",
    "spaces.dilations=[1,2]",
    *COUNTED,
)
RANDOM = (*COUNTED, "strategy=random", "strategy.trials=2", "recipe.epochs=1", "final.seeds=1")


def arrays(kind="classification", n=40):
    """A small problem of each kind."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    series = rng.normal(size=(n, 1, 16)) + y[:, None, None]
    images = rng.normal(size=(n, 1, 8, 8)) + y[:, None, None, None]
    pairs = {
        "classification": (series, y),
        "images": (images, y),
        "multilabel": (series, np.stack([y, rng.permutation(y), rng.permutation(y)], 1)),
        "regression": (series, series.mean((1, 2))),
        "dense_regression": (images, images[:, 0].cumsum(-1)),
        "dense_binary": (images, (images[:, 0] > 0.5).astype(int)),
    }
    x, y = pairs[kind]
    return {"x_train": x, "y_train": y}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Every test works in a folder of its own, with one good data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    np.savez("my.npz", **arrays())
    return tmp_path


def nasfw(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def started(*arguments, **more):
    """The command in a process of its own; terminals' signals reach it as they reach a user's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-c", "from nasfw.cli import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **more,
    )


def listing(folder="."):
    return sorted(str(p) for p in Path(folder).rglob("*"))


def refused(*arguments):
    """The one sentence with which a command is refused, nothing being written."""
    before = listing()
    result = nasfw(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert listing() == before
    message = result.stderr
    assert message.startswith("error: ")
    assert message.count("\n") == 1, message
    return message.strip()


def changed(**changes):
    content = {**arrays(), **changes}
    return {name: value for name, value in content.items() if value is not None}


def holed(array, places, value=np.nan):
    array = array.astype(float).copy()
    for index in places:
        array[index] = value
    return array


X, Y = arrays()["x_train"], arrays()["y_train"]
TARGETS = X.mean((1, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            changed(x_train=holed(X, [(3, 0, 5), (7, 0, 1)])),
            r"2 values that are NaN.*first at index [3, 0, 5]",
        ),
        (changed(x_train=holed(X, [(9, 0, 2)], np.inf)), "1 value that is NaN or infinite"),
        (
            changed(y_train=holed(TARGETS, [4])),
            "y holds 1 value that is NaN or infinite, the first at index 4",
        ),
        (changed(y_train=Y[:-1]), "x has 40 samples and y has 39"),
        (changed(y_train=Y * 0), "one class only (0)"),
        (
            changed(x_test=X[:3], y_test=np.array([0, 1, 2])),
            "label 2 (1 times), which never occurs in training",
        ),
        (changed(x_train=np.zeros((40, 1, 2, 3, 4, 5))), "x has shape (40, 1, 2, 3, 4, 5)"),
        (changed(x_train=X[:, 0, 0]), "x has shape (40,)"),
        (changed(x_train=np.array([1, "a", None] * 10, object)), "pickled Python objects"),
        (changed(x_train=X.astype(complex)), "complex"),
        (changed(x_train=X.astype(str)), "text"),
        (changed(y_train=None), "lacks y_train. Found: x_train"),
        (changed(x_train=None, y_train=None), "lacks x_train and y_train. Found: nothing"),
        (changed(x_tset=X), "did you mean 'x_test'?"),
        (changed(x_test=X[:5]), "x_test was given without y_test"),
        (changed(x_test=X[:0], y_test=Y[:0]), "x_test is empty"),
        (changed(x_train=X[:0], y_train=Y[:0]), "x is empty"),
        (changed(x_train=X[:2], y_train=Y[:2]), "too few to split"),
        (changed(x_test=X[:5, :, :9], y_test=Y[:5]), "x_test has shape (5, 1, 9)"),
    ],
)
def test_data_that_cannot_be_used(content, message):
    np.savez("bad.npz", **content)
    said = refused("run", "task=bad.npz")
    for part in message.split(".*"):
        assert part in said


def test_files_that_are_no_data():
    Path("text.npz").write_text("hello")
    Path("nothing.npz").write_bytes(b"")
    Path("cut.npz").write_bytes(Path("my.npz").read_bytes()[:300])
    Path("folder.npz").mkdir()
    with Path("single.npz").open("wb") as file:
        np.save(file, X)
    assert refused("run", "task=missing.npz") == "error: there is no file 'missing.npz'"
    assert "is a folder" in refused("run", "task=folder.npz")
    assert "not an .npz file" in refused("run", "task=text.npz")
    assert "not an .npz file" in refused("run", "task=nothing.npz")
    assert "damaged or cut short" in refused("run", "task=cut.npz")
    assert "single .npy array" in refused("run", "task=single.npz")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("spaces=agconv", "no space is called 'agconv'; did you mean 'aggconv'?"),
        ("strategy=dassh", "no strategy is called 'dassh'; did you mean 'dash'?"),
        ("objectives=[acuracy]", "did you mean 'accuracy'?"),
        ("task=digit", "did you mean 'digits'?"),
        ("executor=serail", "did you mean 'serial'?"),
        ("hardware=[board]", "no device is called 'board'"),
        ("experiment=quik", "did you mean 'quick'?"),
        ("yardsticks=plane", "did you mean 'plain'?"),
        ("stratgy=dash", "there is no setting 'stratgy'; did you mean 'strategy'?"),
        ("strategy=aggconv", "'aggconv' is a space"),
        ("strategy.epoch=3", "dash has no parameter 'epoch'; did you mean 'epochs'?"),
        ("recipe.lrr=1", "did you mean 'lr'?"),
        ("budget.trial=3", "did you mean 'trials'?"),
        ("final.seed=3", "did you mean 'seeds'?"),
        ("strategy.epochs=ten", "should be a whole number"),
        ("strategy.epochs=0", "greater than or equal to 1"),
        ("strategy.epochs=2.5", "whole number"),
        ("strategy.temperature=nan", "finite"),
        ("strategy.lrs=0.1", "a list, as in"),
        ("spaces.kernel_sizes=[0]", "zero or even kernel size is not possible: 0"),
        ("spaces.kernel_sizes=[3,4]", "zero or even kernel size is not possible: 4"),
        ("spaces.kernel_sizes=[-3]", "not possible: -3"),
        ("spaces.kernel_sizes=[3,big]", "item 2 of aggconv.kernel_sizes cannot be 'big'"),
        ("spaces.kernel_sizes=[3", "not valid YAML"),
        ("spaces.dilations=[0]", "dilation below 1"),
        ("spaces.mode=fouri", "did you mean 'fourier'?"),
        ("spaces.backbone=resnet", "no backbone is called 'resnet'"),
        ("spaces.backbone=no_such_module:network", "no_such_module cannot be imported"),
        ("spaces.backbone=wrn", "inputs have the shape (1, 16)"),
        ("spaces=[]", "spaces is empty"),
        ("objectives=[]", "objectives is empty"),
        ("objectives=[parameters,parameters]", "given twice"),
        ("strategy=[dash,random]", "must be a name"),
        ("strategy", "a setting is written name=value"),
        ("strategy=", "has no value"),
        ("seed=-1", "greater than or equal to 0"),
        ("seed=99999999999999999999999", "should be less than"),
        ("seed=zero", "whole number"),
        ("effort=0", "greater than 0"),
        ("budget.trials=0", "greater than or equal to 1"),
        ("budget.seconds=0", "greater than 0"),
        ("budget=5", "a mapping"),
        ("final.seeds=0", "greater than or equal to 1"),
        ("recipe.lr=-1", "recipe.lr"),
        ("recipe.batch_size=0", "recipe.batch_size"),
        ("recipe.optimizer=adaw", "did you mean 'adamw'?"),
        ("recipe.transform_optimizer=SGD", "did you mean 'sgd'?"),
        ("executor.workers=2", "serial has no parameter 'workers'"),
        ("compute=cuda:7", "compute=cuda:7 is not possible here; possible: auto, cpu"),
        ("compute=tpu", "compute cannot be 'tpu'"),
        ("config=none.yaml", "cannot be read: No such file"),
        ("task.kind=clasification", "did you mean 'classification'?"),
        ("task.metric=relative_l2", "does not suit classification"),
        ("task.valid_fraction=1.5", "between 0 and 1"),
        ("folder=my.npz", "is a file"),
        ("folder=my.npz/below", "cannot be written"),
        ("folder=.", "not empty and holds no run"),
    ],
)
def test_settings_that_cannot_be_used(setting, message):
    settings = () if setting.startswith("task=") else ("task=my.npz",)
    assert message in refused("run", *settings, setting)


def test_workers_must_be_a_number_of_processes():
    assert "greater than or equal to 0" in refused("run", "executor=processes", "executor.workers=-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"strategy: [dash", "not valid YAML: line 1"),
        (b"- dash", "must hold settings"),
        (b"stratgy: dash", "did you mean 'strategy'?"),
        (b"seed: 1\nseed: 2", "given twice"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_config_files_that_cannot_be_used(text, message):
    Path("settings.yaml").write_bytes(text)
    assert message in refused("run", "config=settings.yaml")


def test_a_setting_given_twice_is_refused():
    assert "strategy is given twice" in refused("run", "strategy=dash", "strategy=random")


def test_accuracy_of_a_regression_is_refused_before_training():
    np.savez("reg.npz", **arrays("regression"))
    assert "use objectives=[error,...]" in refused("run", "task=reg.npz", "objectives=[accuracy]")


def test_a_place_for_runs_that_cannot_be_written():
    Path("runs").write_text("")
    assert "folder=runs is a file" in refused("run", "task=my.npz")


@pytest.mark.parametrize("strategy", ["dash", "random"])
def test_losses_that_are_never_finite_leave_nothing_behind(strategy):
    before = listing()
    settings = (f"strategy={strategy}", "recipe.lr=1e30", "recipe.epochs=2", "budget.trials=2", *COUNTED)
    result = nasfw("run", "task=my.npz", *settings)
    assert result.exit_code == 2
    sentence = result.stderr.splitlines()[-1]
    assert sentence.startswith("error: ")
    assert "the training loss was nan" in sentence
    assert listing() == before


def test_folders_that_hold_no_run():
    assert "holds no run" in refused("show", "nowhere")
    assert "holds no run" in refused("show", "my.npz")
    assert "no plugin is called 'dassh'; did you mean 'dash'?" in refused("plugins", "dassh")


KINDS = ["classification", "images", "multilabel", "regression", "dense_regression", "dense_binary"]


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k in KINDS[1:] else ()) for k in KINDS]
)
def test_a_run_ends_with_a_table_and_a_sentence_and_show_repeats_them(kind):
    np.savez("kind.npz", **arrays(kind))
    result = nasfw("run", "task=kind.npz", "folder=found", *TINY)
    assert result.exit_code == 0, result.output
    assert "Pareto front of arrays (test split)" in result.stdout
    assert "The search " in result.stdout
    assert "plain backbone" in result.stdout
    again = nasfw("show", "found").stdout
    assert result.stdout.endswith(again)
    data = json.loads(nasfw("show", "found", "--json").stdout)
    assert data["split"] == "test"
    assert all(math.isfinite(v) for n in data["front"] for v in n["median"].values())
    assert math.isfinite(data["hypervolume"])
    assert data == json.loads(Path("found/result.json").read_text())


@pytest.mark.slow
def test_by_default_accuracy_is_traded_for_latency_and_what_was_trained_is_exported():
    """All that happens if nothing is asked for, but for its size."""
    pytest.importorskip("onnxruntime")
    from nasfw.hardware.host import Host
    from nasfw.networks import joined
    from nasfw.results import read

    # With two candidates nothing would be proposed, nor its latency predicted.
    brief = [s for s in TINY if s not in (*COUNTED, "strategy.candidates=2")]
    result = nasfw("run", "task=my.npz", "folder=found", *brief)
    assert result.exit_code == 0, result.output
    host = Host()
    latency = f"latency@{host.name}"
    assert f"Device     {host.name}: ONNX Runtime" in result.stdout
    outcome = read(Path("found"))
    assert [m.name for m in outcome.summary.measures][:2] == ["accuracy", latency]

    # The table: a value, its interval, its unit.
    for network in (*outcome.front, outcome.plain):
        details = network.measured[latency]
        assert details["low"] <= network.median[latency] <= details["high"]
        name = network.name if network in outcome.front else "plain backbone"
        row = next(line for line in result.stdout.splitlines() if line.startswith(f" {name}"))
        assert re.search(r"[\d.]+ \([\d.]+ to [\d.]+\) (µs|ms)", row)
    text = " ".join(result.stdout.split())
    assert f"Latency on {host.name}: ONNX Runtime" in text
    assert "processor time of the thread" in text
    assert "Proposals for aggconv: latency by a sum over layers" in text
    assert result.stdout.endswith(nasfw("show", "found").stdout)

    # The folder: where and how everything was measured.
    summary = json.loads(Path("found/problem.json").read_text())
    assert summary["devices"][host.name] == json.loads(json.dumps(host.fingerprint))
    for file in ("found/records.jsonl", "found/random/records.jsonl"):
        records = list(Records(Path(file)))
        assert records
        for record in records:
            value = record.value(latency)
            assert 0 < value.low <= value <= value.high < 1
            assert value.repetitions >= 7

    # One export for every network of the final phase.
    trained = joined(Records(Path("found/records.jsonl")).select("final"), [])
    exported = {p.name for p in Path("found/export").iterdir()}
    assert exported == {n.name for n in trained.values()}
    for folder in Path("found/export").iterdir():
        files = {p.name for p in folder.iterdir()}
        assert {"model.py", "weights.safetensors", "model.onnx", "card.md", "export.json"} <= files
    assert f"{len(exported)} networks exported and verified in found/export" in text
    data = json.loads(nasfw("show", "found", "--json").stdout)
    assert data == json.loads(Path("found/result.json").read_text())
    assert data["devices"] == summary["devices"]


@pytest.mark.parametrize("kind", ["classification", "dense_regression"])
def test_saved_weights_reproduce_the_recorded_metric(kind):
    from nasfw.contracts import Candidate
    from nasfw.results import read
    from nasfw.tasks.arrays import ArraysTask

    np.savez("kind.npz", **arrays(kind))
    small = ["spaces.channels=4", *(["spaces.depth=10"] if kind == "dense_regression" else [])]
    assert nasfw("run", "task=kind.npz", "folder=found", *TINY, *small).exit_code == 0
    task, outcome = ArraysTask(file="kind.npz"), read(Path("found"))
    for network in (outcome.pick, outcome.plain, outcome.random):
        candidate = Candidate(None, task, (), "test")
        candidate.model = load("found", network)
        error = task.error(*candidate.predictions)
        recorded = network.values.get("error", (None,))[0]
        assert error == (1 - network.values["accuracy"][0] if recorded is None else recorded)


def test_the_default_folder_is_in_runs_and_latest_points_to_it():
    assert nasfw("run", "task=my.npz", *RANDOM).exit_code == 0
    (folder,) = (p for p in Path("runs").iterdir() if not p.is_symlink())
    assert folder.name.endswith("-arrays-aggconv-random")
    assert Path("runs/latest").resolve() == folder.resolve()
    assert "Folder     runs/latest" in nasfw("show", "runs/latest").stdout


def test_without_final_trainings_the_search_is_shown():
    result = nasfw("run", "task=my.npz", "final=false", "folder=found", *RANDOM[:-1])
    assert result.exit_code == 0
    assert "validation split" in result.stdout
    assert {r.phase for r in Records(Path("found/records.jsonl"))} == {"search"}


def test_without_yardsticks_nothing_is_compared():
    result = nasfw("run", "task=my.npz", "yardsticks=[]", "folder=found", *TINY)
    assert result.exit_code == 0
    assert "plain backbone" not in result.stdout
    assert not Path("found/random").exists()


def test_an_architecture_that_is_named_is_trained_and_shown_in_its_notation():
    np.savez("maps.npz", **arrays("images"))
    named = (
        "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=range(2, 3), "
        "reduce=[('max_pool_3x3', 0), ('sep_conv_3x3', 1)], reduce_concat=range(2, 3))"
    )
    settings = ("task=maps.npz", "spaces=s5", "spaces.channels=4", "strategy=given", "recipe.epochs=1")
    settings += ("final.seeds=1", "yardsticks=[plain]", "folder=found", *COUNTED)
    assert "'normal 2<-0' cannot be conv" in refused(
        "run", *settings, "strategy.architectures=normal 2<-0=conv"
    )
    result = nasfw("run", *settings, f"strategy.architectures={named}")
    assert result.exit_code == 0, result.output
    shown = nasfw("show", "found").stdout
    assert named in shown.splitlines()
    data = json.loads(nasfw("show", "found", "--json").stdout)
    assert data["trials"] == 1
    assert data["pick"]["text"] == named
    assert named in nasfw("pick", "found", "--no-export").stdout.splitlines()
    records = without_seconds("found/records.jsonl")
    Path("found/records.jsonl").write_text("")
    again = nasfw("run", *settings, f"strategy.architectures={named}")
    assert again.exit_code == 0, again.output
    assert without_seconds("found/records.jsonl") == records


def test_random_search_is_not_compared_with_itself():
    result = nasfw("run", "task=my.npz", "folder=found", *RANDOM)
    assert result.exit_code == 0
    assert "the plain backbone" in result.stdout
    assert "random search with" not in result.stdout
    assert not Path("found/random").exists()


def test_two_spaces_share_the_budget():
    spaces = "spaces=[{aggconv: {kernel_sizes: [3]}}, {aggconv: {backbone: tcn}}]"
    settings = ("strategy=random", "strategy.trials=9", "recipe.epochs=1", "final.seeds=1", *COUNTED)
    result = nasfw(
        "run", "task=my.npz", "folder=found", spaces, *settings, "budget.trials=4", "final.limit=2"
    )
    assert result.exit_code == 0, result.output
    searched = [r.space for r in Records(Path("found/records.jsonl")) if r.phase == "search"]
    assert sorted(searched) == ["aggconv"] * 2 + ["aggconv2"] * 2
    assert nasfw("show", "found").stdout in result.stdout


def test_a_budget_of_seconds_ends_the_search_and_a_second_run_adds_nothing():
    random_search = ("strategy=random", "strategy.trials=500", "recipe.epochs=1", "final.seeds=1")
    settings = ("task=my.npz", "folder=found", "budget.seconds=0.5", *random_search, *COUNTED)
    first = nasfw("run", *settings)
    assert first.exit_code == 0
    records = Path("found/records.jsonl").read_bytes()
    Path("found/result.json").unlink()
    assert nasfw("run", *settings).exit_code == 0
    assert Path("found/records.jsonl").read_bytes() == records


def test_dry_run_writes_nothing():
    before = listing()
    result = nasfw("run", "task=my.npz", "--dry-run", *TINY)
    assert result.exit_code == 0
    assert listing() == before
    for words in ("supernet", "per training step", "Estimated time", "Peak memory", "Nothing was written"):
        assert words in result.stdout


def test_only_beside_a_supernet_networks_are_said_to_be_trained_from_scratch():
    planned = " ".join(nasfw("run", "task=my.npz", "--dry-run", *TINY).stdout.split())
    assert "then up to 2 networks from scratch" in planned
    one = ("strategy=random", "spaces=xd", "spaces.options=[fourier99]", *COUNTED)
    planned = " ".join(nasfw("run", "task=my.npz", "--dry-run", *one).stdout.split())
    assert "options without effect: fourier99; " in planned
    assert " 1 architecture Strategy random: trains up to 1 network Objectives" in planned


def test_a_finished_run_is_shown_at_once():
    first = nasfw("run", "task=my.npz", "folder=found", *RANDOM)
    content = {p: p.read_bytes() for p in Path("found").rglob("*") if p.is_file()}
    again = nasfw("run", "task=my.npz", "folder=found", *RANDOM)
    assert again.exit_code == 0
    assert "(this run is done)" in again.stdout
    assert again.stdout.replace(" (this run is done)", "") == first.stdout
    assert {p: p.read_bytes() for p in Path("found").rglob("*") if p.is_file()} == content


def test_a_folder_with_another_run_is_refused():
    assert nasfw("run", "task=my.npz", "folder=found", *RANDOM).exit_code == 0
    said = refused("run", "task=my.npz", "folder=found", *RANDOM, "seed=3")
    assert "folder=found holds another run (seed is 0 there and 3 here)" in said
    np.savez("my.npz", **arrays(n=60))
    assert "the task's data have changed" in refused("run", "task=my.npz", "folder=found", *RANDOM)


def without_seconds(path):
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_a_lost_last_record_is_made_again():
    settings = ("task=my.npz", "folder=found", *RANDOM)
    assert nasfw("run", *settings).exit_code == 0
    records = Path("found/records.jsonl")
    whole = without_seconds(records)
    shown = nasfw("show", "found").stdout
    records.write_bytes(records.read_bytes()[:-20])
    assert nasfw("run", *settings).exit_code == 0
    assert without_seconds(records) == whole
    records.write_bytes(records.read_bytes() + b'{"key": "ab')
    assert nasfw("show", "found").stdout == shown


def test_a_damaged_record_in_the_middle_is_named():
    assert nasfw("run", "task=my.npz", "folder=found", *RANDOM).exit_code == 0
    records = Path("found/records.jsonl")
    first, second, *rest = records.read_bytes().split(b"\n")
    records.write_bytes(b"\n".join([first, second[:50], *rest]))
    assert "records.jsonl is damaged in line 2 of" in refused("show", "found")
    assert "records.jsonl is damaged in line 2 of" in refused("run", "task=my.npz", "folder=found", *RANDOM)


@pytest.mark.parametrize("name", ["problem.json", "run.yaml"])
def test_other_damaged_files_give_a_sentence(name):
    assert nasfw("run", "task=my.npz", "folder=found", "final=false", *RANDOM[:-1]).exit_code == 0
    for content in (b"{", b"\xff\xff", b"[]", b"{}"):
        Path("found", name).write_bytes(content)
        said = refused("run", "task=my.npz", "folder=found", "final=false", *RANDOM[:-1])
        assert "found" in said


def test_a_plugin_that_raises_is_named_and_the_others_work():
    path = os.pathsep.join(str(DATA / name) for name in ("plugin_broken", "plugin_toy"))
    done = started("plugins", env={"PYTHONPATH": os.pathsep.join([path, *sys.path])})
    output, errors = done.communicate(timeout=60)
    assert done.returncode == 0
    assert "nasfw-broken" in errors
    assert "the board is not connected" in errors
    assert "Traceback" not in errors
    assert "toy" in output
    assert "aggconv" in output


@pytest.mark.slow
def test_several_processes_make_the_same_records():
    settings = ("task=my.npz", "final=false", *RANDOM[:-1])
    assert nasfw("run", *settings, "folder=one").exit_code == 0
    process = started("run", *settings, "folder=two", "executor=processes", "executor.workers=2")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Pareto front" in output

    def key(record):
        return record["phase"], record["key"]

    one, two = (sorted(without_seconds(f"{name}/records.jsonl"), key=key) for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a["values"] == pytest.approx(b["values"], abs=0.2)
        assert {**a, "values": 0} == {**b, "values": 0}


LONG = (
    "task=my.npz",
    "strategy=random",
    "strategy.trials=500",
    "recipe.epochs=2",
    "folder=found",
    *COUNTED,
)


def until(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def records_of(folder="found"):
    path = Path(folder, "records.jsonl")
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_an_interrupt_is_answered_and_a_second_process_is_kept_out():
    # What was started in the background of a shell ignores interrupts.
    process = started(
        "run", *LONG, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    until(lambda: records_of() >= 2, process)
    said = nasfw("run", *LONG)
    assert said.exit_code == 2
    assert said.stderr == "error: another process is running in found\n"
    process.send_signal(signal.SIGINT)
    _output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; the same command goes on from here" in errors
    assert "Traceback" not in errors
    partial = nasfw("show", "found").stdout
    assert "validation split" in partial
    assert "The run is not done" in partial


SMALL = ("task=my.npz", "strategy.epochs=6", "recipe.epochs=3", "final.limit=2", *TINY[1:])


# Imports once, then forks one command for every line that it reads, so that twenty kills take little time.
SERVER = """
import json, os, signal, sys, time
from nasfw import bars, cli, config, experiment, plugins
from nasfw.reports import catalogue, outcome, plan
for entry in plugins.load().entries():
    entry.load()
import torch
torch.set_num_threads(1)
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
print("ready", flush=True)
for line in sys.stdin:
    delay, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.argv[1:] = arguments
        try:
            cli.main()
        except SystemExit as ended:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(ended.code or 0)
        os._exit(70)
    if delay is not None:
        time.sleep(delay)
        # The number is the child's until it is waited for, even if it has ended.
        os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def forked(served):
    """Run a command in a process that is killed after so many seconds; its wait status."""
    if not hasattr(os, "fork"):
        pytest.skip("needs processes that fork")
    ask = served(SERVER, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    return lambda *arguments, delay=None: ask(json.dumps([delay, arguments]))


def kill_and_resume(forked, settings, kills):
    """A DASH run that is killed at random moments ends with the records of one that is not."""

    def undisturbed(folder):
        status = forked("run", *settings, f"folder={folder}")
        assert status == 0, Path("log.txt").read_text()
        return without_seconds(f"{folder}/records.jsonl"), without_seconds(f"{folder}/random/records.jsonl")

    whole = undisturbed("first")
    # What a device was too busy for is not kept but measured again: run until all is known.
    for i in range(6):
        begun = time.monotonic()
        former, whole = whole, undisturbed(f"whole{i}")
        duration = time.monotonic() - begun
        if whole == former:
            break
    assert whole == former

    rng, killed, folders = random.Random(kills), 0, ["killed0"]
    while killed < kills:
        status = forked("run", *settings, f"folder={folders[-1]}", delay=rng.uniform(0.0, duration))
        if status == signal.SIGKILL:
            killed += 1
        else:
            assert status == 0, Path("log.txt").read_text()
            folders.append(f"killed{len(folders)}")
    for folder in folders:
        assert undisturbed(folder) == whole


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_records(forked):
    kill_and_resume(forked, SMALL, 3)


@pytest.mark.slow
def test_a_run_killed_twenty_times_goes_on_to_the_same_records(forked):
    """With the default objectives; they share a cache of measurements, as all runs on a machine do."""
    pytest.importorskip("onnxruntime")
    # Without its two candidates, which leave nothing to propose, and shorter.
    left_out = ("hardware=[]", "strategy.candidates=2", "strategy.epochs=6", "recipe.epochs=3")
    settings = [s for s in SMALL if s not in left_out]
    kill_and_resume(forked, [*settings, "strategy.epochs=3", "recipe.epochs=1"], 20)
    assert all(r.measured for r in Records(Path("killed0/records.jsonl")))
    assert list(Path("killed0").glob("aggconv/costs-*.json"))


def test_without_a_folder_the_same_command_goes_on_in_the_unfinished_one():
    settings = (*LONG[:2], "strategy.trials=3", "recipe.epochs=1", "final.seeds=1", *COUNTED)
    assert nasfw("run", *settings).exit_code == 0
    (folder,) = (p for p in Path("runs").iterdir() if not p.is_symlink())
    whole = without_seconds(folder / "records.jsonl")
    (folder / "result.json").unlink()
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:2]))
    result = nasfw("run", *settings)
    assert result.exit_code == 0
    assert f"{folder} (this run goes on where it stopped)" in result.stdout
    assert without_seconds(folder / "records.jsonl") == whole
    assert nasfw("run", *settings).exit_code == 0
    assert len(list(Path("runs").iterdir())) == 3
