"""What is exported, and the files that several formats share: weights, tokenizer, a note."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from bdia.data.files import write_whole
from bdia.train.export.plain import PlainLoop

WEIGHTS = "model.safetensors"


@dataclass
class Source:
    """What is exported.

    Args:
        net: the network.
        tokenizer: of a text model.
        preprocessing: `mean` and `std` per channel that images of 0 to 1 are normalised with, and `label_names`.
    """

    net: nn.Module
    tokenizer: Any = None
    preprocessing: dict[str, Any] = field(default_factory=dict)


def save_weights(weights: dict[str, Tensor], folder: Path) -> None:
    """Write the tensors, each for itself: safetensors refuses tensors that share memory."""
    own = {name: tensor.detach().contiguous().clone() for name, tensor in weights.items()}
    save_file(own, folder / WEIGHTS, metadata={"format": "pt"})


def write_note(source: Source, folder: Path, loading: str) -> None:
    """Write what the folder holds and how to load it."""
    net = source.net
    rounding = {module.bits for module in net.modules() if isinstance(module, PlainLoop)} - {None}
    size = sum(parameter.numel() for parameter in net.parameters())
    lines = [f"# {type(net).__name__}", "", f"Class `{class_name(net)}`, {size:,} parameters, in `eval()`."]
    lines += [
        f"The program rounds the residual stream to multiples of 2^-{bits}; the weights alone do not."
        for bits in rounding
    ]
    if "mean" in source.preprocessing:
        scale = "Images of 0 to 1 are normalised by mean {mean} and standard deviation {std}, per channel."
        lines.append(scale.format(**source.preprocessing))
    write_whole(folder / "README.md", "\n".join([*lines, loading]))


def write_tokenizer(source: Source, folder: Path) -> None:
    """Write the tokenizer as transformers' AutoTokenizer reads it."""
    from bdia.data.text.tokenizer import END_OF_DOCUMENT, save_tokenizer

    save_tokenizer(source.tokenizer, folder / "tokenizer.json")
    ends = {} if end_token(source.tokenizer) is None else {"bos_token": END_OF_DOCUMENT, "eos_token": END_OF_DOCUMENT}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": source.net.longest, **ends}
    write_json(folder / "tokenizer_config.json", config)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a document as indented JSON."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def end_token(tokenizer: Any) -> int | None:
    """Return the number of the token that ends a document, None where there is none."""
    from bdia.data.text.tokenizer import END_OF_DOCUMENT

    return tokenizer.token_to_id(END_OF_DOCUMENT)


def class_name(net: nn.Module) -> str:
    """Return the class with its module."""
    return f"{type(net).__module__}.{type(net).__qualname__}"
