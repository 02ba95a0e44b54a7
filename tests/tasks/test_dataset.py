"""DatasetTask: any pair of torch datasets."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.dataset import DatasetTask
from nasfw.values import UsageError

X = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(50) % 5


class Noisy(Dataset):
    """Adds noise at every reading, and gives targets as plain numbers."""

    def __len__(self):
        return 50

    def __getitem__(self, i):
        return X[i] + torch.randn(3, 8, 8), int(Y[i])


def everything(task, split, generator=None):
    batches = list(task.batches(split, 16, generator))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_a_pair_of_datasets_is_a_task():
    task = DatasetTask(TensorDataset(X, Y * 10), Subset(TensorDataset(X, Y * 10), range(7)))
    assert task.input_shape == (3, 8, 8)
    assert task.output_shape == (5,)
    assert task.metric == "error"
    assert task.classes == (0, 10, 20, 30, 40)
    assert [task.size(s) for s in ("train", "valid", "full", "test")] == [40, 10, 50, 7]
    x, y = everything(task, "test")
    torch.testing.assert_close(x, X[:7])
    assert y.tolist() == Y[:7].tolist()
    assert torch.bincount(everything(task, "valid")[1]).tolist() == [2] * 5


def test_a_given_validation_set_is_used_and_joins_full():
    task = DatasetTask(TensorDataset(X, Y), TensorDataset(X, Y), valid=TensorDataset(-X[:9], Y[:9]))
    assert [task.size(s) for s in ("train", "valid", "full")] == [50, 9, 59]
    torch.testing.assert_close(everything(task, "valid")[0], -X[:9])
    torch.testing.assert_close(everything(task, "full")[0], torch.cat([X, -X[:9]]))


def test_batches_are_shuffled_by_the_generator_alone():
    task = DatasetTask(TensorDataset(X, Y), TensorDataset(X, Y))
    before = torch.random.get_rng_state()
    drawn = [everything(task, "train", torch.Generator().manual_seed(s))[0] for s in (0, 0, 1)]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    assert not torch.equal(drawn[0], drawn[2])
    everything(task, "test")
    assert torch.equal(before, torch.random.get_rng_state())


def test_random_datasets_are_read_anew_each_time():
    task = DatasetTask(Noisy(), Noisy())
    assert task.output_shape == (5,)
    assert not torch.equal(everything(task, "test")[0], everything(task, "test")[0])


def test_datasets_and_arrays_agree():
    y = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)) * 7 + 3
    data = TensorDataset(X, y)
    one = DatasetTask(data, data, valid=data, standardise=True)
    two = ArraysTask(X, y, x_valid=X, y_valid=y, x_test=X, y_test=y)
    for a, b in zip(everything(one, "train"), everything(two, "train"), strict=True):
        torch.testing.assert_close(a, b)
    outputs = torch.zeros(50, 2)
    targets = everything(two, "test")[1]
    assert one.error(outputs, targets) == pytest.approx(two.error(outputs, targets), rel=1e-6)


def test_masks_are_dense():
    data = TensorDataset(X, (X[:, 0] > 0).to(torch.uint8) * 255)
    task = DatasetTask(data, data)
    assert task.code.kind == "dense_binary"
    assert task.output_shape == (1, 8, 8)
    assert everything(task, "test")[1].unique().tolist() == [0, 1]


def test_signals_of_numpy_arrays_are_one_channel():
    data = [(np.arange(6, dtype=np.int16) + i, i % 2) for i in range(20)]
    task = DatasetTask(data, data)
    assert task.input_shape == (1, 6)
    assert task == task
    assert "array" not in repr(task)


def test_other_processes_read_and_receive_it():
    task = DatasetTask(TensorDataset(X, Y), TensorDataset(X, Y), workers=1)
    assert everything(task, "test")[1].tolist() == Y.tolist()
    assert pickle.loads(pickle.dumps(task)).size("train") == 40


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (iter([]), TensorDataset(X, Y), "train is a list_iterator; a dataset with items and a length"),
        (TensorDataset(X, Y), [], "the dataset for test is empty"),
        (TensorDataset(X), TensorDataset(X), r"items must be pairs \(x, y\)"),
        ([(X[0], 0), (X[0, :2], 1)], [(X[0], 0)], "x has several shapes in one dataset"),
        (TensorDataset(X, Y * 0), TensorDataset(X, Y), "one class only"),
        (TensorDataset(X * float("nan"), Y), TensorDataset(X, Y), "x of train holds 9600 values"),
        ([("text", 0), ("text", 1)], [("text", 0)], "x has dtype"),
    ],
)
def test_bad_datasets_are_refused(train, test, message):
    with pytest.raises(UsageError, match=message):
        _ = DatasetTask(train, test).input_shape


def test_bad_test_samples_are_refused_when_read():
    task = DatasetTask(TensorDataset(X, Y), TensorDataset(X, Y + 3))
    with pytest.raises(UsageError, match=r"y of test holds the label [567] .* known: 0, 1, 2, 3, 4"):
        everything(task, "test")
    task = DatasetTask(TensorDataset(X, Y), TensorDataset(X[:, :2], Y))
    with pytest.raises(UsageError, match=r"inputs have shape \(2, 8, 8\) and \(3, 8, 8\)"):
        everything(task, "test")
