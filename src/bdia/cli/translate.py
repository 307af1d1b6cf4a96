"""Translate text with a trained model, line by line: lines in, as many lines out, in their order.

Usage: bdia translate checkpoint=runs/<experiment>/<run>/final.ckpt [key=value] < source.txt > target.txt

  checkpoint       weights of a translation run; its config.yaml and tokenizer.json lie beside it
  beam=4           hypotheses per sentence; 1 is greedy search
  batch_size=64    lines translated at once
  length_penalty=1.0   0 prefers short translations, 1 compares means per token
  max_length=null  most tokens of a translation; null is twice the source's tokens plus 20
  device=cpu       or cuda

UTF-8. A line without a word gives an empty line.

Example:
  echo "two thousand and twenty-six" | bdia translate checkpoint=runs/custom/<run>/final.ckpt beam=4
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from bdia import InvalidValueError
from bdia.cli.arguments import MISSING, open_run, read_arguments

if TYPE_CHECKING:
    from bdia.tasks import Translation


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    checkpoint: str = MISSING
    beam: int = 4
    batch_size: int = 64
    length_penalty: float = 1.0
    max_length: int | None = None
    device: str = "cpu"


def translate_lines(task: Translation, lines: Iterable[str], arguments: Arguments) -> Iterator[str]:
    """Yield one translation, without a line break, per line; read no more than `batch_size` lines ahead.

    Raises:
        ValueError: what the search or the net refuses, with the numbers of the lines.
    """
    lines, number = iter(lines), 1
    while batch := [line.strip() for line in islice(lines, arguments.batch_size)]:
        for place, line in enumerate(batch, number):
            if (size := len(task.tokenizer.encode(line).ids) + 1) > task.net.longest:
                raise InvalidValueError(f"line {place} has {size} tokens, wanted at most {task.net.longest}: split it")
        try:
            found = task.translate(
                batch,
                beam=arguments.beam,
                length_penalty=arguments.length_penalty,
                max_length=arguments.max_length,
            )
        except ValueError as error:
            raise InvalidValueError(f"lines {number} to {number + len(batch) - 1}: {error}") from error
        yield from (text.replace("\r", " ").replace("\n", " ") for text in found)
        number += len(batch)


def input_lines(stream: BinaryIO) -> Iterator[str]:
    """Yield lines as they come, read as a file's are (`bdia.data.files.decoded`).

    Raises:
        DataCorruptError: not UTF-8, or a zero byte; names the line.
    """
    from bdia.data.files import decoded

    for number, line in enumerate(stream, 1):
        text = decoded(line, f"standard input, from line {number} on,", "mend it")
        yield from text.removesuffix("\n").split("\n") if number == 1 and not line.endswith(b"\n") else [text]


def run(argv: Sequence[str]) -> None:
    """Translate standard input to standard output."""
    arguments = read_arguments(Arguments(), argv)
    if arguments.batch_size < 1:
        raise InvalidValueError(f"batch_size={arguments.batch_size}: wanted at least 1 line; set batch_size")
    from bdia.tasks import Translation

    hint = "a translation run's; `bdia generate` reads a language model's"
    task = open_run(arguments.checkpoint, Translation, arguments.device, hint)
    sys.stdout.reconfigure(encoding="utf-8")
    for line in translate_lines(task, input_lines(sys.stdin.buffer), arguments):
        print(line, flush=True)
