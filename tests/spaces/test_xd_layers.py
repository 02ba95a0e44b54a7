from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from nasfw.contracts import Recipe
from nasfw.flops import forward_flops
from nasfw.optimisers import optimizer, transforms
from nasfw.spaces.site import CONVOLUTIONS, site_of
from nasfw.spaces.waves import wave
from nasfw.spaces.xd_layers import FourierConv, XDConv

# Torch announces that it will copy, which is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

SINGLE = torch.float32
every_kind = pytest.mark.parametrize("kind", ["blocks", "butterflies"])
every_boundary = pytest.mark.parametrize("mode", ["zeros", "circular"])


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(SINGLE)


def close(result, expected, tolerance=1e-11):
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def convolution(size, inputs=2, outputs=3, kernel=3, **settings):
    """One that keeps the size unless told otherwise."""
    return CONVOLUTIONS[len(size)](inputs, outputs, kernel, **{"padding": "same", **settings})


def started(module, size, **settings):
    """An XD operation with the weights of the convolution ``module``."""
    layer = XDConv(site_of(module, size), **settings)
    layer.start(module)
    return layer


def scrambled(layer):
    """``layer`` with other parameters, so that nothing of it is a Fourier transform any more."""
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return layer


def maps(layer, batch=2):
    return torch.randn(batch, layer.site.inputs, *layer.site.size, dtype=layer.weight.dtype)


@every_kind
@every_boundary
@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("n", [5, 16, 30, 85, 100, 128, 300, 521, 1000])
def test_on_series_it_starts_as_the_convolution(n, kernel, mode, kind):
    module = convolution((n,), kernel=kernel, padding_mode=mode)
    layer = started(module, (n,), kind=kind)
    x = maps(layer)
    close(layer(x), module(x))


@every_kind
@every_boundary
@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("size", [(5, 5), (16, 16), (30, 30), (85, 16), (5, 100), (128, 128)])
def test_on_maps_it_starts_as_the_convolution(size, kernel, mode, kind):
    module = convolution(size, 1, 2, kernel, padding_mode=mode)
    layer = started(module, size, kind=kind)
    x = maps(layer, 1)
    close(layer(x), module(x))


@every_kind
@every_boundary
@pytest.mark.parametrize("size", [(5, 16, 30), (85, 5, 4), (3, 4, 100)])
def test_on_volumes_it_starts_as_the_convolution(size, mode, kind):
    module = convolution(size, 1, 2, (3, 4, 5), padding_mode=mode)
    layer = started(module, size, kind=kind)
    x = maps(layer, 1)
    close(layer(x), module(x))


def geometries(sizes):
    """Settings of any convolution of maps of so many axes, and of the operation that starts as it."""
    axes = len(sizes)
    each = {
        "kernel_size": st.tuples(*[st.integers(1, 5)] * axes),
        "stride": st.tuples(*[st.integers(1, 3)] * axes),
        "dilation": st.tuples(*[st.integers(1, 3)] * axes),
        "padding": st.sampled_from(["same", "valid", *itertools.product((0, 1, 2, 5), repeat=axes)]),
        "groups": st.sampled_from([1, 2, 4]),
        "out_channels": st.sampled_from([4, 8]),
        "bias": st.booleans(),
        "padding_mode": st.sampled_from(["zeros", "circular"]),
    }
    own = {
        "depth": st.integers(1, 3),
        "kind": st.sampled_from(["blocks", "butterflies"]),
        "extras": st.booleans(),
    }
    return st.tuples(
        st.tuples(*map(st.sampled_from, sizes)), st.fixed_dictionaries(each), st.fixed_dictionaries(own)
    )


def starts_as(size, settings, own):
    try:
        module = CONVOLUTIONS[len(size)](4, **settings)
        x = torch.randn(2, 4, *size)
        expected = module(x)
    except (RuntimeError, ValueError):
        assume(False)
    layer = started(module, size, **own)
    close(layer(x), expected)
    with torch.no_grad():
        close(layer.eval()(x), expected)


CHECKED = {"deadline": None, "derandomize": True}


@settings(max_examples=30, **CHECKED)
@given(geometries([(5, 16, 30, 85, 100, 128, 300, 512, 521)]))
def test_it_starts_as_any_convolution_of_series(drawn):
    """Any kernel, stride, dilation, padding and groups; any depth, with and without gate and bias."""
    starts_as(*drawn)


@settings(max_examples=40, **CHECKED)
@given(geometries([(4, 5, 16, 30), (4, 7, 16)]))
def test_it_starts_as_any_convolution_of_maps(drawn):
    starts_as(*drawn)


@settings(max_examples=25, **CHECKED)
@given(geometries([(3, 4, 7), (4, 5), (5, 8)]))
def test_it_starts_as_any_convolution_of_volumes(drawn):
    starts_as(*drawn)


@every_kind
@pytest.mark.parametrize("size", [(16,), (100,), (128,), (1000,), (30, 30), (128, 100), (5, 16, 30)])
def test_in_single_precision_it_errs_by_less_than_a_hundred_thousandth(size, kind):
    torch.set_default_dtype(SINGLE)
    module = convolution(size, kernel=5)
    layer = started(module, size, kind=kind)
    x = maps(layer)
    expected = module.double()(x.double())
    assert layer(x).dtype == SINGLE
    assert (layer(x) - expected).abs().max() < 1e-5 * expected.abs().max()


def filled(layer, taps, gate):
    """``layer`` without weights, with the spectral bias of a filter with equal ``taps`` on every axis."""
    bias = torch.ones(1, dtype=torch.complex128)
    for g, axis in zip(layer.frame.grids, reversed(layer.site.axes), strict=True):
        # Where a periodic axis is unrolled, its points begin with those that stand before the map.
        shift = g.axis.taps[0] - axis.taps[0]
        bias = torch.outer(bias, wave(g.frequencies, [t + shift for t in taps], g.points).mean(1)).flatten()
    with torch.no_grad():
        layer.weight.zero_()
        layer.spectral_bias.copy_(torch.view_as_real(bias))
        layer.gate.copy_(gate)
    return layer


SITES = [((16,), 1), ((30,), 2), ((300,), 1), ((521,), 1), ((6, 9), 1), ((8, 7), 2), ((4, 5, 6), 1)]


@every_kind
@every_boundary
@pytest.mark.parametrize(("size", "stride"), SITES)
def test_without_weights_it_can_be_the_identity(size, stride, mode, kind):
    """L w = 0, b = 1, and the gate is the identity of channels; a stride leaves results out."""
    module = convolution(size, 3, 3, stride=stride, padding=1, padding_mode=mode, bias=False)
    layer = filled(XDConv(site_of(module, size), kind=kind, extras=True), [0], torch.eye(3))
    x = maps(layer)
    close(layer(x), x[(..., *[slice(None, None, stride)] * len(size))])


@every_kind
@every_boundary
@pytest.mark.parametrize(("size", "stride"), SITES)
def test_without_weights_it_can_be_the_mean_over_a_box(size, stride, mode, kind):
    """L w = 0, and b is the box's Fourier transform; zeros beyond the border count, as in torch's pooling."""
    module = convolution(size, 3, 3, stride=stride, padding=1, padding_mode=mode, bias=False)
    layer = filled(XDConv(site_of(module, size), kind=kind, extras=True), [-1, 0, 1], torch.eye(3))
    with torch.no_grad():
        module.weight.copy_(
            torch.eye(3).view(3, 3, *[1] * len(size)).expand_as(module.weight) / 3 ** len(size)
        )
    x = maps(layer)
    close(layer(x), module(x))


@every_kind
def test_depthwise_it_can_be_the_identity_of_every_channel(kind):
    module = convolution((12,), 3, 3, groups=3, bias=False)
    layer = filled(XDConv(site_of(module, (12,)), kind=kind, extras=True), [0], torch.ones(1, 3))
    x = maps(layer)
    close(layer(x), x)


def test_without_a_gate_nothing_but_the_bias_is_left():
    layer = scrambled(XDConv(site_of(convolution((6, 5)), (6, 5)), extras=True))
    nn.init.zeros_(layer.gate)
    close(layer(maps(layer)), layer.bias.view(-1, 1, 1).expand(2, 3, 6, 5))


def neural_operator(layer, x, weight):
    """A Fourier layer by torch's transforms, as Li et al. define it, of complex ``weight`` [f, ci, co]."""
    axes = list(range(2, x.ndim))
    spectrum = torch.fft.rfftn(x, dim=axes)
    mixed = spectrum.new_zeros(len(x), weight.shape[2], *spectrum.shape[2:])
    for i, low in enumerate(itertools.product(*(g.low for g in layer.frame.grids))):
        at = (..., *reversed(low))
        mixed[at] = spectrum[at] @ weight[i]
    return torch.fft.irfftn(mixed, s=x.shape[2:], dim=axes)


@pytest.mark.parametrize("modes", [None, 1, 2, 3, 50])
@pytest.mark.parametrize("size", [(8,), (9,), (300,), (1,), (6, 8), (7, 5), (12, 1), (4, 5, 6), (5, 4, 3)])
def test_a_fourier_layer_is_transform_product_and_inverse(size, modes):
    """Whose real part alone counts where a frequency is its own conjugate, as in torch's inverse."""
    layer = scrambled(FourierConv(site_of(convolution(size), size), modes))
    x = maps(layer)
    weight = torch.view_as_complex(layer.weight.movedim(1, -1).contiguous())
    shift = layer.bias.view(-1, *[1] * len(size))
    close(layer(x), neural_operator(layer, x, weight) + shift)
    with torch.no_grad():
        close(layer.eval()(x), neural_operator(layer, x, weight) + shift)


def test_a_fourier_layer_of_groups_is_one_of_each():
    layer = scrambled(FourierConv(site_of(convolution((9,), 4, 6, groups=2, bias=False), (9,)), 3))
    halves = [FourierConv(replace(layer.site, inputs=2, outputs=3, groups=1), 3) for _ in range(2)]
    with torch.no_grad():
        for half, part in zip(halves, layer.weight.chunk(2, 3), strict=True):
            half.weight.copy_(part)
    x = maps(layer)
    close(layer(x), torch.cat([h(part) for h, part in zip(halves, x.chunk(2, 1), strict=True)], 1))


def test_a_fourier_layer_with_a_stride_leaves_results_out():
    site = site_of(convolution((7, 8), stride=2, padding=1), (7, 8))
    layer = scrambled(FourierConv(site, 3))
    whole = FourierConv(replace(site, stride=(1, 1)), 3)
    whole.load_state_dict(layer.state_dict())
    x = maps(layer)
    close(layer(x), whole(x)[..., ::2, ::2])


def test_a_fourier_layer_starts_with_small_positive_numbers():
    """Uniform between 0 and 1 over the number of pairs of channels, as published."""
    weight = FourierConv(site_of(convolution((64,), 8, 8), (64,))).weight
    assert weight.min() >= 0
    assert weight.max() < 1 / 64
    assert weight.mean().item() == pytest.approx(1 / 128, rel=0.05)


@every_boundary
@pytest.mark.parametrize("size", [(16,), (30,), (6, 9), (3, 4, 5)])
def test_transforms_with_permutations_convolve_a_permuted_map(size, mode):
    """K = P F^-1 and M = F P^T: every position goes where it is put, and comes back."""
    module = convolution(size, padding_mode=mode)
    layer = started(module, size)
    x = maps(layer)
    expected = x
    orders = [torch.randperm(n) for n in size]
    for axis, order in enumerate(orders):
        expected = expected.index_select(axis + 2, order)
    expected = module(expected)
    for axis, order in enumerate(orders):
        expected = expected.index_select(axis + 2, order.argsort())
    with torch.no_grad():
        for m, k, order in zip(layer.learned.m, layer.learned.k, reversed(orders), strict=True):
            m.copy_(m[..., order.argsort()])
            k.copy_(k[:, :, order.argsort()])
    close(layer(x), expected)


def complexes(matrices):
    return [torch.complex(*matrix) for matrix in matrices]


def joined(axes):
    """One matrix of those of all axes, the last axis first: to (frequencies) from (positions in a map)."""
    whole = axes[0]
    for matrix in axes[1:]:
        whole = torch.einsum("fp,gq->fgqp", whole, matrix).flatten(2).flatten(0, 1)
    return whole


def divided(grid, rows, columns, factors, inverse=False):
    """Two stages, and what stands beside the frequencies, as one matrix."""
    if inverse:
        whole = torch.einsum("lmv,vlu->mlvu", rows, columns).flatten(2).flatten(0, 1)[grid.axis.positions]
    else:
        whole = torch.einsum("lvm,vul->vuml", rows, columns).flatten(2).flatten(0, 1)[:, : grid.axis.size]
    for over_rows, over_columns in zip(factors[::2], factors[1::2], strict=True):
        left = torch.einsum("vxu,uvw->vxwu", over_columns, over_rows).flatten(2).flatten(0, 1)
        whole = whole @ left if inverse else left @ whole
    return whole


def assembled(layer):
    """Re(K diag(D) M) from the layer's parameters alone, [co, outputs, ci, inputs]."""
    site, frame = layer.site, layer.frame
    m, k, taps = map(complexes, layer.learned())
    if frame.divided:
        m = [divided(frame.grids[0], m[0], m[1], m[2:])]
        k = [divided(frame.grids[0], k[0], k[1], k[2:], inverse=True)]
    else:
        m, k = [matrix[0] for matrix in m], [matrix[0] for matrix in k]
    for i, (index, n) in enumerate(zip(frame.index, reversed(site.size), strict=True)):
        if index is not None:
            m[i] = m[i].new_zeros(len(m[i]), n).index_add(1, torch.tensor(index), m[i])
    analysis, synthesis = joined(m), joined([matrix.T for matrix in k]).T
    kernel = joined([matrix[0] for matrix in taps])
    spectrum = torch.einsum("ft,oit->foi", kernel, layer.weight.flatten(2).to(kernel.dtype))
    if layer.spectral_bias is not None:
        spectrum = layer.gate.T * (spectrum + torch.view_as_complex(layer.spectral_bias)[:, None, None])
    whole = torch.einsum("pf,foi,fq->opiq", synthesis, spectrum, analysis).real
    size, share = site.inputs // site.groups, site.outputs // site.groups
    dense = whole.new_zeros(*whole.shape[:2], site.inputs, whole.shape[3])
    for g in range(site.groups):
        dense[g * share :][:share, :, g * size :][:, :, :size] = whole[g * share :][:share]
    return dense


def operator(layer):
    """What unit vectors become, [co, outputs, ci, inputs]; without the bias."""
    site = layer.site
    units = torch.eye(site.inputs * torch.Size(site.size).numel())
    y = layer(units.view(-1, site.inputs, *site.size))
    y = y - (0 if layer.bias is None else layer.bias.view(-1, *[1] * site.dims))
    return y.flatten(2).permute(1, 2, 0).unflatten(2, (site.inputs, -1))


OPERATORS = {
    "series": ((7,), {}, {}),
    "series of three factors": ((8,), {}, {"depth": 3}),
    "series with a stride": ((16,), {"stride": 2, "padding": 2, "dilation": 2}, {"extras": True}),
    "periodic series": ((12,), {"padding_mode": "circular"}, {"extras": True}),
    "two stages": ((300,), {"inputs": 1, "outputs": 2}, {"extras": True}),
    "two stages of three factors": (
        (300,),
        {"inputs": 1, "outputs": 2, "stride": 3, "padding": 1},
        {"depth": 3},
    ),
    "two stages, unrolled": ((521,), {"inputs": 1, "outputs": 1, "padding_mode": "circular"}, {}),
    "maps": ((4, 5), {}, {"extras": True}),
    "maps of two factors": ((4, 5), {"padding_mode": "circular"}, {"depth": 2}),
    "depthwise maps": ((5, 4), {"inputs": 3, "groups": 3, "bias": False}, {"extras": True}),
    "maps of groups": ((3, 5), {"inputs": 4, "outputs": 6, "groups": 2}, {"extras": True}),
    "volumes": ((3, 2, 4), {}, {"extras": True}),
    "volumes of two factors": ((3, 2, 4), {"inputs": 1}, {"depth": 2}),
    "butterflies": ((7,), {"padding_mode": "circular"}, {"kind": "butterflies", "depth": 2}),
    "butterflies in two stages": (
        (300,),
        {"inputs": 1, "outputs": 1},
        {"kind": "butterflies", "extras": True},
    ),
    "butterflies of maps": ((4, 5), {}, {"kind": "butterflies", "extras": True}),
}


@pytest.mark.parametrize("name", OPERATORS)
@torch.no_grad()
def test_it_is_the_operator_that_its_parameters_make(name):
    """Re(K diag(gate (L w + b)) M), whatever K, L, M, gate and b have become."""
    size, settings, own = OPERATORS[name]
    layer = scrambled(XDConv(site_of(convolution(size, **settings), size), **own))
    close(operator(layer), assembled(layer), 1e-10)


@every_kind
@torch.no_grad()
def test_it_is_linear_in_the_map_and_in_the_weights(kind):
    layer = scrambled(XDConv(site_of(convolution((6, 5), bias=False), (6, 5)), 2, kind))
    a, b = maps(layer), maps(layer)
    close(layer(2 * a - 3 * b), 2 * layer(a) - 3 * layer(b))
    other = copy.deepcopy(layer)
    other.weight.normal_()
    both = copy.deepcopy(layer)
    both.weight.copy_(2 * layer.weight - 3 * other.weight)
    close(both(a), 2 * layer(a) - 3 * other(a))


@pytest.mark.parametrize("size", [(9,), (16,), (300,), (6, 7), (8, 5), (3, 4, 5)])
def test_unitary_transforms_and_phases_keep_the_energy(size):
    """Parseval: D of modulus 1, with the phase of -f the opposite of that of f, as of real maps."""
    module = convolution(size, 2, 2, padding_mode="circular", bias=False)
    layer = filled(XDConv(site_of(module, size), extras=True), [0], torch.eye(2))
    phase = torch.zeros(1)
    for i, g in enumerate(layer.frame.grids):
        turns = torch.tensor(g.frequencies) / g.points
        phase = (phase[:, None] + (i + 2) * torch.sin(2 * torch.pi * turns)).flatten()
    with torch.no_grad():
        layer.spectral_bias.copy_(torch.view_as_real(torch.polar(torch.ones_like(phase), phase)))
        for m, k in zip(layer.learned.m, layer.learned.k, strict=True):
            if not layer.frame.divided:
                m.copy_(m[..., torch.randperm(m.shape[-1])])
                k.copy_(k[:, :, torch.randperm(k.shape[2])])
    x = maps(layer)
    y = layer(x)
    assert (y - x).abs().max() > 0.1
    close(y.square().sum((0, *range(2, y.ndim))), x.square().sum((0, *range(2, x.ndim))))


def differentiable(layer, fast=False):
    """The gradients of the map and of every parameter are those of finite differences."""
    scrambled(layer)
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = [p.detach().requires_grad_() for p in layer.parameters()]
    x = maps(layer).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, *values), fast_mode=fast)


@pytest.mark.parametrize("size", [(5,), (2, 3)])
def test_map_weights_and_transforms_have_their_gradients(size):
    differentiable(XDConv(site_of(convolution(size, 1, 2), size), extras=True))


@pytest.mark.parametrize(
    ("size", "settings", "own"),
    [
        ((6,), {"padding_mode": "circular"}, {"kind": "butterflies", "depth": 2, "extras": True}),
        ((4, 5), {"stride": 2, "padding": 1}, {"kind": "butterflies", "extras": True}),
        ((4, 5), {"padding_mode": "circular"}, {"depth": 2, "extras": True}),
        ((300,), {"stride": 2, "padding": 1}, {"extras": True}),
        ((300,), {"padding_mode": "circular"}, {"depth": 3}),
        ((521,), {"padding_mode": "circular"}, {}),
        ((300,), {}, {"kind": "butterflies"}),
        ((6, 5), {"inputs": 4, "outputs": 6, "groups": 2}, {"extras": True}),
        ((6, 5), {"inputs": 4, "outputs": 4, "groups": 4}, {"kind": "butterflies"}),
        ((3, 4, 5), {}, {"extras": True}),
    ],
)
def test_gradients_hold_on_any_site(size, settings, own):
    """Along one random direction each."""
    differentiable(XDConv(site_of(convolution(size, **settings), size), **own), fast=True)


@pytest.mark.parametrize(("size", "modes"), [((7,), None), ((8,), 2), ((4, 5), 2), ((3, 2, 4), None)])
def test_a_fourier_layer_has_its_gradients(size, modes):
    differentiable(FourierConv(site_of(convolution(size), size), modes))


def test_weights_and_bias_are_the_convolutions_and_all_else_are_transforms():
    module = convolution((8, 9), 4, 6, (3, 4), groups=2)
    layer = XDConv(site_of(module, (8, 9)), 2, extras=True)
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    assert {"weight": module.weight.shape, "bias": module.bias.shape}.items() <= shapes.items()
    apart = {id(p) for p in transforms(layer)}
    assert [name for name, p in layer.named_parameters() if id(p) not in apart] == ["bias", "weight"]
    assert shapes["gate"] == (2, 6)
    assert shapes["spectral_bias"] == (layer.frame.count, 2)
    assert transforms(FourierConv(layer.site)) == []


def test_weights_start_as_torch_draws_those_of_a_convolution():
    module = convolution((8,), 4, 6, groups=2)
    torch.manual_seed(1)
    module.reset_parameters()
    torch.manual_seed(1)
    layer = XDConv(site_of(module, (8,)))
    assert torch.equal(layer.weight, module.weight)
    assert torch.equal(layer.bias, torch.zeros(6))


@every_kind
@pytest.mark.parametrize(("size", "kernel"), [((9,), 4), ((8, 9), (3, 4)), ((4, 5, 6), (2, 3, 1))])
def test_it_takes_the_kernel_of_a_convolution_and_tells_it(size, kernel, kind):
    module = convolution(size, kernel=kernel)
    layer = started(module, size, kind=kind)
    close(layer.kernel(), module.weight.detach())
    close(layer.weight.norm(), module.weight.norm())
    assert torch.equal(layer.bias, module.bias)


class Counted(XDConv):
    """Counts how often its matrices are made."""

    count = 0

    def parts(self):
        self.count += 1
        return super().parts()


def counted(size=(6, 5), **settings):
    return scrambled(Counted(site_of(convolution(size), size), **settings)).eval()


@every_kind
@pytest.mark.parametrize("size", [(300,), (6, 5)])
def test_evaluation_makes_its_matrices_once_and_computes_what_training_does(size, kind):
    layer = counted(size, kind=kind, extras=True)
    x = maps(layer)
    expected = layer.train()(x)
    layer.eval().count = 0
    with torch.no_grad():
        assert all(torch.equal(layer(x), expected) for _ in range(3))
    assert layer.count == 1
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)


def learned_step(recipe):
    def change(layer):
        step = optimizer(layer.parameters(), recipe, transforms(layer))
        # What was kept before the step was kept after the gradients came to be.
        with torch.no_grad():
            layer(maps(layer))
        step.step()

    return change


def edited(name):
    @torch.no_grad()
    def change(layer):
        layer.get_parameter(name).mul_(1.5)

    return change


def replaced(layer):
    layer.weight = nn.Parameter(2 * layer.weight.detach())


def other_state(layer):
    return {name: value + 1 for name, value in layer.state_dict().items()}


CHANGES = {
    "a step of SGD": learned_step(Recipe(epochs=1, batch_size=1, optimizer="sgd", lr=0.1)),
    "a step of Adam": learned_step(Recipe(epochs=1, batch_size=1, optimizer="adam", lr=0.1)),
    "a step of the transforms alone": learned_step(
        Recipe(epochs=1, batch_size=1, optimizer="adamw", lr=0.0, transform_lr=0.1)
    ),
    "weights in place": edited("weight"),
    "bias in place": edited("bias"),
    "K in place": edited("learned.k.1"),
    "L in place": edited("learned.l.0"),
    "M in place": edited("learned.m.1"),
    "gate in place": edited("gate"),
    "spectral bias in place": edited("spectral_bias"),
    "another parameter": replaced,
    "a state": lambda layer: layer.load_state_dict(other_state(layer)),
    "an assigned state": lambda layer: layer.load_state_dict(other_state(layer), assign=True),
    "another precision": lambda layer: layer.float(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_evaluation_notices_every_change(name):
    layer = counted(extras=True)
    x = maps(layer)
    layer(x).square().mean().backward()
    with torch.no_grad():
        before = layer(x)
        CHANGES[name](layer)
        x = x.to(layer.weight.dtype)
        after = layer(x)
        assert torch.equal(after, copy.deepcopy(layer)(x))
    assert not torch.equal(after, before.to(after))


@torch.no_grad()
def test_what_is_kept_does_not_stand_for_others_in_the_same_memory():
    for _ in range(30):
        layer = XDConv(site_of(convolution((8,)), (8,))).eval()
        x = maps(layer)
        layer(x)
        for _ in range(2):
            layer.weight.data = torch.randn(layer.weight.shape)
        assert torch.equal(layer(x), copy.deepcopy(layer)(x))


@torch.no_grad()
def test_a_lower_precision_in_between_leaves_no_trace():
    layer = counted().float()
    x = maps(layer)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            close(layer(x).float(), expected, 0.1)
    assert torch.equal(layer(x), expected)


def test_copies_are_independent_and_hold_nothing_that_is_kept():
    layer = counted()
    small = len(pickle.dumps(layer.state_dict()))
    x = maps(layer)
    with torch.no_grad():
        expected = layer(x)
        for copied in (copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(copied(x), expected)
        other = copy.deepcopy(layer)
        nn.init.zeros_(other.weight)
        assert not torch.equal(other(x), expected)
        assert torch.equal(layer(x), expected)
    assert len(pickle.dumps(layer)) < small + 2000


@torch.no_grad()
def test_other_parameters_for_one_call_are_used_and_forgotten():
    layer, other = counted(), counted()
    x = maps(layer)
    expected = layer(x)
    for _ in range(2):
        assert torch.equal(functional_call(layer, dict(other.named_parameters()), (x,)), other(x))
    assert torch.equal(layer(x), expected)


@torch.no_grad()
def test_many_layers_at_once_are_each_of_them():
    """Over stacked parameters, as of an ensemble."""
    layers = [counted() for _ in range(3)]
    x = maps(layers[0])
    expected = torch.stack([layer(x) for layer in layers])
    parameters, _ = torch.func.stack_module_state(layers)
    found = torch.func.vmap(lambda p: functional_call(layers[0], p, (x,)))(parameters)
    close(found, expected)


def test_evaluation_gives_gradients_where_they_are_recorded():
    layer = counted(extras=True)
    x = maps(layer)
    with torch.no_grad():
        layer(x)
    layer(x).square().sum().backward()
    found = [p.grad.clone() for p in layer.parameters()]
    layer.train().zero_grad()
    layer(x).square().sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(found, layer.parameters(), strict=True))


class OfValues(nn.Module):
    """Must see numbers to run."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x / max(1.0, float(x.abs().max())))


@pytest.mark.parametrize("wrap", [nn.Sequential, OfValues])
def test_operations_are_counted_alike_before_and_after_an_evaluation(wrap):
    layer = counted()
    network = wrap(layer)
    before = forward_flops(network, (2, 6, 5))
    with torch.no_grad():
        layer(maps(layer))
    assert forward_flops(network, (2, 6, 5)) == before > 0


def test_maps_may_lie_in_memory_in_any_order():
    layer = counted()
    x = maps(layer)
    for order in (x.transpose(2, 3).contiguous().transpose(2, 3), x.to(memory_format=torch.channels_last)):
        close(layer(order), layer(x))


@pytest.mark.parametrize("size", [(9,), (300,), (6, 5), (3, 4, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_results_lie_in_memory_as_those_of_a_convolution(size, stride):
    """A network may take views of them."""
    module = convolution(size, stride=stride, padding=1)
    for layer in (XDConv(site_of(module, size)), FourierConv(site_of(module, size), 2)):
        assert layer(maps(layer)).is_contiguous()


@pytest.mark.parametrize(
    "shape", [(2, 2, 5, 6), (2, 2, 3, 10), (2, 3, 6, 5), (2, 2, 6, 6), (2, 6, 5), (2, 30)]
)
@pytest.mark.parametrize("make", [XDConv, FourierConv])
def test_maps_of_another_shape_are_refused(make, shape):
    layer = make(site_of(convolution((6, 5)), (6, 5)))
    with pytest.raises(ValueError, match=r"takes \(batch, 2, 6, 5\)"):
        layer(torch.randn(shape))


@every_kind
def test_a_convolution_of_another_kernel_is_no_start(kind):
    layer = XDConv(site_of(convolution((8,)), (8,)), kind=kind)
    with pytest.raises(ValueError, match="cannot stand for"):
        layer.start(convolution((8,), kernel=1))


@every_kind
@pytest.mark.parametrize("size", [(9,), (300,), (6, 5)])
def test_in_double_precision_it_starts_as_exactly_as_if_it_had_been_made_so(size, kind):
    torch.set_default_dtype(SINGLE)
    module = convolution(size).double()
    layer = XDConv(site_of(module, size), 2, kind).double()
    layer.start(module)
    x = maps(layer)
    close(layer(x), module(x))
    # What was learnt stays.
    other = scrambled(XDConv(layer.site, kind=kind))
    before = {name: p.detach().clone() for name, p in other.named_parameters()}
    for name, p in other.double().named_parameters():
        assert torch.equal(p, before[name].double())


@pytest.mark.parametrize("size", [(9,), (300,), (6, 5)])
def test_a_fourier_layer_in_double_precision_is_exact(size):
    torch.set_default_dtype(SINGLE)
    raised = FourierConv(site_of(convolution(size), size)).double()
    torch.set_default_dtype(torch.float64)
    made = FourierConv(raised.site)
    made.load_state_dict(raised.state_dict())
    x = maps(made)
    assert torch.equal(raised(x), made(x))
