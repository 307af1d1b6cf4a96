"""What the text tasks share: the loss per token, its perplexity, and the tokenizer that a checkpoint belongs to."""

from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torchmetrics import Metric

from bdia import InvalidValueError
from bdia.data.text.tokenizer import fingerprint
from bdia.tasks.task import Task


class TokenMean(Metric):
    """Mean loss per token over an epoch, nat, without waiting for the device in a step; NaN is shown, not left out."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int | Tensor) -> None:
        """Add the summed loss of `count` tokens."""
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.count


class Perplexity(TokenMean):
    """exp of the mean loss per token, nat."""

    def compute(self) -> Tensor:
        """Return the perplexity of what was seen."""
        return super().compute().exp()


class TextTask(Task):
    """Cross-entropy in nats per target token and its perplexity, per epoch and split, each token counted once.

    Args:
        tokenizer: of the data; its fingerprint travels in the checkpoint.
        label_smoothing: share of the probability spread evenly in the training loss; validation and test have none.
        settings: keywords of `Task`.
    """

    throughput = "token_throughput"

    def __init__(self, tokenizer: Tokenizer, label_smoothing: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 <= label_smoothing < 1:
            raise InvalidValueError(
                f"label_smoothing={label_smoothing}: wanted at least 0 and below 1; set model.label_smoothing"
            )
        self.tokenizer, self.label_smoothing = tokenizer, label_smoothing
        self.fingerprint = fingerprint(tokenizer)
        metrics = {f"{split}/loss": TokenMean() for split in ("train", "val", "test")}
        metrics |= {f"{split}/perplexity": Perplexity() for split in ("val", "test")}
        self.metrics.update(metrics)

    def nll(self, batch: tuple[Tensor, ...], label_smoothing: float) -> tuple[Tensor, int | Tensor]:
        """Return the cross-entropy, nat, summed over the batch's target tokens, and their number."""
        raise NotImplementedError

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the mean cross-entropy of a batch's target tokens, nat, label smoothing included."""
        total, count = self.nll(batch, self.label_smoothing)
        return total / count

    def on_fit_start(self) -> None:
        """Refuse data that the model cannot hold before training rather than when the sequence comes up.

        Raises:
            ValueError: some split has a sequence longer than the model's positions.
        """
        longest = getattr(self.trainer.datamodule, "longest", 0)
        if longest > self.net.longest:
            raise InvalidValueError(
                f"the data hold a sequence of {longest} tokens, wanted at most {self.net.longest}: set "
                f"model.net.positions={longest} or more (data.context to a smaller one, for a language model)"
            )

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the mean loss of one training batch."""
        total, count = self.nll(batch, self.label_smoothing)
        self._log("train", total, count)
        return total / count

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Log one validation batch."""
        self._log("val", *self.nll(batch, 0.0))

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Log one test batch."""
        self._log("test", *self.nll(batch, 0.0))

    def _log(self, split: str, total: Tensor, count: int | Tensor) -> None:
        for name in self.metrics:
            if name.startswith(f"{split}/"):
                self.log_metric(name, total.detach(), count, prog_bar=name.endswith("loss"))

    def log_scores(self, scores: dict[str, float]) -> None:
        """Log scores of the whole test split, which every process has computed from the same outputs."""
        values = {f"test/{name}": value for name, value in scores.items()}
        self.log_dict(values, sync_dist=True, reduce_fx="max")  # equal on all: the largest is each, to the last bit

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the tokenizer's fingerprint too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["tokenizer"] = self.fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose token numbers mean other words.

        Raises:
            ValueError: the checkpoint was trained with another tokenizer.
        """
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get("tokenizer")
        if saved != self.fingerprint:
            raise InvalidValueError(
                f"the checkpoint was trained with the tokenizer {str(saved)[:8]}, this one is {self.fingerprint[:8]}: "
                "use the tokenizer.json beside the checkpoint, or the data.source and data.tokenizer that it was built "
                "from"
            )
