"""What networks cost as a sum over their layers, each layer and option measured once on the device."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasfw import progress
from nasfw.contracts import Candidate, CostTable, Device, SearchSpace, Task
from nasfw.hardware.graphs import content_key, side_by_side
from nasfw.hardware.session import to_onnx
from nasfw.mixtures import indices
from nasfw.values import Architecture

log = logging.getLogger("nasfw")

# Random networks that the correction is fitted to, and others that it is tested on.
_FITTED, _TESTED = 6, 10
# The errors of layers average out in a sum, those of networks in a fit.
_ROUNDS, _ROUNDS_WHOLE = 10, 16
# Starting an inference takes longer than a small layer does, so as many copies of the layer are timed at once
# as take about so many seconds, but not more than so many.
_SECONDS, _COPIES = 4e-4, 5
# Two numbers are fitted; with fewer networks there is nothing to find out.
_LEAST = 4

T = TypeVar("T")
Array = NDArray[np.float64]
# The modules of each option, decision by decision, and the shapes of their inputs.
Part = tuple[nn.Module, tuple[int, ...]]
Parts = list[list[list[Part]]]


def additive(device: Device, metric: str, space: SearchSpace, task: Task, seed: int) -> CostTable | None:
    """``metric`` of the networks of ``space`` as a sum over decisions; None where that cannot be had.

    Every decision must have modules in the built network. Those of each option are timed one by one, with the
    batch norm and ReLU that usually follow and are fused with them. The sum s over a network's modules
    becomes a + b s, fitted to random networks measured whole; others tell how far it is off. For energy the
    times count as well, for memory the modules' weights instead.
    """
    # Only here, since it takes a second to import.
    from scipy.stats import kendalltau

    start = time.perf_counter()
    # Building networks must not disturb the stream that the caller's random numbers come from.
    with torch.random.fork_rng(devices=[]):
        networks = _distinct(space, np.random.default_rng(seed), _FITTED + _TESTED)
        parts = _parts(space, task) if len(networks) >= 2 * _LEAST else None
        if parts is None:
            return None
        with progress.track(f"profiling layers on {device.name}", 2) as bar:
            if metric == "memory":
                table, entries = _weights(parts)
            else:
                table, entries = _times(device, space, task, parts)
            bar.advance()
            candidates = [Candidate(space, task, a) for a in networks]
            whole = np.array(device.measure_all(metric, candidates, _ROUNDS_WHOLE))
            bar.advance()
    sums = np.array([_sum(space, table, a) for a in networks])
    fitted = min(_FITTED, len(networks) // 2)
    base, slope = _line(sums[:fitted], whole[:fitted])
    predicted, true = base + slope * sums[fitted:], whole[fitted:]
    tau = float(kendalltau(predicted, true).statistic)
    if not (slope > 0 and math.isfinite(tau)):
        log.info("%s on %s does not grow with the sum over layers: no table", metric, device.name)
        return None
    return CostTable(
        costs=tuple(tuple((slope * row).tolist()) for row in table),
        base=base,
        tau=tau,
        error=float(np.mean(np.abs(predicted / true - 1))),
        tested=len(true),
        entries=entries,
        seconds=time.perf_counter() - start,
    )


def _times(device: Device, space: SearchSpace, task: Task, parts: Parts) -> tuple[list[Array], int]:
    """Seconds of every option's modules, and how many different ones were timed."""
    plain = device.measure("latency", Candidate(space, task, space.default))
    count = sum(len(row[j]) for row, j in zip(parts, indices(space.decisions, space.default), strict=True))
    copies = int(np.clip(round(_SECONDS * count / plain), 1, _COPIES))
    batch = None if getattr(device, "dynamic", False) else getattr(device, "batch", 1)
    models = [[[to_onnx(*part, batch) for part in option] for option in row] for row in parts]
    # Layers of one shape have the same options, of which each needs to be measured once.
    keys = [[[content_key(model) for model in option] for option in row] for row in models]
    distinct = dict(zip(_flat(keys), _flat(models), strict=True))
    several = [side_by_side(model, copies).SerializeToString() for model in distinct.values()]
    values = device.measure_onnx("latency", several, _ROUNDS)
    seconds = dict(zip(distinct, np.array(values) / copies, strict=True))
    return [np.array([sum(seconds[k] for k in names) for names in row]) for row in keys], len(distinct)


def _flat(nested: Iterable[Iterable[Iterable[T]]]) -> Iterator[T]:
    return chain.from_iterable(chain.from_iterable(nested))


def _weights(parts: Parts) -> tuple[list[Array], int]:
    """Bytes of every option's weights, of which memory is made, and how many options there are."""
    table = [
        np.array([float(sum(p.nbytes for part, _ in option for p in part.parameters())) for option in row])
        for row in parts
    ]
    return table, sum(len(row) for row in parts)


def _parts(space: SearchSpace, task: Task) -> Parts | None:
    """For every decision and option the modules, with what is usually fused with them, and inputs' shapes.

    None if a decision has no modules at all, or one that does not take part.
    """
    parts: Parts = [[] for _ in space.decisions]
    most = max(len(options) for options in space.decisions.values())
    for j in range(most):
        # One network holds option j of all decisions.
        architecture = tuple(o[min(j, len(o) - 1)] for o in space.decisions.values())
        model = space.build(architecture).eval()
        modules = [_present(model, space.modules(name)) for name in space.decisions]
        shapes = _input_shapes(model, list(chain.from_iterable(modules)), task)
        if shapes is None:
            return None
        for row, options, found in zip(parts, space.decisions.values(), modules, strict=True):
            if j < len(options):
                row.append([(_followed(module, shapes[module]), shapes[module]) for module in found])
    return parts if all(any(row) for row in parts) else None


def _present(model: nn.Module, paths: Sequence[str]) -> list[nn.Module]:
    """The modules with these paths, as far as there are any."""
    known = dict(model.named_modules(remove_duplicate=False))
    return [known[path] for path in paths if path in known]


def _input_shapes(
    model: nn.Module, modules: Sequence[nn.Module], task: Task
) -> Mapping[nn.Module, tuple[int, ...]] | None:
    """Shapes, without batch, of what enters the modules; None if one does not take part."""
    shapes = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[module] = tuple(inputs[0].shape[1:])

    handles = [module.register_forward_pre_hook(note) for module in modules]
    with torch.no_grad():
        model(torch.zeros(1, *task.input_shape))
    for handle in handles:
        handle.remove()
    return shapes if shapes.keys() == set(modules) else None


def _followed(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The module with the batch norm and ReLU behind it, unless it has its own or passes its input on."""
    own = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    if own or isinstance(module, nn.Identity):
        return module
    with torch.no_grad():
        output = module(torch.zeros(1, *shape))
    norms: dict[int, type[nn.Module]] = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    if output.ndim not in norms:
        return module
    return nn.Sequential(module, norms[output.ndim](output.shape[1]), nn.ReLU()).eval()


def _distinct(space: SearchSpace, rng: np.random.Generator, count: int) -> list[Architecture]:
    """Up to ``count`` different random architectures."""
    drawn = (space.sample(rng) for _ in range(4 * count))
    return list(dict.fromkeys(drawn))[:count]


def _sum(space: SearchSpace, table: Sequence[Array], architecture: Architecture) -> float:
    chosen = indices(space.decisions, architecture)
    return float(sum(row[j] for row, j in zip(table, chosen, strict=True)))


def _line(x: Array, y: Array) -> tuple[float, float]:
    """a and b of a + b x with the least squared relative errors against ``y``."""
    rows = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    (base, slope), *_ = np.linalg.lstsq(rows, np.ones_like(y))
    return float(base), float(slope)
