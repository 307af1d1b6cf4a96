"""What is measured: models, variants, points of the trade-off curve, batches. All that a reader may want to change."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from bdia.results.published import FORM_OF_STACK
from bdia.reversible.stacks.registry import BDIA, STACKS, StackRow

DEPTHS = (6, 12, 24, 48)
PRECISIONS = ("32-true", "bf16-mixed")
BUDGETS_GIB = (1.0, 4.0, 16.0)  # memories for which the largest batch and depth are sought
FEWEST_ROUNDS = 7
WARM_UP = {"cpu": 1, "cuda": 5}  # untimed steps before the rounds, beside the one whose memory is measured
STEPS_PER_TIMING = {"cpu": 1, "cuda": 10}  # steps that one time is the mean of


@dataclass(frozen=True)
class Model:
    """A model of the bench.

    Args:
        overrides: of configs/train.yaml.
        unit: what a step's size counts, "images" or "tokens".
        batch: by device, by depth.
        tokens: length of a text by device; None for images.
        paper: True if the paper measured this model; its peak is then shown beside ours.
    """

    overrides: tuple[str, ...]
    unit: str
    batch: dict[str, dict[int, int]]
    tokens: dict[str, int] | None = None
    paper: bool = False

    def batch_at(self, device: str, depth: int) -> int:
        """Return the batch of the nearest depth listed that is not smaller, else of the largest."""
        table = self.batch[device]
        return table[min((listed for listed in table if listed >= depth), default=max(table))]


# On two CPU cores the whole bench takes some 80 minutes with these; on a GPU a few minutes.
MODELS = {
    "vit_paper": Model(
        overrides=("model=vit_paper", "optimizer=set_adam"),
        unit="images",
        batch={"cpu": {6: 32, 12: 32, 24: 32, 48: 12}, "cuda": {6: 128, 12: 128, 24: 128, 48: 128}},
        paper=True,
    ),
    "vit_base": Model(
        overrides=("model=vit_base", "optimizer=adamw"),
        unit="images",
        batch={"cpu": {6: 1, 12: 1, 24: 1, 48: 1}, "cuda": {6: 32, 12: 32, 24: 32, 48: 32}},
    ),
    "gpt2": Model(
        overrides=("data=pydoc", "model=gpt2_paper", "optimizer=adamw"),
        unit="tokens",
        batch={"cpu": {6: 1, 12: 1, 24: 1, 48: 1}, "cuda": {6: 8, 12: 8, 24: 8, 48: 8}},
        tokens={"cpu": 128, "cuda": 512},
    ),
}


@dataclass(frozen=True)
class Variant:
    """One way to train the same blocks.

    Args:
        label: its name in tables and legends.
        overrides: of configs/train.yaml.
        cost: planned time of a step in units of standard's, for the estimate before the start.
        paper: which of the paper's forms this is, a key of `bdia.results.published.PUBLISHED`.
        keep: the share of the blocks that keep their activations; None leaves that to the overrides.
        keep_curve: a point of the curve over `keep`, from nothing kept to everything.
    """

    label: str
    overrides: tuple[str, ...]
    cost: float = 4 / 3
    paper: tuple[Any, ...] | None = None
    keep: Fraction | None = None
    keep_curve: bool = False

    def overrides_at(self, depth: int) -> list[str]:
        """Return the overrides for so many blocks."""
        return [*self.overrides, *([] if self.keep is None else [f"stack.keep={int(self.keep * depth)}"])]


def _keeping(share: Fraction, label: str, keep_curve: bool = False) -> Variant:
    return Variant(label, ("stack=bdia",), float((4 - share) / 3), keep=share, keep_curve=keep_curve)


def _compared(row: StackRow) -> dict[str, Variant]:
    """Return the variants in which the registry wants a stack compared."""
    found = {}
    for keep, overrides in row.compared():
        name = row.name if len(row.keeps) < 2 else f"{row.name}_keep_{keep}"
        label = row.label if keep is None else f"{row.label}, keep {keep}"
        found[name] = Variant(label, overrides, row.step_time, FORM_OF_STACK.get(row.name))
    return found


PARTS = ("table", "curve", "overhead")  # of a bench
STUDIED = ("depth", "length", "timm")  # parts of the study `length`
STUDIES = {  # part of `what` that a study measures, which the bench starts: its name
    **dict.fromkeys(STUDIED, "length"),
    "compiled": "compiled",
    "transformers": "transformers",
}
COMPARED = {name: variant for row in STACKS for name, variant in _compared(row).items()}
VARIANTS = {
    **COMPARED,
    "bdia_keep_half": _keeping(Fraction(1, 2), "BDIA, keep half"),
    "bdia_float_stored": Variant("BDIA float, stored", ("stack=bdia", "stack.bits=null", "stack.backward=stored"), 1.0),
}

# The trade-off curve: one line per point. keep_curve=True joins a point to the curve that should fall and rise.
CURVE = {
    **COMPARED,
    **{name: replace(variant, keep_curve=True) for name, variant in _compared(BDIA).items()},
    **{
        f"bdia_keep_{sixths}_sixths": _keeping(Fraction(sixths, 6), f"BDIA, keep {sixths}/6", keep_curve=True)
        for sixths in range(1, 6)
    },
    "bdia_save_attention": Variant("BDIA, save attention", ("stack=bdia", "stack.keep=0", "stack.save=[attention]")),
    "bdia_save_matmul": Variant(
        "BDIA, save both", ("stack=bdia", "stack.keep=0", "stack.save=[attention,matmul]"), 10 / 9
    ),
    "bdia_nested": Variant("BDIA, nested", ("stack=bdia", "stack.keep=0", "stack.nested=[attn,mlp]"), 5 / 3),
    "bdia_keep_all": _keeping(Fraction(1), "BDIA, keep all", keep_curve=True),
}

# The run that `what=overhead` compares with its bare steps.
OVERHEAD = {
    "vit_paper": ("data=digits", "data.batch_size=32"),
    "gpt2": ("data=pydoc", "data.context=128", "data.batch_size=2"),
}


def distinct(variants: dict[str, Variant], depth: int) -> dict[str, Variant]:
    """Return the variants that differ at this depth: of 6 blocks a sixth is one block."""
    found: dict[tuple[str, ...], str] = {}
    for name, variant in variants.items():
        found.setdefault(tuple(variant.overrides_at(depth)), name)
    return {name: variants[name] for name in found.values()}


CURVE_BATCH = {"cpu": 64, "cuda": 128}  # large enough that activations, not gradients, make the peak

# What quick=true measures: three minutes on two cores.
QUICK = {
    "models": ["vit_paper"],
    "depths": [6],
    "precisions": ["32-true"],
    "variants": list(COMPARED),
}
