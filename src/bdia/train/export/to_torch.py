"""The format of plain PyTorch: weights, and a traced program where the inputs are known."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdia.models import Gpt2, Seq2SeqTransformer, VisionTransformer
from bdia.train.export.files import Source, save_weights, write_note

PROGRAM = "program.pt2"


def write_torch(source: Source, folder: Path, example: tuple[Tensor, ...] | None, *_: object) -> None:
    """Write the weights, a note and, where inputs are given or can be made up, the program."""
    net = source.net
    dim = torch.export.Dim
    inputs, free = (_example(net), dim.DYNAMIC) if example is None else (example, dim.AUTO)
    save_weights(net.state_dict(), folder)
    loading = _TORCH_WEIGHTS
    if inputs is not None:
        torch.export.save(_program(net, inputs, free), folder / PROGRAM)
        shapes = ", ".join(f"{tensor.dtype} like {tuple(tensor.shape)}" for tensor in inputs)
        loading += _TORCH_PROGRAM.format(inputs=shapes)
    write_note(source, folder, loading)


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
