"""Compare what two commits compute: a seeded demo, gradients of every stack, composed configs. Equal means bit for bit.

Each commit is checked out and runs in processes of its own, with one thread. A `_target_` that was renamed
(`bdia.results.renamed`) is no difference; times are not compared. A stack or an experiment that only the first commit
has is a difference, one that only the second has is a note. Exit code 1 where anything differs.

    python scripts/golden_check.py 97832fb           # against HEAD: gradients, configs, ten epochs of the demo
    python scripts/golden_check.py 97832fb HEAD --epochs 1 --stacks bdia
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from commits import checked_out, environment

from bdia.results.renamed import with_public_names

TIMES = ("ms", "s", "images/s", "tokens/s")  # units of metrics that are not compared

# A SHA-256 per stack: output, gradient of the input, gradient of every parameter. Public names only.
GRADIENTS = """
import hashlib, json, torch
from timm.models.vision_transformer import Block
import bdia, bdia.reversible as names
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack, TwoPoint

torch.set_num_threads(1)

def digest(tensors):
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        total.update(tensor.detach().contiguous().numpy().tobytes())
    return total.hexdigest()

def blocks(depth):
    torch.manual_seed(0)
    return [Block(32, 4, proj_drop=0.1) for _ in range(depth)]

def step(model):
    torch.manual_seed(1)
    x = torch.randn(3, 7, 32, requires_grad=True)
    out = model(x)
    out.square().mean().backward()
    return digest([out, x.grad, *(p.grad for p in model.parameters())])

def converted(model):
    bdia.convert(model)
    return model

layer = lambda: torch.nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True)
makers = {
    "standard": StandardStack,
    "checkpoint": CheckpointStack,
    "revvit": RevVitStack,
    "revvit on a grid": lambda b: RevVitStack(b, grid_bits=9),
    "bdia": BdiaStack,
    "bdia, keep=0": lambda b: BdiaStack(b, keep=0),
    "bdia, gamma=1/4": lambda b: BdiaStack(b, TwoPoint("1/4"), bits=7),
    "bdia, one gamma per batch": lambda b: BdiaStack(b, TwoPoint("1/2", per="batch")),
    "bdia without a grid": lambda b: BdiaStack(b, bits=None),
    "bdia, stored": lambda b: BdiaStack(b, backward="stored"),
    "bdia, kernel=compiled": lambda b: BdiaStack(b, kernel="compiled"),
}
found = {}
for depth in (1, 2, 5, 6):
    for name, make in makers.items():
        found[f"{name}, {depth} blocks"] = step(make(blocks(depth)))
if hasattr(names, "convert"):
    torch.manual_seed(0)
    found["convert"] = step(converted(torch.nn.TransformerEncoder(layer(), 5, enable_nested_tensor=False)))
print(json.dumps(found))
"""

CONFIGS = """
import json, sys
from pathlib import Path
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

folder, found = Path(sys.argv[1]) / "configs", {}
for path in sorted((folder / "experiment").glob("*.yaml")):
    with initialize_config_dir(str(folder), version_base="1.3"):
        cfg = compose("train", overrides=[f"experiment={path.stem}"], return_hydra_config=True)
        hydra = OmegaConf.to_container(cfg.hydra, resolve=False)
        OmegaConf.set_readonly(cfg, False)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        cfg = OmegaConf.to_container(cfg, resolve=True)
        found[path.stem] = {"config": cfg, "mode": hydra["mode"], "sweep": hydra["sweeper"]["params"]}
print(json.dumps(found, default=str))
"""

DEMO = """
import hashlib, json, sys, torch
from pathlib import Path

folder = Path(sys.argv[1])
(record,) = folder.glob("results/**/*.json")
(checkpoint,) = folder.glob("runs/**/final.ckpt")
weights, total = torch.load(checkpoint, weights_only=False)["state_dict"], hashlib.sha256()
for name, tensor in weights.items():
    total.update(name.encode())
    total.update(tensor.contiguous().numpy().tobytes())
record = json.loads(record.read_text())
print(json.dumps({"metrics": record["metrics"], "config": record["config"], "hash of the config":
                  record["config_sha256"], "weights": total.hexdigest()}))
"""


def run(tree: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Run Python on a tree's code and return what it printed; its own errors are shown, and end the check."""
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, cwd=cwd or tree, env=environment(tree), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{tree}: {' '.join(arguments[:3])[:80]} failed\n{done.stderr[-3000:]}")
    return done.stdout


def ask(tree: Path, code: str, *arguments: str) -> dict[str, Any]:
    """Run one of the programs above; return the last line that it printed, read as JSON."""
    return json.loads(run(tree, "-c", code, *arguments).splitlines()[-1])


def demo(tree: Path, stack: str, epochs: int | None) -> dict[str, Any]:
    """Train the demo on one stack; return its record and weights."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["experiment=demo", "hydra.mode=RUN", f"stack={stack}", "seed=0", "logger=csv"]
        overrides += ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
        overrides += [] if epochs is None else [f"trainer.max_epochs={epochs}"]
        run(tree, "-m", "bdia.train", *overrides, cwd=Path(folder))
        found = ask(tree, DEMO, folder)
    rows = [row for row in found.pop("metrics") if row["unit"] not in TIMES]
    for kind, of_kind in (("results", lambda row: row["unit"] != "MiB"), ("memory", lambda row: row["unit"] == "MiB")):
        named = {
            f"{row['name']}, {row.get('split')}, step {row.get('step')}": row["value"] for row in rows if of_kind(row)
        }
        found[kind] = named
    return found


def difference(before: Any, after: Any, path: str = "") -> str | None:
    """Return the first place in which two values differ, None where they are equal."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            here = f"{path}.{key}" if path else str(key)
            if key not in before or key not in after:
                return f"{here} is only in the {'second' if key not in before else 'first'}"
            found = difference(before[key], after[key], here)
            if found:
                return found
        return None
    return None if before == after else f"{path}: {before!r} became {after!r}".removeprefix(": ")


def renamed(config: Any) -> Any:
    """Return a config in which every class has its present name."""
    return with_public_names({"": config})[""]


class Item(NamedTuple):
    """What was compared.

    Args:
        wrong: the difference, None where there is none.
        note: said of an item that does not differ.
    """

    name: str
    wrong: str | None = None
    note: str = "equal"

    def __str__(self) -> str:
        return f"{self.name}: {f'different: {self.wrong}' if self.wrong else self.note}"


def compared(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Item]:
    """Yield an item for each key of two documents; one that only the first has is a difference."""
    for key in dict.fromkeys([*before, *after]):
        name = f"{what}: {key}"
        if key not in after:
            yield Item(name, "only in the first")
        elif key not in before:
            yield Item(name, note="only in the second")
        else:
            wrong = difference(renamed(before[key]), renamed(after[key]))
            yield Item(name, wrong, "equal" if before[key] == after[key] else "equal but for renamed classes")


def items(first: Path, second: Path, stacks: list[str], epochs: int | None) -> Iterator[Item]:
    """Yield what was compared."""
    yield from compared("gradients", *(ask(tree, GRADIENTS) for tree in (first, second)))
    yield from compared("config", *(ask(tree, CONFIGS, str(tree)) for tree in (first, second)))
    for stack in stacks:
        yield from compared(f"demo on {stack}", *(demo(tree, stack, epochs) for tree in (first, second)))


def main() -> int:
    """Compare, print a line per item, return 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="a commit")
    parser.add_argument("second", nargs="?", default="HEAD", help="another one (default: HEAD)")
    parser.add_argument("--epochs", type=int, help="epochs of the demo (default: those of its config); 0: no demo")
    parser.add_argument("--stacks", nargs="+", default=["standard", "bdia"], help="stacks of the demo")
    options = parser.parse_args()
    stacks = [] if options.epochs == 0 else options.stacks
    count = differing = 0
    with checked_out(options.first) as first, checked_out(options.second) as second:
        for item in items(first, second, stacks, options.epochs):
            print(item, flush=True)
            count, differing = count + 1, differing + bool(item.wrong)
    print(f"{count} compared, {differing} different")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
