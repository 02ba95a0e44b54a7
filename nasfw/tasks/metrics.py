"""The published metrics, each on a whole split and lower is better.

Every function takes the network's raw outputs (logits or decoded values), the targets and the kind:

| kind | outputs | targets | metrics, the usual one first |
|---|---|---|---|
| classification | [n, classes] | class numbers [n] | error, f1, auroc, map |
| multilabel | [n, labels] | 0 or 1 [n, labels] | map, auroc, f1, error |
| regression | [n, values] | [n, values] | mse, mae, relative_l2 |
| dense_classification | [n, classes, *positions] | class numbers [n, *positions] | error, f1, auroc, map |
| dense_regression | [n, channels, *positions] | the same shape | relative_l2, mae, mse |
| dense_binary | [n, channels, *positions] | 0 or 1, the same shape | f1, error, auroc, map |

Dense kinds take every position as a sample of its own, except in ``relative_l2``. ``f1``, ``auroc`` and
``map`` are means over classes (labels, channels), each against the rest; a class that never occurs in the
targets is left out, for no positive can be found or ranked there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from nasfw.values import Diverged, UsageError

Kind = Literal[
    "classification", "multilabel", "regression", "dense_classification", "dense_regression", "dense_binary"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

# The first is what ``metric="auto"`` means.
SUITABLE: dict[Kind, tuple[str, ...]] = {
    "classification": ("error", "f1", "auroc", "map"),
    "multilabel": ("map", "auroc", "f1", "error"),
    "regression": ("mse", "mae", "relative_l2"),
    "dense_classification": ("error", "f1", "auroc", "map"),
    "dense_regression": ("relative_l2", "mae", "mse"),
    "dense_binary": ("f1", "error", "auroc", "map"),
}


def error(outputs: Tensor, targets: Tensor, kind: Kind) -> float:
    """Share of wrong decisions: arg max over classes, or logit > 0 for each label, channel and position."""
    outputs, targets = _checked("error", outputs, targets, kind)
    decided = outputs.argmax(1) if kind.endswith("classification") else (outputs > 0).to(targets.dtype)
    return float((decided != targets).double().mean())


def f1(outputs: Tensor, targets: Tensor, kind: Kind) -> float:
    """1 - F1 of the decisions that ``error`` counts, averaged over the classes that occur.

    Without any positive the result is 0 if none was claimed and 1 otherwise.
    """
    from sklearn.metrics import f1_score

    outputs, targets = _checked("f1", outputs, targets, kind)
    if kind.endswith("classification"):
        truth, decided = targets.flatten().numpy(), outputs.argmax(1).flatten().numpy()
        present = np.unique(truth)
        return 1.0 - float(f1_score(truth, decided, labels=present, average="macro", zero_division=0.0))
    scores, hits = _columns(outputs, targets, kind)
    claimed, present = scores > 0, np.flatnonzero(hits.any(0))
    if not len(present):
        return float(claimed.any())
    each = [f1_score(hits[:, c], claimed[:, c], zero_division=0.0) for c in present]
    return 1.0 - float(np.mean(each))


def auroc(outputs: Tensor, targets: Tensor, kind: Kind) -> float:
    """1 - area under the ROC curve, one against the rest, averaged over the classes that occur.

    Classes are ranked by their softmax probability. A class that every sample has is left out too; if none is
    left the result is 0.5, that of guessing.
    """
    from sklearn.metrics import roc_auc_score

    scores, hits = _columns(*_checked("auroc", outputs, targets, kind), kind)
    ranked = np.flatnonzero(hits.any(0) & ~hits.all(0))
    return 1.0 - float(np.mean([roc_auc_score(hits[:, c], scores[:, c]) for c in ranked] or [0.5]))


def average_precision(outputs: Tensor, targets: Tensor, kind: Kind) -> float:
    """1 - mean average precision, one against the rest, averaged over the classes that occur.

    Classes are ranked by their softmax probability. Without any positive the result is 1.
    """
    from sklearn.metrics import average_precision_score

    scores, hits = _columns(*_checked("map", outputs, targets, kind), kind)
    present = np.flatnonzero(hits.any(0))
    each = [average_precision_score(hits[:, c], scores[:, c]) for c in present]
    return 1.0 - float(np.mean(each or [0.0]))


def relative_l2(outputs: Tensor, targets: Tensor, kind: Kind) -> float:
    """Mean over samples of ||output - target|| / ||target||, in 2-norms over all channels and positions.

    A sample whose target is zero is left out. If all are, the result is 0 for outputs of zero and else 1.
    """
    outputs, targets = _checked("relative_l2", outputs, targets, kind)
    misses, norms = (outputs - targets).flatten(1).norm(dim=1), targets.flatten(1).norm(dim=1)
    judged = norms > 0
    if not judged.any():
        return float((misses > 0).any())
    return float((misses[judged] / norms[judged]).mean())


def mae(outputs: Tensor, targets: Tensor, kind: Kind) -> float:
    """Mean absolute difference over all samples, channels and positions."""
    outputs, targets = _checked("mae", outputs, targets, kind)
    return float((outputs - targets).abs().mean())


def mse(outputs: Tensor, targets: Tensor, kind: Kind) -> float:
    """Mean squared difference over all samples, channels and positions."""
    outputs, targets = _checked("mse", outputs, targets, kind)
    return float((outputs - targets).square().mean())


METRICS: dict[str, Callable[[Tensor, Tensor, Kind], float]] = {
    "error": error,
    "f1": f1,
    "auroc": auroc,
    "map": average_precision,
    "relative_l2": relative_l2,
    "mae": mae,
    "mse": mse,
}


def usual_metric(metric: str, kind: Kind) -> str:
    """``metric``, or the usual one of ``kind`` for "auto"; UsageError if it does not suit the kind."""
    if metric == "auto":
        return SUITABLE[kind][0]
    if metric not in SUITABLE[kind]:
        raise UsageError(f"metric {metric!r} does not suit {kind}; possible: {', '.join(SUITABLE[kind])}")
    return metric


def _checked(metric: str, outputs: Tensor, targets: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Both in double precision where they are real numbers, after a check that they can be compared."""
    usual_metric(metric, kind)
    expected = outputs.shape[:1] + outputs.shape[2:] if kind.endswith("classification") else outputs.shape
    if targets.shape != expected or not len(targets):
        raise ValueError(
            f"outputs {tuple(outputs.shape)} do not fit targets {tuple(targets.shape)} of {kind}"
        )
    if not torch.isfinite(outputs).all():
        raise Diverged("the network's outputs are not finite")
    outputs = outputs.detach().cpu().double()
    targets = targets.detach().cpu()
    return outputs, targets.long() if kind.endswith("classification") else targets.double()


def _columns(
    outputs: Tensor, targets: Tensor, kind: Kind
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scores and truth [samples and positions, classes]."""
    classes = outputs.shape[1]
    scores = outputs.movedim(1, -1).reshape(-1, classes)
    if not kind.endswith("classification"):
        return scores.numpy(), targets.movedim(1, -1).reshape(-1, classes).numpy() > 0.5
    hits = torch.nn.functional.one_hot(targets.flatten(), classes).bool()
    if classes > 1:
        # The log odds p / (1 - p) rank as the probability does, but do not saturate at 1.
        rest = [scores[:, [k for k in range(classes) if k != c]].logsumexp(1) for c in range(classes)]
        scores = scores - torch.stack(rest, 1)
    return scores.numpy(), hits.numpy()
