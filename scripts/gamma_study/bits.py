"""What the grid costs: loss and logits of pretrained models on grids of several spacings, against float32."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import bdia
from bdia.reversible import Constant, GammaLaw, TwoPoint

LAWS = {"0": lambda: Constant("0"), "±1/16": lambda: TwoPoint("1/16")}


def grid_rows(name: str, model: PreTrainedModel, windows: Tensor, grids: Sequence[int]) -> list[dict[str, Any]]:
    """Measure every grid, with gamma = 0 (the grid alone) and with +-1/16 (the grid and a small gamma).

    Returns:
        One row per grid and law: `loss` in training mode and its `loss_change` from float32, in nat;
        `logit_error`, the Euclidean norm of the change of all logits over that of the float32 logits.
    """
    wanted = _logits(model, windows)
    loss = _loss(wanted, windows)
    size = float(_stream_rms(model, windows))
    rows = []
    for bits in grids:
        for law_name, law in LAWS.items():
            logits = _logits(_converted(model, law(), bits), windows)
            found = _loss(logits, windows)
            error = float((logits - wanted).norm() / wanted.norm())
            rows.append(
                {
                    "model": name, "stream_rms": size, "bits": bits, "gamma": law_name, "loss": found,
                    "loss_change": found - loss, "logit_error": error,
                }
            )  # fmt: skip
    return rows


def with_small_stream(llama: PreTrainedModel, rms: float) -> PreTrainedModel:
    """Scale the residual stream of a Llama-like model so that its embeddings have this root mean square.

    Embeddings and everything that a block adds to the stream are scaled by the same factor, and the epsilon of every
    RMSNorm by its square. The norms undo the scale, so the logits stay what they were, but the grid is coarser
    in comparison with the stream.
    """
    model = copy.deepcopy(llama)
    with torch.no_grad():
        factor = float(rms / model.model.embed_tokens.weight.square().mean().sqrt())
        model.model.embed_tokens.weight.mul_(factor)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(factor)
            layer.mlp.down_proj.weight.mul_(factor)
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon *= factor**2
    return model


def _converted(model: PreTrainedModel, law: GammaLaw, bits: int) -> nn.Module:
    twin = copy.deepcopy(model)
    bdia.convert(twin, gamma=law, bits=bits, backward="stored")  # gamma = 0 has no inverse
    return twin


def _logits(model: nn.Module, windows: Tensor) -> Tensor:
    """Logits in training mode, (B, T, V); the models have no dropout."""
    torch.manual_seed(0)
    model.train()
    parts = [model(input_ids=part[:, :-1], use_cache=False).logits.detach() for part in windows.split(32)]
    return torch.cat(parts)


def _loss(logits: Tensor, windows: Tensor) -> float:
    return float(nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()))


def _stream_rms(model: PreTrainedModel, windows: Tensor) -> Tensor:
    """Root mean square of the embeddings of the windows: the stream where it is smallest."""
    return model.get_input_embeddings()(windows).detach().square().mean().sqrt()
