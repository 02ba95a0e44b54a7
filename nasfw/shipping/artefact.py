"""The text of ``model.py``: an exported network's code, and how to use it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

import nasfw
from nasfw.contracts import Task
from nasfw.networks import Network
from nasfw.orders import bit_reversal
from nasfw.reports import words
from nasfw.results import Result
from nasfw.shipping.forward import WIDTH, fold
from nasfw.shipping.standalone import Source
from nasfw.tasks.meaning import Meaning

MODEL, WEIGHTS, ONNX, CARD = "model.py", "weights.safetensors", "model.onnx", "card.md"
# What the format of the weights calls the types that it stores.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}
if hasattr(torch, "float8_e8m0fnu"):
    DTYPES[torch.float8_e8m0fnu] = "F8_E8M0"


@dataclass(frozen=True)
class Subject:
    """An exported network and what is known of it; ``key`` and ``seed`` are those of its weights."""

    outcome: Result
    network: Network
    task: Task
    meaning: Meaning
    source: Source
    state: Mapping[str, Tensor]
    dtype: torch.dtype
    parameters: int
    key: str
    seed: int
    onnx: bool = False
    checks: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def code(subject: Subject) -> str:
    """The text of ``model.py``."""
    source, meant = subject.source, subject.meaning
    standard = ["import json", *(i for i in source.imports if i == "import math")]
    rest = [i for i in source.imports if i not in standard]
    used = sorted({v.dtype for v in subject.state.values()}, key=str)
    names = ", ".join(f'"{DTYPES[dtype]}": {dtype}' for dtype in used)
    constants = [f"DTYPES = {{{names}}}", f"INPUT_SHAPE = {tuple(subject.task.input_shape)}"]
    functions = [_LOAD]
    constants += _constants(meant)
    if meant.permuted:
        functions += [inspect.getsource(bit_reversal).rstrip(), _REORDERED]
    if meant.axes:
        functions += [_prepare(meant, len(subject.task.input_shape) - 1)]
    if meant.kind:
        functions += _decode(meant, len(subject.task.output_shape) - 1)
    given = "" if subject.dtype == torch.float32 else f", dtype={subject.dtype}"
    parts = [
        _head(subject),
        "\n".join([*standard, "from pathlib import Path", "", *rest, "", *map(fold, constants)]),
        source.code,
        *functions,
        _MAIN.format(dtype=given),
    ]
    return "\n\n\n".join(parts).replace("\n\n\n", "\n\n", 1) + "\n"


_LOAD = '''
def load(folder=Path(__file__).parent):
    """The trained network in evaluation mode, with the weights that lie in ``folder``."""
    raw = bytearray(Path(folder, "weights.safetensors").read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    values = torch.frombuffer(raw, dtype=torch.uint8)
    state = {}
    for name, entry in json.loads(raw[8:start]).items():
        first, last = (start + offset for offset in entry["data_offsets"])
        state[name] = values[first:last].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    network = Network()
    network.load_state_dict(state)
    return network.eval()
'''.strip()

_REORDERED = '''
def reordered(x, back=False):
    """``x`` [n, channels, ...] in bit-reversed order along every axis of positions, or ``back`` from it."""
    for axis in range(2, x.ndim):
        order = torch.tensor(bit_reversal(x.shape[axis]), device=x.device)
        x = x.index_select(axis, order.argsort() if back else order)
    return x
'''.strip()

_MAIN = """
if __name__ == "__main__":
    network = load()
    x = torch.zeros(1, *INPUT_SHAPE{dtype})
    count = sum(p.numel() for p in network.parameters())
    print(f"input {{tuple(x.shape)}}, output {{tuple(network(x).shape)}}, {{count}} parameters")
""".strip()


def torch_use(inputs: str) -> list[str]:
    """The lines that load and run a network by torch alone, for ``inputs`` as code writes them."""
    return ["import model", "network = model.load()", f"outputs = network({inputs})"]


def onnx_use(inputs: str) -> list[str]:
    """The lines that load and run a network by ONNX Runtime alone."""
    return [
        "import onnxruntime",
        f'session = onnxruntime.InferenceSession("{ONNX}")',
        f'outputs = session.run(None, {{"input": {inputs}}})[0]',
    ]


def prepared(meant: Meaning) -> str:
    """How code that has imported ``model`` writes the inputs that it makes of samples x."""
    return "model.prepare(x)" if meant.axes else "x"


def _head(subject: Subject) -> str:
    """The docstring of ``model.py``."""
    network, source = subject.network, subject.source
    lines = [
        f"Network {network.name}, found by a search for the task {subject.outcome.summary.task}.",
        "",
        *_wrapped(shapes(subject)),
        "",
        *(f"    {line}" for line in torch_use(prepared(subject.meaning))),
        "",
        *_wrapped(f"Architecture ({network.space}): {words.choices(network)}."),
        *(_wrapped(source.remark) if source.remark else []),
        f"Written by nasfw {nasfw.__version__}; card.md tells more. It needs nothing but torch.",
    ]
    return '"""' + "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''") + '\n"""'


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def shapes(subject: Subject) -> str:
    """What the network takes and returns, in a sentence."""
    dtype = str(subject.dtype).removeprefix("torch.")
    task = subject.task
    return (
        f"The network takes {dtype} of shape (n, {_list(task.input_shape)}) and returns shape "
        f"(n, {_list(task.output_shape)}): {_outputs(subject.meaning)}.{_order(subject.meaning)}"
    )


def _outputs(meant: Meaning) -> str:
    """What the numbers that the network returns are, in words."""
    position = " at every position" if meant.kind.startswith("dense") else ""
    named = f" {', '.join(map(str, meant.classes))}, in this order" if len(meant.classes) <= 100 else ""
    if meant.kind.endswith("classification"):
        return f"logits{position} of the {len(meant.classes)} classes{named}"
    if meant.kind == "dense_binary":
        return f"logits{position} of the label {meant.classes[1]}, against {meant.classes[0]}"
    if meant.kind == "multilabel":
        return "a logit for each label, in the order of the columns of y"
    if meant.kind.endswith("regression"):
        units = ", standardised: decode() gives them in the data's own units" if meant.scaled else ""
        return f"predicted values{position}{units}"
    return "what the task's targets are"


def _order(meant: Meaning) -> str:
    """How positions are permuted, as a sentence after another one; nothing if they are not."""
    if not meant.permuted:
        return ""
    both = meant.kind.startswith("dense")
    return (
        f" Along every axis of its inputs{' and outputs' * both}, positions are in bit-reversed order: "
        f"prepare() brings samples into it{', and decode() brings outputs back' * both}."
    )


def _list(shape: Iterable[int]) -> str:
    return ", ".join(map(str, shape))


def _constants(meant: Meaning) -> Iterator[str]:
    if meant.standardised:
        yield f"INPUT_MEAN = {list(meant.mean)}"
        yield f"INPUT_DEVIATION = {list(meant.deviation)}"
    if meant.classes:
        yield f"CLASSES = {list(meant.classes)}"
    if meant.kind.endswith("regression"):
        yield f"OUTPUT_MEAN = {list(meant.output_mean)}"
        yield f"OUTPUT_DEVIATION = {list(meant.output_deviation)}"


def _prepare(meant: Meaning, positions: int) -> str:
    """The function that makes inputs of samples."""
    channels = ".unsqueeze(1)" if "channels" not in meant.axes else ""
    channels = ".movedim(-1, 1)" if meant.axes.endswith("channels]") else channels
    lines = [
        "def prepare(x):",
        f'    """Inputs for the network, of samples ``x`` {meant.axes} in the units of the data."""',
        f"    x = torch.as_tensor(x).double(){channels}",
    ]
    if meant.standardised:
        shape = ", ".join(["-1", *["1"] * positions])
        lines += [
            f"    mean = torch.tensor(INPUT_MEAN, dtype=x.dtype, device=x.device).reshape({shape})",
            f"    deviation = torch.tensor(INPUT_DEVIATION, dtype=x.dtype, device=x.device).reshape({shape})",
            "    x = (x - mean) / deviation",
        ]
    result = "reordered(x.float())" if meant.permuted else "x.float()"
    return "\n".join([*lines, f"    return {result}"])


_DECODED = {
    "classification": (
        "The most likely class of each sample",
        "[CLASSES[i] for i in outputs.argmax(1).tolist()]",
    ),
    "dense_classification": (
        "At every position the number, in CLASSES, of the most likely class",
        "outputs.argmax(1)",
    ),
    "dense_binary": ("The probability of CLASSES[1] at every position", "outputs.sigmoid()"),
    "multilabel": ("The probability of every label", "outputs.sigmoid()"),
}


def decoded(meant: Meaning) -> str:
    """What ``decode`` returns, in words."""
    return _DECODED.get(meant.kind, ("The predicted values in the units of the data",))[0]


def _decode(meant: Meaning, positions: int) -> list[str]:
    """The function that says what outputs mean, if that is known."""
    begin = f'def decode(outputs):\n    """{decoded(meant)}."""\n'
    if meant.permuted and meant.kind.startswith("dense"):
        begin += "    outputs = reordered(outputs, back=True)\n"
    if meant.kind in _DECODED:
        return [f"{begin}    return {_DECODED[meant.kind][1]}"]
    shape = ", ".join(["-1", *["1"] * positions])
    return [
        f"{begin}"
        "    outputs = outputs.detach().cpu().double()\n"
        f"    mean = torch.tensor(OUTPUT_MEAN, dtype=outputs.dtype).reshape({shape})\n"
        f"    deviation = torch.tensor(OUTPUT_DEVIATION, dtype=outputs.dtype).reshape({shape})\n"
        "    return outputs * deviation + mean"
    ]
