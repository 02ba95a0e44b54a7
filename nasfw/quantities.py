"""Values of objectives as people write them: 5ms, 3 MiB, 97%, 100k."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from nasfw.display import is_share
from nasfw.values import Measure, UsageError


def quantity(text: str, measure: Measure) -> float:
    """A value of ``measure`` in SI units from a text as people write it: 5ms, 3 MiB, 97%, 100k, 1e-3.

    UsageError if the unit does not fit, if a share is not between 0 and 1, and for a plain number of seconds
    or joules that is not below 1: who writes 5 for the latency of a network means milliseconds.
    """
    units, text = _units(measure), text.strip()
    one = re.fullmatch(rf"({_NUMBER})\s*(\D*)", text)
    parts = [one.groups()] if one else _parts(text) if measure.unit == "s" else []
    if not parts or any(unit not in units for _, unit in parts):
        raise UsageError(_unfit(text, measure) + _meant(parts, units))
    # Exact until the end: as doubles, 57 hundredths are more than 0.57.
    value = float(sum(Decimal(number) * units[unit] for number, unit in parts))
    if not math.isfinite(value):
        raise UsageError(_unfit(text, measure))
    if measure.unit in ("s", "J") and parts[0][1] == "" and abs(value) >= 1:
        unit = measure.unit
        raise UsageError(
            f"{measure.name} is in {unit}, so that {text} alone would be {text} {unit}: "
            f"write {text}m{unit} or {text}{unit}"
        )
    if is_share(measure.unit, measure.name) and not 0 <= value <= 1:
        raise UsageError(_unfit(text, measure))
    return value


_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"


def _parts(text: str) -> list[tuple[str, ...]]:
    """The numbers and units of a duration in several units: 3 min 20 s."""
    part = r"([0-9]+)\s*(d|h|min|s)"
    return re.findall(part, text) if re.fullmatch(rf"(?:{part}\s*)+", text) else []


def _units(measure: Measure) -> dict[str, Decimal]:
    """What may stand behind a number, and the factor it means."""
    large = {p: Decimal(10) ** (3 * i) for i, p in enumerate(("", "k", "M", "G", "T", "P", "E"))}
    large["K"] = large["k"]
    small = {p: Decimal(10) ** (-3 * i) for i, p in enumerate(("", "m", "µ", "n", "p"))}
    # The sign of micro has two codes, and many keyboards have neither.
    small["u"] = small["\N{GREEK SMALL LETTER MU}"] = small["µ"]
    one, unit = Decimal(1), measure.unit
    if is_share(measure.unit, measure.name):
        return {"": one, "%": one / 100}
    if not unit:
        return large | ({"%": one / 100} if measure.trained else {})
    if unit == "s":
        # No megaseconds: Ms is a slip for ms.
        longer = {"min": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
        return {"": one} | {p + unit: v for p, v in small.items()} | longer
    if unit in ("B", "FLOP"):
        # They are whole, so that mB is a slip for MB.
        binary = {f"{p}iB": Decimal(1024) ** i for i, p in enumerate("KMGTPE", 1)} if unit == "B" else {}
        plural = {f"{p}FLOPs": v for p, v in large.items()} if unit == "FLOP" else {}
        return large | {p + unit: v for p, v in large.items()} | binary | plural
    return {"": one} | {p + unit: v for p, v in (large | small).items()}


def _unfit(text: str, measure: Measure) -> str:
    examples = {"s": "5ms or 0.005", "J": "12mJ or 0.012", "B": "3MB, 3MiB or 3e6", "FLOP": "30MFLOP or 3e7"}
    if is_share(measure.unit, measure.name):
        kind, example = "is a share", "97% or 0.97"
    elif not measure.unit:
        kind, example = "has no unit", "0.03" if measure.trained else "100k or 1e5"
    else:
        kind, example = f"is in {measure.unit}", examples.get(measure.unit, f"5{measure.unit} or 5")
    return f"{measure.name} {kind}: write {example}, not {text!r}"


def _meant(parts: Sequence[tuple[str, ...]], units: Mapping[str, Decimal]) -> str:
    """The end of a message where only the case of the unit is wrong."""
    for number, unit in parts:
        close = [u for u in units if u.lower() == unit.lower()]
        if unit not in units and close:
            return f"; did you mean {number}{close[0]}?"
    return ""
