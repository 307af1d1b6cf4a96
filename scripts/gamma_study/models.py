"""The two small Hugging Face decoders of the study, pretrained once and kept as files."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from bdia.data.files import write_whole
from gamma_study.texts import VOCABULARY, Text

CONTEXT = 64  # bytes that a model sees at once
NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "use_cache": False}


def make_gpt2(width: int = 64, layers: int = 8) -> PreTrainedModel:
    """Build GPT-2 with random weights, without dropout: learned positions, LayerNorm, tied output layer."""
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=width, n_layer=layers, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **NO_SPECIAL,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def make_llama(width: int = 64, layers: int = 6) -> PreTrainedModel:
    """Build a Llama-like decoder with random weights: rotary positions, RMSNorm, gated MLP, two key-value heads."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=11 * width // 4, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT, **NO_SPECIAL,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def loss_of(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the next byte, in nat; tokens (B, T + 1): T inputs and the targets one further."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def draw_windows(tokens: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Draw `batch` windows of CONTEXT + 1 bytes with random starts: (batch, CONTEXT + 1)."""
    starts = torch.randint(len(tokens) - CONTEXT, (batch,), generator=generator)
    return tokens[starts[:, None] + torch.arange(CONTEXT + 1)]


def all_windows(tokens: Tensor) -> Tensor:
    """Cut tokens into windows of CONTEXT + 1 whose targets do not overlap; a shorter rest is dropped."""
    return tokens.unfold(0, CONTEXT + 1, CONTEXT)


def pretrained(
    make: Callable[[], PreTrainedModel], text: Text, steps: int, batch: int, lr: float, folder: Path
) -> tuple[PreTrainedModel, Path]:
    """Return the model trained on `text`, from its file where there is one.

    Training: AdamW, linear warm-up over 5 % of the steps, cosine to zero, seed 0. The file is named after all of it.
    """
    settings = {"make": make.__name__, "text": text.sha256, "steps": steps, "batch": batch, "lr": lr}
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"{make.__name__.removeprefix('make_')}_{name}.safetensors"
    torch.manual_seed(0)
    model = make()
    if path.is_file():
        model.load_state_dict(load_file(path), strict=False)
        model.tie_weights()
        return model, path
    _train(model, text.tokens(), steps, batch, lr)
    write_whole(path, [save(_own_tensors(model))])
    return model, path


def _own_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once: a tied weight has one name only, as safetensors demands."""
    seen, kept = set(), {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor.contiguous()
    return kept


def _train(model: PreTrainedModel, tokens: Tensor, steps: int, batch: int, lr: float) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    model.train()
    for step in range(steps):
        loss = loss_of(model, draw_windows(tokens, batch, generator))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"pretraining: step {step} of {steps}, loss {loss.item():.3f}", flush=True)
