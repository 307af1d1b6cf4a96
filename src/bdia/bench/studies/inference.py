"""Trained image classifiers at inference: constant gamma (Fig. 1), the grid, corruptions, calibration, random paths.

Nothing is trained or chosen: every number is of the test set. B images, C classes.

- gamma: the stack runs with a constant gamma, also the one that was trained as a standard transformer, whose blocks are
  put into a BDIA stack (the paper's Fig. 1). RevViT has no gamma.
- bits: the stream is rounded to 2^-bits at inference; null is float32.
- corruption: noise, blur and JPEG at gamma 0.
- paths: the mean prediction over random draws of gamma, as in training but without dropout: is BDIA an ensemble?
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from bdia import InvalidValueError, MissingFileError
from bdia.bench.studies.corruptions import CORRUPTIONS
from bdia.build import build_data, compose, load_config, load_task
from bdia.data.images.module import ImageDataModule
from bdia.results.variants import stack_name
from bdia.reversible import BlockStack
from bdia.reversible.stacks import registry

ECE_BINS = 15


@dataclass
class Arguments:
    """What is measured.

    Args:
        runs: folder that holds runs of one study, each with its final.ckpt.
        data: folder of the images; empty: BDIA_DATA, else "data".
        gammas: constant gamma at inference. bits: grids at inference, of the stack as trained. paths: random draws.
        images: of the test set, from the first; 0 for all.
    """

    runs: str = "runs/table1_cifar10_few"
    data: str = ""
    gammas: list[float] = field(default_factory=lambda: [-0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5])
    bits: list[int] = field(default_factory=lambda: [4, 5, 6, 7, 9, 12])
    paths: int = 16
    images: int = 0


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each run: stack, seed, what is varied, its value, and accuracy (%), loss (nat), ece (%)."""
    checkpoints = sorted(Path(arguments.runs).glob("*/final.ckpt"))
    if not checkpoints:
        raise MissingFileError(f"runs={arguments.runs}: no <run>/final.ckpt in it; set runs to the folder of a study")
    for checkpoint in checkpoints:
        cfg = load_config(checkpoint)
        data = _data(cfg, arguments)
        rows = list(_rows(cfg, checkpoint, data, arguments))
        yield [{"stack": stack_name(OmegaConf.to_container(cfg)), "seed": cfg.seed, **row} for row in rows]


def _data(cfg: DictConfig, arguments: Arguments) -> ImageDataModule:
    cfg = cfg.copy()
    if "name" in cfg.data:  # not the embedded digits
        folder = arguments.data or os.environ.get("BDIA_DATA", "data")
        OmegaConf.update(cfg, "data.data_dir", folder, force_add=True)
        OmegaConf.update(cfg, "data.download", False, force_add=True)
    data = build_data(cfg)
    if not isinstance(data, ImageDataModule):
        raise InvalidValueError(f"runs={arguments.runs}: wanted runs on images; set runs")
    data.setup()
    images, labels = data.splits["test"]
    kept = slice(arguments.images or None)
    data.splits["test"] = images[kept], labels[kept]
    return data


@torch.no_grad()
def _rows(cfg: DictConfig, checkpoint: Path, data: ImageDataModule, arguments: Arguments) -> Iterator[dict[str, Any]]:
    own = _net(cfg, checkpoint, data)
    yield {"part": "clean", "value": "", **scores(*_predicted(own, data))}
    for name, corrupt in CORRUPTIONS.items():
        yield {"part": "corruption", "value": name, **scores(*_predicted(own, _corrupted(data, corrupt)))}
    if registry.REVVIT.class_name in str(cfg.stack._target_):
        return
    for gamma in arguments.gammas:
        for bits in (9, None):
            net = _net(_with_stack(cfg, gamma, bits), checkpoint, data)
            form = "float" if bits is None else "grid"
            yield {"part": f"gamma, {form}", "value": gamma, **scores(*_predicted(net, data))}
    for bits in arguments.bits:
        net = _net(_with_stack(cfg, 0, bits), checkpoint, data)
        yield {"part": "bits", "value": bits, **scores(*_predicted(net, data))}
    net = _net(_with_stack(cfg, 0, 9), checkpoint, data)
    (stack,) = (module for module in net.modules() if isinstance(module, BlockStack))
    stack.training = True  # draws gamma; the blocks stay in eval(), without dropout
    torch.manual_seed(cfg.seed)
    drawn = torch.zeros(())
    for number in range(1, arguments.paths + 1):
        logits, labels = _predicted(net, data)
        drawn = drawn + logits.softmax(dim=1)
        if number in (1, arguments.paths):
            yield {"part": "paths", "value": number, **scores((drawn / number).log(), labels)}


def _net(cfg: DictConfig, checkpoint: Path, data: ImageDataModule) -> nn.Module:
    net: nn.Module = load_task(cfg, checkpoint, data.net_arguments).net
    return net


def _with_stack(cfg: DictConfig, gamma: float, bits: int | None) -> DictConfig:
    """Return the config with a BDIA stack of a constant gamma at inference."""
    choices = ["stack=bdia", f"stack.eval_gamma={gamma}", "stack.backward=stored"]
    if bits is None:
        choices += ["stack.quantize_eval=false"]
    else:
        choices += [f"stack.bits={bits}"]
    cfg = cfg.copy()
    cfg.stack = compose(choices).stack
    OmegaConf.update(cfg, "model.net.stack", cfg.stack, merge=False)
    return cfg


def _corrupted(data: ImageDataModule, corrupt: Any) -> ImageDataModule:
    copy = type(data).__new__(type(data))
    copy.__dict__.update(data.__dict__)
    images, labels = data.splits["test"]
    copy.splits = {**data.splits, "test": (corrupt(images), labels)}
    return copy


def _predicted(net: nn.Module, data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """Return logits (N, C) and labels (N,) of the test set."""
    parts = [(net(images), labels) for images, labels in data.test_dataloader()]
    return torch.cat([logits for logits, _ in parts]), torch.cat([labels for _, labels in parts])


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy in %, the mean cross-entropy in nat, and the expected calibration error in %.

    Args:
        logits: (N, C), up to a constant per image. labels: (N,) int64.
    """
    probabilities = logits.softmax(dim=1)
    ece = multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=ECE_BINS)
    return {
        "accuracy": round(100 * (logits.argmax(dim=1) == labels).float().mean().item(), 3),
        "loss": round(F.cross_entropy(logits, labels).item(), 5),
        "ece": round(100 * ece.item(), 3),
    }


def told(rows: Sequence[dict[str, Any]]) -> str:
    """Return one line on the rows of a run."""
    clean = next(row for row in rows if row["part"] == "clean")
    return f"{clean['stack']}, seed {clean['seed']}: {clean['accuracy']:.2f} %, {len(rows)} rows"
