from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap

from nasfw.spaces import products
from nasfw.spaces.products import multiplied
from nasfw.spaces.site import CONVOLUTIONS, site_of
from nasfw.spaces.xd_layers import FourierConv, XDConv

DOUBLE = torch.float64
# Sizes, groups, and settings of XD operations, or the modes of a Fourier layer.
LAYERS = {
    "series": ((9,), 1, {}),
    "series, gate and bias": ((9,), 1, {"extras": True, "depth": 2}),
    "groups": ((9,), 2, {"extras": True}),
    "depthwise": ((4, 5), 4, {}),
    "maps": ((4, 5), 1, {"kind": "butterflies", "extras": True}),
    "volumes": ((2, 4, 3), 1, {"extras": True}),
    "Fourier": ((9,), 1, 3),
    "Fourier, maps": ((5, 5), 2, 2),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def layer(name, inputs=4):
    size, groups, given = LAYERS[name]
    module = CONVOLUTIONS[len(size)](inputs, 4, 3, padding=1, groups=groups, padding_mode="circular")
    site = site_of(module.double(), size)
    made = FourierConv(site, given) if isinstance(given, int) else XDConv(site, **given)
    with torch.no_grad():
        for p in made.double().parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made, torch.randn(2, inputs, *size, dtype=DOUBLE)


def close(result, expected):
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


@pytest.fixture
def sliced(monkeypatch):
    """Diagonals are made for few frequencies at a time, the last of which are fewer."""
    monkeypatch.setattr(products, "_AT_ONCE", 20)


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(4, 6, 1), (4, 6, 2), (4, 4, 4), (4, 8, 4), (1, 3, 1)]
)
def test_products_over_channels_are_those_of_complex_numbers(inputs, outputs, groups):
    x = torch.randn(5, 3, inputs, dtype=torch.complex128)
    d = torch.randn(5, inputs // groups, outputs, dtype=torch.complex128)
    parts = [torch.view_as_real(v).movedim(-1, 1).contiguous() for v in (x, d)]
    found = multiplied(*parts, groups)
    shared = x.unflatten(2, (groups, -1)), d.unflatten(2, (groups, -1))
    expected = torch.einsum("fbgi,figo->fbgo", *shared).flatten(2)
    close(found, torch.view_as_real(expected).movedim(-1, 1).contiguous())


@every_layer
def test_in_parts_an_operation_computes_the_same_and_has_the_same_gradients(name, monkeypatch):
    made, x = layer(name)
    x.requires_grad_()
    tensors, upstream = [x, *made.parameters()], torch.randn_like(made(x))
    whole, expected = made(x), torch.autograd.grad(made(x), tensors, upstream)
    calls = []
    monkeypatch.setattr(products, "_AT_ONCE", 20)
    monkeypatch.setattr(products, "multiplied", lambda *given: calls.append(1) or multiplied(*given))
    close(made(x), whole)
    assert len(calls) > 2
    for found, one in zip(torch.autograd.grad(made(x), tensors, upstream), expected, strict=True):
        close(found, one)
    with torch.no_grad():
        close(made(x), whole)


@every_layer
@pytest.mark.usefixtures("sliced")
def test_second_derivatives_are_those_of_finite_differences(name):
    made, x = layer(name)
    names = [n for n, _ in made.named_parameters()]

    def function(x, *values):
        return functional_call(made, dict(zip(names, values, strict=True)), (x,))

    values = [p.detach().requires_grad_() for p in made.parameters()]
    assert torch.autograd.gradgradcheck(function, (x.requires_grad_(), *values), fast_mode=True)


@every_layer
@pytest.mark.usefixtures("sliced")
def test_what_needs_no_gradient_gets_none(name):
    made, x = layer(name)
    for p in made.parameters():
        p.requires_grad_(False)
    made.weight.requires_grad_(True)
    made(x).sum().backward()
    assert made.weight.grad is not None
    assert all(p.grad is None for n, p in made.named_parameters() if n != "weight")


@every_layer
@pytest.mark.usefixtures("sliced")
def test_the_transforms_of_functions_work(name):
    made, x = layer(name)
    state = {n: p.detach() for n, p in made.named_parameters()}

    def loss(state, x):
        return functional_call(made, state, (x[None],)).square().sum()

    each = vmap(grad(loss), (None, 0))(state, x)
    whole = torch.autograd.grad(made(x).square().sum(), list(made.parameters()))
    for found, expected in zip(each.values(), whole, strict=True):
        close(found.sum(0), expected)
