"""Training one network: batches, and an epoch loop that resumes."""

from __future__ import annotations

import copy
import logging
import math
import os
import pickle
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nasfw import auxiliary, progress
from nasfw.contracts import Diverged, Recipe, Split, Task
from nasfw.optimisers import clip, factor, fusable, optimizer, schedule, transforms

# What trains something needs the optimiser as well, and looks for it here.
__all__ = [
    "Stateful",
    "batches",
    "channels_last",
    "clip",
    "epochs",
    "factor",
    "finite_mean",
    "fit",
    "forward_passes",
    "fusable",
    "optimizer",
    "prefers_channels_last",
    "restore",
    "save",
    "schedule",
    "steps_per_epoch",
    "transforms",
]

log = logging.getLogger("nasfw")

_CHECKPOINTS = 20
_LARGE_MAP = 16 * 16


class Stateful(Protocol):
    """What a checkpoint can hold."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


def steps_per_epoch(task: Task, split: Split, recipe: Recipe) -> int:
    """Batches that one epoch uses: all, or floor(fraction x all) + 1 as in the DASH paper."""
    whole = max(1, math.ceil(task.size(split) / recipe.batch_size))
    return whole if recipe.fraction >= 1 else min(whole, math.floor(recipe.fraction * whole) + 1)


def forward_passes(task: Task, samples: float) -> float:
    """What computing so many samples takes, in passes of training: a third of a step is forward."""
    return samples / (3 * max(1, task.size("train")))


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
    start = 0 if checkpoint is None else restore(checkpoint, parts, generator)
    every = max(1, math.ceil(count / _CHECKPOINTS))
    with progress.track(label, count, start) as bar:
        for epoch in range(start, count):
            yield epoch, bar
            if checkpoint is not None and ((epoch + 1) % every == 0 or epoch + 1 == count):
                save(checkpoint, epoch + 1, parts, generator)


def save(path: Path, done: int, parts: Mapping[str, Stateful], generator: torch.Generator) -> None:
    """Write the state of ``parts`` and of all random streams after ``done`` epochs, all of it or nothing."""
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


def restore(path: Path, parts: Mapping[str, Stateful], generator: torch.Generator) -> int:
    """Take what ``save`` wrote, if there is anything; the number of epochs done.

    A file that cannot be read is said to be so, and changes nothing.
    """
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
        yield _moved(x, compute), _moved(y, compute) if isinstance(y, Tensor) else y


def _moved(values: Tensor, compute: str) -> Tensor:
    if not compute.startswith("cuda") or values.device.type != "cpu" or values.layout != torch.strided:
        return values.to(compute)
    # From ordinary memory a copy waits for all work on the card; from pinned memory it queues behind it.
    return values.pin_memory().to(compute, non_blocking=True)


def finite_mean(total: Tensor, steps: int, epoch: int) -> float:
    """Mean loss of an epoch; Diverged if it is not finite.

    Looked at once per epoch, since reading a number stalls a GPU.
    """
    mean = float(total) / max(1, steps)
    if not math.isfinite(mean):
        raise Diverged(f"the training loss was {mean} in epoch {epoch + 1}")
    return mean


def channels_last(x: Tensor) -> Tensor:
    """The maps ``x``, (batch, channels, height, width), in memory with the channels of a pixel side by side.

    Shape and values are the same, and what a network makes of them has that order again.
    """
    _, c, h, w = x.shape
    # One channel is in both orders at once; only such strides make torch go on in this one.
    return x.contiguous(memory_format=torch.channels_last).as_strided(x.shape, (c * h * w, 1, w * c, c))


def prefers_channels_last(model: nn.Module, task: Task, x: Tensor, target: Any) -> bool:
    """Whether the training of ``model`` is faster if its inputs are ``channels_last``, and equal to rounding.

    It is on a processor, for maps of at least 16 x 16 pixels: WRN-16-1 trains 1.15 to 1.2 times as fast on
    them, WRN-16-4 1.0 to 1.1 times, but the latter 0.9 times on 8 x 8 (one thread). A network or loss that
    reshapes by ``view`` cannot take the order; a copy of the network tries.
    """
    if x.ndim != 4 or x.device.type != "cpu" or x.shape[2] * x.shape[3] < _LARGE_MAP:
        return False
    # Torch's own convolutions, without this library, know the ordinary order only.
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            task.loss(copy.deepcopy(model)(channels_last(x)), target)
        except Exception:
            # A fault of the network's own comes up again in its training, and says more there.
            return False
    return True


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
    caller seeds. Networks are not compiled by torch.compile: for steps 1.15 to 1.5 times as fast, it takes
    half a minute for each network, where most trainings take seconds, and needs a C++ compiler.

    A network may ask for three things that only its training needs. A part of it with a method
    ``progress(share)`` is told at the start of every epoch which share of the training is done. A method
    ``auxiliary()`` of the network returns None, or the path of a part, a head that reads the part's output,
    and a weight: the head's loss is added with that weight, and the head is trained along and forgotten. A
    part with a method ``transforms()`` returns those of its own parameters, its parts' included, that shape
    its operation: they are trained as the recipe says of transforms.
    """
    if recipe.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
                module.p = recipe.dropout
    model.to(compute)
    if recipe.epochs == 0 or not any(p.requires_grad for p in model.parameters()):
        return
    with auxiliary.beside(model, compute) as second:
        parameters = [p for m in (model, second) for p in m.parameters() if p.requires_grad]
        optimiser = optimizer(parameters, recipe, transforms(model))
        rates = schedule(optimiser, recipe, steps_per_epoch(task, split, recipe))
        generator = torch.Generator().manual_seed(recipe.seed)
        parts: dict[str, Stateful] = {"model": model, "optimizer": optimiser, "schedule": rates}
        parts |= {"auxiliary": second} if second.head is not None else {}
        arranged: bool | None = None
        for epoch, bar in epochs(recipe.epochs, parts, generator, checkpoint, label):
            model.train()
            auxiliary.tell_progress(model, epoch / recipe.epochs)
            total, steps = torch.zeros((), device=compute), 0
            for x, y in batches(task, split, recipe, generator, compute):
                if arranged is None:
                    arranged = prefers_channels_last(model, task, x, y)
                loss = task.loss(model(channels_last(x) if arranged else x), y)
                whole = loss
                for output, weight in second.outputs():
                    whole = whole + weight * task.loss(output, y)
                optimiser.zero_grad()
                whole.backward()  # type: ignore[no-untyped-call]
                if recipe.clip is not None:
                    clip(parameters, recipe.clip)
                optimiser.step()
                rates.step()
                total += loss.detach()
                steps += 1
            bar.advance(loss=finite_mean(total, steps, epoch))
