"""Sources of pairs: files and one table; splits without leakage; what is said of damage."""

import gzip
import random

import pytest

from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.text.pairs import ParallelFiles, TabSeparated
from bdia.data.text.splits import keep_some, split_pairs
from helpers.places import SHARED

STEMS = {"train": "train", "val": "val", "test": "test_2016_flickr"}
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data sets")


def write_files(folder, pack=False, count=20):
    """Write line-aligned files of 20, 4 and 4 lines, plain or compressed."""
    folder.mkdir(parents=True)
    for stem, lines in (("train", count), ("val", 4), ("test_2016_flickr", 4), ("other", 3)):
        for language in ("en", "fr"):
            text = "".join(f"{stem} {language} {n} é\n" for n in range(lines)).encode()
            path = folder / (f"{stem}.{language}.gz" if pack else f"{stem}.{language}")
            path.write_bytes(gzip.compress(text, mtime=0) if pack else text)
    return folder


def make_files(**keywords):
    return ParallelFiles("multi30k", **{"files": STEMS, **keywords})


def assert_no_sentence_is_in_two_splits(parts):
    sentences = [{text for pair in part for text in pair} for part in parts.values()]
    assert len(set.union(*sentences)) == sum(map(len, sentences))


@pytest.mark.parametrize("place", ["multi30k", "text/multi30k"])
@pytest.mark.parametrize("pack", [False, True])
def test_line_n_of_one_file_is_paired_with_line_n_of_the_other(tmp_path, place, pack):
    write_files(tmp_path / place, pack)
    pairs = make_files().load(tmp_path)
    assert {split: len(part) for split, part in pairs.items()} == {"train": 20, "val": 4, "test": 4}
    assert pairs["train"] == [(f"train en {n} é", f"train fr {n} é") for n in range(20)]
    assert pairs["test"][3] == ("test_2016_flickr en 3 é", "test_2016_flickr fr 3 é")


def test_the_direction_and_the_test_files_can_be_chosen(tmp_path):
    write_files(tmp_path / "multi30k")
    source = make_files(languages=["fr", "en"], files={**STEMS, "test": "other"})
    assert (source.source_language, source.target_language) == ("fr", "en")
    assert source.load(tmp_path)["test"][0] == ("other fr 0 é", "other en 0 é")


def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path):
    folder = write_files(tmp_path / "multi30k")
    (folder / "val.en").write_bytes("one\u2028two\r\nthree\x85four\nfive\nsix".encode())
    found = [source for source, _ in make_files().load(tmp_path)["val"]]
    assert found == ["one\u2028two", "three\x85four", "five", "six"]


def test_a_limit_keeps_pairs_by_seed_fewer_are_part_of_more_and_the_rest_stays(tmp_path):
    write_files(tmp_path / "multi30k")
    all_pairs, five, ten, other = (
        make_files(limit=limit, seed=seed).load(tmp_path) for limit, seed in ((None, 0), (5, 0), (10, 0), (10, 1))
    )
    assert len(five["train"]) == 5
    assert set(five["train"]) < set(ten["train"]) < set(all_pairs["train"])
    assert set(ten["train"]) != set(other["train"])
    assert five["test"] == all_pairs["test"]


@pytest.mark.parametrize("limit", [0, 21])
def test_a_limit_out_of_range_names_the_range_and_the_key(tmp_path, limit):
    write_files(tmp_path / "multi30k")
    with pytest.raises(ValueError, match=rf"limit={limit}: wanted 1\.\.20 .*data\.source\.limit"):
        make_files(limit=limit).load(tmp_path)


def test_a_missing_folder_names_both_places_the_files_and_the_keys(tmp_path):
    message = r"looked for .*/multi30k, .*/text/multi30k, multi30k\): put train\.en, .*data\.source\.folder.*BDIA_DATA"
    with pytest.raises(DataNotFoundError, match=message):
        make_files().load(tmp_path)


def test_an_unknown_language_names_the_pair_what_is_there_and_the_key(tmp_path):
    write_files(tmp_path / "multi30k")
    with pytest.raises(ValueError, match=r"en -> cs: .*train has en, fr; set data\.source\.languages"):
        make_files(languages=("en", "cs")).load(tmp_path)


def test_an_unknown_stem_names_what_the_folder_holds_and_the_key(tmp_path):
    write_files(tmp_path / "multi30k")
    message = r"test_2099\.en\.gz was not found.* holds other\.en, .*data\.source\.files\.test"
    with pytest.raises(DataNotFoundError, match=message):
        make_files(files={**STEMS, "test": "test_2099"}).load(tmp_path)


@pytest.mark.parametrize("languages", [("en",), ("en", "en"), ("en", "fr", "de")])
def test_a_direction_is_two_different_languages(languages):
    with pytest.raises(ValueError, match=r"wanted two languages; set data\.source\.languages"):
        make_files(languages=languages)


def test_files_must_name_three_splits():
    with pytest.raises(ValueError, match=r"files names train, wanted train, val, test; set data\.source\.files"):
        make_files(files={"train": "train"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.fr", b"un\ndeux\n", r"train\.en has 20 lines, .*train\.fr has 2"),
        ("val.en", b"", r"val\.en is empty"),
        ("val.en", b" \n\n", r"val\.en is empty"),
        ("val.fr", b"un\n\ntrois\nquatre\n", r"val\.fr, line 2 is blank"),
        ("val.fr", b"caf\xe9\n", r"val\.fr is not UTF-8.*0xe9.*data\.source\.files\.val"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (write_files(tmp_path / "multi30k") / name).write_bytes(content)
    with pytest.raises(DataCorruptError, match=message):
        make_files().load(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-9], lambda raw: b"<html>", lambda raw: raw[:12] + b"????" + raw[16:]]
)
def test_a_damaged_gz_file_is_named(tmp_path, damage):
    path = write_files(tmp_path / "multi30k", pack=True) / "train.fr.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataCorruptError, match=r"train\.fr\.gz cannot be read"):
        make_files().load(tmp_path)


def make_shared_sentences(count=400, seed=0):
    """Pairs that share sources and targets, in chains and stars."""
    rng = random.Random(seed)
    return [(f"en {rng.randrange(count // 2)}", f"fr {rng.randrange(count)}") for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_pairs_that_share_a_sentence_are_in_one_split(seed):
    pairs = make_shared_sentences(seed=seed)
    parts = split_pairs(pairs, 0.1, 0.1, seed)
    assert_no_sentence_is_in_two_splits(parts)
    assert sorted(pair for part in parts.values() for pair in part) == sorted(set(pairs))


def test_a_chain_of_shared_sentences_is_one_group():
    chain = [(f"en {n // 2}", f"fr {(n + 1) // 2}") for n in range(60)]
    single = [(f"s {n}", f"t {n}") for n in range(40)]
    parts = split_pairs(
        [pair for both in zip(chain[:40], single, strict=True) for pair in both] + chain[40:], 0.1, 0.1, 0
    )
    assert set(chain) <= set(parts["train"])
    assert len(parts["val"]) == len(parts["test"]) == 10


def test_a_sentence_written_alike_in_both_languages_is_one_sentence():
    pairs = [("Oh !", "Ah !"), ("Ah !", "Eh !"), *((f"s {n}", f"t {n}") for n in range(30))]
    for seed in range(20):
        assert_no_sentence_is_in_two_splits(split_pairs(pairs, 0.2, 0.2, seed))


def test_fractions_are_met_and_the_split_depends_on_its_seed_alone():
    pairs = [(f"s {n}", f"t {n}") for n in range(1000)]
    first, again, other = (split_pairs(pairs, 0.05, 0.1, seed) for seed in (0, 0, 1))
    assert {split: len(part) for split, part in first.items()} == {"train": 850, "val": 50, "test": 100}
    assert first == again
    assert first["test"] != other["test"]
    assert keep_some(first["train"], None, 0) == first["train"]


def test_no_pairs_give_empty_parts():
    assert split_pairs([], 0.1, 0.1, 0) == {"train": [], "val": [], "test": []}


@pytest.mark.parametrize("fractions", [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.1)])
def test_fractions_without_room_are_refused_by_key(fractions):
    with pytest.raises(ValueError, match=r"data\.source\.val_fraction and data\.source\.test_fraction"):
        TabSeparated("file", val_fraction=fractions[0], test_fraction=fractions[1])


def write_table(folder, lines):
    (folder / "pairs.txt").write_text("\n".join(lines), encoding="utf-8")


def test_the_first_two_columns_are_read_in_the_direction_that_is_set(tmp_path):
    write_table(tmp_path, [f"go {n}\tva {n} !\tCC-BY {n}" for n in range(40)])
    forth, back = (TabSeparated("pairs.txt", languages).load(tmp_path) for languages in (("en", "fr"), ("fr", "en")))
    assert sorted(pair for part in forth.values() for pair in part) == sorted(
        (f"go {n}", f"va {n} !") for n in range(40)
    )
    assert {split: [pair[::-1] for pair in part] for split, part in back.items()}["train"] != []
    assert {pair[::-1] for part in back.values() for pair in part} == {pair for part in forth.values() for pair in part}


def test_a_limit_of_a_table_leaves_its_test_set(tmp_path):
    write_table(tmp_path, [f"go {n}\tva {n} !" for n in range(100)])
    whole, some = (TabSeparated("pairs.txt", limit=limit).load(tmp_path) for limit in (None, 7))
    assert (len(some["train"]), some["test"]) == (7, whole["test"])


@pytest.mark.parametrize("line", ["go", "go\t", "\tva", "go\t \tCC-BY"])
def test_a_line_without_two_sentences_names_file_and_line(tmp_path, line):
    write_table(tmp_path, ["a\tb", line, "c\td"])
    with pytest.raises(DataCorruptError, match=r"pairs\.txt, line 2 is .*wanted lines of en TAB fr"):
        TabSeparated("pairs.txt").load(tmp_path)


def test_a_missing_table_names_both_places_and_the_key(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"looked for .*/pairs\.txt, .*/text/pairs\.txt, .*data\.source\.file"):
        TabSeparated("pairs.txt").load(tmp_path)


def test_a_language_that_is_no_column_is_refused_by_key():
    with pytest.raises(ValueError, match=r"en -> de: wanted two of en, fr; set data\.source\.languages"):
        TabSeparated("pairs.txt", languages=("en", "de"))


@needs_shared
@pytest.mark.parametrize(
    ("test", "count"),
    [("test_2016_flickr", 1000), ("test_2017_flickr", 1000), ("test_2018_flickr", 1071), ("test_2017_mscoco", 461)],
)
def test_multi30k_has_its_official_sizes(test, count):
    pairs = make_files(files={**STEMS, "test": test}, limit=29_000).load(SHARED)
    assert {split: len(part) for split, part in pairs.items()} == {"train": 29_000, "val": 1014, "test": count}


@needs_shared
def test_tatoeba_is_split_without_leakage_into_the_shares_that_are_set():
    parts = TabSeparated("tatoeba_small/eng-fra_5000.txt").load(SHARED)
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 4462,
        "val": 247,
        "test": 247,
    }  # 44 differ in case or spaces alone
    assert_no_sentence_is_in_two_splits(parts)
