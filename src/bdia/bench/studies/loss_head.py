"""The loss over a large vocabulary: this project's head, torch's own `linear_cross_entropy`, and all logits at once.

N tokens, D width, V vocabulary. `held` is what waits between the head's forward and its backward, while a language
model's blocks run backward.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdia import UnsupportedError
from bdia.bench.timing import interleave, median_ratio
from bdia.models.loss_head import LossHead
from bdia.profiling.sizes import MIB
from bdia.profiling.storage_meter import StorageMeter

Head = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Arguments:
    """What is measured.

    Args:
        tokens: N. width: D. vocabulary: V. chunk: tokens per chunk of both chunked heads. rounds: times of each head.
    """

    tokens: int = 2048
    width: int = 256
    vocabulary: int = 50_257
    chunk: int = 256
    rounds: int = 5


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield one row a head: bytes at the peak and held, the gradients' largest difference, and times."""
    if not hasattr(F, "linear_cross_entropy"):
        raise UnsupportedError(f"torch {torch.__version__} has no linear_cross_entropy: take torch 2.14 or newer")
    torch.manual_seed(0)
    hidden = torch.randn(arguments.tokens, arguments.width, requires_grad=True)
    weight = nn.Parameter(0.02 * torch.randn(arguments.vocabulary, arguments.width))
    target = torch.randint(arguments.vocabulary, (arguments.tokens,))
    steps, rows = {}, {}
    for name, head in heads(arguments.chunk).items():
        steps[name] = partial(_step, head, hidden, weight, target)
        rows[name] = {"head": name, **_memory(head, hidden, weight, target)}
    wanted = rows["all logits at once"]["gradients"]
    times = interleave(steps, arguments.rounds, torch.device("cpu"), clock=time.process_time)
    for name, row in rows.items():
        row["gradient_difference"] = max(_difference(*pair) for pair in zip(row.pop("gradients"), wanted, strict=True))
        row["rounds_ms"] = [round(ms, 1) for ms in times[name]]
        row["time_ratio"] = round(median_ratio(times[name], times["bdia"]), 3)
    yield list(rows.values())


def heads(chunk: int) -> dict[str, Head]:
    """Return the heads by name; each gives the sum over tokens."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)
    return {
        "bdia": LossHead(chunk),
        "torch's linear_cross_entropy": partial(F.linear_cross_entropy, reduction="sum", options=options),
        "all logits at once": LossHead(None),
    }


def _step(head: Head, hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    hidden.grad = weight.grad = None
    head(hidden, weight, target).backward()


def _memory(head: Head, hidden: Tensor, weight: Tensor, target: Tensor) -> dict[str, Any]:
    _step(head, hidden, weight, target)
    found = [tensor.grad for tensor in (hidden, weight)]
    hidden.grad = weight.grad = None
    meter = StorageMeter([hidden, weight, target], [])
    before = meter.total()
    with meter:
        loss = head(hidden, weight, target)
        held = meter.total() - before
        loss.backward()
    hidden.grad = weight.grad = None
    return {"peak": meter.peak - before, "held": held, "gradients": found}


def _difference(found: Tensor | None, wanted: Tensor | None) -> float:
    assert found is not None and wanted is not None
    return float((found - wanted).abs().max() / wanted.abs().max())


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on the heads."""
    return "; ".join(
        f"{row['head']}: peak {row['peak'] / MIB:.0f} MiB, held {row['held'] / MIB:.0f}, time {row['time_ratio']}"
        for row in rows
    )
