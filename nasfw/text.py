"""Settings as text files: YAML with the scalars of YAML 1.2, where 1e-3 is a number and no is text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from nasfw.hints import brief
from nasfw.values import UsageError

_NUMBER = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")
_WORDS = {"null": None, "Null": None, "NULL": None} | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}


def scalar(text: str) -> Any:
    """Null, bool, int, float or text by YAML 1.2's rules: 1e-3 is a number, no and 1:30 are text."""
    if text in _WORDS:
        return _WORDS[text]
    if re.fullmatch(r"[-+]?(0|[1-9]\d{0,99})", text, re.ASCII):
        return int(text)
    if re.fullmatch(_NUMBER, text) and text.isascii() and re.search("[.eE]", text):
        return float(text)
    return text


class _Loader(yaml.SafeLoader):
    """SafeLoader by YAML 1.2's scalars, which refuses a key given twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


def _construct_scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    if node.style is not None:
        return node.value
    return None if node.value in ("", "~") else scalar(node.value)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    pairs = [(loader.construct_object(k, deep=True), k, v) for k, v in node.value]
    seen = set()
    for key, where, _ in pairs:
        if not isinstance(key, str) or key in seen:
            problem = f"{key!r} is given twice" if key in seen else f"{brief(key)} is no name"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)
        seen.add(key)
    return {k: loader.construct_object(v, deep=True) for k, _, v in pairs}


_Loader.add_constructor("tag:yaml.org,2002:str", _construct_scalar)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def loads(text: str, where: str) -> Any:
    """What YAML ``text`` says; UsageError names ``where`` and the line if it is no YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{where} is not valid YAML: {line}{error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{where} is not valid YAML: {reason}") from error


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the text which ``loads`` would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if scalar(text) is text and text not in ("", "~") else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dumps(content: Any) -> str:
    """JSON values as YAML that ``loads`` reads back unchanged."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def write(path: Path, text: str) -> None:
    """Write the file, all of it or nothing."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text)
    scratch.replace(path)
