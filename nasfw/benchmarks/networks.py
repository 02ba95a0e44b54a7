"""Training steps of whole supernets, against those of their backbones: time and peak memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nasfw import progress
from nasfw.benchmarks import memory, subjects
from nasfw.benchmarks.bench import Bench
from nasfw.benchmarks.findings import Footprint, Memory
from nasfw.benchmarks.published import kept_bytes
from nasfw.benchmarks.subjects import Shapes
from nasfw.benchmarks.timing import Spread
from nasfw.spaces.aggconv import AggConv

_KINDS = {"dense": False, "depthwise": True}
_LARGE = "WRN-16-4"


def networks(bench: Bench) -> None:
    """Steps of supernets against those of the backbones, and against the published technique."""
    s = bench.scale
    series = {"channels": s.series_channels}
    with progress.track(f"networks, {bench.conditions}", 4) as bar:
        _against_backbone(bench, "WRN-16-1", s.maps, "wrn", {}, {"dense": 5.0, "depthwise": 2.8})
        bar.advance()
        _against_backbone(bench, "1-D WRN", s.series, "wrn1d", series, {"dense": 2.5, "depthwise": 0.5})
        bar.advance()
        if s.published_maps is not None:
            _against_published(bench, "WRN-16-1", s.published_maps, "wrn", {}, 20.0)
        bar.advance()
        _against_published(bench, "1-D WRN", s.series, "wrn1d", series, 3.0)
        bar.advance()


def _against_backbone(
    bench: Bench, name: str, task: Shapes, backbone: str, settings: dict[str, Any], bounds: dict[str, float]
) -> None:
    passes = {name: subjects.backbone_step(subjects.space(task, backbone, **settings), bench.compute)}
    if backbone == "wrn":
        passes[_LARGE] = subjects.backbone_step(subjects.space(task, backbone, width=4), bench.compute)
    for kind, depthwise in _KINDS.items():
        for low in (False, True):
            space = subjects.space(task, backbone, low, depthwise=depthwise, **settings)
            passes[_named(kind, low)] = subjects.supernet_step(space, compute=bench.compute)
    found = bench.measure("networks", f"{name}, {_shape(task)}", passes, name)
    for kind, bound in bounds.items():
        bench.check(found, _named(kind), name, "at most", bound, f"step of the {kind} supernet, times {name}")
    what = f"step of the dense supernet, times {_LARGE}"
    bench.check(found, _named("dense"), _LARGE, "at most", 0.5, what)


def _against_published(
    bench: Bench, name: str, task: Shapes, backbone: str, settings: dict[str, Any], bound: float
) -> None:
    for kind, depthwise in _KINDS.items():
        space = subjects.space(task, backbone, depthwise=depthwise, **settings)
        passes = {_named(kind): subjects.supernet_step(space, compute=bench.compute)}
        skipped = {}
        if reason := bench.too_large(published_bytes(space)):
            skipped[_published(kind)] = reason
        else:
            passes[_published(kind)] = subjects.supernet_step(space, True, bench.compute)
        case = f"{name} and published, {kind}, {_shape(task)}"
        found = bench.measure("networks", case, passes, _named(kind), skipped)
        what = f"step of the published {kind} supernet of {name}, times ours, batch {task.batch}"
        bench.check(found, _published(kind), _named(kind), "at least", bound, what)


def peaks(bench: Bench) -> None:
    """Peak memory of three steps, each network in a process of its own."""
    s = bench.scale
    series = {"backbone": "wrn1d", "channels": s.series_channels}
    _peaks(bench, "WRN-16-1", s.maps, {"backbone": "wrn"}, s.published_maps is not None)
    _peaks(bench, "1-D WRN", s.series, series, True)


def _peaks(bench: Bench, name: str, task: Shapes, settings: dict[str, Any], with_published: bool) -> None:
    chosen, skipped = _measured(bench, name, task, settings, with_published)
    found: dict[str, Footprint] = {}
    with progress.track(f"memory, {name}, {bench.conditions}", len(chosen)) as bar:
        for way, subject in chosen.items():
            try:
                found[way] = memory.footprint({**asdict(task), **subject}, bench.threads, bench.compute)
            except RuntimeError as error:
                skipped[way] = str(error)
            bar.advance()
    bench.report.memory.append(Memory(f"{name}, {_shape(task)}", name, found, skipped))
    for kind in _KINDS:
        for low, bound in ((False, 4.0), (True, 1.5)):
            _check(bench, found, _named(kind, low), name, bound)
    bench.report.save()


def _measured(
    bench: Bench, name: str, task: Shapes, settings: dict[str, Any], with_published: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What each process builds, and why the others are left out."""
    found: dict[str, dict[str, Any]] = {name: {"kind": "backbone", "settings": settings}}
    skipped = {}
    for kind, depthwise in _KINDS.items():
        chosen = {**settings, "depthwise": depthwise}
        for low in (False, True):
            found[_named(kind, low)] = {"kind": "supernet", "settings": {**chosen, "low": low}}
        if not with_published:
            continue
        if reason := bench.too_large(published_bytes(subjects.space(task, **chosen))):
            skipped[_published(kind)] = reason
        else:
            found[_published(kind)] = {"kind": "published", "settings": chosen}
    return found, skipped


def _check(bench: Bench, found: dict[str, Footprint], way: str, backbone: str, bound: float) -> None:
    if way not in found or backbone not in found:
        return
    ours, plain = found[way], found[backbone]
    for what, ratio in (("in all", ours.peak / plain.peak), ("of the steps", ours.net / max(1, plain.net))):
        label = f"peak memory {what}, {way}, times {backbone}"
        bench.report.check(label, Spread(ratio, ratio, ratio, 1), "at most", bound, bench.threads)


def published_bytes(space: AggConv) -> float:
    """About how many bytes a step of the space's supernet needs with published layers."""
    batch = space.task.recipe.batch_size
    layouts = [layer.layout for layer in space.supernet().layers]
    kept = [kept_bytes(layout, batch, layout.sizes[0]) for layout in layouts]
    # On its way back the largest layer needs gradients beside what is kept.
    return sum(kept) + max(kept)


def _named(kind: str, low: bool = False) -> str:
    return f"{kind} supernet{', low memory' if low else ''}"


def _published(kind: str) -> str:
    return f"published {kind} supernet"


def _shape(task: Shapes) -> str:
    return f"{' x '.join(map(str, task.input_shape))}, batch {task.batch}"
