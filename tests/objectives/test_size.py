"""Counts of parameters and operations against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nasfw.contracts import Candidate, SearchSpace, Task
from nasfw.flops import forward_flops, fourier_flops
from nasfw.objectives.size import Flops, Parameters


class Call(nn.Module):
    """A function as a network, with tensors as its parameters."""

    def __init__(self, function, *tensors):
        super().__init__()
        self.function = function
        self.tensors = nn.ParameterList(tensors)

    def forward(self, x):
        return self.function(x, *self.tensors)


def complex_zeros(*shape):
    return torch.zeros(shape, dtype=torch.complex64)


def test_linear():
    """2 per weight, as the bias starts the sum."""
    assert forward_flops(nn.Linear(7, 5), (7,)) == 2 * 7 * 5
    assert forward_flops(nn.Linear(7, 5, bias=False), (3, 7)) == 3 * 2 * 7 * 5


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution(groups, stride):
    """2 c_in/groups k per output value, in any number of dimensions."""
    options = {"stride": stride, "padding": 2, "dilation": 2, "groups": groups}
    one = nn.Conv1d(6, 12, 3, **options)
    two = nn.Conv2d(6, 12, 3, **options)
    length = math.ceil(9 / stride)
    assert forward_flops(one, (6, 9)) == 2 * (6 // groups) * 3 * 12 * length
    assert forward_flops(two, (6, 9, 9)) == 2 * (6 // groups) * 9 * 12 * length**2


def test_same_padding_counts_as_the_padding_it_is():
    same, explicit = nn.Conv1d(4, 4, 5, padding="same"), nn.Conv1d(4, 4, 5, padding=2)
    assert forward_flops(same, (4, 30)) == forward_flops(explicit, (4, 30)) == 2 * 4 * 5 * 4 * 30


def test_parts_of_a_network_add():
    parts = [nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)]
    assert forward_flops(nn.Sequential(*parts), (2, 10)) == 2 * 2 * 3 * 3 * 8 + 2 * 24 * 5


def butterflies(n):
    """Operations of the radix-2 transform by its recursion: n/2 butterflies of one product and two sums."""
    return 0 if n == 1 else 2 * butterflies(n // 2) + n // 2 * (6 + 2 + 2)


@pytest.mark.parametrize("n", [1, 2, 8, 64, 1024])
def test_a_complex_transform_costs_its_butterflies(n):
    assert fourier_flops(n, real=False) == butterflies(n)
    assert 2 * fourier_flops(n, real=True) == butterflies(n)


@pytest.mark.parametrize("n", [16, 17, 60])
def test_transforms_along_one_axis_count_once_for_each_line(n):
    whole, half = 5 * n * math.log2(n), 2.5 * n * math.log2(n)
    assert forward_flops(Call(lambda x: torch.fft.fft(x + 0j)), (3, 2, n)) == 6 * round(whole)
    assert forward_flops(Call(lambda x: torch.fft.ifft(x + 0j)), (3, 2, n)) == 6 * round(whole)
    assert forward_flops(Call(lambda x: torch.fft.rfft(x)), (3, 2, n)) == 6 * round(half)
    assert forward_flops(Call(lambda x: torch.fft.irfft(x + 0j, n)), (3, n // 2 + 1)) == 3 * round(half)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (6, 9), (9, 6)])
def test_a_transform_along_two_axes_is_the_transforms_along_each(n, m):
    """5 nm log2(nm) = m 5n log2 n + n 5m log2 m."""
    both = forward_flops(Call(lambda x: torch.fft.fft2(x + 0j)), (4, n, m))
    assert both == 4 * round(m * 5 * n * math.log2(n) + n * 5 * m * math.log2(m))
    there = forward_flops(Call(lambda x: torch.fft.rfft2(x)), (4, n, m))
    back = forward_flops(Call(lambda x: torch.fft.irfft2(x + 0j, s=(n, m))), (4, n, m // 2 + 1))
    assert there == back == both // 2


def test_complex_matrix_products_are_four_real_ones_with_their_sums():
    w = complex_zeros(5, 3)
    assert forward_flops(Call(lambda x, w: (x + 0j) @ w, w), (4, 5)) == 8 * 4 * 5 * 3
    assert forward_flops(Call(lambda x, w: x @ w, w.real), (4, 5)) == 2 * 4 * 5 * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_every_form_of_matrix_product_counts_alike(dtype):
    w, bias = torch.zeros(5, 3, dtype=dtype), torch.zeros(3, dtype=dtype)
    per = 8 if dtype.is_complex else 2
    size = per * 4 * 5 * 3
    forms = [
        lambda x, w, b: x.to(dtype)[0] @ w,
        lambda x, w, b: torch.addmm(b, x.to(dtype)[0], w),
        lambda x, w, b: x.to(dtype) @ w[None],
        lambda x, w, b: torch.baddbmm(b, x.to(dtype), w[None]),
        lambda x, w, b: torch.einsum("bni,io->bno", x.to(dtype), w),
        lambda x, w, b: F.linear(x.to(dtype), w.mT, b),
    ]
    for form in forms:
        assert forward_flops(Call(form, w, bias), (4, 5)) == size


def test_elementwise_products_count_if_complex():
    assert forward_flops(Call(lambda x: x * x), (10,)) == 0
    assert forward_flops(Call(lambda x: x * 2j), (10,)) == 2 * 10
    assert forward_flops(Call(lambda x, w: x * w, complex_zeros(10)), (10,)) == 2 * 10
    assert forward_flops(Call(lambda x, w: (x + 0j) * w, complex_zeros(10)), (10,)) == 6 * 10
    assert forward_flops(Call(lambda x, w: (x + 0j).mul_(w), complex_zeros(10)), (10,)) == 6 * 10


class Fourier(nn.Module):
    """Circular convolution as a product of spectra."""

    def __init__(self, channels, n):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels, n))

    def forward(self, x):
        spectrum = torch.einsum("bif,oif->bof", torch.fft.rfft(x), torch.fft.rfft(self.weight))
        return torch.fft.irfft(spectrum, x.shape[-1])


def test_a_fourier_layer_is_its_transforms_and_its_products():
    c, n = 4, 32
    transforms = (c + c * c + c) * 2.5 * n * math.log2(n)
    assert forward_flops(Fourier(c, n), (c, n)) == transforms + 8 * c * c * (n // 2 + 1)


class Stubborn(nn.Module):
    """Cannot run without values: it looks at one, and keeps a constant that is no buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)
        self.constant = torch.arange(6.0)

    def forward(self, x):
        return self.layer(x + self.constant if float(x.sum()) >= 0 else x)


def test_a_network_that_needs_values_gets_them():
    assert forward_flops(Stubborn(), (6,)) == 2 * 6 * 2


def test_an_error_of_the_network_itself_surfaces():
    with pytest.raises(RuntimeError, match="shape"):
        forward_flops(nn.Linear(6, 2), (5,))


def test_counting_leaves_no_trace():
    """Weights, running statistics, gradients and modes stay; so do torch's random numbers."""
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.BatchNorm1d(3).eval())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    forward_flops(model, (2, 9))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


class Shared(nn.Module):
    """One layer by two names, and one weight in two layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight

    def forward(self, x):
        return self.tied(self.again(self.first(x)))


def test_counting_leaves_shared_layers_and_weights_alone():
    model = Shared()
    before = dict(model.state_dict())
    assert forward_flops(model, (4,)) == 3 * 32
    assert all(value.data_ptr() == before[name].data_ptr() for name, value in model.state_dict().items())
    assert model.tied.weight is model.first.weight


class Widths(SearchSpace):
    """Multilayer perceptrons; it keeps the devices that it was asked to build on."""

    decisions = {"width": (4, 8)}  # noqa: RUF012
    default = (4,)

    def __init__(self, body=nn.ReLU):
        self.body = body
        self.devices = []

    def build(self, architecture):
        (width,) = architecture
        first = nn.Linear(6, width)
        self.devices.append(first.weight.device.type)
        return nn.Sequential(first, self.body(), nn.Linear(width, 3))


class Values(Widths):
    """Its build needs values."""

    def build(self, architecture):
        model = super().build(architecture)
        if float(model[0].weight.sum()) == 0:
            raise ValueError("never")
        return model


class Points(Task):
    input_shape = (6,)
    output_shape = (3,)

    def size(self, split):
        return 1

    def batches(self, split, batch_size=256, generator=None):
        return [(torch.zeros(1, 6), torch.zeros(1, 3))]

    def loss(self, output, target):
        return (output - target).square().mean()

    def error(self, outputs, targets):
        return float((outputs - targets).square().mean())


class Peek(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("space", [Widths(), Values(), Widths(Peek)])
@pytest.mark.parametrize("built", [False, True])
def test_objectives_of_a_known_network(width, space, built):
    """The same numbers, whether or not the network exists already and whether or not it needs values."""
    candidate = Candidate(space, Points(), (width,))
    if built:
        assert candidate.model is not None
    assert Parameters().measure(candidate) == (6 + 1) * width + (width + 1) * 3
    assert Flops().measure(candidate) == 2 * 6 * width + 2 * width * 3


def test_nothing_is_allocated_for_a_network_that_is_not_built_yet():
    space = Widths()
    candidate = Candidate(space, Points(), (8,))
    state = torch.get_rng_state()
    Parameters().measure(candidate)
    Flops().measure(candidate)
    assert space.devices == ["meta", "meta"]
    assert "model" not in vars(candidate)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_shared_parameter_counts_once():
    class Tied(Widths):
        def build(self, architecture):
            layer = nn.Linear(6, 6)
            return nn.Sequential(layer, layer)

    candidate = Candidate(Tied(), Points(), (4,))
    assert Parameters().measure(candidate) == 42
    assert Flops().measure(candidate) == 2 * 2 * 36


def test_how_to_read_them():
    assert (Parameters().name, Parameters().unit) == ("parameters", "")
    assert (Flops().name, Flops().unit) == ("flops", "FLOP")
    assert not Parameters().trained
    assert not Flops().trained
    assert not Parameters().maximise
    assert not Flops().maximise
