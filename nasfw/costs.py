"""Tables of what options cost, as a search keeps them in its folder; importing this does not import torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from nasfw.caches import written
from nasfw.values import CostTable, digest


def keep(folder: Path, objective: str, table: CostTable) -> None:
    """Write the table of an objective, all of it or nothing."""
    with written(_file(folder, digest(objective))) as stream:
        stream.write(json.dumps({"objective": objective, "table": asdict(table)}).encode())


def kept(folder: Path, objective: str) -> CostTable | None:
    """The table of an objective; None if there is none that can be read."""
    found = _read(_file(folder, digest(objective)))
    return None if found is None else found[1]


def all_kept(folder: Path) -> dict[str, CostTable]:
    """The tables that can be read, by objective."""
    files = sorted(folder.glob(_file(folder, "*").name))
    return dict(found for file in files if (found := _read(file)) is not None)


def _file(folder: Path, name: str) -> Path:
    return folder / f"costs-{name}.json"


def _read(file: Path) -> tuple[str, CostTable] | None:
    try:
        content = json.loads(file.read_text())
        return content["objective"], CostTable.read(content["table"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
