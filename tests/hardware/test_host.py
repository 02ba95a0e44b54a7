"""This machine's processor as a device."""

import math
from functools import partial

import pytest
from torch import nn

from nasfw import caches
from nasfw.contracts import Candidate
from nasfw.hardware import energy, machine, protocol
from nasfw.hardware.host import Host
from nasfw.hardware.session import to_onnx
from nasfw.plugins import load
from nasfw.testing import DeviceContract, ToySpace, ToyTask
from nasfw.values import Measured, Unsupported, UsageError

pytest.importorskip("onnxruntime")


def toy(*architecture):
    task = ToyTask()
    return Candidate(ToySpace(task), task, architecture)


def onnx(*sizes, batch=1):
    return to_onnx(nn.Linear(*sizes).eval(), sizes[:1], batch).SerializeToString()


class TestHost(DeviceContract):
    @pytest.fixture
    def device(self):
        return Host()


@pytest.mark.parametrize(
    ("host", "settings"),
    [
        (Host(), ""),
        (Host(threads=2), ", 2 threads"),
        (Host(batch=8), ", batch 8"),
        (Host(precision="int8"), ", int8"),
        (Host(dynamic=True), ", dynamic"),
        (Host(reuse=False), ""),
    ],
)
def test_the_name_tells_the_processor_and_the_settings(host, settings):
    parts = settings.removeprefix(", ").split() if settings else []
    assert host.name.startswith(machine.processor())
    assert sorted(host.name.removeprefix(machine.processor()).replace(",", "").split()) == sorted(parts)


def test_what_values_depend_on_is_in_the_fingerprint():
    """And whether they are reused is not."""
    settings = [{}, {"threads": 2}, {"batch": 2}, {"precision": "int8"}, {"dynamic": True}]
    prints = [Host(**given).fingerprint for given in settings]
    assert all(one not in prints[:i] for i, one in enumerate(prints))
    assert Host(reuse=False).fingerprint == prints[0]
    assert prints[0]["device"] == machine.processor()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 0}, "batch"),
        ({"threads": 0}, "threads"),
        ({"precision": "fp16"}, "'fp32' or 'int8'"),
        ({"thread": 1}, "threads"),
    ],
)
def test_parameters_are_checked(given, message):
    with pytest.raises(UsageError, match=message):
        load(entry_points=False).make("device", {"host": given})


def test_more_threads_than_cores_are_warned_of_once(caplog):
    caches.warn_once.cache_clear()
    many = machine.cores() + 5
    for host in (Host(threads=machine.cores()), Host(threads=many), Host(threads=many)):
        host.check("latency")
    (record,) = caplog.records
    assert f"{many} threads share {machine.cores()} cores" in record.message


@pytest.fixture
def no_meter():
    """Why this machine's energy cannot be read."""
    try:
        energy.cpu_meter()
    except Unsupported as reason:
        return str(reason)
    return pytest.skip("this machine's energy can be read")


def test_energy_that_cannot_be_read_is_said_with_a_remedy(no_meter):
    assert "sudo" in no_meter or "Linux only" in no_meter
    for ask in (lambda: Host().check("energy"), lambda: Host().measure("energy", toy(1.0, 2.0))):
        with pytest.raises(Unsupported) as caught:
            ask()
        assert str(caught.value) == no_meter


def test_a_metric_that_there_is_not_is_refused_before_anything_is_built():
    with pytest.raises(Unsupported, match="measures latency, energy, memory, not 'weight'"):
        Host().measure_onnx("weight", [b"no model"])


def test_latency_has_its_details():
    value = Host().measure("latency", toy(1.0, 2.0))
    assert isinstance(value, Measured)
    assert 0 < value.low <= value <= value.high < 1
    assert value.repetitions >= 7
    assert value.drift > 0
    assert value.clock == "processor time of the thread"


def test_a_network_a_hundred_times_as_large_takes_longer():
    """10^6 weights, or 10^4; not a hundred times as long, as starting takes time too."""
    small, large = Host().measure_onnx("latency", [onnx(100, 100), onnx(1000, 1000)], 9)
    assert large > 3 * small
    assert math.isfinite(large)


def test_files_are_measured_in_their_batch():
    (value,) = Host(batch=4).measure_onnx("latency", [onnx(6, 5, batch=4)], 3)
    assert value > 0
    with pytest.raises(UsageError, match="batch of 4 built in, not 1"):
        Host().measure_onnx("latency", [onnx(6, 5, batch=4)], 3)


def test_files_with_a_symbolic_batch_are_measured_in_any():
    assert Host(batch=3).measure_onnx("latency", [onnx(6, 5, batch=None)], 3)[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("host", [Host(precision="int8"), Host(dynamic=True, batch=2), Host(threads=2)])
def test_networks_are_measured_in_every_setting(host, monkeypatch):
    # A few bursts are enough where nobody asks how calm the machine was.
    brief = partial(protocol.calibrate, bursts=3, pause=0.0)
    monkeypatch.setattr(protocol, "calibrate", brief)
    (value,) = host.measure_all("latency", [toy(1.0, 2.0)], 3)
    assert 0 < value < 1
    assert ("whose outputs differ" in value.remark) == (host.precision == "int8")
    assert (value.clock == "wall clock, least of 5") == (host.threads == 2)
