"""Every tokenizer gives every text back, keeps control tokens out of texts, and survives a file."""

import json
import os
from pathlib import Path

import pytest

from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.text.tokenizer import (
    BOS,
    END_OF_DOCUMENT,
    EOS,
    PAD,
    Bytes,
    CorpusBpe,
    Gpt2Bpe,
    fingerprint,
    load_tokenizer,
    save_tokenizer,
)

TEXTS = ["the cat sat on the mat", "the dog sat on the log, the cat ran", "le chat s'est assis"] * 3
ODD = [
    "",
    " ",
    "\n\n\t x  y ",
    "Ça coûte 5 €, déjà?",
    "日本語 🙂‍↔️",
    "\x00\x7f",
    "a<|endoftext|>b <s></s><pad>",
    "e\u0301 é",
]
SPECIALS = [PAD, BOS, EOS]
DATA = Path(os.environ.get("BDIA_DATA", "data"))


@pytest.fixture
def tiny_gpt2(tmp_path):
    """Files in GPT-2's format: the bytes, one merge, and the end of a document."""
    alphabet = list(Bytes().build([], [], tmp_path).get_vocab())
    names = [*sorted(alphabet), "th", END_OF_DOCUMENT]
    (tmp_path / "bpe").mkdir()
    (tmp_path / "bpe" / "encoder.json").write_text(json.dumps({name: index for index, name in enumerate(names)}))
    (tmp_path / "bpe" / "vocab.bpe").write_text("#version: 0.2\nt h\n")
    return tmp_path


def make(kind, folder, specials=SPECIALS):
    builder = {"bpe": CorpusBpe(300), "bytes": Bytes(), "gpt2": Gpt2Bpe()}[kind]
    return builder.build(TEXTS, specials, folder)


@pytest.fixture(params=["bpe", "bytes", "gpt2"])
def tokenizer(request, tiny_gpt2):
    return make(request.param, tiny_gpt2)


@pytest.mark.parametrize("text", TEXTS[:3] + ODD)
def test_decoding_gives_every_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_control_tokens_named_in_a_text_are_plain_text(tokenizer):
    controls = {tokenizer.token_to_id(name) for name in SPECIALS}
    assert None not in controls
    assert controls.isdisjoint(tokenizer.encode("a <pad> b<s> </s>").ids)
    end = tokenizer.token_to_id(END_OF_DOCUMENT)
    assert end is None or end not in tokenizer.encode(f"a{END_OF_DOCUMENT}b").ids


def test_a_saved_tokenizer_is_the_same_and_still_reads_control_tokens_as_text(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert fingerprint(loaded) == fingerprint(tokenizer)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in TEXTS + ODD:
        assert loaded.encode(text).ids == tokenizer.encode(text).ids
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_control_tokens_come_first_in_the_order_given(kind, tmp_path):
    tokenizer = make(kind, tmp_path)
    assert [tokenizer.id_to_token(index) for index in range(3)] == SPECIALS


def test_bytes_are_one_token_each(tmp_path):
    tokenizer = make("bytes", tmp_path)
    assert tokenizer.get_vocab_size() == 259
    assert len(tokenizer.encode("déjà €").ids) == len("déjà €".encode())


def test_bpe_has_at_most_the_tokens_wanted_and_merges_what_is_frequent(tmp_path):
    tokenizer = make("bpe", tmp_path)
    assert 259 < tokenizer.get_vocab_size() <= 300
    assert len(tokenizer.encode("the cat").ids) < len("the cat")


def test_the_same_texts_give_the_same_tokenizer_and_others_another(tmp_path):
    first, again = (CorpusBpe(280).build(TEXTS, SPECIALS, tmp_path) for _ in range(2))
    other = CorpusBpe(280).build(["zebra zebra zebra"], SPECIALS, tmp_path)
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_a_fingerprint_tells_control_tokens_apart(tmp_path):
    assert fingerprint(make("bytes", tmp_path)) != fingerprint(make("bytes", tmp_path, [END_OF_DOCUMENT, BOS, EOS]))


def test_gpt2_keeps_its_ids_and_adds_other_control_tokens_behind(tiny_gpt2):
    tokenizer = make("gpt2", tiny_gpt2, [PAD, END_OF_DOCUMENT, EOS])
    assert (tokenizer.token_to_id("th"), tokenizer.token_to_id(END_OF_DOCUMENT)) == (256, 257)
    assert (tokenizer.token_to_id(PAD), tokenizer.token_to_id(EOS)) == (258, 259)
    assert tokenizer.get_vocab_size() == 260


def test_gpt2s_files_are_taken_from_the_folder_that_is_set(tiny_gpt2):
    tokenizer = Gpt2Bpe(tiny_gpt2 / "bpe").build([], [], tiny_gpt2 / "nowhere")
    assert tokenizer.get_vocab_size() == 258


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_a_missing_file_of_gpt2_is_named_with_the_ways_out(tiny_gpt2, name):
    (tiny_gpt2 / "bpe" / name).unlink()
    with pytest.raises(DataNotFoundError, match=rf"{name} was not found.*data\.tokenizer\.folder.*tokenizer=bpe"):
        make("gpt2", tiny_gpt2)


def test_damaged_files_of_gpt2_are_refused_by_name(tiny_gpt2):
    (tiny_gpt2 / "bpe" / "encoder.json").write_text('{"a": 0')
    with pytest.raises(DataCorruptError, match=r"encoder\.json.*cannot be read as GPT-2's BPE"):
        make("gpt2", tiny_gpt2)


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match=r"vocab_size=259.*260.*data\.tokenizer\.vocab_size"):
        CorpusBpe(259)


def test_a_tokenizer_that_can_be_read_and_not_used_is_refused(tmp_path):
    """Found by fuzzing: its model has no token for what it does not know."""
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordLevel", "vocab": {}, "unk_token": "u"}}')
    with pytest.raises(DataCorruptError, match=r"tokenizer\.json is no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_missing_and_a_foreign_tokenizer_file_are_refused_by_name(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"tokenizer\.json was not found"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataCorruptError, match=r"tokenizer\.json is no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.skipif(not (DATA / "bpe" / "encoder.json").exists(), reason="GPT-2's files are not in BDIA_DATA")
def test_gpt2s_own_files_give_its_published_ids():
    tokenizer = Gpt2Bpe().build([], [END_OF_DOCUMENT], DATA)
    assert tokenizer.get_vocab_size() == 50257
    assert tokenizer.token_to_id(END_OF_DOCUMENT) == 50256
    assert tokenizer.encode("Hello world").ids == [15496, 995]
