"""What a benchmark found out, and the file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nasfw import text
from nasfw.benchmarks.timing import Spread, Timing

Relation = Literal["at most", "at least"]


@dataclass(frozen=True)
class Check:
    """A number against the one that is wanted."""

    what: str
    value: Spread
    relation: Relation
    bound: float
    threads: int

    @property
    def kept(self) -> bool:
        """Whether the number is what is wanted."""
        value = self.value.median
        return value <= self.bound if self.relation == "at most" else value >= self.bound


@dataclass(frozen=True)
class Finding:
    """Times of several ways of one case, measured in turns; ``x`` is its place in a sweep.

    ``reference`` names the way that the others are multiples of. ``skipped`` says of ways without times why
    there are none.
    """

    section: str
    case: str
    threads: int
    clock: str
    reference: str
    timings: Mapping[str, Timing]
    skipped: Mapping[str, str] = field(default_factory=dict)
    x: float | None = None

    def ratios(self) -> dict[str, Spread]:
        """How many times the reference's time every way takes; empty if the reference was skipped."""
        base = self.timings.get(self.reference)
        return {} if base is None else {name: t.over(base) for name, t in self.timings.items()}

    def as_data(self) -> dict[str, Any]:
        """The finding as JSON values; times in seconds."""
        ratios = self.ratios()
        ways = {
            name: {
                "seconds": asdict(timing.spread),
                "times_reference": asdict(ratios[name]) if name in ratios else None,
                "rounds": list(timing.seconds),
            }
            for name, timing in self.timings.items()
        }
        names = ("section", "case", "x", "threads", "clock", "reference")
        return {name: getattr(self, name) for name in names} | {"ways": ways, "skipped": dict(self.skipped)}


@dataclass(frozen=True)
class Footprint:
    """Bytes that a process held at most, and held before its first step."""

    peak: int
    before: int

    @property
    def net(self) -> int:
        """Bytes that the steps added at most."""
        return self.peak - self.before


@dataclass(frozen=True)
class Memory:
    """Peak memory of several networks in one case, each of a process of its own."""

    case: str
    reference: str
    footprints: Mapping[str, Footprint]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """The case as JSON values; bytes."""
        ways = {name: {**asdict(f), "net": f.net} for name, f in self.footprints.items()}
        return {
            "case": self.case,
            "reference": self.reference,
            "ways": ways,
            "skipped": dict(self.skipped),
        }


@dataclass(frozen=True)
class Growth:
    """The exponent with which a way's time grows in a sweep, over so many points."""

    sweep: str
    way: str
    threads: int
    exponent: float
    points: int


@dataclass
class Report:
    """All that was found, kept in ``file`` after every addition."""

    file: Path
    header: Mapping[str, Any]
    findings: list[Finding] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def check(self, what: str, value: Spread, relation: Relation, bound: float, threads: int) -> None:
        """Add a check; it is written with the next ``save``."""
        self.checks.append(Check(what, value, relation, bound, threads))

    def save(self) -> None:
        """Write the file, all of it or nothing."""
        content = {
            **self.header,
            "findings": [f.as_data() for f in self.findings],
            "memory": [m.as_data() for m in self.memory],
            "growth": [asdict(g) for g in self.growth],
            "checks": [{**asdict(c), "kept": c.kept} for c in self.checks],
        }
        text.write(self.file, json.dumps(content, indent=1) + "\n")
