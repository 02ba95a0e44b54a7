from __future__ import annotations

import cmath
import math

import pytest
import torch

from nasfw.spaces.waves import LONGEST, Axis, Grid, divided, grid, hartley, wave

DOUBLE = torch.complex128
AXES = {
    "one point": Axis(1, 1),
    "odd kernel": Axis(16, 16, 1, (-2, -1, 0, 1, 2)),
    "even kernel": Axis(16, 16, 1, (-1, 0, 1, 2)),
    "valid": Axis(9, 6, 1, (0, 1, 2, 3)),
    "much padding": Axis(5, 11, 1, (-4, -3, -2, -1, 0)),
    "nothing but padding": Axis(4, 4, 1, (-6, 6)),
    "stride": Axis(30, 10, 3, (-3, 0, 3)),
    "periodic": Axis(30, 30, 1, (-8, -4, 0, 4), True),
    "periodic with a stride": Axis(5, 3, 2, (-4, 0, 4), True),
    "periodic with more outputs than inputs": Axis(5, 9, 1, (-2, -1), True),
    "long": Axis(300, 300, 1, (-1, 0, 1)),
    "long with a stride": Axis(300, 150, 2, (-3, 0, 3)),
    "long and valid": Axis(513, 255, 2, (1, 2, 5)),
    "long and periodic": Axis(1000, 1000, 1, tuple(range(-8, 9)), True),
    "long and periodic with a stride": Axis(512, 171, 3, (-1, 0, 1), True),
}
every_axis = pytest.mark.parametrize("axis", AXES.values(), ids=AXES.keys())


def close(result, expected, tolerance=1e-12):
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def convolved(axis, w, x):
    """By the definition."""
    y = torch.zeros(axis.results, dtype=torch.float64)
    for weight, tap in zip(w, axis.taps, strict=True):
        p = torch.arange(axis.results) * axis.stride + tap
        inside = (p >= 0) & (p < axis.size) | axis.circular
        y += weight * torch.where(inside, x[p % axis.size], 0.0)
    return y


def analysis(g):
    """M as one matrix [frequencies, points read]."""
    if g.columns == 1:
        return g.analysis()[0][0]
    rows, columns = g.analysis()
    # A point is m columns + l, a frequency v + rows u.
    return torch.einsum("lvm,vul->vuml", rows, columns).flatten(2).flatten(0, 1)[:, : g.axis.size]


def synthesis(g):
    """K as one matrix [outputs, frequencies]."""
    if g.columns == 1:
        return g.synthesis()[0][0]
    rows, columns = g.synthesis()
    whole = torch.einsum("lmv,vlu->mlvu", rows, columns).flatten(2).flatten(0, 1)
    return whole[g.axis.positions]


@every_axis
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("longest", [4, LONGEST])
def test_the_three_transforms_make_the_convolution(axis, half, longest):
    """Re{K diag(L w) M x}, by one matrix or in two stages, with half of the frequencies or all."""
    if not divided(axis, longest):
        axis = axis.unrolled[0]
    w, x = (torch.randn(n, dtype=torch.float64) for n in (len(axis.taps), axis.size))
    g = grid(axis, half, longest=longest)
    assert (g.columns > 1) == (axis.length > longest)
    spectrum = (g.taps() @ w.to(DOUBLE)) * (analysis(g) @ x.to(DOUBLE))
    close((synthesis(g) @ spectrum).real, convolved(axis, w, x))


@every_axis
def test_a_periodic_axis_reads_the_same_when_it_is_unrolled(axis):
    w, x = (torch.randn(n, dtype=torch.float64) for n in (len(axis.taps), axis.size))
    plain, index = Axis(axis.size, axis.results, axis.stride, axis.taps, True).unrolled
    assert not plain.circular
    assert plain.size == len(index)
    periodic = Axis(axis.size, axis.results, axis.stride, axis.taps, True)
    close(convolved(plain, w, x[index]), convolved(periodic, w, x))


@every_axis
def test_no_tap_wraps_around_to_a_point_of_the_map(axis):
    """And with fewer points, one would, or an input or output had no place."""

    def fits(points):
        read = [o * axis.stride + tap for o in range(axis.results) for tap in axis.taps]
        return points >= max(axis.size, axis.positions[-1] + 1) and all(
            0 <= p < axis.size or p % points >= axis.size for p in read
        )

    if axis.circular:
        assert axis.length == axis.size
    else:
        assert fits(axis.length)
        assert not any(fits(n) for n in range(1, axis.length))


def test_convolutions_that_keep_the_length_take_no_more_points_than_their_halo():
    for k in range(1, 8):
        same = Axis(16, 16, 1, tuple(range(-((k - 1) // 2), k // 2 + 1)))
        assert same.length == 16 + max((k - 1) // 2, k // 2)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
@pytest.mark.parametrize("half", [True, False])
def test_frequencies_count_once_or_twice_and_make_all(n, half):
    g = Grid(Axis(n, n, circular=True), n, half=half)
    assert sum(g.paired) == n
    assert g.low == list(range(n // 2 + 1 if half else n))


def test_modes_are_the_lowest_frequencies_of_both_signs():
    axis = Axis(8, 8, circular=True)
    assert grid(axis, True, 3).low == [0, 1, 2]
    assert grid(axis, False, 3).low == [0, 1, 2, 5, 6, 7]
    for modes in (4, 9):
        assert grid(axis, False, modes).low == list(range(8))
    assert grid(axis, True, 9).low == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("axis", [Axis(12, 12, circular=True), Axis(600, 600, circular=True)])
def test_analysis_is_unitary_and_synthesis_its_inverse(axis):
    g = grid(axis, half=False)
    m, k = analysis(g), synthesis(g)
    eye = torch.eye(axis.size, dtype=DOUBLE)
    close(m @ m.mH, eye)
    close(k, m.mH)


def test_waves_are_exact_for_positions_far_away():
    """As if whole turns had been taken off by hand."""
    found = wave([123_456_789], [-987_654_321], 1009)
    turns = (123_456_789 * -987_654_321) % 1009 / 1009
    assert found.item() == pytest.approx(cmath.exp(2j * math.pi * turns), abs=1e-15)


def test_negative_points_turn_the_other_way():
    assert torch.equal(wave([1, 2], [3, 4], -7), wave([1, 2], [3, 4], 7).conj())


@pytest.mark.parametrize("n", [257, 300, 513, 1024, 8192])
@pytest.mark.parametrize("circular", [False, True])
def test_two_stages_have_a_place_for_every_point_and_about_as_many_rows_as_columns(n, circular):
    axis = Axis(n, n, 1, (-1, 0, 1), circular)
    if divided(axis):
        g = grid(axis)
        assert g.points == n if circular else n <= g.points < 1.05 * n + 40
        assert g.rows / 8 <= g.columns <= 2 * g.rows


def test_only_long_periodic_axes_without_fitting_factors_are_not_divided():
    def periodic(n):
        return divided(Axis(n, n, circular=True))

    assert [n for n in (5, 251, 256, 300, 512, 521, 1000, 1021, 8192) if not periodic(n)] == [521, 1021]
    assert divided(Axis(521, 521))


@pytest.mark.parametrize("n", [1, 2, 3, 13, 16])
def test_hartleys_transform_is_the_sum_of_both_parts_of_fouriers_and_its_own_inverse(n):
    spectrum = torch.fft.fft(torch.eye(n, dtype=torch.float64), norm="ortho")
    torch.testing.assert_close(hartley(n), spectrum.real - spectrum.imag, rtol=0, atol=1e-14)
    torch.testing.assert_close(hartley(n) @ hartley(n), torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-14)
