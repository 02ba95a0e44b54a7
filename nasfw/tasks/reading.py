"""From files and arrays of any number type to checked arrays [samples, channels, *positions]."""

from __future__ import annotations

import difflib
import logging
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nasfw.tasks.permutation import bit_reversed
from nasfw.values import UsageError

log = logging.getLogger("nasfw")

Array = np.ndarray[Any, Any]
Channels = Literal["auto", "first", "last", "none"]

# Keys of a file, in lower case, and the parameters that they fill.
KEYS = {
    "x_train": "x",
    "y_train": "y",
    "x": "x",
    "y": "y",
    "x_valid": "x_valid",
    "y_valid": "y_valid",
    "x_val": "x_valid",
    "y_val": "y_valid",
    "x_test": "x_test",
    "y_test": "y_test",
    "groups": "groups",
    "groups_train": "groups",
}
_EXPECTED = "x_train and y_train (optional: x_valid, y_valid, x_test, y_test, groups)"
_LARGEST = float(np.finfo(np.float32).max)


def read_npz(file: str) -> dict[str, Array]:
    """The arrays of an .npz file by parameter name; UsageError if it holds anything else."""
    path = Path(file).expanduser()
    if not path.exists():
        raise UsageError(f"there is no file {file!r}")
    if path.is_dir():
        raise UsageError(f"{file!r} is a folder; an .npz file is needed")
    try:
        _check_npz(path, file)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: _entry(archive, key, file) for name, key in _matched(archive.files, file).items()}
    except zipfile.BadZipFile as problem:
        raise UsageError(f"{file!r} is damaged or cut short: {problem}") from problem
    except OSError as problem:
        raise UsageError(f"{file!r} cannot be read: {problem.strerror or problem}") from problem


def _check_npz(path: Path, file: str) -> None:
    if zipfile.is_zipfile(path):
        return
    with path.open("rb") as stream:
        start = stream.read(6)
    if start[:4] == b"PK\x03\x04":
        raise UsageError(f"{file!r} is damaged or cut short: it begins as an .npz file but has no end")
    if start == b"\x93NUMPY":
        raise UsageError(f"{file!r} is a single .npy array; np.savez makes an .npz with {_EXPECTED}")
    raise UsageError(f"{file!r} is not an .npz file; np.savez makes one with {_EXPECTED}")


def _matched(found: list[str], file: str) -> dict[str, str]:
    """Parameter -> key of the file."""
    keys: dict[str, str] = {}
    for key in found:
        name = KEYS.get(key.lower())
        if name in keys:
            raise UsageError(f"{file!r} holds both {keys[name]!r} and {key!r}, which mean the same")
        if name is not None:
            keys[name] = key
    for key in found:
        # An optional array must not be lost to a misprint.
        close = difflib.get_close_matches(key.lower(), KEYS, n=1, cutoff=0.8)
        if key.lower() not in KEYS and close and KEYS[close[0]] not in keys:
            raise UsageError(
                f"{file!r} holds {key!r}; did you mean {close[0]!r}? "
                f"Found: {_listed(found)}; expected: {_EXPECTED}"
            )
    missing = [long for long, short in (("x_train", "x"), ("y_train", "y")) if short not in keys]
    if missing:
        raise UsageError(
            f"{file!r} lacks {' and '.join(missing)}. Found: {_listed(found)}; expected: {_EXPECTED}"
        )
    if unused := [key for key in found if key not in keys.values()]:
        log.info("%s also holds %s, which a task does not use", file, ", ".join(unused))
    return keys


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def _entry(archive: Mapping[str, Any], key: str, file: str) -> Array:
    try:
        value = archive[key]
    except (zlib.error, EOFError) as problem:
        raise UsageError(f"{file!r} is damaged or cut short: {problem}") from problem
    except ValueError as problem:
        if "allow_pickle" in str(problem):
            raise UsageError(f"{key} in {file!r} holds pickled Python objects, not numbers") from problem
        raise UsageError(f"{key} in {file!r} cannot be read: {problem}") from problem
    if not isinstance(value, np.ndarray):
        raise UsageError(f"{key} in {file!r} is no array; np.savez makes files with {_EXPECTED}")
    return value


def as_array(name: str, value: Any, text: bool = False) -> Array:
    """``value`` (array, tensor, nested list) as an array of numbers, or of text where that is allowed."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            raise UsageError(f"{name} is a sparse tensor; a dense one is needed")
        value = value.detach().cpu().resolve_conj().resolve_neg()
        # numpy has no bfloat16.
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        array = np.asarray(value)
    except ValueError as problem:
        raise UsageError(f"{name} is no regular array: {problem}") from problem
    if array.dtype.kind not in ("biufUS" if text else "biuf"):
        meaning = {"O": " (Python objects)", "c": " (complex)", "U": " (text)", "S": " (text)"}
        kind = f"{array.dtype}{meaning.get(array.dtype.kind, '')}"
        raise UsageError(
            f"{name} has dtype {kind}; {'numbers or text' if text else 'real numbers'} are needed"
        )
    if array.ndim == 0 or array.size == 0:
        raise UsageError(f"{name} is empty (shape {array.shape})")
    return array


def blocks(array: Array, elements: int = 1 << 18) -> Iterator[Array]:
    """Consecutive rows of ``array``, at most about ``elements`` numbers at a time, to bound memory."""
    rows = max(1, elements // max(1, array[0].size))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def portions(array: Array, rows: Array, elements: int = 1 << 18) -> Iterator[Array]:
    """``array[rows]``, at most about ``elements`` numbers at a time, to bound memory."""
    step = max(1, elements // array[0].size)
    for start in range(0, len(rows), step):
        yield array[rows[start : start + step]]


def standardised(x: Array, mean: Array, std: Array, permuted: bool = False) -> Array:
    """(x - mean) / std for each channel of [n, channels, ...], computed in double precision, as float32.

    Where ``permuted``, the positions along every axis are in bit-reversed order.
    """
    column = (-1, *[1] * (x.ndim - 2))
    mean, std = np.reshape(mean, column), np.reshape(std, column)
    result = np.empty(x.shape, np.float32)
    start = 0
    for block in blocks(x):
        values = (block - mean) / std
        result[start : start + len(block)] = bit_reversed(values, x.ndim - 2) if permuted else values
        start += len(block)
    return result


def check_finite(name: str, array: Array) -> None:
    """UsageError that counts entries that are NaN, infinite or too large for 32 bits, and names the first."""
    if array.dtype.kind != "f":
        return
    count, first, seen = 0, None, 0
    for block in blocks(array):
        # Narrower floats cannot even be compared with a limit that they do not hold.
        bad = ~(np.isfinite(block) if block.itemsize <= 4 else np.abs(block) <= _LARGEST)
        if bad.any():
            count += int(bad.sum())
            here = np.argwhere(bad)[0]
            first = first or (int(here[0]) + seen, *(int(i) for i in here[1:]))
        seen += len(block)
    if first is not None:
        value = "value that is" if count == 1 else "values that are"
        place = first[0] if len(first) == 1 else list(first)
        raise UsageError(f"{name} holds {count} {value} NaN or infinite, the first at index {place}")


class Layout:
    """How the axes of x are read. ``words`` says it to people."""

    def __init__(self, words: str, shape: tuple[int, ...]) -> None:
        self.words = words
        self.shape = shape

    def __call__(self, x: Array) -> Array:
        """A view [n, channels, *positions] of ``x``."""
        if "channels" not in self.words:
            return x[:, None]
        return np.moveaxis(x, -1, 1) if self.words.endswith("channels]") else x


def layout(x: Array, y: Array, channels: Channels) -> Layout:
    """The reading of ``x`` that ``channels`` asks for; for "auto" by these rules, the first that applies.

    [n, length] is one channel. [n, a, b] is an image of one channel if a = b >= 8, or if y has the same shape
    and both are >= 16; it is [n, length, channels] if a > b and b = 1, a >= 8 b, or it is one-hot along b but
    not along a; else [n, channels, length]. [n, a, b, c] is [n, height, width, channels] if y lies on a x b
    and not on b x c; or else if c <= 4 < a, or a = b > c; else [n, channels, height, width]. Five axes are
    read like four, with depth before height. [n, depth, height, width] is never found, only asked for.
    """
    if x.ndim not in (2, 3, 4, 5):
        raise UsageError(
            f"x has shape {x.shape}; possible: [n, length], [n, channels, length], [n, height, width], "
            "[n, channels, height, width], [n, channels, depth, height, width]"
        )
    if x.ndim == 5 and channels == "none":
        raise UsageError(f"channels='none' does not suit x of shape {x.shape}, which has five axes")
    if x.ndim == 2:
        words = "[n, length]"
    elif x.ndim == 3:
        asked = _read_three(x, y) if channels == "auto" else channels
        words = {
            "first": "[n, channels, length]",
            "last": "[n, length, channels]",
            "none": "[n, height, width]",
        }[asked]
    elif channels == "none":
        words = "[n, depth, height, width]"
    else:
        asked = _read_more(x, y) if channels == "auto" else channels
        positions = "height, width" if x.ndim == 4 else "depth, height, width"
        words = {"first": f"[n, channels, {positions}]", "last": f"[n, {positions}, channels]"}[asked]
    return Layout(words, Layout(words, ())(x[:1]).shape[1:])


def _read_three(x: Array, y: Array) -> Channels:
    a, b = x.shape[1:]
    if (a == b >= 8) or (y.shape == x.shape and min(a, b) >= 16):
        return "none"
    one_hot = b > 1 and _one_hot(x, 2) and not _one_hot(x, 1)
    if a > b and (b == 1 or a >= 8 * b or one_hot):
        return "last"
    return "first"


def _read_more(x: Array, y: Array) -> Channels:
    first, last = _lies_on(y, x.shape[2:]), _lies_on(y, x.shape[1:-1])
    if first != last:
        return "last" if last else "first"
    *positions, c = x.shape[1:]
    a, equal = positions[0], len(set(positions)) == 1
    return "last" if c <= 4 < a or (equal and a > c) else "first"


def _lies_on(y: Array, positions: tuple[int, ...]) -> bool:
    return positions in (y.shape[1:], y.shape[2:], y.shape[1:-1])


def _one_hot(x: Array, axis: int) -> bool:
    """Whether all entries are 0 or 1 and, along ``axis``, exactly one is 1 nearly everywhere (gaps are 0)."""
    some = x[:256]
    if not ((some == 0) | (some == 1)).all():
        return False
    total = some.sum(axis=axis, dtype=np.int64)
    return bool(total.max() == 1 and total.mean() > 0.5)
