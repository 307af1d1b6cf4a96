"""A Llama-like Hugging Face decoder, trained in full or with LoRA: what `bdia.bench.lora_depth` measures."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bdia.bench.cases import Model
from bdia.bench.cell import Cell
from bdia.profiling.storage_meter import StorageMeter
from bdia.reversible import convert

TRAININGS = {"lora": "LoRA", "full": "full training"}
LORA = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
HEAD_DIM, MLP_RATIO, VOCABULARY = 32, 4, 256


@dataclass(frozen=True)
class Way:
    """One way to train the same decoder.

    Args:
        label: its name in tables.
        settings: arguments of `bdia.convert`; None: the model is not converted.
        checkpoints: switch on transformers' own activation checkpointing, the non-reentrant kind.
    """

    label: str
    settings: Mapping[str, Any] | None = None
    checkpoints: bool = False
    keep_curve: ClassVar[bool] = False

    def prepare(self, model: nn.Module) -> nn.Module:
        """Make an ordinary model train in this way."""
        if self.checkpoints:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if self.settings is not None:
            convert(model, **self.settings)
        return model


WAYS = {
    "standard": Way("standard"),
    "checkpoint": Way("transformers' checkpointing", checkpoints=True),
    "bdia_half": Way("BDIA, gamma 1/2", {"gamma": "1/2", "keep": 0}),
    "bdia_sixteenth": Way("BDIA, gamma 1/16", {"gamma": "1/16", "keep": 0}),
    "bdia_nested": Way("BDIA, gamma 1/2, nested", {"gamma": "1/2", "keep": 0, "nested": ["self_attn", "mlp"]}),
}


@dataclass
class DecoderStep:
    """A forward and a backward of a decoder on made-up text, without an optimizer.

    Args:
        task: the model, in training mode.
        ids: (B, T) token numbers.
    """

    task: nn.Module
    ids: Tensor

    @property
    def size(self) -> int:
        """Tokens of a step."""
        return self.ids.numel()

    def loss(self) -> Tensor:
        """Run the forward."""
        return self.task(input_ids=self.ids, labels=self.ids).loss

    def step(self) -> None:
        """Forward, backward, and drop the gradients."""
        self.loss().backward()
        self.task.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class DecoderCell(Cell):
    """The ways to train one decoder, interleaved. Times are of the CPU, not of the clock on the wall.

    Args:
        part: "lora" or "full".
        width: of the residual stream.
    """

    width: int = 128
    clock: ClassVar[Callable[[], float]] = staticmethod(time.process_time)

    def overrides(self, variant: Way) -> list[str]:
        """Return the arguments of `bdia.convert`, as text."""
        return [f"{name}={value}" for name, value in (variant.settings or {}).items()]

    def build(self, variant: Way, device: torch.device | str | None = None) -> DecoderStep:
        """Build one variant; all have the same weights and the same text."""
        torch.manual_seed(0)
        model = variant.prepare(decoder(self.width, self.depth, self.tokens, self.part)).train()
        ids = torch.randint(VOCABULARY, (self.batch, self.tokens), generator=torch.Generator().manual_seed(0))
        return DecoderStep(model, ids)

    def share(self, first: DecoderStep, other: DecoderStep) -> None:
        """Let every variant have weights of its own: they are not counted."""

    def memory(self, workload: DecoderStep) -> dict[str, int]:
        """Measure the memory of one step; `stream` counts the elements B T D."""
        return decoder_memory(workload) | {"stream": workload.size * self.width}


def decoder_cell(part: str, width: int, depth: int, tokens: int, batch: int, ways: Mapping[str, Way]) -> DecoderCell:
    """Return the cell of one decoder on the CPU; `part` is one of TRAININGS."""
    model = Model(overrides=(), unit="tokens", batch={"cpu": {depth: batch}}, tokens={"cpu": tokens})
    return DecoderCell(part, "llama", model, depth, "32-true", batch, torch.device("cpu"), ways, width)


def decoder(width: int, depth: int, tokens: int, part: str) -> nn.Module:
    """Build an ordinary Llama with random weights, for "lora" with adapters on the query and value projections."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(1, width // HEAD_DIM)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=MLP_RATIO * width, num_hidden_layers=depth,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=tokens, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    return get_peft_model(model, LoraConfig(**LORA)) if part == "lora" else model


def decoder_memory(workload: DecoderStep) -> dict[str, int]:
    """Run one step, which should not be the first one, and account for every storage that its operations make.

    Parameters, buffers and the batch are not counted.

    Returns:
        bytes: `peak` of the forward and backward, of it `gradients` of trained weights; `held`, alive between forward
        and backward, the loss's own tensors included; `trained`, all gradients of trained weights.
    """
    gc.collect()
    parameters = list(workload.task.parameters())
    meter = StorageMeter([*parameters, *workload.task.buffers(), workload.ids], parameters)
    own = meter.total()
    with meter:
        loss = workload.loss()
        held = meter.total() - own
        loss.backward()
    workload.task.zero_grad(set_to_none=True)
    trained = sum(p.nbytes for p in parameters if p.requires_grad)
    return {"peak": meter.peak - own, "gradients": meter.gradients_at_peak, "held": held, "trained": trained}
