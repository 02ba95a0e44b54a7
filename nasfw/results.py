"""What a run found, recomputed from its folder; importing this does not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasfw import costs, diagnosis, evaluation, networks
from nasfw.diagnosis import Diagnosis
from nasfw.folding import Report as Folding
from nasfw.networks import Network
from nasfw.pareto import hypervolume, reference_point
from nasfw.records import Records, as_costs, finalists, front, front_rows
from nasfw.supernets import Training
from nasfw.text import write
from nasfw.values import CostTable, Measure, Option, Phase, Record, UsageError

RECORDS, SUMMARY, SETTINGS = "records.jsonl", "problem.json", "run.yaml"
RANDOM, SPENT, RESULT, EXPORT = "random", "spent.json", "result.json", "export"


@dataclass(frozen=True)
class Summary:
    """What ``problem.json`` keeps so that a folder can be read without the plugins that made it.

    ``devices`` has the fingerprint of every device that measured, by its name, and ``samples`` the size of
    every split that something is measured on.
    """

    task: str
    strategy: str
    compute: str
    measures: tuple[Measure, ...]
    defaults: Mapping[str, Mapping[str, Option]]
    seeds: tuple[int, ...]
    limit: int
    final: bool
    data: str = ""
    metric: str = "error"
    devices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    least: int = 1
    yardsticks: tuple[str, ...] = ("plain", "random")
    samples: Mapping[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the file, all of it or nothing."""
        write(folder / SUMMARY, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> Summary:
        """UsageError if the folder holds no run."""
        try:
            content = json.loads((folder / SUMMARY).read_text())
            content["measures"] = tuple(Measure(**m) for m in content["measures"])
            content["seeds"] = tuple(content["seeds"])
            content["yardsticks"] = tuple(content.get("yardsticks", ("plain", "random")))
            return cls(**content)
        except OSError:
            raise UsageError(f"{folder} holds no run: it has no {SUMMARY}") from None
        except (ValueError, KeyError, TypeError) as reason:
            raise UsageError(f"{folder / SUMMARY} is damaged: {reason}") from None


@dataclass(frozen=True)
class Result:
    """A run's outcome. ``phase`` says whether the numbers are final (test) or of the search (validation).

    ``tables`` has the lookup tables that costs were predicted with, by space and objective. ``seconds`` and
    ``random_seconds`` are what the searches took; None if they are not done, or were interrupted, so that
    their clock stood still. ``supernets``, ``diagnoses`` and ``foldings`` have, by space, the training of a
    supernet, how a one-shot search went, and what learned operations became, where they are known.
    """

    folder: Path
    summary: Summary
    phase: Phase
    front: list[Network]
    pick: Network | None
    plain: Network | None
    random: Network | None
    random_trials: int
    trials: int
    failed: int
    seconds: float | None
    random_seconds: float | None
    hypervolume: float
    reference: list[float]
    done: bool
    supernets: Mapping[str, Training] = field(default_factory=dict)
    tables: Mapping[str, CostTable] = field(default_factory=dict)
    diagnoses: Mapping[str, Diagnosis] = field(default_factory=dict)
    foldings: Mapping[str, Folding] = field(default_factory=dict)

    def __str__(self) -> str:
        """The tables and sentences that the command line prints."""
        from rich.console import Console

        from nasfw.reports.outcome import outcome

        console = Console(width=100, color_system=None)
        with console.capture() as text:
            console.print(outcome(self))
        return text.get().rstrip()

    def against(self, other: Network | None) -> evaluation.Comparison | None:
        """The pick's first objective against ``other``'s over the same seeds; None if there is no other."""
        if other is None or self.pick is None:
            return None
        first = self.summary.measures[0]
        ours = dict(zip(self.pick.seeds, self.pick.values[first.name], strict=True))
        theirs = dict(zip(other.seeds, other.values[first.name], strict=True))
        both = sorted(ours.keys() & theirs.keys())
        if not both:
            return None
        return evaluation.compare([ours[s] for s in both], [theirs[s] for s in both], first.maximise)

    def plain_data(self) -> dict[str, Any]:
        """Everything as JSON values."""
        named = {"pick": self.pick, "plain": self.plain, "random": self.random}
        return {
            "folder": str(self.folder),
            "task": self.summary.task,
            "strategy": self.summary.strategy,
            "compute": self.summary.compute,
            "phase": self.phase,
            "split": "test" if self.phase == "final" else "valid",
            "seeds": list(self.summary.seeds),
            "objectives": [asdict(m) for m in self.summary.measures],
            "front": [n.plain_data() for n in self.front],
            **{name: n and n.plain_data() for name, n in named.items()},
            "comparisons": {
                name: c and {"verdict": c.verdict, **asdict(c)}
                for name, c in (("plain", self.against(self.plain)), ("random", self.against(self.random)))
            },
            "hypervolume": self.hypervolume,
            "reference": self.reference,
            "trials": self.trials,
            "failed": self.failed,
            "random_trials": self.random_trials,
            "seconds": self.seconds,
            "random_seconds": self.random_seconds,
            "supernets": {label: asdict(training) for label, training in self.supernets.items()},
            "diagnostics": {label: d.plain_data() for label, d in self.diagnoses.items()},
            "foldings": {label: asdict(found) for label, found in self.foldings.items()},
            "tables": {name: asdict(table) for name, table in self.tables.items()},
            "devices": {name: dict(about) for name, about in self.summary.devices.items()},
        }


def read(folder: Path) -> Result:
    """Recompute a run's outcome from its folder; UsageError if there is none."""
    summary = Summary.read(folder)
    records = Records(folder / RECORDS)
    measures = summary.measures
    searched = records.select("search")
    chosen = finalists(searched, measures, summary.limit, summary.least)
    trained = networks.joined(records.select("final"), [*searched, *chosen])
    done = [n for n in (networks.training_of(record, trained) for record in chosen) if n is not None]
    tried = [r for r in records if r.phase == "final"]
    # A final training may fail; it must not hide the others.
    final = bool(done) and all(any(networks.continues(t, r) for t in tried) for r in chosen)
    if not final:
        done = [networks.searched(r) for r in front(searched, measures)]
    pick = None if not chosen else (done[0] if final else networks.searched(chosen[0]))
    plain = _plain(summary, chosen, trained) if final and "plain" in summary.yardsticks else None
    rest = Records(folder / RANDOM / RECORDS)
    drawn = rest.select("search")
    lucky = finalists(drawn, measures, 1) if final else []
    again = networks.joined(rest.select("final"), lucky)
    random = networks.training_of(lucky[0], again) if lucky else None
    shown = [n for n in (*done, plain, random) if n is not None]
    table = as_costs((n.median for n in shown), measures)
    reference = reference_point(table) if len(table) else np.zeros(len(measures))
    kept = _front(done, measures)
    return Result(
        folder=folder,
        summary=summary,
        phase="final" if final else "search",
        front=kept,
        pick=pick,
        plain=plain,
        random=random,
        random_trials=len(drawn),
        trials=sum(r.phase == "search" for r in records),
        failed=sum(r.error is not None for r in records),
        seconds=_seconds(folder, summary),
        random_seconds=_seconds(folder / RANDOM, summary),
        hypervolume=hypervolume(as_costs((n.median for n in kept), measures), reference) if kept else 0.0,
        reference=[float(-v if m.maximise else v) for v, m in zip(reference, measures, strict=True)],
        done=(folder / RESULT).exists(),
        supernets={
            label: training
            for label in summary.defaults
            if (training := Training.read(folder / label)) is not None
        },
        tables=_tables(folder, summary),
        diagnoses={
            label: found
            for label in summary.defaults
            if (found := diagnosis.read(folder, label, [*searched, *drawn], measures[0])) is not None
        },
        foldings={
            label: report
            for label in summary.defaults
            if (report := Folding.read(folder / label)) is not None
        },
    )


def _tables(folder: Path, summary: Summary) -> dict[str, CostTable]:
    """The lookup tables of the searches, by space and objective."""
    return {
        f"{label}: {objective}": table
        for label in summary.defaults
        for objective, table in costs.all_kept(folder / label).items()
    }


def done(folder: Path) -> bool:
    """Whether the run in ``folder`` is finished: its result is written and follows from its records."""
    try:
        written = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        return False
    now = json.loads(json.dumps(read(folder).plain_data()))
    # A folder may be moved, and what is known of a supernet does not follow from the records.
    aside = dict.fromkeys(("folder", "supernets", "diagnostics", "foldings", "tables"))
    return isinstance(written, dict) and {**written, **aside} == {**now, **aside}


def _seconds(folder: Path, summary: Summary) -> float | None:
    """What the search in all spaces took, if it was never interrupted."""
    try:
        parts = [json.loads((folder / space / SPENT).read_text())["seconds"] for space in summary.defaults]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if None in parts else float(sum(parts))


def finals(folder: Path) -> list[Network]:
    """All networks of the final phase of the run in ``folder``, those of its random search aside."""
    records = Records(folder / RECORDS)
    return list(networks.joined(records.select("final"), records.select("search")).values())


def _plain(
    summary: Summary, chosen: Sequence[Record], trained: Mapping[tuple[object, ...], Network]
) -> Network | None:
    space = chosen[0].space
    plain = replace(chosen[0], choices=summary.defaults[space])
    return networks.training_of(plain, trained)


def _front(shown: Sequence[Network], measures: Sequence[Measure]) -> list[Network]:
    """The networks that no other beats in the medians, best first objective first."""
    medians = [n.median for n in shown]
    kept = front_rows(medians, measures)
    order = np.lexsort(as_costs((medians[i] for i in kept), measures).T[::-1])
    return [shown[kept[i]] for i in order]
