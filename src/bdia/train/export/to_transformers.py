"""The format of transformers."""

from pathlib import Path

from bdia import InvalidValueError
from bdia.models import Gpt2
from bdia.models.gpt2_weights import huggingface_config, huggingface_weights
from bdia.train.export.files import Source, class_name, end_token, save_weights, write_json
from bdia.train.export.plain import TORCH


def write_transformers(source: Source, folder: Path, *_: object) -> None:
    """Write weights and config as transformers reads them."""
    net, tokenizer = source.net, source.tokenizer
    if hasattr(net, "save_pretrained"):
        net.save_pretrained(folder)
        return
    if not isinstance(net, Gpt2):
        raise InvalidValueError(
            f"format=transformers: {class_name(net)}, wanted a Gpt2 or a model of transformers; {TORCH}"
        )
    end = None if tokenizer is None else end_token(tokenizer)
    save_weights(huggingface_weights(net), folder)
    write_json(folder / "config.json", huggingface_config(net, end))
