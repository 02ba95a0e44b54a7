"""Training one network: optimiser, schedule, and an epoch loop that resumes."""

from __future__ import annotations

import logging
import math
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nasfw import progress
from nasfw.contracts import Diverged, Recipe, Split, Task

log = logging.getLogger("nasfw")

_CHECKPOINTS = 20
_WARM_UP = 0.2


class Stateful(Protocol):
    """What a checkpoint can hold."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


def optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser: SGD with Nesterov momentum, or AdamW."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )


def factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate at ``step`` (from 0), as a multiple of ``recipe.lr``."""
    total = max(1, recipe.epochs * steps_per_epoch)
    if recipe.schedule == "step":
        # Strictly after the milestone, as in the DASH paper's schedules.
        epoch = step // max(1, steps_per_epoch)
        return recipe.decay ** sum(epoch > milestone for milestone in recipe.milestones)
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    if recipe.schedule == "onecycle":
        rise = _WARM_UP * total
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / (total - rise))))
    return 1.0


def schedule(
    optimiser: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's learning rate schedule, to be stepped after every optimiser step."""
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: factor(recipe, step, steps_per_epoch))


def steps_per_epoch(task: Task, split: Split, recipe: Recipe) -> int:
    """Batches that one epoch uses: all, or floor(fraction x all) + 1 as in the DASH paper."""
    whole = max(1, math.ceil(task.size(split) / recipe.batch_size))
    return whole if recipe.fraction >= 1 else min(whole, math.floor(recipe.fraction * whole) + 1)


def epochs(
    count: int,
    parts: Mapping[str, Stateful],
    generator: torch.Generator,
    checkpoint: Path | None = None,
    label: str = "training",
) -> Iterator[tuple[int, progress.Bar]]:
    """Yield (epoch, bar) for the epochs still to do, saving ``parts`` and all random streams after them.

    A checkpoint that cannot be read is said so and training starts over. At most 20 checkpoints are written
    over the whole training, each atomically.
    """
    start = 0 if checkpoint is None else _restore(checkpoint, parts, generator)
    every = max(1, math.ceil(count / _CHECKPOINTS))
    with progress.track(label, count, start) as bar:
        for epoch in range(start, count):
            yield epoch, bar
            if checkpoint is not None and ((epoch + 1) % every == 0 or epoch + 1 == count):
                _save(checkpoint, epoch + 1, parts, generator)


def _save(path: Path, done: int, parts: Mapping[str, Stateful], generator: torch.Generator) -> None:
    cards: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    state = {
        "epochs": done,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "generator": generator.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cards else [],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may train the same network.
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(state, scratch)
    scratch.replace(path)


def _restore(path: Path, parts: Mapping[str, Stateful], generator: torch.Generator) -> int:
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as reason:
        log.warning("%s cannot be read (%s); this training starts over", path, reason)
        return 0
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    generator.set_state(state["generator"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    return int(state["epochs"])


def batches(
    task: Task, split: Split, recipe: Recipe, generator: torch.Generator, compute: str
) -> Iterator[tuple[Tensor, Any]]:
    """One epoch of shuffled training batches on ``compute``."""
    shuffled = task.batches(split, recipe.batch_size, generator)
    for x, y in islice(shuffled, steps_per_epoch(task, split, recipe)):
        yield x.to(compute), y.to(compute) if isinstance(y, Tensor) else y


def finite_mean(total: Tensor, steps: int, epoch: int) -> float:
    """Mean loss of an epoch; Diverged if it is not finite.

    Looked at once per epoch, since reading a number stalls a GPU.
    """
    mean = float(total) / max(1, steps)
    if not math.isfinite(mean):
        raise Diverged(f"the training loss was {mean} in epoch {epoch + 1}")
    return mean


def fit(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    split: Split = "train",
    compute: str = "cpu",
    checkpoint: Path | None = None,
    label: str = "training",
) -> None:
    """Train ``model`` in place; Diverged if the loss stops being finite.

    Dropout layers take the recipe's rate if it has one. Draws from torch's global generator, which the
    caller seeds.
    """
    if recipe.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
                module.p = recipe.dropout
    model.to(compute)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters or recipe.epochs == 0:
        return
    optimiser = optimizer(parameters, recipe)
    rates = schedule(optimiser, recipe, steps_per_epoch(task, split, recipe))
    generator = torch.Generator().manual_seed(recipe.seed)
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimiser, "schedule": rates}
    for epoch, bar in epochs(recipe.epochs, parts, generator, checkpoint, label):
        model.train()
        total, steps = torch.zeros((), device=compute), 0
        for x, y in batches(task, split, recipe, generator, compute):
            loss = task.loss(model(x), y)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimiser.step()
            rates.step()
            total += loss.detach()
            steps += 1
        bar.advance(loss=finite_mean(total, steps, epoch))
