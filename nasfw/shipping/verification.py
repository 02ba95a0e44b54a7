"""The files of exported networks, written and run in a process where nasfw cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nasfw.contracts import Task, UsageError
from nasfw.flops import count_parameters
from nasfw.networks import Network
from nasfw.results import Result
from nasfw.shipping import artefact, card
from nasfw.shipping.artefact import CARD, DTYPES, MODEL, ONNX, WEIGHTS, Subject
from nasfw.shipping.standalone import difference, source
from nasfw.tasks.meaning import Meaning
from nasfw.text import write

# Largest difference of outputs, of the largest output: rounding, once by the same and once by other kernels.
_TORCH, _ONNX = 1e-5, 1e-4
_SECONDS = 300


@dataclass
class Writing:
    """Networks that are written below ``scratch`` and then verified together."""

    outcome: Result
    task: Task
    scratch: Path
    subjects: list[Subject] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        batches = list(self.task.batches("test"))
        self.inputs = [x for x, _ in batches]
        self.targets = torch.cat([y for _, y in batches])

    def add(self, network: Network, model: nn.Module) -> None:
        """Write the files, all but the card."""
        folder = self.scratch / network.name
        folder.mkdir()
        example = self.inputs[0][[0, -1]]
        written = source(model, example)
        state = {**model.state_dict(), **written.constants}
        check_types(network.name, state)
        # Two names may share one tensor, which the format does not know.
        save_file(
            {name: value.detach().clone().contiguous() for name, value in state.items()}, folder / WEIGHTS
        )
        remarks = [written.remark] if written.remark else []
        if reason := write_onnx(model, tuple(self.task.input_shape), folder / ONNX):
            remarks.append(f"{ONNX} was not written: {reason}")
        subject = Subject(
            self.outcome,
            network,
            self.task,
            meaning(self.task),
            written,
            state,
            example.dtype,
            count_parameters(model),
            network.keys[0],
            network.seeds[0],
            remarks=tuple(remarks),
        )
        write(folder / MODEL, artefact.code(subject))
        # The writer of weights keeps them to their owner, but these are to be given away.
        (folder / WEIGHTS).chmod((folder / MODEL).stat().st_mode)
        self.subjects.append(subject)
        with torch.no_grad():
            self.outputs.append(torch.cat([model(x.clone()) for x in self.inputs]))

    def verified(self) -> list[Subject]:
        """Check all networks in another process and write the cards; RuntimeError if one fails."""
        self._run()
        verified = []
        for subject, expected in zip(self.subjects, self.outputs, strict=True):
            folder = self.scratch / subject.network.name
            found = load_file(folder / "outputs.safetensors")
            (folder / "outputs.safetensors").unlink()
            subject = self._judged(subject, expected, found)
            write(folder / CARD, card.card(subject))
            verified.append(subject)
        return verified

    def _run(self) -> None:
        """Let another process, which cannot import nasfw, write what the exported networks return."""
        save_file(
            {str(i): x.contiguous() for i, x in enumerate(self.inputs)}, self.scratch / "inputs.safetensors"
        )
        job = {
            "threads": torch.get_num_threads(),
            "inputs": str(self.scratch / "inputs.safetensors"),
            "folders": [str(self.scratch / s.network.name) for s in self.subjects],
        }
        # -P: no file of the folder where the user works takes the place of a module.
        command = [sys.executable, "-B", "-P", "-c", _CHECK, json.dumps(job)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise RuntimeError(
                f"the exported networks did not run through the test split within {_SECONDS // 60} minutes; "
                "nothing was exported"
            ) from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise RuntimeError(
                f"the exported networks do not run without nasfw: {last}; nothing was exported"
            )

    def _judged(self, subject: Subject, expected: Tensor, found: Mapping[str, Tensor]) -> Subject:
        """The subject with what was found; RuntimeError if its outputs are not those of the network."""
        name, remarks = subject.network.name, list(subject.remarks)
        checks = {way: difference(found[way], expected) for way in ("torch", "onnx") if way in found}
        if checks["torch"] > _TORCH:
            raise RuntimeError(
                f"the exported network {name} gives other outputs than the searched one (they differ by "
                f"{checks['torch']:.2g} of the largest); nothing was exported"
            )
        remarks += _without_onnx(self.scratch / name / ONNX, checks)
        error = float(self.task.error(found["torch"], self.targets))
        remarks += self._compared(subject, error, checks)
        return replace(subject, checks=checks, remarks=tuple(remarks), onnx="onnx" in checks)

    def _compared(self, subject: Subject, error: float, checks: dict[str, float]) -> list[str]:
        """Enter the metric and the reported one into ``checks``; UsageError if they are far apart."""
        values, name = subject.network.values, subject.network.name
        kind = next((k for k in ("accuracy", "error") if k in values), None)
        value = checks["metric"] = 1 - error if kind == "accuracy" else error
        if kind is None:
            return ["The run did not record the task's metric."]
        reported = checks["reported"] = values[kind][0]
        if abs(value - reported) <= 1e-9 * max(1.0, abs(reported)):
            return []
        told = f"the {kind} of the exported weights is {value:.6g}, and the run reported {reported:.6g}"
        # Rounding, which depends on the processor, may decide a sample or two.
        if abs(value - reported) > 2 / len(self.targets) + 1e-3 * abs(reported):
            raise UsageError(f"network {name}: {told}; its weights in the run's folder are not those it had")
        return [f"{told[0].upper()}{told[1:]}: this machine rounds otherwise than the one that trained."]


def meaning(task: Task) -> Meaning:
    """What the task says of its inputs and outputs; nothing where its ``meaning`` is something else."""
    found = getattr(task, "meaning", None)
    return found if isinstance(found, Meaning) else Meaning()


def check_types(name: str, state: Mapping[str, Tensor]) -> None:
    """UsageError if the file of the weights cannot hold a tensor of the network called ``name``."""
    for path, value in state.items():
        if value.dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise UsageError(
                f"network {name} cannot be exported: its tensor {path} is "
                f"{str(value.dtype).removeprefix('torch.')}, and {WEIGHTS} holds {known}"
            )


def _without_onnx(file: Path, checks: dict[str, float]) -> list[str]:
    """Remove a model.onnx that does not compute the same; why, or why that is not known."""
    failed = file.with_name(file.name + ".failed")
    if not file.exists():
        return []
    if failed.exists():
        reason = f"ONNX Runtime does not run it ({failed.read_text()[:200]})"
        failed.unlink()
    elif "onnx" not in checks:
        reason = f"it could not be verified, which needs ONNX Runtime, {_INSTALL}"
    elif checks["onnx"] > _ONNX:
        reason = f"its outputs differ by {checks.pop('onnx'):.2g} of the largest one"
    else:
        return []
    file.unlink()
    return [f"{ONNX} was left out: {reason}"]


_INSTALL = 'which pip install "nasfw[cpu]" brings'


def write_onnx(model: nn.Module, input_shape: tuple[int, ...], path: Path) -> str:
    """Write the network as ONNX for batches of any size; the reason where that is not possible, else ""."""
    if find_spec("onnx") is None:
        return f"it needs onnx, {_INSTALL}"
    from nasfw.hardware.session import to_onnx

    try:
        path.write_bytes(to_onnx(model, input_shape, None).SerializeToString())
    except UsageError as reason:
        return str(reason)
    return ""


# What the other process does. It blocks nasfw and what model.py must not need, and measures as the run did.
_CHECK = """
import importlib.util, json, os, sys
job = json.loads(sys.argv[1])
blocked = ("nasfw", "safetensors", "onnx", "onnxruntime")
sys.modules.update(dict.fromkeys(blocked))
import torch
torch.set_num_threads(job["threads"])
networks = []
for folder in job["folders"]:
    spec = importlib.util.spec_from_file_location("model", os.path.join(folder, "model.py"))
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    networks.append(model.load())
for name in blocked[1:]:
    del sys.modules[name]
from safetensors.torch import load_file, save_file
inputs = load_file(job["inputs"])
batches = [inputs[str(i)] for i in range(len(inputs))]
for folder, network in zip(job["folders"], networks):
    with torch.no_grad():
        outputs = {"torch": torch.cat([network(x.clone()) for x in batches])}
    path = os.path.join(folder, "model.onnx")
    if os.path.exists(path) and importlib.util.find_spec("onnxruntime"):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            name = session.get_inputs()[0].name
            found = [torch.from_numpy(session.run(None, {name: x.numpy()})[0]) for x in batches]
            outputs["onnx"] = torch.cat(found)
        except Exception as reason:
            with open(path + ".failed", "w") as stream:
                stream.write(" ".join(str(reason).split()))
    save_file(outputs, os.path.join(folder, "outputs.safetensors"))
"""
