"""Peak memory against what must be in it."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from nasfw.hardware import footprint, machine
from nasfw.hardware.session import Runtime, Session, open_session, to_onnx
from nasfw.values import Unsupported

pytest.importorskip("onnxruntime")


def opened(model, shape, batch=1):
    runtime = Runtime(batch=batch)
    return open_session(to_onnx(model.eval(), shape, batch).SerializeToString(), runtime)


@pytest.mark.slow
def test_weights_and_maps_are_in_the_peak():
    """8 MiB of weights; for a batch of 64, further maps of 16 MiB each."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(1024, 2048), nn.Unflatten(1, (2, 32, 32)), nn.Conv2d(2, 64, 3, padding=1)
    )
    weights = sum(p.nbytes for p in layers.parameters())
    one = footprint.peak(opened(layers, (1024,)))
    many = footprint.peak(opened(layers, (1024,), 64))
    assert weights > 2**23
    assert one > weights
    output = 64 * 64 * 32 * 32 * 4
    assert many > one + output // 2
    # It is the network's memory, not that of Python and the runtime around it, which take hundreds of MiB.
    assert one < 10 * weights
    for value in (one, many):
        assert value.low <= value <= value.high
        assert value.repetitions == 3
        assert value.clock == "resident memory of a process"
        assert value.drift is None


def test_a_process_that_fails_tells_why():
    with pytest.raises(Unsupported) as caught:
        footprint.peak(Session(Runtime(), b"no model", None, {}))
    assert "the process that measures the memory failed" in str(caught.value)
    assert "this is no ONNX model" in str(caught.value)
    assert "\n" not in str(caught.value)


def told(monkeypatch, *code):
    """As if the process that measures were this one."""
    usual = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **how: usual([sys.executable, *code], **how))


def test_a_process_that_dies_without_a_word_is_said(monkeypatch):
    told(monkeypatch, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(Unsupported, match="failed: no reason given"):
        footprint.peak(Session(Runtime(), b"", None, {}))


def test_a_process_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(footprint, "_TIMEOUT", 0.2)
    told(monkeypatch, "-c", "import time; time.sleep(60)")
    with pytest.raises(Unsupported, match="more than"):
        footprint.peak(Session(Runtime(), b"", None, {}))


def test_a_system_that_does_not_tell_is_no_measurement(monkeypatch):
    told(monkeypatch, "-c", "print([0, 0, 0])")
    with pytest.raises(Unsupported, match="does not tell a process's peak memory"):
        footprint.peak(Session(Runtime(), b"", None, {}))


def test_the_median_of_the_peaks_counts(monkeypatch):
    told(monkeypatch, "-c", "print([5, 300, 7])")
    value = footprint.peak(Session(Runtime(), b"", None, {}, "outputs differ"))
    assert (value, value.low, value.high, value.repetitions) == (7.0, 5.0, 300.0, 3)
    assert value.remark == "outputs differ"


def test_held_memory_grows_by_what_is_allocated():
    before = machine.held_memory()
    kept = torch.ones(2**24)
    assert machine.held_memory() - before > 0.9 * kept.nbytes
    assert machine.peak_memory() >= machine.held_memory() * 0.9
