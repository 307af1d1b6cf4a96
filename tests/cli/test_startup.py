"""What the commands import: --help no torch, a run on images nothing that only other runs need."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from bdia.train.probes import without
from helpers.training_helpers import TINY

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
TELL = """
import atexit, runpy, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
runpy.run_module("bdia.train", run_name="__main__", alter_sys=True)
"""
HEAVY = {
    *("torch", "torchvision", "lightning", "torchmetrics", "timm", "numpy", "scipy", "sklearn", "pandas"),
    *("transformers", "tokenizers", "sacrebleu", "num2words", "wandb", "matplotlib", "plotly", "jinja2", "datasets"),
}


def imported(*arguments):
    """The packages that `python -m bdia.train` imports."""
    command = [sys.executable, "-c", TELL, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}


@pytest.mark.parametrize("question", ["--help", "--cfg=job"])
def test_a_question_to_the_command_imports_no_heavy_package(question):
    assert imported(question) & HEAVY == set()


def test_a_run_on_images_imports_nothing_that_only_text_wandb_or_reports_need(places):
    found = imported(*TINY, *places, "trainer.max_epochs=1")
    assert "torch" in found
    absent = {"transformers", "tokenizers", "sacrebleu", "num2words", "wandb", "matplotlib", "plotly", "jinja2"}
    assert found & absent == set()


def test_a_package_is_absent_inside_and_there_afterwards():
    sys.modules.pop("num2words", None)
    with without("num2words"):
        with pytest.raises(ModuleNotFoundError, match="num2words"):
            import num2words
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("num2words")
        assert importlib.metadata.version("torch")
        import wave  # any other can be imported
    import num2words

    assert importlib.metadata.version("num2words")
    assert wave and num2words


def test_a_package_that_is_imported_stays():
    import torch

    with without("torch"):
        import torch as again
    assert again is torch
