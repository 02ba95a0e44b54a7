"""What XD operations cost; small versions of ``python -m nasfw.benchmarks xd``.

    pytest tests/benchmarks/test_xd.py -m "" --benchmark-enable --benchmark-json=xd.json

The ratios to the plain convolution and to the published technique are in ``extra_info``; the rounds of what
is compared take turns, and peak memory is that of fresh processes.
"""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from nasfw.benchmarks import memory, xd
from nasfw.benchmarks.published import PublishedXD
from nasfw.benchmarks.subjects import PLAIN, PUBLISHED
from nasfw.benchmarks.xd import BLOCKS, BUTTERFLIES, FOLDED, FOURIER, LAST, NAMED, QUICK
from nasfw.spaces.kaleidoscope import Kaleidoscope, dense
from nasfw.spaces.site import Site, site_of

PASSES = {"train": xd.train_pass, "inference": xd.inference_pass}


@pytest.fixture
def compare_layers(compare):
    """``compare`` for layers in the place of one convolution."""

    def compare_layers(make_pass, case, *ways):
        compare({way: make_pass(way, case) for way in ways}, *ways)

    return compare_layers


@pytest.mark.parametrize("circular", [True, False])
@pytest.mark.parametrize("what", list(PASSES))
@pytest.mark.parametrize("way", [BLOCKS, BUTTERFLIES, FOURIER])
def test_maps_against_the_plain_convolution(compare_layers, what, way, circular):
    """For 32 channels, 85 x 85 pixels, 13 x 13 taps and batch 20 at most 0.5 is wanted, in inference 0.35."""
    compare_layers(PASSES[what], replace(QUICK.maps, circular=circular), way, PLAIN, LAST)


@pytest.mark.parametrize("circular", [True, False])
@pytest.mark.parametrize("way", [BLOCKS, BUTTERFLIES])
def test_series_against_the_plain_convolution_and_the_published_technique(compare_layers, way, circular):
    """For 64 channels, 1,024 points, 17 taps and batch 20 at most 2 times and one eighth are wanted."""
    compare_layers(xd.train_pass, replace(QUICK.series, circular=circular), way, PLAIN, PUBLISHED)


@pytest.mark.parametrize("what", list(PASSES))
def test_a_folded_layer_against_the_convolution_that_it_became(compare_layers, what):
    """One time is wanted: it is that convolution."""
    compare_layers(PASSES[what], QUICK.maps, FOLDED, NAMED)


@pytest.mark.parametrize("way", [BLOCKS, BUTTERFLIES])
def test_long_series_against_short_ones(compare, way):
    """From 64 to 8,192 points the time shall grow with the power of at most 1.5, which is 16 times at 512."""
    lengths = {f"{n} points": replace(QUICK.swept, size=(n,)) for n in (512, 64)}
    compare({name: xd.train_pass(way, case) for name, case in lengths.items()}, *lengths)


@pytest.mark.slow
@pytest.mark.parametrize("circular", [True, False])
def test_peak_memory_against_the_plain_convolution(benchmark, circular):
    """For 85 x 85 pixels at most 2 times are wanted."""
    size = QUICK if benchmark.disabled else xd.FULL
    subject = {"kind": "xd", "case": asdict(replace(size.maps, circular=circular))}
    plain, ours = (memory.footprint({**subject, "way": way}, 1, "cpu") for way in (PLAIN, BLOCKS))
    benchmark.extra_info["times plain, in all"] = ours.peak / plain.peak
    benchmark.extra_info["times plain, of the steps"] = ours.net / plain.net
    benchmark.pedantic(lambda: None, rounds=1)
    assert all(0 < found.net < found.peak for found in (plain, ours))


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (nn.Conv1d(2, 3, 3, padding=1), (12,)),
        (nn.Conv1d(2, 3, 5, stride=2, padding=4, dilation=2, bias=False), (16,)),
        (nn.Conv1d(2, 3, 4, padding=2), (13,)),
        (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (16,)),
        (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (13,)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (8, 7)),
        (nn.Conv2d(2, 3, (3, 1), stride=2, padding=(1, 0)), (1, 9)),
        (nn.Conv3d(2, 3, 3, padding=1), (3, 4, 5)),
    ],
)
def test_the_published_operation_is_the_convolution_at_first(module, size):
    module = module.double()
    layer = double(site_of(module, size))
    layer.load_state_dict(module.state_dict(), strict=False)
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), module(x), rtol=0, atol=1e-12)


def double(site: Site) -> PublishedXD:
    former = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return PublishedXD(site)
    finally:
        torch.set_default_dtype(former)


def test_the_published_operation_multiplies_by_its_matrices():
    """Re{K diag(L w) M x} by the definition, with matrices that are no Fourier transforms any more."""
    layer = double(site_of(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (8,)))
    with torch.no_grad():
        for twiddle in (*layer.m, *layer.k, *layer.l):
            twiddle.add_(0.1 * torch.randn_like(twiddle))
        m, k, taps = (
            dense(Kaleidoscope(torch.view_as_complex(p[0]), increasing))
            for p, increasing in ((layer.m, False), (layer.k, True), (layer.l, False))
        )
        x = torch.randn(2, 2, 8, dtype=torch.float64)
        kernel = torch.zeros(3, 2, 8, dtype=m.dtype)
        # The taps -1, 0 and 1 read at these places before their output's.
        kernel[..., [1, 0, 7]] = layer.weight.to(m.dtype)
        expected = torch.einsum("nf,oif,bif->bon", k, kernel @ taps.mT, x.to(m.dtype) @ m.mT).real
        torch.testing.assert_close(layer(x) - layer.bias[:, None], expected, rtol=0, atol=1e-12)


def test_the_published_operation_refuses_groups():
    with pytest.raises(ValueError, match="mixes all channels"):
        PublishedXD(site_of(nn.Conv1d(2, 2, 3, groups=2), (8,)))


@pytest.mark.slow
def test_a_quick_run_writes_findings_and_a_figure(tmp_path):
    command = [sys.executable, "-m", "nasfw.benchmarks", "xd", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert {f["section"] for f in found["findings"]} == {"train", "inference", "sweeps"}
    assert all(way["seconds"]["samples"] >= 7 for f in found["findings"] for way in f["ways"].values())
    assert {g["way"] for g in found["growth"]} == {PLAIN, BLOCKS, BUTTERFLIES, PUBLISHED}
    assert len(found["memory"]) == 3
    assert (tmp_path / "length.png").read_bytes().startswith(b"\x89PNG")
