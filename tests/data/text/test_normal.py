"""Text as people have it: encodings, line ends, texts without blank lines, the same sentence in two splits."""

import logging
import unicodedata

import pytest

from bdia.data import CorpusBpe, ParallelFiles, TabSeparated, TextFiles, TranslationDataModule
from bdia.data.errors import DataCorruptError
from bdia.data.files import decoded
from bdia.data.text.normal import is_blank, normal
from bdia.data.text.splits import split_documents

WORDS = " ".join(f"word{i}" for i in range(12_000))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\r\nb\r\n", "a\nb\n"),
        (b"a\rb\r", "a\nb\n"),
        (b"a\rb\nc", "a\rb\nc"),
        (b"\xef\xbb\xbfa", "a"),
        ("a\u2028b\x85c\n".encode(), "a\u2028b\x85c\n"),
        (b"", ""),
    ],
)
def test_every_line_ends_alike(data, text):
    assert decoded(data, "x", "mend it") == text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("a\nb".encode("utf-16"), "x is UTF-16, wanted UTF-8"),
        ("a\nb".encode("utf-32"), "x is UTF-32, wanted UTF-8"),
        (b"one\ntwo\ncaf\xe9\n", "x is not UTF-8: line 3 has the byte 0xe9"),
        (b"one\n\xed\xa0\x80\n", "x is not UTF-8: line 2 has the byte 0xed"),
        (b"one\ntwo\0\n", "x is no text: line 2 has a zero byte"),
    ],
)
def test_other_encodings_are_refused_with_line_and_byte(data, said):
    with pytest.raises(DataCorruptError, match="mend it") as refused:
        decoded(data, "x", "mend it")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "other",
    [
        unicodedata.normalize("NFD", "Été à la plage"),
        "ÉTÉ  à la\tplage ",
        "\ufeffÉté\u200b à la plage",
        "\uff25\u0301té à la plage",
    ],
)
def test_twins_are_the_same_text(other):
    assert normal(other) == normal("Été à la plage")
    assert normal("Ete a la plage") != normal("Été à la plage")


def test_what_cannot_be_seen_is_blank():
    assert all(map(is_blank, ["", " \t\u00a0", "\u200b", "\ufeff\n"])) and not is_blank(".")


SHAPES = {
    "a sentence a line": "\n".join(WORDS[i : i + 60] for i in range(0, len(WORDS), 60)),
    "one line": WORDS,
    "one word": "x" * 50_000,
    "blank lines with spaces": "\n \n".join(WORDS[i : i + 300] for i in range(0, len(WORDS), 300)),
    "old Mac": "\r\r".join(WORDS[i : i + 300] for i in range(0, len(WORDS), 300)),
    "short": WORDS[:3000],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_text_of_any_shape_is_cut_so_that_there_is_something_to_split(shape, tmp_path):
    (tmp_path / "a.txt").write_text(SHAPES[shape], newline="")
    documents = TextFiles("a.txt").documents(tmp_path)
    wanted = SHAPES[shape] if shape != "old Mac" else SHAPES[shape].replace("\r", "\n")
    assert "".join(documents) == wanted
    different = [f"{number} {document}" for number, document in enumerate(documents)]  # "one word" repeats itself
    assert all(split_documents(different, 0.1, 0.1, 1.0, 0).values())
    if shape != "one word":
        assert not any(document.rstrip()[-1:].isspace() for document in documents)


TWINS = {
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "spaces": lambda text: text.replace(" ", "  "),
    "capitals": str.upper,
    "exact": str,
}


@pytest.mark.parametrize("twin", TWINS)
def test_twins_of_a_sentence_are_in_one_split(twin, tmp_path):
    change = TWINS[twin]
    base = [(f"été numéro {i} à la plage", f"summer number {i} at the beach") for i in range(200)]
    rows = [f"{a}\t{b}" for a, b in base] + [f"{change(a)}\t{b.replace('summer', 'vacation')}" for a, b in base]
    (tmp_path / "t.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    parts = TabSeparated("t.tsv", columns=("fr", "en"), languages=("fr", "en")).load(tmp_path)
    train = {normal(source) for source, _ in parts["train"]}
    assert parts["test"] and not any(normal(source) in train for source, _ in [*parts["test"], *parts["val"]])


def test_documents_that_are_the_same_but_for_case_and_spaces_are_kept_once():
    documents = [f"Document {i}  here" for i in range(30)] + [f"DOCUMENT {i} here" for i in range(30)]
    assert sum(map(len, split_documents(documents, 0.2, 0.2, 1.0, 0).values())) == 30


def test_a_leak_of_a_given_split_is_told_and_left(tmp_path, caplog):
    lines = [f"sentence {i} is here" for i in range(60)]
    for name, part in (
        ("train", lines),
        ("val", ["other", "words"]),
        ("test", [*map(str.upper, lines[:7]), "a new one"]),
    ):
        for language in ("en", "fr"):
            (tmp_path / f"{name}.{language}").write_text("\n".join(part) + "\n")
    files = {split: split for split in ("train", "val", "test")}
    data = TranslationDataModule(ParallelFiles(str(tmp_path), files), CorpusBpe(300))
    with caplog.at_level(logging.WARNING, "bdia"):
        data.setup()
    assert "7 of 8 sources of the test split are in the training data too" in caplog.text
    assert "val split" not in caplog.text and len(data.pairs["test"]) == 8
