"""Synthetic records for the tests of the results layer and of the notebook."""

import math
from collections.abc import Sequence
from typing import Any

from bdia.results import Metric, RunRecord, gather

GAMMA = {"_target_": "bdia.reversible.TwoPoint", "value": "1/2", "per": "sample"}
BDIA = {"_target_": "bdia.reversible.BdiaStack", "_partial_": True, "gamma": GAMMA, "bits": 9}
STANDARD = {"_target_": "bdia.reversible.StandardStack", "_partial_": True}
REVVIT = {"_target_": "bdia.reversible.RevVitStack", "_partial_": True}
DATA = {"batch_size": 128, "val_fraction": 0, "train_per_class": 200, "augmentation": "crop_flip"}


def make_config(stack: dict[str, Any] = STANDARD, seed: int = 0, data: str = "cifar10") -> dict[str, Any]:
    """Return a resolved config at a scale far below the paper's."""
    net = {"_target_": "bdia.models.VisionTransformer", "width": 128, "patch_size": 8, "depth": 6, "heads": 4}
    net |= {"head_dim": 64, "mlp_hidden": 512, "dropout": 0.1}
    net |= {"tokenizer": {"_target_": "bdia.models.ShiftedPatchEmbed"}}
    net |= {"attention": {"_target_": "bdia.models.LocalitySelfAttention"}}
    return {
        "seed": seed,
        "experiment": "table1_cifar10_cpu",
        "data": {"_target_": "bdia.data.CifarDataModule", "name": data} | DATA,
        "model": {"_target_": "bdia.tasks.ImageClassification", "net": net | {"stack": stack}},
        "stack": stack,
        "optimizer": {"_target_": "bdia.optim.SetAdam", "_partial_": True, "lr": 1e-4},
        "scheduler": {"_target_": "bdia.optim.cosine", "_partial_": True},
        "trainer": {"max_epochs": 100, "precision": "32-true", "default_root_dir": f"outputs/{seed}"},
    }


def make_metrics(accuracy: float = 60.0, memory: float = 100.0, step_ms: float = 50.0) -> list[Metric]:
    """Return curves of four steps, final values and memory by category."""
    rows = []
    for step in (25, 50, 75, 100):
        share = step / 100
        rows.append(Metric("accuracy", accuracy * share, "%", "val", step))
        rows.append(Metric("loss", 2.3 - share, "nat", "train", step))
        rows.append(Metric("loss", 2.4 - share, "nat", "val", step))
    rows.append(Metric("accuracy", accuracy, "%", "test", 100))
    rows.append(Metric("peak_allocated", memory, "MiB", None, 100))
    shares = {"parameters": 0.1, "gradients": 0.1, "optimizer": 0.2, "activations": 0.5, "other": 0.1}
    rows += [Metric(f"peak_{part}", memory * share, "MiB", None, 100) for part, share in shares.items()]
    return [*rows, Metric("step_time", step_ms, "ms", None, 100)]


def make_record(stack: dict[str, Any] = STANDARD, seed: int = 0, at: int = 0, **changes: Any) -> RunRecord:
    """Return a record of the run started `at` seconds after midnight; `changes` replace its fields."""
    stamp = f"20261121T00{at // 60:02d}{at % 60:02d}000000Z"
    name = stack["_target_"].rpartition(".")[2]
    fields = {
        "run_id": f"{stamp}_abcdef0_{name}_s{seed}",
        "experiment": "table1_cifar10_cpu",
        "status": "ok",
        "seed": seed,
        "git": {"sha": "abcdef0123456789", "dirty": False},
        "config": make_config(stack, seed),
        "config_sha256": "0" * 64,
        "device": {"name": "CPU (test)", "count": 1, "torch": "2.14.0", "cuda": None},
        "precision": "fp32",
        "started_utc": f"2026-11-21T00:{at // 60:02d}:{at % 60:02d}+00:00",
        "wall_s": 12.5,
        "metrics": make_metrics(),
    }
    return RunRecord(**fields | changes)


def make_study(bdia: float = 61.0, standard: float = 60.0, revvit: float = 59.0) -> list[RunRecord]:
    """Return three seeds (accuracy -1, 0, +1 around the mean) of each stack in Table 1."""
    rows = [(STANDARD, standard, 100.0, 50.0), (REVVIT, revvit, 45.0, 70.0), (BDIA, bdia, 40.0, 65.0)]
    return [
        make_record(stack, seed, at=10 * place + seed, metrics=make_metrics(accuracy + seed - 1, memory, step_ms))
        for place, (stack, accuracy, memory, step_ms) in enumerate(rows)
        for seed in range(3)
    ]


SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
TEXT_DATA = {
    "data_dir": "data",
    "seed": 0,
    "tokenizer": {"_target_": "bdia.data.CorpusBpe", "vocab_size": 8000},
}
TRANSLATION_DATA = {"_target_": "bdia.data.TranslationDataModule", "token_budget": 4096}
LANGUAGE_DATA = {"_target_": "bdia.data.TokenDataModule", "batch_size": 8}


def make_text_record(task: str, stack: dict[str, Any], metrics: list[Metric], **changes: Any) -> RunRecord:
    """Return the record of a run of "Translation" or "LanguageModeling"; `dropout` sets the model's."""
    hub = {"_target_": "bdia.data.HubPairs", "name": "Helsinki-NLP/opus_books"}
    files = {"_target_": "bdia.data.TextFiles", "paths": ["text/sample.txt"]}
    net = {"width": 64, "dropout": changes.pop("dropout", 0.1), "stack": stack}
    if task == "Translation":
        net |= {"_target_": "bdia.models.Seq2SeqTransformer", "encoder_depth": 2, "decoder_depth": 2}
        data = TRANSLATION_DATA | TEXT_DATA | {"source": hub}
    else:
        net |= {"_target_": "bdia.models.Gpt2", "depth": 4}
        data = LANGUAGE_DATA | TEXT_DATA | {"source": files}
    seed = changes.get("seed", 0)
    name = {"Translation": "translation_cpu", "LanguageModeling": "gpt2_cpu"}.get(task, "text")
    text = {"data": data, "experiment": name, "model": {"_target_": f"bdia.tasks.{task}", "net": net}}
    return make_record(stack, config=make_config(stack, seed) | text, experiment=name, metrics=metrics, **changes)


def make_translation_metrics(val_loss: float, train_loss: float = 1.0, bleu: float = 20.0) -> list[Metric]:
    """Return two points per curve, then BLEU, chrF and exact match of the test."""
    rows = [
        Metric("loss", value + 3 / step, "nat", split, step)
        for step in (50, 100)
        for split, value in (("train", train_loss - 0.03), ("val", val_loss - 0.03))
    ]
    rows.append(Metric("perplexity", math.exp(val_loss), "1", "val", 100))
    rows += [Metric("bleu", bleu, "points", "test", 100), Metric("chrf", 2 * bleu, "points", "test", 100)]
    rows += [Metric("exact_match", 5.0, "%", "test", 100), Metric("token_throughput", 4e4, "tokens/s")]
    return [*rows, *make_text_memory(200.0), Metric("train_pairs", 1000, "count")]


def make_language_metrics(val_losses: Sequence[float]) -> list[Metric]:
    """Return one point of each curve per entry, 100 steps apart."""
    rows = []
    for place, loss in enumerate(val_losses):
        step = 100 * (place + 1)
        rows.append(Metric("loss", 5.0 - 0.5 * place, "nat", "train", step))
        rows += [Metric("loss", loss, "nat", "val", step), Metric("perplexity", math.exp(loss), "1", "val", step)]
    rows += [Metric("perplexity", math.exp(val_losses[-1] + 0.1), "1", "test", 100 * len(val_losses))]
    return [*rows, *make_text_memory(300.0), Metric("unigram_perplexity", 512.0, "1")]


def make_text_memory(memory: float) -> list[Metric]:
    """Return the peak, with the loss head as a part of its own, and the step time."""
    shares = {"parameters": 0.2, "optimizer": 0.3, "activations": 0.5, "loss_head": 0.3}
    parts = [Metric(f"peak_{part}", memory * share, "MiB", None, 100) for part, share in shares.items()]
    return [*parts, Metric("peak_allocated", memory, "MiB", None, 100), Metric("step_time", 80.0, "ms", None, 100)]


def make_translation_study(bdia_val: float = 1.9, bdia_train: float = 1.2, bdia_bleu: float = 21.0) -> list[RunRecord]:
    """Return three seeds of both stacks, 0.01 nat and 0.1 BLEU apart; the standard stack: 2.0, 1.0 nat, 20 BLEU."""
    rows = [(STANDARD, 2.0, 1.0, 20.0), (BDIA, bdia_val, bdia_train, bdia_bleu)]
    return [
        make_text_record(
            "Translation",
            stack,
            make_translation_metrics(val + 0.01 * (seed - 1), train, bleu + 0.1 * (seed - 1)),
            seed=seed,
            at=10 * place + seed,
            signatures={"bleu": SIGNATURE},
        )
        for place, (stack, val, train, bleu) in enumerate(rows)
        for seed in range(3)
    ]


STANDARD_LOSSES, BDIA_LOSSES, DROPOUT_LOSSES = (4.0, 3.5, 4.5), (4.2, 3.6, 3.7), (4.4, 3.8, 3.8)


def make_language_study(
    bdia: Sequence[float] = BDIA_LOSSES, standard: Sequence[float] = STANDARD_LOSSES, **changes: Any
) -> list[RunRecord]:
    """Return three seeds, 0.01 nat apart, of the standard stack, BDIA, and the standard stack with dropout 0.3."""
    rows = [(STANDARD, standard, 0.1), (BDIA, bdia, 0.1), (STANDARD, DROPOUT_LOSSES, 0.3)]
    return [
        make_text_record(
            "LanguageModeling",
            stack,
            make_language_metrics([loss + 0.01 * (seed - 1) for loss in losses]),
            seed=seed,
            at=10 * place + seed,
            dropout=dropout,
            **changes,
        )
        for place, (stack, losses, dropout) in enumerate(rows)
        for seed in range(3)
    ]


def only(records):
    """Return the experiment that all the records are of."""
    (experiment,) = gather(records)
    return experiment
