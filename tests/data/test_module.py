"""The tokenizer beside a checkpoint is never replaced by another."""

import pytest

from bdia.data.text.module import TextDataModule
from bdia.data.text.tokenizer import Bytes, fingerprint, load_tokenizer


class Fixed(TextDataModule):
    """A module whose text gave it this tokenizer."""

    def __init__(self, *specials):
        super().__init__()
        self.tokenizer = Bytes().build([], specials, None)

    def setup(self, stage=None):
        pass


@pytest.mark.parametrize("checkpoint", ["final.ckpt", "last.ckpt"])
def test_another_tokenizer_than_that_of_the_checkpoint_is_refused_and_nothing_is_written(tmp_path, checkpoint):
    folder = tmp_path / "run"
    folder.mkdir()
    Fixed("<a>").save(folder)
    (folder / checkpoint).touch()
    before = (folder / "tokenizer.json").read_bytes()
    with pytest.raises(ValueError, match=rf"{folder}: the text changed since .*set another paths\.runs, or remove"):
        Fixed("<b>").save(folder)
    assert (folder / "tokenizer.json").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"tokenizer.json", checkpoint}
    Fixed("<a>").save(folder)


def test_without_a_checkpoint_the_tokenizer_is_replaced_and_without_a_tokenizer_it_is_written(tmp_path):
    Fixed("<a>").save(tmp_path)
    Fixed("<b>").save(tmp_path)
    assert fingerprint(load_tokenizer(tmp_path / "tokenizer.json")) == fingerprint(Fixed("<b>").tokenizer)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "last.ckpt").touch()
    Fixed("<a>").save(tmp_path)
    assert fingerprint(load_tokenizer(tmp_path / "tokenizer.json")) == fingerprint(Fixed("<a>").tokenizer)
