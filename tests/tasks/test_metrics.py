"""Metrics: closed forms, scikit-learn as oracle, degenerate cases."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from nasfw.tasks.metrics import KINDS, METRICS, SUITABLE, usual_metric
from nasfw.values import Diverged, UsageError

KEYED = {
    "classification": ((40, 3), (40,)),
    "multilabel": ((40, 3), (40, 3)),
    "regression": ((40, 2), (40, 2)),
    "dense_classification": ((10, 3, 4, 5), (10, 4, 5)),
    "dense_regression": ((10, 2, 4, 5), (10, 2, 4, 5)),
    "dense_binary": ((10, 1, 4, 5), (10, 1, 4, 5)),
}


def drawn(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(KEYED[kind][0], generator=generator)
    if kind.endswith("regression"):
        return outputs, torch.randn(KEYED[kind][1], generator=generator)
    high = 3 if kind.endswith("classification") else 2
    targets = torch.randint(high, KEYED[kind][1], generator=generator)
    return outputs, targets if high == 3 else targets.float()


def perfect(kind):
    _, targets = drawn(kind)
    if kind.endswith("classification"):
        return torch.nn.functional.one_hot(targets, 3).movedim(-1, 1) * 9.0, targets
    return (targets if kind.endswith("regression") else (targets - 0.5) * 9), targets


@pytest.mark.parametrize(("kind", "metric"), [(k, m) for k in KINDS for m in SUITABLE[k]])
def test_perfect_outputs_have_no_error(kind, metric):
    assert METRICS[metric](*perfect(kind), kind) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("kind", "metric"), [(k, m) for k in KINDS for m in SUITABLE[k]])
def test_metric_of_the_whole_is_blind_to_order(kind, metric):
    outputs, targets = drawn(kind)
    order = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(1))
    whole = METRICS[metric](outputs, targets, kind)
    assert 0 < whole < 10
    assert METRICS[metric](outputs[order], targets[order], kind) == pytest.approx(whole, rel=1e-12)


def test_metrics_are_not_means_over_batches():
    outputs, targets = drawn("classification")
    halves = [METRICS["f1"](outputs[i : i + 20], targets[i : i + 20], "classification") for i in (0, 20)]
    assert METRICS["f1"](outputs, targets, "classification") != pytest.approx(np.mean(halves), rel=1e-3)


def test_classification_agrees_with_scikit_learn():
    outputs, targets = drawn("classification")
    p, y = torch.softmax(outputs.double(), 1).numpy(), targets.numpy()
    assert METRICS["error"](outputs, targets, "classification") == pytest.approx((p.argmax(1) != y).mean())
    assert METRICS["f1"](outputs, targets, "classification") == pytest.approx(
        1 - f1_score(y, p.argmax(1), average="macro")
    )
    assert METRICS["auroc"](outputs, targets, "classification") == pytest.approx(
        1 - roc_auc_score(y, p, multi_class="ovr")
    )
    assert METRICS["map"](outputs, targets, "classification") == pytest.approx(
        1 - average_precision_score(np.eye(3)[y], p, average="macro")
    )


def test_multilabel_agrees_with_scikit_learn():
    outputs, targets = drawn("multilabel")
    z, y = outputs.numpy(), targets.numpy()
    assert METRICS["map"](outputs, targets, "multilabel") == pytest.approx(
        1 - average_precision_score(y, z, average="macro")
    )
    assert METRICS["auroc"](outputs, targets, "multilabel") == pytest.approx(1 - roc_auc_score(y, z))
    assert METRICS["f1"](outputs, targets, "multilabel") == pytest.approx(
        1 - f1_score(y, z > 0, average="macro")
    )
    assert METRICS["error"](outputs, targets, "multilabel") == pytest.approx(((z > 0) != y).mean())


def test_dense_kinds_take_every_position_as_a_sample():
    outputs, targets = drawn("dense_classification")
    flat = outputs.movedim(1, -1).reshape(-1, 3), targets.flatten()
    for metric in SUITABLE["dense_classification"]:
        dense = METRICS[metric](outputs, targets, "dense_classification")
        assert dense == pytest.approx(METRICS[metric](*flat, "classification"))
    outputs, targets = drawn("dense_binary")
    assert METRICS["f1"](outputs, targets, "dense_binary") == pytest.approx(
        1 - f1_score(targets.flatten().numpy(), outputs.flatten().numpy() > 0)
    )


def test_binary_auroc_ranks_by_the_margin_even_where_softmax_saturates():
    outputs = torch.tensor([[0.0, 900.0], [0.0, 800.0], [0.0, 850.0], [0.0, 700.0]])
    assert METRICS["auroc"](outputs, torch.tensor([1, 0, 1, 0]), "classification") == 0.0


def test_relative_l2_closed_form():
    targets = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    outputs = torch.tensor([[3.0, 5.0], [2.0, 2.0]])
    assert METRICS["relative_l2"](outputs, targets, "regression") == pytest.approx((1 / 5 + 2 / 2) / 2)
    assert METRICS["mae"](outputs, targets, "regression") == pytest.approx(3 / 4)
    assert METRICS["mse"](outputs, targets, "regression") == pytest.approx(5 / 4)
    doubled = METRICS["relative_l2"](2 * targets, targets, "regression")
    assert doubled == pytest.approx(1.0)


def test_classes_that_do_not_occur_are_left_out():
    outputs, targets = drawn("classification")
    wider = torch.cat([outputs, torch.full((len(outputs), 1), -50.0)], 1)
    for metric in SUITABLE["classification"]:
        assert METRICS[metric](wider, targets, "classification") == pytest.approx(
            METRICS[metric](outputs, targets, "classification")
        )


@pytest.mark.parametrize(
    ("metric", "kind", "outputs", "targets", "expected"),
    [
        ("f1", "multilabel", -torch.ones(4, 2), torch.zeros(4, 2), 0.0),
        ("f1", "dense_binary", torch.ones(4, 1, 3), torch.zeros(4, 1, 3), 1.0),
        ("f1", "dense_binary", -torch.ones(4, 1, 3), torch.ones(4, 1, 3), 1.0),
        ("auroc", "multilabel", torch.randn(4, 2), torch.zeros(4, 2), 0.5),
        ("auroc", "multilabel", torch.randn(4, 2), torch.ones(4, 2), 0.5),
        ("auroc", "classification", torch.randn(4, 2), torch.ones(4).long(), 0.5),
        ("auroc", "classification", torch.zeros(4, 3), torch.tensor([0, 1, 2, 1]), 0.5),
        ("map", "multilabel", torch.randn(4, 2), torch.zeros(4, 2), 1.0),
        ("map", "multilabel", torch.randn(4, 2), torch.ones(4, 2), 0.0),
        ("error", "classification", torch.randn(1, 3), torch.tensor([1]), None),
        ("relative_l2", "regression", torch.zeros(4, 1), torch.zeros(4, 1), 0.0),
        ("relative_l2", "regression", torch.ones(4, 1), torch.zeros(4, 1), 1.0),
        ("relative_l2", "regression", torch.tensor([[7.0], [1.0]]), torch.tensor([[0.0], [2.0]]), 0.5),
    ],
)
def test_degenerate_splits_have_a_clear_result(metric, kind, outputs, targets, expected):
    value = METRICS[metric](outputs, targets, kind)
    assert np.isfinite(value)
    assert expected is None or value == pytest.approx(expected)


def test_outputs_that_are_not_finite_are_a_divergence():
    with pytest.raises(Diverged):
        METRICS["mse"](torch.tensor([[float("nan")]]), torch.zeros(1, 1), "regression")


def test_metrics_that_do_not_suit_are_refused():
    with pytest.raises(UsageError, match="metric 'f1' does not suit regression; possible: mse, mae"):
        METRICS["f1"](torch.zeros(3, 1), torch.zeros(3, 1), "regression")
    assert usual_metric("auto", "dense_regression") == "relative_l2"


def test_outputs_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        METRICS["mse"](torch.zeros(3), torch.zeros(3, 1), "regression")
