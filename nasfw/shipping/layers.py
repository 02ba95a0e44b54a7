"""The parts of a network as the lines of Python that make them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor, nn

from nasfw.shipping.forward import Body, numbered, place

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Module)
# Constants with more numbers than this go into the file of the weights.
_INLINE = 16


def constructor(module: nn.Module) -> str | None:
    """The expression that makes a layer of torch.nn like ``module``; None if there is none."""
    home = _home(type(module))
    if home is None or module._forward_hooks or module._forward_pre_hooks:
        return None
    dtypes = {p.dtype for p in module.parameters()} - {torch.float32}
    suffix = "".join(f".to({dtype})" for dtype in dtypes)
    for arguments in (_brief, _shortened, _attributes):
        try:
            text = f"nn.{home.__name__}({arguments(module, home)}){suffix}"
            with torch.device("meta"):
                made = eval(text, {"nn": nn, "torch": torch})
            if _form(made) == _form(module):
                return text
        # What a layer says of itself is meant for people, and need not be Python.
        except Exception:
            continue
    return None


def _home(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class of torch.nn whose layers compute what those of ``kind`` do; None if there is none."""
    own: set[str] = set()
    for parent in kind.__mro__:
        if parent.__module__.startswith("torch.nn.modules."):
            changed = {n for n in own if hasattr(parent, n)} - {"extra_repr", "reset_parameters"}
            public = getattr(nn, parent.__name__, None) is parent and parent not in _CONTAINERS
            return parent if public and not changed else None
        own |= {n for n in vars(parent) if not n.startswith("__") or n == "__call__"}
    return None


def _form(module: nn.Module) -> list[object]:
    """All settings of a layer, and the shapes and types of its state."""
    state: list[object] = [(n, v.shape, v.dtype) for n, v in module.state_dict().items()]
    names = [[n for n in vars(m) if n[0] != "_" and n != "training"] for m in module.modules()]
    return state + [{n: vars(m)[n] for n in own} for m, own in zip(module.modules(), names, strict=True)]


def _brief(module: nn.Module, home: type[nn.Module]) -> str:
    """What the layer says of itself, without what holds by default and with 3 for (3, 3)."""
    return _shortened(module, home, True)


def _shortened(module: nn.Module, home: type[nn.Module], single: bool = False) -> str:
    """What the layer says of itself, without what holds by default."""
    call = ast.parse(f"f({home.extra_repr(module)})", mode="eval").body
    defaults = inspect.signature(home).parameters
    parts = [ast.unparse(a) for a in call.args]  # type: ignore[attr-defined]
    for word in call.keywords:  # type: ignore[attr-defined]
        value = ast.literal_eval(word.value)
        value = value[0] if single and isinstance(value, tuple) and len(set(value)) == 1 else value
        if defaults[word.arg].default != value:
            parts.append(f"{word.arg}={value!r}")
    return ", ".join(parts)


def _attributes(module: nn.Module, home: type[nn.Module]) -> str:
    """Arguments taken from the attributes of the same names."""
    parts = []
    for name, parameter in inspect.signature(home).parameters.items():
        value = getattr(module, name, parameter.default)
        value = (value is not None and value is not False) if name == "bias" else value
        if value is not parameter.empty and name not in ("device", "dtype"):
            parts.append(f"{name}={value!r}")
    return ", ".join(parts)


class Parts:
    """The ``lines`` that make the parts of a network, and the ``constants`` that its weights' file holds."""

    def __init__(self, model: nn.Module, values: nn.Module, body: Body, layers: bool) -> None:
        self.model, self.layers = model, layers
        self.lines: list[str] = []
        self.constants: dict[str, Tensor] = {}
        self.made: dict[int, str] = {}
        stored = {n for n, _ in model.named_parameters(remove_duplicate=False)}
        stored |= {n for n, _ in model.named_buffers(remove_duplicate=False)}
        used = stored | body.tensors | (body.modules if layers else set())
        self.needed = {part for path in used for part in _prefixes(path)}
        self._inside(model, "")
        for path in sorted(body.tensors - stored):
            self._constant(path, reduce(getattr, path.split("."), values))  # type: ignore[arg-type]

    def _inside(self, module: nn.Module, path: str) -> None:
        front = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self._parameter(front + name, parameter)
        for name, buffer in module._buffers.items():
            if buffer is not None and name in module._non_persistent_buffers_set:
                self._constant(front + name, buffer)
            elif buffer is not None:
                self._buffer(front + name, _zeros(buffer))
        for name, child in module._modules.items():
            if child is not None:
                self._module(module, front + name, child)

    def _module(self, parent: nn.Module, path: str, child: nn.Module) -> None:
        made = self.made.get(id(child))
        if not (path in self.needed or child.state_dict() or numbered(parent)):
            return
        text = made or (constructor(child) if self.layers else None)
        inside = text is None
        if inside and (path in self.needed or child.state_dict()):
            text = f"nn.{container(child)}()"
        learned = [parameter.requires_grad for parameter in child.parameters()]
        frozen = not (inside or made or any(learned)) and bool(learned)
        self._put(parent, path, f"{text or 'nn.Identity()'}{'.requires_grad_(False)' * frozen}")
        self.made.setdefault(id(child), place(self.model, path))
        if inside:
            self._inside(child, path)
        elif not made:
            for name, parameter in child.named_parameters():
                self._parameter(f"{path}.{name}", parameter, exists=True)
                if not (parameter.requires_grad or frozen):
                    self.lines.append(f"{place(self.model, f'{path}.{name}')}.requires_grad_(False)")

    def _put(self, parent: nn.Module, path: str, text: str) -> None:
        whole, _, name = path.rpartition(".")
        owner = place(self.model, whole) if whole else "self"
        where = place(self.model, path)
        if numbered(parent):
            self.lines.append(f"{owner}.append({text})")
        elif where.startswith("getattr"):
            self.lines.append(f'{owner}.add_module("{name}", {text})')
        else:
            self.lines.append(f"{where} = {text}")

    def _parameter(self, path: str, parameter: Tensor, exists: bool = False) -> None:
        """A parameter of its own, or the one of another name that it is tied to."""
        where, made = place(self.model, path), self.made.get(id(parameter))
        whole, _, name = path.rpartition(".")
        owner = place(self.model, whole) if whole else "self"
        if not made:
            self.made[id(parameter)] = where
        if made or not exists:
            learned = "" if parameter.requires_grad else ", requires_grad=False"
            text = made or f"nn.Parameter({_zeros(parameter)}{learned})"
            plain = not where.startswith("getattr")
            self.lines.append(
                f"{where} = {text}" if plain else f'{owner}.register_parameter("{name}", {text})'
            )

    def _constant(self, path: str, value: Tensor) -> None:
        """A tensor that is no part of the network's own state: in the code if small, or in the file."""
        value = value.detach()
        known = ("", f", dtype={value.dtype}")[value.dtype not in (torch.float32, torch.int64, torch.bool)]
        if 0 < value.numel() <= _INLINE and _finite(value):
            self._buffer(path, f"torch.tensor({value.tolist()}{known}), persistent=False")
        else:
            self.constants[path] = value
            self._buffer(path, _zeros(value))

    def _buffer(self, path: str, text: str) -> None:
        whole, _, name = path.rpartition(".")
        owner = place(self.model, whole) if whole else "self"
        self.lines.append(f'{owner}.register_buffer("{name}", {text})')


def _finite(value: Tensor) -> bool:
    # Not every type knows what is finite.
    return bool(torch.isfinite(value.to(torch.complex128)).all())


def container(module: nn.Module) -> str:
    """The container of torch.nn that holds the parts of ``module`` under the same names."""
    return next(kind.__name__ for kind in _CONTAINERS if isinstance(module, kind))


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts) + 1))


def _zeros(like: Tensor) -> str:
    dtype = "" if like.dtype == torch.float32 else f", dtype={like.dtype}"
    return f"torch.zeros({', '.join(map(str, like.shape)) or '()'}{dtype})"
