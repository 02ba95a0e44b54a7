"""The Python API: run a search, read a folder, load a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from nasfw import config, experiment, plugins, results
from nasfw.contracts import Task, UsageError
from nasfw.networks import Network
from nasfw.results import Result
from nasfw.shipping.export import reopen, trained


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
    _, spaces = reopen(outcome, task)
    return trained(outcome, network, spaces[network.space], network.seeds.index(seed))
