"""Graphics cards as devices, as far as that can be seen without one; tests/test_gpu.py has the rest."""

import pytest
import torch

from nasfw.contracts import Candidate
from nasfw.hardware.cuda import Cuda
from nasfw.plugins import load
from nasfw.testing import ToySpace, ToyTask
from nasfw.values import Unsupported, UsageError


def ways_to_ask(cuda):
    """Everything that needs the card to be there."""
    task = ToyTask()
    candidate = Candidate(ToySpace(task), task, (1.0, 2.0))
    return {
        "name": lambda: cuda.name,
        "fingerprint": lambda: cuda.fingerprint,
        "check": lambda: cuda.check("latency"),
        "measure": lambda: cuda.measure("latency", candidate),
        "measure_onnx": lambda: cuda.measure_onnx("latency", [b""]),
    }


@pytest.mark.parametrize("way", ["name", "fingerprint", "check", "measure", "measure_onnx"])
@pytest.mark.parametrize(
    ("cards", "index", "there"), [(0, 0, "torch sees none"), (2, 2, "torch sees 2"), (1, 7, "torch sees 1")]
)
def test_a_card_that_is_not_there_is_named_with_how_many_there_are(monkeypatch, cards, index, there, way):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    with pytest.raises(Unsupported, match=f"there is no graphics card {index} here; {there}"):
        ways_to_ask(Cuda(index))[way]()


@pytest.fixture
def card(monkeypatch):
    """As if there were two cards."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "Card 0"),
        ({"index": 1}, "Card 1"),
        ({"batch": 64}, "Card 0, batch 64"),
        ({"provider": "tensorrt"}, "Card 0, TensorRT"),
        ({"precision": "fp16", "batch": 2}, "Card 0, batch 2, fp16"),
        ({"dynamic": True}, "Card 0, dynamic"),
        ({"reuse": False}, "Card 0"),
    ],
)
def test_the_name_tells_the_card_and_the_settings(card, given, name):
    assert Cuda(**given).name == name


@pytest.mark.parametrize(
    ("provider", "needed"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_a_runtime_without_the_provider_is_named_with_what_to_install(card, provider, needed):
    runtime = pytest.importorskip("onnxruntime")
    if needed in runtime.get_available_providers():
        pytest.skip("it has the provider")
    cuda = Cuda(provider=provider)
    for way, ask in ways_to_ask(cuda).items():
        if way != "name":
            with pytest.raises(Unsupported, match=rf'no {needed} here.*pip install "nasfw\[gpu\]"'):
                ask()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"index": -1}, "index"),
        ({"batch": 0}, "batch"),
        ({"precision": "int8"}, "'fp32' or 'fp16'"),
        ({"provider": "rocm"}, "'cuda' or 'tensorrt'"),
    ],
)
def test_parameters_are_checked(given, message):
    with pytest.raises(UsageError, match=message):
        load(entry_points=False).make("device", {"cuda": given})
