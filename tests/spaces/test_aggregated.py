"""The identities of the aggregated convolution, against ordinary convolutions."""

from __future__ import annotations

import math
from functools import partial
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nasfw.spaces.aggregated import (
    AggregatedConv,
    block_diagonal,
    fourier,
    matrix,
    mixed_dilations,
    mixed_results,
    mixed_weights,
)
from nasfw.spaces.kernels import Convolution, Layout, convolution_of, offsets, standalone
from nasfw.spaces.speed import Mode

WAYS = [mixed_results, mixed_weights, mixed_dilations, matrix, fourier]
KERNELS = [(3, 1), (3, 3), (5, 1), (5, 2), (5, 15), (9, 1), (9, 7)]

# The searched convolution and the map it meets.
CASES = [
    (nn.Conv2d(2, 3, 3, padding=1), (8, 8)),
    (nn.Conv2d(2, 3, 3, padding=1, stride=2), (8, 8)),
    (nn.Conv2d(2, 3, 3, padding=1, stride=2), (7, 9)),
    (nn.Conv2d(2, 3, 3, padding=1, stride=3, bias=False), (10, 5)),
    (nn.Conv2d(2, 3, 5), (9, 7)),
    (nn.Conv2d(2, 3, 5), (5, 5)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2, groups=2), (6, 6)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), (6, 5)),
    (nn.Conv2d(2, 3, 4, padding=1, stride=2), (8, 8)),
    (nn.Conv2d(2, 3, 2, stride=2), (6, 6)),
    (nn.Conv2d(2, 3, 1), (4, 4)),
    (nn.Conv2d(2, 3, 3, padding=4), (3, 3)),
    (nn.Conv2d(2, 3, 3, padding=1), (1, 1)),
    (nn.Conv2d(2, 3, 3, padding=1, stride=2), (2, 3)),
    (nn.Conv1d(2, 3, 3, padding=1), (12,)),
    (nn.Conv1d(2, 3, 7, padding=3, stride=2), (13,)),
    (nn.Conv1d(2, 3, 5, stride=3), (17,)),
    (nn.Conv1d(2, 3, 8, padding=3), (9,)),
    (nn.Conv1d(2, 3, 3, padding=1), (1,)),
    (nn.Conv1d(2, 3, 3, padding=1), (2,)),
    (nn.Conv1d(2, 3, 3, padding=1), (5,)),
    (nn.Conv1d(2, 3, 1, padding=1, stride=2), (1,)),
]


def describe(module: nn.Module) -> Convolution:
    convolution = convolution_of(module)
    assert convolution is not None
    return convolution


def layout_of(module: nn.Module, size: tuple[int, ...]) -> Layout:
    convolution = describe(module)
    return Layout(convolution, tuple(dict.fromkeys([*KERNELS, convolution.own])), (size,))


def drawn(
    layout: Layout, batch: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """An input, taps and mixture weights."""
    c = layout.convolution
    shape = (len(layout.taps), c.outputs, c.inputs // c.groups)
    return (
        torch.randn(batch, c.inputs, *layout.sizes[0], dtype=dtype, requires_grad=True),
        torch.randn(shape, dtype=dtype, requires_grad=True),
        torch.rand(len(layout.kernels), dtype=dtype, requires_grad=True),
    )


def drawn_with_bias(
    layout: Layout, batch: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An input, taps, mixture weights and a bias."""
    return *drawn(layout, batch, dtype), torch.randn(layout.convolution.outputs, dtype=dtype).requires_grad_()


def by_definition(layout: Layout, x: Tensor, weight: Tensor, mixture: Tensor) -> Tensor:
    """Every output as the sum over its taps, each read where the module's docstring says."""
    c, size = layout.convolution, x.shape[2:]
    margin = 300
    padded = F.pad(x, (margin, margin) * c.dims)
    y = 0
    for row, tap in enumerate(layout.taps):
        option = next(i for i, b in enumerate(layout.blocks) if b.rows.start <= row < b.rows.stop)
        read = padded
        for axis, (n, offset) in enumerate(zip(size, tap, strict=True), 2):
            places = torch.arange(c.positions(n)) * c.stride + c.shift + offset + margin
            read = read.index_select(axis, places)
        channels = block_diagonal(weight[row].unsqueeze(-1), c.groups).squeeze(-1)
        y = y + mixture[option] * torch.einsum("bi...,oi->bo...", read, channels)
    return y


@pytest.mark.parametrize(("module", "size"), CASES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_definition(module, size, way):
    layout = layout_of(module, size)
    x, weight, mixture = drawn(layout)
    expected = by_definition(layout, x, weight, mixture)
    torch.testing.assert_close(way(layout, x, weight, mixture), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("module", "size"), CASES)
@pytest.mark.parametrize("way", WAYS)
def test_one_hot_mixture_is_the_standalone_convolution(module, size, way):
    layout = layout_of(module, size)
    x, weight, _ = drawn(layout)
    layer = AggregatedConv(layout).double()
    layer.load_state_dict({**layer.state_dict(), "weight": weight.detach()})
    for i, kernel in enumerate(layout.kernels):
        plain = module if kernel == layout.convolution.own else standalone(layout, i)
        conv = plain[1] if isinstance(plain, nn.Sequential) else plain
        padding = "same" if module.padding == "same" and plain is module else conv.padding
        with torch.no_grad():
            whole = F.conv1d if layout.convolution.dims == 1 else F.conv2d
            inputs = plain[0](x) if isinstance(plain, nn.Sequential) else x
            expected = whole(inputs, layer.kernel(i), None, conv.stride, padding, conv.dilation, conv.groups)
        mixture = torch.eye(len(layout.kernels), dtype=x.dtype)[i]
        torch.testing.assert_close(way(layout, x, weight, mixture), expected, rtol=1e-10, atol=1e-10)


def results(way, variables, layout: Layout) -> list[Tensor]:
    """Value and gradients, these for a fixed direction."""
    y = way(layout, *variables)
    # Not around zero: the sum over it is the gradient of a bias.
    direction = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad(y, variables, direction)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Relative to the largest entry of each tensor: sums of many terms round relative to these."""
    for value, other in zip(found, expected, strict=True):
        assert (value - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("module", "size"), CASES)
@pytest.mark.parametrize("way", WAYS)
def test_values_and_gradients_are_those_of_convolutions(way, module, size, dtype, tolerance):
    """T2 and T8."""
    layout = layout_of(module, size)
    variables = drawn_with_bias(layout, 2, dtype)
    exact = [v.detach().double().requires_grad_() for v in variables]
    assert_close(results(way, variables, layout), results(mixed_results, exact, layout), tolerance)


@pytest.mark.parametrize(("module", "size"), CASES)
@pytest.mark.parametrize("way", WAYS)
def test_a_bias_is_added_to_every_position(way, module, size):
    layout = layout_of(module, size)
    x, weight, mixture, bias = drawn_with_bias(layout)
    expected = way(layout, x, weight, mixture) + bias.view(-1, *[1] * len(size))
    torch.testing.assert_close(way(layout, x, weight, mixture, bias), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("way", WAYS)
def test_exact_for_small_and_large_inputs(way, scale):
    layout = layout_of(nn.Conv2d(3, 2, 3, padding=1), (13, 8))
    x, weight, mixture = drawn(layout, 5, torch.float32)
    variables = [(scale * x).detach().requires_grad_(), weight, mixture]
    exact = [v.detach().double().requires_grad_() for v in variables]
    assert_close(results(way, variables, layout), results(mixed_results, exact, layout), 1e-5)


@st.composite
def layers(draw) -> tuple[Layout, int]:
    """Any layer on any small map, and a batch."""
    dims = draw(st.integers(1, 2))
    groups, inputs, outputs = draw(
        st.sampled_from([(1, 1, 1), (1, 1, 3), (1, 5, 2), (2, 4, 2), (3, 3, 3), (2, 2, 4)])
    )
    own, stride = draw(st.sampled_from([(1, 1), (3, 1), (3, 2), (8, 1)])), draw(st.integers(1, 3))
    padding = (own[0] - 1) * own[1] // 2
    size = tuple(draw(st.lists(st.integers(1, 23 if dims == 1 else 9), min_size=dims, max_size=dims)))
    assume(all(n + 2 * padding >= (own[0] - 1) * own[1] + 1 for n in size))
    kernels = draw(st.lists(st.sampled_from(KERNELS), min_size=1, max_size=4, unique=True))
    convolution = Convolution(dims, inputs, outputs, own, stride, (padding, padding), groups)
    layout = Layout(convolution, tuple(dict.fromkeys([*kernels, own])), (size,))
    assume(layout.taps)
    return layout, draw(st.integers(1, 6))


@given(layers(), st.sampled_from(WAYS))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_layer_is_a_mixture_of_convolutions(layer, way):
    layout, batch = layer
    torch.manual_seed(0)
    variables = drawn_with_bias(layout, batch)
    assert_close(results(way, variables, layout), results(mixed_results, variables, layout), 1e-12)


@given(layers(), st.sampled_from([matrix, fourier]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_gradients_are_those_of_finite_differences(layer, way):
    layout, batch = layer
    torch.manual_seed(0)
    variables = drawn_with_bias(layout, batch)
    assert torch.autograd.gradcheck(lambda *v: way(layout, *v), variables, fast_mode=True)


@pytest.mark.parametrize(
    ("module", "size"), [CASES[1], CASES[7], CASES[14], (nn.Conv1d(4, 4, 3, groups=4), (9,))]
)
@pytest.mark.parametrize("way", [matrix, fourier])
def test_low_memory_changes_nothing(way, module, size):
    layout = layout_of(module, size)
    variables = drawn_with_bias(layout, 3)
    frugal = results(partial(way, keep=False), variables, layout)
    assert_close(frugal, results(way, variables, layout), 1e-14)


def test_low_memory_keeps_the_inputs_only():
    """What the backward pass of a kept and of a computed spectrum holds, in numbers."""
    layout = layout_of(nn.Conv2d(4, 4, 3, padding=1), (16, 16))
    held = {}
    for keep in (True, False):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t
        ):
            matrix(layout, *drawn(layout, 8), keep=keep)
        held[keep] = sum(sizes)
    spectra = 2 * 4 * 8 * 31 * 16
    assert held[True] - held[False] == spectra


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("way", [matrix, fourier])
def test_autocast_transforms_in_single_precision(way, groups):
    """The result is rounded once, after sums that lose nothing."""
    layout = layout_of(nn.Conv2d(4, 4, 3, padding=1, groups=groups), (12, 12))
    x, weight, mixture = drawn(layout, 3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = way(layout, x.bfloat16().float(), weight, mixture)
        half = way(layout, x.bfloat16(), weight, mixture)
    assert y.dtype == half.dtype == torch.bfloat16
    assert torch.equal(y, half)
    exact = way(layout, x.bfloat16().float(), weight, mixture)
    assert torch.equal(y, exact.bfloat16())
    (outside,) = torch.autograd.grad(y.float().square().sum(), weight, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (inside,) = torch.autograd.grad(y.float().square().sum(), weight)
    assert torch.equal(inside, outside)
    assert inside.dtype == torch.float32


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("groups", [1, 2])
def test_first_and_second_derivatives_are_those_of_finite_differences(way, groups):
    layout = Layout(Convolution(1, 2, 2, (3, 1), 2, (1, 1), groups), ((3, 1), (3, 2)), ((4,),))
    variables = drawn_with_bias(layout, 1)
    assert torch.autograd.gradcheck(lambda *v: way(layout, *v), variables)
    assert torch.autograd.gradgradcheck(lambda *v: way(layout, *v), variables)


@pytest.mark.parametrize("way", WAYS)
def test_linear_in_mixture_and_in_weights(way):
    """T3."""
    layout = layout_of(*CASES[0])
    x, w, p = (v.detach() for v in drawn(layout))
    v, q = torch.randn_like(w), torch.rand_like(p)
    left = way(layout, x, w + 2 * v, p)
    torch.testing.assert_close(left, way(layout, x, w, p) + 2 * way(layout, x, v, p))
    left = way(layout, x, w, p + 3 * q)
    torch.testing.assert_close(left, way(layout, x, w, p) + 3 * way(layout, x, w, q))


@pytest.mark.parametrize("way", WAYS)
def test_batch_of_one(way):
    layout = layout_of(*CASES[1])
    x, weight, mixture = drawn(layout, 3)
    alone = way(layout, x[:1], weight, mixture)
    torch.testing.assert_close(alone, way(layout, x, weight, mixture)[:1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_delta_kernel_returns_the_input(way):
    layout = Layout(Convolution(2, 1, 1, (5, 1), 1, (2, 2)), ((5, 1), (9, 3)), ((6, 7),))
    x, weight, _ = drawn(layout)
    delta = torch.zeros_like(weight)
    delta[[row for row, tap in enumerate(layout.taps) if tap == (0, 0)]] = 1
    mixture = torch.tensor([0.25, 0.75], dtype=x.dtype)
    torch.testing.assert_close(way(layout, x, delta, mixture), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_shift_equivariant_away_from_the_border(way):
    """T7."""
    layout = Layout(Convolution(1, 1, 1, (3, 1), 1, (1, 1)), ((3, 1), (3, 4)), ((20,),))
    _, weight, mixture = drawn(layout)
    x = torch.zeros(1, 1, 20, dtype=torch.float64)
    x[..., 8:11] = torch.randn(3, dtype=x.dtype)
    moved = way(layout, x.roll(2, -1), weight, mixture)
    torch.testing.assert_close(moved, way(layout, x, weight, mixture).roll(2, -1), rtol=1e-10, atol=1e-10)


def test_taps_out_of_reach_are_left_out_without_loss():
    """T5: n = 4 leaves offsets -3..3, one tap of (3, 15) and three of (3, 3)."""
    layout = Layout(Convolution(1, 1, 1, (3, 1), 1, (1, 1)), ((3, 1), (3, 3), (3, 15)), ((4,),))
    assert layout.taps == ((-1,), (0,), (1,), (-3,), (0,), (3,), (0,))
    x, w = torch.randn(1, 1, 4), torch.randn(1, 1, 3)
    whole = F.conv1d(x, w, padding=15, dilation=15)
    torch.testing.assert_close(whole, w[0, 0, 1] * x)


@pytest.mark.parametrize(("n", "half"), [(8, 60), (32, 60), (100, 60), (5, 1)])
def test_transform_length_is_the_map_and_what_reaches_it(n, half):
    """T4: N = n + min(R, n - 1) for a convolution that keeps the size."""
    layout = Layout(Convolution(1, 1, 1, (3, 1), 1, (1, 1)), ((3, 1), (2 * half + 1, 1)), ((n,),))
    assert layout.transform((n,)) == (n + min(half, n - 1),)


def test_dilated_kernel_is_the_plain_one_with_zeros_inserted():
    """T6: Kronecker product with a unit impulse, trailing zeros cut."""
    w = torch.randn(5, dtype=torch.float64)
    inserted = torch.kron(w, torch.eye(3, dtype=w.dtype)[0])[: 3 * 4 + 1]
    x = torch.randn(1, 1, 9, dtype=w.dtype)
    dilated = F.conv1d(x, w.view(1, 1, -1), padding=6, dilation=3)
    torch.testing.assert_close(F.conv1d(x, inserted.view(1, 1, -1), padding=6), dilated)
    assert offsets((5, 3)) == [-6, -3, 0, 3, 6]


@pytest.mark.parametrize("way", WAYS)
def test_depthwise_is_block_diagonal_dense(way):
    """T10."""
    narrow = Layout(Convolution(2, 4, 4, (3, 1), 1, (1, 1), 4), ((3, 1), (5, 3)), ((6, 5),))
    dense = Layout(Convolution(2, 4, 4, (3, 1), 1, (1, 1)), ((3, 1), (5, 3)), ((6, 5),))
    x, weight, mixture = drawn(narrow)
    whole = torch.diag_embed(weight.squeeze(2))
    expected = way(dense, x, whole, mixture)
    torch.testing.assert_close(way(narrow, x, weight, mixture), expected, rtol=1e-10, atol=1e-10)


def test_block_diagonal_kernel_convolves_as_groups_do():
    x, w = torch.randn(1, 6, 7, dtype=torch.float64), torch.randn(12, 1, 3, dtype=torch.float64)
    expected = F.conv1d(x, w, groups=6)
    for target in (1, 2, 3, 6):
        torch.testing.assert_close(F.conv1d(x, block_diagonal(w, 6, target), groups=target), expected)


def test_several_map_sizes_share_the_taps():
    """A layer that is called with two sizes gives, on each, what a layer for that size alone gives."""
    c = Convolution(2, 1, 1, (3, 1), 1, (1, 1))
    both = Layout(c, ((3, 1), (5, 2)), ((3, 6), (6, 2)))
    _, weight, mixture = drawn(both)
    for size in both.sizes:
        x = torch.randn(1, 1, *size, dtype=weight.dtype)
        expected = by_definition(both, x, weight, mixture)
        for way in WAYS:
            torch.testing.assert_close(way(both, x, weight, mixture), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(1, 1, (3, 5)),
        nn.Conv2d(1, 1, 3, stride=(1, 2)),
        nn.Conv2d(1, 1, 3, padding=(0, 1)),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(1, 1, 3),
        nn.Conv3d(1, 1, 3),
        nn.Linear(1, 1),
    ],
)
def test_other_modules_are_no_searchable_convolutions(module):
    assert convolution_of(module) is None


def test_layer_without_mixture_says_so():
    layer = AggregatedConv(layout_of(*CASES[0]))
    with pytest.raises(RuntimeError, match="mixture"):
        layer(torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize("mode", get_args(Mode))
def test_modes_of_the_layer_add_the_bias(mode):
    layout = layout_of(nn.Conv2d(1, 2, 3, padding=1), (4, 4))
    layer = AggregatedConv(layout, mode)
    layer.mixture = torch.zeros(len(layout.kernels))
    nn.init.normal_(layer.bias)
    y = layer(torch.randn(1, 1, 4, 4))
    torch.testing.assert_close(y, layer.bias.view(1, 2, 1, 1).expand_as(y))


def test_rows_are_the_taps_of_all_kernels_on_a_large_map():
    """|D| sum k^2 = 656 taps for the paper's kernels in two dimensions."""
    kernels = tuple((k, d) for k in (3, 5, 7, 9) for d in (1, 3, 7, 15))
    layout = Layout(Convolution(2, 1, 1, (3, 1), 1, (1, 1)), kernels, ((100, 100),))
    assert len(layout.taps) == 656
    assert math.prod(layout.extent) == 121**2


@pytest.mark.parametrize("wanted", [0, 1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_a_single_gradient_is_the_same_as_among_all(way, wanted):
    for module, size in (CASES[1], CASES[6], CASES[7], CASES[15]):
        layout = layout_of(module, size)
        variables = drawn(layout)
        expected = results(way, variables, layout)[1 + wanted]
        alone = [v.detach().requires_grad_(i == wanted) for i, v in enumerate(variables)]
        y = way(layout, *alone)
        direction = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
        (found,) = torch.autograd.grad(y, [alone[wanted]], direction)
        assert_close([found], [expected], 1e-14)


@pytest.mark.parametrize("way", WAYS)
def test_layout_in_memory_does_not_matter(way):
    layout = layout_of(nn.Conv2d(3, 2, 3, padding=1), (6, 9))
    x, weight, mixture = drawn(layout)
    turned = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    assert_close(
        results(way, [turned, weight, mixture], layout), results(way, [x, weight, mixture], layout), 1e-14
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
@pytest.mark.parametrize("way", [matrix, fourier])
def test_layers_of_low_precision_keep_it(way, dtype, tolerance):
    layout = layout_of(nn.Conv2d(3, 2, 3, padding=1), (6, 9))
    variables = [v.detach().to(dtype).requires_grad_() for v in drawn(layout)]
    exact = [v.detach().double().requires_grad_() for v in variables]
    found = results(way, variables, layout)
    assert {t.dtype for t in found} == {dtype}
    assert_close([t.double() for t in found], results(way, exact, layout), tolerance)


def test_nothing_is_measured_without_a_training_pass(monkeypatch):
    layer = AggregatedConv(layout_of(*CASES[0]))
    layer.mixture = torch.zeros(len(layer.layout.kernels))
    x = torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        layer(x)
    layer.eval()(x)
    assert not layer.choices
    layer.train()(x)
    assert layer.choices.keys() == {(8, 8)}


@pytest.mark.parametrize("way", WAYS)
def test_a_pass_in_inference_mode_leaves_others_trainable(way):
    """What is kept between calls must not be bound to the mode of the first."""
    for module in (nn.Conv2d(2, 2, 3, padding=1), nn.Conv1d(3, 3, 3, padding=1, groups=3)):
        size = (4, 11)[: module.weight.dim() - 2]
        layout = layout_of(module, size)
        variables = drawn(layout)
        with torch.inference_mode():
            way(layout, *variables)
        assert all(torch.isfinite(t).all() for t in results(way, variables, layout))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 1, 8, 8), r"\(1, 1, 8, 8\) were given; this layer takes \(batch, 2, height, width\)"),
        (torch.zeros(2, 8, 8), "takes"),
        (torch.zeros(1, 2, 9, 8), r"\(9, 8\) was given; .* up to \(8, 8\)"),
        (torch.zeros(1, 2, 8, 8, dtype=torch.float64), "float64 were given; .*float32"),
    ],
)
def test_maps_that_do_not_fit_are_refused(x, message):
    layer = AggregatedConv(layout_of(*CASES[0]))
    layer.mixture = torch.zeros(len(layer.layout.kernels))
    with pytest.raises(ValueError, match=message):
        layer(x)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_an_empty_batch_has_an_empty_result(mode):
    layer = AggregatedConv(layout_of(*CASES[0]), mode)
    layer.mixture = torch.zeros(len(layer.layout.kernels))
    assert layer.eval()(torch.zeros(0, 2, 8, 8)).shape == (0, 3, 8, 8)
