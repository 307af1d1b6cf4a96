"""Files are found, read, and written whole or not at all."""

import gzip
import os
import subprocess
import sys

import numpy as np
import pytest

from bdia.data import files
from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.files import find, read_text, remove_leftovers, write_whole


def find_here(path, data_dir, **keywords):
    return find(path, data_dir, "a text", "data.source.file", "numbers", **keywords)


def test_the_data_folder_comes_before_its_text_folder_and_that_before_the_path_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "a", tmp_path / "data" / "text" / "a", tmp_path / "data" / "a"):
        write_whole(place, [b"x"])
        assert find_here("a", tmp_path / "data").resolve() == place
        assert find_here(place, tmp_path / "data") == place


def test_a_folder_is_no_file_and_a_file_is_no_folder(tmp_path):
    write_whole(tmp_path / "text" / "a", [b"x"])
    (tmp_path / "a").mkdir()
    assert find_here("a", tmp_path) == tmp_path / "text" / "a"
    assert find_here("a", tmp_path, folder=True) == tmp_path / "a"


def test_what_is_missing_is_named_with_the_places_what_belongs_there_and_the_keys(tmp_path):
    message = (
        r"b was not found \(looked for .*/b, .*/text/b, b\): put a text there, set data\.source\.file, .*BDIA_DATA"
    )
    with pytest.raises(DataNotFoundError, match=message + r".*data=numbers"):
        find_here("b", tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
def test_text_loses_a_byte_order_mark_and_every_line_ends_alike(tmp_path, name):
    data = "\ufeffdéjà\r\nvu\u2028\n".encode()
    write_whole(tmp_path / name, [gzip.compress(data, mtime=0) if name == "a.gz" else data])
    assert read_text(tmp_path / name, "mend it") == "déjà\nvu\u2028\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b"caf\xe9"),
        ("a.gz", b"plain"),
        ("a.gz", gzip.compress(b"x" * 999, mtime=0)[:-9]),
        ("a.gz", gzip.compress(b"caf\xe9", mtime=0)),
        ("none.txt", None),
    ],
)
def test_what_cannot_be_read_is_named_with_a_hint(tmp_path, name, data):
    if data is not None:
        write_whole(tmp_path / name, [data])
    with pytest.raises(DataCorruptError, match=rf"{name} .*: mend it$"):
        read_text(tmp_path / name, "mend it")


def test_pieces_are_written_one_behind_the_other_into_a_folder_that_is_made(tmp_path):
    write_whole(tmp_path / "new" / "a", [b"ab", np.array([1, 2], "<u2"), b""])
    assert (tmp_path / "new" / "a").read_bytes() == b"ab\x01\x00\x02\x00"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_a_failure_leaves_what_was_there_before_and_nothing_else(tmp_path):
    def pieces():
        yield b"new"
        raise KeyboardInterrupt

    write_whole(tmp_path / "a", [b"old"])
    for name in ("a", "b"):
        with pytest.raises(KeyboardInterrupt):
            write_whole(tmp_path / name, pieces())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_a_text_is_written_as_utf_8_with_its_line_ends(tmp_path):
    write_whole(tmp_path / "a", "d\u00e9j\u00e0\r\nvu\n")
    assert (tmp_path / "a").read_bytes() == "d\u00e9j\u00e0\r\nvu\n".encode()


def test_the_content_is_on_the_disk_before_the_file_gets_its_name(tmp_path, monkeypatch):
    told, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (told.append(("fsync", os.fstat(number).st_size)), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *paths: (told.append("replace"), replace(*paths)))
    write_whole(tmp_path / "a", [b"ab", b"c"])
    assert told[:2] == [("fsync", 3), "replace"] and len(told) == 3  # then the folder


def test_what_a_killed_writer_left_at_any_depth_is_removed_and_a_living_ones_file_stays(tmp_path):
    (tmp_path / "csv" / "version_0").mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = files._mine().removesuffix(f"{os.getpid()}-")
    left = [tmp_path / f"{own}{dead.pid}-a", tmp_path / "csv" / "version_0" / f"{own}{dead.pid}-b"]
    alive = tmp_path / "csv" / f"{own}{os.getpid()}-c"
    for path in (*left, alive):
        path.write_text("half")
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in left) and alive.exists()
