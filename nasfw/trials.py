"""One trial: build, train and measure a network, and make its record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from nasfw import training
from nasfw.contracts import (
    Candidate,
    Diverged,
    Measured,
    Objective,
    Phase,
    Record,
    SearchSpace,
    Split,
    Task,
    Trial,
    Unsupported,
)

_SPLITS: Mapping[Phase, tuple[Split, Split]] = {"search": ("train", "valid"), "final": ("full", "test")}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generators start from ``seed`` inside, and go on undisturbed outside."""
    cards = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(cards):
        if cards:
            torch.manual_seed(seed)
        else:
            # Without a card, manual_seed notes the whole call stack for one that may come: milliseconds.
            torch.default_generator.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Setting:
    """Everything but the trial that decides what a record will say."""

    space: SearchSpace
    label: str
    task: Task
    objectives: Sequence[Objective]
    phase: Phase
    folder: Path
    compute: str

    def checkpoint(self, key: str) -> Path:
        """Where a training of this trial keeps its state while it lasts."""
        return self.folder / "checkpoints" / f"{self.phase}-{key}.pt"


def evaluate_trial(setting: Setting, trial: Trial, known: Mapping[str, float], label: str) -> Record:
    """Build, train and measure one trial; ``known`` values are not measured again.

    Running out of memory, a loss that is not finite and a device that can no longer measure make a failed
    record; anything else is a bug and is raised. Nothing is built if no objective needs it.
    """
    start = time.perf_counter()
    learn, judge = _SPLITS[setting.phase]
    candidate = Candidate(
        *(setting.space, setting.task, trial.architecture, judge, trial.weights, setting.compute),
        recipe=trial.recipe,
    )
    values, error = dict(known), None
    try:
        with seeded(trial.recipe.seed):
            if any(o.trained for o in setting.objectives):
                model = candidate.model
                # First, so that a device that is gone is noticed before a training; with random numbers of
                # its own, so that a training is the same whether anything was measured before it or not.
                with seeded(trial.recipe.seed):
                    values |= _measured(candidate, [o for o in setting.objectives if o.fixed], values)
                checkpoint = setting.checkpoint(trial.key)
                training.fit(model, setting.task, trial.recipe, learn, setting.compute, checkpoint, label)
                model.eval()
            values |= _measured(candidate, setting.objectives, values)
    except (Diverged, MemoryError, torch.OutOfMemoryError) as reason:
        error = str(reason) or "out of memory"
    except Unsupported as reason:
        error = f"Unsupported: {reason}"
    except RuntimeError as reason:
        # torch has no exception of its own for a CPU allocation that fails.
        if "allocate memory" not in str(reason):
            raise
        error = f"out of memory: {reason}"
    if setting.phase == "final" and error is None and any(o.trained for o in setting.objectives):
        keep(candidate.model, network_file(setting.folder, trial.key))
    return Record(
        key=trial.key,
        phase=setting.phase,
        space=setting.label,
        choices=dict(zip(setting.space.decisions, trial.architecture, strict=True)),
        recipe=trial.recipe,
        inherited=trial.weights is not None,
        values={} if error else {o.name: float(values[o.name]) for o in setting.objectives},
        seconds=time.perf_counter() - start,
        error=error,
        measured={} if error else {n: v.details for n, v in values.items() if isinstance(v, Measured)},
        text=setting.space.own_text(trial.architecture),
    )


def _measured(
    candidate: Candidate, objectives: Sequence[Objective], known: Mapping[str, float]
) -> dict[str, float]:
    """What ``objectives`` give that is not ``known`` yet; Diverged where it is not finite."""
    found: dict[str, float] = {}
    for objective in objectives:
        if objective.name not in known:
            value = objective.measure(candidate)
            if not math.isfinite(value):
                raise Diverged(f"objective {objective.name} gave {value}")
            found[objective.name] = value
    return found


def network_file(folder: Path, key: str) -> Path:
    """Where the trained weights of a final record are, below the folder of its space."""
    return folder / "networks" / f"{key}.safetensors"


def keep(model: torch.nn.Module, path: Path) -> None:
    """Write the state of ``model`` to ``path``, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    # Two names may share one tensor, which the format does not know.
    save_file({name: value.detach().cpu().clone() for name, value in model.state_dict().items()}, scratch)
    scratch.replace(path)
