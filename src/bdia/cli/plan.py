"""Say what memory a training step takes, with every stack, before it runs and without the hardware.

Usage: bdia plan model=vit_paper batch=128 [memory=24GiB] [key=value ...]
       bdia plan model=hf hf.config=llama [hf.hidden_size=2048 ...] [key=value ...]

  model=           a file of configs/model, or hf
  batch=           images, texts or sentence pairs in a step
  tokens=          length of a text, or of source and target of a pair; default: the model's positions
  depth=           blocks (encoder-decoder: of each half); default: the model's
  depths=[12,96]   every stack's peak at each of these depths, and what a further block holds, instead of the plan
  precision=       32-true or bf16-mixed
  device=cuda      or cpu: where our dropout keeps no masks of large tensors
  memory=          an amount such as 24GiB, or a fraction such as 0.5 of the standard stack's peak: what fits into it
                   (largest batch, largest depth), and which stack to take
  num_classes=10   of images
  vocab_size=      of texts; default: GPT-2's 50,257, for sentence pairs 8,000
  out=             write the plan as JSON there
  optimizer=adamw stack=bdia stack.keep=4 model.net.width=768 ...
                   any other choice of configs/train.yaml; if you choose a stack, only it and the standard one
                   are planned

model=hf plans a language model of Hugging Face from its configuration; nothing is downloaded. It prints the longest
text that fits with transformers' own training, with its activation checkpointing, with two levels of it
(`bdia.checkpoint_two_level`), and with BDIA (`bdia.convert`).
  hf.config=       a config.json, a folder that holds one, or a family whose sizes you give: llama, qwen, gpt2
  hf.KEY=          a key of that configuration: hf.hidden_size=2048 hf.num_hidden_layers=24
  batch=1 tokens=4096 depth= device=cuda out=   as above
  devices=1        FSDP2 over so many: weights, gradients and optimizer state are shared out; batch and memory are one's
  memory=[24GiB,80GiB]   one amount or several
  precision=bf16-true    weights in bf16; or 32-true, or bf16-mixed
  loss_chunk=1024  tokens whose logits are made at once; null: the model's own loss, which makes all of them
  optimizer=adamw optimizer.in_backward=true     a file of configs/optimizer and its keys
  optimizer.float32_master=true                  state in float32 and a float32 copy of each weight, for bf16-true

The step is traced with tensors that have a size and no data. Not in the peak: the CUDA context (some 0.5 GiB), the
workspaces of cuBLAS and cuDNN, temporaries inside one operation, the allocator's fragmentation. FLOPs are those of the
step's matrix products, convolutions and attention: no time is predicted.

Examples:
  bdia plan model=vit_large batch=64 precision=bf16-mixed optimizer=adamw memory=24GiB
  bdia plan model=gpt2_paper batch=8 depth=24 stack=bdia stack.keep=4
  bdia plan model=hf hf.config=qwen hf.hidden_size=1024 hf.num_hidden_layers=28 hf.intermediate_size=3072 \\
    optimizer=adamw optimizer.in_backward=true
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bdia import InvalidValueError
from bdia.cli.arguments import MISSING, read_arguments
from bdia.cli.plan_depths import depths_in_text
from bdia.cli.plan_hf import HfArguments, hf_in_text, make_hf_plan
from bdia.profiling.sizes import CATEGORIES, format_bytes, read_memory

if TYPE_CHECKING:
    from bdia.profiling.hf_plan import HfPlan
    from bdia.profiling.planner import Plan, Planner, StackPlan

SCHEMA = 1  # of the JSON
HF = "model=hf"


@dataclass
class Arguments:
    """The command's own arguments; all others choose from configs/train.yaml."""

    batch: int = MISSING
    tokens: int | None = None
    depth: int | None = None
    depths: list[int] = field(default_factory=list)
    precision: str = ""
    device: str = "cuda"
    memory: str = ""
    num_classes: int = 10
    vocab_size: int | None = None
    out: str = ""


def make_plan(overrides: Sequence[str], arguments: Arguments) -> Plan:
    """Return the plan.

    Raises:
        ValueError: as `make_planner`; nothing fits into the memory.
    """
    memory = read_memory(arguments.memory, "memory") if arguments.memory else None
    planner = make_planner(overrides, arguments)
    return planner.plan(int(memory * planner.standard.peak) if isinstance(memory, float) else memory)


def make_planner(overrides: Sequence[str], arguments: Arguments) -> Planner:
    """Return what traces steps.

    Raises:
        ValueError: no model, or an argument that cannot be read.
    """
    from bdia.profiling.planner import Planner

    if not any(override.startswith(("model=", "experiment=")) for override in overrides):
        raise InvalidValueError("model is missing: wanted model=..., see --help")
    if arguments.precision:
        overrides = [*overrides, f"trainer.precision={arguments.precision}"]
    return Planner(
        overrides, arguments.batch, arguments.tokens, arguments.depth, arguments.num_classes, arguments.vocab_size,
        arguments.device,
    )  # fmt: skip


def in_text(plan: Plan) -> str:
    """Return the plan as a table and a line or two."""
    from bdia.results.tables import Table, plain

    values = f"{plan.values:,} {'classes' if plan.kind == 'images' else 'tokens in the vocabulary'}"
    length = f", {plan.tokens} tokens" if plan.tokens else ""
    lines = [
        f"{' '.join(plan.overrides)}: {plan.parameters:,} parameters, {' + '.join(map(str, plan.blocks))} blocks, "
        f"{values}; a step of {plan.batch} {plan.kind}{length}, {plan.precision}, {plan.device}",
        "",
        plain(Table(_header(plan), [_row(stack, plan.memory) for stack in plan.stacks])),
        "",
        "FLOPs: of the step, to the standard stack's. Held per block: activations that a further block holds between "
        "forward and backward.",
    ]
    lines += [f"{stack.name}: {stack.refused}" for stack in plan.stacks if stack.cost is None]
    if plan.policy is not None:
        policy = plan.policy
        lines.append(
            f"Within {format_bytes(plan.memory)}: {' '.join(policy.overrides)}   "
            f"(peak {format_bytes(policy.cost.peak)}, {policy.relative_flops:.2f} of the standard stack's FLOPs)"
        )
    return "\n".join(lines)


def _header(plan: Plan) -> list[str]:
    fitting = [] if plan.memory is None else ["largest batch", "largest depth"]
    return ["stack", "peak", *CATEGORIES, "FLOPs", "held per block", *fitting]


def _row(stack: StackPlan, memory: int | None) -> list[str]:
    if stack.cost is None:
        return [stack.name, "refused", *[""] * (len(CATEGORIES) + (2 if memory is None else 4))]
    sizes = [format_bytes(getattr(stack.cost, name)) for name in ("peak", *CATEGORIES)]
    about = "" if stack.depth_is_traced else "about "
    fitting = [] if memory is None else [str(stack.largest_batch or "none"), about + str(stack.largest_depth or "none")]
    return [stack.name, *sizes, f"{stack.relative_flops:.2f}", format_bytes(stack.held_per_block), *fitting]


def write_plan(plan: Plan | HfPlan, path: Path) -> None:
    """Write the plan as JSON, after the commit and the version of torch that made it."""
    import json
    from datetime import UTC, datetime

    import torch

    from bdia.build import CONFIGS
    from bdia.data.files import write_whole
    from bdia.results.identity import git_state

    now = datetime.now(UTC).isoformat()
    origin = {"schema": SCHEMA, "created_utc": now, "git": git_state(CONFIGS.parent), "torch": torch.__version__}
    write_whole(path, json.dumps(origin | dataclasses.asdict(plan), indent=1) + "\n")


def run(argv: Sequence[str]) -> None:
    """Print the plan, and write it where asked to.

    Raises:
        ValueError: as `make_plan` and `make_hf_plan`; an argument of the one plan is given to the other.
    """
    hf = HF in argv
    own = {field.name for field in dataclasses.fields(HfArguments if hf else Arguments)}
    ours = [word for word in argv if word.partition("=")[0] in own]
    others = [word for word in argv if word not in ours and word != HF]
    for key in (word.partition("=")[0] for word in others if not hf):
        if key in (field.name for field in dataclasses.fields(HfArguments)):
            raise InvalidValueError(f"{key}: read only with {HF}; leave it out, or set {HF}")
    arguments = read_arguments(HfArguments() if hf else Arguments(), ours)
    if isinstance(arguments, Arguments) and arguments.depths:
        print(depths_in_text(arguments.depths, lambda: make_planner(others, arguments)))
        return
    plan = make_hf_plan(others, arguments) if hf else make_plan(others, arguments)
    if arguments.out:
        write_plan(plan, Path(arguments.out))
    print(hf_in_text(plan) if hf else in_text(plan))
