"""Time one training step of BDIA at another commit and here, turn by turn, and compare the peaks of live storages.

Each commit runs in a process of its own, with one thread. A round is one step of each process; what is compared is the
CPU time of the step (`time.process_time`), which is steadier than wall time on shared cores. Prints a Markdown table.

    python scripts/compare_commits.py 97832fb --depths 6 24 --rounds 15
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from commits import ROOT, checked_out, environment

STACKS = ("standard", "checkpoint", "bdia")

# Only what both commits have: public stacks, the storage meter (in `bdia.measure` before it moved).
WORKER = """
import gc, json, sys, time, torch
from torch import nn
try:
    from bdia.profiling.storage_meter import StorageMeter
except ModuleNotFoundError:
    from bdia.measure.storage_meter import StorageMeter
from bdia.reversible import BdiaStack, CheckpointStack, StandardStack

torch.set_num_threads(1)
settings = json.loads(sys.argv[1])
depth, width, tokens, batch = (settings[name] for name in ("depth", "width", "tokens", "batch"))
make = {"standard": StandardStack, "checkpoint": CheckpointStack, "bdia": BdiaStack}

def build(name):
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(width, 8, width, 0.1, batch_first=True, norm_first=True) for _ in range(depth)]
    return make[name](layers)

stacks = {name: build(name) for name in settings["stacks"]}
x = torch.randn(batch, tokens, width)

def step(stack):
    stack(x).square().mean().backward()
    for parameter in stack.parameters():
        parameter.grad = None

for line in sys.stdin:
    job, name = line.split()
    stack = stacks[name]
    gc.collect()
    if job == "time":
        start = time.process_time()
        step(stack)
        print(json.dumps(time.process_time() - start), flush=True)
    else:
        with StorageMeter([x, *stack.parameters()], []) as meter:
            step(stack)
        print(json.dumps(meter.peak), flush=True)
"""


class Worker:
    """A process that steps the stacks of one commit."""

    def __init__(self, tree: Path, settings: dict[str, object]) -> None:
        command = [sys.executable, "-W", "ignore", "-c", WORKER, json.dumps(settings)]
        self.process = subprocess.Popen(
            command, env=environment(tree), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, job: str, stack: str) -> float:
        """Run one step; seconds of CPU time, or bytes at the peak."""
        self.process.stdin.write(f"{job} {stack}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def compare(base: Path, settings: dict[str, object], rounds: int) -> str:
    """Return a Markdown row: BDIA here against BDIA at the base, both against the stacks here; peaks in MiB."""
    workers = {"base": Worker(base, settings), "here": Worker(ROOT, settings)}
    try:
        peaks = {name: worker.ask("peak", "bdia") / 2**20 for name, worker in workers.items()}
        turns = [("base", "bdia"), ("here", "bdia"), ("here", "standard"), ("here", "checkpoint")]
        times: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
        for number in range(rounds + 1):
            for turn in turns if number % 2 else turns[::-1]:
                seconds = workers[turn[0]].ask("time", turn[1])
                if number:  # the first round warms up
                    times[turn].append(seconds)
    finally:
        for worker in workers.values():
            worker.close()
    new = times["here", "bdia"]

    def ratio(turn: tuple[str, str]) -> str:
        of_medians = statistics.median(new) / statistics.median(times[turn])
        of_rounds = statistics.median(a / b for a, b in zip(new, times[turn], strict=True))
        return f"{of_medians:.3f} ({of_rounds:.3f})"

    cells = [settings["depth"], f"{1000 * statistics.median(new):.0f}", *map(ratio, (turns[0], turns[2], turns[3]))]
    return f"| {' | '.join(map(str, cells))} | {peaks['here']:.2f} | {peaks['base']:.2f} |"


def main() -> None:
    """Check the other commit out, compare, and clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--depths", type=int, nargs="+", default=[6, 24])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=65)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    with checked_out(options.commit) as base:
        print(f"ratios of medians of {options.rounds} rounds, in brackets the median of the rounds' own ratios")
        print(f"| K | ms | of {options.commit} | of standard | of checkpointing | peak MiB | {options.commit} |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for depth in options.depths:
            sizes = {"width": options.width, "tokens": options.tokens, "batch": options.batch}
            print(compare(base, {"depth": depth, "stacks": STACKS, **sizes}, options.rounds), flush=True)


if __name__ == "__main__":
    main()
