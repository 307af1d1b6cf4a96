"""Results of operations on tensors without data, made again from what the same operation returned before.

torch's own cache takes 0.2 ms for an operation; a step has thousands of them. This one knows what is usual in training:
dense tensors, whose operation returns new ones or views of its first argument, or changes that in place.
"""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._pytree import tree_leaves

ONE, MANY, LIST, IN_PLACE, OTHER = "one result", "several", "list", "in place", "other"
_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
# Of each result: shape, strides, type, and for a view of the first argument where it begins, for a new tensor None.
_Made = list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype, int | None]]


class FakeResults:
    """What operations returned, by operation and arguments; size and type of a tensor stand for the tensor.

    Args:
        mode: makes the tensors without data.
    """

    _known: ClassVar[dict[tuple, _Made]] = {}  # of all modes: a plan is many traces of the same operations

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode

    def run(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return func(*args, **kwargs)."""
        kind = _kind(func)
        key = None if kind == OTHER else _key(func, args, kwargs, kind)
        if key is None:
            return func(*args, **kwargs)
        if key in self._known:
            if kind != IN_PLACE:
                return self._again(kind, self._known[key], args)
            return args[0] if isinstance(args[0], Tensor) else None
        results = func(*args, **kwargs)
        made = [] if kind == IN_PLACE else self._made(args, results)
        if made is not None:
            self._known[key] = made
        return results

    def _again(self, kind: str, made: _Made, args: tuple) -> Any:
        results = []
        with in_kernel_invocation_manager(self._mode):
            for shape, stride, dtype, begin in made:
                tensor = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
                if begin is not None:
                    tensor.set_(args[0].untyped_storage(), begin, shape, stride)
                results.append(tensor)
        fake = [FakeTensor(self._mode, tensor, torch.device("cpu")) for tensor in results]
        return fake[0] if kind == ONE else tuple(fake) if kind == MANY else fake

    def _made(self, args: tuple, results: Any) -> _Made | None:
        """Return how to make results again; None if one is neither a new tensor nor a view of the first argument."""
        tensors: Sequence[Any] = (results,) if isinstance(results, Tensor) else results
        given = [tensor for tensor in tree_leaves(args) if isinstance(tensor, Tensor)]
        if not all(_is_usual(tensor) for tensor in tensors) or any(t is other for t in tensors for other in given):
            return None
        storages = [tensor.untyped_storage()._cdata for tensor in given]
        shared = [tensor.untyped_storage()._cdata in storages for tensor in tensors]
        first = args[0].untyped_storage()._cdata if args and isinstance(args[0], Tensor) else None
        if any(s and tensor.untyped_storage()._cdata != first for s, tensor in zip(shared, tensors, strict=True)):
            return None
        made = [
            (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.storage_offset() if s else None)
            for s, tensor in zip(shared, tensors, strict=True)
        ]
        return made if _bytes(self._again(LIST, made, args)) == _bytes(tensors) else None


def _is_usual(tensor: Any) -> bool:
    return type(tensor) is FakeTensor and tensor.layout == torch.strided and tensor.fake_device.type == "cpu"


def _bytes(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.untyped_storage().nbytes() for tensor in tensors]


@functools.cache
def _kind(func: Any) -> str:
    arguments, returns = func._schema.arguments, func._schema.returns
    types = [str(value.type) for value in returns]
    if not arguments or _TAGS & set(func.tags):
        return OTHER
    first, *rest = arguments
    if not any(value.alias_info and value.alias_info.is_write for value in arguments):
        kinds = {("Tensor",): ONE, ("List[Tensor]",): LIST}
        return kinds.get(tuple(types), MANY if set(types) == {"Tensor"} else OTHER)
    writes_first = first.alias_info is not None and first.alias_info.is_write
    if writes_first and types in (["Tensor"], []) and not any(value.alias_info for value in rest):
        return IN_PLACE
    return OTHER


def _key(func: Any, args: tuple, kwargs: dict[str, Any], kind: str) -> tuple | None:
    """Return what the results' sizes and types depend on; None if that is not known, or without a tensor."""
    found: list[Any] = [func]
    tensors: list[Tensor] = []
    if not all([_add(value, found, tensors) for value in (*args, *kwargs, *kwargs.values())]) or not tensors:
        return None
    if kind != IN_PLACE and len({tensor.dtype for tensor in tensors}) > 1 and not all(t.dim() for t in tensors):
        return None  # a tensor of no dimensions may be a number in disguise, whose type does not count
    return tuple(found)


def _add(value: Any, found: list[Any], tensors: list[Tensor]) -> bool:
    """Add what stands for an argument, and the tensors in it; False if nothing can stand for it."""
    if type(value) is FakeTensor:
        tensors.append(value)
        found += (tuple(value.shape), value.stride(), value.dtype, value.storage_offset())
        return _is_usual(value)
    if isinstance(value, Tensor):
        return False
    if isinstance(value, list | tuple):
        found.append(len(value))
        return all([_add(entry, found, tensors) for entry in value])
    found += (type(value), value)  # 1, 1.0 and True are equal
    return True
