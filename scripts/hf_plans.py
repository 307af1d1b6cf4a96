"""Planned against measured peaks of training steps of three Hugging Face models, built small from their configurations.

Usage: python scripts/hf_plans.py [key=value ...]

  models=[llama,qwen,gpt2]   families of `bdia plan model=hf`
  depth=12                   layers
  tokens=512                 length of each of the two texts of a step
  out=results/plans/measured folder of the record

Planned: traced with a few layers and no data. Measured: two steps on the CPU; every storage that an operation of the
second one makes is counted exactly (`bdia.profiling.storage_meter`). Every way to train a model is tried with float32
weights and AdamW, and with bf16 weights and AdamW in backward. Two minutes on one CPU core.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bdia.bench.studies.record import StudyRecord
from bdia.build import build_optimizer, compose
from bdia.cli.arguments import script_arguments
from bdia.profiling.hf_model import WAYS, HfSteps, read_config
from bdia.profiling.hf_plan import HfPlanner
from bdia.profiling.traced_step import measured_peak

SIZES = {"vocab_size": 1000, "hidden_size": 256, "num_attention_heads": 8}
GROUPED = SIZES | {"intermediate_size": 704, "num_key_value_heads": 4}
FAMILIES = {
    "llama": GROUPED,
    "qwen": GROUPED | {"head_dim": 32},
    "gpt2": SIZES | {"bos_token_id": 0, "eos_token_id": 0},
}
TRAININGS = {
    "32-true": ("optimizer=adamw",),
    "bf16-true": ("optimizer=adamw", "optimizer.in_backward=true"),
}


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    models: list[str] = field(default_factory=lambda: list(FAMILIES))
    depth: int = 12
    tokens: int = 512
    out: str = "results/plans/measured"


def measure(model: str, depth: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Yield planned and measured bytes of every way to train one model."""
    for precision, optimizer in TRAININGS.items():
        sizes = FAMILIES[model] | {"num_hidden_layers": depth}
        steps = HfSteps(
            read_config(model, sizes), build_optimizer(compose(optimizer)), 2, precision, device="cpu", loss_chunk=256
        )
        planner = HfPlanner(steps)
        for way in WAYS:
            torch.manual_seed(0)
            planned, measured = planner.cost(way, tokens).peak, measured_peak(steps.step(way, tokens, depth)).peak
            row = {"model": model, "way": way.name, "precision": precision, "optimizer": " ".join(optimizer)}
            yield row | {"planned": planned, "measured": measured}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, measure, and write the record."""
    arguments = script_arguments(Arguments(), __doc__, argv)
    settings = {name: value for name, value in asdict(arguments).items() if name != "out"}
    study, rows = StudyRecord("hf_plans", settings, Path(arguments.out)), []
    for model in arguments.models:
        for row in measure(model, arguments.depth, arguments.tokens):
            rows.append(row)
            difference = row["planned"] / row["measured"] - 1
            print(f"{model}, {row['precision']}, {row['way']}: {difference:+.2%}", file=sys.stderr, flush=True)
    print(study.write(rows))


if __name__ == "__main__":
    main()
