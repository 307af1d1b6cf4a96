"""Random small models, stacks and options, with faults injected, until the time is up: zero wrong bits is the aim.

Usage: python scripts/soak.py [key=value ...]

  minutes=30           in all; half of it inverts single updates, half trains random models
  inversions=1000000   of single updates, at most
  seed=0               of the first trial; trial n has seed + n
  trial=null           run the trial of this seed alone and print it
  out=results/soak     folder of the record

A trial takes one training step with a reversible or recomputing stack and the same step with everything stored. Output,
gradients and the random state afterwards must be equal to the last bit. Half of the trials inject a fault: an exception
in a layer (in forward, in recomputation, in backward), NaN in the input, a stream past the grid's range, a flipped bit
in the side information or in a stream that is held, a layer that does not repeat itself. Verdicts: *equal*, *refused*
by an error that names the cause, SILENT (wrong bits without an error), CRASH (anything else). After a fault the same
model takes a step without one, which must be right again. Each trial is a process of its own.

Every eighth trial is a small GPT-2 or Llama of transformers, converted. Every fortieth is a whole training that is
killed and finds its disk full (`scripts/kill_and_resume.py`), and must end with the bits of an uninterrupted one.

No check looks at bits that autograd holds (activations of kept blocks, masks of dropout), at the saved random state, or
at the held streams of converted models: these are not flipped. A layer that does not repeat itself under checkpointing
goes unseen, as with torch's own: counted as *unchecked*.
"""

import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kill_and_resume
import torch
from torch import Tensor, nn

from bdia import BdiaError
from bdia.bench.studies.record import StudyRecord
from bdia.cli.arguments import script_arguments
from bdia.models.attention import SelfAttention
from bdia.models.blocks import Block, feed_forward
from bdia.reversible import (
    BdiaStack,
    CheckpointStack,
    Discrete,
    Growing,
    Ramp,
    RevVitStack,
    StandardStack,
    TwoLevelCheckpointStack,
    TwoPoint,
    convert,
)
from bdia.reversible.arithmetic.gamma import Gamma
from bdia.reversible.arithmetic.grid import quantize
from bdia.reversible.arithmetic.rules import BdiaRule
from bdia.reversible.stacks.branches import branches

EVERY, EVERY_RUN = 8, 40  # trials: one with a model of transformers, one that is a whole training
CHECKED = ("bdia", "hf_gpt2", "hf_llama", "revvit")  # what must find a layer that does not repeat itself
WIDTH, RANDOM_STATE = 16, torch.get_rng_state().numel()
FAULTS = ("forward", "recomputation", "backward", "nan", "overflow", "side", "state", "unsteady")
FRACTIONS = ("1/2", "1/4", "3/5", "1", "1/16", "2/3", "7/8", "5/7")


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    minutes: float = 30.0
    inversions: int = 1_000_000
    seed: int = 0
    trial: int | None = None
    out: str = "results/soak"


class Injected(Exception):
    """The fault that a trial injects into a layer."""


class Switch(nn.Module):
    """Pass the stream on; raise, or add noise of another source than torch, where it is told to."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.fault, self.noise = block, "", random.Random(0)
        self.calls = [0]  # in a list: the engine warns of numbers that a recomputation changes

    def branches(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Attention with the fault, and the MLP: for RevViT."""
        attention, mlp = branches(self.block)
        return lambda x: self._run(attention, x), mlp

    def forward(self, x: Tensor) -> Tensor:
        """Run the block, with the fault."""
        return self._run(self.block, x)

    def _run(self, function: Callable[..., Tensor], x: Tensor) -> Tensor:
        self.calls[0] += 1
        if self.fault == "forward" or (self.fault == "recomputation" and self.calls[0] > 1):
            raise Injected(self.fault)
        y = function(x)
        if self.fault == "backward" and y.requires_grad:
            y.register_hook(_raise)
        return y + self.noise.random() if self.fault == "unsteady" else y


def _raise(gradient: Tensor) -> Tensor:
    raise Injected("backward")


class Converted(nn.Module):
    """A language model of transformers, as a function of its embeddings."""

    def __init__(self, kind: str, depth: int, seed: int) -> None:
        import transformers  # here: it takes seconds, and seven of eight trials need none

        super().__init__()
        torch.manual_seed(seed)
        if kind == "gpt2":
            sizes = {"n_embd": WIDTH, "n_layer": depth, "n_head": 2, "n_positions": 16, "vocab_size": 8}
            self.model = transformers.GPT2Model(transformers.GPT2Config(**sizes))
            layers = self.model.h
        else:
            sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": depth, "vocab_size": 8}
            heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
            self.model = transformers.LlamaModel(transformers.LlamaConfig(**sizes, **heads))
            layers = self.model.layers
        for layer in layers:
            layer.mlp = Switch(layer.mlp)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.model(inputs_embeds=x, use_cache=False).last_hidden_state


def make_converted(
    at: random.Random, seed: int, plain: bool
) -> tuple[str, Callable[[], nn.Module], Callable[[], nn.Module]]:
    """As `make_stacks`, with a model of transformers."""
    kind, depth, bits = at.choice(("gpt2", "llama")), at.randint(2, 6), at.randint(6, 11)
    keep, law = 0 if plain else at.choice((0, 0, 1)), at.choice(("1/2", "1/4", "1/16"))

    def made(**settings: Any) -> nn.Module:
        net = Converted(kind, depth, seed).train()
        convert(net.model, law, bits, **settings)
        return net

    return (
        f"hf_{kind} depth {depth} bits {bits} keep {keep} gamma {law}",
        lambda: made(keep=keep),
        lambda: made(backward="stored"),
    )


class Conv(nn.Module):
    """A residual block of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return x + self.drop(torch.tanh(self.conv(x.transpose(1, 2)).transpose(1, 2)))


def make_blocks(at: random.Random, seed: int, depth: int, two_branches: bool) -> list[nn.Module]:
    """Return blocks with weights by the seed; some may share their weights."""
    torch.manual_seed(seed)
    dropout = at.choice((0.0, 0.1))
    blocks: list[nn.Module] = []
    for _ in range(depth):
        if blocks and at.random() < 0.15:
            blocks.append(Switch(blocks[-1].block))
        elif two_branches or at.random() < 0.7:
            attention = SelfAttention(WIDTH, 2, causal=at.random() < 0.5, dropout=dropout, attention_dropout=0.0)
            blocks.append(Switch(Block(WIDTH, attention, feed_forward(WIDTH, 32, dropout, hidden_dropout=dropout))))
        else:
            blocks.append(Switch(Conv()))
    return blocks


def make_law(at: random.Random, depth: int) -> Any:
    """Return a gamma law that has an inverse."""
    kind, per = at.choice(("two", "two", "discrete", "ramp", "growing")), at.choice(("sample", "sample", "batch"))
    values = at.sample(FRACTIONS, 2)
    if kind == "discrete":
        return Discrete({values[0]: 0.5, f"-{values[1]}": 0.5}, per=per)
    if kind == "ramp":
        return Ramp(values, every=1, per=per)
    return Growing(depth, "1/8", "1/2") if kind == "growing" else TwoPoint(values[0], per=per)


def make_stacks(
    at: random.Random, seed: int, plain: bool
) -> tuple[str, Callable[[], nn.Module], Callable[[], nn.Module]]:
    """Return what a trial is about, the stack, and the same with everything stored.

    Args:
        plain: a BDIA stack whose blocks keep nothing, so that all that is held is side information and two streams.
    """
    depth, kind = at.randint(2, 9), at.choice(("bdia", "bdia", "bdia", "checkpoint", "two_level", "revvit"))
    kind, state = "bdia" if plain else kind, at.getstate()

    def blocks() -> list[nn.Module]:
        at.setstate(state)
        return make_blocks(at, seed, depth, kind == "revvit")

    blocks()
    keep: Any = 0 if plain else at.choice((0, 1, 2, sorted(at.sample(range(depth), min(2, depth)))))
    if kind == "bdia":
        bits, law, kernel = at.randint(5, 12), make_law(random.Random(seed), depth), at.choice(("eager", "auto"))
        save = at.choice(((), ("matmul",), ("attention",)))
        shown = f"bdia depth {depth} bits {bits} keep {keep} save {save} {law}"
        return (
            shown,
            lambda: BdiaStack(
                blocks(), make_law(random.Random(seed), depth), bits, keep=keep, save=save, kernel=kernel
            ),
            lambda: BdiaStack(blocks(), make_law(random.Random(seed), depth), bits, backward="stored", kernel="eager"),
        )
    if kind == "revvit":
        bits = at.randint(5, 12)
        return (
            f"revvit depth {depth} bits {bits}",
            lambda: RevVitStack(blocks(), grid_bits=bits, keep=keep),
            lambda: RevVitStack(blocks(), grid_bits=bits, keep=depth),
        )
    if kind == "two_level":
        segments = at.choice((None, 1, 2))
        return (
            f"two_level depth {depth} {segments}",
            lambda: TwoLevelCheckpointStack(blocks(), segments),
            lambda: StandardStack(blocks()),
        )
    return (
        f"checkpoint depth {depth} keep {keep}",
        lambda: CheckpointStack(blocks(), keep=keep),
        lambda: StandardStack(blocks()),
    )


def step(
    stack: nn.Module, x: Tensor, seed: int, mixed: bool, between: Callable[[Tensor], bool] | None = None
) -> dict[str, Any]:
    """Take a step; return output, gradients and the random state afterwards. `between` forward and backward."""
    torch.manual_seed(seed)
    stack.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
        out = stack(x)
    found = between(out) if between is not None else False  # here: the loss would hold tensors of its own
    kept = out.detach().clone()
    loss = (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() + out.float().square().mean()
    loss.backward()
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in stack.named_parameters()}
    return {"out": kept, "x": x.grad, **gradients, "random": torch.get_rng_state(), "flipped": torch.tensor(found)}


def different(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the names of what differs."""
    names = found.keys() | wanted.keys() - {"flipped"}
    return [name for name in sorted(names - {"flipped"}) if not _equal(found.get(name), wanted.get(name))]


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is None and b is None if a is None or b is None else torch.equal(a, b)


def flip(at: random.Random, known: set[int], fault: str, out: Tensor) -> bool:
    """Flip one bit of the side information, or of a stream that the engine holds beside the output; False for none."""
    side = fault == "side"
    gc.collect()
    held = [
        thing for thing in gc.get_objects()
        if type(thing) is Tensor and id(thing) not in known and thing.numel() and not thing.requires_grad
        and (thing.dtype == torch.uint8 and thing.numel() != RANDOM_STATE if side
             else thing.dtype == torch.float32 and thing.shape == out.shape and thing.data_ptr() != out.data_ptr())
    ]  # fmt: skip
    if not held:
        return False
    tensor = at.choice(held)
    data = tensor.data.view(torch.uint8 if side else torch.int32).flatten()
    place = at.randrange(data.numel())
    with torch.no_grad():
        data[place] ^= 1 << at.randrange(8 if side else 23)
    return True


def trial(seed: int) -> dict[str, Any]:
    """Run one trial; return what it was and its verdict."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the engine tells once what it stores
    at = random.Random(seed)
    fault, of_others = at.choice(FAULTS) if at.random() < 0.5 else "", seed % EVERY == EVERY - 1
    fault = "side" if of_others and fault == "state" else fault
    shown, make, make_stored = (make_converted if of_others else make_stacks)(at, seed, fault in ("side", "state"))
    shape = (at.randint(1, 4), at.randint(1, 9), WIDTH)
    torch.manual_seed(seed + 1)
    x, mixed = torch.randn(shape) * at.choice((0.1, 1.0, 10.0)), at.random() < 0.3
    stack, stored = make().train(), make_stored().train()
    row = {"seed": seed, "stack": shown.partition(" ")[0], "what": shown, "mixed": mixed, "fault": fault}
    wanted = step(stored, x, seed, mixed)
    if fault:
        row["verdict"], row["said"] = faulty(at, stack, make_stored, x, seed, mixed, fault, wanted)
        if row["verdict"] == "SILENT" and fault == "unsteady" and row["stack"] not in CHECKED:
            row["verdict"] = "unchecked"
        if row["verdict"] in ("SILENT", "CRASH"):
            return row
        for module in stack.modules():
            if isinstance(module, Switch):
                module.fault, module.calls[0] = "", 0
        if "Ramp" in shown:
            return row  # its gamma counts the steps that were taken
    wrong = different(step(stack, x, seed, mixed), wanted)
    return (
        row if fault and not wrong else {**row, "verdict": "SILENT" if wrong else "equal", "said": ", ".join(wrong[:5])}
    )


def switches_of(stack: nn.Module) -> list[Switch]:
    """Return the places of a fault, in an order that does not depend on the stack."""
    return [module for module in stack.modules() if isinstance(module, Switch)]


def faulty(
    at: random.Random, stack: nn.Module, make_stored: Callable[[], nn.Module], x: Tensor, seed: int, mixed: bool,
    fault: str, wanted: dict[str, Any],
) -> tuple[str, str]:  # fmt: skip
    """Take a step with a fault; return the verdict and what was said."""
    switches = switches_of(stack)
    place, between = at.randrange(len(switches)), None
    if fault in ("forward", "recomputation", "backward", "unsteady"):
        switches[place].fault = fault
        if fault == "unsteady":  # the same noise in the one call of a stack that stores everything
            stored = make_stored().train()
            switches_of(stored)[place].fault = fault
            wanted = step(stored, x, seed, mixed)
    elif fault == "nan":
        x = x.clone()
        x.view(-1)[at.randrange(x.numel())] = float("nan")
    elif fault == "overflow":
        x = x * 1e7
    else:
        known = {id(thing) for thing in gc.get_objects()}
        between = lambda out: flip(at, known, fault, out)  # noqa: E731
    try:
        found = step(stack, x, seed, mixed, between)
    except (Injected, BdiaError) as error:
        return "refused", f"{type(error).__name__}: {str(error)[:150]}"
    if fault in ("nan", "overflow"):
        finite = bool(torch.isfinite(found["out"]).all())
        return (
            ("equal", "no grid: NaN and large numbers pass on")
            if not any(isinstance(part, BdiaStack | Converted) for part in stack.modules()) or finite
            else ("SILENT", "out")
        )
    wrong = different(found, wanted)
    if fault in ("recomputation", "backward", "forward", "unsteady"):
        # Nothing was recomputed, or no gradient came by: the fault never happened.
        return (
            ("equal", "the fault did not happen, or nothing depends on it")
            if not wrong
            else ("SILENT", ", ".join(wrong[:5]))
        )
    if not wrong:
        return "equal", "nothing held to flip" if not found["flipped"] else "a bit that nothing reads"
    return "SILENT", ", ".join(wrong[:5])


def in_child(seed: int) -> dict[str, Any]:
    """Run a trial in a process of its own, so that a crash is seen."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(120)
        try:
            found = trial(seed)
        except BaseException as error:
            found = {
                "seed": seed,
                "stack": "?",
                "what": "?",
                "fault": "?",
                "verdict": "CRASH",
                "said": f"{type(error).__name__}: {error}"[:300],
            }
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return (
        json.loads(text)
        if text
        else {"seed": seed, "stack": "?", "what": "?", "fault": "?", "verdict": "CRASH", "said": f"exit {status}"}
    )


def interrupted(base: Path, whole: kill_and_resume.Whole, seed: int) -> dict[str, Any]:
    """Run a training that is killed and finds a full disk; it must come to what the uninterrupted one came to."""
    found, killed = kill_and_resume.compared_run(base / str(seed), whole, random.Random(seed), 4, seed, full=0.4)
    faults = [row["signal"] for row in killed]
    row = {"seed": seed, "stack": "training", "what": ", ".join(faults), "fault": "kills, full disk"}
    return {**row, "verdict": "SILENT" if found else "equal", "said": "; ".join(found)[:300]}


def invert(seed: int, until: float, most: int) -> dict[str, int]:
    """Invert single updates of random streams, gammas and grids; return how many, and how many bits were wrong."""
    at, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    count = wrong = refused = 0
    while count < most and time.monotonic() < until:
        bits, batch = at.randint(1, 20), at.randint(1, 4)
        limit = 2.0 ** (24 - bits)
        size = limit * at.choice((1e-6, 1e-3, 0.05, 0.2, 0.45))
        prev, curr = (quantize((torch.rand(batch, 5, 8, generator=generator) * 2 - 1) * size, bits) for _ in range(2))
        y = curr + (torch.rand(batch, 5, 8, generator=generator) * 2 - 1) * size * at.choice((0.0, 1e-30, 0.1, 1.0))
        q = [at.randint(1, 256) for _ in range(batch)]
        p = [at.choice((-1, 1)) * at.randint(1, max(1, min(256, 2 * each))) for each in q]
        rule = BdiaRule(Gamma(torch.tensor(p, dtype=torch.int32), torch.tensor(q, dtype=torch.int32)), bits, 8)
        x_next, side, _ = rule.advance(prev, curr, y, slice(None))
        if x_next.abs().max() >= limit or not torch.isfinite(x_next).all():
            refused += 1  # the range check of a pass refuses it
            continue
        back = rule.invert(x_next, curr, y, side, slice(None))
        wrong += int((back.view(torch.int32) != prev.view(torch.int32)).sum())
        count += 1
    return {"inversions": count, "values_wrong": wrong, "past_the_range": refused}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, soak, write the record."""
    arguments = script_arguments(Arguments(), __doc__, argv)
    if arguments.trial is not None:
        print(json.dumps(trial(arguments.trial), indent=1))
        return
    torch.set_num_threads(1)
    record, start = StudyRecord("soak", asdict(arguments), Path(arguments.out)), time.monotonic()
    inverted = invert(arguments.seed, start + 30 * arguments.minutes, arguments.inversions)
    print(inverted, flush=True)
    rows: list[dict[str, Any]] = []
    base = Path(tempfile.mkdtemp(prefix="bdia-soak-"))
    try:
        import transformers  # noqa: F401 -- once, before the forks

        whole = kill_and_resume.whole_run(base)
        while time.monotonic() < start + 60 * arguments.minutes:
            seed = arguments.seed + len(rows)
            is_run = len(rows) % EVERY_RUN == EVERY_RUN - 1
            rows.append(interrupted(base, whole, seed) if is_run else in_child(seed))
            if rows[-1]["verdict"] in ("SILENT", "CRASH"):
                print(f"{rows[-1]['verdict']}: python scripts/soak.py trial={rows[-1]['seed']}: {rows[-1]}", flush=True)
    except KeyboardInterrupt:
        print("interrupted; what was found is recorded")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    counts = Counter((row["stack"], row["fault"] or "none", row["verdict"]) for row in rows)
    table = [{"stack": s, "fault": f, "verdict": v, "trials": n} for (s, f, v), n in sorted(counts.items())]
    bad = [row for row in rows if row["verdict"] in ("SILENT", "CRASH")]
    print(record.write([{"trials": len(rows), **inverted}, *table, *bad]))
    for row in table:
        print(f"{row['stack']:<11} {row['fault']:<14} {row['verdict']:<8} {row['trials']}")
    print(f"{len(rows)} trials, {len(bad)} bad; {inverted}")
    sys.exit(1 if bad or inverted["values_wrong"] else 0)


if __name__ == "__main__":
    main()
