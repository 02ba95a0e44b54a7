"""What was searched is what is shipped: a folder for each network, whose files work without nasfw.

``model.py`` and ``weights.safetensors`` need torch alone, ``model.onnx`` a runtime of ONNX, and ``card.md``
says what they are. A folder appears when another process, where nasfw cannot be imported, has found that its
files do to the whole test split what the searched network does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import nasfw
from nasfw import config, experiment, plugins, results
from nasfw.contracts import SearchSpace, Task, UsageError
from nasfw.networks import Network
from nasfw.results import EXPORT, RANDOM, SETTINGS, Result
from nasfw.shipping.artefact import Subject
from nasfw.shipping.verification import Writing
from nasfw.text import loads, write
from nasfw.trials import network_file

STATEMENT = "export.json"
_SCRATCH = ".writing-"


@dataclass(frozen=True)
class Exported:
    """A verified export of the record ``key``.

    ``checks`` has the largest differences from the searched network's outputs, relative to the largest one,
    of model.py ("torch") and of model.onnx ("onnx"); and the metric of model.py's outputs on the test split
    ("metric") beside the one that the run reported ("reported").
    """

    folder: Path
    key: str
    checks: Mapping[str, float]
    remarks: tuple[str, ...] = ()


def export(
    folder: str | Path,
    key: str | None = None,
    task: Task | None = None,
    destination: Path | None = None,
    again: bool = True,
) -> list[Exported]:
    """Write and verify networks of the run in ``folder``: those of its front and its pick, or one of them.

    ``key`` is a network's name as tables show it, a unique beginning of that, the key of one of its records,
    "plain" or "random". ``task`` is needed if it was made in Python. Each network gets a folder of its name
    in ``destination``, by default "export" in the run's folder, in place of a former export. That stays if
    it is whole and not to be made ``again``. The weights are those of the network's first seed.
    """
    outcome = results.read(Path(folder))
    if outcome.phase != "final":
        raise UsageError(
            f"{folder} holds no trained network: its final phase did not take place or is not done"
        )
    chosen = shown(outcome) if key is None else [find(outcome, key)]
    task, spaces = reopen(outcome, task)
    fingerprint = getattr(task, "fingerprint", None)
    if callable(fingerprint) and outcome.summary.data not in ("", fingerprint()):
        raise UsageError(f"the task's data are not those of the run in {folder}")
    return export_networks(outcome, chosen, spaces, task, destination, again)


def shown(outcome: Result) -> list[Network]:
    """The networks of the front, and the pick."""
    return list({n.name: n for n in (*outcome.front, outcome.pick) if n is not None}.values())


def find(outcome: Result, key: str) -> Network:
    """The trained network that ``key`` names as ``export`` describes; UsageError if none or several."""
    both = {"plain": outcome.plain, "random": outcome.random}
    yardsticks = {name: network for name, network in both.items() if network is not None}
    if key in yardsticks:
        return yardsticks[key]
    pool = {n.name: n for n in (*results.finals(outcome.folder), *yardsticks.values(), *shown(outcome))}
    found = [n for n in pool.values() if key and (n.name.startswith(key) or key in n.keys)]
    if len(found) != 1:
        several = f"{', '.join(n.name for n in found)} begin" if found else "no network of the run is named"
        there = ", ".join([*(f"{n}{' (pick)' * (p == outcome.pick)}" for n, p in pool.items()), *yardsticks])
        raise UsageError(f"{several} {key!r}; there are {there}")
    return found[0]


def reopen(outcome: Result, task: Task | None) -> tuple[Task, dict[str, SearchSpace]]:
    """The task, unless it is given, and the spaces of a run; UsageError if its folder cannot give them."""
    folder, registry = outcome.folder, plugins.load()
    content = dict(loads((folder / SETTINGS).read_text(), str(folder / SETTINGS)))
    # The other settings do not shape the networks, and may hold objects that a folder cannot rebuild.
    content = {name: content[name] for name in ("task", "spaces", "effort")}
    content |= {"task": task} if task is not None else {}
    try:
        settings = config.resolve(content, registry, experiments={})
    except UsageError as reason:
        raise UsageError(
            f"the networks of {folder} cannot be made again: {reason}; a task made in Python is given as "
            "task=..., a space made in Python builds its networks itself"
        ) from None
    task = registry.make("task", settings.task) if task is None else task
    return task, experiment.make_spaces(settings, registry, task)


def trained(outcome: Result, network: Network, space: SearchSpace, at: int = 0) -> nn.Module:
    """The network with the weights of ``seeds[at]``, for evaluation; UsageError if they are not there."""
    parts = (outcome.folder, outcome.folder / RANDOM)
    found = [f for p in parts if (f := network_file(p / network.space, network.keys[at])).exists()]
    if not found:
        raise UsageError(f"the weights of network {network.name} are not in {outcome.folder}")
    model = space.enlarged().build(network.architecture)
    model.load_state_dict(load_file(found[0]))
    return model.eval()


def export_networks(
    outcome: Result,
    networks: Sequence[Network],
    spaces: Mapping[str, SearchSpace],
    task: Task,
    destination: Path | None = None,
    again: bool = True,
) -> list[Exported]:
    """Write and verify ``networks``; without ``again``, what is exported already and unchanged is kept."""
    destination = outcome.folder / EXPORT if destination is None else Path(destination)
    places = {n.name: destination / n.name for n in networks}
    kept = {} if again else {n.name: e for n in networks if (e := existing(places[n.name], n.keys[0]))}
    missing = [n for n in networks if n.name not in kept]
    for network in missing:
        place = places[network.name]
        if place.exists() and not (place / STATEMENT).exists():
            raise UsageError(f"{place} exists and is no export; name another destination")
    if missing:
        destination.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=destination) as scratch,
            experiment.threads(_threads(outcome)),
        ):
            writing = Writing(outcome, task, Path(scratch))
            for network in missing:
                writing.add(network, trained(outcome, network, spaces[network.space]))
            made = [_state(subject, writing.scratch / subject.network.name) for subject in writing.verified()]
            kept |= {e.folder.name: _place(e, places[e.folder.name]) for e in made}
    return [kept[n.name] for n in networks]


def clear(destination: Path) -> None:
    """Remove what killed exports left; nobody else may be exporting there."""
    for remains in destination.glob(f"{_SCRATCH}*"):
        shutil.rmtree(remains, ignore_errors=True)


def existing(folder: Path, key: str) -> Exported | None:
    """The export in ``folder``, if it is of this record and version and its files are unchanged."""
    try:
        content = json.loads((folder / STATEMENT).read_text())
        if (content["key"], content["nasfw"]) != (key, nasfw.__version__):
            return None
        if any(_digest(folder / name) != digest for name, digest in content["files"].items()):
            return None
        return Exported(folder, key, content["checks"], tuple(content["remarks"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _threads(outcome: Result) -> int:
    """With how many threads the run measured: with others, sums are rounded otherwise."""
    try:
        return int(json.loads((outcome.folder / "env.json").read_text())["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        return torch.get_num_threads()


def _state(subject: Subject, folder: Path) -> Exported:
    """Write down that the folder is verified."""
    made = Exported(folder, subject.key, subject.checks, subject.remarks)
    content: dict[str, Any] = {**asdict(made), "nasfw": nasfw.__version__, "seed": subject.seed}
    content["files"] = {f.name: _digest(f) for f in sorted(folder.iterdir())}
    del content["folder"]
    write(folder / STATEMENT, json.dumps(content, indent=1))
    return made


def _place(made: Exported, place: Path) -> Exported:
    """Let a verified folder take its place, and what was there go with the scratch folder."""
    if place.exists():
        place.rename(made.folder.with_name(made.folder.name + ".former"))
    made.folder.rename(place)
    return replace(made, folder=place)
