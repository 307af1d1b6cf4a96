"""Models: each takes the stack that chains its blocks as an argument and does not know which one it has."""

from bdia.models.gpt2 import Gpt2
from bdia.models.layers import LocalitySelfAttention, ShiftedPatchEmbed
from bdia.models.seq2seq import Seq2SeqTransformer
from bdia.models.timm_vit import timm_vit
from bdia.models.vit import VisionTransformer

__all__ = ["Gpt2", "LocalitySelfAttention", "Seq2SeqTransformer", "ShiftedPatchEmbed", "VisionTransformer", "timm_vit"]
