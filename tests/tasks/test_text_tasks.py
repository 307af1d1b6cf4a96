"""Translation and LanguageModeling: losses per token, perplexity, what beam search's sentences score."""

import math

import pytest
import sacrebleu
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from bdia.data.text.tokenizer import BOS, END_OF_DOCUMENT, EOS, PAD, Bytes, CorpusBpe
from bdia.tasks import LanguageModeling, Translation

TOKENIZER = Bytes().build([], [PAD, BOS, EOS], None)
REFERENCES = ["Un chien court dans l'herbe.", "Deux femmes parlent.", "Il pleut à Paris."]


class Fixed(nn.Module):
    """Losses that the test sets: the batch's numbers are the loss of each of its tokens."""

    pad_id = 0

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def nll(self, *arguments):
        *_, labels, label_smoothing = arguments
        return self.scale * labels.sum().float() + label_smoothing, (labels != 0).sum()


def run(task, batches, split):
    """What a Lightning validation or test reports for these batches."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    loader = DataLoader(batches, batch_size=None)
    (found,) = {"val": trainer.validate, "test": trainer.test}[split](task, loader, verbose=False)
    return found


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_epochs_loss_is_the_mean_over_tokens_and_the_perplexity_its_exp(split):
    tokenizer = Bytes().build([], [END_OF_DOCUMENT], None)
    task = LanguageModeling(tokenizer=tokenizer, net=Fixed(), optimizer=None, scheduler=None)
    # one batch of three tokens at 1 nat and one of a single token at 5 nat: 8 / 4, not (1 + 5) / 2
    found = run(task, [(torch.tensor([[9, 1, 1, 1]]),), (torch.tensor([[9, 5]]),)], split)
    assert found[f"{split}/loss"] == pytest.approx(2.0)
    assert found[f"{split}/perplexity"] == pytest.approx(math.exp(2))


def test_padding_counts_neither_in_the_loss_nor_in_the_size():
    task = Translation(tokenizer=TOKENIZER, net=Fixed(), optimizer=None, scheduler=None)
    target = torch.tensor([[1, 4, 2, 0, 0], [1, 4, 4, 4, 2]])
    batch = torch.tensor([[5, 2], [5, 2]]), target, torch.tensor([0, 1])
    total, count = task.nll(batch, 0.0)
    assert (total.item(), int(count)) == (20.0, 6)
    assert int(task.size(batch)) == 6


def test_label_smoothing_is_in_the_training_loss_alone(monkeypatch):
    task = Translation(tokenizer=TOKENIZER, net=Fixed(), optimizer=None, scheduler=None, label_smoothing=0.5)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    monkeypatch.setattr(task, "_search", lambda source, *_: [""])
    batch = torch.tensor([[5, 2]]), torch.tensor([[1, 4, 2]]), torch.tensor([0])
    assert task.training_step(batch, 0).item() == (6 + 0.5) / 2
    task.validation_step(batch, 0)
    task.test_step(batch, 0)
    assert float(task.metrics["val/loss"].compute()) == float(task.metrics["test/loss"].compute()) == 3.0


@pytest.mark.parametrize(
    ("setting", "message"), [({"beam": 0}, r"beam=0.*model\.beam"), ({"label_smoothing": 1}, r"model\.label_smoothing")]
)
def test_a_setting_out_of_range_names_its_key(setting, message):
    with pytest.raises(ValueError, match=message):
        Translation(tokenizer=TOKENIZER, net=Fixed(), optimizer=None, scheduler=None, **setting)


def test_bleu_and_chrf_are_sacrebleus_on_the_raw_references_in_the_order_of_the_pairs(monkeypatch):
    hypotheses = ["Un chien court dans l'herbe .", "Deux femmes parlent.", "Il neige à Paris."]
    task = Translation(
        tokenizer=TOKENIZER, net=Fixed(), optimizer=None, scheduler=None, references={"test": REFERENCES}
    )
    task.hypotheses = {}
    monkeypatch.setattr(task, "_search", lambda source, *_: [hypotheses[int(row[0]) - 3] for row in source])
    # batches in another order than the pairs
    order = [[2], [1, 0]]
    batches = [
        (torch.tensor([[i + 3, 2] for i in part]), torch.tensor([[1, 4, 2]] * len(part)), torch.tensor(part))
        for part in order
    ]
    found = run(task, batches, "test")
    assert found["test/bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [REFERENCES]).score, rel=1e-5)
    assert found["test/chrf"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, [REFERENCES]).score, rel=1e-5)
    assert found["test/exact_match"] == pytest.approx(100 / 3)
    assert "tok:13a" in task.signatures["bleu"]


def test_hypotheses_of_all_processes_are_scored(monkeypatch):
    texts = {1: "Deux femmes parlent.", 0: "Un chien court dans l'herbe ."}
    task = Translation(
        tokenizer=TOKENIZER, net=Fixed(), optimizer=None, scheduler=None, references={"test": REFERENCES[:2]}
    )
    monkeypatch.setattr("bdia.tasks.translation.gathered", lambda own: [own, {0: texts[0]}])
    task.hypotheses = {1: texts[1]}
    scores = {}
    monkeypatch.setattr(task, "log_scores", scores.update)
    task.on_test_epoch_end()
    wanted = sacrebleu.corpus_bleu([texts[0], texts[1]], [REFERENCES[:2]]).score
    assert scores["bleu"] == pytest.approx(wanted, rel=1e-5)
    assert task.hypotheses == {}


def test_translate_keeps_the_number_and_the_order_of_the_lines(monkeypatch):
    task = Translation(tokenizer=TOKENIZER, net=Fixed(), optimizer=None, scheduler=None).eval()
    eos = TOKENIZER.token_to_id(EOS)

    def upper(source, *_):
        return [TOKENIZER.decode([t for t in row.tolist() if t not in (0, eos)]).upper() for row in source]

    monkeypatch.setattr(task, "_search", upper)
    assert task.translate(["ab", "", "  ", "abcd"]) == ["AB", "", "", "ABCD"]
    assert task.translate([""]) == [""]


def test_a_checkpoint_of_another_tokenizer_is_refused_and_its_own_is_not():
    task = Translation(tokenizer=TOKENIZER, net=Fixed(), optimizer=None, scheduler=None)
    checkpoint = {}
    task.on_save_checkpoint(checkpoint)
    task.on_load_checkpoint(checkpoint)
    other = CorpusBpe(260).build(["aa bb aa"], [PAD, BOS, EOS], None)
    stranger = Translation(tokenizer=other, net=Fixed(), optimizer=None, scheduler=None)
    with pytest.raises(ValueError, match=r"was trained with the tokenizer \w{8}, this one is \w{8}"):
        stranger.on_load_checkpoint(checkpoint)


def test_the_loss_of_a_step_needs_no_trainer_to_be_right(monkeypatch):
    task = LanguageModeling(tokenizer=TOKENIZER, net=Fixed(), optimizer=None, scheduler=None)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    loss = task.training_step((torch.tensor([[9, 1, 3]]),), 0)
    loss.backward()
    assert loss.item() == 2.0
    assert float(task.net.scale.grad) == 2.0
