"""Documents of prompt and sentence: what is a label, what a batch holds, what is dropped and refused."""

import pytest
import torch

from bdia.data.errors import DataCorruptError
from bdia.data.text.prompts import IGNORED, PromptDataModule
from bdia.data.text.restaurants import MadeUpRestaurants
from bdia.data.text.tokenizer import END_OF_DOCUMENT, Bytes, CorpusBpe, SavedTokenizer, save_tokenizer

PAIRS = {
    "train": [("a[1]", "One é."), ("a[1]", "It is one."), ("b[22]", "Two."), ("ccc[3]", "Three and more.")],
    "val": [("d[4]", "Four.")],
    "test": [("e[5]", "Five."), ("f[6]", "Six."), ("e[5]", "It is five.")],
}


class Fixed:
    """The pairs above."""

    def load(self, data_dir):
        return PAIRS


def module(source=None, tokenizer=None, **settings):
    data = PromptDataModule(source or Fixed(), tokenizer or Bytes(), **settings)
    data.setup()
    return data


def documents(data, loader):
    """Of each row of all batches: all tokens as text, the labels that count as text, the prompt's number."""
    end = data.tokenizer.token_to_id(END_OF_DOCUMENT)
    found = []
    for inputs, labels, numbers in loader:
        assert inputs.dtype == labels.dtype == numbers.dtype == torch.int64 and inputs.shape == labels.shape
        for row, wanted, number in zip(inputs, labels, numbers, strict=True):
            places = (wanted != IGNORED).nonzero().flatten()
            assert places.tolist() == list(range(places[0], places[-1] + 1))
            counted = wanted[places]
            assert counted[-1] == end and torch.equal(counted[:-1], row[places[1:]])  # labels are the next inputs
            opening = row[: places[0] + 1]
            found.append(
                (data.tokenizer.decode(opening.tolist()), data.tokenizer.decode(counted.tolist()), int(number))
            )
    return found


@pytest.mark.parametrize("tokenizer", [Bytes(), CorpusBpe(280)])
@pytest.mark.parametrize("budget", [40, 2000])
def test_labels_are_the_sentence_and_its_end_and_every_document_is_in_one_batch(tokenizer, budget):
    data = module(tokenizer=tokenizer, token_budget=budget, eval_token_budget=budget)
    for split, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        found = documents(data, loader)
        assert sorted((opening, sentence) for opening, sentence, _ in found) == sorted(
            (f"{prompt} |", f" {sentence}") for prompt, sentence in PAIRS[split]
        )
        assert all(data.prompts[split][number][0] == opening for opening, _, number in found)
    batches = list(data.train_dataloader())
    assert (len(batches) > 1) == (budget == 40)
    assert all(inputs.numel() <= budget for inputs, *_ in batches)


def test_a_prompt_is_listed_once_with_all_its_sentences():
    assert module().task_arguments["prompts"]["test"] == [("e[5] |", ("Five.", "It is five.")), ("f[6] |", ("Six.",))]


def test_training_documents_that_are_too_long_are_dropped_and_counted():
    data = module(max_length=20)
    assert data.dropped == 1 and data.pairs["train"] == PAIRS["train"][:3]
    assert data.facts == {"train_pairs": 3.0, "val_pairs": 1.0, "test_pairs": 3.0, "dropped_pairs": 1.0}
    assert len(documents(data, data.train_dataloader())) == 3
    with pytest.raises(
        ValueError, match=r"all 4 training documents are longer than max_length=5: set data\.max_length"
    ):
        module(max_length=5)
    with pytest.raises(ValueError, match=r"max_length=1: wanted at least 2.*data\.max_length"):
        module(max_length=1)


def test_longest_is_what_the_model_must_have_positions_for_in_every_split():
    data = module(max_length=20)
    widths = [inputs.shape[1] for split in ("train", "val", "test")
              for inputs, *_ in getattr(data, f"{split}_dataloader")()]  # fmt: skip
    assert data.longest == max(widths) == len("e[5] | It is five.")


def test_an_epoch_is_shuffled_by_seed_and_epoch_and_goes_on_where_it_was():
    data = module(source=MadeUpRestaurants(train=40, val=5, test=5), max_length=200, token_budget=600)
    loader, again = data.train_dataloader(), data.train_dataloader()
    first, second = list(loader), list(again)
    assert all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))
    loader.sampler.set_epoch(1)
    later = list(loader)
    assert len(later) == len(first) and any(a[0].shape != b[0].shape for a, b in zip(first, later, strict=True))
    assert sorted(documents(data, first)) == sorted(documents(data, later))
    iterator = iter(again)
    next(iterator), next(iterator)
    resumed = data.train_dataloader()
    resumed.load_state_dict(again.state_dict())
    assert torch.equal(next(iter(resumed))[0], first[2][0])


def test_no_batch_is_larger_than_those_announced():
    data = module(source=MadeUpRestaurants(train=60, val=5, test=5), max_length=200, token_budget=900)
    loader = data.train_dataloader()
    announced = loader.largest()
    assert all(inputs.shape == labels.shape and labels.dtype == torch.int64 for inputs, labels, _ in announced)
    assert max(inputs.numel() for inputs, *_ in loader) <= max(inputs.numel() for inputs, *_ in announced)


def test_an_empty_split_and_a_tokenizer_without_an_end_are_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(PAIRS, "val", [])
    with pytest.raises(DataCorruptError, match=r"the val split of Fixed is empty: change data\.source"):
        module()
    monkeypatch.undo()
    save_tokenizer(Bytes().build([], ["<pad>"], None), tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json has no <\|endoftext\|>: set data\.tokenizer\.path"):
        module(tokenizer=SavedTokenizer(tmp_path / "tokenizer.json"))


def test_a_saved_tokenizer_is_taken_as_it_is(tmp_path):
    saved = CorpusBpe(280).build(["One of one of one"], [END_OF_DOCUMENT], None)
    save_tokenizer(saved, tmp_path / "tokenizer.json")
    assert module(tokenizer=SavedTokenizer(tmp_path / "tokenizer.json")).tokenizer.to_str() == saved.to_str()
