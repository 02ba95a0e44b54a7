"""Latency, energy and memory of networks through ONNX Runtime; what was measured before is not again."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from nasfw import caches
from nasfw.contracts import Candidate, SearchSpace, Task
from nasfw.hardware import canary, energy, footprint, graphs, machine, nvml, protocol
from nasfw.hardware.session import TOLERANCE, Runtime, Session, difference, onnxruntime, open_session, to_onnx
from nasfw.values import Measured, Unsupported, UsageError

log = logging.getLogger("nasfw")

# Kept measurements are void if the way of measuring changes.
REVISION = 2
# Networks that are open at once: so many, and so many bytes of them. The last few are kept open.
_AT_ONCE, _BYTES, _KEPT = 128, 2**28, 4
# Below this drift the reference cannot be what it should be.
_FASTER = 0.9
# How often networks are taken whose scale counts: the two of a family, on which that of a whole search rests,
# and files, since whoever asks for a measurement can wait for a good one. Fewer rounds are for comparing.
THOROUGH = 200
# Where the number of rounds is given, they may take so many seconds per network.
_SECONDS = 1.0
# Another process that measures is waited for so long; measuring beside it is better than not at all.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Subject:
    """A network to be measured: its graph, its size in bytes, and what opens it.

    ``family`` gives two networks of its search space: better canaries than others, as they are of its kind.
    """

    key: str
    size: int
    open: Callable[[], Session]
    family: Callable[[], Pair] | None = None


def of_candidate(candidate: Candidate, runtime: Runtime) -> Subject:
    """The candidate's network; opening it also checks its outputs against torch's."""
    subject = _subject(candidate, runtime)
    return replace(subject, family=lambda: _family(candidate.space, candidate.task, runtime))


def _subject(candidate: Candidate, runtime: Runtime) -> Subject:
    shape = candidate.task.input_shape
    proto = to_onnx(candidate.model, shape, None if runtime.dynamic else runtime.batch)
    model = proto.SerializeToString()
    return Subject(graphs.content_key(proto), len(model), lambda: _opened(model, candidate, runtime))


Pair = tuple[Subject, Subject]
_last: list[tuple[SearchSpace, Task, Runtime, Pair]] = []


def _family(space: SearchSpace, task: Task, runtime: Runtime) -> Pair:
    """The plain backbone of ``space`` and an arbitrary other network, built once for a search."""
    if not (_last and _last[0][0] is space and _last[0][1] is task and _last[0][2] == runtime):
        with torch.random.fork_rng(devices=[]):
            chosen = space.default, space.sample(np.random.default_rng(0))
            plain, other = (_subject(Candidate(space, task, a), runtime) for a in chosen)
        _last[:] = [(space, task, runtime, (plain, other))]
    return _last[0][3]


def of_file(model: bytes, runtime: Runtime) -> Subject:
    """The network in a serialised ONNX model."""
    key = graphs.content_key(graphs.parse(model))
    return Subject(key, len(model), lambda: open_session(model, runtime))


def _opened(model: bytes, candidate: Candidate, runtime: Runtime) -> Session:
    samples = None
    if runtime.precision == "int8":
        samples = next(iter(candidate.task.batches("train")))[0].numpy()
    session = open_session(model, runtime, samples)
    x = torch.from_numpy(next(iter(session.inputs.values()))).float()
    apart = difference(session, candidate.model, x)
    if runtime.precision != "fp32":
        session.remark = (
            f"in {runtime.precision}, whose outputs differ from torch's by {apart:.1e} of the largest; "
            "quality and exported files are those of fp32"
        )
    elif not apart <= TOLERANCE:
        raise Unsupported(
            f"ONNX Runtime's outputs of this network differ from torch's by {apart:.1e} of the largest, more "
            f"than {TOLERANCE:.0e}; it would measure another network"
        )
    return session


def fingerprint(runtime: Runtime) -> dict[str, Any]:
    """What a measurement depends on besides the network: hardware, versions and settings."""
    module = onnxruntime(runtime.provider)
    settings = asdict(runtime)
    if runtime.on_card:
        card = torch.cuda.get_device_properties(runtime.index)
        hardware: dict[str, Any] = {"device": card.name, "card": str(card.uuid), "cuda": torch.version.cuda}
        hardware["driver"] = nvml.driver()
    else:
        hardware = {"device": machine.processor(), "cores": machine.cores(), "variant": machine.variant()}
        del settings["index"]
    return {
        **hardware,
        "system": machine.system(),
        "runtime": f"onnxruntime {module.__version__}",
        **settings,
    }


def measure(
    metric: str,
    subjects: Sequence[Subject],
    runtime: Runtime,
    rounds: int | None = None,
    reuse: bool = True,
) -> list[float]:
    """``metric`` of each network in SI units; latencies are taken in turns.

    ``rounds`` limits how often each is taken. What was measured before, with the same settings on the same
    device, is taken from the cache unless ``reuse`` is False. Unsupported if it cannot be measured, with the
    reason.
    """
    # Networks of the same graph are one.
    distinct = {s.key: (s, _key(metric, s, runtime, rounds)) for s in subjects}
    found = {name: _recall(key) if reuse else None for name, (_, key) in distinct.items()}
    missing = [distinct[name] for name, value in found.items() if value is None]
    canaries = _known_family([s for s, _ in missing], runtime) if metric == "latency" else None
    # These may be on a scale of their own, which others must not be compared on.
    coarse = canaries is None and _is_rough(rounds)
    for part in _portions(missing):
        with _alone(), _failing():
            # Another process may have measured them while this one waited.
            found |= {s.key: _recall(key) if reuse else None for s, key in part}
            part = [(s, key) for s, key in part if found[s.key] is None]
            fresh = [s for s, _ in part]
            if metric == "latency":
                values = _latency(fresh, runtime, rounds, canaries) if fresh else []
            else:
                values = [_SINGLY[metric](_session(s, runtime)) for s in fresh]
        for (subject, key), measured in zip(part, values, strict=True):
            found[subject.key] = measured
            if "unsure" not in measured.remark and not (coarse and _too_fast(measured)):
                caches.remember("measurements", key, {"value": float(measured), **measured.details})
    return [value for s in subjects if (value := found[s.key]) is not None]


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Say of a device that is gone, or a disk that is full, that the measurement cannot be had."""
    try:
        yield
    except (UsageError, MemoryError, torch.OutOfMemoryError):
        raise
    except OSError as problem:
        raise Unsupported(f"the network could not be measured: {problem.strerror or problem}") from problem
    except Exception as problem:
        # The runtime's exceptions share no base class, and those of a card are plain RuntimeErrors.
        own = type(problem).__module__.startswith("onnxruntime") or "CUDA" in str(problem)
        if not own:
            raise
        text = " ".join(str(problem).split())[:300]
        raise Unsupported(f"the network could not be measured: {text}") from problem


Keyed = tuple[Subject, dict[str, Any]]


def _portions(missing: Sequence[Keyed]) -> Iterator[list[Keyed]]:
    """``missing`` in portions whose sessions fit into memory together."""
    portion: list[Keyed] = []
    for subject, key in missing:
        if portion and (len(portion) == _AT_ONCE or sum(s.size for s, _ in portion) + subject.size > _BYTES):
            yield portion
            portion = []
        portion.append((subject, key))
    if portion:
        yield portion


def _known_family(subjects: Sequence[Subject], runtime: Runtime) -> dict[Subject, float] | None:
    """The two networks beside which ``subjects`` are best measured, and their known times, the faster first.

    Their own times are measured beside the canaries that serve all networks, when they are needed first.
    """
    if not subjects or subjects[0].family is None:
        return None
    try:
        pair = subjects[0].family()
        times = measure("latency", pair, runtime, THOROUGH)
    except Unsupported as reason:
        log.info("measuring beside networks of another kind: %s", reason)
        return None
    if any("unsure" in getattr(time, "remark", "") for time in times):
        return None
    return dict(sorted(zip(pair, times, strict=True), key=lambda known: known[1]))


def _key(metric: str, subject: Subject, runtime: Runtime, rounds: int | None) -> dict[str, Any]:
    taken = rounds if metric == "latency" else None
    what = {"revision": REVISION, "metric": metric, "graph": subject.key, "rounds": taken}
    return what | fingerprint(runtime)


def _recall(key: Mapping[str, Any]) -> Measured | None:
    return caches.recall("measurements", key, _read)


def _read(content: Any) -> Measured:
    details = dict(content)
    value = float(details.pop("value"))
    measured = Measured(value, **details)
    known = [value, float(measured.low), float(measured.high), measured.repetitions]
    texts = [measured.clock, measured.remark]
    if not (all(0 < n < float("inf") for n in known) and all(isinstance(t, str) for t in texts)):
        raise ValueError(f"{content} is no measurement")
    return measured


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process of this user measures at a time, as far as a lock can be had."""
    with contextlib.ExitStack() as stack:
        try:
            caches.folder().mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(caches.folder() / "measuring.lock", timeout=_PATIENCE))
        except (Timeout, OSError, RuntimeError) as problem:
            log.info("measuring without a lock: %s", problem)
        yield


_sessions: OrderedDict[tuple[str, Runtime], Session] = OrderedDict()


def _session(subject: Subject, runtime: Runtime) -> Session:
    """The network's session: latency, energy and memory of one candidate share it."""
    key = (subject.key, runtime)
    if key not in _sessions:
        made = subject.open()
        while len(_sessions) >= _KEPT:
            _sessions.popitem(last=False)
        _sessions[key] = made
    return _sessions[key]


def clock(runtime: Runtime) -> protocol.Clock:
    """What times the runtime: CUDA events, the thread's clock, or the wall clock for several threads."""
    if runtime.on_card:
        return protocol.EventClock(runtime.index)
    return protocol.ThreadClock() if runtime.threads == 1 else protocol.WallClock()


def _latency(
    subjects: Sequence[Subject], runtime: Runtime, rounds: int | None, family: Mapping[Subject, float] | None
) -> list[Measured]:
    plan = protocol.Plan() if rounds is None else protocol.Plan(most=rounds, seconds=_SECONDS)
    timer = clock(runtime)
    if family is not None and len(family) == 2:
        small, large = (_session(s, runtime).bound() for s in family)
        fast, slow = family.values()
    else:
        small, large = canary.pair(runtime)
        fast, slow = canary.reference(runtime, timer, fingerprint(runtime))
    sessions = [_session(s, runtime) for s in subjects]
    runs = [s.bound() for s in sessions]
    values = protocol.measure(runs, (small, large), (fast, slow), timer, plan)
    if family is None and not _is_rough(rounds) and any(map(_too_fast, values)):
        # A device cannot be faster than undisturbed: it was disturbed when that was measured.
        log.info("the reference networks' times were taken on a busy device and are measured again")
        reference = canary.reference(runtime, timer, fingerprint(runtime), anew=True)
        values = protocol.measure(runs, (small, large), reference, timer, plan)
    return [_remarked(v, s.remark) for v, s in zip(values, sessions, strict=True)]


def _is_rough(rounds: int | None) -> bool:
    """Whether networks are to be compared with each other only, whatever the scale."""
    return rounds is not None and rounds < THOROUGH


def _too_fast(value: Measured) -> bool:
    return (value.drift or 1.0) < _FASTER


def _remarked(value: Measured, remark: str) -> Measured:
    remarks = "; ".join(r for r in (value.remark, remark) if r)
    return Measured(value, **{**value.details, "remark": remarks})


def meter(runtime: Runtime) -> energy.Meter:
    """What counts the joules of the runtime's device; Unsupported with the reason and the remedy."""
    if not runtime.on_card:
        return energy.cpu_meter()
    return energy.gpu_meter(f"GPU-{torch.cuda.get_device_properties(runtime.index).uuid}")


def _energy(session: Session) -> Measured:
    runtime = session.runtime
    wait = (lambda: torch.cuda.synchronize(runtime.index)) if runtime.on_card else None
    used = energy.per_inference(session.bound(), meter(runtime), synchronise=wait)
    idle = f"{used.idle:.3g} W of idle power subtracted"
    return Measured(
        used.joules,
        low=used.low,
        high=used.high,
        repetitions=used.repetitions,
        clock=f"{used.meter}, {used.source}",
        remark="; ".join(r for r in (idle, session.remark) if r),
        conditions=machine.conditions(),
    )


_SINGLY: Mapping[str, Callable[[Session], Measured]] = {"energy": _energy, "memory": footprint.peak}
