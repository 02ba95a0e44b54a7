"""Whatever is wrong with the data is one clear sentence."""

import os
import stat

import numpy as np
import pytest
import torch

from nasfw.tasks.arrays import ArraysTask
from nasfw.values import UsageError

RNG = np.random.default_rng(0)
N = 40
X = RNG.normal(size=(N, 2, 12))
X2 = RNG.normal(size=(N, 1, 8, 6))
X3 = RNG.normal(size=(N, 1, 4, 2, 3))
Y = np.arange(N) % 4
FLOATS = RNG.normal(size=N)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


ARRAYS = {
    "lengths": ({"x": X, "y": Y[:-1]}, "x has 40 samples and y has 39"),
    "test lengths": (
        {"x": X, "y": Y, "x_test": X[:5], "y_test": Y[:4]},
        "x_test has 5 samples and y_test has 4",
    ),
    "one nan": (
        {"x": changed(X, (3, 1, 5), np.nan), "y": Y},
        r"x holds 1 value that is NaN or infinite, the first at index \[3, 1, 5\]",
    ),
    "several inf": (
        {"x": changed(X, (slice(2, 4), 0, 0), np.inf), "y": Y},
        r"x holds 2 values .* \[2, 0, 0\]",
    ),
    "nan float16": ({"x": changed(X.astype(np.float16), (0, 0, 0), np.nan), "y": Y}, "x holds 1 value"),
    "too large": ({"x": changed(X, (0, 0, 0), 1e200), "y": Y}, "x holds 1 value that is NaN or infinite"),
    "nan in test": ({"x": X, "y": Y, "x_test": X * np.nan, "y_test": Y}, "x_test holds 960 values"),
    "nan in y": ({"x": X, "y": changed(FLOATS, 7, np.nan)}, "y holds 1 value .* index 7"),
    "one class": ({"x": X, "y": Y * 0 + 5}, r"y holds one class only \(5\)"),
    "one class text": ({"x": X, "y": ["a"] * N}, r"y holds one class only \('a'\)"),
    "one class one-hot": ({"x": X, "y": np.eye(3)[Y * 0]}, "one class only"),
    "empty mask": ({"x": X2, "y": np.zeros((N, 8, 6), int)}, "one class only"),
    "unseen test label": (
        {"x": X, "y": Y, "x_test": X[:2], "y_test": np.array([0, 9])},
        "y_test holds the label 9 .1 times., which never occurs in training; known: 0, 1, 2, 3",
    ),
    "unseen valid label": (
        {"x": X, "y": Y, "x_valid": X[:2], "y_valid": np.array([0, 9])},
        "y_valid holds the label 9",
    ),
    "unseen text label": (
        {"x": X, "y": Y.astype(str), "x_test": X, "y_test": Y},
        "y_test holds the label 0 ",
    ),
    "unseen mask value": (
        {
            "x": X2,
            "y": np.ones((N, 8, 6), int) * (Y % 2)[:, None, None],
            "x_test": X2,
            "y_test": np.full((N, 8, 6), 2),
        },
        "y_test holds the label 2",
    ),
    "empty": ({"x": X[:0], "y": Y[:0]}, r"x is empty \(shape \(0, 2, 12\)\)"),
    "no positions": ({"x": X[:, :, :0], "y": Y}, "x is empty"),
    "empty test": ({"x": X, "y": Y, "x_test": X[:0], "y_test": Y[:0]}, "x_test is empty"),
    "objects": ({"x": X.astype(object), "y": Y}, r"x has dtype object \(Python objects\)"),
    "object labels": ({"x": X, "y": Y.astype(object)}, r"y has dtype object"),
    "complex": ({"x": X.astype(complex), "y": Y}, r"x has dtype complex128 \(complex\)"),
    "text": ({"x": X.astype(str), "y": Y}, r"x has dtype .*\(text\); real numbers are needed"),
    "dates": ({"x": X, "y": Y.astype("datetime64[D]")}, "y has dtype datetime64"),
    "ragged": ({"x": [[1.0, 2.0], [3.0]], "y": [0, 1]}, "x is no regular array"),
    "number": ({"x": 3.0, "y": Y}, "x is empty|x has shape"),
    "one axis": ({"x": FLOATS, "y": Y}, r"x has shape \(40,\); possible: \[n, length\]"),
    "six axes": ({"x": X.reshape(N, 2, 1, 2, 2, 3), "y": Y}, r"x has shape \(40, 2, 1, 2, 2, 3\); possible"),
    "test shape": (
        {"x": X, "y": Y, "x_test": X[..., :9], "y_test": Y},
        r"x_test has shape \(40, 2, 9\), where x",
    ),
    "valid axes": ({"x": X, "y": Y, "x_valid": X[:, 0], "y_valid": Y}, r"x_valid has shape \(40, 12\)"),
    "test targets": (
        {"x": X, "y": RNG.normal(size=(N, 3)), "x_test": X, "y_test": RNG.normal(size=(N, 2))},
        r"y_test has shape \(40, 2\)",
    ),
    "groups length": ({"x": X, "y": Y, "groups": Y[:-1]}, r"groups has shape \(39,\); the 40 samples"),
    "groups shape": ({"x": X, "y": Y, "groups": np.c_[Y, Y]}, r"groups has shape \(40, 2\)"),
    "one group": ({"x": X, "y": Y, "groups": Y * 0}, r"groups holds one group only \(0\)"),
    "two groups": ({"x": X, "y": FLOATS, "groups": Y // 2}, "one group is left"),
    "classes along groups": ({"x": X, "y": Y, "groups": Y}, "no test part can be split off along the groups"),
    "two samples": ({"x": X[:2], "y": Y[:2]}, "2 samples are too few to split off a test part of 0.2"),
    "all classes single": ({"x": X[:4], "y": Y[:4]}, "4 samples are too few"),
    "one sample": ({"x": X[:1], "y": FLOATS[:1]}, "1 samples are too few"),
    "missing y": ({"x": X}, "needs a file .* or both x and y"),
    "nothing": ({}, "needs a file"),
    "half a test part": ({"x": X, "y": Y, "x_test": X}, "x_test was given without y_test"),
    "half a valid part": ({"x": X, "y": Y, "y_valid": Y}, "y_valid was given without x_valid"),
    "file and arrays": ({"x": X, "y": Y, "file": "a.npz"}, "both a file and x, y were given"),
    "dense elsewhere": (
        {"x": X2, "y": RNG.normal(size=(N, 8, 7))},
        r"y of shape \(40, 8, 7\) does not lie on the positions \(8, 6\) of x",
    ),
    "dense asked for": ({"x": X, "y": FLOATS, "kind": "dense_regression"}, "does not lie on the positions"),
    "text regression": ({"x": X, "y": ["a", "b"] * 20, "kind": "regression"}, "y holds text"),
    "not zero-one": ({"x": X, "y": np.c_[Y, Y], "kind": "multilabel"}, "values other than 0 and 1"),
    "not one-hot": ({"x": X, "y": np.c_[Y, Y], "kind": "classification"}, "is not one-hot"),
    "too many mask values": (
        {"x": X2, "y": RNG.integers(0, 5, (N, 8, 6)), "kind": "dense_binary"},
        "y holds 5 different values, where dense_binary needs two",
    ),
    "dense elsewhere in space": (
        {"x": X3, "y": RNG.normal(size=(N, 4, 3, 2))},
        r"y of shape \(40, 4, 3, 2\) does not lie on the positions \(4, 2, 3\) of x",
    ),
    "channels of five": ({"x": X3, "y": Y, "channels": "none"}, "channels='none' does not suit .* five axes"),
    "metric of another kind": ({"x": X, "y": FLOATS, "metric": "f1"}, "metric 'f1' does not suit regression"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_bad_arrays_are_refused_on_first_use(case):
    arguments, message = ARRAYS[case]
    task = ArraysTask(**arguments)
    with pytest.raises(UsageError, match=message) as refused:
        _ = task.input_shape
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("case", ["lengths", "one nan", "unseen test label", "objects", "half a test part"])
def test_bad_files_are_refused_as_bad_arrays_are(case, tmp_path):
    arguments, message = ARRAYS[case]
    file = str(tmp_path / "bad.npz")
    names = {"x": "x_train", "y": "y_train"}
    np.savez(file, **{names.get(k, k): v for k, v in arguments.items()})
    message = "x_train in .* holds pickled Python objects" if case == "objects" else message
    with pytest.raises(UsageError, match=message):
        _ = ArraysTask(file=file).input_shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "clasification"}, "no kind 'clasification'; did you mean 'classification'.* Known: auto"),
        ({"metric": "f2"}, "no metric 'f2'; did you mean 'f1'.* Known: auto, error"),
        ({"metric": "accuracy"}, "no metric 'accuracy'"),
        ({"kind": "regression", "metric": "auroc"}, "metric 'auroc' does not suit regression; possible: mse"),
        ({"channels": "middle"}, "channels is 'middle'; possible: auto, first, last, none"),
        ({"valid_fraction": 0}, "valid_fraction is 0; it must lie between 0 and 1"),
        ({"valid_fraction": 1.5}, "valid_fraction is 1.5"),
        ({"test_fraction": -0.1}, "test_fraction is -0.1"),
        ({"test_fraction": float("nan")}, "test_fraction is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_parameters_are_refused_at_once(arguments, message):
    with pytest.raises(UsageError, match=message):
        ArraysTask(X, Y, **arguments)


def saved(tmp_path, **arrays):
    file = tmp_path / "a.npz"
    np.savez(file, **arrays)
    return file


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"x_train": X}, "lacks y_train. Found: x_train; expected: x_train and y_train"),
        ({"data": X, "target": Y}, "lacks x_train and y_train. Found: data, target"),
        ({}, "lacks x_train and y_train. Found: nothing"),
        ({"x_trian": X, "y_train": Y}, "holds 'x_trian'; did you mean 'x_train'"),
        ({"x_train": X, "y_train": Y, "x_tset": X}, "holds 'x_tset'; did you mean 'x_test'"),
        ({"x_train": X, "x": X, "y": Y}, "holds both 'x_train' and 'x', which mean the same"),
        ({"x_train": X, "y_train": Y, "x_valid": X}, "x_valid was given without y_valid"),
    ],
)
def test_wrong_keys_are_named(keys, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        _ = ArraysTask(file=str(saved(tmp_path, **keys))).input_shape


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"there is no file '.*absent\.npz'"):
        _ = ArraysTask(file=str(tmp_path / "absent.npz")).input_shape


def test_a_folder(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        _ = ArraysTask(file=str(tmp_path)).input_shape


@pytest.mark.parametrize("content", [b"", b"hello, world", b"a,b\n1,2\n", bytes(range(256)) * 9])
def test_a_file_of_another_kind(content, tmp_path):
    file = tmp_path / "a.npz"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"is not an \.npz file"):
        _ = ArraysTask(file=str(file)).input_shape


def test_a_single_array(tmp_path):
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(UsageError, match=r"is a single .npy array; np.savez makes an .npz with x_train"):
        _ = ArraysTask(file=str(tmp_path / "a.npy")).input_shape


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short(share, tmp_path):
    file = saved(tmp_path, x_train=X, y_train=Y)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UsageError, match="is damaged or cut short"):
        _ = ArraysTask(file=str(file)).input_shape


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_with_changed_bytes(save, tmp_path):
    file = tmp_path / "a.npz"
    save(file, x_train=X, y_train=Y)
    content = bytearray(file.read_bytes())
    content[3000:3040] = bytes(40)
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged or cut short"):
        _ = ArraysTask(file=str(file)).input_shape


def test_a_zip_file_without_arrays(tmp_path):
    import zipfile

    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x_train", "hello")
        archive.writestr("y_train", "world")
    with pytest.raises(UsageError, match=r"x_train in .* is no array"):
        _ = ArraysTask(file=str(file)).input_shape


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everybody may read as root")
def test_a_file_without_permission(tmp_path):
    file = saved(tmp_path, x_train=X, y_train=Y)
    file.chmod(stat.S_IWUSR)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        _ = ArraysTask(file=str(file)).input_shape


def test_sparse_tensors_are_refused():
    with pytest.raises(UsageError, match="x is a sparse"):
        _ = ArraysTask(torch.from_numpy(X[:, 0]).to_sparse(), Y).input_shape
