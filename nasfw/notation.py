"""Architectures as text: their decisions with the options, where a field has no notation of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from nasfw.hints import brief, meant
from nasfw.values import Architecture, Option, UsageError

Decisions = Mapping[str, Sequence[Option]]

# What separates the parts of a text; a name or an option that has any of it is quoted, as in JSON.
_SPECIAL = re.compile(r'[,="]|^\s|\s$|^$')
_PART = r'\s*("(?:[^"\\]|\\.)*"|[^,="]*[^,="\s])\s*'
_ITEM = re.compile(rf"{_PART}={_PART}(,|$)", re.DOTALL)


def text(choices: Mapping[str, Option]) -> str:
    """The options by decision, as in "first=1.0, second=bent"."""
    return ", ".join(f"{_quoted(name)}={_written(option)}" for name, option in choices.items())


def parse(decisions: Decisions, text: str) -> Architecture:
    """The architecture of such a text, in any order; UsageError if it is none of these decisions."""
    given, position = text.strip(), 0
    chosen: dict[str, Option] = {}
    while position < len(given):
        item = _ITEM.match(given, position)
        if item is None:
            raise UsageError(f"{brief(given)} is no architecture, which is written as {_example(decisions)}")
        name = _name(item[1])
        if name in chosen:
            raise UsageError(
                f"the architecture decides {name!r} twice; it takes one option for each decision"
            )
        chosen[name], position = _option(item[2]), item.end()
    return architecture(decisions, chosen)


def architecture(decisions: Decisions, choices: Mapping[str, Option]) -> Architecture:
    """The architecture with these options by decision; UsageError if there is no such decision or option."""
    for name in choices:
        if name not in decisions:
            hint = meant(name, decisions)
            there = f"{hint} There are" if hint else "there are"
            raise UsageError(f"there is no decision {name!r}; {there} {', '.join(decisions)}")
    chosen = {name: _found(name, decisions[name], option) for name, option in choices.items()}
    missing = [name for name in decisions if name not in chosen]
    if missing:
        others = "" if len(missing) == 1 else f" and {len(missing) - 1} more"
        raise UsageError(
            f"the architecture has no option for {missing[0]!r}{others}; possible there: "
            f"{_listed(decisions[missing[0]])}"
        )
    return tuple(chosen[name] for name in decisions)


def _found(name: str, options: Sequence[Option], given: Option) -> Option:
    """The option that was given, or the one that is written alike: 3 for "3", and the other way round."""
    same = [o for o in options if o == given and isinstance(o, bool) == isinstance(given, bool)]
    alike = [o for o in options if _plain(o) == _plain(given)]
    if not same and not alike:
        raise UsageError(f"{name!r} cannot be {_written(given)}; possible there: {_listed(options)}")
    return (same or alike)[0]


def _example(decisions: Decisions) -> str:
    first = {name: options[0] for name, options in list(decisions.items())[:2]}
    return repr(text(first) + (", ..." if len(decisions) > len(first) else ""))


def _listed(options: Sequence[Option]) -> str:
    return ", ".join(map(_written, options))


def _plain(option: Option) -> str:
    return option if isinstance(option, str) else json.dumps(option)


def _written(option: Option) -> str:
    """An option as text that tells the number 3 from the text "3"."""
    if isinstance(option, str) and _option(option) == option:
        return _quoted(option)
    return json.dumps(option)


def _quoted(text: str) -> str:
    return json.dumps(text) if _SPECIAL.search(text) or not text.isprintable() else text


def _name(part: str) -> str:
    return str(_option(part)) if part.startswith('"') else part


def _option(part: str) -> Option:
    """A number, true or false if it is one, and text otherwise, without the quotes that it may have."""
    try:
        value = json.loads(part)
    except (ValueError, RecursionError):
        return part
    return value if isinstance(value, str | int | float) else part
