"""What XD operations take of the convolutions that they start as: time, its growth, and peak memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from nasfw import progress
from nasfw.benchmarks import memory, tables
from nasfw.benchmarks.bench import Bench
from nasfw.benchmarks.findings import Finding, Footprint, Growth, Memory, Report
from nasfw.benchmarks.published import PublishedXD
from nasfw.benchmarks.subjects import PLAIN, PUBLISHED
from nasfw.benchmarks.timing import Pass, Spread, slope, using
from nasfw.hardware.machine import compute_name, environment
from nasfw.spaces.named import operation, own
from nasfw.spaces.site import CONVOLUTIONS, Site, site_of
from nasfw.spaces.xd_layers import FourierConv, XDConv

LAST, BLOCKS, BUTTERFLIES = "plain, channels last", "blocks", "butterflies"
FOURIER, NAMED, FOLDED = "fourier of 12 modes", "k3d1", "folded to k3d1"
LENGTH = "length"


@dataclass(frozen=True)
class Case:
    """A convolution of odd ``kernel`` that keeps the size of its maps, of as many channels as it returns."""

    size: tuple[int, ...]
    channels: int
    kernel: int
    batch: int
    circular: bool = True

    def __str__(self) -> str:
        size, border = " x ".join(map(str, self.size)), "circular" if self.circular else "zeros"
        taps = " x ".join([str(self.kernel)] * len(self.size))
        return f"{size}, {taps} taps, {border}, {self.channels} channels, batch {self.batch}"

    def convolution(self) -> nn.Module:
        """The convolution, with weights of its own."""
        mode = "circular" if self.circular else "zeros"
        make: Callable[..., nn.Module] = CONVOLUTIONS[len(self.size)]
        return make(self.channels, self.channels, self.kernel, padding=self.kernel // 2, padding_mode=mode)

    @property
    def site(self) -> Site:
        """The convolution's description."""
        found = site_of(self.convolution(), self.size)
        assert found is not None
        return found


@dataclass(frozen=True)
class Sizes:
    """What is measured: ``staged`` are the maps on which the published technique takes its turn.

    ``swept`` has the channels, the kernel and the batch of a sweep over ``lengths``.
    """

    maps: Case
    staged: Case
    series: Case
    swept: Case
    lengths: tuple[int, ...]


def _quarter(case: Case, batch: int) -> Case:
    """A quarter of the points on each axis, and of the channels."""
    size = tuple(n // 4 for n in case.size)
    return replace(case, size=size, channels=case.channels // 4, batch=batch)


FULL = Sizes(
    maps=Case((85, 85), 32, 13, 20),
    staged=Case((85, 85), 8, 13, 4),
    series=Case((1024,), 64, 17, 20),
    swept=Case((64,), 16, 17, 8),
    lengths=tuple(2**i for i in range(6, 14)),
)
QUICK = Sizes(
    _quarter(FULL.maps, 4),
    _quarter(FULL.staged, 2),
    _quarter(FULL.series, 4),
    replace(FULL.swept, channels=4, batch=2),
    FULL.lengths[:-2],
)


def make(way: str, case: Case) -> nn.Module:
    """The layer that is called ``way`` in the place of the case's convolution."""
    site = case.site
    makers: dict[str, Callable[[], nn.Module]] = {
        PLAIN: case.convolution,
        LAST: lambda: convert_conv2d_weight_memory_format(case.convolution(), torch.channels_last),
        BLOCKS: lambda: XDConv(site),
        BUTTERFLIES: lambda: XDConv(site, kind="butterflies"),
        PUBLISHED: lambda: PublishedXD(site),
        FOURIER: lambda: FourierConv(site, 12),
        NAMED: replace(case, kernel=3).convolution,
        FOLDED: lambda: _folded(site),
    }
    return makers[way]()


def _folded(site: Site) -> nn.Module:
    """The operation that is nearest to an XD operation with three taps on every axis."""
    layer, convolution = XDConv(site), own(site)
    middle = torch.zeros(site.kernel)
    middle[tuple(slice(k // 2 - 1, k // 2 + 2) for k in site.kernel)] = 1.0
    state = convolution.state_dict()
    convolution.load_state_dict({**state, "weight": state["weight"] * middle})
    layer.start(convolution)
    fold = layer.folded([NAMED])[NAMED]
    made = operation(site, NAMED)
    made.load_state_dict(fold.weights)
    return made


def train_pass(way: str, case: Case) -> Pass:
    """Forward and backward: gradients of the input, the weights and any transforms."""
    layer, x = make(way, case), _input(way, case).requires_grad_()
    upstream = torch.randn_like(x)
    wanted = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), wanted, upstream)


def inference_pass(way: str, case: Case) -> Pass:
    """Forward in evaluation mode, for which transforms and spectra of kernels are kept."""
    layer, x = make(way, case).eval(), _input(way, case)

    def run() -> None:
        with torch.no_grad():
            layer(x)

    return run


def _input(way: str, case: Case) -> Tensor:
    x = torch.randn(case.batch, case.channels, *case.size, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last) if way == LAST else x


def header(rounds: int, sizes: Sizes) -> dict[str, Any]:
    """Under which conditions a report is made, as JSON values."""
    return {
        "benchmark": "xd",
        "machine": compute_name("cpu", 1),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "threads": [1],
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "memory_means": memory.WHAT,
        "rounds": rounds,
        "sizes": asdict(sizes),
        "environment": environment(),
    }


def conditions(header: Mapping[str, Any]) -> list[str]:
    """The header in words, line by line."""
    swept = header["sizes"]["swept"]
    return [
        tables.machine(header),
        f"medians of {header['rounds']} rounds in which all ways take turns, with the quartiles",
        "forward and backward: gradients of input, weights and transforms; inference: in evaluation mode",
        "plain: the convolution that XD operations start as, contiguous unless it says channels last",
        f"sweeps: {swept['kernel']} taps, circular, {swept['channels']} channels, batch {swept['batch']}",
        *tables.busy(header),
    ]


def fill(bench: Bench, sizes: Sizes) -> None:
    """Measure everything and write the report as it grows."""
    torch.manual_seed(0)
    bench.report.save()
    with using(1):
        for comparison in _comparisons(sizes):
            _compare(bench, comparison)
        _sweep(bench, sizes)
    for circular in (True, False):
        _peaks(bench, replace(sizes.maps, circular=circular), (PLAIN, LAST, BLOCKS, BUTTERFLIES, FOURIER))
    _peaks(bench, sizes.series, (PLAIN, BLOCKS, BUTTERFLIES, PUBLISHED))


@dataclass(frozen=True)
class Comparison:
    """Ways to be timed in turns, the first one being the reference.

    ``train`` and ``inference`` are how many times the time of the faster plain convolution the ``checked``
    ones shall take at most.
    """

    case: Case
    ways: Sequence[str]
    checked: Sequence[str] = (BLOCKS,)
    train: float | None = None
    inference: float | None = None


def _comparisons(sizes: Sizes) -> Iterator[Comparison]:
    for circular in (True, False):
        maps = replace(sizes.maps, circular=circular)
        yield Comparison(maps, (PLAIN, LAST, BLOCKS, BUTTERFLIES, FOURIER), (BLOCKS,), 0.5, 0.35)
    for circular in (True, False):
        series, both = replace(sizes.series, circular=circular), (BLOCKS, BUTTERFLIES)
        yield Comparison(series, (PLAIN, *both, FOURIER, PUBLISHED), both, 2.0)
    yield Comparison(sizes.staged, (PLAIN, BLOCKS, BUTTERFLIES, PUBLISHED))
    yield Comparison(replace(sizes.maps, circular=False), (NAMED, FOLDED))


def _compare(bench: Bench, comparison: Comparison) -> None:
    case, ways = comparison.case, comparison.ways
    for section, what, make_pass, bound in (
        ("train", "forward and backward", train_pass, comparison.train),
        ("inference", "inference", inference_pass, comparison.inference),
    ):
        found = bench.measure(section, str(case), {way: make_pass(way, case) for way in ways}, ways[0])
        if bound is not None:
            base = min((way for way in (PLAIN, LAST) if way in found.timings), key=_median(found))
            for way in comparison.checked:
                bench.check(found, way, base, "at most", bound, f"{what}, {case}: {way}, times {base}")
        if section == "train":
            for way in comparison.checked:
                label = f"{what}, {case}: {PUBLISHED}, times {way}"
                bench.check(found, PUBLISHED, way, "at least", 8.0, label)
        bench.check(found, FOLDED, NAMED, "at most", 1.05, f"{what}, {case}: {FOLDED}, times {NAMED}")


def _median(found: Finding) -> Callable[[str], float]:
    return lambda way: found.timings[way].spread.median


def _sweep(bench: Bench, sizes: Sizes) -> None:
    """Time against the length of series, with the exponents of growth."""
    points: dict[str, list[tuple[float, float]]] = {}
    with progress.track("lengths", len(sizes.lengths)) as bar:
        for n in sizes.lengths:
            case = replace(sizes.swept, size=(n,))
            passes = {way: train_pass(way, case) for way in (PLAIN, BLOCKS, BUTTERFLIES, PUBLISHED)}
            found = bench.measure("sweeps", f"{LENGTH} {n}", passes, PLAIN, x=float(n))
            for way in found.timings:
                points.setdefault(way, []).append((float(n), _median(found)(way)))
            bar.advance()
    for way, known in points.items():
        exponent = slope(*zip(*known, strict=True))
        bench.report.growth.append(Growth(LENGTH, way, 1, exponent, len(known)))
        if way in (BLOCKS, BUTTERFLIES):
            value = Spread(exponent, exponent, exponent, len(known))
            bench.report.check(f"exponent of growth with the length, {way}", value, "at most", 1.5, 1)
    bench.report.save()


def _peaks(bench: Bench, case: Case, ways: Sequence[str]) -> None:
    """Peak memory of three passes, each way in a process of its own."""
    found: dict[str, Footprint] = {}
    with progress.track(f"memory, {case}", len(ways)) as bar:
        for way in ways:
            found[way] = memory.footprint({"kind": "xd", "way": way, "case": asdict(case)}, 1, "cpu")
            bar.advance()
    bench.report.memory.append(Memory(str(case), PLAIN, found))
    ours, plain = found[BLOCKS], found[PLAIN]
    for what, ratio in (("in all", ours.peak / plain.peak), ("of the steps", ours.net / max(1, plain.net))):
        label = f"peak memory {what}, {case}: {BLOCKS}, times {PLAIN}"
        bench.report.check(label, Spread(ratio, ratio, ratio, 1), "at most", 2.0, 1)
    bench.report.save()


def draw(report: Report, folder: Path, swept: Case) -> list[Path]:
    """Draw the time against the length; returns the file."""
    from nasfw.benchmarks.figures import draw_sweep

    found = [f for f in report.findings if f.x is not None]
    title = (
        f"XD operations that start as a circular convolution of {swept.kernel} taps, {swept.channels} to "
        f"{swept.channels} channels, batch {swept.batch}\n{report.header['machine']}"
    )
    return [draw_sweep(found, folder / "length.png", "length of the series (points)", title)] if found else []
