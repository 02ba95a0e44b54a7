"""What devices can do, and whether two of them agree."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from nasfw import config, devices
from nasfw.contracts import Device
from nasfw.hardware import canary, measuring
from nasfw.hardware.host import Host
from nasfw.hardware.session import to_onnx
from nasfw.plugins import Registry, load
from nasfw.testing import ToySpace, ToyTask
from nasfw.values import Measured, Unsupported, UsageError


@dataclass(frozen=True)
class Card(Device):
    """One of three cards, which take a second for every byte of a model, or for every unit of a scale."""

    index: int = 0
    slower: float = 1.0

    metrics = ("latency", "energy")

    @property
    def name(self):
        if self.index > 2:
            raise Unsupported(f"there is no card {self.index}")
        return f"Card {'ABC'[self.index]}"

    def check(self, metric):
        super().check(metric)
        if metric == "energy" and self.index == 1:
            raise Unsupported("its meter is broken; mend it")

    def measure(self, metric, candidate):
        return self.slower * (1 + 4 * candidate.architecture[0] + candidate.architecture[1])

    def measure_onnx(self, metric, models, rounds=None):
        return [self.slower * len(m) for m in models]


@dataclass(frozen=True)
class Contrary(Device):
    """Is slow where the cards are fast. Knows no cards, whatever the index."""

    index: int = 0

    metrics = ("latency",)

    @property
    def name(self):
        return "Contrary"

    def measure(self, metric, candidate):
        return 1 / Card().measure(metric, candidate)


@dataclass(frozen=True)
class Plug(Device):
    """Has to be named."""

    address: str
    port: int

    metrics = ("latency",)

    @property
    def name(self):
        return self.address

    def measure(self, metric, candidate):
        return 1.0


def with_cards(registry):
    for name, plugin in {"card": Card, "contrary": Contrary, "plug": Plug}.items():
        registry.add(name, plugin)
    return registry


@pytest.fixture
def registry():
    """What ships, and the devices above."""
    registry = with_cards(load(entry_points=False))
    registry.add("toy", ToyTask)
    registry.add("toyspace", ToySpace)
    return registry


TOYS = {"task": "toy", "spaces": "toyspace"}


@pytest.fixture
def models(tmp_path):
    """Two ONNX files."""
    files = [tmp_path / "small.onnx", tmp_path / "large.onnx"]
    for file, width in zip(files, (2, 20), strict=True):
        file.write_bytes(to_onnx(nn.Linear(4, width).eval(), (4,)).SerializeToString())
    return files


def test_devices_are_listed_with_what_they_can_measure():
    registry = with_cards(Registry())
    registry.add_lazy("device", "lost", "no_such_module:Device")
    first, second, third, contrary, lost = devices.here(registry)
    assert [first.spec, second.spec, third.spec] == ["card", {"card": {"index": 1}}, {"card": {"index": 2}}]
    assert [d.name for d in (first, second, third, contrary)] == ["Card A", "Card B", "Card C", "Contrary"]
    assert first.metrics == {"latency": None, "energy": None}
    assert second.metrics == {"latency": None, "energy": "its meter is broken; mend it"}
    assert second.fingerprint == {"device": "Card B"}
    assert "cannot be imported" in lost.problem


def test_devices_with_parameters_are_named():
    assert devices.waiting(with_cards(Registry())) == {"plug": ["address", "port"]}


def test_a_device_that_is_not_there_is_listed_with_the_reason():
    registry = Registry()
    registry.add("none", Absent)
    assert devices.here(registry) == [devices.Described("none", problem="there is no such thing")]


@dataclass(frozen=True)
class Absent(Device):
    """Is not there."""

    index: int = 0

    @property
    def name(self):
        raise Unsupported("there is no such thing")

    def measure(self, metric, candidate):
        raise NotImplementedError


def test_times_of_the_reference_networks_are_told_once_they_are_known(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path))
    monkeypatch.setattr(canary, "_known", {})
    registry, host = Registry(), Host()
    registry.add("host", Host)
    assert devices.here(registry)[0].canary is None
    known = canary.reference(host.runtime, measuring.clock(host.runtime), host.fingerprint)
    assert devices.here(registry)[0].canary == known


def test_files_are_measured_on_every_device(registry, models):
    pair = devices.chosen({"hardware": [{"card": {}}, {"card": {"index": 2, "slower": 2.0}}]}, registry)
    found = devices.measure(models, pair, ["latency"])
    sizes = [len(m.read_bytes()) for m in models]
    assert [m.value for m in found.done] == [*sizes, *(2.0 * s for s in sizes)]
    assert [(m.spec, m.device) for m in found.done[1:3]] == [
        ("card", "Card A"),
        ("{card: {index: 2, slower: 2.0}}", "Card C"),
    ]
    assert all(isinstance(m.value, Measured) for m in found.done)


def test_what_cannot_be_measured_is_left_out_unless_it_is_named(registry, models):
    broken = [("card", Card(1))]
    found = devices.measure(models, broken)
    assert {m.metric for m in found.done} == {"latency"}
    assert found.left_out == ["energy on card: its meter is broken; mend it"]
    for metrics in (["energy"], ["latency", "energy"]):
        with pytest.raises(Unsupported, match="energy on card: its meter is broken"):
            devices.measure(models, broken, metrics)


@dataclass(frozen=True)
class Picky(Card):
    """Takes no models of more than so many bytes, and says so of the first in a row."""

    most: int = 0

    def measure_onnx(self, metric, models, rounds=None):
        for model in models:
            if len(model) > self.most:
                raise Unsupported(f"{len(model)} bytes are too many")
        return super().measure_onnx(metric, models, rounds)


def test_a_file_that_cannot_be_measured_does_not_keep_others_from_it(models):
    sizes = [len(m.read_bytes()) for m in models]
    found = devices.measure(models, [("card", Picky(most=min(sizes)))], ["latency"])
    assert [m.value for m in found.done] == [s for s in sizes if s == min(sizes)]
    assert found.failed == [
        f"latency of {m} on card: {s} bytes are too many"
        for m, s in zip(models, sizes, strict=True)
        if s > min(sizes)
    ]
    assert found.failed
    with pytest.raises(Unsupported, match=f"^latency of {models[0]} on card: {sizes[0]} bytes are too many"):
        devices.measure(models, [("card", Picky())], ["latency"])
    with pytest.raises(Unsupported, match="too many"):
        devices.measure(models[:1], [("card", Picky())], ["latency"])


def test_a_metric_that_no_file_has_does_not_lose_the_others(models):
    @dataclass(frozen=True)
    class Hungry(Card):
        def measure_onnx(self, metric, given, rounds=None):
            if metric == "energy":
                raise Unsupported("it is too hungry")
            return super().measure_onnx(metric, given, rounds)

    found = devices.measure(models, [("card", Hungry())])
    assert [m.metric for m in found.done] == ["latency"] * len(models)
    assert found.failed == [f"energy of {m} on card: it is too hungry" for m in models]


def test_files_that_are_no_models_are_refused(models, tmp_path):
    (tmp_path / "text.onnx").write_text("Conv")
    for name, message in {"text.onnx": "no ONNX model", "gone.onnx": "cannot be read"}.items():
        with pytest.raises(UsageError, match=message):
            devices.measure([*models, tmp_path / name], [("card", Card())])


def test_devices_are_written_as_they_are_read(registry):
    text = "[card,{card: {index: 2}}]"
    found = devices.chosen(config.parse([f"hardware={text}", "hardware.slower=2.5"]), registry)
    assert [device for _, device in found] == [Card(slower=2.5), Card(2, 2.5)]
    again = devices.chosen(config.parse([f"hardware=[{','.join(spec for spec, _ in found)}]"]), registry)
    assert again == found


def test_units_are_those_of_the_objectives(registry):
    assert devices.unit("latency", registry) == "s"
    assert devices.unit("weight", registry) == ""


def test_a_device_agrees_with_a_slower_one_of_its_kind(registry):
    """The order is the same, so all rank correlations are 1, for every sample of the networks."""
    given = {**TOYS, "samples": 8, "seed": 3}
    found = devices.compare("card", {"card": {"slower": 2.0}}, given, registry)
    assert found.agreement == devices.Agreement(*map(pytest.approx, (1.0, 1.0, 1.0, 1.0, 2.0, 1.0)))
    assert len(set(found.architectures)) == 8
    assert found.values[1] == [2 * v for v in found.values[0]]
    assert (found.specs, found.names) == (("card", "{card: {slower: 2.0}}"), ("Card A", "Card A"))


def test_a_device_does_not_agree_with_its_opposite(registry):
    found = devices.compare("card", "contrary", {**TOYS, "samples": 8}, registry).agreement
    assert (found.tau, found.tau_low, found.tau_high) == pytest.approx((-1.0, -1.0, -1.0))
    assert found.half == 0.0


def test_a_comparison_repeats_and_leaves_torchs_stream_alone(registry):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (devices.compare("card", "contrary", {**TOYS, "samples": 6}, registry) for _ in range(2))
    assert first == second
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": 3}, "samples cannot be 3"),
        ({"sample": 3}, "there is no setting 'sample' here; did you mean 'samples'"),
        ({"strategy": "random"}, "there is no setting 'strategy' here"),
        ({"metric": "weight"}, "weight on card: device Card A measures latency, energy, not 'weight'"),
        ({"spaces": ["toyspace", "toyspace"]}, "on one space, not on 2"),
        ({"spaces": {"toyspace": {"scales": [1.0]}}}, "a space of 1 networks is too small"),
    ],
)
def test_comparisons_that_cannot_be_made(registry, given, message):
    with pytest.raises(UsageError) as caught:
        devices.compare("card", "contrary", {**TOYS, **given}, registry)
    assert message in str(caught.value)


def test_kendalls_tau_is_the_excess_of_concordant_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    pairs = list(itertools.combinations(range(12), 2))
    excess = sum(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs)
    found = devices.agreement(x, y)
    assert found.tau == pytest.approx(excess / len(pairs))
    assert -1 <= found.tau_low <= found.tau <= found.tau_high <= 1


def test_the_interval_of_tau_is_narrower_for_more_networks():
    rng = np.random.default_rng(0)
    widths = []
    for count in (10, 40, 160):
        x = rng.normal(size=count)
        found = devices.agreement(x, x + 0.5 * rng.normal(size=count))
        widths.append(found.tau_high - found.tau_low)
    assert widths == sorted(widths, reverse=True)


def test_equal_values_have_no_order():
    found = devices.agreement([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert all(map(math.isnan, (found.tau, found.tau_low, found.tau_high, found.spearman)))
    assert found.ratio == 3.0
