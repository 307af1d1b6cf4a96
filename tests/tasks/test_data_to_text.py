"""DataToText: the sentence alone counts, and outputs are scored against all sentences of their prompt."""

import pytest
import sacrebleu
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from bdia.data.text.prompts import IGNORED
from bdia.data.text.tokenizer import END_OF_DOCUMENT, Bytes
from bdia.models.sampling import generate
from bdia.tasks import DataToText
from bdia.tasks.data_to_text import by_place
from helpers.text_models import small_gpt2, tokens

TOKENIZER = Bytes().build([], [END_OF_DOCUMENT], None)
PROMPTS = [("a |", ("One is here now.", "It is one, here.")), ("bcd |", ("Two of them are there.",)), ("e |", ("No.",))]


def make_task(**settings):
    net = small_gpt2(vocab_size=TOKENIZER.get_vocab_size(), positions=40, **settings.pop("net", {})).eval()
    return DataToText(net=net, tokenizer=TOKENIZER, optimizer=None, scheduler=None, **settings)


def run_test(task, batches):
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (found,) = trainer.test(task, DataLoader(batches, batch_size=None), verbose=False)
    return found


def batch(*numbers):
    inputs = tokens(len(numbers), 6, vocab_size=200)
    labels = inputs.clone()
    labels[:, :3] = IGNORED
    return inputs, labels, torch.tensor(numbers)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_what_is_ignored_changes_neither_the_loss_nor_a_gradient(chunk, label_smoothing):
    task = make_task(net={"loss_chunk": chunk})
    inputs, labels, numbers = batch(0, 1)
    total, count = task.nll((inputs, labels, numbers), label_smoothing)
    logits = task.net(inputs)[:, 3:].flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(
        logits, labels[:, 3:].flatten(), reduction="sum", label_smoothing=label_smoothing
    )
    assert int(count) == 6 and int(task.size((inputs, labels, numbers))) == 6
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=0)
    parameters = list(task.net.parameters())
    pairs = zip(torch.autograd.grad(total, parameters), torch.autograd.grad(wanted, parameters), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_padding_behind_a_document_changes_nothing_of_it():
    task = make_task()
    inputs, labels, numbers = batch(0)
    padded = torch.cat([inputs, torch.zeros(1, 3, dtype=torch.int64)], dim=1)
    total, count = task.nll((padded, torch.cat([labels, torch.full((1, 3), IGNORED)], dim=1), numbers), 0.0)
    wanted, expected = task.nll((inputs, labels, numbers), 0.0)
    assert int(count) == int(expected)
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=0)


def test_bleu_and_chrf_are_sacrebleus_against_all_sentences_of_the_prompts_that_were_tested(monkeypatch):
    answers = {"a |": "It is one here now.", "bcd |": "Two of them were there.", "e |": "Never."}
    task = make_task(prompts={"test": PROMPTS})
    monkeypatch.setattr(task, "continue_prompts", lambda prompts: [answers[prompt] for prompt in prompts])
    found = run_test(task, [batch(1, 0), batch(1)])  # the third prompt is not in the batches
    outputs, references = [answers["a |"], answers["bcd |"]], [["One is here now.", "Two of them are there."],
                                                               ["It is one, here.", None]]  # fmt: skip
    assert found["test/bleu"] == pytest.approx(sacrebleu.corpus_bleu(outputs, references).score, rel=1e-5)
    assert found["test/chrf"] == pytest.approx(sacrebleu.corpus_chrf(outputs, references).score, rel=1e-5)
    one = sacrebleu.corpus_bleu(outputs, references[:1]).score
    assert found["test/bleu"] > one + 1  # the second sentence counts
    assert "nrefs:var" in task.signatures["bleu"]


def test_processes_share_the_prompts_that_any_of_them_tested_and_score_all_outputs(monkeypatch):
    task = make_task(prompts={"test": PROMPTS})
    monkeypatch.setattr(task, "continue_prompts", lambda prompts: [f"{prompt} It is one, here." for prompt in prompts])
    told = []

    def gathered(own):  # the other process tested the third prompt, and continues the second of the two
        told.append(own)
        return [own, {2}] if isinstance(own, set) else [own, ["No one is here."]]

    monkeypatch.setattr("bdia.tasks.data_to_text.gathered", gathered)
    monkeypatch.setattr(DataToText, "world_size", 2)
    found = run_test(task, [batch(0)])
    assert told == [{0}, ["a | It is one, here."]]
    outputs, references = [told[1][0], "No one is here."], [["One is here now.", "No."], ["It is one, here.", None]]
    assert found["test/chrf"] == pytest.approx(sacrebleu.corpus_chrf(outputs, references).score, rel=1e-5)


def test_references_are_sorted_by_place_with_none_where_a_prompt_has_fewer():
    assert by_place([("a", "b"), ("c",)]) == [["a", "c"], ["b", None]]


def test_every_prompt_is_continued_greedily_up_to_its_end_whatever_the_order():
    task = make_task(new_tokens=9)
    with torch.no_grad():
        task.net.tokens.weight.mul_(20.0)
    texts = ["abc", "z", "xyb", "q"]
    wanted = []
    for text in texts:
        ids = torch.tensor([TOKENIZER.encode(text).ids])
        wanted.append(TOKENIZER.decode(generate(task.net, ids, 9, temperature=0)[0, ids.shape[1] :].tolist()).strip())
    assert task.continue_prompts(texts) == wanted and len(set(wanted)) > 1
    end = TOKENIZER.token_to_id(END_OF_DOCUMENT)
    with torch.no_grad():
        task.net.tokens.weight.zero_()
        task.net.tokens.weight[end] = 1.0
        task.net.join.norm.bias.fill_(1.0)  # the end is always the likeliest token
    assert task.continue_prompts(texts) == ["", "", "", ""]


def test_a_prompt_near_the_last_position_is_continued_as_far_as_there_are_positions():
    task = make_task(new_tokens=100)
    assert len(TOKENIZER.encode(task.continue_prompts(["x" * 39])[0]).ids) <= 2


def test_no_new_token_is_refused_by_its_key():
    with pytest.raises(ValueError, match=r"new_tokens=0.*model\.new_tokens"):
        make_task(new_tokens=0)
