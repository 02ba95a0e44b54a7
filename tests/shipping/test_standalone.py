"""A network's source is the network: same outputs, same state, and nothing but torch."""

import ast
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nasfw.contracts import UsageError
from nasfw.shipping.forward import WIDTH, fold
from nasfw.shipping.layers import constructor
from nasfw.shipping.standalone import difference, source
from nasfw.spaces.aggconv import AggConv
from nasfw.spaces.backbones import tcn, wrn, wrn1d
from nasfw.spaces.named import operation, possible
from nasfw.spaces.normalisation import quicken
from nasfw.spaces.site import site_of
from nasfw.spaces.xd import XD
from nasfw.spaces.xd_layers import XDConv
from nasfw.tasks.arrays import ArraysTask


def made(written):
    """The class that the source defines."""
    names = {}
    text = "\n".join([*written.imports, written.code])
    exec(compile(text, "model.py", "exec"), names)
    imported = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    roots = {a.name.split(".")[0] for n in imported if isinstance(n, ast.Import) for a in n.names}
    roots |= {n.module.split(".")[0] for n in imported if isinstance(n, ast.ImportFrom)}
    assert roots <= {"torch", *sys.stdlib_module_names}
    return names["Network"]


def settle(model, x):
    """Let the running statistics be unlike those of new layers."""
    with torch.no_grad():
        model.train()(x.clone())
    return model.eval()


def rebuilt(model, x, exact=True):
    """The network that the source of ``model`` makes, after checks that it is the same."""
    written = source(settle(model, x), x[:2])
    network = made(written)()
    assert network.state_dict().keys() - written.constants.keys() == model.state_dict().keys()
    network.load_state_dict({**model.state_dict(), **written.constants})
    with torch.no_grad():
        expected = model(x.clone())
        assert difference(network.eval()(x.clone()), expected) <= (0 if exact else 1e-6)
    return network, written


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: wrn((1, 8, 8), (10,), 10, 1, 4), (1, 8, 8)),
        (lambda: wrn((2, 6, 9), (3, 6, 9), 16, 1, 4), (2, 6, 9)),
        (lambda: wrn1d((2, 20), (3,)), (2, 20)),
        (lambda: wrn1d((2, 20), (2, 20), 4), (2, 20)),
        (lambda: tcn((1, 20), (3,), 4, 2), (1, 20)),
        (lambda: tcn((1, 20), (2, 20), 4, 2), (1, 20)),
    ],
)
def test_backbones_are_rebuilt_layer_by_layer(model, shape):
    torch.manual_seed(0)
    network, written = rebuilt(model(), torch.randn(3, *shape))
    assert written.remark == ""
    assert "torch.ops" not in written.code
    assert max(map(len, written.code.splitlines())) <= WIDTH
    assert {type(m).__name__ for m in network.modules()} >= {
        "Conv2d" if len(shape) > 2 else "Conv1d",
        "Network",
    }


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 32)])
def test_searched_networks_are_rebuilt(shape):
    """Among the options are kernels that the small map cuts, which need padding of their own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, *shape))
    space = AggConv(ArraysTask(x, np.arange(40) % 2, channels="first"), channels=4)
    for _ in range(3):
        model = space.build(space.sample(rng))
        quicken(model)
        _, written = rebuilt(model, torch.randn(3, *shape))
        assert "Quick" not in written.code


XD_OPTIONS = ("k3d2", "pool3", "skip", "zero", "permuted", "fourier", "fourier2", "xd", "xd2")
XD_SITES = [
    (nn.Conv1d(4, 4, 5, padding=2), (300,)),
    (nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), (521,)),
    (nn.Conv2d(4, 4, 3, 2, 1, padding_mode="circular"), (9, 8)),
    (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), (6, 7)),
    (nn.Conv3d(4, 4, 3, padding=1, groups=4), (5, 4, 6)),
]


@pytest.mark.parametrize(("module", "size"), XD_SITES)
def test_operations_of_xd_are_rebuilt_layer_by_layer(module, size):
    """From their own parameters: with other ones, they compute what those make of the operation."""
    site = site_of(module, size)
    for option in possible(site, XD_OPTIONS):
        layer = nn.Sequential(operation(site, option, extras=True))
        x = torch.randn(3, 4, *size)
        network, written = rebuilt(layer, x, exact=False)
        assert written.remark == ""
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.1 * torch.randn_like(p))
        network.load_state_dict({**layer.state_dict(), **written.constants})
        assert difference(network(x), layer(x)) < 1e-6


def test_butterflies_are_rebuilt_operation_by_operation():
    """Their products depend on the shapes of parameters, which a trace by layers does not know."""
    layer = XDConv(site_of(nn.Conv1d(2, 2, 3, padding=1), (8,)), 2, "butterflies")
    x = torch.randn(3, 2, 8)
    with torch.no_grad():
        network, _ = rebuilt(layer, x, exact=False)
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
        network.load_state_dict(layer.state_dict())
        assert difference(network(x), layer(x)) < 1e-5


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 32)])
def test_networks_of_xd_operations_are_rebuilt_and_can_be_trained(shape):
    rng = np.random.default_rng(0)
    task = ArraysTask(rng.normal(size=(40, *shape)), np.arange(40) % 2, channels="first")
    space = XD(task, options=XD_OPTIONS, channels=4, **({"depth": 10} if len(shape) > 2 else {}))
    x = torch.randn(8, *shape)
    for architecture in (space.universal, space.sample(rng)):
        model = space.build(architecture)
        network, written = rebuilt(model, x, exact=False)
        assert written.remark == ""
        for module in (model.train(), network.train()):
            module(x.clone()).square().sum().backward()
        gradients = dict(model.named_parameters())
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-3)


class Nested(nn.Module):
    """Its parts without weights lie in a container that has none either."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.inner = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Softmax(-1)))

    def forward(self, x):
        return self.inner(x) * self.scale


def test_containers_of_layers_without_weights_are_kept():
    network, written = rebuilt(Nested(), torch.randn(3, 4))
    assert written.remark == ""
    assert isinstance(network.inner[1][0], nn.Softmax)


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.register_buffer("shift", torch.randn(4))
        self.register_buffer("steps", torch.arange(4.0), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False, True, True]), persistent=False)
        self.table = torch.randn(5, 4)
        self.activation = nn.GELU()

    def forward(self, x):
        x = self.activation(x * self.scale + self.frozen) - self.shift.square() + self.steps
        x = F.dropout(x, 0.5, self.training) / x.shape[-1] ** 0.5
        return torch.where(self.mask, x, -x) + self.table.sum(0) + (x[:, :1] @ self.table[:1])


class Mixed(nn.Module):
    """Parameters, buffers, functions, nested modules, one module twice and one parameter twice."""

    def __init__(self):
        super().__init__()
        self.gate = Gate()
        self.linear = nn.Linear(4, 4)
        self.again = self.linear
        self.named = nn.ModuleDict({"3x3": Gate(), "b": nn.Linear(4, 4, bias=False)})
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.linear.weight
        self.chain = nn.Sequential(nn.LayerNorm(4), Gate(), nn.Softmax(-1), nn.Identity())
        self.parts = nn.ParameterList([torch.randn(4), torch.randn(4)])
        self.add_module("odd name", nn.Linear(4, 4))
        self.unused = nn.Linear(2, 2)

    def forward(self, x, mask=None):
        x = self.again(self.linear(self.gate(x)))
        y = self.tied(self.named["3x3"](self.named["b"](x)))
        z = self.chain(y) * self.parts[0] + self.parts[1]
        z = self.get_submodule("odd name")(z) if mask is None else z * mask
        return torch.cat([z[:, None, 1:3].squeeze(1), x.clamp(min=-3).neg_()], dim=1)


def test_parameters_buffers_and_shared_parts_are_kept():
    torch.manual_seed(0)
    model = Mixed()
    network, written = rebuilt(model, torch.randn(5, 4))
    assert written.remark == ""
    assert network.again is network.linear
    assert network.tied.weight is network.linear.weight
    assert not network.gate.frozen.requires_grad
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())


def test_another_state_gives_what_the_network_does_with_it():
    """Nothing of the state was written into the code as a constant."""
    torch.manual_seed(0)
    model = Mixed()
    network, written = rebuilt(model, torch.randn(5, 4))
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(torch.randn_like(value))
    network.load_state_dict({**model.state_dict(), **written.constants})
    x = torch.randn(5, 4)
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=0)


def test_dropout_by_function_follows_the_mode():
    network, _ = rebuilt(Mixed(), torch.randn(5, 4))
    x = torch.randn(5, 4)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_it_can_be_trained():
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    model = wrn((1, 8, 8), (10,), 10, 1, 4)
    network, _ = rebuilt(model, x)
    for module in (model.train(), network.train()):
        F.cross_entropy(module(x.clone()), y).backward()
    gradients = dict(model.named_parameters())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-5, atol=1e-6)
    for name, value in network.named_buffers():
        torch.testing.assert_close(value, dict(model.named_buffers())[name])


class ByShape(nn.Module):
    """Its code asks for shapes, and computes something else where they differ."""

    def __init__(self):
        super().__init__()
        self.block = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)])

    def forward(self, x):
        assert x.dim() == 2
        assert x.shape[1] == 4
        for part in self.block:
            x = part(x)
        b, c = x.shape
        if c > 3 and x.size(-1) % 2 == 0:
            x = x.view(b, 2, c // 2).flip(1).reshape(b, c)
        return x if x.dtype == torch.float32 else x.float()


def test_conditions_on_shapes_are_decided():
    network, written = rebuilt(ByShape(), torch.randn(5, 4))
    assert written.remark == ""
    assert "if" not in written.code
    assert "assert" not in written.code
    assert {"Linear", "BatchNorm1d", "Dropout"} < {type(m).__name__ for m in network.modules()}


class ByNumbers(nn.Module):
    """It makes tensors by numbers that it finds in shapes."""

    def __init__(self):
        super().__init__()
        self.block = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)])
        self.register_buffer("steps", torch.arange(4.0), persistent=False)
        self.constant = torch.randn(30, 4)

    def forward(self, x):
        for part in self.block:
            x = part(x)
        return x + torch.arange(int(x.shape[-1])) * self.steps * x.shape[0] + self.constant.sum(0)


def test_numbers_out_of_shapes_make_operations_of_a_network():
    network, written = rebuilt(ByNumbers(), torch.randn(5, 4), exact=False)
    assert "torch.ops.aten" in written.code
    assert "as in evaluation" in written.remark
    assert written.constants.keys() == {"constant"}
    network(torch.randn(7, 4)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


class ByBatch(nn.Module):
    def forward(self, x):
        return x if x.shape[0] > 2 else 2 * x


def test_layers_that_say_too_little_of_themselves_are_written_as_operations():
    rebuilt(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), torch.randn(3, 5, 4), exact=False)


class OnValues(nn.Module):
    def forward(self, x):
        return 2 * x if x.sum() > 0 else x


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn(4)


@pytest.mark.parametrize("kind", [OnValues, Noise, ByBatch])
def test_what_cannot_be_written_is_refused(kind, capfd):
    with pytest.raises(UsageError, match=rf"{kind.__name__} cannot be written .*torch.where"):
        source(kind().eval(), torch.ones(2, 4))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            nn.Conv2d(3, 4, (1, 3), padding=(0, 1), bias=False),
            "nn.Conv2d(3, 4, kernel_size=(1, 3), padding=(0, 1), bias=False)",
        ),
        (nn.BatchNorm1d(4, momentum=0.2, affine=False), "nn.BatchNorm1d(4, momentum=0.2, affine=False"),
        (nn.MaxPool2d((2, 2)), "nn.MaxPool2d(kernel_size=(2, 2), stride=(2, 2))"),
        (nn.Linear(2, 3).double(), "nn.Linear(in_features=2, out_features=3).to(torch.float64)"),
        (nn.Upsample(scale_factor=2.0), "nn.Upsample(scale_factor=2.0)"),
        (
            nn.MultiheadAttention(4, 2, dropout=0.1),
            "nn.MultiheadAttention(embed_dim=4, num_heads=2, dropout=0.1",
        ),
    ],
)
def test_constructors_say_what_differs_from_the_defaults(layer, text):
    assert constructor(layer).startswith(text)


class Standardised(nn.Conv2d):
    """What it computes is not what its parent does."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


class Small(nn.Conv2d):
    """What it computes is what its parent does."""

    def __init__(self):
        super().__init__(1, 2, 3)


def test_subclasses_are_their_parents_only_where_they_compute_the_same():
    assert constructor(Standardised(1, 2, 3)) is None
    assert constructor(Small()) == "nn.Conv2d(1, 2, kernel_size=3)"
    rebuilt(nn.Sequential(Standardised(1, 2, 3), nn.Conv2d(2, 2, 1)), torch.randn(3, 1, 5, 5))


def test_what_is_frozen_stays_frozen():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    model[0].requires_grad_(False)
    model[4].bias.requires_grad_(False)
    network, written = rebuilt(model, torch.randn(3, 1, 5, 5))
    learned = {name: p.requires_grad for name, p in network.named_parameters()}
    assert learned == {name: p.requires_grad for name, p in model.named_parameters()}
    assert "nn.Conv2d(1, 2, kernel_size=3).requires_grad_(False)" in written.code
    assert "self[4].bias.requires_grad_(False)" in written.code


def test_the_forward_pass_has_no_statement_without_effect():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.Identity(), nn.Linear(3, 2))
    _, written = rebuilt(model, torch.randn(3, 3))
    forward = written.code[written.code.index("def forward") :].splitlines()
    assert [line.strip() for line in forward] == [
        "def forward(self, input):",
        "input = self[0](input)",
        "return self[3](input)",
    ]


class Spectral(nn.Module):
    """Its constants are of types that know little: complex numbers and eight bits."""

    def __init__(self):
        super().__init__()
        self.register_buffer("turn", torch.tensor([1j, -1j]), persistent=False)
        self.register_buffer("small", torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn), persistent=False)

    def forward(self, x):
        return (x * self.turn).imag * self.small.float()


def test_constants_of_every_type_are_written():
    _, written = rebuilt(Spectral(), torch.randn(3, 2))
    assert written.constants == {}
    assert "dtype=torch.float8_e4m3fn), persistent=False" in written.code


def test_layers_with_hooks_are_no_plain_layers():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert constructor(layer) is None


def test_tracing_leaves_the_network_and_the_random_numbers_alone():
    model = settle(wrn((1, 8, 8), (10,), 10, 1, 4), torch.randn(3, 1, 8, 8))
    before = {n: v.clone() for n, v in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    source(model, torch.zeros(2, 1, 8, 8))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_long_lines_are_folded_at_their_brackets():
    line = f"x = f({', '.join(f'argument{i}' for i in range(20))})"
    folded = fold(line, 8)
    assert max(map(len, folded.splitlines())) <= WIDTH
    assert ast.dump(ast.parse(folded.strip())) == ast.dump(ast.parse(line))
    assert fold("x = 1", 4) == "    x = 1"


@pytest.mark.parametrize(
    "line",
    [
        f"CLASSES = {[f'New York {i}' for i in range(12)]}",
        f"CLASSES = {[f'a, (b] {i}' for i in range(12)]}",
        "CLASSES = " + str([f'it\'s "{i}", said \\ he' for i in range(12)]),
        'self.named["a (b) c"] = f(' + ", ".join(f"word{i}=-{i} + 1" for i in range(20)) + ")",
        f"x = self.blocks[0].conv({', '.join(f'argument{i}' for i in range(12))}).flatten(1)",
        "DTYPES = {" + ", ".join(f'"F{i}": torch.float32' for i in range(12)) + "}",
    ],
)
def test_lines_are_folded_between_items_only(line):
    rows = fold(line).splitlines()
    assert ast.dump(ast.parse("\n".join(rows))) == ast.dump(ast.parse(line))
    assert max(map(len, rows)) <= WIDTH
    assert all(row.endswith(",") for row in rows[1:-2])


def test_differences_are_relative_to_the_largest_output():
    a = torch.tensor([1.0, -4.0])
    assert difference(a, a) == 0
    assert difference(a + torch.tensor([0.0, 1.0]), a) == 0.25
    assert difference(a[:1], a) == difference(a * torch.nan, a) == float("inf")
