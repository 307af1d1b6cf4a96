"""Write a trained model as files that transformers, timm or plain PyTorch load without this package."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bdia import ExistingFileError, InvalidValueError
from bdia.train.export.files import Source as Source
from bdia.train.export.files import write_tokenizer
from bdia.train.export.plain import plain
from bdia.train.export.to_timm import write_timm
from bdia.train.export.to_torch import write_torch
from bdia.train.export.to_transformers import write_transformers


def export(
    model: nn.Module | str | Path,
    path: str | Path,
    format: str,
    *,
    drop_rounding: bool = False,
    example: tuple[Tensor, ...] | None = None,
    arguments: dict[str, Any] | None = None,
) -> Path:
    """Write the model, in a new folder, for a library that does not know this package.

    Args:
        model: a model, a task, or the path of a run's checkpoint, which alone tells how images were normalised. It
            stays as it is: what has to change, changes on a copy.
        path: the folder; its files are written beside it and appear all at once.
        format: "transformers": a `Gpt2` of this package, or any model of transformers. "timm": a model of timm.
            "torch": any model, as weights and, where its inputs are known, as a program.
        drop_rounding: True leaves out the rounding of `quantize_eval`. A metric must then be measured without it, too.
        example: inputs of one forward, batch first, for the program of "torch"; None: made up for models of this
            package and of timm, and no program is written for others.
        arguments: keyword arguments of `timm.create_model` that made the model, as far as timm did not note them.
    Returns:
        The folder.
    Raises:
        ValueError: an unknown format; something that the format cannot hold. FileExistsError: the folder is there.
    """
    writers: dict[str, Callable[..., None]] = {
        "transformers": write_transformers, "timm": write_timm, "torch": write_torch
    }  # fmt: skip
    if format not in writers:
        raise InvalidValueError(f"format={format}: wanted one of {', '.join(writers)}; set format")
    target = Path(path)
    if target.exists():
        raise ExistingFileError(f"{target} is there already: give another folder, or remove it")
    source = _opened(model)
    source.net = plain(source.net, format, drop_rounding)
    with _new_folder(target) as folder:
        writers[format](source, folder, example, arguments or {})
        if source.tokenizer is not None:
            write_tokenizer(source, folder)
    return target


def _opened(model: nn.Module | str | Path) -> Source:
    if isinstance(model, str | Path):
        from bdia.build import image_preprocessing, load_run  # here: a model alone needs neither Hydra nor Lightning

        task = load_run(Path(model))
        return Source(task.net, getattr(task, "tokenizer", None), image_preprocessing(Path(model)))
    tasks = sys.modules.get("bdia.tasks.task")
    if tasks is not None and isinstance(model, tasks.Task):  # where the module is not imported there is no task
        return Source(model.net, getattr(model, "tokenizer", None))
    return Source(model)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Give a folder beside the target that becomes the target if nothing is raised, and else is removed."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(target)  # refuses a target that came into being in the meantime, unless it is empty
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
