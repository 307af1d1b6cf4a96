"""GPT-2 weights in Hugging Face's layout -> the names and shapes of `bdia.models.gpt2.Gpt2`."""

import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

# Hugging Face's name -> ours. Its Conv1D layers hold (inputs, outputs), the transpose of nn.Linear.
_OUTSIDE = {
    "wte.weight": "tokens.weight",
    "wpe.weight": "positions.weight",
    "ln_f.weight": "join.norm.weight",
    "ln_f.bias": "join.norm.bias",
}
_IN_BLOCK = {
    "ln_1": "norm1",
    "attn.c_attn": "attn.qkv",
    "attn.c_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"h\.(\d+)\.(ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.(weight|bias)")
_NOT_WEIGHTS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|lm_head\.weight")  # masks; the tied output layer


def load_gpt2_weights(net: nn.Module, path: Path) -> None:
    """Load GPT-2 weights into a `Gpt2` of the same size.

    Args:
        net: the model; one stream, so any stack but a RevVitStack that concatenates.
        path: `model.safetensors`, `pytorch_model.bin`, or the folder that holds one of them.
    Raises:
        FileNotFoundError: neither is there. ValueError: a damaged file; names or shapes that are not this model's.
    """
    state = {name.removeprefix("transformer."): tensor for name, tensor in _read(path).items()}
    own, found = net.state_dict(), {}
    for name, tensor in state.items():
        if _NOT_WEIGHTS.fullmatch(name):
            continue
        wanted, tensor = _translate(name, tensor)
        if wanted not in own or own[wanted].shape != tensor.shape:
            seen = tuple(own[wanted].shape) if wanted in own else "nothing"
            raise ValueError(
                f"{path.name}: {name} is {tuple(tensor.shape)}, the model has {seen} there: set model.net.width, "
                "model.net.depth, model.net.positions and the tokenizer to the weights' own (with RevViT also "
                "stack.merge=mean), or model.net.weights=null"
            )
        found[wanted] = tensor
    if missing := sorted(own.keys() - found.keys()):
        raise ValueError(f"{path.name} has no weights for {', '.join(missing[:3])}: set model.net.depth or stack.merge")
    net.load_state_dict(found)


def _translate(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if name in _OUTSIDE:
        return _OUTSIDE[name], tensor
    if not (match := _BLOCK.fullmatch(name)):
        return name, tensor
    block, layer, kind = match.groups()
    linear = kind == "weight" and not layer.startswith("ln_")
    return f"blocks.{block}.{_IN_BLOCK[layer]}.{kind}", tensor.T.contiguous() if linear else tensor


def _read(path: Path) -> dict[str, Tensor]:
    places = [path / "model.safetensors", path / "pytorch_model.bin"] if path.is_dir() else [path]
    for place in places:
        if place.is_file():
            safe = place.suffix == ".safetensors"
            try:
                return load_file(place) if safe else torch.load(place, map_location="cpu", weights_only=True)
            except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
                raise ValueError(
                    f"{place} cannot be read as weights ({type(error).__name__}): set model.net.weights to a whole file"
                ) from error
    raise FileNotFoundError(
        f"model.net.weights={path}: wanted model.safetensors or pytorch_model.bin of a GPT-2 in Hugging Face's layout"
    )
