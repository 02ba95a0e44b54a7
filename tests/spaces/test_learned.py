from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nasfw.orders import bit_reversal
from nasfw.spaces.kaleidoscope import Kaleidoscope, dense, haar
from nasfw.spaces.learned import Blocks, Butterflies
from nasfw.spaces.site import CONVOLUTIONS, site_of
from nasfw.spaces.waves import hartley
from nasfw.spaces.xd_layers import XDConv


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(result, expected, tolerance=1e-11):
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def site(size, mode="circular", **settings):
    module = CONVOLUTIONS[len(size)](2, 3, 3, padding=1, padding_mode=mode, **settings)
    return site_of(module, size)


@torch.no_grad()
def scrambled(module):
    for p in module.parameters():
        p.add_(0.3 * torch.randn_like(p))
    return module


def complexes(matrices):
    return [torch.complex(*matrix) for matrix in matrices]


@pytest.mark.parametrize("size", [(9,), (300,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_blocks_start_as_the_matrices_of_the_convolution(size, mode):
    frame = site(size, mode).frame()
    for depth in (1, 3):
        m, k, taps = map(complexes, Blocks(frame, depth)())
        stages = frame.stages
        # L is applied to Hartley transforms of kernels.
        own = [t @ hartley(t.shape[-1]).to(t) for t in frame.taps()]
        for found, expected in ((m, frame.analysis()), (k, frame.synthesis()), (taps, own)):
            for one, other in zip(found[:stages], expected, strict=True):
                close(one, other.expand_as(one))


@pytest.mark.parametrize("size", [(7,), (64,), (1000,), (16, 30), (3, 4, 5)])
def test_the_entries_of_blocks_are_as_large_whatever_the_length(size):
    """So that one learning rate suits all lengths."""
    for p in [*(learned := Blocks(site(size).frame())).m, *learned.k]:
        assert p.square().sum(0).mean().sqrt().item() == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("size", [(64,), (300,), (6, 5)])
def test_all_factors_of_k_and_m_move_as_fast(size):
    learned = Blocks(site(size).frame(), 3)
    for first, more in ((learned.m, learned.more_m), (learned.k, learned.more_k)):
        for factor in more:
            for p, q in zip(first, factor.parameters(), strict=True):
                # The mean square of complex entries, to which a step of one rate is related.
                squares = [float(v.detach().square().sum(0).mean()) for v in (p, q)]
                assert squares[0] == pytest.approx(squares[1], rel=0.1)


@pytest.mark.parametrize("size", [(16,), (300,), (512,), (4, 8), (3, 4, 5)])
@pytest.mark.parametrize("kind", ["blocks", "butterflies"])
@torch.no_grad()
def test_more_factors_begin_as_identities(size, kind):
    """Whatever the first ones have become, and with the gate and spectral bias that there are at first.

    But for long butterflies, which in two stages keep another half of the frequencies than as one matrix.
    """
    plain = XDConv(site(size), 1, kind)
    if kind == "blocks" or not plain.frame.divided:
        scrambled(plain.learned)
    first = plain.learned.state_dict()
    x = torch.randn(2, 2, *size)
    for depth in (2, 3):
        layer = XDConv(plain.site, depth, kind, extras=True)
        layer.load_state_dict(plain.state_dict() | layer.learned.state_dict(prefix="learned."), strict=False)
        own = layer.learned.state_dict()
        for name, value in first.items():
            (own[name][:1] if kind == "butterflies" else own[name]).copy_(value)
        close(layer(x), plain(x), 1e-9)


@torch.no_grad()
def test_factors_stand_beside_the_frequencies():
    """M is followed, and K preceded, by products of theirs; L is followed."""
    learned = scrambled(Blocks(site((5, 6)).frame(), 3))
    m, k, taps = map(complexes, learned())
    single = Blocks(learned.frame)
    single.load_state_dict(learned.state_dict(), strict=False)
    first = list(map(complexes, single()))
    factors = [
        [complexes(f.parameters()) for f in more] for more in (learned.more_m, learned.more_k, learned.more_l)
    ]
    for axis in range(2):
        (ma, mb), (ka, kb), (la, lb) = [[factor[axis] for factor in pair] for pair in factors]
        # Their entries stand for so many times less.
        ma, mb, ka, kb, la, lb = (f / (3 * math.sqrt(f.shape[-1])) for f in (ma, mb, ka, kb, la, lb))
        close(m[axis], mb @ ma @ first[0][axis])
        close(k[axis], first[1][axis] @ ka @ kb)
        close(taps[axis], lb @ la @ first[2][axis])


def test_depth_is_the_number_of_factors():
    for size, per_factor in (((9,), 1), ((300,), 2), ((4, 5), 2)):
        one, three = (sum(1 for _ in Blocks(site(size).frame(), d).parameters()) for d in (1, 3))
        assert three - one == 3 * 2 * per_factor
    for depth in (1, 3):
        frame = Butterflies.make_frame(site((16,)), depth)
        assert all(len(p) == depth for p in Butterflies(frame, depth).parameters())


@pytest.mark.parametrize(
    ("size", "mode"), [((16,), "circular"), ((13,), "zeros"), ((8, 4), "circular"), ((2, 4, 8), "circular")]
)
@torch.no_grad()
def test_butterflies_are_the_needed_part_of_kaleidoscope_matrices(size, mode):
    """M and L give bit-reversed frequencies, which K expects."""
    frame = Butterflies.make_frame(site(size, mode), 2)
    learned = scrambled(Butterflies(frame, 2))
    for g, twiddles, found in zip(
        frame.grids,
        zip(learned.m, learned.k, learned.l, strict=True),
        zip(*map(complexes, learned()), strict=True),
        strict=True,
    ):
        m, k, taps = (
            dense(Kaleidoscope(torch.view_as_complex(t), increasing))
            for t, increasing in zip(twiddles, (False, True, False), strict=True)
        )
        low = [bit_reversal(g.points)[f] for f in g.frequencies]
        close(found[0][0], m[low][:, : g.axis.size])
        close(found[1][0], k[g.axis.positions][:, low] * torch.tensor(g.paired))
        close(found[2][0], taps[low][:, [-t % g.points for t in g.axis.taps]])


@pytest.mark.parametrize(
    ("size", "depth"), [((16,), 1), ((16,), 3), ((512,), 1), ((4, 8), 2), ((2, 4, 8), 1)]
)
@torch.no_grad()
def test_blocks_hold_every_butterfly(size, depth):
    """With the matrices of butterflies, also those of a long series in two stages, they compute the same."""
    butterflies = XDConv(site(size), depth, "butterflies")
    scrambled(butterflies.learned)
    layer = XDConv(butterflies.site)
    assert layer.frame == butterflies.frame
    layer.start(butterflies)
    m, k, taps = butterflies.learned()
    taps = [t @ hartley(t.shape[-1]) for t in taps]
    for own, matrices, found in zip(
        (layer.learned.m, layer.learned.k, layer.learned.l), (m, k, taps), layer.learned(), strict=True
    ):
        for p, matrix, before in zip(own, matrices, found, strict=True):
            # Parameters are in units of their own.
            p.copy_(matrix * (p.norm() / before.norm()))
    x = torch.randn(2, 2, *size)
    close(layer(x), butterflies(x), 1e-10)


@pytest.mark.parametrize("n", [13, 16])
@torch.no_grad()
def test_a_haar_matrix_and_its_inverse_leave_the_map_alone(n):
    """M unitary, K = M^H and D = 1, with all frequencies: Re{K M x} = x."""
    generator = torch.Generator().manual_seed(0)
    # Of two axes, the second is transformed with all frequencies.
    module = nn.Conv2d(1, 1, (3, 1), padding=(1, 0), padding_mode="circular", bias=False)
    layer = XDConv(site_of(module, (n, 1)), 1, "butterflies", extras=True)
    nn.init.zeros_(layer.weight)
    layer.spectral_bias[:, 0] = 1
    twiddle = haar(layer.frame.grids[1].points, generator, 1, False, torch.complex128).twiddle
    layer.learned.m[1].copy_(torch.view_as_real(twiddle))
    layer.learned.k[1].copy_(torch.view_as_real(twiddle.flip(1).mH.resolve_conj()))
    x = torch.randn(2, 1, n, 1)
    axis = layer.frame.grids[1].axis
    offset = 0 if layer.frame.index[1] is None else layer.frame.index[1].index(0)
    expected = x if not offset else x[:, :, [p % n for p in range(-offset, n - offset)]]
    assert axis.results == n
    close(layer(x), expected)


@pytest.mark.parametrize("n", [5, 16, 100, 257, 300, 1000])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_butterflies_have_the_next_power_of_two_of_points(n, mode):
    """Enough for what is read; in two stages from 257 points on, unless there are several factors."""
    for depth in (1, 2):
        (g,) = Butterflies.make_frame(site((n,), mode), depth).grids
        assert g.points & (g.points - 1) == 0
        assert g.axis.length <= g.points < 2 * g.axis.length
        assert (g.columns > 1) == (g.points > 256 and depth == 1)
