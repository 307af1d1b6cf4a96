"""E2E's files and the made-up restaurants: what is read, what is in which split, what is said of bad files."""

import os
import re
import unicodedata
from pathlib import Path

import pytest

from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.text.e2e import E2eFiles
from bdia.data.text.normal import normal
from bdia.data.text.restaurants import MadeUpRestaurants

DEV = "mr,ref\n" + "".join(f'"name[R{n // 2}], area[a, b]","R{n // 2} says ""{n}"", café."\n' for n in range(40))
TEST = '"mr","ref"\r\n' + "".join(f'"name[T{n // 3}]","It is T{n // 3}, {n}."\r\n' for n in range(12))


TWINS = (str, str.upper, lambda text: unicodedata.normalize("NFD", text), lambda text: text.replace(" ", "\u00a0 "))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "e2e").mkdir()
    (tmp_path / "e2e" / "devset.csv").write_text(DEV, encoding="utf-8")
    (tmp_path / "e2e" / "testset_w_refs.csv").write_bytes(b"\xef\xbb\xbf" + TEST.encode())
    return tmp_path


def source(**settings):
    return E2eFiles(**({"train": "devset.csv", "val": None} | settings))


def meanings(pairs):
    return {meaning for meaning, _ in pairs}


def test_quoted_fields_are_read_whole_and_every_row_is_a_pair(folder):
    pairs = source().load(folder)
    assert ("name[R0], area[a, b]", 'R0 says "0", café.') in pairs["train"] + pairs["val"]
    assert pairs["test"][:2] == [("name[T0]", "It is T0, 0."), ("name[T0]", "It is T0, 1.")]
    assert {split: len(part) for split, part in pairs.items()} == {"train": 36, "val": 4, "test": 12}
    assert pairs == source().load(folder)


def test_validation_has_whole_meaning_representations_that_training_has_not(folder):
    pairs = source(val_fraction=0.25).load(folder)
    assert len(meanings(pairs["val"])) == 5 and len(pairs["val"]) == 10
    assert not meanings(pairs["val"]) & meanings(pairs["train"])
    assert meanings(source(val_fraction=0.25, seed=1).load(folder)["val"]) != meanings(pairs["val"])


def test_meanings_that_read_alike_stay_in_one_split(folder):
    rows = [f'"{form(f"name[Café {n}], area[x]")}","Says {n}."' for n in range(20) for form in TWINS]
    (folder / "e2e" / "devset.csv").write_text("mr,ref\n" + "\n".join(rows) + "\n", encoding="utf-8")
    pairs = source(val_fraction=0.25).load(folder)
    seen, held_out = ({normal(meaning) for meaning in meanings(pairs[split])} for split in ("train", "val"))
    assert len(held_out) == 5 and len(pairs["val"]) == 5 * len(TWINS) and not seen & held_out


def test_a_file_of_its_own_is_the_validation_split(folder):
    pairs = source(val="testset_w_refs.csv").load(folder)
    assert pairs["val"] == pairs["test"] and len(pairs["train"]) == 40


def test_limits_keep_a_part_of_what_larger_limits_keep_and_equal_training_rows_count_once(folder):
    few, more = (source(limit=n, test_limit=m).load(folder) for n, m in ((5, 2), (9, 3)))
    assert len(few["train"]) == 5 and set(few["train"]) < set(more["train"])
    assert len(meanings(few["test"])) == 2 and meanings(few["test"]) < meanings(more["test"])
    assert len(few["test"]) == 6  # with all their sentences
    path = folder / "e2e" / "devset.csv"
    path.write_text(DEV + DEV.partition("\n")[2], encoding="utf-8")
    assert len(source().load(folder)["train"]) == 36


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"devset\.csv begins with nothing: wanted .* columns mr, ref; mend it or set data\.source\.train"),
        ("MR\nx\n", r"devset\.csv begins with MR: wanted a CSV file"),
        ("mr,ref\na,b\nc\n", r"devset\.csv, row 3 is 'c': wanted a CSV file"),
        ("mr,ref\na, \n", r"devset\.csv, row 2 is 'a, ': wanted a CSV file"),
        ('mr,ref\n"a"b,c\n', r"devset\.csv cannot be read \(.*\): wanted a CSV file"),
        (b"mr,ref\na,\xff\n", r"devset\.csv is not UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_error_that_names_it_what_was_wanted_and_the_key(folder, content, message):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "e2e" / "devset.csv").write_bytes(data)
    with pytest.raises(DataCorruptError, match=message):
        source().load(folder)


def test_a_missing_file_names_the_places_the_key_and_the_embedded_data(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"trainset\.csv was not found .*data\.source\.train.*data=restaurants"):
        E2eFiles().load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"val_fraction": 0}, "data.source.val_fraction"),
        ({"val_fraction": 0.01}, "data.source.val_fraction"),
        ({"limit": 37}, "data.source.limit"),
        ({"test_limit": 0}, "data.source.test_limit"),
    ],
)
def test_a_setting_out_of_range_names_its_key(folder, settings, key):
    with pytest.raises(ValueError, match=re.escape(key)):
        source(**settings).load(folder)


def test_made_up_restaurants_share_no_meaning_representation_and_fewer_are_part_of_more():
    few, more = (MadeUpRestaurants(train=n, val=10, test=10).load(Path("nowhere")) for n in (20, 50))
    assert {split: len(part) for split, part in few.items()} == {"train": 60, "val": 30, "test": 30}
    assert meanings(few["train"]) < meanings(more["train"])
    assert not meanings(more["train"]) & meanings(more["test"]) | meanings(more["train"]) & meanings(more["val"])
    with pytest.raises(ValueError, match=r"train=271: wanted 1\.\.270 .*data\.source\.train"):
        MadeUpRestaurants(train=271)


@pytest.mark.slow
def test_the_official_development_and_test_files_are_read_whole():
    data_dir = Path(os.environ.get("BDIA_DATA", "data"))
    if not (data_dir / "e2e" / "devset.csv").exists():
        pytest.skip("needs E2E's files in BDIA_DATA")
    pairs = source().load(data_dir)
    assert len(pairs["train"]) + len(pairs["val"]) == 4521  # of 4,672 rows, without repetitions
    assert (len(pairs["test"]), len(meanings(pairs["test"]))) == (4693, 630)
    assert not meanings(pairs["test"]) & meanings(pairs["train"] + pairs["val"])
