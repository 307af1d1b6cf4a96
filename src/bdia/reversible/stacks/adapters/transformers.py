"""Hugging Face transformers: layers that are shared, and streams with a dimension before the batch."""

from torch import nn

from bdia.reversible.stacks.adapters import ChainSpec


def adapt(module: nn.Module) -> list[ChainSpec] | None:
    """Know ALBERT (one layer, called K times) and Gemma 3n (the stream is (4, B, T, D))."""
    kind = type(module).__name__
    if kind == "AlbertTransformer" and len(module.albert_layer_groups) == 1:
        layers = list(module.albert_layer_groups[0].albert_layers)
        return [ChainSpec("albert_layer_groups.0.albert_layers", layers, module.config.num_hidden_layers * len(layers))]
    if kind == "Gemma3nTextModel":
        return [ChainSpec("layers", list(module.layers), batch_dim=1)]
    return None
