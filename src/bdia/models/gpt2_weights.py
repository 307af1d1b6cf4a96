"""GPT-2 weights between Hugging Face's layout and the names and shapes of `bdia.models.gpt2.Gpt2`, both ways."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bdia import InvalidValueError, MissingFileError
from bdia.models.shares import in_shares, read_weights_of

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
_NOT_WEIGHTS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # masks
_HEAD, _EMBEDDING = "lm_head.weight", "wte.weight"  # tied: one matrix


def load_gpt2_weights(net: nn.Module, path: Path) -> None:
    """Load GPT-2 weights into a `Gpt2` of the same size.

    Args:
        net: the model; one stream, so any stack but a RevVitStack that concatenates.
        path: `model.safetensors`, `pytorch_model.bin`, or the folder that holds one of them.
    Raises:
        FileNotFoundError: neither is there. ValueError: a damaged file; names or shapes that are not this model's.
    """
    state = {name.removeprefix("transformer."): tensor for name, tensor in read_weights(path).items()}
    own, found = net.state_dict(), {}
    head, embedding = state.pop(_HEAD, None), state.get(_EMBEDDING)
    if head is not None and (embedding is None or head.shape != embedding.shape or not torch.equal(head, embedding)):
        raise InvalidValueError(
            f"{path.name}: {_HEAD} is not {_EMBEDDING}, and this model has one matrix for both: set model.net.weights "
            "to a model with tied embeddings"
        )
    for name, tensor in state.items():
        if _NOT_WEIGHTS.fullmatch(name):
            continue
        wanted, tensor = _translate(name, tensor)
        if wanted not in own or own[wanted].shape != tensor.shape:
            seen = tuple(own[wanted].shape) if wanted in own else "nothing"
            raise InvalidValueError(
                f"{path.name}: {name} is {tuple(tensor.shape)}, the model has {seen} there: set model.net.width, "
                "model.net.depth, model.net.positions and the tokenizer to the weights' own (with RevViT also "
                "stack.merge=mean), or model.net.weights=null"
            )
        found[wanted] = tensor
    if missing := sorted(own.keys() - found.keys()):
        raise InvalidValueError(
            f"{path.name} has no weights for {', '.join(missing[:3])}: set model.net.depth or stack.merge"
        )
    net.load_state_dict(found)


def huggingface_weights(net: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a `Gpt2` under Hugging Face's names and in its shapes; the inverse of `load_gpt2_weights`.

    Raises:
        ValueError: a weight that GPT-2 does not have, as RevViT's map of two streams to one.
    """
    outside = {ours: theirs for theirs, ours in _OUTSIDE.items()}
    in_block = {ours: theirs for theirs, ours in _IN_BLOCK.items()}
    found = {}
    for name, tensor in net.state_dict().items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in outside:
            found[f"transformer.{outside[name]}"] = tensor
        elif match and match[2] in in_block:
            block, layer, kind = match.groups()
            linear = kind == "weight" and not layer.startswith("norm")
            found[f"transformer.h.{block}.{in_block[layer]}.{kind}"] = tensor.T if linear else tensor
        else:
            raise InvalidValueError(f"{name} has no place in Hugging Face's GPT-2: train with a stack of one stream")
    return found


def huggingface_config(net: nn.Module, end_of_document: int | None = None) -> dict[str, Any]:
    """Return the config.json of transformers' GPT2LMHeadModel for a `Gpt2`.

    Args:
        end_of_document: id of the token that begins and ends a text; None: none is named.
    """
    vocab_size, width = net.tokens.weight.shape
    attention = net.blocks[0].attn
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_positions": net.longest,
        "n_embd": width,
        "n_layer": len(net.blocks),
        "n_head": attention.heads,
        "activation_function": "gelu_pytorch_tanh",  # the function of gelu_new, in the kernel that Gpt2 uses
        "layer_norm_epsilon": net.join.norm.eps,
        "embd_pdrop": net.dropout.p,
        "resid_pdrop": attention.proj_drop.p,
        "attn_pdrop": attention.attention_dropout,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
    }


def _translate(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if name in _OUTSIDE:
        return _OUTSIDE[name], tensor
    if not (match := _BLOCK.fullmatch(name)):
        return name, tensor
    block, layer, kind = match.groups()
    linear = kind == "weight" and not layer.startswith("ln_")
    return f"blocks.{block}.{_IN_BLOCK[layer]}.{kind}", tensor.T.contiguous() if linear else tensor


def read_weights(path: Path, key: str = "model.net.weights") -> dict[str, Any]:
    """Read a file of weights, or the one that a folder holds, onto the CPU.

    Args:
        path: ends in .safetensors, or a file of `torch.save`; or a folder of model.safetensors or pytorch_model.bin,
            or of a checkpoint in shares.
        key: config key of the path, for errors.
    Raises:
        FileNotFoundError: no such file. ValueError: it cannot be read; a weight is no floating-point number, or not
        finite.
    """
    if in_shares(path):
        try:
            found = read_weights_of(path)
        except (UnpicklingError, OSError, RuntimeError, EOFError, KeyError) as error:
            raise InvalidValueError(
                f"{path} cannot be read as weights ({type(error).__name__}): set {key} to a whole checkpoint"
            ) from error
        check_values(found["state_dict"], path, key)
        return found
    places = [path / "model.safetensors", path / "pytorch_model.bin"] if path.is_dir() else [path]
    for place in places:
        if place.is_file():
            safe = place.suffix == ".safetensors"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of a pickle that it refuses a line later
                    found = load_file(place) if safe else torch.load(place, map_location="cpu", weights_only=True)
                if not isinstance(found, dict):
                    raise UnpicklingError(f"it holds a {type(found).__name__}")
                check_values(found.get("state_dict", found), place, key)
                return found
            except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
                raise InvalidValueError(
                    f"{place} cannot be read as weights ({type(error).__name__}): set {key} to a whole file"
                ) from error
    raise MissingFileError(f"{key}={path}: wanted model.safetensors or pytorch_model.bin in Hugging Face's layout")


def check_values(state: Mapping[str, Any], path: Path, key: str) -> None:
    """Refuse weights that nobody trained: whole numbers in the place of weights, NaN, infinity.

    Whole numbers of other than two dimensions may be a model's counts and masks.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        if tensor.is_complex() or (not tensor.is_floating_point() and tensor.dim() == 2):
            raise InvalidValueError(f"{path}: {name} is {tensor.dtype}, wanted floating-point weights; set {key}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise InvalidValueError(
                f"{path}: {name} has {bad} values that are NaN or infinite; set {key} to whole weights"
            )
