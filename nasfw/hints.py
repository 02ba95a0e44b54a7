"""What messages repeat of what the user gave, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_REPEATED = 60


def brief(value: object) -> str:
    """``repr`` of what the user gave, cut to what fits in a message."""
    text = repr(value)
    # The last sign closes a quotation, a list or a mapping.
    return text if len(text) <= _REPEATED else f"{text[: _REPEATED - 4]}...{text[-1]}"


def meant(given: str, known: Iterable[str]) -> str:
    """The question whether the nearest of ``known`` was meant, in any case; empty if none is near."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), lower, 1)
    return f"did you mean {lower[close[0]]!r}?" if close else ""
