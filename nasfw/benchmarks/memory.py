"""Peak memory of training steps, each in a fresh process; and how much memory there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nasfw.benchmarks.findings import Footprint
from nasfw.benchmarks.timing import Pass
from nasfw.hardware.machine import held_memory, peak_memory, share_politely

STEPS = 3
WHAT = (
    "most bytes of memory that a fresh process held while it did three training steps, all in all and more "
    "than after imports and building (Linux: VmHWM and VmRSS of /proc/self/status, where large blocks go "
    "back to the system when they are freed; on a graphics card what torch had allocated)"
)


def footprint(subject: dict[str, Any], threads: int, compute: str) -> Footprint:
    """What ``STEPS`` training steps of ``subject`` need; RuntimeError if its process fails.

    ``subject`` has a "kind", the "input_shape", "output_shape" and "batch" of the task, and "settings": those
    of ``subjects.space`` for a "backbone", a "supernet" or a "published" one; those of DARTS's space for its
    search steps of "first" and "second" order. For "xd", one layer, it has a "way" and a "case" instead.
    """
    order = json.dumps({"subject": subject, "threads": threads, "compute": compute})
    if subject["kind"] == "supernet":
        # The first one to meet a shape measures which way is fastest, and keeps that for later ones.
        _run(order)
    return Footprint(**json.loads(_run(order)))


def _run(order: str) -> str:
    command = [sys.executable, "-m", __name__, order]
    # Else glibc keeps large blocks, too, and what is measured depends on how they happen to fit together.
    variables = {"MALLOC_MMAP_THRESHOLD_": str(2**18), **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"a process that measures memory failed: {reason}")
    return done.stdout


def available(compute: str) -> float:
    """Bytes of memory that are free to use; infinite where the system does not say."""
    if compute.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(compute)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        return float("inf")


def main(order: str) -> None:
    """Do the steps that ``order``, JSON, asks for and print their footprint as JSON."""
    share_politely()
    import torch

    asked = json.loads(order)
    compute = asked["compute"]
    torch.set_num_threads(asked["threads"])
    step = _step(asked["subject"], compute)
    on_card = compute.startswith("cuda")
    before = torch.cuda.memory_allocated(compute) if on_card else held_memory()
    for _ in range(STEPS):
        step()
    peak = torch.cuda.max_memory_allocated(compute) if on_card else peak_memory()
    sys.stdout.write(json.dumps({"peak": peak, "before": before}) + "\n")


def _step(subject: dict[str, Any], compute: str) -> Pass:
    from nasfw.benchmarks import subjects

    kind = subject["kind"]
    if kind == "xd":
        from nasfw.benchmarks import xd

        case = subject["case"]
        return xd.train_pass(subject["way"], xd.Case(**{**case, "size": tuple(case["size"])}))
    settings = subject["settings"]
    task = subjects.Shapes(tuple(subject["input_shape"]), tuple(subject["output_shape"]), subject["batch"])
    if kind in ("first", "second"):
        from nasfw.benchmarks.orders import search_step
        from nasfw.spaces.cell import Darts

        return search_step(Darts(task, **settings), kind, compute)
    space = subjects.space(task, **settings)
    if kind == "backbone":
        return subjects.backbone_step(space, compute)
    return subjects.supernet_step(space, kind == "published", compute)


if __name__ == "__main__":
    main(sys.argv[1])
