"""ONNX models in another precision: half-precision floating point, and 8-bit integers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasfw.hardware import machine
from nasfw.hardware.quiet import silence

_CALIBRATION = 32


def in_precision(
    model: bytes, precision: str, inputs: dict[str, NDArray[Any]], samples: NDArray[Any] | None
) -> bytes:
    """A serialised model in fp16 or int8; ``samples``, or else the ``inputs``, calibrate the latter."""
    return _half(model) if precision == "fp16" else _quantised(model, inputs, samples)


def _half(model: bytes) -> bytes:
    """The model with half-precision arithmetic; inputs and outputs stay in single precision."""
    import onnx

    with silence():
        from onnxruntime.transformers.float16 import convert_float_to_float16

        half = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True)
    return half.SerializeToString()  # type: ignore[no-any-return]


def _quantised(model: bytes, inputs: dict[str, NDArray[Any]], samples: NDArray[Any] | None) -> bytes:
    """The model with 8-bit integers, by static quantisation that some inputs calibrate."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name, made_up = next(iter(inputs.items()))
    rows = made_up if samples is None else samples[:_CALIBRATION]
    batch = len(made_up)
    parts = [np.resize(rows[i : i + batch], made_up.shape) for i in range(0, len(rows), batch)]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        left = iter(parts)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            part = next(self.left, None)
            return None if part is None else {**inputs, name: part.astype(made_up.dtype)}

    with tempfile.TemporaryDirectory() as place, silence():
        file, fused = Path(place) / "model.onnx", Path(place) / "fused.onnx"
        file.write_bytes(model)
        # Batch norms must be part of their convolutions first: between 8-bit operations they would stay.
        quant_pre_process(file, fused, skip_symbolic_shape=True)
        quantization.quantize_static(
            fused,
            file,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # Without these instructions, sums of products of 8 bits overflow their 16.
            reduce_range="vnni" not in machine.cpuinfo(),
        )
        return file.read_bytes()
