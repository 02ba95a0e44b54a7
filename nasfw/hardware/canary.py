"""Two reference networks that every latency is measured beside, and their times on the undisturbed device."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from nasfw import caches
from nasfw.hardware import protocol
from nasfw.hardware.session import Runtime, open_session, to_onnx
from nasfw.values import digest

log = logging.getLogger("nasfw")

# Inputs, outputs, kernel, dilation and stride of each convolution, and the size of the first map. They
# must suffer from what else happens on a machine as the networks beside them do: layers of the same kind.
_SMALL = (
    (16, 16, 3, 1, 1),
    (16, 16, 5, 1, 1),
    (16, 32, 3, 1, 2),
    (32, 32, 5, 1, 1),
    (32, 32, 3, 1, 1),
    (32, 64, 3, 1, 2),
    (64, 64, 3, 1, 1),
)
_LARGE = (
    (16, 16, 5, 1, 1),
    (16, 16, 3, 3, 1),
    (16, 32, 5, 1, 2),
    (32, 32, 7, 1, 1),
    (32, 32, 5, 3, 1),
    (32, 64, 5, 1, 2),
    (64, 64, 7, 1, 1),
    (64, 64, 5, 3, 1),
    (64, 64, 3, 1, 1),
)
_SIZES = (8, 32)
# Stored times are void if the networks or the way of measuring change.
REVISION = 1


def network(layers: Sequence[tuple[int, int, int, int, int]]) -> nn.Module:
    """The convolutions with a ReLU behind each, the mean over positions, and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        parts: list[nn.Module] = []
        for inputs, outputs, kernel, dilation, stride in layers:
            padding = dilation * (kernel - 1) // 2
            parts += [nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation), nn.ReLU()]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


@cache
def pair(runtime: Runtime) -> tuple[Callable[[], object], Callable[[], object]]:
    """One inference of the small and of the large network, in single precision, on the runtime's provider."""
    plain = replace(runtime, batch=1, precision="fp32", dynamic=False)
    small, large = (open_session(model, plain).bound() for model in _models())
    return small, large


@cache
def _models() -> list[bytes]:
    networks = zip((_SMALL, _LARGE), _SIZES, strict=True)
    return [to_onnx(network(layers), (16, n, n)).SerializeToString() for layers, n in networks]


_known: dict[str, tuple[float, float]] = {}


def reference(
    runtime: Runtime, clock: protocol.Clock, fingerprint: Mapping[str, Any], anew: bool = False
) -> tuple[float, float]:
    """Seconds that the two take on the undisturbed device: as known from before, or measured now."""
    found = None if anew else known(clock, fingerprint)
    if found is None:
        log.info("measuring the reference networks' times on %s", fingerprint.get("device"))
        found = protocol.calibrate(pair(runtime), clock)
        key = _key(clock, fingerprint)
        caches.remember("canary", key, found)
        _known[digest(key)] = found
    return found


def known(clock: protocol.Clock, fingerprint: Mapping[str, Any]) -> tuple[float, float] | None:
    """``reference``, if it was measured before."""
    key = _key(clock, fingerprint)
    name = digest(key)
    if name not in _known and (found := caches.recall("canary", key, _seconds)) is not None:
        _known[name] = found
    return _known.get(name)


def _key(clock: protocol.Clock, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("device", "cores", "variant", "card", "driver", "system", "runtime", "provider", "threads")
    return {"revision": REVISION, "clock": clock.name, **{k: fingerprint.get(k) for k in kept}}


def _seconds(content: Any) -> tuple[float, float]:
    small, large = map(float, content)
    if not (0 < small < math.inf and 0 < large < math.inf):
        raise ValueError(f"{content} are no times")
    return small, large
