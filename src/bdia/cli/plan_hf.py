"""`bdia plan model=hf`: its arguments, the plan and the table; how to call it stands in `bdia.cli.plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bdia import InvalidValueError
from bdia.profiling.sizes import CATEGORIES, format_bytes, read_memory

if TYPE_CHECKING:
    from bdia.profiling.hf_plan import HfPlan, HfRow


@dataclass
class HfArguments:
    """The command's own arguments; the others are keys of the configuration (hf.KEY) and of the optimizer."""

    batch: int = 1
    tokens: int = 4096
    depth: int | None = None
    precision: str = "bf16-true"
    device: str = "cuda"
    devices: int = 1
    memory: str = "[24GiB,80GiB]"
    loss_chunk: int | None = 1024
    out: str = ""


def make_hf_plan(words: Sequence[str], arguments: HfArguments) -> HfPlan:
    """Return the plan.

    Args:
        words: hf.config=, hf.KEY= and what chooses the optimizer.
    Raises:
        ValueError: another word, no configuration, or an argument that cannot be read.
    """
    from bdia.build import build_optimizer, compose
    from bdia.profiling.hf_model import HfSteps, read_config
    from bdia.profiling.hf_plan import HfPlan, HfPlanner

    sizes = _sizes(words)
    if "config" not in sizes:
        raise InvalidValueError("hf.config is missing: wanted hf.config=..., see --help")
    optimizer = [word for word in words if word.lstrip("+").startswith("optimizer")]
    cfg = compose(optimizer)
    memories = [_amount(text) for text in arguments.memory.strip("[]").split(",")]
    source = str(sizes.pop("config"))
    config = read_config(source, sizes)
    if arguments.devices > 1 and cfg.optimizer.get("in_backward"):
        raise InvalidValueError(
            f"devices={arguments.devices} with optimizer.in_backward=true: FSDP2 exchanges whole gradients before the "
            "step; set devices=1 or optimizer.in_backward=false"
        )
    if arguments.precision in ("32-true", "bf16-mixed") and cfg.optimizer.get("float32_master"):
        raise InvalidValueError(
            f"precision={arguments.precision} with optimizer.float32_master=true: the weights are float32 already; set "
            "precision=bf16-true or optimizer.float32_master=false"
        )
    for key in ("batch", "tokens"):
        if getattr(arguments, key) < 1:
            raise InvalidValueError(f"{key}={getattr(arguments, key)}: wanted at least 1; set {key}")
    steps = HfSteps(
        config, build_optimizer(cfg), arguments.batch, arguments.precision, arguments.loss_chunk,
        arguments.device,
    )  # fmt: skip
    planner = HfPlanner(steps, arguments.depth, arguments.devices)
    return HfPlan(
        config=" ".join([source, *(f"{key}={value}" for key, value in sizes.items())]),
        parameters=planner.parameters, layers=planner.depth,
        positions=getattr(config, "max_position_embeddings", None), devices=arguments.devices,
        batch=arguments.batch, tokens=arguments.tokens,
        precision=arguments.precision, optimizer=" ".join(optimizer) or "optimizer=set_adam", device=arguments.device,
        memories=tuple(memories), ways=planner.rows(arguments.tokens, memories),
    )  # fmt: skip


def _sizes(words: Sequence[str]) -> dict[str, Any]:
    """Return the values of hf.KEY=VALUE, read as YAML."""
    import yaml

    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if key.startswith("hf.") and equals:
            found[key.removeprefix("hf.")] = yaml.safe_load(text)
        elif not word.lstrip("+").startswith("optimizer"):
            raise InvalidValueError(f"{word}: model=hf reads hf.KEY=..., optimizer=... and what --help says")
    return found


def _amount(text: str) -> int:
    memory = read_memory(text, "memory")
    if isinstance(memory, float):
        raise InvalidValueError(f"memory={text}: model=hf wants an amount such as 24GiB; set memory")
    return memory


def hf_in_text(plan: HfPlan) -> str:
    """Return the plan as a table and a line or two."""
    from bdia.results.tables import Table, plain

    longest = [f"longest in {format_bytes(memory)}" for memory in plan.memories]
    shared = f" on each of {plan.devices} devices, FSDP2" if plan.devices > 1 else ""
    lines = [
        f"{plan.config}: {plan.parameters:,} parameters, {plan.layers} layers; a step of {plan.batch} texts of "
        f"{plan.tokens:,} tokens{shared}, {plan.precision}, {plan.optimizer}, {plan.device}",
        "",
        plain(Table(["training", "peak", *CATEGORIES, "held", *longest], [_row(way, plan) for way in plan.ways])),
        "",
        "Longest: tokens of each text. Held: activations between forward and backward.",
    ]
    if plan.positions is not None:
        lines.append(f"The configuration says {plan.positions:,} positions; memory is what is planned here.")
    return "\n".join([*lines, *(f"{way.name}: {way.refused}" for way in plan.ways if way.refused)])


def _row(way: HfRow, plan: HfPlan) -> list[str]:
    if way.refused:
        return [way.name, "refused", *[""] * (len(CATEGORIES) + 1 + len(plan.memories))]
    sizes: Mapping[str, int] = way.sizes
    shown = [format_bytes(sizes[name]) for name in ("peak", *CATEGORIES, "held")]
    return [way.name, *shown, *(f"{tokens:,}" if tokens else "none" for tokens in way.longest)]
