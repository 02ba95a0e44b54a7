from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nasfw.orders import bit_reversal
from nasfw.spaces.named import check_options, numbers, operation, possible, started
from nasfw.spaces.site import CONVOLUTIONS, site_of
from nasfw.spaces.xd_layers import XDConv
from nasfw.values import UsageError

# Torch announces that it will copy, which is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

OPTIONS = (
    *("k1d1", "k3d1", "k5d1", "k3d2", "pool3", "skip", "zero", "permuted"),
    *("fourier4", "fourier", "xd", "xd2"),
)
# A convolution of four channels, its map, and which options it is not offered.
SITES = {
    "series": (nn.Conv1d(4, 4, 3, padding=1), (20,), ["k3d1"]),
    "periodic series": (nn.Conv1d(4, 4, 7, padding=3, padding_mode="circular"), (20,), []),
    "long series": (nn.Conv1d(4, 4, 3, padding=1), (300,), ["k3d1"]),
    "series with a stride": (nn.Conv1d(4, 4, 3, 2, 1), (21,), ["k3d1", "permuted"]),
    "series of a valid convolution": (nn.Conv1d(4, 4, 3), (20,), [*OPTIONS[:10]]),
    "series with more padding": (nn.Conv1d(4, 4, 3, padding=2), (20,), [*OPTIONS[:10]]),
    "series of an even kernel": (nn.Conv1d(4, 4, 4, padding="same"), (20,), []),
    "series of an even kernel, off centre": (nn.Conv1d(4, 4, 4, padding=2), (20,), [*OPTIONS[:10]]),
    "series, dilated": (nn.Conv1d(4, 4, 3, padding=2, dilation=2, bias=False), (20,), ["k3d2"]),
    "maps": (nn.Conv2d(4, 4, 3, padding=1), (9, 8), ["k3d1"]),
    "maps with other channels": (nn.Conv2d(4, 6, 3, padding=1), (9, 8), ["k3d1", "pool3", "skip"]),
    "maps of one tap": (nn.Conv2d(4, 4, 1), (9, 8), ["k1d1"]),
    "maps of one row": (nn.Conv2d(4, 4, (1, 5), padding=(0, 2)), (9, 10), []),
    "maps, depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (9, 8), ["k3d1"]),
    "periodic maps of groups": (
        nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="circular"),
        (9, 10),
        ["k3d1", "pool3", "skip"],
    ),
    "maps with a stride": (
        nn.Conv2d(4, 4, 3, (2, 1), 1, bias=False),
        (9, 10),
        ["k3d1", "permuted"],
    ),
    "periodic maps with a stride": (
        nn.Conv2d(4, 4, 5, 2, 2, padding_mode="circular"),
        (9, 10),
        ["k5d1", "permuted"],
    ),
    "tiny maps": (nn.Conv2d(4, 4, 3, padding=1), (2, 2), ["k3d1", "k5d1", "k3d2", "fourier4"]),
    "maps of one point": (
        nn.Conv2d(4, 4, 3, padding=1),
        (1, 1),
        ["k3d1", "k5d1", "k3d2", "pool3", "fourier4"],
    ),
    "volumes": (nn.Conv3d(4, 4, 3, padding=1), (5, 9, 3), ["k3d1"]),
    "periodic volumes": (
        nn.Conv3d(4, 4, 3, padding=1, padding_mode="circular"),
        (5, 4, 3),
        ["k3d1", "fourier4"],
    ),
}
every_site = pytest.mark.parametrize("name", SITES)


def close(result, expected, tolerance=1e-6):
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def made(name, option, **settings):
    module, size, _ = SITES[name]
    return operation(site_of(module, size), option, **settings)


def maps(name):
    return torch.randn(2, 4, *SITES[name][1])


@every_site
def test_offered_is_what_fits_channels_borders_and_the_map(name):
    module, size, lacking = SITES[name]
    offered = possible(site_of(module, size), OPTIONS)
    assert offered == ["conv", *(o for o in OPTIONS if o not in lacking)]


@every_site
def test_every_option_gives_what_the_convolution_gives_in_form(name):
    """And has a gradient for everything that it could learn."""
    module, size, _ = SITES[name]
    x = maps(name)
    expected = module(x).shape
    site = site_of(module, size)
    for option, kind, extras in [
        *((o, "blocks", False) for o in possible(site, OPTIONS)),
        *itertools.product(["xd", "xd2"], ["blocks", "butterflies"], [True]),
    ]:
        layer = operation(site, option, kind, extras)
        y = layer(x.requires_grad_())
        assert y.shape == expected, option
        y.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters()), option
        biases = [n for n, _ in layer.named_parameters() if n.rpartition(".")[2] == "bias"]
        assert bool(biases) == (module.bias is not None), option


def test_an_option_is_offered_once_and_the_convolution_always():
    site = site_of(nn.Conv1d(4, 4, 5, padding=2), (20,))
    assert possible(site, ["skip", "conv", "skip", "zero"]) == ["conv", "skip", "zero"]
    assert possible(site, []) == ["conv"]


@pytest.mark.parametrize("modes", [1, 9, 10, 20])
def test_modes_are_offered_where_they_leave_frequencies_out(modes):
    """Of 20 points all 11 frequencies are kept by 10 modes."""
    site = site_of(nn.Conv1d(4, 4, 5, padding=2), (20,))
    assert possible(site, [f"fourier{modes}"])[1:] == ([f"fourier{modes}"] if modes < 10 else [])


@pytest.mark.parametrize("name", [n for n, (_, _, lacking) in SITES.items() if "k1d1" not in lacking])
@pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 1), (5, 1), (3, 2)])
def test_a_kernel_size_and_dilation_are_torchs_convolution(name, k, d):
    module, size, lacking = SITES[name]
    if f"k{k}d{d}" in lacking:
        return
    layer = made(name, f"k{k}d{d}")
    circular = module.padding_mode == "circular"
    halo = [(k - 1) * d // 2] * (2 * len(size))
    x = maps(name)
    function = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    padded = F.pad(x, halo, mode="circular" if circular else "constant")
    expected = function(padded, layer.weight, layer.bias, module.stride, 0, d, module.groups)
    assert layer.weight.shape[2:] == (k,) * len(size)
    close(layer(x), expected)


@pytest.mark.parametrize("name", [n for n, (_, _, lacking) in SITES.items() if "pool3" not in lacking])
def test_a_pool_is_the_mean_of_what_it_covers(name):
    """By the definition; beyond the border zeros count, or the other side."""
    module, size, _ = SITES[name]
    x = maps(name)
    total = torch.zeros_like(x)
    padded = F.pad(
        x, [1] * 2 * len(size), mode="circular" if module.padding_mode == "circular" else "constant"
    )
    for shift in itertools.product(range(3), repeat=len(size)):
        total += padded[(..., *(slice(s, s + n) for s, n in zip(shift, size, strict=True)))]
    kept = (..., *(slice(None, None, s) for s in module.stride))
    close(made(name, "pool3")(x), total[kept] / 3 ** len(size))


@pytest.mark.parametrize("name", [n for n, (_, _, lacking) in SITES.items() if "skip" not in lacking])
def test_a_skip_passes_what_the_stride_keeps(name):
    x = maps(name)
    kept = (..., *(slice(None, None, s) for s in SITES[name][0].stride))
    assert torch.equal(made(name, "skip")(x), x[kept])


def test_operations_without_weights_learn_a_scale_and_a_bias():
    for option in ("skip", "pool3"):
        layer, x = made("maps", option), maps("maps")
        plain = layer(x)
        with torch.no_grad():
            layer.scale.fill_(-2)
            layer.bias.copy_(torch.arange(4.0).view(4, 1, 1))
        close(layer(x), -2 * plain + torch.arange(4.0).view(4, 1, 1))


@pytest.mark.parametrize("name", [n for n, (_, _, lacking) in SITES.items() if "zero" not in lacking])
def test_zero_is_nothing_but_a_bias(name):
    module, _, _ = SITES[name]
    layer, x = made(name, "zero"), maps(name)
    shape = module(x).shape
    assert torch.equal(layer(x), torch.zeros(shape))
    if module.bias is not None:
        nn.init.normal_(layer.bias)
        assert torch.equal(layer(x), layer.bias.expand(shape))


@pytest.mark.parametrize("name", [n for n, (_, _, lacking) in SITES.items() if "permuted" not in lacking])
def test_permuted_convolves_the_map_in_bit_reversed_order(name):
    """Position i of what is convolved is position order[i] of the map, on every axis, and back."""
    layer, x = made(name, "permuted"), maps(name)
    orders = [torch.tensor(bit_reversal(n)) for n in x.shape[2:]]
    there = (slice(None), slice(None), *torch.meshgrid(*orders, indexing="ij"))
    expected = torch.empty_like(layer(x))
    expected[there] = layer.convolution(x[there])
    close(layer(x), expected)


@every_site
def test_conv_is_the_convolution_itself(name):
    module, _, _ = SITES[name]
    layer, x = made(name, "conv"), maps(name)
    layer.load_state_dict(module.state_dict())
    assert type(layer) is type(module)
    close(layer(x), module(x))


@every_site
@pytest.mark.parametrize("option", ["xd", "xd2"])
@pytest.mark.parametrize("kind", ["blocks", "butterflies"])
def test_xd_operations_start_as_the_convolution(name, option, kind):
    module, x = SITES[name][0], maps(name)
    for extras in (False, True):
        layer = started(made(name, option, kind=kind, extras=extras), module)
        close(layer(x), module(x), 1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_permuted_starts_with_the_weights_of_the_convolution(dims):
    module = CONVOLUTIONS[dims](4, 4, 3, padding=1)
    layer = started(operation(site_of(module, (8, 4, 2)[:dims]), "permuted"), module)
    assert torch.equal(layer.convolution.weight, module.weight)
    assert torch.equal(layer.convolution.bias, module.bias)
    assert layer.convolution.weight is not module.weight


@pytest.mark.parametrize("option", ["k5d1", "k1d1", "pool3", "skip", "zero", "fourier"])
def test_operations_of_another_kind_start_with_weights_of_their_own(option):
    layer = made("maps", option)
    before = {n: v.clone() for n, v in layer.state_dict().items()}
    after = started(layer, SITES["maps"][0]).state_dict()
    assert all(torch.equal(v, after[n]) for n, v in before.items())


def test_names_have_numbers():
    assert numbers("k13d2") == {"k": 13, "d": 2}
    assert numbers("pool5") == {"pool": 5}
    assert numbers("fourier16") == {"modes": 16}
    assert numbers("xd3") == {"depth": 3}
    for name in ("conv", "skip", "zero", "permuted", "fourier", "xd", "nothing"):
        assert numbers(name) == {}
    assert isinstance(made("maps", "xd3"), XDConv)
    assert len(made("maps", "xd3").learned.more_m) == 2
    assert made("series", "fourier4").frame.counts == [4]


@pytest.mark.parametrize(
    "name",
    [
        *("k4d1", "k3d0", "k0d1", "k3", "d1", "pool2", "pool0", "pool", "xd0", "fourier0", "conv3", "skip1"),
        *("XD", "xd-1", "k3d1 ", "", "k3d1,skip", "max3"),
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(UsageError, match=rf"no operation is called '{name}'; there are conv, skip, zero"):
        check_options(["conv", name])


def test_all_names_that_are_listed_are_known():
    check_options([*OPTIONS, "conv", "pool15", "k31d15", "fourier64", "xd7"])
