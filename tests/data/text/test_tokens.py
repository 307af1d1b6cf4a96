"""Splits, token files and windows of the language-modelling data, on small made-up documents; every text config."""

import math
import os
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import hydra
import lightning
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

import bdia.data.text.token_file
import bdia.data.text.tokens
from bdia.data.errors import DataCorruptError
from bdia.data.text.documents import Pydoc, TextFiles, TokenFile
from bdia.data.text.token_file import unigram_perplexity
from bdia.data.text.tokenizer import END_OF_DOCUMENT, Bytes, CorpusBpe, Gpt2Bpe, load_tokenizer
from bdia.data.text.tokens import TokenDataModule
from bdia.data.text.windows import TokenLoader
from helpers.cuda_waits import refused_waits
from helpers.places import CONFIGS

DATA = Path(os.environ.get("BDIA_DATA", "data"))
SAMPLE = "openwebtext_sample/openwebtext_sample_1000docs.txt.gz"
T = 8
needs_sample = pytest.mark.skipif(
    not (DATA / "text" / SAMPLE).exists() or not (DATA / "bpe").exists(), reason="the sample is not in BDIA_DATA"
)


class Numbered:
    """Documents that name themselves: "<17>" and some letters; the last two are the same."""

    end_of_document = None

    def __init__(self, count=40, length=30):
        self.texts = [f"<{i}> " + "abcdefghij"[i % 10] * (length + i % 7) for i in range(count)]

    def documents(self, data_dir):
        return [*self.texts, self.texts[-1]]


@pytest.fixture
def make(tmp_path):
    def make_module(source=None, tokenizer=None, **protocol):
        protocol = {"context": T, "batch_size": 4, "cache_dir": tmp_path / "tokens", "data_dir": tmp_path, **protocol}
        return TokenDataModule(source or Numbered(), tokenizer or Bytes(), **protocol)

    return make_module


@pytest.fixture
def made(make):
    def make_module(*args, **protocol):
        module = make(*args, **protocol)
        module.setup()
        return module

    return make_module


def texts_of(module, split):
    """The documents of a split, decoded from its token file."""
    end = module.tokenizer.token_to_id(END_OF_DOCUMENT)
    tokens = np.asarray(module.tokens[split])
    assert tokens[-1] == end
    return [
        module.tokenizer.decode(part[:-1].tolist()) for part in np.split(tokens, np.flatnonzero(tokens == end) + 1)[:-1]
    ]


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [tokens for (tokens,) in loader]


def make_loader(count=203, shuffle_seed=0, batch_size=4, **keywords):
    """Tokens are their own places in the stream."""
    return TokenLoader(np.arange(count, dtype=np.uint16), T, batch_size, shuffle_seed, **keywords)


def test_no_document_is_in_two_splits_and_each_is_in_one(made):
    module = made()
    parts = {split: texts_of(module, split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 32, "val": 4, "test": 4}
    assert sorted(chain.from_iterable(parts.values())) == sorted(Numbered().texts)


def test_the_split_seed_decides_the_split_and_the_seed_does_not(made):
    first, again, other = made(), made(seed=5), made(split_seed=1)
    for split in ("train", "val", "test"):
        assert texts_of(first, split) == texts_of(again, split) != texts_of(other, split)


def test_a_tokenizer_is_trained_on_training_documents_alone(made):
    class Spy(CorpusBpe):
        def build(self, texts, specials, data_dir):
            self.seen = list(texts)
            return super().build(texts, specials, data_dir)

    spy = Spy(280)
    module = made(tokenizer=spy, fraction=0.5)
    assert spy.seen == texts_of(module, "train")
    assert len(spy.seen) == 16


def test_a_smaller_fraction_is_part_of_a_larger_and_leaves_val_and_test_whole(made):
    whole, half, tenth, least = (made(fraction=fraction) for fraction in (1.0, 0.5, 0.1, 1e-9))
    train = [set(texts_of(module, "train")) for module in (whole, half, tenth, least)]
    assert [len(texts) for texts in train] == [32, 16, 3, 1]
    assert train[0] > train[1] > train[2] > train[3]
    for split in ("val", "test"):
        assert texts_of(whole, split) == texts_of(half, split) == texts_of(least, split)


def test_text_that_looks_like_the_end_of_a_document_ends_none(made):
    class Tricky(Numbered):
        def documents(self, data_dir):
            return [f"{text}<|endoftext|>" for text in self.texts]

    assert all(text.endswith("<|endoftext|>") for text in texts_of(made(Tricky()), "train"))


def test_a_second_setup_reads_the_same_tokens_without_encoding_or_writing(made, monkeypatch):
    first = made(tokenizer=CorpusBpe(280))
    monkeypatch.setattr(bdia.data.text.tokens, "encoded", lambda *args: pytest.fail("encoded again"))
    monkeypatch.setattr(bdia.data.text.token_file, "write_whole", lambda *args: pytest.fail("written again"))
    second = made(tokenizer=CorpusBpe(280), seed=3, batch_size=2)
    second.setup("fit")
    for split, tokens in first.tokens.items():
        assert isinstance(second.tokens[split], np.memmap) and second.tokens[split].dtype == np.uint16
        assert np.array_equal(tokens, second.tokens[split])


@pytest.mark.parametrize(
    "change", [{"fraction": 0.5}, {"split_seed": 1}, {"tokenizer": CorpusBpe(260)}, {"source": Numbered(41)}]
)
def test_what_tokens_depend_on_gives_them_another_folder(made, tmp_path, change):
    made()
    made(context=4, batch_size=2, seed=9)
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    made(**change)
    assert len(list((tmp_path / "tokens").iterdir())) == 2


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("damage", ["cut", "foreign", "missing"])
def test_a_token_file_that_is_not_as_it_was_written_is_written_again(made, tmp_path, split, damage):
    wanted = {name: np.array(tokens) for name, tokens in made().tokens.items()}
    (path,) = (tmp_path / "tokens").rglob(f"{split}.bin")
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-2] if damage == "cut" else bytes(len(data)))
    found = made().tokens
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("documents", [0, 1, 31, 35, 37])  # encoded before the interruption: inside train, val and test
def test_an_interrupted_write_leaves_no_file_that_a_later_run_would_use(make, made, tmp_path, monkeypatch, documents):
    left = iter(range(documents))

    def interrupted(tokenizer, texts):
        for piece in encoded(tokenizer, texts):
            if next(left, None) is None:
                raise KeyboardInterrupt
            yield piece

    encoded = bdia.data.text.tokens.encoded
    with monkeypatch.context() as patch:
        patch.setattr(bdia.data.text.tokens, "encoded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make().setup()
    names = {path.name for path in (tmp_path / "tokens").rglob("*") if path.is_file()}
    assert names <= {"train.bin", "val.bin"}
    wanted = made(cache_dir=tmp_path / "other").tokens
    found = made().tokens
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_epochs_start_at_different_places_have_equally_many_windows_and_another_order():
    loader = make_loader()
    epochs = [epoch_of(loader, epoch) for epoch in range(30)]
    assert {len(batches) for batches in epochs} == {len(loader)} == {6}
    starts = [torch.cat(batches)[:, 0] for batches in epochs]
    assert {len(values) for values in starts} == {203 // T - 1}
    offsets = [int(values.min()) for values in starts]
    assert set(offsets) == set(range(T)) == {loader.offset(epoch) for epoch in range(30)}
    for values, offset in zip(starts, offsets, strict=True):
        assert torch.equal(values.sort().values, offset + T * torch.arange(203 // T - 1))
        assert not torch.equal(values, values.sort().values)
    assert len({tuple(((s - o) // T).tolist()) for s, o in zip(starts, offsets, strict=True)}) == 30


@pytest.mark.parametrize("count", range(2 * T, 4 * T + 1))
def test_windows_stay_inside_the_stream_whatever_its_length(count):
    loader = make_loader(count)
    for epoch in range(25):
        windows = torch.cat(epoch_of(loader, epoch))
        assert windows.shape == (count // T - 1, T + 1)
        assert windows.max() < count


def test_labels_are_the_inputs_shifted_by_one_and_no_place_is_a_label_twice():
    for shuffle_seed in (0, None):
        windows = torch.cat(epoch_of(make_loader(shuffle_seed=shuffle_seed), 0))
        inputs, labels = windows[:, :-1], windows[:, 1:]
        assert torch.equal(labels, inputs + 1)
        assert len(labels.unique()) == labels.numel()


def test_evaluation_keeps_the_stored_order_and_drops_the_rest_behind_the_last_whole_window():
    for count, windows in ((T + 1, 1), (2 * T, 1), (2 * T + 1, 2), (203, 25)):
        loader = make_loader(count, shuffle_seed=None)
        found = torch.cat(epoch_of(loader, 3))
        assert torch.equal(found[:, 0], T * torch.arange(windows))
        assert len(loader) == -(-windows // 4)


def test_batches_are_int64_and_full_except_the_last():
    batches = epoch_of(make_loader(batch_size=7), 0)
    assert [tuple(tokens.shape) for tokens in batches] == [(7, T + 1)] * 3 + [(3, T + 1)]
    assert all(tokens.dtype == torch.int64 for tokens in batches)
    assert make_loader().resident_bytes == 0


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    first = torch.cat(epoch_of(make_loader(), 2))
    torch.manual_seed(99)
    assert torch.equal(first, torch.cat(epoch_of(make_loader(), 2)))
    assert not torch.equal(first, torch.cat(epoch_of(make_loader(shuffle_seed=1), 2)))


@pytest.mark.parametrize("used", range(7))
def test_a_loaded_position_continues_with_the_next_batch_bit_for_bit(used):
    wanted = epoch_of(make_loader(), 2)
    interrupted = make_loader()
    interrupted.sampler.set_epoch(2)
    batches = iter(interrupted)
    for _ in range(used):
        next(batches)
    resumed = make_loader()
    resumed.load_state_dict(interrupted.state_dict())
    found = epoch_of(resumed, 2)
    assert len(found) == 6 - used
    assert all(torch.equal(a, b) for a, b in zip(found, wanted[used:], strict=True))
    assert torch.equal(torch.cat(epoch_of(resumed, 3)), torch.cat(epoch_of(make_loader(), 3)))


@pytest.mark.parametrize("change", [{"batch_size": 5}, {"count": 300}, {"shuffle_seed": 1}, {"world_size": 2}])
def test_resuming_inside_an_epoch_that_would_be_cut_otherwise_is_refused(change):
    loader = make_loader()
    next(iter(loader))
    resumed = make_loader(**change)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match=r"cannot resume inside epoch 0.*data\.context, data\.batch_size"):
        next(iter(resumed))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_windows_on_cuda_equal_those_on_the_cpu_and_no_batch_waits_for_the_device():
    loader = make_loader(device="cuda")
    with refused_waits():
        batches = epoch_of(loader, 1)
    assert all(tokens.is_cuda for tokens in batches)
    assert torch.equal(torch.cat(batches).cpu(), torch.cat(epoch_of(make_loader(), 1)))


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("shuffle_seed", [0, None])
def test_ranks_share_all_windows_in_equally_many_batches(world_size, shuffle_seed):
    loaders = [make_loader(shuffle_seed=shuffle_seed, rank=r, world_size=world_size) for r in range(world_size)]
    assert len({len(loader) for loader in loaders}) == 1
    starts = [torch.cat(epoch_of(loader, 1))[:, 0] for loader in loaders]
    alone = torch.cat(epoch_of(make_loader(shuffle_seed=shuffle_seed), 1))[:, 0]
    assert set(torch.cat(starts).tolist()) == set(alone.tolist())
    if shuffle_seed is None:
        assert sum(map(len, starts)) == len(alone)
    else:
        assert len({len(values) for values in starts}) == 1


def test_unigram_perplexity_is_that_of_counts_plus_one():
    train, val = np.array([0, 0, 0, 1], np.uint16), np.array([0, 1, 2], np.uint16)
    wanted = ((4 / 7) * (2 / 7) * (1 / 7)) ** (-1 / 3)
    assert unigram_perplexity(train, val, vocab_size=3) == pytest.approx(wanted, rel=1e-12)


def test_facts_count_tokens_and_documents(made):
    facts = made().facts
    lengths = {text: len(text) + 1 for text in Numbered().texts}
    assert sum(facts[f"{split}_tokens"] for split in ("train", "val", "test")) == sum(lengths.values())
    assert [facts[f"{split}_documents"] for split in ("train", "val", "test")] == [32, 4, 4]
    assert 1 < facts["unigram_perplexity"] < 257


def test_what_model_and_task_need_is_known_without_setup_and_the_tokenizer_is_saved(make, tmp_path):
    assert make().net_arguments == {"vocab_size": 257}
    assert make().longest == T
    module = make(tokenizer=CorpusBpe(270))
    tokenizer = module.task_arguments["tokenizer"]
    assert module.net_arguments == {"vocab_size": tokenizer.get_vocab_size()}
    module.save(tmp_path)
    assert load_tokenizer(tmp_path / "tokenizer.json").to_str() == tokenizer.to_str()


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"context": 0}, r"context=0.*data\.context"),
        ({"batch_size": 0}, r"batch_size=0.*data\.batch_size"),
        ({"eval_batch_size": -1}, r"eval_batch_size=-1.*data\.eval_batch_size"),
        ({"fraction": 0}, r"fraction=0.*data\.fraction"),
        ({"fraction": 1.1}, r"fraction=1\.1.*data\.fraction"),
        ({"val_fraction": 0}, r"val_fraction=0, .*set data\.val_fraction"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, r"test_fraction=0\.5.*and data\.test_fraction"),
        ({"val_fraction": 0.01}, r"val_fraction=0\.01 of 40 different documents is none.*data\.val_fraction"),
        ({"test_fraction": 0.01}, r"test_fraction=0\.01 of 40 different documents is none.*data\.test_fraction"),
        ({"val_fraction": 0.49, "test_fraction": 0.5, "source": Numbered(2)}, r"none of 2 documents is left for train"),
        ({"context": 160}, r"val has \d+ tokens, wanted at least 161 .*data\.context"),
        ({"context": 50, "fraction": 0.01}, r"train has \d+ tokens, wanted at least 100 .*data\.context"),
    ],
)
def test_a_value_out_of_range_names_its_config_key(made, protocol, message):
    with pytest.raises(ValueError, match=message):
        made(**protocol)


def test_a_vocabulary_that_does_not_fit_in_16_bits_is_refused(made):
    class Huge(Bytes):
        def build(self, texts, specials, data_dir):
            return super().build(texts, [*specials, *(f"<{i}>" for i in range(2**16 - 256))], data_dir)

    with pytest.raises(ValueError, match=r"65537 tokens, wanted at most 65536.*data\.tokenizer\.vocab_size"):
        made(tokenizer=Huge())


def test_fewer_windows_than_devices_are_refused(made):
    module = made(Numbered(10, length=5))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(strategy=strategy, distributed_sampler_kwargs={"num_replicas": 9, "rank": 0})
    with pytest.raises(ValueError, match=r"val has 1 windows, wanted one for each of 9 devices.*data\.context"):
        module.val_dataloader()


@pytest.fixture
def token_file(tmp_path):
    documents = [[i % 50 + 1] * (20 + i) for i in range(20)]
    np.array([token for document in documents for token in (*document, 0)], "<u2").tofile(tmp_path / "a.bin")
    return documents


def test_a_tokenised_source_is_split_and_not_encoded(made, token_file):
    module = made(TokenFile("a.bin", end_of_document=0))
    streams = [np.asarray(module.tokens[split]).tolist() for split in ("train", "val", "test")]
    wanted = [[*document, 0] for document in token_file]
    assert sum(map(len, streams)) == sum(map(len, wanted))
    for stream in streams:
        found = [list(part) for part in np.split(stream, np.flatnonzero(np.array(stream) == 0) + 1)[:-1]]
        assert all(document in wanted for document in found)


def test_a_tokenised_source_of_another_tokenizer_is_refused(made, tmp_path):
    np.array([1, 50256, 2, 50256, 3, 50256], "<u2").tofile(tmp_path / "c.bin")
    with pytest.raises(ValueError, match=r"id 50256.*tokenizer with 0.*tokenizer@data\.tokenizer=gpt2"):
        made(TokenFile("c.bin"), val_fraction=0.3, test_fraction=0.3)
    np.array([1, 0, 2, 0, 257, 0], "<u2").tofile(tmp_path / "b.bin")
    with pytest.raises(DataCorruptError, match=r"id 257.*ends at 256.*data\.source\.path"):
        made(TokenFile("b.bin", end_of_document=0), val_fraction=0.3, test_fraction=0.3, context=1)


class Recorder(lightning.LightningModule):
    """Notes which batches it was trained on; saves a checkpoint where told."""

    def __init__(self, save_at=None, path=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.save_at, self.path = [], save_at, path

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].clone())
        return self.layer(batch[0].float().mean().view(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.save_at == (self.current_epoch, batch_idx):
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(module, data, checkpoint=None):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(module, data, ckpt_path=checkpoint)
    return module.seen


@pytest.mark.filterwarnings("ignore")
def test_a_fit_resumed_in_mid_epoch_sees_the_batches_of_the_uninterrupted_fit(make, tmp_path):
    path = tmp_path / "saved.ckpt"
    wanted = fit(Recorder((1, 4), path), make())
    per_epoch = len(wanted) // 2
    found = fit(Recorder(), make(), path)
    assert len(found) == per_epoch - 5 > 0
    assert all(torch.equal(a, b) for a, b in zip(found, wanted[per_epoch + 5 :], strict=True))


TEXT_CONFIGS = sorted(
    path.stem for path in (CONFIGS / "data").glob("*.yaml") if "bdia.data.TokenDataModule" in path.read_text()
)


def compose_data(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.utils.instantiate(compose("train", overrides=list(overrides)).data, _convert_="all")


def test_there_are_six_text_configs():
    names = ["openwebtext", "openwebtext_sample", "pydoc", "text_file", "tinyshakespeare", "token_file"]
    assert names == TEXT_CONFIGS


@pytest.mark.parametrize("name", TEXT_CONFIGS)
@pytest.mark.parametrize(("tokenizer", "builder"), [("bpe", CorpusBpe), ("bytes", Bytes), ("gpt2", Gpt2Bpe)])
def test_every_text_config_builds_with_every_tokenizer_and_reads_nothing(name, tokenizer, builder, tmp_path):
    module = compose_data(f"data={name}", f"tokenizer@data.tokenizer={tokenizer}", "seed=7", f"paths.runs={tmp_path}")
    assert isinstance(module.builder, builder)
    assert (module.seed, module.split_seed, module.cache_dir) == (7, 0, tmp_path / "tokens")
    assert not list(tmp_path.iterdir())


def test_a_users_own_file_trains_from_the_command_line(tmp_path):
    (tmp_path / "my.txt").write_text("".join(f"Paragraph {i} of my text.\n\n" for i in range(400)))
    module = compose_data(
        "data=text_file", f"data.source.paths=[{tmp_path}/my.txt]", "data.source.section=300", f"paths.runs={tmp_path}"
    )
    module.setup()
    assert isinstance(module.source, TextFiles)
    assert next(iter(module.train_dataloader()))[0].shape[1] == 129


def test_the_embedded_data_need_no_file(tmp_path):
    module = TokenDataModule(Pydoc(), CorpusBpe(2048), data_dir=tmp_path / "none", cache_dir=tmp_path)
    assert module.net_arguments == {"vocab_size": 2048}
    assert module.facts["train_tokens"] > 50_000
    assert 100 < module.facts["unigram_perplexity"] < 2048
    assert math.isfinite(module.facts["unigram_perplexity"])


@needs_sample
def test_gpt2s_ids_of_the_sample_are_those_of_its_token_file():
    texts = TextFiles(SAMPLE).documents(DATA)
    ids = TokenFile("openwebtext_sample/gpt2_tokens_u16.bin").documents(DATA)
    tokenizer = Gpt2Bpe().build([], [END_OF_DOCUMENT], DATA)
    assert len(texts) == len(ids) == 1000
    for text, wanted in zip(texts[:20], ids[:20], strict=True):
        assert tokenizer.encode(text).ids == wanted.tolist()


@needs_sample
def test_the_tokenised_sample_splits_as_its_text_does(tmp_path):
    source = TokenFile("openwebtext_sample/gpt2_tokens_u16.bin")
    module = TokenDataModule(source, Gpt2Bpe(), data_dir=DATA, cache_dir=tmp_path)
    module.setup()
    counts = [module.facts[f"{split}_documents"] for split in ("train", "val", "test")]
    assert counts == [800, 100, 100]
    assert sum(module.facts[f"{split}_tokens"] for split in ("train", "val", "test")) == 1_203_184
