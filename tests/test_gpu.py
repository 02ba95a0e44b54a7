"""The same on a graphics card as on the processor."""

import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

from nasfw import training
from nasfw.contracts import Candidate, Problem
from nasfw.engine import Budget, search, seeded
from nasfw.executors import Serial
from nasfw.hardware import measuring
from nasfw.hardware.cuda import Cuda
from nasfw.hardware.session import difference, open_session, to_onnx
from nasfw.mixtures import uniform
from nasfw.objectives.quality import Accuracy
from nasfw.objectives.size import Parameters
from nasfw.oneshot import Search
from nasfw.plugins import load
from nasfw.records import Records
from nasfw.spaces import products
from nasfw.spaces.aggconv import AggConv
from nasfw.spaces.named import operation
from nasfw.spaces.site import CONVOLUTIONS, site_of
from nasfw.strategies.darts import Darts, hypergradient
from nasfw.strategies.dash import Dash
from nasfw.tasks.digits import Digits
from nasfw.testing import DeviceContract, Free, ToyCells, ToySpace, ToyTask
from nasfw.values import Unsupported
from nasfw.workloads import Work

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
]


@pytest.fixture(autouse=True)
def alone(tmp_path_factory):
    """One test at a time has the card: memory and energy are those of the whole card."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "card.lock"):
        yield


@pytest.mark.parametrize("mode", ["results", "weights", "fourier"])
def test_supernet_gives_the_processors_output(mode):
    space = AggConv(Digits(), mode=mode)
    supernet = space.supernet().eval()
    x = torch.randn(4, 1, 8, 8)
    mixture = uniform(space.decisions)
    expected = supernet(x, mixture)
    # By default the card rounds the factors of convolutions to 10 bits.
    with torch.backends.cudnn.flags(allow_tf32=False):
        given = supernet.cuda()(x.cuda(), [m.cuda() for m in mixture])
    torch.testing.assert_close(given.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(9,), (300,), (6, 5)])
@pytest.mark.parametrize("option", ["xd", "xd2", "fourier"])
def test_operations_and_their_gradients_are_those_of_the_processor(option, size, monkeypatch):
    # Diagonals are made in parts, as large ones are.
    monkeypatch.setattr(products, "_AT_ONCE", 20)
    site = site_of(CONVOLUTIONS[len(size)](3, 4, 3, padding=1, padding_mode="circular"), size)
    layer, x = operation(site, option, extras=option == "xd2"), torch.randn(2, 3, *size)
    found = []
    for compute in ("cpu", "cuda"):
        placed, given = layer.to(compute), x.to(compute).requires_grad_()
        y = placed.train()(given)
        slopes = torch.autograd.grad(y.square().sum(), [given, *placed.parameters()])
        with torch.no_grad():
            found.append([v.cpu() for v in (y, placed.eval()(given), *slopes)])
    for on_card, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(on_card, expected, rtol=1e-3, atol=1e-3)


@dataclass(frozen=True)
class Stopping(ToyTask):
    """Raises in the batches of the third epoch."""

    epochs: int = 4
    seen: list[int] = field(default_factory=list, compare=False)

    def batches(self, split, batch_size=256, generator=None):
        self.seen.append(1)
        if len(self.seen) == 3:
            raise KeyboardInterrupt
        return super().batches(split, batch_size, generator)


def test_training_resumes_on_the_card(tmp_path):
    task, stopping = ToyTask(epochs=4), Stopping()
    whole, halved = (ToySpace(task).build((1.0, 2.0)) for _ in range(2))
    halved.load_state_dict(whole.state_dict())
    with seeded(0):
        training.fit(whole, task, task.recipe, compute="cuda:0")
    with seeded(0), pytest.raises(KeyboardInterrupt):
        training.fit(halved, stopping, task.recipe, compute="cuda:0", checkpoint=tmp_path / "c.pt")
    with seeded(0):
        training.fit(halved, task, task.recipe, compute="cuda:0", checkpoint=tmp_path / "c.pt")
    for a, b in zip(whole.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_dash_searches_on_the_card(tmp_path):
    task = ToyTask()
    problem = Problem(
        ToySpace(task), task, [Accuracy(), Parameters()], task.recipe, 0, tmp_path / "toy", "cuda:0"
    )
    with Records(tmp_path / "records.jsonl", write=True) as records:
        search(problem, "toy", Dash(epochs=2), records, Serial(), Budget())
        assert all(record.error is None for record in records)


REGISTRY = load(entry_points=False)
ONE_SHOT = [e.name for e in REGISTRY.entries("strategy") if hasattr(e.load(), "eigenvalue")]


@pytest.mark.parametrize("name", ONE_SHOT)
def test_one_shot_searches_run_on_the_card(tmp_path, name):
    """With everything that they make, in a space with all that a space can have."""
    task = ToyTask()
    problem = Problem(
        ToyCells(task), task, [Accuracy(), Parameters()], task.recipe, 0, tmp_path / "toy", "cuda:0"
    )
    strategy = REGISTRY.make("strategy", {name: {"epochs": 2}})
    with Records(tmp_path / "records.jsonl", write=True) as records:
        search(problem, "toy", strategy, records, Serial(), Budget())
        assert len(records.select("search")) > 1


@pytest.mark.parametrize("order", ["first", "second", "implicit"])
def test_hypergradients_on_the_card_are_those_of_the_processor(tmp_path, order):
    found = []
    for compute in ("cpu", "cuda:0"):
        task = ToyTask()
        problem = Problem(ToyCells(task), task, [Accuracy()], task.recipe, 0, tmp_path, compute)
        torch.manual_seed(0)
        ongoing = Search(problem, Free(), Darts(), Work(mixed=2.0))
        ongoing.outer = ongoing.logits(1.0)
        train, valid = next(ongoing.pairs())
        found.append(torch.cat(hypergradient(ongoing, train, valid, order)).cpu())
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-4)


def present(cuda, metric="latency"):
    """The device; the test is skipped, with the reason, if it cannot measure here."""
    try:
        cuda.check(metric)
    except Unsupported as reason:
        pytest.skip(str(reason))
    return cuda


class TestCuda(DeviceContract):
    @pytest.fixture
    def device(self):
        return present(Cuda())

    @pytest.fixture
    def candidate(self):
        """Large enough to be told from an idle card."""
        return image_candidate()


def image_candidate():
    task = Digits()
    space = AggConv(task)
    return Candidate(space, task, space.default)


def convolutions(width, count=4):
    layers = [nn.Conv2d(width if i else 3, width, 3, padding=1) for i in range(count)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def serialised(model, batch=1):
    return to_onnx(model, (3, 64, 64), batch).SerializeToString()


def seconds_by_the_wall(cuda, model, runs=50):
    """Of one inference, if many are queued and then waited for."""
    run = open_session(model, cuda.runtime).bound()
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(runs):
            run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / runs)
    return min(times)


def test_latency_by_events_is_in_seconds():
    """Of a network that keeps the card busy, so that a run takes what it takes in a queue of runs."""
    cuda = present(Cuda(batch=16))
    model = serialised(convolutions(128), 16)
    (value,) = cuda.measure_onnx("latency", [model], 30)
    assert value.clock == "CUDA events"
    assert 0 < value.low <= value <= value.high
    assert 1 / 3 < value / seconds_by_the_wall(cuda, model) < 3


def test_a_larger_network_takes_longer_on_the_card():
    """64 times the products."""
    cuda = present(Cuda(batch=16))
    small, large = cuda.measure_onnx("latency", [serialised(convolutions(w), 16) for w in (32, 256)], 20)
    assert large > 2 * small


def test_a_card_tells_its_name_and_depends_on_its_settings():
    cuda = present(Cuda())
    assert cuda.name == torch.cuda.get_device_name(0)
    prints = [Cuda(**given).fingerprint for given in ({}, {"batch": 2}, {"precision": "fp16"})]
    assert all(one["device"] == cuda.name for one in prints)
    assert prints[0] != prints[1] != prints[2] != prints[0]


def test_cards_are_counted():
    count = torch.cuda.device_count()
    with pytest.raises(Unsupported, match=f"no graphics card {count} here; torch sees {count}"):
        Cuda(count).check("latency")


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_session_on_the_card_computes_what_torch_computes(dynamic):
    """As far as the card's arithmetic goes, which rounds factors to 10 bits by default."""
    cuda = present(Cuda(batch=2, dynamic=dynamic))
    torch.manual_seed(0)
    model = convolutions(16)
    session = open_session(serialised(model, None if dynamic else 2), cuda.runtime)
    assert session.inference.get_providers()[0] == "CUDAExecutionProvider"
    assert difference(session, model, torch.randn(2, 3, 64, 64)) < 5e-3


def test_half_precision_on_the_card():
    """The difference from torch is told; the same weights take half the bytes."""
    cuda = present(Cuda(precision="fp16"))
    (value,) = cuda.measure_all("latency", [image_candidate()])
    assert value > 0
    assert "outputs in fp16 differ from torch's by" in value.remark
    model = serialised(convolutions(64))
    assert len(open_session(model, cuda.runtime).model) < 0.6 * len(model)


def test_tensorrt():
    """Its engine computes what torch computes, and is kept."""
    cuda = present(Cuda(provider="tensorrt", batch=2))
    torch.manual_seed(0)
    model = convolutions(16)
    session = open_session(serialised(model, 2), cuda.runtime)
    assert session.inference.get_providers()[0] == "TensorrtExecutionProvider"
    assert difference(session, model, torch.randn(2, 3, 64, 64)) < 5e-3
    assert cuda.measure_onnx("latency", [serialised(model, 2)], 10)[0] > 0


def test_memory_of_the_card_holds_the_weights():
    """64 MiB of them."""
    cuda = present(Cuda(), "memory")
    model = nn.Sequential(nn.Linear(4096, 4096, bias=False)).eval()
    (value,) = cuda.measure_onnx("memory", [to_onnx(model, (4096,)).SerializeToString()])
    assert value > 4 * 4096**2
    assert value.clock == "memory of the whole card"


def test_energy_of_the_card_grows_with_the_work():
    """It lies above idle power, and below what the card could draw at most, for so many seconds."""
    cuda = present(Cuda(batch=64), "energy")
    models = [serialised(convolutions(width), 64) for width in (64, 256)]
    small, large = cuda.measure_onnx("energy", models)
    assert 0 < small < large
    times = [seconds_by_the_wall(cuda, model, 20) for model in models]
    watts = np.array([small, large]) / times
    assert (watts > 1).all()
    assert (watts < 3000).all()
    assert measuring.meter(cuda.runtime).name in large.clock
