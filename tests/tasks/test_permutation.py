"""Bit reversal: what it is, and that a permuted task is the task with its positions in that order."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nasfw.orders import bit_reversal
from nasfw.tasks import loading
from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.burgers import Burgers
from nasfw.tasks.darcy import Darcy
from nasfw.tasks.dataset import DatasetTask
from nasfw.tasks.digits import Digits
from nasfw.tasks.navier_stokes import NavierStokes
from nasfw.tasks.permutation import bit_reversed, restored

RNG = np.random.default_rng(0)
N = 40
SERIES, IMAGES, VOLUMES = (RNG.normal(size=(N, *s)) for s in ((2, 12), (3, 8, 6), (2, 4, 6, 5)))
LABELS = np.arange(N) % 4
SIZES = [1, 2, 3, 4, 5, 7, 8, 12, 31, 64, 100, 257]
GENERATED = [
    Digits(),
    Burgers(resolution=12, viscosity=0.1, samples=20, test_samples=5),
    Darcy(resolution=6, samples=20, test_samples=5),
    NavierStokes(resolution=8, time=0.2, samples=20, test_samples=5),
    NavierStokes(resolution=8, time=0.2, steps=3, samples=20, test_samples=5),
]
# Names of the kinds, inputs and targets of every number of axes.
DENSE = {
    "values at points": ("dense_regression", SERIES, RNG.normal(size=(N, 12))),
    "values at pixels": ("dense_regression", IMAGES, RNG.normal(size=(N, 2, 8, 6))),
    "values in space": ("dense_regression", VOLUMES, RNG.normal(size=(N, 4, 6, 5))),
    "masks": ("dense_binary", IMAGES, RNG.integers(0, 2, (N, 8, 6))),
    "classes at pixels": ("dense_classification", IMAGES, RNG.integers(0, 3, (N, 8, 6))),
    "classes in space": ("dense_classification", VOLUMES, RNG.integers(0, 3, (N, 4, 6, 5))),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def everything(task, split):
    batches = list(task.batches(split, 7))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def reordered(x, dims):
    """Position by position: ``result[i, j] = x[order[i], order[j]]``."""
    orders = [bit_reversal(n) for n in x.shape[x.ndim - dims :]]
    result = torch.empty_like(x)
    for position in np.ndindex(*x.shape[x.ndim - dims :]):
        source = tuple(order[i] for order, i in zip(orders, position, strict=True))
        result[(..., *position)] = x[(..., *source)]
    return result


@pytest.mark.parametrize("n", SIZES)
def test_it_is_a_permutation_by_the_reversed_digits(n):
    order = bit_reversal(n)
    assert sorted(order) == list(range(n))
    digits = max(1, (n - 1).bit_length())
    reversed_digits = [int(f"{i:0{digits}b}"[::-1], 2) for i in order]
    assert reversed_digits == sorted(reversed_digits)


def test_it_is_that_of_the_literature_for_eight():
    assert bit_reversal(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert bit_reversal(6) == [0, 4, 2, 1, 5, 3]


@pytest.mark.parametrize("n", [1, 2, 4, 32, 128])
def test_twice_it_is_the_identity_for_powers_of_two(n):
    order = bit_reversal(n)
    assert [order[i] for i in order] == list(range(n))


@pytest.mark.parametrize("n", [2, 8, 64])
def test_it_is_the_order_in_which_even_and_odd_are_parted_again_and_again(n):
    def parted(x):
        return x if len(x) == 1 else [*parted(x[::2]), *parted(x[1::2])]

    assert bit_reversal(n) == parted(list(range(n)))


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_restoring_undoes_it_along_as_many_axes(dims):
    x = RNG.normal(size=(3, 4, 6, 5))
    permuted = torch.from_numpy(bit_reversed(x, dims))
    assert torch.equal(permuted, reordered(torch.from_numpy(x), dims))
    assert torch.equal(restored(permuted, dims), torch.from_numpy(x))


@pytest.mark.parametrize("task", GENERATED, ids=lambda t: f"{type(t).__name__}{len(t.input_shape)}")
@pytest.mark.parametrize("split", ["train", "valid", "full", "test"])
def test_permuted_batches_are_the_batches_with_positions_in_another_order(task, split):
    (x, y), (inputs, targets) = everything(task, split), everything(replace(task, permuted=True), split)
    assert torch.equal(inputs, reordered(x, x.ndim - 2))
    assert torch.equal(targets, reordered(y, y.ndim - 2) if task.metric == "relative_l2" else y)
    assert not torch.equal(inputs, x)


@pytest.mark.parametrize("task", GENERATED[1:4], ids=lambda t: type(t).__name__)
def test_generated_data_are_made_and_kept_once_for_both_orders(task, own_cache):
    before = replace(task).arrays.fingerprint()
    (file,) = own_cache.iterdir()
    permuted = replace(task, permuted=True)
    assert permuted.arrays.fingerprint() == before
    assert list(own_cache.iterdir()) == [file]
    assert permuted.meaning == replace(task.meaning, permuted=True)
    assert permuted.description.startswith(task.description)
    assert "bit-reversed" in permuted.description
    assert "bit-reversed" not in task.description


@pytest.mark.parametrize("case", DENSE)
def test_dense_targets_go_with_their_inputs_and_come_back(case):
    kind, x, y = DENSE[case]
    task = ArraysTask(x, y, kind=kind, x_test=x, y_test=y, channels="first")
    permuted = replace(task, permuted=True)
    dims = x.ndim - 2
    (inputs, targets), (moved, answers) = everything(task, "test"), everything(permuted, "test")
    assert torch.equal(moved, reordered(inputs, dims))
    assert torch.equal(answers, reordered(targets, dims))
    assert torch.equal(permuted.code.decode(answers), task.code.decode(targets))
    outputs = torch.randn(N, *task.output_shape, generator=torch.Generator().manual_seed(0))
    turned = reordered(outputs, dims)
    assert torch.equal(permuted.code.decode(turned), task.code.decode(outputs))
    assert permuted.error(turned, answers) == task.error(outputs, targets)
    assert float(permuted.loss(turned, answers)) == pytest.approx(
        float(task.loss(outputs, targets)), rel=1e-6
    )


@pytest.mark.parametrize("x", [SERIES, IMAGES, VOLUMES], ids=["series", "images", "volumes"])
def test_targets_without_positions_stay_and_inputs_are_prepared_as_in_training(x):
    y = np.random.default_rng(1).normal(size=(N, 12))
    task = ArraysTask(x, y, kind="regression", x_test=x, y_test=y, channels="first", permuted=True)
    inputs, targets = everything(task, "test")
    assert torch.equal(inputs, task.prepare(x))
    assert torch.equal(inputs, reordered(replace(task, permuted=False).prepare(x), x.ndim - 2))
    np.testing.assert_allclose(task.code.decode(targets), y, rtol=0, atol=1e-6)
    assert task.description.endswith("; the positions along every axis in bit-reversed order")


def test_inputs_too_large_for_a_copy_are_permuted_batch_by_batch(monkeypatch):
    task = ArraysTask(IMAGES, LABELS, permuted=True)
    whole = everything(task, "full")[0]
    monkeypatch.setattr(loading, "_LARGE", 100)
    later = replace(task)
    assert torch.equal(everything(later, "full")[0], whole)
    assert np.shares_memory(later._data.x, IMAGES)


def test_channels_are_no_positions():
    last = ArraysTask(np.moveaxis(IMAGES, 1, -1), LABELS, channels="last", permuted=True)
    first = ArraysTask(IMAGES, LABELS, channels="first", permuted=True)
    assert torch.equal(everything(last, "full")[0], everything(first, "full")[0])


@pytest.mark.parametrize("standardise", [False, True])
def test_datasets_are_permuted_as_arrays_are(standardise):
    y = RNG.normal(size=(N, 2, 8, 6))
    data = list(zip(IMAGES.astype(np.float32), y.astype(np.float32), strict=True))
    task = DatasetTask(data, data, standardise=standardise)
    permuted = replace(task, permuted=True)
    (x, y), (inputs, targets) = everything(task, "test"), everything(permuted, "test")
    assert torch.equal(inputs, reordered(x, 2))
    assert torch.equal(targets, reordered(y, 2))
    assert torch.equal(permuted.code.decode(targets), task.code.decode(y))
    assert permuted.meaning == replace(task.meaning, permuted=True)
