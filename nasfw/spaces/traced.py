"""Which layers of a backbone can be searched, and which maps they meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from nasfw.contracts import Task
from nasfw.spaces.backbones import accepts, find, make, paper_channels
from nasfw.spaces.exported import called
from nasfw.values import UsageError

Size = tuple[int, ...]
_SPARED = ("downsample", "pool", "shortcut", "channel_match")
# As whole parts of a path, since these words are parts of others.
_SPARED_PARTS = frozenset(("head", "lift"))


def chosen_backbone(given: str, task: Task, builtin: Sequence[str]) -> str:
    """The backbone that is meant: "auto" stands for the one in ``builtin`` for so many axes; UsageError."""
    if given != "auto":
        return given
    dims = len(task.input_shape) - 1
    if not 1 <= dims <= len(builtin):
        kinds = ("(channels, length)", "(channels, height, width)", "(channels, depth, height, width)")
        raise UsageError(
            f"there is no built-in backbone for inputs of shape {tuple(task.input_shape)}; "
            f"there are some for {' and '.join(kinds[: len(builtin)])}"
        )
    return builtin[dims - 1]


def fresh(name: str, task: Task, **settings: int | str | None) -> nn.Module:
    """A backbone with new weights; settings that are None, or that it has no parameter for, are left out."""
    outputs = tuple(task.output_shape)
    known = {key: value for key, value in settings.items() if value is not None}
    if known.get("channels") == "paper":
        # Only one backbone has a published rule; the paper's preset is for all of them.
        del known["channels"]
        if name == "wrn1d":
            known["channels"] = paper_channels(outputs[0])
    numbers = {key: value for key, value in known.items() if not isinstance(value, str)}
    return make(name, tuple(task.input_shape), outputs, **numbers)


def check_settings(name: str, **settings: int | str | None) -> None:
    """UsageError for a setting that is given and that the backbone has no parameter for."""
    factory = find(name)
    for key, value in settings.items():
        if value is not None and not accepts(factory, key):
            raise UsageError(f"backbone {called(name)!r} has no parameter {key}")


def check_positive(**settings: int | str | None) -> None:
    """UsageError for a number below 1."""
    for name, value in settings.items():
        if isinstance(value, int) and value < 1:
            raise UsageError(f"{name} {value} is not possible; it must be at least 1")


def searchable(network: nn.Module, suits: Callable[[nn.Module], object]) -> Iterator[tuple[str, nn.Module]]:
    """The layers that may be replaced and that ``suits`` accepts, by their paths."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for module, (name, *others) in names.items():
        spared = any(word in name for word in _SPARED) or _SPARED_PARTS & {*name.split(".")}
        # Left alone: the root, modules with several names, and weights that a hook computes (weight norm).
        if name and not others and not spared and not module._forward_pre_hooks and suits(module):
            yield name, module


def met(
    name: str, network: nn.Module, task: Task, suits: Callable[[nn.Module], object]
) -> dict[str, tuple[nn.Module, list[Size]]]:
    """The searchable layers that a run of backbone ``name`` meets, with the sizes of their inputs.

    UsageError if it cannot process the task's inputs, or gives outputs of another shape.
    """
    network.eval()
    name = called(name)
    layers = list(searchable(network, suits))
    sizes: dict[str, list[Size]] = {path: [] for path, _ in layers}
    for path, module in layers:
        module.register_forward_pre_hook(
            lambda _, inputs, path=path: sizes[path].append(tuple(inputs[0].shape[2:]))
        )
    shape, wanted = tuple(task.input_shape), tuple(task.output_shape)
    try:
        with torch.no_grad():
            output = network(torch.zeros(1, *shape))
    except Exception as error:
        raise UsageError(
            f"backbone {name!r} cannot process an input of shape {shape}: {type(error).__name__}: {error}"
        ) from error
    given = tuple(output.shape[1:]) if isinstance(output, Tensor) else type(output).__name__
    if given != wanted:
        raise UsageError(f"backbone {name!r} gives an output of shape {given}; the task needs {wanted}")
    return {path: (module, list(dict.fromkeys(sizes[path]))) for path, module in layers if sizes[path]}
