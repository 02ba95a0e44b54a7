"""From a network to an ONNX Runtime session: conversion, precision, provider, and the check against torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nasfw.caches import folder
from nasfw.hardware.graphs import ITEM_TYPES, describe
from nasfw.hardware.precision import in_precision
from nasfw.hardware.quiet import silence
from nasfw.values import Unsupported, UsageError

Precision = Literal["fp32", "fp16", "int8"]

# Largest difference from torch's outputs, relative to the largest output.
TOLERANCE = 1e-4

_EXTRAS = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "gpu",
    "TensorrtExecutionProvider": "gpu",
}


@dataclass(frozen=True)
class Runtime:
    """How networks are run: provider, graphics card, threads, batch size, precision, symbolic batch axis."""

    provider: str = "CPUExecutionProvider"
    index: int = 0
    threads: int = 1
    batch: int = 1
    precision: Precision = "fp32"
    dynamic: bool = False

    @property
    def on_card(self) -> bool:
        """Whether a graphics card does the work."""
        return self.provider != "CPUExecutionProvider"


@dataclass
class Session:
    """A network that is ready to run, with inputs for it."""

    runtime: Runtime
    model: bytes
    inference: Any
    inputs: dict[str, NDArray[Any]]
    remark: str = ""

    def bound(self) -> Callable[[], object]:
        """One inference of the inputs; on a graphics card it is queued, with inputs and outputs there."""
        if not self.runtime.on_card:
            return lambda: self.inference.run(None, self.inputs)
        module, index = onnxruntime(self.runtime.provider), self.runtime.index
        binding, options = self.inference.io_binding(), module.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        for name, value in self.inputs.items():
            binding.bind_ortvalue_input(name, module.OrtValue.ortvalue_from_numpy(value, "cuda", index))
        for output in self.inference.get_outputs():
            binding.bind_output(output.name, "cuda", index)
        return lambda: self.inference.run_with_iobinding(binding, options)


def onnxruntime(provider: str = "CPUExecutionProvider") -> Any:
    """The module onnxruntime; Unsupported, naming the extra to install, if it lacks the provider."""
    extra = _EXTRAS.get(provider, "cpu")
    try:
        module = import_module("onnxruntime")
    except ImportError:
        raise Unsupported(
            f'ONNX Runtime is not installed, which measures networks: pip install "nasfw[{extra}]"'
        ) from None
    available = module.get_available_providers()
    if provider not in available:
        raise Unsupported(
            f"ONNX Runtime {module.__version__} has no {provider} here, only {', '.join(available)}; "
            f'pip uninstall onnxruntime, then pip install "nasfw[{extra}]"'
        )
    return module


def to_onnx(model: nn.Module, input_shape: Sequence[int], batch: int | None = 1) -> Any:
    """``model`` in evaluation mode as an ``onnx.ModelProto``.

    ``input_shape`` has no batch axis; ``batch`` None makes that axis symbolic. The direct converter does it
    in milliseconds where it knows all operations, otherwise torch.onnx in seconds. Unsupported if that
    cannot, with the reason.
    """
    from nasfw.hardware.converter import Inconvertible, convert

    try:
        return convert(model, input_shape, batch)
    except Inconvertible as reason:
        return _by_torch(model, input_shape, batch, str(reason))


def _by_torch(model: nn.Module, input_shape: Sequence[int], batch: int | None, reason: str) -> Any:
    training = [module for module in model.modules() if module.training]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = torch.zeros(batch or 2, *input_shape, device=device)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    model.eval()
    try:
        with silence():
            program = torch.onnx.export(
                model,
                (x,),
                dynamo=True,
                verbose=False,
                external_data=False,
                dynamic_shapes=shapes,
                input_names=["input"],
                output_names=["output"],
            )
    # Whatever the exporter stumbles over, it is this network that cannot be exported.
    except Exception as problem:
        # What the exporter says itself is advice to its developers.
        cause = problem.__cause__ or problem
        text = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
        raise Unsupported(
            f"network {type(model).__name__} cannot be written as ONNX: {reason}; torch.onnx: {text}"
        ) from problem
    finally:
        for module in training:
            module.training = True
    assert program is not None
    return program.model_proto


def open_session(model: bytes, runtime: Runtime, samples: NDArray[Any] | None = None) -> Session:
    """A session for the serialised ``model``, with random inputs of the runtime's batch size.

    ``samples`` are inputs that int8 precision is calibrated with, by default random ones. Unsupported if the
    runtime lacks the provider or an operation, or would let another provider do the work.
    """
    module = onnxruntime(runtime.provider)
    inputs = random_inputs(model, runtime.batch)
    if runtime.precision != "fp32":
        model = in_precision(model, runtime.precision, inputs, samples)
        inputs = random_inputs(model, runtime.batch)
    return Session(runtime, model, inference(module, model, runtime), inputs)


def inference(module: Any, model: bytes | str, runtime: Runtime) -> Any:
    """ONNX Runtime's session for a serialised model or a file of one."""
    options = module.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = runtime.threads, 1
    options.log_severity_level = 4
    if runtime.on_card:
        # Otherwise what the card cannot do is done by the processor, and its time is called the card's.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        made = module.InferenceSession(model, options, providers=_providers(runtime))
    # The runtime's exceptions share no base class of their own.
    except Exception as problem:
        text = " ".join(str(problem).split())[:400]
        raise Unsupported(
            f"ONNX Runtime {module.__version__} cannot run this network on {runtime.provider}: {text}"
        ) from problem
    used = made.get_providers()
    if used[0] != runtime.provider:
        raise Unsupported(
            f"ONNX Runtime would run this network on {used[0]}, not on {runtime.provider} as asked; its time "
            "would be another device's. Are the drivers and libraries of the card installed?"
        )
    return made


def _providers(runtime: Runtime) -> list[Any]:
    if not runtime.on_card:
        return [runtime.provider]
    stream = str(torch.cuda.current_stream(runtime.index).cuda_stream)
    # Products of 19 bits instead of 32 would be another precision than the one asked for.
    settings = {"device_id": runtime.index, "user_compute_stream": stream, "use_tf32": "0"}
    if runtime.provider == "CUDAExecutionProvider":
        return [(runtime.provider, settings)]
    # An engine takes minutes to build.
    engines = folder() / "engines"
    engines.mkdir(parents=True, exist_ok=True)
    settings = {
        "device_id": runtime.index,
        "user_compute_stream": stream,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(engines),
        "trt_fp16_enable": runtime.precision == "fp16",
    }
    # Without CUDA beside it: what TensorRT cannot do must be an error, not CUDA's time under TensorRT's name.
    return [(runtime.provider, settings)]


def random_inputs(model: bytes, batch: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Normal random numbers for every input of a serialised model, whose symbolic axes become ``batch``.

    UsageError for inputs of a type that no random numbers suit, and where another batch size is built in.
    """
    rng = np.random.default_rng(seed)
    inputs = {}
    for name, shape, kind in describe(model):
        if kind not in ITEM_TYPES:
            raise UsageError(f"input {name!r} of the model is of a type that cannot be made up: {kind}")
        if any(not isinstance(n, int) for n in shape[1:]):
            raise UsageError(
                f"input {name!r} of the model has the shape {shape}; only its first axis, the batch, may be "
                "left open"
            )
        sizes = [batch if not isinstance(n, int) else n for n in shape]
        if shape and isinstance(shape[0], int) and shape[0] != batch:
            raise UsageError(
                f"input {name!r} of the model has a batch of {shape[0]} built in, not {batch}; set the "
                f"device's batch to {shape[0]}"
            )
        dtype = np.dtype(ITEM_TYPES[kind])
        values = rng.standard_normal(sizes) if dtype.kind == "f" else np.zeros(sizes)
        inputs[name] = np.ascontiguousarray(values, dtype)
    return inputs


def difference(session: Session, model: nn.Module, x: torch.Tensor) -> float:
    """Largest difference of the session's output from torch's, in units of the largest output."""
    name = next(iter(session.inputs))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = model(x.to(device)).double().cpu().numpy()
    given = x.cpu().numpy().astype(session.inputs[name].dtype)
    found = np.asarray(session.inference.run(None, {name: given})[0], np.float64)
    largest = float(np.abs(expected).max()) or 1.0
    return float(np.abs(found - expected).max()) / largest
