"""List what is alive at the peak of a forward and backward: bytes, the module that made them, what they are.

Usage: bdia profile model=vit_paper batch=32 [stack=bdia] [key=value ...]

  model=           a file of configs/model
  batch=           images, texts or sentence pairs
  tokens=          length of a text, or of source and target of a pair; default: the model's positions
  num_classes=10   of images
  vocab_size=      of texts; default: GPT-2's 50,257, for sentence pairs 8,000
  device=cuda      or cpu: where our dropout keeps no masks of large tensors
  rows=20          lines of the list
  stack=bdia stack.keep=0 stack.tile={norm2+mlp:8} ...
                   any other choice of configs/train.yaml

The tensors have sizes and no data, so nothing is computed and no memory is taken. Weights, buffers and the batch are
not counted. Nor are gradients of weights: each is dropped when it is whole. The first column is in streams too, if the
blocks have one: B * T * D float32.

Example:
  bdia profile model=vit_paper batch=32 stack=bdia stack.keep=0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from bdia import InvalidValueError
from bdia.cli.arguments import MISSING, read_arguments
from bdia.profiling.sizes import format_bytes


@dataclass
class Arguments:
    """The command's own arguments; all others choose from configs/train.yaml."""

    batch: int = MISSING
    tokens: int | None = None
    num_classes: int = 10
    vocab_size: int | None = None
    device: str = "cuda"
    rows: int = 20


def in_text(peak: int, made: dict[tuple[str, str, str], int], stream: int, rows: int) -> str:
    """Return the list, largest first.

    Args:
        peak: bytes. made: (owner, what, when) -> bytes of it. stream: bytes of one residual stream, 0 for none.
    """
    from bdia.results.tables import Table, plain

    def size(count: int) -> list[str]:
        return [format_bytes(count), f"{count / stream:.2f}" if stream else ""]

    largest = sorted(made.items(), key=lambda item: (-item[1], item[0]))
    lines = [[*size(count), owner or "-", what, when] for (owner, what, when), count in largest[:rows]]
    rest = sum(count for _, count in largest[rows:])
    lines += [[*size(rest), "-", f"{len(largest) - rows} smaller ones", ""]] if rest else []
    header = ["alive at the peak", "streams", "made by", "what", "made in"]
    return plain(Table(header, [*lines, [*size(peak), "", "all", ""]]))


def run(argv: Sequence[str]) -> None:
    """Print the list."""
    from bdia.build import compose
    from bdia.profiling.live_tensors import peak_of
    from bdia.profiling.traced_step import fake_tensors
    from bdia.profiling.workload import build_workload

    own = {field.name for field in dataclasses.fields(Arguments)}
    ours = [word for word in argv if word.partition("=")[0] in own]
    arguments, overrides = read_arguments(Arguments(), ours), [word for word in argv if word not in ours]
    if not any(override.startswith(("model=", "experiment=")) for override in overrides):
        raise InvalidValueError("model is missing: wanted model=..., see --help")
    if arguments.rows < 1:
        raise InvalidValueError(f"rows={arguments.rows}: wanted at least 1; set rows")
    with fake_tensors(arguments.device):
        workload = build_workload(
            compose(overrides), arguments.batch, arguments.tokens, "cpu", arguments.num_classes, arguments.vocab_size
        )
        found = peak_of(workload)
    print(in_text(*found, arguments.rows))
