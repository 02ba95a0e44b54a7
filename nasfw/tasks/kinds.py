"""What arrays of targets mean: their kind, their axes, their classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from nasfw.tasks.metrics import Kind
from nasfw.tasks.reading import Array, blocks
from nasfw.values import UsageError

# Whole numbers in more than this many different values are quantities, not names of classes.
_MOST_CLASSES = 64


def infer_kind(y: Array, positions: tuple[int, ...]) -> tuple[Kind, str]:
    """Kind of the targets ``y`` of inputs with ``positions`` (length; height, width; and depth), and why.

    | y | values | kind |
    |---|---|---|
    | [n], [n, 1] | text, truth values, whole numbers | classification |
    | [n], [n, 1] | whole numbers, over 64 different, each under 5 times on average | regression |
    | [n], [n, 1] | floats that are all whole, at most 20 different, each twice on average | classification |
    | [n], [n, 1] | other floats | regression |
    | [n, k] | 0 and 1, one 1 in every row | classification |
    | [n, k] | other 0 and 1 | multilabel |
    | [n, k] | other numbers | regression |
    | [n, *positions], with a channel axis or without | two different whole numbers | dense_binary |
    | the same | more whole numbers, at most 64 | dense_classification |
    | the same | other numbers | dense_regression |

    An [n, k] that lies on the positions of a signal of length k is dense, unless every row holds one 1.
    """
    if y.dtype.kind in "US":
        return "classification", "y holds text"
    flat = y.ndim == 1 or y.shape[1:] == (1,)
    if y.ndim == 2 and not flat and _zero_one(y) and (y.sum(axis=1) == 1).all():
        return "classification", "every row of y holds one 1 among 0"
    if not flat and _on(y, positions) is not None:
        return _dense_kind(y, positions)
    if y.ndim > 2:
        raise UsageError(_misfit("y", y, positions))
    if flat:
        return _flat_kind(y)
    if _zero_one(y):
        return "multilabel", "y holds 0 and 1 in several columns"
    return "regression", "y holds numbers in several columns"


def _flat_kind(y: Array) -> tuple[Kind, str]:
    if y.dtype.kind == "b":
        return "classification", "y holds truth values"
    different = len(np.unique(y))
    if y.dtype.kind in "iu":
        if different > _MOST_CLASSES and different * 5 > len(y):
            return "regression", f"y holds {different} different whole numbers, few of them often"
        return "classification", "y holds whole numbers"
    if different <= 20 and different * 2 <= len(y) and _whole(y):
        return "classification", f"y holds only {different} different whole numbers"
    return "regression", "y holds floats"


def _dense_kind(y: Array, positions: tuple[int, ...]) -> tuple[Kind, str]:
    if not _whole(y):
        return "dense_regression", "y holds floats at every position of x"
    different = len(_unique(y))
    if different <= 2:
        if _on(y, positions) == "channels first" and _one_hot_channels(y, 1):
            return "dense_classification", "y is one-hot at every position of x"
        if _on(y, positions) == "channels last" and _one_hot_channels(y, -1):
            return "dense_classification", "y is one-hot at every position of x"
        return "dense_binary", "y holds two values, at every position of x"
    several = _on(y, positions) != "no channels" and y.size != len(y) * int(np.prod(positions))
    if different > _MOST_CLASSES or several or y.dtype.kind == "f":
        return "dense_regression", "y holds quantities at every position of x"
    return "dense_classification", "y holds whole numbers at every position of x"


def _whole(y: Array) -> bool:
    return y.dtype.kind != "f" or all(bool((block == np.trunc(block)).all()) for block in blocks(y))


def _zero_one(y: Array) -> bool:
    return all(bool(((block == 0) | (block == 1)).all()) for block in blocks(y))


def _one_hot_channels(y: Array, axis: int) -> bool:
    return y.shape[axis] > 1 and all(
        bool(((b == 0) | (b == 1)).all() and (b.sum(axis=axis) == 1).all()) for b in blocks(y)
    )


def _unique(y: Array) -> Array:
    """The different values, without sorting all of a large array at once."""
    found = [np.unique(block) for block in blocks(y)]
    return np.unique(np.concatenate(found))


def _on(y: Array, positions: tuple[int, ...]) -> str | None:
    """How ``y`` lies on ``positions``: "no channels", "channels first", "channels last"; else None."""
    if y.shape[1:] == positions:
        return "no channels"
    if y.shape[2:] == positions:
        return "channels first"
    return "channels last" if y.shape[1:-1] == positions else None


def _misfit(name: str, y: Array, positions: tuple[int, ...]) -> str:
    return (
        f"{name} of shape {y.shape} does not lie on the positions {positions} of x; dense targets have shape "
        f"{(len(y), *positions)} or {(len(y), 'channels', *positions)}".replace("'", "")
    )


def standard_form(name: str, y: Array, kind: Kind, positions: tuple[int, ...]) -> Array:
    """``y`` with the axes that ``kind`` has in ``nasfw.tasks.metrics``; UsageError if it cannot have them."""
    if kind.startswith("dense"):
        return _dense_form(name, y, kind, positions)
    if y.ndim > 2:
        raise UsageError(f"{name} has shape {y.shape}; {kind} needs [n] or [n, k]")
    if kind == "classification":
        if y.ndim == 1 or y.shape[1] == 1:
            return y.reshape(len(y))
        if y.dtype.kind in "US" or not (_zero_one(y) and (y.sum(axis=1) == 1).all()):
            raise UsageError(
                f"{name} of shape {y.shape} is not one-hot; classification needs [n] labels or one 1 a row"
            )
        labels: Array = y.argmax(axis=1)
        return labels
    if y.dtype.kind in "US":
        raise UsageError(f"{name} holds text, which {kind} cannot use")
    y = y.reshape(len(y), -1)
    if kind == "multilabel" and not _zero_one(y):
        raise UsageError(f"{name} holds values other than 0 and 1, which multilabel cannot use")
    return y.astype(np.uint8) if kind == "multilabel" else y


def _dense_form(name: str, y: Array, kind: Kind, positions: tuple[int, ...]) -> Array:
    if y.dtype.kind in "US":
        raise UsageError(f"{name} holds text, which {kind} cannot use")
    place = _on(y, positions)
    if place is None:
        raise UsageError(_misfit(name, y, positions))
    if place == "no channels":
        y = y[:, None]
    elif place == "channels last":
        y = np.moveaxis(y, -1, 1)
    if kind != "dense_classification":
        return y
    if y.shape[1] == 1:
        return y[:, 0]
    if not _one_hot_channels(y, 1):
        raise UsageError(f"{name} of shape {y.shape} is not one-hot along its channels, which {kind} needs")
    labels: Array = y.argmax(axis=1)
    return labels


def classes_of(y: Array, kind: Kind) -> tuple[Any, ...]:
    """The labels, sorted, as plain Python values; () for kinds without. UsageError for a single one."""
    if kind not in ("classification", "dense_classification", "dense_binary"):
        return ()
    classes = tuple(_unique(y).tolist())
    if len(classes) == 1:
        raise UsageError(f"y holds one class only ({classes[0]!r}); at least two are needed")
    if kind == "dense_binary" and len(classes) > 2:
        raise UsageError(f"y holds {len(classes)} different values, where dense_binary needs two")
    return classes


def class_numbers(name: str, y: Array, classes: tuple[Any, ...]) -> Array:
    """Position of every label among ``classes``; UsageError for a label that is not there."""
    number = {label: i for i, label in enumerate(classes)}
    dtype = np.uint8 if len(classes) <= 256 else np.int64
    result = np.empty(y.shape, dtype)
    start = 0
    for block in blocks(y):
        labels, inverse = np.unique(block, return_inverse=True)
        for position, label in enumerate(labels.tolist()):
            if label not in number:
                times = int((inverse == position).sum())
                known = ", ".join(map(repr, classes[:12])) + (", ..." if len(classes) > 12 else "")
                raise UsageError(
                    f"{name} holds the label {label!r} ({times} times), which never occurs in training; "
                    f"known: {known}"
                )
        table = np.array([number[label] for label in labels.tolist()], dtype)
        result[start : start + len(block)] = table[inverse.reshape(block.shape)]
        start += len(block)
    return result
