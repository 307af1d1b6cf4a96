"""How long a training step takes, timed as a job runs it: in a process of its own, with a job's environment.

As a program it answers: `python -m bdia.train.step_time`, which `step_seconds` starts.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice

import torch
from omegaconf import DictConfig, OmegaConf

from bdia import BdiaError
from bdia.build import build_data, build_task
from bdia.data.module import DataModule
from bdia.profiling.workload import Workload
from bdia.results.variants import flatten
from bdia.train.side_by_side import ENVIRONMENT

WARM_UPS, TIMED = 2, 5  # steps: the first ones compile kernels and fill caches
PATIENCE = 5.0  # seconds, after which no further step is timed


class DataOnce:
    """Data modules by their settings, each read once."""

    def __init__(self) -> None:
        self.read: dict[str, DataModule] = {}

    def of(self, cfg: DictConfig) -> DataModule:
        """Return the data of a config, of any seed."""
        key = json.dumps(flatten(cfg.data), sort_keys=True, default=str)
        if key not in self.read:
            data = build_data(cfg)
            data.prepare_data()
            data.setup()
            self.read[key] = data
        return self.read[key]


def step_seconds(configs: Sequence[DictConfig]) -> list[float]:
    """Return the seconds of a step of each training, timed one after another in a process with a job's environment.

    Raises:
        BdiaError: it ended without an answer; with its last words.
    """
    asked = json.dumps([OmegaConf.to_container(cfg, resolve=True) for cfg in configs])
    done = subprocess.run(
        [sys.executable, "-m", "bdia.train.step_time"], env=os.environ | ENVIRONMENT,
        input=asked, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no reason given"]
        raise BdiaError(f"a step could not be timed: {words[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def seconds_per_step(cfg: DictConfig, data: DataModule, device: str, repeats: int = TIMED) -> float:
    """Return the least seconds of some training steps on the first batches of an epoch, after two warm-ups.

    The least: whatever else the machine does makes a step longer, never shorter.
    """
    task = build_task(cfg, data.net_arguments, data.task_arguments).to(device)
    optimizer = task.optimizer(task.parameters())
    times = []
    for batch in islice(cycle(data.train_dataloader()), WARM_UPS + repeats):
        batch = tuple(tensor.to(device) for tensor in batch)
        start = time.perf_counter()
        Workload(task, batch, optimizer, cfg.trainer.precision).step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if sum(times[WARM_UPS:]) > PATIENCE:
            break
    return min(times[WARM_UPS:])


def _answer() -> None:
    """Time a step of each config that stdin lists, and print the seconds."""
    device, data = "cuda" if torch.cuda.is_available() else "cpu", DataOnce()
    configs = [OmegaConf.create(config) for config in json.load(sys.stdin)]
    print(json.dumps([seconds_per_step(cfg, data.of(cfg), device) for cfg in configs]))


if __name__ == "__main__":
    _answer()
