"""The folder for what can be made again at any time, and files that nobody ever sees half of."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def folder() -> Path:
    """$NASFW_CACHE; else nasfw in $XDG_CACHE_HOME, if that is absolute; else ~/.cache/nasfw."""
    if own := os.environ.get("NASFW_CACHE"):
        return Path(own).expanduser()
    everybody = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (everybody if everybody.is_absolute() else Path("~/.cache").expanduser()) / "nasfw"


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file when the block ends without an error; folders are made.

    Everyone writes through a file of his own, so several may do so at once: the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.stem}-{uuid.uuid4().hex}.part")
    try:
        with scratch.open("xb") as stream:
            yield stream
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
