"""Where a run's training starts: weights of a run, of files, of the Hugging Face hub, or of a pretraining done first.

The config's node `weights`, which only some experiments have:

  from       a run's final.ckpt; a file or folder of weights in Hugging Face's or timm's layout; "hf-hub:owner/name";
             or null
  pretrain   parts of the config (data, model, stack, ...) of the pretraining, where `from` is null or out of reach
  folder     set by the run: where the weights lie, and a text model's tokenizer.json beside them
  found      set by the run: the file, or the folder
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from bdia import InvalidValueError, MissingFileError
from bdia.data.errors import DataNotFoundError
from bdia.models.gpt2 import Gpt2
from bdia.models.gpt2_weights import load_gpt2_weights, read_weights
from bdia.models.shares import in_shares
from bdia.results.identity import config_sha256

HUB = "hf-hub:"  # timm's word for it
SET_BY_THE_RUN = ("folder", "found")
HEAD = "head."  # what a classifier of other classes has to learn anew
log = logging.getLogger("bdia")


def find_weights(cfg: DictConfig, pretrain: Callable[[DictConfig], Path]) -> DictConfig:
    """Return the config with `weights.found` and `weights.folder`, fetching or pretraining first where that is needed.

    Weights of the hub that cannot be fetched leave `weights.from` null where there is a pretraining instead, so that
    the record says what training started from.

    Args:
        pretrain: trains a config, or finds it trained, and returns the checkpoint.
    Raises:
        FileNotFoundError: `weights.from` is not there. ValueError: it is null, and no pretraining is given.
    """
    if cfg.get("weights") is None:
        return cfg
    cfg = cfg.copy()
    with open_dict(cfg):
        found = _given(cfg)
        if found is None:
            cfg.weights["from"] = None
            found = pretrain(pretraining(cfg))
        cfg.weights.found = str(found)
        cfg.weights.folder = str(found if found.is_dir() and not in_shares(found) else found.parent)
    return cfg


def _given(cfg: DictConfig) -> Path | None:
    name, instead = cfg.weights["from"], cfg.weights.get("pretrain")
    if name is None:
        if instead is None:
            raise InvalidValueError(
                "weights.from=null and no weights.pretrain: set weights.from to a checkpoint or a folder"
            )
        return None
    if not str(name).startswith(HUB):
        if not Path(name).exists():
            raise MissingFileError(
                f"weights.from={name} was not found: wanted a checkpoint, a folder or {HUB}owner/name"
            )
        return Path(name)
    try:
        return _fetch(str(name).removeprefix(HUB))
    except DataNotFoundError as error:
        if instead is None:
            raise
        log.warning("%s. A model is pretrained here instead.", error)
        return None


def _fetch(name: str) -> Path:
    """Return the folder of a model of the Hugging Face hub, from its cache or the network.

    Raises:
        DataNotFoundError: no network, no such model.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["model.safetensors", "config.json", "tokenizer.json"]))
    except Exception as error:  # the library and its transports raise many kinds
        raise DataNotFoundError(
            f"{HUB}{name} could not be fetched ({type(error).__name__}): allow the network once, or set weights.from "
            "to a folder or a checkpoint"
        ) from error


def pretraining(cfg: DictConfig) -> DictConfig:
    """Return the config of the run that gives the weights: `cfg`, with the parts that `weights.pretrain` has in place.

    A part that names its class replaces the whole part. The seed is 0 unless it is given: all seeds of an experiment
    start from the same weights.
    """
    first = cfg.copy()
    with open_dict(first):
        parts = OmegaConf.to_container(first.pop("weights").pretrain, resolve=False)
        first.name, first.seed, first.rerun = "pretrained", 0, False
        for key, part in parts.items():
            whole = not isinstance(part, dict) or "_target_" in part
            first[key] = part if whole else OmegaConf.merge(first[key], part)
        first.logger = {"csv": cfg.logger.csv} if "csv" in (cfg.logger or {}) else None
        first.paths.results = f"{first.paths.runs}/{first.name}/records"  # not a result of the experiment
    return first


def without_weights(cfg: DictConfig) -> DictConfig:
    """Return the config of a training whose steps take as long, but that waits for no weights.

    A tokenizer saved beside the weights is not there yet: one of the pretraining's kind and size stands in.
    """
    alone = cfg.copy()
    with open_dict(alone):
        tokenizer = OmegaConf.select(alone.pop("weights"), "pretrain.data.tokenizer")
        if tokenizer is not None:
            alone.data.tokenizer = tokenizer
    return alone


def train_once(cfg: DictConfig, recorded: dict[str, Any], train: Callable[[DictConfig], object]) -> Path:
    """Train a config unless that has been done, and return its checkpoint; jobs that want it at one time take turns."""
    folder = Path(cfg.paths.runs).resolve() / cfg.name
    key = config_sha256(recorded)[:8]
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{key}_s{cfg.seed}" / "final.ckpt"
    with FileLock(folder / f"{key}.lock"):
        if not (checkpoint.parent / "record.json").exists():
            log.warning("pretrains into %s", checkpoint.parent)
            train(cfg)
    return checkpoint


def load_weights(net: nn.Module, path: Path) -> list[str]:
    """Load weights into a model of the same kind and size; a head of another number of classes stays as it is.

    Args:
        path: a run's checkpoint, or a file or folder in Hugging Face's (GPT-2) or timm's layout.
    Returns:
        Names of the weights that were not there, of the head alone.
    Raises:
        ValueError: a damaged file; names or shapes that are not this model's.
    """
    if path.suffix != ".ckpt" and isinstance(net, Gpt2):
        load_gpt2_weights(net, path)
        return []
    state = _state(net, path)
    own = net.state_dict()
    fresh = [name for name in own if name.startswith(HEAD) and _shape(state.get(name)) != own[name].shape]
    found = {name: tensor for name, tensor in state.items() if name not in fresh}
    for name in [*own, *found]:
        seen, wanted = _shape(found.get(name)), _shape(own.get(name))
        if name not in fresh and seen != wanted:
            raise InvalidValueError(
                f"weights.from={path}: {name} is {_text(seen)}, the model has {_text(wanted)} there: set model.net "
                "(and data.tokenizer) to what was trained, or weights.from to other weights"
            )
    net.load_state_dict(own | found)
    return fresh


def _state(net: nn.Module, path: Path) -> dict[str, Tensor]:
    state = read_weights(path, "weights.from")
    if path.suffix == ".ckpt":
        return {name.removeprefix("net."): tensor for name, tensor in state.get("state_dict", {}).items()}
    if hasattr(net, "pretrained_cfg"):
        from timm.models.vision_transformer import checkpoint_filter_fn

        return checkpoint_filter_fn(state, net)  # patches and positions of another size are resampled
    return state


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _text(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(tuple(shape))
