"""The folder for what can be made again at any time, and files that nobody ever sees half of."""

from __future__ import annotations

import functools
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from nasfw.values import digest

T = TypeVar("T")

log = logging.getLogger("nasfw")


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


def recall(kind: str, key: Mapping[str, Any], read: Callable[[Any], T]) -> T | None:
    """What ``read`` makes of the content that ``remember`` kept under ``key``; None if there is none.

    ``read`` raises ValueError, KeyError, TypeError or AttributeError at what it cannot use. That and a cache
    that cannot be read are said once and count as nothing.
    """
    try:
        file = _entry(kind, key)
        kept = json.loads(file.read_text())
        if kept["key"] != _plain(key):
            raise ValueError("it belongs to something else")
        return read(kept["content"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RuntimeError) as problem:
        _unusable(problem)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        warn_once(f"{file} is damaged and is made anew: {problem!r}")
    return None


def remember(kind: str, key: Mapping[str, Any], content: Any) -> None:
    """Keep JSON ``content`` under ``key`` (JSON values, with all that it depends on) for every later run.

    Where nothing can be written, that is said once.
    """
    try:
        with written(_entry(kind, key)) as stream:
            stream.write(json.dumps({"key": key, "content": content}, indent=1).encode())
    except (OSError, RuntimeError) as problem:
        _unusable(problem)


def _entry(kind: str, key: Mapping[str, Any]) -> Path:
    return folder() / kind / f"{digest(_plain(key))}.json"


def _plain(key: Mapping[str, Any]) -> Any:
    """``key`` as a file has it: a list where there was a tuple."""
    return json.loads(json.dumps(key))


def _unusable(problem: OSError | RuntimeError) -> None:
    # The text of an OSError has a file's name in it, another one each time.
    reason = problem.strerror if isinstance(problem, OSError) else problem
    warn_once(f"the cache cannot be used, what it would hold is measured in every run: {reason}")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, unless this process did before."""
    log.warning("%s", message)
