"""Networks that a run chose and exported, as backbones of another search."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from torch import nn

from nasfw.values import UsageError, digest

_MODEL, _WEIGHTS = "model.py", "weights.safetensors"
_SETTINGS, _RESULT, _EXPORT = "run.yaml", "result.json", "export"
# What an exported network is made of, besides layers.
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
# The file of a network, and digits that tell whether it is still the one that was meant.
_LOCATED = re.compile(r"(?P<file>.+)@(?P<digits>[0-9a-f]{16})", re.DOTALL)


def is_place(reference: str) -> bool:
    """Whether ``reference`` means a file or a folder."""
    return "/" in reference or "\\" in reference or Path(reference).expanduser().exists()


def located(reference: str) -> str:
    """Which network ``reference`` means, wherever and whenever that is read; UsageError if none.

    That is the absolute path of its ``model.py`` and digits made of its code and weights. ``reference`` is a
    run's folder, for the network that its search chose, a network's folder in ``export``, the ``model.py``
    there, or what this function returned. A run that is not finished, and searches a backbone of that kind
    itself, stands for that one: so its command, repeated, goes on, though "runs/latest" now means the run.
    """
    known = _LOCATED.fullmatch(reference)
    file = Path(known["file"]) if known else _file(Path(reference).expanduser())
    try:
        weights = file.with_name(_WEIGHTS)
        stored = weights.read_bytes() if weights.exists() else b""
        found = f"{file}@{digest(_code(file).encode(), stored)}"
    except (OSError, UnicodeDecodeError) as reason:
        raise UsageError(f"backbone {file} cannot be read: {reason}") from None
    if known and found != reference:
        raise UsageError(f"backbone {file} has changed since this search was begun with it")
    return found


def called(reference: str) -> str:
    """A backbone's name as people should read it: the folder of one that was exported."""
    known = _LOCATED.fullmatch(reference)
    return str(Path(known["file"]).parent) if known else reference


def network(reference: str) -> nn.Module:
    """The network that ``reference`` means, its layers with fresh weights.

    Parameters that belong to no layer of torch.nn have no rule to be drawn by, and neither have those that do
    not learn: these, and tables of constants, have the values that they were exported with.
    """
    file = Path(located(reference).rpartition("@")[0])
    module: Any = ModuleType(file.stem)
    module.__file__ = str(file)
    # Not as an import, which would leave compiled files in what was exported.
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), module.__dict__)
    made: nn.Module = module.Network()
    if kept := set(_undrawn(made)):
        stored = module.load(file.parent).state_dict()
        made.load_state_dict({n: v for n, v in stored.items() if n in kept}, strict=False)
    return made


def _undrawn(network: nn.Module) -> Iterator[str]:
    """Names in the network's state of what no layer draws anew."""
    for path, part in network.named_modules():
        front = f"{path}." if path else ""
        layer = part is not network and type(part) not in _CONTAINERS
        yield from (front + n for n, p in part._parameters.items() if not layer or _frozen(p))
        yield from (front + n for n in part._buffers if not layer)


def _frozen(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and not parameter.requires_grad


def _code(file: Path) -> str:
    """The text of the class in an exported ``model.py``; UsageError if there is none."""
    text = file.read_text(encoding="utf-8")
    try:
        classes = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == "Network")
        return ast.get_source_segment(text, next(classes)) or ""
    except (SyntaxError, StopIteration):
        raise UsageError(f"backbone {file} has no class Network; nasfw export writes such files") from None


def _file(place: Path) -> Path:
    """The ``model.py`` that a file or folder means; UsageError if it means none."""
    if not place.exists():
        raise UsageError(f"backbone {place}: there is no such file or folder")
    if place.is_file():
        return place.resolve()
    if (place / _MODEL).exists():
        return (place / _MODEL).resolve()
    if not (place / _SETTINGS).exists():
        raise UsageError(f"backbone {place} is no run's folder, and no network's that nasfw export wrote")
    return _chosen(place.resolve())


def _chosen(run: Path) -> Path:
    """The file of the network that a run chose; UsageError if it is not finished or exported none."""
    try:
        result = json.loads((run / _RESULT).read_text(encoding="utf-8"))
        final, name = result["phase"] == "final", str(result["pick"]["name"])
    except FileNotFoundError:
        return _begun_with(run)
    except (ValueError, TypeError, KeyError):
        final, name = False, ""
    if not final:
        raise UsageError(f"backbone {run}: that run has no network that was trained to the end")
    file = run / _EXPORT / name / _MODEL
    if not file.exists():
        raise UsageError(f"backbone {run}: that run's network is not exported; nasfw export {run} does it")
    return file


def _begun_with(run: Path) -> Path:
    """The file of the backbone that an unfinished run searches; UsageError if it is of another kind."""
    settings = yaml.safe_load((run / _SETTINGS).read_text(encoding="utf-8"))
    for space in settings["spaces"]:
        for parameters in space.values() if isinstance(space, dict) else ():
            known = _LOCATED.fullmatch(str(parameters.get("backbone")))
            if known:
                located(known.string)
                return Path(known["file"])
    raise UsageError(f"backbone {run}: that run is not finished; its command, given again, goes on there")
