"""The cache folder, and files that are there as a whole or not at all."""

import errno
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasfw import caches


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "own"))
    assert caches.folder() == tmp_path / "own"
    monkeypatch.delenv("NASFW_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert caches.folder() == tmp_path / "nasfw"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caches.folder() == tmp_path / ".cache" / "nasfw"


def test_a_file_is_old_or_new_and_never_half(tmp_path):
    path = tmp_path / "a" / "b.json"
    with caches.written(path) as stream:
        stream.write(b"old")
        assert not path.exists()
    with caches.written(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "b.json"
    path.write_bytes(b"old")

    def interrupted():
        with caches.written(path) as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_at_once_do_not_mix(tmp_path):
    path = tmp_path / "b.json"
    with caches.written(path) as one:
        with caches.written(path) as two:
            one.write(b"first")
            two.write(b"second, which is longer")
        assert path.read_bytes() == b"second, which is longer"
    assert path.read_bytes() == b"first"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty cache of which nothing has been said yet."""
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "cache"))
    caches.warn_once.cache_clear()
    return tmp_path / "cache" / "things"


KEY = {"name": "a", "sizes": [1, 2], "scale": 0.1, "none": None}


def recall(key=KEY, read=lambda content: content):
    return caches.recall("things", key, read)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), json_values), json_values.filter(lambda content: content is not None))
def test_what_is_remembered_is_recalled(key, content):
    """Any JSON values under any JSON values."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASFW_CACHE", place)
        assert recall(key) is None
        caches.remember("things", key, content)
        assert recall(key) == content


def test_the_last_content_counts(own):
    for content in (1, 2):
        caches.remember("things", KEY, content)
    assert recall() == 2
    assert len(list(own.iterdir())) == 1


@pytest.mark.parametrize("change", [{"name": "b"}, {"sizes": [2, 1]}, {"scale": 0.2}, {"more": 1}])
def test_another_key_recalls_nothing(own, change, caplog):
    caches.remember("things", KEY, 1)
    assert recall({**KEY, **change}) is None
    assert caches.recall("others", KEY, float) is None
    assert caplog.text == ""


def test_orders_and_tuples_make_no_difference(own):
    caches.remember("things", {**KEY, "sizes": (1, 2)}, [(1, 2)])
    assert recall(dict(reversed(KEY.items()))) == [[1, 2]]


def test_content_is_read_by_whoever_asks(own):
    caches.remember("things", KEY, ["1", "2"])
    assert recall(read=lambda content: sum(map(int, content))) == 3


@pytest.mark.parametrize("error", [ValueError, KeyError, TypeError, AttributeError])
def test_content_that_cannot_be_used_is_said_and_counts_as_none(own, error, caplog):
    caches.remember("things", KEY, 1)

    def read(content):
        raise error("not today")

    assert recall(read=read) is None
    assert recall(read=read) is None
    assert caplog.text.count("is damaged and is made anew") == 1
    assert "not today" in caplog.text


def test_a_mistake_of_the_reader_surfaces(own):
    caches.remember("things", KEY, 1)
    with pytest.raises(ZeroDivisionError):
        recall(read=lambda content: content / 0)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "5", '{"content": 1}', "\udcff", '{"key": {}, "content": 1}']
)
def test_a_damaged_file_is_said_once_and_made_anew(own, text, caplog):
    caches.remember("things", KEY, 1)
    (file,) = own.iterdir()
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert recall() is None
    assert caplog.text.count("is damaged and is made anew") == 1
    assert str(file) in caplog.text
    caches.remember("things", KEY, 2)
    assert recall() == 2


def test_two_keys_of_one_digest_are_not_mixed_up(own, caplog):
    """However unlikely."""
    caches.remember("things", KEY, 1)
    caches.remember("things", {"name": "other"}, 2)
    (first,) = (f for f in own.iterdir() if json.loads(f.read_text())["content"] == 1)
    (second,) = (f for f in own.iterdir() if f != first)
    second.replace(first)
    assert recall() is None
    assert "it belongs to something else" in caplog.text


def unwritable(path):
    (path / "file").write_text("")
    return path / "file" / "cache"


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, own, monkeypatch, caplog):
    monkeypatch.setenv("NASFW_CACHE", str(unwritable(tmp_path)))
    for content in (1, 2):
        caches.remember("things", KEY, content)
        caches.remember("things", {"name": "other"}, content)
        assert recall() is None
    assert caplog.text.count("the cache cannot be used") == 1


def test_a_full_disk_is_said_once_and_leaves_nothing(own, monkeypatch, caplog):
    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = pathlib.Path.open

    def full(path, mode="r", *others, **more):
        if mode != "xb":
            return opened(path, mode, *others, **more)
        opened(path, mode).close()
        return Full()

    monkeypatch.setattr(pathlib.Path, "open", full)
    for key in (KEY, {"name": "other"}):
        caches.remember("things", key, 1)
    assert caplog.text.count("the cache cannot be used") == 1
    assert "No space left on device" in caplog.text
    assert list(own.iterdir()) == []


def test_an_entry_that_is_a_folder_is_said_and_counts_as_none(own, caplog):
    caches.remember("things", KEY, 1)
    (file,) = own.iterdir()
    file.unlink()
    file.mkdir()
    assert recall() is None
    caches.remember("things", KEY, 1)
    assert "the cache cannot be used" in caplog.text
    assert list(own.iterdir()) == [file]


def test_nobodys_home_is_said_and_counts_as_none(own, monkeypatch, caplog):
    """Where ~ means nothing, there is no cache."""
    monkeypatch.setenv("NASFW_CACHE", "~nobody-of-this-name/cache")
    caches.remember("things", KEY, 1)
    assert recall() is None
    assert caplog.text.count("the cache cannot be used") == 1


WRITER = """
import sys
from nasfw import caches

name, digit = sys.argv[1:]
for number in range(150):
    caches.remember("things", {"shared": True}, [digit] * (1 + 40 * number))
    caches.remember("things", {"shared": False, "name": name, "number": number}, number)
"""


def test_processes_that_write_at_once_leave_whole_files(own, caplog):
    """Whatever is read meanwhile and afterwards is what one of them wrote, and nothing else is left."""
    command = [sys.executable, "-W", "error", "-c", WRITER]
    writers = [subprocess.Popen([*command, name, digit]) for name, digit in ("a1", "b2")]
    seen = []
    while any(writer.poll() is None for writer in writers):
        content = recall({"shared": True})
        if content is not None:
            seen.append((len(content) - 1) % 40 == 0 and len(set(content)) == 1)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen
    assert all(seen)
    last = recall({"shared": True})
    assert last in (["1"] * (1 + 40 * 149), ["2"] * (1 + 40 * 149))
    for name in "ab":
        assert [recall({"shared": False, "name": name, "number": n}) for n in range(150)] == [*range(150)]
    assert len(list(own.iterdir())) == 1 + 2 * 150
    assert caplog.text == ""


def test_content_that_is_no_json_is_a_mistake_and_leaves_nothing(own):
    with pytest.raises(TypeError):
        caches.remember("things", KEY, {1, 2})
    assert list(own.iterdir()) == []


def test_a_warning_is_said_once(own, caplog):
    for message in ("one %s", "two", "one %s"):
        caches.warn_once(message)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "one %s"),
        ("WARNING", "two"),
    ]
