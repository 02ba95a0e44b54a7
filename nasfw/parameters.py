"""Parameters of plugins: read from annotations, validated, described, with errors in one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from nasfw.hints import brief, meant
from nasfw.values import UsageError

CONTEXT = ("task", "device")  # fields of plugins that the engine fills; not parameters

_CONFIG = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True, allow_inf_nan=False)


class PluginError(UsageError):
    """A plugin breaks the rules for plugins; the message names it and the rule."""


@dataclass(frozen=True)
class Spec:
    """A plugin by name, with the parameters that differ from its defaults."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a plugin; ``type`` and ``help`` are text for people."""

    name: str
    type: str
    default: Any
    required: bool
    help: str


def as_spec(value: object, what: str = "plugin") -> Any:
    """``value`` as a Spec if it is a name or ``{name: {parameter: value}}``; an object as it is."""
    if isinstance(value, Spec):
        return value
    if isinstance(value, str):
        return Spec(value)
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, parameters),) = value.items()
        parameters = {} if parameters is None else parameters
        if isinstance(name, str) and isinstance(parameters, Mapping):
            return Spec(name, dict(parameters))
    if isinstance(value, type):
        raise UsageError(
            f"{what} is given the class {value.__name__}; give an instance, {value.__name__}(...)"
        )
    if value is None or isinstance(value, (bool, int, float, bytes, Mapping, list, tuple, set)):
        raise UsageError(f"{what} must be a name or {{name: {{parameter: value}}}}, not {brief(value)}")
    return value


def validated(
    owner: str, plugin: type, given: Mapping[str, Any], hidden: Collection[str] = CONTEXT
) -> dict[str, Any]:
    """``given`` converted to the types that the dataclass ``plugin`` annotates.

    UsageError names the parameter that is unknown, missing, or of the wrong type or range; ``owner`` is
    what the user calls the plugin.
    """
    _hints(plugin)  # refuses annotations that cannot be read, whatever is given
    fields = _fields(plugin, hidden)
    for name in given:
        if name not in fields:
            raise UsageError(f"{owner} has no parameter {name!r}{suggestion(str(name), fields)}")
    missing = [name for name, f in fields.items() if name not in given and not is_optional(f)]
    if missing:
        raise UsageError(f"{owner} needs the parameter {missing[0]!r}, which has no default")
    prefix = f"{owner}." if owner else ""
    return {name: convert(prefix + name, _model(plugin, name), value) for name, value in given.items()}


@lru_cache(maxsize=1024)
def _model(plugin: type, name: str) -> type[BaseModel]:
    """What converts one parameter; each has its own, which takes a millisecond or more to make."""
    # A model accepts every annotation and name, which a type adapter does not.
    return create_model("Parameter", __config__=_CONFIG, value=(_hints(plugin)[name], ...))


def convert(label: str, model: type[BaseModel], value: Any) -> Any:
    """``value`` by the ``model`` of a parameter; UsageError calls it ``label`` and says why it cannot be."""
    try:
        result = model(value=value).value  # type: ignore[attr-defined]
    except ValidationError as error:
        raise UsageError(_sentence(label, value, error)) from None
    # To Python True is 1; to a person it is not.
    if isinstance(value, bool) and isinstance(result, (int, float)) and not isinstance(result, bool):
        raise UsageError(f"{label} cannot be {value}: it should be a number")
    return result


def _sentence(label: str, value: object, error: ValidationError) -> str:
    """What pydantic found, in one sentence without its jargon."""
    errors = error.errors(include_url=False)
    cause = errors[0].get("ctx", {}).get("error")
    if isinstance(cause, UsageError):
        return str(cause)
    # Each member of a union contributes an error: together they say what is possible.
    items = [part for part in errors[0]["loc"] if isinstance(part, int)] if len(errors) == 1 else []
    where = "".join(f"item {i + 1} of " for i in reversed(items)) + label
    given = errors[0]["input"] if len(errors) == 1 else value
    reasons = dict.fromkeys(_reason(e["msg"]) for e in errors)
    hint = _nearest(errors[0].get("ctx", {}).get("expected"), given)
    return f"{where} cannot be {brief(given)}: it {' or it '.join(reasons)}{hint}"


def _reason(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ").partition(", unable to")[0]
    for technical, plain in _PLAIN.items():
        text = text.replace(technical, plain)
    return text[:1].lower() + text[1:]


_PLAIN = {
    "a valid tuple": "a list, as in [3,5]",
    "a valid list": "a list, as in [3,5]",
    "a valid dictionary": "a mapping, as in {name: value}",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
}


def _nearest(expected: object, given: object) -> str:
    options = re.findall(r"'([^']+)'", str(expected or ""))
    hint = meant(str(given), options)
    return f"; {hint}" if hint else ""


def _fields(plugin: type, hidden: Collection[str] = CONTEXT) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(plugin) if f.init and f.name not in hidden}


def is_optional(f: dataclasses.Field[Any]) -> bool:
    """Whether a dataclass field has a default."""
    return f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING


@lru_cache(maxsize=1024)
def _hints(plugin: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(plugin, include_extras=True)
    except NameError as error:
        raise PluginError(
            f"the annotations of {plugin.__module__}.{plugin.__qualname__} cannot be read: {error}; "
            "their names must be imported at run time, not only under TYPE_CHECKING"
        ) from error


def context(plugin: type) -> dict[str, bool]:
    """The context fields of a plugin class, and whether it needs them."""
    found = [f for f in dataclasses.fields(plugin) if f.init and f.name in CONTEXT]
    hints = _hints(plugin) if found else {}
    # ``device: Device`` inherits the contract's default None, though its annotation excludes it.
    needed = {f.name: f.default is None and type(None) not in typing.get_args(hints[f.name]) for f in found}
    return {f.name: needed[f.name] or not is_optional(f) for f in found}


def described(plugin: type) -> list[Parameter]:
    """The parameters of a plugin class, in the order of its fields."""
    hints = _hints(plugin)
    return [_parameter(plugin, f, hints[f.name]) for f in _fields(plugin).values()]


def _parameter(plugin: type, f: dataclasses.Field[Any], hint: Any) -> Parameter:
    default = f.default
    if f.default_factory is not dataclasses.MISSING:
        default = f.default_factory()
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    texts = [e if isinstance(e, str) else e.description for e in extras if isinstance(e, (str, FieldInfo))]
    text = next((t for t in texts if t), "") or _documented(plugin, f.name)
    required = not is_optional(f)
    return Parameter(f.name, readable(hint), None if required else default, required, text)


def _documented(plugin: type, name: str) -> str:
    """The sentence of the class docstring that speaks of ``name``."""
    paragraphs = (inspect.getdoc(plugin) or "").split("\n\n")
    sentences = [s for p in paragraphs for s in re.split(r"(?<=[.;])\s+", " ".join(p.split()))]
    found = next((s for s in sentences if f"``{name}``" in s), "")
    return found.replace("``", "").rstrip(".;")


def readable(hint: Any) -> str:
    """A type as a person writes it, with the bounds that pydantic will check."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = [m for e in arguments[1:] for m in (e.metadata if isinstance(e, FieldInfo) else [e])]
        signs = [f"{s} {getattr(b, a)}" for b in bounds for a, s in _SIGNS.items() if hasattr(b, a)]
        return readable(arguments[0]) + (f" ({', '.join(signs)})" if signs else "")
    if origin is Literal:
        return " | ".join(repr(a) for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(readable(a) for a in arguments)
    if origin is not None and arguments:
        inner = (readable(a) if not isinstance(a, list) else "..." for a in arguments)
        return f"{getattr(origin, '__name__', origin)}[{', '.join(inner)}]"
    if hint is type(None) or hint is Ellipsis:
        return "None" if hint is not Ellipsis else "..."
    return str(getattr(hint, "__name__", hint))


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, then all of them."""
    hint, listed = meant(name, known), f"Known: {', '.join(sorted(known)) or 'none'}"
    return f"; {hint} {listed}" if hint else f". {listed}"


def plain(value: Any) -> Any:
    """Any value as JSON values."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Spec):
        return {value.name: plain(value.parameters)} if value.parameters else value.name
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _array(value)
    return {type(value).__name__: _described(value)}


def _described(value: Any) -> dict[str, Any]:
    if callable(getattr(value, "fingerprint", None)):
        return {"fingerprint": str(value.fingerprint())}
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    name = getattr(value, "__qualname__", None)
    return {"name": f"{value.__module__}.{name}"} if name else {}


def _array(value: Any) -> str:
    import numpy as np

    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
    return f"{array.dtype} {'x'.join(map(str, array.shape))} {content}"
