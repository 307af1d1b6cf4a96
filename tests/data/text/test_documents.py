"""What each source reads, and what it says of files and names that it cannot read."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.text.documents import Pydoc, TextFiles, TokenFile


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def test_pydoc_is_half_a_megabyte_of_prose_by_topics_in_the_same_order_every_time():
    documents = Pydoc().documents(Path("nowhere"))
    assert len(documents) > 60
    assert all(isinstance(text, str) and text.strip() for text in documents)
    assert 300_000 < sum(map(len, documents)) < 700_000
    assert documents == Pydoc().documents(Path("nowhere"))


def test_a_python_without_pydocs_texts_says_which_data_to_take(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataNotFoundError, match=r"pydoc_data.*data=text_file"):
        Pydoc().documents(Path("nowhere"))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_documents_end_at_separator_lines_and_lose_nothing_else(tmp_path, name):
    write(tmp_path / name, "one\n\n two \n<|endoftext|>\n\nthree <|endoftext|> x\n<|endoftext|>\n<|endoftext|>\nfour\n")
    assert TextFiles([name]).documents(tmp_path) == ["one\n\n two ", "\nthree <|endoftext|> x", "four"]


def test_another_separator_can_be_set_and_dos_line_ends_and_a_byte_order_mark_do_not_count(tmp_path):
    write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n%%\r\ntwo\r\nlines\r\n")
    assert TextFiles("a.txt", separator="%%").documents(tmp_path) == ["one", "two\nlines"]


def test_a_file_of_one_document_is_cut_at_blank_lines_into_sections_that_join_to_the_whole(tmp_path):
    text = "\n\n".join(f"paragraph {i}\n" + "word " * (i % 7) for i in range(200)) + "\n\n\n\nlast"
    write(tmp_path / "a.txt", text)
    sections = TextFiles(["a.txt"], section=300).documents(tmp_path)
    assert "".join(sections) == text
    assert len(sections) > 10
    assert all(len(section) >= 300 for section in sections)
    assert all(section.endswith("\n\n") for section in sections[:-1])
    assert max(map(len, sections)) < 300 * 2 + 100


def test_sections_are_not_cut_where_that_is_switched_off_or_a_file_has_documents(tmp_path):
    text = "a\n\n" * 1000
    write(tmp_path / "one.txt", text)
    write(tmp_path / "two.txt", f"{text}\n<|endoftext|>\n{text}")
    assert len(TextFiles(["one.txt"], section=None).documents(tmp_path)) == 1
    assert len(TextFiles(["two.txt"], section=10).documents(tmp_path)) == 2


def test_files_are_found_in_the_data_folder_then_in_its_text_folder_then_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = [tmp_path / "a.txt", tmp_path / "data" / "text" / "a.txt", tmp_path / "data" / "a.txt"]
    for number, place in enumerate(places):
        write(place, f"number {number}")
        assert TextFiles(["a.txt"]).documents(tmp_path / "data") == [f"number {number}"]
    assert TextFiles([places[0], "a.txt"]).documents(tmp_path / "data") == ["number 0", "number 2"]


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("a.txt", None, DataNotFoundError, r"a\.txt was not found.*text.*data\.source\.paths.*BDIA_DATA"),
        ("a.txt", b"", DataCorruptError, r"a\.txt holds no text.*data\.source\.paths"),
        ("a.txt", b" \n<|endoftext|>\n\n", DataCorruptError, r"a\.txt holds no text.*data\.source\.paths"),
        ("a.txt", "café".encode("latin-1"), DataCorruptError, r"a\.txt is not UTF-8.*data\.source\.paths"),
        ("a.gz", b"plain", DataCorruptError, r"a\.gz cannot be read.*data\.source\.paths"),
        ("a.gz", gzip.compress(b"x" * 999, mtime=0)[:-9], DataCorruptError, r"a\.gz cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_key_to_change(tmp_path, name, data, error, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message):
        TextFiles([name]).documents(tmp_path)


def test_no_path_and_a_section_without_characters_are_refused():
    with pytest.raises(ValueError, match=r"data\.source\.paths"):
        TextFiles([])
    with pytest.raises(ValueError, match=r"section=0.*data\.source\.section"):
        TextFiles(["a"], section=0)


def test_a_token_file_is_cut_behind_every_end_of_document(tmp_path):
    np.array([3, 4, 9, 9, 5, 9, 6], "<u2").tofile(tmp_path / "a.bin")
    documents = TokenFile("a.bin", end_of_document=9).documents(tmp_path)
    assert [document.tolist() for document in documents] == [[3, 4], [5], [6]]


@pytest.mark.parametrize("data", [b"", b"abc"])
def test_a_token_file_that_is_empty_or_cut_inside_a_token_is_refused_by_name(tmp_path, data):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(DataCorruptError, match=r"a\.bin is no file of uint16 tokens.*data\.source\.path"):
        TokenFile("a.bin").documents(tmp_path)


def test_a_token_file_without_the_end_of_a_document_is_refused(tmp_path):
    np.array([1, 2, 3], "<u2").tofile(tmp_path / "a.bin")
    with pytest.raises(DataCorruptError, match=r"a\.bin has no token 50256.*data\.source\.end_of_document"):
        TokenFile("a.bin").documents(tmp_path)


def test_a_missing_token_file_is_named_with_its_key(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"a\.bin was not found.*data\.source\.path\b"):
        TokenFile("a.bin").documents(tmp_path)
