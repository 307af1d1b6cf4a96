"""Rows of vision models: transformers and timm."""

from collections.abc import Callable

import timm
from timm.models.levit import Levit
from timm.models.maxxvit import MaxxVit, MaxxVitCfg
from timm.models.mlp_mixer import MlpMixer
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.models.pit import PoolingVisionTransformer
from torch import nn
from transformers import AutoConfig, AutoModel, Blip2VisionConfig, Blip2VisionModel

from helpers.families import BATCH, IMAGE, TOKENS, VOCABULARY, WIDTH, Family, random_tensor, random_tokens
from helpers.zoo_text import padding_mask

SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 4,
    "image_size": IMAGE,
    "patch_size": 8,
}
STAGES = {"image_size": IMAGE, "drop_path_rate": 0.1}


def pixels() -> tuple[tuple, dict]:
    """A batch of images under the name that transformers gives them."""
    return (), {"pixel_values": random_tensor(BATCH, 3, IMAGE, IMAGE)}


def images() -> tuple[tuple, dict]:
    """A batch of images."""
    return (random_tensor(BATCH, 3, IMAGE, IMAGE),), {}


def frames() -> tuple[tuple, dict]:
    """A batch of four frames each."""
    return (), {"pixel_values": random_tensor(BATCH, 4, 3, IMAGE, IMAGE)}


def images_and_texts() -> tuple[tuple, dict]:
    """As many images as texts."""
    return (), {**pixels()[1], "input_ids": random_tokens(TOKENS), "attention_mask": padding_mask()}


def hugging_face(kind: str, chain: str = "encoder.layer", name: str | None = None, inputs=pixels, **sizes) -> Family:
    """A vision model of transformers whose depth is `num_hidden_layers`."""

    def build(depth: int) -> nn.Module:
        return AutoModel.from_config(AutoConfig.for_model(kind, **SIZES | sizes, num_hidden_layers=depth))

    return Family(name or kind, "transformers", build, inputs, (chain,))


def two_towers(kind: str) -> Family:
    """CLIP and SigLIP: an image tower and a text tower."""

    def build(depth: int) -> nn.Module:
        text = {key: value for key, value in SIZES.items() if key not in ("image_size", "patch_size")}
        text |= {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "projection_dim": WIDTH, "eos_token_id": 2}
        towers = {
            "text_config": text | {"num_hidden_layers": depth},
            "vision_config": SIZES | {"num_hidden_layers": depth, "projection_dim": WIDTH},
        }
        return AutoModel.from_config(AutoConfig.for_model(kind, **towers))

    chains = ("text_model.encoder.layers", "vision_model.encoder.layers")
    return Family(kind, "transformers", build, images_and_texts, chains)


def blip2_vision(depth: int) -> nn.Module:
    """The image tower of BLIP-2."""
    return Blip2VisionModel(Blip2VisionConfig(**SIZES, num_hidden_layers=depth))


def hierarchical(kind: str, chain: str, per_depth: Callable[[int], dict]) -> Family:
    """A model of two stages, each of `depth` layers."""

    def build(depth: int) -> nn.Module:
        return AutoModel.from_config(AutoConfig.for_model(kind, **STAGES, **per_depth(depth)))

    return Family(kind, "transformers", build, pixels, (chain,))


def _swin(depth: int) -> dict:
    return {"embed_dim": 16, "depths": [depth, depth], "num_heads": [2, 4], "window_size": 4, "patch_size": 4}


def _segformer(depth: int) -> dict:
    return {
        "num_encoder_blocks": 2, "depths": [depth, depth], "sr_ratios": [4, 2], "hidden_sizes": [16, 32],
        "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [2, 4], "mlp_ratios": [2, 2],
    }  # fmt: skip


def _convnext(depth: int) -> dict:
    return {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [depth, depth], "patch_size": 4}


def transformers_rows() -> list[Family]:
    """Vision models of transformers."""
    return [
        hugging_face("vit", "layers"),
        hugging_face("deit", "layers"),
        hugging_face("dinov2", drop_path_rate=0.1),
        hugging_face("beit", "layers", use_relative_position_bias=True, drop_path_rate=0.1),
        hugging_face("clip_vision_model", "encoder.layers", name="clip_vision"),
        hugging_face("siglip_vision_model", "encoder.layers", name="siglip_vision"),
        Family("blip2_vision", "transformers", blip2_vision, pixels, ("encoder.layers",)),
        hugging_face("videomae", inputs=frames, num_frames=4),
        two_towers("clip"),
        two_towers("siglip"),
        hierarchical("swin", "encoder.layers.*.blocks", _swin),
        hierarchical("segformer", "stages.*.blocks", _segformer),
        hierarchical("convnext", "encoder.stages.*.layers", _convnext),
    ]


def timm_row(name: str, build: Callable[[int], nn.Module], *chains: str, **row) -> Family:
    """A timm model; its chain is `blocks` unless the row says otherwise."""
    return Family(f"timm_{name}", "timm", build, images, chains or ("blocks",), **row)


def plain(variant: str, **sizes) -> Callable[[int], nn.Module]:
    """A builder of a timm model whose layers all have one width."""
    sizes = {"img_size": IMAGE, "patch_size": 8, "embed_dim": WIDTH, "num_heads": 4, "drop_path_rate": 0.1} | sizes
    return lambda depth: timm.create_model(variant, num_classes=10, depth=depth, **sizes)


def staged(variant: str, argument: str = "depths", **sizes) -> Callable[[int], nn.Module]:
    """A builder of a timm model of two stages, each of `depth` layers."""
    return lambda depth: timm.create_model(variant, num_classes=10, **{argument: (depth, depth)}, **sizes)


def mixer(depth: int) -> nn.Module:
    """MLP-Mixer."""
    return MlpMixer(10, IMAGE, patch_size=8, num_blocks=depth, embed_dim=WIDTH, drop_path_rate=0.1)


def naflexvit(depth: int) -> nn.Module:
    """NaFlexViT: images of any aspect ratio, rotary positions."""
    sizes = {"patch_size": 8, "embed_dim": WIDTH, "num_heads": 4, "pos_embed_grid_size": (4, 4)}
    return NaFlexVit(NaFlexVitCfg(**sizes, depth=depth, drop_path_rate=0.1), num_classes=10)


def convnext(depth: int) -> nn.Module:
    """ConvNeXt, which has four stages always."""
    return timm.create_model("convnext_tiny", dims=(8, 16, 16, 32), depths=(depth,) * 4, drop_path_rate=0.1)


def pit(depth: int) -> nn.Module:
    """PiT: pooling between two stages."""
    return PoolingVisionTransformer(IMAGE, 8, 4, "overlap", (8, 8), (depth, depth), (2, 4), 2, num_classes=10)


def levit(depth: int) -> nn.Module:
    """LeViT: convolutions and BatchNorm, an attention that halves the grid between two stages."""
    return Levit(IMAGE, embed_dim=(16, 32), key_dim=8, depth=(depth, depth), num_heads=(2, 4), num_classes=10)


def maxvit(depth: int) -> nn.Module:
    """MaxViT: each block is a convolution and two attentions; the first of a stage halves the grid."""
    config = MaxxVitCfg(embed_dim=(32, 32), depths=(depth, depth), block_type=("M", "M"), stem_width=16)
    config.transformer_cfg.window_size = config.transformer_cfg.grid_size = (4, 4)
    return MaxxVit(config, img_size=IMAGE, num_classes=10)


def timm_rows() -> list[Family]:
    """Models of timm."""
    swin = {"img_size": IMAGE, "patch_size": 4, "embed_dim": 16, "num_heads": (2, 4), "window_size": 4}
    return [
        timm_row("vit", plain("vit_tiny_patch16_224")),
        timm_row("deit3", plain("deit3_small_patch16_224")),
        timm_row("eva02", plain("eva02_tiny_patch14_224")),
        timm_row("beit", plain("beit_base_patch16_224")),
        timm_row("cait", plain("cait_xxs24_224")),
        timm_row("xcit", plain("xcit_nano_12_p8_224"), "blocks", "cls_attn_blocks"),
        timm_row("mixer", mixer),
        timm_row("naflexvit", naflexvit),
        timm_row("swin", staged("swin_tiny_patch4_window7_224", **swin), "layers.*.blocks"),
        timm_row("swinv2", staged("swinv2_tiny_window8_256", **swin), "layers.*.blocks"),
        timm_row("convnext", convnext, "stages.*.blocks"),
        timm_row("pit", pit, "transformers.*.blocks"),
        timm_row("levit", levit, "stages.*.blocks"),
        timm_row("maxvit", maxvit, "stages.*.blocks[1:]"),
    ]


def rows() -> list[Family]:
    """All of them."""
    return [*transformers_rows(), *timm_rows()]
