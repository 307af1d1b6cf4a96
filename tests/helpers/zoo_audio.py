"""Rows of transformers' speech models."""

from torch import nn
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from helpers.families import BATCH, VOCABULARY, WIDTH, Family, random_tensor, random_tokens

CONVOLUTIONS = {
    "hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 2 * WIDTH, "conv_dim": (16, 16),
    "conv_kernel": (10, 4), "conv_stride": (5, 4), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "mask_time_length": 2,
}  # fmt: skip


def whisper(depth: int) -> nn.Module:
    """Whisper: 32 frames of 8 mel bands."""
    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {"layers": depth, "attention_heads": 4, "ffn_dim": 2 * WIDTH}.items()
    }
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sizes = {"d_model": WIDTH, "vocab_size": VOCABULARY, "num_mel_bins": 8}
    positions = {"max_source_positions": 16, "max_target_positions": 16}
    config = WhisperConfig(**sizes, **positions, **ids, **sides, begin_suppress_tokens=None, dropout=0.1)
    return WhisperForConditionalGeneration(config)


def whisper_inputs() -> tuple[tuple, dict]:
    """Mel bands, and what the decoder has written so far."""
    return (), {"input_features": random_tensor(BATCH, 8, 32), "decoder_input_ids": random_tokens(8)}


def wave() -> tuple[tuple, dict]:
    """Sound samples."""
    return (random_tensor(BATCH, 800),), {}


def rows() -> list[Family]:
    """All of them."""
    chains = ("model.encoder.layers", "model.decoder.layers")
    layers = ("encoder.layers",)
    return [
        Family("whisper", "transformers", whisper, whisper_inputs, chains),
        Family(
            "wav2vec2",
            "transformers",
            lambda depth: Wav2Vec2Model(Wav2Vec2Config(**CONVOLUTIONS, num_hidden_layers=depth)),
            wave,
            layers,
            differentiable_inputs=False,
        ),
        Family(
            "hubert",
            "transformers",
            lambda depth: HubertModel(HubertConfig(**CONVOLUTIONS, num_hidden_layers=depth)),
            wave,
            layers,
            differentiable_inputs=False,
        ),
    ]
