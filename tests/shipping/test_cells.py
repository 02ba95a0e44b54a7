"""Networks of cells as files that work without nasfw."""

import numpy as np
import pytest
import torch

import nasfw
from nasfw import results
from nasfw.shipping import export
from nasfw.shipping.artefact import CARD, MODEL
from nasfw.shipping.standalone import source
from nasfw.spaces.cell import Darts
from nasfw.spaces.robust import S4, S5
from nasfw.tasks.arrays import ArraysTask

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 2
MAPS = (RNG.normal(size=(40, 1, 9, 7)) + LABELS[:, None, None, None]).astype(np.float32)
SERIES = (RNG.normal(size=(40, 2, 5)) + LABELS[:, None, None]).astype(np.float32)
# With what helps in training: drop path and a second head.
AIDED = {
    "layers": 3,
    "channels": 4,
    "final_layers": 4,
    "final_channels": 4,
    "drop_path": 0.3,
    "auxiliary": 0.4,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "x"),
    [
        ("darts", AIDED, MAPS),
        ("nasbench201", {"cells": 1, "channels": 4}, SERIES),
    ],
)
def test_networks_of_cells_are_shipped_as_they_were_trained(name, settings, x, tmp_path):
    np.savez(tmp_path / "my.npz", x_train=x, y_train=LABELS, x_test=x[:20], y_test=LABELS[:20])
    nasfw.run(
        task={"arrays": {"file": str(tmp_path / "my.npz"), "channels": "first"}},
        folder=tmp_path / "run",
        spaces={name: settings},
        strategy={"random": {"trials": 1}},
        recipe={"epochs": 2, "lr": 0.01},
        final={"seeds": 1, "limit": 1},
        yardsticks=[],
        objectives=["accuracy", "parameters"],
    )
    (made,) = export.export(tmp_path / "run")
    assert made.checks["torch"] <= 1e-6
    assert made.checks["onnx"] <= 1e-4
    assert made.checks["metric"] == pytest.approx(made.checks["reported"], abs=1e-9)
    assert made.remarks == ()
    (network,) = results.read(tmp_path / "run").front
    assert network.text.startswith({"darts": "Genotype(normal=[(", "nasbench201": "|"}[name])
    assert f"```\n{network.text}\n```" in (made.folder / CARD).read_text()
    code = (made.folder / MODEL).read_text()
    assert f"Architecture ({name}): {network.text}." in " ".join(code.split())
    assert max(map(len, code.splitlines())) <= 110


@pytest.mark.parametrize("x", [MAPS, SERIES])
@pytest.mark.parametrize(
    "make",
    [
        lambda task: Darts(task, layers=3, channels=4, nodes=1, operations="nasnet", final=True),
        lambda task: S4(task, layers=3, channels=4, nodes=2),
        lambda task: S5(task, channels=3),
    ],
)
def test_all_operations_can_be_written_as_code_and_as_onnx(make, x):
    """Checked against the network by the writers themselves, or by running both."""
    onnx = pytest.importorskip("onnx")
    session = pytest.importorskip("onnxruntime")
    from nasfw.hardware.converter import convert

    task = ArraysTask(x=x, y=LABELS, channels="first")
    space = make(task)
    inputs = torch.from_numpy(x[:3])
    most = max(len(options) for options in space.decisions.values())
    for j in range(1, most, 4):
        model = space.build(tuple(o[min(j, len(o) - 1)] for o in space.decisions.values())).eval()
        assert "layer by layer" in source(model, inputs).code
        proto = convert(model, task.input_shape, None)
        onnx.checker.check_model(proto)
        run = session.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (found,) = run.run(None, {"input": inputs.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(inputs), rtol=1e-4, atol=1e-4)
