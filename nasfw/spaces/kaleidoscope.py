"""Kaleidoscope matrices: products of butterflies, which hold the DFT and any permutation and can be learned.

A butterfly of N = 2^L indices is a product of L sparse factors, its stages. The stage of stride s pairs, in
every group g of 2s consecutive indices, index 2s g + p with 2s g + p + s for p < s, and multiplies each pair
by a 2 x 2 matrix of its own (Dao et al., "Kaleidoscope: An Efficient, Learnable Representation For All
Structured Linear Maps", ICLR 2020). In a block the strides increase, 1, 2, .., N/2, or decrease; from block
to block the direction alternates. Learned in the place of a convolution's Fourier transforms, they make it an
XD operation (Roberts et al., "Rethinking Neural Operations for Diverse Tasks", NeurIPS 2021).

There are three ways to apply one, exact and differentiable: ``multiply`` stage by stage; ``dense`` as a
matrix; and ``two_stage`` as two block-diagonal matrices, because stages of strides below 2^a never leave 2^a
consecutive indices, and the others never leave a remainder modulo 2^a (Dao et al., "Monarch: Expressive
Structured Matrices for Efficient and Accurate Training", ICML 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nasfw.values import UsageError


@dataclass(frozen=True, eq=False)
class Kaleidoscope:
    """A product of butterflies: ``twiddle`` [blocks, L, N/2, 2 (row), 2 (column)], complex, N = 2^L.

    Blocks, and the stages in them, stand in the order in which they are applied. A stage of stride s keeps
    the matrix of the pair (2s g + p, 2s g + p + s) at position s g + p. ``increasing`` says whether the
    strides of the first block increase; those of the second then decrease, and so on.
    """

    twiddle: Tensor
    increasing: bool = True

    def __post_init__(self) -> None:
        """Refuse tensors of another shape."""
        shape = [*self.twiddle.shape]
        if len(shape) != 5 or not shape[0] or shape[2:] != [2 ** shape[1] // 2, 2, 2]:
            raise ValueError(f"a twiddle has the shape [blocks > 0, L, 2^L / 2, 2, 2], not {shape}")

    @property
    def stages(self) -> int:
        """The number L of stages of a block."""
        return self.twiddle.shape[1]

    @property
    def size(self) -> int:
        """The number N of indices."""
        return 1 << self.stages

    @property
    def blocks(self) -> list[Kaleidoscope]:
        """Its butterflies, each of one block, in the order in which they are applied."""
        directions = (self.increasing ^ bool(i % 2) for i in range(len(self.twiddle)))
        return [Kaleidoscope(t[None], d) for t, d in zip(self.twiddle, directions, strict=True)]


def multiply(k: Kaleidoscope, x: Tensor) -> Tensor:
    """The product of ``k`` with the vectors ``x`` [.., N], stage by stage: 2 N L multiplications a block."""
    _check_size(k.size, x)
    for block in k.blocks:
        for stage, factor in enumerate(block.twiddle[0]):
            s = 1 << (stage if block.increasing else k.stages - 1 - stage)
            t = torch.unflatten(factor, 0, (-1, s))
            u, v = torch.unflatten(x, -1, (-1, 2, s)).unbind(-2)
            pair = [t[..., row, 0] * u + t[..., row, 1] * v for row in (0, 1)]
            x = torch.stack(pair, -2).flatten(-3)
    return x


def dense(k: Kaleidoscope) -> Tensor:
    """The matrix [N, N] of ``k``: ``multiply(k, x)`` is ``x @ dense(k).mT``."""
    first, *rest = k.blocks
    matrix = _grown(_increasing(first)[None])[0]
    matrix = matrix if first.increasing else matrix.mT
    # Two block-diagonal products cost N^2.5, a product of two dense matrices N^3.
    for block in rest:
        matrix = _times(two_stage(block), matrix)
    return matrix


def _increasing(block: Kaleidoscope) -> Tensor:
    """The twiddle [L, N/2, 2, 2] of one block, or of its transpose if its strides decrease."""
    twiddle = block.twiddle[0]
    return twiddle if block.increasing else twiddle.flip(0).mT


def _grown(twiddles: Tensor) -> Tensor:
    """The matrices [batch, m, m] of ``twiddles`` [batch, log2 m, m/2, 2, 2] whose strides increase.

    Up to the stage of stride s the product is block-diagonal, with blocks of 2s, and each stage makes one
    block of two neighbours. That costs 2 m^2 multiplications; ``multiply`` needs log2 m times as many.
    """
    batch, stages = twiddles.shape[:2]
    blocks = twiddles.new_ones(batch, 1 << stages, 1, 1)
    for stage in range(stages):
        s = 1 << stage
        # Both as [batch, group, row half, row p, column half, column].
        factor = torch.unflatten(twiddles[:, stage], 1, (-1, s)).transpose(2, 3).unsqueeze(-1)
        halves = torch.unflatten(blocks, 1, (-1, 2)).transpose(2, 3).unsqueeze(2)
        blocks = (factor * halves).reshape(batch, -1, 2 * s, 2 * s)
    return blocks[:, 0]


@dataclass(frozen=True, eq=False)
class TwoStage:
    """A butterfly as two block-diagonal matrices. With R = 2^a and Q = N / R, index i is R q + r, with r < R.

    ``contiguous`` [Q, R (row), R (column)]: block q maps the R consecutive indices R q, R q + 1, .. to
    themselves; its row r and its column r stand for index R q + r.
    ``strided`` [R, Q (row), Q (column)]: block r maps the Q indices r, R + r, 2R + r, .. to themselves; its
    row q and its column q stand for index R q + r.
    If ``increasing``, the contiguous blocks are applied first, otherwise the strided ones.
    """

    contiguous: Tensor
    strided: Tensor
    increasing: bool


def two_stage(butterfly: Kaleidoscope, a: int | None = None) -> TwoStage:
    """One block split exactly: strides below 2^a into the contiguous blocks, the others into the strided.

    That costs 2 N (2^a + N / 2^a) multiplications, and twice as many backwards. By default a is L // 2, which
    makes them fewest, about 4 N^1.5.
    """
    L = butterfly.stages
    a = L // 2 if a is None else a
    if len(butterfly.twiddle) != 1 or not 0 <= a <= L:
        raise UsageError(
            f"one block of {L} stages can be split after 0 to {L} of them, "
            f"not {len(butterfly.twiddle)} block(s) after {a}"
        )
    R, Q = 1 << a, 1 << (L - a)
    twiddle = _increasing(butterfly)
    contiguous = _grown(twiddle[:a].reshape(a, Q, R // 2, 2, 2).transpose(0, 1))
    # Position s g + p with s = R s' is R (s' g + p // R) + p % R: every remainder has its own butterfly of Q.
    strided = _grown(twiddle[a:].reshape(L - a, Q // 2, R, 2, 2).movedim(2, 0))
    if butterfly.increasing:
        return TwoStage(contiguous, strided, True)
    return TwoStage(contiguous.mT, strided.mT, False)


def apply_two_stage(split: TwoStage, x: Tensor) -> Tensor:
    """The product of the butterfly that was split with the complex vectors ``x`` [.., N]."""
    _check_size(split.contiguous.shape[:2].numel(), x)
    return _times(split, x.reshape(-1, x.shape[-1]).mT).mT.reshape(x.shape)


def _times(split: TwoStage, columns: Tensor) -> Tensor:
    """The product with a matrix [N, columns]: with the vectors last, no product needs a copy of them."""
    x = torch.unflatten(columns, 0, (split.contiguous.shape[0], -1))
    if split.increasing:
        x = (split.strided @ (split.contiguous @ x).transpose(0, 1)).transpose(0, 1)
    else:
        x = split.contiguous @ (split.strided @ x.transpose(0, 1)).transpose(0, 1)
    return x.flatten(0, 1)


def identity(
    n: int, blocks: int = 1, increasing: bool = True, dtype: torch.dtype = torch.complex64
) -> Kaleidoscope:
    """The identity of ``n`` indices."""
    eye = torch.eye(2, dtype=dtype)
    return Kaleidoscope(eye.repeat(blocks, exponent(n), n // 2, 1, 1), increasing)


def dft(
    n: int,
    inverse: bool = False,
    increasing: bool = True,
    orthonormal: bool = False,
    dtype: torch.dtype = torch.complex64,
) -> Kaleidoscope:
    """The Fourier transform or its ``inverse``, as torch.fft scales them, but for a bit reversal: one block.

    ``increasing``, decimation in time: from bit-reversed vectors to spectra in their order. Otherwise its
    transpose, decimation in frequency: from vectors in their order to bit-reversed spectra. So a transform in
    frequency and an inverse in time need no reversal between them. ``orthonormal`` is torch's norm "ortho".
    """
    twiddle = torch.ones(exponent(n), n // 2, 2, 2, dtype=torch.complex128)
    for stage, factor in enumerate(twiddle):
        s = 1 << stage
        angle = math.pi / s * torch.arange(s, dtype=torch.float64)
        root = torch.polar(torch.ones_like(angle), angle if inverse else -angle).repeat(n // 2 // s)
        factor[:, 0, 1], factor[:, 1, 1] = root, -root
    if not increasing:
        twiddle = twiddle.flip(0).mT
    scale = math.sqrt(0.5) if orthonormal else 0.5 if inverse else 1.0
    return Kaleidoscope((scale * twiddle)[None].to(dtype), increasing)


def haar(
    n: int,
    generator: torch.Generator,
    blocks: int = 1,
    increasing: bool = True,
    dtype: torch.dtype = torch.complex64,
) -> Kaleidoscope:
    """A random unitary matrix: each of its 2 x 2 matrices is drawn from the Haar measure of U(2)."""
    shape = blocks, exponent(n), n // 2, 3
    z = torch.randn(shape, dtype=dtype, generator=generator, device=generator.device)
    # The first row is uniform on the unit sphere of C^2; it leaves the second nothing but a phase.
    first = z[..., :2] / torch.linalg.vector_norm(z[..., :2], dim=-1, keepdim=True)
    second = z[..., 2:].sgn() * first.flip(-1).conj() * torch.tensor([-1, 1], device=z.device)
    return Kaleidoscope(torch.stack((first, second), -2), increasing)


def product(a: Kaleidoscope, b: Kaleidoscope) -> Kaleidoscope:
    """``dense(a) @ dense(b)``: the blocks of ``b``, an identity if directions would clash, those of ``a``."""
    if a.size != b.size:
        raise UsageError(f"matrices of {a.size} and of {b.size} indices have no product")
    if b.blocks[-1].increasing == a.increasing:
        b = extended(b, len(b.twiddle) + 1)
    return Kaleidoscope(torch.cat((b.twiddle, a.twiddle)), b.increasing)


def extended(k: Kaleidoscope, depth: int) -> Kaleidoscope:
    """The same matrix with ``depth`` blocks: those that are missing are identities, applied last."""
    missing = depth - len(k.twiddle)
    if missing < 0:
        raise UsageError(f"{len(k.twiddle)} blocks cannot become {depth}; at least as many are possible")
    block = identity(k.size).twiddle.to(k.twiddle)
    return Kaleidoscope(torch.cat((k.twiddle, *[block] * missing)), k.increasing)


def exponent(n: int) -> int:
    """The L of n = 2^L."""
    if n < 1 or n & (n - 1):
        following = 1 << max(n - 1, 0).bit_length()
        raise UsageError(f"butterflies need a power of two of indices, not {n}; {following} is the next one")
    return n.bit_length() - 1


def _check_size(n: int, x: Tensor) -> None:
    if x.shape[-1] != n:
        raise UsageError(f"a matrix of {n} indices has no product with vectors of {x.shape[-1]}")
