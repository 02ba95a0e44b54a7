"""ArraysTask: how arrays are read, split, standardised, and what happens after."""

import dataclasses
import logging
import pickle

import numpy as np
import pytest
import torch

from nasfw.tasks import loading
from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.metrics import METRICS
from nasfw.values import UsageError

RNG = np.random.default_rng(0)
N = 60
X1 = RNG.normal(size=(N, 2, 12))
X2 = RNG.normal(size=(N, 3, 8, 6))
X3 = RNG.normal(size=(N, 2, 4, 8, 6))
LABELS = np.arange(N) % 3


def everything(task, split):
    batches = list(task.batches(split))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_arrays_come_first_and_nothing_is_read_at_construction():
    task = ArraysTask(X1, LABELS)
    assert "_data" not in vars(task)
    assert task.input_shape == (2, 12)
    assert task.output_shape == (3,)
    assert task.metric == "error"
    assert sum(task.size(s) for s in ("train", "valid", "test")) == N
    assert task.size("full") == task.size("train") + task.size("valid")


MASK = RNG.random((N, 8, 6)) > 0.5
FLOATS = RNG.normal(size=(N, 8, 6))
VOLUMES = RNG.normal(size=(N, 4, 8, 6))
MULTI = RNG.random((N, 4)) > 0.5


@pytest.mark.parametrize(
    ("x", "y", "kind", "output"),
    [
        (X1, LABELS, "classification", (3,)),
        (X1, LABELS.astype(np.uint8), "classification", (3,)),
        (X1, LABELS > 0, "classification", (2,)),
        (X1, np.array(["cat", "dog", "eel"])[LABELS], "classification", (3,)),
        (X1, LABELS * 7 - 3, "classification", (3,)),
        (X1, LABELS[:, None], "classification", (3,)),
        (X1, LABELS.astype(float), "classification", (3,)),
        (X1, np.eye(3)[LABELS], "classification", (3,)),
        (X1, np.eye(3, dtype=bool)[LABELS], "classification", (3,)),
        (X1, MULTI, "multilabel", (4,)),
        (X1, MULTI.astype(np.float32), "multilabel", (4,)),
        (X1, MULTI.astype(int), "multilabel", (4,)),
        (X1, RNG.normal(size=N), "regression", (1,)),
        (X1, RNG.normal(size=(N, 1)), "regression", (1,)),
        (X1, RNG.normal(size=(N, 5)), "regression", (5,)),
        (X1, RNG.integers(0, 9, (N, 5)), "regression", (5,)),
        (X1, np.arange(N, dtype=float), "regression", (1,)),
        (np.tile(X1, (3, 1, 1)), np.arange(3 * N) * 1000, "regression", (1,)),
        (X1, RNG.normal(size=(N, 12)), "dense_regression", (1, 12)),
        (X1, RNG.normal(size=(N, 2, 12)), "dense_regression", (2, 12)),
        (X1, RNG.integers(0, 2, (N, 12)), "dense_binary", (1, 12)),
        (X1, RNG.integers(0, 5, (N, 12)), "dense_classification", (5, 12)),
        (X2, FLOATS, "dense_regression", (1, 8, 6)),
        (X2, FLOATS[:, None], "dense_regression", (1, 8, 6)),
        (X2, FLOATS[..., None], "dense_regression", (1, 8, 6)),
        (X2, np.stack([FLOATS, FLOATS], 1), "dense_regression", (2, 8, 6)),
        (X2, MASK, "dense_binary", (1, 8, 6)),
        (X2, MASK.astype(np.float32), "dense_binary", (1, 8, 6)),
        (X2, MASK.astype(np.uint8) * 255, "dense_binary", (1, 8, 6)),
        (X2, MASK[:, None].astype(np.int64), "dense_binary", (1, 8, 6)),
        (X2, RNG.integers(0, 4, (N, 8, 6)), "dense_classification", (4, 8, 6)),
        (X2, np.moveaxis(np.eye(4)[RNG.integers(0, 4, (N, 8, 6))], -1, 1), "dense_classification", (4, 8, 6)),
        (X2, RNG.integers(0, 256, (N, 8, 6)).astype(np.uint8), "dense_regression", (1, 8, 6)),
        (X3, LABELS, "classification", (3,)),
        (X3, RNG.normal(size=(N, 5)), "regression", (5,)),
        (X3, VOLUMES, "dense_regression", (1, 4, 8, 6)),
        (X3, VOLUMES[:, None], "dense_regression", (1, 4, 8, 6)),
        (X3, VOLUMES[..., None], "dense_regression", (1, 4, 8, 6)),
        (X3, np.stack([VOLUMES, VOLUMES], 1), "dense_regression", (2, 4, 8, 6)),
        (X3, VOLUMES > 0, "dense_binary", (1, 4, 8, 6)),
        (X3, RNG.integers(0, 5, (N, 4, 8, 6)), "dense_classification", (5, 4, 8, 6)),
    ],
)
def test_kind_is_inferred_from_shape_and_values(x, y, kind, output):
    task = ArraysTask(x, y)
    assert task.code.kind == kind
    assert task.output_shape == output
    inputs, targets = next(iter(task.batches("train", 4)))
    outputs = torch.randn(4, *output, requires_grad=True)
    loss = task.loss(outputs, targets)
    loss.backward()
    assert inputs.dtype == torch.float32
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    assert outputs.grad.abs().sum() > 0
    assert np.isfinite(task.error(outputs, targets))


def test_the_kind_can_be_said():
    assert ArraysTask(X1, LABELS, kind="regression").output_shape == (1,)
    assert ArraysTask(X1, MULTI.astype(float), kind="regression").output_shape == (4,)
    binary = ArraysTask(X2, MASK.astype(int), kind="dense_classification", metric="f1")
    assert binary.output_shape == (2, 8, 6)
    assert binary.metric == "f1"


SQUARE = RNG.normal(size=(N, 9, 9))
ONE_HOT = np.eye(4)[RNG.integers(0, 4, (N, 20))]


@pytest.mark.parametrize(
    ("x", "y", "channels", "shape"),
    [
        (X1[:, 0], LABELS, "auto", (1, 12)),
        (X1, LABELS, "auto", (2, 12)),
        (RNG.normal(size=(N, 12, 5)), LABELS, "auto", (12, 5)),
        (RNG.normal(size=(N, 40, 5)), LABELS, "auto", (5, 40)),
        (ONE_HOT, LABELS, "auto", (4, 20)),
        (np.moveaxis(ONE_HOT, 2, 1), LABELS, "auto", (4, 20)),
        (SQUARE, LABELS, "auto", (1, 9, 9)),
        (SQUARE, LABELS, "first", (9, 9)),
        (RNG.normal(size=(N, 16, 24)), RNG.normal(size=(N, 16, 24)), "auto", (1, 16, 24)),
        (X1, LABELS, "last", (12, 2)),
        (X1, LABELS, "none", (1, 2, 12)),
        (X2, LABELS, "auto", (3, 8, 6)),
        (np.moveaxis(X2, 1, -1), LABELS, "auto", (3, 8, 6)),
        (RNG.normal(size=(N, 9, 9, 5)), LABELS, "auto", (5, 9, 9)),
        (RNG.normal(size=(N, 9, 9, 9)), LABELS, "auto", (9, 9, 9)),
        (RNG.normal(size=(N, 8, 6, 6)), MASK, "auto", (6, 8, 6)),
        (X2, LABELS, "last", (6, 3, 8)),
        (X2, LABELS, "none", (1, 3, 8, 6)),
        (X2, X2, "auto", (3, 8, 6)),
        (X3, LABELS, "auto", (2, 4, 8, 6)),
        (X3, LABELS, "last", (6, 2, 4, 8)),
        (np.moveaxis(RNG.normal(size=(N, 3, 9, 8, 6)), 1, -1), LABELS, "auto", (3, 9, 8, 6)),
        (RNG.normal(size=(N, 6, 6, 6, 5)), LABELS, "auto", (5, 6, 6, 6)),
        (RNG.normal(size=(N, 6, 6, 6, 6)), LABELS, "auto", (6, 6, 6, 6)),
        (RNG.normal(size=(N, 4, 8, 6, 6)), VOLUMES, "auto", (6, 4, 8, 6)),
    ],
)
def test_axes_of_x_are_read_as_documented(x, y, channels, shape):
    task = ArraysTask(x, y, channels=channels)
    assert task.input_shape == shape
    assert " x ".join(map(str, shape[1:])) in task.description


def test_channels_last_moves_the_axis_and_not_the_numbers():
    first = ArraysTask(X2, LABELS)
    last = ArraysTask(np.moveaxis(X2, 1, -1), LABELS, channels="last")
    for a, b in zip(everything(first, "full"), everything(last, "full"), strict=True):
        torch.testing.assert_close(a, b)


def test_how_arrays_were_read_is_logged(caplog):
    with caplog.at_level(logging.INFO, "nasfw"):
        task = ArraysTask(X1, LABELS.astype(float))
        description = task.description
    assert description in caplog.text
    assert "classification of 3 classes" in caplog.text
    assert "[n, channels, length]" in caplog.text


def test_labels_are_numbered_in_sorted_order():
    y = np.array(["b", "a", "c"])[LABELS]
    task = ArraysTask(X1, y, x_test=X1, y_test=y)
    assert task.classes == ("a", "b", "c")
    assert everything(task, "test")[1].tolist() == [[1, 0, 2][c] for c in LABELS]


def test_standardisation_sees_the_training_split_only():
    x = X1 * [[3.0], [0.2]] + [[100.0], [-5.0]]
    task = ArraysTask(x, LABELS, x_test=x * 1000, y_test=LABELS)
    train = everything(task, "train")[0].double()
    torch.testing.assert_close(train.mean((0, 2)), torch.zeros(2).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.var((0, 2), correction=0), torch.ones(2).double(), atol=1e-5, rtol=0)
    other = ArraysTask(x, LABELS, x_test=x, y_test=LABELS)
    torch.testing.assert_close(everything(other, "train")[0].double(), train)


def test_standardisation_is_the_formula():
    task = ArraysTask(X1, LABELS, x_valid=X1[:9], y_valid=LABELS[:9], x_test=X1[9:], y_test=LABELS[9:])
    mean, std = X1.mean((0, 2), keepdims=True), X1.std((0, 2), keepdims=True)
    for split, rows in (("train", slice(None)), ("valid", slice(9)), ("test", slice(9, None))):
        expected = torch.from_numpy((X1[rows] - mean) / std).float()
        torch.testing.assert_close(everything(task, split)[0], expected)


def test_without_standardisation_inputs_are_as_given():
    task = ArraysTask(X1, LABELS, x_test=X1, y_test=LABELS, standardise=False)
    torch.testing.assert_close(everything(task, "test")[0], torch.from_numpy(X1).float())


def test_constant_channels_become_zero():
    x = X1.copy()
    x[:, 1] = 0.1
    inputs = everything(ArraysTask(x, LABELS), "train")[0]
    assert inputs[:, 1].abs().max() < 1e-6
    assert ArraysTask(np.zeros((N, 5)), LABELS).input_shape == (1, 5)


def test_inputs_too_large_for_a_copy_are_standardised_batch_by_batch(monkeypatch):
    whole = everything(ArraysTask(X2, LABELS), "full")[0]
    monkeypatch.setattr(loading, "_LARGE", 100)
    later = ArraysTask(X2, LABELS)
    assert later._data.late
    assert np.shares_memory(later._data.x, X2)
    torch.testing.assert_close(everything(later, "full")[0], whole)


TYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">i2", ">f4", ">f8", "g"]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_number_type_works(dtype):
    small = RNG.integers(0, 2 if dtype == "?" else 100, (N, 2, 12))
    y = (small[:, 0, 0] > small[:, 0, 0].mean()).astype(int)
    reference = everything(ArraysTask(small, y), "full")
    for got, expected in zip(
        everything(ArraysTask(small.astype(dtype), y.astype(dtype)), "full"), reference, strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_work_too(dtype):
    x = torch.from_numpy(RNG.integers(0, 100, (N, 2, 12))).to(dtype)
    task = ArraysTask(x, torch.from_numpy(LABELS))
    assert torch.isfinite(everything(task, "train")[0]).all()
    assert ArraysTask(x.tolist(), LABELS.tolist()).output_shape == (3,)


def test_regression_is_measured_in_the_units_of_the_data():
    y = RNG.normal(size=(N, 2)) * [1000.0, 0.01] + [5e6, 3.0]
    task = ArraysTask(X1, y, x_test=X1, y_test=y, metric="mae")
    targets = everything(task, "test")[1]
    train = everything(task, "train")[1]
    torch.testing.assert_close(train.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    expected = np.abs(y - y[::-1]).mean()
    assert task.error(targets.flip(0), targets) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(task.code.decode(targets).numpy(), y, rtol=1e-6)


def test_relative_l2_loss_is_the_metric():
    task = ArraysTask(X2, FLOATS + 3)
    _, targets = everything(task, "test")
    outputs = torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    assert float(task.loss(outputs, targets)) == pytest.approx(task.error(outputs, targets), rel=1e-5)


def test_relative_l2_loss_stays_finite_where_targets_are_zero():
    y = FLOATS.copy()
    y[::2] = 0
    task = ArraysTask(X2, y)
    _, targets = everything(task, "train")
    outputs = torch.zeros(targets.shape, requires_grad=True)
    task.loss(outputs, targets).backward()
    assert torch.isfinite(outputs.grad).all()


def test_positives_weigh_more_only_where_f1_is_measured():
    rare = RNG.random((N, 8, 6)) < 0.1
    task = ArraysTask(X2, rare)
    share = everything(task, "train")[1].mean().item()
    assert task.code.positive_weight.item() == pytest.approx(np.sqrt((1 - share) / share), rel=1e-6)
    assert ArraysTask(X2, rare, metric="auroc").code.positive_weight.item() == 1.0


def test_splits_keep_the_shares_of_the_classes():
    y = np.repeat([0, 1, 2], [100, 60, 40])
    task = ArraysTask(RNG.normal(size=(200, 5)), y)
    for split, expected in (("test", [20, 12, 8]), ("valid", [16, 10, 6]), ("train", [64, 38, 26])):
        assert torch.bincount(everything(task, split)[1]).tolist() == expected


def test_every_class_is_in_training_however_rare():
    y = np.repeat([0, 1, 2, 3], [50, 1, 2, 3])
    for seed in range(20):
        task = ArraysTask(RNG.normal(size=(56, 5)), y, seed=seed)
        assert set(everything(task, "train")[1].tolist()) == {0, 1, 2, 3}


def test_splits_are_disjoint_complete_and_seeded():
    x = np.arange(N, dtype=float)[:, None] + np.zeros((1, 4))
    tasks = [ArraysTask(x, LABELS, standardise=False, seed=s) for s in (0, 0, 1)]
    parts = [{s: everything(t, s)[0][:, 0, 0].tolist() for s in ("train", "valid", "test")} for t in tasks]
    assert sorted(i for part in parts[0].values() for i in part) == list(range(N))
    assert parts[0] == parts[1] != parts[2]
    assert everything(tasks[0], "full")[0][:, 0, 0].tolist() == parts[0]["train"] + parts[0]["valid"]


@pytest.mark.parametrize("seed", range(8))
def test_groups_never_straddle(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 15, 200)
    y = (groups + (rng.random(200) < 0.2)) % 3
    x = groups[:, None] + np.zeros((1, 4))
    named = np.array([f"g{g}" for g in range(15)])[groups]
    for given in (groups, named):
        task = ArraysTask(x, y, groups=given, standardise=False, seed=seed)
        seen = [set(everything(task, s)[0][:, 0, 0].tolist()) for s in ("train", "valid", "test")]
        assert len(set.union(*seen)) == sum(map(len, seen))
        assert 15 <= task.size("test") <= 65
        assert set(everything(task, "train")[1].tolist()) == {0, 1, 2}


def test_a_class_of_one_group_stays_in_training():
    groups = np.repeat(np.arange(10), 6)
    y = np.where(groups == 4, 1, np.where(groups % 2, 0, 2))
    for seed in range(20):
        task = ArraysTask(RNG.normal(size=(60, 5)), y, groups=groups, seed=seed)
        assert set(everything(task, "train")[1].tolist()) == {0, 1, 2}


def test_batches_come_in_order_or_shuffled_by_the_generator():
    task = ArraysTask(X1, LABELS, x_valid=X1, y_valid=LABELS, x_test=X1, y_test=LABELS, standardise=False)
    shuffled = [
        torch.cat([x for x, _ in task.batches("train", 7, torch.Generator().manual_seed(s))])
        for s in (0, 0, 1)
    ]
    torch.testing.assert_close(shuffled[0], shuffled[1], rtol=0, atol=0)
    assert not torch.equal(shuffled[0], shuffled[2])
    torch.testing.assert_close(everything(task, "train")[0], torch.from_numpy(X1).float())
    sizes = [len(y) for _, y in task.batches("train", 59, torch.Generator())]
    assert sizes == [59], "a last shuffled batch of one sample is left out"
    assert [len(y) for _, y in task.batches("train", 59)] == [59, 1]
    with pytest.raises(ValueError, match="batch of 0"):
        list(task.batches("train", 0))


def test_tasks_travel_to_other_processes_without_their_caches(tmp_path):
    file = str(tmp_path / "a.npz")
    np.savez(file, x_train=X1, y_train=LABELS)
    task = ArraysTask(file=file, metric="f1")
    before = everything(task, "full")
    data = pickle.dumps(task)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert copy == task
    assert hash(copy) == hash(task)
    for a, b in zip(everything(copy, "full"), before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    arrays = pickle.loads(pickle.dumps(ArraysTask(X1, LABELS)))
    assert arrays.size("full") == ArraysTask(X1, LABELS).size("full")


def test_comparing_and_showing_read_nothing():
    missing = ArraysTask(file="no/such/file.npz", seed=3)
    assert missing == ArraysTask(file="no/such/file.npz", seed=3)
    assert missing != ArraysTask(file="no/such/file.npz", seed=4)
    assert repr(missing) == "ArraysTask(file='no/such/file.npz', seed=3)"
    assert ArraysTask(X1, LABELS) == ArraysTask(X1, LABELS)
    assert ArraysTask(X1, LABELS) != ArraysTask(X1.copy(), LABELS)
    assert hash(ArraysTask(X1, LABELS)) == hash(ArraysTask(X1, LABELS))
    assert repr(ArraysTask(X1, LABELS)) == "ArraysTask(x=<ndarray>, y=<ndarray>)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        missing.seed = 1


def test_fingerprint_identifies_the_data(tmp_path):
    file = str(tmp_path / "a.npz")
    np.savez(file, x_train=X1, y_train=LABELS)
    prints = {
        ArraysTask(X1, LABELS).fingerprint(),
        ArraysTask(X1 + 1e-9, LABELS).fingerprint(),
        ArraysTask(X1.astype(np.float32), LABELS).fingerprint(),
        ArraysTask(X1.reshape(N, 24), LABELS).fingerprint(),
        ArraysTask(X1, LABELS, x_test=X1, y_test=LABELS).fingerprint(),
    }
    assert len(prints) == 5
    assert ArraysTask(file=file).fingerprint() == ArraysTask(X1, LABELS, seed=4).fingerprint()


def test_recipe_gives_ten_steps_an_epoch():
    for n, batch in ((30, 8), (300, 16), (5000, 32)):
        task = ArraysTask(np.zeros((n, 4)), np.arange(n) % 2)
        assert task.recipe.batch_size == batch
    assert ArraysTask(X1, LABELS, batch_size=5).recipe.batch_size == 5
    assert task.recipe.optimizer == "adamw"


def test_files_may_use_other_names_for_the_same(tmp_path, caplog):
    file = str(tmp_path / "a.npz")
    np.savez(file, X=X1, Y=LABELS, x_val=X1[:6], y_val=LABELS[:6], X_test=X1, y_test=LABELS, note="hello")
    task = ArraysTask(file=file)
    with caplog.at_level(logging.INFO, "nasfw"):
        assert [task.size(s) for s in ("train", "valid", "test")] == [N, 6, N]
    assert "also holds note, which a task does not use" in caplog.text


def test_metrics_are_those_of_the_module():
    task = ArraysTask(X1, LABELS, metric="auroc")
    _, targets = everything(task, "test")
    outputs = torch.randn(len(targets), 3)
    assert task.error(outputs, targets) == METRICS["auroc"](outputs, targets, "classification")


def test_metric_can_be_a_parameter_or_found():
    assert ArraysTask.metric == "auto"
    assert {f.name: f.default for f in dataclasses.fields(ArraysTask)}["metric"] == "auto"
    assert ArraysTask(X1, MULTI).metric == "map"
    with pytest.raises(UsageError, match="does not suit classification"):
        _ = ArraysTask(X1, LABELS, metric="mse").output_shape


def test_a_last_axis_of_one_is_a_channel():
    assert ArraysTask(np.zeros((20, 50, 1)), np.arange(20) % 2).input_shape == (1, 50)
    assert ArraysTask(np.zeros((20, 1, 50)), np.arange(20) % 2).input_shape == (1, 50)
