"""Schedules, and the optimizer and scheduler configs as a task completes them."""

import math

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from bdia.optim import SetAdam, constant, cosine
from helpers.places import CONFIGS


def rates(schedule, steps, **options):
    """Learning rate of every optimizer step, and the one after the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler, seen = schedule(optimizer, steps, **options), []
    for _ in range(steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_cosine_falls_from_the_full_rate_to_zero():
    assert rates(cosine, 8) == pytest.approx([1 + math.cos(math.pi * t / 8) for t in range(9)])
    assert rates(cosine, 8)[-1] == 0.0


def test_cosine_with_warmup_rises_first():
    seen = rates(cosine, 8, warmup_steps=3)
    assert seen[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert seen[-1] == 0.0


def test_constant_stays():
    assert rates(constant, 5) == [2.0] * 6


def test_warmup_without_room_is_refused_by_config_key():
    with pytest.raises(ValueError, match=r"5 in 5 steps.*scheduler\.warmup_steps"):
        rates(cosine, 5, warmup_steps=5)


@pytest.mark.parametrize("scheduler", ["cosine", "constant"])
@pytest.mark.parametrize(("name", "kind", "lr"), [("set_adam", SetAdam, 1e-4), ("adamw", torch.optim.AdamW, 3e-4)])
def test_optimizer_and_scheduler_configs_build_and_step(name, kind, lr, scheduler):
    p = nn.Parameter(torch.ones(3))
    node = OmegaConf.load(CONFIGS / "optimizer" / f"{name}.yaml")
    assert node.pop("in_backward") is False and node.pop("float32_master") is False  # read by bdia.build
    optimizer = instantiate(node)([p])
    schedule = instantiate(OmegaConf.load(CONFIGS / "scheduler" / f"{scheduler}.yaml"))(optimizer, 10)
    assert type(optimizer) is kind and optimizer.param_groups[0]["lr"] == lr
    p.grad = torch.ones(3)
    optimizer.step()
    schedule.step()
    assert (p < 1).all()
