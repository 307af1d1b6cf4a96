"""What glibc's allocator settings are worth: step time and peak resident memory of the paper's ViT, with and without.

Processes with either setting take turns; medians and the range over the repeats are printed. Run, on idle cores:
python scripts/allocator.py --repeats 7 --batch 128
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

# Large blocks are kept and used again instead of being handed back to the system, which would clear them page by page.
SETTINGS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


def measure(stack: str, batch: int, steps: int, threads: int) -> dict[str, float]:
    """Train some steps in this process: ms on the clock, ms of processors, page faults per step; peak MiB resident."""
    import torch

    from bdia.build import build_data
    from bdia.train.reproduce import job_config, seconds_per_step

    torch.set_num_threads(threads)
    cfg = job_config("memory_paper", [f"stack={stack}", f"data.batch_size={batch}"])
    data = build_data(cfg)
    data.setup()
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = seconds_per_step(cfg, data, "cpu", repeats=steps)
    after = resource.getrusage(resource.RUSAGE_SELF)
    each = {name: (getattr(after, name) - getattr(before, name)) / (1 + steps) for name in ("ru_utime", "ru_stime")}
    return {
        "ms": 1000 * seconds,
        "processors": 1000 * sum(each.values()),
        "system": 1000 * each["ru_stime"],
        "faults": (after.ru_minflt - before.ru_minflt) / (1 + steps),
        "rss": after.ru_maxrss / 1024,
    }


def run(stack: str, tuned: bool, arguments: argparse.Namespace) -> dict[str, float]:
    """Call `measure` in a process of its own."""
    plain = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    command = [sys.executable, __file__, "--child", stack, "--batch", str(arguments.batch)]
    command += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    done = subprocess.run(command, env=plain | (SETTINGS if tuned else {}), check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stacks", nargs="+", default=["standard", "checkpoint", "bdia"])
    parser.add_argument("--repeats", type=int, default=5, help="processes per stack and setting")
    parser.add_argument("--steps", type=int, default=5, help="timed steps per process, after one that is not")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.batch, arguments.steps, arguments.threads)))
        return
    columns = {
        "ms": "step ms",
        "processors": "of all processors ms",
        "system": "of them in the system ms",
        "faults": "page faults a step",
        "rss": "peak resident MiB",
    }
    print("stack | setting |", " | ".join(columns.values()), "| tuned / plain: step, processors")
    for stack in arguments.stacks:
        pairs = [[run(stack, tuned, arguments) for tuned in (False, True)] for _ in range(arguments.repeats)]
        ratios = [statistics.median(tuned[key] / plain[key] for plain, tuned in pairs) for key in ("ms", "processors")]
        for index, setting in enumerate(("plain", "tuned")):
            cells = [spread([pair[index][key] for pair in pairs]) for key in columns]
            print(" | ".join([stack, setting, *cells, ", ".join(f"{r:.3f}" for r in ratios) if index else ""]))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
