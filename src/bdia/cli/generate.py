"""Continue a text with a trained GPT-2.

Usage: bdia generate checkpoint=runs/<experiment>/<run>/final.ckpt [prompt="Once upon"] [key=value ...]

  checkpoint       weights of a language model's run; its config.yaml and tokenizer.json lie beside it
  prompt=          text to continue; empty begins a new document
  new_tokens=100   most tokens to add; a document may end earlier
  temperature=1.0  divides the logits; 0 always takes the likeliest token
  top_k=null       sample among the k likeliest tokens only
  top_p=null       sample among the fewest tokens whose probabilities reach this sum
  seed=0           of the sampling
  samples=1        texts to write; a line of dashes stands between two
  device=cpu       or cuda

Example:
  bdia generate checkpoint=runs/custom/<run>/final.ckpt prompt="The import statement" temperature=0.8 top_p=0.95
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdia import InvalidValueError
from bdia.cli.arguments import MISSING, open_run, read_arguments

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bdia.tasks import Task

BETWEEN_SAMPLES = "-" * 20


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    checkpoint: str = MISSING
    prompt: str = ""
    new_tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    samples: int = 1
    device: str = "cpu"


def sample_texts(task: Task, arguments: Arguments) -> list[str]:
    """Return `samples` texts, each beginning with the prompt.

    Raises:
        ValueError: an argument out of range, or a prompt and new tokens longer than the net's positions.
    """
    import torch

    from bdia.data.text.tokenizer import END_OF_DOCUMENT
    from bdia.models.sampling import generate

    if arguments.samples < 1:
        raise InvalidValueError(f"samples={arguments.samples}: wanted at least 1; set samples")
    device, start = task.device, task.tokenizer.token_to_id(END_OF_DOCUMENT)
    rows = torch.tensor([_prompt_ids(task.tokenizer, arguments.prompt, start)] * arguments.samples, device=device)
    found = generate(
        task.net,
        rows,
        arguments.new_tokens,
        arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        torch.Generator(device).manual_seed(arguments.seed),
        stop_id=start,
    )
    return task.tokenizer.decode_batch(found.tolist())  # leaves control tokens out


def _prompt_ids(tokenizer: Tokenizer, prompt: str, start: int | None) -> list[int]:
    if not prompt and start is None:
        raise InvalidValueError("prompt is empty and the tokenizer has no token that begins a document: set prompt")
    return tokenizer.encode(prompt).ids or [start]


def run(argv: Sequence[str]) -> None:
    """Write the texts to standard output."""
    arguments = read_arguments(Arguments(), argv)
    from bdia.tasks import LanguageModeling

    hint = "a language model's run; `bdia translate` reads a translation run's"
    task = open_run(arguments.checkpoint, LanguageModeling, arguments.device, hint)
    sys.stdout.reconfigure(encoding="utf-8")
    print(f"\n{BETWEEN_SAMPLES}\n".join(sample_texts(task, arguments)))
