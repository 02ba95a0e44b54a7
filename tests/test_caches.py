"""The cache folder, and files that are there as a whole or not at all."""

import pytest

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
