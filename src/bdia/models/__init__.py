"""Models: each takes the stack that chains its blocks as an argument and does not know which one it has."""

from bdia.models.layers import LocalitySelfAttention, ShiftedPatchEmbed
from bdia.models.timm_vit import timm_vit
from bdia.models.vit import VisionTransformer

__all__ = ["LocalitySelfAttention", "ShiftedPatchEmbed", "VisionTransformer", "timm_vit"]
