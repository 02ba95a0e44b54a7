"""The registry of plugins: what there is, from which package, with which parameters."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from nasfw.outline import outline
from nasfw.parameters import (
    Parameter,
    PluginError,
    Spec,
    as_spec,
    context,
    described,
    suggestion,
    validated,
)
from nasfw.values import UsageError

log = logging.getLogger("nasfw")

PROJECT = "nasfw"
KINDS = ("task", "space", "strategy", "objective", "device", "executor")

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """The one hook."""

    @hookspec
    def nasfw_register(self, registry: Registry) -> None:
        """Add this package's plugins to ``registry`` with ``add`` or ``add_lazy``."""


@dataclass(frozen=True)
class Broken:
    """An entry point that could not be used, and why, in one line."""

    package: str
    version: str
    name: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """A registered plugin; ``reference`` is ``module:Class``."""

    kind: str
    name: str
    package: str
    version: str
    reference: str
    summary: str = ""

    def load(self) -> type:
        """The plugin's class, imported and checked; PluginError names what is wrong with it."""
        module, _, qualname = self.reference.partition(":")
        try:
            plugin: Any = importlib.import_module(module)
            for attribute in qualname.split("."):
                plugin = getattr(plugin, attribute)
        except (Exception, SystemExit) as error:
            reason = _one_line(error)
            raise PluginError(
                f"{self.kind} {self.name!r} of package {self.package} cannot be imported: {reason}"
            ) from error
        return self._checked(plugin)

    def _checked(self, plugin: Any) -> type:
        if not isinstance(plugin, type) or kind_of(plugin) != self.kind:
            raise PluginError(f"{self.reference} of package {self.package} is no {self.kind}")
        return _check_class(self.name, plugin)


@dataclass(frozen=True)
class _Loaded(Entry):
    """An entry that was registered with its class."""

    plugin: type = field(default=object, compare=False, repr=False)

    def load(self) -> type:
        return self.plugin


class Registry:
    """All plugins that were found. ``broken`` lists the entry points that could not be used."""

    def __init__(self) -> None:
        self.broken: list[Broken] = []
        self._entries: dict[tuple[str, str], Entry] = {}
        self._source = ("unnamed", "")

    def add(self, name: str, plugin: type) -> None:
        """Register a class; its contract says its kind. PluginError if it does not fulfil it."""
        kind = kind_of(plugin) if isinstance(plugin, type) else None
        if kind is None:
            raise PluginError(
                f"plugin {name!r} ({plugin!r}) fulfils no contract; derive its class from one of "
                "nasfw.contracts: Task, SearchSpace, Strategy, Objective, Device, Executor"
            )
        _check_class(name, plugin)
        reference = f"{plugin.__module__}:{plugin.__qualname__}"
        summary = (inspect.getdoc(plugin) or "").partition("\n")[0]
        self._insert(_Loaded(kind, name, *self._source, reference, summary, plugin))

    def add_lazy(self, kind: str, name: str, reference: str, summary: str = "") -> None:
        """Register the class at ``module:Class``, which is imported when it is first used."""
        if kind not in KINDS:
            raise PluginError(f"plugin {name!r}: there is no kind {kind!r}{suggestion(kind, KINDS)}")
        if not all(reference.partition(":")):
            raise PluginError(f"plugin {name!r}: {reference!r} is not of the form 'module:Class'")
        self._insert(Entry(kind, name, *self._source, reference, summary))

    def _insert(self, entry: Entry) -> None:
        if not re.fullmatch(r"[\w-]+", entry.name):
            raise PluginError(f"a plugin's name is made of letters, digits, - and _, unlike {entry.name!r}")
        former = self._entries.get((entry.kind, entry.name))
        if former is not None:
            raise UsageError(
                f"{entry.kind} {entry.name!r} is offered twice: by package {former.package} "
                f"({former.reference}) and by package {entry.package} ({entry.reference})"
            )
        self._entries[entry.kind, entry.name] = entry

    def include(self, plugin: object, package: str, version: str = "") -> None:
        """Call the hook of ``plugin`` (a module or object); all that it registers, or nothing, stays."""
        # A manager of its own for each plugin: one that raises cannot keep the others from running.
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(Hooks)
        manager.register(plugin)
        if not manager.hook.nasfw_register.get_hookimpls():
            raise PluginError("it has no function nasfw_register marked with nasfw.hookimpl")
        entries, source = dict(self._entries), self._source
        self._source = (package, version)
        try:
            manager.hook.nasfw_register(registry=self)
        except BaseException:
            self._entries = entries
            raise
        finally:
            self._source = source

    def entries(self, kind: str | None = None) -> list[Entry]:
        """What is registered, in the order of KINDS and names."""
        chosen = [e for e in self._entries.values() if kind in (None, e.kind)]
        return sorted(chosen, key=lambda e: (KINDS.index(e.kind), e.name))

    def find(self, kind: str, name: str) -> Entry:
        """The plugin of that kind and name; UsageError with a suggestion if there is none."""
        entry = self._entries.get((kind, name))
        if entry is not None:
            return entry
        others = [other for other in KINDS if (other, name) in self._entries]
        known = [e.name for e in self.entries(kind)]
        message = f"no {kind} is called {name!r}"
        if others:
            article = "an" if others[0][0] in "aeo" else "a"
            message += f"; {name!r} is {article} {others[0]}. Known: {', '.join(known) or 'none'}"
        else:
            message += suggestion(name, known)
        for broken in self.broken:
            message += f" (not available: package {broken.package}: {broken.reason})"
        raise UsageError(message)

    def parameters(self, entry: Entry) -> list[Parameter]:
        """The parameters of a plugin, in the order of its fields; the context fields are left out."""
        return described(entry.load())

    def glance(self, kind: str, spec: object) -> None:
        """Refuse unknown and unsuitable parameters as far as that takes no import of the plugin."""
        spec = as_spec(spec, kind)
        if isinstance(spec, Spec):
            sketch = outline(self.find(kind, spec.name).reference)
            if sketch is not None:
                validated(spec.name, sketch, spec.parameters)

    def check(self, kind: str, spec: object) -> Any:
        """The spec with its parameters converted to their types; UsageError says what is wrong with it.

        The plugin is also constructed, if it can be without context, as its own checks run there. An
        instance is returned as it is.
        """
        checked = as_spec(spec, kind)
        if not isinstance(checked, Spec):
            return checked
        plugin = self.find(kind, checked.name).load()
        arguments = validated(checked.name, plugin, checked.parameters)
        if not any(context(plugin).values()):
            _construct(checked.name, plugin, arguments)
        return Spec(checked.name, arguments)

    def make(self, kind: str, spec: object, *, task: object = None, device: object = None) -> Any:
        """The plugin that ``spec`` describes, given ``task`` and ``device`` if it has fields for them.

        ``spec`` is a Spec, a name, ``{name: {parameter: value}}``, or an instance, which is returned.
        """
        spec = as_spec(spec, kind)
        if not isinstance(spec, Spec):
            return spec
        plugin = self.find(kind, spec.name).load()
        arguments = validated(spec.name, plugin, spec.parameters)
        given = {"task": task, "device": device}
        for name, needed in context(plugin).items():
            if given[name] is not None:
                arguments[name] = given[name]
            elif needed:
                hint = "; name one with hardware=[...]" if name == "device" else ""
                raise UsageError(f"{kind} {spec.name!r} needs a {name}, and there is none{hint}")
        return _construct(spec.name, plugin, arguments)


def load(entry_points: bool = True) -> Registry:
    """The plugins that ship with nasfw and, with ``entry_points``, those of all installed packages."""
    registry = Registry()
    try:
        version = importlib.metadata.version(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    registry.include(importlib.import_module("nasfw.builtin"), PROJECT, version)
    if entry_points:
        discover(registry)
    return registry


def discover(registry: Registry) -> None:
    """Add the plugins of installed packages; one that fails is logged and listed in ``registry.broken``."""
    for point in _entry_points():
        package = point.dist.name if point.dist else "unknown"
        version = point.dist.version if point.dist else ""
        try:
            registry.include(point.load(), package, version)
        # What a third party's import raises is unknown; it must not keep nasfw from starting.
        except (Exception, SystemExit) as error:
            broken = Broken(package, version, point.name, _one_line(error))
            registry.broken.append(broken)
            log.warning("plugin %s of package %s is not available: %s", point.name, package, broken.reason)


def _entry_points() -> Iterator[importlib.metadata.EntryPoint]:
    points = importlib.metadata.entry_points(group=PROJECT)
    yield from sorted(points, key=lambda p: (p.dist.name if p.dist else "", p.name))


def kind_of(plugin: type) -> str | None:
    """Which contract a class fulfils."""
    from nasfw import contracts

    bases = dict(zip(KINDS, _CONTRACTS, strict=True))
    return next((k for k, base in bases.items() if issubclass(plugin, getattr(contracts, base))), None)


_CONTRACTS = ("Task", "SearchSpace", "Strategy", "Objective", "Device", "Executor")


def _construct(name: str, plugin: type, arguments: Mapping[str, Any]) -> Any:
    try:
        return plugin(**arguments)
    except UsageError:
        raise
    # A plugin's author may not know UsageError; construction does nothing but check its parameters.
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error


def _check_class(name: str, plugin: type) -> type:
    missing = sorted(getattr(plugin, "__abstractmethods__", ()))
    where = f"plugin {name!r} ({plugin.__module__}.{plugin.__qualname__})"
    if missing:
        raise PluginError(f"{where} lacks {', '.join(missing)}, which its contract requires")
    settings = vars(plugin).get("__dataclass_params__")
    if settings is None or not settings.frozen:
        raise PluginError(f"{where} must be decorated with @dataclass(frozen=True)")
    return plugin


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
