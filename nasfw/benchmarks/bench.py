"""How much is measured, under which conditions, and where the findings go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nasfw import progress
from nasfw.benchmarks import memory
from nasfw.benchmarks.findings import Finding, Relation, Report
from nasfw.benchmarks.subjects import Shapes
from nasfw.benchmarks.timing import Pass, clock, interleaved
from nasfw.display import format_value

# What is estimated to need more than this share of the free memory is left out.
_SHARE = 0.6


@dataclass(frozen=True)
class Scale:
    """Numbers of rounds, points and sizes. The patiences bound the seconds of one pass.

    ``largest`` are the c of the sweep over kernels, which has the kernel sizes 3, 5, .., 2 c + 1 and the
    dilations 1, 3, .., 2^c - 1; ``layers`` are pairs of channels and pixels on each axis of a map. The
    published supernet for maps needs gigabytes and seconds a step, so it is timed on the smaller batch
    ``published_maps``; without that it is left out, in the section on memory as well.
    """

    rounds: int
    patience: float
    sweep_patience: float
    sweep_batch: int
    sweep_channels: int
    largest: tuple[int, ...]
    points: int
    lengths: tuple[int, ...]
    layers: tuple[tuple[int, int], ...]
    layer_batch: int
    maps: Shapes
    series: Shapes
    series_channels: int
    published_maps: Shapes | None


FULL = Scale(
    rounds=9,
    patience=20.0,
    sweep_patience=5.0,
    sweep_batch=32,
    sweep_channels=16,
    largest=(1, 2, 3, 4, 5, 6, 7),
    points=1000,
    lengths=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    layers=((16, 32), (32, 16), (64, 8)),
    layer_batch=64,
    maps=Shapes((3, 32, 32), (100,), 64),
    series=Shapes((4, 1000), (36,), 32),
    series_channels=64,
    published_maps=Shapes((3, 32, 32), (100,), 8),
)
QUICK = Scale(
    rounds=7,
    patience=1.0,
    sweep_patience=0.1,
    sweep_batch=4,
    sweep_channels=8,
    largest=(1, 2, 4, 7),
    points=1000,
    lengths=(32, 128, 512, 2048),
    layers=((16, 32),),
    layer_batch=8,
    maps=Shapes((3, 32, 32), (100,), 8),
    series=Shapes((4, 1000), (36,), 4),
    series_channels=16,
    published_maps=None,
)


@dataclass(frozen=True)
class Bench:
    """A scale under given conditions. ``depthwise`` concerns sweeps and single layers."""

    scale: Scale
    report: Report
    threads: int = 1
    compute: str = "cpu"
    depthwise: bool = False

    @property
    def conditions(self) -> str:
        """The threads, or the graphics card, in words."""
        if self.compute != "cpu":
            return self.compute
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}"

    def measure(
        self,
        section: str,
        case: str,
        passes: Mapping[str, Pass],
        reference: str,
        skipped: Mapping[str, str] | None = None,
        x: float | None = None,
    ) -> Finding:
        """Time ``passes`` in turns and keep the finding; ``skipped`` says why others are not among them."""
        reads = clock(self.threads, self.compute)
        limit = self.scale.sweep_patience if section == "sweeps" else self.scale.patience
        with progress.track(case, self.scale.rounds) as bar:
            timings, late = interleaved(passes, self.scale.rounds, reads, limit, bar)
        left_out = {**(skipped or {}), **late}
        found = Finding(section, case, self.threads, reads.name, reference, timings, left_out, x)
        self.report.findings.append(found)
        self.report.save()
        return found

    def check(self, found: Finding, way: str, of: str, relation: Relation, bound: float, what: str) -> None:
        """Check how many times the time ``of`` another way a ``way`` of a finding takes, if both have one."""
        if way in found.timings and of in found.timings:
            value = found.timings[way].over(found.timings[of])
            self.report.check(what, value, relation, bound, self.threads)
            self.report.save()

    def too_large(self, needed: float) -> str:
        """Why something that needs so many bytes is left out; empty if it is not."""
        if needed <= _SHARE * memory.available(self.compute):
            return ""
        return f"needs about {format_value(needed, 'B')} of memory"
