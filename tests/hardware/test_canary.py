"""The reference networks are always the same, and so are their times once they are known."""

import json
import logging
import math
from dataclasses import replace

import pytest
import torch

from nasfw import caches
from nasfw.hardware import canary, protocol
from nasfw.hardware.protocol import ThreadClock, WallClock
from nasfw.hardware.session import Runtime
from nasfw.values import Unsupported

pytest.importorskip("onnxruntime")

SMALL, LARGE = zip((canary._SMALL, canary._LARGE), canary._SIZES, strict=True)


@pytest.fixture
def found(monkeypatch, tmp_path):
    """Calibrations so far; instead of a clock, their number decides what they find."""
    calls = []

    def calibrate(canaries, clock):
        for run in canaries:
            run()
        calls.append(clock.name)
        return 1e-3 * len(calls), 5e-3 * len(calls)

    monkeypatch.setenv("NASFW_CACHE", str(tmp_path))
    monkeypatch.setattr(canary, "_known", {})
    monkeypatch.setattr(protocol, "calibrate", calibrate)
    caches.warn_once.cache_clear()
    return calls


def new_process(monkeypatch):
    monkeypatch.setattr(canary, "_known", {})


FINGERPRINT = {"device": "CPU 5", "cores": 2, "system": "Linux", "runtime": "ORT 1", "provider": "CPU"}
FINGERPRINT |= {"index": 0, "threads": 1, "batch": 1, "precision": "fp32", "dynamic": False}


def reference(clock=None, **changes):
    return canary.reference(Runtime(), clock or ThreadClock(), FINGERPRINT | changes)


@pytest.mark.parametrize(("layers", "size"), [SMALL, LARGE])
def test_a_network_is_always_the_same(layers, size):
    """Whatever torch's seed, which it leaves alone."""
    torch.manual_seed(5)
    one = canary.network(layers)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    other = canary.network(layers)
    x = torch.randn(2, 16, size, size)
    assert torch.equal(one(x), other(x))
    assert one(x).shape == (2, 10)


def test_the_large_one_is_larger():
    """By so much that networks lie between, and not by so much that none lies near one of them."""
    assert 10 < products(*LARGE) / products(*SMALL) < 1000


def products(layers, size):
    """Of all convolutions, the positions at the border included."""
    total = 0
    for inputs, outputs, kernel, _, stride in layers:
        size = math.ceil(size / stride)
        total += inputs * outputs * kernel**2 * size**2
    return total


@pytest.mark.parametrize("runtime", [Runtime(), Runtime(batch=8, precision="int8", dynamic=True)])
def test_they_run_in_single_precision_with_one_input(runtime):
    for run in canary.pair(runtime):
        (output,) = run()
        assert output.shape == (1, 10)
        assert abs(output).sum() > 0


def test_times_are_found_once_and_kept(found, monkeypatch):
    assert reference() == (1e-3, 5e-3)
    assert reference() == (1e-3, 5e-3)
    new_process(monkeypatch)
    assert reference() == (1e-3, 5e-3)
    assert found == [ThreadClock.name]


@pytest.mark.parametrize("change", ["device", "cores", "system", "runtime", "provider", "threads", "card"])
def test_another_device_has_other_times(found, change):
    assert reference() == (1e-3, 5e-3)
    assert reference(**{change: 3}) == (2e-3, 10e-3)
    assert reference() == (1e-3, 5e-3)


def test_another_clock_has_other_times(found):
    reference()
    reference(WallClock())
    assert found == [ThreadClock.name, WallClock.name]


def test_other_networks_beside_them_have_the_same(found):
    reference()
    reference(batch=8, precision="int8", dynamic=True)
    assert len(found) == 1


@pytest.mark.parametrize(
    "content", [[0.0, 1.0], [1.0], [-1.0, 2.0], ["fast", 1.0], None, [1e-3, float("nan")]]
)
def test_times_that_are_none_are_found_anew(found, monkeypatch, tmp_path, content, caplog):
    reference()
    (file,) = (tmp_path / "canary").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"content": content}))
    new_process(monkeypatch)
    with caplog.at_level(logging.WARNING, "nasfw"):
        assert reference() == (2e-3, 10e-3)
    assert "is damaged and is made anew" in caplog.text
    new_process(monkeypatch)
    assert reference() == (2e-3, 10e-3)


def test_a_card_that_is_not_there_has_no_reference(found):
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(Unsupported, match="CUDAExecutionProvider"):
        canary.pair(replace(Runtime(), provider="CUDAExecutionProvider"))
