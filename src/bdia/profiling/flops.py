"""Floating-point operations of one torch operation, by PyTorch's own formulas."""

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
# FlopCounterMode knows attention on accelerators only; the CPU's fused kernel does the same products.
_FORMULAS = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
    **flop_registry,
}


def count_flops(func: Any, args: tuple, kwargs: dict[str, Any], results: Any) -> int:
    """Return twice the multiply-adds of a matrix product, convolution or attention; 0 for every other operation.

    `torch.utils.flop_counter.FlopCounterMode` has the same numbers, but its hooks on modules keep gradients alive and
    so change the peak memory that is measured beside.

    Args:
        func: the operation as a `__torch_dispatch__` gets it, with its arguments and results.
    """
    formula = _FORMULAS.get(getattr(func, "_overloadpacket", None))
    return 0 if formula is None else formula(*args, **kwargs, out_val=results)
