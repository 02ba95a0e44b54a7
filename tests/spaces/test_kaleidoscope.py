from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasfw.orders import bit_reversal
from nasfw.spaces.kaleidoscope import (
    Kaleidoscope,
    apply_two_stage,
    dense,
    dft,
    exponent,
    extended,
    haar,
    identity,
    multiply,
    product,
    two_stage,
)
from nasfw.spaces.permutations import permutation
from nasfw.values import UsageError

DOUBLE = torch.complex128
SIZES = [1, 2, 4, 8, 64, 256]
both_directions = pytest.mark.parametrize("increasing", [True, False])


def close(result, expected, tolerance=1e-12):
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def random(n, blocks=1, increasing=True, dtype=DOUBLE):
    """Any matrix of these butterflies; the scale keeps the variance of what it is applied to."""
    twiddle = torch.randn(blocks, exponent(n), n // 2, 2, 2, dtype=dtype)
    return Kaleidoscope(twiddle / 2**0.5, increasing)


def vectors(n, *batch, dtype=DOUBLE):
    return torch.randn(*batch, n, dtype=dtype)


@both_directions
def test_a_stage_multiplies_each_pair_by_its_own_matrix(increasing):
    """By the definition, entry by entry."""
    k = random(16, increasing=increasing)
    expected = torch.eye(16, dtype=DOUBLE)
    for stage, s in enumerate([1, 2, 4, 8] if increasing else [8, 4, 2, 1]):
        factor = torch.zeros(16, 16, dtype=DOUBLE)
        for g, p in itertools.product(range(8 // s), range(s)):
            pair = torch.tensor([2 * s * g + p, 2 * s * g + p + s])
            factor[pair[:, None], pair] = k.twiddle[0, stage, g * s + p]
        expected = factor @ expected
    close(multiply(k, torch.eye(16, dtype=DOUBLE)).mT, expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("orthonormal", [False, True])
def test_decimation_in_time_and_in_frequency_are_the_fourier_transform(n, inverse, orthonormal):
    x, reversal = vectors(n, 3), bit_reversal(n)
    expected = (torch.fft.ifft if inverse else torch.fft.fft)(x, norm="ortho" if orthonormal else None)
    time, frequency = (dft(n, inverse, increasing, orthonormal, DOUBLE) for increasing in (True, False))
    close(multiply(time, x[..., reversal]), expected)
    close(multiply(frequency, x)[..., reversal], expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("orthonormal", [False, True])
def test_the_inverse_transform_undoes_the_transform_without_a_permutation(n, orthonormal):
    x = vectors(n, 3)
    spectrum = multiply(dft(n, increasing=False, orthonormal=orthonormal, dtype=DOUBLE), x)
    close(multiply(dft(n, inverse=True, orthonormal=orthonormal, dtype=DOUBLE), spectrum), x)


@pytest.mark.parametrize("n", [8, 64])
def test_a_transform_with_its_bit_reversal_is_a_kaleidoscope_matrix(n):
    x, reversal = vectors(n, 3), permutation(bit_reversal(n), DOUBLE)
    close(multiply(product(dft(n, dtype=DOUBLE), reversal), x), torch.fft.fft(x))
    close(multiply(product(reversal, dft(n, increasing=False, dtype=DOUBLE)), x), torch.fft.fft(x))


@pytest.mark.parametrize("n", [1, 8, 64])
def test_circular_convolution_needs_no_permutation(n):
    x, w = vectors(n, 3), vectors(n)
    spectra = [multiply(dft(n, increasing=False, dtype=DOUBLE), v) for v in (x, w)]
    result = multiply(dft(n, inverse=True, dtype=DOUBLE), spectra[0] * spectra[1])
    close(result, torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(w)))
    close(
        result,
        torch.stack([torch.stack([(x[:, i] * w[o - i]) for i in range(n)]).sum(0) for o in range(n)], 1),
    )


@pytest.mark.parametrize("n", SIZES)
@both_directions
def test_orthonormal_and_haar_matrices_keep_norms(n, increasing):
    """Parseval."""
    x = vectors(n, 3)
    generator = torch.Generator().manual_seed(0)
    for k in (
        dft(n, increasing=increasing, orthonormal=True, dtype=DOUBLE),
        haar(n, generator, 3, increasing, DOUBLE),
    ):
        close(multiply(k, x).norm(dim=-1), x.norm(dim=-1))


def test_haar_matrices_have_the_moments_of_the_haar_measure():
    """E |u|^2 = 1/2, E |u|^4 = 1/3 for every entry; the determinant's phase is uniform, so its mean is 0."""
    t = haar(4096, torch.Generator().manual_seed(0), dtype=DOUBLE).twiddle
    entries = t.flatten(0, 2)
    close(entries.abs().square().mean(0), torch.full((2, 2), 1 / 2, dtype=torch.float64), 0.02)
    close(entries.abs().pow(4).mean(0), torch.full((2, 2), 1 / 3, dtype=torch.float64), 0.02)
    for moment in (entries.mean(0), entries.square().mean(0), torch.linalg.det(entries).mean()):
        close(moment, torch.zeros_like(moment), 0.02)


@pytest.mark.parametrize("n", [1, 2, 8, 32, 128])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@both_directions
def test_the_dense_matrix_is_the_product_with_the_identity(n, blocks, increasing):
    k = random(n, blocks, increasing)
    close(dense(k), multiply(k, torch.eye(n, dtype=DOUBLE)).mT)


@pytest.mark.parametrize("n", [1, 2, 8, 64])
@both_directions
def test_two_stages_are_the_butterfly_wherever_it_is_split(n, increasing):
    k, x = random(n, increasing=increasing), vectors(n, 2, 3)
    for a in range(k.stages + 1):
        split = two_stage(k, a)
        assert split.contiguous.shape == (n >> a, 1 << a, 1 << a)
        assert split.strided.shape == (1 << a, n >> a, n >> a)
        close(apply_two_stage(split, x), multiply(k, x))
    close(apply_two_stage(two_stage(k), x), multiply(k, x))


@both_directions
def test_rows_and_columns_of_the_two_stages_stand_for_the_documented_indices(increasing):
    k = random(32, increasing=increasing)
    split = two_stage(k, 2)
    contiguous, strided = torch.zeros(2, 32, 32, dtype=DOUBLE)
    for q in range(8):
        index = torch.tensor([4 * q + r for r in range(4)])
        contiguous[index[:, None], index] = split.contiguous[q]
    for r in range(4):
        index = torch.tensor([4 * q + r for q in range(8)])
        strided[index[:, None], index] = split.strided[r]
    close(strided @ contiguous if increasing else contiguous @ strided, dense(k))


def test_strides_increase_and_decrease_in_turn():
    k, x = random(16, 3, increasing=False), vectors(16)
    assert [b.increasing for b in k.blocks] == [False, True, False]
    one, two, three = k.blocks
    close(multiply(k, x), multiply(three, multiply(two, multiply(one, x))))


@pytest.mark.parametrize("directions", [*itertools.product([True, False], repeat=2)])
@pytest.mark.parametrize("blocks", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_product_of_matrices_is_their_composition(directions, blocks):
    a, b = (random(16, count, up) for count, up in zip(blocks, directions, strict=True))
    close(dense(product(a, b)), dense(a) @ dense(b))


def test_a_product_takes_an_identity_only_where_directions_clash():
    up, down = random(8), random(8, increasing=False)
    assert [len(product(*pair).twiddle) for pair in ((up, down), (down, up), (up, up), (down, down))] == [
        2,
        2,
        3,
        3,
    ]


@both_directions
def test_identity_blocks_change_nothing(increasing):
    k, x = random(16, 2, increasing), vectors(16, 3)
    for depth in (2, 3, 6):
        assert len(extended(k, depth).twiddle) == depth
        assert torch.equal(multiply(extended(k, depth), x), multiply(k, x))
    assert torch.equal(dense(identity(16, 3, increasing, DOUBLE)), torch.eye(16, dtype=DOUBLE))


def realises(order):
    k = permutation(order, DOUBLE)
    x = vectors(len(order))
    assert [b.increasing for b in k.blocks] == [False, True]
    assert torch.all((k.twiddle == 0) | (k.twiddle == 1))
    assert torch.equal(multiply(k, x), x[..., order])


@pytest.mark.parametrize("n", [1, 2, 4])
def test_two_blocks_realise_every_permutation(n):
    for order in itertools.permutations(range(n)):
        realises(list(order))


@pytest.mark.parametrize("n", [8, 64, 128])
def test_two_blocks_realise_random_permutations(n):
    for _ in range(200):
        realises(torch.randperm(n).tolist())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.sampled_from([8, 16]).flatmap(lambda n: st.permutations(range(n))))
def test_two_blocks_realise_any_permutation(order):
    realises(order)


def test_bit_reversal_reads_bits_backwards():
    for n in (1, 2, 8, 64):
        assert bit_reversal(n) == [
            int(f"{i:b}".zfill(exponent(n))[::-1], 2) if n > 1 else 0 for i in range(n)
        ]


@both_directions
@pytest.mark.parametrize("blocks", [1, 2])
def test_products_and_matrices_have_their_gradients(increasing, blocks):
    twiddle, x = random(4, blocks).twiddle.requires_grad_(), vectors(4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, x: multiply(Kaleidoscope(t, increasing), x), (twiddle, x))
    assert torch.autograd.gradcheck(lambda t: dense(Kaleidoscope(t, increasing)), twiddle)


@both_directions
@pytest.mark.parametrize("a", [0, 1, 2])
def test_two_stages_have_their_gradients(increasing, a):
    twiddle, x = random(4).twiddle.requires_grad_(), vectors(4, 2).requires_grad_()

    def function(t, x):
        split = two_stage(Kaleidoscope(t, increasing), a)
        return split.contiguous, split.strided, apply_two_stage(split, x)

    assert torch.autograd.gradcheck(function, (twiddle, x))


def test_single_precision_errs_by_less_than_a_hundred_thousandth():
    n, x = 256, vectors(256, 16)
    single = x.to(torch.complex64)
    expected = torch.fft.fft(x, norm="ortho")[..., bit_reversal(n)]
    k = dft(n, increasing=False, orthonormal=True)
    for result in (multiply(k, single), apply_two_stage(two_stage(k), single), single @ dense(k).mT):
        assert result.dtype == torch.complex64
        close(result.to(DOUBLE), expected, 1e-5)


@pytest.mark.parametrize(("n", "following"), [(0, 1), (3, 4), (12, 16)])
@pytest.mark.parametrize("make", [identity, dft, exponent, lambda n: permutation(range(n))])
def test_a_length_that_is_no_power_of_two_is_refused(make, n, following):
    with pytest.raises(UsageError, match=rf"a power of two .* not {n}; {following} is"):
        make(n)


def test_an_order_that_is_no_permutation_is_refused():
    with pytest.raises(UsageError, match="each from 0 to 3 once; this one lacks 1"):
        permutation([0, 0, 2, 3])
    with pytest.raises(UsageError, match="lacks 0"):
        permutation([1, 2, 3, 4])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="8 indices has no product with vectors of 4"):
        multiply(random(8), vectors(4))
    with pytest.raises(UsageError, match="8 indices has no product with vectors of 4"):
        apply_two_stage(two_stage(random(8)), vectors(4))
    with pytest.raises(UsageError, match="of 8 and of 4 indices have no product"):
        product(random(8), random(4))
    with pytest.raises(UsageError, match="after 0 to 3 of them, not 1 block"):
        two_stage(random(8), 4)
    with pytest.raises(UsageError, match="2 blocks cannot become 1"):
        extended(random(8, 2), 1)
    with pytest.raises(ValueError, match="shape"):
        Kaleidoscope(torch.ones(1, 3, 8, 2, 2))
