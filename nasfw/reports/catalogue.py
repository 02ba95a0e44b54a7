"""The plugins that there are, and what each of them is and can be set to."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.text import Text

from nasfw.display import text_table
from nasfw.experiments import EXPERIMENTS
from nasfw.parameters import suggestion
from nasfw.plugins import Registry
from nasfw.values import UsageError


def catalogue(registry: Registry) -> RenderableType:
    """All plugins by kind, name, package and version; those that could not be loaded below."""
    rows = [
        {"kind": e.kind, "name": e.name, "package": e.package, "version": e.version}
        for e in registry.entries()
    ]
    broken = [
        Text(f"not available: {b.name} of package {b.package} {b.version}: {b.reason}")
        for b in registry.broken
    ]
    return Group(text_table(rows), *broken)


def explanation(registry: Registry, name: str) -> RenderableType:
    """The plugins of a name: docstring, parameters, types and defaults; UsageError if there is none."""
    found = [e for e in registry.entries() if e.name == name]
    if not found:
        known = {e.name for e in registry.entries()}
        raise UsageError(f"no plugin is called {name!r}{suggestion(name, known)}")
    parts: list[RenderableType] = []
    for entry in found:
        parts.append(Text(f"{entry.kind} {entry.name} ({entry.package} {entry.version})", style="bold"))
        parts += [Markdown(inspect.getdoc(entry.load()) or ""), Text()]
        rows = [
            {
                "parameter": p.name,
                "type": p.type,
                "default": "required" if p.required else p.default,
                "": p.help,
            }
            for p in registry.parameters(entry)
        ]
        parts.append(text_table(rows) if rows else Text("It has no parameters."))
        parts += [Text(line) for line in _presets(entry.kind, entry.name)]
    return Group(*parts)


def _presets(kind: str, name: str) -> Iterator[str]:
    """What the presets set of a plugin's parameters."""
    for preset, content in EXPERIMENTS.items():
        values = content["plugins"].get(kind, {}).get(name)
        if values:
            default = ", the default without a GPU," if preset == "quick" else ""
            listed = ", ".join(f"{n}={v}" for n, v in values.items())
            yield f"experiment={preset}{default} sets {listed}"
