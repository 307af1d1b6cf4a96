"""transformers' own activation checkpointing beside this project's ways, on one of its models: a whole step over depth.

Weights are stepped in backward. All ways train the same weights on the same text. K layers, T tokens, B texts.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bdia import InvalidValueError, UnsupportedError
from bdia.bench.studies.whole_step import IN_BACKWARD, times
from bdia.bench.timing import median_ratio
from bdia.build import build_optimizer, compose
from bdia.profiling.hf_model import WAYS, HfSteps, read_config
from bdia.profiling.sizes import MIB
from bdia.profiling.storage_meter import optimizer_state
from bdia.profiling.traced_step import TrainingStep, measured_peak

BASE = "transformers' checkpointing"  # what the ratios are to


@dataclass
class Arguments:
    """What is measured.

    Args:
        config: a family of `bdia plan model=hf`, or a config.json. width, mlp, heads, kv_heads, vocabulary: its sizes.
        depths: values of K. batch: B. tokens: T. optimizer: a file of configs/optimizer. loss_chunk: tokens whose
            logits are made at once. rounds: times of each way.
    """

    config: str = "llama"
    width: int = 256
    mlp: int = 704
    heads: int = 8
    kv_heads: int = 4
    vocabulary: int = 2000
    depths: list[int] = field(default_factory=lambda: [6, 24])
    batch: int = 2
    tokens: int = 512
    optimizer: str = "adamw"
    loss_chunk: int = 256
    rounds: int = 5


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each depth, a way each: bytes at the peak, ms of process time, and ratios to BASE.

    A way that this model can not take has `refused` in place of numbers: a sentence that says why.

    Raises:
        InvalidValueError: a size below 1, or sizes that make no model.
    """
    for key in ("depths", "batch", "tokens", "loss_chunk", "rounds"):
        value = getattr(arguments, key)
        if min(value, default=0) < 1 if isinstance(value, list) else value < 1:
            raise InvalidValueError(f"{key}={value}: wanted at least 1; set {key}")
    sizes = {
        "hidden_size": arguments.width, "intermediate_size": arguments.mlp, "num_attention_heads": arguments.heads,
        "num_key_value_heads": arguments.kv_heads, "vocab_size": arguments.vocabulary,
    }  # fmt: skip
    config = read_config(arguments.config, sizes)
    optimizer = build_optimizer(compose([f"optimizer={arguments.optimizer}", IN_BACKWARD]))
    steps = HfSteps(config, optimizer, arguments.batch, loss_chunk=arguments.loss_chunk, device="cpu")
    for depth in arguments.depths:
        yield _rows(steps, depth, arguments)


def _rows(steps: HfSteps, depth: int, arguments: Arguments) -> list[dict[str, Any]]:
    rows, runs = {}, {}
    for way in WAYS:
        rows[way.name] = {"depth": depth, "label": way.name}
        torch.manual_seed(0)
        try:
            step = steps.step(way, arguments.tokens, depth)
            rows[way.name] |= _memory(step)
            runs[way.name] = step.run
        except UnsupportedError as error:
            rows[way.name]["refused"] = str(error)
    for name, ms in times(runs, arguments.rounds).items():
        rows[name]["rounds_ms"] = [round(time, 1) for time in ms]
        rows[name]["ms"] = round(statistics.median(ms), 1)
    for row in rows.values():
        if "ms" in row:
            row["time_ratio"] = round(median_ratio(row["rounds_ms"], rows[BASE]["rounds_ms"]), 3)
    return list(rows.values())


def _memory(step: TrainingStep) -> dict[str, int]:
    """Measure the second step, in which the optimizer's state exists."""
    meter = measured_peak(step)
    parts = {
        "parameters": _bytes(step.model.parameters()), "gradients": meter.gradients_at_peak,
        "optimizer": _bytes(optimizer_state(step.optimizer)), "other": _bytes([*step.model.buffers(), *step.batch]),
    }  # fmt: skip
    return {"peak": meter.peak, **parts, "activations": meter.peak - sum(parts.values())}


def _bytes(tensors: Any) -> int:
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on the rows of a depth."""
    parts = [
        f"{row['label']}: "
        + (row.get("refused") or f"{row['activations'] / MIB:.1f} MiB of activations, {row.get('ms')} ms")
        for row in rows
    ]
    return f"{rows[0]['depth']} layers: " + "; ".join(parts)
