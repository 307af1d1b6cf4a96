"""Text and pairs of the hub, with a stand-in for the package `datasets`. No network."""

import gzip
import json
import sys
from types import SimpleNamespace

import pytest

from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.text.hub import HubPairs, HubText

PAIRS = [(f"en {n // 2}", f"fr {n // 3}") for n in range(0, 400, 7)] + [(f"s {n}", f"t {n}") for n in range(100)]


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets` that counts its calls: five texts, one of them blank."""
    calls = []

    def load_dataset(name, split, streaming, revision):
        calls.append((name, split, streaming, revision))
        return iter([{"text": text} for text in ("one", "two\n", " ", "four", "five")])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_the_hubs_first_texts_are_streamed_once_and_kept(tmp_path, hub):
    source = HubText("some/set", count=4)
    assert source.documents(tmp_path) == ["one", "two\n", "four"]
    assert source.documents(tmp_path) == ["one", "two\n", "four"]
    assert hub == [("some/set", "train", True, None)]
    assert HubText("some/set", count=1).documents(tmp_path) == ["one"]
    assert len(hub) == 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_revision_is_asked_for_and_kept_apart_from_others(tmp_path, hub):
    for revision in (None, "refs/convert/parquet", "refs/convert/parquet"):
        assert HubText("some/set", count=2, revision=revision).documents(tmp_path) == ["one", "two\n"]
    assert [call[-1] for call in hub] == [None, "refs/convert/parquet"]
    names = ["some--set_train_text_2.json.gz", "some--set_train_text_2_refs--convert--parquet.json.gz"]
    assert sorted(path.name for path in tmp_path.rglob("*.gz")) == names


def test_a_data_set_with_fewer_texts_is_refused_and_nothing_is_kept(tmp_path, hub):
    with pytest.raises(DataCorruptError, match=r"some/set.*5 texts, wanted 6.*data\.source\.count"):
        HubText("some/set", count=6).documents(tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_without_the_package_or_the_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataNotFoundError, match=r"\.\[hub\].*data=text_file"):
        HubText("some/set", count=1).documents(tmp_path)

    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataNotFoundError, match=r"some/set.*no route.*network.*data\.source\.name.*data=text_file"):
        HubText("some/set", count=1).documents(tmp_path)


def test_a_column_that_the_data_set_lacks_is_named_with_its_key(tmp_path, hub):
    with pytest.raises(DataNotFoundError, match=r"KeyError: 'prose'.*data\.source\.name, split, column"):
        HubText("some/set", count=1, column="prose").documents(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: gzip.compress(b"[1", mtime=0), lambda data: b"x"]
)
def test_a_damaged_kept_file_is_refused_by_name(tmp_path, hub, damage):
    HubText("some/set", count=2).documents(tmp_path)
    (path,) = tmp_path.rglob("*.gz")
    assert json.loads(gzip.decompress(path.read_bytes())) == ["one", "two\n"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataCorruptError, match=path.name):
        HubText("some/set", count=2).documents(tmp_path)


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match=r"count=0.*data\.source\.count"):
        HubText("some/set", count=0)


def give_hub(monkeypatch, answer):
    """Put a package `datasets` in place whose load_dataset gives or raises `answer`; return its calls."""
    calls = []

    def load_dataset(*args, **keywords):
        calls.append((args, keywords))
        if isinstance(answer, Exception):
            raise answer
        return {"translation": answer}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_hub_rows_are_split_without_leakage_and_blank_sides_are_left_out(monkeypatch, tmp_path):
    rows = [{"en": f" {source}", "fr": f"{target}\n"} for source, target in PAIRS]
    calls = give_hub(monkeypatch, [*rows, {"en": "alone", "fr": " "}])
    parts = HubPairs(cache_dir=tmp_path, val_fraction=0.1, test_fraction=0.1).load(tmp_path)
    assert calls == [(("Helsinki-NLP/opus_books", "en-fr"), {"split": "train", "cache_dir": str(tmp_path)})]
    sentences = [{text for pair in part for text in pair} for part in parts.values()]
    assert len(set.union(*sentences)) == sum(map(len, sentences))
    assert {pair for part in parts.values() for pair in part} == set(PAIRS)


def test_hub_pairs_can_be_turned_round_and_limited(monkeypatch, tmp_path):
    give_hub(monkeypatch, [{"en": f"go {n}", "fr": f"va {n}"} for n in range(100)])
    parts = HubPairs(languages=("fr", "en"), limit=9).load(tmp_path)
    assert len(parts["train"]) == 9
    assert all(source.startswith("va") and target.startswith("go") for source, target in parts["train"])


def test_a_missing_package_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    wanted = r"pip install '\.\[hub\]' in bdia's checkout, or take local files \(data=tatoeba\)"
    with pytest.raises(DataNotFoundError, match=wanted):
        HubPairs().load(tmp_path)


def test_fractions_without_room_are_refused_by_key():
    with pytest.raises(ValueError, match=r"data\.source\.val_fraction and data\.source\.test_fraction"):
        HubPairs(val_fraction=0.5, test_fraction=0.5)


def test_no_network_names_the_cause_the_cache_and_local_files(monkeypatch, tmp_path):
    give_hub(monkeypatch, ConnectionError("Couldn't reach the Hub"))
    with pytest.raises(DataNotFoundError, match=r"Couldn't reach the Hub.*data\.source\.cache_dir.*data=tatoeba"):
        HubPairs().load(tmp_path)


@pytest.mark.parametrize("row", [{"en": "go"}, {"en": "go", "fr": None}, "go"])
def test_hub_rows_that_are_no_pairs_are_an_error(monkeypatch, tmp_path, row):
    give_hub(monkeypatch, [row])
    with pytest.raises(DataCorruptError, match=r"opus_books \(en-fr\): a translation is not \{'en': \.\.\., 'fr'"):
        HubPairs().load(tmp_path)


def test_a_language_outside_the_hub_config_is_refused_by_key():
    with pytest.raises(ValueError, match=r"en -> de: wanted two of en, fr; set data\.source\.languages"):
        HubPairs(languages=("en", "de"))
