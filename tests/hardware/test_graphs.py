"""Keys of graphs: equal if the same work is to be done, whatever the weights and names."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasfw.values import UsageError

onnx = pytest.importorskip("onnx")

from nasfw.hardware.graphs import ITEM_TYPES, content_key, describe, model_file, parse, side_by_side  # noqa: E402
from nasfw.hardware.session import to_onnx  # noqa: E402

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def net(kernel=3, stride=1, padding=1, dilation=1, groups=1, width=4, head=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    first = nn.Conv2d(4, width, kernel, stride, padding, dilation, groups)
    return nn.Sequential(first, nn.BatchNorm2d(width), head(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def key(model, shape=(4, 9, 9), batch=1):
    return content_key(to_onnx(model.eval(), shape, batch))


def test_other_weights_are_the_same_graph():
    assert key(net(seed=0)) == key(net(seed=1))
    assert len(key(net())) == 16


CHANGES = [{"kernel": 5}, {"stride": 2}, {"padding": 2}, {"dilation": 2}, {"groups": 2}, {"width": 8}]
CHANGES += [{"head": nn.Tanh}, {"head": nn.Identity}, {"kernel": 5, "padding": 2}]


def test_other_layers_are_other_graphs():
    keys = [key(net()), *(key(net(**change)) for change in CHANGES)]
    assert len(set(keys)) == len(keys)


def test_other_inputs_are_other_graphs():
    """Size, batch and symbolic batch."""
    keys = [key(net()), key(net(), (4, 9, 8)), key(net(), batch=2), key(net(), batch=None)]
    assert len(set(keys)) == len(keys)


class Reshaped(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.sizes = sizes

    def forward(self, x):
        return torch.tanh(x.reshape(x.shape[0], *self.sizes))


def test_whole_numbers_of_the_computation_count():
    """The sizes of a reshape are a constant like a weight, but decide what is done."""
    keys = [key(Reshaped(*sizes), (12,)) for sizes in ((3, 4), (4, 3), (2, 6))]
    assert len(set(keys)) == 3


def graph(rename=lambda name: name, weights=(1.0,) * 6, sizes=(6,), factor=2.0, domain="", raw=True):
    """factor * (reshape(x, sizes) + weights)."""

    def tensor(name, kind, values, shape):
        made = onnx.helper.make_tensor(rename(name), kind, shape, values)
        return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(made), made.name) if raw else made

    tensors = [
        tensor("weights", FLOAT, weights, [len(weights)]),
        tensor("sizes", INT64, sizes, [len(sizes)]),
        tensor("factor", FLOAT, [factor], []),
    ]
    steps = [
        ("Reshape", ["x", "sizes"], ["flat"]),
        ("Add", ["flat", "weights"], ["sum"]),
        ("Mul", ["sum", "factor"], ["y"]),
    ]
    nodes = [
        onnx.helper.make_node(op, [*map(rename, ins)], [*map(rename, outs)], name=rename(op), domain=domain)
        for op, ins, outs in steps
    ]
    ends = [
        [onnx.helper.make_tensor_value_info(rename(name), FLOAT, shape)]
        for name, shape in (("x", [2, 3]), ("y", None))
    ]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, rename("graph"), *ends, tensors))


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200)


@settings(max_examples=60, deadline=None)
@given(st.lists(names, min_size=11, max_size=11, unique=True), st.booleans())
def test_names_do_not_count(given, raw):
    """However long they are and whatever is in them, even what constants consist of."""
    table = {}

    def rename(name):
        return table.setdefault(name, given[len(table)])

    assert content_key(graph(rename, raw=raw)) == content_key(graph(raw=raw))


def test_constants_count_but_not_weights():
    assert content_key(graph(weights=(5.0,) * 6)) == content_key(graph())
    changed = [graph(sizes=(-1,)), graph(sizes=(1, 6)), graph(factor=3.0), graph(domain="other")]
    keys = {content_key(g) for g in [graph(), *changed]}
    assert len(keys) == 5
    assert content_key(graph(weights=(1.0,))) not in keys


def with_attribute(value):
    node = onnx.helper.make_node("Constant", [], ["y"], value=onnx.numpy_helper.from_array(value, "any"))
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))


def test_constants_in_attributes_are_constants_too():
    """Small ones count, large ones are weights, of which type and shape count."""
    import numpy as np

    small, large = np.arange(4), np.arange(400.0)
    assert content_key(with_attribute(small)) != content_key(with_attribute(small + 1))
    assert content_key(with_attribute(large)) == content_key(with_attribute(large + 1))
    assert content_key(with_attribute(large)) != content_key(with_attribute(large[:-1]))
    assert content_key(with_attribute(large)) != content_key(with_attribute(large.astype(np.float32)))


def test_how_values_are_connected_counts():
    """x - y is not y - x, though the same is done."""
    ends = [onnx.helper.make_tensor_value_info(n, FLOAT, [2]) for n in ("a", "b", "y")]

    def of(*inputs):
        node = onnx.helper.make_node("Sub", inputs, ["y"])
        return onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:2], ends[2:]))

    assert len({content_key(of(*inputs)) for inputs in (("a", "b"), ("b", "a"), ("a", "a"))}) == 3


def test_inputs_are_described():
    """Symbolic sizes by their names; what has a value is no input."""
    infos = [
        onnx.helper.make_tensor_value_info("image", FLOAT, ["N", 3, None]),
        onnx.helper.make_tensor_value_info("index", INT64, [2]),
        onnx.helper.make_tensor_value_info("weight", FLOAT, [3]),
    ]
    weight = onnx.helper.make_tensor("weight", FLOAT, [3], [1.0, 2.0, 3.0])
    node = onnx.helper.make_node("Identity", ["image"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", infos, [], [weight]))
    assert describe(model.SerializeToString()) == [("image", ["N", 3, "?"], "FLOAT"), ("index", [2], "INT64")]


@pytest.mark.parametrize(("batch", "size"), [(3, 3), (None, "batch")])
def test_the_input_of_a_network_is_described(batch, size):
    model = to_onnx(nn.Linear(6, 2).eval(), (6,), batch).SerializeToString()
    assert describe(model) == [("input", [size, 6], "FLOAT")]


def test_item_types_are_those_of_onnx():
    for name, numpy_name in ITEM_TYPES.items():
        kind = getattr(onnx.TensorProto, name)
        assert onnx.helper.tensor_dtype_to_np_dtype(kind).name == numpy_name


@pytest.mark.parametrize("content", [b"", b"Conv", b"\xff" * 40, bytes(100), b'{"graph": 1}'])
def test_what_is_no_model_is_refused(content, tmp_path):
    with pytest.raises(UsageError, match="no ONNX model"):
        parse(content)
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.onnx: this is no ONNX model"):
        model_file(file)


def test_half_a_model_is_refused():
    whole = graph().SerializeToString()
    for end in range(0, len(whole) - 1, 7):
        with pytest.raises(UsageError, match="no ONNX model"):
            parse(whole[:end])


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.onnx cannot be read: No such file"):
        model_file(tmp_path / "gone.onnx")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        model_file(tmp_path)
    file = tmp_path / "model.onnx"
    file.write_bytes(graph().SerializeToString())
    assert model_file(file) == graph().SerializeToString()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_copies_beside_each_other_give_the_sum_of_their_outputs(count):
    """The i-th of the input plus i; with as many weights as there are copies."""
    ort = pytest.importorskip("onnxruntime")
    model = net().eval()
    many = side_by_side(to_onnx(model, (4, 9, 9)), count)
    onnx.checker.check_model(many, full_check=True)
    weights = [t for t in many.graph.initializer if len(t.dims) == 4]
    assert len(weights) == count
    x = torch.randn(1, 4, 9, 9)
    session = ort.InferenceSession(many.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {many.graph.input[0].name: x.numpy()})
    with torch.no_grad():
        expected = sum(model(x + float(i)) for i in range(count))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
