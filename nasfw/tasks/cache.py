"""A folder of generated data that can be made again at any time."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from nasfw.tasks.reading import Array
from nasfw.values import digest

log = logging.getLogger("nasfw")


def folder() -> Path:
    """$NASFW_CACHE; else nasfw in $XDG_CACHE_HOME, if that is absolute; else ~/.cache/nasfw."""
    if own := os.environ.get("NASFW_CACHE"):
        return Path(own).expanduser()
    everybody = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (everybody if everybody.is_absolute() else Path("~/.cache").expanduser()) / "nasfw"


def cached(name: str, parameters: Iterable[object], make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """What ``make`` returns, from the cache if it was made with the same ``parameters`` (JSON values) before.

    Data that are damaged are made again; where nothing can be written, they are made every time.
    """
    try:
        path = folder() / f"{name}-{digest(*parameters)}.npz"
        if path.exists() and (arrays := _read(path)) is not None:
            return arrays
    except (OSError, RuntimeError) as problem:
        _warn(f"the cache cannot be used, data are made anew: {problem}")
        return make()
    arrays = make()
    try:
        _write(path, arrays)
    except OSError as problem:
        _warn(f"the cache cannot be written, data are made anew each time: {problem}")
    return arrays


def _read(path: Path) -> dict[str, Array] | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError) as problem:
        _warn(f"{path} is damaged and is made anew: {problem}")
        return None


def _write(path: Path, arrays: dict[str, Array]) -> None:
    """Through a file beside it, so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@functools.cache
def _warn(message: str) -> None:
    log.warning("%s", message)
