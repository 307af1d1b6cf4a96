"""Fixtures of the tests of the training path: tiny jobs with their folders under tmp_path."""

import gc
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import DictConfig

import bdia.train.job
from bdia.build import build_callbacks
from helpers.training_helpers import TINY, compose_config


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name functions: an address in a test's name differs between the processes that share the tests."""
    return val.__name__ if isinstance(val, FunctionType) else None


@pytest.fixture(autouse=True, scope="module")
def imports_out_of_the_garbage_collectors_sight():
    """Set aside what is imported: each `gc.collect`, one a training run, takes milliseconds instead of 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def one_thread():
    """Run on one thread: the tensors are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str]:
    """Overrides that put everything a run writes under tmp_path."""
    return f"paths.runs={tmp_path / 'runs'}", f"paths.results={tmp_path / 'results'}"


@pytest.fixture
def tiny(places: tuple[str, str], one_thread: None) -> Callable[..., DictConfig]:
    """tiny(*overrides): the config of a tiny job on the digits."""
    return lambda *overrides: compose_config(*TINY, *places, *overrides)


@pytest.fixture
def add_callbacks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """add_callbacks(*callbacks): later runs get them too, though their config stays the same; none: no more."""

    def add(*callbacks: Callback) -> None:
        monkeypatch.setattr(bdia.train.job, "build_callbacks", lambda *args: [*build_callbacks(*args), *callbacks])

    return add
