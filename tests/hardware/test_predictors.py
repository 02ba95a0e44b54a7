"""Costs as sums over layers, on devices whose costs are such sums, and on this machine."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from nasfw.contracts import Device, SearchSpace
from nasfw.hardware.host import Host
from nasfw.hardware.predictors import additive
from nasfw.hardware.session import to_onnx
from nasfw.mixtures import indices
from nasfw.spaces.aggconv import AggConv
from nasfw.tasks.digits import Digits
from nasfw.testing import ToySpace, ToyTask

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def products(proto):
    """Multiplications of all convolutions in an ONNX model."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    weights = {t.name: tuple(t.dims) for t in graph.initializer}
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*graph.value_info, *graph.output, *graph.input]
    }
    found = 0
    for node in graph.node:
        if node.op_type == "Conv":
            found += math.prod(weights[node.input[1]]) * math.prod(shapes[node.output[0]][2:])
    return found


@dataclass(frozen=True)
class Counting(Device):
    """Every multiplication takes some nanoseconds, whatever else there is takes one constant; no noise."""

    nanoseconds: float = 1.0
    constant: float = 0.0
    power: float = 0.0
    asked: ClassVar[list] = []

    metrics = ("latency", "energy")

    @property
    def name(self):
        return "Counting"

    def _seconds(self, proto):
        return 1e-9 * self.nanoseconds * products(proto) + self.constant

    def measure(self, metric, candidate):
        seconds = self._seconds(to_onnx(candidate.model, candidate.task.input_shape))
        return seconds if metric == "latency" else self.power * seconds

    def measure_onnx(self, metric, models, rounds=None):
        protos = [onnx.load_from_string(m) for m in models]
        self.asked.append((metric, [sum(n.op_type == "Conv" for n in p.graph.node) for p in protos]))
        return [self._seconds(p) for p in protos]


class Layers(nn.Module):
    def __init__(self, kernels):
        super().__init__()
        self.stem = nn.Conv1d(1, 4, 3, padding=1)
        self.first = nn.Conv1d(4, 8, kernels[0], padding=kernels[0] // 2)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Conv1d(8, 4, kernels[1], padding=kernels[1] // 2, stride=2)
        self.third = nn.Conv1d(4, 2, kernels[2], padding=kernels[2] // 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(self.stem(x[:, None]))))
        return self.third(torch.relu(self.second(x))).mean(-1)


@dataclass(frozen=True)
class Kernels(SearchSpace):
    """The kernel sizes of three layers, whose products no two networks share."""

    @property
    def decisions(self) -> Mapping[str, Sequence[int]]:
        return {"first": (1, 3, 5), "second": (1, 3, 7), "third": (3, 9)}

    @property
    def default(self):
        return (3, 3, 3)

    def build(self, architecture):
        indices(self.decisions, architecture)
        return Layers(architecture)


LENGTH = 32


class Series(ToyTask):
    input_shape = (LENGTH,)
    output_shape = (2,)


def truth(architecture):
    """Multiplications of a network, in closed form."""
    first, second, third = architecture
    half = LENGTH // 2
    return 4 * 3 * LENGTH + 4 * 8 * first * LENGTH + 8 * 4 * second * half + 4 * 2 * third * half


@pytest.mark.parametrize(
    ("nanoseconds", "constant", "copies"), [(1.0, 0.0, 5), (200.0, 0.0, 1), (80.0, 1e-5, 3)]
)
def test_a_cost_that_is_a_sum_is_predicted_exactly(nanoseconds, constant, copies):
    """Short layers are timed several at once, which must not show."""
    Counting.asked.clear()
    device = Counting(nanoseconds, constant)
    space, task = Kernels(), Series()
    table = additive(device, "latency", space, task, seed=0)
    for architecture in product(*space.decisions.values()):
        expected = 1e-9 * nanoseconds * truth(architecture) + constant
        assert table.predict(indices(space.decisions, architecture)) == pytest.approx(expected, rel=1e-6)
    assert table.error == pytest.approx(0, abs=1e-6)
    assert table.tau == pytest.approx(1)
    assert table.tested == 10
    assert table.seconds > 0
    assert Counting.asked == [("latency", [copies] * (3 + 3 + 2))]
    assert [len(row) for row in table.costs] == [3, 3, 2]


def test_another_metric_that_follows_latency_is_predicted_too():
    space, task = Kernels(), Series()
    table = additive(Counting(power=3.0), "energy", space, task, seed=1)
    assert table.predict((0, 1, 1)) == pytest.approx(3e-9 * truth((1, 3, 9)), rel=1e-6)


def test_what_an_option_costs_more_is_what_its_layer_costs_more():
    """Differences of entries are exact, while a constant may be anywhere."""
    (first, second, third) = additive(Counting(), "latency", Kernels(), Series(), seed=0).costs
    half = LENGTH // 2
    assert np.diff(first) == pytest.approx([1e-9 * 4 * 8 * 2 * LENGTH] * 2)
    assert np.diff(second) == pytest.approx([1e-9 * 8 * 4 * step * half for step in (2, 4)])
    assert np.diff(third) == pytest.approx([1e-9 * 4 * 2 * 6 * half])


def test_the_seed_decides_which_networks_are_fitted():
    def costs(seed):
        return additive(Squared(), "latency", Kernels(), Series(), seed).costs

    assert costs(0) == costs(0)
    assert costs(0) != costs(1)


class Squared(Counting):
    """Its costs are no sums."""

    def measure(self, metric, candidate):
        return 1e3 * super().measure(metric, candidate) ** 2


def test_a_cost_that_is_no_sum_is_told_by_its_error():
    table = additive(Squared(), "latency", Kernels(), Series(), seed=0)
    assert table.error > 1e-3
    assert table.tau == pytest.approx(1)


class Contrary(Counting):
    """Networks are fast if their layers are slow."""

    def measure(self, metric, candidate):
        return 1e-12 / super().measure(metric, candidate)


def test_a_cost_that_falls_with_the_layers_times_has_no_table():
    assert additive(Contrary(), "latency", Kernels(), Series(), seed=0) is None


def test_decisions_that_are_no_modules_have_no_table():
    task = ToyTask()
    assert additive(Counting(), "latency", ToySpace(task), task, seed=0) is None


class Shared(nn.Module):
    """Layers that are decided together, of which the second ones may be missing."""

    def __init__(self, wide, more):
        super().__init__()
        self.stem = nn.Conv1d(1, 4, 1)
        self.outer = nn.ModuleList([self.layer(wide, 1), self.layer(wide, 1)])
        self.inner = nn.ModuleDict()
        if more:
            self.inner["a"], self.inner["b"] = self.layer(more, 1), self.layer(more, 2)

    @staticmethod
    def layer(taps, stride):
        """With a batch norm of its own."""
        return nn.Sequential(nn.Conv1d(4, 4, taps, stride, taps // 2), nn.BatchNorm1d(4))

    def forward(self, x):
        x = self.stem(x[:, None])
        x = self.outer[1](torch.relu(self.outer[0](x)))
        if self.inner:
            x = self.inner["b"](torch.relu(self.inner["a"](x)))
        return x.mean(-1)[:, :2]


@dataclass(frozen=True)
class Together(SearchSpace):
    """One decision for two layers, another for two that may be absent."""

    @property
    def decisions(self) -> Mapping[str, Sequence[int]]:
        return {"outer": (1, 3, 5, 7, 9), "inner": (0, 1, 3, 5, 7)}

    @property
    def default(self):
        return (3, 0)

    def modules(self, decision):
        return [f"outer.{i}" for i in range(2)] if decision == "outer" else ["inner.a", "inner.b"]

    def build(self, architecture):
        indices(self.decisions, architecture)
        return Shared(*architecture)


def test_modules_of_one_decision_add_up_and_absent_ones_cost_nothing():
    """The cost is a sum in closed form, over two layers for each decision, of which one has a stride."""
    space, task = Together(), Series()
    outer, inner = additive(Counting(), "latency", space, task, seed=0).costs
    assert np.diff(outer) == pytest.approx([1e-9 * 2 * 4 * 4 * 2 * LENGTH] * 4)
    assert inner[0] == 0
    for taps, cost in zip((1, 3, 5, 7), inner[1:], strict=True):
        assert cost == pytest.approx(1e-9 * 4 * 4 * taps * (LENGTH + LENGTH // 2))


def test_weights_of_absent_modules_take_no_memory():
    class Heavy(Counting):
        metrics = ("memory",)

        def measure(self, metric, candidate):
            return float(sum(p.nbytes for p in candidate.model.parameters()))

    outer, inner = additive(Heavy(), "memory", Together(), Series(), seed=0).costs
    assert inner[0] == 0
    assert inner[1] == pytest.approx(2 * 4 * (4 * 4 + 3 * 4), rel=1e-6)
    assert np.diff(outer) == pytest.approx([2 * 4 * 4 * 4 * 2] * 4)


class Few(Kernels):
    @property
    def decisions(self):
        return {"first": (1, 3, 5), "second": (3, 7), "third": (3,)}


class Unused(Kernels):
    """Its last module does not take part."""

    def build(self, architecture):
        model = super().build(architecture)
        model.second = nn.Sequential(nn.Conv1d(8, 4, architecture[1], padding=architecture[1] // 2))
        model.third, model.fourth = nn.Conv1d(4, 2, 1), model.third
        return model

    @property
    def decisions(self):
        return {"first": (1, 3, 5), "second": (1, 3, 7), "fourth": (3, 9)}


@pytest.mark.parametrize("space", [Few(), Unused()])
def test_too_few_networks_and_idle_modules_have_no_table(space):
    assert additive(Counting(), "latency", space, Series(), seed=0) is None


def test_torchs_random_stream_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    additive(Counting(), "latency", Kernels(), Series(), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_the_layers_of_a_real_space_on_this_machine():
    """Entries are the distinct graphs of its layers: those of equal shape are one."""
    task = Digits()
    space = AggConv(task, preset="baby")
    table = additive(Host(), "latency", space, task, seed=0)
    assert [len(row) for row in table.costs] == [len(options) for options in space.decisions.values()]
    assert np.isfinite([table.base, *np.concatenate(table.costs)]).all()
    assert np.concatenate(table.costs).min() > 0
    assert -1 <= table.tau <= 1
    assert 0 <= table.error < 1
    assert table.predict(indices(space.decisions, space.default)) > 0
    layers = set()
    for j in range(4):
        architecture = tuple(options[j] for options in space.decisions.values())
        model = space.build(architecture)
        layers |= {(key(model.get_submodule(name)), shape) for name, shape in inputs(model, space, task)}
    assert table.entries == len(layers)


def key(layer):
    c = next(m for m in layer.modules() if isinstance(m, nn.Conv2d))
    return c.in_channels, c.out_channels, c.kernel_size, c.dilation, c.stride, c.padding


def inputs(model, space, task):
    shapes = []
    for name in space.decisions:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, x, name=name: shapes.append((name, tuple(x[0].shape))))
    model.eval()(torch.zeros(1, *task.input_shape))
    return shapes
