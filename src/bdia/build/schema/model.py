"""Config groups `model` and `stack`, with the gamma laws."""

from typing import Required

from pydantic import ConfigDict
from typing_extensions import TypedDict

from bdia.build.schema.fields import (
    FILLED,
    FLAG,
    FRACTION,
    NODE,
    SHARE,
    SIZE,
    either,
    list_of,
    maybe,
    number,
    numbers_by_name,
    one_of,
    texts_by_name,
    whole,
)

WIDTH, DEPTH, HEADS = whole(1, 65_536), whole(1, 4096), whole(1, 4096)
KEEP = either(whole(0), list_of(whole(0)))
BITS = whole(1, 20)
MEMORY = either(FILLED, number(0, 1, above=True))
PER = one_of("sample", "batch")


class Images(TypedDict, total=False):
    """Image classification."""

    net: Required[NODE]
    label_smoothing: SHARE


class Language(TypedDict, total=False):
    """A language model."""

    net: Required[NODE]
    label_smoothing: SHARE


class Translation(Language, total=False):
    """Translation."""

    beam: whole(1, 1000)
    length_penalty: number(0, 100)


class Prompts(Language, total=False):
    """Texts that answer prompts."""

    new_tokens: SIZE


class Vit(TypedDict, total=False):
    """Our ViT."""

    stack: Required[NODE]
    img_size: whole(1, 4096)
    patch_size: whole(1, 4096)
    width: WIDTH
    depth: DEPTH
    heads: HEADS
    head_dim: WIDTH
    mlp_hidden: WIDTH
    dropout: SHARE
    drop_path: SHARE
    tokenizer: NODE
    attention: NODE
    in_chans: one_of(3)


class TimmVit(TypedDict, total=False):
    """A ViT of timm, by name; further keys are timm's."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc] -- pydantic's own way

    stack: Required[NODE]
    name: Required[FILLED]
    img_size: whole(1, 4096)
    patch_size: whole(1, 4096)


class Gpt2(TypedDict, total=False):
    """GPT-2."""

    stack: Required[NODE]
    width: WIDTH
    depth: DEPTH
    heads: HEADS
    positions: SIZE
    dropout: SHARE
    attention_dropout: SHARE
    loss_chunk: maybe(SIZE)
    weights: maybe(FILLED)


class Seq2Seq(TypedDict, total=False):
    """Encoder and decoder."""

    stack: Required[NODE]
    width: WIDTH
    heads: HEADS
    mlp_hidden: WIDTH
    encoder_depth: DEPTH
    decoder_depth: DEPTH
    positions: SIZE
    dropout: SHARE
    attention_dropout: SHARE
    embeddings: one_of("shared", "separate")
    loss_chunk: maybe(SIZE)


class Checkpoint(TypedDict, total=False):
    """Checkpointing."""

    keep: KEEP
    memory_budget: maybe(MEMORY)
    save: list_of(FILLED)
    nested: list_of(FILLED)
    tile: maybe(numbers_by_name(SIZE))


class Bdia(Checkpoint, total=False):
    """BDIA."""

    gamma: maybe(NODE)
    bits: maybe(either(whole(1, 24), one_of("auto")))  # above 20 with stream=int32 only
    backward: one_of("reversible", "stored")
    eval_gamma: FRACTION
    quantize_eval: FLAG
    verify: FLAG
    kernel: one_of("auto", "compiled", "eager", "triton")
    stream: one_of("float32", "int32")


class TwoLevel(TypedDict, total=False):
    """Two-level checkpointing."""

    segments: maybe(SIZE)


class RevVit(TypedDict, total=False):
    """RevViT."""

    grid_bits: maybe(BITS)
    merge: one_of("concat", "mean")
    keep: KEEP
    verify: maybe(FLAG)
    tile: maybe(numbers_by_name(SIZE))


class PatchEmbed(TypedDict, total=False):
    """Patches, of timm; sizes and norm are the model's."""

    bias: FLAG


class Attention(TypedDict, total=False):
    """Attention, of timm; sizes and norm are the model's."""

    qkv_bias: FLAG
    qk_norm: FLAG
    scale_norm: FLAG
    proj_bias: FLAG
    gated: FLAG
    attn_drop: SHARE


class Nothing(TypedDict, total=False):
    """No settings."""


class Value(TypedDict, total=False):
    """A law of one magnitude."""

    value: Required[FRACTION]
    per: PER


class TwoPoint(TypedDict, total=False):
    """Plus or minus one value."""

    value: FRACTION
    per: PER


class Uniform(TypedDict, total=False):
    """A range."""

    low: Required[number(-1e6)]
    high: Required[number(-1e6)]
    per: PER


class Discrete(TypedDict, total=False):
    """Values with weights."""

    weights: Required[texts_by_name(number(0))]
    per: PER


class Ramp(TypedDict, total=False):
    """A magnitude that grows during training."""

    values: Required[list_of(FRACTION, 1)]
    every: Required[SIZE]
    per: PER


class Growing(TypedDict, total=False):
    """A magnitude that grows with the block."""

    blocks: Required[DEPTH]
    first: FRACTION
    last: FRACTION


SCHEMAS = {
    "bdia.tasks.ImageClassification": Images,
    "bdia.tasks.LanguageModeling": Language,
    "bdia.tasks.Translation": Translation,
    "bdia.tasks.DataToText": Prompts,
    "bdia.models.VisionTransformer": Vit,
    "bdia.models.timm_vit": TimmVit,
    "bdia.models.Gpt2": Gpt2,
    "bdia.models.Seq2SeqTransformer": Seq2Seq,
    "bdia.models.ShiftedPatchEmbed": Nothing,
    "bdia.models.LocalitySelfAttention": Nothing,
    "timm.layers.PatchEmbed": PatchEmbed,
    "timm.layers.Attention": Attention,
    "bdia.reversible.StandardStack": Nothing,
    "bdia.reversible.CheckpointStack": Checkpoint,
    "bdia.reversible.TwoLevelCheckpointStack": TwoLevel,
    "bdia.reversible.RevVitStack": RevVit,
    "bdia.reversible.BdiaStack": Bdia,
    "bdia.reversible.TwoPoint": TwoPoint,
    "bdia.reversible.Constant": Value,
    "bdia.reversible.Uniform": Uniform,
    "bdia.reversible.Discrete": Discrete,
    "bdia.reversible.Ramp": Ramp,
    "bdia.reversible.Growing": Growing,
}
