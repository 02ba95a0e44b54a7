"""Devices by themselves: what can be measured here, ONNX files measured, and whether two devices agree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import kendalltau, spearmanr

from nasfw import config, experiment, progress
from nasfw.contracts import Candidate, Device
from nasfw.hardware import canary, graphs, measuring
from nasfw.hardware.session import Runtime
from nasfw.parameters import plain, suggestion, validated
from nasfw.plugins import Registry
from nasfw.settings import Settings
from nasfw.values import Architecture, Measured, Unsupported, UsageError

# Cards of a machine that are looked for at most.
_CARDS = 64
_RESAMPLES = 1000


@dataclass(frozen=True)
class Described:
    """A device as it is here and now. ``spec`` names it, as in hardware=...

    ``metrics`` has None for what can be measured, else the reason why not; ``problem`` says why there is no
    such device; ``canary`` are the times of the small and the large reference network, if they are known.
    """

    spec: Any
    name: str = ""
    metrics: Mapping[str, str | None] = field(default_factory=dict)
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    canary: tuple[float, float] | None = None
    problem: str | None = None


def here(registry: Registry) -> list[Described]:
    """The devices that need no parameters; of those with an ``index``, all that there are."""
    found: list[Described] = []
    for entry in registry.entries("device"):
        try:
            parameters = registry.parameters(entry)
        except UsageError as problem:
            found.append(Described(entry.name, problem=str(problem)))
            continue
        if not any(p.required for p in parameters):
            found += _each(entry.name, any(p.name == "index" for p in parameters), registry)
    return found


def _each(name: str, indexed: bool, registry: Registry) -> Iterator[Described]:
    former = _described(name, registry)
    yield former
    for index in range(1, _CARDS if indexed and former.problem is None else 0):
        found = _described({name: {"index": index}}, registry)
        # A device that knows no end is the same for every index.
        if found.problem is not None or found.fingerprint == former.fingerprint:
            return
        yield found
        former = found


def _described(spec: Any, registry: Registry) -> Described:
    try:
        device: Device = registry.make("device", spec)
        name, fingerprint = device.name, device.fingerprint
    except UsageError as problem:
        return Described(spec, problem=str(problem))
    metrics = {metric: _obstacle(device, metric) for metric in device.metrics}
    return Described(spec, name, metrics, fingerprint, _reference_times(device))


def _obstacle(device: Device, metric: str) -> str | None:
    try:
        device.check(metric)
    except UsageError as reason:
        return str(reason)
    return None


def _reference_times(device: Device) -> tuple[float, float] | None:
    runtime = getattr(device, "runtime", None)
    if not isinstance(runtime, Runtime):
        return None
    return canary.known(measuring.clock(runtime), device.fingerprint)


def waiting(registry: Registry) -> dict[str, list[str]]:
    """The other devices by name, and the parameters without which there is none."""
    found = {}
    for entry in registry.entries("device"):
        with suppress(UsageError):
            found[entry.name] = [p.name for p in registry.parameters(entry) if p.required]
    return {name: required for name, required in found.items() if required}


def written(spec: Any) -> str:
    """A device, a space or a task as one types it: host, {host: {threads: 2}}."""
    content = plain(spec)
    if isinstance(content, str):
        return content
    return yaml.safe_dump(content, default_flow_style=True, width=math.inf, sort_keys=False).strip()


def chosen(given: Mapping[str, Any], registry: Registry) -> list[tuple[str, Device]]:
    """The devices of the settings ``given``, which are named as in ``nasfw run``, and how each is written."""
    specs = config.resolve(given, registry, experiments={}).hardware
    if not specs:
        raise UsageError("hardware is empty; name a device as in hardware=host")
    return [(written(spec), registry.make("device", spec)) for spec in specs]


@dataclass(frozen=True)
class Measurement:
    """One metric of one file on one device."""

    file: str
    spec: str
    device: str
    metric: str
    value: Measured


@dataclass(frozen=True)
class Measurements:
    """What was measured; what devices cannot measure, and why; and of which files they could not, and why."""

    done: list[Measurement]
    left_out: list[str]
    failed: list[str]


def measure(
    files: Sequence[Path], devices: Sequence[tuple[str, Device]], metrics: Sequence[str] | None = None
) -> Measurements:
    """The metrics of ONNX files on every device, the files in turns; by default all that can be measured.

    A metric that is named must be supported by all of the devices. Those of this machine measure anew.
    """
    devices = [(spec, _anew(device)) for spec, device in devices]
    models = [graphs.model_file(file) for file in files]
    asked = [(spec, device, m) for spec, device in devices for m in dict.fromkeys(metrics or device.metrics)]
    obstacles = [_obstacle(device, metric) for _, device, metric in asked]
    refused = [f"{m} on {spec}: {why}" for (spec, _, m), why in zip(asked, obstacles, strict=True) if why]
    if refused and (metrics or len(refused) == len(asked)):
        raise Unsupported(refused[0])
    todo = [job for job, why in zip(asked, obstacles, strict=True) if why is None]
    done, failed = [], []
    with progress.track("measure", len(todo)) as bar:
        for spec, device, metric in todo:
            for file, value in zip(files, _one_by_one(device, metric, models), strict=True):
                if isinstance(value, UsageError):
                    failed.append(f"{metric} of {file} on {spec}: {value}")
                else:
                    done.append(Measurement(str(file), spec, device.name, metric, _measured(value)))
            bar.advance()
    if failed and not done:
        raise Unsupported(failed[0])
    return Measurements(done, refused, failed)


def _one_by_one(device: Device, metric: str, models: Sequence[bytes]) -> list[float | UsageError]:
    """``metric`` of each model, in turns; where one cannot be measured, one after the other, or why not."""
    try:
        return [*device.measure_onnx(metric, models, measuring.THOROUGH)]
    except UsageError as reason:
        if len(models) == 1:
            return [reason]
    return [value for model in models for value in _one_by_one(device, metric, [model])]


def _anew(device: Device) -> Device:
    """The device without what it remembers, where that is one of its settings."""
    known = any(f.name == "reuse" for f in fields(device))  # type: ignore[arg-type]
    return replace(device, reuse=False) if known else device  # type: ignore[type-var]


def _measured(value: float) -> Measured:
    return value if isinstance(value, Measured) else Measured(value)


def unit(metric: str, registry: Registry) -> str:
    """The unit of the objective that is called like the metric; none if there is no such objective."""
    entries = [e for e in registry.entries("objective") if e.name == metric]
    return str(getattr(entries[0].load(), "unit", "")) if entries else ""


@dataclass(frozen=True)
class Sampling:
    """What two devices are compared on: a metric of some random networks."""

    samples: Annotated[int, Field(ge=4, le=10_000)] = 20
    metric: str = "latency"


@dataclass(frozen=True)
class Agreement:
    """How well two devices agree on some networks.

    ``tau`` is Kendall's, within ``tau_low`` to ``tau_high`` with 95 % confidence by the bootstrap over the
    networks; ``spearman`` the other rank correlation; ``ratio`` the second's median in units of the first's;
    ``half`` the share of the first's better half that is in the second's, 0.5 by chance.
    """

    tau: float
    tau_low: float
    tau_high: float
    spearman: float
    ratio: float
    half: float


@dataclass(frozen=True)
class Comparison:
    """Values of the same networks on two devices, and how well they agree."""

    specs: tuple[str, str]
    names: tuple[str, str]
    metric: str
    task: str
    space: str
    seed: int
    architectures: list[Architecture]
    values: tuple[list[float], list[float]]
    agreement: Agreement


def compare(first: Any, second: Any, given: Mapping[str, Any], registry: Registry) -> Comparison:
    """Measure the same random networks on two devices; ``given`` has task, spaces, seed, samples, metric."""
    names = [f for f in Sampling.__dataclass_fields__ if f in given]
    sampling = Sampling(**validated("", Sampling, {n: given[n] for n in names}))
    settings = {name: value for name, value in given.items() if name not in names}
    known = ("task", "spaces", "seed", *Sampling.__dataclass_fields__)
    for name in settings:
        if config.ALIASES.get(setting := name.partition(".")[0], setting) not in known:
            raise UsageError(f"there is no setting {setting!r} here{suggestion(setting, known)}")
    resolved = config.resolve(settings, registry, experiments={})
    devices = [_only(spec, registry) for spec in (first, second)]
    for spec, device in devices:
        if why := _obstacle(device, sampling.metric):
            raise Unsupported(f"{sampling.metric} on {spec}: {why}")
    candidates = _candidates(resolved, registry, sampling.samples)
    values = []
    # The weights of new networks must not disturb the stream that the caller's random numbers come from.
    with torch.random.fork_rng(devices=[]), progress.track("compare", len(devices)) as bar:
        for _, device in devices:
            values.append([float(v) for v in device.measure_all(sampling.metric, candidates)])
            bar.advance()
    (a, b), (x, y) = devices, values
    return Comparison(
        (a[0], b[0]),
        (a[1].name, b[1].name),
        sampling.metric,
        written(resolved.task),
        written(resolved.spaces[0]),
        resolved.seed,
        [c.architecture for c in candidates],
        (x, y),
        agreement(x, y, resolved.seed),
    )


def _only(spec: Any, registry: Registry) -> tuple[str, Device]:
    found = chosen({"hardware": spec}, registry)
    if len(found) > 1:
        raise UsageError(f"two devices are compared, each by itself, but {written(spec)} are {len(found)}")
    return found[0]


def _candidates(settings: Settings, registry: Registry, samples: int) -> list[Candidate]:
    """Different random networks of the settings' space."""
    task = registry.make("task", settings.task)
    spaces = list(experiment.make_spaces(settings, registry, task).values())
    if len(spaces) > 1:
        raise UsageError(f"devices are compared on one space, not on {len(spaces)}")
    rng = np.random.default_rng(settings.seed)
    drawn = dict.fromkeys(spaces[0].sample(rng) for _ in range(4 * samples))
    if len(drawn) < 4:
        raise UsageError(f"a space of {spaces[0].size} networks is too small to compare devices on")
    return [Candidate(spaces[0], task, architecture) for architecture in list(drawn)[:samples]]


def agreement(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Agreement:
    """How well two devices agree on the networks whose values these are; nan where all are equal."""
    x, y = np.asarray(first), np.asarray(second)
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        # Of values that are all equal, which has no rank correlation.
        warnings.simplefilter("ignore")
        rows = rng.integers(len(x), size=(_RESAMPLES, len(x)))
        taus = np.array([kendalltau(x[row], y[row]).statistic for row in rows])
        low, high = np.nanquantile(taus, (0.025, 0.975))
        tau, rho = float(kendalltau(x, y).statistic), float(spearmanr(x, y).statistic)
    half = len(x) // 2
    shared = set(_least(x, half)) & set(_least(y, half))
    return Agreement(tau, float(low), float(high), rho, median(second) / median(first), len(shared) / half)


def _least(values: NDArray[np.float64], count: int) -> list[int]:
    return [int(i) for i in np.argsort(values, kind="stable")[:count]]
