"""Networks whose convolutions are searched: wide residual networks, a temporal one, and the user's own."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from nasfw.spaces import exported
from nasfw.spaces.pde import pde
from nasfw.values import UsageError

Shape = tuple[int, ...]
Factory = Callable[..., nn.Module]


def wrn(
    input_shape: Shape, output_shape: Shape, depth: int = 16, width: int = 1, channels: int = 16
) -> nn.Module:
    """Wide residual network WRN-depth-width for maps of shape (channels, height, width).

    Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016; as in DASH (Shen et al., NeurIPS 2022) the
    second convolution of a block has the stride and all have a bias. Batch norms keep torch's momentum. For
    an output shape (channels, height, width) no stride is taken and nothing is pooled. ``channels`` are those
    of the stem and, times ``width``, of the first of three stages. ``depth`` is 6 n + 4; UsageError for any
    other, and for shapes that do not fit.
    """
    dense = is_dense("backbone wrn", input_shape, output_shape, 2)
    if depth < 10 or (depth - 4) % 6:
        raise UsageError(f"depth {depth} is no depth of a WRN; 10, 16, 22, 28 and so on are")
    if width < 1:
        raise UsageError(f"width {width} is not possible; it must be at least 1")
    first = _at_least_one(channels) * width
    stem = nn.Conv2d(input_shape[0], channels, 3, padding=1)
    blocks = nn.Sequential()
    for stage, planes in enumerate((first, 2 * first, 4 * first)):
        for i in range((depth - 4) // 6):
            stride = 2 if stage > 0 and i == 0 and not dense else 1
            blocks.append(WideBlock(channels, planes, stride))
            channels = planes
    end = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
    return initialise(Backbone(stem, blocks, end, head(channels, output_shape)))


def paper_channels(classes: int) -> int:
    """Channels of DASH's 1-D network in its first block: 4 up to 9 classes, 16 up to 19, then 64."""
    return int(min(4 ** min(classes // 10 + 1, 3), 64))


def wrn1d(input_shape: Shape, output_shape: Shape, channels: int | None = None) -> nn.Module:
    """Residual network of three blocks for series of shape (channels, length).

    Wang, Yan and Oates, "Time Series Classification from Scratch with Deep Neural Networks", IJCNN 2017, as
    DASH uses it: blocks of m, 2 m and 2 m channels. m is ``channels``, or by default ``paper_channels`` but
    at least 16, since 4 channels learn too little of most series. Their first kernel has 8 taps; here it has
    7, since an even kernel has no centre.
    UsageError for shapes that do not fit.
    """
    is_dense("backbone wrn1d", input_shape, output_shape, 1)
    # The exponent is bounded so that thousands of classes do not make a number of thousands of digits.
    least = max(16, paper_channels(output_shape[0]))
    m = least if channels is None else _at_least_one(channels)
    blocks = nn.Sequential()
    last = input_shape[0]
    for planes in (m, 2 * m, 2 * m):
        blocks.append(SeriesBlock(last, planes, ((7, 1), (5, 1), (3, 1))))
        last = planes
    return initialise(Backbone(nn.Identity(), blocks, nn.Identity(), head(last, output_shape)))


def tcn(
    input_shape: Shape, output_shape: Shape, channels: int = 32, levels: int = 4, kernel_size: int = 5
) -> nn.Module:
    """Temporal convolutional network for series of shape (channels, length).

    Bai, Kolter and Koltun, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for
    Sequence Modeling", 2018: residual blocks of two convolutions, of dilation 1, 2, 4, and so on; here
    centred instead of causal, and batch-normalised. UsageError for shapes that do not fit.
    """
    is_dense("backbone tcn", input_shape, output_shape, 1)
    blocks = nn.Sequential()
    last = input_shape[0]
    for level in range(levels):
        blocks.append(SeriesBlock(last, _at_least_one(channels), ((kernel_size, 2**level),) * 2))
        last = channels
    return initialise(Backbone(nn.Identity(), blocks, nn.Identity(), head(last, output_shape)))


BACKBONES: Mapping[str, Factory] = {"wrn": wrn, "wrn1d": wrn1d, "tcn": tcn, "pde": pde}
# Those whose weights ``initialise`` draws; the others have what torch draws.
INITIALISED = frozenset(("wrn", "wrn1d", "tcn"))


class Backbone(nn.Module):
    """Stem, blocks, end, mean over all positions unless the head is a convolution, head."""

    def __init__(self, stem: nn.Module, blocks: nn.Module, end: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.end, self.head = stem, blocks, end, head

    def forward(self, x: Tensor) -> Tensor:
        x = self.end(self.blocks(self.stem(x)))
        return self.head(x.flatten(2).mean(2) if isinstance(self.head, nn.Linear) else x)  # type: ignore[no-any-return]


class WideBlock(nn.Module):
    """Twice batch norm, ReLU and convolution, with dropout between; plus the input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(0.0)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1)
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        # In place, as no gradient needs what a batch norm returned: fresh memory of this size is slow.
        y = self.dropout(self.conv1(F.relu(self.bn1(x), inplace=True)))
        return self.conv2(F.relu(self.bn2(y), inplace=True)) + self.shortcut(x)  # type: ignore[no-any-return]


class SeriesBlock(nn.Module):
    """Convolution, dropout, batch norm, ReLU for each kernel; the input joins before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, kernels: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.count = len(kernels)
        for i, (k, d) in enumerate(kernels, 1):
            conv = nn.Conv1d(inputs if i == 1 else outputs, outputs, k, padding=(k - 1) * d // 2, dilation=d)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"dropout{i}", nn.Dropout(0.0))
            self.add_module(f"bn{i}", nn.BatchNorm1d(outputs))
        match = nn.Sequential(nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs))
        self.shortcut = match if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            for part in ("conv", "dropout", "bn"):
                y = self.get_submodule(f"{part}{i}")(y)
            # In place, as no gradient needs what a batch norm returned: fresh memory of this size is slow.
            y = F.relu(y.add_(self.shortcut(x)) if i == self.count else y, inplace=True)
        return y


def initialise(module: nn.Module) -> nn.Module:
    """``module``, its convolutions with Xavier-uniform weights of gain sqrt(2) and zero bias."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.xavier_uniform_(part.weight, math.sqrt(2))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


def located(reference: str) -> str:
    """``reference``, or what names the same network for good if that is in a folder; UsageError if none is.

    What "runs/latest" means changes when the next run starts.
    """
    plain = reference == "auto" or reference in BACKBONES
    return exported.located(reference) if not plain and exported.is_place(reference) else reference


def find(reference: str) -> Factory:
    """The factory of a backbone: built-in, "package:function" or exported by a run; UsageError if none."""
    if reference in BACKBONES:
        return BACKBONES[reference]
    if exported.is_place(reference):
        return lambda: exported.network(reference)
    if ":" in reference:
        return function(reference)
    close = difflib.get_close_matches(reference, BACKBONES, 1)
    hint = f"did you mean {close[0]!r}" if close else f"there are {', '.join(BACKBONES)}"
    raise UsageError(
        f"no backbone is called {reference!r}; {hint}, or package:function for your own network, or a run's "
        "folder for the one that it chose"
    )


def function(reference: str) -> Factory:
    """What "package:function" names, the working directory included; UsageError if there is none."""
    package, colon, name = reference.partition(":")
    if not (package and colon and name):
        raise UsageError(f"backbone {reference!r} is not of the form package:function")
    here = str(Path.cwd())
    if here not in sys.path:
        # Last, so that a user's file cannot hide an installed package.
        sys.path.append(here)
    try:
        found = importlib.import_module(package)
    except Exception as error:
        raise UsageError(
            f"backbone {reference!r}: {package} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"backbone {reference!r}: {package} has no {name!r}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"backbone {reference!r}: {name} is no function and no class")
    return found


def accepts(factory: Factory, parameter: str) -> bool:
    """Whether ``factory`` has a parameter of that name."""
    try:
        return parameter in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def make(reference: str, input_shape: Shape, output_shape: Shape, **settings: int) -> nn.Module:
    """The network that a backbone's factory returns; UsageError if it fails or returns anything else.

    It is called with the two shapes and the ``settings`` that it has parameters for, or with nothing if it
    takes nothing.
    """
    factory, name = find(reference), exported.called(reference)
    try:
        takes = bool(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        takes = True
    known = {name: value for name, value in settings.items() if accepts(factory, name)}
    try:
        model = factory(input_shape, output_shape, **known) if takes else factory()
    except UsageError:
        raise
    except Exception as error:
        call = f"{name}({input_shape}, {output_shape})" if takes else f"{name}()"
        raise UsageError(f"backbone {call} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"backbone {reference!r} returned {type(model).__name__}, not a torch.nn.Module")
    for path, p in model.named_parameters():
        if isinstance(p, UninitializedParameter):
            layer = path.rpartition(".")[0] or "itself"
            raise UsageError(
                f"backbone {name!r} has a lazy layer ({layer}), whose weights are made at its first input; "
                "give it its sizes instead"
            )
    return model


def head(channels: int, output_shape: Shape) -> nn.Module:
    """The last layer: for the channels' means, or for every position of dense prediction."""
    if len(output_shape) == 1:
        return nn.Linear(channels, output_shape[0])
    return (nn.Conv1d if len(output_shape) == 2 else nn.Conv2d)(channels, output_shape[0], 1)


def is_dense(who: str, input_shape: Shape, output_shape: Shape, dims: int) -> bool:
    """Whether every position has an output of its own; UsageError, from ``who``, if shapes do not fit."""
    if len(input_shape) != dims + 1:
        kind = "series (channels, length)" if dims == 1 else "maps (channels, height, width)"
        raise UsageError(f"{who} is for {kind}; inputs have the shape {tuple(input_shape)}")
    if len(output_shape) == 1 or output_shape[1:] == input_shape[1:]:
        return len(output_shape) > 1
    raise UsageError(
        f"{who} gives outputs of shape (classes,) or, for inputs of shape {tuple(input_shape)}, "
        f"{('channels', *input_shape[1:])}; the task needs {tuple(output_shape)}"
    )


def _at_least_one(channels: int) -> int:
    if channels < 1:
        raise UsageError(f"channels {channels} is not possible; it must be at least 1")
    return channels
