"""The data module of translation: tokens, control ids, what is dropped, what is handed to model and task."""

import lightning
import pytest
import torch

from bdia.data.errors import DataCorruptError
from bdia.data.text.numbers import Numbers
from bdia.data.text.pairs import ParallelFiles
from bdia.data.text.tokenizer import Bytes, CorpusBpe, fingerprint, load_tokenizer
from bdia.data.text.translation import TranslationDataModule
from helpers.places import SHARED

ACCENTS = "Où êtes-vous allés ?  « Ça, c'est l'œuvre naïve d'un garçon »…"


class Fixed:
    """Given pairs as a source."""

    source_language, target_language = "en", "fr"

    def __init__(self, train, val=(("v", "w"),), test=(("t", "u"),)):
        self.pairs, self.loads = {"train": list(train), "val": list(val), "test": list(test)}, 0

    def load(self, data_dir):
        self.loads += 1
        return self.pairs


def make_module(source=None, tokenizer=None, **keywords):
    module = TranslationDataModule(source or Numbers(300, 20, 30), tokenizer or CorpusBpe(300), **keywords)
    module.setup()
    return module


def sentence(module, ids):
    return module.tokenizer.decode([token for token in ids.tolist() if token > 2])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_batches_hold_the_sentences_of_their_pairs_between_control_tokens(split):
    module = make_module(token_budget=512, eval_token_budget=512)
    seen = []
    for source, target, index in getattr(module, f"{split}_dataloader")():
        for x, y, number in zip(source, target, index.tolist(), strict=True):
            assert (sentence(module, x), sentence(module, y)) == module.pairs[split][number]
            x, y = x[x != 0], y[y != 0]
            assert (x <= 2).tolist() == [False] * (len(x) - 1) + [True]
            assert (y <= 2).tolist() == [True] + [False] * (len(y) - 2) + [True]
            assert (x[-1], y[0], y[-1]) == (2, 1, 2)
            seen.append(number)
    assert sorted(seen) == list(range(len(module.pairs[split])))


def test_the_tokenizer_is_the_same_every_time_and_is_made_of_training_text_alone():
    train = [(f"cat {n}", f"chat {n}") for n in range(20)]
    first = make_module(Fixed(train, val=[("zebra", "zèbre")] * 99, test=[("quokka", "wombat")] * 99))
    second = make_module(Fixed(train))
    assert fingerprint(first.tokenizer) == fingerprint(second.tokenizer)
    assert first.tokenizer.token_to_id("chat") is not None
    assert fingerprint(make_module(Fixed(train[:10])).tokenizer) != fingerprint(first.tokenizer)


@pytest.mark.parametrize("tokenizer", [CorpusBpe(300), Bytes()])
def test_french_with_accents_comes_back_unchanged(tokenizer):
    module = make_module(Fixed([("Where?", ACCENTS)], test=[("x", ACCENTS + " ŷ 漢 🙂")]), tokenizer)
    for loader, split in ((module.train_dataloader(), "train"), (module.test_dataloader(), "test")):
        (_, target, _), *_ = loader
        assert sentence(module, target[0]) == module.pairs[split][0][1]


def test_a_control_token_written_in_a_text_is_text():
    module = make_module(Fixed([("a <pad> b </s>", "<s> c")]))
    (source, target, _), *_ = module.train_dataloader()
    assert (sentence(module, source[0]), sentence(module, target[0])) == ("a <pad> b </s>", "<s> c")
    assert (int((source <= 2).sum()), int((target <= 2).sum())) == (1, 2)


def test_long_training_pairs_are_dropped_and_counted_and_others_never():
    train = [("a" * 3, "b"), ("a" * 4, "b"), ("a", "b" * 3), ("a", "b" * 4), ("a", "b")]
    module = make_module(Fixed(train, test=[("a" * 9, "b" * 9)]), Bytes(), max_length=4)
    assert module.pairs["train"] == [train[0], train[2], train[4]]
    assert module.facts == {"train_pairs": 3.0, "val_pairs": 1.0, "test_pairs": 1.0, "dropped_pairs": 2.0}
    batches = list(module.train_dataloader())
    assert max(max(source.shape[1], target.shape[1] - 1) for source, target, _ in batches) == 4
    for source, _, index in batches:
        assert [sentence(module, x) for x in source] == [module.pairs["train"][n][0] for n in index.tolist()]
    (source, target, _), *_ = module.test_dataloader()
    assert (source.shape, target.shape) == ((1, 10), (1, 11))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(("pair", "wanted"), [(("a" * 6, "b"), 7), (("a", "b" * 8), 9)])
def test_longest_is_the_longest_sentence_of_any_split_with_one_control_token(split, pair, wanted):
    train = [("a", "b"), ("c" * 50, "d")]  # the second is dropped
    pairs = {"train": train, split: [*train, pair][-3 if split == "train" else -1 :]}
    module = TranslationDataModule(Fixed(**pairs), Bytes(), max_length=20)
    assert module.longest == wanted
    loaders = (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    batches = [batch for loader in loaders for batch in loader]
    assert max(max(source.shape[1], target.shape[1] - 1) for source, target, _ in batches) == wanted


def test_the_vocabulary_does_not_depend_on_what_is_dropped():
    pairs = [("one two three four", "un deux trois quatre"), ("one", "un")]
    short, long = (make_module(Fixed(pairs), max_length=length) for length in (4, 99))
    assert short.dropped == 1
    assert fingerprint(short.tokenizer) == fingerprint(long.tokenizer)


def test_nothing_left_to_train_on_is_an_error_naming_max_length():
    with pytest.raises(ValueError, match=r"all 1 training pairs are longer than max_length=4: set data\.max_length"):
        make_module(Fixed([("aaaa", "b")]), Bytes(), max_length=4)
    with pytest.raises(ValueError, match=r"max_length=1: wanted at least 2.*data\.max_length"):
        make_module(Fixed([("a", "b")]), max_length=1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_split_is_an_error_naming_it(split):
    pairs = {"train": [("a", "b")], split: []}
    with pytest.raises(DataCorruptError, match=rf"the {split} split of Fixed is empty"):
        make_module(Fixed(**pairs))


def test_a_budget_below_the_longest_pair_is_an_error_naming_its_key():
    module = make_module(Fixed([("a", "b")], test=[("a" * 9, "b" * 9)]), Bytes(), token_budget=4, eval_token_budget=20)
    with pytest.raises(ValueError, match=r"has 5 tokens, more than token_budget=4: set data\.token_budget"):
        module.train_dataloader()
    with pytest.raises(ValueError, match=r"has 21 tokens, more than token_budget=20: set data\.eval_token_budget"):
        module.test_dataloader()


def test_a_tokenizer_with_other_control_ids_is_refused_by_key():
    class Backwards(CorpusBpe):
        def build(self, texts, specials, data_dir):
            return super().build(texts, specials[::-1], data_dir)

    with pytest.raises(ValueError, match=r"Backwards gives <pad>, <s>, </s> the ids \[2, 1, 0\].*data\.tokenizer"):
        make_module(tokenizer=Backwards(300))


def test_arguments_of_model_and_task_are_ready_without_setup_and_read_once(tmp_path):
    source = Fixed([("a", "b")], val=[("c", "d"), ("e", "f")])
    module = TranslationDataModule(source, Bytes())
    assert module.net_arguments == {"vocab_size": 259}
    assert module.task_arguments["references"] == {"val": ["d", "f"], "test": ["u"]}
    assert module.task_arguments["tokenizer"] is module.tokenizer
    module.save(tmp_path)
    module.setup("fit")
    assert fingerprint(load_tokenizer(tmp_path / "tokenizer.json")) == fingerprint(module.tokenizer)
    assert source.loads == 1


def test_the_training_seed_orders_batches_and_leaves_the_split():
    first, second = make_module(seed=0, token_budget=512), make_module(seed=1, token_budget=512)
    assert first.pairs == second.pairs
    assert fingerprint(first.tokenizer) == fingerprint(second.tokenizer)
    orders = [torch.cat([index for *_, index in module.train_dataloader()]) for module in (first, second)]
    assert not torch.equal(*orders)


class Recorder(lightning.LightningModule):
    """Notes which pairs it was trained on."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch[2].tolist()))
        return self.layer(batch[0].float().mean().view(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        self.steps = self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_a_fit_sees_every_pair_once_per_epoch_in_the_number_of_steps_that_the_schedule_was_told():
    module, model = make_module(token_budget=512), Recorder()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(max_epochs=2, accelerator="cpu", **quiet).fit(model, module)
    assert model.steps == len(model.seen) == 2 * len(module.train_dataloader())
    orders = [[n for at, numbers in model.seen if at == epoch for n in numbers] for epoch in range(2)]
    assert [sorted(order) for order in orders] == [list(range(300))] * 2
    assert orders[0] != orders[1]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data sets")
def test_multi30k_is_cut_into_well_filled_batches():
    files = {"train": "train", "val": "val", "test": "test_2016_flickr"}
    module = make_module(ParallelFiles("multi30k", files, limit=8000), CorpusBpe(2000), data_dir=SHARED)
    assert module.facts == {"train_pairs": 8000, "val_pairs": 1014, "test_pairs": 1000, "dropped_pairs": 0}
    batches = list(module.train_dataloader())
    held = sum(source.numel() + target.numel() for source, target, _ in batches)
    tokens = sum(int((side != 0).sum()) for *sides, _ in batches for side in sides)
    assert tokens / held > 0.9
    assert held / len(batches) > 0.95 * 4096
