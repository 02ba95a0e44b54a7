"""A folder of generated data that can be made again at any time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from nasfw.caches import folder, warn_once, written
from nasfw.tasks.reading import Array
from nasfw.values import digest


def cached(name: str, parameters: Iterable[object], make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """What ``make`` returns, from the cache if it was made with the same ``parameters`` (JSON values) before.

    Data that are damaged are made again; where nothing can be written, they are made every time.
    """
    try:
        path = folder() / f"{name}-{digest(*parameters)}.npz"
        if path.exists() and (arrays := _read(path)) is not None:
            return arrays
    except (OSError, RuntimeError) as problem:
        warn_once(f"the cache cannot be used, data are made anew: {problem}")
        return make()
    arrays = make()
    try:
        with written(path) as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError as problem:
        warn_once(f"the cache cannot be written, data are made anew each time: {problem.strerror}")
    return arrays


def _read(path: Path) -> dict[str, Array] | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError) as problem:
        warn_once(f"{path} is damaged and is made anew: {problem}")
        return None
