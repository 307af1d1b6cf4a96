"""Rows of transformers' language models: decoders, encoders, encoder-decoders, state-space models."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from helpers.families import BATCH, TOKENS, VOCABULARY, WIDTH, Family, random_tokens

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROUTERS = {"num_experts_per_tok": 2, "output_router_logits": True}


def text_inputs() -> tuple[tuple, dict]:
    """Token numbers; the last three of the second text are padding."""
    return (), {"input_ids": random_tokens(), "attention_mask": padding_mask()}


def padding_mask() -> Tensor:
    """1 for a token, 0 for the last three of the second text."""
    mask = torch.ones(BATCH, TOKENS, dtype=torch.long)
    mask[1, -3:] = 0
    return mask


def translation_inputs() -> tuple[tuple, dict]:
    """A text and what the decoder has written so far."""
    args, kwargs = text_inputs()
    return args, kwargs | {"decoder_input_ids": random_tokens(tokens=TOKENS // 2, seed=4)}


def builder(auto: type, kind: str, sizes: dict, per_depth: Callable[[int], dict] | None = None) -> Callable:
    """A function of the depth that builds the model of config class `kind` with the class `auto`."""

    def build(depth: int) -> nn.Module:
        layers = per_depth(depth) if per_depth else {"num_hidden_layers": depth}
        return auto.from_config(AutoConfig.for_model(kind, **sizes, **layers))

    return build


def decoder(kind: str, chain: str = "model.layers", name: str = "", per_depth=None, row=None, **sizes) -> Family:
    """A decoder with its head of logits; `sizes` are added to SIZES, and None takes one out."""
    sizes = {key: value for key, value in (SIZES | sizes).items() if value is not None}
    build = builder(AutoModelForCausalLM, kind, sizes, per_depth)
    return Family(name or kind, "transformers", build, text_inputs, (chain,), **(row or {}))


def encoder(kind: str, chain: str = "encoder.layer", row=None, **sizes) -> Family:
    """An encoder without a head."""
    sizes = {key: value for key, value in (SIZES | sizes).items() if value is not None}
    return Family(kind, "transformers", builder(AutoModel, kind, sizes), text_inputs, (chain,), **(row or {}))


def translator(kind: str, chains: tuple[str, ...], per_depth: Callable[[int], dict], **sizes) -> Family:
    """An encoder-decoder with its head of logits."""
    sizes = {"vocab_size": VOCABULARY, "d_model": WIDTH, "pad_token_id": 0, "eos_token_id": 2} | sizes
    build = builder(AutoModelForSeq2SeqLM, kind, sizes, per_depth)
    return Family(kind, "transformers", build, translation_inputs, chains)


def t5_like(kind: str) -> Family:
    """T5: the first layer of a chain computes the relative positions that the others get."""
    sizes = {"d_kv": 8, "d_ff": 2 * WIDTH, "num_heads": 4, "decoder_start_token_id": 0}
    chains = ("encoder.block", "decoder.block")
    return translator(kind, chains, lambda depth: {"num_layers": depth, "num_decoder_layers": depth}, **sizes)


def bart_like(kind: str) -> Family:
    """BART and its relatives."""
    sizes = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in BART_SIDE.items()}
    return translator(
        kind,
        ("model.encoder.layers", "model.decoder.layers"),
        lambda depth: {"encoder_layers": depth, "decoder_layers": depth},
        max_position_embeddings=64,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        **sizes,
    )


BART_SIDE = {"attention_heads": 4, "ffn_dim": 2 * WIDTH}


def decoders() -> list[Family]:
    """Decoders with attention."""
    experts = ROUTERS | {"num_experts": 4, "moe_intermediate_size": WIDTH}
    local = ROUTERS | {"num_local_experts": 4}
    alternating = {"per_depth": _alternating_layers}
    latent = {
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
        "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        "moe_intermediate_size": WIDTH, "head_dim": 4, "num_key_value_heads": 4,
    }  # fmt: skip
    opt = {"ffn_dim": 2 * WIDTH, "word_embed_proj_dim": WIDTH}
    four_streams = {"batch_dims": {"model.layers": 1}}
    return [
        decoder("gpt2", "transformer.h"),
        decoder("llama"),
        decoder("qwen2"),
        decoder("qwen3"),
        decoder("qwen3_moe", **experts),
        decoder("mistral", sliding_window=6),
        decoder("mixtral", **local),
        decoder("gemma"),
        decoder("gemma2", sliding_window=6),
        decoder("gemma3_text", name="gemma3", sliding_window=6, **alternating),
        decoder("gemma3n_text", name="gemma3n", per_depth=_gemma3n_layers, row=four_streams, **GEMMA3N),
        decoder("gpt_oss", sliding_window=6, **local),
        decoder("deepseek_v3", **latent),
        decoder("falcon", "transformer.h", head_dim=None),
        decoder("bloom", "transformer.h"),
        decoder("gpt_neo", "transformer.h", per_depth=_gpt_neo_layers, window_size=6),
        decoder("gpt_neox", "gpt_neox.layers", rotary_pct=0.5),
        decoder("gptj", "transformer.h", rotary_dim=4),
        decoder("opt", "model.decoder.layers", **opt),
        decoder("opt", "model.decoder.layers", name="opt_layerdrop", layerdrop=0.3, row={"depth": 5}, **opt),
        decoder("phi"),
        decoder("phi3"),
        decoder("olmo2"),
        decoder("cohere"),
        decoder("stablelm"),
        decoder("starcoder2"),
        decoder("granite"),
    ]


GEMMA3N = {
    "altup_num_inputs": 4, "laurel_rank": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 0, "sliding_window": 6,
}  # fmt: skip


def _alternating_layers(depth: int) -> dict:
    kinds = ["sliding_attention", "full_attention"] * depth
    return {"num_hidden_layers": depth, "layer_types": kinds[:depth]}


def _gemma3n_layers(depth: int) -> dict:
    return _alternating_layers(depth) | {"activation_sparsity_pattern": [0.95] + [0.0] * (depth - 1)}


def _gpt_neo_layers(depth: int) -> dict:
    kinds = [[["global"], 1], [["local"], depth - 1]]  # each entry: kinds, how often they are repeated
    return {"num_layers": depth, "attention_types": kinds}


def recurrent() -> list[Family]:
    """State-space and other recurrent models."""
    plain = {"num_attention_heads": None, "num_key_value_heads": None, "head_dim": None, "intermediate_size": None,
             "max_position_embeddings": None}  # fmt: skip
    heads = {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8}
    mixed = ROUTERS | {"num_experts": 4, "mamba_d_state": 4, "mamba_dt_rank": 4}
    mixed |= {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    return [
        decoder("mamba", "backbone.layers", state_size=4, time_step_rank=4, **plain),
        decoder("mamba2", "backbone.layers", state_size=4, **plain | heads),
        decoder("rwkv", "rwkv.blocks", attention_hidden_size=WIDTH, context_length=64, **plain),
        decoder("jamba", **mixed),
    ]


def encoders() -> list[Family]:
    """Encoders."""
    return [
        encoder("bert"),
        encoder("roberta"),
        encoder("xlm-roberta"),
        encoder("electra", embedding_size=16),
        encoder("distilbert", "transformer.layer", hidden_dim=2 * WIDTH, intermediate_size=None),
        encoder("albert", "encoder.albert_layer_groups.0.albert_layers", embedding_size=16),
        encoder("modernbert", "layers", local_attention=6, global_attn_every_n_layers=2),
        encoder("deberta-v2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    ]


def rows() -> list[Family]:
    """All of them."""
    translators = [t5_like("t5"), t5_like("mt5"), *map(bart_like, ("bart", "mbart", "marian", "pegasus"))]
    return [*decoders(), *recurrent(), *encoders(), *translators]
