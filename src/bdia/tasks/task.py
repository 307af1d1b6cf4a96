"""What every task shares: optimizer and schedule from config, one seed per optimizer step."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bdia.data.ranks import are_several, gathered, local_part
from bdia.reversible import load_training_state, training_state
from bdia.tasks.sharding import like_parameter, shard


class Task(LightningModule):
    """A model, its optimizer and its schedule.

    `kind` says what data it learns from, as `DataModule.kind` does; `throughput` names what `StepTimer` records with
    `size`; `signatures` says how a metric was computed, by name.

    Args:
        net: the model.
        optimizer: called with the parameters.
        scheduler: called with (optimizer, total_steps=...); stepped once per optimizer step. total_steps is infinity
            where the end is not known.
        seed: seeds torch before every batch together with the batch's number, so that dropout and gamma of batch n do
            not depend on what ran before: an interrupted and resumed training repeats the uninterrupted one bit by bit.
    """

    kind: str
    throughput = "throughput"
    holds_back = False  # FSDP2 holds gradients that no process can save; until the optimizer's step

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[..., LRScheduler],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.scheduler, self.seed = net, optimizer, scheduler, seed
        self.gradients: dict[str, torch.Tensor] = {}
        self.signatures: dict[str, str] = {}
        self.metrics = nn.ModuleDict()
        self.unfinished: dict[str, dict[str, torch.Tensor]] = {}

    def size(self, batch: Any) -> int | torch.Tensor:
        """Return how much a batch holds: images, or the target tokens of a text task."""
        return len(batch[0])

    def loss(self, batch: Any) -> torch.Tensor:
        """Return the mean training loss of a batch, nat: what training minimises, without logging it."""
        raise NotImplementedError

    @property
    def world_size(self) -> int:
        """Processes that train this task together."""
        return self._trainer.world_size if self._trainer is not None else 1

    def configure_model(self) -> None:
        """Share the weights out over the devices where the strategy is fsdp2; called before fit and before test."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy):
            shard(self.net, strategy.device_mesh["data_parallel"])

    def configure_optimizers(self) -> dict[str, Any]:
        """Build the optimizer over trainable parameters and its per-step schedule."""
        optimizer = self.optimizer([p for p in self.net.parameters() if p.requires_grad])
        scheduler = self.scheduler(optimizer, total_steps=self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed torch from (seed, rank, batches seen)."""
        # Lightning counts the batch in hand as ready: the count is the same after a resume.
        seen = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        digest = hashlib.sha256(f"{self.seed}/{self.global_rank}/{seen}".encode()).digest()
        seed = int.from_bytes(digest[:8], "little") >> 1
        # What torch.manual_seed does, without its notes of the call stack for each kind of device that is not there.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def log_metric(self, name: str, *values: Any, prog_bar: bool = True) -> None:
        """Update `metrics[name]`; Lightning is told of it once an epoch, because telling costs more than the update."""
        metric = self.metrics[name]
        if not metric.update_called:
            self.log(name, metric, on_step=False, on_epoch=True, prog_bar=prog_bar, batch_size=1)
        metric.update(*values)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step, then drop the gradients: Lightning would keep them through the next forward, where memory peaks."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.holds_back = False
        optimizer.zero_grad(set_to_none=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of stacks, and what is unfinished: accumulated gradients, the epoch's means so far."""
        checkpoint["reversible"] = training_state(self.net)
        metrics = {
            name: {key: value.detach().clone() for key, value in metric.metric_state.items()}
            for name, metric in self.metrics.items()
            if name.startswith("train/") and metric.update_called
        }
        gradients = {name: local_part(p.grad) for name, p in self.named_parameters() if p.grad is not None}
        if are_several():  # each process has its own
            checkpoint["of_ranks"] = gathered((metrics, gradients))
        else:
            checkpoint["metrics"], checkpoint["gradients"] = metrics, gradients

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the stacks; keep the rest until training starts, for Lightning clears it before."""
        if "reversible" in checkpoint:  # not in those of commit 97832fb and before
            load_training_state(self.net, checkpoint["reversible"])
        self.gradients, self.unfinished = checkpoint.get("gradients", {}), checkpoint.get("metrics", {})
        ranks = checkpoint.get("of_ranks", [])
        if len(ranks) == self.world_size > 1:  # with another number there is nothing unfinished: see the loader's plan
            self.unfinished, self.gradients = ranks[self.global_rank]

    def on_train_start(self) -> None:
        """Restore the gradients, and the means of an epoch that goes on where it was left."""
        if self.trainer.fit_loop.restarted_mid_epoch:
            for name, state in self.unfinished.items():
                for key, value in state.items():
                    setattr(self.metrics[name], key, value.to(self.device))
        self.unfinished = {}
        for name, gradient in self.gradients.items():
            parameter = self.get_parameter(name)
            parameter.grad = like_parameter(gradient.to(self.device), parameter)
        self.gradients = {}
