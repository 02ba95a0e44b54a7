"""Supernets of cells against networks whose edges are plain sums over ordinary operations."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nasfw.junctions import Junction
from nasfw.mixtures import one_hot, uniform
from nasfw.spaces import normalisation
from nasfw.spaces.cell import Darts
from nasfw.spaces.cells import Edge
from nasfw.spaces.mixed_edges import Gate, MixedEdges, shuffled
from nasfw.spaces.nasbench201 import NasBench201
from nasfw.spaces.nasbench201 import _operation as benchmark_operation
from nasfw.spaces.operations import operation
from nasfw.spaces.pace import costs
from nasfw.spaces.robust import S1, S3, S4, S5
from nasfw.values import Unsupported

NASNET = ("none", "skip_connect", "conv_7x1_1x7", "conv_3x3", "sep_conv_7x7", "max_pool_5x5")
SPACES = {
    "darts": lambda task: Darts(task, layers=3, channels=3, nodes=2),
    "nasnet": lambda task: Darts(task, layers=3, channels=2, nodes=2, operations=NASNET),
    "s1": lambda task: S1(task, layers=3, channels=2),
    "s3": lambda task: S3(task, layers=3, channels=2, nodes=2),
    "s5": lambda task: S5(task, channels=3),
    "nasbench201": lambda task: NasBench201(task, cells=1, channels=3),
}
MAPS, SERIES = ((2, 6, 5), (3,)), ((2, 7), (3,))


class Plain(nn.ModuleDict):
    """The same edges and operations as ``MixedEdges``, written as the sum over both."""

    def __init__(self, mixed, made):
        super().__init__(
            {
                edge.key: nn.ModuleDict({n: made(n, mixed._stride(edge)) for n in names if n != "none"})
                for edge, names in mixed.options.items()
            }
        )
        self.options, self.inputs, self.stride = mixed.options, mixed.inputs, mixed.stride
        self.weights = {}

    def forward(self, inputs):
        states = list(inputs)
        for node in sorted({edge.node for edge in self.options}):
            total = torch.zeros_like(
                states[0][(..., *[slice(None, None, self.stride)] * (states[0].dim() - 2))]
            )
            for edge, names in self.options.items():
                for k, name in enumerate(names):
                    if edge.node == node and name != "none":
                        total = total + self.weights[edge][k] * self[edge.key][name](states[edge.source])
            states.append(total)
        return states[self.inputs :]


class Oracle:
    """A supernet's network with ``Plain`` edges, ordinary layers and the supernet's weights."""

    def __init__(self, space, supernet):
        self.supernet, self.network = supernet, copy.deepcopy(supernet.network)
        for path, mixed in supernet.mixed:
            self.network.set_submodule(path, Plain(mixed, maker(space, mixed)))
        normalisation.restore(self.network)
        for module in self.network.modules():
            kind = type(module)
            if kind.__module__ == "nasfw.spaces.quick":
                module.__class__ = kind.__base__
        self.network.load_state_dict(supernet.network.state_dict())

    def __call__(self, x, mixture):
        pairs = list(zip(self.supernet.edges, mixture, strict=True))
        for path, mixed in self.supernet.mixed:
            plain = self.network.get_submodule(path)
            plain.weights = {edge: p for (kind, edge), p in pairs if kind == mixed.kind}
        return self.network(x)


def maker(space, mixed):
    """Makes the operations of a cell, by name and stride."""
    channels = next(m for m in mixed.modules() if hasattr(m, "num_features")).num_features
    dims = len(space.task.input_shape) - 1
    make = benchmark_operation if isinstance(space, NasBench201) else None
    return lambda name, stride: (
        make(name, channels, dims, False) if make else operation(name, channels, stride, dims, False)
    ).double()


@pytest.fixture(autouse=True)
def _however_small(monkeypatch):
    monkeypatch.setattr(normalisation, "LEAST", 0)


@pytest.fixture(params=[MAPS, SERIES], ids=["maps", "series"])
def shapes(request):
    return request.param


@pytest.fixture(params=SPACES)
def space(request, task, shapes):
    return SPACES[request.param](task(*shapes))


def soft(space, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.softmax(torch.randn(len(o), generator=generator, dtype=torch.float64), 0).requires_grad_()
        for o in space.decisions.values()
    ]


def both(space):
    supernet = space.supernet().double()
    x = torch.randn(5, *space.task.input_shape, dtype=torch.float64)
    return supernet, Oracle(space, supernet), x


def gradients(output, inputs):
    """Of a sum with different weights; zero where there is none."""
    direction = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    found = torch.autograd.grad(output, inputs, direction, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True)]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_outputs_gradients_and_statistics_are_those_of_the_plain_sum(space):
    """In double precision; the gradients of inputs, of the mixture, and of every weight."""
    supernet, oracle, x = both(space)
    x.requires_grad_()
    mixture = soft(space)
    found, expected = supernet(x, mixture), oracle(x, mixture)
    close(found, expected)
    names = dict(supernet.network.named_parameters())
    others = dict(oracle.network.named_parameters())
    mine = gradients(found, [x, *mixture, *names.values()])
    true = gradients(expected, [x, *mixture, *(others[n] for n in names)])
    for a, b in zip(mine, true, strict=True):
        close(a, b)
    state = oracle.network.state_dict()
    for name, value in supernet.network.state_dict().items():
        close(value, state[name])


def test_single_precision_is_kept(task):
    """Outputs of the default size for small images are within 1e-4 of those in double precision."""
    space = Darts(task((3, 16, 16), (10,)), layers=3, channels=8)
    supernet = space.supernet()
    double = copy.deepcopy(supernet).double()
    x, mixture = torch.randn(8, 3, 16, 16), uniform(space.decisions)
    exact = double(x.double(), mixture)
    assert (supernet(x, mixture) - exact).abs().max() <= 1e-4 * exact.abs().max()


def test_a_one_hot_mixture_is_that_operation(task):
    """On every edge, whatever the others do."""
    space = S5(task(*MAPS), channels=3)
    supernet = space.supernet().double().eval()
    inner = next(module for _, module in supernet.mixed)
    a, b = torch.randn(2, 4, 3, 6, 5, dtype=torch.float64)
    for k, name in enumerate(inner.options[Edge(2, 0)]):
        one = torch.eye(3, dtype=torch.float64)[k]
        nothing = torch.zeros(3, dtype=torch.float64)
        inner.gates = {
            Edge(2, 0): Gate(one, (k,), frozenset({0, 1, 2} - {k}), False),
            Edge(2, 1): Gate(nothing, (), frozenset({0, 1, 2}), False),
        }
        close(inner([a, b])[0], inner["2_0"][name](a))


def test_paths_leave_other_weights_alone(space):
    """If the mixture needs no gradient, what is not on the path is not computed."""
    supernet = space.supernet()
    architecture = space.sample(np.random.default_rng(0))
    ran = []
    for name, module in supernet.network.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    x = torch.randn(5, *space.task.input_shape)
    supernet(x, one_hot(space.decisions, architecture)).square().sum().backward()
    chosen = dict(zip(supernet.edges, architecture, strict=True))
    for path, mixed in supernet.mixed:
        for edge, names in mixed.options.items():
            for name in names:
                inside = f"{path}.{edge.key}.{name}"
                if name == "none" or (name, edge.source) in mixed.common:
                    continue
                if name != chosen[mixed.kind, edge]:
                    assert all(p.grad is None for p in supernet.network.get_submodule(inside).parameters())
                    assert not any(n.startswith(f"{inside}.") for n in ran)
                elif mixed.kind != "cell":
                    # A node of NAS-Bench-201 may lead nowhere.
                    assert all(
                        p.grad is not None for p in supernet.network.get_submodule(inside).parameters()
                    )


def test_a_mixture_with_zeros_gets_its_exact_gradient(space):
    """The product of the output's gradient and every option's output, as by the plain sum over all options.

    Weights off the path get no gradient.
    """
    supernet, oracle, x = both(space)
    x.requires_grad_()
    architecture = space.sample(np.random.default_rng(1))
    mixture = [p.requires_grad_() for p in one_hot(space.decisions, architecture, torch.float64)]
    found, expected = supernet(x, mixture), oracle(x, mixture)
    close(found, expected)
    for a, b in zip(gradients(found, [x, *mixture]), gradients(expected, [x, *mixture]), strict=True):
        close(a, b)
    supernet(x, mixture).sum().backward()
    oracle(x, mixture).sum().backward()
    true = dict(oracle.network.named_parameters())
    for name, p in supernet.network.named_parameters():
        if p.grad is None:
            assert not true[name].grad.any(), name
        else:
            close(p.grad, true[name].grad)
    chosen = dict(zip(supernet.edges, architecture, strict=True))
    for path, mixed in supernet.mixed:
        for edge, names in mixed.options.items():
            for name in names:
                if name not in ("none", chosen[mixed.kind, edge]):
                    module = supernet.network.get_submodule(f"{path}.{edge.key}.{name}")
                    assert all(p.grad is None for p in module.parameters())


def test_half_a_path_may_need_gradients(space):
    """Decisions whose weights are fixed are computed by their path alone, beside others that learn."""
    supernet, oracle, x = both(space)
    mixture = [
        p.detach() if i % 2 else p.requires_grad_()
        for i, p in enumerate(one_hot(space.decisions, space.default, torch.float64))
    ]
    learned = mixture[::2]
    found, expected = supernet(x, mixture), oracle(x, mixture)
    for a, b in zip(gradients(found, learned), gradients(expected, learned), strict=True):
        close(a, b)


def test_one_hot_mixtures_after_training_are_the_networks(space):
    """With running statistics that steps under different paths have moved."""
    supernet = space.supernet()
    rng = np.random.default_rng(2)
    for i in range(4):
        x = 1 + torch.randn(6, *space.task.input_shape)
        supernet(x, one_hot(space.decisions, space.sample(rng)) if i % 2 else uniform(space.decisions))
    supernet.eval()
    for architecture in (space.default, space.sample(rng), space.sample(rng)):
        model = space.build(architecture)
        model.load_state_dict(supernet.weights(architecture))
        mixed = supernet(x, one_hot(space.decisions, architecture))
        torch.testing.assert_close(mixed, model.eval()(x), rtol=1e-5, atol=1e-5)


def test_any_edges_may_be_absent(task):
    """All weight on "none", or more edges than members have, are networks, too."""
    space = Darts(task(*MAPS), layers=3, channels=2)
    supernet = space.supernet().eval()
    x = torch.randn(2, *space.task.input_shape)
    for k in range(8):
        architecture = tuple(options[k] for options in space.decisions.values())
        model = space.build(architecture)
        model.load_state_dict(supernet.weights(architecture))
        torch.testing.assert_close(
            supernet(x, one_hot(space.decisions, architecture)), model.eval()(x), rtol=1e-5, atol=1e-5
        )


def test_operations_without_parameters_are_computed_once_for_a_state(task):
    space = Darts(task(*MAPS), layers=3, channels=2)
    supernet = space.supernet()
    counts = {}
    for _, mixed in supernet.mixed:
        for key in mixed.common.items():
            module = key[1]
            counts[module] = 0
            module.register_forward_hook(lambda m, *_: counts.__setitem__(m, counts[m] + 1))
    supernet(torch.randn(2, *space.task.input_shape), uniform(space.decisions))
    assert set(counts.values()) == {1}


def test_noise_is_drawn_for_each_edge(task):
    space = S4(task(*MAPS), layers=3, channels=2)
    mixed = next(module for _, module in space.supernet().mixed)
    assert mixed.common == {}
    x = torch.randn(5, *space.task.input_shape)
    mixture = [torch.tensor([0.0, 1.0, 0.0])] * 28
    supernet = space.supernet()
    assert not torch.equal(supernet(x, mixture), supernet(x, mixture))
    supernet.eval()
    assert torch.equal(supernet(x, mixture), supernet(x, mixture))


def test_building_a_template_leaves_the_random_stream_alone(task):
    space = S5(task(*MAPS), channels=2)
    supernet = space.supernet()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    supernet.weights(space.default)
    assert torch.equal(torch.rand(2), expected)


def test_a_supernet_can_be_copied_after_use(task):
    space = S5(task(*MAPS), channels=2)
    supernet = space.supernet()
    supernet(torch.randn(2, *space.task.input_shape), soft(space))
    copied = copy.deepcopy(supernet).eval()
    # The space would take its task's data along.
    assert copied.build is supernet.build
    x = torch.randn(2, *space.task.input_shape)
    assert torch.equal(copied(x, uniform(space.decisions)), supernet.eval()(x, uniform(space.decisions)))


def test_mixtures_of_another_shape_are_refused(task):
    space = S5(task(*MAPS), channels=2)
    supernet = space.supernet()
    for mixture in (uniform(space.decisions)[1:], [torch.ones(2) / 2] * 4):
        with pytest.raises(ValueError, match="one vector for each decision"):
            supernet(torch.zeros(1, *space.task.input_shape), mixture)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
def test_a_card_gives_the_processors_outputs_and_gradients(space):
    """In double precision; there, torch's own layers are taken."""
    supernet = space.supernet().double()
    other = copy.deepcopy(supernet).cuda()
    x, mixture = torch.randn(5, *space.task.input_shape, dtype=torch.float64), soft(space)
    moved = [p.detach().cuda().requires_grad_() for p in mixture]
    here, there = supernet(x, mixture), other(x.cuda(), moved)
    close(there.cpu(), here)
    mine, true = (
        gradients(y, [*m, *net.parameters()])
        for y, m, net in ((there, moved, other), (here, mixture, supernet))
    )
    for a, b in zip(mine, true, strict=True):
        close(a.cpu(), b)


# Partial channels.


def test_shuffling_is_a_permutation():
    x = torch.arange(12.0).reshape(1, 12, 1, 1)
    y = shuffled(x, 3)
    assert y.flatten().tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert torch.equal(shuffled(y, 4), x)
    assert torch.equal(shuffled(x, 1), x)


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_one_part_is_the_ordinary_supernet(name, task):
    space = SPACES[name](task(*MAPS))
    assert space.partial(1) == space
    torch.manual_seed(1)
    first = space.supernet()
    torch.manual_seed(1)
    second = space.partial(1).supernet()
    x, mixture = torch.randn(3, *space.task.input_shape), uniform(space.decisions)
    assert torch.equal(first(x, mixture), second(x, mixture))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 5), (7,)])
def test_channels_that_are_not_mixed_pass_by(size, stride):
    """The first quarter is mixed, the others come through weighted by the sum, or pooled by 2."""
    dims = len(size)
    names = ("none", "max_pool_3x3", "sep_conv_3x3")
    options = {Edge(2, 0): names, Edge(2, 1): names}
    inner = MixedEdges(
        "normal", options, lambda n, s: operation(n, 2, s, dims, False), 2, 1, stride, 4, dims
    ).double()
    for module in inner.modules():
        module.__class__ = normalisation._QUICK.get(type(module), type(module))
    a, b = torch.randn(2, 3, 8, *size, dtype=torch.float64)
    weights = torch.tensor([[0.2, 0.5, 0.1], [0.3, 0.0, 0.4]], dtype=torch.float64)
    inner.gates = {edge: Gate(w, (1, 2), frozenset(), True) for edge, w in zip(options, weights, strict=True)}
    pool = (torch.nn.functional.max_pool1d, torch.nn.functional.max_pool2d)[dims - 1]
    mixed, passed = 0, 0
    for x, key, w in zip((a, b), ("2_0", "2_1"), weights, strict=True):
        mixed = mixed + w[1] * inner[key][names[1]](x[:, :2]) + w[2] * inner[key][names[2]](x[:, :2])
        rest = x[:, 2:] if stride == 1 else pool(x[:, 2:], 2, 2, ceil_mode=True)
        passed = passed + w.sum() * rest
    close(inner([a, b])[0], shuffled(torch.cat([mixed, passed], 1), 4))


@pytest.mark.parametrize("name", ["darts", "s1", "nasbench201"])
def test_partial_supernets_give_gradients_to_closed_edges(name, task, shapes):
    space = replace(SPACES[name](task(*shapes)), channels=4).partial(2)
    supernet = space.supernet().double()
    x = torch.randn(2, *space.task.input_shape, dtype=torch.float64)
    mixture = [torch.zeros_like(p, requires_grad=True) if i == 0 else p for i, p in enumerate(soft(space))]
    found = gradients(supernet(x, mixture), mixture)
    assert all(g.isfinite().all() for g in found)
    assert found[0].any()


def test_a_partial_supernet_has_no_networks_weights(task):
    space = Darts(task(*MAPS), layers=3, channels=4).partial(2)
    with pytest.raises(Unsupported, match="partial channels has no weights"):
        space.supernet().weights(space.default)


@pytest.mark.parametrize("name", ["darts", "s3", "nasbench201"])
def test_options_that_do_not_matter_are_not_computed(task, name):
    """With two of each edge there are the same output and gradients of these two, for less work."""
    space = SPACES[name](task(*MAPS))
    supernet, rng = space.supernet().double(), np.random.default_rng(0)
    rows = list(space.decisions.values())
    pairs = [rng.choice(len(options), 2, replace=False).tolist() for options in rows]
    calls, found = [], []
    for _, edges in supernet.mixed:
        for module in {m for operations in edges.values() for m in operations.modules()}:
            module.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(4, *MAPS[0], dtype=torch.float64)
    for only in (False, True):
        eye = [torch.eye(len(options), dtype=torch.float64) for options in rows]
        gates = [e[pair[0]].requires_grad_() for e, pair in zip(eye, pairs, strict=True)]
        calls.clear()
        with supernet.only(pairs) if only else nullcontext():
            output = supernet(x, gates)
        gradients = torch.autograd.grad(output.square().sum(), gates, materialize_grads=True)
        slopes = [g[pair] for g, pair in zip(gradients, pairs, strict=True)]
        found.append((output.detach(), slopes, len(calls)))
    (output, slopes, most), (again, same, less) = found
    torch.testing.assert_close(again, output)
    torch.testing.assert_close(same, slopes)
    assert less < most
    # Outside all are computed again.
    assert supernet.wanted is None


# Costs.


def test_costs_are_sums_over_edges():
    """One edge with one option costs what this takes; rest and options add up."""
    edge = {("normal", Edge(1, 0)): ("sep_conv_3x3",)}
    mixed, path, drawn = costs(edge, (), 0.0)
    assert mixed == path == drawn == pytest.approx(0.8)
    twice = {("normal", Edge(1, 0)): ("sep_conv_3x3", "sep_conv_3x3")}
    assert costs(twice, (), 0.0)[0] == pytest.approx(1.6)
    assert costs(edge, (), 1e9) == pytest.approx((1, 1, 1))


def test_a_path_has_the_edges_of_an_architecture_and_what_is_drawn_has_all():
    """Of three equal edges an architecture keeps one."""
    edges = {("normal", Edge(3, source)): ("sep_conv_3x3",) for source in range(3)}
    found = costs(edges, [Junction((0, 1, 2), 1, "none")], 0.0)
    assert found == pytest.approx((3 * 0.8, 0.8, 3 * 0.8))


def test_supernets_cost_more_than_paths_and_parts_less(task):
    for make in SPACES.values():
        space = replace(make(task(*MAPS)), channels=4)
        supernet, part = space.supernet(), space.partial(2).supernet()
        assert supernet.path_cost < supernet.cost
        assert part.cost < supernet.cost
        assert supernet.path_cost < 1
