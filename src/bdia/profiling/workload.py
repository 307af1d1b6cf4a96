"""One training step on made-up data: what a benchmark times and what the planner traces. No data set is read."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor
from torch.optim import Optimizer

from bdia import InvalidValueError
from bdia.build import build_task, kind_of_model
from bdia.data.text.tokenizer import BOS, EOS, PAD, Bytes
from bdia.tasks import Task

# What the data would say, were they read: CIFAR-10's classes, GPT-2's tokens, the tokens of the paper-size translation.
NUM_CLASSES = 10
VOCAB_SIZE = {"documents": 50_257, "prompts": 50_257, "sentence pairs": 8_000}
CONTROL_TOKENS = 3  # padding and the ends of a sentence; made-up sentences are full and hold none of them


@dataclass
class Workload:
    """A task, one batch and its optimizer; needs no Lightning trainer and runs under `FakeTensorMode` too.

    Args:
        task: in training mode, on the device of the batch.
        batch: what `task.loss` reads.
        optimizer: over the task's trainable parameters.
        precision: "32-true" or "bf16-mixed", Lightning's names.
        accumulates: leave the gradients to the next step, as every batch but the last of an accumulation does.
    Raises:
        ValueError: another precision.
    """

    task: Task
    batch: tuple[Tensor, ...]
    optimizer: Optimizer
    precision: str = "32-true"
    accumulates: bool = False

    def __post_init__(self) -> None:
        self.precision = read_precision(self.precision)

    @classmethod
    def of(cls, task: Task, batch: tuple[Tensor, ...], precision: str, accumulates: bool = False) -> "Workload":
        """Make the task's optimizer."""
        optimizer = task.optimizer([p for p in task.net.parameters() if p.requires_grad])
        return cls(task, batch, optimizer, precision, accumulates)

    @property
    def size(self) -> int:
        """Images, or target tokens, of a step."""
        return int(self.task.size(self.batch))

    def loss(self) -> Tensor:
        """Forward, in the workload's precision."""
        mixed = self.precision == "bf16-mixed"
        # Lightning's bf16-mixed casts anew at every use as well: no cast outlives its operation by cache.
        with torch.autocast(self.batch[0].device.type, torch.bfloat16, enabled=mixed, cache_enabled=False):
            loss: Tensor = self.task.loss(self.batch)
        return loss

    def step(self) -> None:
        """Forward, backward, optimizer step, and drop the gradients, as a training run does."""
        self.loss().backward()
        self.optimizer.step()
        if not self.accumulates:
            self.optimizer.zero_grad(set_to_none=True)


def read_precision(value: str | int) -> str:
    """Return "32-true" or "bf16-mixed".

    Raises:
        ValueError: another one.
    """
    names = {"32": "32-true", "32-true": "32-true", "bf16-mixed": "bf16-mixed"}
    if str(value) not in names:
        raise InvalidValueError(f"precision={value}: wanted 32-true or bf16-mixed; set trainer.precision")
    return names[str(value)]


def build_workload(
    cfg: DictConfig,
    batch: int,
    tokens: int | None = None,
    device: torch.device | str = "cpu",
    num_classes: int = NUM_CLASSES,
    vocab_size: int | None = None,
) -> Workload:
    """Build the model, optimizer and precision of a config around one made-up batch; `cfg.data` is not looked at.

    Seeds torch with `cfg.seed`. Under `traced_step.fake_tensors` nothing takes memory, whatever the size.

    Args:
        cfg: see `bdia.build.compose`.
        batch: images, texts or sentence pairs in it.
        tokens: length of a text, or of the source and of the target of a pair; None takes the model's positions.
        num_classes: of images.
        vocab_size: of texts; None takes `VOCAB_SIZE`.
    Raises:
        ValueError: a batch of none; tokens for images, or more than the model's positions; an unknown precision.
    """
    if batch < 1:
        raise InvalidValueError(f"batch={batch}: wanted at least 1; set batch")
    kind = kind_of_model(cfg)
    values = num_classes if kind == "images" else vocab_size or VOCAB_SIZE[kind]
    task = _build_task(cfg, kind, values, device)
    make = {"images": _images, "documents": _texts, "prompts": _prompts, "sentence pairs": _pairs}[kind]
    rows = tuple(tensor.to(device) for tensor in make(task, cfg, batch, tokens, values))
    return Workload.of(task, rows, cfg.trainer.precision)


def _build_task(cfg: DictConfig, kind: str, values: int, device: torch.device | str) -> Task:
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.pop("data", None)
    torch.manual_seed(cfg.seed)
    if kind == "images":
        task = build_task(cfg, {"num_classes": values})
    else:
        task = build_task(cfg, {"vocab_size": values}, {"tokenizer": Bytes().build([], [PAD, BOS, EOS], Path())})
    return task if torch.device(device).type == "cpu" else task.to(device)  # fake tensors cannot be moved in place


def _images(task: Task, cfg: DictConfig, batch: int, tokens: int | None, classes: int) -> tuple[Tensor, ...]:
    if tokens is not None:
        raise InvalidValueError(
            f"tokens={tokens}: {cfg.model.net._target_} reads images, set model.net.img_size instead"
        )
    side, channels = cfg.model.net.img_size, cfg.model.net.get("in_chans", 3)
    images = torch.randn(batch, channels, side, side, generator=_generator(cfg))
    return images, torch.randint(classes, (batch,), generator=_generator(cfg))


def _texts(task: Task, cfg: DictConfig, batch: int, tokens: int | None, vocabulary: int) -> tuple[Tensor, ...]:
    length = _length(task, tokens)
    return (torch.randint(CONTROL_TOKENS, vocabulary, (batch, length + 1), generator=_generator(cfg)),)


def _prompts(task: Task, cfg: DictConfig, batch: int, tokens: int | None, vocabulary: int) -> tuple[Tensor, ...]:
    (text,) = _texts(task, cfg, batch, tokens, vocabulary)
    return text[:, :-1].clone(), text[:, 1:].clone(), torch.arange(batch)  # every label counts: what takes most memory


def _pairs(task: Task, cfg: DictConfig, batch: int, tokens: int | None, vocabulary: int) -> tuple[Tensor, ...]:
    (target,) = _texts(task, cfg, batch, tokens, vocabulary)
    return target[:, 1:].clone(), target, torch.arange(batch)


def _length(task: Task, tokens: int | None) -> int:
    longest = task.net.longest
    if tokens is not None and not 1 <= tokens <= longest:
        raise InvalidValueError(
            f"tokens={tokens}: wanted 1 to {longest}, the model's positions; set tokens or model.net.positions"
        )
    return longest if tokens is None else tokens


def _generator(cfg: DictConfig) -> torch.Generator:
    return torch.Generator().manual_seed(cfg.seed)
