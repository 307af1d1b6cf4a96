"""Hugging Face transformers: layers that are shared, and streams whose first dimension is not the batch."""

from typing import Any

from torch import nn

from bdia.reversible.stacks.adapters.spec import ChainSpec

# Class -> its list of layers, whose stream counts samples in its second dimension.
BATCH_SECOND = {"Gemma3nTextModel": "layers", "FSMTEncoder": "layers", "FSMTDecoder": "layers", "XLNetModel": "layer"}


def adapt(module: nn.Module) -> list[ChainSpec] | None:
    """Know ALBERT (one layer, called K times), Gemma 3n (a stream of (4, B, T, D)), FSMT and XLNet ((T, B, D))."""
    kind = type(module).__name__
    known: Any = module  # its class is known by name only
    if kind == "AlbertTransformer" and len(known.albert_layer_groups) == 1:
        layers = list(known.albert_layer_groups[0].albert_layers)
        return [ChainSpec("albert_layer_groups.0.albert_layers", layers, known.config.num_hidden_layers * len(layers))]
    if kind in BATCH_SECOND:
        return [ChainSpec(BATCH_SECOND[kind], list(getattr(module, BATCH_SECOND[kind])), batch_dim=1)]
    return None
