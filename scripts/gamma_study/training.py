"""Fine-tune a pretrained model, as the standard model or converted, and evaluate it as the standard model."""

import copy
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import bdia
from gamma_study.laws import Variant, side_bits
from gamma_study.models import all_windows, draw_windows, loss_of
from gamma_study.texts import Texts

LORA_LAYERS = {"gpt2": ["c_attn", "c_proj", "c_fc"], "llama": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]}
EVAL_BATCH = 32


class Budget(NamedTuple):
    """How long and on how much a model is fine-tuned; the same for all variants."""

    steps: int
    batch: int
    eval_every: int
    eval_windows: int
    lora_rank: int


def prepare(pretrained: PreTrainedModel, method: str, seed: int, rank: int) -> nn.Module:
    """Copy the pretrained model; with method "lora", freeze it and put adapters on its linear layers.

    Raises:
        ValueError: the method is neither "full" nor "lora".
    """
    model = copy.deepcopy(pretrained)
    if method == "full":
        return model
    if method != "lora":
        raise ValueError(f'method={method!r}: wanted "full" or "lora"')
    torch.manual_seed(seed)
    kind = model.config.model_type
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=LORA_LAYERS[kind],
        fan_in_fan_out=kind == "gpt2", task_type="CAUSAL_LM",
    )  # fmt: skip
    return peft.get_peft_model(model, config)


def finetune(
    pretrained: PreTrainedModel, texts: Texts, method: str, variant: Variant, seed: int, lr: float, budget: Budget,
    old_windows: Tensor, backward: str = "stored",
) -> tuple[dict[str, Any], nn.Module]:  # fmt: skip
    """Train one variant and return its numbers and the model.

    Batches depend on the seed only, so that runs of one seed are pairs. AdamW without weight decay; the learning rate
    rises over the first 10 steps and falls linearly to zero. Gradients are clipped to norm 1.

    Returns:
        `loss_after_conversion`: mean training-mode loss of the validation windows before the first step, nat;
        `pretrain_loss_after_conversion`: that of `old_windows`, which are of the pretraining text.
        `val`: pairs (step, validation loss in evaluation mode, nat). `side_bits`: (step, bits) where they change.
    """
    started = time.perf_counter()
    val = all_windows(texts.val.tokens())[: budget.eval_windows]
    blocks = pretrained.config.num_hidden_layers
    model, law = _converted(prepare(pretrained, method, seed, budget.lora_rank), variant, budget.steps, backward)
    row: dict[str, Any] = {"side_bits": []}
    for name, windows in (("loss_after_conversion", val), ("pretrain_loss_after_conversion", old_windows)):
        probe, _ = _converted(prepare(pretrained, method, seed, budget.lora_rank), variant, budget.steps, backward)
        row[name] = training_loss(probe, windows, seed)  # of a copy: a ramp counts these passes too
    curve = [(0, evaluation_loss(model, val))]
    generator, tokens = torch.Generator().manual_seed(seed), texts.train.tokens()
    torch.manual_seed(seed)
    optimizer, schedule = _optimizer(model, lr, budget.steps)
    for step in range(1, budget.steps + 1):
        model.train()
        loss = loss_of(model, draw_windows(tokens, budget.batch, generator))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bits = side_bits(law, blocks)
        if not row["side_bits"] or row["side_bits"][-1][1] != bits:
            row["side_bits"].append((step, bits))
        if step % budget.eval_every == 0 or step == budget.steps:
            curve.append((step, evaluation_loss(model, val)))
    return {**row, "val": curve, "seconds": time.perf_counter() - started}, model


def training_loss(model: nn.Module, windows: Tensor, seed: int) -> float:
    """Mean loss of the windows in training mode, in nat: with the update and the gammas that training draws."""
    torch.manual_seed(seed)
    model.train()
    return _mean(loss_of(model, part).item() for part in windows.split(EVAL_BATCH))


def evaluation_loss(model: nn.Module, windows: Tensor) -> float:
    """Mean loss of the windows in evaluation mode, in nat: that of the standard model."""
    model.eval()
    with torch.no_grad():
        return _mean(loss_of(model, part).item() for part in windows.split(EVAL_BATCH))


def best_learning_rate(rows: Sequence[dict[str, Any]]) -> float:
    """Return the rate with the lowest final validation loss; the smaller one of two equal ones."""
    return min(rows, key=lambda row: (row["val"][-1][1], row["lr"]))["lr"]


def _converted(model: nn.Module, variant: Variant, steps: int, backward: str) -> tuple[nn.Module, Any]:
    if variant.law is None:
        return model, None
    law = variant.law(model.config.num_hidden_layers, steps)
    bdia.convert(model, gamma=law, bits=variant.bits, backward=backward)
    return model, law


def _optimizer(model: nn.Module, lr: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    warm_up = min(10, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm_up) * max(0.0, 1 - step / steps)
    )
    return optimizer, schedule


def _mean(losses: Any) -> float:
    values = list(losses)
    return sum(values) / len(values)
