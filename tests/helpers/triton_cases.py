"""Updates by which implementations are compared bit for bit; as a program, Triton's in its interpreter with eager ones.

TRITON_INTERPRET=1 python -m helpers.triton_cases few|all float32|int32 eager|compiled
"""

import math
import sys
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from bdia.reversible import BdiaStack, TwoPoint
from bdia.reversible.arithmetic.grid import INTEGER_LIMIT
from bdia.reversible.arithmetic.rules import BdiaRule, IntegerBdiaRule, bdia_gradient_factors
from bdia.reversible.engine.kernels import gradient_kernel, inverse_kernel, update_kernel
from helpers.reversible_helpers import assert_bit_equal, gamma_of, gradients, make_blocks, make_tokens

FRACTIONS = ["1/2", "-1/2", "3/5", "-7/3", "7/8", "-1/6", "5", "-5/8"]
GAMMAS = {"halves": ["1/2", "-1/2", "-1/2"], "mixed": FRACTIONS, "fine": ["255/256", "-1/256"]}
SHAPES = {"one program": (5, 24), "several, the last not full": (65, 40), "three dimensions": (3, 7, 8)}


def words(x: Tensor) -> Tensor:
    """A tensor as integers, so that -0.0 differs from 0.0 and a NaN equals itself."""
    return x.view(torch.int32) if x.dtype == torch.float32 else x


# Of each form of the stream: its rule, bits, the largest state drawn, in units, and the first magnitude past its range.
FORMS = {"float32": (BdiaRule, 9, 2**19, 2.0**24), "int32": (IntegerBdiaRule, 14, 2**26, INTEGER_LIMIT)}


def states(stream: str, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random states of a form of the stream; those in int32 of all magnitudes, with both ends of the range."""
    _, bits, reach, _ = FORMS[stream]
    if stream == "float32":
        return torch.randint(-reach, reach, size, generator=generator) / 2**bits
    drawn = torch.randint(-reach, reach, size, generator=generator, dtype=torch.int32)
    drawn >>= torch.randint(0, 27, size, generator=generator, dtype=torch.int32)
    drawn.view(-1)[:2] = torch.tensor([reach, -reach])
    return drawn


def update(
    gamma: list[str], shape: tuple[int, ...], kernel: str, device: str, dtype=torch.float32, special=None,
    stream="float32",
):  # fmt: skip
    """One update, its inverse and its gradients: (what was computed, x_prev, the rebuilt x_prev)."""
    fractions = gamma_of(*gamma)
    generator = torch.Generator().manual_seed(math.prod(shape))
    size = (len(gamma), *shape)
    x_prev, x_curr = (states(stream, size, generator) for _ in range(2))
    y = 50 * torch.randn(size, generator=generator)
    if special is not None:
        y.view(-1)[3] = special
    x_prev, x_curr, y = x_prev.to(device), x_curr.to(device), y.to(device, dtype)
    on_device = type(fractions)(*(part.to(device) for part in fractions))
    kind, bits, _, _ = FORMS[stream]
    rule = kind(on_device, bits, int(fractions.denominator.max() - 1).bit_length())
    result = update_kernel(rule, x_prev, x_curr, y, True, True, kernel)
    bare = update_kernel(rule, x_prev, x_curr, y, False, False, kernel)
    rebuilt = result.x_next.clone()
    total = inverse_kernel(rule, rebuilt, x_curr, y, result.packed, True, kernel)
    factors = bdia_gradient_factors(on_device.value, len(size))
    with torch.no_grad():
        found = gradient_kernel(x_curr.float(), y.float(), factors, True, kernel)
    return [*result, bare.x_next, rebuilt, total, *found], x_prev, rebuilt


def cases(few: bool = False) -> Iterator[tuple[list[str], tuple[int, ...], torch.dtype, float | None]]:
    """Yield gamma, shape, dtype of y, and a value put into y."""
    if few:
        yield GAMMAS["mixed"][:3], (5, 24), torch.bfloat16, None
        yield GAMMAS["halves"], (5, 24), torch.float32, math.nan
        return
    for gamma in GAMMAS.values():
        for shape in SHAPES.values():
            yield gamma, shape, torch.float32, None
    yield GAMMAS["mixed"], (5, 24), torch.bfloat16, None
    for special in (2.0**22, math.inf, math.nan):
        yield GAMMAS["halves"], (5, 24), torch.float32, special


def check_updates(kernel: str, device: str, against: str = "eager", few: bool = False, stream="float32") -> int:
    """Assert that two implementations agree in every bit of every case; return the number of cases."""
    count = 0
    for gamma, shape, dtype, special in cases(few):
        found, x_prev, rebuilt = update(gamma, shape, kernel, device, dtype, special, stream)
        wanted, _, _ = update(gamma, shape, against, device, dtype, special, stream)
        if special is None:
            assert torch.equal(words(rebuilt), words(x_prev))
            for a, b in zip(found, wanted, strict=True):
                assert torch.equal(words(a), words(b)), (gamma, shape, dtype)
        else:  # past the range only the peak is defined
            assert torch.equal(words(found[2]), words(wanted[2])) or (found[2].isnan() and wanted[2].isnan())
            assert not found[2] < FORMS[stream][3]
        count += 1
    return count


def check_stack(kernel: str, against: str = "eager", stream="float32") -> None:
    """Assert that a stack trains to the same bits."""
    blocks, x = make_blocks(4, 0.1), make_tokens()
    assert_bit_equal(
        *(
            gradients(BdiaStack(blocks, TwoPoint("3/5"), kernel=name, stream=stream), x, steps=2)
            for name in (kernel, against)
        )
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy, of values that are not finite
    which, stream, against = sys.argv[1:]
    print(check_updates("triton", "cpu", against, which == "few", stream), "cases agree")
    check_stack("triton", against, stream)
