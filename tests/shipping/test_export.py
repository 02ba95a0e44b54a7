"""What was searched is what is shipped: folders that work without nasfw, verified before they appear."""

import ast
import json
import shutil
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import nasfw
from nasfw import results
from nasfw.contracts import UsageError
from nasfw.networks import Network
from nasfw.results import Summary
from nasfw.shipping import artefact, card, export, verification
from nasfw.shipping.artefact import CARD, MODEL, ONNX, WEIGHTS, Subject
from nasfw.shipping.export import STATEMENT
from nasfw.shipping.standalone import source
from nasfw.shipping.verification import Writing
from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.dataset import DatasetTask
from nasfw.tasks.digits import Digits
from nasfw.tasks.meaning import Meaning
from nasfw.testing import ToySpace, ToyTask
from nasfw.values import Measure, Measured, Recipe

TASK = ToyTask()
SPACES = {"toyspace": ToySpace(TASK)}

RNG = np.random.default_rng(0)
SERIES = 5 + 3 * RNG.normal(size=(40, 16))
IMAGES = (100 * RNG.random(size=(40, 9, 9, 3))).astype(np.uint8)
PLAIN = IMAGES[..., 0].astype(np.float32)
PLAIN[::2] += 30
LABELS = np.array(["no", "yes"])[np.arange(40) % 2]
OTHERS = (100 * RNG.random(size=(30, 9, 9))).astype(np.uint8).astype(np.float32)
OTHERS[::2] += 30
# Some are wrong, so that no network is right everywhere.
OTHER_LABELS = np.where(np.arange(30) < 14, "no", LABELS[:30])
KINDS = {
    "classification": (SERIES, LABELS),
    "multilabel": (SERIES.astype(np.float32), (RNG.random((40, 3)) > 0.5).astype(int)),
    "regression": (SERIES[:, None], 7 + 2 * RNG.normal(size=(40, 2))),
    "dense_classification": (IMAGES, RNG.integers(0, 3, size=(40, 9, 9))),
    "dense_binary": (SERIES, (SERIES > 5).astype(int)),
    "dense_regression": (IMAGES, IMAGES.mean(3) + 0.5),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A tiny run on a file of images, and its exports: to be read only."""
    place = tmp_path_factory.mktemp("images")
    np.savez(place / "my.npz", x_train=PLAIN, y_train=LABELS, x_test=OTHERS, y_test=OTHER_LABELS)
    settings = {"strategy": {"random": {"trials": 2}}, "recipe": {"epochs": 4}, "yardsticks": []}
    settings |= {"spaces": {"aggconv": {"depth": 10, "channels": 4}}, "final": {"seeds": 1, "limit": 2}}
    settings |= {"objectives": ["accuracy", "parameters"], "export": False}
    nasfw.run(task=str(place / "my.npz"), folder=place / "run", effort=0.02, **settings)
    return place / "run", export.export(place / "run")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of a tiny run on a task and a space made in Python: to be read only."""
    folder = tmp_path_factory.mktemp("toy") / "run"
    given = {"task": TASK, "spaces": SPACES["toyspace"], "strategy": {"random": {"trials": 6}}}
    given |= {"objectives": ["accuracy", "parameters"], "export": False}
    nasfw.run(**given, recipe={"epochs": 2}, final={"seeds": 2}, folder=folder)
    return folder


def exported(folder, destination):
    outcome = results.read(folder)
    return export.export_networks(outcome, [outcome.pick], SPACES, TASK, destination)


@pytest.fixture(scope="module")
def unreadable(toy, tmp_path_factory):
    """The exports of that run where ONNX Runtime cannot read what was written: to be read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "write_onnx", lambda model, shape, path: path.write_bytes(b"none") and "")
        return exported(toy, tmp_path_factory.mktemp("unreadable"))


def test_every_network_of_the_front_gets_a_folder_and_so_does_the_pick(images):
    folder, made = images
    outcome = nasfw.show(folder)
    names = {n.name for n in (*outcome.front, outcome.pick)}
    assert {e.folder.name for e in made} == names <= {p.name for p in (folder / "export").iterdir()}
    for one in made:
        assert {p.name for p in one.folder.iterdir()} == {MODEL, WEIGHTS, ONNX, CARD, STATEMENT}
        assert one.key == next(n.keys[0] for n in export.shown(outcome) if n.name == one.folder.name)


def test_outputs_and_the_metric_are_those_of_the_run(images):
    for one in images[1]:
        assert one.checks["torch"] <= 1e-6
        assert one.checks["onnx"] <= 1e-4
        assert one.checks["metric"] == pytest.approx(one.checks["reported"], abs=1e-9)
        assert one.remarks == ()


def test_the_code_needs_torch_alone(images):
    """Loaded where nothing else of ours can be imported, it gives what ``nasfw.load`` gives."""
    folder, made = images
    place = next(e.folder for e in made if e.folder.name == nasfw.show(folder).pick.name)
    code = """if True:
        import runpy, sys
        sys.modules.update(dict.fromkeys(["nasfw", "safetensors", "onnx", "sklearn"]))
        import model, torch
        network = model.load()
        assert not network.training
        print(network(torch.ones(2, 1, 9, 9)).tolist())
        runpy.run_path("model.py", run_name="__main__")
    """
    command = [sys.executable, "-B", "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place)
    assert done.stderr == ""
    outputs, told = done.stdout.splitlines()
    expected = nasfw.load(folder)(torch.ones(2, 1, 9, 9)).tolist()
    np.testing.assert_allclose(json.loads(outputs), expected, rtol=1e-4, atol=1e-5)
    assert told.startswith("input (1, 1, 9, 9), output (1, 2), ")
    text = (place / MODEL).read_text()
    assert max(map(len, text.splitlines())) <= 110
    modules = {n.names[0].name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import)}
    modules |= {n.module for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)}
    assert modules <= {"json", "math", "operator", "pathlib", "torch", "torch.nn"}


def alone(place, blocked, code, *arguments):
    """What ``code`` prints in a process of nobody's: without the environment and with few modules."""
    head = f"""if True:
        import importlib.abc, json, sys
        class Blocked(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {blocked!r}:
                    raise ModuleNotFoundError("blocked: " + name)
        sys.meta_path.insert(0, Blocked())
        import numpy as np
    """
    command = [sys.executable, "-I", "-B", "-c", head + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, env={})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


OURS = {"nasfw", "safetensors", "onnx", "pydantic", "pluggy", "rich", "typer", "yaml", "scipy", "sklearn"}


def test_the_recorded_metric_is_computed_from_the_files_alone(images, tmp_path):
    """From the samples as a user has them, by model.py and its weights, or by model.onnx alone."""
    one = images[1][0]
    network = export.find(results.read(images[0]), one.key)
    for file in (MODEL, WEIGHTS, ONNX):
        shutil.copy(one.folder / file, tmp_path)
    np.savez(tmp_path / "test.npz", x=OTHERS, y=OTHER_LABELS)
    code = """
        sys.path.append(".")
        import model
        network, test = model.load(), np.load("test.npz")
        inputs = model.prepare(test["x"])
        outputs = network(inputs).detach()
        np.save("inputs.npy", inputs.numpy())
        right = sum(a == b for a, b in zip(model.decode(outputs), test["y"].tolist(), strict=True))
        print(json.dumps([1 - (len(test["y"]) - right) / len(test["y"]), outputs.tolist()]))
    """
    accuracy, outputs = alone(tmp_path, {"onnxruntime", *OURS}, code)
    assert accuracy == network.values["accuracy"][0]
    code = """
        import onnxruntime
        session = onnxruntime.InferenceSession("model.onnx")
        print(json.dumps(session.run(None, {"input": np.load("inputs.npy")})[0].tolist()))
    """
    by_onnx = np.array(alone(tmp_path, {"torch", *OURS}, code))
    np.testing.assert_allclose(by_onnx, outputs, rtol=0, atol=1e-4 * np.abs(outputs).max())


def test_the_card_says_what_a_user_needs(images):
    folder, made = images
    text = (made[0].folder / CARD).read_text()
    mean = export.reopen(nasfw.show(folder), None)[0].meaning.mean[0]
    needed = (
        "model.prepare(x)",
        "must be standardised",
        f"mean {mean}, deviation ",
        "no, yes, in this order",
        "seed 0",
        "onnxruntime",
    )
    for part in (*needed, made[0].key, "torch 2.", "## Verification", "the most likely class of each sample"):
        assert part in text
    assert "## Measurements" not in text


def test_the_card_says_how_values_were_measured_and_where():
    details = Measured(2e-3, low=1.9e-3, high=2.2e-3, repetitions=30, drift=1.25, clock="wall").details
    details["conditions"] = {"load": 0.5, "governor": "performance"}
    measures = (Measure("latency@cpu", "s", device="cpu"), Measure("parameters"))
    fingerprint = {"device": "cpu", "cores": 2, "runtime": "onnxruntime 1.32.0"}
    summary = Summary("t", "dash", "cpu", measures, {}, (0, 1), 1, True, devices={"cpu": fingerprint})
    values = {"latency@cpu": (2e-3, 2e-3), "parameters": (7.0, 7.0)}
    network = Network("s", {}, Recipe(), ("a", "b"), (0, 1), values, measured={"latency@cpu": details})
    text = card._measurements(
        types.SimpleNamespace(network=network, outcome=types.SimpleNamespace(summary=summary))
    )
    row = ["latency@cpu", "2.000 ms", "1.900 ms to 2.200 ms", "30", "0", "1.25", "wall"]
    assert f"| {' | '.join(row)} | load 0.5, governor performance |" in text
    assert "| parameters |" not in text
    assert "remark" not in text
    assert "| device | cpu |\n| --- | --- |\n| cores | 2 |\n| runtime | onnxruntime 1.32.0 |" in text


def test_the_interval_of_an_accuracy_is_wilsons():
    """Its ends are the probabilities p from which the share is 1.96 standard deviations of p away."""
    for share, count in ((0.9, 10), (0.5, 100), (1.0, 40)):
        low, high = card.wilson(share, count)
        for p in {low, high} - {1.0}:
            assert abs(share - p) / (p * (1 - p) / count) ** 0.5 == pytest.approx(1.959964, rel=1e-6)
        assert low < share <= high


def namespace(task, model):
    """The code that is written for a network of ``task``, as a module."""
    x = next(iter(task.batches("test")))[0]
    outcome = types.SimpleNamespace(summary=types.SimpleNamespace(task="arrays"))
    network = types.SimpleNamespace(name="x", space="s", choices={"a": 1}, text='say """\\')
    subject = Subject(
        outcome,
        network,
        task,
        verification.meaning(task),
        source(model, x[:2]),
        model.state_dict(),
        x.dtype,
        1,
        "",
        0,
    )
    module = types.ModuleType("model")
    module.__file__ = "model.py"
    exec(compile(artefact.code(subject), "model.py", "exec"), module.__dict__)
    return module, subject


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_code_prepares_inputs_and_reads_outputs_as_the_task_does(kind, permuted):
    x, y = KINDS[kind]
    task = ArraysTask(x, y, kind=kind, permuted=permuted)
    shape = task.output_shape
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.LazyLinear(int(np.prod(shape))), torch.nn.Unflatten(1, shape)
    )
    with torch.no_grad():
        network(task.prepare(x))
    module, subject = namespace(task, network.eval())
    assert torch.equal(module.prepare(x), task.prepare(x))
    outputs = torch.randn(5, *shape)
    found = module.decode(outputs)
    if kind.endswith("regression"):
        torch.testing.assert_close(found, task.code.decode(outputs), rtol=0, atol=0)
        assert "standardised" in artefact.shapes(subject)
    elif kind == "classification":
        assert found == [("no", "yes")[i] for i in outputs.argmax(1)]
        assert "no, yes, in this order" in artefact.shapes(subject)
    elif kind == "dense_classification":
        assert torch.equal(found, task.code.decode(outputs).argmax(1))
    else:
        assert torch.equal(found, torch.sigmoid(task.code.decode(outputs)))


@pytest.mark.parametrize("permuted", [False, True])
def test_volumes_are_prepared_and_read_as_the_task_does(permuted):
    x = RNG.normal(size=(40, 3, 4, 5))
    task = ArraysTask(x, x**2, channels="none", kind="dense_regression", permuted=permuted)
    module, subject = namespace(task, torch.nn.Conv3d(1, 1, 3, padding=1))
    assert module.INPUT_SHAPE == (1, 3, 4, 5)
    assert torch.equal(module.prepare(x), task.prepare(x))
    outputs = torch.randn(5, 1, 3, 4, 5)
    torch.testing.assert_close(module.decode(outputs), task.code.decode(outputs), rtol=0, atol=0)
    assert "samples [n, depth, height, width]" in card._meaning(subject)


def test_the_text_says_what_is_permuted():
    both = ArraysTask(IMAGES, IMAGES.mean(3), permuted=True)
    network = torch.nn.Conv2d(3, 1, 1)
    module, subject = namespace(both, network)
    assert "inputs and outputs, positions are in bit-reversed order: prepare()" in card._meaning(subject)
    assert "decode() brings outputs back" in card._meaning(subject)
    assert "bit-reversed" in " ".join(module.__doc__.split())
    one = ArraysTask(IMAGES, LABELS, permuted=True)
    _, subject = namespace(one, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(243, 2)))
    assert "of its inputs, positions are in bit-reversed order" in artefact.shapes(subject)
    assert "decode() brings" not in artefact.shapes(subject)
    module, subject = namespace(replace(both, permuted=False), network)
    assert "bit-reversed" not in artefact.code(subject) + card._meaning(subject)


def test_a_dense_network_serves_samples_in_their_own_order():
    """What it learned of permuted maps, prepare and decode make a function of the maps as they are."""
    task = ArraysTask(SERIES, 3 * SERIES - 1, kind="dense_regression", permuted=True)
    module, _ = namespace(task, torch.nn.Conv1d(1, 1, 1))
    # Standardised outputs are standardised inputs here, so the network to be learned is the identity.
    np.testing.assert_allclose(module.decode(module.prepare(SERIES))[:, 0], 3 * SERIES - 1, atol=1e-4)


def test_datasets_are_prepared_as_in_training():
    y = np.arange(40) % 2
    data = [(x[:, None], int(label)) for x, label in zip(SERIES, y, strict=True)]
    task = DatasetTask(data, data, channels="last", standardise=True)
    module, _ = namespace(task, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)))
    inside = torch.cat([x for x, _ in task.batches("test")])
    assert torch.equal(module.prepare(SERIES[:, :, None]), inside)


def test_inputs_that_are_not_standardised_are_left_alone():
    task = ArraysTask(SERIES, np.arange(40) % 2, standardise=False)
    module, _ = namespace(task, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)))
    assert torch.equal(module.prepare(SERIES), task.prepare(SERIES))
    assert not hasattr(module, "INPUT_MEAN")


def test_weights_of_every_type_are_read(tmp_path):
    network = torch.nn.Module()
    network.forward = lambda x: x
    for i, dtype in enumerate(artefact.DTYPES):
        network.register_buffer(f"b{i}", torch.arange(3 + i).to(dtype))
    network.register_buffer("scalar", torch.tensor(2.5, dtype=torch.bfloat16))
    network.register_buffer("empty", torch.zeros(0, 3))
    save_file(network.state_dict(), tmp_path / WEIGHTS)
    module, _ = namespace(TASK, network)
    loaded = module.load(tmp_path).state_dict()
    for name, value in network.state_dict().items():
        assert loaded[name].dtype == value.dtype
        assert loaded[name].shape == value.shape
        assert torch.equal(loaded[name].view(-1).view(torch.uint8), value.view(-1).view(torch.uint8))


def test_every_type_that_the_file_of_weights_can_hold_is_known():
    from safetensors.torch import _TYPES

    assert {(name, dtype) for dtype, name in artefact.DTYPES.items()} >= set(_TYPES.items())


def test_types_that_no_file_holds_are_refused_in_one_sentence(written):
    with pytest.raises(UsageError, match=r"its tensor turn is complex128, and weights.safetensors holds "):
        written(lambda model: model.register_buffer("turn", torch.zeros(3, dtype=torch.complex128)))


def test_only_a_meaning_of_ours_is_used():
    class Third(ToyTask):
        meaning = "to learn"

    assert verification.meaning(Third()) == Meaning()
    assert verification.meaning(Digits()) == Digits().meaning
    assert artefact.shapes(namespace(Third(), torch.nn.Identity())[1])


def test_what_is_exported_and_unchanged_is_kept(images):
    folder, made = images
    outcome = results.read(folder)
    task, spaces = export.reopen(outcome, None)
    written = [e.folder.stat().st_mtime_ns for e in made]
    assert export.export_networks(outcome, export.shown(outcome), spaces, task, again=False) == made
    assert [e.folder.stat().st_mtime_ns for e in made] == written


def test_what_was_changed_or_is_of_another_record_is_no_export_to_keep(images, tmp_path):
    one = images[1][0]
    copy = shutil.copytree(one.folder, tmp_path / "copy")
    assert export.existing(copy, one.key) == replace(one, folder=copy)
    assert export.existing(copy, "another") is None
    (copy / CARD).write_text("mine")
    assert export.existing(copy, one.key) is None


def test_a_task_that_does_not_say_how_it_prepares_samples_gets_no_functions_for_that(unreadable):
    (one,) = unreadable
    assert "whatever the task does to its data" in (one.folder / CARD).read_text()
    assert "def prepare" not in (one.folder / MODEL).read_text()


def test_generated_tasks_say_what_their_arrays_mean():
    task = Digits()
    assert task.meaning == task.arrays.meaning
    assert task.meaning.classes == tuple(range(10))
    assert task.meaning.axes == "[n, height, width]"


@pytest.fixture
def written(toy, tmp_path):
    """A function that writes the pick, perhaps changed, and gives what is judged after the other process."""

    def write(change=lambda model: None):
        outcome = results.read(toy)
        model = export.trained(outcome, outcome.pick, SPACES[outcome.pick.space])
        change(model)
        writing = Writing(outcome, TASK, tmp_path)
        writing.add(outcome.pick, model)
        return writing, *writing.subjects, *writing.outputs

    return write


def test_other_weights_than_those_measured_are_noticed(written):
    writing, subject, outputs = written(lambda model: model.outer.weight.data.neg_())
    with pytest.raises(UsageError, match="are not those it had"):
        writing._judged(subject, outputs, {"torch": outputs})


def test_other_outputs_than_the_searched_networks_are_noticed(written):
    writing, subject, outputs = written()
    checks = writing._judged(subject, outputs, {"torch": outputs}).checks
    assert checks["torch"] == 0
    assert checks["metric"] == checks["reported"]
    with pytest.raises(RuntimeError, match="gives other outputs than the searched one"):
        writing._judged(subject, outputs, {"torch": outputs * (1 + 1e-4)})


def test_code_that_needs_nasfw_is_not_left_behind(toy, tmp_path, monkeypatch):
    code = artefact.code
    monkeypatch.setattr(artefact, "code", lambda subject: code(subject) + "\nimport nasfw\n")
    with pytest.raises(RuntimeError, match=r"do not run without nasfw: .*nasfw"):
        exported(toy, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_working_directory_do_not_matter(toy, tmp_path, monkeypatch):
    for name in ("random", "torch", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    (one,) = exported(toy, tmp_path / "export")
    assert one.checks["torch"] == 0


def test_a_check_that_hangs_is_ended(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "_SECONDS", 0.1)
    with pytest.raises(RuntimeError, match="did not run through the test split"):
        exported(toy, tmp_path)


def test_without_onnx_the_rest_is_exported_in_place_of_a_former_export(images, tmp_path, monkeypatch):
    """One network, of a task given as an object, to a place of one's own."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    name = nasfw.show(images[0]).pick.name
    (tmp_path / name).mkdir()
    for file in (STATEMENT, "former"):
        (tmp_path / name / file).write_text("{}")
    (one,) = export.export(
        images[0], name[:4], ArraysTask(PLAIN, LABELS, x_test=OTHERS, y_test=OTHER_LABELS), tmp_path
    )
    assert one.folder == tmp_path / name
    assert {p.name for p in one.folder.iterdir()} == {MODEL, WEIGHTS, CARD, STATEMENT}
    assert "onnx" not in one.checks
    assert any('pip install "nasfw[cpu]"' in r for r in one.remarks)
    text = (one.folder / CARD).read_text()
    assert "model.onnx was not written" in text
    assert "InferenceSession" not in text


def test_a_model_that_onnx_runtime_does_not_run_is_left_out(unreadable):
    (one,) = unreadable
    assert {p.name for p in one.folder.iterdir()} == {MODEL, WEIGHTS, CARD, STATEMENT}
    assert one.remarks[0].startswith("model.onnx was left out: ONNX Runtime does not run it (")


def test_a_folder_that_is_no_export_is_not_replaced(toy, tmp_path):
    place = tmp_path / results.read(toy).pick.name
    place.mkdir()
    with pytest.raises(UsageError, match="is no export"):
        exported(toy, tmp_path)
    assert list(place.iterdir()) == []


def test_networks_are_found_by_what_tables_show(toy):
    outcome = results.read(toy)
    pick = outcome.pick
    for key in (pick.name, pick.name[:7], pick.keys[0], pick.keys[1]):
        assert export.find(outcome, key) == pick
    assert export.find(outcome, "plain") == outcome.plain
    with pytest.raises(UsageError, match="no network of the run is named 'random'"):
        export.find(outcome, "random")
    with pytest.raises(
        UsageError, match=rf"no network of the run is named 'zz'; there are .*{pick.name} \(pick\).*plain"
    ):
        export.find(outcome, "zz")


def test_exporting_says_what_it_lacks(toy, tmp_path):
    with pytest.raises(UsageError, match="a space made in Python"):
        export.export(toy, task=TASK)
    with pytest.raises(UsageError, match="holds no run"):
        export.export(tmp_path)


def test_other_data_than_the_runs_are_refused(images):
    with pytest.raises(UsageError, match="are not those of the run"):
        export.export(images[0], task=ArraysTask(PLAIN + 1, LABELS, x_test=OTHERS, y_test=OTHER_LABELS))
