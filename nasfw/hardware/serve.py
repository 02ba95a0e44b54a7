"""Measuring for another machine: requests come as lines of JSON on the input, answers go to the output."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import IO, TYPE_CHECKING, Any

from nasfw.values import Measured, Unsupported, UsageError

if TYPE_CHECKING:
    from nasfw.contracts import Device

log = logging.getLogger("nasfw")

# Both sides must speak the same one.
PROTOCOL = 1

Make = Callable[[Any], "Device"]
Answer = dict[str, Any]


def hello() -> Answer:
    """What a server says first: its version of nasfw and of the protocol."""
    try:
        version = metadata.version("nasfw")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return {"nasfw": version, "protocol": PROTOCOL}


def serve(make: Make, requests: Iterable[bytes], answers: IO[bytes]) -> None:
    """Say hello, then answer every line of ``requests`` until they end.

    ``make`` makes the device that a request describes, or raises UsageError.
    """
    _send(answers, json.dumps(hello()))
    for line in requests:
        if line.strip():
            _send(answers, respond(line, make))


def _send(answers: IO[bytes], text: str) -> None:
    answers.write(text.encode() + b"\n")
    answers.flush()


def respond(line: bytes, make: Make) -> str:
    """The answer to one request, in one line; what goes wrong is an answer, too."""
    number = None
    try:
        request = _read(line)
        number = request.get("id")
        name = request.get("op")
        operation = _OPERATIONS.get(name) if isinstance(name, str) else None
        if operation is None:
            raise UsageError(f"op is {name!r}; possible: {', '.join(_OPERATIONS)}")
        answer = operation(make(request.get("device")), request)
        return json.dumps({"id": number, **answer}, allow_nan=False)
    except Unsupported as reason:
        answer = {"unsupported": str(reason)}
    except UsageError as reason:
        answer = {"usage": str(reason)}
    # Whatever it is, the next request may succeed.
    except Exception as problem:
        log.exception("a request failed: %s", problem)
        answer = {"failed": f"{type(problem).__name__}: {problem}"}
    return json.dumps({"id": number, **answer})


def _read(line: bytes) -> Mapping[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as reason:
        raise UsageError(f"a request is a line of JSON: {reason}") from None
    if not isinstance(request, dict):
        raise UsageError("a request is a JSON object")
    return request


def _describe(device: Device, _: Mapping[str, Any]) -> Answer:
    return {
        "name": device.name,
        "fingerprint": dict(device.fingerprint),
        "metrics": list(device.metrics),
        # Whoever converts networks for this device must know their shape.
        "batch": getattr(device, "batch", 1),
        "dynamic": getattr(device, "dynamic", False),
    }


def _check(device: Device, request: Mapping[str, Any]) -> Answer:
    device.check(_metric(request))
    return {}


def _measure(device: Device, request: Mapping[str, Any]) -> Answer:
    models, rounds = request.get("models"), request.get("rounds")
    if not isinstance(models, list) or not models:
        raise UsageError("models must be a list of ONNX models in base64")
    if rounds is not None and (type(rounds) is not int or rounds < 1):
        raise UsageError(f"rounds must be a whole number from 1 up, or null, not {rounds!r}")
    values = device.measure_onnx(_metric(request), [_decoded(m) for m in models], rounds)
    return {"values": [_plain(v) for v in values]}


_OPERATIONS: dict[str, Callable[[Device, Mapping[str, Any]], Answer]] = {
    "describe": _describe,
    "check": _check,
    "measure": _measure,
}


def _metric(request: Mapping[str, Any]) -> str:
    metric = request.get("metric")
    if not isinstance(metric, str):
        raise UsageError(f"metric must be a text, not {metric!r}")
    return metric


def _decoded(model: Any) -> bytes:
    try:
        return base64.b64decode(model, validate=True)
    except (TypeError, ValueError, binascii.Error) as reason:
        raise UsageError(f"a model must be given in base64: {reason}") from None


def _plain(value: float) -> Answer:
    details = value.details if isinstance(value, Measured) else {}
    return {"value": float(value), **details}


@contextmanager
def private_streams() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """This process's input and output for the caller alone.

    Inside the block, whoever else prints does so to the error stream, and whoever else reads finds nothing.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as answers:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        try:
            yield requests, answers
        finally:
            sys.stdout.flush()
            os.dup2(requests.fileno(), 0)
            os.dup2(answers.fileno(), 1)
