"""How large the study is: models, texts, cells (a model, a method and a text each), seeds, learning rates."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from gamma_study.laws import STANDARD
from gamma_study.models import make_gpt2, make_llama
from gamma_study.texts import Texts, shakespeare_then_restaurants, web_then_shakespeare
from gamma_study.training import Budget

GPT2, LLAMA = "character GPT-2", "Llama-like"


@dataclass(frozen=True)
class Model:
    """A model and its texts. `texts` is called with the data folder and the characters to train and to validate on."""

    make: Callable[[], PreTrainedModel]
    texts: Callable[[Path, int, int], Texts]


MODELS = {GPT2: Model(make_gpt2, shakespeare_then_restaurants), LLAMA: Model(make_llama, web_then_shakespeare)}


@dataclass(frozen=True)
class Cell:
    """One table of the study.

    Args:
        method: "full" or "lora".
        train_size: characters of the text to fine-tune on.
        rates: learning rates of which the standard model's validation loss chooses one.
        in_rule: whether the rule that chooses the default looks at the cell.
        laws: names of the variants that run; None is all.
    """

    name: str
    model: str
    method: str
    train_size: int
    budget: Budget
    rates: tuple[float, ...]
    in_rule: bool = True
    laws: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Settings:
    """Everything that the numbers depend on beside the code and the texts.

    `old_windows` is the number of windows of the pretraining text on which losses before fine-tuning are measured.
    """

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    tuning_seed: int = 100
    bits: int = 13
    coarse_bits: int = 9
    val_size: int = 8193
    old_windows: int = 64
    pretrain_steps: int = 2000
    pretrain_batch: int = 32
    pretrain_rate: float = 3e-3
    check_steps: int = 10
    small_rms: float = 0.01
    grids: tuple[int, ...] = (5, 7, 9, 11, 13, 15)
    check_laws: tuple[str, ...] = ("±1/16", "ramp ±1/32 to ±1/2")


FULL_RATES, LORA_RATES = (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2)
LLAMA_FULL_RATES, LLAMA_LORA_RATES = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2)
LITTLE_RATES = (3e-5, 1e-4, 3e-4)
QUICK_LAWS = (STANDARD, "±1/16", "shrinks with the block, ±1/4 to ±1/32")
LITTLE_LAWS = (STANDARD, "±1/2", "±1/4", "±1/8", "±1/16", "ramp ±1/32 to ±1/2")


def full_settings() -> Settings:
    """The whole study: four cells that the rule looks at, and one with so little text that training over-fits."""
    budget = Budget(steps=100, batch=8, eval_every=25, eval_windows=96, lora_rank=8)
    long = budget._replace(steps=200)
    return Settings(
        (
            Cell(f"{GPT2}, full", GPT2, "full", 32768, budget, FULL_RATES),
            Cell(f"{GPT2}, LoRA", GPT2, "lora", 32768, budget, LORA_RATES),
            Cell(f"{LLAMA}, full", LLAMA, "full", 32768, budget, LLAMA_FULL_RATES),
            Cell(f"{LLAMA}, LoRA", LLAMA, "lora", 32768, budget, LLAMA_LORA_RATES),
            Cell(f"{LLAMA}, full, little text", LLAMA, "full", 8192, long, LITTLE_RATES, False, LITTLE_LAWS),
        )
    )


def quick_settings() -> Settings:
    """A run of seconds that takes every path of the study; its numbers mean nothing."""
    budget = Budget(steps=2, batch=2, eval_every=1, eval_windows=2, lora_rank=2)
    return Settings(
        (
            Cell(f"{GPT2}, LoRA", GPT2, "lora", 2048, budget, LORA_RATES[:2], laws=QUICK_LAWS),
            Cell(f"{LLAMA}, full", LLAMA, "full", 2048, budget, FULL_RATES[:1], laws=QUICK_LAWS),
            Cell(f"{LLAMA}, full, little text", LLAMA, "full", 1024, budget, FULL_RATES[:1], False, LITTLE_LAWS[:2]),
        ),
        seeds=(0, 1), grids=(7, 11), val_size=513, old_windows=2, pretrain_steps=2, pretrain_batch=2, check_steps=2,
    )  # fmt: skip
