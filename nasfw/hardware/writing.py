"""A graph as an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from nasfw.hardware.operators import Constant, Graph, Node

_OPSET, _IR_VERSION = 20, 9
_PROTO_TYPES = {torch.float32: onnx.TensorProto.FLOAT, torch.int64: onnx.TensorProto.INT64}


def assemble(
    graph: Graph, input_shape: Sequence[int | str], output_shape: Sequence[int | str]
) -> onnx.ModelProto:
    """The model of a complete graph."""
    model = onnx.ModelProto(ir_version=_IR_VERSION, producer_name="nasfw")
    model.opset_import.add(domain="", version=_OPSET)
    model.graph.name = "network"
    for node in graph.nodes:
        _write_node(model.graph.node.add(), node)
    for name, value in graph.constants.items():
        _write_constant(model.graph.initializer.add(name=name), value)
    for field, name, shape in (
        (model.graph.input, "input", input_shape),
        (model.graph.output, "output", output_shape),
    ):
        field.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape)))
    return model


def _write_node(proto: Any, node: Node) -> None:
    proto.op_type, proto.name = node.op, node.outputs[0]
    proto.input.extend(node.inputs)
    proto.output.extend(node.outputs)
    for name, value in node.attributes.items():
        attribute = proto.attribute.add(name=name)
        write: Callable[[Any, Any], None] = _ATTRIBUTES[type(value)]
        write(attribute, value)


def _write_ints(proto: Any, value: Any) -> None:
    proto.type = onnx.AttributeProto.INTS
    proto.ints.extend(value)


def _write_int(proto: Any, value: Any) -> None:
    proto.type, proto.i = onnx.AttributeProto.INT, int(value)


def _write_float(proto: Any, value: Any) -> None:
    proto.type, proto.f = onnx.AttributeProto.FLOAT, value


def _write_string(proto: Any, value: Any) -> None:
    proto.type, proto.s = onnx.AttributeProto.STRING, value.encode()


_ATTRIBUTES: dict[type, Callable[[Any, Any], None]] = {
    list: _write_ints,
    int: _write_int,
    bool: _write_int,
    float: _write_float,
    str: _write_string,
}


def _write_constant(proto: Any, value: Constant) -> None:
    if isinstance(value, list):
        tensor = torch.tensor(value, dtype=torch.int64)
    elif isinstance(value, Tensor):
        tensor = value.detach()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
        tensor = tensor.to("cpu", torch.float32).resolve_neg().contiguous()
    else:
        tensor = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float32)
    proto.data_type = _PROTO_TYPES[tensor.dtype]
    proto.dims.extend(tensor.shape)
    proto.raw_data = tensor.numpy().tobytes()
