"""From ``key=value`` arguments, a YAML file and a preset to the settings of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasfw.hints import brief
from nasfw.parameters import Spec, as_spec, suggestion, validated
from nasfw.plugins import Registry, kind_of
from nasfw.settings import DEFAULTS, GROUPS, KIND_OF, MANY, NAMES, Budget, Final, Settings
from nasfw.text import dumps, loads, scalar
from nasfw.values import Recipe, UsageError

__all__ = ["Budget", "Final", "Settings", "Spec", "dumps", "parse", "resolve"]

ALIASES = {"space": "spaces", "objective": "objectives", "yardstick": "yardsticks"}


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """``["strategy=dash", "strategy.epochs=20"]`` as ``{"strategy": "dash", "strategy.epochs": 20}``.

    A value is a YAML 1.2 scalar, or a list or mapping in brackets. The order of arguments does not matter;
    hence a setting given twice with different values is a UsageError.
    """
    given: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise UsageError(f"a setting is written name=value, as in strategy=dash, not {argument!r}")
        if not text:
            raise UsageError(f"{key}= has no value; write {key}=null for none")
        _put(given, key, loads(text, argument) if text[0] in "[{\"'" else scalar(text))
    return given


def resolve(
    arguments: Sequence[str] | Mapping[str, Any],
    registry: Registry,
    experiments: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """The settings that ``arguments`` ask for, above those of ``config=FILE``, the preset and the defaults.

    A preset is ``{"settings": {...}, "plugins": {kind: {name: {parameter: value}}}}``; its parameters reach
    only the plugins that are used. UsageError for whatever cannot be used; names and parameters are checked
    before anything heavy is imported, as far as possible.
    """
    if experiments is None:
        from nasfw.experiments import EXPERIMENTS

        experiments = EXPERIMENTS
    given = dict(arguments) if isinstance(arguments, Mapping) else parse(arguments)
    task = given.get("task")
    # Said here, about what was typed, it takes no import of torch.
    if not isinstance(arguments, Mapping) and _is_file(task, registry) and not _exists(task):
        raise UsageError(f"there is no file {str(task)!r}")
    top = _Layer(given, registry)
    file = top.values.pop("config", None)
    layers = [_Layer(DEFAULTS, registry), *([] if file is None else [_read(file, registry)]), top]
    # The first pass refuses wrong values before the preset's choice may import torch.
    settings = _merge(layers, {}, experiments)
    for kind, spec in _chosen(settings):
        registry.glance(kind, spec)
    name = settings.experiment
    if name is None and "quick" in experiments and _on_cpu(settings.compute):
        name = "quick"
    if name is not None:
        preset = experiments[name]
        layers.insert(1, _Layer(preset.get("settings", {}), registry))
        top.values["experiment"] = name
        settings = _merge(layers, preset.get("plugins", {}), experiments)
    return _check(settings, registry)


class _Layer:
    """One source of settings, its names checked: ``values`` by setting, ``parts`` by setting and path."""

    def __init__(self, given: Mapping[str, Any], registry: Registry) -> None:
        self.values: dict[str, Any] = {}
        self.parts: dict[str, dict[tuple[str, ...], Any]] = {}
        for key, value in given.items():
            setting, *path = str(key).split(".")
            setting = ALIASES.get(setting, setting)
            if setting not in (*NAMES, "config"):
                raise UsageError(f"there is no setting {setting!r}{suggestion(setting, (*NAMES, 'config'))}")
            if path:
                if setting not in KIND_OF and setting not in GROUPS:
                    raise UsageError(f"{setting} has no parts, so {key!r} cannot be set; write {setting}=...")
                _put(self.parts.setdefault(setting, {}), tuple(path), value)
            else:
                _put(self.values, setting, self._choice(setting, value, registry))
        for setting in self.values.keys() & self.parts.keys() & set(GROUPS):
            if self.values[setting] is False:
                part = ".".join(next(iter(self.parts[setting])))
                raise UsageError(f"{setting}=false and {setting}.{part} contradict each other")

    @staticmethod
    def _choice(setting: str, value: Any, registry: Registry) -> Any:
        """A setting that names plugins as a list of Specs and objects; others as they are."""
        kind = KIND_OF.get(setting)
        if kind is None or (setting == "objectives" and value is None):
            return value
        if setting == "task" and _is_file(value, registry):
            value = {"arrays": {"file": str(value)}}
        chosen = [as_spec(item, setting) for item in (items(value) if setting in MANY else [value])]
        for item in chosen:
            if isinstance(item, Spec):
                registry.find(kind, item.name)
            elif kind_of(type(item)) != kind:
                raise UsageError(f"{setting}: a {type(item).__name__} is no {kind}")
        return chosen


def items(value: Any) -> list[Any]:
    """A list setting's items: a list, ``a,b``, ``{a: {...}, b: {...}}``, or one item."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",")]
    if isinstance(value, Mapping):
        return [{name: parameters} for name, parameters in value.items()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_file(value: Any, registry: Registry) -> bool:
    if isinstance(value, Path):
        return True
    if not isinstance(value, str) or any(value == e.name for e in registry.entries("task")):
        return False
    return value.endswith(".npz") or "/" in value or "\\" in value or Path(value).exists()


def _exists(file: Any) -> bool:
    return Path(file).expanduser().exists()


def _put(target: dict[Any, Any], key: Any, value: Any) -> None:
    if key in target and target[key] is not value and target[key] != value:
        name = ".".join(key) if isinstance(key, tuple) else key
        raise UsageError(f"{name} is given twice: {brief(target[key])} and {brief(value)}")
    target[key] = value


def _merge(layers: Sequence[_Layer], plugins: Mapping[str, Any], experiments: Mapping[str, Any]) -> Settings:
    """The settings of ``layers``, later ones above earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update({k: v for k, v in layer.values.items() if k not in KIND_OF and k not in GROUPS})
    if isinstance(merged.get("yardsticks"), str) or merged.get("yardsticks", ()) is None:
        merged["yardsticks"] = [] if merged["yardsticks"] is None else items(merged["yardsticks"])
    if isinstance(merged.get("folder"), Path):
        merged["folder"] = str(merged["folder"])
    experiment = merged.get("experiment")
    if experiment is not None and experiment not in experiments:
        raise UsageError(f"no experiment is called {experiment!r}{suggestion(str(experiment), experiments)}")
    settings = validated("", Settings, merged, hidden=())
    for setting in KIND_OF:
        chosen = _plugins(setting, layers, plugins.get(KIND_OF[setting], {}))
        if chosen is not None:
            settings[setting] = tuple(chosen) if setting in MANY else chosen[0]
    if not settings["spaces"] or settings.get("objectives") == ():
        raise UsageError(f"{'objectives' if settings['spaces'] else 'spaces'} is empty; name at least one")
    budget, final, recipe = (_group(name, layers) for name in GROUPS)
    settings["budget"] = Budget(**validated("budget", Budget, budget or {}))
    settings["final"] = None if final is None else Final(**validated("final", Final, final))
    settings["recipe"] = validated("recipe", Recipe, recipe or {})
    Recipe(**settings["recipe"])
    return Settings(**settings)


def _plugins(setting: str, layers: Sequence[_Layer], preset: Mapping[str, Any]) -> list[Any] | None:
    """The highest layer's choice, each with the parameters that any layer gives to its name."""
    chosen = next((layer.values[setting] for layer in reversed(layers) if setting in layer.values), None)
    given = []
    for layer in layers:
        own = layer.values.get(setting)
        # Parts speak of the plugins that their own layer names, if it names any.
        parts = _aimed(setting, layer.parts.get(setting, {}), chosen if own is None else own)
        given.append((own, parts))
    if chosen is None:
        return None
    complete: list[Any] = []
    for item in chosen:
        if not isinstance(item, Spec):
            complete.append(item)
            continue
        parameters = dict(preset.get(item.name, {}))
        for own, parts in given:
            same = [s for s in own or () if isinstance(s, Spec) and s.name == item.name]
            parameters.update((item if own is chosen else same[0]).parameters if same else {})
            parameters.update(parts.get(item.name, {}))
        complete.append(Spec(item.name, parameters))
    return complete


def _aimed(
    setting: str, parts: Mapping[tuple[str, ...], Any], chosen: Sequence[Any] | None
) -> dict[str, dict[str, Any]]:
    """Parts such as ``epochs`` or ``dash.epochs`` as parameters by plugin name."""
    names = list(dict.fromkeys(s.name for s in chosen or () if isinstance(s, Spec)))
    aimed: dict[str, dict[str, Any]] = {name: {} for name in names}
    # What names its plugin goes on top of what does not.
    for path, value in sorted(parts.items(), key=lambda part: len(part[0])):
        key = ".".join((setting, *path))
        if path[0] in names and len(path) == 2:
            aimed[path[0]][path[1]] = value
        elif path[0] in names and len(path) == 1 and isinstance(value, Mapping):
            aimed[path[0]].update(value)
        elif len(path) == 1 and len(names) == 1:
            aimed[names[0]][path[0]] = value
        elif len(path) == 1 and names:
            raise UsageError(
                f"{key} could mean {' or '.join(names)}; write for example {setting}.{names[0]}.{path[0]}=..."
            )
        else:
            what = ", ".join(names) or ("an object" if chosen else "not given")
            raise UsageError(f"{key} sets a parameter of {path[0]!r}, but {setting} is {what}")
    return aimed


def _group(name: str, layers: Sequence[_Layer]) -> dict[str, Any] | None:
    """The parameters of budget, final or recipe; None if switched off by false or null."""
    merged: dict[str, Any] | None = {}
    for layer in layers:
        value = layer.values.get(name, {})
        if isinstance(value, Mapping):
            merged = {**merged, **value} if merged is not None else dict(value) or None
        elif value is False or value is None:
            merged = None
        elif value is True and name == "final":
            merged = merged or {}
        else:
            raise UsageError(
                f"{name} cannot be {brief(value)}; it is a mapping, as in {name}={{...}}, or false"
            )
        for path, part in layer.parts.get(name, {}).items():
            merged = {**(merged or {}), ".".join(path): part}
    return merged


def _chosen(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Kind and spec of every plugin in use."""
    for setting, kind in KIND_OF.items():
        value = getattr(settings, setting)
        yield from ((kind, item) for item in (value if setting in MANY else [value]) or ())


def _check(settings: Settings, registry: Registry) -> Settings:
    """The settings with every plugin's parameters checked and converted."""
    checked: dict[str, Any] = dict(vars(settings))
    for setting, kind in KIND_OF.items():
        value = checked[setting]
        if isinstance(value, tuple):
            checked[setting] = tuple(registry.check(kind, item) for item in value)
        elif value is not None:
            checked[setting] = registry.check(kind, value)
    return Settings(**checked)


def _on_cpu(compute: str) -> bool:
    if compute != "auto":
        return compute == "cpu"
    import torch

    return not torch.cuda.is_available()


def _read(file: Any, registry: Registry) -> _Layer:
    try:
        text = Path(str(file)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"config={file} cannot be read: {reason}") from error
    content = loads(text, str(file))
    if not isinstance(content, Mapping):
        raise UsageError(f"{file} must hold settings, one 'name: value' a line, not {brief(content)}")
    if "config" in content:
        raise UsageError(f"{file} names another config file; only the command line can")
    try:
        return _Layer(content, registry)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
