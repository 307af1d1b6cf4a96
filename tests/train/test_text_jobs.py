"""Training on text: resuming to the last bit, what lies beside a checkpoint, what its records say."""

import math

import pytest
import torch
from lightning.pytorch import Callback

from bdia.build import build_data, load_run
from bdia.data.text.tokenizer import Bytes, load_tokenizer, save_tokenizer
from bdia.results.store import read_records
from bdia.train.job import train
from helpers.training_helpers import (
    LANGUAGE,
    TEXT_COMMON,
    TRANSLATION,
    At,
    assert_resumes_exactly,
    compose_config,
    rows,
    run_dir,
    sigterm,
)

KINDS = {"translation": TRANSLATION, "language model": LANGUAGE}


@pytest.fixture
def tiny_text(places, one_thread):
    """tiny_text(kind, *overrides): the config of a tiny job on text."""
    return lambda kind, *overrides: compose_config(*KINDS[kind], *TEXT_COMMON, *places, *overrides)


class Outputs(Callback):
    """The logits of one test batch at the end of the run."""

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.batch, self.logits = batch, logits(pl_module.net, batch)


def logits(net, batch):
    with torch.no_grad():
        return net(*(tensor[:, :8] for tensor in batch if tensor.ndim == 2))


@pytest.mark.parametrize("kind", [pytest.param("translation", marks=pytest.mark.slow), "language model"])
def test_an_interrupted_and_resumed_run_ends_with_the_bits_of_the_uninterrupted_run(
    kind, tiny_text, add_callbacks, tmp_path
):
    elsewhere = [f"paths.{name}={tmp_path / 'whole' / name}" for name in ("runs", "results")]
    cfg, whole = (tiny_text(kind, *more) for more in ([], elsewhere))
    data = build_data(cfg)
    data.setup()
    batches = len(data.train_dataloader())
    assert batches > 2
    inside = batches + 2  # the second epoch's second batch
    found, wanted = assert_resumes_exactly(
        cfg, whole, add_callbacks, ("on_train_batch_end", inside, sigterm), batches=3 * batches
    )
    assert rows(found) == rows(wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_and_what_lies_beside_it_are_enough_to_rebuild_the_model(kind, tiny_text, add_callbacks):
    spy = Outputs()
    add_callbacks(spy)
    cfg = tiny_text(kind, "trainer.max_epochs=1")
    train(cfg)
    rebuilt = load_run(run_dir(cfg) / "final.ckpt")
    assert torch.equal(logits(rebuilt.net, spy.batch), spy.logits)
    assert load_tokenizer(run_dir(cfg) / "tokenizer.json").to_str() == rebuilt.tokenizer.to_str()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_of_another_run_is_refused(kind, tiny_text):
    cfg = tiny_text(kind, "trainer.max_epochs=1")
    train(cfg)
    specials = ["<pad>", "<s>", "</s>", "<|endoftext|>"]
    save_tokenizer(Bytes().build([], specials, None), run_dir(cfg) / "tokenizer.json")
    with pytest.raises(ValueError, match="was trained with the tokenizer"):
        load_run(run_dir(cfg) / "final.ckpt")


def test_a_damaged_checkpoint_or_a_missing_tokenizer_is_one_clear_error(tiny_text):
    cfg = tiny_text("language model", "trainer.max_epochs=1")
    train(cfg)
    checkpoint = run_dir(cfg) / "final.ckpt"
    whole = checkpoint.read_bytes()
    for damaged in (b"not a checkpoint", whole[: len(whole) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"final\.ckpt cannot be read as weights"):
            load_run(checkpoint)
    (run_dir(cfg) / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="the tokenizer of a run lies beside its checkpoint"):
        load_run(checkpoint)


def test_a_finished_run_on_a_text_that_has_changed_since_is_not_taken_for_done(tiny_text, tmp_path):
    text = tmp_path / "my.txt"
    text.write_text("\n<|endoftext|>\n".join(f"The {n} words of document {n} are these. " * 9 for n in range(30)))
    own = ("data=text_file", f"data.source.paths=[{text}]", "data.fraction=1", "trainer.max_epochs=1")
    cfg = tiny_text("language model", *own)
    first = train(cfg)
    assert train(cfg).run_id == first.run_id
    text.write_text(text.read_text() + "\n<|endoftext|>\n" + "Something else stands here now. " * 40)
    with pytest.raises(ValueError, match="the text has changed"):
        train(cfg)


def test_a_sequence_too_long_for_the_model_is_refused_before_training_starts(tiny_text, add_callbacks):
    class NoTraining(Callback):
        def on_train_start(self, trainer, pl_module):
            pytest.fail("training started")

    add_callbacks(NoTraining())
    with pytest.raises(
        ValueError, match=r"hold a sequence of \d+ tokens, wanted at most 12: set model\.net\.positions"
    ):
        train(tiny_text("translation", "model.net.positions=12"))


def test_a_translation_record_holds_bleu_chrf_exact_matches_and_their_signatures(tiny_text):
    record = train(tiny_text("translation", "trainer.max_epochs=1"))
    for name in ("bleu", "chrf", "exact_match"):
        assert 0 <= record.final(name, "test") <= 100
    assert record.signatures["bleu"].startswith("nrefs:1|case:mixed")
    assert "nc:6" in record.signatures["chrf"]
    assert record.final("train_pairs") == 60
    assert record.final("token_throughput") > 0


def test_a_language_models_record_holds_perplexities_the_exp_of_the_loss(tiny_text):
    record = train(tiny_text("language model"))
    for split in ("val", "test"):
        assert record.final("perplexity", split) == pytest.approx(math.exp(record.final("loss", split)), rel=1e-4)
    assert record.final("unigram_perplexity") > 1
    assert record.final("loss", "train") < record.curve("loss", "train")[0].value
    assert record.final("reconstruction_error") == 0


@pytest.mark.slow
def test_what_the_loss_head_holds_at_the_peak_is_recorded_and_shrinks_with_its_chunks(tiny_text):
    whole, chunked = (
        train(tiny_text("language model", "trainer.max_epochs=1", f"model.net.loss_chunk={chunk}", "stack=bdia"))
        for chunk in ("null", 64)
    )
    assert whole.final("peak_loss_head") > 3 * chunked.final("peak_loss_head") > 0
    assert whole.final("peak_loss_head") <= whole.final("peak_activations")


def test_a_failure_leaves_a_record_with_the_facts_about_the_data(tiny_text, add_callbacks, tmp_path):
    def stop():
        raise RuntimeError("broken")

    add_callbacks(At("on_train_batch_end", 2, stop))
    cfg = tiny_text("translation")
    with pytest.raises(RuntimeError, match="broken"):
        train(cfg)
    (record,) = read_records(cfg.paths.results)
    assert record.status == "failed"
    assert record.final("train_pairs") == 60


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        ("language model", "model.net.positions=8", r"data\.context=32: wanted at most model\.net\.positions=8"),
        ("translation", "model.label_smoothing=1.5", r"label_smoothing=1\.5.*model\.label_smoothing"),
        ("language model", "model.net.heads=3", r"model\.net\.heads=3: wanted a divisor of model\.net\.width=16"),
    ],
)
def test_a_wrong_value_is_one_error_with_the_key_to_change(kind, override, message, tiny_text):
    with pytest.raises(Exception, match=message):
        train(tiny_text(kind, override))


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["standard", "bdia"])
def test_the_embedded_numbers_are_learned(stack, places):
    overrides = ("data=numbers", "model=seq2seq_demo", "optimizer=adamw", "optimizer.lr=0.003", "logger=csv")
    schedule = ("scheduler.warmup_steps=100", "trainer.max_epochs=20", "trainer.enable_progress_bar=false")
    record = train(compose_config(*overrides, *schedule, *places, f"stack={stack}", "trainer.accelerator=cpu"))
    assert record.final("exact_match", "test") > 90


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["standard", "bdia"])
def test_the_embedded_prose_is_predicted_far_better_than_by_word_frequencies(stack, places):
    overrides = ("data=pydoc", "data.context=64", "model=gpt2_demo", "optimizer=adamw", "optimizer.lr=0.003")
    schedule = ("trainer.max_epochs=8", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "logger=csv")
    record = train(compose_config(*overrides, *schedule, *places, f"stack={stack}"))
    assert record.final("perplexity", "val") < 0.5 * record.final("unigram_perplexity")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_text_trains_and_is_scored_on_a_gpu(kind, tiny_text):
    record = train(tiny_text(kind, "trainer.max_epochs=1", "trainer.accelerator=gpu"))
    assert record.status == "ok"
    assert record.final("reconstruction_error") == 0
    assert math.isfinite(record.final("loss", "test"))
