"""What an ONNX graph says about itself: its inputs, and a key that does not depend on its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nasfw.values import UsageError, digest

# Element types of ONNX by name, as numpy calls them.
ITEM_TYPES = {
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "DOUBLE": "float64",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
# Up to so many numbers, a constant may be part of the computation: an axis, a shape, a factor.
_WEIGHTS_FROM = 16


def parse(model: bytes) -> Any:
    """The ``onnx.ModelProto`` in ``model``; UsageError if it is none."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        proto = onnx.load_from_string(model)
    except DecodeError as reason:
        raise UsageError(f"this is no ONNX model: {reason}") from None
    if not proto.graph.node:
        raise UsageError("this is no ONNX model, or one without any operation")
    return proto


def model_file(path: Path) -> bytes:
    """The bytes of an ONNX file; UsageError if it cannot be read or is none."""
    try:
        content = path.read_bytes()
    except OSError as reason:
        raise UsageError(f"{path} cannot be read: {reason.strerror}") from None
    try:
        proto = parse(content)
    except UsageError as reason:
        raise UsageError(f"{path}: {reason}") from None
    if not any(tensor.external_data for tensor in proto.graph.initializer):
        return content
    import onnx

    try:
        onnx.load_external_data_for_model(proto, str(path.absolute().parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as reason:
        raise UsageError(f"{path}: its weights in other files cannot be read: {reason}") from None
    return proto.SerializeToString()  # type: ignore[no-any-return]


def describe(model: bytes) -> list[tuple[str, list[int | str], str]]:
    """Inputs of a serialised model: name, sizes (a text where symbolic), and type by ONNX's name."""
    import onnx

    graph = parse(model).graph
    weights = {tensor.name for tensor in graph.initializer}
    found: list[tuple[str, list[int | str], str]] = []
    for value in graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
        found.append((value.name, sizes, onnx.TensorProto.DataType.Name(kind.elem_type)))
    return found


def content_key(proto: Any) -> str:
    """Sixteen digits that identify a graph's operations, shapes and types, but not its weights or names."""
    names: dict[str, int] = {}

    def number(name: str) -> int:
        return names.setdefault(name, len(names)) if name else -1

    graph = proto.graph
    parts: list[Any] = [[(o.domain, o.version) for o in proto.opset_import]]
    for value in graph.input:
        parts.append(["input", number(value.name), _type(value.type)])
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:
        parts += [_tensor(number(name), tensors.pop(name)) for name in node.input if name in tensors]
        attributes = sorted((a.name, _attribute(a)) for a in node.attribute)
        parts.append(
            [node.domain, node.op_type, [number(n) for n in node.input], attributes]
            + [number(n) for n in node.output]
        )
    parts += [["output", number(value.name)] for value in graph.output]
    return digest(*parts)


def side_by_side(model: Any, count: int) -> Any:
    """The sum of the outputs of ``count`` copies of a model of one input and one output, of floating point.

    Each copy has weights of its own, as layers of a network have: weights that are used again would stay in
    faster caches. The i-th, from 0, takes the input plus i, so that no runtime can tell that modules without
    weights need to be run only once.
    """
    from onnx import TensorProto, compose, helper

    (source,), (output,) = model.graph.input, model.graph.output
    many = type(model)()
    many.CopyFrom(model)
    del many.graph.node[:], many.graph.initializer[:], many.graph.value_info[:]
    nodes, sums = many.graph.node, [f"{i}/{output.name}" for i in range(count)]
    for i in range(count):
        part = compose.add_prefix(model, f"{i}/", rename_functions=False).graph
        many.graph.initializer.append(helper.make_tensor(f"{i}/shift", TensorProto.FLOAT, [], [float(i)]))
        many.graph.initializer.extend(part.initializer)
        nodes.append(helper.make_node("Add", [source.name, f"{i}/shift"], [f"{i}/{source.name}"]))
        nodes.extend(part.node)
    nodes.append(helper.make_node("Sum", sums, [output.name]))
    return many


def _type(kind: Any) -> list[Any]:
    tensor = kind.tensor_type
    return [tensor.elem_type, *(d.dim_value if d.HasField("dim_value") else "?" for d in tensor.shape.dim)]


def _tensor(number: int, tensor: Any) -> list[Any]:
    size = 1
    for n in tensor.dims:
        size *= n
    value = b""
    if size <= _WEIGHTS_FROM and _whole(tensor):
        kept = type(tensor)()
        kept.CopyFrom(tensor)
        # Names are arbitrary.
        kept.name = ""
        value = kept.SerializeToString(deterministic=True)
    return ["tensor", number, tensor.data_type, list(tensor.dims), value.hex()]


def _whole(tensor: Any) -> bool:
    import onnx

    return tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) or not list(tensor.dims)


def _attribute(attribute: Any) -> str:
    kept = type(attribute)()
    kept.CopyFrom(attribute)
    if kept.HasField("t") and len(kept.t.raw_data) > 8 * _WEIGHTS_FROM:
        kept.t.raw_data = b""
    kept.t.name = ""
    return kept.SerializeToString(deterministic=True).hex()  # type: ignore[no-any-return]
