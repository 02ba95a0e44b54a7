"""Measurements that were made before, read from files."""

import logging
import os
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from nasfw.contracts import Candidate
from nasfw.hardware.table import UNITS, Table
from nasfw.testing import DeviceContract, ToySpace, ToyTask
from nasfw.values import Unsupported, UsageError

CSV = """
name,first,latency_ms,second,energy,memory_KiB
a,1.0,2.5,2.0,0.25,4
b,2,5,1,0.5,8
"""


@dataclass(frozen=True)
class Mixed(ToySpace):
    """Decisions of all types of options."""

    options: ClassVar = {"kernel": (3, 5), "rate": (0.5, 1.0), "skip": (False, True), "op": ("conv", "3")}

    @property
    def decisions(self):
        return self.options


def written(tmp_path, text, name="board.csv"):
    file = tmp_path / name
    file.write_text(text.strip() + "\n", encoding="utf-8")
    return Table(str(file))


def saved(tmp_path, name="board.npz", **arrays):
    np.savez(tmp_path / name, **arrays)
    return Table(str(tmp_path / name))


def toy(*architecture, space=ToySpace):
    task = ToyTask()
    return Candidate(space(task), task, architecture)


class TestTable(DeviceContract):
    @pytest.fixture
    def device(self, tmp_path):
        return written(tmp_path, CSV)


def test_columns_may_come_in_any_order_and_unit(tmp_path):
    table = written(tmp_path, CSV)
    assert table.measure("latency", toy(1.0, 2.0)) == pytest.approx(2.5e-3)
    assert table.measure("latency", toy(2.0, 1.0)) == pytest.approx(5e-3)
    assert table.measure("energy", toy(2.0, 1.0)) == 0.5
    assert table.measure("memory", toy(2.0, 1.0)) == 8 * 1024


@pytest.mark.parametrize(("metric", "unit"), [(m, u) for m, units in UNITS.items() for u in units])
def test_units_are_prefixes_of_the_base_units(tmp_path, metric, unit):
    """From the prefix by definition, 1024 for those with an i."""
    powers = {"n": -3, "u": -2, "µ": -2, "m": -1, "k": 1, "K": 1, "M": 2, "G": 3}
    base = {"latency": "s", "energy": "J", "memory": "B"}[metric]
    prefix = unit.removesuffix(base)
    expected = 1.0 if not prefix else (1024.0 if "i" in prefix else 1000.0) ** powers[prefix[0]]
    table = written(tmp_path, f"first,second,{metric}_{unit}\n1,2,3")
    assert table.measure(metric, toy(1.0, 2.0)) == pytest.approx(3 * expected)


def test_the_value_says_where_it_is_from(tmp_path):
    value = written(tmp_path, CSV).measure("energy", toy(1.0, 2.0))
    assert (value.clock, value.low, value.high) == ("table board.csv", 0.25, 0.25)


def test_it_is_called_as_the_file_or_as_the_user_says(tmp_path):
    table = written(tmp_path, CSV)
    assert table.name == "board"
    assert replace(table, label="Board 3").name == "Board 3"


def test_options_of_all_types_are_found_in_text_and_in_arrays(tmp_path):
    architecture = (5, 0.5, True, "3")
    text = written(tmp_path, "kernel,rate,skip,op,latency\n3,0.5,true,3,1\n5,.5,True,3,2\n5,0.5,0,conv,3")
    assert text.measure("latency", toy(*architecture, space=Mixed)) == 2.0
    columns = {"kernel": [3, 5], "rate": [0.5, 0.5], "skip": [True, True], "op": ["3", "3"]}
    arrays = saved(tmp_path, **columns, latency=[1.0, 2.0])
    assert arrays.measure("latency", toy(*architecture, space=Mixed)) == 2.0


def test_choices_are_rows_in_the_order_of_the_space(tmp_path):
    numbers = saved(tmp_path, choices=np.array([[1, 2], [2, 1]], np.int8), latency_us=[3, 4])
    assert numbers.measure("latency", toy(2.0, 1.0)) == pytest.approx(4e-6)
    texts = saved(tmp_path, "texts.npz", choices=[["1", "2"], ["2", "1"]], latency_us=[3, 4])
    assert texts.measure("latency", toy(2.0, 1.0)) == pytest.approx(4e-6)


def test_every_row_of_a_large_table_is_found(tmp_path):
    rng = np.random.default_rng(0)
    seconds = rng.uniform(1, 2, size=9)
    choices = [(a, b) for a in (0.0, 1.0, 2.0) for b in (0.0, 1.0, 2.0)]
    table = saved(tmp_path, choices=np.array(choices), latency=seconds)
    assert [table.measure("latency", toy(*c)) for c in choices] == seconds.tolist()


def test_rows_of_a_larger_space_and_equal_repetitions_do_not_matter(tmp_path):
    table = written(tmp_path, "first,second,latency\n7,1,9\n1,2,3\n1,2,3.0\n")
    assert table.measure("latency", toy(1.0, 2.0)) == 3.0


def test_columns_without_use_are_named_once(tmp_path, caplog):
    table = written(tmp_path, CSV)
    with caplog.at_level(logging.INFO, "nasfw"):
        for _ in range(2):
            table.measure("energy", toy(1.0, 2.0))
    assert caplog.messages == ["board.csv: columns without use here: name"]


def test_a_file_that_changed_is_read_again(tmp_path):
    table = written(tmp_path, "first,second,latency\n1,2,3")
    former, fingerprint = table.measure("latency", toy(1.0, 2.0)), table.fingerprint
    written(tmp_path, "first,second,latency\n1,2,4")
    os.utime(tmp_path / "board.csv", ns=(1, 1))
    assert (former, table.measure("latency", toy(1.0, 2.0))) == (3.0, 4.0)
    assert table.fingerprint != fingerprint
    assert table.fingerprint["device"] == "board"


def test_an_architecture_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Unsupported) as caught:
        written(tmp_path, CSV).measure("latency", toy(0.0, 2.0))
    assert str(caught.value) == "board.csv has 2 rows, but none for the architecture first=0.0, second=2.0"


def test_a_metric_that_the_file_lacks_is_unsupported(tmp_path):
    table = written(tmp_path, "first,second,latency_ms,energy_cal\n1,2,3,4")
    table.check("latency")
    with pytest.raises(
        Unsupported, match=r"no column energy, nor one of energy_J, .*; its columns are first"
    ):
        table.check("energy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first,latency\n1,2", "no column for 1 of 2 decisions: second; its columns are first, latency"),
        (
            "first,second,latency\n1,2,3\n\n1,2,4",
            "line 2 and line 4 of board.csv are of one architecture, but",
        ),
        ("first,second,latency\n1,2,3\n1,0,0", "line 3 of board.csv: latency is '0', not a positive number"),
        ("first,second,latency\n1,2,-1", "line 2 of board.csv: latency is '-1'"),
        ("first,second,latency\n1,2,nan", "line 2 of board.csv: latency is 'nan'"),
        ("first,second,latency\n1,2,inf", "line 2 of board.csv: latency is 'inf'"),
        ("first,second,latency\n1,2,", "line 2 of board.csv: latency is ''"),
        ("first,second,latency\n1,2,3 ms", "line 2 of board.csv: latency is '3 ms'"),
        ("first,second,latency\n1,2", "line 2 of board.csv has 2 cells, its header 3"),
        ("first,second,latency,latency_ms\n1,2,3,3000", "has latency twice: latency and latency_ms"),
        ("first,second,first,latency\n1,2,3,4", "has two columns 'first'"),
        ("first,second,latency", "board.csv has no rows"),
        ("", "board.csv has no rows"),
        ('first,second,latency\n1,"2,3', "board.csv is no CSV file"),
        ("first,second,latency\n8,9,3", "none of the 1 rows of board.csv has the options of this space"),
    ],
)
def test_csv_files_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(UsageError) as caught:
        written(tmp_path, text).measure("latency", toy(1.0, 2.0))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"choices": [[1, 2, 3]], "latency": [1.0]},
            "choices of board.npz has the shape (1, 3); it should be (1, 2)",
        ),
        (
            {"choices": [[1, 2]], "latency": [1.0, 2.0]},
            "latency of board.npz has the shape (2,); it should be (1,)",
        ),
        ({"choices": [[1, 2]], "latency_ms": [[1.0]]}, "latency_ms of board.npz has the shape (1, 1)"),
        ({"first": [1], "second": [2, 3], "latency": [1.0]}, "second of board.npz has the shape (2,)"),
        (
            {"first": [1], "second": [2]},
            "has no measurements: no array latency or energy or memory; it has first",
        ),
        ({}, "has no measurements: no array latency or energy or memory; it has nothing"),
        ({"choices": [[1, 2], [1, 2]], "latency": [1.0, 2.0]}, "row 0 and row 1 of board.npz are of one"),
        ({"choices": [[1, 2]], "latency": np.array([None])}, "board.npz is no npz file of plain arrays"),
    ],
)
def test_npz_files_that_cannot_be_used(tmp_path, arrays, message):
    with pytest.raises(UsageError) as caught:
        saved(tmp_path, **arrays).measure("latency", toy(1.0, 2.0))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "gone.csv cannot be read: No such file"),
        ("folder.csv", "folder", "folder.csv cannot be read: Is a directory"),
        ("board.txt", b"first,second,latency", "board.txt must be a .csv or .npz file"),
        ("board.csv", b"\xff\xfe", "board.csv is no CSV file"),
        ("board.npz", b"first,second,latency", "board.npz is no npz file"),
        ("board.npz", b"PK\x03\x04 and no more", "board.npz is no npz file"),
        ("board.npz", b"", "board.npz is no npz file"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, message):
    file = tmp_path / name
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        Table(str(file)).check("latency")
    assert message in str(caught.value)


def test_a_single_array_is_no_table(tmp_path):
    with (tmp_path / "board.npz").open("wb") as stream:
        np.save(stream, np.ones(3))
    with pytest.raises(UsageError, match=r"board\.npz is no npz file of plain arrays: it holds a single"):
        Table(str(tmp_path / "board.npz")).check("latency")
