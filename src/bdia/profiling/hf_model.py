"""A Hugging Face language model and one training step of it, from its configuration alone: nothing is downloaded."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bdia import InvalidValueError
from bdia.models.dropout import Dropout
from bdia.models.loss_head import LossHead
from bdia.profiling.traced_step import TrainingStep
from bdia.reversible import checkpoint_two_level, convert

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FAMILIES = {"llama": "llama", "qwen": "qwen3", "gpt2": "gpt2"}  # a word of ours: transformers' model_type
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")  # Lightning's names; the last one keeps the weights in bf16
ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop")


@dataclass(frozen=True)
class Way:
    """One way to train a model: transformers' own, with its activation checkpointing, or changed by this project.

    Args:
        name: in tables.
        settings: arguments of `bdia.convert`; None: not converted.
        checkpoints: transformers' own activation checkpointing, the kind without reentrant autograd.
        two_level: `bdia.checkpoint_two_level`.
    """

    name: str
    settings: Mapping[str, Any] | None = None
    checkpoints: bool = False
    two_level: bool = False

    @property
    def is_own(self) -> bool:
        """Whether the library trains so by itself."""
        return self.settings is None and not self.two_level


WAYS = (
    Way("standard"),
    Way("transformers' checkpointing", checkpoints=True),
    Way("two-level checkpointing", two_level=True),
    Way("bdia keep 0", {"keep": 0}),
    Way("bdia keep 1", {"keep": 1}),
)


def read_config(source: str, sizes: Mapping[str, Any]) -> "PretrainedConfig":
    """Return the configuration of a model.

    Args:
        source: a file or a folder with config.json, or one of `FAMILIES`, whose sizes are transformers' defaults.
        sizes: keys of the configuration to set, such as hidden_size.
    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: neither a path nor a family; no configuration of a model; a key that the configuration lacks.
    """
    from transformers import AutoConfig  # here: an extra of its own, which the command names where it is missing

    if source not in FAMILIES and not Path(source).exists():
        raise InvalidValueError(
            f"hf.config={source}: wanted a config.json, a folder that holds one, or one of {', '.join(FAMILIES)}; "
            "set hf.config"
        )
    try:
        whole = AutoConfig.for_model(FAMILIES[source]) if source in FAMILIES else AutoConfig.from_pretrained(source)
        known = whole.get_text_config()  # of a model that reads images too: its language model
    except Exception as error:  # of many kinds; transformers says what is wrong with the file
        raise InvalidValueError(
            f"hf.config={source}: no configuration of a model: {_line(error)}; set hf.config"
        ) from error
    for key, value in sizes.items():
        if not hasattr(known, key):
            near = get_close_matches(key, known.to_dict(), n=1)
            meant = f"; did you mean hf.{near[0]}?" if near else ""
            raise InvalidValueError(f"hf.{key}={value}: {type(known).__name__} has no {key}{meant}")
    values = {key: value for key, value in known.to_dict().items() if source not in FAMILIES and key != "model_type"}
    if "num_hidden_layers" in sizes:
        values.pop("layer_types", None)  # one kind per layer; made anew
    try:
        return AutoConfig.for_model(known.model_type, **{**values, **sizes, "use_cache": False})
    except Exception as error:
        raise InvalidValueError(
            f"hf.config={source}: these sizes do not fit together: {_line(error)}; set hf.KEY"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@dataclass(frozen=True)
class HfSteps:
    """Training steps of one configuration.

    Args:
        config: what `read_config` returns.
        optimizer: makes one from parameters.
        batch: texts in a step.
        precision: one of `PRECISIONS`.
        loss_chunk: tokens whose logits are made at once, see `bdia.models.LossHead`; None: the model's own loss.
        device: "cuda": attention has no dropout, which a GPU's fused kernel does without storing anything, and other
            dropout keeps a byte of mask per entry. "cpu": both as they are.
    """

    config: "PretrainedConfig"
    optimizer: Callable[[list[nn.Parameter]], Optimizer]
    batch: int = 1
    precision: str = "32-true"
    loss_chunk: int | None = 1024
    device: str = "cuda"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidValueError(f"precision={self.precision}: wanted one of {', '.join(PRECISIONS)}; set precision")

    def step(self, way: Way, tokens: int, depth: int, keep: int | None = None) -> TrainingStep:
        """Build a model of so many layers, and a step on made-up text.

        Args:
            tokens: length of each text.
            keep: takes the place of the way's own, if it has one.
        """
        model = self._model(depth)
        if way.checkpoints:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})  # the second is its name before transformers 5
        if way.two_level:
            checkpoint_two_level(model)
        if way.settings is not None:
            convert(model, **{**way.settings, **({} if keep is None else {"keep": keep})})
        optimizer = self.optimizer([p for p in model.parameters() if p.requires_grad])
        ids = torch.randint(self.config.vocab_size, (self.batch, tokens))

        def run() -> None:
            with torch.autocast("cpu", torch.bfloat16, self.precision == "bf16-mixed", cache_enabled=False):
                loss = self._loss(model, ids)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return TrainingStep(model, optimizer, [ids], run)

    def _model(self, depth: int) -> nn.Module:
        from transformers import AutoModelForCausalLM

        config = copy.deepcopy(self.config)
        config.num_hidden_layers = depth
        if getattr(config, "layer_types", None):
            config.layer_types = [*config.layer_types, *config.layer_types[-1:] * depth][:depth]
        if self.device == "cuda":
            for name in ATTENTION_DROPOUT:
                if hasattr(config, name):
                    setattr(config, name, 0.0)
        dtype = torch.bfloat16 if self.precision == "bf16-true" else torch.float32
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        except ValueError as error:
            raise InvalidValueError(
                f"{type(config).__name__}: wanted the configuration of a language model: {_line(error)}; set hf.config"
            ) from error
        if self.device == "cuda":
            for name, module in list(model.named_modules()):
                if type(module) is nn.Dropout:
                    model.set_submodule(name, Dropout(module.p))
        return model.train()

    def _loss(self, model: Any, ids: Tensor) -> Tensor:
        if self.loss_chunk is None:
            return model(input_ids=ids, labels=ids).loss
        hidden = model.base_model(input_ids=ids)[0][:, :-1].flatten(0, 1)
        head = LossHead(self.loss_chunk)
        return head(hidden, model.get_output_embeddings().weight, ids[:, 1:].flatten()) / len(hidden)
