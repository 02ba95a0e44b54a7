"""The folder of a run: which one, whether it may be used, and one process at a time in it."""

from __future__ import annotations

import datetime
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nasfw.config import Settings, Spec, dumps
from nasfw.results import RESULT, SETTINGS, SUMMARY, Summary
from nasfw.text import loads
from nasfw.values import UsageError

log = logging.getLogger("nasfw")

RUNS = Path("runs")

# What a run that is killed in its first moments leaves in its folder.
_REMAINS = (".lock", SETTINGS + ".tmp")


def choose(settings: Settings, data: str, objectives: Sequence[str]) -> Path:
    """The run's folder: the one asked for, an unfinished one of the same settings and objectives, or new."""
    if settings.folder is not None:
        folder = Path(settings.folder)
    else:
        unfinished = _unfinished(settings, data, objectives)
        if unfinished is not None:
            return unfinished
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        spaces = "+".join(name_of(s) for s in settings.spaces)
        name = f"{now}-{name_of(settings.task)}-{spaces}-{name_of(settings.strategy)}"
        folder = RUNS / name
        while folder.exists():
            folder = folder.with_name(folder.name + "+")
    return folder


def _unfinished(settings: Settings, data: str, objectives: Sequence[str]) -> Path | None:
    for path in sorted(RUNS.glob(f"*/{SETTINGS}"), reverse=True):
        folder = path.parent
        if folder.is_symlink() or (folder / RESULT).exists():
            continue
        try:
            if not _differences(settings, data, objectives, folder) and not _busy(folder):
                return folder
        except UsageError:
            continue
    return None


def check_place(settings: Settings) -> None:
    """UsageError if the folder is a file, holds other things than a run, or cannot be written."""
    folder = RUNS if settings.folder is None else Path(settings.folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"folder={folder} is a file; name a folder")
    strange = settings.folder is not None and folder.exists() and not (folder / SETTINGS).exists()
    if strange and any(p.name not in _REMAINS for p in folder.iterdir()):
        raise UsageError(f"folder={folder} is not empty and holds no run; name another folder")
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    probe = nearest / ".nasfw-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as reason:
        raise UsageError(f"folder={folder} cannot be written: {reason.strerror}") from None


def check_same(settings: Settings, data: str, objectives: Sequence[str]) -> None:
    """UsageError if the folder asked for holds a run of other settings, of other data or of other devices.

    ``objectives`` are the names as records have them.
    """
    folder = None if settings.folder is None else Path(settings.folder)
    if folder is None or not (folder / SETTINGS).exists():
        return
    differences = _differences(settings, data, objectives, folder)
    if differences:
        raise UsageError(
            f"folder={folder} holds another run ({'; '.join(differences)}); name another folder, or repeat "
            "that run's command"
        )


def _differences(settings: Settings, data: str, objectives: Sequence[str], folder: Path) -> list[str]:
    """What tells the run in ``folder`` from this one, in words; nothing if they are the same."""
    try:
        there = loads((folder / SETTINGS).read_text(), str(folder / SETTINGS))
    except (OSError, UnicodeDecodeError) as reason:
        raise UsageError(f"{folder / SETTINGS} cannot be read: {reason}") from None
    here = loads(dumps(settings.plain()), "these settings")
    there, here = _flat(there), _flat(here)
    found = [
        f"{name} is {there.get(name)} there and {here.get(name)} here"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name) and name != "folder"
    ]
    if not found and (folder / SUMMARY).exists():
        summary = Summary.read(folder)
        measured = [m.name for m in summary.measures]
        if summary.data != data:
            found = ["the task's data have changed"]
        elif measured != list(objectives):
            found = [f"it measured {', '.join(measured)}, this machine {', '.join(objectives)}"]
    return found[:4]


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {
        name: value
        for key, part in content.items()
        for name, value in _flat(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder``; UsageError if one is in it."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise UsageError(f"another process is running in {folder}") from None


def _busy(folder: Path) -> bool:
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def discard(folder: Path) -> None:
    """Remove a run's folder, and what pointed to it or was made for it."""
    shutil.rmtree(folder, ignore_errors=True)
    latest = folder.parent / "latest"
    if folder.parent.name == RUNS.name:
        if latest.is_symlink() and not latest.exists():
            latest.unlink()
        with suppress(OSError):
            folder.parent.rmdir()


def link(folder: Path) -> None:
    """Let ``runs/latest`` point to ``folder`` if that is in ``runs``."""
    if folder.parent.name != RUNS.name:
        return
    latest = folder.parent / "latest"
    try:
        latest.unlink(missing_ok=True)
        latest.symlink_to(folder.name, target_is_directory=True)
    except OSError as reason:
        # Some systems keep links for administrators; the run does not need it.
        log.info("runs/latest was not set: %s", reason)


def name_of(spec: Any) -> str:
    """The name of a plugin: as registered, or its class's where Python gave an object."""
    return spec.name if isinstance(spec, Spec) else type(spec).__name__.lower()
