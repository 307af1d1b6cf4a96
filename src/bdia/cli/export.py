"""Write a trained model as files that transformers, timm or plain PyTorch load without this package.

Usage: bdia export checkpoint=runs/<experiment>/<run>/final.ckpt to=folder format=transformers

  checkpoint       weights of a run; its config.yaml lies beside it, and its tokenizer.json if it read text
  to               folder to be made; one that is there is refused
  format           transformers: config.json, model.safetensors and the tokenizer, for GPT2LMHeadModel.from_pretrained
                   timm: model.safetensors and config.json for timm.create_model
                   torch: model.safetensors, and program.pt2 for torch.export.load; README.md says how to load them
  drop_rounding=false  true: the files hold the model without the rounding that stack.quantize_eval adds at inference

From Python: bdia.export(model, "folder", "transformers").

Example:
  bdia export checkpoint=runs/custom/<run>/final.ckpt to=my-gpt2 format=transformers
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bdia.cli.arguments import MISSING, read_arguments


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    checkpoint: str = MISSING
    to: str = MISSING
    format: str = MISSING
    drop_rounding: bool = False


def run(argv: Sequence[str]) -> None:
    """Write the files and print their folder."""
    arguments = read_arguments(Arguments(), argv)
    from bdia.train.export import export

    print(export(arguments.checkpoint, arguments.to, arguments.format, drop_rounding=arguments.drop_rounding))
