"""Fig. 2: how far the inverse of the BDIA update is off, block by block from the last, in float and on the grid.

K blocks, B texts, T tokens, D width. The float form is that of section 4.1 in the dtype of the stream; its inverse
divides the rounding error of every block by gamma. The exact form is that of section 4.3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bdia.build import compose
from bdia.profiling.workload import build_workload
from bdia.reversible import BlockStack, TwoPoint
from bdia.reversible.arithmetic.gamma import Gamma, as_fraction
from bdia.reversible.arithmetic.grid import quantize
from bdia.reversible.arithmetic.rules import BdiaRule
from bdia.reversible.arithmetic.step import column, float_inverse, float_step

ALL = slice(None)


@dataclass
class Arguments:
    """What is measured.

    Args:
        model: a file of configs/model, a language model; width, heads: its size. tokens: T. batch: B.
        depths: values of K. dtypes: of the float form. gamma: its magnitude, a fraction. bits: grid of the exact form.
        seeds: of weights, text and gamma.
    """

    model: str = "gpt2_demo"
    width: int = 256
    heads: int = 8
    depths: list[int] = field(default_factory=lambda: [12, 24, 48])
    dtypes: list[str] = field(default_factory=lambda: ["float32", "bfloat16", "float64"])
    batch: int = 4
    tokens: int = 128
    gamma: str = "1/2"
    bits: int = 9
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each model: depth, seed, form, the block k whose input is rebuilt, and the error of x_k.

    `error` is the largest |difference| over the stream, `relative` divides it by the root mean square of x_k.
    """
    for depth in arguments.depths:
        for seed in arguments.seeds:
            blocks, x = _model(arguments, depth, seed)
            gammas = _gammas(arguments, depth, seed)
            rows = []
            for dtype in arguments.dtypes:
                states = float_states(blocks, x, gammas, getattr(torch, dtype))
                rows += [{"form": dtype, **row} for row in errors(states, float_rebuilt(blocks, states, gammas))]
            states, sides = exact_states(blocks, x, gammas, arguments.bits)
            rebuilt = exact_rebuilt(blocks, states, sides, gammas, arguments.bits)
            rows += [{"form": "exact", **row} for row in errors(states, rebuilt)]
            yield [{"depth": depth, "seed": seed, **row} for row in rows]


def _model(arguments: Arguments, depth: int, seed: int) -> tuple[Sequence[nn.Module], Tensor]:
    """Return the blocks of a model with drawn weights, without dropout, and the stream (B, T, D) that enters them."""
    choices = [f"model={arguments.model}", "stack=standard", f"model.net.depth={depth}", f"seed={seed}"]
    choices += [f"model.net.width={arguments.width}", f"model.net.heads={arguments.heads}"]
    workload = build_workload(compose(choices), arguments.batch, arguments.tokens)
    net = workload.task.net.eval()
    (stack,) = (module for module in net.modules() if isinstance(module, BlockStack))
    seen: list[Tensor] = []
    stack.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        net(workload.batch[0][:, :-1])
    return list(stack.blocks), seen[0]


def _gammas(arguments: Arguments, depth: int, seed: int) -> list[Gamma]:
    """Draw one fraction per text for every block; that of block 0 is not read."""
    law, generator = TwoPoint(as_fraction(arguments.gamma)), torch.Generator().manual_seed(seed)
    return [law.sample(arguments.batch, generator, torch.device("cpu")) for _ in range(depth)]


@torch.no_grad()
def float_states(blocks: Sequence[nn.Module], x: Tensor, gammas: Sequence[Gamma], dtype: torch.dtype) -> list[Tensor]:
    """Return x_0..x_K of the float form in a dtype; the blocks compute in it too."""
    states = [x.to(dtype)]
    states.append(_run(blocks[0], states[0]))
    for k in range(1, len(blocks)):
        gamma = column(gammas[k].value.to(dtype), x.dim())
        states.append(float_step(states[k - 1], states[k], _run(blocks[k], states[k]), gamma))
    return states


@torch.no_grad()
def float_rebuilt(blocks: Sequence[nn.Module], states: Sequence[Tensor], gammas: Sequence[Gamma]) -> list[Tensor]:
    """Return x_0..x_K, rebuilt from the last two by the inverse of the float form."""
    rebuilt = [*states[-2:]]
    for k in range(len(blocks) - 1, 0, -1):
        x_curr, x_next = rebuilt[0], rebuilt[1]
        gamma = column(gammas[k].value.to(x_curr.dtype), x_curr.dim())
        rebuilt.insert(0, float_inverse(x_next, x_curr, _run(blocks[k], x_curr), gamma))
    return rebuilt


@torch.no_grad()
def exact_states(
    blocks: Sequence[nn.Module], x: Tensor, gammas: Sequence[Gamma], bits: int
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return x_0..x_K of the exact form, float32 on the grid, and the side information of every block."""
    states: list[Tensor] = [quantize(x, bits)]
    states.append(quantize(_run(blocks[0], states[0]), bits))
    sides: list[Tensor | None] = [None]
    for k in range(1, len(blocks)):
        rule = BdiaRule(gammas[k], bits, side_bits=0)
        x_next, side, _ = rule.advance(states[k - 1], states[k], _run(blocks[k], states[k]), ALL)
        states.append(x_next)
        sides.append(side)
    return states, sides


@torch.no_grad()
def exact_rebuilt(
    blocks: Sequence[nn.Module],
    states: Sequence[Tensor],
    sides: Sequence[Tensor | None],
    gammas: Sequence[Gamma],
    bits: int,
) -> list[Tensor]:
    """Return x_0..x_K, rebuilt from the last two and the side information."""
    rebuilt = [*states[-2:]]
    for k in range(len(blocks) - 1, 0, -1):
        rule, x_curr = BdiaRule(gammas[k], bits, side_bits=0), rebuilt[0]
        rebuilt.insert(0, rule.invert(rebuilt[1], x_curr, _run(blocks[k], x_curr), sides[k], ALL))
    return rebuilt


def errors(states: Sequence[Tensor], rebuilt: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Return for every x_k the largest error, and that divided by the root mean square of x_k."""
    rows = []
    for k, (wanted, found) in enumerate(zip(states, rebuilt, strict=True)):
        error = (wanted.double() - found.double()).abs().max().item()
        size = wanted.double().square().mean().sqrt().item()
        rows.append({"k": k, "error": error, "relative": error / size})
    return rows


def _run(block: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = block.to(x.dtype)(x)
    return out


def told(rows: Sequence[dict[str, Any]]) -> str:
    """Return one line on the rows of a model: the error of its first stream in every form."""
    firsts = ", ".join(f"{row['form']} {row['relative']:.1e}" for row in rows if row["k"] == 0)
    return f"{rows[0]['depth']} blocks, seed {rows[0]['seed']}: relative error of x_0: {firsts}"
