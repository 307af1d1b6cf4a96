"""What a record's checksums say of its data, and where it is said."""

import hashlib

import numpy as np
import pytest

from bdia.data import DigitsDataModule
from bdia.data.module import sha256_of
from bdia.data.text.splits import pairs_sha256
from bdia.results.checksums import KNOWN, OLD_CIFAR10, data_notes, data_remark
from bdia.train.job import train
from helpers.synthetic_records import make_record
from helpers.training_helpers import LANGUAGE, TEXT_COMMON, TRANSLATION, compose_config


def test_a_checksum_is_that_of_the_bytes_in_little_endian_order():
    numbers = np.array([1, 258], dtype=">i8")
    wanted = hashlib.sha256((1).to_bytes(8, "little") + (258).to_bytes(8, "little")).hexdigest()
    assert sha256_of(numbers) == sha256_of(numbers.astype("<i8")) == wanted
    assert sha256_of(np.arange(6).reshape(2, 3).T) == sha256_of(np.arange(6).reshape(2, 3).T.copy())
    assert sha256_of(numbers, numbers) == sha256_of(np.concatenate([numbers, numbers])) != wanted


def test_checksums_of_pairs_tell_order_and_place_apart():
    found = {pairs_sha256(p) for p in ([("a", "b")], [("ab", "")], [("b", "a")], [("a", "b")] * 2, [("a", "é")])}
    assert len(found) == 5


def test_images_have_the_checksum_of_what_was_read_whatever_the_split():
    modules = [DigitsDataModule(), DigitsDataModule(train_per_class=3, seed=1)]
    assert modules[0].checksums == {}
    for module in modules:
        module.setup()
    assert modules[0].checksums == modules[1].checksums and set(modules[0].checksums) == {"train", "test"}
    (images, labels), _ = modules[0].load()
    assert modules[0].checksums["train"] == hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def test_every_record_holds_them(tiny):
    assert set(train(tiny("trainer.max_epochs=1")).data_sha256) == {"train", "test"}


@pytest.mark.slow
@pytest.mark.parametrize("choices", [TRANSLATION, LANGUAGE], ids=["pairs", "tokens"])
def test_records_of_texts_hold_them_for_every_split(choices, places, one_thread):
    record = train(compose_config(*choices, *TEXT_COMMON, *places, "trainer.max_epochs=1"))
    assert set(record.data_sha256) == {"train", "val", "test"} and len(set(record.data_sha256.values())) == 3


def test_cifar_10_with_decoded_jpegs_is_named_where_it_was_used():
    assert "97 of its 60,000 images are decoded JPEGs" in data_remark({"train": "0" * 64, "test": OLD_CIFAR10})
    assert data_remark({}) == data_remark({"test": "0" * 64}) == ""
    cifar, digits = ({"data": {"name": name}} for name in ("cifar10", "digits"))
    named = make_record(config=cifar, data_sha256={"test": OLD_CIFAR10})
    older, other = make_record(config=cifar), make_record(config=digits)
    official = make_record(config=cifar, data_sha256={"test": "0" * 64})
    assert data_notes([other, official]) == []
    (note,) = data_notes([named, older, other])
    assert note.startswith(KNOWN[OLD_CIFAR10]) and OLD_CIFAR10[:12] in note and "1 record(s) older" in note
