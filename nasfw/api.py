"""The Python API: run a search, read a folder, load a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from nasfw import config, engine, experiment, plugins, results
from nasfw.contracts import SearchSpace, Task, UsageError
from nasfw.results import Network, Result
from nasfw.text import loads


def run(registry: plugins.Registry | None = None, **settings: Any) -> Result:
    """Run a search with the settings of the command line as keyword arguments, and return what it found.

    Plugins are named, ``strategy="dash"``, named with parameters, ``strategy={"dash": {"epochs": 20}}``, or
    given as objects, ``task=ArraysTask(x, y)``. UsageError says what is wrong before any long work starts.
    """
    registry = registry or plugins.load()
    return experiment.prepare(config.resolve(settings, registry), registry).run()


def show(folder: str | Path) -> Result:
    """What the run in ``folder`` found, recomputed from its records."""
    return results.read(Path(folder))


def load(
    folder: str | Path, network: Network | None = None, seed: int | None = None, task: Task | None = None
) -> nn.Module:
    """A trained network of the run in ``folder``, in evaluation mode: its pick, unless another is given.

    ``seed`` chooses among the network's trainings (the first by default). ``task`` is needed if the run's
    task was made in Python, since a folder cannot rebuild it.
    """
    folder = Path(folder)
    outcome = results.read(folder)
    network = network or outcome.pick
    if network is None or outcome.phase != "final":
        raise UsageError(
            f"{folder} holds no trained network: its final phase did not take place or is not done"
        )
    seed = network.seeds[0] if seed is None else seed
    if seed not in network.seeds:
        raise UsageError(f"network {network.name} was trained with the seeds {network.seeds}, not {seed}")
    key = network.keys[network.seeds.index(seed)]
    space = _space(folder, network.space, task)
    model = space.enlarged().build(network.architecture)
    parts = (folder, folder / results.RANDOM)
    found = [f for f in (engine.network_file(p / network.space, key) for p in parts) if f.exists()]
    if not found:
        raise UsageError(f"the weights of network {network.name} are not in {folder}")
    model.load_state_dict(load_file(found[0]))
    return model.eval()


def _space(folder: Path, label: str, task: Task | None) -> SearchSpace:
    registry = plugins.load()
    content = dict(loads((folder / results.SETTINGS).read_text(), str(folder / results.SETTINGS)))
    # The other settings do not shape the networks, and may hold objects that a folder cannot rebuild.
    content = {name: content[name] for name in ("task", "spaces", "effort")}
    if task is not None:
        content["task"] = task
    try:
        settings = config.resolve(content, registry, experiments={})
    except UsageError as reason:
        raise UsageError(
            f"the networks of {folder} cannot be made again: {reason}; a task made in Python is given as "
            "task=..., a space made in Python builds its networks itself"
        ) from None
    if task is None:
        task = registry.make("task", settings.task)
    return experiment.make_spaces(settings, registry, task)[label]
