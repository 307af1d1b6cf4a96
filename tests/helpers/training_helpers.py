"""A job so small that it trains in a second, how to interrupt it, and comparisons of what two jobs left behind."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from bdia.build import compose
from bdia.results.store import read_records
from bdia.train.job import train

# 40 training images in 5 batches; a ViT of width 16 and depth 3, so that BDIA keeps side information.
TINY = (
    "data.train_per_class=4",
    "data.val_fraction=0.01",
    "data.batch_size=8",
    "data.eval_batch_size=2048",
    "model.net.width=16",
    "model.net.depth=3",
    "model.net.heads=2",
    "model.net.head_dim=8",
    "model.net.mlp_hidden=16",
    "optimizer.lr=0.001",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
    "logger=csv",
)

# Text jobs of a second or two.
TEXT_COMMON = (
    "optimizer.lr=0.003",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
    "logger=csv",
)
TRANSLATION = (
    *("data=numbers", "data.source.train=60", "data.source.val=12", "data.source.test=12", "data.token_budget=700"),
    *("data.tokenizer.vocab_size=280", "model=seq2seq_demo", "model.net.width=16", "model.net.heads=2"),
    *("model.net.mlp_hidden=16", "model.beam=2"),
)
LANGUAGE = (
    *("data=pydoc", "data.fraction=0.06", "data.context=32", "data.batch_size=8", "data.val_fraction=0.05"),
    *("data.test_fraction=0.05", "data.tokenizer.vocab_size=300", "model=gpt2_demo", "model.net.width=16"),
    *("model.net.heads=2", "model.net.depth=3"),
)


def compose_config(*overrides: str) -> DictConfig:
    """Compose configs/train.yaml as `bdia train <overrides>` does."""
    return compose(overrides)


def run_dir(cfg: DictConfig) -> Path:
    """The one folder of checkpoints under paths.runs/<name>."""
    (folder,) = (Path(cfg.paths.runs) / cfg.name).iterdir()
    return folder


def checkpoint(cfg: DictConfig, name: str = "final.ckpt") -> dict[str, Any]:
    """What the run of a config left behind."""
    return torch.load(run_dir(cfg) / name, map_location="cpu", weights_only=False)


def assert_same(found: Any, wanted: Any, where: str = "") -> None:
    """Equal to the last bit, through dicts and lists."""
    assert type(found) is type(wanted), where
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for key in wanted:
            assert_same(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert found == wanted, where


TIMES = {"step_time", "epoch_time", "throughput", "token_throughput"}


class At(Callback):
    """Do something once, at a hook, when so many training batches have been started."""

    def __init__(self, hook, batches, action):
        self.batches, self.action = batches, action
        setattr(self, hook, self.check)

    def check(self, trainer, *args):
        if self.action and trainer.fit_loop.epoch_loop.batch_progress.total.ready == self.batches:
            action, self.action = self.action, None
            action()


class LearningRates(Callback):
    """The learning rate at each batch, over all runs it is added to."""

    def __init__(self):
        self.rates = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        seen = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        self.rates[seen] = trainer.optimizers[0].param_groups[0]["lr"]


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def broken():
    raise RuntimeError("broken")


def statuses(cfg):
    return [record.status for record in read_records(cfg.paths.results)]


def rows(record):
    """Everything measured but times."""
    return {(row.name, row.split, row.step): row.value for row in record.metrics if row.name not in TIMES}


def assert_resumes_exactly(cfg, whole, add_callbacks, interruption, batches):
    """Interrupt the run of `cfg`, run it again, compare with `whole`, the same config elsewhere."""
    rates, wanted_rates = LearningRates(), LearningRates()
    add_callbacks(wanted_rates)
    wanted = train(whole)
    add_callbacks(rates, At(*interruption))
    with pytest.raises((SIGTERMException, RuntimeError)):
        train(cfg)
    add_callbacks(rates)
    found = train(cfg)
    interrupted = "interrupted" if interruption[2] is sigterm else "failed"
    assert statuses(cfg) == [interrupted, "ok"]
    assert rates.rates == wanted_rates.rates
    assert len(rates.rates) == batches
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_same(checkpoint(cfg)[part], checkpoint(whole)[part], part)
    return found, wanted
