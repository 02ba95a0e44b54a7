"""Platforms give the file's milliseconds in seconds, and say which networks are constants."""

import numpy as np
import pytest
from nasfw_nasbench201.cells import architectures, is_constant
from nasfw_nasbench201.devices import Platform

import nasfw
from nasfw.testing import DeviceContract


class TestContract(DeviceContract):
    @pytest.fixture
    def device(self, latencies):
        return Platform("fast", latencies)

    @pytest.fixture
    def candidate(self, space):
        return nasfw.Candidate(space, space.task, space.default)


@pytest.mark.parametrize(("platform", "factor"), [("fast", 1.0), ("slow_32", 100.0)])
def test_milliseconds_become_seconds(space, latencies, platform, factor):
    device = Platform(platform, latencies)
    for index in (0, 7, 15624):
        shown = nasfw.Candidate(space, space.task, architectures()[index])
        value = device.measure("latency", shown)
        assert value == pytest.approx(factor * (index + 1) / 1000, rel=1e-12)
        assert value.clock == "table latencies.npz"


def test_networks_that_are_constants_say_so(space, latencies):
    device = Platform("fast", latencies)

    def remark(architecture):
        return device.measure("latency", nasfw.Candidate(space, space.task, architecture)).remark

    assert remark(space.default) == ""
    assert "a constant" in remark(("skip_connect",) * 3 + ("none",) * 3)


def test_all_real_times_that_are_next_to_nothing_are_of_constants(real):
    """On two platforms a compiler has seen that the output does not depend on the input."""
    constant = np.array([is_constant(a) for a in architectures()])
    with np.load(real("nb201_latency_ms.npz"), allow_pickle=False) as file:
        latency = dict(zip(file["devices"].tolist(), file["latency_ms"], strict=True))
    for name, values in latency.items():
        small = values < np.median(values) / 20
        assert not (small & ~constant).any(), name
        assert small.any() == (name in ("raspi4", "pixel3")), name


def test_a_platform_that_the_file_lacks_is_named_with_those_there_are(latencies):
    with pytest.raises(nasfw.UsageError, match=r"has the devices fast, slow_32, and no 'medium'"):
        Platform("medium", latencies).check("latency")


def test_a_file_without_latencies_is_refused(file):
    with pytest.raises(nasfw.UsageError, match="has no latency_ms"):
        Platform("fast", file).check("latency")


def test_its_fingerprint_is_that_of_the_content(latencies, file):
    one, other = Platform("fast", latencies), Platform("fast", file)
    assert one.fingerprint["content"] != other.fingerprint["content"]
