"""Peak memory of inference: what a fresh process holds at most while it loads and runs a network."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nasfw.hardware import machine
from nasfw.values import Measured, Unsupported

if TYPE_CHECKING:
    from nasfw.hardware.session import Session

_REPETITIONS, _RUNS = 3, 3
_TIMEOUT = 120.0


def peak(session: Session) -> Measured:
    """Bytes that loading and running the session's network takes, besides ONNX Runtime itself.

    Measured in processes of its own: memory of the processor as its system counts it, on a graphics card what
    is missing on the card. Unsupported if the process fails, or the system does not tell.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "model.onnx"
        file.write_bytes(session.model)
        request = {"file": str(file), "runtime": asdict(session.runtime)}
        command = [sys.executable, "-m", "nasfw.hardware.footprint", json.dumps(request)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise Unsupported(f"measuring the memory took more than {_TIMEOUT:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unsupported(f"the process that measures the memory failed: {last}")
    sizes = json.loads(done.stdout)
    if not min(sizes) > 0:
        raise Unsupported("this system does not tell a process's peak memory")
    return Measured(
        median(sizes),
        low=min(sizes),
        high=max(sizes),
        repetitions=len(sizes),
        clock="memory of the whole card" if session.runtime.on_card else "resident memory of a process",
        remark=session.remark,
    )


def _sizes(request: Any) -> list[int]:
    """Peaks in bytes over some repetitions, each in a copy of this process, which has loaded the runtime."""
    import onnxruntime  # noqa: F401

    from nasfw.hardware.session import Runtime

    runtime = Runtime(**request["runtime"])
    if runtime.on_card or "fork" not in multiprocessing.get_all_start_methods():
        return [_grown(request["file"], runtime)]
    context = multiprocessing.get_context("fork")
    with context.Pool(1, maxtasksperchild=1) as pool:
        return [pool.apply(_grown, (request["file"], runtime)) for _ in range(_REPETITIONS)]


def _grown(file: str, runtime: Any) -> int:
    """By how many bytes loading and running the network in ``file`` makes memory grow at most."""
    from nasfw.hardware.session import inference, onnxruntime, random_inputs

    inputs = random_inputs(Path(file).read_bytes(), runtime.batch)
    before = _used(runtime, reset=True)
    session, most = inference(onnxruntime(runtime.provider), file, runtime), 0
    for _ in range(_RUNS):
        session.run(None, inputs)
        most = max(most, _used(runtime))
    return most - before


def _used(runtime: Any, reset: bool = False) -> int:
    """Bytes in use; on a processor the peak of this process, which starts from now with ``reset``."""
    if runtime.on_card:
        import torch

        free, total = torch.cuda.mem_get_info(runtime.index)
        return total - free
    if reset:
        # Linux then forgets the peak so far; where that is not possible, the peak holds more than this.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return machine.held_memory()
    return machine.peak_memory()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_sizes(json.loads(sys.argv[1]))))
