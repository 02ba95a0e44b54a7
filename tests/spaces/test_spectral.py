from __future__ import annotations

import itertools
import math

import pytest
import torch

from nasfw.spaces.site import CONVOLUTIONS, site_of
from nasfw.spaces.spectral import (
    analysed,
    analysis_forms,
    kernel_spectrum,
    paired,
    real_form,
    synthesis_forms,
    synthesised,
)

DOUBLE = torch.float64
SIZES = [(1,), (5,), (16,), (300,), (6, 5), (1, 8), (16, 1), (3, 4, 5)]
every_size = pytest.mark.parametrize("size", SIZES)


def close(result, expected, tolerance=1e-12):
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def periodic(size, stride=1):
    """The frame of a circular convolution with three taps on every axis."""
    kernel = tuple(min(3, n) for n in size)
    make = CONVOLUTIONS[len(size)]
    module = make(1, 1, kernel, stride, tuple(k // 2 for k in kernel), padding_mode="circular")
    return site_of(module, size).frame()


def reduced_fft(frame, x):
    """torch's spectrum in the order of a frame, [frequencies, B, C]: the last axis of the map is outside."""
    axes = list(range(2, x.ndim))
    whole = torch.fft.fftn(x, dim=axes, norm="ortho").permute(*reversed(axes), 0, 1)
    for axis, grid in enumerate(frame.grids):
        whole = whole.index_select(axis, torch.tensor(grid.frequencies))
    return whole.flatten(0, -3)


def arranged(parts, layout):
    """Real numbers that stand for complex ones [2, n, ...], by the names that ``real_form`` has for it."""
    if layout == "real":
        return parts[0]
    return parts.flatten(0, 1) if layout == "split" else parts.transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize("rows", ["real", "split", "woven"])
@pytest.mark.parametrize("columns", ["real", "split", "woven"])
def test_real_forms_multiply_as_complex_matrices_do(rows, columns):
    matrix, x = (torch.randn(n, 4, dtype=torch.complex128) for n in (3, 4))
    x = x.real.to(x.dtype) if columns == "real" else x
    form = real_form(paired(matrix), rows, columns)
    close(form @ arranged(paired(x), columns), arranged(paired(matrix @ x), rows))


@every_size
def test_the_analysis_is_the_fourier_transform(size):
    """Orthonormal, with the frequencies that stand for a pair times the square root of 2."""
    frame = periodic(size)
    x = torch.randn(2, 3, *size, dtype=DOUBLE)
    forms = analysis_forms([paired(m) for m in frame.analysis()])
    found = torch.view_as_complex(analysed(frame, forms, x).movedim(1, -1).contiguous())
    first = frame.grids[0]
    pairs = torch.tensor(first.paired, dtype=DOUBLE).sqrt()
    weight = pairs.repeat_interleave(frame.count // len(first.low))
    close(found, reduced_fft(frame, x) * weight[:, None, None])


@every_size
def test_the_synthesis_undoes_the_analysis(size):
    frame = periodic(size)
    x = torch.randn(2, 3, *size, dtype=DOUBLE)
    analysis = analysis_forms([paired(m) for m in frame.analysis()])
    synthesis = synthesis_forms([paired(k) for k in frame.synthesis()])
    close(synthesised(frame, synthesis, analysed(frame, analysis, x)), x)


@pytest.mark.parametrize("size", [(16,), (300,), (6, 5), (3, 4, 5)])
def test_a_stride_leaves_every_second_result_out(size):
    frame = periodic(size, 2)
    x = torch.randn(2, 3, *size, dtype=DOUBLE)
    analysis = analysis_forms([paired(m) for m in frame.analysis()])
    synthesis = synthesis_forms([paired(k) for k in frame.synthesis()])
    kept = (..., *[slice(None, None, 2)] * len(size))
    close(synthesised(frame, synthesis, analysed(frame, analysis, x)), x[kept])


@every_size
def test_the_spectrum_of_a_kernel_is_the_sum_of_its_taps_waves(size):
    """By the definition: sum_t w[t] e^(2 pi i f t / N), each axis with its own positions of taps."""
    frame = periodic(size)
    kernel = [len(g.axis.taps) for g in reversed(frame.grids)]
    w = torch.randn(2, 3, *kernel, dtype=DOUBLE)
    found = kernel_spectrum(frame, [paired(m) for m in frame.taps()], w).whole()
    expected = []
    for f in itertools.product(*(g.frequencies for g in frame.grids)):
        phase = sum(
            torch.tensor([a * t / g.points for t in g.axis.taps], dtype=DOUBLE).view(-1, *[1] * i)
            for i, (a, g) in enumerate(zip(f, frame.grids, strict=True))
        )
        wave = torch.polar(torch.ones(kernel, dtype=DOUBLE), 2 * math.pi * phase.expand(kernel))
        expected.append((w * wave).flatten(2).sum(2).T)
    close(torch.view_as_complex(found.movedim(1, -1).contiguous()), torch.stack(expected))
