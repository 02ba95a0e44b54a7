"""Sessions compute what torch computes, on what was asked for, or say why not."""

import logging
import sys
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nasfw.contracts import Candidate
from nasfw.plugins import load
from nasfw.spaces.aggconv import AggConv
from nasfw.tasks.digits import Digits
from nasfw.testing import ToySpace, ToyTask
from nasfw.values import Unsupported, UsageError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from nasfw.hardware import measuring  # noqa: E402
from nasfw.hardware.converter import Inconvertible, convert  # noqa: E402
from nasfw.hardware.quiet import silence  # noqa: E402
from nasfw.hardware.session import (  # noqa: E402
    TOLERANCE,
    Runtime,
    Session,
    difference,
    onnxruntime,
    open_session,
    random_inputs,
    to_onnx,
)

CUDA = Runtime("CUDAExecutionProvider")
IMAGE = (3, 8, 8)


def small_convnet():
    """Two convolutions whose batch norms have statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    norms = [nn.BatchNorm2d(8) for _ in range(2)]
    for norm in norms:
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
    layers = [first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


NETWORKS = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), (4,)),
    "images": (small_convnet, IMAGE),
    "series": (lambda: nn.Sequential(nn.Conv1d(2, 4, 5, padding="same", dilation=3), nn.GELU()), (2, 20)),
    "aggregated": (lambda: AggConv(Digits()).build(AggConv(Digits()).default), (1, 8, 8)),
    "toy": (lambda: ToySpace(ToyTask()).build((1.0, 2.0)), (4,)),
}


def serialised(model, shape, batch=1):
    return to_onnx(model, shape, batch).SerializeToString()


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_session_computes_what_torch_computes(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    session = open_session(serialised(model, shape, 3), Runtime(batch=3))
    assert difference(session, model, normal(3, *shape)) < 1e-5
    (output,) = session.bound()()
    with torch.no_grad():
        expected = model(torch.from_numpy(session.inputs["input"]))
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)


def test_the_difference_is_relative_to_the_largest_output():
    """x against 1.01 x: one hundredth of the largest of x, wherever that is."""
    one = open_session(serialised(Times(1.0), (4,)), Runtime())
    x = torch.tensor([[0.5, -20.0, 3.0, 0.0]])
    assert difference(one, Times(1.01), x) == pytest.approx(0.01 / 1.01, rel=1e-4)
    assert difference(one, Times(1.0), x) == 0.0


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_a_session_of_another_network_is_refused():
    """Twice the scale is twice the output; one part in a million is not worth mentioning."""
    space, task = ToySpace(ToyTask(), (1.0, 1.0 + 1e-6, 2.0)), ToyTask()
    torch.manual_seed(0)
    own, near, other = (Candidate(space, task, (1.0, s)) for s in space.scales)
    for candidate in (near, other):
        candidate.model.load_state_dict(own.model.state_dict())
    for candidate in (own, near):
        session = measuring._opened(serialised(candidate.model, (4,)), own, Runtime())
        assert session.remark == ""
    with pytest.raises(Unsupported, match=r"differ from torch's by 1\.0e\+00.*measure another network"):
        measuring._opened(serialised(other.model, (4,)), own, Runtime())
    assert TOLERANCE <= 1e-3


class Where(nn.Module):
    """Has an operation that the direct converter does not know."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.dropout = nn.Dropout()

    def forward(self, x):
        y = self.dropout(self.layer(x))
        return torch.where(y > 0, y, -2 * y)


@pytest.mark.parametrize("batch", [2, None])
def test_what_the_converter_refuses_goes_through_torch(batch, capfd, caplog):
    """Silently, and the modes of its modules stay."""
    model = Where().train()
    model.layer.eval()
    with pytest.raises(Inconvertible):
        convert(model, (4,), batch)
    proto = to_onnx(model, (4,), batch)
    assert [m.training for m in model.modules()] == [True, False, True]
    session = open_session(proto.SerializeToString(), Runtime(batch=2, dynamic=batch is None))
    assert difference(session, model.eval(), normal(2, 4)) < 1e-5
    if batch is None:
        assert difference(session, model, normal(5, 4)) < 1e-5
    assert capfd.readouterr() == ("", "")
    assert [r for r in caplog.records if r.levelno >= logging.INFO] == []


class Peek(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else -x


def test_a_network_that_nobody_can_export_is_named(capfd, caplog):
    """With the reasons of both exporters, in one line."""
    with pytest.raises(Unsupported) as caught:
        to_onnx(Peek(), (4,))
    message = str(caught.value)
    assert message.startswith("network Peek cannot be written as ONNX: what the network does depends on")
    assert "data-dependent" in message
    assert message.isprintable()
    assert capfd.readouterr() == ("", "")
    assert [r for r in caplog.records if r.levelno >= logging.INFO] == []


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_provider_that_is_not_installed_is_named_with_what_to_install(provider):
    available = onnxruntime().get_available_providers()
    if provider in available:
        pytest.skip("it is installed")
    with pytest.raises(Unsupported) as caught:
        open_session(serialised(nn.Linear(4, 3), (4,)), Runtime(provider))
    for text in (provider, *available, 'pip install "nasfw[gpu]"', "pip uninstall onnxruntime"):
        assert text in str(caught.value)


@pytest.mark.parametrize(("provider", "extra"), [("CPUExecutionProvider", "cpu"), (CUDA.provider, "gpu")])
def test_a_runtime_that_is_not_installed_is_named_with_what_to_install(monkeypatch, provider, extra):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Unsupported, match=rf'not installed.*pip install "nasfw\[{extra}\]"'):
        onnxruntime(provider)


class Fallback:
    """A module onnxruntime that offers CUDA but lets the processor do the work."""

    __version__ = "1.0"

    def __init__(self):
        self.SessionOptions = onnxruntime().SessionOptions
        self.InferenceSession = self.opened
        self.asked = None

    def get_available_providers(self):
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def opened(self, model, options, providers):
        self.asked = providers
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])


def test_another_provider_is_not_taken_silently(monkeypatch):
    fallback = Fallback()
    monkeypatch.setitem(sys.modules, "onnxruntime", fallback)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=5))
    model = serialised(nn.Linear(4, 3), (4,))
    with pytest.raises(Unsupported, match="on CPUExecutionProvider, not on CUDAExecutionProvider as asked"):
        open_session(model, Runtime(CUDA.provider, 2))
    assert fallback.asked == [(CUDA.provider, {"device_id": 2, "user_compute_stream": "5", "use_tf32": "0"})]


def test_cuda_is_not_offered_what_tensorrt_cannot_do(monkeypatch, tmp_path):
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path))
    fallback = Fallback()
    monkeypatch.setitem(sys.modules, "onnxruntime", fallback)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=5))
    with pytest.raises(Unsupported, match="not on TensorrtExecutionProvider as asked"):
        open_session(serialised(nn.Linear(4, 3), (4,)), Runtime("TensorrtExecutionProvider"))
    assert [name for name, _ in fallback.asked] == ["TensorrtExecutionProvider"]


def test_an_empty_batch_is_refused():
    with pytest.raises(UsageError, match=r"host.batch.*greater than or equal to 1"):
        load(entry_points=False).make("device", {"host": {"batch": 0}})


def test_a_symbolic_batch_takes_batches_of_any_size():
    model = small_convnet()
    session = open_session(serialised(model, IMAGE, None), Runtime(batch=4, dynamic=True))
    assert session.inputs["input"].shape == (4, *IMAGE)
    for size in (1, 2, 7):
        assert difference(session, model, normal(size, *IMAGE)) < 1e-5


def test_another_batch_than_the_one_built_in_is_refused():
    model = serialised(nn.Linear(4, 2), (4,), 3)
    with pytest.raises(UsageError, match="batch of 3 built in, not 1; set the device's batch to 3"):
        open_session(model, Runtime())
    assert len(open_session(model, Runtime(batch=3)).bound()()[0]) == 3


def test_random_inputs_repeat_and_suit_their_types():
    graph = [
        onnx.helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in [
            ("floats", onnx.TensorProto.FLOAT, ["N", 400]),
            ("halves", onnx.TensorProto.FLOAT16, ["N"]),
            ("indices", onnx.TensorProto.INT64, ["N", 3]),
        ]
    ]
    nodes = [onnx.helper.make_node("Identity", ["floats"], ["y"])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", graph, [])).SerializeToString()
    inputs = random_inputs(model, 5)
    assert {n: (v.shape, v.dtype.name) for n, v in inputs.items()} == {
        "floats": ((5, 400), "float32"),
        "halves": ((5,), "float16"),
        "indices": ((5, 3), "int64"),
    }
    # Standard normal: of 2000, the mean lies within 5 of its standard errors.
    assert abs(inputs["floats"].mean()) < 5 / 2000**0.5
    assert abs(inputs["floats"].std() - 1) < 0.1
    # An index that is always there.
    assert not inputs["indices"].any()
    again = random_inputs(model, 5)
    assert all(np.array_equal(inputs[n], again[n]) for n in inputs)


def test_inputs_that_cannot_be_made_up_are_refused():
    text = onnx.helper.make_tensor_value_info("words", onnx.TensorProto.STRING, ["N"])
    nodes = [onnx.helper.make_node("Identity", ["words"], ["y"])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [text], []))
    with pytest.raises(UsageError, match=r"'words'.*cannot be made up: STRING"):
        random_inputs(model.SerializeToString(), 1)


def test_an_operation_that_the_runtime_lacks_is_said_in_one_line(capfd):
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 2]) for n in "xy"]
    node = onnx.helper.make_node("Levitate", ["x"], ["y"], domain="made.up")
    domains = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("made.up", 1)]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=domains)
    with pytest.raises(Unsupported) as caught:
        open_session(model.SerializeToString(), Runtime())
    message = str(caught.value)
    assert "cannot run this network on CPUExecutionProvider" in message
    assert "Levitate" in message
    assert message.isprintable()
    assert capfd.readouterr() == ("", "")


def initializers(session):
    graph = onnx.load_from_string(session.model).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def quantised(model, samples, batch=2):
    return open_session(serialised(model, IMAGE, batch), Runtime(batch=batch, precision="int8"), samples)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_eight_bits_compute_nearly_the_same(batch):
    """Whether or not the samples fill the last batch."""
    torch.manual_seed(0)
    model, samples = small_convnet(), normal(16, *IMAGE)
    session = quantised(model, samples.numpy(), batch)
    assert difference(session, model, samples[:batch]) < 0.1
    assert session.inputs["input"].dtype == np.float32
    assert any(value.dtype == np.int8 and value.ndim == 4 for value in initializers(session).values())


def test_eight_bits_are_calibrated_with_the_samples():
    """Samples that are k times as large have k times as large steps; without any, random ones serve."""
    torch.manual_seed(0)
    model, samples = small_convnet(), normal(16, *IMAGE).numpy()
    one, ten = (float(initializers(quantised(model, k * samples))["input_scale"]) for k in (1, 10))
    assert ten == pytest.approx(10 * one, rel=1e-5)
    # Steps of 8 bits, or of 7 where the processor sums in 16, cover the samples.
    steps = float(samples.max() - samples.min()) / one
    assert steps == pytest.approx(255, rel=0.01) or steps == pytest.approx(127, rel=0.01)
    assert float(initializers(quantised(model, None))["input_scale"]) > 0


def test_eight_bits_leave_no_batch_norm_between_them(tmp_path):
    """As it would be computed in single precision, with conversions before and behind it."""
    session = quantised(small_convnet(), None)
    done = Counter(node.op_type for node in onnx.load_from_string(session.model).graph.node)
    assert done["Conv"] == 2
    assert done["BatchNormalization"] == 0


def test_quantising_is_silent(capfd, caplog):
    quantised(small_convnet(), None)
    assert capfd.readouterr() == ("", "")
    assert [r for r in caplog.records if r.levelno >= logging.INFO] == []


def test_libraries_that_talk_while_they_convert_are_silent_and_leave_logging_alone(monkeypatch, capfd):
    """What is logged by ``logging.warning`` would else make every later message appear twice."""
    monkeypatch.setattr(logging.root, "handlers", [])
    with silence():
        logging.warning("pre-process first")
        warnings.warn("deprecated", stacklevel=1)
        print("step 1 of 3")
    assert logging.root.handlers == []
    assert logging.root.manager.disable == logging.NOTSET
    assert capfd.readouterr() == ("", "")


def test_half_precision_is_inside_and_single_precision_outside():
    torch.manual_seed(0)
    model = small_convnet()
    session = open_session(serialised(model, IMAGE), Runtime(precision="fp16"))
    weights = [v for v in initializers(session).values() if v.dtype.kind == "f"]
    assert weights
    assert {v.dtype for v in weights} == {np.dtype(np.float16)}
    assert {v.dtype for v in session.inputs.values()} == {np.dtype(np.float32)}
    assert session.inference.run(None, session.inputs)[0].dtype == np.float32
    # Eleven binary digits, over three layers.
    assert 0 < difference(session, model, normal(1, *IMAGE)) < 1e-2


def test_a_run_by_the_processor_gives_the_outputs():
    inference = SimpleNamespace(run=lambda names, inputs: [sum(inputs.values())])
    session = Session(Runtime(), b"", inference, {"a": np.ones(2), "b": np.ones(2)})
    assert session.bound()()[0].tolist() == [2.0, 2.0]
