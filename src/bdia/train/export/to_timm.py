"""The format of timm."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bdia import InvalidValueError
from bdia.train.export.files import Source, class_name, write_json, write_note
from bdia.train.export.plain import TORCH


def write_timm(source: Source, folder: Path, example: object, arguments: dict[str, Any]) -> None:
    """Write timm's own layout of a folder, and load it once to see that it is this model."""
    from timm.models import save_for_hf

    net = source.net
    if not hasattr(net, "pretrained_cfg"):
        why = " Its shifted patches and locality self-attention are not timm's." if _shifted(net) else ""
        raise InvalidValueError(
            f"format=timm: {class_name(net)}, wanted a model of timm (model=timm_vit).{why} {TORCH}"
        )
    known = {**getattr(net, "timm_arguments", {}), **arguments}
    save_for_hf(net, str(folder), model_args=known, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    labels = {key: value for key, value in source.preprocessing.items() if key == "label_names"}
    config["pretrained_cfg"] |= {key: value for key, value in source.preprocessing.items() if key not in labels}
    write_json(folder / "config.json", config | labels)
    _check_timm_loads(net, folder)
    settings = {"num_classes": config["num_classes"], **config.get("model_args", {})}
    listed = "".join(f", {key}={value!r}" for key, value in settings.items())
    write_note(source, folder, _TIMM.format(name=config["architecture"], settings=listed))


def _check_timm_loads(net: nn.Module, folder: Path) -> None:
    import timm

    hint = "give arguments={...}, the keywords of timm.create_model that made it"
    try:
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidValueError(f"timm cannot load the model again ({error}): {hint}") from error
    for name, tensor in net.state_dict().items():
        if name not in again or not torch.equal(again[name], tensor):
            raise InvalidValueError(f"timm does not load {name} again as it is: {hint}")


_TIMM = """
    import timm
    model = timm.create_model("local-dir:this/folder", pretrained=True)
    model = timm.create_model("{name}", checkpoint_path="this/folder/model.safetensors"{settings})
"""


def _shifted(net: nn.Module) -> bool:
    names = {type(module).__name__ for module in net.modules()}
    return bool(names & {"ShiftedPatchEmbed", "LocalitySelfAttention"})
