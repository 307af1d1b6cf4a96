"""Write a trained model as files that transformers, timm or plain PyTorch load without this package."""

import copy
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bdia import ExistingFileError, InvalidValueError
from bdia.models import Gpt2, Seq2SeqTransformer, VisionTransformer
from bdia.models.gpt2_weights import huggingface_config, huggingface_weights
from bdia.reversible import BdiaStack, BlockStack, RevVitStack, revert
from bdia.reversible.arithmetic.grid import quantize
from bdia.reversible.stacks.bdia import BdiaUpdates
from bdia.reversible.stacks.branches import branches
from bdia.reversible.stacks.engage import engaged

WEIGHTS = "model.safetensors"
PROGRAM = "program.pt2"
TORCH = "format=torch holds any model"


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
        "transformers": _write_transformers, "timm": _write_timm, "torch": _write_torch
    }  # fmt: skip
    if format not in writers:
        raise InvalidValueError(f"format={format}: wanted one of {', '.join(writers)}; set format")
    target = Path(path)
    if target.exists():
        raise ExistingFileError(f"{target} is there already: give another folder, or remove it")
    source = _opened(model)
    source.net = _plain(source.net, format, drop_rounding)
    with _new_folder(target) as folder:
        writers[format](source, folder, example, arguments or {})
        if source.tokenizer is not None:
            _write_tokenizer(source, folder)
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


# --- what no other library has: the stacks ---


class _PlainLoop(nn.Sequential):
    """A stack in `eval()`, without the engine: the blocks in turn, the stream rounded to the grid where bits is set."""

    def __init__(self, stack: BlockStack, bits: int | None) -> None:
        super().__init__(*stack.blocks)
        self.bits = bits

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        x = self._rounded(x)
        for block in self:
            x = self._rounded(block(x, *args, **kwargs))
        return x

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.bits is None else quantize(x, self.bits)


class _PlainRevVit(_PlainLoop):
    """RevViT's two streams, without the engine."""

    def __init__(self, stack: RevVitStack) -> None:
        super().__init__(stack, stack.bits)
        self.merge = stack.merge

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        x_prev = x_curr = self._rounded(x)
        for block in self:
            for branch in branches(block):
                x_prev, x_curr = x_curr, x_prev + self._rounded(branch(x_curr, *args, **kwargs))
        return torch.cat([x_prev, x_curr], dim=-1) if self.merge == "concat" else (x_prev + x_curr) / 2


def _plain(net: nn.Module, format: str, drop_rounding: bool) -> nn.Module:
    """Return a copy on the CPU, in `eval()`: a converted model is reverted, stacks are plain loops over their blocks.

    Raises:
        ValueError: an inference that the format cannot hold.
    """
    net = copy.deepcopy(net).cpu().eval()
    for module in net.modules():
        if (forward := engaged(module)) is not None and _rounding(forward.owner, drop_rounding) is not None:
            raise InvalidValueError(_cannot_round(forward.owner, f"format={format} of a converted model"))
    revert(net)
    if isinstance(net, BlockStack):
        return _plain_stack(net, format, drop_rounding)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, BlockStack):
                setattr(module, name, _plain_stack(child, format, drop_rounding))
    return net


def _plain_stack(stack: BlockStack, format: str, drop_rounding: bool) -> nn.Module:
    if isinstance(stack, RevVitStack):
        if format != "torch":
            raise InvalidValueError(f"RevVitStack has two streams, which {format} cannot hold: {TORCH}")
        return _PlainRevVit(stack)
    bits = _rounding(stack, drop_rounding) if isinstance(stack, BdiaStack) else None
    if bits is not None and format != "torch":
        raise InvalidValueError(f"{_cannot_round(stack, format)}; {TORCH}")
    return _PlainLoop(stack, bits)


def _rounding(updates: BdiaUpdates, drop_rounding: bool) -> int | None:
    """Return the bits that the stream is rounded to at inference, None where it is not or need not be.

    Raises:
        ValueError: the inference is not the standard model's.
    """
    if updates.eval_gamma:
        raise InvalidValueError(
            f"eval_gamma={updates.eval_gamma}: the model differs from the standard one at inference; "
            f"set {updates.prefix}eval_gamma=0"
        )
    return updates.bits if updates.quantize_eval and not drop_rounding else None


def _cannot_round(updates: BdiaUpdates, holder: str) -> str:
    return (
        f"quantize_eval=True rounds the stream to 2^-{updates.bits} at inference, which {holder} cannot hold: set "
        "drop_rounding=true for the model without it, and measure it without it (quantize_eval=False)"
    )


# --- the formats ---


def _write_transformers(source: Source, folder: Path, *_: object) -> None:
    net, tokenizer = source.net, source.tokenizer
    if hasattr(net, "save_pretrained"):
        net.save_pretrained(folder)
        return
    if not isinstance(net, Gpt2):
        raise InvalidValueError(f"format=transformers: {_name(net)}, wanted a Gpt2 or a model of transformers; {TORCH}")
    end = None if tokenizer is None else _end(tokenizer)
    _save(huggingface_weights(net), folder)
    _write_json(folder / "config.json", huggingface_config(net, end))


def _write_timm(source: Source, folder: Path, example: object, arguments: dict[str, Any]) -> None:
    """Write timm's own layout of a folder, and load it once to see that it is this model."""
    from timm.models import save_for_hf

    net = source.net
    if not hasattr(net, "pretrained_cfg"):
        why = " Its shifted patches and locality self-attention are not timm's." if _shifted(net) else ""
        raise InvalidValueError(f"format=timm: {_name(net)}, wanted a model of timm (model=timm_vit).{why} {TORCH}")
    known = {**getattr(net, "timm_arguments", {}), **arguments}
    save_for_hf(net, str(folder), model_args=known, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    labels = {key: value for key, value in source.preprocessing.items() if key == "label_names"}
    config["pretrained_cfg"] |= {key: value for key, value in source.preprocessing.items() if key not in labels}
    _write_json(folder / "config.json", config | labels)
    _check_timm_loads(net, folder)
    settings = {"num_classes": config["num_classes"], **config.get("model_args", {})}
    listed = "".join(f", {key}={value!r}" for key, value in settings.items())
    _write_note(source, folder, _TIMM.format(name=config["architecture"], settings=listed))


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


def _write_torch(source: Source, folder: Path, example: tuple[Tensor, ...] | None, *_: object) -> None:
    net = source.net
    dim = torch.export.Dim
    inputs, free = (_example(net), dim.DYNAMIC) if example is None else (example, dim.AUTO)
    _save(net.state_dict(), folder)
    loading = _TORCH_WEIGHTS
    if inputs is not None:
        torch.export.save(_program(net, inputs, free), folder / PROGRAM)
        shapes = ", ".join(f"{tensor.dtype} like {tuple(tensor.shape)}" for tensor in inputs)
        loading += _TORCH_PROGRAM.format(inputs=shapes)
    _write_note(source, folder, loading)


def _program(net: nn.Module, inputs: tuple[Tensor, ...], free: Any) -> torch.export.ExportedProgram:
    """Trace a forward; the batch may have any size, and so may the length of token ids.

    Args:
        free: `Dim.DYNAMIC` insists on that, `Dim.AUTO` keeps a size of the inputs where the model fixes it.
    """
    shapes = tuple(
        dict.fromkeys(range(1 if tensor.is_floating_point() else min(2, tensor.dim())), free) for tensor in inputs
    )
    with torch.no_grad():
        return torch.export.export(_OnlyInputs(net), inputs, dynamic_shapes=(shapes,))


_TORCH_WEIGHTS = """
    from safetensors.torch import load_file
    weights = load_file("this/folder/model.safetensors")  # the state_dict of the class above
"""
_TORCH_PROGRAM = """
    import torch
    model = torch.export.load("this/folder/program.pt2").module()  # eval() alone, no class needed
    outputs = model(*inputs)  # {inputs}
"""


class _OnlyInputs(nn.Module):
    """A model that takes the inputs alone: no cache, no other option."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.net(*inputs)


def _example(net: nn.Module) -> tuple[Tensor, ...] | None:
    """Make up the inputs of a forward; None for a model that this package does not know."""
    if isinstance(net, VisionTransformer):
        return (torch.zeros(2, *net.image_shape),)
    if isinstance(net, Gpt2):
        return (torch.zeros(2, min(4, net.longest), dtype=torch.int64),)
    if isinstance(net, Seq2SeqTransformer):
        return torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 4, dtype=torch.int64)
    if isinstance(patches := getattr(net, "patch_embed", None), nn.Module) and hasattr(net, "pretrained_cfg"):
        return (torch.zeros(2, patches.proj.in_channels, *patches.img_size),)
    return None


def _save(weights: dict[str, Tensor], folder: Path) -> None:
    """Write the tensors, each for itself: safetensors refuses tensors that share memory."""
    own = {name: tensor.detach().contiguous().clone() for name, tensor in weights.items()}
    save_file(own, folder / WEIGHTS, metadata={"format": "pt"})


def _write_note(source: Source, folder: Path, loading: str) -> None:
    net = source.net
    rounding = {module.bits for module in net.modules() if isinstance(module, _PlainLoop)} - {None}
    size = sum(parameter.numel() for parameter in net.parameters())
    lines = [f"# {type(net).__name__}", "", f"Class `{_name(net)}`, {size:,} parameters, in `eval()`."]
    lines += [
        f"The program rounds the residual stream to multiples of 2^-{bits}; the weights alone do not."
        for bits in rounding
    ]
    if "mean" in source.preprocessing:
        scale = "Images of 0 to 1 are normalised by mean {mean} and standard deviation {std}, per channel."
        lines.append(scale.format(**source.preprocessing))
    (folder / "README.md").write_text("\n".join([*lines, loading]), encoding="utf-8")


def _write_tokenizer(source: Source, folder: Path) -> None:
    """Write the tokenizer as transformers' AutoTokenizer reads it."""
    from bdia.data.text.tokenizer import END_OF_DOCUMENT, save_tokenizer

    save_tokenizer(source.tokenizer, folder / "tokenizer.json")
    ends = {} if _end(source.tokenizer) is None else {"bos_token": END_OF_DOCUMENT, "eos_token": END_OF_DOCUMENT}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": source.net.longest, **ends}
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _end(tokenizer: Any) -> int | None:
    from bdia.data.text.tokenizer import END_OF_DOCUMENT

    return tokenizer.token_to_id(END_OF_DOCUMENT)


def _shifted(net: nn.Module) -> bool:
    names = {type(module).__name__ for module in net.modules()}
    return bool(names & {"ShiftedPatchEmbed", "LocalitySelfAttention"})


def _name(net: nn.Module) -> str:
    return f"{type(net).__module__}.{type(net).__qualname__}"
