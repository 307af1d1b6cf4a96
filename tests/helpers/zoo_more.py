"""Rows of transformers with something unusual: layouts, caches, mixed or repeated layers, stages, buffers."""

from dataclasses import replace

from torch import nn
from transformers import AutoConfig, AutoModel

from helpers.families import BATCH, WIDTH, Family, random_tensor
from helpers.zoo_text import BART_SIDE, ROUTERS, bart_like, decoder, encoder, t5_like, text_inputs, translation_inputs
from helpers.zoo_vision import hierarchical, hugging_face


def without_cache() -> tuple[tuple, dict]:
    """hrm_text fills its cache in cycles without gradients, before the layers that are trained."""
    args, kwargs = text_inputs()
    return args, kwargs | {"use_cache": False}


def decoders() -> list[Family]:
    """Decoders; openai-gpt returns lists, imagegpt has its cache by position, olmo_hybrid and the like mix classes."""
    linear = {
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    }  # fmt: skip
    experts = ROUTERS | {"num_experts": 4, "moe_intermediate_size": WIDTH}
    return [
        decoder("openai-gpt", "transformer.h", n_positions=64),
        decoder("codegen", "transformer.h", rotary_dim=4),
        decoder("gpt_bigcode", "transformer.h"),
        decoder(
            "mpt", "transformer.blocks", d_model=WIDTH, n_heads=4, expansion_ratio=2, max_seq_len=64, head_dim=None
        ),
        decoder("biogpt", "biogpt.layers"),
        decoder("xglm", "model.layers", d_model=WIDTH, ffn_dim=2 * WIDTH, attention_heads=4),
        decoder("olmoe", **experts),
        decoder("glm4"),
        decoder("cohere2", sliding_window=6),
        decoder("smollm3"),
        decoder("qwen3_next", shared_expert_intermediate_size=WIDTH, per_depth=_linear_then_full, **linear, **experts),
        decoder("olmo_hybrid", per_depth=_linear_then_full, **linear),
        decoder("lfm2", per_depth=_convolution_then_full),
        decoder("falcon_h1", mamba_d_ssm=WIDTH, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8),
        replace(decoder("hrm_text", "model.*_module.layers"), make_inputs=without_cache),
        decoder("recurrent_gemma", lru_width=WIDTH, attention_window_size=6),
    ]


def _linear_then_full(depth: int) -> dict:
    kinds = ["linear_attention", "full_attention"] * depth
    return {"num_hidden_layers": depth, "layer_types": kinds[:depth]}


def _convolution_then_full(depth: int) -> dict:
    kinds = ["conv", "full_attention"] * depth
    return {"num_hidden_layers": depth, "layer_types": kinds[:depth]}


def encoders() -> list[Family]:
    """Encoders; xlnet has the sequence first, ibert keeps ranges in buffers, flaubert's lists are called in turns."""
    xlm = {"emb_dim": WIDTH, "n_heads": 4, "max_position_embeddings": 64}
    two = {"batch_dims": {"layer": 1}}
    return [
        encoder("ibert"),
        encoder("xlnet", "layer", row=two, d_model=WIDTH, d_inner=2 * WIDTH, n_head=4, max_position_embeddings=None),
        encoder("esm", token_dropout=False, emb_layer_norm_before=True),
        encoder("fnet"),
        replace(encoder("flaubert", **xlm), chains=("attentions", "ffns")),
        encoder("mobilebert", true_hidden_size=WIDTH, intra_bottleneck_size=WIDTH, normalization_type="layer_norm"),
        encoder("convbert"),
    ]


def fsmt(kind: str) -> Family:
    """FSMT: the sequence first, and a cache under a name of its own."""
    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in BART_SIDE.items()}
    sizes = {
        "langs": ["en", "fr"],
        "src_vocab_size": 64,
        "tgt_vocab_size": 64,
        "d_model": WIDTH,
        "max_position_embeddings": 64,
    }

    def build(depth: int) -> nn.Module:
        layers = {"encoder_layers": depth, "decoder_layers": depth}
        return AutoModel.from_config(
            AutoConfig.for_model(kind, **sizes, **sides, **layers, pad_token_id=0, eos_token_id=2)
        )

    chains = ("encoder.layers", "decoder.layers")
    return Family(kind, "transformers", build, translation_inputs, chains, batch_dims=dict.fromkeys(chains, 1))


def sound() -> tuple[tuple, dict]:
    """Mel bands over time."""
    return (), {"input_features": random_tensor(BATCH, 32, 16)}


def parakeet(depth: int) -> nn.Module:
    """A Conformer: convolutions with BatchNorm between attentions."""
    sizes = {
        "hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 2 * WIDTH, "num_mel_bins": 16,
        "subsampling_conv_channels": 8, "subsampling_factor": 2,
    }  # fmt: skip
    return AutoModel.from_config(AutoConfig.for_model("parakeet_encoder", **sizes, num_hidden_layers=depth))


def _pvt(depth: int) -> dict:
    return {
        "num_encoder_blocks": 4, "depths": [depth] * 4, "sequence_reduction_ratios": [4, 2, 1, 1],
        "hidden_sizes": [8, 16, 16, 32], "patch_sizes": [4, 2, 2, 2], "strides": [4, 2, 2, 2],
        "num_attention_heads": [1, 2, 2, 4], "mlp_ratios": [2, 2, 2, 2],
    }  # fmt: skip


def _dinov3_convnext(depth: int) -> dict:
    return {"hidden_sizes": [8, 16, 16, 32], "depths": [depth] * 4}


def _focalnet(depth: int) -> dict:
    return {
        "embed_dim": 16,
        "depths": [depth, depth],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
        "hidden_sizes": [16, 32],
    }


def _resnet(depth: int) -> dict:
    return {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [depth, depth]}


def vision() -> list[Family]:
    """Vision models; pvt keeps its layers in a list of lists, aimv2's stream arrives transposed."""
    return [
        hugging_face("aimv2_vision_model", "encoder.layers", name="aimv2_vision"),
        hugging_face("dinov3_vit", "model.layer", drop_path_rate=0.1),
        hugging_face("yolos", num_detection_tokens=4, image_size=[64, 64]),
        hierarchical("pvt", "encoder.block.*", _pvt),
        hierarchical("dinov3_convnext", "model.stages.*.layers", _dinov3_convnext),
        hierarchical("focalnet", "encoder.stages.*.layers", _focalnet),
        hierarchical("resnet", "encoder.stages.*.layers", _resnet),
    ]


def rows() -> list[Family]:
    """All of them."""
    translators = [fsmt("fsmt"), bart_like("m2m_100"), t5_like("umt5"), t5_like("switch_transformers")]
    conformer = Family("parakeet", "transformers", parakeet, sound, ("layers",))
    return [*decoders(), *encoders(), *translators, conformer, *vision()]
